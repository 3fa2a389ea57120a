"""Lesson 09: right answers of every style pass, wrong ones get the sentence that fits."""

import functools

import nbformat
import numpy as np
import torch
from graded import CheckerTests, run_answer

from aigc_utils import gan, scores, session
from aigc_utils.checks import keras_gan as check

with session.quiet_stderr():
    import keras
    import tensorflow as tf

mean, softplus = tf.reduce_mean, tf.math.softplus


@functools.cache
def space():
    """What the cells above an answer define."""
    names = {"np": np, "tf": tf, "gan": gan, "scores": scores, "rng": np.random.default_rng(9)}
    names |= {"G": gan.build_generator(8, width=2), "D": gan.build_discriminator(width=2)}
    return names | {"real": tf.ones((4, 28, 28, 1)), "z": tf.ones((4, 8))}


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    return run_answer(notebook, name, dict(space()))


# --- 1 · overlap ----------------------------------------------------------------------------------


def overlap_by_loops(kernel, stride, size):
    counts = []
    for o in range(size):
        counts.append(sum(1 for i in range(-kernel, size) if 0 <= o - i * stride < kernel))
    return counts


def overlap_by_formula(kernel, stride, size):
    o = np.arange(size)
    return o // stride - np.ceil((o - kernel + 1) / stride) + 1


def overlap_of_phases(kernel, stride, size):
    period = [len(range(phase, kernel, stride)) for phase in range(stride)]
    return tuple(period[o % stride] for o in range(size))


def overlap_of_torch(kernel, stride, size):
    ones = torch.ones(1, 1, size + 2 * kernel)
    painted = torch.nn.functional.conv_transpose1d(ones, torch.ones(1, 1, kernel), stride=stride)
    return painted[0, 0, stride * kernel :][:size]


def overlap_of_keras(kernel, stride, size):
    layer = keras.layers.Conv1DTranspose(1, kernel, stride, kernel_initializer="ones")
    return layer(np.ones((1, size + 2 * kernel, 1)))[0, kernel * stride : kernel * stride + size, 0]


def overlap_painted(kernel, stride, size):
    counts = np.zeros(size, dtype=np.int32)
    for i in range(-kernel, size):
        counts[max(0, i * stride) : max(0, i * stride + kernel)] += 1
    return counts


def overlap_counted(kernel, stride, size, first=None, upper=0, lower=0):
    """The number of pixels, with other ends."""
    inputs = range(-kernel if first is None else first, size)
    reached = [[lower <= o - i * stride < kernel + upper for i in inputs] for o in range(size)]
    return np.sum(reached, axis=1)


# --- 2 · D's step ---------------------------------------------------------------------------------


def d_step(
    *,
    real=1,
    fake=1,
    modes=(True, True, True),
    of="D",
    scale=1.0,
    sums=False,
    climb=1,
    times=1,
    returned=1.0,
    smooth=0.0,
    freeze=False,
):
    """A step of D with one thing wrong."""
    g_mode, real_mode, fake_mode = modes
    total = tf.reduce_sum if sums else mean

    def discriminator_step(generator, discriminator, optimizer, reals, z):
        generator.trainable = not freeze
        for _ in range(times):
            with tf.GradientTape() as tape:
                made = generator(z, training=g_mode)
                a = discriminator(reals, training=real_mode)
                b = discriminator(made, training=fake_mode)
                loss = scale * (
                    real * real * total(softplus(-real * a) + smooth * a)
                    + fake * fake * total(softplus(fake * b))
                )
            weights = {
                "D": discriminator.trainable_variables,
                "G": generator.trainable_variables,
                "both": discriminator.trainable_variables + generator.trainable_variables,
            }[of]
            if weights:
                grads = tape.gradient(loss, weights)
                optimizer.apply([climb * g for g in grads], weights)
        return returned * loss

    return discriminator_step


def d_step_of_two_tapes(generator, discriminator, optimizer, real, z):
    bce = keras.losses.BinaryCrossentropy(from_logits=True)
    fake = tf.stop_gradient(generator(z, training=True))
    with tf.GradientTape() as tape_real:
        a = discriminator(real, training=True)
        loss_real = bce(tf.ones_like(a), a)
    with tf.GradientTape() as tape_fake:
        b = discriminator(fake, training=True)
        loss_fake = bce(tf.zeros_like(b), b)
    weights = discriminator.trainable_weights
    pairs = zip(
        tape_real.gradient(loss_real, weights), tape_fake.gradient(loss_fake, weights), strict=True
    )
    optimizer.apply_gradients(zip([g + h for g, h in pairs], weights, strict=True))
    return float(loss_real + loss_fake)


def d_step_of_one_batch(generator, discriminator, optimizer, real, z):
    both = tf.concat([real, generator(z, training=True)], axis=0)
    labels = tf.concat([tf.ones((len(real), 1)), tf.zeros((len(z), 1))], axis=0)
    with tf.GradientTape() as tape:
        logits = discriminator(both, training=True)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
        loss = 2 * mean(losses)
    grads = tape.gradient(loss, discriminator.trainable_variables)
    optimizer.apply(grads, discriminator.trainable_variables)
    return loss.numpy()


def d_step_frozen_and_thawed(generator, discriminator, optimizer, real, z):
    generator.trainable = False
    with tf.GradientTape() as tape:
        loss = keras.ops.mean(keras.ops.softplus(-discriminator(real, training=1)))
        loss += keras.ops.mean(
            -keras.ops.log_sigmoid(-discriminator(generator(z, training=1), training=1))
        )
    generator.trainable = True
    optimizer.apply(
        tape.gradient(loss, discriminator.trainable_variables), discriminator.trainable_variables
    )
    return keras.ops.reshape(loss, (1,))


def d_step_by_hand(generator, discriminator, optimizer, real, z):
    with tf.GradientTape() as tape:
        loss = mean(
            tf.math.log1p(tf.exp(-tf.abs(a := discriminator(real, training=True))))
            + tf.maximum(-a, 0)
        )
        fake = discriminator(generator(z, training=True), training=True)
        loss += mean(tf.math.log1p(tf.exp(-tf.abs(fake))) + tf.maximum(fake, 0))
    for weight, grad in zip(
        discriminator.trainable_variables,
        tape.gradient(loss, discriminator.trainable_variables),
        strict=True,
    ):
        weight.assign_sub(optimizer.learning_rate * grad)
    return loss


def d_step_of_sigmoids(generator, discriminator, optimizer, real, z):
    with tf.GradientTape() as tape:
        a = tf.sigmoid(discriminator(real, training=True))
        b = tf.sigmoid(discriminator(generator(z, training=True), training=True))
        loss = -mean(tf.math.log(a)) - mean(tf.math.log(1 - b))
    weights = discriminator.trainable_variables
    optimizer.apply(tape.gradient(loss, weights), weights)
    return loss


def d_step_in_turn(generator, discriminator, optimizer, real, z):
    losses = []
    for pictures, sign in ((real, -1), (generator(z, training=True), 1)):
        with tf.GradientTape() as tape:
            loss = mean(softplus(sign * discriminator(pictures, training=True)))
        weights = discriminator.trainable_variables
        optimizer.apply(tape.gradient(loss, weights), weights)
        losses.append(loss)
    return sum(losses)


def d_step_as_printed(generator, discriminator, optimizer, real, z):
    with tf.GradientTape() as tape:
        fake = generator(z)
        real_logits, fake_logits = discriminator(real), discriminator(fake)
        loss = tf.reduce_mean(tf.math.softplus(real_logits))
        loss += tf.reduce_mean(tf.math.softplus(-fake_logits))
    weights = discriminator.trainable_variables + generator.trainable_variables
    optimizer.apply(tape.gradient(loss, weights), weights)
    return loss


# --- 3 · G's step ---------------------------------------------------------------------------------


def g_step(
    *,
    loss_of=lambda a: softplus(-a),
    modes=(True, True),
    of="G",
    sums=False,
    climb=1,
    average="weights",
    share=lambda mean, new, beta: beta * mean + (1 - beta) * new,
    early=False,
    freeze=False,
    returned=True,
):
    """A step of G with one thing wrong."""
    g_mode, d_mode = modes

    def generator_step(generator, averaged, discriminator, optimizer, z, beta):
        def follow():
            pairs = zip(getattr(averaged, average), getattr(generator, average), strict=True)
            for old, new in pairs:
                old.assign(share(old, new, beta))

        discriminator.trainable = not freeze
        with tf.GradientTape() as tape:
            logits = discriminator(generator(z, training=g_mode), training=d_mode)
            loss = (tf.reduce_sum if sums else mean)(loss_of(logits))
        players = {"G": [generator], "D": [discriminator], "both": [generator, discriminator]}[of]
        weights = [weight for player in players for weight in player.trainable_variables]
        if early:
            follow()
        optimizer.apply([climb * g for g in tape.gradient(loss, weights)], weights)
        if not early:
            follow()
        return loss if returned else mean(tf.sigmoid(logits))

    return generator_step


def g_step_frozen_and_thawed(generator, averaged, discriminator, optimizer, z, beta):
    bce = keras.losses.BinaryCrossentropy(from_logits=True)
    discriminator.trainable = False
    with tf.GradientTape() as tape:
        fake = generator(z, training=True)
        logits = discriminator(fake, training=True)
        loss = bce(tf.ones_like(logits), logits)
    optimizer.apply_gradients(
        zip(
            tape.gradient(loss, generator.trainable_weights),
            generator.trainable_weights,
            strict=True,
        )
    )
    discriminator.trainable = True
    pairs = zip(averaged.get_weights(), generator.get_weights(), strict=True)
    averaged.set_weights([beta * old + (1 - beta) * new for old, new in pairs])
    return loss.numpy()


def g_step_by_the_chain_rule(generator, averaged, discriminator, optimizer, z, beta):
    with tf.GradientTape() as outer:
        fake = generator(z, training=True)
    with tf.GradientTape() as inner:
        inner.watch(fake)
        loss = -mean(tf.math.log_sigmoid(discriminator(fake, training=True)))
    weights = generator.trainable_variables
    optimizer.apply(
        outer.gradient(fake, weights, output_gradients=inner.gradient(loss, fake)), weights
    )
    for i, new in enumerate(generator.weights):
        averaged.weights[i].assign_add((1 - beta) * (new - averaged.weights[i]))
    return float(loss)


def g_step_with_all_gradients(generator, averaged, discriminator, optimizer, z, beta):
    with tf.GradientTape() as tape:
        logits = discriminator(generator(z, training=True), training=True)
        loss = tf.nn.sigmoid_cross_entropy_with_logits(tf.ones_like(logits), logits)
        loss = tf.reduce_sum(loss) / tf.cast(tf.shape(z)[0], tf.float32)
    weights = discriminator.trainable_variables + generator.trainable_variables
    grads = tape.gradient(loss, weights)
    optimizer.apply(grads[len(discriminator.trainable_variables) :], generator.trainable_variables)
    for old, new in zip(averaged.variables, generator.variables, strict=True):
        old.assign(old.numpy() * beta + new.numpy() * (1 - beta))
    return loss


def g_step_detached(generator, averaged, discriminator, optimizer, z, beta):
    fake = generator(z, training=True)
    with tf.GradientTape() as tape:
        loss = mean(softplus(-discriminator(fake, training=True)))
    optimizer.apply(
        tape.gradient(loss, generator.trainable_variables), generator.trainable_variables
    )
    return loss


# --- 4 · copies -----------------------------------------------------------------------------------


def nearest(a, b):
    return scores.nearest_neighbours(a, b)[0][:, 0]


def alarm(
    made=lambda g, t, h: nearest(g, t),
    honest=lambda g, t, h: nearest(h, t),
    threshold=np.quantile,
    share=lambda near, far: (near < far).mean(),
):
    """An alarm with one thing wrong."""

    def copies(generated, training, held_out, level=0.01):
        sets = generated, training, held_out
        return share(made(*sets), threshold(honest(*sets), level))

    return copies


def copies_by_loops(generated, training, held_out, level=0.01):
    def distance(x):
        return min(float(np.linalg.norm(x - y)) for y in training)

    honest = sorted(map(distance, held_out))
    threshold = honest[int(level * len(honest))]
    return sum(distance(x) < threshold for x in generated) / len(generated)


def copies_of_torch(generated, training, held_out, level=0.01):
    generated, training, held_out = (
        torch.tensor(np.asarray(x, dtype=np.float64)) for x in (generated, training, held_out)
    )
    threshold = torch.cdist(held_out, training).min(dim=1).values.quantile(level)
    return (torch.cdist(generated, training).min(dim=1).values < threshold).double().mean()


def copies_of_broadcasting(generated, training, held_out, level=0.01):
    def squared(a):
        return ((a[:, None] - training[None]) ** 2).sum(axis=-1).min(axis=1)

    # Squares keep the order; "higher" or "lower" decides only between two held-out samples.
    limit = np.quantile(squared(held_out), level, method="lower")
    return np.float32(np.count_nonzero(squared(generated) < limit) / len(generated))


def copies_of_tensorflow(generated, training, held_out, level=0.01):
    def nearest_of(a):
        return tf.reduce_min(tf.norm(a[:, None] - training[None], axis=-1), axis=1)

    threshold = np.percentile(nearest_of(held_out), 100 * level)
    return mean(tf.cast(nearest_of(generated) < threshold, tf.float32))


def copies_of_matrices(generated, training, held_out, level=0.01):
    def far(a):
        squares = (a**2).sum(1)[:, None] + (training**2).sum(1) - 2 * a @ training.T
        return np.sqrt(np.maximum(squares, 0)).min(1)

    return np.mean([d < np.quantile(far(held_out), level) for d in far(generated)])


RIGHT = {
    "overlap": [
        overlap_by_loops,
        overlap_by_formula,
        overlap_of_phases,
        overlap_of_torch,
        overlap_of_keras,
        overlap_painted,
    ],
    "discriminator_step": [
        d_step(),
        tf.function(d_step()),
        d_step_of_two_tapes,
        d_step_of_one_batch,
        d_step_frozen_and_thawed,
        d_step_by_hand,
    ],
    "generator_step": [
        g_step(),
        tf.function(g_step()),
        g_step_frozen_and_thawed,
        g_step_by_the_chain_rule,
        g_step_with_all_gradients,
    ],
    "copies": [
        alarm(),
        copies_by_loops,
        copies_of_torch,
        copies_of_broadcasting,
        copies_of_tensorflow,
        copies_of_matrices,
    ],
}
WRONG = {
    "overlap": [
        (lambda k, s, n: overlap_counted(k, s, n, first=0), "left of 0 reach in"),
        (lambda k, s, n: overlap_counted(k, s, n) ** 2, "of a picture"),
        (lambda k, s, n: overlap_counted(k, s, n, upper=1), "one more"),
        (lambda k, s, n: overlap_counted(k, s, n, upper=-1), "one more than yours"),
        (lambda k, s, n: overlap_counted(k, s, n, lower=1), "must have 2 at [0], and has 1"),
        (lambda k, s, n: overlap_counted(s, k, n), "changed places"),
        (lambda k, s, n: np.full(n, k / s), "the average"),
        (lambda k, s, n: [k // s] * n, "the same count"),
        (lambda k, s, n: [-(-k // s)] * n, "the same count"),
        (lambda k, s, n: [k] * (n + 1), "shape"),
        (lambda k, s, n: overlap_counted(k, s, n)[::-1], "must have"),
        (lambda k, s, n: np.maximum(1, overlap_counted(k, s, n)), "must have 0"),
        (lambda k, s, n: overlap_counted(k, s, n) > 0, ""),
        (lambda k, s, n: overlap_counted(k, s, n, first=-1), "must have"),
        (lambda k, s, n: int(overlap_counted(k, s, n)[0]), "must be an array"),
    ],
    "discriminator_step": [
        (d_step_as_printed, "the generator moved"),
        (d_step(real=-1, fake=-1), "both signs are wrong"),
        (d_step(real=-1), "call real pictures generated"),
        (d_step(fake=-1), "call generated pictures real"),
        (d_step(real=0), "One half of D's loss is missing"),
        (d_step(fake=0), "One half of D's loss is missing"),
        (d_step(of="both"), "the generator moved"),
        (d_step(of="G"), "the generator moved"),
        (d_step(modes=(None, True, True)), "generator was called without training=True"),
        (d_step(modes=(True, False, True)), "real pictures the discriminator was called"),
        (d_step(modes=(True, True, None)), "generated pictures the discriminator was called"),
        (d_step(modes=(False, False, False)), "The generator was called without"),
        (d_step(modes=(True, False, False)), "real and generated pictures the disc"),
        (d_step(real=-1, modes=(True, True, False)), "call real pictures generated"),
        (d_step(scale=0.5), "half as large"),
        (d_step(scale=3.0), "the loss must be"),
        (d_step(sums=True), "add up over the batch"),
        (d_step(climb=-1), "climbs"),
        (d_step(climb=2), "move otherwise"),
        (d_step(times=2), "took 2 steps"),
        (d_step(returned=2.0), "the loss must be"),
        (d_step(smooth=0.1), "the loss must be"),
        (d_step(freeze=True), "generator comes back frozen"),
        (d_step(climb=0), "did not move"),
        (d_step_of_sigmoids, "no longer finite"),
        (d_step_in_turn, "took 2 steps"),
        (lambda G, D, optimizer, real, z: D(real), "must be one number"),
    ],
    "generator_step": [
        (g_step(loss_of=lambda a: -softplus(a)), "saturating loss"),
        (g_step(loss_of=softplus), "That is D's loss"),
        (g_step(modes=(False, True)), "The generator was called without"),
        (g_step(modes=(True, None)), "The discriminator was called without"),
        (g_step(sums=True), "add up over the batch"),
        (g_step(of="both"), "the discriminator moved"),
        (g_step(of="D"), "the discriminator moved"),
        (g_step(climb=-1), "climbs"),
        (g_step(climb=0.1), "move otherwise"),
        (g_step(average="trainable_weights"), "Only what learns is averaged"),
        (g_step(share=lambda old, new, beta: (1 - beta) * old + beta * new), "jumps to the new"),
        (g_step(share=lambda old, new, beta: old), "did not move"),
        (g_step(share=lambda old, new, beta: new), "is a copy"),
        (g_step(share=lambda old, new, beta: old + (1 - beta) * new), "grows without end"),
        (g_step(share=lambda old, new, beta: (old + new) / 2), "a weight of `averaged` must be"),
        (g_step(share=lambda old, new, beta: 0.99 * old + 0.01 * new), "must be"),
        (g_step(early=True), "from before the step"),
        (g_step(freeze=True), "discriminator comes back frozen"),
        (g_step(returned=False), "the loss must be"),
        (g_step(loss_of=lambda a: -tf.math.log(tf.sigmoid(a))), "no longer finite"),
        (g_step(loss_of=lambda a: -a), "the loss must be"),
        (g_step_detached, "stops in line"),
    ],
    "copies": [
        (alarm(threshold=lambda d, level: 1e-9), "trace of noise"),
        (alarm(threshold=lambda d, level: d.mean()), "the mean of the held-out distances"),
        (alarm(threshold=lambda d, level: np.median(d)), "the median"),
        (alarm(threshold=lambda d, level: d.min()), "the smallest held-out distance"),
        (alarm(threshold=lambda d, level: level), "not a distance"),
        (alarm(threshold=lambda d, level: level * d.mean()), "not a part of a distance"),
        (alarm(threshold=lambda d, level: np.quantile(d, 1 - level)), "1 − level"),
        (alarm(threshold=np.percentile), "or little more"),
        (alarm(threshold=lambda d, level: np.quantile(d, 0.01)), "always the quantile 0.01"),
        (alarm(share=lambda near, far: (near > far).mean()), "farther away"),
        (alarm(share=lambda near, far: (near <= far).mean()), "exactly at the threshold"),
        (alarm(share=lambda near, far: (near < far).sum()), "lies between 0 and 1"),
        (alarm(share=lambda near, far: 100 * (near < far).mean()), "lies between 0 and 1"),
        (alarm(share=lambda near, far: near < far), "must be one number"),
        (alarm(share=lambda near, far: bool((near < far).any())), "must be one number"),
        (alarm(made=lambda g, t, h: nearest(g, h)), "compared with the held-out ones"),
        (alarm(honest=lambda g, t, h: nearest(h, g)), "compared with the generated ones"),
        (alarm(honest=lambda g, t, h: nearest(g, t)), "generated samples themselves"),
        (alarm(honest=lambda g, t, h: nearest(t, h)), "the other way round"),
        (alarm(made=lambda g, t, h: nearest(t, g)), "share of the training samples"),
        (alarm(made=lambda g, t, h: nearest(h, t)), "share of the held-out samples"),
        (alarm(made=lambda g, t, h: nearest(g, t) ** 2), "must be"),
        (
            alarm(made=lambda g, t, h: np.abs(g[:, None] - t[None]).sum(-1).min(1)),
            "must be",
        ),
    ],
}


def test_the_checks_leave_kerass_generator_alone():
    keras.utils.set_random_seed(5)
    expected = keras.random.normal((3,)).numpy()
    keras.utils.set_random_seed(5)
    check.discriminator_step(d_step())
    check.generator_step(g_step())
    assert np.array_equal(keras.random.normal((3,)).numpy(), expected)


class TestCheckers(CheckerTests):
    check, solutions = check, "09_keras_gan.ipynb"
    right, wrong, function_of = RIGHT, WRONG, staticmethod(function_of)
