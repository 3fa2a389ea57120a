"""The colour pictures of lesson 09, their scores, and the committed records and generator."""

import colorsys

import numpy as np
import pytest

from aigc_utils import colour, data, features, gan, history, scores


@pytest.fixture(scope="module")
def clothes():
    _, (images, labels) = data.load_fashion_mnist()
    return images[:300], labels[:300]


def test_dyeing_is_repeatable_and_keeps_the_grey_picture(clothes):
    pictures = colour.dye(*clothes)
    assert pictures.shape == (300, 64, 64, 3) and pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures, colour.dye(*clothes))
    assert not np.array_equal(pictures, colour.dye(*clothes, seed=1))
    error = np.abs(colour.undye(pictures).astype(int) - clothes[0])
    assert error.mean() < 0.5 and np.quantile(error, 0.99) <= 10


def test_the_garment_has_the_hue_of_its_class_and_the_wall_any(clothes):
    pictures, labels = colour.dye(*clothes), clothes[1]
    distance = np.abs((colour.garment_hues(pictures) - labels / 10 + 0.5) % 1 - 0.5)
    assert np.median(distance) < 0.02 and np.quantile(distance, 0.98) < 0.05
    walls = [colorsys.rgb_to_hsv(*corner / 255)[0] for corner in pictures[:, 0, 0]]
    assert np.histogram(walls, bins=5, range=(0, 1))[0].min() > 30


def test_tints_are_those_of_the_colour_wheel():
    hues = np.linspace(0, 1, 25, endpoint=False)
    expected = [colorsys.hsv_to_rgb(hue, 0.75, 1) for hue in hues]
    np.testing.assert_allclose(colour.tint(hues, 0.75), expected, atol=1e-6)


def test_hue_agreement_tells_right_from_wrong_and_from_one_kind_only(clothes):
    net = features.load_feature_net()
    images, labels = clothes
    assert colour.hue_agreement(colour.dye(images, labels), net) > 0.8
    shuffled = np.random.default_rng(0).permutation(labels)
    assert colour.hue_agreement(colour.dye(images, shuffled), net) < 0.25
    trousers = labels == 1
    one_kind = colour.hue_agreement(colour.dye(images[trousers], labels[trousers]), net)
    assert one_kind < 0.21
    black = np.zeros((3, 64, 64, 3), np.uint8)
    assert colour.hue_agreement(black, net) == 0


def test_the_networks_fit_each_other_and_the_article():
    generator, discriminator = colour.build_generator(), colour.build_discriminator()
    assert generator.output_shape == discriminator.input_shape == (None, 64, 64, 3)
    shapes = [tuple(layer.output.shape[1:]) for layer in generator.layers]
    for shape in ((8, 8, 256), (8, 8, 128), (16, 16, 128), (32, 32, 64), (64, 64, 3)):
        assert shape in shapes
    made = np.asarray(generator(np.zeros((2, 64), "float32")))
    assert np.abs(made).max() <= 1
    noise = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    judged = [np.asarray(discriminator(noise, training=True)) for _ in range(2)]
    assert not np.allclose(*judged), "dropout in training"
    pictures = gan.to_uint8(made)
    assert np.abs(np.asarray(gan.to_signed(pictures)) - made).max() < 0.01


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (lambda: colour.dye(np.zeros((2, 28, 28)), [0, 1]), "uint8"),
        (lambda: colour.dye(np.zeros((2, 28, 28), np.uint8), [0]), "2 labels"),
        (lambda: colour.undye(np.zeros((2, 64, 64, 3))), "gan.to_uint8"),
        (lambda: colour.undye(np.zeros((2, 32, 32, 3), np.uint8)), "64, 64, 3"),
    ],
)
def test_bad_pictures_get_one_sentence(action, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        action()
    assert "\n" not in str(caught.value)


def test_the_record_tells_of_a_run_that_learned():
    run = history.read(data.path("runs/colour_gan.jsonl"))
    steps, distance = run.points("step", "distance")
    assert steps[0] == 0 and steps[-1] == run.column("step").max()
    assert distance[-1] < distance[0] / 5 and run.column("real_distance")[0] < 20
    assert run.column("agreement")[-1] > 3 * run.column("agreement")[0]
    for name in ("d_loss", "g_loss", "d_real", "d_fake"):
        assert np.isfinite(run.column(name)).all()
    with np.load(data.path("runs/colour_gan_frames.npz")) as file:
        assert all(file[name].dtype == np.uint8 for name in file.files)
        assert {file[name].shape[1:] for name in file.files} == {(64, 64, 3)}
        assert f"step_{steps[-1]:04d}" in file.files


def test_the_record_of_the_knobs_is_complete():
    record = history.read(data.path("runs/gan_knobs.jsonl"))
    runs = {row["run"] for row in record.rows}
    assert len(runs) == 30 and sum(name.endswith(", seed 3") for name in runs) == 10
    for name in runs:
        rows = [row for row in record.rows if row["run"] == name]
        assert [row["epoch"] for row in rows] == [1, 2, 3, 4] and "frechet" in rows[-1]


def test_the_committed_generator_is_nearer_to_clothes_than_black_pictures_are():
    clothes = gan.load_clothes()
    made, (_, (test_images, _)) = clothes.generate(500), data.load_fashion_mnist()
    net = features.load_feature_net()
    distances = [
        scores.frechet_distance(net(test_images[:1000]), net(pictures))
        for pictures in (made, np.zeros_like(made))
    ]
    assert distances[0] < 200 < 2000 < distances[1]
    run = history.read(data.path("runs/clothes_gan.jsonl"))
    assert run.column("epoch").tolist() == list(range(1, 41))
    assert run.column("frechet")[-1] < run.column("frechet")[0] / 2


def test_the_record_of_the_ring_has_five_seeds_of_every_game():
    record = history.read(data.path("runs/ring_games.jsonl"))
    games = record.settings["games"]
    assert [row["run"] for row in record.rows] == [name for name in games for _ in range(5)]
