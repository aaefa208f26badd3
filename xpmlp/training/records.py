"""What a training run sets out to do, what it measures, and from where it can go on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from xpmlp.math.layout import Layout
from xpmlp.training.config import TrainConfig, resolved


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch's line in the metrics. Training figures are of each image before the update that it caused."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    """Of the held-out images after the epoch; None without any."""
    val_accuracy: float | None
    learning_rate: float
    """Of the epoch's last step."""
    seconds: float
    """For the order, the batches, the steps, and waiting for the last of them."""
    samples_per_second: float
    """Training images by those seconds."""


@dataclass(frozen=True)
class Plan:
    """What is known before the first step."""

    config: TrainConfig
    """With every default resolved."""
    layout: Layout
    n_train: int
    n_val: int
    steps_per_epoch: int
    """Batches an epoch, the last short one included."""
    steps_done: int = 0
    """Made before, where a run goes on."""

    @property
    def epochs(self) -> int:
        """Passes over the training images, unless a target is reached before."""
        return resolved(self.config.epochs)

    @property
    def batch_size(self) -> int:
        """Images a step."""
        return resolved(self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, those made before included."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class History:
    """What a training run measured.

    Parameters
    ----------
    plan : Plan
        What it set out to do.
    epochs : tuple of EpochMetrics
        What came of it.
    is_complete : bool
        Whether it came to its end; False where it was asked to stop before.
    """

    plan: Plan
    epochs: tuple[EpochMetrics, ...]
    is_complete: bool = True

    @property
    def best(self) -> EpochMetrics | None:
        """The first epoch of the greatest validation accuracy, None without validation data."""
        validated = [epoch for epoch in self.epochs if epoch.val_accuracy is not None]
        return max(validated, key=lambda epoch: epoch.val_accuracy or 0.0, default=None)


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on exactly, on the host and independent of any array library."""

    config: TrainConfig
    """What the run was begun with, resolved."""
    layout: Layout
    step: int
    """Steps made over the run."""
    epochs: tuple[EpochMetrics, ...]
    """The epochs that are over; the best so far is among them."""
    theta: np.ndarray
    """The parameters, of shape (layout.size,)."""
    state: Mapping[str, np.ndarray]
    """The optimizer's vectors, of the same shape."""
    totals: Mapping[str, np.ndarray]
    """The running totals of the epoch that is not over."""
    generator: Mapping[str, Any]
    """The state of the run's random generator at that epoch's start."""
    epoch_seconds: float
    """What that epoch has taken."""
    seconds: float
    """What the run has taken."""


class Callback:
    """What follows a run. Each method does nothing here; override those that matter."""

    every_step: bool = True
    """Whether `on_step` is called after each step; else after as many as the backend makes at a time."""

    def on_begin(self, plan: Plan) -> None:
        """Do something before the first step, when data and parameters are on the device."""

    def on_step(self, step: int) -> None:
        """Do something after a step was queued (the device may still be at it); steps count from 1 over the run."""

    def on_epoch(self, metrics: EpochMetrics) -> bool | None:
        """Do something after an epoch and its validation; return True to let it be the last."""

    def on_checkpoint(self, take: Callable[[], Checkpoint]) -> None:
        """Do something where the run could go on: before the first step, after each epoch, every so many steps.

        ``take()`` copies what that needs to the host; it is to be called before this returns, or not at all.
        """
