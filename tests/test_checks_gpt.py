"""Lesson 03: right answers of every style pass, wrong ones get the sentence that fits."""

import functools
import math
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import torch
import torch.nn.functional as F
from graded import CheckerTests, run_answer
from transformers import GPT2Config, GPT2LMHeadModel

from aigc_utils import gpt
from aigc_utils.checks import gpt as check

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "03_gpt.ipynb"


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    suspects, ids = check.suspects(), torch.tensor([[4, 0, 8, 4, 2, 0]])
    space = {"math": math, "torch": torch, "F": F, "gpt": gpt, "suspects": suspects, "ids": ids}
    space |= {"GPT2Config": GPT2Config, "GPT2LMHeadModel": GPT2LMHeadModel}
    return run_answer(notebook, name, space)


@functools.cache
def solution(name: str):
    return function_of(nbformat.read(SOLUTIONS, as_version=4), name)


def count(**changed):
    """The right count of a configuration in which something is overlooked."""

    def count_parameters(config):
        applicable = {name: value(config) for name, value in changed.items()}
        return solution("count_parameters")(replace(config, **applicable))

    return count_parameters


def count_without_positions(config):
    learned = config.positions == "learned"
    return solution("count_parameters")(config) - learned * config.context * config.d_model


def count_off_by_one(config):
    return solution("count_parameters")(config) + 1


def count_weights_only(config):
    c = config
    up = c.mlp_width * (2 if c.mlp == "swiglu" else 1)
    outputs = 2 * c.d_model + c.d_model + 2 * c.kv_heads * c.head_dim + up
    biases = outputs * c.n_layers if c.bias else 0
    return solution("count_parameters")(config) - biases


def count_without_last_norm(config):
    return solution("count_parameters")(config) - config.d_model * (2 if config.bias else 1)


def count_two_matrices(config):
    gate = config.n_layers * config.d_model * config.mlp_width if config.mlp == "swiglu" else 0
    return solution("count_parameters")(config) - gate


def count_by_building(config):
    with torch.device("meta"):
        return sum(weight.numel() for weight in gpt.GPT(config).parameters())


def count_float(config):
    return np.float64(solution("count_parameters")(config))


def count_by_list(config):
    c, D = config, config.d_model
    maps = [(D, D + 2 * c.kv_heads * c.head_dim), (D, D), (D, c.mlp_width), (c.mlp_width, D)]
    maps += [(D, c.mlp_width)] * (c.mlp == "swiglu")
    total = 0
    for _ in range(c.n_layers):
        for into, out in maps:
            total += into * out + c.bias * out
    norms = 2 * c.n_layers + 1
    total += norms * D * (2 if c.bias and c.norm == "layer" else 1)
    total += c.vocab_size * D * (2 - c.tied)
    return torch.tensor(total + (c.context * D if c.positions == "learned" else 0))


def count_by_family(config):
    """GPT-2s and Llamas are right, mixtures are not."""
    c, right = config, solution("count_parameters")
    if c.positions == "rotary":
        return right(replace(c, **gpt.LLAMA))
    return right(replace(c, norm="layer", mlp="gelu", bias=True))


def count_rms_with_bias(config):
    return solution("count_parameters")(replace(config, norm="layer"))


def count_gate_without_biases(config):
    gate = config.n_layers * config.mlp_width * (config.mlp == "swiglu" and config.bias)
    return solution("count_parameters")(config) - gate


def count_head_and_positions(config):
    extra = config.vocab_size * config.d_model * config.tied
    return count_without_positions(config) + extra


def count_rounded(config):
    return solution("count_parameters")(config) / 1e6


def count_with_positions(config):
    return solution("count_parameters")(replace(config, positions="learned"))


def block(**mistake):
    return lambda x, w, n_heads: check._block(x, w, n_heads, **mistake)


def block_in_place(x, w, n_heads):
    y = check._block(x, w, n_heads)
    x += 1.0
    return y


def block_blind_to_itself(x, w, n_heads):
    return check._block(x, w, n_heads, mask=0)


def block_double(x, w, n_heads):
    return check._block(x.double(), {name: part.double() for name, part in w.items()}, n_heads)


def block_from_the_package(x, w, n_heads):
    T, D = x.shape[1:]
    block = gpt.Block(gpt.GPTConfig(2, context=T, n_layers=1, n_heads=n_heads, d_model=D))
    block.load_state_dict(w)
    return block(x, None, torch.full((T, T), -math.inf).triu(1), None, 0).tolist()


def block_head_by_head(x, w, n_heads):
    D = x.shape[-1]
    d, rows = D // n_heads, []
    for stream in x:
        read = F.layer_norm(stream, (D,), w["norm1.weight"], w["norm1.bias"])
        q, k, v = (read @ w["attention.qkv.weight"].T + w["attention.qkv.bias"]).split(D, dim=-1)
        mixed = torch.zeros_like(q)
        for h in range(n_heads):
            part = slice(h * d, (h + 1) * d)
            for t in range(len(stream)):
                scores = k[: t + 1, part] @ q[t, part] / d**0.5
                mixed[t, part] = scores.softmax(0) @ v[: t + 1, part]
        stream = stream + mixed @ w["attention.out.weight"].T + w["attention.out.bias"]
        read = F.layer_norm(stream, (D,), w["norm2.weight"], w["norm2.bias"])
        up = read @ w["mlp.up.weight"].T + w["mlp.up.bias"]
        up = 0.5 * up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        rows.append(stream + up @ w["mlp.down.weight"].T + w["mlp.down.bias"])
    return torch.stack(rows)


def block_sdpa(x, w, n_heads):
    D = x.shape[-1]
    read = F.layer_norm(x, (D,), w["norm1.weight"], w["norm1.bias"])
    qkv = F.linear(read, w["attention.qkv.weight"], w["attention.qkv.bias"]).chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (n_heads, -1)).transpose(1, 2) for part in qkv)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    x = x + F.linear(y, w["attention.out.weight"], w["attention.out.bias"])
    read = F.layer_norm(x, (D,), w["norm2.weight"], w["norm2.bias"])
    up = F.gelu(F.linear(read, w["mlp.up.weight"], w["mlp.up.bias"]), approximate="tanh")
    return (x + F.linear(up, w["mlp.down.weight"], w["mlp.down.bias"])).numpy()


def block_weights_scaled(x, w, n_heads):
    w["attention.qkv.weight"] *= 0.5
    return check._block(x, w, n_heads)


def block_of_seven(x, w, n_heads):
    return check._block(torch.cat((x, x), 1)[:, :7], w, 4)[:, : x.shape[1]]


def block_of_just_seven(x, w, n_heads):
    return check._block(x.view(-1, 7, 16), w, 4)


def block_leaking_late(x, w, n_heads):
    return check._block(x, w, n_heads) + 1e-7 * x.mean(dim=1, keepdim=True)


def leaks_by_one_neighbour(model, ids, vocab_size, tolerance=0.0):
    before, leaks = model(ids), set()
    for s in range(ids.shape[1]):
        other = ids.clone()
        other[0, s] = (other[0, s] + 1) % vocab_size
        moved = (model(other) - before)[0].abs().amax(dim=-1) > tolerance
        leaks |= {(t, s) for t in range(s) if moved[t]}
    return leaks


def leaks_rounded(model, ids, vocab_size):
    before, leaks = model(ids), set()
    for s in range(ids.shape[1]):
        for token in range(vocab_size):
            other = ids.clone()
            other[0, s] = token
            moved = (model(other) - before)[0].abs().amax(dim=-1) > 1e-3
            leaks |= {(t, s) for t in range(s) if moved[t]}
    return leaks


def leaks_next_only(model, ids, vocab_size):
    return {(t, s) for t, s in solution("find_leaks")(model, ids, vocab_size) if s == t + 1}


def leaks_everything_that_moves(start):
    def find_leaks(model, ids, vocab_size):
        before, leaks = model(ids), set()
        for s in range(ids.shape[1]):
            other = ids.clone()
            other[0, s] = (other[0, s] + 1) % vocab_size
            moved = (model(other) - before)[0].abs().amax(dim=-1) > 0
            leaks |= {(t, s) for t in range(ids.shape[1]) if moved[t] and t != s - start}
        return leaks

    return find_leaks


def leaks_of_three_random_tokens(model, ids, vocab_size):
    before, leaks = model(ids), set()
    for s in range(ids.shape[1]):
        for token in torch.randint(vocab_size, (3,)):
            other = ids.clone()
            other[0, s] = token
            moved = (model(other) != before)[0].any(dim=-1)
            leaks |= {(t, s) for t in range(s) if moved[t]}
    return leaks


def leaks_of_tokens(first, last):
    """All pairs, but only some other tokens are tried."""

    def find_leaks(model, ids, vocab_size):
        before, leaks = model(ids), set()
        for s in range(ids.shape[1]):
            for token in range(first, vocab_size if last is None else min(last, vocab_size)):
                other = ids.clone()
                other[0, s] = token
                moved = (model(other) != before)[0].any(dim=-1)
                leaks |= {(t, s) for t in range(s) if moved[t]}
        return leaks

    return find_leaks


def leaks_but_the_last_token(model, ids, vocab_size):
    before, leaks = model(ids), set()
    for s in range(ids.shape[1]):
        for token in range(vocab_size - 1):
            other = ids.clone()
            other[0, s] = token
            moved = (model(other) != before)[0].any(dim=-1)
            leaks |= {(t, s) for t in range(s) if moved[t]}
    return leaks


def leaks_of_both_ends(model, ids, vocab_size):
    near = leaks_of_tokens(0, 2)(model, ids, vocab_size)
    return near | leaks_of_tokens(vocab_size - 2, None)(model, ids, vocab_size)


def leaks_in_numpy(model, ids, vocab_size):
    before, n = model(ids).numpy(force=True), ids.shape[1]
    moved = np.zeros((n, n), dtype=bool)
    for s in range(n):
        for token in set(range(vocab_size)) - {int(ids[0, s])}:
            other = ids.tolist()
            other[0][s] = token
            after = model(torch.tensor(other)).numpy(force=True)
            moved[:, s] |= np.abs(after - before).max(axis=-1)[0] > 0
    return np.argwhere(np.triu(moved, 1))


def leaks_as_tensors(model, ids, vocab_size):
    pairs = solution("find_leaks")(model, ids, vocab_size)
    return frozenset((torch.tensor(t), np.int64(s)) for t, s in pairs)


def leaks_with_tolerance(model, ids, vocab_size):
    before, leaks = model(ids), set()
    for s in range(ids.shape[1] - 1, 0, -1):
        for token in range(vocab_size):
            other = torch.cat((ids[:, :s], torch.tensor([[token]]), ids[:, s + 1 :]), dim=1)
            for t in range(s):
                if (model(other)[0, t] - before[0, t]).abs().max() > 1e-8:
                    leaks.add((t, s))
    return leaks


def leaks_turned(model, ids, vocab_size):
    return {(s, t) for t, s in solution("find_leaks")(model, ids, vocab_size)}


def leaks_in_place(model, ids, vocab_size):
    ids[0, -1] = 1
    return solution("find_leaks")(model, ids, vocab_size)


def leaks_as_list(model, ids, vocab_size):
    return sorted(solution("find_leaks")(model, ids, vocab_size))


def leaks_of_six(model, ids, vocab_size):
    return {p for p in solution("find_leaks")(model, ids, vocab_size) if max(p) < 6}


def greedy_lists(model, ids, n):
    texts = []
    for text in ids.tolist():
        for _ in range(n):
            with torch.inference_mode():
                logits = model(torch.tensor([text[-model.config.context :]]))
            text = [*text, int(logits[0, -1].argmax())]
        texts.append(text)
    return texts


def greedy_filled(model, ids, n):
    T, size = ids.shape[1], model.config.context
    out = torch.zeros(len(ids), T + n, dtype=torch.long)
    out[:, :T] = ids
    for t in range(T, T + n):
        with torch.no_grad():
            out[:, t] = model(out[:, max(0, t - size) : t])[:, -1].softmax(-1).topk(1).indices[:, 0]
    return out


@torch.no_grad()
def greedy_numpy(model, ids, n):
    text = ids.numpy()
    while n > 0:
        read = torch.from_numpy(text[:, -model.config.context :].copy())
        best = model(read).numpy()[:, -1].argmax(-1)
        text, n = np.concatenate((text, best[:, None]), axis=1), n - 1
    return text


@torch.no_grad()
def greedy_recursive(model, ids, n):
    if n == 0:
        return ids
    best = model(ids[:, -model.config.context :])[:, -1].argmax(-1, keepdim=True)
    return greedy_recursive(model, torch.cat((ids, best), dim=1), n - 1)


def greedy_of_one_text(model, ids, n):
    with torch.no_grad():
        for _ in range(n):
            best = model(ids[:, -model.config.context :])[0, -1].argmax()
            ids = torch.cat((ids, best.view(1, 1).expand(len(ids), 1)), dim=1)
    return ids


def greedy_sampling(model, ids, n):
    with torch.no_grad():
        for _ in range(n):
            probs = model(ids[:, -model.config.context :])[:, -1].softmax(dim=-1)
            ids = torch.cat((ids, torch.multinomial(probs, 1)), dim=1)
    return ids


def greedy(**mistake):
    return lambda model, ids, n: check._greedy(model, ids, n, **mistake)


def greedy_without_cut(model, ids, n):
    with torch.no_grad():
        for _ in range(n):
            ids = torch.cat((ids, model(ids)[:, -1].argmax(dim=-1, keepdim=True)), dim=1)
    return ids


def greedy_with_gradients(model, ids, n):
    for _ in range(n):
        best = model(ids[:, -model.config.context :])[:, -1].argmax(dim=-1, keepdim=True)
        ids = torch.cat((ids, best), dim=1)
    return ids


def greedy_forgetful(model, ids, n):
    written = check._greedy(model, ids, n)
    return torch.cat((written[:, -8:], written[:, : max(0, n + 3 - 8)]), 1) if n > 5 else written


def greedy_worst(model, ids, n):
    with torch.no_grad():
        for _ in range(n):
            read = ids[:, -model.config.context :]
            ids = torch.cat((ids, model(read)[:, -1].argmin(-1, keepdim=True)), dim=1)
    return ids


def greedy_in_place(model, ids, n):
    written = check._greedy(model, ids, n)
    ids[:, 0] = 0
    return written


RIGHT = {
    "count_parameters": [count_by_building, count_float, count_by_list, check._count],
    "causal_block": [
        block(),
        block_double,
        block_from_the_package,
        block_head_by_head,
        block_sdpa,
    ],
    "find_leaks": [leaks_as_list, leaks_in_numpy, leaks_as_tensors, leaks_with_tolerance],
    "generate": [greedy(), greedy_lists, greedy_filled, greedy_numpy, greedy_recursive],
}

WRONG = {
    "count_parameters": [
        (count(tied=lambda c: False), "too many: the head is counted"),
        (count_without_positions, "position matrix is missing"),
        (count_weights_only, "the biases of the linear maps are missing"),
        (count_without_last_norm, "norm after the last block is missing"),
        (count_off_by_one, "GPT-2 small: you count 1 parameters too many."),
        (count(d_mlp=lambda c: None), "mlp_width is ignored"),
        (count(tied=lambda c: True), "untied head has a matrix of its own"),
        (count_with_positions, "A small Llama: … rotary positions have no matrix"),
        (count_two_matrices, "gated MLP (swiglu) has three matrices"),
        (count(n_kv_heads=lambda c: None), "config.kv_heads heads, not n_heads"),
        (count_head_and_positions, "(tied=True), and the position matrix is missing"),
        (count_by_family, "parameters too"),
        (count_rms_with_bias, "A GPT-2 with RMSNorm: … RMSNorm has a weight and no bias"),
        (count_gate_without_biases, "A GPT-2 with a gated MLP and biases: … the gate has biases"),
        (count_rounded, "must be a whole number, and yours is 124.439808"),
        (lambda config: "124M", "must be one number, and yours is '124M', of type str."),
        (lambda config: 124_439_808, "GPT-2 small with tied=False: you count"),
    ],
    "causal_block": [
        (block(mask=None), "there is no causal mask"),
        (block(mask=2), "sees one token too many"),
        (block(turned=True), "upside down"),
        (block(late=True), "mask comes after the softmax"),
        (block_blind_to_itself, "holds NaN"),
        (block(scale=0.0), "not divided by"),
        (block(scale=-1.0), "not by its root"),
        (block(of_model=True), "width of *one head* belongs there"),
        (block(axis=-2), "softmax runs over the queries"),
        (block(order=(1, 0, 2)), "Queries and keys have changed places"),
        (block(order=(0, 2, 1)), "Keys and values have changed places"),
        (block(interleaved=True), "head by head"),
        (block(heads=1), "All heads are one"),
        (block(swapped=False), "heads come out of order"),
        (block(out=False), "`attention.out` is missing"),
        (block(residual1=False), "output replaces x: its residual"),
        (block(residual2=False), "MLP's output replaces x"),
        (block(residual1=False, residual2=False), "Neither part adds to x"),
        (block(norm1=False), "`norm1` is missing"),
        (block(norm2=False), "`norm2` is missing"),
        (block(affine=False), "lack their learned weight"),
        (block(post=True), "post-norm block of 2017"),
        (block(parallel=True), "must read what attention has written"),
        (block(gelu="none"), "GELU is the exact one"),
        (block(gelu="relu"), "bends with a ReLU"),
        (block(gelu=None), "no bend"),
        (block(biases=False), "biases of the linear maps are missing"),
        (block_in_place, "changes its input `x`"),
        (block_weights_scaled, "changes its input `w`"),
        (block_leaking_late, "changing the last token moves an earlier one"),
        (lambda x, w, h: check._block(x, w, 4), "causal_block"),
        (lambda x, w, h: check._block(x, w, h) * 1.01, "must have … at [0, 0, 0], and has"),
        (lambda x, w, h: check._block(x, w, h)[0], "must have shape (2, 7, 24), and yours has"),
        (block_of_seven, "must have shape (1, 12, 20), and yours has shape (1, 7, 20)"),
        (block_of_just_seven, "stops in line 2 of your function `block_of_just_seven`"),
    ],
    "find_leaks": [
        (leaks_by_one_neighbour, "“half deaf” … every other"),
        (leaks_rounded, "“whisper” … do not round"),
        (leaks_next_only, "“whole text” … you miss (0, 2)"),
        (leaks_everything_that_moves(1), "A token may change its own row"),
        (leaks_everything_that_moves(0), "The past may change a row"),
        (leaks_turned, "turned round"),
        (leaks_in_place, "changes its input `ids`"),
        (leaks_of_six, "“one too far” (ids [ … vocabulary of 19 … you miss (5, 6)"),
        (leaks_of_tokens(0, 12), "“last” … vocabulary of 19"),
        (leaks_of_tokens(1, None), "“first” … you miss"),
        (leaks_but_the_last_token, "“last” … you miss"),
        (leaks_of_both_ends, "“middle” … you miss"),
        (leaks_of_three_random_tokens, "you miss"),
        (lambda model, ids, v: set(), "“one too far” … you miss"),
        (lambda model, ids, v: {(0, 1)}, "False alarm: the model “honest” … has no leak"),
        (lambda model, ids, v: True, "must return a set of pairs"),
        (lambda model, ids, v: {0, 1}, "must return a set of pairs"),
    ],
    "generate": [
        (greedy_without_cut, "stops in line 4 of your function `greedy_without_cut` … context"),
        (greedy_with_gradients, "Gradients are recorded"),
        (greedy(row=0), "*first* row of logits"),
        (greedy(frozen=True), "asks only once"),
        (greedy(first=True), "reads the *first* tokens of the text"),
        (greedy(shorter=1), "cut to exactly `context`"),
        (greedy(window=5), "The model reads 5 tokens, whatever"),
        (greedy(window=8), "stops in line"),
        (greedy(window=1), "reads the last token only"),
        (greedy_forgetful, "its beginning is lost"),
        (greedy_worst, "The *worst* token"),
        (greedy_sampling, "must have"),
        (greedy_of_one_text, "must have"),
        (greedy_in_place, "changes its input `ids`"),
        (lambda m, i, n: check._greedy(m, i, n)[:, 3:], "Only the new tokens"),
        (lambda m, i, n: check._greedy(m, i, n + 1), "and yours has shape (2, 8)"),
        (lambda m, i, n: check._greedy(m, i, max(n, 1)), "and yours has shape (2, 4)"),
        (lambda m, i, n: check._greedy(m, i, n).flip(1), "must begin with the prompt"),
    ],
}


def test_what_the_leaky_models_leak_is_known():
    """Each hidden suspect leaks what the checker says, to the pair, found by trying everything."""
    ids = torch.tensor([[3, 1, 5, 2, 4, 1, 6]])
    for name, model in check._suspects(23, seed=23).items():
        assert leaks_in_numpy(model, ids, 23).tolist() == sorted(
            map(list, check._known_leaks(name, 7))
        )


def test_the_checkers_count_is_that_of_real_models():
    small = gpt.GPTConfig(97, context=16, n_layers=2, n_heads=4, d_model=24)
    llama = replace(small, **gpt.LLAMA, d_mlp=40)
    mixtures = [c for name, c in check._MODELS.items() if not name.startswith("GPT-2 small")]
    for config in (small, llama, *mixtures):
        built = sum(weight.numel() for weight in gpt.GPT(config).parameters())
        assert check._count(config) == built
    with torch.device("meta"):
        reference = GPT2LMHeadModel(GPT2Config())
    assert check._count(check._GPT2) == sum(w.numel() for w in reference.parameters())
    assert check._count(check._GPT2) == 124_439_808


def test_the_checkers_block_is_the_packages_block():
    config = gpt.GPTConfig(vocab_size=5, context=7, n_layers=1, n_heads=4, d_model=16)
    block, weights = gpt.Block(config), check.block_weights(16)
    block.load_state_dict(weights)
    x = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(3))
    mask = torch.full((7, 7), -math.inf).triu(1)
    right = block(x, None, mask, None, 0)
    assert torch.allclose(check._block(x, weights, 4), right, atol=1e-6)


class TestCheckers(CheckerTests):
    check, solutions = check, SOLUTIONS.name
    right, wrong, function_of = RIGHT, WRONG, staticmethod(function_of)
