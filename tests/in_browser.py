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

import pytest

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
