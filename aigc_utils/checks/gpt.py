"""Checkers and hints of lesson 03's exercises (counting, the block, causality, writing on)."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aigc_utils import gpt
from aigc_utils.checks import (
    Answer,
    CheckFailed,
    HintTable,
    Slips,
    demand,
    exercise,
    read_array,
    read_whole,
    show_hint,
    show_hints,
)
from aigc_utils.checks.reading import seen as describe

HINTS: HintTable = {
    "count_parameters": (
        "Make a list of the matrices first, with their shapes, then the vectors (biases, norms). "
        "Section 7 of the lesson has that list for GPT-2; what does each choice of section 13 add "
        "or remove?",
        "The width of all queries together is n_heads · head_dim = d_model; that of all keys, and "
        "of all values, is kv_heads · head_dim. A gated MLP has two matrices going up.",
        "Per block: qkv is d_model × (n_heads + 2 · kv_heads) · head_dim; out and the MLP stand in "
        "section 7. With bias=True each linear map has one number more for each of its *outputs*: "
        "how many outputs does a gated MLP have on its way up?",
    ),
    "causal_block": (
        "Write down the two lines of `Block.forward` first, then replace each module by what it "
        "does. How many residual additions are there, and what does each part read?",
        "F.layer_norm(x, (D,), weight, bias) and F.linear(x, weight, bias) take bare tensors. The "
        "rows of attention.qkv are all queries, then all keys, then all values.",
        "qkv.view(B, T, 3 * n_heads, D // n_heads).transpose(1, 2).chunk(3, dim=1); the scores are "
        "divided by √(D / n_heads) and get -inf above the diagonal *before* the softmax; the GELU "
        "takes approximate='tanh'.",
    ),
    "find_leaks": (
        "`change_matrix` in the lesson changes each token to one other token. Which model could "
        "such a test miss?",
        "A leak may tell only some tokens apart, so try every other token; it may be tiny, so do "
        "not round; and it may reach from the last token to the first, so look at all rows.",
        "Two loops, over s and over the tokens that are not ids[0, s]; run each time with the same "
        "shape (1, T), so that rows which do not depend on token s stay equal to the last bit.",
    ),
    "generate": (
        "Begin with `extend` of the lesson. At which length does it stop, and what does the "
        "error say?",
        "The model needs only the last `context` tokens, but you must keep all of them.",
        "model(…)[:, -1] scores what follows each text of the batch, and argmax(dim=-1, "
        "keepdim=True) has the shape that torch.cat along dim=1 takes. Which slice of ids is read? "
        "torch.no_grad() switches gradients off.",
    ),
}


hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


# --- 1 · count ------------------------------------------------------------------------------------

_GPT2 = gpt.GPTConfig(vocab_size=50_257, context=1_024, n_layers=12, n_heads=12, d_model=768)
_SMALL = gpt.GPTConfig(vocab_size=97, context=17, n_layers=2, n_heads=2, d_model=28, d_mlp=41)
_LLAMA = gpt.GPTConfig(320, context=31, n_layers=3, n_heads=6, d_model=48, d_mlp=101, **gpt.LLAMA)
_MODELS = {
    "GPT-2 small": _GPT2,
    "GPT-2 small with tied=False": replace(_GPT2, tied=False),
    "A GPT-2 with d_mlp=41": _SMALL,
    "A small Llama": _LLAMA,
    "A small Llama with 2 key/value heads for 6 query heads and an untied head": replace(
        _LLAMA, n_kv_heads=2, tied=False
    ),
    "A GPT-2 without biases": replace(_SMALL, bias=False),
    "A GPT-2 with rotary positions": replace(_SMALL, positions="rotary"),
    "A GPT-2 with RMSNorm": replace(_SMALL, norm="rms"),
    "A GPT-2 with a gated MLP and biases": replace(_SMALL, mlp="swiglu"),
    "A GPT-2 with the exact GELU and one key/value head": replace(_SMALL, mlp="gelu", n_kv_heads=1),
    "A Llama with learned positions": replace(_LLAMA, positions="learned"),
    "A Llama with LayerNorm": replace(_LLAMA, norm="layer", n_kv_heads=3),
}


@exercise("03")
def count_parameters(answer: Answer) -> str:
    """Check ``count_parameters(config)``: every parameter of `gpt.GPT(config)`, by formula."""
    for model, config in _MODELS.items():
        off = read_whole(answer(config), "count_parameters") - _count(config)
        if off:
            reasons = [*_errors(config).items(), *_pairs(_errors(config))]
            why = next((f": {why}" for why, error in reasons if error == off), "")
            much = "many" if off > 0 else "few"
            raise CheckFailed(f"{model}: you count {abs(off):,} parameters too {much}{why}.")
    return f"GPT-2 small has {_count(_GPT2):,} parameters, and Llamas add up as well."


def _errors(config: gpt.GPTConfig) -> dict[str, int]:
    """What each usual mistake adds to the count of this configuration, where it changes it."""
    c, L, D, M = config, config.n_layers, config.d_model, config.mlp_width
    gated, affine = c.mlp == "swiglu", c.bias and c.norm == "layer"
    width = c.kv_heads * c.head_dim
    linear = D + 2 * width + D + M * (2 if gated else 1) + D  # outputs of a block's linear maps
    norm = 2 * D if affine else D
    errors = {
        "the head is counted, but it *is* the embedding (tied=True)": c.vocab_size * D * c.tied,
        "an untied head has a matrix of its own": -c.vocab_size * D * (not c.tied),
        "the position matrix is missing": -c.context * D * (c.positions == "learned"),
        "rotary positions have no matrix": c.context * D * (c.positions == "rotary"),
        "the biases of the linear maps are missing": -L * linear * c.bias,
        "with bias=False the linear maps have none": L * linear * (not c.bias),
        "all biases are missing, those of the norms too": -(L * linear + (2 * L + 1) * D) * affine,
        "the norms have a bias as well as a weight": -(2 * L + 1) * D * affine,
        "with bias=False the norms have none": (2 * L + 1) * D * (not c.bias),
        "RMSNorm has a weight and no bias": (2 * L + 1) * D * (c.norm == "rms"),
        "the norm after the last block is missing": -norm,
        "the two norms of each block are missing": -2 * L * norm,
        "one norm of each block is missing": -L * norm,
        "the norms are missing": -(2 * L + 1) * norm,
        "config.mlp_width is ignored": L * (4 * D - M) * (2 * D + (c.bias)),
        "the gated MLP (swiglu) has three matrices, not two": -L * D * M * gated,
        "only swiglu has three matrices in the MLP": L * D * M * (not gated),
        "the gate has biases, too": -L * M * (gated and c.bias),
        "keys and values have config.kv_heads heads, not n_heads": (
            L * 2 * (D - width) * (D + c.bias)
        ),
        "keys *and* values have config.kv_heads heads": L * (D - width) * (D + c.bias),
        "the biases of keys and values have the width of config.kv_heads heads": (
            L * 2 * (D - width) * c.bias
        ),
        "attention.out is missing": -L * D * D,
    }
    return {why: error for why, error in errors.items() if error}


def _pairs(errors: dict[str, int]) -> Iterator[tuple[str, int]]:
    for (a, x), (b, y) in combinations(errors.items(), 2):
        yield f"{a}, and {b}", x + y


def _count(config: gpt.GPTConfig) -> int:
    """Count the parameters of a GPT without `qk_norm`, by the formulas of sections 7 and 13."""
    c, D = config, config.d_model
    qkv = (c.n_heads + 2 * c.kv_heads) * c.head_dim
    up = c.mlp_width * (2 if c.mlp == "swiglu" else 1)
    matrices = D * qkv + D * D + D * up + c.mlp_width * D
    biases = (qkv + D + up + D) if c.bias else 0
    norm = 2 * D if c.bias and c.norm == "layer" else D
    positions = c.context * D if c.positions == "learned" else 0
    embeddings = c.vocab_size * D * (1 if c.tied else 2)
    return embeddings + positions + c.n_layers * (matrices + biases + 2 * norm) + norm


# --- 2 · block ------------------------------------------------------------------------------------


def block_weights(d_model: int, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights of one GPT-2 block under the names that `gpt.Block` gives them."""
    generator = torch.Generator().manual_seed(seed)
    D = d_model
    shapes = {
        "norm1.weight": (D,),
        "norm1.bias": (D,),
        "attention.qkv.weight": (3 * D, D),
        "attention.qkv.bias": (3 * D,),
        "attention.out.weight": (D, D),
        "attention.out.bias": (D,),
        "norm2.weight": (D,),
        "norm2.bias": (D,),
        "mlp.up.weight": (4 * D, D),
        "mlp.up.bias": (4 * D,),
        "mlp.down.weight": (D, 4 * D),
        "mlp.down.bias": (D,),
    }
    return {
        name: torch.randn(shape, generator=generator) * 1.5 / math.sqrt(shape[-1])
        for name, shape in shapes.items()
    }


@exercise("03")
def causal_block(answer: Answer) -> str:
    """Check ``causal_block(x, w, n_heads)``: one pre-norm GPT-2 block on bare tensors."""
    cases: list[tuple[Tensor, dict[str, Tensor], int]] = []
    for seed, (B, T, D, H) in enumerate(
        ((2, 7, 24, 3), (3, 1, 16, 2), (1, 12, 20, 5), (2, 5, 6, 6))
    ):
        x = torch.randn(B, T, D, generator=torch.Generator().manual_seed(seed))
        cases.append((x, block_weights(D, seed), H))
    for args in cases:
        y = read_array(answer(*args), "causal_block", tuple(args[0].shape))
        demand(
            not np.isnan(y).any(),
            f"{answer.case(*args)} holds NaN: every token must at least see itself, or its softmax "
            "has nothing to share out.",
        )
    answer.compare(cases, _block, _BLOCK_SLIPS)
    x, w, H = cases[0]
    other = x.clone()
    other[:, -1] += 1.0
    here, there = (read_array(answer(z, w, H), "causal_block") for z in (x, other))
    demand(
        np.array_equal(here[:, :-1], there[:, :-1]),
        "The future leaks, a little: changing the last token moves an earlier one.",
    )
    return "from bare matrices, and equal to GPT-2's block."


def _block(
    x: Tensor,
    w: dict[str, Tensor],
    n_heads: int,
    *,
    mask: int | None = 1,
    turned: bool = False,
    late: bool = False,
    scale: float = -0.5,
    of_model: bool = False,
    heads: int | None = None,
    order: Sequence[int] = (0, 1, 2),
    interleaved: bool = False,
    axis: int = -1,
    swapped: bool = True,
    out: bool = True,
    residual1: bool = True,
    residual2: bool = True,
    norm1: bool = True,
    norm2: bool = True,
    affine: bool = True,
    post: bool = False,
    parallel: bool = False,
    gelu: str | None = "tanh",
    biases: bool = True,
) -> Tensor:
    """Compute GPT-2's block, or with an option the block with one mistake, to recognise it by."""
    B, T, D = x.shape
    H = heads or n_heads

    def linear(z: Tensor, name: str) -> Tensor:
        return F.linear(z, w[f"{name}.weight"], w[f"{name}.bias"] if biases else None)

    def norm(z: Tensor, name: str) -> Tensor:
        weight, bias = (w[f"{name}.weight"], w[f"{name}.bias"]) if affine else (None, None)
        return F.layer_norm(z, (D,), weight, bias)

    def attention(z: Tensor) -> Tensor:
        shape = (B, T, H, 3, D // H) if interleaved else (B, T, 3, H, D // H)
        parts = linear(z, "attention.qkv").view(shape).unbind(3 if interleaved else 2)
        q, k, v = (parts[i].transpose(1, 2) for i in order)
        scores = q @ k.mT * (D if of_model else D // H) ** scale
        hidden = torch.zeros(T, T, dtype=torch.bool)
        if mask is not None:
            hidden = torch.ones(T, T, dtype=torch.bool).triu(mask)
        hidden = hidden.mT if turned else hidden
        weights = scores if late else scores.masked_fill(hidden, -math.inf)
        weights = weights.softmax(dim=axis)
        weights = weights.masked_fill(hidden, 0.0) if late else weights
        y = weights @ v
        y = (y.transpose(1, 2) if swapped else y).reshape(B, T, D)
        return linear(y, "attention.out") if out else y

    def mlp(z: Tensor) -> Tensor:
        up = linear(z, "mlp.up")
        if gelu in ("tanh", "none"):
            up = F.gelu(up, approximate=gelu)
        return linear(up.relu() if gelu == "relu" else up, "mlp.down")

    if post:
        x = norm(x + attention(x), "norm1")
        return norm(x + mlp(x), "norm2")
    y = attention(norm(x, "norm1") if norm1 else x)
    middle = x + y if residual1 else y
    read = x if parallel else middle
    y = mlp(norm(read, "norm2") if norm2 else read)
    return middle + y if residual2 else y


_BLOCK_MISTAKES: dict[str, dict[str, Any]] = {
    "The future leaks: there is no causal mask.": {"mask": None},
    "The future leaks: every token sees one token too many; mask from the first place above the "
    "diagonal on.": {"mask": 2},
    "The mask is upside down: tokens see the future and not the past.": {"turned": True},
    "The mask comes after the softmax, so the rows no longer sum to one.": {"late": True},
    "The softmax runs over the queries: each query must share itself out among the keys.": {
        "axis": -2
    },
    "The scores are not divided by √(D / n_heads).": {"scale": 0.0},
    "The scores are divided by D / n_heads, and not by its root.": {"scale": -1.0},
    "The scores are divided by √D; the width of *one head* belongs there.": {"of_model": True},
    "All heads are one: cut q, k and v into n_heads pieces.": {"heads": 1},
    "Queries and keys have changed places: the first third of qkv are the queries.": {
        "order": (1, 0, 2)
    },
    "Keys and values have changed places: qkv holds queries, keys, values.": {"order": (0, 2, 1)},
    "Queries and values have changed places: qkv holds queries, keys, values.": {
        "order": (2, 1, 0)
    },
    "You cut qkv head by head; its rows are all queries, then all keys, then all values.": {
        "interleaved": True
    },
    "The heads come out of order: swap the axes of heads and time back before the reshape.": {
        "swapped": False
    },
    "The map `attention.out` is missing: it mixes the heads.": {"out": False},
    "The attention's output replaces x: its residual addition is missing.": {"residual1": False},
    "The MLP's output replaces x: its residual addition is missing.": {"residual2": False},
    "Neither part adds to x: the residual stream is missing.": {
        "residual1": False,
        "residual2": False,
    },
    "Attention reads x itself: `norm1` is missing.": {"norm1": False},
    "The MLP reads x itself: `norm2` is missing.": {"norm2": False},
    "Neither part reads a normalised copy: both norms are missing.": {
        "norm1": False,
        "norm2": False,
    },
    "The norms lack their learned weight and bias.": {"affine": False},
    "This is the post-norm block of 2017: GPT-2 normalises what a part *reads*, not the sum.": {
        "post": True
    },
    "MLP and attention read the same x: the MLP must read what attention has written.": {
        "parallel": True
    },
    "The GELU is the exact one; GPT-2 has approximate='tanh'.": {"gelu": "none"},
    "The MLP bends with a ReLU; GPT-2 has a GELU.": {"gelu": "relu"},
    "The MLP has no bend: the GELU is missing.": {"gelu": None},
    "The biases of the linear maps are missing.": {"biases": False},
}
_BLOCK_SLIPS: Slips = [
    (partial(_block, **mistake), sentence) for sentence, mistake in _BLOCK_MISTAKES.items()
]


# --- 3 · leak -------------------------------------------------------------------------------------

Model = Callable[[Tensor], Tensor]
Leaks = set[tuple[int, int]]


def suspects() -> dict[str, Model]:
    """Return six small models, ids (1, T) -> logits (1, T, 12), some of which see the future."""
    models = _suspects(12, seed=5)
    return {name: models[name] for name in list(models)[:6]}


def _suspects(vocab_size: int, seed: int) -> dict[str, Model]:
    """Return models with and without leaks; the first six are those that the learner sees."""
    V = vocab_size
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(V, 8, generator=generator)
    head = torch.randn(8, V, generator=generator) / 8
    parity = (torch.arange(V)[:, None] // 2 % 2) * torch.randn(1, 8, generator=generator)

    def averaging(ids: Tensor, diagonal: int) -> Tensor:
        allowed = torch.ones(ids.shape[1], ids.shape[1]).tril(diagonal)
        return (allowed / allowed.sum(dim=-1, keepdim=True)) @ vectors[ids]

    def ahead(table: Tensor, size: float, distance: int = 1) -> Model:
        """Add to every position something of the token that stands ``distance`` behind it."""

        def model(ids: Tensor) -> Tensor:
            x = averaging(ids, 0)
            x[:, :-distance] += size * table[ids[:, distance:]]
            return x @ head

        return model

    def wrapped(ids: Tensor) -> Tensor:
        # torch.roll brings the previous token to every place, and the last one to the first.
        return (averaging(ids, 0) + vectors[ids].roll(1, dims=1)) @ head

    def only(token: int) -> Tensor:
        return torch.zeros(V, 8).index_fill(0, torch.tensor([token]), 1.0)

    return {
        "honest": lambda ids: averaging(ids, 0) @ head,
        "one too far": lambda ids: averaging(ids, 1) @ head,
        "whole text": lambda ids: (averaging(ids, 0) + vectors[ids].mean(1, keepdim=True)) @ head,
        "previous": wrapped,
        "whisper": ahead(vectors, 1e-4),
        "half deaf": ahead(parity.float(), 1.0),
        "first": ahead(only(0), 1.0),
        "last": ahead(only(V - 1), 1.0),
        "middle": ahead(only(V // 2), 1.0),
        "far": ahead(vectors, 1.0, distance=3),
    }


_REASONS = {
    "honest": "has no leak",
    "one too far": "sees one token too far: its mask is tril(1)",
    "whole text": "adds the mean of the whole text to every position",
    "previous": "uses torch.roll, which brings the *last* token to position 0",
    "whisper": "leaks very little: changes of 0.00001 count, so do not round them away",
    "half deaf": "hears only some differences of the next token: try every other token",
    "first": "hears only whether the next token is 0: try every other token, 0 among them",
    "last": "hears only whether the next token is the last of the vocabulary: try every other "
    "token, vocab_size - 1 among them",
    "middle": "hears only whether the next token is one in the middle of the vocabulary: try every "
    "other token",
    "far": "sees the token three places on: look at all rows before s, not just the one before",
}


def _known_leaks(name: str, n: int) -> Leaks:
    pairs = {(t, s) for t in range(n) for s in range(t + 1, n)}
    if name == "honest":
        return set()
    if name == "whole text":
        return pairs
    if name == "previous":
        return {(0, n - 1)}
    return {(t, s) for t, s in pairs if s - t == (3 if name == "far" else 1)}


@exercise("03", seconds=30)
def find_leaks(answer: Answer) -> str:
    """Check ``find_leaks(model, ids, vocab_size)`` -> set of (t, s), s > t, where t sees s."""
    # 4 -> 5 leaves the half-deaf model unmoved: one other token for each place is not enough.
    seen = torch.tensor([[4, 0, 8, 4, 2, 0]])
    _check_leaks(answer, _suspects(12, seed=5), seen, 12)
    rng = torch.Generator().manual_seed(6)
    for vocab_size, length in ((7, 5), (19, 7)):
        # Neither end of the vocabulary stands in the text, so that only trying them tells.
        ids = torch.randint(1, vocab_size - 1, (1, length), generator=rng)
        models = _suspects(vocab_size, seed=vocab_size)
        if vocab_size < 12:
            del models["half deaf"]  # so few tokens may all sound alike to it
        _check_leaks(answer, models, ids, vocab_size)
    honest = _model(gpt.GPTConfig(11, context=7, n_layers=2, n_heads=2, d_model=16), seed=7)
    ids = torch.randint(11, (1, 7), generator=rng)
    demand(
        not _pairs_found(answer(honest, ids, 11)),
        "False alarm: a real GPT with 7 tokens has no leak; call it with the same shape (1, T) "
        "each time, for other batches round differently.",
    )
    return "every leak found, to the pair, and no false alarm."


def _check_leaks(answer: Answer, models: dict[str, Model], ids: Tensor, vocab_size: int) -> None:
    n = ids.shape[1]
    for name, model in models.items():
        found, right = _pairs_found(answer(model, ids, vocab_size)), _known_leaks(name, n)
        case = f"the model “{name}” (ids {ids.tolist()[0]}, vocabulary of {vocab_size})"
        demand(
            not any(s == t for t, s in found),
            "A token may change its own row: only pairs with s > t are leaks.",
        )
        demand(
            not found or found != {(s, t) for t, s in right},
            "The pairs are turned round: (t, s) means that row t sees the later token s.",
        )
        demand(
            not any(s < t for t, s in found),
            "The past may change a row: only pairs with s > t are leaks.",
        )
        for sentence, pairs in (
            ("False alarm", found - right),
            ("A leak stays hidden", right - found),
        ):
            verb = "report" if pairs <= found else "miss"
            demand(
                not pairs,
                f"{sentence}: {case} {_REASONS[name]}, and you {verb} {_sample(pairs)}.",
            )


def _pairs_found(found: Any) -> Leaks:
    try:
        return {(int(t), int(s)) for t, s in found}
    except (TypeError, ValueError):
        raise CheckFailed(
            "`find_leaks` must return a set of pairs (t, s), an empty set() when nothing leaks, "
            f"and yours is {describe(found)}."
        ) from None


def _sample(pairs: Leaks) -> str:
    shown = ", ".join(str(pair) for pair in sorted(pairs)[:3])
    return shown + (" …" if len(pairs) > 3 else "")


# --- 4 · generate ---------------------------------------------------------------------------------


def _model(config: gpt.GPTConfig, seed: int, std: float | None = None) -> gpt.GPT:
    torch.manual_seed(seed)  # the exercise puts the learner's generator back
    model = gpt.GPT(config).eval()
    if std:
        with torch.no_grad():
            for weight in model.parameters():
                weight.normal_(std=std)
    return model


@exercise("03")
def generate(answer: Answer) -> str:
    """Check ``generate(model, ids, n)``: n greedy tokens after ids, however long the text grows."""
    # Large weights: the best token changes from step to step.
    eight = _model(gpt.GPTConfig(40, context=8, n_layers=1, n_heads=2, d_model=16), 11, std=0.7)
    five = _model(gpt.GPTConfig(23, context=5, n_layers=2, n_heads=3, d_model=12), 12, std=0.7)
    graded: list[bool] = []
    for model in (eight, five):
        model.register_forward_hook(lambda *_: graded.append(torch.is_grad_enabled()))
    two, one = torch.tensor([[3, 14, 15], [9, 26, 5]]), torch.tensor([[7]])
    three = torch.arange(33).view(3, 11) * 5 % 23
    cases = [(eight, two, 4), (five, one, 3), (eight, two, 20), (five, one, 13), (five, three, 6)]
    for model, ids, n in [*cases, (eight, two, 0), (five, three, 0), (eight, one, 1)]:
        batch, length = ids.shape
        written = read_array(answer(model, ids, n), "generate")
        demand(
            n == 0 or written.shape != (batch, n),
            "Only the new tokens come back: return the prompt with the new tokens after it.",
        )
        demand(
            written.shape == (batch, length + n),
            f"A prompt of shape {(batch, length)} and {n} new tokens make {(batch, length + n)}, "
            f"and yours has shape {written.shape}.",
        )
        demand(
            np.array_equal(written[:, :length], ids),
            f"The answer must begin with the prompt, and yours does not: with a context of "
            f"{model.config.context} and {n} new tokens its beginning is lost or changed.",
        )
    demand(
        not any(graded),
        "Gradients are recorded while writing, and nobody needs them: use torch.no_grad().",
    )
    answer.compare(cases, _greedy, _GREEDY_SLIPS)
    return "20 tokens from a context of 8, each the best one."


@torch.no_grad()
def _greedy(
    model: gpt.GPT,
    ids: Tensor,
    n: int,
    *,
    row: int = -1,
    window: int | None = None,
    shorter: int = 0,
    least: bool = False,
    first: bool = False,
    frozen: bool = False,
) -> Tensor:
    """Write on greedily; the options are the mistakes to recognise."""
    window = (window or model.config.context) - shorter
    prompt = ids
    for _ in range(n):
        read = prompt if frozen else ids
        read = read[:, :window] if first else read[:, -window:]
        logits = model(read)[:, row] * (-1 if least else 1)
        ids = torch.cat((ids, logits.argmax(dim=-1, keepdim=True)), dim=1)
    return ids


_GREEDY_SLIPS: Slips = [
    (
        partial(_greedy, row=0),
        "The next token is read from the *first* row of logits; the last row scores it.",
    ),
    (
        partial(_greedy, frozen=True),
        "Every step must run the model on the text as it has grown; yours asks only once.",
    ),
    (
        partial(_greedy, first=True),
        "Beyond the context the model reads the *first* tokens of the text: give it the last.",
    ),
    (
        partial(_greedy, shorter=1),
        "The model reads one token less than its context holds: cut to exactly `context`.",
    ),
    (
        partial(_greedy, window=8),
        "The model reads 8 tokens, whatever its context is: take model.config.context.",
    ),
    (
        partial(_greedy, window=5),
        "The model reads 5 tokens, whatever its context is: take model.config.context.",
    ),
    (partial(_greedy, window=1), "The model reads the last token only, and forgets the text."),
    (partial(_greedy, least=True), "The *worst* token is appended: argmin for argmax?"),
]
