"""One ``xpmlp bench``: measure, write and print, in order."""

import contextlib
import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

import xpmlp
from xpmlp.benchmark.rounds import Result, heading, installed, measure, measure_recipe, plot_benchmark, summarise
from xpmlp.benchmark.work import OURS, PEERS, WITH_BLAS_THREADS, Work, about
from xpmlp.commands._progress import make_download_progress, say
from xpmlp.data import load_dataset
from xpmlp.errors import ConfigError, expected_one_of
from xpmlp.storage.files import write_whole
from xpmlp.training.config import RECIPES


def run(options: Mapping[str, Any]) -> None:
    """Run the measurements of the command line."""
    if unknown := [name for name in options["backend"] if name not in OURS]:
        raise ConfigError(f"unknown backend {unknown[0]!r}: {expected_one_of(unknown[0], OURS)}")
    peers = PEERS if options["peers"] is None else [name for name in options["peers"] if name != "none"]
    fixed = [f"{name}@{n}" for name in options["backend"] if name in WITH_BLAS_THREADS for n in options["threads"]]
    here, missing = installed(["floor", *options["backend"], *fixed, *peers])
    files, n_images = folder_of_mnist(options["data_dir"])
    if missing:
        say("left out", f"{', '.join(missing)}: not installed")
    optimizer, epochs, folder = options["optimizer"], options["epochs"], Path(options["out"])
    turns: dict[str, Callable[[int], Result]] = {}
    for size in options["batch_size"]:
        work = Work(options["hidden"], size, optimizer, 0.001 if optimizer == "adam" else 0.1, epochs, files, n_images)
        for n in dict.fromkeys((0, options["neighbours"])):
            beside = f", beside {n}" if n else ""
            for name in here:
                turn = partial(measure, name, work, "steady", epochs, neighbours=n)
                turns[f", batch {size}{beside}: {name}"] = turn
    shared = ("hidden", "batch_size", "learning_rate", "momentum", "epochs", "center")
    recipe = {name: RECIPES["quick"][name] for name in shared}
    cold = Work(**recipe, optimizer="sgd", data_dir=files, n_images=n_images)
    for name in here[1:] if options["cold"] else ():  # the floor learns nothing
        if name not in fixed:
            turn = partial(measure_recipe, name, cold) if name in OURS else partial(measure, name, cold, "cold", 12)
            turns[f", cold start: {name}"] = turn
    say("machine", machine := describe_machine(os.cpu_count() or 1))
    results = take_turns(turns, folder / "results.jsonl", options["rounds"])
    for found in (result.description["gpu"] for result in results if "gpu" in result.description):
        say(
            "gpu",
            f"{found['name']}: {1e6 * found['step_seconds']:.0f} µs a step, {found['share']:.1%} of the "
            f"{found['products'] / 1e12:.1f} TFLOP/s of a large product; copies at {found['copy'] / 1e9:.0f} GB/s, "
            f"from the host at {found['host_to_device'] / 1e9:.1f}",
        )
    rows = summarise(results)
    write_record(folder / "bench.json", machine, options, {"rows": rows})
    click.echo(_tables(rows))
    network = f"784-{'-'.join(map(str, options['hidden']))}-10"
    plot_benchmark(rows, folder / "bench.png", f"{network}, {optimizer}, float32, {machine.partition(',')[0]}")
    say("written", f"results.jsonl, bench.json, bench.png in {options['out']}")


def _tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table for each batch size and one for cold starts, fastest first."""
    lines = []
    for what, batch_size in dict.fromkeys((row["what"], row["batch_size"]) for row in rows):
        group = [row for row in rows if (row["what"], row["batch_size"]) == (what, batch_size)]
        group.sort(key=lambda row: row["seconds"] or float("inf"))
        heads = (
            heading(what, batch_size),
            "median",
            "least–most",
            "by the fastest peer",
            "share of the floor",
            "peak MB",
        )
        lines += ["", *markdown(heads, map(_cells, group))]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    name = about(row["contestant"])
    if row["seconds"] is None:
        return [name, "–", row["problem"] or f"not reached: {row['accuracy']}", "", "", ""]
    spread = f"{row['least']:.2f}–{row['most']:.2f}"
    ratio = f"{row['by_fastest_peer']:.2f}" if row["by_fastest_peer"] else ""
    share = f"{row['share_of_floor']:.0%}" if row["share_of_floor"] else ""
    peak = f"{row['peak_bytes'] / 1e6:.0f}" if row["peak_bytes"] else ""
    return [name, f"{row['seconds']:.2f}", spread, ratio, share, peak]


def markdown(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return a table's lines."""
    return [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *(f"| {' | '.join(row)} |" for row in rows)]


def folder_of_mnist(data_dir: str | None) -> tuple[str, int]:
    """Return the folder with MNIST's files, downloaded if needed, and the number of training images."""
    found = load_dataset("mnist", data_dir, progress=make_download_progress())
    return os.path.abspath(found.train.provenance.partition(" set in ")[2]), len(found.train)


def describe_machine(n_cores: int) -> str:
    """Return the benchmark's machine and versions; the processor's name is the system's."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        models = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
        processor = next(models, processor)
    power = f"{n_cores} core{'' if n_cores == 1 else 's'}"
    return f"{power}, {processor}, {platform.platform()}, Python {platform.python_version()}"


def take_turns(turns: Mapping[str, Callable[[int], Result]], path: Path, rounds: int) -> list[Result]:
    """Return each turn's measurements in each round; each is also written at once as a line of JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    results = []
    with path.open("w", buffering=1, encoding="utf-8") as file:
        for k in range(1, rounds + 1):
            for what, turn in turns.items():
                say("measure", f"round {k}/{rounds}{what}")
                result = turn(k)
                file.write(json.dumps(dataclasses.asdict(result)) + "\n")
                if result.problem:
                    say("problem", result.problem)
                results.append(result)
    return results


def write_record(path: Path, machine: str, options: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Write the measurements, their time and their settings."""
    when = {"xpmlp": xpmlp.__version__, "date": time.strftime("%Y-%m-%d %H:%M"), "machine": machine}
    how = {name: options[name] for name in ("hidden", "optimizer", "rounds", "epochs")}
    write_whole(path, (json.dumps({**when, **how, **found}, indent=1) + "\n").encode())
