"""Pictures of a run. Matplotlib is imported when the first is drawn."""

import io
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from xpmlp.files import write_whole

_TRAINING, _VALIDATION = "#4477aa", "#cc6677"  # told apart by colour-blind readers too (Paul Tol's "bright", "muted")
_SEVERAL = (_TRAINING, _VALIDATION, "#228833", "#ccbb44", "#66ccee", "#aa3377")


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
    """Draw the first images of each class, at most twelve, a row a class.

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
    class_names = class_names[:20]
    most = max(np.count_nonzero(labels == k) for k in range(len(class_names)))
    n_columns, gap = min(12, most), max(1, images.shape[1] // 14)
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


def plot_confusion(confusion: np.ndarray, class_names: Sequence[str], path: str | os.PathLike[str], title: str) -> None:
    """Draw a confusion matrix: how often each class (a row) was taken for each (a column).

    Its colours are of the mistakes alone, by which the greatest stands out; the diagonal has none.

    Parameters
    ----------
    confusion : numpy.ndarray of integers, shape (classes, classes)
        Counts, a row a true class.
    class_names : sequence of str
        What the classes are called.
    path : path
        The PNG file.
    title : str
        What stands above.
    """
    n_classes = len(class_names)
    is_small = n_classes <= 30  # beyond, figures and names would cover each other
    side = min(16.0, 3 + 0.45 * n_classes)
    figure = _new_figure(side, side)
    axes = figure.subplots()
    mistakes = confusion.astype(float)
    np.fill_diagonal(mistakes, np.nan)
    most = max(1.0, np.nanmax(mistakes, initial=0.0))
    axes.imshow(mistakes, cmap="Reds", vmin=0, vmax=most)
    if is_small:
        for row, column in np.argwhere(confusion > 0):
            is_dark = row != column and confusion[row, column] > 0.6 * most
            weight, colour = ("bold", "#2d6a3e") if row == column else ("normal", "white" if is_dark else "black")
            text = f"{confusion[row, column]:,}"
            size = 9 if len(text) < 5 else 7
            axes.text(column, row, text, ha="center", va="center", color=colour, weight=weight, size=size)
        turn = 0 if max(map(len, class_names)) <= 3 else 90
        axes.set_xticks(range(n_classes), class_names, rotation=turn)
        axes.set_yticks(range(n_classes), class_names)
    axes.set(xlabel="prediction", ylabel="label", title=title)
    _save(figure, path)


def plot_mistakes(
    images: np.ndarray, captions: Sequence[str], path: str | os.PathLike[str], title: str, max_value: int
) -> None:
    """Draw images with a caption each.

    Parameters
    ----------
    images : numpy.ndarray of uint8, shape (n, height, width)
        The images, at most thirty of which are drawn.
    captions : sequence of str
        What stands above each.
    path : path
        The PNG file.
    title : str
        What stands above all; without images that there are none.
    max_value : int
        The grey value that is drawn black.
    """
    n_columns = 6
    images = images[:30]
    n_rows = max(1, -(-len(images) // n_columns))
    figure = _new_figure(9, 0.7 + 1.75 * n_rows)
    figure.suptitle(title)
    for axes in figure.subplots(n_rows, n_columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, caption in zip(figure.axes, images, captions, strict=False):
        axes.imshow(image, cmap="gray_r", vmin=0, vmax=max_value, interpolation="nearest")
        axes.set_title(caption, size=8)
    if not len(images):
        figure.text(0.5, 0.45, "no mistakes", ha="center", va="center", size=14)
    _save(figure, path)


def plot_comparison(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | os.PathLike[str], title: str) -> None:
    """Draw several runs' losses and accuracies over the epochs: of the validation data, and pale of the training.

    Parameters
    ----------
    runs : mapping of str to sequence of mappings
        Each run's name, and the lines of its ``metrics.jsonl``.
    path : path
        The PNG file.
    title : str
        What stands above.
    """
    figure = _new_figure(10, 4.4 + 0.22 * len(runs))
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure.suptitle(title)
    palette = colormaps["tab10" if len(runs) <= 10 else "tab20"]
    colours = [palette(k) for k in range(palette.N)]
    pair = figure.subplots(1, 2)
    for axes, what in zip(pair, ("loss", "accuracy"), strict=True):
        compared: list[float] = []
        for k, (name, lines) in enumerate(runs.items()):
            colour, x = colours[k % len(colours)], [line["epoch"] for line in lines]
            marker = "o" if len(x) <= 30 else ""
            validated = all(line[f"val_{what}"] is not None for line in lines)
            training = [line[f"train_{what}"] for line in lines]
            y = [line[f"val_{what}"] for line in lines] if validated else training
            compared += [*y, *training[len(training) // 2 :]]
            alone = "x" if len(x) == 1 else ""  # one epoch makes no line
            if validated:
                axes.plot(x, training, marker=alone, color=colour, alpha=0.45, linestyle="--", linewidth=1)
                axes.plot(x, y, color=colour, marker=marker, markersize=4, label=name)
            else:
                axes.plot(x, y, marker=alone, color=colour, linestyle="--", label=f"{name} (training only)")
        low, high = min(compared), max(compared)
        room = 0.06 * (high - low) or 0.01
        axes.set_ylim(low - room, high + room)  # the first epochs' training need not fit
        axes.set(xlabel="epoch", ylabel=what)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    pair[0].set_ylim(bottom=0)
    pair[1].yaxis.set_major_formatter(PercentFormatter(1.0))
    handles, names = pair[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", title="solid: validation, dashed: training", ncols=2)
    _save(figure, path)


def plot_benchmark(
    rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str, ours: Collection[str]
) -> None:
    """Draw a benchmark's medians as bars, with their spread: a panel for each batch size, and one for cold starts.

    Parameters
    ----------
    rows : sequence of mappings
        What `xpmlp.benchmark.rounds.summarise` returns.
    path : path
        The PNG file.
    title : str
        What stands above.
    ours : collection of str
        The contestants whose bars are ours.
    """
    panels = list(dict.fromkeys((row["what"], row["batch_size"]) for row in rows))
    figure = _new_figure(5 * len(panels), 3.6)
    figure.suptitle(title)
    for axes, (what, batch_size) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        group = [row for row in rows if (row["what"], row["batch_size"]) == (what, batch_size) and row["seconds"]]
        group.sort(key=lambda row: -row["seconds"])
        for k, row in enumerate(group):
            name = row["contestant"]
            colour = "#bbbbbb" if name == "floor" else _TRAINING if name in ours else _VALIDATION
            axes.barh(k, row["seconds"], color=colour, height=0.7)
            axes.plot([row["least"], row["most"]], [k, k], color="black", linewidth=1)
            axes.text(row["most"], k, f"  {row['seconds']:.2f}", va="center", size=8)
        axes.set_yticks(
            range(len(group)),
            [f"xpmlp, {r['contestant']}" if r["contestant"] in ours else r["contestant"] for r in group],
        )
        axes.set_xlabel(f"s/epoch, batch {batch_size}" if what == "steady" else "s, cold start to 98 % test accuracy")
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def plot_ranks(found: Mapping[str, Any], path: str | os.PathLike[str], title: str) -> None:
    """Draw how training scales over ranks: measured, the sums' times with their lines, and predicted efficiencies.

    Parameters
    ----------
    found : mapping
        What `xpmlp.benchmark.ranks.summarise` returns.
    path : path
        The PNG file.
    title : str
        What stands above.
    """
    figure = _new_figure(16.5, 4.2)
    from matplotlib.ticker import PercentFormatter

    figure.suptitle(title)
    measured, sums, predicted = figure.subplots(1, 3)
    ranks = sorted({row["ranks"] for row in found["strong"]})
    for kind, style in (("strong", "-"), ("weak", "--")):
        for k, size in enumerate(dict.fromkeys(row["batch_size"] for row in found[kind])):
            rows = [row for row in found[kind] if row["batch_size"] == size and row["threads"] == 1 and row["speed_up"]]
            label = f"{kind}, batch {size}{' a rank' if kind == 'weak' else ''}"
            x, y = [row["ranks"] for row in rows], [row["speed_up"] for row in rows]
            measured.plot(x, y, style, marker="o", color=_SEVERAL[k % len(_SEVERAL)], label=label)
    measured.plot(ranks, ranks, color="#bbbbbb", zorder=0, label="ideal")
    measured.set(xlabel="ranks of one thread", ylabel="speed-up", xticks=ranks, title="measured")
    for k, row in enumerate(found["sums"]):
        x = sorted(row["seconds"])
        colour = _SEVERAL[k % len(_SEVERAL)]
        sums.loglog(x, [1e6 * row["seconds"][n] for n in x], "o", color=colour, label=f"{row['ranks']} ranks")
        sums.loglog(x, [1e6 * (row["start"] + row["slope"] * n) for n in x], color=colour)
    sums.axvline(found["bytes"], color="#bbbbbb", zorder=0)
    sums.set(xlabel="bytes (grey: those of a step)", ylabel="µs", title="the all-reduce, and α + β · bytes")
    largest = max((row["batch_size"] for row in found["predicted"]), default=0)
    for k, link in enumerate(dict.fromkeys(row["link"] for row in found["predicted"])):
        rows = [row for row in found["predicted"] if row["link"] == link and row["batch_size"] == largest]
        for row, style in zip(rows, ("-", "--", ":"), strict=False):
            points = [(n, share) for n, share in row["efficiency"].items() if share is not None]
            label = link if style == "-" else "_"
            predicted.plot(
                *zip(*points, strict=True), style, marker=".", color=_SEVERAL[k % len(_SEVERAL)], label=label
            )
    predicted.set_xscale("log", base=2)
    predicted.yaxis.set_major_formatter(PercentFormatter(1))
    predicted.set(xlabel="ranks", ylabel="efficiency", ylim=(0, None), title=f"PREDICTED for a batch of {largest:,}")
    shown = sorted({n for row in found["predicted"] for n in row["efficiency"]})
    predicted.set_xticks(shown, map(str, shown), minor=False)
    every = list(dict.fromkeys(row["average_every"] for row in found["predicted"]))
    for n, style in zip(every, ("-", "--", ":"), strict=False):
        predicted.plot([], [], style, color="black", label=f"a sum every {n} steps" if n > 1 else "a sum every step")
    for axes in (measured, sums, predicted):
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if axes is predicted else {}
            axes.legend(fontsize=8, **beside)
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
    """Write a figure as PNG to just that path, whatever its name ends in, as a whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_whole(path, buffer.getvalue())
