"""One ``xpmlp bench --ranks``: what is measured, predicted, written and said, in order."""

import dataclasses
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import xpmlp
from xpmlp.backends.probe import probe_apart
from xpmlp.benchmark.drawing import plot_ranks
from xpmlp.benchmark.ranks import (
    PREDICTED_RANKS,
    Launched,
    RanksWork,
    find_launcher,
    run_rounds,
    summarise,
    try_launcher,
    ways,
)
from xpmlp.benchmark.work import OURS
from xpmlp.commands._benchmark import folder_of_mnist, processor, require_counts
from xpmlp.commands._progress import say
from xpmlp.communication import SingleRank
from xpmlp.errors import BackendError, CommunicationError, ConfigError
from xpmlp.storage.files import write_whole
from xpmlp.training.config import TrainConfig

STEPS = 200
"""In an epoch that is timed, as far as the images go."""


def run(
    *,
    ranks: tuple[int, ...],
    launcher: str,
    data_dir: str | None,
    hidden: tuple[int, ...],
    batch_size: tuple[int, ...],
    backend: tuple[str, ...],
    optimizer: str,
    rounds: int,
    epochs: int,
    out: str,
) -> None:
    """Measure as the command line says; the arguments are its options."""
    require_counts(ranks=ranks, batch_size=batch_size, hidden=hidden)
    if len(backend) != 1 or backend[0] not in OURS:
        raise ConfigError(f"--backend {','.join(backend)} with --ranks: expected one of {', '.join(OURS)}")
    if max(ranks) > min(batch_size):
        raise ConfigError(f"{max(ranks)} ranks for batches of {min(batch_size)} images: each needs at least one")
    library, kernels = ("numpy", "compiled") if backend[0] == "numba" else (backend[0], "inplace")
    if problem := probe_apart(library)[0].problem:  # said now, not by each rank
        raise BackendError(problem)
    words = find_launcher(launcher)
    files, n_images = folder_of_mnist(data_dir)
    TrainConfig(batch_size=max(batch_size), val_size=0, kernels=kernels).resolve(n_images)  # refuses what cannot be
    if max(ranks) > 1:
        words = try_launcher(words, launcher, max(ranks))
    work = RanksWork(hidden, batch_size, optimizer, library, kernels, files)
    cores = SingleRank().cores
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    power = f"{cores} core{'' if cores == 1 else 's'}"
    machine = f"{power}, {processor()}, {platform.platform()}, Python {platform.python_version()}"
    say("machine", machine)
    if library == "jax":
        say("note", "JAX takes the threads that it likes: those that are named are what OpenMP and BLAS were told")
    for size in batch_size:
        if size * max(ranks) > n_images:
            most = n_images // size
            say("left out", f"weak scaling of batch {size:,} on more than {most} ranks: there are {n_images:,} images")
    results: list[Launched] = []
    with (folder / "ranks.jsonl").open("a", encoding="utf-8") as file:
        launches = ways(ranks, 1 if library == "cupy" else cores)  # its step runs on no core
        for result in run_rounds(work, launches, words, rounds, epochs, STEPS, lambda what: say("measure", what)):
            results.append(result)
            file.write(json.dumps(dataclasses.asdict(result)) + "\n")
            file.flush()
            if result.problem:
                say("problem", result.problem)
    wanted = [result for result in results if result.ranks > 1] or results
    if not any(result.steps for result in wanted):
        raise CommunicationError(f"nothing was measured: {wanted[0].problem}")
    found = summarise(results, batch_size)
    engines = [
        result.description["engine"] + (f" on {hosts} hosts" if (hosts := result.description["hosts"]) > 1 else "")
        for result in results
        if result.description.get("engine")
    ]
    engine = engines[-1] if engines else "none: no launch of several ranks answered"
    record = {
        "xpmlp": xpmlp.__version__,
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "machine": machine,
        "engine": engine,
        "hidden": hidden,
        "optimizer": optimizer,
        "backend": backend[0],
        "rounds": rounds,
        "epochs": epochs,
        **found,
    }
    write_whole(folder / "ranks.json", (json.dumps(record, indent=1) + "\n").encode())
    click.echo(tables(found))
    say("engine", engine + ("" if "NCCL" in engine else ". NCCL was not run: it joins several GPUs, --backend cupy"))
    title = f"784-{'-'.join(map(str, hidden))}-10, {optimizer}, {backend[0]}, float32, {power}"
    plot_ranks(found, folder / "ranks.png", title)
    say("written", f"ranks.jsonl, ranks.json, ranks.png in {folder}")


def tables(found: dict[str, Any]) -> str:
    """Return what `summarise` has found as tables in Markdown."""
    lines = ["", "Strong scaling: the batch is that of all ranks together.", "", *_scaling(found["strong"], "batch")]
    lines += ["", "Weak scaling: the batch is each rank's own.", "", *_scaling(found["weak"], "batch a rank")]
    n_bytes = found["bytes"]
    lengths = {**_LENGTHS, n_bytes: f"a step's {n_bytes / 1e6:.2f} MB"}
    lines += ["", "The all-reduce, and α + β bytes fitted to its logarithms:", ""]
    lines += ["| ranks | α, µs | β, µs/MB | " + " | ".join(f"{lengths[n]}, µs" for n in sorted(lengths)) + " |"]
    lines += ["|" + "---|" * (3 + len(lengths))]
    for row in found["sums"]:
        told = (f"{1e6 * row['seconds'][n]:.1f}" if n in row["seconds"] else "" for n in sorted(lengths))
        lines.append(f"| {row['ranks']} | {1e6 * row['start']:.1f} | {1e12 * row['slope']:.0f} | {' | '.join(told)} |")
    lines += ["", "One rank alone, ms a step, by its batch:", ""]
    lines += ["| " + " | ".join(map(str, found["computing"])) + " |", "|" + "---|" * len(found["computing"])]
    lines += ["| " + " | ".join(f"{1e3 * seconds:.2f}" for seconds in found["computing"].values()) + " |"]
    lines += ["", "PREDICTED, not measured: efficiency c(B) / (n (c(B/n) + T(n)/H)), with T(n) = 2⌈log₂ n⌉ latency"]
    lines += [
        "+ 2 (n − 1)/n bytes / bandwidth, of ranks that each compute as one does here, alone, whatever joins them."
    ]
    lines += ["Above 100 %: smaller parts fit the caches better. H = 64 (--average-every 64) costs accuracy.", ""]
    every = " / ".join(map(str, dict.fromkeys(row["average_every"] for row in found["predicted"])))
    heads = " | ".join(f"{n} ranks, H = {every}" for n in PREDICTED_RANKS)
    lines += [f"| link | batch of all | {heads} |", "|" + "---|" * (2 + len(PREDICTED_RANKS))]
    for link, size in dict.fromkeys((row["link"], row["batch_size"]) for row in found["predicted"]):
        rows = [row["efficiency"] for row in found["predicted"] if (row["link"], row["batch_size"]) == (link, size)]
        told = (" / ".join(_percent(row[n]) for row in rows) if rows[0][n] else "–" for n in PREDICTED_RANKS)
        lines.append(f"| {link} | {size:,} | {' | '.join(told)} |")
    return "\n".join(lines)


_LENGTHS = {4: "4 bytes", 4**6: "4 kB", 4**9: "262 kB", 4**10: "1 MB", 4**12: "17 MB"}


def _scaling(rows: Sequence[dict[str, Any]], batch: str) -> list[str]:
    lines = [f"| {batch} | ranks × threads | ms/step | least–most | speed-up | efficiency | by the formula, ms |"]
    lines.append("|" + "---|" * 7)
    for row in rows:
        way = f"{row['ranks']} × {row['threads']}" + (", more than cores" if row["crowded"] else "")
        spread = f"{1e3 * row['least']:.2f}–{1e3 * row['most']:.2f}"
        gain = f"{row['speed_up']:.2f} | {_percent(row['efficiency'])}" if row["speed_up"] else " | "
        formula = f"{1e3 * row['formula']:.2f}" if row["formula"] else ""
        lines.append(f"| {row['batch_size']} | {way} | {1e3 * row['seconds']:.2f} | {spread} | {gain} | {formula} |")
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"
