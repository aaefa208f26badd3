"""A training run's plan, its measurements, and its checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xpmlp.math.layout import Layout
from xpmlp.training.config import TrainConfig, resolved


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch's line in the metrics. Training figures are of each image before the update that it causes."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    """Of the held-out images after the epoch; None if there are none."""
    val_accuracy: float | None
    learning_rate: float
    """Of the epoch's last step."""
    seconds: float
    """Seconds for the order, the batches, the steps, and the wait for the last step."""
    samples_per_second: float
    """Training images divided by those seconds."""


@dataclass(frozen=True)
class Plan:
    """The facts that are known before the first step."""

    config: TrainConfig
    """With every default resolved."""
    layout: Layout
    n_train: int
    n_val: int
    steps_per_epoch: int
    """Batches an epoch, the last short one included."""
    steps_done: int = 0
    """Steps made before, if the run was resumed."""

    @property
    def epochs(self) -> int:
        """The number of epochs, unless a target accuracy is reached before."""
        return resolved(self.config.epochs)

    @property
    def batch_size(self) -> int:
        """Images per step."""
        return resolved(self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, including those made before."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class History:
    """The measurements of a training run.

    Parameters
    ----------
    plan : Plan
        Its plan.
    epochs : tuple of EpochMetrics
        Its epochs' metrics.
    is_complete : bool
        Whether it reached its end; False if a stop was requested before.
    """

    plan: Plan
    epochs: tuple[EpochMetrics, ...]
    is_complete: bool = True

    @property
    def best(self) -> EpochMetrics | None:
        """The first epoch with the greatest validation accuracy; None without validation data."""
        validated = [epoch for epoch in self.epochs if epoch.val_accuracy is not None]
        return max(validated, key=lambda epoch: epoch.val_accuracy or 0.0, default=None)


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to resume exactly, on the host and independent of any array library."""

    config: TrainConfig
    """The run's original config, resolved."""
    layout: Layout
    step: int
    """Steps made in the whole run."""
    epochs: tuple[EpochMetrics, ...]
    """The completed epochs, with the best so far among them."""
    theta: np.ndarray
    """The parameters, of shape (layout.size,)."""
    state: Mapping[str, np.ndarray]
    """The optimizer's vectors, of the same shape."""
    totals: Mapping[str, np.ndarray]
    """The running totals of the unfinished epoch."""
    generator: Mapping[str, Any]
    """The state of the run's random generator at that epoch's start."""
    epoch_seconds: float
    """Seconds spent in that epoch."""
    seconds: float
    """Seconds spent in the run."""


class Callback:
    """Follows a run. Each method does nothing here; override those that you need."""

    every_step: bool = True
    """Whether `on_step` is called after each step; else after each group of steps that the backend makes in one
    call."""

    def on_begin(self, plan: Plan) -> None:
        """Do something before the first step, when data and parameters are on the device."""

    def on_step(self, step: int) -> None:
        """Do something after a step was queued; the device may be working on it. Steps count from 1 over the run."""

    def on_epoch(self, metrics: EpochMetrics) -> bool | None:
        """Do something after an epoch and its validation; return True to make it the last."""

    def on_checkpoint(self, take: Callable[[], Checkpoint]) -> None:
        """Do something where the run could resume: before the first step, after each epoch, and every so many steps.

        ``take()`` copies the checkpoint to the host. Call it before this method returns, or not at all.
        """
