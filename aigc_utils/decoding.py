"""From logits to text: sampling, generation with a KV cache, beam search (lesson 05).

`generate` is the loop that every chat runs: read the prompt once, then choose a token, read it,
choose the next. The other functions are its parts, each a few lines: the filters that bend a
distribution before the dice are thrown, and two other ways to choose.

Shapes: B prompts, T tokens, V `vocab_size`; logits (B, V) score the token that comes next.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from aigc_utils.gpt import GPT, KVCache

Ids = Tensor | Sequence[int] | Sequence[Sequence[int]]


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Set all but the k largest logits of each row (…, V) to -inf; ties with the k-th stay.

    Fan, Lewis & Dauphin, *Hierarchical Neural Story Generation*, 2018.
    """
    if k < 1:
        raise ValueError(f"top_k={k} must be at least 1: one token has to remain.")
    threshold = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < threshold, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the fewest most likely tokens of each row (…, V) that together have probability p.

    Holtzman et al., *The Curious Case of Neural Text Degeneration*, 2020 ("nucleus sampling").
    """
    if not 0 < p <= 1:
        raise ValueError(f"top_p={p} must lie in (0, 1]: it is a share of the probability.")
    if p == 1:
        return logits
    ordered, order = logits.sort(descending=True)
    probs = ordered.softmax(dim=-1)
    before = probs.cumsum(dim=-1) - probs  # what the likelier tokens have already
    return torch.empty_like(logits).scatter_(-1, order, ordered.masked_fill(before >= p, -math.inf))


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens of each row (…, V) with at least p times the largest probability.

    Nguyen et al., *Turning Up the Heat: Min-p Sampling*, 2025.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"min_p={p} must lie in [0, 1]: it is a share of the largest probability.")
    if p == 0:
        return logits
    # A ratio of probabilities is a difference of logits: no softmax is needed.
    threshold = logits.amax(dim=-1, keepdim=True) + math.log(p)
    return logits.masked_fill(logits < threshold, -math.inf)


def penalise_repeats(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make the ids in `seen` (B, T) less likely in logits (B, V): divide by penalty if positive.

    Negative logits are multiplied instead, so that they fall too (Keskar et al., *CTRL*, 2019,
    section 4.1; the case of negative logits is what libraries made of it).
    """
    if not penalty > 0:
        raise ValueError(f"repetition_penalty={penalty} must be positive; 1 changes nothing.")
    scores = logits.gather(-1, seen)
    scores = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits.scatter(-1, seen, scores)


def probabilities(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """Turn logits (…, V) into the probabilities (…, V) that the next token is drawn from.

    softmax(logits / temperature), cut to what every filter keeps; temperature 0 gives everything to
    the largest logit. Raises ValueError for a setting outside its range.
    """
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be 0 (greedy) or a positive number.")
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter_(-1, best, 1.0)
    # bfloat16 has three digits: enough for logits, too few to add up probabilities.
    logits = logits.float()
    if temperature != 1:  # with the largest at 0, not even a tiny temperature makes it infinite
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / max(temperature, 1e-30)
    if top_k is not None:
        logits = keep_top_k(logits, top_k)
    if top_p is not None:
        logits = keep_top_p(logits, top_p)
    if min_p is not None:
        logits = keep_min_p(logits, min_p)
    return logits.softmax(dim=-1)


def draw(probs: Tensor, dice: torch.Generator | None = None) -> Tensor:
    """Draw one id per row of probs (B, V): an arrow shot at the unit line, cut in V pieces.

    Returns int64 (B,). Faster than `torch.multinomial`, which draws V random numbers for a row.
    """
    ends = probs.cumsum(dim=-1, dtype=torch.float64)  # where each token's piece ends
    arrow = torch.rand(len(probs), 1, dtype=torch.float64, generator=dice) * ends[:, -1:]
    return torch.searchsorted(ends, arrow, right=True).squeeze(-1)


def generate(
    model: GPT,
    ids: Ids,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    stop: Collection[int] | int | None = None,
    stream: bool = False,
) -> list[int] | list[list[int]] | Iterator[int]:
    """Continue the prompt `ids` and return the new ids only, at most `max_new_tokens`.

    One prompt (T,) gives a list of ids, or with `stream=True` an iterator that yields each id as
    soon as it is chosen; a batch (B, T) of prompts gives a list of lists. Generation of a row ends
    before `max_new_tokens` when `stop`, or an id in it, is chosen; that id is not returned.

    Each token costs one step with a KV cache. When the context is full, the older half is
    forgotten: the last `context // 2` tokens are read again, and generation goes on from there.
    `temperature=0` is greedy; `seed` makes the dice reproducible (None: torch's global ones).

    Raises ValueError for an empty prompt, one longer than the context, ids outside the
    vocabulary, or a setting outside its range.
    """
    prompt = _as_ids(ids)
    _check_prompt(model, prompt, max_new_tokens)
    shape = partial(probabilities, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    # Try the settings on two logits, so that a wrong one fails before any work.
    shape(torch.zeros(1, 2), temperature=temperature or 1.0)
    if repetition_penalty is not None:
        penalise_repeats(torch.zeros(1, 2), torch.zeros(1, 1).long(), repetition_penalty)
    dice = None if seed is None else torch.Generator().manual_seed(seed)

    def choose(logits: Tensor, seen: Tensor) -> Tensor:
        if repetition_penalty is not None:
            logits = penalise_repeats(logits, seen, repetition_penalty)
        if temperature == 0:
            return logits.argmax(dim=-1)
        return draw(shape(logits), dice)

    stop = _stop_ids(stop)
    steps = _steps(model, torch.atleast_2d(prompt), max_new_tokens, choose)
    if prompt.ndim == 1:
        one = _until(stop, steps)
        return one if stream else list(one)
    if stream:
        raise ValueError("stream=True needs one prompt of shape (T,), not a batch.")
    rows: list[list[int]] = [[] for _ in prompt]
    running = set(range(len(rows)))
    for chosen in steps:
        for row in tuple(running):
            if chosen[row] in stop:
                running.remove(row)
            else:
                rows[row].append(chosen[row])
        if not running:
            break
    return rows


def _stop_ids(stop: Collection[int] | int | None) -> frozenset[int]:
    try:
        ids = [] if stop is None else stop if isinstance(stop, Collection) else [stop]
        return frozenset(operator.index(token) for token in ids)  # NumPy's integers too
    except TypeError:
        raise ValueError(
            f"stop={stop!r} must be token ids: encode the text where it is to stop."
        ) from None


def _until(stop: frozenset[int], steps: Iterator[list[int]]) -> Iterator[int]:
    for (chosen,) in steps:
        if chosen in stop:
            return
        yield chosen


def _steps(
    model: GPT,
    prompt: Tensor,
    max_new_tokens: int,
    choose: Callable[[Tensor, Tensor], Tensor],
) -> Iterator[list[int]]:
    """Yield the next id of every row of prompt (B, T), max_new_tokens times."""
    context, end = model.config.context, prompt.shape[1]
    text = prompt.new_empty(len(prompt), end + max_new_tokens)  # all that was read or chosen
    text[:, :end] = prompt
    # The last token that is chosen is never read.
    dtype = model.embedding.weight.dtype
    cache = KVCache(model.config, len(prompt), end + max_new_tokens - 1, dtype)
    with _evaluating(model):
        read = 0  # where the cache ends in `text`
        while end < text.shape[1]:
            if cache.used + end - read > context:
                cache.used, read = 0, end - max(1, context // 2)
            with torch.inference_mode():
                logits = model(text[:, read:end], cache)[:, -1]
                chosen = choose(logits, text[:, :end])
                text[:, end] = chosen
            read, end = end, end + 1
            yield chosen.tolist()


@contextmanager
def _evaluating(*models: GPT) -> Iterator[None]:
    """Switch dropout off; afterwards each model is in the mode in which it was."""
    before = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, training in zip(models, before, strict=True):
            model.train(training)


@torch.inference_mode()
def beam_search(
    model: GPT, ids: Ids, max_new_tokens: int, *, beams: int = 4
) -> list[tuple[list[int], float]]:
    """Search for the most likely continuations of one prompt: (new ids, log-probability) pairs.

    Keeps the `beams` best beginnings at every step and extends each by every token (Graves,
    *Sequence Transduction with Recurrent Neural Networks*, 2012); the best comes first. All have
    max_new_tokens ids. Raises ValueError when prompt and new ids together exceed the context.
    """
    if beams < 1:
        raise ValueError(f"beams={beams} must be at least 1; 1 is greedy.")
    prompt = _one_prompt(model, ids, max_new_tokens)
    length = len(prompt) + max_new_tokens
    cache = KVCache(model.config, beams, length, model.embedding.weight.dtype)
    rows = prompt.expand(beams, -1)
    scores = torch.full((beams,), -math.inf)
    scores[0] = 0.0  # all beams begin equal: only one may speak, or all would say the same
    with _evaluating(model):
        for _ in range(max_new_tokens):
            logits = model(rows[:, cache.used :], cache)[:, -1].float()
            candidates = scores[:, None] + logits.log_softmax(dim=-1)  # (beams, V)
            scores, best = candidates.flatten().topk(beams)
            parents, tokens = best // logits.shape[1], best % logits.shape[1]
            rows = torch.cat((rows[parents], tokens[:, None]), dim=1)
            # A beam that descends from another one goes on from that one's keys and values.
            cache.keys, cache.values = cache.keys[:, parents], cache.values[:, parents]
            cache.ids = cache.ids[parents]
    new = rows[:, len(prompt) :].tolist()
    return list(zip(new, scores.tolist(), strict=True))


@torch.inference_mode()
def speculative(
    model: GPT,
    draft: GPT,
    ids: Ids,
    max_new_tokens: int,
    *,
    lookahead: int = 4,
    temperature: float = 1.0,
    seed: int | None = None,
) -> tuple[list[int], int]:
    """Sample from `model`, asking it less often: a small `draft` guesses, `model` checks.

    Returns the new ids and how many times the model was asked. `draft` proposes `lookahead` tokens;
    the model reads them all at once and keeps each with probability min(1, p/q); the first one
    refused is redrawn from max(0, p - q). The result has the model's own distribution (Leviathan,
    Kalman & Matias, *Fast Inference from Transformers via Speculative Decoding*, 2023, appendix
    A.1). Raises ValueError when the vocabularies differ or the text exceeds a context.
    """
    if draft.config.vocab_size != model.config.vocab_size:
        raise ValueError(
            f"The draft's vocab_size is {draft.config.vocab_size} and the model's "
            f"{model.config.vocab_size}: both must have learned the same tokenizer's ids."
        )
    if lookahead < 1:
        raise ValueError(f"lookahead={lookahead} must be at least 1.")
    _one_prompt(draft, ids, max_new_tokens)
    prompt = _one_prompt(model, ids, max_new_tokens)
    dice = torch.Generator().manual_seed(seed) if seed is not None else torch.default_generator
    length = len(prompt) + max_new_tokens
    cache, draft_cache = (
        KVCache(net.config, 1, length, net.embedding.weight.dtype) for net in (model, draft)
    )

    def read(net: GPT, cache: KVCache, last: int) -> Tensor:
        """Let `net` read what it has not read yet; probabilities (last, V) at its last rows."""
        logits = net(torch.tensor([text[cache.used :]]), cache)[0, -last:]
        return probabilities(logits, temperature=temperature)

    text, asked = prompt.tolist(), 0
    with _evaluating(model, draft):
        while len(text) < length:
            sure, q = len(text), []
            for _ in range(min(lookahead, length - sure - 1)):
                q.append(read(draft, draft_cache, 1))
                text.append(int(draw(q[-1], dice)))
            p = read(model, cache, len(text) - sure + 1)
            asked += 1
            for i, token in enumerate(text[sure:]):
                if torch.rand((), generator=dice) * q[i][0, token] < p[i, token]:
                    sure += 1
                    continue
                left_over = (p[i] - q[i]).clamp(min=0)
                text[sure:] = [int(draw(left_over, dice))]
                break
            else:  # all were kept, and the model has said what follows as well
                text.append(int(draw(p[-1:], dice)))
            # Forget the keys and values of what was refused.
            cache.used, draft_cache.used = sure, min(draft_cache.used, sure)
    return text[len(prompt) :], asked


class Int8Linear(nn.Module):
    """x Wᵀ + b in bfloat16, with W kept as 8-bit integers and one scale for each row.

    Generating reads every weight once for each token and uses it for one multiplication: the time
    goes into fetching, and half as many bytes take half the time. Only weights are rounded: a few
    columns of x are far larger than the rest, and would suffer (Dettmers et al., *LLM.int8()*,
    2022).
    """

    weight: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = (weight.abs().amax(dim=1) / 127).clamp(min=1e-12).bfloat16()
        rounded = (weight / scales[:, None]).round().clamp(-127, 127)
        self.register_buffer("weight", rounded.to(torch.int8))
        self.register_buffer("scales", scales)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map x (…, columns of W) to (…, rows of W)."""
        y = torch._weight_int8pack_mm(x.flatten(0, -2), self.weight, self.scales)
        y = y.view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


def to_int8(model: GPT) -> GPT:
    """Return a copy of `model` for inference in bfloat16 whose linear maps hold 8-bit weights."""
    twin = copy.deepcopy(model).bfloat16().eval()
    if twin.config.tied:  # the head is a linear map too; the table of embeddings stays as it is
        twin.config = replace(twin.config, tied=False)
        twin.head = nn.Linear(1, 1, bias=False)
        twin.head.weight = twin.embedding.weight
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, Int8Linear(child))
    return twin


@torch.inference_mode()
def surprise(model: GPT, ids: Ids) -> tuple[Tensor, Tensor]:
    """Read a text (n,): surprise -ln p of each token after the first, and entropy, in nats.

    Returns two tensors (n - 1,): how surprising token t was, and how surprising the model expected
    it to be, given the tokens before it. Texts longer than the context are read in windows that
    overlap by half.
    """
    text = _as_ids(ids)
    if text.ndim != 1 or len(text) < 2:
        raise ValueError("surprise needs one text of at least two tokens.")
    _check_ids(model, text)
    context = model.config.context
    surprises, entropies = [], []
    with _evaluating(model):
        for begin in range(0, max(1, len(text) - 1 - context // 2), max(1, context // 2)):
            window = text[begin : begin + context + 1]
            log_probs = model(window[None, :-1])[0].float().log_softmax(dim=-1)
            fresh = slice(context // 2 if begin else 0, None)  # the first half was scored before
            surprises.append(-log_probs.gather(-1, window[1:, None])[fresh, 0])
            entropies.append(-(log_probs.exp() * log_probs).sum(dim=-1)[fresh])
    return torch.cat(surprises), torch.cat(entropies)


def _as_ids(ids: Ids) -> Tensor:
    """Return ids as an int64 tensor (T,) or (B, T), or say what is wrong."""
    try:
        tensor = torch.as_tensor(ids)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            "ids must be integers of shape (T,) or (B, T): prompts of a batch are equally long."
        ) from None
    if tensor.numel() == 0:
        raise ValueError("The prompt is empty: give at least one token.")
    if tensor.ndim not in (1, 2) or tensor.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            "ids must be integers of shape (T,) or (B, T), not "
            f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}."
        )
    return tensor.long()


def _check_prompt(model: GPT, prompt: Tensor, max_new_tokens: int) -> None:
    length, context = prompt.shape[-1], model.config.context
    if length > context:
        raise ValueError(
            f"The prompt is {length} tokens long and the model's context is {context}: "
            f"keep the last {context}."
        )
    _check_ids(model, prompt)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1.")


def _check_ids(model: GPT, ids: Tensor) -> None:
    low, high, size = int(ids.min()), int(ids.max()), model.config.vocab_size
    if low < 0 or high >= size:
        raise ValueError(
            f"Token ids must lie in 0…{size - 1} (vocab_size {size}), but "
            f"{low if low < 0 else high} is among them: was another tokenizer used?"
        )


def _one_prompt(model: GPT, ids: Ids, max_new_tokens: int) -> Tensor:
    """Return one prompt (T,) that fits the context together with what will follow it."""
    prompt = _as_ids(ids)
    if prompt.ndim != 1:
        raise ValueError(f"Give one prompt of shape (T,), not a batch {tuple(prompt.shape)}.")
    _check_prompt(model, prompt, max_new_tokens)
    length, context = len(prompt) + max_new_tokens, model.config.context
    if length > context:
        raise ValueError(
            f"Prompt and new tokens are {length} together and the model's context is {context}: "
            "ask for fewer."
        )
    return prompt
