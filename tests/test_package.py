"""The package builds as a wheel that carries the data and works away from the repository."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
