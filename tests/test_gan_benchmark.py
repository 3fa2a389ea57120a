"""The race of lesson 09 as one command: a few seconds of both, from the command line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scripts

from aigc_utils import gan, session

with session.quiet_stderr():
    import keras
    import tensorflow as tf
    from keras import layers

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "gan.py"
PICTURES = np.random.default_rng(0).integers(0, 256, (64, 28, 28), dtype=np.uint8)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_both_train_for_seconds_and_are_scored(tmp_path):
    """The first run is written by hand, so that the race is seen to go on from what it finds."""
    one = run("--seconds", 2, "--out", tmp_path / "ours_1.npz", "--pictures", 1000)
    assert one.returncode == 0, one.stderr
    with np.load(tmp_path / "ours_1.npz") as file:
        images, facts = file["images"], json.loads(str(file["run"]))
    assert images.shape == (1000, 28, 28) and images.dtype == np.uint8
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
        "--pictures",
        1000,
        "--json",
        table_file,
        "--dataset",
        tmp_path,
    )
    assert both.returncode == 0, both.stderr
    assert "1,000 generated against 4,000 real test pictures" in both.stdout
    assert (tmp_path / "ours_1.npz").stat().st_mtime_ns == before
    table = json.loads(table_file.read_text())
    assert [run["contestant"] for run in table["runs"]] == ["ours", "keras-example"]
    for net in ("course", "judge"):
        distances = [run[net]["frechet"] for run in table["runs"]]
        assert table["nets"][net]["ratios"] == pytest.approx([distances[1] / distances[0]])
        assert table["nets"][net]["floor"]["frechet"] < min(distances) / 10


@pytest.fixture(scope="module")
def benchmark():
    return scripts.load("benchmarks/gan.py")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--seconds 2", "say what to do: --out FILE, --race FOLDER or --ablation FILE"),
        ("--seconds 0 --out a.npz", "--seconds must be above 0"),
        ("--pictures 999 --out a.npz", "--pictures must be at least 1000"),
        (
            "--ablation a.jsonl --dataset .",
            "install Debian's dataset-fashion-mnist or name its --dataset",
        ),
    ],
)
def test_wrong_requests_are_refused_in_a_sentence(
    benchmark, tmp_path, monkeypatch, capsys, arguments, sentence
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as refused:
        benchmark.main(arguments.split())
    assert refused.value.code != 0
    assert sentence in f"{refused.value.code} {capsys.readouterr().err}"
    assert not list(tmp_path.iterdir())


def other_loss(benchmark, **changes):
    """Return a GAN whose discriminator is w·x, so that its slope is w at every picture."""
    generator = keras.Sequential(
        [keras.Input((2,)), layers.Dense(784, activation="tanh"), layers.Reshape((28, 28, 1))]
    )
    discriminator = keras.Sequential(
        [keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(1, use_bias=False)]
    )
    model = benchmark.OtherLoss(generator, discriminator)
    model.recipe = benchmark.Recipe(**changes)
    return model


def softplus(x):
    return np.logaddexp(0, x)


@pytest.mark.parametrize(("loss", "penalties"), [("non-saturating", 1), ("relativistic", 2)])
def test_the_variants_losses_are_those_of_their_papers(benchmark, loss, penalties):
    model = other_loss(benchmark, loss=loss, gamma=0.4)
    real, fake = tf.constant(np.random.default_rng(0).normal(size=(2, 6, 28, 28, 1)), "float32")
    classes = np.zeros(6, np.int32)
    w = model.discriminator.get_weights()[0][:, 0]
    p, q = (x.numpy().reshape(6, -1) @ w for x in (real, fake))
    penalty = 0.2 * penalties * (w**2).sum()  # γ/2 times the squared slope
    if loss == "relativistic":
        d, g = softplus(q - p).mean(), softplus(p - q).mean()
    else:
        d, g = softplus(-p).mean() + softplus(q).mean(), softplus(-q).mean()
    found, real_logits, fake_logits = model.d_loss(real, fake, classes)
    np.testing.assert_allclose(found, d + penalty, rtol=1e-5)
    np.testing.assert_allclose(real_logits, p, atol=1e-5)
    np.testing.assert_allclose(fake_logits, q, atol=1e-5)
    np.testing.assert_allclose(model.g_loss(real, fake, classes), g, rtol=1e-5)
    if loss == "non-saturating":  # without a penalty it is the course's own game
        model.recipe = benchmark.Recipe()
        np.testing.assert_allclose(
            model.d_loss(real, fake, classes)[0],
            gan.GAN.d_loss(model, real, fake, classes)[0],
            rtol=1e-6,
        )


def test_a_penalised_recipe_trains_in_the_compiled_graph(benchmark):
    recipe = benchmark.Recipe(width=2, latent_dim=4, dropout=0.0, loss="relativistic", gamma=5.0)
    model = benchmark.build(recipe, seed=1)
    before = model.discriminator.get_weights()[:-1]  # the last bias falls out of any difference
    model.fit(PICTURES, np.arange(64) % 10, epochs=1, batch_size=32)
    after = model.discriminator.get_weights()[:-1]
    assert all(np.isfinite(weight).all() for weight in after)
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert float(model.g_optimizer.learning_rate) == pytest.approx(gan.LEARNING_RATE)
    assert type(benchmark.build(benchmark.Recipe(width=2), seed=1)) is gan.GAN


def test_the_stopwatch_stops_and_the_rates_follow_it(benchmark):
    now = [0.0]
    watch = benchmark.Stopwatch(10.0, lambda: now[0])
    watch.set_model(model := type("Model", (), {"stop_training": False})())
    shares = []
    decay = benchmark.ClockDecay(watch)
    for now[0] in (5.0, 10.0, 14.9, 15.0):  # five seconds of compilation do not count
        watch.on_train_batch_end(0)
        shares.append(decay.progress(0))
        assert model.stop_training == (now[0] >= 15)
    assert shares == pytest.approx([0, 0.5, 0.99, 1]) and watch.calls == 3
