"""The picture of what was measured."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from xpmlp.benchmark.work import OURS
from xpmlp.storage.figures import TRAINING, VALIDATION, new_figure, save


def plot_benchmark(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str) -> None:
    """Draw what `rounds.summarise` returns as bars with their spread: a panel a batch size, one for cold starts."""
    panels = list(dict.fromkeys((row["what"], row["batch_size"]) for row in rows))
    figure = new_figure(5 * len(panels), 3.6)
    figure.suptitle(title)
    for axes, (what, batch_size) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        group = [row for row in rows if (row["what"], row["batch_size"]) == (what, batch_size) and row["seconds"]]
        group.sort(key=lambda row: -row["seconds"])
        for k, row in enumerate(group):
            name = row["contestant"]
            colour = "#bbbbbb" if name == "floor" else TRAINING if name in OURS else VALIDATION
            axes.barh(k, row["seconds"], color=colour, height=0.7)
            axes.plot([row["least"], row["most"]], [k, k], color="black", linewidth=1)
            axes.text(row["most"], k, f"  {row['seconds']:.2f}", va="center", size=8)
        names = [row["contestant"] for row in group]
        axes.set_yticks(range(len(group)), [f"xpmlp, {name}" if name in OURS else name for name in names])
        axes.set_xlabel(f"s/epoch, batch {batch_size}" if what == "steady" else "s, cold start to 98 % test accuracy")
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
