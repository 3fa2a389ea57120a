"""The exercises of lesson 09: right answers pass, typical mistakes get a fitting sentence."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
from graded import assert_checkers_and_hints, run_answer

from aigc_utils import scores, session
from aigc_utils.checks import CheckFailed
from aigc_utils.checks import keras_gan as check

with session.quiet_stderr():
    import tensorflow as tf

SOLUTIONS = Path(__file__).resolve().parents[1] / "notebooks" / "solutions" / "09_keras_gan.ipynb"
mean, softplus = tf.reduce_mean, tf.math.softplus


@pytest.mark.parametrize("name", check.HINTS)
def test_the_solution_passes_and_is_praised_in_one_line(name, capsys):
    notebook = nbformat.read(SOLUTIONS, as_version=4)
    answer = run_answer(notebook, name, {"np": np, "tf": tf, "scores": scores})
    getattr(check, name)(answer)
    said = capsys.readouterr().out
    assert said.startswith("Right: ") and said.count("\n") == 1


@pytest.mark.parametrize("name", check.HINTS)
def test_an_unsolved_stub_fails_kindly(name):
    for nothing in (None, ...):
        with pytest.raises(CheckFailed, match="write its body"):
            getattr(check, name)(lambda *args, nothing=nothing: nothing)


def count(o, kernel, stride, left):
    return sum(0 <= o - i * stride < kernel for i in range(left, o + 1))


def equilibrium(answer=lambda s: (1 - s) / 2, target_of_g=1.0, full=True):
    def by_formula(s):
        y = answer(s)
        d_loss = -(1 - s) * np.log(y) - (s * np.log(1 - y) if full else 0) - np.log(1 - y)
        return y, d_loss, -np.log(y) * target_of_g - (1 - target_of_g) * np.log(1 - y)

    return by_formula


def step(*, mode=True, swapped=False, both=False, still=False, summed=False):
    def answer(generator, discriminator, optimizer, real, z):
        sign = -1 if swapped else 1
        with tf.GradientTape() as tape:
            fake = generator(z, training=True)
            loss = mean(softplus(-sign * discriminator(real, training=True)))
            loss += mean(softplus(sign * discriminator(fake, training=mode)))
            loss *= 2 if summed else 1
        weights = discriminator.trainable_variables + generator.trainable_variables * both
        if not still:
            optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    return answer


def nearest(a, b):
    return scores.nearest_neighbours(a, b)[0]


WRONG = [
    ("overlap", lambda k, s, n: [count(o, k, s, 0) for o in range(n)], "no ends"),
    ("overlap", lambda k, s, n: [count(o, k, s, -k) ** 2 for o in range(n)], "of a picture"),
    ("overlap", lambda k, s, n: [k // s] * n, "kernel 5 with stride 2"),
    ("overlap", lambda k, s, n: [k] * (n + 1), "one count for each"),
    ("smoothed_equilibrium", equilibrium(lambda s: 0.5), "no longer one half"),
    ("smoothed_equilibrium", equilibrium(lambda s: (1 - s) / (2 - s)), "loses least"),
    ("smoothed_equilibrium", equilibrium(full=False), "lacks a term"),
    ("smoothed_equilibrium", lambda s: ((1 - s) / 2, np.log(4), np.log(2)), "D's loss at its best"),
    ("smoothed_equilibrium", equilibrium(target_of_g=0.9), "target stays 1"),
    ("smoothed_equilibrium", lambda s: (0.5, np.log(2), np.log(2)), "without smoothing"),
    ("smoothed_equilibrium", lambda s: 0.5, "three numbers"),
    ("discriminator_step", step(swapped=True), "large logit"),
    ("discriminator_step", step(both=True), "generator moved"),
    ("discriminator_step", step(mode=None), "without training=True"),
    ("discriminator_step", step(mode=False), "without training=True"),
    ("discriminator_step", step(still=True), "did not move"),
    ("discriminator_step", step(summed=True), "D's loss on the test batch"),
    ("copies", lambda g, t, h, q: (nearest(g, t) == 0).mean(), "trace of noise"),
    ("copies", lambda g, t, h, q: (nearest(g, t) < nearest(h, t).mean()).mean(), "low quantile"),
    (
        "copies",
        lambda g, t, h, q: (nearest(g, h) < np.quantile(nearest(h, t), q)).mean(),
        "training pictures gives 1",
    ),
    (
        "copies",
        lambda g, t, h, q: (nearest(g, t) < np.quantile(nearest(h, t), 0.01)).mean(),
        "with a larger level",
    ),
    ("copies", lambda g, t, h, q: nearest(g, t)[:, 0], "one number"),
]


@pytest.mark.parametrize(("name", "answer", "sentence"), WRONG)
def test_a_typical_mistake_is_named(name, answer, sentence):
    with pytest.raises(CheckFailed) as caught:
        getattr(check, name)(answer)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_faulty_code_of_exercise_3_fails():
    def as_printed(generator, discriminator, optimizer, real, z):
        with tf.GradientTape() as tape:
            fake = generator(z)
            real_logits, fake_logits = discriminator(real), discriminator(fake)
            loss = tf.reduce_mean(tf.math.softplus(real_logits))
            loss += tf.reduce_mean(tf.math.softplus(-fake_logits))
        weights = discriminator.trainable_variables + generator.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    with pytest.raises(CheckFailed, match="the generator moved"):
        check.discriminator_step(as_printed)


def test_every_exercise_has_a_checker_and_three_hints(capsys):
    assert_checkers_and_hints(SOLUTIONS, check, capsys)
