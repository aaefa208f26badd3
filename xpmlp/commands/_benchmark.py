"""One ``xpmlp bench``: what is measured, written and said, in order."""

import dataclasses
import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import xpmlp
from xpmlp.benchmark.drawing import plot_benchmark
from xpmlp.benchmark.rounds import Result, installed, run_rounds, summarise
from xpmlp.benchmark.work import CONTESTANTS, OURS, PEERS, Work
from xpmlp.commands._progress import make_download_progress, say
from xpmlp.data import load_dataset
from xpmlp.data.sources import FILES
from xpmlp.errors import ConfigError
from xpmlp.storage.files import write_whole
from xpmlp.training.config import RECIPES


def run(
    *,
    data_dir: str | None,
    hidden: tuple[int, ...],
    batch_size: tuple[int, ...],
    backend: tuple[str, ...],
    peers: tuple[str, ...] | None,
    optimizer: str,
    rounds: int,
    epochs: int,
    cold: bool,
    out: str,
) -> None:
    """Measure as the command line says; the arguments are its options."""
    require_counts(batch_size=batch_size, hidden=hidden)
    unknown = [name for name in backend if name not in OURS]
    if unknown:
        raise ConfigError(f"unknown backend {', '.join(unknown)}: expected {', '.join(OURS)}")
    wanted = PEERS if peers is None else tuple(name for name in peers if name != "none")
    here, missing = installed(["floor", *backend, *wanted])
    files, _ = folder_of_mnist(data_dir)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    if missing:
        say("left out", f"{', '.join(missing)}: not installed")
    rate = 0.001 if optimizer == "adam" else 0.1
    works = [Work(hidden, size, optimizer, rate, epochs, files) for size in batch_size]
    quick = RECIPES["quick"]
    names = ("hidden", "batch_size", "learning_rate", "epochs", "center")
    start = Work(**{name: quick[name] for name in names}, optimizer="sgd", data_dir=files) if cold else None
    say("machine", f"{os.cpu_count()} cores, {processor()}, Python {platform.python_version()}")

    results: list[Result] = []
    with (folder / "results.jsonl").open("a", encoding="utf-8") as file:
        for result in run_rounds(here, works, rounds, epochs, start, lambda what: say("measure", what)):
            results.append(result)
            file.write(json.dumps(dataclasses.asdict(result)) + "\n")
            file.flush()
            if result.problem:
                say("problem", f"{result.contestant}: {result.problem}")
            if "gpu" in result.description:
                say("gpu", _gpu(result.description["gpu"]))
    rows = summarise(results)
    record = {
        "xpmlp": xpmlp.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": f"{os.cpu_count()} cores, {processor()}, {platform.platform()}, Python {platform.python_version()}",
        "hidden": hidden,
        "optimizer": optimizer,
        "rounds": rounds,
        "epochs": epochs,
        "rows": rows,
    }
    write_whole(folder / "bench.json", (json.dumps(record, indent=1) + "\n").encode())
    click.echo(_table(rows))
    title = f"784-{'-'.join(map(str, hidden))}-10, {optimizer}, float32, {os.cpu_count()} cores"
    plot_benchmark(rows, folder / "bench.png", title, set(OURS))
    say("written", f"results.jsonl, bench.json, bench.png in {folder}")


def _gpu(found: dict[str, Any]) -> str:
    """Return what `measure_gpu` found, in one line."""
    return (
        f"{found['name']}: {1e6 * found['step_seconds']:.0f} µs a step, {found['share']:.1%} of the "
        f"{found['products'] / 1e12:.1f} TFLOP/s of a large product; copies at {found['copy'] / 1e9:.0f} GB/s, "
        f"from the host at {found['host_to_device'] / 1e9:.1f}"
    )


def folder_of_mnist(data_dir: str | None) -> tuple[str, int]:
    """Return the folder with MNIST's files, where they are or once downloaded, and the number of training images."""
    found = load_dataset("mnist", data_dir, progress=make_download_progress())
    folder = Path(found.train.provenance.partition(" set in ")[2])
    assert any((folder / f"{FILES[0]}{ending}").exists() for ending in ("", ".gz"))
    return str(folder.absolute()), len(found.train)


def require_counts(**options: Sequence[int]) -> None:
    """Refuse options that hold a number below 1."""
    for name, values in options.items():
        if min(values, default=1) < 1:
            option = f"--{name.replace('_', '-')} {','.join(map(str, values))}"
            raise ConfigError(f"{option}: expected whole numbers of at least 1")


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table in Markdown, the fastest first."""
    lines = []
    for what, batch_size in dict.fromkeys((row["what"], row["batch_size"]) for row in rows):
        group = [row for row in rows if (row["what"], row["batch_size"]) == (what, batch_size)]
        group.sort(key=lambda row: row["seconds"] or float("inf"))
        head = f"batch {batch_size}, s/epoch" if what == "steady" else "cold start to 98 % test accuracy, s"
        lines += ["", f"| {head} | median | least–most | by the fastest peer | share of the floor | peak MB |"]
        lines.append("|---|---|---|---|---|---|")
        for row in group:
            about = CONTESTANTS[row["contestant"]][2]
            if row["seconds"] is None:
                why = row["problem"] or f"not reached: {row['accuracy']}"
                lines.append(f"| {about} | – | {why} | | | |")
                continue
            spread = f"{row['least']:.2f}–{row['most']:.2f}"
            ratio = f"{row['by_fastest_peer']:.2f}" if row["by_fastest_peer"] else ""
            share = f"{row['share_of_floor']:.0%}" if row["share_of_floor"] else ""
            peak = f"{row['peak_bytes'] / 1e6:.0f}" if row["peak_bytes"] else ""
            lines.append(f"| {about} | {row['seconds']:.2f} | {spread} | {ratio} | {share} | {peak} |")
    return "\n".join(lines)


def processor() -> str:
    """Return what the machine calls its processor."""
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
