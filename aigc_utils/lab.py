"""A hyperparameter lab that ends: tiny runs, their records and sliders (lesson 06).

`run(Knobs(lr=0.02))` trains a tiny GPT on the novel in a few seconds and returns its history;
`records("knobs")` gives the runs on record, and `rerun` repeats any of them; `panel` is a set of
sliders over `run`. Searches over such runs are in `study`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from torch import Tensor

from aigc_utils import data, history, training
from aigc_utils.gpt import GPT, LLAMA, GPTConfig
from aigc_utils.tokenizer import BPETokenizer

VOCAB_SIZE = 512
PARTS = 9  # a run is judged after each ninth: 1, 3 and 9 ninths are the rungs of halving
TOKENS = 162 * 8 * 64  # what a run reads unless told otherwise: a third of the training text
THOUSANDTHS = 1_000  # of the seconds given: the steps of a schedule that goes by the clock
MOST_DEALS = 1_000_000  # ways to deal two groups that the permutation test tries
VALIDATION_TOKENS = 8_192  # of the validation text, so that judging costs less than training


@dataclass(frozen=True)
class Knobs:
    """The hyperparameters of a tiny run; the defaults are the lesson's starting point."""

    lr: float = 0.006  # peak learning rate of AdamW; Muon's is 10/3 of it, as in lesson 04
    batch_size: int = 8  # windows in a step
    d_model: int = 64
    n_layers: int = 1
    context: int = 64  # tokens in a window
    dropout: float = 0.0
    weight_decay: float = 0.0
    warmup: float = 0.0  # share of the run in which the learning rate climbs to its peak


# Runs --------------------------------------------------------------------------------------------


@functools.cache
def novel() -> tuple[Tensor, Tensor]:
    """Token ids (n,) of the novel's first eight tenths and of the ninth, the validation text.

    The tokenizer is learned from the first part, as in lesson 04.
    """
    parts = data.split_text("pride_and_prejudice")
    tokenizer = BPETokenizer.train(parts.train, VOCAB_SIZE)
    return torch.tensor(tokenizer.encode(parts.train)), torch.tensor(tokenizer.encode(parts.val))


def model_config(knobs: Knobs) -> GPTConfig:
    """The GPT that these knobs describe; heads are 32 wide, or as wide as the model."""
    return GPTConfig(
        vocab_size=VOCAB_SIZE,
        context=knobs.context,
        n_layers=knobs.n_layers,
        n_heads=max(1, knobs.d_model // 32),
        d_model=knobs.d_model,
        d_mlp=2 * knobs.d_model,
        qk_norm=True,
        dropout=knobs.dropout,
        **LLAMA,
    )


def recipe(knobs: Knobs, steps: int, seed: int = 0) -> training.TrainConfig:
    """The training that these knobs describe: Muon, float32, and a descent in the second half."""
    return training.TrainConfig(
        steps=steps,
        batch_size=knobs.batch_size,
        lr=knobs.lr,
        blocks_lr=knobs.lr * 10 / 3,
        weight_decay=knobs.weight_decay,
        warmup=knobs.warmup,
        bf16=False,
        seed=seed,
    )


def train(
    knobs: Knobs = Knobs(),
    *,
    tokens: int = TOKENS,
    seconds: float | None = None,
    seed: int = 0,
    watch: Callable[[history.History], None] | None = None,
) -> tuple[GPT, history.History]:
    """Train a tiny GPT on `tokens` of the novel, or for `seconds`; return it and its history.

    The history has a row after each ninth: tokens, step, train_loss (its mean over that ninth),
    val_loss, seconds. The learning rate falls to zero at the end of the tokens or seconds given;
    `seconds` of training are meant, and the nine validations come on top.
    `watch` sees the history after each row and may raise to stop the run. Raises ValueError for
    knobs that make no model, training.TrainingDiverged when a loss is no longer a number.
    """
    train_ids, val_ids = novel()
    shape = model_config(knobs)
    clock = Clock(_steps(knobs, tokens) if seconds is None else THOUSANDTHS, seconds)
    plan = recipe(knobs, clock.end, seed)
    settings = {"knobs": asdict(knobs), "seed": seed, "tokens": tokens, "seconds": seconds}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GPT(shape)
        model.init_weights(zero_branches=True)
        settings["parameters"] = sum(weight.numel() for weight in model.parameters())
        training.check_text("training", train_ids, model, shortest=knobs.context + 1)
        record = history.History(settings)
        optimizers = training.make_optimizers(model, plan)
        batches = training.windows(len(train_ids), knobs.context, knobs.batch_size, seed)
        step, losses = 0, []
        while len(record.rows) < PARTS:
            factor = training.schedule(min(clock.now(step), clock.end - 1), plan)
            x, y = training.cut(train_ids, next(batches), knobs.context)
            loss, _ = training.step(model, optimizers, x, y, factor=factor, clip=plan.clip)
            losses.append(loss)
            step += 1
            if clock.now(step) < clock.end * (len(record.rows) + 1) // PARTS:
                continue
            with clock.stopped():
                val_loss = training.evaluate(model, val_ids[: VALIDATION_TOKENS + 1])
            train_loss = sum(losses) / len(losses)
            losses.clear()
            if not math.isfinite(train_loss + val_loss):
                raise training.TrainingDiverged(
                    f"The loss is no longer a number at step {step}: lower lr={knobs.lr:g} or "
                    "lengthen warmup."
                )
            row = {
                "tokens": step * knobs.batch_size * knobs.context,
                "step": step,
                "train_loss": train_loss,
                "val_loss": val_loss,
                "seconds": clock.elapsed,
            }
            record.rows.append(row)
            if watch is not None:
                watch(record)
    return model.eval(), record


class Clock:
    """Where a run stands on its schedule, which ends at `end`: by its steps, or by the time.

    With `seconds` the schedule moves on with the seconds of training; judging does not count.
    """

    def __init__(self, end: int, seconds: float | None) -> None:
        self.end, self.seconds = end, seconds
        self._begin, self._stopped = time.perf_counter(), 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning, judging included."""
        return time.perf_counter() - self._begin

    def now(self, step: int) -> int:
        """Return the place on the schedule of a run that has done `step` steps."""
        if self.seconds is None:
            return step
        if self.seconds <= 0:
            return self.end
        return int(self.end * (self.elapsed - self._stopped) / self.seconds)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the clock for a while."""
        since = time.perf_counter()
        yield
        self._stopped += time.perf_counter() - since


def _steps(knobs: Knobs, tokens: int) -> int:
    steps = tokens // (max(1, knobs.batch_size) * knobs.context)
    if steps < PARTS:
        raise ValueError(
            f"{tokens:,} tokens are {steps} steps of {knobs.batch_size} × {knobs.context}: "
            f"at least {PARTS} are needed, so raise tokens or lower batch_size or context."
        )
    return steps


def run(knobs: Knobs = Knobs(), **options: Any) -> history.History:
    """Train like `train`, with the same options, and return the history alone."""
    return train(knobs, **options)[1]


# Records -----------------------------------------------------------------------------------------


@functools.cache
def records(name: str) -> list[history.History]:
    """The runs on record in data/runs/lab_<name>.jsonl, in the order of the file.

    Names: "knobs", "heat", "search", "scaling". Each history has the settings of `run` and what
    the builder noted beside them. `python data/build_lab_runs.py` makes the records again.
    """
    file = history.read(data.path(f"runs/lab_{name}.jsonl"))
    return [unpack(row) for row in file.rows]


def pack(record: history.History, **notes: Any) -> dict[str, Any]:
    """One row for a record: the settings, and each metric as a list; losses to four digits."""
    names = record.rows[0]
    columns = {name: [round(row[name], 4) for row in record.rows] for name in names}
    return {**record.settings, **notes, "columns": columns}


def unpack(row: Mapping[str, Any]) -> history.History:
    """Turn a row of a record back into the history of its run."""
    columns = row["columns"]
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    return history.History({k: v for k, v in row.items() if k != "columns"}, rows)


def rerun(record: history.History) -> history.History:
    """Do a run on record again, here and now, with the same knobs, tokens and seed."""
    settings = record.settings
    return run(Knobs(**settings["knobs"]), tokens=settings["tokens"], seed=settings["seed"])


def select(runs: Sequence[history.History], **knobs: Any) -> list[history.History]:
    """The runs whose knobs have these values and, for every knob not named, the default."""
    wanted = asdict(replace(Knobs(), **knobs))
    return [record for record in runs if record.settings["knobs"] == wanted]


def last(runs: Sequence[history.History], metric: str = "val_loss") -> np.ndarray:
    """Final value of a metric of each run, shape (n,)."""
    return np.array([record.column(metric)[-1] for record in runs])


def permutation_test(a: ArrayLike, b: ArrayLike) -> float:
    """How often chance alone parts two groups (n,) and (m,) as far as they are apart: a p-value.

    If the groups did not differ, every way to deal the n + m numbers into them would be equally
    likely. All of them are tried; returned is the share whose means differ at least as much
    (Fisher, *The Design of Experiments*, 1935). It is never below 1 / (number of ways). Raises
    ValueError for an empty group, and where there are more than a million ways.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    both = np.concatenate([a, b])
    ways = math.comb(len(both), len(a))
    if not (len(a) and len(b)) or ways > MOST_DEALS:
        raise ValueError(
            f"{len(a)} and {len(b)} numbers can be dealt in {ways:,} ways: two groups that are not "
            f"empty and at most {MOST_DEALS:,} ways are tried here, so compare fewer."
        )
    deals = np.array(list(itertools.combinations(range(len(both)), len(a))))
    sums = both[deals].sum(axis=1)
    differences = np.abs(sums / len(a) - (both.sum() - sums) / len(b))
    return float((differences >= abs(a.mean() - b.mean()) - 1e-12).mean())


# Pictures and sliders ----------------------------------------------------------------------------


def draw(ax: Axes, runs: Mapping[str, history.History]) -> None:
    """Draw the validation loss of every run over the tokens that it read; the last one is bold."""
    for i, (label, record) in enumerate(runs.items()):
        newest = i == len(runs) - 1
        ax.plot(
            *record.points("tokens", "val_loss"),
            "o-",
            ms=4 if newest else 2,
            lw=2.4 if newest else 1.2,
            alpha=1.0 if newest else 0.6,
            label=f"{label}: {record.column('val_loss')[-1]:.2f}",
        )
    ax.set(xlabel="tokens read", ylabel="validation loss (nats per token)")
    if runs:
        ax.legend(fontsize=8)


def panel(seconds: float = 2.0) -> Any:
    """Sliders for four knobs; each move trains for `seconds` and adds a curve to the picture.

    Returns an ipywidgets box. Without a live kernel draw `run`s with `draw` instead.
    """
    import ipywidgets as widgets

    options = {
        "lr": [0.0006, 0.002, 0.006, 0.02, 0.06],
        "batch_size": [2, 4, 8, 16, 32],
        "d_model": [16, 32, 64, 96, 128],
        "n_layers": [1, 2, 3, 4],
    }
    sliders = {
        name: widgets.SelectionSlider(
            options=values,
            value=getattr(Knobs(), name),
            description=name.replace("_", " "),
            continuous_update=False,
        )
        for name, values in options.items()
    }
    picture = widgets.Image(format="png", layout=widgets.Layout(max_width="700px"))
    told = widgets.Label()
    runs: dict[str, history.History] = {}

    def add(_: Any = None) -> None:
        knobs = {name: slider.value for name, slider in sliders.items()}
        turned = [f"{k} {v:g}" for k, v in knobs.items() if v != getattr(Knobs(), k)]
        label = ", ".join(turned) or "start"
        told.value = f"Training for {seconds:g} s …"
        try:
            runs.pop(label, None)  # a setting tried again moves to the end
            runs[label] = run(Knobs(**knobs), seconds=seconds)
        except training.TrainingDiverged as error:
            told.value = str(error)
            return
        figure, ax = plt.subplots()
        draw(ax, runs)
        ax.set_title(f"The same {seconds:g} seconds, one knob or another")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        plt.close(figure)
        picture.value = buffer.getvalue()
        told.value = f"{len(runs)} curve{'s' if len(runs) > 1 else ''}. Move a slider."

    for slider in sliders.values():
        slider.observe(add, names="value")
    add()
    return widgets.VBox([*sliders.values(), told, picture])
