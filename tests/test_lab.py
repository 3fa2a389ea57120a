"""Lesson 06's lab: runs that repeat, their records, and the sliders."""

import hashlib
import json
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import scripts
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution

from aigc_utils import data, history, lab, mup, training
from aigc_utils.gpt import GPT

SHORT = 9 * 2 * 64  # tokens of nine steps of two windows
SMALL = lab.Knobs(batch_size=2, d_model=16)
SPACE = {
    "lr": FloatDistribution(1e-3, 1e-1, log=True),
    "batch_size": CategoricalDistribution((2, 4)),
}
RECORDS = {"knobs": 140, "heat": 12, "search": 24, "scaling": 21}  # of plain runs


# --- runs ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_is_lesson_04s_training_without_the_disk(tmp_path):
    knobs = replace(SMALL, dropout=0.1, weight_decay=0.1, warmup=0.2)
    model, run = lab.train(knobs, tokens=2 * SHORT, seed=3)
    train_ids, val_ids = lab.novel()
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
    train_ids, val_ids = lab.novel()
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


def test_a_training_loss_that_is_no_number_stops_the_run_too(monkeypatch):
    monkeypatch.setattr(training, "step", lambda *_, **__: (float("nan"), 1.0))
    with pytest.raises(training.TrainingDiverged, match="no longer a number at step 1:"):
        lab.run(SMALL, tokens=SHORT)


def test_runs_learn_eight_tenths_and_are_judged_on_the_ninth():
    train_ids, val_ids = lab.novel()
    assert 7 < len(train_ids) / len(val_ids) < 9


def test_every_knob_turns_something():
    knobs = lab.Knobs(0.03, 4, 96, 2, 32, dropout=0.1, weight_decay=0.2, warmup=0.3)
    assert lab.recipe(knobs, steps=50, seed=7) == training.TrainConfig(
        steps=50,
        batch_size=4,
        lr=0.03,
        blocks_lr=0.03 * 10 / 3,
        weight_decay=0.2,
        warmup=0.3,
        bf16=False,
        seed=7,
    )
    shape = lab.model_config(knobs)
    assert (shape.d_model, shape.d_mlp, shape.n_layers, shape.context) == (96, 192, 2, 32)
    assert (shape.n_heads, shape.dropout, shape.qk_norm) == (3, 0.1, True)
    assert lab.model_config(lab.Knobs(d_model=16)).n_heads == 1


def test_judging_does_not_move_the_clock(monkeypatch):
    now = 100.0
    monkeypatch.setattr(lab.time, "perf_counter", lambda: now)
    clock = lab.Clock(1_000, seconds=10)
    now += 2
    assert clock.now(step=7) == 200
    with clock.stopped():
        now += 5
    assert (clock.now(step=7), clock.elapsed) == (200, 7)
    now += 8
    assert clock.now(step=7) == 1_000
    assert lab.Clock(9, seconds=None).now(step=7) == 7
    assert lab.Clock(9, seconds=0).now(step=7) == 9


# --- records -------------------------------------------------------------------------------------


def test_a_run_survives_packing():
    run = lab.run(SMALL, tokens=SHORT, seed=2)
    back = lab.unpack(json.loads(json.dumps(lab.pack(run, note=1))))
    assert back.settings == {**run.settings, "note": 1}
    assert np.allclose(back.column("val_loss"), run.column("val_loss"), atol=1e-4)
    again = lab.rerun(back)
    assert again.settings == run.settings
    assert lab.last([run, run], "step").tolist() == [9, 9]
    assert lab.last([run]).tolist() == [run.rows[-1]["val_loss"]]
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
    for name in ("knobs", "heat", "scaling"):
        planned = [
            (vars(lab.Knobs(**knobs)), seed, tokens) for knobs, seed, tokens in builder.JOBS[name]()
        ]
        there = [
            (run.settings["knobs"], run.settings["seed"], run.settings["tokens"])
            for run in lab.records(name)
        ]
        assert planned == there, name
    drawn = [knobs for knobs, _, _ in builder.search_jobs()]
    for knobs, run in zip(drawn, lab.records("search"), strict=True):
        assert knobs == {name: run.settings["knobs"][name] for name in knobs}


def test_the_records_of_widths_and_of_searches_are_as_planned(builder):
    widths = history.read(data.path("runs/lab_width.jsonl")).rows
    planned = [({**knobs, "seed": seed}) for knobs, seed, _ in builder.width_jobs()]
    assert [{k: row[k] for k in ("width", "lr", "mup", "seed")} for row in widths] == planned
    assert all(3 < row["val_loss"] < 6.3 for row in widths)
    searches = history.read(data.path("runs/lab_samplers.jsonl")).rows
    planned = [(knobs["method"], seed, tokens) for knobs, seed, tokens in builder.sampler_jobs()]
    assert [(row["method"], row["seed"], row["tokens"]) for row in searches] == planned
    for row in searches:
        assert len(row["losses"]) == len(row["knobs"]) == builder.IN_TURN
        assert all(knobs.keys() == builder.SPACE.keys() for knobs in row["knobs"])


def test_a_search_on_record_is_one_of_short_runs(builder, monkeypatch):
    asked = []

    def run(knobs, *, tokens, seed):
        asked.append((knobs, tokens, seed))
        if len(asked) == 2:
            raise training.TrainingDiverged("too fast")
        return history.History({}, [{"val_loss": 4.0}])

    monkeypatch.setattr(lab, "run", run)
    row = builder.one_run("samplers", ({"method": "quasi-random"}, 3, 99))
    recorded = history.read(data.path("runs/lab_samplers.jsonl")).rows[10]
    assert row["knobs"] == recorded["knobs"] and recorded["method"] == "quasi-random"
    assert row["losses"] == [4.0, float("inf"), *[4.0] * 14]
    assert {(k.d_model, tokens, seed) for k, tokens, seed in asked} == {(32, 99, 3)}


# --- learning rates and widths -------------------------------------------------------------------


def test_mup_slows_the_matrices_alone():
    model = mup.model_of(64)
    for with_mup, slower in ((True, 4), (False, 1)):
        matrices, rest = mup.optimizer(model, 0.1, mup=with_mup).param_groups
        assert matrices["lr"] == pytest.approx(0.1 / slower) and rest["lr"] == 0.1
        ids = {id(weight) for weight in matrices["params"]}
        for name, weight in model.named_parameters():
            assert (id(weight) in ids) == (weight.ndim == 2 and name != "embedding.weight"), name
    assert not model.head.weight.any()
    up = model.blocks[0].mlp.up.weight
    assert up.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert mup.model_of(128).config.head_dim == mup.model_of(16).config.head_dim


def test_at_the_base_width_mup_changes_nothing(monkeypatch):
    monkeypatch.setattr(mup, "RECIPE", replace(mup.RECIPE, steps=3, batch_size=2))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    losses = {
        (w, m): mup.final_loss(w, 0.03, mup=m, seed=1) for w in (16, 32) for m in (False, True)
    }
    assert torch.equal(before, torch.get_rng_state())
    assert losses[16, True] == pytest.approx(losses[16, False], abs=1e-5)
    assert abs(losses[32, True] - losses[32, False]) > 1e-3


def test_the_permutation_test_counts_deals():
    assert lab.permutation_test([1, 2, 3], [4, 5, 6]) == pytest.approx(2 / 20)
    assert lab.permutation_test([1, 2], [1, 2]) == 1.0
    assert lab.permutation_test([1, 1, 1, 1, 1], [2, 2, 2, 2, 2]) == pytest.approx(2 / 252)
    a, b = [0.1, 0.4, 0.5], [0.3, 0.9]
    assert lab.permutation_test(a, b) == pytest.approx(lab.permutation_test(b, a))


@pytest.mark.parametrize(("a", "b"), [(range(20), range(20)), ([], [1.0])])
def test_groups_that_cannot_be_dealt_are_refused(a, b):
    with pytest.raises(ValueError, match=r"137,846,528,820 ways|0 and 1 numbers"):
        lab.permutation_test(a, b)


# --- the panel -----------------------------------------------------------------------------------


def test_moving_a_slider_adds_a_curve(monkeypatch):
    made, drawn = [], []
    draw = lab.draw
    monkeypatch.setattr(lab, "draw", lambda ax, runs: drawn.append(list(runs)) or draw(ax, runs))

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
    assert drawn == [["start"], ["start", "lr 0.02"], ["lr 0.02", "start"]], "the newest is last"


def test_a_diverging_run_is_told_in_the_panel(monkeypatch):
    def run(knobs, *, seconds):
        raise training.TrainingDiverged("The loss is no longer a number.")

    monkeypatch.setattr(lab, "run", run)
    told = lab.panel(seconds=0.1).children[-2]
    assert told.value == "The loss is no longer a number."
