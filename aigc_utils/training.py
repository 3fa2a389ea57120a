"""The training loop: minibatches, schedule, validation, checkpoints that resume (lesson 04).

`train(model, data, config, folder)` is the whole of it. AdamW (Loshchilov & Hutter, *Decoupled
Weight Decay Regularization*, 2019) or, for the matrices inside the blocks, Muon (Jordan et al.,
*Muon: An optimizer for hidden layers in neural networks*, 2024); a warm-up, a plateau and a linear
descent of the learning rate; gradient clipping; validation over the whole validation text.

Under `torchrun --nproc_per_node=2` every process takes its share of each batch and the gradients
are averaged: the same losses as in one process, up to the order of sums (Muon, which rounds to
bfloat16 inside, lets that grow to a thousandth). All processes must see the same `folder`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from aigc_utils import history
from aigc_utils.gpt import GPT, LLAMA, check_ids

MUON_LR = 0.02


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
    bf16: bool | None = None  # None: measure whether this processor multiplies faster in bfloat16
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


class TrainingDiverged(ArithmeticError):
    """The loss is no longer a number; the last good checkpoint is kept."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or belongs to another run."""


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
        dice = torch.Generator().manual_seed(zlib.crc32(f"{seed} {epoch}".encode()))
        if pieces >= batch_size:
            offset = int(torch.randint(min(context, length - pieces * context), (), generator=dice))
            starts = offset + context * torch.randperm(pieces, generator=dice)
        else:  # a text of fewer pieces than a batch has
            starts = torch.randint(length - context, (batch_size,), generator=dice)
        for i in range(first, per_epoch):
            yield starts[i * batch_size : (i + 1) * batch_size]
            step += 1


@torch.no_grad()
def evaluate(model: GPT, ids: Tensor, *, overlap: int = 0, bf16: bool = False) -> float:
    """Mean loss in nats per token over the whole of ids (n,), in fixed windows of the context.

    Every token but the first is predicted exactly once. `overlap` tokens of each window repeat the
    end of the one before, so that no prediction has less than that to look back on.
    """
    context = model.config.context
    ids = check_text("evaluation", ids, model, shortest=2)
    if not 0 <= overlap < context:
        raise ValueError(f"overlap={overlap} must lie in 0…{context - 1}.")
    was_training = model.training
    model.eval()
    rank, processes = _processes()
    fresh = context - overlap  # tokens that a window predicts
    full = torch.arange(0, max(0, len(ids) - context), fresh)
    total = torch.zeros((), dtype=torch.float64)
    chunks = full.split(64) if len(full) else ()
    for chunk in chunks[rank::processes]:
        x, y = cut(ids, chunk, context)
        with _autocast(bf16):
            logits = model(x)
        losses = F.cross_entropy(logits.float().mT, y, reduction="none").double()
        total += losses[:, overlap:].sum() + losses[chunk == 0, :overlap].sum()
    done = int(full[-1]) + context if len(full) else 0  # tokens predicted so far
    if rank == 0 and done < len(ids) - 1:
        begin = max(0, len(ids) - 1 - context)
        with _autocast(bf16):
            logits = model(ids[None, begin:-1])
        losses = F.cross_entropy(logits[0].float(), ids[begin + 1 :], reduction="none").double()
        total += losses[done - begin :].sum()
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
def bf16_pays() -> bool:
    """Measure whether this processor multiplies matrices at least 1.5 times faster in bfloat16."""

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(512, 512, dtype=dtype)
        times = []
        for _ in range(8):
            begin = time.perf_counter()
            matrix @ matrix
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
    """One optimiser, or two for Muon: it takes the blocks' matrices and AdamW takes the rest."""
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
        bf16 = bf16_pays() if config.bf16 is None else config.bf16
        optimizers.append(Muon([matrices], dtype=torch.bfloat16 if bf16 else torch.float32))
    return optimizers


def train(
    model: GPT,
    data: tuple[Tensor, Tensor],
    config: TrainConfig,
    folder: str | Path,
    *,
    watch: Callable[[history.History], None] | None = None,
) -> history.History:
    """Train `model` on data = (training ids, validation ids) and return the run's history.

    Afterwards the model holds the weights with the lowest validation loss. `folder` receives
    `history.jsonl` (step, train_loss, val_loss, lr, tokens, seconds), `best/` (for `GPT.load`) and
    `last.safetensors`, everything that is needed to go on: calling `train` again after an
    interruption continues from there and gives the losses of an uninterrupted run. `watch` is
    called with the history after every validation, the one at step 0 included.

    Raises ValueError for unfit data, CheckpointError for a checkpoint that is damaged or belongs
    to another run, TrainingDiverged when the loss is no longer a number.
    """
    train_ids = check_text("training", data[0], model, shortest=model.config.context + 1)
    val_ids = check_text("validation", data[1], model, shortest=2)
    folder = Path(folder)
    with _process_group(), torch.random.fork_rng(devices=[]):
        rank, processes = _processes()
        if config.batch_size % processes:
            raise ValueError(
                f"batch_size={config.batch_size} must be a multiple of the {processes} processes."
            )
        torch.manual_seed(config.seed)
        _copy_from_first_process([weight.data for weight in model.parameters()])
        optimizers = make_optimizers(model, config)
        settings = {
            "model": asdict(model.config),
            "training": asdict(config),
            "text": [zlib.crc32(ids.numpy().tobytes()) for ids in (train_ids, val_ids)],
        }
        now: dict[str, Any] = {"step": 0, "seconds": 0.0, "best": math.inf}
        if (folder / "last.safetensors").exists():
            now = _load_checkpoint(folder, model, optimizers, settings)
        else:
            pays = torch.tensor([int(bf16_pays() if config.bf16 is None else config.bf16)])
            _copy_from_first_process([pays])  # one process may have measured otherwise
            now["bf16"] = bool(pays)
        run = _open_history(folder, now["step"], settings)

        def validate(row: dict[str, Any]) -> None:
            val_loss = evaluate(model, val_ids, bf16=now["bf16"])
            if not math.isfinite(val_loss):
                raise _diverged(now["step"], "validation loss", val_loss, config, folder)
            run.log(**row, val_loss=val_loss)
            if rank == 0:
                if val_loss < now["best"]:
                    now["best"] = val_loss
                    model.save(folder / "best")
                _save_checkpoint(folder, model, optimizers, {**settings, "now": now})
            if watch is not None:
                watch(run.history)

        with run:
            if now["step"] == 0:
                validate({"step": 0, "tokens": 0, "seconds": 0.0})
            context, since = model.config.context, time.perf_counter()
            batches = windows(len(train_ids), context, config.batch_size, config.seed, now["step"])
            bar = tqdm(
                total=config.steps,
                initial=now["step"],
                unit="step",
                disable=rank > 0 or os.environ.get("AIGC_STATIC") == "1",
            )
            losses: list[float] = []
            model.train()
            while now["step"] < config.steps:
                x, y = cut(train_ids, next(batches)[rank::processes], context)
                factor = schedule(now["step"], config)
                loss = step(
                    model, optimizers, x, y, factor=factor, clip=config.clip, bf16=now["bf16"]
                )
                now["step"] += 1
                if not math.isfinite(loss):
                    raise _diverged(now["step"], "training loss", loss, config, folder)
                losses.append(loss)
                bar.update()
                done, last = now["step"], now["step"] == config.steps
                if not (done % config.log_every and done % config.eval_every) or last:
                    now["seconds"] += time.perf_counter() - since
                    row = {
                        "step": done,
                        "train_loss": sum(losses) / len(losses),
                        "lr": factor * config.lr,
                        "tokens": done * config.batch_size * context,
                        "seconds": now["seconds"],
                    }
                    losses.clear()
                    bar.set_postfix(loss=f"{row['train_loss']:.3f}", best_val=f"{now['best']:.3f}")
                    if done % config.eval_every == 0 or last:
                        validate(row)
                    else:
                        run.log(**row)
                    since = time.perf_counter()
            bar.close()
        if processes > 1:
            dist.barrier()  # the best weights are on disk before anyone reads them
        model.load_state_dict(load_file(folder / "best" / "weights.safetensors"))
        model.eval()
        return run.history


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
) -> float:
    """One step of gradient descent on inputs x and targets y (B, T); return the mean loss.

    The learning rates are `factor` times those that the optimizers were made with; a gradient
    longer than `clip` (0: any) is shortened to it. Under torchrun gradients and loss are means.
    """
    with _autocast(bf16):
        logits = model(x)
    loss = F.cross_entropy(logits.float().flatten(0, 1), y.flatten())
    loss.backward()
    loss = _average_over_processes(model, loss.detach())
    if clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group.setdefault("peak_lr", group["lr"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return loss.item()


def _autocast(bf16: bool) -> contextlib.AbstractContextManager:
    return torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()


def _diverged(
    step: int, name: str, value: float, config: TrainConfig, folder: Path
) -> TrainingDiverged:
    knob = "blocks_lr or lr" if config.optimizer == "muon" else "lr"
    return TrainingDiverged(
        f"The {name} became {value} at step {step}: lower {knob} or lengthen warmup, and start in "
        f"a new folder; the last good checkpoint is kept in {folder.name}."
    )


def _open_history(folder: Path, step: int, settings: dict[str, Any]) -> Any:
    """Open history.jsonl; a resumed run drops the rows that lie after its checkpoint."""
    if _processes()[0] > 0:
        return _SilentRun()
    path = folder / "history.jsonl"
    if step == 0:
        return history.Run(path, **settings)
    rows = [row for row in history.read(path).rows if row["step"] <= step]
    temporary = path.with_suffix(".tmp")
    with history.Run(temporary, **settings) as copy:
        for row in rows:
            copy.log(**row)
    temporary.replace(path)
    return history.Run(path, append=True)


class _SilentRun(contextlib.nullcontext):
    """The history of a process that writes nothing: rank 0 keeps the record."""

    def __init__(self) -> None:
        super().__init__()
        self.history = history.History()

    def log(self, **metrics: Any) -> None:
        self.history.rows.append(metrics)


# Checkpoints -------------------------------------------------------------------------------------


def _save_checkpoint(
    folder: Path, model: GPT, optimizers: list[torch.optim.Optimizer], record: dict[str, Any]
) -> None:
    """Write last.safetensors: weights, optimiser state, random state, and the record as JSON."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors["random"] = torch.get_rng_state()
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{k}": v for k, v in state.items() if v is not None}
    temporary = folder / "last.safetensors.tmp"
    save_file(tensors, temporary, metadata={"record": json.dumps(record)})
    temporary.replace(folder / "last.safetensors")  # atomic: a reader sees the old or the new


def _load_checkpoint(
    folder: Path,
    model: GPT,
    optimizers: list[torch.optim.Optimizer],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Restore what `_save_checkpoint` wrote and return where the run was."""
    path = folder / "last.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {})["record"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(
            f"The checkpoint {folder.name}/{path.name} is damaged ({type(error).__name__}): "
            "delete the folder and train again, or go on from the weights in its `best`."
        ) from error
    for part in ("model", "training"):
        for name, value in settings[part].items():
            if record[part].get(name) != value:
                raise CheckpointError(
                    f"The checkpoint in {folder.name} was made with {name}="
                    f"{record[part].get(name)!r}, not {value!r}: train in another folder."
                )
    if record["text"] != settings["text"]:
        raise CheckpointError(
            f"The checkpoint in {folder.name} was made with another text or tokenizer: "
            "train in another folder."
        )
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
    torch.set_rng_state(tensors["random"])
    return record["now"]


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
