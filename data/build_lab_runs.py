"""Do the runs of lesson 06 and write their records, ``runs/lab_*.jsonl``.

    python data/build_lab_runs.py                 # all of them: about 30 minutes of one core
    python data/build_lab_runs.py knobs heat      # only these records
    python data/build_lab_runs.py --seconds 300   # as much as fits; the next call goes on

The records grow in the folder of --work, a line a run; whatever stands there is not done again.
A record that is complete is copied to --out (this folder) and gets its line in SHA256SUMS. One run
of them is repeated with ``lab.rerun(record)``. Another kind of processor adds in another order and
arrives at slightly different losses, and at other seconds.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aigc_utils import session

session.prepare()  # before the libraries that read it are imported

import optuna
import torch
from build import HERE, write
from optuna.distributions import CategoricalDistribution, FloatDistribution

from aigc_utils import history, lab, mup, training
from aigc_utils.study import NumberedSampler, suggest_in_turn

KNOBS: dict[str, tuple] = {
    "lr": (0.0006, 0.002, 0.02, 0.06),
    "batch_size": (4, 16, 32),
    "d_model": (16, 32, 128),
    "n_layers": (2, 3, 4),
    "context": (16, 32, 128),
    "dropout": (0.1, 0.3),
    "weight_decay": (0.1, 0.3, 1.0),
    "warmup": (0.1, 0.3, 0.5),
}
RATES, BATCHES = (0.0006, 0.002, 0.006, 0.02, 0.06), (4, 8, 16, 32)
SPACE = {
    "lr": FloatDistribution(3e-4, 0.1, log=True),
    "batch_size": CategoricalDistribution((4, 8, 16, 32)),
    "dropout": FloatDistribution(0.0, 0.3),
    "weight_decay": FloatDistribution(1e-3, 1.0, log=True),
    "warmup": FloatDistribution(0.0, 0.5),
}
TRIALS = 24
WIDTHS, SIZES = (16, 32, 64), (31_104, 62_208, 124_416)
PREDICTED = {"d_model": 96}, 248_832
PIECE, PIECES = 512, 16  # the validation text of a run, in pieces that are judged one by one
WIDER = (16, 32, 64, 128)
MUP_RATES = tuple(2.0**-k for k in range(9, 1, -1))
METHODS = ("random", "quasi-random", "Bayesian")
SEARCHES = 8  # of each method
IN_TURN, SHORT = 16, lab.TOKENS // 4  # settings in a search, and tokens of each of its runs

Job = tuple[dict[str, Any], int, int]  # knobs (or what stands for them), seed, tokens


def knob_jobs() -> Iterator[Job]:
    """One knob at a time, five seeds each; the starting point from twenty, as the yardstick."""
    for seed in range(20):
        yield {}, seed, lab.TOKENS
    for seed in range(5):
        for name, values in KNOBS.items():
            for value in values:
                yield {name: value}, seed, lab.TOKENS


def heat_jobs() -> Iterator[Job]:
    """The cells of the map where both knobs are moved; the record `knobs` has the rest."""
    base = lab.Knobs()
    for lr, batch_size in itertools.product(RATES, BATCHES):
        if lr != base.lr and batch_size != base.batch_size:
            yield {"lr": lr, "batch_size": batch_size}, 0, lab.TOKENS


def search_jobs() -> Iterator[Job]:
    """The first trials of a random search: every one of them whole, for both methods to replay."""
    study = optuna.create_study(sampler=NumberedSampler(1))
    for _ in range(TRIALS):
        trial = study.ask(fixed_distributions=dict(SPACE))
        study.tell(trial, 0.0)
        yield trial.params, 1, lab.TOKENS


def scaling_jobs() -> Iterator[Job]:
    for seed in range(2):
        for d_model, tokens in itertools.product(WIDTHS, SIZES):
            yield {"d_model": d_model}, seed, tokens
    for seed in range(3):
        yield PREDICTED[0], seed, PREDICTED[1]


def width_jobs() -> Iterator[Job]:
    """Learning rate × width without and with μP; at the base width both are the same."""
    for seed in range(3):
        for with_mup, width, lr in itertools.product((False, True), WIDER, MUP_RATES):
            if not (with_mup and width == mup.BASE_WIDTH):
                yield {"width": width, "lr": lr, "mup": with_mup}, seed, 0


def sampler_jobs() -> Iterator[Job]:
    """Whole searches over short runs of a narrow model, the three methods by turns."""
    for seed in range(SEARCHES):
        for method in METHODS:
            yield {"method": method}, seed, SHORT


JOBS = {
    "knobs": knob_jobs,
    "heat": heat_jobs,
    "search": search_jobs,
    "scaling": scaling_jobs,
    "width": width_jobs,
    "samplers": sampler_jobs,
}


def one_run(name: str, job: Job) -> dict[str, Any]:
    """Do a run and return its row; the trials of the search are also judged piece by piece."""
    knobs, seed, tokens = job
    if name == "width":
        return {**knobs, "seed": seed, "val_loss": round(mup.final_loss(**knobs, seed=seed), 4)}
    if name == "samplers":
        return one_search(knobs["method"], seed, tokens)
    try:
        model, run = lab.train(lab.Knobs(**knobs), tokens=tokens, seed=seed)
    except training.TrainingDiverged as error:
        raise SystemExit(f"{knobs} diverged: {error}") from None
    notes = {}
    if name == "search":
        _, val_ids = lab.novel()
        pieces = val_ids[: PIECES * PIECE + 1]
        losses = [
            training.evaluate(model, pieces[i * PIECE : (i + 1) * PIECE + 1]) for i in range(PIECES)
        ]
        notes["pieces"] = [round(loss, 4) for loss in losses]
    return lab.pack(run, **notes)


def one_search(method: str, seed: int, tokens: int) -> dict[str, Any]:
    """Search once; every search meets other first weights, so no method can learn one seed."""

    def loss(knobs: dict[str, Any]) -> float:
        try:
            run = lab.run(lab.Knobs(d_model=32, **knobs), tokens=tokens, seed=seed)
        except training.TrainingDiverged:
            return float("inf")
        return run.rows[-1]["val_loss"]

    study = suggest_in_turn(SPACE, loss, method=method, trials=IN_TURN, seed=seed)
    losses = [round(trial.value, 4) for trial in study.trials]
    knobs = [trial.params for trial in study.trials]
    return {"method": method, "seed": seed, "tokens": tokens, "losses": losses, "knobs": knobs}


def fill(name: str, path: Path, deadline: float) -> bool:
    """Do the runs of a record that are not in the file yet; return whether it is complete."""
    jobs = list(JOBS[name]())
    with history.Run(path, append=True, record=name, jobs=len(jobs)) as file:
        for i in range(len(file.history.rows), len(jobs)):
            if time.monotonic() > deadline:
                print(f"{name}: {i} of {len(jobs)} runs so far", flush=True)
                return False
            file.log(**one_run(name, jobs[i]))
    return True


def main() -> None:
    names = list(JOBS)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="*", metavar="RECORD", help=", ".join(names))
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--work", type=Path, metavar="FOLDER", default=Path("lab_runs"))
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=HERE)
    chosen = parser.parse_args()
    if unknown := set(chosen.records) - set(names):
        parser.error(f"there is no record {sorted(unknown)[0]!r}: choose from {', '.join(names)}")
    session.start(0)
    torch.set_num_threads(1)  # matrices this small gain nothing from a second thread
    deadline = time.monotonic() + chosen.seconds
    for name in chosen.records or names:
        path = chosen.work / f"lab_{name}.jsonl"
        if not fill(name, path, deadline):
            sys.exit(f"The time is over in {name!r}: call again to go on.")
        write(chosen.out, f"runs/{path.name}", path.read_bytes())
        print(f"{name}: complete.", flush=True)


if __name__ == "__main__":
    main()
