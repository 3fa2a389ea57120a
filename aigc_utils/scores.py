"""Scores for generated samples: distance to the real ones, fidelity, variety, memorisation.

Lesson 08 watches for mode collapse with them, lesson 09 judges pictures. Every function
takes *features*, an array (n_samples, n_features): points of the plane as they are, pictures
after a feature net. A score belongs to its features and its number of samples, so
compare only what was scored with the same net and the same n. All sums are done in float64.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Features = NDArray[np.float64]

# Rows of a distance matrix held at one time: 1,000 × 10,000 float64 are 80 MB.
_BLOCK = 1000


class PrecisionRecallCoverage(NamedTuple):
    """Four shares of samples; all but ``density``, which may exceed 1, lie between 0 and 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def frechet_distance(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """Return the squared Fréchet distance of two Gaussians fitted to two sets of features.

    ‖μ_a − μ_b‖² + tr(Σ_a + Σ_b − 2 (Σ_a Σ_b)^½). Shapes (n_a, d) and (n_b, d); the two numbers
    of samples may differ. Zero when means and covariances agree, whatever else differs. Finite
    samples bias it upwards, so quote n with it. With Inception features this number is
    called FID; with any other feature net it is not comparable to a published FID.

    Raises ValueError for bad shapes, NaN, and sets with no more samples than features: their
    covariance would be singular. Source: Heusel et al., "GANs Trained by a Two Time-Scale Update
    Rule Converge to a Local Nash Equilibrium" (2017), equation 6; Dowson and Landau (1982).
    """
    a, b = _two_sets(features_a, features_b)
    n, d = min(len(a), len(b)), a.shape[1]
    if n <= d:
        raise ValueError(
            f"{n} samples are too few for {d} features, because their covariance is singular: "
            f"use at least {d + 1} samples, better ten times as many"
        )
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    # The trace of (Σ_a Σ_b)^½ is the sum of the singular values of Σ_a^½ Σ_b^½. So no root of a
    # non-symmetric matrix is taken, which could come out complex or lose half the digits.
    overlap = np.linalg.svd(root_a @ root_b, compute_uv=False).sum()
    spread = (root_a**2).sum() + (root_b**2).sum() - 2 * overlap
    shift = ((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum()
    return max(float(shift + spread), 0.0)


def kernel_distance(
    features_a: ArrayLike,
    features_b: ArrayLike,
    *,
    subset_size: int = 1000,
    n_subsets: int = 20,
    seed: int = 0,
) -> float:
    """Return the squared maximum mean discrepancy with the kernel (xᵀy/d + 1)³.

    Shapes (n_a, d) and (n_b, d). The average over ``n_subsets`` random subsets of ``subset_size``
    samples of each set, drawn without replacement with ``seed``. Unbiased: for two samples of one
    distribution it is zero on average, whatever the subset size, so a small negative value is
    no mistake. It compares the first three moments and assumes no Gaussian.

    Raises ValueError for bad shapes, NaN, and sets smaller than a subset. Source: Bińkowski et
    al., "Demystifying MMD GANs" (2018), section 4 (with Inception features it is called KID);
    Gretton et al., "A Kernel Two-Sample Test" (2012), equation 3.
    """
    a, b = _two_sets(features_a, features_b)
    if subset_size < 2 or n_subsets < 1:
        raise ValueError(
            f"{n_subsets} subsets of {subset_size} samples give no estimate: "
            "take at least one subset of at least two"
        )
    if min(len(a), len(b)) < subset_size:
        raise ValueError(
            f"sets of {len(a)} and {len(b)} samples hold no subset of {subset_size}: "
            "give more samples or a smaller subset_size"
        )
    rng = np.random.default_rng(seed)
    estimates = [
        _unbiased_mmd2(
            a[rng.choice(len(a), subset_size, replace=False)],
            b[rng.choice(len(b), subset_size, replace=False)],
        )
        for _ in range(n_subsets)
    ]
    return float(np.mean(estimates))


def precision_recall_coverage(
    real: ArrayLike, generated: ArrayLike, *, k: int = 5
) -> PrecisionRecallCoverage:
    """Return how believable and how varied ``generated`` (n, d) is beside ``real`` (m, d).

    Around every sample lies a ball that reaches to its k-th nearest neighbour in its own set.

    - precision: share of generated samples inside some real ball (are they believable?);
    - recall: share of real samples inside some generated ball (is everything represented?);
    - density: real balls around a generated sample, on average, divided by k: precision that a
      single outlier among the real samples cannot inflate;
    - coverage: share of real balls that hold a generated sample: the alarm for mode collapse.

    Use as many generated as real samples; about 5,000 of each is usual. With n = m from
    one distribution coverage is about 1 − 2⁻ᵏ, 0.97 for k = 5. Raises ValueError for bad
    shapes, NaN, and sets of k samples or fewer. Sources: Kynkäänniemi et al., "Improved Precision
    and Recall Metric for Assessing Generative Models" (2019), section 2; Naeem et al., "Reliable
    Fidelity and Diversity Metrics for Generative Models" (2020), section 3 and lemma 2.
    """
    real, generated = _two_sets(real, generated, names=("real", "generated"))
    real_reach, generated_reach = _reach(real, k), _reach(generated, k)
    balls_around = np.zeros(len(generated))  # real balls that hold each generated sample
    covered = np.zeros(len(real), dtype=bool)  # real balls that hold a generated sample
    recalled = np.zeros(len(real), dtype=bool)  # real samples inside a generated ball
    for rows, squared, tolerance in _squared_distances(real, generated):
        inside = squared <= real_reach[rows, None] ** 2 + tolerance
        balls_around += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = (squared <= generated_reach**2 + tolerance).any(axis=1)
    return PrecisionRecallCoverage(
        precision=float((balls_around > 0).mean()),
        recall=float(recalled.mean()),
        density=float(balls_around.mean() / k),
        coverage=float(covered.mean()),
    )


def nearest_neighbours(
    queries: ArrayLike, references: ArrayLike, *, k: int = 1
) -> tuple[Features, NDArray[np.intp]]:
    """Return the Euclidean distances and the indices of the k nearest references of each query.

    Shapes: ``queries`` (n, d), ``references`` (m, d); both results are (n, k), nearest first. A
    generated sample at distance 0 from a training sample is a copy of it. Queries that
    are themselves among the references find themselves first: ask for k + 1 and drop column 0.
    Raises ValueError for bad shapes, NaN, and k outside 1…m.
    """
    queries, references = _two_sets(queries, references, ("queries", "references"), least=1)
    if not 1 <= k <= len(references):
        raise ValueError(
            f"k = {k} neighbours cannot be found among {len(references)} references: "
            f"choose k between 1 and {len(references)}"
        )
    distances = np.empty((len(queries), k))
    indices = np.empty((len(queries), k), dtype=np.intp)
    for rows, squared, _ in _squared_distances(queries, references):
        nearest = np.argpartition(squared, k - 1, axis=1)[:, :k]
        # Once more, by subtraction: exact, so that a copy is at distance 0 and not at 1e-8.
        differences = queries[rows, None] - references[nearest]
        exact = np.sqrt((differences**2).sum(axis=-1))
        order = np.argsort(exact, axis=1, kind="stable")
        distances[rows] = np.take_along_axis(exact, order, axis=1)
        indices[rows] = np.take_along_axis(nearest, order, axis=1)
    return distances, indices


def _two_sets(
    a: ArrayLike,
    b: ArrayLike,
    names: tuple[str, str] = ("features_a", "features_b"),
    least: int = 2,
) -> tuple[Features, Features]:
    first, second = _as_features(a, names[0], least), _as_features(b, names[1], least)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{names[0]} has {first.shape[1]} features a sample and {names[1]} has "
            f"{second.shape[1]}: compute both with the same feature net"
        )
    return first, second


def _as_features(values: ArrayLike, name: str, least: int) -> Features:
    features = np.asarray(values, dtype=np.float64)
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(
            f"{name} must have the shape (n_samples, n_features) and has {features.shape}: "
            "flatten each sample into one row"
        )
    if len(features) < least:
        raise ValueError(
            f"the number of samples in {name} is {len(features)} and must be at least {least}"
        )
    if not np.isfinite(features).all():
        bad = int((~np.isfinite(features)).any(axis=1).sum())
        raise ValueError(
            f"{name} holds NaN or infinity in {bad} of {len(features)} samples: "
            "find out which step of the generator or the feature net made them"
        )
    return features


def _covariance_root(features: Features) -> Features:
    """Return the symmetric square root of the covariance (d, d), denominator n − 1."""
    centred = features - features.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred / (len(features) - 1))
    # A feature that never fires gives eigenvalue 0, which rounding may turn slightly negative.
    root: Features = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


def _unbiased_mmd2(a: Features, b: Features) -> float:
    def kernel(x: Features, y: Features) -> Features:
        base: Features = x @ y.T / x.shape[1] + 1
        return base * base * base  # several times faster than base**3

    n = len(a)
    same = sum(k.sum() - np.trace(k) for k in (kernel(a, a), kernel(b, b))) / (n * (n - 1))
    return float(same - 2 * kernel(a, b).mean())


def _reach(features: Features, k: int) -> Features:
    """Return each sample's distance to its k-th nearest neighbour, itself not counted."""
    if not 1 <= k < len(features):
        raise ValueError(
            f"{len(features)} samples do not have k = {k} neighbours each: "
            "give more samples or choose k ≥ 1 smaller than their number"
        )
    distances, _ = nearest_neighbours(features, features, k=k + 1)
    return distances[:, -1]


def _squared_distances(a: Features, b: Features) -> Iterator[tuple[slice, Features, float]]:
    """Yield rows of ``a`` as a slice, their squared distances to all of ``b``, and the rounding.

    ‖x − y‖² = ‖x‖² + ‖y‖² − 2xᵀy needs no array of shape (n, m, d), but leaves an error of about
    1e-16 of the norms; so both sets are first moved to lie around the origin.
    """
    centre = b.mean(axis=0)
    a, b = a - centre, b - centre
    norms_a, norms_b = (a**2).sum(axis=1), (b**2).sum(axis=1)
    rounding = 1e-14 * float(norms_a.max() + norms_b.max())
    for start in range(0, len(a), _BLOCK):
        rows = slice(start, min(start + _BLOCK, len(a)))
        squared = norms_a[rows, None] + norms_b - 2 * (a[rows] @ b.T)
        yield rows, squared.clip(min=0), rounding
