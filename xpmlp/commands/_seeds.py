"""``xpmlp train --seeds``: runs that differ only in their seed, each in its own folder within one folder."""

import contextlib
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
from xpmlp.data.datasets import NAMES, OWN, expanded
from xpmlp.errors import CheckpointError, ConfigError, XpmlpError
from xpmlp.storage.files import FolderLock, write_whole
from xpmlp.training.drawing import plot_seeds
from xpmlp.training.folder import RunFolder, read_json, read_metrics

FILE = "seeds.json"
"""The file in the folder of such runs with their seeds and their original options."""

FORMAT_VERSION = 1


def run_seeds(seeds: Sequence[int], *, given: set[str], plot: bool, quiet: bool, **options: Any) -> None:
    """Train once with each seed, one after the other."""
    launch = find_launch()
    if launch is not None and (launch.size or 1) > 1 and options["distributed"] != "off":
        raise ConfigError("seeds are trained one after the other in one process: leave the launcher out, or --seeds")
    if "seed" in given:
        raise ConfigError(f"--seed {options['seed']} with --seeds: give one of them")
    out = options["out"] or time.strftime("runs/%Y%m%d-%H%M%S-seeds")
    folder = RunFolder(out).path  # refused before the work starts, unless it is new or empty
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    asked = {name: value for name, value in options.items() if name not in ("out", "resume")}
    asked["dataset"], asked["data_dir"] = _absolute(options["dataset"]), _absolute(options["data_dir"])
    record = {"format_version": FORMAT_VERSION, "seeds": list(seeds), "options": asked, "given": sorted(given)}
    with _locked(folder):
        _write(folder / FILE, record)
        try:
            _train(folder, record, plot, quiet)
        except BaseException:
            if not any(folder.glob("seed-*")):  # nothing was begun: nothing is left
                for name in (FILE, FolderLock.NAME):
                    (folder / name).unlink(missing_ok=True)
                for each in made:
                    with contextlib.suppress(OSError):
                        each.rmdir()
            raise


def resume_seeds(folder: Path, *, given: set[str], plot: bool, quiet: bool, **options: Any) -> None:
    """Resume such runs; finished ones stay, unless more epochs are requested."""
    for name, kept in (("out", "stay in their folder"), ("dataset", "keep their data set")):
        if name in given:
            raise ConfigError(f"--{name} {options[name]}: resumed runs {kept}; leave it out")
    before = read_json(folder / FILE)
    seeds, asked = before.get("seeds"), before.get("options")
    is_whole = isinstance(seeds, list) and isinstance(asked, dict) and {"hidden", "dataset", "epochs"} <= asked.keys()
    if not is_whole or before.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{folder / FILE} is damaged, or of a newer xpmlp: expected seeds and options")
    assert asked is not None
    changed = {name: options[name] for name in given if name in asked}
    record = {**before, "options": {**asked, **changed}, "changed": {**before.get("changed", {}), **changed}}
    record["given"] = sorted({*before.get("given", ()), *changed})
    with _locked(folder):
        _write(folder / FILE, record)  # this is how an interrupted run resumes
        try:
            _train(folder, record, plot, quiet)
        except XpmlpError:
            _write(folder / FILE, before)
            raise


def _train(folder: Path, record: Mapping[str, Any], plot: bool, quiet: bool) -> None:
    tell = say_nothing if quiet else say
    seeds, asked, given = record["seeds"], dict(record["options"]), set(record["given"])
    asked["hidden"] = tuple(asked["hidden"])
    for number, seed in enumerate(seeds, start=1):
        path = folder / f"seed-{seed}"
        tell("seed", f"{seed}, {number} of {len(seeds)}")
        if (path / "config.json").exists():
            options = {**asked, "resume": str(path), "out": None, "given": set(record.get("changed", ()))}
        else:
            options = {**asked, "resume": None, "out": str(path), "seed": seed, "given": {*given, "seed", "out"}}
        run(plot=plot, quiet=quiet, whole=folder, **options)
    figures = _summary([folder / f"seed-{seed}" for seed in seeds])
    _write(folder / "summary.json", {"seeds": seeds, "figures": figures})
    if plot:
        runs = [read_metrics(folder / f"seed-{seed}" / "metrics.jsonl") for seed in seeds]
        plot_seeds(runs, folder / "history.png", f"{folder.name}: {len(seeds)} seeds")
    found = figures["test_accuracy"]
    spread = f" ± {100 * found['std']:.2f} %, {100 * found['min']:.2f} to {100 * found['max']:.2f} %"
    tell("seeds", f"test accuracy {100 * found['mean']:.2f}{spread} of {len(seeds)}; {folder}")


def _absolute(name: str | None) -> str | None:
    """Return a path as an absolute one, and a data set's name unchanged."""
    kind, colon, rest = (name or "").partition(":")
    if colon and kind in ("idx", *OWN):
        return f"{kind}:{expanded(rest).absolute()}"
    path = None if name is None or name in NAMES else expanded(name)
    return str(path.absolute()) if path is not None and path.exists() else name


def _summary(runs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Return each metric's mean, standard deviation (of a sample; 0 for one run), least and greatest over all runs."""
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
