"""``xpmlp compare``: compare several runs."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from xpmlp.errors import CheckpointError, ConfigError


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path())
@click.option("--out", type=click.Path(), default="comparison.png", show_default=True, help="The picture; overwritten.")
@click.option("--plot/--no-plot", default=True, help="Draw the picture. [--plot]")
def compare(runs: Sequence[str], out: str, plot: bool) -> None:
    """Compare runs in a table and a graph.

    The table has their results and the settings in which they differ, the graph their curves. Unfinished runs are
    compared as far as they are.
    """
    from xpmlp.commands._progress import say
    from xpmlp.training.config import TrainConfig
    from xpmlp.training.drawing import plot_comparison

    if plot and (not out or Path(out).is_dir()):
        raise ConfigError(f"--out {out!r} is not a file name: expected one, such as comparison.png")
    if plot and not Path(out).absolute().parent.is_dir():
        raise ConfigError(f"--out {out!r}: there is not a folder {Path(out).parent}: make it, or name another")
    compared = dict(zip(_names(runs), map(_read, runs), strict=True))
    settings = ["dataset", *(field.name for field in dataclasses.fields(TrainConfig)), "backend"]
    # Without the transfer, which changes no result, and settings that the network and the epochs done show already.
    settings = [name for name in settings if name not in ("transfer", "hidden", "epochs")]
    differing = [name for name in settings if len({str(config.get(name)) for config, *_ in compared.values()}) > 1]
    rows = [{"run": name, **_row(*run, differing)} for name, run in compared.items()]
    rows.insert(0, {column: column for column in rows[0]})
    widths = {column: max(len(row[column]) for row in rows) for column in rows[0]}
    for row in rows:
        click.echo("  ".join(f"{row[column]:<{width}}" for column, width in widths.items()).rstrip())
    if not plot:
        return
    drawn = {name: lines for name, (_, lines, _) in compared.items() if lines}
    if not drawn:
        raise CheckpointError(f"{', '.join(runs)}: no epoch is over: expected one, to draw its curves")
    plot_comparison(drawn, out, f"{len(drawn)} run{'s' if len(drawn) > 1 else ''}")
    say("picture", out)


def _names(paths: Sequence[str]) -> list[str]:
    """Return the shortest distinct names of the runs: their folders' names, or their paths; each run once."""
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise ConfigError(f"{', '.join(paths)}: a run is named twice: give each once")
    short = [os.path.basename(os.path.abspath(path)) for path in paths]
    return short if len(set(short)) == len(short) else list(paths)


def _read(path: str) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """Return a run's config, its epochs' lines, and its summary, which is empty if the run is not finished."""
    from xpmlp.training.folder import read_json, read_metrics

    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"{path} is {'a file' if folder.exists() else 'not there'}: expected a run's folder")
    config = read_json(folder / "config.json")
    metrics, summary = folder / "metrics.jsonl", folder / "summary.json"
    return config, read_metrics(metrics) if metrics.exists() else [], read_json(summary) if summary.exists() else {}


def _row(
    config: dict[str, Any], lines: list[dict[str, Any]], summary: dict[str, Any], differing: Sequence[str]
) -> dict[str, str]:
    """Return a run's line of the table, by column."""
    validated = [line for line in lines if line["val_accuracy"] is not None]
    best = max(validated, key=lambda line: line["val_accuracy"], default=None)
    test, seconds = summary.get("test_accuracy"), summary.get("total_seconds")
    done = f"{len(lines)}" if summary else f"{len(lines)} of {config.get('epochs')}, not finished"
    return {
        "network": "-".join(map(str, config.get("sizes", ()))),
        "best validation": f"{best['val_accuracy']:.4f} (epoch {best['epoch']})" if best else "–",
        "test": f"{100 * test:.2f} %" if isinstance(test, float) else "–",
        "epochs": done,
        "seconds": f"{seconds:.1f}" if isinstance(seconds, float) else "–",
        **{name.replace("_", " "): _shown(config.get(name)) for name in differing},
    }


def _shown(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
