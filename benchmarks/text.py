"""The trainer of this course against counting and against the CPU recipe that everybody cites.

    python benchmarks/text.py                          # on the novel
    python benchmarks/text.py --text FILE --json OUT   # on any UTF-8 text
    python benchmarks/text.py --ablation               # what each idea of ours is worth

Counting is modified Kneser–Ney (`ngram.KneserNey`) by character. The reference is nanoGPT's recipe
for a CPU (Andrej Karpathy, *nanoGPT*, README, 2022): 4 layers, 4 heads, 128 wide, context 64, 12
windows a step, 2,000 steps of AdamW, written here from its published settings; a row more shows
what half its steps at three times its rate do. Ours is `training.train` with the models and runs
below, and a *mixture*: the net also says, place by place, how far it trusts each counting model.

All learn from the same text and predict the same characters; losses are nats per character over
the whole of a part. First they learn from eight tenths (`data.split_text`), and the ninth tenth
chooses: what is written below was found with it, it sets the targets and draws the curves. Then
all are made anew, as chosen, from nine tenths, and the last tenth is opened to score them. The
ablation never opens it.

Every run has a process of its own, by turns, so that all meet the same machine. Seconds are those
of training; for counting, of counting and scoring one tenth; the mixture pays for both.
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
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev, variance
from typing import Any

from aigc_utils import session

session.prepare()  # before the libraries that read it are imported

import torch
import torch.nn.functional as F
from torch import Tensor

from aigc_utils import data, files, training
from aigc_utils.gpt import GPT, LLAMA, GPTConfig
from aigc_utils.ngram import KneserNey, chances
from aigc_utils.training import TrainConfig, evaluate, train

NOVEL = "pride_and_prejudice"
FINISHED = "the finished runs of the race"  # the reason for which the last tenth is opened

REFERENCE = {"context": 64, "n_layers": 4, "n_heads": 4, "d_model": 128, "mlp": "gelu"}
REFERENCE_RUN: dict[str, Any] = {
    "steps": 2000,
    "batch_size": 12,
    "lr": 1e-3,
    "min_lr": 1e-4,
    "warmup": 100,
    "betas": (0.9, 0.99),
    "weight_decay": 0.1,
    "clip": 1.0,
    "bf16": False,
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
ORDER = 8  # of the counting models in the mixture: 1-grams to 8-grams
# The longer n-grams are for less than one pass through the text: then the table learns by heart.
LONGER = {"ngram_buckets": 131_072, "ngram_longest": 6}

# name -> what is run. "ours" learns by itself, "mixture" on top of the counting models.
COUNTING = {f"Kneser–Ney, {n}-gram": {"who": "counting", "run": {"order": n}} for n in (4, 5, 6, 7)}
AS_MANY_TOKENS = 750  # steps of ours in which it reads as many tokens as the reference
LEARNING: dict[str, dict[str, Any]] = {
    "reference": {"who": "reference"},
    "reference, half the steps, thrice the rate": {
        "who": "reference",
        "run": {"steps": 1000, "lr": 3e-3, "min_lr": 3e-4},
    },
    "ours": {"who": "ours"},
    "ours in float32": {"who": "ours", "run": {"bf16": False}},
    "ours without the table": {"who": "ours", "model": {"ngram_buckets": 0}},
    "ours on top of 1- to 8-grams": {  # which hold what the table would
        "who": "mixture",
        "model": {"ngram_buckets": 0},
        "run": {"steps": 300},
    },
    "ours with n-grams to 6": {"who": "ours", "model": LONGER, "run": {"steps": 350, "lr": 0.02}},
    "ours, as many tokens as the reference": {"who": "ours", "run": {"steps": AS_MANY_TOKENS}},
    "ours without the table, as many tokens": {
        "who": "ours",
        "model": {"ngram_buckets": 0},
        "run": {"steps": AS_MANY_TOKENS},
    },
}

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
    # Embedding and table keep their rate; of 0.0008, 0.0015, 0.002 and 0.003 the second validates
    # best.
    "AdamW for Muon": ({}, {"optimizer": "adamw", "blocks_lr": 0.0015}),
    # Of the rates 0.0015, 0.002, 0.0025, 0.003, 0.005, 0.01 and 0.02 the second validates best.
    "AdamW with one rate for Muon": ({}, {"optimizer": "adamw", "lr": 0.002}),
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


def encode(text: str, alphabet: str) -> Tensor:
    """Ids (n,) of the characters of text: their places among the sorted characters of alphabet."""
    symbols = {character: i for i, character in enumerate(sorted(set(alphabet)))}
    return torch.tensor([symbols[character] for character in text])


def reference_lr(step: int, run: dict[str, Any] = REFERENCE_RUN) -> float:
    """Learning rate of the reference at step 0, 1, …: warm-up, then half a cosine."""
    if step < run["warmup"]:
        return run["lr"] * (step + 1) / (run["warmup"] + 1)
    done = (step - run["warmup"]) / (run["steps"] - run["warmup"])
    return run["min_lr"] + 0.5 * (1 + math.cos(math.pi * done)) * (run["lr"] - run["min_lr"])


def train_reference(
    model: GPT, train_ids: Tensor, val_ids: Tensor, run: dict[str, Any]
) -> list[dict[str, float]]:
    """Train by the reference's settings; return rows of step, seconds, val_loss."""
    context = model.config.context
    matrices = [w for w in model.parameters() if w.ndim >= 2]
    vectors = [w for w in model.parameters() if w.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": run["weight_decay"]},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=run["lr"], betas=run["betas"])
    rows, seconds, offsets = [], 0.0, torch.arange(context + 1)
    since = time.perf_counter()
    for step in range(run["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = reference_lr(step, run)
        starts = torch.randint(len(train_ids) - context, (run["batch_size"], 1))
        pieces = train_ids[starts + offsets]
        logits = model(pieces[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), pieces[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), run["clip"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 250 == 0 or step + 1 == run["steps"]:
            seconds += time.perf_counter() - since
            val_loss = evaluate(model, val_ids)
            rows.append({"step": step + 1, "seconds": seconds, "val_loss": val_loss})
            since = time.perf_counter()
    return rows


def train_ours(
    model: GPT, train_ids: Tensor, val_ids: Tensor, run: dict[str, Any]
) -> list[dict[str, float]]:
    """Train with `training.train`; return rows of step, seconds, val_loss.

    The model then holds the weights with the lowest loss of these.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = train(model, (train_ids, val_ids), TrainConfig(**run), Path(folder) / "run")
    rows = [row for row in done.rows if "val_loss" in row and row["step"]]
    return [{name: row[name] for name in ("step", "seconds", "val_loss")} for row in rows]


def mixture_nats(logits: Tensor, y: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """−log P(y) by the mixture, and by the net alone, both (B, T), for targets y (B, T).

    The net's last outputs weigh the opinions: its own first, then those of the counting models,
    `counted` (B, T, orders), which are their chances of y. P = Σ weight · chance, so the mixture
    needs no more of a counting model than one number a place.
    """
    experts = 1 + counted.shape[-1]
    own, weights = logits.float().split((logits.shape[-1] - experts, experts), dim=-1)
    alone = F.cross_entropy(own.mT, y, reduction="none")
    opinions = torch.cat((-alone[..., None], counted.log()), dim=-1)
    return -(weights.log_softmax(-1) + opinions).logsumexp(-1), alone


@torch.no_grad()
def evaluate_mixture(model: GPT, ids: Tensor, counted: Tensor) -> float:
    """`training.evaluate` for the mixture, whose chances of ids (n,) are `counted` (n, orders)."""
    context = model.config.context
    full = torch.arange(0, max(0, len(ids) - context), context)
    places = [rows[:, None] + torch.arange(context) for rows in full.split(64)]
    places.append(torch.arange(len(full) * context, len(ids) - 1)[None])  # what is left over
    total = torch.zeros((), dtype=torch.float64)
    for at in places:
        if at.numel():
            nats, _ = mixture_nats(model(ids[at]), ids[at + 1], counted[at + 1])
            total += nats.double().sum()
    return total.item() / (len(ids) - 1)


def train_mixture(
    model: GPT, train_ids: Tensor, val_ids: Tensor, run: dict[str, Any]
) -> list[dict[str, float]]:
    """Count, then train on top of the counts; return rows of step, seconds, val_loss.

    Two losses are added. That of the mixture teaches the weights; that of the net alone keeps it
    learning: its first opinions get no weight, and what has no weight gets no gradient either.
    """
    since, learn, context = time.perf_counter(), len(train_ids), model.config.context
    ids, config = torch.cat((train_ids, val_ids)), TrainConfig(**run)
    counted = torch.from_numpy(chances(ids, ORDER, model.config.vocab_size - 1 - ORDER, learn))
    batches = training.windows(learn, context, config.batch_size, config.seed)
    optimizers = training.make_optimizers(model, config)
    rows, seconds = [], 0.0
    for step in range(config.steps):
        at = next(batches)[:, None] + torch.arange(context)
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(config.bf16)):
            logits = model(ids[at])
        mixed, alone = mixture_nats(logits, ids[at + 1], counted[at + 1])
        (mixed.mean() + alone.mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                peak = group.setdefault("peak_lr", group["lr"])
                group["lr"] = training.schedule(step, config) * peak
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % config.eval_every == 0 or step + 1 == config.steps:
            seconds += time.perf_counter() - since
            val_loss = evaluate_mixture(model, val_ids, counted[learn:])
            rows.append({"step": step + 1, "seconds": seconds, "val_loss": val_loss})
            since = time.perf_counter()
    return rows


def count(parts: data.TextParts, alphabet: str, job: dict[str, Any]) -> dict[str, Any]:
    """Fit a counting model and score it; return its measurements."""
    learn, judged = texts(parts, job)
    since = time.perf_counter()
    model = KneserNey.fit(learn, job["run"]["order"], alphabet, modified=True)
    loss = model.bits_per_character(judged, learn) * math.log(2)
    seconds = time.perf_counter() - since
    out = {**job, "seconds": seconds, "tokens": len(learn)}
    if job.get("test"):
        return {**out, "test_loss": loss}
    curve = [{"step": 0, "seconds": seconds, "val_loss": loss}]
    return {**out, "val_loss": loss, "curve": curve}


def texts(parts: data.TextParts, job: dict[str, Any]) -> tuple[str, str]:
    """What the job learns from and what judges it: the ninth tenth or, with `test`, the last."""
    if job.get("test"):
        return parts.train + parts.val, parts.open_test(FINISHED)
    return parts.train, parts.val


def one_run(job: dict[str, Any]) -> dict[str, Any]:
    """Do what `job` says (who, seed, text, model, run, test) and return its measurements.

    A job with `test` learns from nine tenths and is scored by the last, once; it has no curve.
    """
    session.start(seed=job["seed"])
    parts = data.split_text(job["text"] or NOVEL)
    alphabet = "".join(sorted(set(data.load_text(job["text"] or NOVEL))))  # as the reference does
    if job["who"] == "counting":
        return {**count(parts, alphabet, job), **memory()}
    learn, judged = texts(parts, job)
    train_ids, val_ids = encode(learn, alphabet), encode(judged, alphabet)
    watched = val_ids
    if job.get("test"):  # nothing may rest on it while it trains: look at a known text, at the end
        watched = train_ids[-len(val_ids) :]
    options = {**(REFERENCE if job["who"] == "reference" else OURS), **job["model"]}
    zero_branches = options.pop("zero_branches", job["who"] != "reference")
    more = 1 + ORDER if job["who"] == "mixture" else 0
    model = GPT(GPTConfig(vocab_size=len(alphabet) + more, **{"bias": False, **options}))
    model.init_weights(zero_branches=zero_branches)
    before = [weight.detach().clone() for weight in model.parameters()]
    run = settings(job)
    if job.get("test"):
        run["eval_every"] = run["steps"]
    rows = TRAINERS[job["who"]](model, train_ids, watched, run)
    still = [torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)]
    assert not all(still), "no weight moved"
    tokens = run["steps"] * run["batch_size"] * model.config.context
    seconds = rows[-1]["seconds"]
    out = {
        **job,
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "flop_per_token": flop_per_token(model),
        "bf16": run["bf16"],
        **memory(),
    }
    if not job.get("test"):
        losses = [row["val_loss"] for row in rows]
        # `train` keeps the weights that validate best, the other two the last.
        best = min(losses) if job["who"] == "ours" else losses[-1]
        return {**out, "val_loss": best, "curve": rows}
    if job["who"] != "mixture":
        return {**out, "test_loss": evaluate(model, val_ids, bf16=run["bf16"])}
    ids = torch.cat((train_ids, val_ids))
    counted = torch.from_numpy(chances(ids, ORDER, len(alphabet), len(train_ids)))
    return {**out, "test_loss": evaluate_mixture(model, val_ids, counted[len(train_ids) :])}


TRAINERS = {"reference": train_reference, "ours": train_ours, "mixture": train_mixture}


def settings(job: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run: the reference's or ours (`TrainConfig`), with what the job changes."""
    if job["who"] == "reference":
        return {**REFERENCE_RUN, **job["run"]}
    run = {**asdict(OURS_RUN), "seed": job["seed"], "bf16": training.bf16_pays(), **job["run"]}
    return {**run, "eval_every": job["run"].get("eval_every", max(1, run["steps"] // 20))}


def memory() -> dict[str, float]:
    """The most that this process has held, in GB."""
    return {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def flop_per_token(model: GPT) -> int:
    """Forward and backward: 6 a weight that multiplies, 12 · context · d_model a layer (PaLM)."""
    c = model.config
    weights = sum(w.numel() for w in model.blocks.parameters() if w.ndim == 2)
    weights += model.embedding.weight.numel()  # the tied head; the lookup itself is free
    return 6 * weights + 12 * c.n_layers * c.context * c.d_model


# All of them -------------------------------------------------------------------------------------


def measure(job: dict[str, Any], results: Path) -> dict[str, Any]:
    """Run `job` in a process of its own, unless `results` already holds its outcome."""
    job = {"test": False, **job}
    key = json.dumps(job, sort_keys=True)
    if results.exists():
        for line in results.read_text().splitlines():
            found = json.loads(line)
            if json.dumps({name: found.get(name) for name in job}, sort_keys=True) == key:
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
    """Run everybody by turns, seed after seed; return each one's runs and what they sum up to."""
    base: dict[str, Any] = {"text": text, "model": {}, "run": {}}
    jobs = [(name, {**base, "seed": 0, **job}) for name, job in COUNTING.items()]  # it has no seed
    for seed in seeds:
        jobs += [(name, {**base, "seed": seed, **job}) for name, job in LEARNING.items()]
    runs: dict[str, list[dict[str, Any]]] = {}
    chosen = [measure(job, results) for _, job in jobs]
    for (name, job), run in zip(jobs, chosen, strict=True):  # only now is the last tenth opened
        judged = measure({**job, "test": True}, results)
        both = {**run, "test_loss": judged["test_loss"], "test_seconds": judged["seconds"]}
        runs.setdefault(name, []).append(both)
    return summary(runs)


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Means over the seeds, the seconds to two targets, and the runs themselves.

    Both targets are losses on the validation text: the one with which the reference of the same
    seed ends, and that of the counting model which this text, not the last tenth, prefers.
    """
    counting = {name: runs[name][0]["val_loss"] for name in runs if name in COUNTING}
    best = min(counting, key=lambda name: counting[name])
    ends = {run["seed"]: run["val_loss"] for run in runs["reference"]}
    rows = {}
    for name, of_seeds in runs.items():
        row: dict[str, Any] = {}
        for key in (
            "seconds",
            "val_loss",
            "test_loss",
            "test_seconds",
            "tokens",
            "parameters",
            "peak_gb",
        ):
            row[key] = mean(run.get(key, 0) for run in of_seeds)
        for key in ("val_loss", "test_loss"):
            row[f"{key}_sd"] = stdev([r[key] for r in of_seeds]) if len(of_seeds) > 1 else None
        targets = [ends.get(run["seed"], mean(ends.values())) for run in of_seeds]
        row["to_reference"] = mean_seconds(of_seeds, targets)
        row["to_counting"] = mean_seconds(of_seeds, [counting[best]] * len(of_seeds))
        row["tokens_per_second"] = row["tokens"] / row["seconds"]
        row["flop_per_second"] = row["tokens_per_second"] * of_seeds[0].get("flop_per_token", 0)
        rows[name] = row
    return {"rows": rows, "best_counting": best, "runs": runs}


def mean_seconds(runs: list[dict[str, Any]], targets: list[float]) -> float | None:
    """Mean over the runs of the seconds to each one's target; None when one never gets there."""
    pairs = zip(runs, targets, strict=True)
    reached = [seconds_to(target, run["curve"]) for run, target in pairs]
    known = [seconds for seconds in reached if seconds is not None]
    return mean(known) if len(known) == len(runs) else None


def print_race(outcome: dict[str, Any]) -> None:
    """A Markdown table with a line for each contestant, and what follows from it."""
    rows, best = outcome["rows"], outcome["best_counting"]
    print(
        "| | seconds | to the reference's loss | to the best counting | validation | ± | "
        "last tenth | ± | tokens/s | parameters | GB |"
    )
    print("|---" * 11 + "|")
    for name, row in rows.items():
        reached = [row[key] for key in ("to_reference", "to_counting")]
        to = " | ".join("–" if seconds is None else f"{seconds:.1f}" for seconds in reached)
        losses = " | ".join(
            f"{row[key]:.3f} | " + ("" if row[f"{key}_sd"] is None else f"{row[f'{key}_sd']:.3f}")
            for key in ("val_loss", "test_loss")
        )
        weights = f"{row['parameters']:,.0f}" if row["parameters"] else ""
        print(
            f"| {name} | {row['seconds']:.1f} | {to} | {losses} "
            f"| {row['tokens_per_second']:,.0f} | {weights} | {row['peak_gb']:.1f} |"
        )
    print(f"\nBest counting model by the validation text: {best}. Ratios are ratios of means.")
    seconds = rows["reference"]["seconds"]
    for name, row in rows.items():
        if name in COUNTING or name == "reference":
            continue
        said = []
        if row["to_reference"] is not None:
            said.append(f"the reference's loss {seconds / row['to_reference']:.1f} times sooner")
        if row["to_counting"] is not None:
            said.append(
                f"the best counting model after {row['to_counting'] / seconds:.0%} of its seconds"
            )
        print(f"{name}: " + ("; ".join(said) or "reaches neither target"))
    for dtype, names in (("float32", ("reference", "ours in float32")), ("bfloat16", ("ours",))):
        peak = matmul_peak(getattr(torch, dtype))
        shares = (f"{name} at {rows[name]['flop_per_second'] / peak:.0%}" for name in names)
        print(
            f"matrix products in {dtype} reach {peak / 1e9:.0f} GFLOP/s here: " + ", ".join(shares)
        )


def ablation(text: str | None, seeds: list[int], results: Path, record: Path | None) -> None:
    """Print loss and seconds of ours, and of ours with one idea changed; keep them in `record`.

    The losses are those on the validation text: these runs are what choices rest on.
    """
    runs: dict[str, list[dict[str, Any]]] = {}
    for name, (model, run) in ABLATION.items():
        # Only the end counts here, so validate only there.
        run = {**run, "eval_every": run.get("steps", OURS_RUN.steps)}
        job = {"who": "ours", "text": text, "model": model, "run": run}
        runs[name] = [measure({**job, "seed": seed}, results) for seed in seeds]
        loss = mean(one["val_loss"] for one in runs[name])
        print(f"{name:34}{loss:9.3f}", file=sys.stderr, flush=True)
    print_ablation(runs)
    kept = ("seed", "val_loss", "seconds", "parameters")
    rows = [{"idea": name, **{k: one[k] for k in kept}} for name in runs for one in runs[name]]
    if record:
        files.write_whole(record, "".join(json.dumps(row) + "\n" for row in rows))


def print_ablation(runs: dict[str, list[dict[str, Any]]]) -> None:
    """A line for each idea: loss, how much worse than ours with its interval, seconds."""
    losses = {name: [one["val_loss"] for one in of_seeds] for name, of_seeds in runs.items()}
    bound = interval(list(losses.values()))
    base = mean(losses["ours"])
    print(f"{'':34}{'val loss':>9}{'worse by':>10}{'±':>7}{'seconds':>9}")
    for name, of_seeds in runs.items():
        worse = mean(losses[name]) - base
        seconds = min(one["seconds"] for one in of_seeds)  # the least disturbed
        within = "" if bound is None else f"{bound:7.3f}"
        verdict = "" if name == "ours" or bound is None or abs(worse) > bound else "  undecided"
        print(f"{name:34}{mean(losses[name]):9.3f}{worse:+10.3f}{within}{seconds:9.1f}{verdict}")


def interval(groups: list[list[float]]) -> float | None:
    """Half the width of the interval of a difference of two groups' means; None for one seed.

    One standard deviation, pooled, for all groups; 3.2 of its errors hold 95 % for all differences
    to the first group together (Bonferroni; Student's t with some 40 degrees of freedom).
    """
    n = len(groups[0])
    if n < 2:
        return None
    return 3.2 * math.sqrt(mean(variance(group) for group in groups) * 2 / n)


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
        data.split_text(text or NOVEL)
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
