"""`aigc_utils.scores` against torchmetrics, brute force, closed forms and each score's laws."""

import functools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aigc_utils import data, scores

PAIR = ("frechet_distance", "kernel_distance", "precision_recall_coverage", "nearest_neighbours")


def call(name, a, b):
    """Call a score by name, with subsets that fit the small sets of these tests."""
    options = {"subset_size": min(len(a), len(b))} if name == "kernel_distance" else {}
    return getattr(scores, name)(a, b, **options)


def correlated(rng, n, d, shift=0.0):
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + shift


def random_rotation(rng, d):
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


# --- Fréchet distance ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_a", "n_b", "d", "shift"),
    [(500, 500, 8, 0.0), (2000, 300, 64, 0.3), (100, 90, 32, 100.0), (400, 400, 1, 1.0)],
)
def test_frechet_distance_equals_torchmetrics(n_a, n_b, d, shift):
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    rng = np.random.default_rng(d)
    a, b = correlated(rng, n_a, d), correlated(rng, n_b, d, shift)
    a[:, -1] = a[:, -1].clip(min=0)  # like a feature after a ReLU
    net = torch.nn.Identity()
    net.num_features = d
    metric = FrechetInceptionDistance(feature=net)
    metric.update(torch.from_numpy(a), real=True)
    metric.update(torch.from_numpy(b), real=False)
    np.testing.assert_allclose(scores.frechet_distance(a, b), metric.compute().item(), rtol=1e-3)


def test_frechet_distance_of_gaussians_on_a_line_has_its_closed_form():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(1000, 1))
    z = (z - z.mean()) / z.std(ddof=1)
    expected = (5.0 - 2.0) ** 2 + (3.0 - 0.5) ** 2
    assert scores.frechet_distance(2 + 3 * z, 5 + 0.5 * z) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_frechet_distance_obeys_its_laws(seed, d):
    rng = np.random.default_rng(seed)
    a, b = correlated(rng, 50, d), correlated(rng, 40, d, shift=1.0)
    distance = scores.frechet_distance(a, b)
    scale = max(1.0, a.var() * d, b.var() * d)
    shift = rng.normal(size=d)
    rotation = random_rotation(rng, d)
    assert distance >= 0
    assert scores.frechet_distance(b, a) == pytest.approx(distance, abs=1e-7 * scale)
    assert scores.frechet_distance(a, rng.permutation(a)) == pytest.approx(0, abs=1e-7 * scale)
    assert scores.frechet_distance(a @ rotation, b @ rotation) == pytest.approx(
        distance, abs=1e-7 * scale
    )
    assert scores.frechet_distance(a, a + shift) == pytest.approx(
        (shift**2).sum(), abs=1e-7 * scale
    )


def test_frechet_distance_bears_features_that_never_fire():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 200, 6))
    dead = np.zeros((200, 3))
    assert scores.frechet_distance(np.hstack([a, dead]), np.hstack([b, dead])) == pytest.approx(
        scores.frechet_distance(a, b)
    )


def test_frechet_distance_keeps_its_digits_far_from_the_origin():
    a, b = np.random.default_rng(0).normal(size=(2, 300, 4))
    assert scores.frechet_distance(a + 1e6, b + 1e6) == pytest.approx(
        scores.frechet_distance(a, b), rel=1e-6
    )


def test_frechet_distance_sees_no_shape_beyond_mean_and_covariance():
    rng = np.random.default_rng(0)
    gaussian = rng.normal(size=(50_000, 1))
    two_points = rng.choice([-1.0, 1.0], size=(50_000, 1))
    assert scores.frechet_distance(gaussian, two_points) < 0.01
    assert scores.precision_recall_coverage(gaussian[:500], two_points[:500]).coverage < 0.1


# --- kernel distance -----------------------------------------------------------------------------


def test_kernel_distance_on_whole_sets_equals_the_double_sum():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 3)), rng.normal(size=(7, 3)) + 1

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 3

    same = sum(kernel(s[i], s[j]) for s in (a, b) for i in range(7) for j in range(7) if i != j)
    cross = sum(kernel(x, y) for x in a for y in b)
    expected = same / (7 * 6) - 2 * cross / 49
    assert scores.kernel_distance(a, b, subset_size=7, n_subsets=3) == pytest.approx(expected)


def test_kernel_distance_on_whole_sets_equals_torchmetrics():
    import torch
    from torchmetrics.image.kid import poly_mmd

    rng = np.random.default_rng(1)
    a, b = correlated(rng, 200, 16), correlated(rng, 200, 16, 0.5)
    expected = poly_mmd(torch.from_numpy(a), torch.from_numpy(b)).item()
    assert scores.kernel_distance(a, b, subset_size=200, n_subsets=1) == pytest.approx(expected)


def test_kernel_distance_is_unbiased_whatever_the_subset_size():
    rng = np.random.default_rng(2)
    for size in (5, 50):
        values = [
            scores.kernel_distance(*rng.normal(size=(2, size, 4)), subset_size=size, n_subsets=1)
            for _ in range(1000)
        ]
        error = np.std(values) / np.sqrt(len(values))
        assert abs(np.mean(values)) < 4 * error
        assert min(values) < 0


def test_kernel_distance_repeats_with_its_seed_and_sees_a_shift():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 500, 4))
    distance = scores.kernel_distance(a, b, subset_size=100)
    assert distance == scores.kernel_distance(a, b, subset_size=100)
    assert distance != scores.kernel_distance(a, b, subset_size=100, seed=1)
    assert scores.kernel_distance(a, b + 0.5, subset_size=100) > distance + 0.1


# --- precision, recall, density, coverage --------------------------------------------------------


def brute_force(real, generated, k):
    """Follow the definitions one sample at a time."""

    def ball(i, own):
        return np.sort([np.linalg.norm(own[i] - x) for j, x in enumerate(own) if j != i])[k - 1]

    reach_real = [ball(i, real) for i in range(len(real))]
    reach_generated = [ball(j, generated) for j in range(len(generated))]
    gap = [[np.linalg.norm(x - y) for y in generated] for x in real]
    n, m = range(len(real)), range(len(generated))
    return (
        np.mean([any(gap[i][j] <= reach_real[i] for i in n) for j in m]),
        np.mean([any(gap[i][j] <= reach_generated[j] for j in m) for i in n]),
        np.mean([sum(gap[i][j] <= reach_real[i] for i in n) / k for j in m]),
        np.mean([any(gap[i][j] <= reach_real[i] for j in m) for i in n]),
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.floats(0, 3))
def test_the_four_scores_equal_their_definitions(seed, k, shift):
    rng = np.random.default_rng(seed)
    real, generated = rng.normal(size=(30, 2)), rng.normal(size=(20, 2)) + shift
    result = scores.precision_recall_coverage(real, generated, k=k)
    np.testing.assert_allclose(result, brute_force(real, generated, k))
    assert all(0 <= share <= 1 for share in (result.precision, result.recall, result.coverage))


def test_blocks_do_not_show(monkeypatch):
    real, generated = np.random.default_rng(0).normal(size=(2, 100, 3))
    whole = scores.precision_recall_coverage(real, generated)
    monkeypatch.setattr(scores, "_BLOCK", 7)
    assert scores.precision_recall_coverage(real, generated) == whole


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_a_set_against_itself_is_perfect_even_with_repeated_samples(offset):
    rng = np.random.default_rng(0)
    samples = offset + np.repeat(rng.normal(size=(20, 5)), 8, axis=0)
    precision, recall, density, coverage = scores.precision_recall_coverage(samples, samples)
    assert (precision, recall, coverage) == (1, 1, 1)
    assert density >= 1


def test_the_four_scores_do_not_change_far_from_the_origin():
    real, generated = np.random.default_rng(7).normal(size=(2, 60, 3))
    near = scores.precision_recall_coverage(real, generated)
    assert scores.precision_recall_coverage(real + 1e7, generated + 1e7) == near


@pytest.mark.parametrize("k", [1, 5])
def test_coverage_of_one_distribution_is_what_theory_says(k):
    real, generated = np.random.default_rng(4).normal(size=(2, 3000, 2))
    result = scores.precision_recall_coverage(real, generated, k=k)
    assert result.coverage == pytest.approx(1 - 2.0**-k, abs=0.02)
    assert result.density == pytest.approx(1, abs=0.05)


def test_collapse_lowers_coverage_and_recall_but_not_precision():
    rng = np.random.default_rng(5)
    real = rng.normal(size=(1000, 2))
    collapsed = np.zeros((1000, 2)) + 0.01 * rng.normal(size=(1000, 2))
    result = scores.precision_recall_coverage(real, collapsed)
    assert result.precision > 0.9
    assert result.coverage < 0.1
    assert result.recall < 0.1


# --- nearest neighbours --------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(2, 40), st.integers(1, 6))
def test_nearest_neighbours_equal_sorting_all_distances(seed, n, m, d):
    rng = np.random.default_rng(seed)
    queries, references = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    k = int(rng.integers(1, m + 1))
    distances, indices = scores.nearest_neighbours(queries, references, k=k)
    all_distances = np.linalg.norm(queries[:, None] - references, axis=-1)
    assert distances.shape == indices.shape == (n, k)
    np.testing.assert_allclose(distances, np.sort(all_distances, axis=1)[:, :k])
    np.testing.assert_allclose(np.take_along_axis(all_distances, indices, axis=1), distances)


def test_a_copied_training_sample_is_found_at_distance_zero():
    rng = np.random.default_rng(6)
    training = rng.normal(size=(300, 64)) * 100 + 1e4
    generated = np.vstack([rng.normal(size=(5, 64)), training[[7, 42]]])
    distances, indices = scores.nearest_neighbours(generated, training)
    assert indices[5:, 0].tolist() == [7, 42]
    assert distances[5:, 0].tolist() == [0, 0]
    assert (distances[:5] > 0).all()


# --- real pictures -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clothes():
    """Two halves of the test pictures, their classes, and a function to 32 simple features."""
    (train, _), (pictures, labels) = data.load_fashion_mnist()
    flat = train[:2000].reshape(2000, -1) / 255.0
    directions = np.linalg.eigh(np.cov(flat, rowvar=False))[1][:, -32:]

    def features(images):
        return images.reshape(len(images), -1) / 255.0 @ directions

    return features, pictures[:2000], pictures[2000:], labels[2000:]


def blur(images):
    rows = (np.roll(images, 1, axis=1) + images + np.roll(images, -1, axis=1)) / 3
    return (np.roll(rows, 1, axis=2) + rows + np.roll(rows, -1, axis=2)) / 3


def test_blur_noise_and_a_dropped_class_raise_both_distances(clothes):
    features, real, other, labels = clothes
    noise = np.random.default_rng(0).normal(scale=60, size=other.shape)
    damaged = {
        "blur": blur(other.astype(float)),
        "noise": (other + noise).clip(0, 255),
        "class dropped": other[labels != 8],
    }
    few_subsets = functools.partial(scores.kernel_distance, n_subsets=4)
    for distance in (scores.frechet_distance, few_subsets):
        floor = distance(features(real), features(other))
        for name, pictures in damaged.items():
            assert distance(features(real), features(pictures)) > 1.5 * abs(floor), name


def test_dropping_a_class_lowers_coverage_and_leaves_precision(clothes):
    features, real, other, labels = clothes
    n = 900
    reference = features(real[:n])
    whole = scores.precision_recall_coverage(reference, features(other[:n]))
    no_bags = scores.precision_recall_coverage(reference, features(other[labels != 8][:n]))
    half = scores.precision_recall_coverage(reference, features(other[labels >= 5][:n]))
    assert whole.coverage > 0.9
    assert no_bags.coverage < whole.coverage - 0.03
    assert half.coverage < whole.coverage - 0.2
    assert half.precision > whole.precision - 0.05


def test_one_query_finds_its_neighbour_among_one_or_many():
    some = np.random.default_rng(0).normal(size=(9, 3))
    distances, indices = scores.nearest_neighbours(some[4:5], some)
    assert distances[0, 0] == 0 and indices.tolist() == [[4]]
    assert scores.nearest_neighbours(some, some[:1])[1].tolist() == [[0]] * 9


# --- bad input: one sentence each ----------------------------------------------------------------


def message(function, *args, **options):
    with pytest.raises(ValueError) as caught:
        function(*args, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", PAIR)
def test_bad_features_are_named(name):
    good = np.random.default_rng(0).normal(size=(20, 3))
    holes = good.copy()
    holes[3, 1] = np.nan
    holes[4, 0] = np.inf
    assert "(20,)" in message(call, name, good[:, 0], good)
    assert "(n_samples, n_features)" in message(call, name, good, good[:, :, None])
    assert "2 of 20 samples" in message(call, name, holes, good)
    assert "same feature net" in message(call, name, good, good[:, :2])
    least = 1 if name == "nearest_neighbours" else 2
    for few in range(least):
        assert f"is {few} and must be at least {least}" in message(call, name, good, good[:few])


def test_numbers_that_do_not_fit_are_named():
    few = np.random.default_rng(0).normal(size=(8, 8))
    many = np.random.default_rng(0).normal(size=(100, 8))
    assert "at least 9 samples" in message(scores.frechet_distance, few, many)
    assert "no subset of 1000" in message(scores.kernel_distance, few, many)
    assert "at least two" in message(scores.kernel_distance, few, many, subset_size=1)
    assert "do not have k = 8" in message(scores.precision_recall_coverage, many, few, k=8)
    assert "choose k ≥ 1" in message(scores.precision_recall_coverage, many, few, k=0)
    assert "between 1 and 8" in message(scores.nearest_neighbours, many, few, k=9)


def test_integers_and_single_precision_are_computed_in_double():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, size=(2, 50, 6)).astype(np.uint8)
    exact = scores.frechet_distance(*pictures.astype(np.float64))
    assert scores.frechet_distance(*pictures) == pytest.approx(exact)
    assert scores.frechet_distance(*pictures.astype(np.float32)) == pytest.approx(exact)
    distances, _ = scores.nearest_neighbours(*pictures)
    assert distances.dtype == np.float64


def test_scores_import_no_framework():
    script = "import sys, aigc_utils.scores; print('torch' in sys.modules, 'keras' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.stdout.split() == ["False", "False"]
