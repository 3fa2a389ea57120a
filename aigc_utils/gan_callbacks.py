"""What Keras calls while a GAN trains: pictures, curves, scores, learning rates (lesson 09).

    frames, score = gan_callbacks.Frames(), gan_callbacks.Score(test_images)
    model.fit(images, epochs=5, callbacks=[frames, score, gan_callbacks.LinearDecay()])

All four work with any `gan.GAN`, and with runs that were interrupted and go on. Importing this
module imports `gan`, which calls `session.prepare`.
"""

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from aigc_utils import features, gan, history, scores, session

with session.quiet_stderr():
    import keras


class LinearDecay(keras.callbacks.Callback):
    """Lets both learning rates fall linearly to zero after the share ``start`` of all epochs."""

    def __init__(self, start: float = 0.5) -> None:
        super().__init__()
        if not gan.is_between(0, start, 1):
            raise ValueError(f"start={start} is a share of the training: it lies in [0, 1).")
        self.start = start

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Note which epoch it is."""
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Set both rates for the next call of the compiled graph."""
        factor = min(1.0, (1 - self.progress(batch)) / (1 - self.start))
        self.model.d_optimizer.learning_rate = factor * self.model.settings["d_lr"]
        self.model.g_optimizer.learning_rate = factor * self.model.settings["g_lr"]

    def progress(self, batch: int) -> float:
        """Return the share of the training that is done before this batch, 0 to 1."""
        return (self._epoch + batch / self.params["steps"]) / self.params["epochs"]


class Curves(keras.callbacks.Callback):
    """Keeps losses and D's answers of each call of the compiled graph, not of whole epochs.

    ``history`` has a row for each call: step, d_loss, g_loss, d_real and d_fake, as they were on
    average in the steps of that call. A resumed run goes on counting. ``show(history)`` is called
    after every epoch.
    """

    def __init__(self, *, show: Callable[[history.History], None] | None = None) -> None:
        super().__init__()
        self.history, self.show = history.History(), show

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Forget the sums of the epoch before, and what an interrupted run left of this one."""
        self._sums: dict[str, float] = {}
        self._calls = 0
        self._before = epoch * self.params["steps"]
        rows = self.history.rows
        rows[:] = [row for row in rows if row["step"] <= self._before]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Add a row: Keras hands over running means of the epoch, so take sums and subtract."""
        self._calls += 1
        sums = {name: float(mean) * self._calls for name, mean in (logs or {}).items()}
        row = {name: value - self._sums.get(name, 0.0) for name, value in sums.items()}
        self.history.rows.append({"step": self._before + batch + 1, **row})
        self._sums = sums

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Show the curves so far."""
        if self.show is not None:
            self.show(self.history)


class Frames(keras.callbacks.Callback):
    """Makes the same pictures from one fixed z before the first and after every epoch.

    Only a fixed z shows what training changes. ``frames`` holds uint8 arrays (n, height, width),
    ``epochs`` the number of epochs behind each. ``show(pictures, epoch)`` is called with every one.
    """

    def __init__(
        self,
        n: int = 20,
        seed: int = 0,
        *,
        averaged: bool = True,
        show: Callable[[gan.Images, int], None] | None = None,
    ) -> None:
        super().__init__()
        gan.demand_whole(n=n)
        gan.demand_whole(0, seed=seed)
        self.n, self.seed, self.averaged, self.show = n, seed, averaged, show
        self.frames: list[gan.Images] = []
        self.epochs: list[int] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Take the frame before training; a resumed run has it already."""
        if self.model.epochs_done not in self.epochs:
            self._take(self.model.epochs_done)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Take the frame after this epoch."""
        self._take(epoch + 1)

    def _take(self, epoch: int) -> None:
        if epoch in self.epochs:  # the epoch was undone after its frame, and comes by again
            del self.frames[-1], self.epochs[-1]
        self.frames.append(self.model.generate(self.n, self.seed, averaged=self.averaged))
        self.epochs.append(epoch)
        if self.show is not None:
            self.show(self.frames[-1], epoch)


class Score(keras.callbacks.Callback):
    """Scores n generated pictures against real ones after every ``every``-th epoch.

    Adds ``frechet`` and ``coverage`` to the logs, so they reach `gan.GAN.record`, Keras's history
    and callbacks such as EarlyStopping that come later in the list. ``real`` are uint8 pictures
    that the GAN does not train on; ``net`` is the feature net, by default the course's. Compare
    only scores of the same net, the same real pictures and the same n.
    """

    def __init__(
        self,
        real: npt.ArrayLike,
        *,
        n: int = 2000,
        seed: int = 0,
        every: int = 1,
        net: features.FeatureNet | None = None,
    ) -> None:
        super().__init__()
        gan.demand_whole(every=every, n=n)
        gan.demand_whole(0, seed=seed)
        self.net = net or features.load_feature_net("course")
        self.real = self.net(real)
        self.n, self.seed, self.every = n, seed, every
        few = min(n, len(self.real))
        if few <= self.real.shape[1]:
            raise ValueError(
                f"{few} pictures are too few for a score with {self.real.shape[1]} features: give "
                "at least ten times as many."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Make pictures, always from the same z, and add their scores to the logs."""
        if logs is None or (epoch + 1) % self.every:
            return
        made = self.net(self.model.generate(self.n, self.seed))
        logs["frechet"] = scores.frechet_distance(self.real, made)
        same = min(self.n, len(self.real))
        shares = scores.precision_recall_coverage(self.real[:same], made[:same])
        logs["coverage"] = shares.coverage
