"""Plots of images, and of how a model classifies them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xpmlp.storage.figures import new_figure, save
from xpmlp.storage.files import StrPath

_THUMBNAIL = 128  # pixels per side of a drawn image; larger ones lose rows and columns


def plot_samples(images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], path: StrPath, title: str) -> None:
    """Draw the first images of each class: one row per class, at most twelve images and twenty classes."""
    class_names = class_names[:20]
    rows = [np.flatnonzero(labels == k)[:12] for k in range(len(class_names))]
    if images.ndim == 2:
        _plot_rows([images[each] for each in rows], class_names, path, title)
        return
    step = max(1, -(-max(images.shape[1:3]) // _THUMBNAIL))
    images = images[:, ::step, ::step]
    is_colour, (high, wide) = images.ndim == 4, images.shape[1:3]
    n_columns, gap = max(map(len, rows)), max(1, high // 14)
    height, width = high + gap, wide + gap
    # The free space is white: the greatest value in colour, else no value.
    free = images.max() if is_colour else np.nan
    grid = np.full((len(class_names) * height - gap, n_columns * width - gap, *images.shape[3:]), free, np.float32)
    for k, those in enumerate(rows):
        for column, row in enumerate(those):
            grid[k * height :, column * width :][:high, :wide] = images[row]
    figure = new_figure(8, 1 + 7 * grid.shape[0] / grid.shape[1])
    axes = figure.subplots()
    _show(axes, grid, images.min(), images.max())
    axes.set_title(title)
    axes.set_yticks([k * height + high / 2 - 0.5 for k in range(len(class_names))], class_names)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    save(figure, path)


def _plot_rows(classes: Sequence[np.ndarray], class_names: Sequence[str], path: StrPath, title: str) -> None:
    """Draw samples that are not images: a line per sample, a column per feature, in units of its standard deviation."""
    rows = np.concatenate(classes).astype(np.float64)
    deviation = rows.std(axis=0)
    figure = new_figure(8, 1.5 + 0.09 * len(rows))
    axes = figure.subplots()
    values = (rows - rows.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    picture = axes.imshow(values, cmap="RdBu_r", vmin=-3, vmax=3, aspect="auto", interpolation="nearest")
    figure.colorbar(picture, label="standard deviations from the column's mean")
    ends = np.cumsum([len(each) for each in classes])
    for end in ends[:-1]:
        axes.axhline(end - 0.5, color="black", linewidth=0.8)
    axes.set_yticks([end - len(each) / 2 - 0.5 for end, each in zip(ends, classes, strict=True)], class_names)
    axes.tick_params(left=False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(title=title, xlabel="column")
    save(figure, path)


def _show(axes: Any, image: np.ndarray, low: float, high: float) -> None:
    """Show an image: the least grey value white, the greatest black; colours unchanged."""
    if image.ndim == 3:
        axes.imshow((image - low) / max(high - low, 1e-30), interpolation="nearest")
    else:
        axes.imshow(image, cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], path: StrPath, title: str) -> None:
    """Draw a confusion matrix: how often each class (row) was predicted as each class (column)."""
    n_classes = len(class_names)
    is_small = n_classes <= 30  # with more classes, figures and names would overlap
    side = min(16.0, max(6.0, 3 + 0.45 * n_classes))
    figure = new_figure(side, side)
    axes = figure.subplots()
    mistakes = confusion.astype(float)  # only mistakes set the colours, so that the most frequent one stands out
    np.fill_diagonal(mistakes, np.nan)
    most = max(1.0, np.nanmax(mistakes, initial=0.0))
    axes.imshow(mistakes, cmap="Reds", vmin=0, vmax=most)
    if is_small:
        for row, column in np.argwhere(confusion > 0):
            text, on_dark = f"{confusion[row, column]:,}", confusion[row, column] > 0.6 * most
            weight, colour = ("bold", "#2d6a3e") if row == column else ("normal", "white" if on_dark else "black")
            size = 9 if len(text) < 5 else 7
            axes.text(column, row, text, ha="center", va="center", color=colour, weight=weight, size=size)
        turn = 0 if max(map(len, class_names)) <= 3 else 90
        axes.set_xticks(range(n_classes), class_names, rotation=turn)
        axes.set_yticks(range(n_classes), class_names)
    axes.set(xlabel="prediction", ylabel="label", title=title)
    save(figure, path)


def plot_mistakes(images: np.ndarray, captions: Sequence[str], path: StrPath, title: str, max_value: float) -> None:
    """Draw at most thirty images with a caption above each. `max_value` is black, or full colour."""
    n_columns = 6
    images = images[:30]
    n_rows = max(1, -(-len(images) // n_columns))
    figure = new_figure(9, 0.7 + 1.75 * n_rows)
    figure.suptitle(title)
    for axes in figure.subplots(n_rows, n_columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, caption in zip(figure.axes, images, captions, strict=False):
        _show(axes, image, min(0.0, float(images.min())), max_value)
        axes.set_title(caption, size=8)
    if not len(images):
        figure.text(0.5, 0.45, "no mistakes", ha="center", va="center", size=14)
    save(figure, path)
