"""Pictures of a run. Matplotlib is imported when the first is drawn."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_TRAINING, _VALIDATION = "#4477aa", "#cc6677"  # told apart by colour-blind readers too (Paul Tol's "bright", "muted")


def plot_history(
    epochs: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str, test_accuracy: float | None = None
) -> None:
    """Draw loss and accuracy, training and validation, over the epochs, with the best validation accuracy marked.

    Parameters
    ----------
    epochs : sequence of mappings
        The lines of ``metrics.jsonl``; without validation data (None) its curves are left out.
    path : path
        The PNG file.
    title : str
        What stands above.
    test_accuracy : float or None
        Named in the title where it is known.
    """
    figure = _new_figure(10, 4.2)
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    if test_accuracy is not None:
        title += f": test accuracy {test_accuracy:.2%}".replace("%", " %")
    figure.suptitle(title)
    x = [line["epoch"] for line in epochs]
    marker = "o" if len(x) <= 30 else ""
    for axes, what in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for part, name, colour in (("train", "training", _TRAINING), ("val", "validation", _VALIDATION)):
            y = [line[f"{part}_{what}"] for line in epochs]
            if None not in y:
                axes.plot(x, y, color=colour, marker=marker, markersize=4, label=name)
        axes.set(xlabel="epoch", ylabel=what)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    loss, accuracy = figure.axes
    loss.set_ylim(bottom=0)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0))
    validated = [line for line in epochs if line["val_accuracy"] is not None]
    if validated:
        best = max(validated, key=lambda line: line["val_accuracy"])
        label = f"best validation: {best['val_accuracy']:.4f}, epoch {best['epoch']}"
        where = best["epoch"], best["val_accuracy"]
        accuracy.plot(*where, "*", color=_VALIDATION, markersize=15, markeredgecolor="white", label=label, zorder=3)
    loss.legend()
    accuracy.legend()
    _save(figure, path)


def plot_samples(
    images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], path: str | os.PathLike[str], title: str
) -> None:
    """Draw the first images of each class, a row a class.

    Parameters
    ----------
    images : numpy.ndarray of uint8, shape (n, height, width)
        The images.
    labels : numpy.ndarray of any integer dtype, shape (n,)
        Their classes.
    class_names : sequence of str
        What the classes are called; at most the first twenty are drawn.
    path : path
        The PNG file.
    title : str
        What stands above.
    """
    n_columns, gap = 12, max(1, images.shape[1] // 14)
    class_names = class_names[:20]
    height, width = images.shape[1] + gap, images.shape[2] + gap
    grid = np.full((len(class_names) * height - gap, n_columns * width - gap), np.nan)
    for k in range(len(class_names)):
        for column, row in enumerate(np.flatnonzero(labels == k)[:n_columns]):
            top, left = k * height, column * width
            grid[top : top + images.shape[1], left : left + images.shape[2]] = images[row]
    figure = _new_figure(8, 1 + 7 * grid.shape[0] / grid.shape[1])
    axes = figure.subplots()
    axes.imshow(grid, cmap="gray_r", vmin=0, interpolation="nearest")
    axes.set_title(title)
    axes.set_yticks([k * height + images.shape[1] / 2 - 0.5 for k in range(len(class_names))], class_names)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    _save(figure, path)


def _new_figure(width: float, height: float) -> Any:
    """Return an empty figure of so many inches, which needs no screen."""
    chosen = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"  # a value that Matplotlib does not know would end its import
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    finally:
        if chosen is None:
            del os.environ["MPLBACKEND"]
        else:
            os.environ["MPLBACKEND"] = chosen
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG to just that path, whatever its name ends in."""
    with open(path, "wb") as file:
        figure.savefig(file, format="png", dpi=120)
