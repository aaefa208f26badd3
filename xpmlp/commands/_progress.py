"""How a training run shows that it goes on: a bar on a terminal, a line an epoch elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import click

from xpmlp.communication import find_launch
from xpmlp.data.download import Progress
from xpmlp.training.records import Callback, EpochMetrics, Plan

_REDRAW = 0.1
"""Seconds between two looks of the bar."""

_BAR = 30
"""Signs of a download's bar."""

Say: TypeAlias = Callable[[str, str], None]
"""Prints a heading and a text, or nothing where the user wants quiet."""


def say(what: str, text: str) -> None:
    """Print a heading and a text."""
    click.echo(f"{what:<9}{text}")


def say_nothing(what: str, text: str) -> None:
    """Take the place of `say` where the user wants quiet."""


def make_download_progress() -> Progress:
    """Return what shows a download: a line a file, and on a terminal the part of it that has come."""
    last = ""

    def progress(file: str, done: int, total: int) -> None:
        nonlocal last
        if _is_terminal():
            part = min(1.0, done / total) if total else 0.0
            bar = "━" * round(_BAR * part)
            click.echo(f"\r{'download':<9}{file}.gz  {bar:─<{_BAR}}  {part:4.0%}  {done:>12,} bytes", nl=part == 1.0)
        elif file != last:
            say("download", f"{file}.gz")
        last = file

    return progress


def make_progress() -> "TrainingProgress":
    """Return what suits standard output."""
    if not _is_terminal():
        return TrainingProgress(None)
    from rich.console import Console  # 50 ms that only a terminal pays
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn()
    return TrainingProgress(Progress(*columns, console=Console(highlight=False), transient=True))


def _is_terminal() -> bool:
    """Return whether a bar would be seen; a launcher gives its ranks terminals that are none."""
    return sys.stdout is not None and sys.stdout.isatty() and find_launch() is None  # None where it was closed


def epoch_line(metrics: EpochMetrics, epochs: int) -> str:
    """Return an epoch's figures in one line."""
    line = f"epoch {metrics.epoch:>{len(str(epochs))}}/{epochs}  "
    line += _figures("loss", metrics.train_loss, metrics.train_accuracy)
    if metrics.val_loss is not None and metrics.val_accuracy is not None:
        line += f"   {_figures('validation loss', metrics.val_loss, metrics.val_accuracy)}"
    return f"{line}   {metrics.samples_per_second:,.0f} samples/s"


def _figures(what: str, loss: float, accuracy: float) -> str:
    return f"{what} {loss:.4f} accuracy {100 * accuracy:.2f} %"


class TrainingProgress(Callback):
    """A line an epoch; and with a bar, that over all steps, the last epoch's figures and the present samples/s."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._plan: Plan | None = None
        self._task: Any = None
        self._figures = ""
        self._drawn = self._epoch_began = 0.0

    def on_begin(self, plan: Plan) -> None:
        """Draw the empty bar."""
        self._plan = plan
        if self._bar:
            self._bar.start()
            total, done = plan.epochs * plan.steps_per_epoch, plan.steps_done
            epoch = min(plan.epochs, done // plan.steps_per_epoch + 1)
            self._task = self._bar.add_task(f"epoch {epoch}/{plan.epochs}", total=total, completed=done, figures="")
        self._epoch_began = time.perf_counter()

    def on_step(self, step: int) -> None:
        """Move the bar, ten times a second at most."""
        now = time.perf_counter()
        if not self._bar or now - self._drawn < _REDRAW or self._plan is None:
            return
        self._drawn = now
        epoch = (step - 1) // self._plan.steps_per_epoch
        first = max(epoch * self._plan.steps_per_epoch, self._plan.steps_done)  # of this process in this epoch
        rate = (step - first) * self._plan.batch_size / (now - self._epoch_began)
        figures, description = f"{self._figures}{rate:,.0f} samples/s", f"epoch {epoch + 1}/{self._plan.epochs}"
        self._bar.update(self._task, completed=step, description=description, figures=figures)

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Print the epoch's line, above the bar."""
        assert self._plan is not None
        line = epoch_line(metrics, self._plan.epochs)
        if self._bar:
            self._bar.console.print(line, markup=False, soft_wrap=True)
        else:
            click.echo(line)
        self._figures = _figures("loss", metrics.train_loss, metrics.train_accuracy) + "  "
        self._epoch_began = time.perf_counter()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()
