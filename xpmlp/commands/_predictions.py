"""How ``xpmlp predict`` says what a model sees: in lines of JSON, and on a terminal as a table."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import click

_WARNING = 20
"""Signs that are left for a warning, at least."""


class Prediction(NamedTuple):
    """What is said of a sample."""

    name: str  # its file, and its place in it
    source: dict[str, Any]  # the same, and what is doubtful, as a line of JSON has them
    label: str
    probabilities: dict[str, float]  # of all classes in the model's order, or of the most probable, which come first


Show: TypeAlias = Callable[[Sequence[Prediction]], None]
"""Prints predictions; it is called again with the next ones."""


def make_show(top: int | None) -> Show:
    """Return what suits standard output; `top` is how many classes the user asked for."""
    from xpmlp.commands._progress import is_terminal

    return _Table(with_others=top != 1, most=top or 2) if is_terminal() else show_lines


def show_lines(predictions: Sequence[Prediction]) -> None:
    """Print a line of JSON for each."""
    for each in predictions:
        line = {**each.source, "label": each.label, "probabilities": each.probabilities}
        click.echo(json.dumps(line, ensure_ascii=False, allow_nan=False))


class _Table:
    """A row for each, below one header: columns keep the width that the rows before have given them.

    Where a terminal is too narrow for that, cells are folded.
    """

    def __init__(self, with_others: bool, most: int) -> None:
        from rich.console import Console

        self._console, self._with_others, self._most = Console(highlight=False), with_others, most
        self._widths: list[int] = []

    def __call__(self, predictions: Sequence[Prediction]) -> None:
        from rich.cells import cell_len
        from rich.table import Table
        from rich.text import Text

        header = ["file", "label", "probability", *(["runner-up"] if self._with_others else []), "warning"]
        rows = [self._cells(each) for each in predictions]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=not self._widths)
        before = self._widths or [cell_len(name) for name in header]
        self._widths = [max(least, *map(cell_len, cells)) for least, *cells in zip(before, *rows, strict=True)]
        fits = sum(self._widths[:-1]) + 2 * len(self._widths) + min(_WARNING, self._widths[-1]) <= self._console.width
        for name, width in zip(header[:-1], self._widths, strict=False):
            justify: Any = "right" if name == "probability" else "left"
            table.add_column(name, min_width=width if fits else None, no_wrap=fits, overflow="fold", justify=justify)
        table.add_column("warning", overflow="fold")
        for cells in rows:
            table.add_row(*(Text(cell) for cell in cells[:-1]), Text(cells[-1], style="yellow" if cells[-1] else ""))
        self._console.print(table)

    def _cells(self, each: Prediction) -> list[str]:
        """Return what a row says."""
        ranked = sorted(each.probabilities.items(), key=lambda found: -found[1])
        box = f" {each.source['box']}" if "box" in each.source else ""
        cells = [f"{each.name}{box}", each.label, _percent(each.probabilities[each.label])]
        if self._with_others:
            cells.append(", ".join(f"{name} ({_percent(p)})" for name, p in ranked[1 : self._most]))
        return [_printable(cell) for cell in (*cells, each.source.get("warning", ""))]


def _printable(text: str) -> str:
    """Return a text whose control characters, which a terminal would obey, are escaped."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _percent(probability: float) -> str:
    return f"{100 * probability:.2f} %"
