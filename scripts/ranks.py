"""Time the same training on one rank and on several, time their sums, and predict the speed of more ranks.

``python scripts/ranks.py --ranks 1,2,4`` measures strong and weak scaling of xpmlp's training on MNIST over processes.
It writes one line of JSON per launch to benchmark/ranks.jsonl, all results to ranks.json, and the plot ranks.png. It
prints tables.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from scaling.drawing import plot_ranks
from scaling.launches import PREDICTED_RANKS, Launched, find_launcher, summarise, try_launcher, turns, ways

from xpmlp.backends.probe import probe_apart
from xpmlp.benchmark.work import OURS
from xpmlp.commands import main
from xpmlp.commands._benchmark import describe_machine, folder_of_mnist, markdown, take_turns, write_record
from xpmlp.commands._choices import Choice
from xpmlp.commands._progress import say
from xpmlp.commands.bench import counts
from xpmlp.communication import SingleRank
from xpmlp.errors import BackendError, CommunicationError, ConfigError
from xpmlp.training.config import TrainConfig

STEPS = 200  # steps in an epoch, limited by the images


@click.command()
@click.option("--ranks", callback=counts, default="1,2,4", show_default=True, help="Numbers of ranks, with commas.")
@click.option("--launcher", default="mpiexec", show_default=True, help="What starts them, with options of its own.")
@click.option("--data-dir", type=click.Path(), help="The folder of MNIST. [XPMLP_DATA, then the user's cache]")
@click.option("--hidden", callback=counts, default="256,128", show_default=True, help="Widths of the hidden layers.")
@click.option("--batch-size", callback=counts, default="128,1024", show_default=True, help="Sizes, with commas.")
@click.option("--backend", default="numpy", show_default=True, help=f"One of {', '.join(OURS)}.")
@click.option("--optimizer", type=Choice(["adam", "sgd"]), default="adam", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Turns of each launch.")
@click.option("--epochs", type=click.IntRange(1), default=3, show_default=True, help="Timed epochs a launch.")
@click.option("--out", type=click.Path(), default="benchmark", show_default=True, help="The folder for the results.")
def ranks(ranks: tuple[int, ...], backend: str, batch_size: tuple[int, ...], out: str, **options: Any) -> None:
    """Time xpmlp's training on several ranks, in float32: strong and weak scaling, and the sums between the ranks.

    Predicts from them what more ranks and other links would give. Each number of ranks is a launch of its own, in turn;
    medians count. Writes ranks.jsonl as they come, ranks.json and ranks.png.
    """
    if backend not in OURS:
        raise ConfigError(f"--backend {backend}: expected one of {', '.join(OURS)}")
    if max(ranks) > min(batch_size):
        raise ConfigError(f"{max(ranks)} ranks for batches of {min(batch_size)} images: each needs at least one")
    library, kernels = ("numpy", "compiled") if backend == "numba" else (backend, "inplace")
    if problem := probe_apart(library)[0].problem:  # an error now, not from each rank
        raise BackendError(problem)
    launcher = find_launcher(options["launcher"])
    files, n_images = folder_of_mnist(options["data_dir"])
    settings: dict[str, Any] = {
        "hidden": options["hidden"],
        "optimizer": options["optimizer"],
        "learning_rate": 0.001,
        "schedule": "constant",
        "val_size": 0,
        "kernels": kernels,
        "epochs": options["epochs"] + 1,  # the first is not timed
    }
    TrainConfig(**settings, batch_size=max(batch_size)).resolve(n_images)  # refuses invalid numbers
    if max(ranks) > 1:
        launcher = try_launcher(launcher, options["launcher"], max(ranks))
    cores = SingleRank().cores
    say("machine", machine := describe_machine(cores))
    if library == "jax":
        say("note", "JAX takes the threads that it likes: those that are named are what OpenMP and BLAS were told")
    for size in batch_size:
        if size * max(ranks) > n_images:
            most = n_images // size
            say("left out", f"weak scaling of batch {size:,} on more than {most} ranks: there are {n_images:,} images")
    task = {"backend": library, "data_dir": files, "steps": STEPS, "settings": settings}
    launches = ways(ranks, 1 if library == "cupy" else cores)  # CuPy's step uses no core
    folder = Path(out)
    results = take_turns(turns(task, batch_size, launches, launcher), folder / "ranks.jsonl", options["rounds"])
    wanted = [result for result in results if result.ranks > 1] or results
    if not any(result.steps for result in wanted):
        raise CommunicationError(f"nothing was measured: {wanted[0].problem}")
    engine = engine_of(results)
    say("engine", engine + ("" if "NCCL" in engine else ". NCCL was not run: it joins several GPUs, --backend cupy"))
    found = summarise(results, batch_size)
    write_record(folder / "ranks.json", machine, options, {"engine": engine, "backend": backend, **found})
    click.echo(tables(found))
    trained = f"784-{'-'.join(map(str, options['hidden']))}-10, {options['optimizer']}, {backend}, float32"
    plot_ranks(found, folder / "ranks.png", f"{trained}, {machine.partition(',')[0]}")
    say("written", f"ranks.jsonl, ranks.json, ranks.png in {out}")


def engine_of(results: Sequence[Launched]) -> str:
    """Return the library that summed, from the last launch of several ranks."""
    for result in reversed(results):
        if engine := result.description.get("engine"):
            hosts = result.description["hosts"]
            return f"{engine} on {hosts} hosts" if hosts > 1 else engine
    return "none: no launch of several ranks answered"


def tables(found: dict[str, Any]) -> str:
    """Return the results of `summarise` as tables in Markdown."""
    lines = ["", "Strong scaling: the batch is that of all ranks together.", "", *_scaling(found["strong"], "batch")]
    lines += ["", "Weak scaling: the batch is each rank's own.", "", *_scaling(found["weak"], "batch a rank")]
    lengths = dict(sorted({**_LENGTHS, found["bytes"]: f"a step's {found['bytes'] / 1e6:.2f} MB"}.items()))
    sums = []
    for row in found["sums"]:
        line = [f"{1e6 * row['start']:.1f}", f"{1e12 * row['slope']:.0f}"]
        told = (f"{1e6 * row['seconds'][n]:.1f}" if n in row["seconds"] else "" for n in lengths)
        sums.append([str(row["ranks"]), *line, *told])
    lines += ["", "The all-reduce, and α + β bytes fitted to its logarithms:", ""]
    lines += markdown(["ranks", "α, µs", "β, µs/MB", *(f"{length}, µs" for length in lengths.values())], sums)
    alone = found["computing"]
    lines += ["", "One rank alone, ms a step, by its batch:", ""]
    lines += markdown([str(size) for size in alone], [[f"{1e3 * seconds:.2f}" for seconds in alone.values()]])
    lines += [_PREDICTED]
    every = " / ".join(map(str, dict.fromkeys(row["average_every"] for row in found["predicted"])))
    predicted = []
    for link, size in dict.fromkeys((row["link"], row["batch_size"]) for row in found["predicted"]):
        rows = [row["efficiency"] for row in found["predicted"] if (row["link"], row["batch_size"]) == (link, size)]
        told = (" / ".join(_percent(row[n]) for row in rows) if rows[0][n] else "–" for n in PREDICTED_RANKS)
        predicted.append([link, f"{size:,}", *told])
    heads = ["link", "batch of all", *(f"{n} ranks, H = {every}" for n in PREDICTED_RANKS)]
    return "\n".join(lines + markdown(heads, predicted))


_LENGTHS = {4: "4 bytes", 4**6: "4 kB", 4**9: "262 kB", 4**10: "1 MB", 4**12: "17 MB"}

_PREDICTED = """
PREDICTED, not measured: efficiency c(B) / (n (c(B/n) + T(n)/H)), with T(n) = 2⌈log₂ n⌉ latency
+ 2 (n − 1)/n bytes / bandwidth, of ranks that each compute as one does here, alone, whatever joins them.
Above 100 %: smaller parts fit the caches better. H = 64 (--average-every 64) costs accuracy.
"""


def _scaling(rows: Sequence[dict[str, Any]], batch: str) -> list[str]:
    cells = []
    for row in rows:
        way = f"{row['ranks']} × {row['threads']}" + (", more than cores" if row["crowded"] else "")
        spread = f"{1e3 * row['least']:.2f}–{1e3 * row['most']:.2f}"
        gain = [f"{row['speed_up']:.2f}", _percent(row["efficiency"])] if row["speed_up"] else ["", ""]
        formula = f"{1e3 * row['formula']:.2f}" if row["formula"] else ""
        cells.append([str(row["batch_size"]), way, f"{1e3 * row['seconds']:.2f}", spread, *gain, formula])
    heads = ["ranks × threads", "ms/step", "least–most", "speed-up", "efficiency", "by the formula, ms"]
    return markdown([batch, *heads], cells)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


if __name__ == "__main__":
    sys.exit(main(command=ranks, program="ranks.py"))
