"""The exercises of lesson 08: right answers pass, typical mistakes get a fitting sentence."""

import math
from pathlib import Path

import nbformat
import numpy as np
import pytest

from aigc_utils.checks import CheckFailed
from aigc_utils.checks import gan_theory as check

SOLUTIONS = Path(__file__).resolve().parents[1] / "notebooks" / "solutions" / "08_gan_theory.ipynb"
NAMES = ("js_divergence", "smoothed_optimum", "dirac_step", "lost_modes")


@pytest.fixture(scope="module")
def solutions():
    """Every solution cell of the notebook, executed."""
    namespace = {"np": np}
    for cell in nbformat.read(SOLUTIONS, as_version=4).cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            exec(cell.source, namespace)
    return namespace


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def jsd_with(half, log):
    def answer(p, q):
        m = (p + q) / 2
        return half * sum(
            np.sum(r * log(np.where(r > 0, r, 1) / np.where(r > 0, m, 1))) for r in (p, q)
        )

    return answer


def jsd_with_nan(p, q):
    with np.errstate(all="ignore"):
        m = (p + q) / 2
        return 0.5 * float(np.sum(p * np.log(p / m)) + np.sum(q * np.log(q / m)))


def half_a_jsd(p, q):
    m = (p + q) / 2
    return float(np.sum(p * np.log(np.where(p > 0, p, 1) / np.where(p > 0, m, 1))))


def constant_for_strangers(p, q):
    return 0.0 if np.allclose(p, q) else math.log(2)


def step(penalty=-1.0, generator=1.0, alternating=False, generator_pays=False):
    def answer(theta, psi, learning_rate, gamma):
        fake = sigmoid(psi * theta)
        new_psi = psi + learning_rate * (-theta * fake + penalty * gamma * psi)
        push = generator * (new_psi if alternating else psi) * fake
        if generator_pays:
            push -= gamma * theta
        return theta + learning_rate * push, new_psi

    return answer


def modes_with(*, use_reach=True, minlength=True, all_samples=True, quarter=0.25, shift=0):
    def answer(samples, centres, reach):
        distances = np.linalg.norm(samples[:, None] - centres, axis=-1)
        close = distances.min(axis=1) <= (reach if use_reach else np.inf)
        nearest = distances.argmin(axis=1)[close]
        counts = np.bincount(nearest, minlength=len(centres) if minlength else 0)
        n = len(samples) if all_samples else close.sum()
        return np.flatnonzero(counts < max(quarter * n / len(centres), 0.5)) + shift

    return answer


WRONG = [
    ("js_divergence", jsd_with(0.5, np.log2), "in bits"),
    ("js_divergence", jsd_with(1.0, np.log), "twice too large"),
    ("js_divergence", jsd_with_nan, "NaN"),
    ("js_divergence", half_a_jsd, "change places"),
    ("js_divergence", constant_for_strangers, "the divergence is"),
    ("js_divergence", lambda p, q: p - q, "one number"),
    ("js_divergence", lambda p, q: 0.3, "from itself"),
    ("js_divergence", lambda p, q: 0.5 * np.abs(p - q).sum() * 0.5, "log 2 = 0.693"),
    ("smoothed_optimum", lambda d, g, r, f: d / (d + g), "another D has a lower loss"),
    ("smoothed_optimum", lambda d, g, r, f: r * d / (r * d + g), "weighted the real samples"),
    ("smoothed_optimum", lambda d, g, r, f: r * d / (d + g), "ignores `fake_target`"),
    ("smoothed_optimum", lambda d, g, r, f: g / (d + g), "plain targets"),
    ("smoothed_optimum", lambda d, g, r, f: 0.5, "one number for each x"),
    (
        "smoothed_optimum",
        lambda d, g, r, f: (r * d - f * g) / (d + g),
        "targets 0.9 and 0.2 another D",
    ),
    ("dirac_step", step(penalty=1.0), "pushes ψ away"),
    ("dirac_step", step(generator=-1.0), "runs away from the data"),
    ("dirac_step", step(alternating=True), "from the old point"),
    ("dirac_step", step(penalty=-2.0), "factor 2.0"),
    ("dirac_step", step(penalty=-0.5), "factor 0.5"),
    ("dirac_step", step(generator_pays=True), "belongs to the discriminator"),
    ("dirac_step", lambda t, p, h, g: (t, p + h * t * sigmoid(t * p)), "ascends V"),
    ("dirac_step", step(generator=0.5), "the generator must step to"),
    ("dirac_step", lambda t, p, h, g: t, "two numbers"),
    ("lost_modes", modes_with(use_reach=False), "belongs to none of them"),
    ("lost_modes", modes_with(minlength=False), "empty last mode"),
    ("lost_modes", modes_with(all_samples=False), "share of all samples"),
    ("lost_modes", modes_with(quarter=0.0), "do not make a mode alive"),
    ("lost_modes", modes_with(quarter=0.5), "rare but"),
    ("lost_modes", lambda s, c, r: range(len(c)), "with every mode you report"),
    ("lost_modes", modes_with(shift=1), "modes 1 and 4"),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes_and_is_praised_in_one_line(solutions, name, capsys):
    getattr(check, name)(solutions[name])
    said = capsys.readouterr().out
    assert said.startswith("Right: ") and said.count("\n") == 1


@pytest.mark.parametrize("name", NAMES)
def test_an_unsolved_stub_fails_kindly(name):
    with pytest.raises(CheckFailed, match="write its body"):
        getattr(check, name)(lambda *args: None)
    with pytest.raises(CheckFailed, match="write its body"):
        getattr(check, name)(lambda *args: ...)


@pytest.mark.parametrize(("name", "answer", "sentence"), WRONG)
def test_a_typical_mistake_is_named(name, answer, sentence):
    with pytest.raises(CheckFailed) as caught:
        getattr(check, name)(answer)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_faulty_code_of_exercise_3_fails_for_each_of_its_faults():
    def as_printed(theta, psi, learning_rate, gamma):
        fake = sigmoid(psi * theta)
        psi = psi + learning_rate * (-theta * fake + gamma * psi)
        theta = theta + learning_rate * (-psi * fake)
        return theta, psi

    with pytest.raises(CheckFailed, match="from the old point"):
        check.dirac_step(as_printed)


@pytest.mark.parametrize("name", NAMES)
def test_every_exercise_has_three_hints(name, capsys):
    for level in (1, 2, 3):
        check.hint(name, level)
    assert capsys.readouterr().out.count("Hint") == 3
    assert set(check.HINTS) == set(NAMES)
