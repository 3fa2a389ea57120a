"""The tools leave notebooks in the form that is committed."""

from pathlib import Path

import nbformat
import pytest
import readme
import refresh

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_refresh_stores_outputs_without_the_moment(tmp_path: Path) -> None:
    title = "# T\n\n**Measured** 0 s · 0.0 GB on 2 cores. **Your time** about 5 minutes."
    cells = [
        nbformat.v4.new_markdown_cell(title),
        nbformat.v4.new_code_cell("import numpy as np\nkept = np.ones(40_000_000)\nprint('done')"),
        nbformat.v4.new_code_cell("import time\ntime.sleep(1.2)"),
    ]
    path = tmp_path / "note.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    cost = refresh.execute(path)
    stored = nbformat.read(path, as_version=4)
    assert 1.2 <= cost["seconds"] < 60
    assert 0.3 <= cost["gigabytes"] < 2
    assert [cell.get("execution_count") for cell in stored.cells] == [None, 1, 2]
    assert stored.cells[1].outputs[0].text == "done\n"
    assert "execution" not in stored.cells[1].metadata
    assert f"**Measured** {cost['seconds']:.0f} s · {cost['gigabytes']:.1f} GB" in (
        stored.cells[0].source
    )


def test_readme_is_as_generated() -> None:
    stale = [
        path.name
        for path, content in readme.expected().items()
        if not path.exists() or path.read_bytes() != content
    ]
    assert not stale, "run `make refresh`: README's map and figures are made from the notebooks"


def test_readme_map_lists_every_lesson() -> None:
    table = readme.course_map()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert path.name in table


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        (b"localhost", True),
        ("0.0.0.0", True),
        ("192.0.2.1", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_only_this_machine_is_local(address: str | bytes, allowed: bool) -> None:
    code = (ROOT / "tools" / "offline" / "sitecustomize.py").read_text()
    scope: dict = {}
    exec(code.replace("sys.addaudithook(refuse_outside)", ""), scope)
    assert scope["is_local"](address) is allowed
