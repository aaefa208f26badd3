"""The rounds of a benchmark: each contestant in a process of its own, in turn, and what comes of it."""

import importlib.util
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from xpmlp.benchmark.processes import ask, peak_memory, spread
from xpmlp.benchmark.work import CONTESTANTS, OURS, PEERS, Work
from xpmlp.errors import ConfigError

TARGET = 0.98  # the test accuracy that a cold start goes to


@dataclass
class Result:
    """What one contestant's process measured.

    A cold start goes from the start of the process to 98 % test accuracy: for us, one ``xpmlp train --recipe quick``;
    for the others, the first epoch of the same recipe after which it is reached.
    """

    contestant: str
    batch_size: int
    what: str  # "steady" or "cold"
    seconds: list[float] = field(default_factory=list)  # of each epoch but the first, or of the cold start
    peak_bytes: int | None = None  # the most memory that was resident
    accuracy: float | None = None  # the last of a cold start
    description: dict[str, Any] = field(default_factory=dict)
    problem: str = ""  # why there is nothing, where there is nothing


def installed(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return which contestants' packages are here, and which are not."""
    for name in names:
        if name not in CONTESTANTS:
            raise ConfigError(f"unknown contestant {name!r}: expected {', '.join(CONTESTANTS)}")
    here = [name for name in names if importlib.util.find_spec(CONTESTANTS[name][1])]
    return here, [name for name in names if name not in here]


def turns(
    names: Sequence[str], works: Sequence[Work], epochs: int, cold: Work | None
) -> dict[str, Callable[[int], Result]]:
    """Return what is measured in each round, given its number: every contestant at every work, and each cold."""
    found: dict[str, Callable[[int], Result]] = {}
    for work in works:
        for name in names:
            found[f", batch {work.batch_size}: {name}"] = partial(measure, name, work, "steady", epochs)
    for name in names:
        if cold and name != "floor":
            turn = partial(measure_recipe, name, cold) if name in OURS else partial(measure, name, cold, "cold", 12)
            found[f", cold start: {name}"] = turn
    return found


def measure(name: str, work: Work, what: str, epochs: int, round_: int) -> Result:
    """Return what a contestant measures in a process of its own."""
    task = {"contestant": name, "what": what, "epochs": epochs, "target": TARGET, "work": asdict(work)}
    began = time.time()
    answers, problem = ask("child", task, TF_CPP_MIN_LOG_LEVEL="3")
    result = Result(name, work.batch_size, what, problem=problem)
    for answer in answers:
        result.description |= answer.get("description", {})
        result.peak_bytes = answer.get("peak_bytes", result.peak_bytes)
        result.accuracy = answer.get("accuracy", result.accuracy)
        if "seconds" in answer:
            result.seconds.append(answer["seconds"])
        elif answer.get("accuracy", 0) >= TARGET:
            result.seconds = [answer["at"] - began]
    return result


def measure_recipe(name: str, work: Work, seed: int) -> Result:
    """Return how long ``xpmlp train --recipe quick`` takes until it says its test accuracy, and its memory by then."""
    result = Result(name, work.batch_size, "cold")
    backend, kernels = ("numpy", "compiled") if name == "numba" else (name, "inplace")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "xpmlp", "train", "--recipe", "quick", "--dataset", "mnist", "--no-plot"),
            *("--backend", backend, "--kernels", kernels, "--data-dir", work.data_dir, "--seed", str(seed)),
            *("--out", os.path.join(folder, "run")),
        ]
        began, line = time.time(), ""
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            for line in process.stdout or ():
                if found := re.match(r"test .* accuracy ([\d.]+) %", line):
                    result.accuracy = float(found[1]) / 100
                    if result.accuracy >= TARGET:
                        result.seconds = [time.time() - began]
                    result.peak_bytes = peak_memory(process.pid)
        if process.returncode:
            result.problem = f"exit code {process.returncode}: {line.strip()}"
    return result


def summarise(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return a row for each contestant and kind of measurement: medians, spread, and the ratio to the fastest peer."""
    groups: dict[tuple[str, int, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.what, result.batch_size, result.contestant), []).append(result)
    rows = []
    for (what, batch_size, name), own in groups.items():
        peaks = [result.peak_bytes for result in own if result.peak_bytes]
        rows.append(
            {
                "what": what,
                "batch_size": batch_size,
                "contestant": name,
                **spread([second for result in own for second in result.seconds]),
                "peak_bytes": statistics.median(peaks) if peaks else None,
                "accuracy": own[-1].accuracy,
                "description": own[-1].description,
                "problem": next((result.problem for result in own if result.problem), ""),
            }
        )
    for row in rows:
        group = [other for other in rows if (other["what"], other["batch_size"]) == (row["what"], row["batch_size"])]
        found = {other["contestant"]: other["seconds"] for other in group if other["seconds"]}
        peers = [found[name] for name in PEERS if name in found]
        row["by_fastest_peer"] = row["seconds"] / min(peers) if row["seconds"] and peers else None
        row["share_of_floor"] = found["floor"] / row["seconds"] if row["seconds"] and "floor" in found else None
    return rows
