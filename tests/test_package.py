"""The package: imports point down, and its wheel carries the data and works elsewhere."""

import ast
import functools
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT / "aigc_utils").with_suffix("").parts): path.read_text("utf-8")
    for path in sorted((ROOT / "aigc_utils").rglob("*.py"))
}

# The floors of the house, from below, and on which others each stands. A new module is named here.
FLOORS = {
    "ground": ("__init__ files session data history plots curves progress", ""),
    "text": ("attention tokenizer ngram gpt huggingface step decoding training", "ground"),
    "pictures": ("convolution features scores ring colour gan gan_callbacks gan_files", "ground"),
    "models": ("models smollm2", "ground text"),
    "chat": ("chat.*", "ground text models"),
    "lab": ("lab mup study", "ground text"),
    "checks": ("checks.*", "ground text pictures models chat lab"),
    "doctor": ("doctor", "ground models"),
}

# Modules of ours that are imported inside of a function, and why not above.
DEFERRED = {
    "session": ("plots", "Matplotlib gets the course's style only where it is loaded already"),
    "models": ("gpt huggingface", "only a learner's own run needs PyTorch and the conversion"),
    "chat.transcript": ("decoding huggingface", "only GPT-2 computes in this process"),
    "chat.providers": ("chat.server", "`python -m aigc_utils.chat.server` imports it otherwise"),
    "chat.server": (
        "chat.guard chat.replies chat.turns",
        "only the process that serves needs transformers",
    ),
}

# What takes long to import, and which modules load it, by themselves or through others.
HEAVY = {
    "torch": "gpt huggingface step decoding training lab mup study checks.gpt checks.decoding "
    "checks.hyperparameters",
    "keras": "features ring colour gan gan_callbacks",
    "tensorflow": "ring gan gan_callbacks",
    "transformers": "huggingface chat.prefixes chat.turns chat.replies chat.guard",
    "matplotlib": "plots curves ring lab mup study checks.hyperparameters",
    "optuna": "study",
    "openai": "chat.* checks.openai_chat",
}


@functools.cache
def imports(source: str) -> list[tuple[str, str]]:
    """Return every name that a module imports, and when: on loading, later, or for types alone."""

    def walk(node: ast.AST, when: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            when = "later"
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            when = "types"
        elif isinstance(node, ast.Import):
            yield from ((alias.name, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports of the package name it"
            yield from ((f"{node.module}.{alias.name}", when) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, when)

    return list(walk(ast.parse(source), "loading"))


def ours(name: str, sources: dict[str, str]) -> str | None:
    """Return the module of the package that an imported name belongs to, or None."""
    parts = name.split(".")
    if parts[0] != "aigc_utils":
        return None
    for end in range(len(parts), 0, -1):
        for module in (".".join(parts[1:end]), ".".join([*parts[1:end], "__init__"])):
            if module in sources:
                return module
    return None


def graph(sources: dict[str, str], *whens: str) -> dict[str, set[str]]:
    """Return what each module imports of the package, of all or at these times."""
    return {
        module: {
            target
            for name, when in imports(source)
            if (target := ours(name, sources)) and when in (whens or ("loading", "later", "types"))
        }
        for module, source in sources.items()
    }


def reached(start: str, edges: dict[str, set[str]]) -> set[str]:
    """Return every module that one leads to; itself only when it is on a circle."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = edges[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def is_among(module: str, patterns: str) -> bool:
    return any(fnmatch(module, pattern) for pattern in patterns.split())


def floor_of(module: str) -> str:
    floors = [floor for floor, (names, _) in FLOORS.items() if is_among(module, names)]
    assert len(floors) == 1, f"{module} has no floor of its own in FLOORS"
    return floors[0]


def arrows_up(sources: dict[str, str]) -> Iterator[str]:
    for module, targets in graph(sources).items():
        floor = floor_of(module)
        for target in targets:
            if floor_of(target) not in (floor, *FLOORS[floor][1].split()):
                yield f"{module} ({floor}) imports {target} ({floor_of(target)})"


def circles(sources: dict[str, str]) -> Iterator[str]:
    edges = graph(sources)
    yield from (f"{module} leads to itself" for module in edges if module in reached(module, edges))


def unexplained(sources: dict[str, str]) -> Iterator[str]:
    for module, targets in graph(sources, "later").items():
        for target in targets:
            if not is_among(target, DEFERRED.get(module, ("", ""))[0]):
                yield f"{module} imports {target} inside of a function"


def frameworks_mixed(sources: dict[str, str]) -> Iterator[str]:
    for module, source in sources.items():
        if {"torch", "keras"} <= {name.split(".")[0] for name, _ in imports(source)}:
            yield f"{module} imports both torch and keras"


def heavy(sources: dict[str, str]) -> Iterator[str]:
    edges = graph(sources, "loading")
    own = {
        module: {name.split(".")[0] for name, when in imports(source) if when == "loading"}
        for module, source in sources.items()
    }
    for module in sources:
        loaded = set().union(*(own[part] for part in {module, *reached(module, edges)}))
        for library in loaded & set(HEAVY):
            if not is_among(module, HEAVY[library]):
                yield f"{module} loads {library}"


RULES = (arrows_up, circles, unexplained, frameworks_mixed, heavy)


@pytest.mark.parametrize("rule", RULES)
def test_imports_obey(rule) -> None:
    assert list(rule(SOURCES)) == []


def test_no_exception_is_left_over() -> None:
    later = graph(SOURCES, "later")
    assert {module: set(names.split()) for module, (names, _) in DEFERRED.items()} == {
        module: targets for module, targets in later.items() if targets
    }
    named = " ".join(names for names, _ in FLOORS.values()).split()
    assert all(any(fnmatch(module, name) for module in SOURCES) for name in named)


def test_contributing_shows_the_floors() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for floor, (names, below) in FLOORS.items():
        shown = " ".join(f"`{name}`" for name in names.split() if name != "__init__")
        stands = ", ".join(below.split())
        assert f"| {floor} | {shown} | {f'{stands} ' if stands else ''}|\n" in text


def test_a_docstring_names_the_lesson() -> None:
    silent = {
        module
        for module, source in SOURCES.items()
        if not re.search(r"[Ll]essons? \d\d", ast.get_docstring(ast.parse(source)) or "")
    }
    everywhere = {"__init__", "session", "plots", "progress", "doctor"}
    shared = {f"checks.{name}" for name in ("__init__", "core", "reading", "hints")}
    assert silent == everywhere | shared


@pytest.mark.parametrize(
    ("module", "line", "rule", "said"),
    [
        ("gpt", "from aigc_utils import lab", arrows_up, "gpt (text) imports lab (lab)"),
        (
            "gpt",
            "def f():\n import aigc_utils.chat.talk as t",
            arrows_up,
            "imports chat.talk (chat)",
        ),
        ("training", "from aigc_utils.gan import GAN", arrows_up, "imports gan (pictures)"),
        ("session", "from aigc_utils.checks import demand", arrows_up, "imports checks.__init__"),
        ("files", "from aigc_utils.history import Run", circles, "files leads to itself"),
        ("chat.text", "from aigc_utils import chat", circles, "chat.__init__ leads to itself"),
        ("gpt", "def f():\n from aigc_utils import decoding", circles, "gpt leads to itself"),
        ("scores", "def f():\n from aigc_utils import data", unexplained, "scores imports data"),
        ("gan", "def f():\n import torch.nn", frameworks_mixed, "gan imports both"),
        ("history", "from aigc_utils import plots", heavy, "training loads matplotlib"),
        ("files", "try:\n import torch\nexcept ImportError: pass", heavy, "tokenizer loads torch"),
        ("__init__", "import matplotlib.pyplot", heavy, "__init__ loads matplotlib"),
    ],
)
def test_a_bad_import_is_noticed(module: str, line: str, rule, said: str) -> None:
    planted = {**SOURCES, module: f"{line}\n{SOURCES[module]}"}
    assert any(said in sentence for sentence in rule(planted))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", target, ROOT]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True, capture_output=True)
    (path,) = target.glob("*.whl")
    return path


@pytest.mark.slow
def test_wheel_installs_and_works_elsewhere(wheel: Path, tmp_path: Path) -> None:
    # Borrow this environment's libraries; the package itself comes from the wheel alone.
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = tmp_path.glob("venv/lib/python*/site-packages")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel],
        check=True,
        capture_output=True,
    )
    import numpy

    (site / "borrowed.pth").write_text(str(Path(numpy.__file__).parents[1]))
    code = (
        "from aigc_utils import data, attention, tokenizer\n"
        "text = data.load_text('pride_and_prejudice')\n"
        "tokens = tokenizer.CharTokenizer(text)\n"
        "(train, _), _ = data.load_fashion_mnist()\n"
        "print(data.__file__); print(len(text), tokens.vocab_size, train.shape)"
    )
    ran = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    where, result = ran.stdout.splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert result.endswith("(20000, 28, 28)")
