"""The committed feature nets: shapes, accuracy, rebuild, errors, and our NumPy code on them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aigc_utils import convolution, data, features, history, session

with session.quiet_stderr():
    import keras

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("course", "judge", "transformer")
RIGHT = {"course": 0.91, "judge": 0.91, "transformer": 0.85}


@pytest.fixture(scope="module")
def pictures():
    _, (images, labels) = data.load_fashion_mnist()
    return images, labels


@pytest.mark.parametrize("name", NAMES)
def test_committed_net_knows_its_clothes(name, pictures):
    images, labels = pictures
    net = features.load_feature_net(name)
    found = net(images[:501])  # more than go through the network at a time
    assert found.shape == (501, features.N_FEATURES)
    assert found.dtype == np.float64
    assert (net.classify(images) == labels).mean() >= RIGHT[name]
    probabilities = net.probabilities(images[:100])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), net.classify(images[:100]))


def test_features_are_taken_before_the_activation_and_after_everything_else(pictures):
    net = features.load_feature_net()
    found = net(pictures[0][:300])
    assert (found < 0).mean() > 0.1
    # The rest of the network is a ReLU and a matrix.
    kernel, bias = net.model.get_layer("logits").get_weights()
    logits = np.maximum(found, 0) @ kernel + bias
    np.testing.assert_array_equal(logits.argmax(axis=1), net.classify(pictures[0][:300]))


def test_features_do_not_depend_on_the_company_or_the_seed(pictures):
    images = pictures[0][:7]
    net = features.load_feature_net()
    one_by_one = np.concatenate([net(image[None]) for image in images])
    np.testing.assert_allclose(net(images), one_by_one, atol=1e-4)
    np.testing.assert_array_equal(net(images), features.load_feature_net()(images))


def test_our_numpy_convolution_runs_the_net(pictures):
    net = features.load_feature_net()
    w = iter(net.model.get_weights())
    x = features.as_network_input(pictures[0][:20]).astype(np.float64)
    for pooled in (True, True, False):
        x = convolution.conv2d(x, next(w), padding="same")
        x = convolution.max_pool(x, 2) if pooled else x
        scale, shift, mean, variance = (next(w) for _ in range(4))
        x = np.maximum((x - mean) / np.sqrt(variance + 1e-3) * scale + shift, 0)
    found = x.reshape(len(x), -1) @ next(w) + next(w)
    np.testing.assert_allclose(found, net(pictures[0][:20]), atol=1e-3)


def test_the_network_reads_black_as_0_and_white_as_1():
    pictures = np.arange(784, dtype=np.uint16).reshape(1, 28, 28).clip(max=255).astype(np.uint8)
    read = features.as_network_input(pictures)
    assert read.shape == (1, 28, 28, 1) and read.dtype == np.float32
    np.testing.assert_array_equal(read.ravel(), (pictures.ravel() / 255).astype(np.float32))


def test_the_two_convolutional_nets_differ():
    weights = [features.load_feature_net(name).model.get_weights() for name in NAMES[:2]]
    assert not any(np.array_equal(a, b) for a, b in zip(*weights, strict=True))


def test_the_transformer_sees_where_a_patch_is_and_each_patch_sees_the_others(pictures):
    """Shuffled patches give other features; a change in one corner reaches every token."""
    net = features.load_feature_net("transformer")
    image = pictures[0][:1]
    patches = image.reshape(1, 4, 7, 4, 7)
    np.testing.assert_array_equal(net(patches[:, :].reshape(image.shape)), net(image))
    assert np.abs(net(patches[:, ::-1].reshape(image.shape)) - net(image)).max() > 0.1
    last = net.model.layers[-5].output  # the tokens after all blocks, normalised
    assert last.shape[1:] == (16, 64)
    changed = image.copy()
    changed[0, :7, :7] = 255
    tokens = keras.Model(net.model.inputs[0], last)
    a, b = (tokens(features.as_network_input(x)).numpy()[0] for x in (image, changed))
    assert (np.abs(a - b).max(axis=1) > 1e-4).all()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((2, 28, 28, 1), np.uint8), r"shape \(n, 28, 28\)"),
        (np.zeros((28, 28), np.uint8), r"shape \(n, 28, 28\)"),
        (np.zeros((0, 28, 28), np.uint8), "n at least 1"),
        (np.zeros((2, 28, 28)), r"these are float64: floats x in \[0, 1\] become"),
        (np.full((2, 28, 28), np.nan, np.float32), "pictures are uint8"),
    ],
)
def test_wrong_pictures_are_one_sentence(images, words):
    net = features.load_feature_net()
    for method in (net, net.probabilities, net.classify):
        with pytest.raises(ValueError, match=words):
            method(images)


def test_an_unknown_net_is_one_sentence():
    with pytest.raises(data.DataError, match="There is no data file"):
        features.load_feature_net("inception")


def test_files_are_small():
    for name in NAMES:
        assert data.path(f"models/feature_net/{name}.npz").stat().st_size < 1_000_000


@pytest.mark.slow
def test_a_short_rebuild_writes_a_net_and_its_checksum(tmp_path):
    command = [sys.executable, "data/build_feature_net.py", "course", "--epochs", "1"]
    run = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    assert "models/feature_net/course.npz" in (tmp_path / "SHA256SUMS").read_text()
    with np.load(tmp_path / "models/feature_net/course.npz") as file:
        shapes = [file[key].shape for key in sorted(file.files)]
    assert shapes == [w.shape for w in features.build_classifier().get_weights()]


def test_shifts_move_pictures_and_bring_in_zeros():
    image = np.zeros((50, 28, 28, 1), np.float32)
    image[:, 14, 14] = 1
    moved = features.shifted(image, np.random.default_rng(0))
    assert moved.shape == image.shape
    _, down, right, _ = np.nonzero(moved)
    assert len(down) == 50
    assert set(down) == set(right) == {13, 14, 15}


def test_the_record_of_lesson_07s_choices_has_three_seeds_of_each():
    record = history.read(data.path("runs/cnn_choices.jsonl"))
    seeds = {}
    for row in record.rows:
        key = row["question"], row["choice"], row.get("rate"), row.get("shots")
        seeds.setdefault(key, []).append(row["seed"])
        assert 0.1 < row["accuracy"] < 1
    assert all(sorted(found) == [1, 2, 3] for found in seeds.values())
    assert len(seeds) == 4 + 3 + 8 + 2 * 2 * 5
