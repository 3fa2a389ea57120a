"""Lesson 08: right answers of every style pass, wrong ones get the sentence that fits."""

import functools
import math
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import torch
from graded import CheckerTests, run_answer

from aigc_utils.checks import gan_theory as check

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "08_gan_theory.ipynb"


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    return run_answer(notebook, name, {"np": np})


@functools.cache
def solution(name: str):
    return function_of(nbformat.read(SOLUTIONS, as_version=4), name)


# --- 1 · divergence -------------------------------------------------------------------------------


def jsd(*, half=0.5, log=np.log, of_m=0.5, parts=(1, 1)):
    def js_divergence(p, q):
        m = of_m * (p + q)
        return half * sum(
            part * np.sum(r * log(np.where(r > 0, r, 1) / np.where(r > 0, m, 1)))
            for part, r in zip(parts, (p, q), strict=True)
        )

    return js_divergence


def jsd_in_loops(p, q):
    total = 0.0
    for a, b in zip(np.ravel(p).tolist(), np.ravel(q).tolist(), strict=True):
        total += a / 2 * math.log(2 * a / (a + b)) if a else 0
        total += b / 2 * math.log(2 * b / (a + b)) if b else 0
    return total


def jsd_of_entropies(p, q):
    def entropy(r):
        return -(r[r > 0] * np.log(r[r > 0])).sum()

    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


def jsd_of_torch(p, q):
    p, q = torch.tensor(p).float(), torch.tensor(q).float()
    m = (p + q) / 2
    kl = [
        torch.nn.functional.kl_div(m.log().nan_to_num(neginf=0), r, reduction="sum") for r in (p, q)
    ]
    return torch.stack(kl).mean()


def jsd_with_epsilon(p, q):
    p, q = p + 1e-12, q + 1e-12
    m = (p + q) / 2
    return np.array([0.5 * np.sum(p * np.log(p / m) + q * np.log(q / m))])


def jsd_with_nan(p, q):
    m = (p + q) / 2
    return 0.5 * float(np.sum(p * np.log(p / m)) + np.sum(q * np.log(q / m)))


def jsd_where_both(p, q):
    both = (p > 0) & (q > 0)
    p, q = p[both], q[both]
    m = (p + q) / 2
    return 0.5 * (np.sum(p * np.log(p / m)) + np.sum(q * np.log(q / m)))


def jsd_in_place(p, q):
    p += 1e-12
    q += 1e-12
    return jsd()(p, q)


def kl(p, q):
    return sum(
        (a * math.log(a / b) if b else math.inf)
        for a, b in zip(p.flat, q.flat, strict=True)
        if a > 0
    )


# --- 2 · best D -----------------------------------------------------------------------------------


def optimum_in_lists(p_data, p_model, real_target=1.0, fake_target=0.0):
    rows = zip(np.atleast_2d(p_data), np.atleast_2d(p_model), strict=True)
    votes = [
        [(real_target * d + fake_target * g) / (d + g) for d, g in zip(*row, strict=True)]
        for row in rows
    ]
    return votes if np.ndim(p_data) == 2 else votes[0]


def optimum_between(p_data, p_model, real_target=1.0, fake_target=0.0):
    plain = torch.tensor(p_data / (p_data + p_model), dtype=torch.float32)
    return torch.lerp(torch.tensor(fake_target), torch.tensor(real_target), plain)


def optimum_of_votes(p_data, p_model, real_target=1.0, fake_target=0.0):
    a = real_target * p_data + fake_target * p_model
    b = (1 - real_target) * p_data + (1 - fake_target) * p_model
    return (a / (a + b + 1e-12)).astype(np.float32)


def optimum_by_search(p_data, p_model, real_target=1.0, fake_target=0.0):
    low, high = np.zeros_like(p_data), np.ones_like(p_data)
    a = real_target * p_data + fake_target * p_model
    b = p_data + p_model - a
    for _ in range(40):
        y = (low + high) / 2
        rising = a * (1 - y) > b * y
        low, high = np.where(rising, y, low), np.where(rising, high, y)
    return (low + high) / 2


# --- 3 · Dirac-GAN --------------------------------------------------------------------------------


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def step(
    *, penalty=-1.0, generator=1.0, climb=1.0, order="both", generator_pays=False, fake=sigmoid
):
    def dirac_step(theta, psi, learning_rate, gamma):
        old_psi, old = psi, fake(psi * theta)
        psi = psi + learning_rate * (-climb * theta * old + penalty * gamma * psi)
        seen = old_psi if order == "both" else psi
        push = generator * seen * (fake(psi * theta) if order == "anew" else old)
        push -= gamma * theta if generator_pays else 0
        return theta + learning_rate * push, psi

    return dirac_step


def step_of_torch(theta, psi, learning_rate, gamma):
    theta = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    psi = torch.tensor(psi, dtype=torch.float64, requires_grad=True)
    value = math.log(0.5) + torch.log(1 - torch.sigmoid(psi * theta))
    (down,) = torch.autograd.grad(value, theta, retain_graph=True)
    (up,) = torch.autograd.grad(value - gamma / 2 * psi**2, psi)
    return theta - learning_rate * down, psi + learning_rate * up


def step_in_arrays(theta, psi, learning_rate, gamma):
    fake = 1 - 1 / (1 + math.exp(psi * theta))
    field = np.array([[0, fake], [-fake, -gamma]])
    point = np.array([theta, psi])
    return point + learning_rate * field @ point


def step_in_float32(theta, psi, learning_rate, gamma):
    theta, psi = np.float32(theta), np.float32(psi)
    fake = np.tanh(psi * theta / 2) / 2 + 0.5
    return [theta + learning_rate * psi * fake, psi - learning_rate * (theta * fake + gamma * psi)]


def step_theta_first(theta, psi, learning_rate, gamma):
    theta = theta + learning_rate * psi * sigmoid(psi * theta)
    psi = psi + learning_rate * (-theta * sigmoid(psi * theta) - gamma * psi)
    return theta, psi


def step_as_printed(theta, psi, learning_rate, gamma):
    fake = 1 / (1 + np.exp(-psi * theta))
    psi = psi + learning_rate * (-theta * fake + gamma * psi)
    theta = theta + learning_rate * (-psi * fake)
    return theta, psi


# --- 4 · lost modes -------------------------------------------------------------------------------


def distances_of(samples, centres):
    return np.linalg.norm(samples[:, None] - centres, axis=-1)


def modes(
    *,
    distances=distances_of,
    close=np.less_equal,
    minlength=True,
    share=len,
    quarter=0.25,
    below=np.less,
    give=np.flatnonzero,
):
    def lost_modes(samples, centres, reach):
        far = distances(samples, centres)
        nearest = far.argmin(axis=1)[close(far.min(axis=1), reach)]
        counts = np.bincount(nearest, minlength=len(centres) if minlength else 0)
        n = share(samples) if share is len else share(counts)
        return give(below(counts, quarter * n / len(centres)))

    return lost_modes


def modes_in_loops(samples, centres, reach):
    counts = Counter()
    for sample in samples.tolist():
        distances = [math.dist(sample, centre) for centre in centres.tolist()]
        if min(distances) <= reach:
            counts[distances.index(min(distances))] += 1
    return [i for i in range(len(centres)) if 4 * counts[i] * len(centres) < len(samples)]


def modes_of_torch(samples, centres, reach):
    samples, centres = torch.tensor(samples), torch.tensor(centres)
    far, nearest = torch.cdist(samples, centres).min(dim=1)
    counts = torch.nn.functional.one_hot(nearest, len(centres))[far <= reach].sum(dim=0)
    return torch.nonzero(counts < len(samples) / len(centres) / 4).flatten()


def modes_squared(samples, centres, reach):
    squares = ((samples[:, None] - centres[None]) ** 2).sum(axis=2)
    own = (squares == squares.min(axis=1, keepdims=True)) & (squares <= reach**2)
    share = own.mean(axis=0) * len(centres)
    return tuple(np.where(share < 0.25)[0])


def modes_one_by_one(samples, centres, reach):
    lost = []
    for i, centre in enumerate(centres):
        mine = np.sqrt(((samples - centre) ** 2).sum(axis=1))
        others = [np.linalg.norm(samples - c, axis=1) for j, c in enumerate(centres) if j != i]
        here = (mine <= reach) & np.all([mine < other for other in others], axis=0)
        if here.sum() < len(samples) / (4 * len(centres)):
            lost.append(np.int64(i))
    return lost


def modes_for_each_centre(samples, centres, reach):
    counts = (distances_of(samples, centres) <= reach).sum(axis=0)
    return np.flatnonzero(counts < 0.25 * len(samples) / len(centres))


def modes_in_place(samples, centres, reach):
    samples -= samples.mean(axis=0)
    return modes()(samples, centres, reach)


def whole_shares(samples, centres, reach):
    """The fair share is rounded down."""
    far = distances_of(samples, centres)
    counts = np.bincount(far.argmin(axis=1)[far.min(axis=1) <= reach], minlength=len(centres))
    return np.flatnonzero(counts < len(samples) // len(centres) / 4)


RIGHT = {
    "js_divergence": [
        jsd_in_loops,
        jsd_of_entropies,
        jsd_of_torch,
        jsd_with_epsilon,
    ],
    "smoothed_optimum": [
        optimum_in_lists,
        optimum_between,
        optimum_of_votes,
        optimum_by_search,
    ],
    "dirac_step": [step_of_torch, step_in_arrays, step_in_float32, step()],
    "lost_modes": [modes_in_loops, modes_of_torch, modes_squared, modes_one_by_one],
}
WRONG = {
    "js_divergence": [
        (jsd(log=np.log2), "in bits"),
        (jsd(half=1), "Twice too large"),
        (jsd(half=0.25), "Twice too small"),
        (jsd(of_m=1), "must be their average"),
        (jsd(of_m=1, half=1), "must be their average; and each"),
        (jsd(half=1, parts=(1, 0)), "q must be, too, and each counts one half"),
        (jsd(parts=(1, 0)), "q must be, too."),
        (jsd(half=-0.5), "never negative"),
        (jsd_with_nan, "is nan, and a 0 stands in p or q"),
        (jsd_where_both, "the other still counts"),
        (jsd_in_place, "changes its input `p`"),
        (lambda p, q: math.sqrt(jsd_in_loops(p, q)), "square it"),
        (kl, "That is KL(p ‖ q)"),
        (lambda p, q: (kl(p, q) + kl(q, p)) / 2, "compared with each other"),
        (lambda p, q: np.abs(p - q).sum() / 2, "total variation"),
        (lambda p, q: p - q, "one number"),
        (lambda p, q: 0.3, "must be"),
        (lambda p, q: jsd_in_loops(p, q) if p.ndim == 1 else jsd_in_loops(p[0], q[0]), "must be"),
    ],
    "smoothed_optimum": [
        (lambda d, g, r, f: d / (d + g), "`real_target` changes nothing"),
        (lambda d, g, r, f: r * d / (r * d + g), "weighted by their target instead"),
        (lambda d, g, r, f: r * d / (r * d + (1 - f) * g), "weighted by their target instead"),
        (lambda d, g, r, f: r * d / (r * d + (1 - r) * d + (1 - f) * g), "must have"),
        (lambda d, g, r, f: r * d / (d + g), "`fake_target` changes nothing"),
        (lambda d, g, r, f: (d + f * g) / (d + g), "`real_target` changes nothing"),
        (lambda d, g, r, f: g / (d + g), "share of the *model*"),
        (lambda d, g, r, f: (r * d - f * g) / (d + g), "a sign is wrong"),
        (lambda d, g, r, f: r * d / (d + g) + f, "added everywhere"),
        (lambda d, g, r, f: np.clip(d / (d + g), f, r), "cut off at the targets"),
        (lambda d, g, r, f: d / g, "ratio of the densities"),
        (lambda d, g, r, f: ((1 - r) * d + (1 - f) * g) / (d + g), "share of the *model*"),
        (lambda d, g, r, f: 0.5, "an array of numbers"),
        (lambda d, g, r, f: np.round((r * d + f * g) / (d + g), 2), "must have"),
        (lambda d, g, r, f: (0.9 * d + f * g) / (d + g), "must have"),
        (lambda d, g: d / (d + g), "does not take that"),
        (
            lambda d, g, r=0.9, f=0.0: (r * d + f * g) / (d + g),
            "must have 0.8 at [0], and has 0.72",
        ),
    ],
    "dirac_step": [
        (step(penalty=1.0), "pushes ψ away"),
        (step(generator=-1.0), "The generator *descends* V"),
        (step(climb=-1.0), "The discriminator *climbs* V"),
        (step(order="then"), "not simultaneous, as asked"),
        (step(order="anew"), "not simultaneous, as asked"),
        (step_theta_first, "ψ already sees the new θ: not simultaneous, as asked"),
        (step_as_printed, "pushes ψ away"),
        (step(order="then", generator=-1.0), "yours climbs. And θ already sees the new ψ"),
        (step(penalty=-2.0), "twice too large"),
        (step(penalty=-0.5), "half of what it should be"),
        (step(penalty=0.0), "The penalty is missing"),
        (step(generator_pays=True), "belongs to the discriminator"),
        (step(generator=0.5), "`theta` of `dirac_step("),
        (step(generator=0.0), "θ never moves"),
        (step(fake=lambda a: sigmoid(-a)), "σ is taken of −ψθ"),
        (step(fake=lambda a: 1.0), "σ(ψθ) is missing"),
        (lambda *a: step()(*a)[::-1], "have changed places"),
        (lambda *a: (step()(*a)[0], max(step()(*a)[1], -2.0)), "`psi` of `dirac_step("),
        (lambda t, p, h, g: t, "must return 2 things (theta, psi)"),
    ],
    "lost_modes": [
        (modes(close=lambda far, reach: far < np.inf), "only within `reach`"),
        (modes_for_each_centre, "the nearest alone"),
        (modes(minlength=False), "last modes are not reported"),
        (modes(share=np.sum), "a share of *all* samples"),
        (modes(below=np.less_equal), "must have *less*"),
        (modes(close=np.less), "no *farther* away"),
        (modes(quarter=0.5), "not below a half"),
        (modes(quarter=1), "below a *quarter*"),
        (modes(quarter=0.2), "must be reported, and yours are"),
        (modes(quarter=0.3), "must be reported, and yours are"),
        (lambda s, c, r: list(range(900)), "…."),
        (modes(below=lambda counts, least: counts == 0), "Only modes without any sample"),
        (modes(distances=lambda s, c: np.abs(s[:, None] - c).sum(-1)), "sum of |Δ|"),
        (modes(distances=lambda s, c: np.abs(s[:, None] - c).max(-1)), "largest |Δ|"),
        (modes(distances=lambda s, c: ((s[:, None] - c) ** 2).sum(-1)), "The *squared* distance"),
        (modes(give=lambda lost: np.flatnonzero(lost) + 1), "counted from 1"),
        (modes(give=lambda lost: np.flatnonzero(~lost)), "the living modes"),
        (modes(give=lambda lost: np.flatnonzero(lost)[::-1]), "in another order"),
        (modes(give=lambda lost: lost), "indices of the lost modes in one row"),
        (modes(give=np.argwhere), "indices of the lost modes in one row"),
        (modes(give=lambda lost: int(lost.sum())), "an array of"),
        (modes_in_place, "changes its input `samples`"),
        (lambda s, c, r: list(range(len(c))), "must be reported, and yours are"),
        (lambda s, c, r: [], "must be reported, and yours are none"),
        (whole_shares, "have [8, 1] samples of 9"),
    ],
}


class TestCheckers(CheckerTests):
    check, solutions = check, SOLUTIONS.name
    right, wrong, function_of = RIGHT, WRONG, staticmethod(function_of)
