"""From logits to text: sampling, generation with a KV cache, beam search (lesson 05).

`generate` is the loop that every chat runs: read the prompt once, then choose a token, read it,
choose the next; `stream` hands each token over as it comes. The other functions are its parts, each
a few lines: the filters that bend a distribution before a token is drawn, and two other ways to
choose.

Shapes: B prompts, T tokens, V `vocab_size`; logits (B, V) score the token that comes next. A model
computes on its own device; random numbers come from the CPU, so a seed means the same everywhere.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypedDict, Unpack, overload

import torch
from torch import Tensor, nn

from aigc_utils import step
from aigc_utils.gpt import GPT, KVCache, check_ids

Ids = Tensor | Sequence[int] | Sequence[Sequence[int]]


class Settings(TypedDict, total=False):
    """How the next token is chosen: the keywords that `generate` and `stream` share."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None


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


def draw(probs: Tensor, rng: torch.Generator | None = None) -> Tensor:
    """Draw one id per row of probs (B, V): an arrow shot at the unit line, cut in V pieces.

    Returns int64 (B,). Faster than `torch.multinomial`, which draws V random numbers for a row.
    `rng` is a generator of the CPU; None is torch's global one.
    """
    ends = probs.cpu().cumsum(dim=-1, dtype=torch.float64)  # where each token's piece ends
    shots = torch.rand(len(ends), 1, dtype=ends.dtype, generator=rng, device=ends.device)
    ids = torch.searchsorted(ends, shots * ends[:, -1:], right=True).squeeze(-1)
    return ids.to(probs.device)


@overload
def generate(
    model: GPT,
    ids: Sequence[int],
    max_new_tokens: int,
    *,
    stop: Collection[int] | int | None = None,
    **settings: Unpack[Settings],
) -> list[int]: ...


@overload
def generate(
    model: GPT,
    ids: Tensor | Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    stop: Collection[int] | int | None = None,
    **settings: Unpack[Settings],
) -> list[Any]: ...


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
) -> list[Any]:
    """Continue the prompt `ids` and return the new ids only, at most `max_new_tokens`.

    One prompt (T,) gives a list of ids; a batch (B, T) of prompts gives a list of lists. Generation
    of a row ends before `max_new_tokens` when `stop`, or an id in it, is chosen; that id is not
    returned.

    Each token costs one step with a KV cache. When the context is full, the older half is
    forgotten: the last `context // 2` tokens are read again, and generation goes on from there.
    `temperature=0` is greedy; `seed` makes the draws reproducible (None: torch's global generator).
    Computes on the model's own device, wherever `ids` lie.

    Raises ValueError for an empty prompt, one longer than the context, ids outside the
    vocabulary, a setting outside its range, or a model whose logits are not numbers.
    """
    prompt = _checked(model, ids, max_new_tokens)
    choose = _chooser(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    stop = _stop_ids(stop)
    steps = _steps(model, torch.atleast_2d(prompt), max_new_tokens, choose)
    if prompt.ndim == 1:
        return list(_until(stop, steps))
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


def stream(
    model: GPT,
    ids: Tensor | Sequence[int],
    max_new_tokens: int,
    *,
    stop: Collection[int] | int | None = None,
    **settings: Unpack[Settings],
) -> Iterator[int]:
    """Continue one prompt (T,) as `generate` does, and yield each id as soon as it is chosen.

    Takes the settings of `generate`, which are checked at once; the model is first asked when the
    first id is. Between two ids the model may be used otherwise, trained or streamed again.
    """
    prompt = _checked(model, ids, max_new_tokens, ndims=(1,))
    steps = _steps(model, prompt[None], max_new_tokens, _chooser(**settings))
    return _until(_stop_ids(stop), steps)


def _chooser(
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return how to choose: from logits (B, V) and the text so far (B, T) to ids (B,)."""
    shape = partial(probabilities, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    # Try the settings on two logits, so that a wrong one fails before any work.
    two = torch.zeros(1, 2, device="cpu")
    shape(two, temperature=temperature or 1.0)
    if repetition_penalty is not None:
        penalise_repeats(two, two.long(), repetition_penalty)
    rng = None if seed is None else torch.Generator().manual_seed(seed)

    def choose(logits: Tensor, seen: Tensor) -> Tensor:
        if repetition_penalty is not None:
            logits = penalise_repeats(logits, seen, repetition_penalty)
        if temperature == 0:
            return logits.argmax(dim=-1)
        return draw(shape(logits), rng)

    return choose


def _stop_ids(stop: Collection[int] | int | None) -> frozenset[int]:
    if stop is None:
        return frozenset()
    if not isinstance(stop, Collection):
        stop = [stop]
    try:
        return frozenset(operator.index(token) for token in stop)  # NumPy's integers too
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
    cache = _cache(model, end + max_new_tokens - 1, len(prompt))  # the last one is never read
    read = 0  # where the cache ends in `text`
    logits_of = _reader(model)
    while end < text.shape[1]:
        if cache.used + end - read > context:
            cache.used, read = 0, end - max(1, context // 2)
        with torch.inference_mode():
            chosen = choose(logits_of(text[:, read:end], cache)[:, -1], text[:, :end])
            text[:, end] = chosen
        read, end = end, end + 1
        yield chosen.tolist()


def _cache(model: GPT, length: int, batch: int = 1) -> KVCache:
    """Return an empty cache for `length` tokens, in the model's own precision and place."""
    return KVCache(model.config, batch, length, model.embedding.weight.dtype, model.device)


def _reader(model: GPT) -> Callable[..., Tensor]:
    """Return how `model` reads: from ids (B, T), and a cache to go on from, to logits (B, T, V)."""
    fast = step.takes(model)

    def read(ids: Tensor, cache: KVCache | None = None) -> Tensor:
        if fast and cache is not None and ids.shape[1] == 1 and cache.used < model.config.context:
            logits = step.forward(model, ids, cache)
        else:
            logits = _without_dropout(model, ids, cache)
        if not logits.isfinite().all():
            raise ValueError(
                "The model's logits are not all finite numbers: its weights are damaged or its "
                "training diverged. Load the last good checkpoint."
            )
        return logits

    return read


def _without_dropout(model: GPT, ids: Tensor, cache: KVCache | None) -> Tensor:
    """Call `model` in evaluation mode, and leave it in the mode in which it was.

    Each call restores the mode for itself: whoever takes tokens from a stream may train in between,
    or never come back.
    """
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        return model(ids, cache)
    finally:
        for module in training:
            module.training = True


@torch.inference_mode()
def beam_search(
    model: GPT,
    ids: Ids,
    max_new_tokens: int,
    *,
    beams: int = 4,
    stop: Collection[int] | int | None = None,
    length_penalty: float = 0.0,
) -> list[tuple[list[int], float]]:
    """Search for the most likely continuations of one prompt: (new ids, log-probability) pairs.

    Keeps the `beams` best beginnings at every step and extends each by every token (Graves,
    *Sequence Transduction with Recurrent Neural Networks*, 2012). A text ends with a `stop` id,
    which counts but is not returned, or after max_new_tokens. The best comes first: the largest
    log-probability divided by tokens ** length_penalty (0: the sum, which favours short texts; 1:
    the mean; after Wu et al., *Google's Neural Machine Translation System*, 2016, section 7).

    No two texts are equal, so there are fewer than `beams` where fewer exist. Raises ValueError
    when prompt and new ids together exceed the context.
    """
    if beams < 1:
        raise ValueError(f"beams={beams} must be at least 1; 1 is greedy.")
    if not length_penalty >= 0:
        raise ValueError(f"length_penalty={length_penalty} must not be negative; 0 is none.")
    prompt = _one_prompt(model, ids, max_new_tokens)
    ends = torch.tensor(sorted(_stop_ids(stop)), dtype=torch.int64, device=prompt.device)
    cache = _cache(model, len(prompt) + max_new_tokens)
    logits_of = _reader(model)
    rows, scores = prompt[None], torch.zeros(1, device=prompt.device)
    found: list[tuple[float, list[int], float]] = []  # worth, new ids, log-probability
    for length in range(1, max_new_tokens + 1):
        logits = logits_of(rows[:, cache.used :], cache)[:, -1].float()
        candidates = (scores[:, None] + logits.log_softmax(dim=-1)).flatten()  # (beams · V,)
        # So many that `beams` of them go on, whatever ends.
        scores, best = candidates.topk(min(beams * (1 + len(ends)), len(candidates)))
        parents, tokens = best // logits.shape[1], best % logits.shape[1]
        ending = torch.isin(tokens, ends)
        for i in ending[:beams].nonzero().flatten().tolist():
            text, score = rows[parents[i], len(prompt) :].tolist(), scores[i].item()
            found.append((score / length**length_penalty, text, score))
        scores, parents, tokens = (part[~ending][:beams] for part in (scores, parents, tokens))
        rows = torch.cat((rows[parents], tokens[:, None]), dim=1)
        if not len(rows):
            break
        # A beam that descends from another one goes on from that one's keys and values.
        cache.keys, cache.values = cache.keys[:, parents], cache.values[:, parents]
        cache.ids = cache.ids[parents]
    for row, score in zip(rows[:, len(prompt) :].tolist(), scores.tolist(), strict=True):
        found.append((score / max_new_tokens**length_penalty, row, score))
    found.sort(key=lambda text: -text[0])
    return [(text, score) for _, text, score in found[:beams]]


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
    rng = torch.default_generator if seed is None else torch.Generator().manual_seed(seed)
    length = len(prompt) + max_new_tokens
    cache, draft_cache = _cache(model, length), _cache(draft, length)

    logits_of = {net: _reader(net) for net in (model, draft)}

    def read(net: GPT, cache: KVCache, last: int) -> Tensor:
        """Let `net` read what it has not read yet; probabilities (last, V) at its last rows."""
        unread = torch.tensor([text[cache.used :]], device=net.device)
        return probabilities(
            logits_of[net](unread, cache)[0, -last:], temperature=temperature
        ).cpu()

    text, asked = prompt.tolist(), 0
    while len(text) < length:
        sure, q = len(text), []
        for _ in range(min(lookahead, length - sure - 1)):
            q.append(read(draft, draft_cache, 1))
            text.append(int(draw(q[-1], rng)))
        p = read(model, cache, len(text) - sure + 1)
        asked += 1
        for i, token in enumerate(text[sure:]):
            if torch.rand((), generator=rng, device="cpu") * q[i][0, token] < p[i, token]:
                sure += 1
                continue
            left_over = (p[i] - q[i]).clamp(min=0)
            text[sure:] = [int(draw(left_over, rng))]
            break
        else:  # all were kept, and the model has said what follows as well
            text.append(int(draw(p[-1:], rng)))
        # Forget the keys and values of what was refused.
        cache.used, draft_cache.used = sure, min(draft_cache.used, sure)
    return text[len(prompt) :], asked


@torch.inference_mode()
def lookup(
    model: GPT, ids: Ids, max_new_tokens: int, *, match: int = 3, lookahead: int = 8
) -> tuple[list[int], int]:
    """Write greedily, and guess by what followed the last `match` tokens when they came before.

    Returns the new ids and how many times the model was asked. It reads up to `lookahead` guesses
    at once and keeps those that it would have chosen: the text is that of `generate` with
    temperature 0, but for tokens that tie to the last digits of the precision. Pays where text
    repeats, as code and summaries do (Saxena, *Prompt Lookup Decoding*, 2023). Raises ValueError
    when prompt and new ids together exceed the context.
    """
    if match < 1 or lookahead < 1:
        raise ValueError(f"match={match} and lookahead={lookahead} must be at least 1.")
    prompt = _one_prompt(model, ids, max_new_tokens)
    length, logits_of = len(prompt) + max_new_tokens, _reader(model)
    cache = _cache(model, length)
    text, asked = prompt.tolist(), 0
    while len(text) < length:
        sure = len(text)
        guesses = _what_followed(text, match)[: min(lookahead, length - sure - 1)]
        unread = torch.tensor([text[cache.used :] + guesses], device=model.device)
        best = logits_of(unread, cache)[0, -len(guesses) - 1 :].argmax(dim=-1).tolist()
        asked += 1
        right = 0
        while right < len(guesses) and guesses[right] == best[right]:
            right += 1
        text += best[: right + 1]  # behind the last right guess the model has said what follows
        cache.used = sure + right  # forget the keys and values of the others
    return text[len(prompt) :], asked


def _what_followed(text: list[int], match: int) -> list[int]:
    """Return what came after the latest earlier place where the last `match` tokens stand."""
    tail = text[-match:]
    for begin in range(len(text) - match - 1, -1, -1):
        if text[begin : begin + match] == tail:
            return text[begin + match :]
    return []


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


class Int4Linear(nn.Module):
    """x Wᵀ + b in bfloat16, W as 4-bit integers with a scale and an offset for 32 columns of a row.

    Two numbers a group follow the weights closely enough for 16 steps (as GGUF's type Q4_1): 5 bits
    a weight. Takes matrices with a multiple of 32 columns and of 16 rows.
    """

    weight: Tensor
    scales: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        groups = linear.weight.detach().float().unflatten(1, (-1, GROUP))
        low, high = groups.aminmax(dim=-1, keepdim=True)
        scale = ((high - low) / 15).clamp(min=1e-12).bfloat16()
        middle = (low + 8 * scale.float()).bfloat16()  # what step 8 of 0…15 stands for
        steps = ((groups - middle.float()) / scale.float() + 8).round().clamp(0, 15)
        packed = torch._convert_weight_to_int4pack_for_cpu(steps.flatten(1).int(), 1)
        self.register_buffer("weight", packed)
        scales = torch.cat((scale, middle), dim=-1).transpose(0, 1)  # (groups, rows, 2)
        self.register_buffer("scales", scales.contiguous())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Map x (…, columns of W) to (…, rows of W)."""
        rows = x.flatten(0, -2)
        y = torch._weight_int4pack_mm_for_cpu(rows, self.weight, GROUP, self.scales)
        y = y.view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


GROUP = 32  # columns that share a scale and an offset in `Int4Linear`


def to_int8(model: GPT) -> GPT:
    """Return a copy of `model` for inference in bfloat16 whose linear maps hold 8-bit weights."""
    return _rounded(model, Int8Linear)


def to_int4(model: GPT) -> GPT:
    """Return a copy for inference in bfloat16: 4-bit weights in the blocks, 8-bit in the head.

    A matrix that `Int4Linear` does not take has 8 bits, too. On a CPU only.
    """
    return _rounded(model, _int4_or_int8)


def _int4_or_int8(linear: nn.Linear) -> nn.Module:
    rows, columns = linear.weight.shape
    return Int8Linear(linear) if rows % 16 or columns % GROUP else Int4Linear(linear)


def _rounded(model: GPT, kind: Callable[[nn.Linear], nn.Module]) -> GPT:
    """Copy `model` with `kind` for the linear maps of its blocks, and `Int8Linear` for the head."""
    twin = copy.deepcopy(model).bfloat16().eval()
    head = nn.Linear(1, 1, bias=False)  # a linear map too, where it is the table of embeddings
    head.weight = twin.embedding.weight if twin.config.tied else twin.head.weight
    twin.config = replace(twin.config, tied=False)  # the table itself stays as it is
    twin.add_module("head", Int8Linear(head))
    for module in list(twin.blocks.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, kind(child))
    return twin


@torch.inference_mode()
def surprise(model: GPT, ids: Ids) -> tuple[Tensor, Tensor]:
    """Read a text (n,): surprise -ln p of each token after the first, and entropy, in nats.

    Returns two tensors (n - 1,) on the CPU: how surprising token t was, and how surprising the
    model expected it to be, given the tokens before it. Texts longer than the context are read in
    windows that overlap by half.
    """
    text = check_ids(ids, model.config.vocab_size, name="text", ndims=(1,)).to(model.device)
    if len(text) < 2:
        raise ValueError("surprise needs one text of at least two tokens.")
    context = model.config.context
    step = max(1, context // 2)
    logits_of = _reader(model)
    surprises, entropies = [], []
    for begin in range(0, max(1, len(text) - 1 - (context - step)), step):
        window = text[begin : begin + context + 1]
        log_probs = logits_of(window[None, :-1])[0].float().log_softmax(dim=-1)
        fresh = slice(context - step if begin else 0, None)  # what no window has scored before
        surprises.append(-log_probs.gather(-1, window[1:, None])[fresh, 0])
        entropies.append(-(log_probs.exp() * log_probs).sum(dim=-1)[fresh])
    return torch.cat(surprises).cpu(), torch.cat(entropies).cpu()


def _checked(model: GPT, ids: Ids, max_new_tokens: int, ndims: tuple[int, ...] = (1, 2)) -> Tensor:
    """Return the prompt as int64 on the model's device, or say in a sentence what is wrong."""
    prompt = check_ids(ids, model.config.vocab_size, name="prompt", ndims=ndims)
    length, context = prompt.shape[-1], model.config.context
    if length > context:
        raise ValueError(
            f"The prompt is {length} tokens long and the model's context is {context}: "
            f"keep the last {context}."
        )
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1.")
    return prompt.to(model.device)


def _one_prompt(model: GPT, ids: Ids, max_new_tokens: int) -> Tensor:
    """Return one prompt (T,) that fits the context together with what will follow it."""
    prompt = _checked(model, ids, max_new_tokens, ndims=(1,))
    length, context = len(prompt) + max_new_tokens, model.config.context
    if length > context:
        raise ValueError(
            f"Prompt and new tokens are {length} together and the model's context is {context}: "
            "ask for fewer."
        )
    return prompt
