"""Lesson 11: right answers of every style pass, wrong ones get the sentence that fits."""

import functools
import math
import re

import nbformat
import numpy as np
import torch
from graded import CheckerTests, run_answer

from aigc_utils.checks import gpt2_chat as check


@functools.cache
def space():
    return {"np": np, "rng": np.random.default_rng(1)}


def function_of(notebook: nbformat.NotebookNode, name: str):
    """Run the learner's cell of one exercise and return the function that it defines."""
    return run_answer(notebook, name, dict(space()))


# --- 1 · template ---------------------------------------------------------------------------------


def safe(text):
    return text.replace("<|", "< |")


def template(
    clean=safe,
    system=check.SYSTEM,
    end="<|im_end|>\n",
    gap="\n",
    tail="<|im_start|>assistant\n",
    first=lambda messages: messages[0]["role"] != "system",
):
    """A template with one part wrong or left out."""

    def chat_prompt(messages):
        if system and first(messages):
            messages = [{"role": "system", "content": system}, *messages]
        turns = (f"<|im_start|>{m['role']}{gap}{clean(m['content'])}{end}" for m in messages)
        return "".join(turns) + tail

    return chat_prompt


def template_joined(messages):
    turns = [(m["role"], m["content"]) for m in messages]
    if turns[0][0] != "system":
        turns.insert(0, ("system", check.SYSTEM))
    lines = []
    for role, content in turns:
        lines += ["<|im_start|>" + role, re.sub(r"<(?=\|)", "<\u200b", content) + "<|im_end|>"]
    return "\n".join([*lines, "<|im_start|>assistant", ""])


def deleted(text):
    for mark in check.MARKS:
        text = text.replace(mark, "")
    return text


def deleted_again_and_again(text):
    while deleted(text) != text:
        text = deleted(text)
    return text


def marked(text):
    return re.sub(r"<\|im_(start|end)\|>", r"[\1]", text)


def inserts(messages):
    if messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": check.SYSTEM})
    return template()(messages)


def of_users(messages):
    made = [m if m["role"] != "user" else m | {"content": safe(m["content"])} for m in messages]
    return template(lambda text: text)(made)


# --- 2 · int8 -------------------------------------------------------------------------------------


def packed(
    largest=lambda w: np.abs(w).max(axis=1), top=127, rounding=np.rint, dtype=np.int8, safe=True
):
    """An int8 matrix with one thing wrong."""

    def quantize(weight):
        large = largest(weight)
        large = np.broadcast_to(large, len(weight)) if np.ndim(large) == 0 else large
        scale = (np.where(large > 0, large, 1) if safe else large) / top
        scaled = rounding(weight / scale[: len(weight), None])
        return scaled.astype(np.int64).astype(dtype), scale

    return quantize


def packed_by_rows(weight):
    q, scale = np.zeros(weight.shape, dtype=np.int8), []
    for i, row in enumerate(weight):
        large = max(abs(x) for x in row)
        scale.append(large / 127 if large else 1.0)
        for j, x in enumerate(row):
            q[i, j] = round(x / scale[-1])
    return q, scale


def packed_of_torch(weight):
    weight = torch.tensor(weight)
    scale = weight.abs().amax(dim=1) / 127
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def packed_half_up(weight):
    scale = np.maximum(weight.max(1), -weight.min(1)) / 127
    scale[scale == 0] = 123.0
    return [np.floor((weight.T / scale).T + 0.5).astype("int8"), scale]


def packed_quietly(weight):
    scale = np.linalg.norm(weight, np.inf, axis=1) if weight.shape[1] == 1 else None
    scale = np.abs(weight).max(axis=-1) / 127
    with np.errstate(invalid="ignore", divide="ignore"):
        q = np.nan_to_num(np.round(weight / scale[:, np.newaxis]))
    return q.astype(np.int8), np.where(scale == 0, 1e-3, scale)


# --- 3 · log probabilities ------------------------------------------------------------------------


def log_probs(shift=1, start=0, change=lambda x: x, stable=True, axis=1):
    def reply_log_probs(logits, ids, n_prompt):
        rows = logits
        if stable:
            rows = rows - rows.max(axis=axis, keepdims=True)
        rows = rows - np.log(np.exp(rows).sum(axis=axis, keepdims=True))
        first = n_prompt - shift + start
        rows = rows[first : len(ids) - shift]
        return change(rows[np.arange(len(rows)), ids[n_prompt + start :]])

    return reply_log_probs


def log_probs_by_loops(logits, ids, n_prompt):
    found = []
    for t in range(n_prompt, len(ids)):
        row = [float(x) for x in logits[t - 1]]
        top = max(row)
        found.append(row[ids[t]] - top - math.log(sum(math.exp(x - top) for x in row)))
    return found


def log_probs_of_torch(logits, ids, n_prompt):
    rows = torch.tensor(logits[n_prompt - 1 : -1]).log_softmax(dim=-1)
    return rows.gather(1, torch.tensor(ids[n_prompt:])[:, None])[:, 0]


def log_probs_of_cross_entropy(logits, ids, n_prompt):
    losses = torch.nn.functional.cross_entropy(
        torch.tensor(logits[:-1]), torch.tensor(ids[1:]), reduction="none"
    )
    return -losses[n_prompt - 1 :]


def log_probs_of_logaddexp(logits, ids, n_prompt):
    total = np.logaddexp.reduce(logits, axis=1)
    return np.float32([logits[t - 1, ids[t]] - total[t - 1] for t in range(n_prompt, len(ids))])


def log_probs_all(logits, ids, n_prompt):
    rows = np.take_along_axis(logits[:-1] - logits[:-1].max(1)[:, None], ids[1:, None], axis=1)
    return rows


def raw_logits(logits, ids, n_prompt):
    return logits[np.arange(n_prompt - 1, len(ids) - 1), ids[n_prompt:]]


def log_of_softmax(logits, ids, n_prompt):
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    return np.log(probs[np.arange(n_prompt - 1, len(ids) - 1), ids[n_prompt:]])


def log_of_clipped(logits, ids, n_prompt):
    return np.maximum(log_of_softmax(logits, ids, n_prompt), np.log(1e-12))


def likeliest(logits, ids, n_prompt):
    rows = torch.tensor(logits[n_prompt - 1 : -1]).log_softmax(dim=-1)
    return rows.max(dim=1).values


# --- 4 · trimming ---------------------------------------------------------------------------------


def trimmer(
    keep_system=True,
    only_user=True,
    step=1,
    error=ValueError,
    over=0,
    text="too long",
    strict=False,
):
    """A trimmer with one thing wrong."""

    def trim(messages, budget, count):
        system = [m for m in messages[:1] if m["role"] == "system"]
        rest = messages[len(system) :]
        system = system if keep_system else []
        for start in range(0, len(rest), step):
            kept = system + rest[start:]
            tokens = count(kept) + strict
            if (rest[start]["role"] == "user" or not only_user) and tokens <= budget + over:
                return kept
        if error:
            raise error(text) if text else error
        return [*system, rest[-1]]

    return trim


def trim_by_popping(messages, budget, count):
    kept = list(messages)
    first = 1 if kept[0]["role"] == "system" else 0
    while len(kept) > first and (count(kept) > budget or kept[first]["role"] != "user"):
        del kept[first]
    if len(kept) == first:
        raise ValueError("the question does not fit")
    return kept


def trim_from_the_end(messages, budget, count):
    system, *others = messages if messages[0]["role"] == "system" else (None, *messages)
    best = None
    for size in range(1, len(others) + 1):
        kept = ([system] if system else []) + others[-size:]
        if others[-size]["role"] == "user" and count(kept) <= budget:
            best = kept
    if best is None:
        raise ValueError(f"{budget} tokens are too few")
    return best


def trim_recursive(messages, budget, count, head=None):
    if head is None:
        n = int(messages[0]["role"] == "system")
        return trim_recursive(messages[n:], budget, count, messages[:n])
    tail = messages
    if not tail:
        raise ValueError("nothing fits")
    if tail[0]["role"] == "user" and count([*head, *tail]) <= budget:
        return [*head, *tail]
    return trim_recursive(tail[1:], budget, count, head)


def trim_by_search(messages, budget, count):
    n = int(messages[0]["role"] == "system")
    starts = [i for i in range(n, len(messages)) if messages[i]["role"] == "user"]
    fitting = (messages[:n] + messages[i:] for i in starts)
    kept = next((k for k in fitting if not count(k) > budget), None)
    if kept is None:
        raise ValueError("shorten the question")
    return tuple(kept)


def keeps_the_oldest(messages, budget, count):
    kept = trimmer()(messages, budget, count)
    return [*messages[: len(kept) - 1], messages[-1]]


def pops(messages, budget, count):
    kept = trimmer()(messages, budget, count)
    messages[:] = kept
    return messages


def by_the_sum(messages, budget, count):
    return trimmer()(messages, budget, lambda kept: sum(count([m]) - 3 for m in kept))


def by_single_counts(messages, budget, count):
    return trimmer()(messages, budget, lambda kept: sum(count([m]) for m in kept))


def any_system(messages, budget, count):
    system = [m for m in messages if m["role"] == "system"]
    rest = [m for m in messages if m["role"] != "system"]
    for start in range(len(rest)):
        if rest[start]["role"] == "user" and count(system + rest[start:]) <= budget:
            return system + rest[start:]
    raise ValueError("too long")


def in_pairs(messages, budget, count):
    n = int(messages[0]["role"] == "system")
    kept = list(messages)
    while count(kept) > budget:
        if len(kept) < n + 3:
            raise ValueError("too long")
        del kept[n : n + 2]
    return kept


RIGHT = {
    "chat_prompt": [
        template(),
        template_joined,
        template(lambda text: text.replace("<|", "‹|")),
        template(deleted_again_and_again),
        template(marked),
        template(lambda text: re.sub(r"<\|", "&lt;|", text)),
    ],
    "quantize": [packed(), packed_by_rows, packed_of_torch, packed_half_up, packed_quietly],
    "reply_log_probs": [
        log_probs(),
        log_probs_by_loops,
        log_probs_of_torch,
        log_probs_of_cross_entropy,
        log_probs_of_logaddexp,
    ],
    "trim": [trimmer(), trim_by_popping, trim_from_the_end, trim_recursive, trim_by_search],
}
WRONG = {
    "chat_prompt": [
        (template(lambda text: text), "still puts a mark into the prompt."),
        (template(deleted), "what is left and right of it meets"),
        (template(lambda text: deleted(deleted(deleted(text)))), "still puts a mark"),
        (template(lambda text: re.sub(r"<\|.*?\|>", "", text)), "still puts a mark"),
        (template(lambda text: safe(text).replace("  ", " ")), "must be … user\\n  Why … and is"),
        (template(lambda text: text.replace("<|", "")), "what is left and right of it meets"),
        (template(lambda text: text.replace("|>", "| >")), "'x |> f() || y' holds no `<|`"),
        (template(lambda text: text.replace("<|", "|<")), "still puts a mark"),
        (template(lambda text: "" if "<|" in text else text), "'Hi' is gone"),
        (template(system=None), "goes in front"),
        (template(first=lambda messages: True), "must not be added to it"),
        (
            template(first=lambda messages: "system" not in [m["role"] for m in messages]),
            "further down is not the *first*",
        ),
        (template(system="You are a helpful assistant"), "must be … and is"),
        (template(tail=""), "must end with the assistant's opened turn"),
        (template(tail="<|im_start|>assistant"), "*and a line feed*"),
        (template(tail="<|im_start|>assistant\n<|im_end|>\n"), "stays open"),
        (template(tail=2 * "<|im_start|>assistant\n"), "opened twice"),
        (template(end="<|im_end|>"), "After each end mark"),
        (template(end="\n<|im_end|>\n"), "follows the content at once"),
        (template(gap=" "), "Between the role and the content"),
        (template(lambda text: safe(text).strip()), "the space around them included"),
        (template(lambda text: text.replace("|", "")), "must be"),
        (template(lambda text: text.replace("<", "&lt;")), "must be"),
        (of_users, "of the assistant still puts a mark"),
        (inserts, "changes its input `messages`"),
        (lambda messages: messages, "one string"),
    ],
    "quantize": [
        (packed(lambda w: np.abs(w).max()), "same scale"),
        (packed(lambda w: np.abs(w).max(axis=0)), ""),
        (packed(lambda w: w.max(axis=1)), "may be a negative one"),
        (packed(top=128), "becomes 128"),
        (packed(top=255, dtype=np.int8), "becomes 255"),
        (packed(lambda w: np.ptp(w, axis=1), top=255), "spreads the row"),
        (packed(rounding=np.trunc), "cut towards zero"),
        (packed(rounding=np.floor), "rounded down"),
        (packed(rounding=np.ceil), "rounded up"),
        (packed(rounding=lambda x: np.abs(np.rint(x))), "The signs are gone"),
        (packed(dtype=np.int16), "must be int8"),
        (packed(dtype=np.float64), "must be int8"),
        (packed(safe=False), "row of zeros"),
        (packed(top=100), "must have"),
        (lambda w: packed()(w)[0], "must return 2 things"),
        (lambda w: (packed()(w)[0], 2 * packed()(w)[1]), "must have"),
        (lambda w: (packed()(w)[0], 1 / packed()(w)[1]), "That is 1 / scale"),
        (lambda w: (packed()(w)[0], packed()(w)[1][:, None]), "must have shape (5,)"),
        (lambda w: (packed()(w)[0].T, packed()(w)[1]), "`q` must have shape (5, 67)"),
        (packed(lambda w: np.maximum(np.abs(w).max(axis=1), 1e-8)), "must have"),
    ],
    "reply_log_probs": [
        (log_probs(shift=0), "Off by one"),
        (log_probs(shift=0, change=np.exp), "Off by one, and probabilities"),
        (log_probs(change=np.exp), "take their natural logarithm"),
        (log_probs(change=lambda x: x / np.log(2)), "in bits"),
        (log_probs(change=lambda x: x / np.log(10)), "base 10"),
        (log_probs(change=lambda x: -x), "These are losses"),
        (log_probs(change=np.cumsum), "sums of all tokens so far"),
        (log_probs(change=np.mean), "the reply has 5 tokens"),
        (log_probs(start=1), "the reply has 5 tokens"),
        (log_probs(stable=False), "subtract each row's maximum"),
        (log_probs(axis=0), "Each column adds up"),
        (log_probs(axis=None), "The whole table"),
        (log_probs(change=lambda x: x - 1), "must have"),
        (log_probs_all, "the reply has 5 tokens"),
        (raw_logits, "These are the logits themselves"),
        (log_of_softmax, "never take the log of a probability"),
        (log_of_clipped, "must have"),
        (likeliest, "the likeliest token of each row"),
    ],
    "trim": [
        (lambda messages, budget, count: messages, "the result has"),
        (trimmer(keep_system=False), "the system message is gone"),
        (trimmer(only_user=False), "a message of the assistant stands first"),
        (trimmer(step=4), "messages would fit, and you keep"),
        (trimmer(error=None), "raise a ValueError"),
        (trimmer(error=KeyError), "stops in line … KeyError"),
        (trimmer(text=""), "must say what is wrong"),
        (trimmer(over=1), "the result has"),
        (trimmer(strict=True), "would fit"),
        (keeps_the_oldest, "hole in what you keep"),
        (pops, "changes its input `messages`"),
        (by_the_sum, "which `count` gives for the whole list"),
        (by_single_counts, "would fit"),
        (any_system, "hole in what you keep"),
        (in_pairs, ""),
        (lambda messages, budget, count: messages[-1:], ""),
        (lambda messages, budget, count: messages[-1], "return a list of messages"),
        (lambda messages, budget, count: [], "the last message always stays"),
    ],
}


class TestCheckers(CheckerTests):
    check, solutions = check, "11_gpt2_chat.ipynb"
    right, wrong, function_of = RIGHT, WRONG, staticmethod(function_of)
