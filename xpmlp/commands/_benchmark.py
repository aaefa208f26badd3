"""One ``xpmlp bench``: what is measured, written and said, in order; and the frame that ``--ranks`` shares with it."""

import contextlib
import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

import xpmlp
from xpmlp.benchmark.drawing import plot_benchmark
from xpmlp.benchmark.ranks import Launched
from xpmlp.benchmark.rounds import Result, installed, summarise, turns
from xpmlp.benchmark.work import CONTESTANTS, OURS, PEERS, Work
from xpmlp.commands._progress import make_download_progress, say
from xpmlp.data import load_dataset
from xpmlp.data.sources import FILES
from xpmlp.errors import ConfigError
from xpmlp.storage.files import write_whole
from xpmlp.training.config import RECIPES

Measured = TypeVar("Measured", Result, Launched)


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says."""

    data_dir: str | None
    hidden: tuple[int, ...]
    batch_size: tuple[int, ...]
    backend: tuple[str, ...]
    peers: tuple[str, ...] | None
    optimizer: str
    rounds: int
    epochs: int
    cold: bool
    ranks: tuple[int, ...] | None
    launcher: str
    out: str

    def __post_init__(self) -> None:
        for option, values in {"ranks": self.ranks, "batch-size": self.batch_size, "hidden": self.hidden}.items():
            if values and min(values) < 1:
                raise ConfigError(f"--{option} {','.join(map(str, values))}: expected whole numbers of at least 1")

    @property
    def files(self) -> tuple[Path, ...]:
        """What is written: lines of JSON as they come, the record, and the picture."""
        names = (
            ("ranks.jsonl", "ranks.json", "ranks.png") if self.ranks else ("results.jsonl", "bench.json", "bench.png")
        )
        return tuple(Path(self.out) / name for name in names)


def run(options: Options) -> None:
    """Measure as the command line says."""
    if unknown := [name for name in options.backend if name not in OURS]:
        raise ConfigError(f"unknown backend {', '.join(unknown)}: expected {', '.join(OURS)}")
    peers = PEERS if options.peers is None else tuple(name for name in options.peers if name != "none")
    here, missing = installed(["floor", *options.backend, *peers])
    files, n_images = folder_of_mnist(options.data_dir)
    if missing:
        say("left out", f"{', '.join(missing)}: not installed")
    rate = 0.001 if options.optimizer == "adam" else 0.1
    settings = (options.optimizer, rate, options.epochs, files, n_images)
    works = [Work(options.hidden, size, *settings) for size in options.batch_size]
    recipe = {name: RECIPES["quick"][name] for name in ("hidden", "batch_size", "learning_rate", "epochs", "center")}
    cold = Work(**recipe, optimizer="sgd", data_dir=files, n_images=n_images) if options.cold else None
    machine = describe_machine(os.cpu_count() or 1)
    results = measure(turns(here, works, options.epochs, cold), options)
    for result in results:
        if "gpu" in result.description:
            say("gpu", _gpu(result.description["gpu"]))
    rows = summarise(results)
    write(options, machine, {"rows": rows}, _tables(rows), partial(plot_benchmark, rows))


def _gpu(found: dict[str, Any]) -> str:
    """Return what `measure_gpu` found, in one line."""
    return (
        f"{found['name']}: {1e6 * found['step_seconds']:.0f} µs a step, {found['share']:.1%} of the "
        f"{found['products'] / 1e12:.1f} TFLOP/s of a large product; copies at {found['copy'] / 1e9:.0f} GB/s, "
        f"from the host at {found['host_to_device'] / 1e9:.1f}"
    )


def _tables(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table in Markdown for each batch size, and one for cold starts, the fastest first."""
    lines = []
    for what, batch_size in dict.fromkeys((row["what"], row["batch_size"]) for row in rows):
        group = [row for row in rows if (row["what"], row["batch_size"]) == (what, batch_size)]
        group.sort(key=lambda row: row["seconds"] or float("inf"))
        head = f"batch {batch_size}, s/epoch" if what == "steady" else "cold start to 98 % test accuracy, s"
        heads = (head, "median", "least–most", "by the fastest peer", "share of the floor", "peak MB")
        lines += ["", *markdown(heads, map(_cells, group))]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> list[str]:
    about = CONTESTANTS[row["contestant"]][2]
    if row["seconds"] is None:
        return [about, "–", row["problem"] or f"not reached: {row['accuracy']}", "", "", ""]
    spread = f"{row['least']:.2f}–{row['most']:.2f}"
    ratio = f"{row['by_fastest_peer']:.2f}" if row["by_fastest_peer"] else ""
    share = f"{row['share_of_floor']:.0%}" if row["share_of_floor"] else ""
    peak = f"{row['peak_bytes'] / 1e6:.0f}" if row["peak_bytes"] else ""
    return [about, f"{row['seconds']:.2f}", spread, ratio, share, peak]


def markdown(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Return a table's lines."""
    return [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *(f"| {' | '.join(row)} |" for row in rows)]


def folder_of_mnist(data_dir: str | None) -> tuple[str, int]:
    """Return the folder with MNIST's files, where they are or once downloaded, and the number of training images."""
    found = load_dataset("mnist", data_dir, progress=make_download_progress())
    folder = Path(found.train.provenance.partition(" set in ")[2])
    assert any((folder / f"{FILES[0]}{ending}").exists() for ending in ("", ".gz"))
    return str(folder.absolute()), len(found.train)


def describe_machine(n_cores: int) -> str:
    """Return what the benchmark runs on, and say it; the processor as the machine calls it."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        models = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
        processor = next(models, processor)
    power = f"{n_cores} core{'' if n_cores == 1 else 's'}"
    machine = f"{power}, {processor}, {platform.platform()}, Python {platform.python_version()}"
    say("machine", machine)
    return machine


def measure(turns: Mapping[str, Callable[[int], Measured]], options: Options) -> list[Measured]:
    """Return what every turn measures in each round; each is also written as it comes."""
    lines, *_ = options.files
    lines.parent.mkdir(parents=True, exist_ok=True)
    results = []
    with lines.open("a", encoding="utf-8") as file:
        for k in range(1, options.rounds + 1):
            for what, turn in turns.items():
                say("measure", f"round {k}/{options.rounds}{what}")
                result = turn(k)
                file.write(json.dumps(dataclasses.asdict(result)) + "\n")
                file.flush()
                if result.problem:
                    say("problem", result.problem)
                results.append(result)
    return results


def write(
    options: Options, machine: str, found: Mapping[str, Any], tables: str, plot: Callable[[Path, str], None]
) -> None:
    """Write what was measured, when and how, print its tables and draw it."""
    lines, record, picture = options.files
    content = {
        "xpmlp": xpmlp.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine,
        **{name: getattr(options, name) for name in ("hidden", "optimizer", "rounds", "epochs")},
        **found,
    }
    write_whole(record, (json.dumps(content, indent=1) + "\n").encode())
    click.echo(tables)
    library = f"{options.backend[0]}, " if options.ranks else ""
    network = f"784-{'-'.join(map(str, options.hidden))}-10"
    plot(picture, f"{network}, {options.optimizer}, {library}float32, {machine.partition(',')[0]}")
    say("written", f"{lines.name}, {record.name}, {picture.name} in {options.out}")
