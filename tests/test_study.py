"""Lesson 06's studies: they end in time, resume, are shared by processes and survive a kill."""

import contextlib
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from aigc_utils import history, lab, study, training
from aigc_utils.study import StudyError, open_study, repeats, search

SHORT = 9 * 2 * 64  # tokens of nine steps of two windows
SPACE = {
    "lr": FloatDistribution(1e-3, 1e-1, log=True),
    "batch_size": CategoricalDistribution((2, 4)),
}


# --- studies -------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Runs of no length whose loss depends on the knobs alone; returns the knobs asked for."""
    asked = []

    def run(knobs, *, tokens, seed, watch):
        asked.append(knobs)
        made = history.History({"tokens": tokens, "seed": seed})
        for part in range(1, lab.PARTS + 1):
            made.rows.append({"val_loss": abs(np.log(knobs.lr / 0.01)) + 1 / part})
            watch(made)
        return made

    monkeypatch.setattr(lab, "run", run)
    return asked


def settings_of(study, *states):
    return [t.params for t in study.trials if not states or t.state in states]


def test_a_search_resumes_without_repeating(tmp_path, quick):
    once = search(tmp_path / "once.db", SPACE, seconds=60, trials=8, seed=1)
    file = tmp_path / "twice.db"
    search(file, SPACE, seconds=60, trials=3, seed=1)
    twice = search(file, SPACE, seconds=60, trials=5, seed=1)
    assert settings_of(twice) == settings_of(once)
    assert len({t.params["lr"] for t in twice.trials}) == 8
    assert len(quick) == 16, "no finished trial was run again"
    other = search(tmp_path / "other.db", SPACE, seconds=60, trials=8, seed=2)
    assert settings_of(other) != settings_of(once)


def test_knobs_are_drawn_apart_and_on_their_scale(tmp_path, quick):
    space = {
        "lr": FloatDistribution(1e-4, 1.0, log=True),
        "dropout": FloatDistribution(0, 1),
        "weight_decay": FloatDistribution(0, 1),
        "n_layers": IntDistribution(1, 7, step=2),
    }
    drawn = settings_of(search(tmp_path / "study.db", space, seconds=60, trials=12))
    lr, dropout, decay, layers = (np.array([d[name] for d in drawn]) for name in space)
    assert abs(dropout - decay).min() > 1e-6, "no two knobs are one draw"
    assert abs(np.log10(lr) / 4 + 1 - dropout).min() > 1e-6
    assert (lr < 1e-2).sum() in range(2, 11), "of a linear scale it would be one in a hundred"
    assert set(layers) == {1, 3, 5, 7}


def test_every_run_gets_the_searchs_seed_and_tokens(tmp_path, quick, monkeypatch):
    asked, kept = [], lab.run
    monkeypatch.setattr(
        lab, "run", lambda *knobs, **options: asked.append(options) or kept(*knobs, **options)
    )
    search(tmp_path / "study.db", SPACE, seconds=60, trials=2, seed=4, tokens=SHORT)
    assert [(o["seed"], o["tokens"]) for o in asked] == [(4, SHORT)] * 2


def test_an_interrupted_trial_is_done_again_with_the_same_settings(tmp_path, quick, monkeypatch):
    once = search(tmp_path / "once.db", SPACE, seconds=60, trials=5, seed=1)
    kept, count = lab.run, itertools.count()

    def interrupted(*arguments, **options):
        if next(count) == 2:
            raise KeyboardInterrupt
        return kept(*arguments, **options)

    monkeypatch.setattr(lab, "run", interrupted)
    file = tmp_path / "stopped.db"
    with pytest.raises(KeyboardInterrupt):
        search(file, SPACE, seconds=60, trials=5, seed=1)
    found = search(file, SPACE, seconds=60, trials=3, seed=1)
    assert settings_of(found, TrialState.COMPLETE) == settings_of(once)
    (failed,) = settings_of(found, TrialState.FAIL)
    assert failed == once.trials[2].params
    assert repeats(found.trials[3]) == 2 and repeats(found.trials[4]) is None


@pytest.mark.filterwarnings("ignore:Heartbeat of storage")  # asked without `optimize`, on purpose
def test_only_a_trial_that_gives_no_sign_of_life_is_queued_again(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(study, "GRACE_SECONDS", 2)
    path = tmp_path / "study.db"
    opened = open_study(path, SPACE)
    for _ in range(2):
        opened.ask(fixed_distributions=dict(SPACE))
    storage = opened._storage
    silent, alive = (trial._trial_id for trial in opened.trials)
    storage.record_heartbeat(silent)
    time.sleep(3.2)
    storage.record_heartbeat(alive)
    states = [t.state for t in open_study(path, SPACE).trials]
    assert states == [TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]


def test_the_seconds_are_kept_and_the_last_trial_waits(tmp_path, quick, monkeypatch):
    kept = lab.run

    def slow(knobs, *, tokens, seed, watch):
        def slowly(run):
            time.sleep(0.05)
            watch(run)

        return kept(knobs, tokens=tokens, seed=seed, watch=slowly)

    monkeypatch.setattr(lab, "run", slow)
    open_study(tmp_path / "study.db", SPACE)  # making the tables is not what is timed here
    begin = time.monotonic()
    found = search(tmp_path / "study.db", SPACE, seconds=3.0)
    assert 3.0 <= time.monotonic() - begin < 10
    states = [t.state for t in found.trials]
    assert states.count(TrialState.COMPLETE) in range(1, 7)
    assert states[-2:] == [TrialState.FAIL, TrialState.WAITING]
    monkeypatch.setattr(lab, "run", kept)
    found = search(tmp_path / "study.db", SPACE, seconds=60, trials=1)
    assert found.trials[-1].state == TrialState.COMPLETE
    assert found.trials[-1].params == found.trials[-2].params


def test_halving_stops_the_poor_early_and_keeps_the_best(tmp_path, quick):
    every = search(tmp_path / "all.db", SPACE, seconds=60, trials=12, seed=1)
    halved = search(tmp_path / "half.db", SPACE, seconds=60, trials=12, seed=1, method="halving")
    assert settings_of(halved) == settings_of(every)
    assert halved.best_params == every.best_params
    lengths = [len(t.intermediate_values) for t in halved.trials]
    assert set(lengths) == {1, 3, 9} and sum(lengths) < 12 * 9 / 2


def test_a_run_that_diverges_fails_and_the_search_goes_on(tmp_path, quick, monkeypatch):
    kept, count = lab.run, itertools.count()

    def sometimes(*arguments, **options):
        if next(count) == 0:
            raise training.TrainingDiverged
        return kept(*arguments, **options)

    monkeypatch.setattr(lab, "run", sometimes)
    found = search(tmp_path / "study.db", SPACE, seconds=60, trials=3)
    states = [t.state for t in found.trials]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]


def test_knobs_that_make_no_run_are_told_and_not_tried_again(tmp_path):
    space = {"batch_size": CategoricalDistribution((4096,))}
    for trials in (1, 2):
        with pytest.raises(ValueError, match="at least 9 are needed"):
            search(tmp_path / "study.db", space, seconds=60)
        found = open_study(tmp_path / "study.db", space)
        assert [t.state for t in found.trials] == [TrialState.FAIL] * trials


# --- bad study files -----------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path, quick):
    """A study of two trials, and its space."""
    path = tmp_path / "study.db"
    search(path, SPACE, seconds=60, trials=2)
    return path


def refused(path, space=SPACE, **options) -> str:
    before = path.read_bytes()
    with pytest.raises(StudyError) as error:
        open_study(path, space, **options)
    assert path.read_bytes() == before, "a refused file is left as it was"
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message and str(path.parent) not in message
    return message


@pytest.mark.parametrize(
    "damage", [b"\x00\xff not a study\n", b"lr 0.02 was best", b"SQLite format 3\x00 and no more"]
)
def test_what_is_no_study_file_is_refused(tmp_path, damage):
    path = tmp_path / "study.db"
    path.write_bytes(damage)
    assert "damaged or no study file" in refused(path)


def test_another_database_is_not_written_to(tmp_path):
    path = tmp_path / "films.db"
    with sqlite3.connect(path) as films:
        films.execute("CREATE TABLE films (name TEXT)")
    films.close()
    assert "damaged or no study file (no such table: studies)" in refused(path)


def test_damage_is_refused(file):
    raw = bytearray(file.read_bytes())
    raw[5000:40_000] = bytes(35_000)
    file.write_bytes(raw)
    assert "damaged or no study file" in refused(file)


def test_a_file_cut_short_is_refused(file):
    file.write_bytes(file.read_bytes()[:50_000])
    assert "damaged or no study file" in refused(file)


def test_another_search_is_refused_with_what_differs(file):
    other = {**SPACE, "lr": FloatDistribution(1e-3, 1.0, log=True)}
    assert "another search space (it differs in lr)" in refused(file, other)
    assert "it differs in dropout" in refused(file, {**SPACE, "dropout": FloatDistribution(0, 1)})
    assert "method='random', not 'halving'" in refused(file, method="halving")
    assert "seed=0, not 1" in refused(file, seed=1)
    assert "tokens=" in refused(file, tokens=SHORT)


@pytest.mark.parametrize("name", ["theirs", "lab"])
def test_someone_elses_study_is_refused(tmp_path, name):
    path = tmp_path / "study.db"
    theirs = optuna.create_study(storage=f"sqlite:///{path}", study_name=name)
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert f"holds the study {name!r} of somebody else" in refused(path)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "notes").write_text("a file where a folder is wanted")
    with pytest.raises(StudyError, match=r"cannot be read or written .*name another one") as error:
        open_study(tmp_path / "notes" / "study.db", SPACE)
    assert "\n" not in str(error.value)


def test_a_disk_that_is_full_in_mid_search_is_one_sentence(tmp_path, quick, monkeypatch):
    path = tmp_path / "study.db"
    search(path, SPACE, seconds=60, trials=1)
    kept, count = lab.run, itertools.count()

    def full(*arguments, **options):
        if next(count) == 1:
            raise sqlite3.OperationalError("database or disk is full")
        return kept(*arguments, **options)

    monkeypatch.setattr(lab, "run", full)
    with pytest.raises(StudyError, match="database or disk is full"):
        search(path, SPACE, seconds=60, trials=3)
    monkeypatch.setattr(lab, "run", kept)
    again = search(path, SPACE, seconds=60, trials=1)
    assert [t.state for t in again.trials].count(TrialState.COMPLETE) == 3


@pytest.mark.parametrize(
    ("space", "method", "sentence"),
    [
        ({"speed": FloatDistribution(0, 1)}, "random", "names speed: choose from the knobs lr"),
        ({}, "random", "The space is empty"),
        (SPACE, "grid", "must be 'random' or 'halving'"),
    ],
)
def test_a_search_that_makes_no_sense_is_one_sentence(tmp_path, space, method, sentence):
    with pytest.raises(ValueError) as error:
        open_study(tmp_path / "study.db", space, method=method)
    assert sentence in str(error.value)
    assert not (tmp_path / "study.db").exists()


# --- several processes ---------------------------------------------------------------------------

WORKER = """
import sys
from aigc_utils.study import search
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
space = {"lr": FloatDistribution(1e-3, 1e-1, log=True),
         "batch_size": CategoricalDistribution((2, 4))}
search(sys.argv[1], space, seconds=60, trials=int(sys.argv[2]), tokens=int(sys.argv[3]), seed=1)
"""


def worker(path, trials, tokens):
    """Start a process that searches in the study file with runs of `tokens` tokens."""
    command = [sys.executable, "-c", WORKER, str(path), str(trials), str(tokens)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment)


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path, quick):
    path = tmp_path / "study.db"
    tokens = 9 * 4 * 64
    processes = [worker(path, 4, tokens) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    found = open_study(path, SPACE, seed=1, tokens=tokens)
    assert [t.state for t in found.trials] == [TrialState.COMPLETE] * 8
    alone = search(tmp_path / "alone.db", SPACE, seconds=60, trials=8, seed=1)
    assert settings_of(found) == settings_of(alone), "together they try what one would try"


def has_reported(path):
    """Whether a trial of the study has told a first loss."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        try:
            return db.execute("SELECT count(*) FROM trial_intermediate_values").fetchone() > (0,)
        except sqlite3.OperationalError:  # no table yet
            return False


@pytest.mark.slow
def test_a_worker_killed_in_mid_trial_loses_nothing(tmp_path, quick):
    path = tmp_path / "study.db"
    tokens = 9 * 4 * 64 * 500  # far too long to finish before the kill
    process = worker(path, 1, tokens)
    deadline = time.monotonic() + 60
    while not has_reported(path):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(study.GRACE_SECONDS + 1)
    alive = open_study(path, SPACE, seed=1, tokens=tokens)
    assert [t.state for t in alive.trials] == [TrialState.RUNNING], "it lives: hands off"
    process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    time.sleep(study.GRACE_SECONDS + 2)
    found = open_study(path, SPACE, seed=1, tokens=tokens)
    assert [t.state for t in found.trials] == [TrialState.FAIL, TrialState.WAITING]
    again = open_study(path, SPACE, seed=1, tokens=tokens)
    assert len(again.trials) == 2, "it is queued once"
    found = search(path, SPACE, seconds=60, trials=1, seed=1, tokens=tokens)
    assert found.trials[1].state == TrialState.COMPLETE
    assert found.trials[1].params == found.trials[0].params
    assert repeats(found.trials[1]) == 0


# --- the next setting, three ways ----------------------------------------------------------------


def test_quasi_random_settings_fill_every_part_of_the_space_equally():
    space = {**SPACE, "n_layers": IntDistribution(1, 4), "dropout": FloatDistribution(0.0, 0.4)}
    found = study.quasi_random(space, 16, seed=3)
    assert found == study.quasi_random(space, 16, seed=3) != study.quasi_random(space, 16, seed=4)
    for name in ("batch_size", "n_layers"):
        values = [setting[name] for setting in found]
        shares = {value: values.count(value) for value in set(values)}
        assert set(shares.values()) == {16 // len(shares)}, name
    places = np.sort([np.log(s["lr"] / 1e-3) / np.log(100) for s in found])
    assert (np.floor(places * 16) == np.arange(16)).all(), "one in every sixteenth, in factors"
    assert sorted(int(s["dropout"] / 0.4 * 16) for s in found) == list(range(16))


@pytest.mark.parametrize("method", ["random", "quasi-random", "Bayesian"])
def test_settings_are_suggested_in_turn(method):
    def loss(knobs):
        return abs(np.log(knobs["lr"] / 0.01)) + (knobs["batch_size"] == 4)

    found = study.suggest_in_turn(SPACE, loss, method=method, trials=40, seed=1)
    again = study.suggest_in_turn(SPACE, loss, method=method, trials=40, seed=1)
    assert settings_of(found) == settings_of(again)
    assert [trial.value for trial in found.trials] == [loss(t.params) for t in found.trials]
    early, late = (
        np.mean([t.value for t in part]) for part in (found.trials[:8], found.trials[20:])
    )
    assert (late < 0.6 * early) == (method == "Bayesian"), "only one of them learns"
    if method == "quasi-random":
        assert settings_of(found) == study.quasi_random(SPACE, 40, seed=1)


def test_another_method_is_refused():
    with pytest.raises(ValueError, match="'grid' must be one of random, quasi-random, Bayesian"):
        study.suggest_in_turn(SPACE, lambda _: 0.0, method="grid", trials=1)
