"""Pictures of what was measured."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from xpmlp.storage.figures import TRAINING, VALIDATION, new_figure, save

_SEVERAL = (TRAINING, VALIDATION, "#228833", "#ccbb44", "#66ccee", "#aa3377")


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
    figure = new_figure(5 * len(panels), 3.6)
    figure.suptitle(title)
    for axes, (what, batch_size) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        group = [row for row in rows if (row["what"], row["batch_size"]) == (what, batch_size) and row["seconds"]]
        group.sort(key=lambda row: -row["seconds"])
        for k, row in enumerate(group):
            name = row["contestant"]
            colour = "#bbbbbb" if name == "floor" else TRAINING if name in ours else VALIDATION
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
    save(figure, path)


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
    figure = new_figure(16.5, 4.2)
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
    save(figure, path)
