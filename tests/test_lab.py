"""Lesson 06's lab: runs that repeat, studies that end, resume, are shared and survive a kill."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import scripts
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from aigc_utils import history, lab, training
from aigc_utils.gpt import GPT

SHORT = 9 * 2 * 64  # tokens of nine steps of two windows
SMALL = lab.Knobs(batch_size=2, d_model=16)
SPACE = {
    "lr": FloatDistribution(1e-3, 1e-1, log=True),
    "batch_size": CategoricalDistribution((2, 4)),
}
RECORDS = {"knobs": 140, "heat": 12, "search": 24, "scaling": 21}


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_is_lesson_04s_training_without_the_disk(tmp_path):
    knobs = replace(SMALL, dropout=0.1, weight_decay=0.1, warmup=0.2)
    model, run = lab.train(knobs, tokens=2 * SHORT, seed=3)
    train_ids, val_ids, _ = lab.novel()
    torch.manual_seed(3)
    other = GPT(lab.model_config(knobs))
    other.init_weights(zero_branches=True)
    state = torch.get_rng_state()
    recipe = replace(lab.recipe(knobs, steps=18, seed=3), eval_every=2, log_every=2)
    theirs = training.train(
        other, (train_ids, val_ids[: lab.VALIDATION_TOKENS + 1]), recipe, tmp_path
    )
    assert torch.equal(state, torch.get_rng_state())
    assert run.column("step").tolist() == list(range(2, 19, 2))
    # Dropout draws other masks: `training.train` seeds again after the weights are drawn.
    np.testing.assert_allclose(run.column("val_loss"), theirs.column("val_loss")[1:], atol=0.02)
    assert not model.training


def test_without_dropout_the_losses_are_the_same(tmp_path):
    knobs = replace(SMALL, weight_decay=0.1, warmup=0.2)
    _, run = lab.train(knobs, tokens=SHORT, seed=1)
    train_ids, val_ids, _ = lab.novel()
    torch.manual_seed(1)
    other = GPT(lab.model_config(knobs))
    other.init_weights(zero_branches=True)
    recipe = replace(lab.recipe(knobs, steps=9, seed=1), eval_every=9, log_every=1)
    theirs = training.train(
        other, (train_ids, val_ids[: lab.VALIDATION_TOKENS + 1]), recipe, tmp_path
    )
    np.testing.assert_allclose(run.column("train_loss"), theirs.column("train_loss"), atol=1e-3)
    assert run.column("val_loss")[-1] == pytest.approx(theirs.column("val_loss")[-1], abs=1e-3)


def test_a_run_repeats_and_leaves_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (lab.run(SMALL, tokens=SHORT, seed=2) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert first.settings == second.settings
    assert np.allclose(first.column("val_loss"), second.column("val_loss"), atol=1e-4)
    other = lab.run(SMALL, tokens=SHORT, seed=3)
    assert abs(first.column("val_loss")[0] - other.column("val_loss")[0]) > 1e-5


def test_a_run_by_the_clock_ends_with_it():
    lab.novel()
    begin = time.perf_counter()
    run = lab.run(SMALL, seconds=1.0)
    assert 1.0 <= time.perf_counter() - begin < 8
    assert len(run.rows) == lab.PARTS
    assert run.settings["seconds"] == 1.0
    assert run.column("val_loss")[-1] < run.column("val_loss")[0]
    assert len(lab.run(SMALL, seconds=0).rows) == lab.PARTS


@pytest.mark.parametrize(
    ("knobs", "options", "sentence"),
    [
        ({"lr": -1}, {}, "lr=-1 must not be negative"),
        ({"batch_size": 0}, {}, "batch_size=0 must be at least 1"),
        ({"d_model": 100}, {}, "must be a multiple of n_heads"),
        ({"context": 0}, {}, "context=0 must be at least 1"),
        ({"context": 300_000}, {"seconds": 1.0}, "take a longer text or a shorter context"),
        ({"warmup": 0.8}, {}, "together they are at most 1"),
        ({"batch_size": 4096}, {}, "at least 9 are needed"),
    ],
)
def test_knobs_that_make_no_run_are_one_sentence(knobs, options, sentence):
    with pytest.raises(ValueError) as error:
        lab.run(lab.Knobs(**knobs), **options)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_loss_that_is_no_number_stops_the_run(monkeypatch):
    monkeypatch.setattr(training, "evaluate", lambda *_: float("nan"))
    with pytest.raises(training.TrainingDiverged, match=r"lower lr=0\.006"):
        lab.run(SMALL, tokens=SHORT)


# --- records -------------------------------------------------------------------------------------


def test_a_run_survives_packing():
    run = lab.run(SMALL, tokens=SHORT)
    back = lab.unpack(json.loads(json.dumps(lab.pack(run, note=1))))
    assert back.settings == {**run.settings, "note": 1}
    assert np.allclose(back.column("val_loss"), run.column("val_loss"), atol=1e-4)
    again = lab.rerun(back)
    assert np.allclose(again.column("val_loss"), run.column("val_loss"), atol=1e-3)


@pytest.mark.parametrize(("name", "count"), RECORDS.items())
def test_the_records_are_whole_and_of_this_recipe(name, count):
    runs = lab.records(name)
    assert len(runs) == count
    for run in runs:
        assert set(run.settings["knobs"]) == set(vars(lab.Knobs()))
        assert len(run.rows) == lab.PARTS
        assert run.settings["parameters"] > 10_000
        assert np.isfinite(run.column("val_loss")).all()
    keys = {json.dumps({k: r.settings[k] for k in ("knobs", "seed", "tokens")}) for r in runs}
    assert len(keys) == count, "no run is there twice"


def test_every_default_of_the_lab_is_that_of_the_records():
    base = lab.select(lab.records("knobs"))
    assert [run.settings["seed"] for run in base] == list(range(20))
    assert {run.settings["tokens"] for run in base} == {lab.TOKENS}
    assert len(lab.select(lab.records("knobs"), lr=0.002)) == 5


@pytest.mark.slow
def test_a_run_on_record_comes_out_again():
    record = lab.select(lab.records("knobs"), d_model=16)[0]
    again = lab.rerun(record)
    assert again.settings["parameters"] == record.settings["parameters"]
    assert np.allclose(again.column("val_loss"), record.column("val_loss"), atol=0.05)


@pytest.fixture
def builder():
    return scripts.load("data/build_lab_runs.py")


def test_the_builder_goes_on_where_it_was_stopped(builder, tmp_path, monkeypatch, capsys):
    done = []

    def fake(name, job):
        done.append(job)
        if len(done) == 5:
            raise KeyboardInterrupt
        return {"knobs": {}, "seed": job[1], "columns": {}}

    monkeypatch.setattr(builder, "one_run", fake)
    out = tmp_path / "out"
    call = ["build", "heat", "--work", str(tmp_path / "work"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*call, "--seconds", "0"])
    with pytest.raises(SystemExit, match="The time is over in 'heat': call again to go on"):
        builder.main()
    monkeypatch.setattr(sys, "argv", call)
    with pytest.raises(KeyboardInterrupt):
        builder.main()
    assert not out.exists(), "a record that is not complete is not published"
    builder.main()
    jobs = list(builder.heat_jobs())
    assert done == [*jobs[:5], *jobs[4:]], "only the interrupted run is done again"
    raw = (out / "runs" / "lab_heat.jsonl").read_bytes()
    assert raw.count(b"\n") == 1 + len(jobs) == 1 + RECORDS["heat"]
    assert hashlib.sha256(raw).hexdigest() in (out / "SHA256SUMS").read_text()
    assert "heat: complete" in capsys.readouterr().out


def test_the_builder_plans_what_is_on_record(builder):
    for name, jobs in builder.JOBS.items():
        planned = [
            (vars(lab.Knobs(**knobs)), seed, tokens)
            for knobs, seed, tokens in (jobs() if name != "search" else ())
        ]
        there = [
            (run.settings["knobs"], run.settings["seed"], run.settings["tokens"])
            for run in (lab.records(name) if name != "search" else ())
        ]
        assert planned == there, name
    drawn = [knobs for knobs, _, _ in builder.search_jobs()]
    for knobs, run in zip(drawn, lab.records("search"), strict=True):
        assert knobs == {name: run.settings["knobs"][name] for name in knobs}


def test_the_permutation_test_counts_deals():
    assert lab.permutation_test([1, 2, 3], [4, 5, 6]) == pytest.approx(2 / 20)
    assert lab.permutation_test([1, 2], [1, 2]) == 1.0
    assert lab.permutation_test([1, 1, 1, 1, 1], [2, 2, 2, 2, 2]) == pytest.approx(2 / 252)
    a, b = [0.1, 0.4, 0.5], [0.3, 0.9]
    assert lab.permutation_test(a, b) == pytest.approx(lab.permutation_test(b, a))


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
    once = lab.search(tmp_path / "once.log", SPACE, seconds=60, trials=8, seed=1)
    file = tmp_path / "twice.log"
    lab.search(file, SPACE, seconds=60, trials=3, seed=1)
    twice = lab.search(file, SPACE, seconds=60, trials=5, seed=1)
    assert settings_of(twice) == settings_of(once)
    assert len({t.params["lr"] for t in twice.trials}) == 8
    assert len(quick) == 16, "no finished trial was run again"
    other = lab.search(tmp_path / "other.log", SPACE, seconds=60, trials=8, seed=2)
    assert settings_of(other) != settings_of(once)


def test_an_interrupted_trial_is_done_again_with_the_same_settings(tmp_path, quick, monkeypatch):
    once = lab.search(tmp_path / "once.log", SPACE, seconds=60, trials=5, seed=1)
    kept, count = lab.run, itertools.count()

    def interrupted(*arguments, **options):
        if next(count) == 2:
            raise KeyboardInterrupt
        return kept(*arguments, **options)

    monkeypatch.setattr(lab, "run", interrupted)
    file = tmp_path / "stopped.log"
    with pytest.raises(KeyboardInterrupt):
        lab.search(file, SPACE, seconds=60, trials=5, seed=1)
    study = lab.search(file, SPACE, seconds=60, trials=3, seed=1)
    assert settings_of(study, TrialState.COMPLETE) == settings_of(once)
    (failed,) = settings_of(study, TrialState.FAIL)
    assert failed == once.trials[2].params
    assert study.trials[3].user_attrs["retry_of"] == 2


def test_what_this_process_left_half_done_is_queued_again(tmp_path, quick):
    study = lab.open_study(tmp_path / "study.log", SPACE)
    trial = study.ask(fixed_distributions=dict(SPACE))
    trial.set_user_attr("worker", lab._this_process())
    elsewhere = study.ask(fixed_distributions=dict(SPACE))
    elsewhere.set_user_attr("worker", ["another machine", 1, 0.0])
    beginning = study.ask(fixed_distributions=dict(SPACE))
    states = [t.state for t in lab.open_study(tmp_path / "study.log", SPACE).trials]
    running = TrialState.RUNNING
    assert states == [TrialState.FAIL, running, running, TrialState.WAITING]
    assert beginning.number == 2 and "worker" not in beginning.user_attrs


def test_the_seconds_are_kept_and_the_last_trial_waits(tmp_path, quick, monkeypatch):
    kept = lab.run

    def slow(knobs, *, tokens, seed, watch):
        def slowly(run):
            time.sleep(0.05)
            watch(run)

        return kept(knobs, tokens=tokens, seed=seed, watch=slowly)

    monkeypatch.setattr(lab, "run", slow)
    begin = time.monotonic()
    study = lab.search(tmp_path / "study.log", SPACE, seconds=1.0)
    assert 1.0 <= time.monotonic() - begin < 2
    states = [t.state for t in study.trials]
    assert states.count(TrialState.COMPLETE) in (1, 2)
    assert states[-2:] == [TrialState.FAIL, TrialState.WAITING]
    monkeypatch.setattr(lab, "run", kept)
    study = lab.search(tmp_path / "study.log", SPACE, seconds=60, trials=1)
    assert study.trials[-1].state == TrialState.COMPLETE
    assert study.trials[-1].params == study.trials[-2].params


def test_halving_stops_the_poor_early_and_keeps_the_best(tmp_path, quick):
    every = lab.search(tmp_path / "all.log", SPACE, seconds=60, trials=12, seed=1)
    halved = lab.search(
        tmp_path / "half.log", SPACE, seconds=60, trials=12, seed=1, method="halving"
    )
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
    study = lab.search(tmp_path / "study.log", SPACE, seconds=60, trials=3)
    states = [t.state for t in study.trials]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]


def test_knobs_that_make_no_run_are_told_and_not_tried_again(tmp_path):
    space = {"batch_size": CategoricalDistribution((4096,))}
    for trials in (1, 2):
        with pytest.raises(ValueError, match="at least 9 are needed"):
            lab.search(tmp_path / "study.log", space, seconds=60)
        study = lab.open_study(tmp_path / "study.log", space)
        assert [t.state for t in study.trials] == [TrialState.FAIL] * trials


# --- bad study files -----------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path, quick):
    """A study of two trials, and its space."""
    path = tmp_path / "study.log"
    lab.search(path, SPACE, seconds=60, trials=2)
    return path


def refused(path, space=SPACE, **options) -> str:
    before = path.read_bytes()
    with pytest.raises(lab.StudyError) as error:
        lab.open_study(path, space, **options)
    assert path.read_bytes() == before, "a refused file is left as it was"
    message = str(error.value)
    assert message.endswith(".") and "\n" not in message and str(path.parent) not in message
    return message


@pytest.mark.parametrize(
    "damage",
    [
        b"\x00\xff not a study\n",
        b"not a study",
        b'{"settings": {}}\n{"step": 1}\n',
        b"[]\n",
        b'{"op_code": 99, "worker_id": "x"}\n',
        b'{"op_code": 4, "worker_id": "x", "study_id": 7}\n',
    ],
)
def test_what_is_no_study_file_is_refused(tmp_path, damage):
    path = tmp_path / "study.log"
    path.write_bytes(damage)
    assert "damaged or no study file" in refused(path)


def test_damage_in_the_middle_is_refused(file):
    lines = file.read_bytes().split(b"\n")
    lines[3] = lines[3][:10]
    file.write_bytes(b"\n".join(lines))
    assert "line 4" in refused(file)


def test_half_a_line_at_the_end_costs_nothing_else(file):
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"op_code":4,"wor')
    study = lab.open_study(file, SPACE)
    assert file.read_bytes() == whole
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 2


def test_another_search_is_refused_with_what_differs(file):
    other = {**SPACE, "lr": FloatDistribution(1e-3, 1.0, log=True)}
    assert "another search space (it differs in lr)" in refused(file, other)
    assert "it differs in dropout" in refused(file, {**SPACE, "dropout": FloatDistribution(0, 1)})
    assert "method='random', not 'halving'" in refused(file, method="halving")
    assert "seed=0, not 1" in refused(file, seed=1)
    assert "tokens=" in refused(file, tokens=SHORT)


def test_someone_elses_study_is_refused(tmp_path):
    path = tmp_path / "study.log"
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    optuna.create_study(storage=storage, study_name="theirs")
    assert "holds another study, 'theirs'" in refused(path)


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
        lab.open_study(tmp_path / "study.log", space, method=method)
    assert sentence in str(error.value)
    assert not (tmp_path / "study.log").exists()


def test_the_lock_of_a_dead_process_is_broken(file, monkeypatch):
    monkeypatch.setattr(lab, "LOCK_SECONDS", 3)
    Path(f"{file}.lock").touch()
    begin = time.monotonic()
    study = lab.search(file, SPACE, seconds=60, trials=1)
    assert time.monotonic() - begin < 20
    assert len(study.trials) == 3


# --- several processes ---------------------------------------------------------------------------

WORKER = """
import sys
from aigc_utils import lab
from optuna.distributions import CategoricalDistribution, FloatDistribution
space = {"lr": FloatDistribution(1e-3, 1e-1, log=True),
         "batch_size": CategoricalDistribution((2, 4))}
lab.search(sys.argv[1], space, seconds=60, trials=int(sys.argv[2]), tokens=int(sys.argv[3]), seed=1)
"""


def worker(path, trials, tokens):
    """Start a process that searches in the study file with runs of `tokens` tokens."""
    command = [sys.executable, "-c", WORKER, str(path), str(trials), str(tokens)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment)


@pytest.mark.slow
def test_two_processes_share_a_study(tmp_path, quick):
    path = tmp_path / "study.log"
    tokens = 9 * 4 * 64
    processes = [worker(path, 4, tokens) for _ in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    study = lab.open_study(path, SPACE, seed=1, tokens=tokens)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 8
    assert len({t.user_attrs["worker"][1] for t in study.trials}) == 2
    alone = lab.search(tmp_path / "alone.log", SPACE, seconds=60, trials=8, seed=1)
    assert settings_of(study) == settings_of(alone), "together they try what one would try"


@pytest.mark.slow
def test_a_worker_killed_in_mid_trial_loses_nothing(tmp_path, quick):
    path = tmp_path / "study.log"
    tokens = 9 * 4 * 64 * 100  # far too long to finish before the kill
    process = worker(path, 1, tokens)
    deadline = time.monotonic() + 60
    while not (path.exists() and b'"op_code":7' in path.read_bytes()):  # a first report
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    alive = lab.open_study(path, SPACE, seed=1, tokens=tokens)
    assert [t.state for t in alive.trials] == [TrialState.RUNNING], "it lives: hands off"
    process.send_signal(getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()
    study = lab.open_study(path, SPACE, seed=1, tokens=tokens)
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    again = lab.open_study(path, SPACE, seed=1, tokens=tokens)
    assert len(again.trials) == 2, "it is queued once"
    study = lab.search(path, SPACE, seconds=60, trials=1, seed=1, tokens=tokens)
    assert study.trials[1].state == TrialState.COMPLETE
    assert study.trials[1].params == study.trials[0].params
    assert study.trials[1].user_attrs["retry_of"] == 0


# --- the panel -----------------------------------------------------------------------------------


def test_moving_a_slider_adds_a_curve(monkeypatch):
    made = []

    def run(knobs, *, seconds):
        made.append(knobs)
        rows = [{"tokens": part * 100, "val_loss": 5 - knobs.lr} for part in range(1, 10)]
        return history.History({}, rows)

    monkeypatch.setattr(lab, "run", run)
    box = lab.panel(seconds=0.1)
    *sliders, told, picture = box.children
    assert [knobs.lr for knobs in made] == [0.006]
    before = bytes(picture.value)
    assert before.startswith(b"\x89PNG") and "1 curve." in told.value
    sliders[0].value = 0.02
    assert [knobs.lr for knobs in made] == [0.006, 0.02]
    assert bytes(picture.value) != before and "2 curves." in told.value
    sliders[0].value = 0.006
    assert "2 curves." in told.value, "a setting tried again is not drawn twice"


def test_a_diverging_run_is_told_in_the_panel(monkeypatch):
    def run(knobs, *, seconds):
        raise training.TrainingDiverged("The loss is no longer a number.")

    monkeypatch.setattr(lab, "run", run)
    told = lab.panel(seconds=0.1).children[-2]
    assert told.value == "The loss is no longer a number."
