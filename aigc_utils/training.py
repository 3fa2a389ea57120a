"""The training loop: minibatches, schedule, validation, checkpoints that resume (lesson 04).

`train(model, data, config, folder)` is the whole of it. AdamW (Loshchilov & Hutter, *Decoupled
Weight Decay Regularization*, 2019) or, for the matrices inside the blocks, Muon (Jordan et al.,
*Muon: An optimizer for hidden layers in neural networks*, 2024); a warm-up, a plateau and a linear
descent of the learning rate; gradient clipping; validation over the whole validation text.

Everything happens on the model's own device: with a GPU, `model.to("cuda")` before `train` is the
one line to change. The ids stay where they are, and batches move.

Under `torchrun --nproc_per_node=2` every process takes its share of each batch and the gradients
are averaged: the same losses as in one process, up to the order of sums (in bfloat16, a thousandth)
and up to dropout, whose masks each process draws for itself. All must see the same `folder`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor
from tqdm.auto import tqdm

from aigc_utils import files, history
from aigc_utils.gpt import GPT, LLAMA, check_ids
from aigc_utils.history import TrainingDiverged

MUON_LR = 0.02
LOGITS = 2**22  # that `evaluate` computes at once, 16 MB of float32


@dataclass(frozen=True)
class TrainConfig:
    """The knobs of one run; the defaults suit a model of about a million parameters."""

    steps: int = 600
    batch_size: int = 32  # windows in a step, over all processes together
    optimizer: str = "muon"  # "muon" (matrices in blocks; AdamW for the rest) | "adamw" | "sgd"
    lr: float = 6e-3  # peak learning rate
    blocks_lr: float | None = None  # … of the blocks' matrices; None: 0.02 for Muon, else lr
    weight_decay: float = 0.0  # on matrices and embeddings, never on norms and biases
    warmup: float = 0.0  # share of the steps in which the learning rate climbs to its peak
    decay: float = 0.5  # share of the steps in which it falls to zero, at the end
    clip: float = 1.0  # largest norm of the gradient; 0 leaves it alone
    eval_every: int = 100  # steps between validations, each with a checkpoint
    log_every: int = 10  # steps between rows of the history
    bf16: bool | None = None  # multiply in bfloat16? None: measure whether that is faster here
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in ("muon", "adamw", "sgd"):
            raise ValueError(f"optimizer={self.optimizer!r} must be 'muon', 'adamw' or 'sgd'.")
        for name in ("steps", "batch_size", "eval_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("lr", "blocks_lr", "weight_decay", "clip"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative.")
        if min(self.warmup, self.decay) < 0 or self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup={self.warmup} and decay={self.decay} are shares of the steps: "
                "neither is negative and together they are at most 1."
            )


# What lesson 04 trains on the novel, in about a minute on 2 cores: 1.4 million parameters with a
# vocabulary of 512. model = GPT(GPTConfig(vocab_size=512, **SMALL_GPT)), then
# model.init_weights(zero_branches=True), then train(model, data, SMALL_RUN, folder).
SMALL_GPT: dict[str, Any] = {
    "context": 128,
    "n_layers": 3,
    "n_heads": 3,
    "d_model": 192,
    "d_mlp": 512,
    "qk_norm": True,
    "norm_eps": 1e-6,
    **LLAMA,
}
SMALL_RUN = TrainConfig(steps=400, batch_size=16)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or written, or belongs to another run."""


def schedule(step: int, config: TrainConfig) -> float:
    """Factor in (0, 1] of the learning rate at step 0, 1, …: warm-up, plateau, linear descent."""
    done = (step + 1) / config.steps
    rise = done / config.warmup if config.warmup else 1.0
    fall = (1 - step / config.steps) / config.decay if config.decay else 1.0
    return min(1.0, rise, fall)


def windows(length: int, context: int, batch_size: int, seed: int, step: int = 0) -> Iterator:
    """Start positions, (batch_size,), of the training windows from `step` on, for ever.

    Each epoch cuts the text at a new random offset and visits the pieces in random order, so every
    token is seen about once an epoch. Which windows a step gets depends only on seed and step.
    """
    pieces = (length - 1 - (context - 1)) // context or 1
    per_epoch = max(1, pieces // batch_size)
    while True:
        epoch, first = divmod(step, per_epoch)
        # A generator's first numbers hardly differ between neighbouring seeds; a hash does.
        rng = torch.Generator().manual_seed(zlib.crc32(f"{seed} {epoch}".encode()))
        if pieces >= batch_size:
            offset = int(torch.randint(min(context, length - pieces * context), (), generator=rng))
            starts = offset + context * torch.randperm(pieces, generator=rng)
        else:  # a text of fewer pieces than a batch has
            starts = torch.randint(length - context, (batch_size,), generator=rng)
        for i in range(first, per_epoch):
            yield starts[i * batch_size : (i + 1) * batch_size]
            step += 1


@torch.no_grad()
def evaluate(model: GPT, ids: Tensor, *, overlap: int = 0, bf16: bool = False) -> float:
    """Mean loss in nats per token over the whole of ids (n,), in fixed windows of the context.

    Every token but the first is predicted exactly once. `overlap` tokens of each window repeat the
    end of the one before, so that no prediction has less than that to look back on. It runs on the
    model's device, a few windows at a time.
    """
    context, device = model.config.context, model.device
    ids = check_text("evaluation", ids, model, shortest=2)
    if not 0 <= overlap < context:
        raise ValueError(f"overlap={overlap} must lie in 0…{context - 1}.")
    was_training = model.training
    model.eval()

    def losses(x: Tensor, y: Tensor) -> Tensor:
        with _autocast(device, bf16):
            logits = model(x)
        return F.cross_entropy(logits.float().mT, y.to(device), reduction="none").cpu().double()

    rank, processes = _processes()
    total = torch.zeros((), dtype=torch.float64, device="cpu")
    fresh = context - overlap  # tokens that a window predicts
    full = torch.arange(0, max(0, len(ids) - context), fresh, device="cpu")
    rows = min(64, max(1, LOGITS // (context * model.config.vocab_size)))
    for chunk in full.split(rows)[rank::processes] if len(full) else ():
        nats = losses(*cut(ids, chunk, context))
        total += nats[:, overlap:].sum() + nats[chunk == 0, :overlap].sum()
    done = int(full[-1]) + context if len(full) else 0  # tokens predicted so far
    if rank == 0 and done < len(ids) - 1:
        begin = max(0, len(ids) - 1 - context)
        total += losses(ids[None, begin:-1], ids[None, begin + 1 :])[0, done - begin :].sum()
    if processes > 1:
        dist.all_reduce(total)
    model.train(was_training)
    return total.item() / (len(ids) - 1)


def bits_per_character(
    nats_per_token: float, tokens: int, characters: int, vocab_size: int
) -> float:
    """Bits per character of a text from `evaluate`'s loss: comparable across tokenizers.

    The first token, which nothing predicts, is charged log2(vocab_size) bits.
    """
    return (nats_per_token * (tokens - 1) + math.log(vocab_size)) / math.log(2) / characters


@functools.cache
def bf16_pays(device: str = "cpu") -> bool:
    """Measure whether `device` multiplies matrices at least 1.5 times faster in bfloat16."""

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(512, 512, dtype=dtype, device=device)
        times = []
        for _ in range(8):
            begin = time.perf_counter()
            (matrix @ matrix)[0, 0].item()  # a GPU has finished only when a number is asked for
            times.append(time.perf_counter() - begin)
        return min(times)

    return seconds(torch.float32) > 1.5 * seconds(torch.bfloat16)


def orthogonalise(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Nearly UVᵀ of matrix (m, n) = USVᵀ, in `dtype`: all its directions become about equally long.

    Five Newton–Schulz steps, X ← aX + (bA + cA²)X with A = XXᵀ. They move every singular value in
    (0, 1] to between 0.7 and 1.2 without computing one (Jordan et al., 2024).
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = wide.to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        a = x @ x.T
        x = torch.addmm(x, torch.addmm(a, a, a, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x if wide is matrix else x.T


class Muon(torch.optim.Optimizer):
    """`torch.optim.Muon` that orthogonalises in `dtype`, for the matrices inside the blocks.

    PyTorch's own always takes bfloat16, where a processor without units for it needs up to a
    hundred times longer; with `dtype=torch.bfloat16` both make the same steps to the last bit.
    """

    def __init__(
        self,
        params: Any,
        lr: float = MUON_LR,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay, momentum=momentum))
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                average = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                ahead = weight.grad.lerp(average, momentum)  # Nesterov's look ahead
                rows, columns = weight.shape
                weight.mul_(1 - lr * group["weight_decay"])
                weight.add_(
                    orthogonalise(ahead, self.dtype), alpha=-lr * max(1, rows / columns) ** 0.5
                )


def make_optimizers(model: GPT, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """One optimiser, or two for Muon: it takes the blocks' matrices and AdamW takes the rest.

    Muon orthogonalises in bfloat16 when the run does; in float32 otherwise.
    """
    blocks: list[Tensor] = []
    tables: list[Tensor] = []
    vectors: list[Tensor] = []
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            vectors.append(weight)
        else:
            (blocks if name.startswith("blocks.") else tables).append(weight)
    rest: list[dict[str, Any]] = [
        {"params": tables, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    muon = config.optimizer == "muon"
    default = MUON_LR if muon else config.lr
    matrices: dict[str, Any] = {
        "params": blocks,
        "lr": default if config.blocks_lr is None else config.blocks_lr,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "sgd":
        return [torch.optim.SGD([matrices, *rest], lr=config.lr)]
    groups = rest if muon else [matrices, *rest]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=True)
    ]
    if muon:
        device = str(model.device)
        bf16 = bf16_pays(device) if config.bf16 is None else config.bf16
        optimizers.append(Muon([matrices], dtype=torch.bfloat16 if bf16 else torch.float32))
    return optimizers


@dataclass
class Progress:
    """Where a run is: a checkpoint keeps it beside the weights and the optimisers' states."""

    bf16: bool  # as measured when the run began
    step: int = 0  # steps done
    seconds: float = 0.0  # spent on them
    best: float = math.inf  # lowest validation loss so far
    best_step: int = 0  # where it was reached
    best_digest: int = 0  # checksum of the weights that reached it


def train(
    model: GPT,
    data: tuple[Any, Any],
    config: TrainConfig,
    folder: str | Path,
    *,
    watch: Callable[[history.History], None] | None = None,
) -> history.History:
    """Train `model` on data = (training ids, validation ids) and return the run's history.

    Afterwards the model holds the weights with the lowest validation loss. `folder` receives
    `history.jsonl` (step, train_loss, val_loss, grad_norm, lr, tokens, seconds), `best/` (for
    `GPT.load`) and `last.safetensors`, everything that is needed to go on: calling `train` again
    after an interruption continues from there and gives the losses of an uninterrupted run.
    `watch` is called with the history after every validation, the one at step 0 included.

    The ids (n,) may be tensors, NumPy arrays or lists of any integer type; the work is done where
    the model is. Raises ValueError for unfit data, CheckpointError for a checkpoint that is
    damaged or belongs to another run, for a folder that cannot be written and for one in which
    another process is training, TrainingDiverged when the loss is no longer a number.
    """
    texts = (
        check_text("training", data[0], model, shortest=model.config.context + 1),
        check_text("validation", data[1], model, shortest=2),
    )
    folder = Path(folder)
    with _process_group(), torch.random.fork_rng(devices=[]):
        _, processes = _processes()
        if config.batch_size % processes:
            raise ValueError(
                f"batch_size={config.batch_size} must be a multiple of the {processes} processes."
            )
        with _only_writer(folder):
            run = _Run(model, texts, config, folder, watch)
            with run.log:
                run.go_on()
            if processes > 1:
                dist.barrier()  # the best weights are on disk before anyone reads them
            model.load_state_dict(GPT.load(folder / "best").state_dict())
        model.eval()
        return run.log.history


class _Run:
    """One call of `train`: the model and its optimizers, where they are, and what they write."""

    def __init__(
        self,
        model: GPT,
        texts: tuple[Tensor, Tensor],
        config: TrainConfig,
        folder: Path,
        watch: Callable[[history.History], None] | None,
    ) -> None:
        self.model, self.config, self.folder, self.watch = model, config, folder, watch
        self.train_ids, self.val_ids = texts
        self.rank, self.processes = _processes()
        self.settings = {
            "model": asdict(model.config),
            "training": asdict(config),
            "text": [zlib.crc32(ids.cpu().numpy().tobytes()) for ids in texts],
        }
        _copy_from_first_process([weight.data for weight in model.parameters()])
        resumed = (folder / "last.safetensors").exists()
        if resumed:
            self.progress, tensors = _read_checkpoint(folder, self.settings)
        else:
            wanted = bf16_pays(str(model.device)) if config.bf16 is None else config.bf16
            pays = torch.tensor([int(wanted)])
            _copy_from_first_process([pays])  # one process may have measured otherwise
            self.progress = Progress(bf16=bool(pays))
        self.optimizers = make_optimizers(model, replace(config, bf16=self.progress.bf16))
        if resumed:
            _restore(model, self.optimizers, tensors)
            self._find_best()
        with _writing(folder):
            self.log = _open_history(folder, self.progress.step, self.settings)

    def go_on(self) -> None:
        """Do the steps that are left, with rows, validations and checkpoints when they are due."""
        config, progress, context = self.config, self.progress, self.model.config.context
        if progress.step == 0:
            self._validate({"step": 0, "tokens": 0, "seconds": 0.0})
        starts = windows(
            len(self.train_ids), context, config.batch_size, config.seed, progress.step
        )
        losses: list[float] = []
        norms: list[float] = []
        since = time.perf_counter()
        silent = self.rank > 0 or os.environ.get("AIGC_STATIC") == "1"
        with tqdm(total=config.steps, initial=progress.step, unit="step", disable=silent) as bar:
            while progress.step < config.steps:
                factor = schedule(progress.step, config)
                loss, norm = self._step(next(starts), factor)
                losses.append(loss)
                norms.append(norm)
                bar.update()
                done, last = progress.step, progress.step == config.steps
                judged = done % config.eval_every == 0 or last
                if not judged and done % config.log_every:
                    continue
                progress.seconds += time.perf_counter() - since
                row = {
                    "step": done,
                    "train_loss": sum(losses) / len(losses),
                    "grad_norm": sum(norms) / len(norms),
                    "lr": factor * config.lr,
                    "tokens": done * config.batch_size * context,
                    "seconds": progress.seconds,
                }
                losses.clear()
                norms.clear()
                bar.set_postfix(loss=f"{row['train_loss']:.3f}", best_val=f"{progress.best:.3f}")
                if judged:
                    self._validate(row)
                else:
                    self._write_row(row)
                since = time.perf_counter()

    def _step(self, starts: Tensor, factor: float) -> tuple[float, float]:
        """Train on the windows that begin at starts (batch_size,); return what `step` returns."""
        config, progress = self.config, self.progress
        self.model.train()  # whatever the watcher has left
        # What dropout draws depends on seed, step and process alone, so a resumed run draws it too.
        torch.manual_seed(zlib.crc32(f"{config.seed} {progress.step} {self.rank}".encode()))
        x, y = cut(self.train_ids, starts[self.rank :: self.processes], self.model.config.context)
        clip, bf16 = config.clip, progress.bf16
        loss, norm = step(self.model, self.optimizers, x, y, factor=factor, clip=clip, bf16=bf16)
        progress.step += 1
        if not math.isfinite(loss):
            raise self._diverged("training", loss)
        return loss, norm

    def _validate(self, row: dict[str, Any]) -> None:
        """Log the row with the validation loss, write a checkpoint, and call the watcher."""
        val_loss = evaluate(self.model, self.val_ids, bf16=self.progress.bf16)
        if not math.isfinite(val_loss):
            raise self._diverged("validation", val_loss)
        self._write_row({**row, "val_loss": val_loss})
        self._save(val_loss)
        if self.watch is not None:
            self.watch(self.log.history)

    def _write_row(self, row: dict[str, Any]) -> None:
        with _writing(self.folder):
            self.log.log(**row)

    def _save(self, val_loss: float) -> None:
        """Write `last.safetensors` and, when the weights are the best so far, `best/`.

        In this order: who is killed between the two has the best weights in the first.
        """
        progress = self.progress
        if self.rank > 0:
            return
        better = val_loss < progress.best
        if better:
            progress.best, progress.best_step = val_loss, progress.step
            progress.best_digest = _digest(self.model.state_dict())
        with _writing(self.folder):
            _save_checkpoint(self.folder, self.model, self.optimizers, self.settings, progress)
            if better:
                self.model.save(self.folder / "best")

    def _find_best(self) -> None:
        """Check `best/`; when it is not what the checkpoint remembers, write it anew."""
        there = torch.tensor([int(_digest_of_best(self.folder) == self.progress.best_digest)])
        _copy_from_first_process([there])
        if there:
            return
        if self.progress.best_step != self.progress.step:
            warnings.warn(
                f"The weights in {self.folder.name}/best are missing or damaged: those of step "
                f"{self.progress.step} take their place.",
                stacklevel=4,
            )
        self.progress.best = math.inf
        self._save(evaluate(self.model, self.val_ids, bf16=self.progress.bf16))

    def _diverged(self, name: str, value: float) -> TrainingDiverged:
        done = self.progress.step
        if done == 0:
            return TrainingDiverged(
                f"The {name} loss is {value} before the first step: the model's weights hold "
                "numbers that are too large or none at all, so build the model again."
            )
        knob = "blocks_lr or lr" if self.config.optimizer == "muon" else "lr"
        return TrainingDiverged(
            f"The {name} loss became {value} at step {done}: lower {knob} or lengthen warmup, and "
            f"start in a new folder; the last good checkpoint is kept in {self.folder.name}."
        )


def check_text(name: str, ids: Any, model: GPT, *, shortest: int) -> Tensor:
    """Return ids (n,) as int64; ValueError unless they suit the model and n >= shortest."""
    ids = check_ids(ids, model.config.vocab_size, name=f"{name} text", ndims=(1,))
    if len(ids) < shortest:
        raise ValueError(
            f"The {name} text has {len(ids)} tokens and at least {shortest} are needed with a "
            f"context of {model.config.context}: take a longer text or a shorter context."
        )
    return ids


def cut(ids: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, both (len(starts), context): the targets are one token further on."""
    pieces = ids[starts[:, None] + torch.arange(context + 1)]
    return pieces[:, :-1], pieces[:, 1:]


def step(
    model: GPT,
    optimizers: list[torch.optim.Optimizer],
    x: Tensor,
    y: Tensor,
    *,
    factor: float = 1.0,
    clip: float = 0.0,
    bf16: bool = False,
) -> tuple[float, float]:
    """One step on inputs x and targets y (B, T); return the mean loss and the gradient's length.

    The length is that before clipping. The learning rates are `factor` times those that the
    optimizers were made with; a gradient longer than `clip` (0: any) is shortened to it.
    Under torchrun gradients and loss are means.
    """
    with _autocast(model.device, bf16):
        logits = model(x)
    loss = F.cross_entropy(logits.float().flatten(0, 1), y.to(model.device).flatten())
    loss.backward()
    loss = _average_over_processes(model, loss.detach())
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip or math.inf)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group.setdefault("peak_lr", group["lr"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item(), norm.item()


def _autocast(device: torch.device, bf16: bool) -> contextlib.AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()


# What is on disk ---------------------------------------------------------------------------------


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Make the folder and hold its lock: two runs that share one would mix up their files."""
    if _processes()[0] > 0:
        yield
        return
    lock = FileLock(folder / "training.lock", timeout=0)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            raise CheckpointError(
                f"Another run is training in {folder.name}: wait until it has ended, or train in "
                "another folder."
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what a full or read-only disk raises into one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"The folder {folder.name} cannot be written ({reason}): make room there or take "
            "another folder; what was saved before is whole, and `train` goes on from it."
        ) from error


def _open_history(folder: Path, step: int, settings: dict[str, Any]) -> history.Run:
    """Open history.jsonl with the rows up to the checkpoint; an unreadable one is put aside."""
    if _processes()[0] > 0:
        return history.Run(None)  # the first process keeps the record
    path = folder / "history.jsonl"
    rows, lost = [], ""
    if step > 0:
        try:
            rows = [row for row in history.read(path).rows if row["step"] <= step]
        except FileNotFoundError:
            lost = f"{path.name} is missing from {folder.name}"
        except (ValueError, KeyError, TypeError):
            path.replace(path.with_suffix(".damaged"))
            lost = f"{path.name} in {folder.name} was damaged and is now history.damaged"
    if lost:
        warnings.warn(f"{lost}: the history goes on after step {step}.", stacklevel=4)
    history.write(path, history.History(settings, rows))
    return history.Run(path, append=True)


def _digest(tensors: Mapping[str, Tensor], text: str = "") -> int:
    """Checksum of a text and of every tensor's name, type, shape and bits."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc


def _digest_of_best(folder: Path) -> int | None:
    try:
        return _digest(GPT.load(folder / "best").state_dict())
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return None  # missing or damaged


def _save_checkpoint(
    folder: Path,
    model: GPT,
    optimizers: list[torch.optim.Optimizer],
    settings: dict[str, Any],
    progress: Progress,
) -> None:
    """Write last.safetensors: weights, optimisers' states, and settings and progress as JSON."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{k}": v for k, v in state.items() if v is not None}
    record = json.dumps({**settings, "progress": asdict(progress)})
    metadata = {"record": record, "digest": str(_digest(tensors, record))}
    files.write_whole(folder / "last.safetensors", to_bytes(tensors, metadata))


def _read_checkpoint(folder: Path, settings: dict[str, Any]) -> tuple[Progress, dict[str, Tensor]]:
    """Read what `_save_checkpoint` wrote; refuse what is damaged or belongs to another run."""
    path = folder / "last.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["digest"] != str(_digest(tensors, metadata["record"])):
            raise ValueError("its checksum is another")
        record = json.loads(metadata["record"])
        progress = Progress(**record["progress"])
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise CheckpointError(
            f"The checkpoint {folder.name}/{path.name} is damaged ({type(error).__name__}): "
            "delete the folder and train again, or go on from the weights in its `best`."
        ) from error
    for part in ("model", "training"):
        for name, value in settings[part].items():
            # How often a row is logged changes nothing in the run.
            if record[part].get(name) != value and name != "log_every":
                raise CheckpointError(
                    f"The checkpoint in {folder.name} was made with {name}="
                    f"{record[part].get(name)!r}, not {value!r}: train in another folder."
                )
    if record["text"] != settings["text"]:
        raise CheckpointError(
            f"The checkpoint in {folder.name} was made with another text or tokenizer: "
            "train in another folder."
        )
    return progress, tensors


def _restore(
    model: GPT, optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]
) -> None:
    """Give the model and the optimizers back what a checkpoint kept of them."""
    model.load_state_dict(
        {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    )
    for i, optimizer in enumerate(optimizers):
        whole = optimizer.state_dict()
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer.{i}."):
                _, _, j, key = name.split(".")
                whole["state"].setdefault(int(j), {})[key] = tensor
        optimizer.load_state_dict(whole)


# Several processes -------------------------------------------------------------------------------


def _processes() -> tuple[int, int]:
    """Return (rank, number of processes): (0, 1) without torchrun."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


@contextlib.contextmanager
def _process_group() -> Iterator[None]:
    """Join the other processes when torchrun started this one."""
    ours = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if ours:
        dist.init_process_group("gloo")
    try:
        yield
    finally:
        if ours:
            dist.destroy_process_group()


def _copy_from_first_process(tensors: list[Tensor]) -> None:
    """Overwrite these tensors in place by the first process's: all begin alike."""
    if _processes()[1] > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def _average_over_processes(model: GPT, loss: Tensor) -> Tensor:
    """Replace every gradient by its mean over the processes; return the mean loss."""
    _, processes = _processes()
    if processes == 1:
        return loss
    grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads] + [loss.reshape(1)])
    dist.all_reduce(flat)
    flat /= processes
    for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads] + [1]), strict=False):
        grad.copy_(mean.view_as(grad))
    return flat[-1]
