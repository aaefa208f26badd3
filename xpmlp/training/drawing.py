"""Plots of runs: losses and accuracies over the epochs."""

import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from xpmlp.storage.figures import TRAINING, VALIDATION, new_figure, save


def plot_history(
    epochs: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str, test_accuracy: float | None = None
) -> None:
    """Draw loss and accuracy, training and validation, over the epochs, with the best validation accuracy marked."""
    if test_accuracy is not None:
        title += f": test accuracy {test_accuracy:.2%}".replace("%", " %")
    figure, loss, accuracy = _loss_and_accuracy(title, 4.2)
    x = [line["epoch"] for line in epochs]
    for axes, what in ((loss, "loss"), (accuracy, "accuracy")):
        for part, name, colour in (("train", "training", TRAINING), ("val", "validation", VALIDATION)):
            y = [line[f"{part}_{what}"] for line in epochs]
            if None not in y:
                axes.plot(x, y, color=colour, marker=_marker(x), markersize=4, label=name)
    loss.set_ylim(bottom=0)
    validated = [line for line in epochs if line["val_accuracy"] is not None]
    if validated:
        best = max(validated, key=lambda line: line["val_accuracy"])
        label = f"best validation: {best['val_accuracy']:.4f}, epoch {best['epoch']}"
        where = best["epoch"], best["val_accuracy"]
        accuracy.plot(*where, "*", color=VALIDATION, markersize=15, markeredgecolor="white", label=label, zorder=3)
    loss.legend()
    accuracy.legend()
    save(figure, path)


def plot_seeds(runs: Sequence[Sequence[Mapping[str, Any]]], path: str | os.PathLike[str], title: str) -> None:
    """Draw the mean of several runs' losses and accuracies over the epochs, with a band of one standard deviation."""
    figure, loss, accuracy = _loss_and_accuracy(title, 4.2)
    x = range(1, max(map(len, runs), default=0) + 1)
    for axes, what in ((loss, "loss"), (accuracy, "accuracy")):
        for part, name, colour in (("train", "training", TRAINING), ("val", "validation", VALIDATION)):
            columns = [[run[k - 1][f"{part}_{what}"] for run in runs if len(run) >= k] for k in x]
            if any(None in column for column in columns):
                continue
            mean = [statistics.fmean(column) for column in columns]
            spread = [statistics.stdev(column) if len(column) > 1 else 0.0 for column in columns]
            edges = [[m + sign * s for m, s in zip(mean, spread, strict=True)] for sign in (-1, 1)]
            axes.fill_between(x, *edges, color=colour, alpha=0.25, linewidth=0)
            axes.plot(x, mean, color=colour, marker=_marker(x), markersize=4, label=f"{name}, mean ± 1 s. d.")
    loss.set_ylim(bottom=0)
    loss.legend()
    accuracy.legend()
    save(figure, path)


def plot_comparison(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | os.PathLike[str], title: str) -> None:
    """Draw several runs' losses and accuracies over the epochs: validation in full colours, training in pale ones."""
    figure, loss, accuracy = _loss_and_accuracy(title, 4.4 + 0.22 * len(runs))
    from matplotlib import colormaps

    palette = colormaps["tab10" if len(runs) <= 10 else "tab20"]
    for axes, what in ((loss, "loss"), (accuracy, "accuracy")):
        compared: list[float] = []
        for k, (name, lines) in enumerate(runs.items()):
            colour, x = palette(k % palette.N), [line["epoch"] for line in lines]
            validated = all(line[f"val_{what}"] is not None for line in lines)
            training = [line[f"train_{what}"] for line in lines]
            y = [line[f"val_{what}"] for line in lines] if validated else training
            compared += [*y, *training[len(training) // 2 :]]
            alone = "x" if len(x) == 1 else ""  # one epoch makes no line
            if validated:
                axes.plot(x, training, marker=alone, color=colour, alpha=0.45, linestyle="--", linewidth=1)
                axes.plot(x, y, color=colour, marker=_marker(x), markersize=4, label=name)
            else:
                axes.plot(x, y, marker=alone, color=colour, linestyle="--", label=f"{name} (training only)")
        low, high = min(compared), max(compared)
        room = 0.06 * (high - low) or 0.01
        axes.set_ylim(low - room, high + room)  # the first epochs' training need not fit
    loss.set_ylim(bottom=0)
    handles, names = loss.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", title="solid: validation, dashed: training", ncols=2)
    save(figure, path)


def _loss_and_accuracy(title: str, height: float) -> tuple[Any, Any, Any]:
    """Return a figure with axes for the losses and for the accuracies over the epochs."""
    figure = new_figure(10, height)
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure.suptitle(title)
    loss, accuracy = figure.subplots(1, 2)
    for axes, what in ((loss, "loss"), (accuracy, "accuracy")):
        axes.set(xlabel="epoch", ylabel=what)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure, loss, accuracy


def _marker(x: Sequence[int]) -> str:
    return "o" if len(x) <= 30 else ""
