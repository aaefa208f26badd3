"""One ``xpmlp compare``: what is read, said and drawn, in order."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from xpmlp.commands._progress import say
from xpmlp.errors import CheckpointError, ConfigError
from xpmlp.training.config import TrainConfig
from xpmlp.training.drawing import plot_comparison
from xpmlp.training.folder import read_json, read_metrics

SETTINGS = (
    "dataset",
    *(field.name for field in dataclasses.fields(TrainConfig) if field.name != "transfer"),
    "backend",
)
"""What two runs may differ in that a reader wants to see."""


@dataclasses.dataclass
class Compared:
    """What a run's folder says of it."""

    name: str
    config: dict[str, Any]
    lines: list[dict[str, Any]]
    summary: dict[str, Any] | None


def run(paths: Sequence[str], out: str, plot: bool) -> None:
    """Compare as the command line says; the arguments are its options."""
    if plot and (not out or Path(out).is_dir()):
        raise ConfigError(f"--out {out!r} is no name for a picture: expected a file, such as comparison.png")
    if plot and not Path(out).absolute().parent.is_dir():
        raise ConfigError(f"--out {out!r}: there is no folder {Path(out).parent}: make it, or name another")
    runs = [_read(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    differing = [key for key in SETTINGS if len({str(run.config.get(key)) for run in runs}) > 1]
    _print_table([_row(run, differing) for run in runs])
    if not plot:
        return
    drawn = {run.name: run.lines for run in runs if run.lines}
    if not drawn:
        raise CheckpointError(f"{', '.join(paths)}: no epoch is over: expected one, to draw its curves")
    plot_comparison(drawn, out, f"{len(drawn)} run{'s' if len(drawn) > 1 else ''}")
    say("picture", out)


def _read(path: str, name: str) -> Compared:
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"{path} is {'a file' if folder.exists() else 'not there'}: expected a run's folder")
    config = read_json(folder / "config.json")
    lines = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    summary = read_json(folder / "summary.json") if (folder / "summary.json").exists() else None
    return Compared(name, config, lines, summary)


def _names(paths: Sequence[str]) -> list[str]:
    """Return the shortest names that tell the runs apart: their folders' own, or their paths; each a single time."""
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise ConfigError(f"{', '.join(paths)}: a run is named twice: give each once")
    short = [os.path.basename(os.path.abspath(path)) for path in paths]
    return short if len(set(short)) == len(short) else list(paths)


def _row(run: Compared, differing: Sequence[str]) -> dict[str, str]:
    """Return a run's line of the table, by column."""
    validated = [line for line in run.lines if line["val_accuracy"] is not None]
    best = max(validated, key=lambda line: line["val_accuracy"], default=None)
    summary, config = run.summary or {}, run.config
    done, planned = len(run.lines), config.get("epochs")
    test = summary.get("test_accuracy")
    seconds = summary.get("total_seconds")
    row = {
        "run": run.name,
        "network": "-".join(map(str, config.get("sizes", ()))),
        "best validation": f"{best['val_accuracy']:.4f} (epoch {best['epoch']})" if best else "–",
        "test": f"{100 * test:.2f} %" if isinstance(test, float) else "–",
        "done": f"{done}" if run.summary else f"{done} of {planned}, not finished",
        "seconds": f"{seconds:.1f}" if isinstance(seconds, float) else "–",
    }
    for key in differing:
        if key not in ("hidden", "epochs"):  # which the network and the epochs done say already
            row[key.replace("_", " ")] = _shown(config.get(key))
    return row


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_table(rows: Sequence[dict[str, str]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    titles = {column: "epochs" if column == "done" else column for column in columns}
    widths = {column: max(len(titles[column]), *(len(row[column]) for row in rows)) for column in columns}
    for row in (titles, *rows):
        click.echo("  ".join(f"{row[column]:<{widths[column]}}" for column in columns).rstrip())
