"""Lesson 03: solutions pass, stubs fail kindly, wrong answers get the sentence that fits."""

import functools
import math
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F
from exercises import exercise_from
from graded import assert_checkers_and_hints, run_answer
from transformers import GPT2Config, GPT2LMHeadModel

from aigc_utils import gpt
from aigc_utils.checks import CheckFailed
from aigc_utils.checks import gpt as check

SOLUTIONS = Path(__file__).parents[1] / "notebooks" / "solutions" / "03_gpt.ipynb"
NAMES = list(check.HINTS)


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
    return solution("count_parameters")(config) - config.context * config.d_model


def count_off_by_one(config):
    return solution("count_parameters")(config) + 1


def count_weights_only(config):
    biases = 9 * config.n_layers * config.d_model if config.bias else 0
    return solution("count_parameters")(config) - biases


def count_without_last_norm(config):
    return solution("count_parameters")(config) - config.d_model * (2 if config.bias else 1)


def count_two_matrices(config):
    gate = config.n_layers * config.d_model * config.mlp_width if config.mlp == "swiglu" else 0
    return solution("count_parameters")(config) - gate


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


def leaks_turned(model, ids, vocab_size):
    return {(s, t) for t, s in solution("find_leaks")(model, ids, vocab_size)}


def leaks_in_place(model, ids, vocab_size):
    ids[0, -1] = 1
    return solution("find_leaks")(model, ids, vocab_size)


def leaks_as_list(model, ids, vocab_size):
    return sorted(solution("find_leaks")(model, ids, vocab_size))


def leaks_of_six(model, ids, vocab_size):
    return {p for p in solution("find_leaks")(model, ids, vocab_size) if max(p) < 6}


def greedy(**mistake):
    return lambda model, ids, n: check._greedy(model, ids, n, **mistake)


def greedy_without_cut(model, ids, n):
    with torch.no_grad():
        for _ in range(n):
            ids = torch.cat((ids, model(ids)[:, -1].argmax(dim=-1, keepdim=True)), dim=1)
    return ids


def greedy_with_gradients(model, ids, n):
    for _ in range(n):
        best = model(ids[:, -8:])[:, -1].argmax(dim=-1, keepdim=True)
        ids = torch.cat((ids, best), dim=1)
    return ids


def greedy_forgetful(model, ids, n):
    written = check._greedy(model, ids, n)
    return torch.cat((written[:, -8:], written[:, : max(0, n + 3 - 8)]), 1) if n > 5 else written


def greedy_worst(model, ids, n):
    with torch.no_grad():
        for _ in range(n):
            ids = torch.cat((ids, model(ids[:, -8:])[:, -1].argmin(-1, keepdim=True)), dim=1)
    return ids


def greedy_in_place(model, ids, n):
    written = check._greedy(model, ids, n)
    ids[:, 0] = 0
    return written


WRONG = [
    ("count_parameters", count(tied=lambda c: False), "too many: the head is counted"),
    ("count_parameters", count_without_positions, "position matrix is missing"),
    ("count_parameters", count_weights_only, "biases of the four linear maps are missing"),
    ("count_parameters", count_without_last_norm, "norm after the last block is missing"),
    ("count_parameters", count_off_by_one, "1 parameters too many"),
    ("count_parameters", count(d_mlp=lambda c: None), "mlp_width is ignored"),
    ("count_parameters", count(tied=lambda c: True), "untied head has a matrix of its own"),
    ("count_parameters", count_with_positions, "rotary positions have no matrix"),
    ("count_parameters", count_two_matrices, "gated MLP .* has three matrices"),
    ("count_parameters", count(n_kv_heads=lambda c: None), "config.kv_heads heads, not n_heads"),
    ("count_parameters", lambda c: "124M", "must return one integer"),
    ("causal_block", block(mask=None), "there is no causal mask"),
    ("causal_block", block(mask=2), "sees one token too many"),
    ("causal_block", block(turned=True), "upside down"),
    ("causal_block", block(late=True), "mask comes after the softmax"),
    ("causal_block", block_blind_to_itself, "holds NaN"),
    ("causal_block", block(scale=1.0), "not divided by"),
    ("causal_block", block(scale=0.25), "width of \\*one head\\* belongs there"),
    ("causal_block", block(heads=1), "All heads are one"),
    ("causal_block", block(swapped=False), "heads come out of order"),
    ("causal_block", block(out=False), "`attention.out` is missing"),
    ("causal_block", block(residual1=False), "output replaces x: its residual"),
    ("causal_block", block(residual2=False), "MLP's output replaces x"),
    ("causal_block", block(residual1=False, residual2=False), "Neither part adds to x"),
    ("causal_block", block(norm1=False), "`norm1` is missing"),
    ("causal_block", block(norm2=False), "`norm2` is missing"),
    ("causal_block", block(affine=False), "lack their learned weight"),
    ("causal_block", block(post=True), "post-norm block of 2017"),
    ("causal_block", block(parallel=True), "must read what attention has written"),
    ("causal_block", block(gelu="none"), "GELU is the exact one"),
    ("causal_block", block(gelu=None), "no bend"),
    ("causal_block", block(biases=False), "biases of the linear maps are missing"),
    ("causal_block", block_in_place, "changes its input x"),
    ("causal_block", block_leaking_late, "changing the last token moves an earlier one"),
    ("causal_block", lambda x, w, h: check._block(x, w, h) * 1.01, "differ from GPT-2's block"),
    ("causal_block", lambda x, w, h: check._block(x, w, h)[0], "must return a tensor of shape"),
    ("causal_block", block_of_seven, "but not for 12 and 2: take T"),
    ("causal_block", block_of_just_seven, "but not for 1 and 4: take T"),
    ("find_leaks", lambda m, i, v: leaks_by_one_neighbour(m, i, v), "“half deaf”.* every other"),
    ("find_leaks", leaks_rounded, "“whisper”.*do not round"),
    ("find_leaks", leaks_next_only, "“whole text”.*you miss \\(0, 2\\)"),
    ("find_leaks", leaks_everything_that_moves(1), "A token may change its own row"),
    ("find_leaks", leaks_everything_that_moves(0), "The past may change a row"),
    ("find_leaks", leaks_turned, "turned round"),
    ("find_leaks", leaks_in_place, "changes the ids it was given"),
    ("find_leaks", leaks_as_list, "must return a set of pairs"),
    ("find_leaks", leaks_of_six, "Right for 6 tokens, but not for 9"),
    ("find_leaks", lambda m, i, v: set(), "“one too far”.*you miss"),
    ("find_leaks", lambda m, i, v: {(0, 1)}, "False alarm: the model “honest” has no leak"),
    ("generate", greedy_without_cut, "has outgrown the context"),
    ("generate", greedy_with_gradients, "Gradients are recorded"),
    ("generate", greedy(row=0), "\\*first\\* row of logits"),
    ("generate", greedy(frozen=True), "asks only once"),
    ("generate", greedy(first=True), "reads the \\*first\\* tokens of the text"),
    ("generate", greedy(window=7), "cut to exactly `context`"),
    ("generate", greedy_forgetful, "its beginning gets lost"),
    ("generate", greedy_worst, "not the best-scored ones"),
    ("generate", greedy_in_place, "changes the prompt"),
    ("generate", lambda m, i, n: check._greedy(m, i, n)[:, 3:], "Only the new tokens"),
    ("generate", lambda m, i, n: check._greedy(m, i, n + 1), "and yours has shape \\(2, 8\\)"),
    ("generate", lambda m, i, n: check._greedy(m, i, n).flip(1), "must begin with the prompt"),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_solution_passes_with_one_line(name, capsys):
    assert getattr(check, name)(solution(name)) is None
    praise = capsys.readouterr().out.splitlines()[-1]
    assert praise.startswith("Right: ")


@pytest.mark.parametrize("name", NAMES)
def test_the_unsolved_cell_fails_kindly(name):
    stub = function_of(nbformat.reads(exercise_from(SOLUTIONS), as_version=4), name)
    with pytest.raises(CheckFailed, match=rf"`{name}` gives nothing back yet"):
        getattr(check, name)(stub)


@pytest.mark.parametrize(
    "name, wrong, sentence", WRONG, ids=[f"{name}: {sentence}" for name, _, sentence in WRONG]
)
def test_a_wrong_answer_gets_the_sentence_that_fits(name, wrong, sentence, capsys):
    with pytest.raises(CheckFailed, match=sentence) as caught:
        getattr(check, name)(wrong)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_every_graded_exercise_has_a_checker_and_three_hints(capsys):
    assert_checkers_and_hints(SOLUTIONS, check, capsys)


def test_the_checkers_count_is_that_of_real_models():
    small = gpt.GPTConfig(97, context=16, n_layers=2, n_heads=4, d_model=24)
    llama = replace(small, **gpt.LLAMA, d_mlp=40)
    for config in (
        small,
        replace(small, tied=False),
        replace(small, d_mlp=40),
        replace(small, bias=False),
        llama,
        replace(llama, n_kv_heads=2, tied=False),
    ):
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


def test_checking_leaves_the_random_state_alone(capsys):
    before = torch.get_rng_state()
    check.find_leaks(solution("find_leaks"))
    check.generate(solution("generate"))
    assert torch.equal(torch.get_rng_state(), before)
