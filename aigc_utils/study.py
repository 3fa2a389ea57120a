"""Searches over the tiny runs of `lab`, kept in a file by Optuna (lesson 06).

`search(path, space, seconds=60)` tries settings by random search (Bergstra & Bengio, 2012) or by
successive halving (Li and others, *A System for Massively Parallel Hyperparameter Tuning*, 2020)
with Optuna (Akiba and others, *Optuna*, 2019). The study is an SQLite file that several processes
of one machine may share and that outlives them all: each running trial gives a sign of life every
second, and one that has been silent for `GRACE_SECONDS` is done again by whoever searches next.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import optuna
import torch
from filelock import FileLock
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, Trial
from sqlalchemy.exc import SQLAlchemyError

from aigc_utils import history, lab, training

optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # what fails is told by an exception

GRACE_SECONDS = 5  # of silence, after which a running trial counts as that of a dead process

Space = Mapping[str, BaseDistribution]


class StudyError(RuntimeError):
    """A study file cannot be read or written, or belongs to another search."""


class NumberedSampler(optuna.samplers.RandomSampler):
    """Random settings that depend on the seed and on the trial's number, and on nothing else.

    With one generator for each process, two processes that share a study and a seed would draw
    the same settings, and a resumed study would draw its first ones again. Trials that repeat an
    interrupted one are not counted, so an interruption does not change what is drawn.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.seed = seed

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one knob of one trial."""
        before = study.get_trials(deepcopy=False)[: trial.number]
        number = sum(repeats(earlier) is None for earlier in before)
        seed = zlib.crc32(f"{self.seed} {number} {param_name}".encode())
        sampler = optuna.samplers.RandomSampler(seed)
        return sampler.sample_independent(study, trial, param_name, param_distribution)


def quasi_random(space: Space, n: int, *, seed: int) -> list[dict[str, Any]]:
    """Return n settings from a scrambled Sobol sequence: spread more evenly than random ones.

    Each knob takes one axis of the unit cube (Bousquet et al., *Critical Hyper-Parameters: No
    Random, No Cry*, 2017). Best with n a power of two.
    """
    engine = torch.quasirandom.SobolEngine(len(space), scramble=True, seed=seed)
    rows = engine.draw(n, dtype=torch.float64).tolist()
    return [{name: _at(space[name], u) for name, u in zip(space, row, strict=True)} for row in rows]


def _at(distribution: BaseDistribution, u: float) -> Any:
    """The value below which a share u of a distribution lies."""
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        return choices[min(int(u * len(choices)), len(choices) - 1)]
    assert isinstance(distribution, FloatDistribution | IntDistribution)  # there is no other kind
    low, high = distribution.low, distribution.high
    if distribution.log:
        return math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    if isinstance(distribution, IntDistribution):
        return low + min(int(u * (high - low + 1)), high - low)
    return low + u * (high - low)


def suggest_in_turn(
    space: Space,
    loss: Callable[[dict[str, Any]], float],
    *,
    method: str,
    trials: int,
    seed: int = 0,
) -> optuna.Study:
    """Try settings one after another, in memory: three ways to choose the next one.

    `method` is "random", "quasi-random", or "Bayesian": after 8 random trials Optuna's TPE draws
    where good settings have been dense and others rare (Bergstra et al., *Algorithms for
    Hyper-Parameter Optimization*, 2011). Raises ValueError for another method.
    """
    samplers: dict[str, Callable[[], optuna.samplers.BaseSampler]] = {
        "random": lambda: NumberedSampler(seed),
        "quasi-random": lambda: NumberedSampler(seed),
        "Bayesian": lambda: optuna.samplers.TPESampler(n_startup_trials=8, seed=seed),
    }
    if method not in samplers:
        raise ValueError(f"method={method!r} must be one of {', '.join(samplers)}.")
    study = optuna.create_study(sampler=samplers[method]())
    if method == "quasi-random":
        for setting in quasi_random(space, trials, seed=seed):
            study.enqueue_trial(setting)
    for _ in range(trials):
        trial = study.ask(fixed_distributions=dict(space))
        study.tell(trial, loss(trial.params))
    return study


def repeats(trial: FrozenTrial) -> int | None:
    """Return the number of the interrupted trial that this one does again, or None."""
    with _quiet():
        return RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)


def open_study(
    path: str | Path,
    space: Space,
    *,
    method: str = "random",
    seed: int = 0,
    tokens: int = lab.TOKENS,
) -> optuna.Study:
    """Open the study in a file, or begin it; trials whose process has died are queued again.

    `space` maps names of `lab.Knobs` to Optuna distributions; `method` is "random" (every run goes
    to its end) or "halving" (a run goes on after one and after three ninths only if it is among
    the best third there). Raises StudyError when the file is damaged or holds another search, and
    ValueError when the search makes no sense.
    """
    if method not in ("random", "halving"):
        raise ValueError(f"method={method!r} must be 'random' or 'halving'.")
    known = [field.name for field in fields(lab.Knobs)]
    if not space or set(space) - set(known):
        strange = ", ".join(sorted(set(space) - set(known)))
        wrong = f"The space names {strange}" if space else "The space is empty"
        raise ValueError(f"{wrong}: choose from the knobs {', '.join(known)}.")
    path = Path(path)
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if method == "halving":
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    plan = {
        "method": method,
        "seed": seed,
        "tokens": tokens,
        "space": {name: json.loads(distribution_to_json(space[name])) for name in sorted(space)},
    }
    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # of two processes the second finds a study that is whole
            begun = _holds_a_study(path)
            study = optuna.create_study(
                storage=_storage(path),
                study_name="lab",
                load_if_exists=True,
                sampler=NumberedSampler(seed),
                pruner=pruner,
            )
            if not begun:
                study.set_user_attr("plan", plan)
        _compare_plans(path, study.user_attrs["plan"], plan)
        with _quiet():
            optuna.storages.fail_stale_trials(study)
    return study


def search(
    path: str | Path,
    space: Space,
    *,
    seconds: float,
    method: str = "random",
    seed: int = 0,
    tokens: int = lab.TOKENS,
    trials: int | None = None,
) -> optuna.Study:
    """Try settings from `space` until the seconds are over, or `trials` have been finished here.

    Calling it again with the same file goes on: finished trials are kept, interrupted ones done
    again with the same settings. Other processes may do the same at the same time. The run that
    the end cuts short stops after its current ninth; a run that diverges counts as failed. Raises
    ValueError when the space holds knobs that make no run, and StudyError as `open_study` does.
    """
    deadline = time.monotonic() + seconds
    study = open_study(path, space, method=method, seed=seed, tokens=tokens)

    def objective(trial: Trial) -> float:
        def report(run: history.History) -> None:
            trial.report(run.rows[-1]["val_loss"], step=len(run.rows))
            if len(run.rows) < lab.PARTS:
                if trial.should_prune():
                    raise optuna.TrialPruned
                if time.monotonic() > deadline:
                    raise _OutOfTime

        knobs = {name: _draw(trial, name, space[name]) for name in space}
        try:
            run = lab.run(lab.Knobs(**knobs), tokens=tokens, seed=seed, watch=report)
        except (KeyboardInterrupt, _OutOfTime):
            interrupted.append(trial.number)
            raise
        return float(run.rows[-1]["val_loss"])

    interrupted: list[int] = []
    try:
        with _told(Path(path)), _quiet():
            study.optimize(
                objective,
                n_trials=trials,
                timeout=deadline - time.monotonic(),
                catch=(training.TrainingDiverged,),
            )
    except _OutOfTime:
        pass
    finally:
        for number in interrupted:  # no need to wait until its heart has stopped
            with _quiet():
                RetryHeartbeatStaleTrialCallback()(study, study.trials[number])
    return study


class _OutOfTime(Exception):
    """The stated seconds are over."""


def _draw(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    suggest = (
        trial.suggest_int if isinstance(distribution, IntDistribution) else trial.suggest_float
    )
    return suggest(name, **distribution._asdict())


def _storage(path: Path) -> RDBStorage:
    with _quiet():
        return RDBStorage(
            f"sqlite:///{path}",
            engine_kwargs={"connect_args": {"timeout": 60}},  # for the other writers' turns
            heartbeat_interval=1,
            grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna calls its signs of life experimental, at every use."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what SQLite and the disk say into one sentence."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error, OSError) as error:
        cause = getattr(error, "orig", None) or error.__cause__ or error
        cause = getattr(cause, "orig", None) or cause
        raise StudyError(
            f"{path.name} cannot be read or written ({cause}): finished trials are kept; mend "
            "that, or move the file away or name another one, and search again."
        ) from None


def _holds_a_study(path: Path) -> bool:
    """Whether the file is a study of ours; raises StudyError when it is anything else.

    Asked before Optuna sees the file, since Optuna would write its tables into any database.
    """
    if not path.exists() or not path.stat().st_size:
        return False
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
        try:
            sound = db.execute("PRAGMA quick_check").fetchone() == ("ok",)
            names = [name for (name,) in db.execute("SELECT study_name FROM studies")]
            plans = db.execute("SELECT 1 FROM study_user_attributes WHERE key = 'plan'").fetchall()
        except sqlite3.DatabaseError as error:
            raise StudyError(_not_a_study(path, str(error))) from None
    if not sound:
        raise StudyError(_not_a_study(path, "SQLite finds it damaged"))
    if names != ["lab"] or not plans:
        told = f"the study {names[0]!r}" if names else "no study"
        raise StudyError(f"{path.name} holds {told} of somebody else: name another file.")
    return True


def _not_a_study(path: Path, where: str) -> str:
    return (
        f"{path.name} is damaged or no study file ({where}): move it away and search again, "
        "or name another file."
    )


def _compare_plans(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    for name, value in new.items():
        if old.get(name) == value:
            continue
        if name != "space":
            raise StudyError(
                f"{path.name} was begun with {name}={old.get(name)!r}, not {value!r}: search on "
                "with that, or name another file."
            )
        different = [k for k in {**old[name], **value} if old[name].get(k) != value.get(k)]
        raise StudyError(
            f"{path.name} was begun with another search space (it differs in "
            f"{', '.join(different)}): use that space, or name another file."
        )
