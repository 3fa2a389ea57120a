"""The race of lesson 09 as one command: a few seconds of both, from the command line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scripts

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "gan.py"
PICTURES = np.random.default_rng(0).integers(0, 256, (64, 28, 28), dtype=np.uint8)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_both_train_for_seconds_and_are_scored(tmp_path):
    """The first run is written by hand, so that the race is seen to go on from what it finds."""
    one = run("--seconds", 2, "--out", tmp_path / "ours_1.npz")
    assert one.returncode == 0, one.stderr
    with np.load(tmp_path / "ours_1.npz") as file:
        images, facts = file["images"], json.loads(str(file["run"]))
    assert images.shape == (10_000, 28, 28) and images.dtype == np.uint8
    assert len(np.unique(images[:100], axis=0)) == 100
    assert facts["contestant"] == "ours" and facts["pictures"] > 0
    before = (tmp_path / "ours_1.npz").stat().st_mtime_ns
    table_file = tmp_path / "race.json"
    both = run(
        "--seconds",
        2,
        "--race",
        tmp_path,
        "--seeds",
        1,
        "--json",
        table_file,
        "--dataset",
        tmp_path,
    )
    assert both.returncode == 0, both.stderr
    assert "4,000 real test pictures" in both.stdout
    assert (tmp_path / "ours_1.npz").stat().st_mtime_ns == before
    table = json.loads(table_file.read_text())
    assert [run["contestant"] for run in table["runs"]] == ["ours", "keras-example"]
    for net in ("course", "judge"):
        distances = [run[net]["frechet"] for run in table["runs"]]
        assert table["nets"][net]["ratios"] == pytest.approx([distances[1] / distances[0]])
        assert table["nets"][net]["floor"]["frechet"] < min(distances) / 10


@pytest.mark.slow
def test_wrong_requests_are_refused_in_a_sentence(tmp_path):
    for arguments, sentence in (
        (["--seconds", 2], "say what to do: --out FILE, --race FOLDER or --ablation FILE"),
        (["--seconds", 0, "--out", tmp_path / "a.npz"], "--seconds must be above 0"),
        (
            ["--ablation", tmp_path / "a.jsonl", "--dataset", tmp_path],
            "install Debian's dataset-fashion-mnist or name its --dataset",
        ),
    ):
        refused = run(*arguments)
        assert refused.returncode != 0 and sentence in refused.stderr


@pytest.fixture(scope="module")
def benchmark():
    return scripts.load("benchmarks/gan.py")


def trained_weights(benchmark, kind, **changes):
    recipe = benchmark.Recipe(width=4, latent_dim=8, dropout=0.0, **changes)
    model = benchmark.build(recipe, seed=1)
    model.__class__ = kind or model.__class__
    model.fit(PICTURES, np.arange(64) % 10, epochs=1, batch_size=8)
    return model.generator.get_weights() + model.discriminator.get_weights()


def test_the_variants_are_the_courses_gan_where_they_change_nothing(benchmark):
    ours = trained_weights(benchmark, None)
    other = trained_weights(benchmark, benchmark.OtherLoss)
    for a, b in zip(ours, other, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("loss", ["relativistic", "non-saturating"])
def test_the_penalised_losses_train_in_the_compiled_graph(benchmark, loss):
    mild, strong = (trained_weights(benchmark, None, loss=loss, gamma=g) for g in (0.01, 10.0))
    assert all(np.isfinite(weight).all() for weight in mild + strong)
    assert any(not np.allclose(a, b, atol=1e-3) for a, b in zip(mild, strong, strict=True))
