"""Lesson 06's sliders in JupyterLab: opened, moved, and a new curve lies over the old one."""

import os
import shutil
from pathlib import Path

import nbformat
from in_browser import BROWSER_MARKS, CHROMIUM, QUIET, jupyter_lab, run_cell

pytestmark = BROWSER_MARKS

CELL = "from aigc_utils import lab, session\nsession.start(1)\nlab.panel(seconds=0.5)"


def test_a_moved_slider_draws_a_new_curve(tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)"}
    nbformat.write(notebook, tmp_path / "panel.ipynb")
    with jupyter_lab(tmp_path, "panel.ipynb") as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.goto(address)
        run_cell(page, 0)
        told = page.locator(".widget-label", has_text="curve")
        expect(told).to_contain_text("1 curve.", timeout=90_000)
        picture = page.locator(".jp-OutputArea img.widget-image").last
        first = picture.get_attribute("src")
        page.locator(".noUi-handle").first.focus()
        page.keyboard.press("ArrowRight")
        expect(told).to_contain_text("2 curves.", timeout=60_000)
        page.wait_for_function(
            "old => document.querySelector('img.widget-image').src !== old", arg=first
        )
        assert page.locator(".widget-readout").first.inner_text() == "0.02"
        assert picture.evaluate("image => image.naturalWidth") > 300
        if keep := os.environ.get("AIGC_SCREENSHOTS"):
            page.screenshot(path=tmp_path / "panel.png")
            shutil.copy(tmp_path / "panel.png", Path(keep) / "lab-panel.png")
        browser.close()
