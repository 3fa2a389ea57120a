"""The tools leave notebooks in the form that is committed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lab
import nbformat
import one_lesson
import pytest
import readme
import refresh

from aigc_utils import progress

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


REACHES_OUT = [
    "socket.create_connection(('192.0.2.1', 80), timeout=1)",
    "socket.create_connection(('localhost.example.org', 80), timeout=1)",
    "socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))",
    "socket.socket().connect_ex(('10.0.0.1', 80))",
    "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    "socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('192.0.2.1', 53))",
    "socket.getaddrinfo('example.org', 443)",
    "socket.getaddrinfo(b'example.org', 443)",
    "socket.gethostbyname('example.org')",
    "socket.gethostbyname_ex('example.org')",
    "socket.gethostbyaddr('192.0.2.1')",
    "socket.getnameinfo(('192.0.2.1', 80), 0)",
    "hook.is_local = lambda host: True; socket.gethostbyname('example.org')",
    "hook.LOCAL_NAMES = {'example.org'}; socket.gethostbyname('example.org')",
    "hook.LOCAL_NAMES |= {'example.org'}; socket.gethostbyname('example.org')",
    "hook.LOCAL_NAMES.add('example.org'); socket.gethostbyname('example.org')",
    "hook.ipaddress.ip_address = lambda x: __import__('types').SimpleNamespace(is_loopback=1); "
    "socket.gethostbyname('192.0.2.1')",
    "import asyncio; asyncio.run(asyncio.open_connection('192.0.2.1', 80))",
    "import urllib.request; urllib.request.urlopen('http://192.0.2.1/')",
]
STAYS_HERE = [
    "socket.create_connection(server.getsockname())",
    "socket.create_connection(('localhost', server.getsockname()[1]))",
    "socket.getaddrinfo(None, 80); socket.getaddrinfo('::1', 80)",
    "socket.gethostbyname('localhost'); socket.gethostbyname('127.0.0.1')",
    "socket.getnameinfo(('127.0.0.1', 80), socket.NI_NUMERICHOST)",
    "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "pair = socket.socketpair(); pair[0].sendmsg([b'x'])",
    "socket.getfqdn('example.org')",  # which swallows the refusal, and asks nobody
]


def test_only_this_machine_is_reached() -> None:
    code = (
        "import socket, sys, sitecustomize as hook\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "for line in sys.argv[1:]:\n"
        "    try: exec(line); print('went through')\n"
        "    except ConnectionRefusedError as error: print(error)\n"
        "    except Exception as error: print(type(error).__name__, error)"
    )
    lines = REACHES_OUT + STAYS_HERE
    ran = subprocess.run(
        [sys.executable, "-c", code, *lines],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tools" / "offline"), "no_proxy": "*"},
    )
    told = dict(zip(lines, ran.stdout.splitlines(), strict=True))
    for line in STAYS_HERE:
        assert told[line] == "went through", line
    for line in REACHES_OUT:
        refused = "lessons run without a network" in told[line]
        kept = "hook." in line and told[line].startswith("AttributeError")  # nothing to tamper with
        assert refused or kept, f"{line}: {told[line]}"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_one_lesson_is_tested_by_its_notebooks_its_checkers_and_its_modules(path: Path) -> None:
    files = one_lesson.tests_of(path.name[:2])
    assert {f"notebooks/{path.name}", f"notebooks/solutions/{path.name}"} <= set(files)
    assert "tests/test_contract.py" in files
    assert len([file for file in files if file.startswith("tests/test_checks_")]) == 1
    assert not [file for file in files if not (ROOT / file).is_file()]
    for other in (ROOT / "notebooks").glob("*.ipynb"):
        assert other == path or other.name not in " ".join(files)


def test_a_module_goes_with_the_lessons_that_its_docstring_names() -> None:
    assert "tests/test_decoding.py" in one_lesson.tests_of("05")
    assert "tests/test_gpt.py" in one_lesson.tests_of("03")
    assert "tests/test_gpt.py" in one_lesson.tests_of("05")
    assert "tests/test_gpt.py" not in one_lesson.tests_of("07")


@pytest.mark.parametrize("number", ["99", "", "5", "0?", "*", "05_decoding", "../05"])
def test_an_unknown_lesson_is_one_sentence(
    number: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["one_lesson.py", number])
    assert one_lesson.main() == 2
    assert capsys.readouterr().err.startswith(f"There is no lesson {number!r}; choose one of 01, ")


def test_lab_opens_the_lesson_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []
    for folder in ("notebooks", "notebooks/exercises"):
        (tmp_path / folder).mkdir()
        for lesson, exercise in (("01_a", "add"), ("02_b", "half")):
            cells = [{"metadata": {"nbgrader": {"grade_id": f"{exercise}-check", "grade": True}}}]
            (tmp_path / folder / f"{lesson}.ipynb").write_text(json.dumps({"cells": cells}))
    monkeypatch.setattr("work.ROOT", tmp_path)
    monkeypatch.setattr("aigc_utils.progress.COURSE", tmp_path)
    monkeypatch.setattr("jupyterlab.labapp.main", lambda: started.append(sys.argv[1:]))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("AIGC_STATIC")
    monkeypatch.chdir(tmp_path)
    for options in (["--no-browser", "--port=1"], ["--class"]):
        monkeypatch.setattr("sys.argv", ["lab.py", *options])
        monkeypatch.setenv("JUPYTER_CONFIG_PATH", "mine")
        lab.main()
        *ours, theirs = os.environ["JUPYTER_CONFIG_PATH"].split(os.pathsep)
        assert [Path(path).name for path in ours] == ["lab", "learner"][
            : 1 + ("--class" not in options)
        ]
        assert theirs == "mine"
        progress.record("01", "add")
    opened = "--LabApp.default_url=/lab/tree/work/"
    assert started == [
        [f"{opened}01_a.ipynb", *["--no-browser", "--port=1"]],
        [f"{opened}02_b.ipynb"],
    ]
    assert (tmp_path / "work" / "exercises" / "02_b.ipynb").exists()
    out = capsys.readouterr().out
    assert "No check has passed yet: begin with lesson 01." in out
    assert "1 of 1 checks of lesson 01, 1 of 2 in all; go on with lesson 02." in out
