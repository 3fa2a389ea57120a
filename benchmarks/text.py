"""The trainer of this course against the CPU recipe that everybody cites, on your machine.

    python benchmarks/text.py                          # on the novel
    python benchmarks/text.py --text FILE --json OUT   # on any UTF-8 text
    python benchmarks/text.py --ablation               # what each idea of ours is worth

The reference is nanoGPT's recipe for a CPU (Andrej Karpathy, *nanoGPT*, README, 2022): 4 layers,
4 heads, 128 wide, context 64, 12 windows a step, 2,000 steps of AdamW, written here from its
published settings. Ours is `training.train` with the model and the run below. Both predict the
same text by character, are judged by the same loss (`training.evaluate`: the whole of the last
tenth, fixed windows), and run in processes of their own, by turns, so that both meet the same
machine. Seconds are seconds of training: start-up and validation are left out on both sides.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from aigc_utils import session

session.prepare()  # before the libraries that read it are imported

import torch
import torch.nn.functional as F
from torch import Tensor

from aigc_utils import data, files
from aigc_utils.gpt import GPT, LLAMA, GPTConfig
from aigc_utils.training import TrainConfig, evaluate, train

REFERENCE = {"context": 64, "n_layers": 4, "n_heads": 4, "d_model": 128, "mlp": "gelu"}
REFERENCE_RUN = {
    "steps": 2000,
    "batch_size": 12,
    "lr": 1e-3,
    "min_lr": 1e-4,
    "warmup": 100,
    "betas": (0.9, 0.99),
    "weight_decay": 0.1,
    "clip": 1.0,
}

OURS: dict[str, Any] = {
    "context": 64,
    "n_layers": 2,
    "n_heads": 2,
    "d_model": 128,
    "qk_norm": True,
    "ngram_buckets": 16384,
    **LLAMA,
    "mlp": "relu2",
}
OURS_RUN = TrainConfig(steps=76, batch_size=32, lr=0.01)

# name -> what replaces ours in the model, and in the run. Each takes one idea away.
ABLATION: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ours": ({}, {}),
    "no table of n-grams": ({"ngram_buckets": 0}, {}),
    "learned positions for rotary": ({"positions": "learned"}, {}),
    "queries and keys not normalised": ({"qk_norm": False}, {}),
    "LayerNorm for RMSNorm": ({"norm": "layer"}, {}),
    "GELU for squared ReLU": ({"mlp": "gelu"}, {}),
    "SwiGLU for squared ReLU": ({"mlp": "swiglu", "d_mlp": 344}, {}),
    "branches do not start at zero": ({"zero_branches": False}, {}),
    # Embedding and table keep their rate; of 0.0008, 0.0015, 0.002 and 0.003 the second is best.
    "AdamW for Muon": ({}, {"optimizer": "adamw", "blocks_lr": 0.0015}),
    # Of the rates 0.003, 0.005, 0.01 and 0.02 the first is AdamW's best here.
    "AdamW with one rate for Muon": ({}, {"optimizer": "adamw", "lr": 0.003}),
    "constant learning rate": ({}, {"decay": 0.0}),
    "decay from the first step": ({}, {"decay": 1.0}),
    "warm-up over a tenth": ({}, {"warmup": 0.1}),
    "weight decay 0.1": ({}, {"weight_decay": 0.1}),
    "dropout 0.1": ({"dropout": 0.1}, {}),
    "16 windows, twice the steps": ({}, {"batch_size": 16, "steps": 2 * OURS_RUN.steps}),
    "context 128, 16 windows": ({"context": 128}, {"batch_size": 16}),
    "one layer": ({"n_layers": 1}, {}),
    "three layers": ({"n_layers": 3}, {}),
    "float32": ({}, {"bf16": False}),
}


# One run, in a process of its own ----------------------------------------------------------------


def encode(text: str) -> tuple[Tensor, Tensor, int]:
    """Ids of the first nine tenths, of the last tenth, and how many characters there are."""
    symbols = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([symbols[character] for character in text])
    cut = int(0.9 * len(ids))
    return ids[:cut], ids[cut:], len(symbols)


def reference_lr(step: int) -> float:
    """Learning rate of the reference at step 0, 1, …: warm-up, then half a cosine."""
    r = REFERENCE_RUN
    if step < r["warmup"]:
        return r["lr"] * (step + 1) / (r["warmup"] + 1)
    done = (step - r["warmup"]) / (r["steps"] - r["warmup"])
    return r["min_lr"] + 0.5 * (1 + math.cos(math.pi * done)) * (r["lr"] - r["min_lr"])


def train_reference(model: GPT, train_ids: Tensor, val_ids: Tensor) -> list[dict[str, float]]:
    """Train by the reference's settings; return rows of step, seconds, val_loss."""
    r, context = REFERENCE_RUN, model.config.context
    matrices = [w for w in model.parameters() if w.ndim >= 2]
    vectors = [w for w in model.parameters() if w.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": r["weight_decay"]},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=r["lr"], betas=r["betas"])
    rows, seconds, offsets = [], 0.0, torch.arange(context + 1)
    since = time.perf_counter()
    for step in range(r["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = reference_lr(step)
        starts = torch.randint(len(train_ids) - context, (r["batch_size"], 1))
        pieces = train_ids[starts + offsets]
        logits = model(pieces[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), r["clip"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 250 == 0:
            seconds += time.perf_counter() - since
            val_loss = evaluate(model, val_ids)
            rows.append({"step": step + 1, "seconds": seconds, "val_loss": val_loss})
            since = time.perf_counter()
    return rows


def train_ours(
    model: GPT, train_ids: Tensor, val_ids: Tensor, run: TrainConfig
) -> list[dict[str, float]]:
    """Train with `training.train`; return rows of step, seconds, val_loss."""
    with tempfile.TemporaryDirectory() as folder:
        done = train(model, (train_ids, val_ids), run, Path(folder) / "run")
    rows = [row for row in done.rows if "val_loss" in row and row["step"]]
    return [{name: row[name] for name in ("step", "seconds", "val_loss")} for row in rows]


def one_run(job: dict[str, Any]) -> dict[str, Any]:
    """Do what `job` says (who, seed, text, model, run) and return its measurements."""
    session.start(seed=job["seed"])
    train_ids, val_ids, vocab_size = encode(read_text(job["text"]))
    ours = job["who"] == "ours"
    options = {"bias": False, **(OURS if ours else REFERENCE), **job["model"]}
    zero_branches = options.pop("zero_branches", ours)
    model = GPT(GPTConfig(vocab_size=vocab_size, **options))
    model.init_weights(zero_branches=zero_branches)
    before = [weight.detach().clone() for weight in model.parameters()]
    if ours:
        steps = job["run"].get("steps", OURS_RUN.steps)
        options = {"eval_every": max(1, steps // 20), **job["run"]}
        run = replace(OURS_RUN, seed=job["seed"], **options)
        rows = train_ours(model, train_ids, val_ids, run)
        tokens = run.steps * run.batch_size * model.config.context
        bf16 = run.bf16 if run.bf16 is not None else "where it pays"
    else:
        rows = train_reference(model, train_ids, val_ids)
        tokens = REFERENCE_RUN["steps"] * REFERENCE_RUN["batch_size"] * model.config.context
        bf16 = False
    still = [torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)]
    assert not all(still), "no weight moved"
    seconds = rows[-1]["seconds"]
    return {
        **job,
        "val_loss": rows[-1]["val_loss"],
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "flop_per_token": flop_per_token(model),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "bf16": bf16,
        "curve": rows,
    }


def flop_per_token(model: GPT) -> int:
    """Forward and backward: 6 a weight that multiplies, 12 · context · d_model a layer (PaLM)."""
    c = model.config
    weights = sum(w.numel() for w in model.blocks.parameters() if w.ndim == 2)
    weights += model.embedding.weight.numel()  # the tied head; the lookup itself is free
    return 6 * weights + 12 * c.n_layers * c.context * c.d_model


# All of them -------------------------------------------------------------------------------------


def read_text(path: str | None) -> str:
    """Return the text in `path`, or the novel."""
    return data.load_text(path or "pride_and_prejudice")


def measure(job: dict[str, Any], results: Path) -> dict[str, Any]:
    """Run `job` in a process of its own, unless `results` already holds its outcome."""
    key = json.dumps(job, sort_keys=True)
    if results.exists():
        for line in results.read_text().splitlines():
            found = json.loads(line)
            if json.dumps({name: found[name] for name in job}, sort_keys=True) == key:
                return found
    command = [sys.executable, __file__, "--job", key]
    environment = {**os.environ, "AIGC_STATIC": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"A run failed: {done.stderr.strip().splitlines()[-1]}")
    with results.open("a") as file:
        file.write(done.stdout.splitlines()[-1] + "\n")
    return json.loads(done.stdout.splitlines()[-1])


def matmul_peak(dtype: torch.dtype) -> float:
    """Best rate, FLOP/s, of a product of 1,024 × 1,024 matrices on the threads of a lesson."""
    torch.set_num_threads(session.THREADS)
    matrix, times = torch.ones(1024, 1024, dtype=dtype), []
    for _ in range(20):
        begin = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - begin)
    return 2 * 1024**3 / min(times)


def seconds_to(target: float, curve: list[dict[str, float]]) -> float | None:
    """Training seconds at the first validation with a loss of `target` or less."""
    return next((row["seconds"] for row in curve if row["val_loss"] <= target), None)


def race(text: str | None, seeds: list[int], results: Path) -> dict[str, Any]:
    """Run reference and ours by turns; every seed's target is its reference's final loss."""
    rounds = []
    for seed in seeds:
        job = {"text": text, "seed": seed, "model": {}, "run": {}}
        reference = measure({"who": "reference", **job}, results)
        ours = measure({"who": "ours", **job}, results)
        plain = measure({"who": "ours", **job, "run": {"bf16": False}}, results)
        per_step = ours["seconds"] / OURS_RUN.steps
        as_long = {
            "as many tokens": reference["tokens"] * OURS_RUN.steps // ours["tokens"],
            # Rounded, so that a repeated call finds the finished run.
            "as many seconds": round(reference["seconds"] / per_step, -2),
        }
        longer = {
            name: measure({"who": "ours", **job, "run": {"steps": int(steps)}}, results)
            for name, steps in as_long.items()
        }
        target = reference["val_loss"]
        rounds.append(
            {
                "seed": seed,
                "target": target,
                "reference": reference,
                "ours": {**ours, "seconds_to_target": seconds_to(target, ours["curve"])},
                "ours_float32": {**plain, "seconds_to_target": seconds_to(target, plain["curve"])},
                **{f"ours_{name.replace(' ', '_')}": run for name, run in longer.items()},
            }
        )
    return summary(rounds)


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, with every seed's own figures beside them."""

    def average(who: str) -> dict[str, Any]:
        runs = [one[who] for one in rounds]
        names = ("seconds", "val_loss", "tokens", "tokens_per_second", "peak_gb", "parameters")
        out = {name: mean(run[name] for run in runs) for name in names}
        out["flop_per_second"] = out["tokens_per_second"] * runs[0]["flop_per_token"]
        out["val_loss_sd"] = stdev([run["val_loss"] for run in runs]) if len(runs) > 1 else None
        if who != "reference" and "seconds_to_target" in runs[0]:
            reached = [run["seconds_to_target"] for run in runs]
            out["seconds_to_target"] = None if None in reached else mean(reached)
        return out

    def speedup(who: str) -> float | None:
        reached = [one[who]["seconds_to_target"] for one in rounds]
        if None in reached:
            return None
        pairs = zip(rounds, reached, strict=True)
        return mean(one["reference"]["seconds"] / seconds for one, seconds in pairs)

    contestants = [name for name in rounds[0] if name not in ("seed", "target")]
    return {
        **{who: average(who) for who in contestants},
        "speedup": speedup("ours"),
        "speedup_float32": speedup("ours_float32"),
        "seeds": rounds,
    }


def print_race(outcome: dict[str, Any]) -> None:
    """One table: a line for each contestant, means over the seeds."""
    peaks = {name: matmul_peak(getattr(torch, name)) for name in ("float32", "bfloat16")}
    print(
        "matrix products here: " + ", ".join(f"{n} {p / 1e9:.0f} GFLOP/s" for n, p in peaks.items())
    )
    head = ("", "to target", "training", "val loss", "±", "tokens/s", "parameters", "GB", "of peak")
    print("{:26}{:>11}{:>10}{:>10}{:>8}{:>10}{:>12}{:>6}{:>9}".format(*head))
    for who in [name for name in outcome if isinstance(outcome[name], dict)]:
        run = outcome[who]
        reached = run["seconds"] if who == "reference" else run.get("seconds_to_target", "")
        reached = "not reached" if reached is None else reached and f"{reached:.1f} s"
        spread = "" if run["val_loss_sd"] is None else f"{run['val_loss_sd']:.3f}"
        peak = peaks["float32" if who in ("reference", "ours_float32") else "bfloat16"]
        print(
            f"{who.replace('_', ' '):26}{reached:>11}{run['seconds']:>8.1f} s"
            f"{run['val_loss']:>10.3f}"
            f"{spread:>8}{run['tokens_per_second']:>10,.0f}{run['parameters']:>12,.0f}"
            f"{run['peak_gb']:>6.1f}{run['flop_per_second'] / peak:>9.0%}"
        )
    for name in ("speedup", "speedup_float32"):
        value = outcome[name]
        print(f"{name}: " + ("target not reached" if value is None else f"{value:.1f} times"))


def ablation(text: str | None, seeds: list[int], results: Path, record: Path | None) -> None:
    """Print loss and seconds of ours, and of ours with one idea changed; keep them in `record`."""
    print(f"{'':34}{'val loss':>9}{'±':>7}{'worse by':>10}{'seconds':>9}")
    base, rows = 0.0, []
    for name, (model, run) in ABLATION.items():
        # Only the end counts here, so validate only there.
        run = {**run, "eval_every": run.get("steps", OURS_RUN.steps)}
        job = {"who": "ours", "text": text, "model": model, "run": run}
        runs = [measure({**job, "seed": seed}, results) for seed in seeds]
        loss = mean(one["val_loss"] for one in runs)
        base = base or loss
        spread = stdev([one["val_loss"] for one in runs]) if len(runs) > 1 else 0.0
        seconds = min(one["seconds"] for one in runs)  # the least disturbed
        print(f"{name:34}{loss:9.3f}{spread:7.3f}{loss - base:+10.3f}{seconds:9.1f}", flush=True)
        kept = ("seed", "val_loss", "seconds", "parameters")
        rows += [{"idea": name, **{key: one[key] for key in kept}} for one in runs]
    if record:
        files.write_whole(record, "".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    """Read the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", metavar="FILE", help="a UTF-8 text; the novel without it")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each contestant (3)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the outcome here")
    parser.add_argument("--ablation", action="store_true", help="what each idea is worth")
    parser.add_argument(
        "--record", metavar="FILE", type=Path, help="write the ablation's runs here"
    )
    parser.add_argument("--results", metavar="FILE", type=Path, help="keep and reuse single runs")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(one_run(json.loads(options.job))))
        return
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    for file in (options.json, options.record, options.results):
        if file and not file.parent.is_dir():  # better now than after a quarter of an hour
            parser.error(f"there is no folder {file.parent} to write {file.name} into")
    text = str(Path(options.text).resolve()) if options.text else None
    try:
        read_text(text)
    except data.DataError as error:
        raise SystemExit(str(error)) from None
    seeds = list(range(1, options.seeds + 1))
    with tempfile.TemporaryDirectory() as folder:
        results = options.results or Path(folder) / "runs.jsonl"
        if options.ablation:
            ablation(text, seeds, results, options.record)
            return
        outcome = race(text, seeds, results)
    if options.json:
        files.write_whole(options.json, json.dumps(outcome, indent=1) + "\n")
    print_race(outcome)


if __name__ == "__main__":
    main()
