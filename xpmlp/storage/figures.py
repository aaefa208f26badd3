"""Figures as files. Matplotlib is imported for the first figure."""

import io
import os
from typing import Any

from xpmlp.storage.files import StrPath, write_whole

TRAINING, VALIDATION = "#4477aa", "#cc6677"  # colour-blind readers can tell them apart (Paul Tol's "bright", "muted")


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of so many inches; it needs no screen."""
    chosen = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"  # Matplotlib's import fails with an unknown value
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


def save(figure: Any, path: StrPath) -> None:
    """Write a figure as PNG to exactly that path, with any ending: whole, or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_whole(path, buffer.getvalue())
