"""The training loop of lesson 04: it learns, resumes exactly, and fails in one sentence."""

import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from aigc_utils import history, training
from aigc_utils.gpt import GPT, LLAMA, GPTConfig
from aigc_utils.training import (
    CheckpointError,
    TrainConfig,
    TrainingDiverged,
    bf16_pays,
    bits_per_character,
    evaluate,
    make_optimizers,
    schedule,
    train,
    windows,
)

MODEL = GPTConfig(
    vocab_size=13, context=16, n_layers=1, n_heads=2, d_model=16, dropout=0.1, **LLAMA
)
RUN = TrainConfig(
    steps=24, batch_size=4, eval_every=6, log_every=1, warmup=0.1, bf16=False, weight_decay=0.1
)


def make_data() -> tuple[torch.Tensor, torch.Tensor]:
    pattern = torch.arange(1200) ** 2 % 13
    return pattern[:1000], pattern[1000:]


def make_model(**options) -> GPT:
    torch.manual_seed(3)
    return GPT(replace(MODEL, **options))


def losses(folder: Path) -> list[tuple]:
    rows = history.read(folder / "history.jsonl").rows
    return [(row["step"], row.get("train_loss"), row.get("val_loss")) for row in rows]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("AIGC_STATIC", "1")


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_it_learns_and_hands_back_the_best_weights(optimizer, tmp_path):
    model, (train_ids, val_ids) = make_model(), make_data()
    config = replace(RUN, optimizer=optimizer, lr=1.0 if optimizer == "sgd" else 6e-3)
    before = torch.get_rng_state()
    run = train(model, (train_ids, val_ids), config, tmp_path)
    assert torch.equal(before, torch.get_rng_state())
    vals = run.column("val_loss")
    assert list(run.column("step")) == list(range(25))
    assert len(vals) == 5 and vals.min() < vals[0] - 0.2
    assert evaluate(model, val_ids) == pytest.approx(vals.min(), abs=1e-6)
    assert evaluate(GPT.load(tmp_path / "best"), val_ids) == pytest.approx(vals.min(), abs=1e-6)
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("*.p*"))


SCRIPT = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores Ctrl-C
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import test_training as t
def slow(run):
    print(run.rows[-1]["step"], flush=True)
    if run.rows[-1]["step"] >= 12 and {wait}:
        time.sleep(60)
t.train(t.make_model(), t.make_data(), t.RUN, Path({folder!r}), watch=slow)
"""


def start(folder: Path, wait: bool) -> subprocess.Popen:
    code = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder), wait=wait)
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed_gives_the_same_losses(blow, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole, wait=False).wait() == 0
    process = start(broken, wait=True)
    for line in process.stdout:
        if int(line) >= 12:
            break
    process.send_signal(blow)
    assert process.wait() != 0
    with (broken / "history.jsonl").open("a") as file:  # as if it had died later, in mid-line
        file.write('{"step": 13, "train_loss": 99.0}\n{"step": 14, "tr')
    assert start(broken, wait=False).wait() == 0
    assert losses(broken) == losses(whole)


def test_interrupted_in_the_process_and_resumed(tmp_path):
    class Stop(Exception):
        pass

    def stop(run):
        if run.rows[-1]["step"] == 12:
            raise Stop

    train(make_model(), make_data(), RUN, tmp_path / "whole")
    with pytest.raises(Stop):
        train(make_model(), make_data(), RUN, tmp_path / "broken", watch=stop)
    torch.manual_seed(999)  # a different start must not matter
    model = GPT(MODEL)
    train(model, make_data(), RUN, tmp_path / "broken")
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    again = train(model, make_data(), RUN, tmp_path / "broken")  # finished: nothing left to do
    assert len(again.rows) == 25


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_two_processes_give_the_losses_of_one(optimizer, tmp_path):
    code = (
        "import sys\nfrom dataclasses import replace\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import torch\ntorch.set_num_threads(1)\nimport test_training as t\n"
        f"config = replace(t.RUN, optimizer={optimizer!r})\n"
        "t.train(t.make_model(dropout=0.0), t.make_data(), config, Path(sys.argv[1]))\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    for name, command in (("one", [sys.executable]), ("two", [*torchrun, "--nproc_per_node=2"])):
        done = subprocess.run(
            [*command, str(script), str(tmp_path / name)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 25
    rel = 2e-3 if optimizer == "muon" else 1e-5  # Muon orthogonalises in bfloat16
    for (step, *a), (step2, *b) in zip(one, two, strict=True):
        assert step == step2
        assert [x for x in a if x] == pytest.approx([x for x in b if x], rel=rel)


@pytest.mark.slow
def test_processes_that_began_with_other_weights_become_one_model(tmp_path):
    code = (
        "import sys, os\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import torch\ntorch.set_num_threads(1)\nimport test_training as t\n"
        "torch.manual_seed(int(os.environ['RANK']))\n"
        "model = t.GPT(t.MODEL)\n"
        "t.train(model, t.make_data(), t.RUN, Path(sys.argv[1]), watch=lambda run: print(\n"
        "    'sum', len(run.rows), sum(w.abs().sum().item() for w in model.parameters())))\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc_per_node=2", str(script), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sums = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("sum")]
    assert len(sums) > 2 and len(set(sums)) == len(sums) / 2  # each is printed by both


def test_matrices_and_tables_have_rates_of_their_own():
    for optimizer, usual in (("muon", 0.02), ("adamw", 0.5), ("sgd", 0.5)):
        for blocks_lr, wanted in ((None, usual), (0.1, 0.1)):
            config = TrainConfig(optimizer=optimizer, lr=0.5, blocks_lr=blocks_lr)
            model = make_model()
            rates = {
                weight: group["lr"]
                for one in training.make_optimizers(model, config)
                for group in one.param_groups
                for weight in group["params"]
            }
            for name, weight in model.named_parameters():
                in_blocks = name.startswith("blocks.") and weight.ndim == 2
                assert rates[weight] == (wanted if in_blocks else 0.5), (optimizer, name)


@pytest.mark.parametrize("length", [2, 9, 16, 17, 18, 100])
@pytest.mark.parametrize("overlap", [0, 5, 15])
@torch.no_grad()
def test_evaluate_predicts_every_token_once(length, overlap):
    model = make_model().eval()
    ids = make_data()[0][:length]
    context = MODEL.context
    total, seen = 0.0, 0
    while seen < length - 1:  # the definition, one window after another
        end = min(context if seen == 0 else seen + context - overlap, length - 1)
        begin = max(0, end - context)
        row = F.cross_entropy(
            model(ids[None, begin:end])[0], ids[begin + 1 : end + 1], reduction="none"
        )
        total += row[seen - begin :].sum().item()
        seen = end
    assert evaluate(model, ids, overlap=overlap) == pytest.approx(total / (length - 1), rel=1e-6)


def test_evaluate_keeps_the_mode_and_checks_the_overlap():
    model = make_model().train()
    evaluate(model, make_data()[1])
    assert model.training
    with pytest.raises(ValueError, match=r"overlap=16 must lie in 0…15"):
        evaluate(model, make_data()[1], overlap=16)


def test_bits_per_character_of_a_uniform_model():
    # 50 tokens for 100 characters, each as likely as the 15 others: 4 bits a token
    assert bits_per_character(math.log(16), 50, 100, 16) == pytest.approx(2.0)


def test_windows_see_every_piece_once_an_epoch():
    length, context, batch = 1000, 16, 4
    batches = windows(length, context, batch, seed=5)
    epoch = torch.cat([next(batches) for _ in range(15)])
    assert epoch.unique().numel() == 60 and epoch.min() >= 0
    assert epoch.max() + context < length
    assert (epoch % context).unique().numel() == 1
    again = windows(length, context, batch, seed=5, step=14)
    torch.testing.assert_close(next(again), epoch[-4:])
    torch.testing.assert_close(next(again), next(batches))
    assert not torch.equal(next(windows(length, context, batch, seed=6)), epoch[:4])
    for short in (17, 18, 40):  # fewer pieces than windows in a batch
        starts = next(windows(short, context, batch, seed=5))
        assert starts.shape == (4,) and starts.min() >= 0 and starts.max() + context < short


def test_schedule_climbs_stays_and_falls_to_nothing():
    config = replace(RUN, steps=100, warmup=0.1, decay=0.5)
    factors = [schedule(step, config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == factors[50] == 1.0
    assert factors[75] == pytest.approx(0.5) and factors[99] == pytest.approx(0.02)
    assert {schedule(s, replace(config, warmup=0, decay=0)) for s in range(100)} == {1.0}


def test_weight_decay_spares_norms_and_every_weight_has_one_optimizer():
    model = make_model(norm="layer", bias=True)
    for kind in ("muon", "adamw", "sgd"):
        optimizers = make_optimizers(model, replace(RUN, optimizer=kind))
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        held = [weight for group in groups for weight in group["params"]]
        assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
        for group in groups:
            for weight in group["params"]:
                assert group["weight_decay"] == (RUN.weight_decay if weight.ndim == 2 else 0)


def test_bf16_is_measured():
    assert bf16_pays() in (True, False)


def test_a_loss_that_is_no_number_keeps_the_last_checkpoint(tmp_path):
    model = make_model()

    def poison(run):
        if run.rows[-1]["step"] == 12:
            with torch.no_grad():
                model.norm.weight[0] = math.nan

    with pytest.raises(TrainingDiverged, match=r"became nan at step 13: lower blocks_lr or lr"):
        train(model, make_data(), RUN, tmp_path, watch=poison)
    run = train(make_model(), make_data(), RUN, tmp_path)
    assert run.column("step")[-1] == 24 and all(map(math.isfinite, run.column("train_loss")))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ((torch.zeros(16, dtype=torch.int64), None), "16 tokens and at least 17.*context of 16"),
        ((None, torch.zeros(1, dtype=torch.int64)), "validation text has 1 tokens"),
        ((torch.full((99,), 13), None), "vocab_size 13.*13 is among them: was another"),
        ((torch.zeros(99), None), "training text must be integers.*float32"),
        ((torch.zeros(9, 9, dtype=torch.int64), None), r"\(T,\), not int64 of shape \(9, 9\)"),
    ],
)
def test_unfit_data(data, sentence, tmp_path):
    data = tuple(
        ids if ids is not None else good for ids, good in zip(data, make_data(), strict=True)
    )
    with pytest.raises(ValueError, match=sentence):
        train(make_model(), data, RUN, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"optimizer": "adam"}, "optimizer='adam' must be"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"lr": -1.0}, "lr=-1.0 must not be negative"),
        ({"lr": math.nan}, "lr=nan must not be negative"),
        ({"warmup": 0.6}, "shares of the steps"),
    ],
)
def test_unfit_knobs(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(RUN, **options)


def test_a_checkpoint_of_another_run_is_named(tmp_path):
    data = make_data()
    train(make_model(), data, RUN, tmp_path)
    for options, sentence in (
        ({"vocab_size": 14}, "vocab_size=13, not 14"),
        ({"d_model": 32}, "d_model=16, not 32"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            train(make_model(**options), data, RUN, tmp_path)
    with pytest.raises(CheckpointError, match=r"blocks_lr=None, not 0.1"):
        train(make_model(), data, replace(RUN, blocks_lr=0.1), tmp_path)
    with pytest.raises(CheckpointError, match="another text"):
        train(make_model(), (data[0].flip(0), data[1]), RUN, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "foreign"])
def test_a_damaged_checkpoint_is_named(damage, tmp_path):
    train(make_model(), make_data(), RUN, tmp_path)
    path = tmp_path / "last.safetensors"
    good = path.read_bytes()
    if damage == "foreign":
        path.write_bytes((tmp_path / "best" / "weights.safetensors").read_bytes())
    else:
        path.write_bytes({"cut": good[:-100], "noise": b"\xff" * 500, "empty": b""}[damage])
    with pytest.raises(CheckpointError, match=r"last\.safetensors is damaged.*delete the folder"):
        train(make_model(), make_data(), RUN, tmp_path)


def test_checkpoints_hold_no_pickle(tmp_path):
    train(make_model(), make_data(), replace(RUN, steps=6), tmp_path)
    head = (tmp_path / "last.safetensors").read_bytes()
    size = int.from_bytes(head[:8], "little")
    record = json.loads(json.loads(head[8 : 8 + size])["__metadata__"]["record"])
    assert record["now"]["step"] == 6 and record["model"]["vocab_size"] == 13
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} == {
        ".safetensors",
        ".json",
        ".jsonl",
    }
