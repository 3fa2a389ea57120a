"""The training loop of lesson 04: it learns, resumes exactly, and fails in one sentence."""

import json
import math
import random
import shutil
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from itertools import islice
from pathlib import Path

import elsewhere
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from aigc_utils import history, training
from aigc_utils.gpt import GPT, LLAMA, GPTConfig
from aigc_utils.training import (
    CheckpointError,
    Muon,
    TrainConfig,
    TrainingDiverged,
    bits_per_character,
    evaluate,
    make_optimizers,
    orthogonalise,
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


# What a step does, written out


def reference(model, data, config):
    """Rows of a run that logs and validates at every step: step, losses, learning rate, tokens."""
    model.train()
    (train_ids, val_ids), context, t = data, model.config.context, 0
    blocks = [w for n, w in model.named_parameters() if n.startswith("blocks") and w.ndim == 2]
    tables = [w for n, w in model.named_parameters() if "blocks" not in n and w.ndim == 2]
    vectors = [w for w in model.parameters() if w.ndim == 1]
    matrices = {"params": blocks, "peak": config.blocks_lr}
    rest = [{"params": tables, "peak": config.lr}, {"params": vectors, "weight_decay": 0.0}]
    options = {"lr": config.lr, "betas": (0.9, 0.95), "weight_decay": config.weight_decay}
    if config.optimizer == "muon":
        muon = torch.optim.Muon([matrices], weight_decay=config.weight_decay)
        optimizers = [torch.optim.AdamW(rest, **options), muon]
    else:
        optimizers = [torch.optim.AdamW([matrices, *rest], **options)]
    for starts in windows(len(train_ids), context, config.batch_size, config.seed):
        rows = torch.stack([train_ids[i : i + context + 1] for i in starts])
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            logits = model(rows[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        length = torch.cat([w.grad.flatten() for w in model.parameters()]).norm()
        climb, descent = (
            (t + 1) / config.steps / config.warmup,
            (1 - t / config.steps) / config.decay,
        )
        factor, t = min(1.0, climb, descent), t + 1
        for w in model.parameters():
            w.grad *= min(1.0, config.clip / length)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * group.get("peak", config.lr)
            optimizer.step()
            optimizer.zero_grad()
        val_loss = evaluate(model, val_ids, bf16=config.bf16)
        tokens = t * config.batch_size * context
        yield [t, loss.item(), val_loss, factor * config.lr, tokens, length.item()]


@pytest.mark.parametrize(("optimizer", "bf16"), [("adamw", False), ("adamw", True), ("muon", True)])
def test_every_row_is_that_of_the_loop_written_out(optimizer, bf16, tmp_path):
    config = replace(
        RUN, optimizer=optimizer, bf16=bf16, eval_every=1, steps=20, warmup=0.2, clip=0.5,
        blocks_lr=0.01,
    )  # fmt: skip
    model, data = make_model(dropout=0.0), make_data()
    wanted = list(islice(reference(model, data, config), config.steps))
    lengths = [row.pop() for row in wanted]
    assert max(lengths) > 2 * config.clip  # or clipping would not be tried
    run = train(make_model(dropout=0.0), data, config, tmp_path)
    names = ("step", "train_loss", "val_loss", "lr", "tokens")
    rows = [[row[name] for name in names] for row in run.rows[1:]]
    np.testing.assert_allclose(rows, wanted, rtol=2e-3 if bf16 else 2e-6)


def test_bfloat16_changes_the_losses_a_little(tmp_path):
    config = replace(RUN, optimizer="adamw", steps=8)
    a, b = (
        train(make_model(), make_data(), replace(config, bf16=bf16), tmp_path / str(bf16))
        for bf16 in (False, True)
    )
    for name in ("train_loss", "val_loss"):  # the very first ones, too
        difference = np.abs(a.column(name) - b.column(name))
        assert difference[0] > 1e-6 and difference.max() < 0.05


def test_dropout_is_on_in_training_and_off_in_evaluation(tmp_path):
    model, modes, masks = make_model(dropout=0.3), [], set()

    def look(module, _, out):
        modes.append((module.training, torch.is_grad_enabled()))
        if module.training:
            masks.add((out == 0).numpy().tobytes())

    model.dropout.register_forward_hook(look)
    config = replace(RUN, steps=3, eval_every=1)
    run = train(model, make_data(), config, tmp_path / "a", watch=lambda run: model.eval())
    assert modes.count((True, True)) == 3 and modes.count((False, False)) == len(modes) - 3
    assert len(masks) == 3  # another in every step
    train(model, make_data(), replace(config, seed=1), tmp_path / "other")
    assert len(masks) == 6  # and with every seed
    plain = train(make_model(dropout=0.0), make_data(), config, tmp_path / "b")
    assert plain.rows[0]["val_loss"] == run.rows[0]["val_loss"]
    assert plain.rows[1]["train_loss"] != pytest.approx(run.rows[1]["train_loss"], abs=1e-4)


def test_the_best_weights_come_back_and_not_the_last(tmp_path):
    model = make_model()

    def spoil(run):
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(8 if weight.ndim == 2 else 1)

    config = replace(RUN, optimizer="sgd", lr=0.0, blocks_lr=0.0, eval_every=12)
    run = train(model, make_data(), config, tmp_path, watch=spoil)
    vals = run.column("val_loss")
    assert vals[0] < min(vals[1:]) - 0.1
    for ours, first in zip(model.parameters(), make_model().parameters(), strict=True):
        assert torch.equal(ours, first)


def test_a_row_gives_the_mean_loss_since_the_row_before(tmp_path, whole):
    run = train(make_model(), make_data(), replace(RUN, log_every=4), tmp_path)
    steps, means = run.points("step", "train_loss")
    assert steps.tolist() == [4, 6, 8, 12, 16, 18, 20, 24]
    every = [loss for _, loss, _ in whole[1:]]
    for begin, end, mean in zip([0, *steps], steps, means, strict=False):
        assert mean == pytest.approx(np.mean(every[begin:end]), rel=1e-6)
    norms = train(make_model(), make_data(), replace(RUN, log_every=1), tmp_path / "every")
    assert run.column("grad_norm")[0] == pytest.approx(norms.column("grad_norm")[:4].mean())


def test_a_step_takes_the_rates_times_the_factor_and_clips():
    data = make_data()[0]
    x, y = training.cut(data, torch.tensor([0, 40]), 16)
    assert torch.equal(x[1], data[40:56]) and torch.equal(y[1], data[41:57])
    moved, norms = {}, {}
    for clip in (0.0, 0.1, 1e6):
        model = make_model(dropout=0.0)
        before = torch.cat([w.detach().flatten().clone() for w in model.parameters()])
        optimizers = make_optimizers(model, replace(RUN, optimizer="sgd", lr=1.0, weight_decay=0.0))
        loss, norms[clip] = training.step(model, optimizers, x, y, factor=0.5, clip=clip)
        assert loss == pytest.approx(F.cross_entropy(make_model()(x).mT, y).item(), rel=0.1)
        after = torch.cat([w.detach().flatten() for w in model.parameters()])
        moved[clip] = (after - before).norm().item()
    assert moved[0.0] == moved[1e6] > 0.1
    assert moved[0.1] == pytest.approx(0.5 * 0.1, rel=1e-3)
    assert norms[0.0] == norms[0.1] == norms[1e6] == pytest.approx(2 * moved[0.0], rel=1e-3)


@pytest.mark.parametrize("shape", [(8, 8), (16, 40), (40, 16), (1, 7)])
def test_orthogonalised_singular_values_are_about_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    p = s / s.norm()
    for _ in range(5):  # the same polynomial on the singular values alone
        p = 3.4445 * p - 4.7750 * p**3 + 2.0315 * p**5
    torch.testing.assert_close(orthogonalise(matrix), u @ p.diag() @ v, rtol=1e-4, atol=1e-5)
    assert (p > 0.5).all() and (p < 1.3).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_our_muon_makes_pytorchs_steps(dtype):
    generator = torch.Generator().manual_seed(2)
    first = [torch.randn(shape, generator=generator) for shape in ((8, 8), (6, 20), (20, 6))]
    ours, theirs = ([w.clone().requires_grad_() for w in first] for _ in range(2))
    pair = (
        Muon(ours, lr=0.02, weight_decay=0.1, dtype=dtype),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1),
    )
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        for optimizer in pair:
            optimizer.step()
    for start, a, b in zip(first, ours, theirs, strict=True):
        if dtype == torch.bfloat16:
            assert torch.equal(a, b)
        else:  # to the precision of bfloat16, which PyTorch's own rounds to
            assert 0 < (a - b).norm() < 0.03 * (b - start).norm()


def test_muon_multiplies_in_bfloat16_when_the_run_does():
    for bf16, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        assert make_optimizers(make_model(), replace(RUN, bf16=bf16))[1].dtype == dtype


# Interrupted and resumed

SCRIPT = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores Ctrl-C
sys.path.insert(0, {tests!r})
import test_training as t
def slow(run):
    print(run.rows[-1]["step"], flush=True)
    if run.rows[-1]["step"] >= 12:
        time.sleep(60)
t.train(t.make_model(), t.make_data(), t.RUN, Path({folder!r}), watch=slow)
"""


@pytest.mark.slow
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_resumed_gives_the_same_losses(blow, tmp_path, whole):
    broken = tmp_path / "broken"
    code = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(broken))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) >= 12:
            break
    with pytest.raises(CheckpointError, match="Another run is training in broken: wait until"):
        train(make_model(), make_data(), RUN, broken)
    process.send_signal(blow)
    assert process.wait() != 0
    with (broken / "history.jsonl").open("a") as file:  # as if it had died later, in mid-line
        file.write('{"step": 13, "train_loss": 99.0}\n{"step": 14, "tr')
    train(make_model(), make_data(), RUN, broken)
    assert losses(broken) == whole


class Stop(Exception):
    pass


def stop(run):
    if run.rows[-1]["step"] == 12:
        raise Stop


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a whole run, and one that was stopped at step 12 of its 24."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIGC_STATIC", "1")
        train(make_model(), make_data(), RUN, folder / "whole")
        with pytest.raises(Stop):
            train(make_model(), make_data(), RUN, folder / "broken", watch=stop)
    return folder


@pytest.fixture
def whole(runs) -> list[tuple]:
    return losses(runs / "whole")


@pytest.fixture
def broken(runs, tmp_path) -> Path:
    return shutil.copytree(runs / "broken", tmp_path / "broken")


def go_on(folder: Path, **options) -> history.History:
    torch.manual_seed(999)  # a different start must not matter
    return train(GPT(MODEL), make_data(), replace(RUN, **options), folder)


def test_interrupted_in_the_process_and_resumed(broken, whole):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go_on(broken)
        assert losses(broken) == whole
        again = go_on(broken)  # finished: nothing left to do
    assert len(again.rows) == 25


def test_a_row_more_or_less_is_no_other_run(broken):
    run = go_on(broken, log_every=5)
    assert list(run.column("step"))[12:] == [12, 15, 18, 20, 24]


def test_two_runs_in_one_folder(tmp_path, whole):
    def second(run):
        with pytest.raises(CheckpointError, match=r"Another run is training in one: wait"):
            train(make_model(), make_data(), replace(RUN, seed=1), tmp_path / "one")

    train(make_model(), make_data(), RUN, tmp_path / "one", watch=second)
    assert losses(tmp_path / "one") == whole


@pytest.mark.parametrize("harm", ["missing", "middle", "number", "foreign", "bytes", "steps"])
def test_an_unreadable_history_is_put_aside(harm, broken, whole):
    path = broken / "history.jsonl"
    if harm == "missing":
        path.unlink()
    else:
        lines = path.read_bytes().splitlines()
        lines[5] = {
            "middle": b'{"step": 5',
            "number": b"5",
            "foreign": b'{"epoch": 5}',
            "bytes": b"\xff\xfe\x00",
            "steps": b'{"step": "five"}',
        }[harm]
        path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.warns(UserWarning, match=r"history\.jsonl .*: the history goes on after step 12"):
        go_on(broken)
    assert losses(broken) == whole[13:]
    assert (broken / "history.damaged").exists() == (harm != "missing")


@pytest.mark.parametrize("harm", ["weights", "config", "folder", "bit", "other shape"])
def test_missing_or_damaged_best_weights_are_replaced(harm, broken, runs, whole):
    weights, config = broken / "best" / "weights.safetensors", broken / "best" / "config.json"
    if harm == "bit":
        flip_a_bit(weights, weights.stat().st_size - 3, 1)
    elif harm == "other shape":
        make_model(vocab_size=14).save(broken / "best")
    else:
        if harm in ("weights", "folder"):
            weights.unlink()
        if harm in ("config", "folder"):
            config.unlink()
        if harm == "folder":
            (broken / "best").rmdir()
    go_on(broken)
    assert losses(broken) == whole
    assert weights.read_bytes() == (runs / "whole/best/weights.safetensors").read_bytes()


def test_best_weights_that_cannot_be_had_again_are_said_to_be_lost(tmp_path):
    config = replace(RUN, optimizer="sgd", lr=0.0, blocks_lr=0.0)  # the first weights stay the best
    with pytest.raises(Stop):
        train(make_model(), make_data(), config, tmp_path, watch=stop)
    shutil.rmtree(tmp_path / "best")
    with pytest.warns(UserWarning, match="/best are missing or damaged: those of step 12 take"):
        run = train(make_model(), make_data(), config, tmp_path)
    assert evaluate(GPT.load(tmp_path / "best"), make_data()[1]) == run.column("val_loss")[-1]


def flip_a_bit(path: Path, byte: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def test_every_flipped_bit_is_named(broken):
    path = broken / "last.safetensors"
    good, rng = path.read_bytes(), random.Random(1)
    head = 8 + int.from_bytes(good[:8], "little")
    places = [rng.randrange(head) for _ in range(30)] + [head, len(good) - 1]
    for byte in places + [rng.randrange(head, len(good)) for _ in range(30)]:
        flip_a_bit(path, byte, rng.randrange(8))
        with pytest.raises(CheckpointError, match=r"broken/last\.safetensors is damaged"):
            go_on(broken)
        path.write_bytes(good)
    go_on(broken)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, whole):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = {}

    def fill(run):
        if run.rows[-1]["step"] == 12:
            kept["last"] = (tmp_path / "run/last.safetensors").read_bytes()
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept["last"]) // 2, before[1]))

    try:
        with pytest.raises(
            CheckpointError, match=r"run cannot be written \(.*too large.*make room"
        ):
            train(make_model(), make_data(), RUN, tmp_path / "run", watch=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "run/last.safetensors").read_bytes() == kept["last"]
    assert not list((tmp_path / "run").rglob("*.tmp"))
    go_on(tmp_path / "run")
    assert losses(tmp_path / "run") == whole


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match=r"cannot be written .*make room there or take"):
            train(make_model(), make_data(), RUN, folder)
    assert (tmp_path / "file").read_text() == "mine"


# Several processes

TOGETHER = """
import json, os, sys, zlib
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
import test_training as t
torch.distributed.init_process_group("gloo")  # one group for all that follows
for optimizer in ("muon", "adamw"):
    config = replace(t.RUN, optimizer=optimizer)
    t.train(t.make_model(dropout=0.0), t.make_data(), config, Path({folder!r}, optimizer))
torch.manual_seed(int(os.environ["RANK"]))
model = t.GPT(t.MODEL)  # other first weights in each process
masks, sums = [], []
def look(module, _, out):
    if module.training:
        masks.append(zlib.crc32((out == 0).numpy().tobytes()))
model.dropout.register_forward_hook(look)
t.train(model, t.make_data(), t.RUN, Path({folder!r}, "dropout"), watch=lambda run: sums.append(
    sum(w.abs().sum().item() for w in model.parameters())))
Path({folder!r}, os.environ["RANK"] + ".json").write_text(json.dumps([masks, sums]))
"""


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(TOGETHER.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run([*torchrun, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for optimizer in ("muon", "adamw"):
        one = tmp_path / "one" / optimizer
        train(make_model(dropout=0.0), make_data(), replace(RUN, optimizer=optimizer), one)
        two = losses(tmp_path / optimizer)
        assert len(two) == 25
        for (step, *a), (step2, *b) in zip(losses(one), two, strict=True):
            assert step == step2
            assert [x for x in a if x] == pytest.approx([x for x in b if x], rel=1e-4)
    (masks, sums), (others, same) = (
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)
    )
    assert sums == same and len(set(sums)) > 2  # one model, whatever each process began with
    assert len({*masks, *others}) == 2 * RUN.steps  # and no mask of dropout is drawn twice


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


def test_evaluate_never_holds_more_logits_than_it_says(monkeypatch):
    model, ids, sizes = make_model().eval(), make_data()[0], []
    whole = evaluate(model, ids)
    model.register_forward_hook(lambda module, args, logits: sizes.append(logits.numel()))
    monkeypatch.setattr(training, "LOGITS", 5 * 16 * 13 + 1)
    assert evaluate(model, ids) == pytest.approx(whole, rel=1e-6)
    assert max(sizes) == 5 * 16 * 13
    monkeypatch.setattr(training, "LOGITS", 1)  # less than a window: one at a time
    assert evaluate(model, ids) == pytest.approx(whole, rel=1e-6)
    assert sizes[-1] <= 16 * 13


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


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
def test_the_work_is_done_where_the_model_is(tmp_path):
    config = replace(RUN, optimizer="sgd", steps=4, eval_every=2)
    here = train(make_model(dropout=0.0), make_data(), config, tmp_path / "here")
    model = elsewhere.moved(make_model(dropout=0.0))
    with elsewhere.watched():
        there = train(model, make_data(), config, tmp_path / "there")
    assert model.embedding.weight.device.type == elsewhere.PLACE
    for name in ("train_loss", "val_loss"):
        np.testing.assert_allclose(there.column(name), here.column(name), rtol=1e-5)


def test_every_epoch_has_an_order_and_a_cut_of_its_own():
    batches = windows(1000, 16, 4, seed=5)
    epochs = [torch.cat([next(batches) for _ in range(15)]) for _ in range(4)]
    assert len({tuple((starts // 16).tolist()) for starts in epochs}) == 4
    assert len({int(starts[0]) % 16 for starts in epochs}) > 1


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


def test_bf16_pays_where_it_is_faster(monkeypatch):
    speed = {torch.float32: 1.0, torch.bfloat16: 0.5}
    clock = [0.0]

    class Matrix:
        def __init__(self, *shape, dtype, device):
            self.dtype = dtype

        def __matmul__(self, other):
            clock[0] += speed[self.dtype]
            return torch.zeros(1, 1)

    monkeypatch.setattr(torch, "ones", Matrix)
    monkeypatch.setattr(training.time, "perf_counter", lambda: clock[0])
    for speed[torch.bfloat16], pays in ((0.5, True), (0.6, True), (0.7, False), (2.0, False)):
        assert training.bf16_pays.__wrapped__() == pays


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


def test_a_model_without_numbers_is_not_said_to_be_kept(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.norm.weight[0] = math.nan
    with pytest.raises(TrainingDiverged, match=r"nan before the first step: .* build the model"):
        train(model, make_data(), RUN, tmp_path)


def test_ids_may_be_a_file_of_nanogpt_or_a_list(tmp_path):
    train_ids, val_ids = make_data()
    train_ids.numpy().astype(np.uint16).tofile(tmp_path / "train.bin")
    file = np.memmap(tmp_path / "train.bin", dtype=np.uint16, mode="r")
    config = replace(RUN, steps=3)
    train(make_model(), (train_ids, val_ids), config, tmp_path / "tensors")
    train(make_model(), (file, val_ids.tolist()), config, tmp_path / "others")
    assert losses(tmp_path / "tensors") == losses(tmp_path / "others")
    assert evaluate(make_model(), val_ids.tolist()) == evaluate(make_model(), val_ids)


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


def test_a_checkpoint_of_another_run_is_named(broken):
    data = make_data()
    for options, sentence in (
        ({"vocab_size": 14}, "vocab_size=13, not 14"),
        ({"d_model": 32}, "d_model=16, not 32"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            train(make_model(**options), data, RUN, broken)
    with pytest.raises(CheckpointError, match=r"blocks_lr=None, not 0.1"):
        train(make_model(), data, replace(RUN, blocks_lr=0.1), broken)
    with pytest.raises(CheckpointError, match="another text"):
        train(make_model(), (data[0].flip(0), data[1]), RUN, broken)


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "foreign"])
def test_a_damaged_checkpoint_is_named(damage, broken):
    path = broken / "last.safetensors"
    good = path.read_bytes()
    if damage == "foreign":
        path.write_bytes((broken / "best" / "weights.safetensors").read_bytes())
    else:
        path.write_bytes({"cut": good[:-100], "noise": b"\xff" * 500, "empty": b""}[damage])
    with pytest.raises(CheckpointError, match=r"last\.safetensors is damaged.*delete the folder"):
        train(make_model(), make_data(), RUN, broken)


def test_checkpoints_hold_no_pickle(tmp_path):
    train(make_model(), make_data(), replace(RUN, steps=6), tmp_path)
    head = (tmp_path / "last.safetensors").read_bytes()
    size = int.from_bytes(head[:8], "little")
    record = json.loads(json.loads(head[8 : 8 + size])["__metadata__"]["record"])
    assert record["progress"]["step"] == 6 and record["model"]["vocab_size"] == 13
    names = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    best = {"best/config.json", "best/weights.safetensors"}
    assert names - {"training.lock"} == best | {"history.jsonl", "last.safetensors"}


@pytest.mark.slow
def test_training_does_not_load_the_drawing_library():
    code = "import sys, aigc_utils.training; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
