"""Checkers and hints of lesson 03's exercises (counting, the block, causality, writing on)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aigc_utils import gpt
from aigc_utils.checks import HintTable, answered, demand, praise, show_hint, show_hints

HINTS: HintTable = {
    "count_parameters": (
        "Make a list of the matrices first, with their shapes, then the vectors (biases, norms). "
        "Section 7 of the lesson has that list for GPT-2; what does each choice of section 13 add "
        "or remove?",
        "The width of all queries together is n_heads · head_dim = d_model; that of all keys, and "
        "of all values, is kv_heads · head_dim. A gated MLP has two matrices going up.",
        "Per block: qkv is d_model × (n_heads + 2 · kv_heads) · head_dim, out is d_model², the MLP "
        "2 (or 3) · d_model · mlp_width. With bias=True each linear map has one number for each "
        "output and each of the 2 · n_layers + 1 norms 2 · d_model numbers, otherwise d_model.",
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
        "model(ids[:, -model.config.context :])[:, -1].argmax(dim=-1) is the next token of every "
        "text in the batch; append it with torch.cat along dim=1, under torch.no_grad().",
    ),
}


hint = partial(show_hint, HINTS)
hints = partial(show_hints, HINTS)


# --- 1 · count ------------------------------------------------------------------------------------

_GPT2 = gpt.GPTConfig(vocab_size=50_257, context=1_024, n_layers=12, n_heads=12, d_model=768)
_LLAMA = gpt.GPTConfig(
    vocab_size=320, context=32, n_layers=3, n_heads=6, d_model=48, d_mlp=100, **gpt.LLAMA
)


def count_parameters(function: Callable[[gpt.GPTConfig], Any]) -> None:
    """Check ``count_parameters(config)``: every parameter of `gpt.GPT(config)`, by formula."""
    c = _GPT2
    V, T, L, D = c.vocab_size, c.context, c.n_layers, c.d_model
    _same_count(
        function(c),
        "GPT-2 small",
        _count(c),
        {
            V * D: "the head is counted, but it *is* the embedding (tied=True)",
            -T * D: "the position matrix is missing",
            -L * 9 * D: "the biases of the four linear maps are missing",
            -L * 9 * D - (2 * L + 1) * D: "all biases are missing, those of the norms too",
            -(2 * L + 1) * D: "the norms have a bias as well as a weight",
            -2 * D: "the norm after the last block is missing",
            -L * 4 * D: "the two norms of each block are missing",
            -(4 * L + 2) * D: "the norms are missing",
            -(4 * L + 2) * D - L * 9 * D: "norms and biases are missing",
            -L * 4 * D**2: "the MLP is four times as wide as the model, in both matrices",
        },
    )
    untied = gpt.GPTConfig(V, T, L, c.n_heads, D, tied=False)
    _same_count(
        function(untied),
        "GPT-2 small with tied=False",
        _count(untied),
        {-V * D: "an untied head has a matrix of its own"},
    )
    narrow = gpt.GPTConfig(97, 16, 2, 2, 24, d_mlp=40)
    _same_count(
        function(narrow),
        "A GPT-2 with d_mlp=40",
        _count(narrow),
        {_count(gpt.GPTConfig(97, 16, 2, 2, 24)) - _count(narrow): "config.mlp_width is ignored"},
    )
    c = _LLAMA
    L, D, M = c.n_layers, c.d_model, c.mlp_width
    _same_count(
        function(c),
        "A small Llama",
        _count(c),
        {
            c.context * D: "rotary positions have no matrix",
            -L * D * M: "the gated MLP (swiglu) has three matrices, not two",
            c.context * D - L * D * M: "rotary positions have no matrix, and the gated MLP "
            "(swiglu) has three",
            (2 * L + 1) * D: "RMSNorm has a weight and no bias",
        },
    )
    shared = gpt.GPTConfig(
        c.vocab_size, c.context, L, 6, D, n_kv_heads=2, d_mlp=M, tied=False, **gpt.LLAMA
    )
    _same_count(
        function(shared),
        "A small Llama with 2 key/value heads for 6 query heads",
        _count(shared),
        {
            L * 2 * D * (D - D // 3): "keys and values have config.kv_heads heads, not n_heads",
            L * D * (D - D // 3): "keys *and* values have config.kv_heads heads, not n_heads",
        },
    )
    praise(f"GPT-2 small has {_count(_GPT2):,} parameters, and Llamas add up as well.")


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


def _same_count(answer: Any, model: str, right: int, known: dict[int, str]) -> None:
    answered(answer, "count_parameters")
    try:
        off = int(answer) - right
    except (TypeError, ValueError):
        demand(False, f"`count_parameters` must return one integer, not {answer!r}.")
    sentence = "too many" if off > 0 else "too few"
    why = f": {known[off]}" if off in known else ""
    demand(off == 0, f"{model}: you count {abs(off):,} parameters {sentence}{why}.")


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


def causal_block(function: Callable[..., Any]) -> None:
    """Check ``causal_block(x, w, n_heads)``: one pre-norm GPT-2 block on bare tensors."""
    D, H = 16, 4
    w = block_weights(D)
    x = torch.randn(2, 7, D, generator=torch.Generator().manual_seed(1))
    kept = x.clone()
    with torch.no_grad():
        y = function(x, w, H)
    answered(y, "causal_block")
    demand(
        isinstance(y, Tensor) and y.shape == x.shape,
        f"`causal_block` must return a tensor of shape {tuple(x.shape)}, the shape of x, not "
        f"{tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__}.",
    )
    demand(torch.equal(x, kept), "`causal_block` changes its input x: add with x + …, not +=.")
    demand(
        not y.isnan().any(),
        "The output holds NaN: every token must at least see itself, or its softmax has nothing "
        "to share out.",
    )
    right = _block(x, w, H)
    mistakes: dict[str, dict[str, Any]] = {
        "The future leaks: there is no causal mask.": {"mask": None},
        "The future leaks: every token sees one token too many; mask from the first place above "
        "the diagonal on.": {"mask": 2},
        "The mask is upside down: tokens see the future and not the past.": {"turned": True},
        "The mask comes after the softmax, so the rows no longer sum to one.": {"late": True},
        "The scores are not divided by √(D / n_heads).": {"scale": 1.0},
        "The scores are divided by √D; the width of *one head* belongs there.": {"scale": D**-0.5},
        "All heads are one: cut q, k and v into n_heads pieces.": {"heads": 1},
        "The heads come out of order: swap the axes of heads and time back before the reshape.": {
            "swapped": False
        },
        "The map `attention.out` is missing: it mixes the heads.": {"out": False},
        "The attention's output replaces x: its residual addition is missing.": {
            "residual1": False
        },
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
        "The MLP has no bend: the GELU is missing.": {"gelu": None},
        "The biases of the linear maps are missing.": {"biases": False},
    }
    if not _close(y, right):
        for sentence, mistake in mistakes.items():
            demand(not _close(y, _block(x, w, H, **mistake)), sentence)
    other = x.clone()
    other[:, -1] += 1.0
    with torch.no_grad():
        moved = (function(other, w, H) - y)[:, :-1].abs().max().item()
    demand(moved == 0, "The future leaks: changing the last token moves an earlier one.")
    worst = (y - right).abs().max().item()
    demand(
        _close(y, right),
        f"The shapes are right, nothing leaks, but numbers differ from GPT-2's block by up to "
        f"{worst:.2g}.",
    )
    for length, heads in ((1, H), (12, 2)):
        short = torch.randn(3, length, D, generator=torch.Generator().manual_seed(2))
        try:
            with torch.no_grad():
                y = function(short, w, heads)
        except RuntimeError:  # shapes that do not fit
            y = torch.empty(0)
        demand(
            _close(y, _block(short, w, heads)),
            f"Right for 7 tokens and {H} heads, but not for {length} and {heads}: take T and the "
            "number of heads from the arguments.",
        )
    praise("from bare matrices, and equal to GPT-2's block.")


def _block(
    x: Tensor,
    w: dict[str, Tensor],
    n_heads: int,
    *,
    mask: int | None = 1,
    turned: bool = False,
    late: bool = False,
    scale: float | None = None,
    heads: int | None = None,
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
        cut = linear(z, "attention.qkv").view(B, T, 3 * H, D // H).transpose(1, 2)
        q, k, v = cut.chunk(3, dim=1)
        scores = q @ k.mT * (scale or (D // H) ** -0.5)
        hidden = torch.zeros(T, T, dtype=torch.bool)
        if mask is not None:
            hidden = torch.ones(T, T, dtype=torch.bool).triu(mask)
        hidden = hidden.mT if turned else hidden
        weights = scores if late else scores.masked_fill(hidden, -math.inf)
        weights = weights.softmax(dim=-1)
        weights = weights.masked_fill(hidden, 0.0) if late else weights
        y = weights @ v
        y = (y.transpose(1, 2) if swapped else y).reshape(B, T, D)
        return linear(y, "attention.out") if out else y

    def mlp(z: Tensor) -> Tensor:
        up = linear(z, "mlp.up")
        return linear(F.gelu(up, approximate=gelu) if gelu else up, "mlp.down")

    if post:
        x = norm(x + attention(x), "norm1")
        return norm(x + mlp(x), "norm2")
    y = attention(norm(x, "norm1") if norm1 else x)
    middle = x + y if residual1 else y
    read = x if parallel else middle
    y = mlp(norm(read, "norm2") if norm2 else read)
    return middle + y if residual2 else y


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-5, atol=2e-5)


# --- 3 · leak -------------------------------------------------------------------------------------

_V = 12  # vocabulary of the suspects
_T = 6

Model = Callable[[Tensor], Tensor]


def suspects() -> dict[str, Model]:
    """Return six small models, ids (1, T) -> logits (1, T, 12), some of which see the future."""
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(_V, 8, generator=generator)
    head = torch.randn(8, _V, generator=generator) / 8
    parity = (torch.arange(_V)[:, None] // 2 % 2) * torch.randn(1, 8, generator=generator)

    def averaging(ids: Tensor, diagonal: int) -> Tensor:
        allowed = torch.ones(ids.shape[1], ids.shape[1]).tril(diagonal)
        return (allowed / allowed.sum(dim=-1, keepdim=True)) @ vectors[ids]

    def with_next(table: Tensor, size: float) -> Model:
        """Add to every position, but the last, something of its next token."""

        def model(ids: Tensor) -> Tensor:
            x = averaging(ids, 0)
            x[:, :-1] += size * table[ids[:, 1:]]
            return x @ head

        return model

    def wrapped(ids: Tensor) -> Tensor:
        # torch.roll brings the previous token to every place, and the last one to the first.
        return (averaging(ids, 0) + vectors[ids].roll(1, dims=1)) @ head

    return {
        "honest": lambda ids: averaging(ids, 0) @ head,
        "one too far": lambda ids: averaging(ids, 1) @ head,
        "whole text": lambda ids: (averaging(ids, 0) + vectors[ids].mean(1, keepdim=True)) @ head,
        "previous": wrapped,
        "whisper": with_next(vectors, 1e-4),
        "half deaf": with_next(parity.float(), 1.0),
    }


def _known_leaks(n: int) -> dict[str, set[tuple[int, int]]]:
    following = {(t, t + 1) for t in range(n - 1)}
    later = {(t, s) for t in range(n) for s in range(t + 1, n)}
    return {
        "honest": set(),
        "one too far": following,
        "whole text": later,
        "previous": {(0, n - 1)},
        "whisper": following,
        "half deaf": following,
    }


def find_leaks(function: Callable[[Model, Tensor, int], Any]) -> None:
    """Check ``find_leaks(model, ids, vocab_size)`` -> set of (t, s), s > t, where t sees s."""
    # 4 -> 5 leaves the half-deaf model unmoved: one other token for each place is not enough.
    ids = torch.tensor([[4, 0, 8, 4, 2, 0]])
    reasons = {
        "honest": "has no leak",
        "one too far": "sees one token too far: its mask is tril(1)",
        "whole text": "adds the mean of the whole text to every position",
        "previous": "uses torch.roll, which brings the *last* token to position 0",
        "whisper": "leaks very little: changes of 0.00001 count, so do not round them away",
        "half deaf": "hears only some differences of the next token: try every other token",
    }
    models, leaks = suspects(), _known_leaks(_T)
    kept = ids.clone()
    for name, model in models.items():
        found = function(model, ids, _V)
        answered(found, "find_leaks")
        demand(
            isinstance(found, set)
            and all(isinstance(pair, tuple) and len(pair) == 2 for pair in found),
            "`find_leaks` must return a set of pairs (t, s), an empty set() when nothing leaks.",
        )
        found = {(int(t), int(s)) for t, s in found}
        demand(torch.equal(ids, kept), "`find_leaks` changes the ids it was given: clone them.")
        demand(
            not any(s == t for t, s in found),
            "A token may change its own row: only pairs with s > t are leaks.",
        )
        if name != "honest":
            demand(
                not found or found != {(s, t) for t, s in leaks[name]},
                "The pairs are turned round: (t, s) means that row t sees the later token s.",
            )
        demand(
            not any(s < t for t, s in found),
            "The past may change a row: only pairs with s > t are leaks.",
        )
        missed, invented = leaks[name] - found, found - leaks[name]
        demand(
            not invented,
            f"False alarm: the model “{name}” {reasons[name]}, and you report {_sample(invented)}.",
        )
        demand(
            not missed,
            f"A leak stays hidden: the model “{name}” {reasons[name]}, and you miss "
            f"{_sample(missed)}.",
        )
    generator = torch.Generator().manual_seed(6)
    longer = torch.randint(_V, (1, 9), generator=generator)
    torch_state = torch.get_rng_state()
    torch.manual_seed(7)
    honest = gpt.GPT(gpt.GPTConfig(_V, context=9, n_layers=2, n_heads=2, d_model=16)).eval()
    torch.set_rng_state(torch_state)
    demand(
        function(honest, longer, _V) == set(),
        "False alarm: a real GPT with 9 tokens has no leak; call it with the same shape (1, T) "
        "each time, for other batches round differently.",
    )
    demand(
        function(models["whole text"], longer, _V) == _known_leaks(9)["whole text"],
        "Right for 6 tokens, but not for 9: take the length from ids.",
    )
    praise("all five leaks found, to the pair, and no false alarm.")


def _sample(pairs: set[tuple[int, int]]) -> str:
    shown = ", ".join(str(pair) for pair in sorted(pairs)[:3])
    return shown + (" …" if len(pairs) > 3 else "")


# --- 4 · generate ---------------------------------------------------------------------------------


def generate(function: Callable[..., Any]) -> None:
    """Check ``generate(model, ids, n)``: n greedy tokens after ids, however long the text grows."""
    config = gpt.GPTConfig(vocab_size=40, context=8, n_layers=1, n_heads=2, d_model=16)
    state = torch.get_rng_state()
    torch.manual_seed(11)
    model = gpt.GPT(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.7)  # large weights: the best token changes from step to step
    torch.set_rng_state(state)
    prompt = torch.tensor([[3, 14, 15], [9, 26, 5]])
    kept, graded = prompt.clone(), []
    hook = model.register_forward_hook(lambda *_: graded.append(torch.is_grad_enabled()))
    short = _tokens(function(model, prompt, 4), 2, 7, 4)
    right = _greedy(model, prompt, 4)
    demand(torch.equal(prompt, kept), "`generate` changes the prompt: build a new tensor instead.")
    demand(
        torch.equal(short[:, :3], prompt),
        "The answer must begin with the prompt, and yours does not.",
    )
    demand(
        not torch.equal(short, _greedy(model, prompt, 4, row=0)),
        "The next token is read from the *first* row of logits; the last row scores it.",
    )
    demand(
        not torch.equal(short, _greedy(model, prompt, 4, frozen=True)),
        "Every step must run the model on the text as it has grown; yours asks only once.",
    )
    demand(
        torch.equal(short, right),
        "Below the context's length already, the tokens are not the best-scored ones.",
    )
    try:
        long = function(model, prompt, 20)
    except ValueError as error:
        demand(
            "context" not in str(error),
            "The text has outgrown the context and the model refuses it: feed it only the last "
            "`context` tokens.",
        )
        raise
    long = _tokens(long, 2, 23, 20)
    demand(
        torch.equal(long[:, :3], prompt),
        "Once the text outgrows the context, its beginning gets lost: cut what the model reads, "
        "not what you return.",
    )
    demand(
        not torch.equal(long, _greedy(model, prompt, 20, first=True)),
        "Beyond the context the model reads the *first* tokens of the text: give it the last.",
    )
    demand(
        not torch.equal(long, _greedy(model, prompt, 20, window=7)),
        "The model reads 7 tokens where its context holds 8: cut to exactly `context`.",
    )
    demand(torch.equal(long, _greedy(model, prompt, 20)), "Beyond the context the tokens differ.")
    empty = _tokens(function(model, prompt, 0), 2, 3, 0)
    demand(torch.equal(empty, prompt), "With n = 0 the prompt must come back unchanged.")
    demand(
        not any(graded),
        "Gradients are recorded while writing, and nobody needs them: use torch.no_grad().",
    )
    hook.remove()
    praise("20 tokens from a context of 8, each the best one.")


def _tokens(answer: Any, batch: int, length: int, n: int) -> Tensor:
    answered(answer, "generate")
    demand(isinstance(answer, Tensor), f"`generate` must return a tensor, not {answer!r}.")
    shape = tuple(answer.shape)
    demand(
        n == 0 or shape != (batch, n),
        "Only the new tokens come back: return the prompt with the new tokens after it.",
    )
    demand(
        shape == (batch, length),
        f"A prompt of shape ({batch}, {length - n}) and {n} new tokens make ({batch}, {length}), "
        f"and yours has shape {shape}.",
    )
    return answer


@torch.no_grad()
def _greedy(
    model: gpt.GPT,
    ids: Tensor,
    n: int,
    *,
    row: int = -1,
    window: int | None = None,
    first: bool = False,
    frozen: bool = False,
) -> Tensor:
    """Write on greedily; the options are the mistakes to recognise."""
    window = window or model.config.context
    prompt = ids
    for _ in range(n):
        read = prompt if frozen else ids
        read = read[:, :window] if first else read[:, -window:]
        ids = torch.cat((ids, model(read)[:, row].argmax(dim=-1, keepdim=True)), dim=1)
    return ids
