"""The race of lesson 09 as one command: a few seconds of both, from the command line."""

import itertools
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
NETS = ("course", "judge", "transformer")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def benchmark():
    return scripts.load("benchmarks/gan.py")


@pytest.fixture(scope="module")
def contestants(benchmark):
    return benchmark.contestants


@pytest.fixture(scope="module")
def ablation():
    return scripts.load("benchmarks/gan_ablation.py")


@pytest.mark.slow
def test_rivals_train_for_seconds_and_are_scored(tmp_path):
    """The first run is written by hand, so that the race is seen to go on from what it finds."""
    which = ("--race", tmp_path, "--seconds", 2, "--seeds", 1, "--pictures", 1000)
    one = run(*which, "--one", "ours")
    assert one.returncode == 0, one.stderr
    with np.load(tmp_path / "ours_1.npz") as file:
        images, facts = file["images"], json.loads(str(file["run"]))
    assert images.shape == (1000, 28, 28) and images.dtype == np.uint8
    assert len(np.unique(images[:100], axis=0)) == 100
    assert facts["contestant"] == "ours" and facts["pictures"] > 0
    before = (tmp_path / "ours_1.npz").stat().st_mtime_ns
    pair = ("--contestants", "ours", "keras-conditional")
    both = run(*which, *pair, "--json", tmp_path / "race.json", "--dataset", tmp_path)
    assert both.returncode == 0, both.stderr
    assert "1,000 generated against 4,000 real test pictures" in both.stdout
    assert (tmp_path / "ours_1.npz").stat().st_mtime_ns == before
    table = json.loads((tmp_path / "race.json").read_text())
    assert [run["contestant"] for run in table["runs"]] == ["ours", "keras-conditional"]
    for net in NETS:
        made = [run[net]["frechet"] for run in table["runs"]]
        known = {title: facts[net]["frechet"] for title, facts in table["yardsticks"].items()}
        assert known["training pictures"] < min(made) / 10
        assert known["training pictures"] < min(known["the mean picture"], known["black"]) / 100


def test_a_record_looks_at_milestones_and_its_rows_name_them(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "MILESTONES", (256, 512))
    monkeypatch.setattr(benchmark, "OURS_GOES_ON", (1024,))
    assert benchmark.milestones("keras-dcgan") == [256, 512]
    marks = benchmark.milestones("ours-unlabelled")
    benchmark.train_to_milestones(tmp_path, "ours-unlabelled", 1, marks, 1000)
    trained = []
    monkeypatch.setattr(benchmark, "in_a_process", lambda *words: trained.append(words))
    files = benchmark.record(tmp_path, ["ours-unlabelled"], [1], 1000)
    runs = [benchmark.read_run(file) for file in files]
    assert [run["pictures"] for run in runs] == [0, 256, 512, 1024]
    pictures = [np.load(file)["images"] for file in files]
    assert not any(np.array_equal(a, b) for a, b in itertools.pairwise(pictures))
    assert len(list(tmp_path.iterdir())) == 4 and not trained  # all was there
    benchmark.record(tmp_path, ["ours-unlabelled"], [1], 2000)
    assert len(trained) == 1  # another number of pictures is another record


def made_up(contestant: str, distances: dict[int, float]) -> list[dict[str, object]]:
    return [
        {"contestant": contestant, "seed": 1, "pictures": pictures, "judge": {"frechet": distance}}
        for pictures, distance in distances.items()
    ]


def test_a_verdict_says_when_ours_has_what_the_rival_ends_with(benchmark):
    rows = made_up("ours", {100: 900, 200: 300, 800: 100})
    rows += made_up("keras-conditional", {100: 2000, 300: 430, 400: 400})
    speed = {"ours": 100.0, "keras-conditional": 4.0}
    said = benchmark.verdict(rows, speed, "ours", "keras-conditional", "judge")
    assert said == (
        "seed 1: rival 400 after 100 s (flat), ours has it after 2 s and ends 4.0 times as near"
    )
    rows[-1]["judge"] = {"frechet": 50}
    said = benchmark.verdict(rows, speed, "ours", "keras-conditional", "judge")
    assert "(still falling), ours has it after never and ends 0.5 times" in said


@pytest.mark.parametrize(
    ("script", "words", "sentence"),
    [
        ("gan", "--seconds 2", "say what to do: --race FOLDER or --record FOLDER"),
        ("gan", "--race a --record b", "say what to do: --race FOLDER or --record FOLDER"),
        ("gan", "--seconds 0 --race a", "--seconds must be above 0"),
        ("gan", "--pictures 999 --race a", "--pictures must be at least 1000"),
        ("gan_ablation", "a.jsonl --seconds 0", "--seconds must be above 0"),
        (
            "gan_ablation",
            "a.jsonl --dataset .",
            "install Debian's dataset-fashion-mnist or name its --dataset",
        ),
    ],
)
def test_wrong_requests_are_refused_in_a_sentence(
    benchmark, ablation, tmp_path, monkeypatch, capsys, script, words, sentence
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as refused:
        {"gan": benchmark, "gan_ablation": ablation}[script].main(words.split())
    assert refused.value.code != 0
    assert sentence in f"{refused.value.code} {capsys.readouterr().err}"
    assert not list(tmp_path.iterdir())


def test_the_conditional_peer_tells_g_and_d_the_class(contestants):
    peer = contestants.CONTESTANTS["keras-conditional"].build(1)
    pictures, classes = (
        tf.constant(PICTURES[:3, ..., None] / 255, tf.float32),
        tf.constant([7, 0, 7]),
    )
    seen = peer._seen(pictures, classes).numpy()
    np.testing.assert_array_equal(seen[..., :1], pictures)
    np.testing.assert_array_equal(
        seen[..., 1:], np.eye(10)[[7, 0, 7]][:, None, None].repeat(28, 1).repeat(28, 2)
    )
    made = peer.generate(20, seed=3)
    assert made.shape == (20, 28, 28) and not np.array_equal(made[0], made[10])
    z = gan.draw_latents(1, peer.LATENT_DIM, 0).repeat(2, axis=0)
    alike, other = (peer.generator(peer._asked(z, np.array(pair))) for pair in ([4, 4], [4, 5]))
    np.testing.assert_array_equal(alike[0], alike[1])
    assert not np.array_equal(other[0], other[1])
    plain = contestants.CONTESTANTS["keras-dcgan"].build(1)
    assert plain._seen(pictures, classes) is pictures and plain._asked(z, classes) is z


@pytest.mark.parametrize("name", ["keras-conditional", "keras-dcgan"])
def test_a_peers_step_moves_both_networks(contestants, name):
    peer = contestants.CONTESTANTS[name].build(1)
    networks = (peer.generator, peer.discriminator)
    before = [network.get_weights() for network in networks]
    losses = peer.train_step((tf.constant(PICTURES[..., None]), tf.range(64) % 10))
    assert all(np.isfinite(float(loss)) for loss in losses.values())
    for network, old in zip(networks, before, strict=True):
        assert not any(
            np.array_equal(a, b) for a, b in zip(network.get_weights(), old, strict=True)
        )


def other_loss(ablation, contestants, **changes):
    """Return a GAN whose discriminator is w·x, so that its slope is w at every picture."""
    generator = keras.Sequential(
        [keras.Input((2,)), layers.Dense(784, activation="tanh"), layers.Reshape((28, 28, 1))]
    )
    discriminator = keras.Sequential(
        [keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(1, use_bias=False)]
    )
    model = ablation.OtherLoss(generator, discriminator)
    model.recipe = contestants.Recipe(**changes)
    return model


def softplus(x):
    return np.logaddexp(0, x)


@pytest.mark.parametrize(("loss", "penalties"), [("non-saturating", 1), ("relativistic", 2)])
def test_the_variants_losses_are_those_of_their_papers(ablation, contestants, loss, penalties):
    model = other_loss(ablation, contestants, loss=loss, gamma=0.4)
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
        model.recipe = contestants.Recipe()
        np.testing.assert_allclose(
            model.d_loss(real, fake, classes)[0],
            gan.GAN.d_loss(model, real, fake, classes)[0],
            rtol=1e-6,
        )


def test_a_penalised_recipe_trains_in_the_compiled_graph(ablation, contestants):
    recipe = contestants.Recipe(width=2, latent_dim=4, dropout=0.0, loss="relativistic", gamma=5.0)
    model = ablation.build_variant(recipe, seed=1)
    before = model.discriminator.get_weights()[:-1]  # the last bias falls out of any difference
    model.fit(PICTURES, np.arange(64) % 10, epochs=1, batch_size=32)
    after = model.discriminator.get_weights()[:-1]
    assert all(np.isfinite(weight).all() for weight in after)
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert float(model.g_optimizer.learning_rate) == pytest.approx(gan.LEARNING_RATE)
    assert type(ablation.build_variant(contestants.Recipe(width=2), seed=1)) is gan.GAN


class Player:
    """What a callback sees of a model: it may stop it, and reads the steps of a call."""

    stop_training = False
    steps_per_execution = 8


def test_the_stopwatch_stops_and_the_rates_follow_it(contestants):
    now = [0.0]
    watch = contestants.Stopwatch(10.0, lambda: now[0])
    watch.set_model(model := Player())
    shares = []
    decay = contestants.ClockDecay(watch)
    for now[0] in (5.0, 10.0, 14.9, 15.0):  # five seconds of compilation do not count
        watch.on_train_batch_end(0)
        shares.append(decay.progress(0))
        assert model.stop_training == (now[0] >= 15)
    assert shares == pytest.approx([0, 0.5, 0.99, 1]) and watch.calls == 3


def test_milestones_count_pictures_and_leave_out_what_looking_takes(contestants):
    now, seen = [0.0], []

    def reached(pictures, seconds):
        seen.append((pictures, seconds))
        now[0] += 100  # generating takes its time

    marks = contestants.Milestones([30, 50, 160], 4, reached)
    marks.clock = lambda: now[0]
    marks.set_model(model := Player())
    for _ in range(5):  # 32 pictures and one second each
        now[0] += 1
        assert not model.stop_training
        marks.on_train_batch_end(0)
    assert seen == [(30, 0), (50, 1), (160, 4)] and model.stop_training
    assert contestants.ClockDecay(marks).progress(0) == 1
