"""Show a training run's progress: a bar on a terminal, one line per epoch elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import click

from xpmlp.communication import find_launch
from xpmlp.data.download import READING, Progress
from xpmlp.training.records import Callback, EpochMetrics, Plan

_REDRAW = 0.1
"""Seconds between two updates of the bar."""

_BAR = 30
"""Width of a download's bar in characters."""

Say: TypeAlias = Callable[[str, str], None]
"""Prints a heading and a text, or nothing with --quiet."""


def say(what: str, text: str) -> None:
    """Print a heading and a text."""
    click.echo(f"{what:<9}{text}")


def say_nothing(what: str, text: str) -> None:
    """Replace `say` with --quiet."""


def make_download_progress() -> Progress:
    """Return a function that shows a download: one line per file, and on a terminal its progress.

    On a terminal it also counts the pictures that were read.
    """
    last = ""

    def progress(file: str, done: int, total: int) -> None:
        nonlocal last
        if is_terminal():
            part = min(1.0, done / total) if total else 0.0
            bar = "━" * round(_BAR * part)
            what, unit = ("reading", "") if file == READING else ("download", " bytes")
            click.echo(f"\r{what:<9}{file}  {bar:─<{_BAR}}  {part:4.0%}  {done:>12,}{unit}", nl=part == 1.0)
        elif file not in (last, READING):
            say("download", f"{file}")
        last = file

    return progress


def make_progress(quiet: bool) -> "TrainingProgress":
    """Return the display that suits standard output and the user."""
    if quiet or not is_terminal():
        return TrainingProgress(None, quiet=quiet)
    from rich.console import Console  # 50 ms that only a terminal pays
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn()
    return TrainingProgress(Progress(*columns, console=Console(highlight=False), transient=True))


def is_terminal() -> bool:
    """Return whether a bar is visible; a launcher gives its ranks terminals that nobody sees."""
    return sys.stdout is not None and sys.stdout.isatty() and find_launch() is None  # None if it was closed


def _figures(what: str, loss: float, accuracy: float) -> str:
    return f"{what} {loss:.4f} accuracy {100 * accuracy:.2f} %"


class TrainingProgress(Callback):
    """Prints one line per epoch; a bar shows all steps, the last epoch's metrics and the present samples/s."""

    every_step = False

    def __init__(self, bar: Any, *, quiet: bool = False) -> None:
        self._bar, self._quiet, self._figures, self._drawn = bar, quiet, "", 0.0

    def on_begin(self, plan: Plan) -> None:
        """Draw the empty bar."""
        self._plan, self._epoch_began = plan, time.perf_counter()
        if self._bar:
            self._bar.start()
            epoch = f"epoch {min(plan.epochs, plan.steps_done // plan.steps_per_epoch + 1)}/{plan.epochs}"
            self._task = self._bar.add_task(epoch, total=plan.total_steps, completed=plan.steps_done, figures="")

    def on_step(self, step: int) -> None:
        """Move the bar, ten times a second at most."""
        now = time.perf_counter()
        if not self._bar or now - self._drawn < _REDRAW:
            return
        self._drawn = now
        epoch = (step - 1) // self._plan.steps_per_epoch
        first = max(epoch * self._plan.steps_per_epoch, self._plan.steps_done)  # of this process in this epoch
        rate = (step - first) * self._plan.batch_size / (now - self._epoch_began)
        figures, description = f"{self._figures}{rate:,.0f} samples/s", f"epoch {epoch + 1}/{self._plan.epochs}"
        self._bar.update(self._task, completed=step, description=description, figures=figures)

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Print the epoch's line, above the bar."""
        epochs = self._plan.epochs
        self._figures = _figures("loss", metrics.train_loss, metrics.train_accuracy) + "  "
        line = f"epoch {metrics.epoch:>{len(str(epochs))}}/{epochs}  {self._figures}"
        if metrics.val_loss is not None and metrics.val_accuracy is not None:
            line += f" {_figures('validation loss', metrics.val_loss, metrics.val_accuracy)}  "
        line += f" {metrics.samples_per_second:,.0f} samples/s"
        if self._bar:
            self._bar.console.print(line, markup=False, soft_wrap=True)
        elif not self._quiet:
            click.echo(line)
        self._epoch_began = time.perf_counter()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()
