"""The plot of the measurements and predictions."""

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import cycle
from typing import Any

from xpmlp.storage.figures import TRAINING, VALIDATION, new_figure, save

_SEVERAL = (TRAINING, VALIDATION, "#228833", "#ccbb44", "#66ccee", "#aa3377")
_GREY = "#bbbbbb"


def plot_ranks(found: Mapping[str, Any], path: str | os.PathLike[str], title: str) -> None:
    """Draw the result of `launches.summarise`: speed-ups, the sums' times and lines, and predicted efficiencies."""
    figure = new_figure(16.5, 4.2)
    from matplotlib.ticker import PercentFormatter

    figure.suptitle(title)
    measured, sums, predicted = figure.subplots(1, 3)
    ranks = sorted({row["ranks"] for row in found["strong"]})
    for kind, style, each in (("strong", "-", ""), ("weak", "--", " a rank")):
        for size, colour in _coloured(row["batch_size"] for row in found[kind]):
            rows = [row for row in found[kind] if row["batch_size"] == size and row["threads"] == 1 and row["speed_up"]]
            x, y = [row["ranks"] for row in rows], [row["speed_up"] for row in rows]
            measured.plot(x, y, style, marker="o", color=colour, label=f"{kind}, batch {size}{each}")
    measured.plot(ranks, ranks, color=_GREY, zorder=0, label="ideal")
    measured.set(xlabel="ranks of one thread", ylabel="speed-up", xticks=ranks, title="measured")

    for row, colour in zip(found["sums"], cycle(_SEVERAL), strict=False):
        x = list(row["seconds"])
        sums.loglog(x, [1e6 * row["seconds"][n] for n in x], "o", color=colour, label=f"{row['ranks']} ranks")
        sums.loglog(x, [1e6 * (row["start"] + row["slope"] * n) for n in x], color=colour)
    sums.axvline(found["bytes"], color=_GREY, zorder=0)
    sums.set(xlabel="bytes (grey: those of a step)", ylabel="µs", title="the all-reduce, and α + β · bytes")

    largest = max((row["batch_size"] for row in found["predicted"]), default=0)
    shown = [row for row in found["predicted"] if row["batch_size"] == largest]
    styles = dict(zip(dict.fromkeys(row["average_every"] for row in shown), ("-", "--", ":"), strict=False))
    for link, colour in _coloured(row["link"] for row in shown):
        predicted.plot([], [], marker=".", color=colour, label=link)
        for row in (row for row in shown if row["link"] == link):
            points = {n: share for n, share in row["efficiency"].items() if share is not None}
            predicted.plot(*zip(*points.items(), strict=True), styles[row["average_every"]], marker=".", color=colour)
    for n, style in styles.items():
        predicted.plot([], [], style, color="black", label=f"a sum every {n} steps" if n > 1 else "a sum every step")
    predicted.set_xscale("log", base=2)
    predicted.yaxis.set_major_formatter(PercentFormatter(1))
    predicted.set(xlabel="ranks", ylabel="efficiency", ylim=(0, None), title=f"PREDICTED for a batch of {largest:,}")
    ticks = sorted({n for row in shown for n in row["efficiency"]})
    predicted.set_xticks(ticks, map(str, ticks), minor=False)
    for axes in (measured, sums, predicted):
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if axes is predicted else {}
            axes.legend(fontsize=8, **beside)
    save(figure, path)


def _coloured(values: Iterable[Any]) -> Iterator[tuple[Any, str]]:
    """Return each value once, with its own colour."""
    return zip(dict.fromkeys(values), cycle(_SEVERAL), strict=False)
