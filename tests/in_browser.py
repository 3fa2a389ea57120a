"""What the browser tests share: JupyterLab served from a folder, and how Chromium is started."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import lab
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]
BROWSER_MARKS = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None and os.environ.get("AIGC_BROWSER") != "required",
        reason="needs chromium: sudo apt install chromium",
    ),
]


def copy_of_the_course(folder: Path) -> None:
    """Put into ``folder`` what a learner uses, and the package, so that progress stays there."""
    for part in ("notebooks", "tools", "aigc_utils"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").symlink_to(ROOT / "data")


@contextmanager
def jupyter_lab(folder: Path, notebook: str = "", *, for_class: bool = False) -> Iterator[str]:
    """Serve ``folder`` with the settings of `make lab`; give the address that opens ``notebook``.

    Without a notebook ``folder`` is a ``copy_of_the_course``, whose own ``tools/lab.py`` is run.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "AIGC_STATIC"}
    # The browser profile and the server's settings of whoever runs the tests stay untouched, and
    # no other user of the machine can read the token, as on a command line.
    token = secrets.token_hex(16)
    environment |= {"JUPYTER_CONFIG_DIR": str(folder / "config"), "HOME": str(folder)}
    environment |= {"JUPYTER_TOKEN": token}
    if notebook:
        program = ["-m", "jupyter", "lab", f"--LabApp.default_url=/lab/tree/{notebook}"]
        environment["JUPYTER_CONFIG_PATH"] = lab.config_path(for_class)
    else:
        program = [str(folder / "tools" / "lab.py"), *(["--class"] if for_class else [])]
        environment["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])
    options = ["--allow-root", "--no-browser", f"--port={port}", "--ip=127.0.0.1"]
    command = [sys.executable, *program, *options]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=environment)
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{base}/api?token={token}", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(f"JupyterLab did not start: {(folder / 'lab.log').read_text()[-2000:]}")
        yield f"{base}/?token={token}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def run_cell(page: "Page", number: int, seconds: float = 90) -> "Locator":
    """Run one code cell and give its output area.

    An "idle" kernel may not be connected to the notebook yet, and JupyterLab then drops the run
    without a word. So the key is pressed until the prompt shows a star or a count.
    """
    cell = page.locator(".jp-CodeCell").nth(number)
    prompt = cell.locator(".jp-InputPrompt")
    deadline = time.monotonic() + seconds
    while not prompt.inner_text(timeout=seconds * 1000).strip("[]: "):
        if time.monotonic() > deadline:
            pytest.fail(f"cell {number} did not start within {seconds} s")
        prompt.click()
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(500)
    return cell.locator(".jp-OutputArea")
