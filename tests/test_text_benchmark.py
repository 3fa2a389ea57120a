"""The text race: its reference is the published recipe, its arithmetic is right, its CLI works."""

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
    assert out["tokens"] == 20 * 32 * 64
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
