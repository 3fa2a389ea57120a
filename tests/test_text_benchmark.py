"""The text race: the published recipe, its arithmetic, and a last tenth that chooses nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import scripts
import torch

from aigc_utils import data
from aigc_utils.gpt import GPT, GPTConfig

ROOT = Path(__file__).resolve().parents[1]
text = scripts.load("benchmarks/text.py")


def test_reference_has_the_published_shape_and_schedule():
    model = GPT(GPTConfig(vocab_size=65, bias=False, **text.REFERENCE))
    assert sum(weight.numel() for weight in model.parameters()) == 804_096
    rates = [text.reference_lr(step) for step in range(2000)]
    assert rates[0] == pytest.approx(1e-3 / 101) and max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == 100 and rates[-1] == pytest.approx(1e-4, rel=1e-3)
    assert rates[1050] == pytest.approx(5.5e-4)  # half-way down half a cosine


def test_flop_per_token_against_torchs_own_counter():
    from torch.utils.flop_counter import FlopCounterMode

    model = GPT(GPTConfig(vocab_size=65, bias=False, **text.REFERENCE))
    ids = torch.zeros(2, 64, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(ids).sum().backward()
    assert counter.get_total_flops() / ids.numel() == pytest.approx(
        text.flop_per_token(model), rel=0.02
    )


def test_seconds_to_target():
    curve = [{"seconds": 1.0, "val_loss": 2.0}, {"seconds": 2.0, "val_loss": 1.8}]
    assert text.seconds_to(2.0, curve) == 1.0
    assert text.seconds_to(1.9, curve) == 2.0
    assert text.seconds_to(1.7, curve) is None


# Everything of a run, in a fraction of a second.
TINY = {"context": 16, "n_layers": 1, "n_heads": 1, "d_model": 16}
SHORT = {
    "reference": {"steps": 3, "warmup": 1},
    "ours": {"steps": 3, "batch_size": 4},
    "mixture": {"steps": 3, "batch_size": 4},
    "counting": {"order": 3},
}


def test_the_mixture_is_a_weighted_mean_of_chances():
    V, generator = 5, torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, V + 3, generator=generator)  # the net and two counting models
    tables = torch.rand(2, 3, 2, V, generator=generator).softmax(-1)
    weights, own = logits[..., V:].softmax(-1), logits[..., :V].softmax(-1)
    total = torch.zeros(2, 3)
    for c in range(V):
        y = torch.full((2, 3), c)
        mixed, alone = text.mixture_nats(logits, y, tables[..., c])
        torch.testing.assert_close(alone, -own[..., c].log())
        by_hand = weights[..., 0] * own[..., c] + (weights[..., 1:] * tables[..., c]).sum(-1)
        torch.testing.assert_close(mixed, -by_hand.log())
        total += (-mixed).exp()
    torch.testing.assert_close(total, torch.ones(2, 3))


@pytest.mark.parametrize("length", [2, 16, 17, 18, 33, 16 * 65 + 5])
def test_the_mixture_is_judged_on_every_character_once(length, monkeypatch):
    seen = []

    def spy(logits, y, counted):
        assert torch.equal(y, counted[..., 0])  # chances stand where their targets stand
        seen.extend(y.flatten().tolist())
        return torch.full(y.shape, 2.0), None

    monkeypatch.setattr(text, "mixture_nats", spy)
    model, ids = GPT(GPTConfig(vocab_size=2000, **TINY)), torch.arange(length)
    assert text.evaluate_mixture(model, ids, ids[:, None]) == 2.0
    assert sorted(seen) == list(range(1, length))


def test_the_mixture_learns_from_the_training_text_alone():
    train_ids = torch.randint(6, (2000,), generator=torch.Generator().manual_seed(0))
    weights = []
    for val_ids in (torch.zeros(200, dtype=torch.int64), torch.ones(200, dtype=torch.int64)):
        torch.manual_seed(0)
        model = GPT(GPTConfig(vocab_size=6 + 1 + text.ORDER, **TINY))
        run = text.settings({"who": "mixture", "seed": 1, "run": SHORT["mixture"]})
        rows = text.train_mixture(model, train_ids, val_ids, {**run, "bf16": False})
        weights.append(torch.cat([weight.flatten() for weight in model.parameters()]))
        assert [row["step"] for row in rows] == [1, 2, 3]
    assert torch.equal(*weights)


@pytest.mark.parametrize("who", SHORT)
def test_the_last_tenth_only_scores(who, tmp_path):
    begin = 20_000 * list(SHORT).index(who)  # a text of its own, which nobody has opened yet
    novel = data.load_text("pride_and_prejudice")[begin : begin + 20_000]
    found = []
    for end in (novel[18_000:], novel[18_000:][::-1]):  # the same characters
        file = tmp_path / f"{len(found)}.txt"
        file.write_text(novel[:18_000] + end, encoding="utf-8")
        model = {} if who == "counting" else TINY
        job = {"who": who, "text": str(file), "seed": 1, "model": model, "run": SHORT[who]}
        closed = text.one_run(job)
        assert "test_loss" not in closed and not data.split_text(file).opened
        judged = text.one_run({**job, "test": True})
        assert data.split_text(file).opened == [text.FINISHED] and "val_loss" not in judged
        found.append(([row["val_loss"] for row in closed["curve"]], judged["test_loss"]))
    assert found[0][0] == found[1][0]
    assert abs(found[0][1] - found[1][1]) > 1e-3


@pytest.mark.parametrize("who", ["ours", "mixture"])
def test_what_is_judged_is_where_the_run_ends(who, tmp_path, monkeypatch):
    # A run for the last tenth never sees it: not as its validation text, nor in the counts.
    novel = data.load_text("pride_and_prejudice")[100_000:120_000]
    file = tmp_path / "own.txt"
    file.write_text(novel, encoding="utf-8")
    trainer, met = text.TRAINERS[who], []

    def spy(model, train_ids, val_ids, run):
        met.extend((train_ids, val_ids, run["eval_every"]))
        return trainer(model, train_ids, val_ids, run)

    monkeypatch.setitem(text.TRAINERS, who, spy)
    job = {"who": who, "text": str(file), "seed": 1, "model": TINY, "run": SHORT[who]}
    text.one_run({**job, "test": True})
    ids = text.encode(novel, novel)
    assert torch.equal(met[0], ids[:18_000]) and torch.equal(met[1], ids[16_000:18_000])
    assert met[2] == 3  # validated at the end alone, so no weights are chosen


def test_a_finished_run_is_kept_and_not_taken_for_another(tmp_path, monkeypatch):
    started = []

    def start(command, **options):
        started.append(json.loads(command[-1]))
        out = json.dumps({**started[-1], "number": len(started)})
        return subprocess.CompletedProcess(command, 0, f"a line before\n{out}\n", "")

    monkeypatch.setattr(text.subprocess, "run", start)
    job = {"who": "ours", "text": None, "seed": 1, "model": {}, "run": {}}
    jobs = [{**job, "test": True}, job, {**job, "seed": 2}, {**job, "model": {"d_model": 2}}]
    for _ in range(2):
        found = [text.measure(job, tmp_path / "runs.jsonl")["number"] for job in jobs]
        assert found == [1, 2, 3, 4] and len(started) == 4


def test_the_ablation_never_opens_the_last_tenth(monkeypatch, tmp_path, capsys):
    jobs = []

    def measure(job, results):
        jobs.append(job)
        loss = 2.0 + 0.01 * job["seed"]
        return {**job, "val_loss": loss, "seconds": 1.0, "parameters": 1}

    monkeypatch.setattr(text, "measure", measure)
    record = tmp_path / "record.jsonl"
    text.ablation(None, [1, 2, 3], tmp_path / "runs.jsonl", record)
    assert len(jobs) == 3 * len(text.ABLATION) and not any(job.get("test") for job in jobs)
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    assert [row["val_loss"] for row in rows[:3]] == [2.01, 2.02, 2.03]
    # Nothing differs: every change is undecided, within 3.2 · 0.01 · √(2/3).
    printed = capsys.readouterr().out
    assert printed.count("undecided") == len(text.ABLATION) - 1 and "0.026" in printed


def test_summary_takes_targets_from_validation_and_ratios_from_means(capsys):
    def run(seed, val_loss, test_loss, *curve):
        return {
            "seed": seed,
            "val_loss": val_loss,
            "test_loss": test_loss,
            "test_seconds": 1.0,
            "seconds": curve[-1][0],
            "tokens": 100,
            "peak_gb": 0.5,
            "curve": [{"seconds": s, "val_loss": loss} for s, loss in curve],
        }

    four, _, six, _ = text.COUNTING
    runs = {
        four: [run(0, 1.5, 1.4, (1.0, 1.5))],
        six: [run(0, 1.4, 1.6, (2.0, 1.4))],  # worse on the last tenth, which must not choose
        "reference": [run(1, 1.9, 1.9, (100.0, 1.9)), run(2, 1.8, 1.9, (100.0, 1.8))],
        "ours": [
            run(1, 1.3, 1.3, (10.0, 1.9), (20.0, 1.3)),
            run(2, 1.4, 1.4, (10.0, 1.9), (40.0, 1.4)),
        ],
        "ours in float32": [run(s, 1.9, 1.9, (10.0, 1.9)) for s in (1, 2)],
    }
    outcome = text.summary(runs)
    assert outcome["best_counting"] == six
    assert outcome["rows"]["ours"]["to_reference"] == 25.0  # each seed has its own target
    assert outcome["rows"]["ours"]["to_counting"] == 30.0
    assert outcome["rows"]["ours in float32"]["to_reference"] is None  # one seed does not reach it
    text.print_race(outcome)
    printed = capsys.readouterr().out
    # 100 s / 25 s; the mean of the ratios would be 6.25.
    assert (
        "ours: the reference's loss 4.0 times sooner; the best counting model after 30%" in printed
    )
    assert "| ours | 30.0 | 25.0 | 30.0 | 1.350 | 0.071 | 1.350 | 0.071 |" in printed


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "text.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_short_run_learns_on_any_text(tmp_path):
    own = tmp_path / "own.txt"
    own.write_text(data.load_text("pride_and_prejudice")[:60_000], encoding="utf-8")
    job = {"who": "ours", "text": str(own), "seed": 1, "model": {}, "run": {"steps": 20}}
    done = run("--job", json.dumps(job))
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout.splitlines()[-1])
    assert out["tokens"] == 20 * 32 * 64 and "test_loss" not in out
    assert out["curve"][-1]["val_loss"] == out["val_loss"] < out["curve"][0]["val_loss"] < 5
    assert out["tokens_per_second"] == pytest.approx(out["tokens"] / out["seconds"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--json", "no/such/folder/x.json"], "there is no folder no/such/folder to write x.json"),
    ],
)
def test_what_would_fail_at_the_end_fails_at_the_start(arguments, sentence):
    done = run(*arguments)
    assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr


def test_a_missing_text_is_one_sentence_before_anything_is_trained():
    done = run("--text", "nowhere.txt")
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("There is no text file")
    assert "Traceback" not in done.stderr
