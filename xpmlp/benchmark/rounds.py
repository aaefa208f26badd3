"""The rounds of a benchmark: each contestant in a process of its own, in turn, and what comes of it."""

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from xpmlp.benchmark.work import CONTESTANTS, OURS, PEERS, Work
from xpmlp.errors import ConfigError

TARGET = 0.98
"""The test accuracy that a cold start goes to."""


@dataclass
class Result:
    """What one contestant's process measured.

    Parameters
    ----------
    contestant : str
        Its name in `CONTESTANTS`.
    batch_size : int
        Images a step.
    what : {"steady", "cold"}
        Epochs after a first one, or from the start of the process to 98 % test accuracy: for us, one
        ``xpmlp train --recipe quick``; for the others, the first epoch of the same recipe after which it is reached.
    seconds : list of float
        Of each steady epoch; of a cold start the one until the target, nothing where it was not reached.
    peak_bytes : int or None
        The most memory that was resident.
    accuracy : float or None
        The last test accuracy of a cold start.
    description : dict
        The library, its version, device and precision.
    problem : str
        Why there is nothing, where there is nothing.
    """

    contestant: str
    batch_size: int
    what: str
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    accuracy: float | None = None
    description: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def installed(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return which contestants' packages are here, and which are not.

    Raises
    ------
    ConfigError
        If a name is unknown.
    """
    for name in names:
        if name not in CONTESTANTS:
            raise ConfigError(f"unknown contestant {name!r}: expected {', '.join(CONTESTANTS)}")
    here = [name for name in names if importlib.util.find_spec(CONTESTANTS[name][1])]
    return here, [name for name in names if name not in here]


def run_rounds(
    names: Sequence[str],
    works: Sequence[Work],
    rounds: int,
    epochs: int,
    cold: Work | None,
    tell: Callable[[str], None],
) -> Iterator[Result]:
    """Yield what is measured, as it comes: in each round every contestant once for each batch size, and a cold start.

    Parameters
    ----------
    names : sequence of str
        The contestants.
    works : sequence of Work
        One a batch size.
    rounds : int
        How often each has its turn.
    epochs : int
        Steady epochs a turn.
    cold : Work or None
        What is trained from a cold start; None: nothing is.
    tell : callable
        Is told what begins.
    """
    for round_ in range(1, rounds + 1):
        for work in works:
            for name in names:
                tell(f"round {round_}/{rounds}, batch {work.batch_size}: {name}")
                yield measure(name, work, "steady", epochs)
        for name in names if cold else ():
            if cold and name != "floor":
                tell(f"round {round_}/{rounds}, cold start: {name}")
                yield measure_recipe(name, cold, round_) if name in OURS else measure(name, cold, "cold", 12)


def measure(name: str, work: Work, what: str, epochs: int) -> Result:
    """Return what a contestant measures in a process of its own."""
    task = {"contestant": name, "what": what, "epochs": epochs, "target": TARGET, "work": asdict(work)}
    result = Result(name, work.batch_size, what)
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "xpmlp.benchmark.child", json.dumps(task)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    for line in done.stdout.splitlines():
        if not line.startswith('{"at"'):
            continue
        answer = json.loads(line)
        at = answer.pop("at")
        if answer.pop("ready", False):
            result.description = answer
        elif "gpu" in answer:
            result.description["gpu"] = answer["gpu"]
        elif "seconds" in answer:
            result.seconds.append(answer["seconds"])
        elif "accuracy" in answer:
            result.accuracy = answer["accuracy"]
            if answer["accuracy"] >= TARGET:
                result.seconds = [at - began]
        else:
            result.peak_bytes = answer["peak_bytes"]
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        result.problem = f"exit code {done.returncode}: {' '.join(last) or 'no message'}"
    return result


def measure_recipe(name: str, work: Work, seed: int) -> Result:
    """Return how long ``xpmlp train --recipe quick`` takes until it says its test accuracy, and its memory by then."""
    result = Result(name, work.batch_size, "cold")
    backend, kernels = ("numpy", "compiled") if name == "numba" else (name, "inplace")
    options = {"--backend": backend, "--kernels": kernels, "--data-dir": work.data_dir, "--seed": str(seed)}
    began = time.time()
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "xpmlp", "train", "--recipe", "quick", "--dataset", "mnist", "--no-plot"),
                *("--out", os.path.join(folder, "run")),
                *(part for option in options.items() for part in option),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        line = ""
        for line in process.stdout:
            found = re.match(r"test .* accuracy ([\d.]+) %", line)
            if found:
                result.accuracy = float(found[1]) / 100
                if result.accuracy >= TARGET:
                    result.seconds = [time.time() - began]
                result.peak_bytes = peak_memory(process.pid)
        if process.wait():
            result.problem = f"exit code {process.returncode}: {line.strip()}"
    return result


def peak_memory(pid: int | str = "self") -> int | None:
    """Return the most memory that a process has had resident, in bytes."""
    try:
        with open(f"/proc/{pid}/status") as file:  # ru_maxrss begins with that of the process that forked it
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def summarise(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return a row for each contestant and kind of measurement: medians, spread, and the ratio to the fastest peer."""
    rows: list[dict[str, Any]] = []
    for key in dict.fromkeys((result.what, result.batch_size, result.contestant) for result in results):
        what, batch_size, name = key
        own = [result for result in results if (result.what, result.batch_size, result.contestant) == key]
        seconds = [second for result in own for second in result.seconds]
        peaks = [result.peak_bytes for result in own if result.peak_bytes]
        rows.append(
            {
                "what": what,
                "batch_size": batch_size,
                "contestant": name,
                "seconds": statistics.median(seconds) if seconds else None,
                "least": min(seconds, default=None),
                "most": max(seconds, default=None),
                "peak_bytes": statistics.median(peaks) if peaks else None,
                "accuracy": own[-1].accuracy,
                "description": own[-1].description,
                "problem": next((result.problem for result in own if result.problem), ""),
            }
        )
    for row in rows:
        beside = [other for other in rows if (other["what"], other["batch_size"]) == (row["what"], row["batch_size"])]
        peers = [other["seconds"] for other in beside if other["contestant"] in PEERS and other["seconds"]]
        floor = next((other["seconds"] for other in beside if other["contestant"] == "floor"), None)
        row["by_fastest_peer"] = row["seconds"] / min(peers) if row["seconds"] and peers else None
        row["share_of_floor"] = floor / row["seconds"] if row["seconds"] and floor else None
    return rows
