"""What the browser tests share: JupyterLab served from a folder, and how Chromium is started."""

import os
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

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

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


@contextmanager
def jupyter_lab(folder: Path, notebook: str) -> Iterator[str]:
    """Serve ``folder`` the way `make lab` does; give the address that opens ``notebook``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "AIGC_STATIC"}
    # The browser profile and the server's settings of whoever runs the tests stay untouched.
    environment |= {"JUPYTER_CONFIG_DIR": str(folder / "config"), "HOME": str(folder)}
    command = [
        *(sys.executable, "-m", "jupyter", "lab", "--allow-root"),
        f"--LabApp.default_url=/lab/tree/{notebook}",
        *("--no-browser", f"--port={port}", "--IdentityProvider.token=test", "--ip=127.0.0.1"),
    ]
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, stderr=log, env=environment)
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{base}/api?token=test", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail(f"JupyterLab did not start: {(folder / 'lab.log').read_text()[-2000:]}")
        yield f"{base}/?token=test"
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
