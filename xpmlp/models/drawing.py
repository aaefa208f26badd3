"""Pictures of images, and of how a model takes them."""

from collections.abc import Sequence

import numpy as np

from xpmlp.storage.figures import new_figure, save
from xpmlp.storage.files import StrPath


def plot_samples(images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], path: StrPath, title: str) -> None:
    """Draw the first images of each class, at most twelve, a row a class, of at most the first twenty classes."""
    class_names = class_names[:20]
    most = max(np.count_nonzero(labels == k) for k in range(len(class_names)))
    n_columns, gap = min(12, most), max(1, images.shape[1] // 14)
    height, width = images.shape[1] + gap, images.shape[2] + gap
    grid = np.full((len(class_names) * height - gap, n_columns * width - gap), np.nan)
    for k in range(len(class_names)):
        for column, row in enumerate(np.flatnonzero(labels == k)[:n_columns]):
            top, left = k * height, column * width
            grid[top : top + images.shape[1], left : left + images.shape[2]] = images[row]
    figure = new_figure(8, 1 + 7 * grid.shape[0] / grid.shape[1])
    axes = figure.subplots()
    axes.imshow(grid, cmap="gray_r", vmin=0, interpolation="nearest")
    axes.set_title(title)
    axes.set_yticks([k * height + images.shape[1] / 2 - 0.5 for k in range(len(class_names))], class_names)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    save(figure, path)


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], path: StrPath, title: str) -> None:
    """Draw a confusion matrix: how often each class (a row) was taken for each (a column)."""
    n_classes = len(class_names)
    is_small = n_classes <= 30  # beyond, figures and names would cover each other
    side = min(16.0, 3 + 0.45 * n_classes)
    figure = new_figure(side, side)
    axes = figure.subplots()
    mistakes = confusion.astype(float)  # the colours are theirs alone, so that the greatest stands out
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


def plot_mistakes(images: np.ndarray, captions: Sequence[str], path: StrPath, title: str, max_value: int) -> None:
    """Draw at most thirty images with a caption above each; `max_value` is drawn black."""
    n_columns = 6
    images = images[:30]
    n_rows = max(1, -(-len(images) // n_columns))
    figure = new_figure(9, 0.7 + 1.75 * n_rows)
    figure.suptitle(title)
    for axes in figure.subplots(n_rows, n_columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, caption in zip(figure.axes, images, captions, strict=False):
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=max_value, interpolation="nearest")
        axes.set_title(caption, size=8)
    if not len(images):
        figure.text(0.5, 0.45, "no mistakes", ha="center", va="center", size=14)
    save(figure, path)
