"""``xpmlp train --seeds``: runs that differ in their seed alone, in a folder that has a run's folder for each."""

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xpmlp.commands._progress import say, say_nothing
from xpmlp.commands._run import run
from xpmlp.communication import find_launch
from xpmlp.errors import CheckpointError, ConfigError
from xpmlp.storage.files import FolderLock, write_whole
from xpmlp.training.drawing import plot_seeds
from xpmlp.training.folder import RunFolder, read_json, read_metrics

FILE = "seeds.json"
"""In the folder of such runs: their seeds, and the options that they were begun with."""

FORMAT_VERSION = 1


def run_seeds(seeds: Sequence[int], *, given: set[str], plot: bool, quiet: bool, **options: Any) -> None:
    """Train once with each seed, one after the other."""
    launch = find_launch()
    if launch is not None and (launch.size or 1) > 1 and options["distributed"] != "off":
        raise ConfigError("seeds are trained one after the other in one process: leave the launcher out, or --seeds")
    if "seed" in given:
        raise ConfigError(f"--seed {options['seed']} with --seeds: give one of them")
    out = options["out"] or time.strftime("runs/%Y%m%d-%H%M%S-seeds")
    folder = RunFolder(out).path  # refused before the work, unless it is new or empty
    folder.mkdir(parents=True, exist_ok=True)
    asked = {name: value for name, value in options.items() if name not in ("out", "resume")}
    record = {"format_version": FORMAT_VERSION, "seeds": list(seeds), "options": asked, "given": sorted(given)}
    with _locked(folder):
        _write(folder / FILE, record)
        _train(folder, record, plot, quiet)


def resume_seeds(folder: Path, *, given: set[str], plot: bool, quiet: bool, **options: Any) -> None:
    """Go on with such runs: those that are finished stay, unless they are told to make more epochs."""
    if "out" in given:
        raise ConfigError(f"--out {options['out']}: runs that go on stay in their folder {folder}; leave it out")
    record = read_json(folder / FILE)
    seeds, asked = record.get("seeds"), record.get("options")
    if not isinstance(seeds, list) or not isinstance(asked, dict) or record.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{folder / FILE} is damaged, or of a newer xpmlp: expected seeds and options")
    changed = {name: options[name] for name in given if name in asked}
    asked |= changed
    record["given"] = sorted({*record.get("given", ()), *changed})
    with _locked(folder):
        _train(folder, record, plot, quiet, changed)


def _train(
    folder: Path, record: Mapping[str, Any], plot: bool, quiet: bool, changed: Mapping[str, Any] | None = None
) -> None:
    tell = say_nothing if quiet else say
    seeds, asked, given = record["seeds"], dict(record["options"]), set(record["given"])
    asked["hidden"] = tuple(asked["hidden"])
    for number, seed in enumerate(seeds, start=1):
        path = folder / f"seed-{seed}"
        tell("seed", f"{seed}, {number} of {len(seeds)}")
        if (path / "config.json").exists():
            options = {**asked, "resume": str(path), "out": None, "given": set(changed or ())}
        else:
            options = {**asked, "resume": None, "out": str(path), "seed": seed, "given": {*given, "seed", "out"}}
        run(plot=plot, quiet=quiet, whole=folder, **options)
        if number == 1 and changed:  # which the first run has taken
            _write(folder / FILE, record)
    figures = _summary([folder / f"seed-{seed}" for seed in seeds])
    _write(folder / "summary.json", {"seeds": seeds, "figures": figures})
    if plot:
        runs = [read_metrics(folder / f"seed-{seed}" / "metrics.jsonl") for seed in seeds]
        plot_seeds(runs, folder / "history.png", f"{folder.name}: {len(seeds)} seeds")
    found = figures["test_accuracy"]
    spread = f" ± {100 * found['std']:.2f} %, {100 * found['min']:.2f} to {100 * found['max']:.2f} %"
    tell("seeds", f"test accuracy {100 * found['mean']:.2f}{spread} of {len(seeds)}; {folder}")


def _summary(runs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Return mean, standard deviation (of a sample; of one run 0), least and greatest of each figure of all runs."""
    summaries = [read_json(path / "summary.json") for path in runs]
    figures = {}
    for name in summaries[0]:
        values: list[Any] = [summary.get(name) for summary in summaries]
        if name == "seed" or not all(isinstance(value, int | float) for value in values):
            continue
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        figures[name] = {"mean": statistics.fmean(values), "std": spread, "min": min(values), "max": max(values)}
    return figures


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, f"{json.dumps(content, indent=2, ensure_ascii=False)}\n".encode())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FolderLock(folder)
    try:
        yield
    finally:
        lock.release()
