"""Our decoder against that of transformers, writing one text with SmolLM2-135M on your machine.

    python benchmarks/decode.py                  # everything
    python benchmarks/decode.py --rounds 15      # more turns: where others use the machine, too
    python benchmarks/decode.py --json OUT

Both have the same weights and write the same answer greedily. All contestants live in one process
and write by turns, a few tokens each, so that all meet the same machine; a figure is the median of
the turns, with the middle half of them. Only steps are timed: prompts are read before the clock
starts. What bounds a step: every weight is fetched once for each token, so no decoder is faster
than bandwidth ÷ bytes, with the bandwidth measured between the turns.
"""

import argparse
import copy
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from aigc_utils import session

# As the chat server: between two products of a step the threads stay awake. It helps both sides.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
session.prepare()  # before the libraries that read it are imported

import torch
from torch import Tensor, nn

from aigc_utils import decoding, files, models, step
from aigc_utils.gpt import GPT, KVCache
from aigc_utils.huggingface import from_huggingface

QUESTION = "Name the capitals of five countries in Europe, and say one sentence about each."
REPEATS = "Write this list again, word for word:\n" + "\n".join(
    f"{i}. The train to {city} leaves from platform {i + 2} at {i + 7} o'clock."
    for i, city in enumerate(("Bath", "York", "Leeds", "Derby", "Oxford"), start=1)
)
N_NEW = 12  # tokens a turn
BATCHES = (1, 2, 4, 8)

Turn = Callable[[], float]  # does some work and returns seconds per token, or GB/s


# What is measured --------------------------------------------------------------------------------


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the weights that one token reads: matrices and scales, a tied table once."""
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers()) if t.ndim}
    tables = {id(model.cos), id(model.sin)} if isinstance(model, GPT) else set()
    if isinstance(model, GPT) and not model.config.tied:  # a row of it is looked up
        tables.add(id(model.embedding.weight))
    return sum(t.nbytes for key, t in tensors.items() if key not in tables)


def ours(model: GPT, prompt: Tensor, one: Callable[[GPT, Tensor, KVCache], Tensor]) -> Turn:
    """Write N_NEW tokens after prompt (B, T) with one step a token; seconds per step."""
    dtype = model.embedding.weight.dtype
    start = KVCache(model.config, len(prompt), prompt.shape[1] + N_NEW, dtype)
    first = model(prompt, start)[:, -1:].argmax(dim=-1)

    def turn() -> float:
        start.used, token = prompt.shape[1], first  # the prompt's keys and values stay
        begin = time.perf_counter()
        for _ in range(N_NEW):
            token = one(model, token, start)[:, -1:].argmax(dim=-1)
        return (time.perf_counter() - begin) / N_NEW

    return turn


def theirs(model: Any, prompt: Tensor) -> Turn:
    """The same with transformers, in a loop that is not slower than its `generate`."""

    def turn() -> float:
        out = model(prompt, use_cache=True, logits_to_keep=1)
        cache, token = out.past_key_values, out.logits[:, -1:].argmax(dim=-1)
        begin = time.perf_counter()
        for _ in range(N_NEW):
            logits = model(token, past_key_values=cache, use_cache=True).logits
            token = logits[:, -1:].argmax(dim=-1)
        return (time.perf_counter() - begin) / N_NEW

    return turn


def bandwidth() -> Turn:
    """GB/s at which a sum reads 270 MB, as much as the weights in bfloat16."""
    memory = torch.ones(270_000_000 // 4)

    def turn() -> float:
        begin = time.perf_counter()
        memory.sum()
        return memory.nbytes / (time.perf_counter() - begin) / 1e9

    return turn


def columns(module: Any) -> int:
    """How many numbers a linear map takes; four bits lie two in a byte."""
    return module.weight.shape[1] * (2 if isinstance(module, decoding.Int4Linear) else 1)


def products(model: GPT, in_order: bool) -> Turn:
    """Seconds for the products of one token and nothing else."""
    head = model.head if not model.config.tied else None
    maps = [module for module in model.blocks.modules() if hasattr(module, "weight")]
    maps = [module for module in maps if module.weight.ndim == 2]
    rows = {n: torch.randn(1, n) for n in {columns(module) for module in maps}}
    rows = {n: row.to(model.embedding.weight.dtype) for n, row in rows.items()}

    def turn() -> float:
        begin = time.perf_counter()
        with step.products_in_order(in_order):
            for module in maps:
                module(rows[columns(module)])
            x = rows[model.config.d_model]
            head(x) if head else nn.functional.linear(x, model.embedding.weight)
        return time.perf_counter() - begin

    return turn


def by_module(model: GPT, token: Tensor, cache: KVCache) -> Tensor:
    """The step as the lessons write it: the model is called."""
    return model(token, cache)


def by_turns(turns: dict[str, Turn], rounds: int) -> dict[str, list[float]]:
    """Let each work once unmeasured, then `rounds` times by turns."""
    measured: dict[str, list[float]] = {name: [] for name in turns}
    for count in range(rounds + 1):
        for name, turn in turns.items():
            result = turn()
            if count:
                measured[name].append(result)
    return measured


# The tables --------------------------------------------------------------------------------------


def table(head: list[str], rows: Iterator[list[str]] | list[list[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |", flush=True)
    print()


def spread(values: list[float], form: str) -> str:
    """Median and the middle half, as text."""
    low, _, high = quantiles(values, n=4)
    return f"{median(values):{form}} ({low:{form}}–{high:{form}})"


def contestants(chat: models.ChatModel) -> dict[str, Any]:
    """Name -> model, the same weights in each."""
    exact = from_huggingface(chat.model)
    return {
        "transformers float32": copy.deepcopy(chat.model).float(),
        "transformers bfloat16": chat.model,
        "ours float32": exact,
        "ours bfloat16": copy.deepcopy(exact).bfloat16(),
        "ours int8": decoding.to_int8(exact),
        "ours int4": decoding.to_int4(exact),
    }


def one_text(nets: dict[str, Any], prompt: Tensor, rounds: int) -> dict[str, Any]:
    """Race for one text, and take the step of ours apart."""
    turns: dict[str, Turn] = {"bandwidth": bandwidth()}
    for name, net in nets.items():
        if name.startswith("theirs") or not isinstance(net, GPT):
            turns[name] = theirs(net, prompt)
            continue
        turns[name] = ours(net, prompt, step.forward)
        turns[f"{name}, model called"] = ours(net, prompt, by_module)
        turns[f"{name}, products alone"] = products(net, in_order=True)
        if name == "ours bfloat16":
            turns[f"{name}, products by oneDNN"] = products(net, in_order=False)
    measured = by_turns(turns, rounds)
    rate = median(measured["bandwidth"])
    base = measured["transformers bfloat16"]
    rows = []
    for name, seconds in measured.items():
        if name == "bandwidth":
            continue
        net = nets[name.split(",")[0]]
        limit = rate * 1e9 / weight_bytes(net)
        per_second = [1 / s for s in seconds]
        # Turn by turn: both of a pair met the same minute.
        ratio = median(a / b for a, b in zip(base, seconds, strict=True))
        step_only = "products" not in name
        rows.append(
            [
                name,
                f"{1e3 * median(seconds):.1f}",
                spread(per_second, ".0f") if step_only else "",
                f"{ratio:.2f}" if step_only else "",
                f"{weight_bytes(net) / 1e6:.0f}",
                f"{limit:.0f}",
                f"{median(per_second) / limit:.0%}",
            ]
        )
    print(f"A sum reads {spread(measured['bandwidth'], '.0f')} GB/s; {rounds} turns each.\n")
    head = ["one text", "ms", "tokens/s", "× transformers bf16", "MB a token", "limit", "of it"]
    table(head, rows)
    return measured


def batches(nets: dict[str, Any], prompt: Tensor, rounds: int) -> dict[str, Any]:
    """Tokens per second of all texts together, against how many there are."""
    turns = {}
    for name, net in nets.items():
        for size in BATCHES:
            many = prompt.repeat(size, 1)
            mine = isinstance(net, GPT)
            turns[name, size] = ours(net, many, step.forward) if mine else theirs(net, many)
    measured = by_turns(turns, max(3, rounds // 3))
    rows = [
        [name, *(f"{size / median(measured[name, size]):.0f}" for size in BATCHES)] for name in nets
    ]
    table(["tokens/s, texts at once", *map(str, BATCHES)], rows)
    return {f"{name}, {size} at once": values for (name, size), values in measured.items()}


def drafts(nets: dict[str, Any], prompts: dict[str, list[int]], rounds: int) -> dict[str, Any]:
    """Greedy text with and without guesses by look-up, where it repeats and where it does not."""
    measured, rows, n = {}, [], 64
    for name in ("ours float32", "ours bfloat16", "ours int8", "ours int4"):
        for kind, ids in prompts.items():
            plain = decoding.generate(nets[name], ids, n, temperature=0)
            found, asked = decoding.lookup(nets[name], ids, n)
            same = next((i for i in range(n) if plain[i] != found[i]), n)
            turns = {
                "plain": lambda m=nets[name], i=ids: timed(decoding.generate, m, i, temperature=0),
                "look-up": lambda m=nets[name], i=ids: timed(decoding.lookup, m, i),
            }
            times = by_turns(turns, max(3, rounds // 3))
            per_second = [n / median(times[kind]) for kind in turns]
            ratio = median(a / b for a, b in zip(times["plain"], times["look-up"], strict=True))
            cells = [f"{n / asked:.1f}", *(f"{speed:.0f}" for speed in per_second), f"{ratio:.2f}"]
            rows.append([f"{name}, {kind}", *cells, f"{same} of {n}"])
            measured.update({f"{name}, {kind}, {way}": values for way, values in times.items()})
    head = ["with its prompt", "tokens a step", "tokens/s plain", "look-up", "×", "same tokens"]
    table(head, rows)
    return measured


def timed(
    write: Callable[..., Any], model: GPT, ids: list[int], n: int = 64, **options: Any
) -> float:
    begin = time.perf_counter()
    write(model, ids, n, **options)
    return time.perf_counter() - begin


def differences(nets: dict[str, Any], prompt: Tensor) -> dict[str, float]:
    """How far the last logits are from those of transformers in float32, by their own size."""
    right = nets["transformers float32"](prompt).logits[0]
    out = {}
    for name, net in nets.items():
        if isinstance(net, GPT):
            cache = KVCache(net.config, 1, prompt.shape[1], net.embedding.weight.dtype)
            rows = [step.forward(net, token, cache)[0] for token in prompt.split(1, dim=1)]
            logits = torch.cat(rows)
        else:
            logits = net(prompt).logits[0]
        out[name] = ((logits.float() - right).abs().max() / right.abs().max()).item()
    table(
        ["logits", "largest error ÷ largest logit"],
        [[name, f"{error:.1e}"] for name, error in out.items()],
    )
    return out


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contestant (9)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every turn here")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("--rounds must be at least 2")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"there is no folder {options.json.parent} to write into")
    session.start(seed=1)
    try:
        chat = models.load()
    except models.ModelError as error:
        raise SystemExit(str(error)) from None

    def ids(question: str) -> list[int]:
        turns = [{"role": "user", "content": question}]
        text = chat.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return chat.tokenizer(text, add_special_tokens=False).input_ids

    prompt = torch.tensor([ids(QUESTION)])
    with torch.inference_mode():
        nets = contestants(chat)
        outcome = {
            "logits": differences(nets, prompt),
            "one text": one_text(nets, prompt, options.rounds),
            "batches": batches(nets, prompt, options.rounds),
            "drafts": drafts(nets, {"repeats": ids(REPEATS), "new": ids(QUESTION)}, options.rounds),
        }
    if options.json:
        files.write_whole(options.json, json.dumps(outcome, indent=1) + "\n")


if __name__ == "__main__":
    main()
