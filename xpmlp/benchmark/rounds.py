"""The rounds of a benchmark: each contestant in its own process, in turn, and the results."""

import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from xpmlp.benchmark.child import peak_memory
from xpmlp.benchmark.work import CONTESTANTS, OURS, PEERS, Work, base_of
from xpmlp.errors import ConfigError, expected_one_of
from xpmlp.storage.figures import TRAINING, VALIDATION, new_figure, save

TARGET = 0.98  # the test accuracy after whose epoch a cold start ends; ours is one xpmlp train --recipe quick


@dataclass
class Result:
    """The measurements of one contestant's process."""

    contestant: str
    batch_size: int
    what: str  # "steady"; "beside 1", as many busy processes; or "cold": from the start of the process to `TARGET`
    seconds: list[float] = field(default_factory=list)  # of each epoch but the first, or of the cold start
    peak_bytes: int | None = None  # the most memory that was resident
    accuracy: float | None = None  # the last of a cold start
    description: dict[str, Any] = field(default_factory=dict)
    problem: str = ""  # why there is nothing, where there is nothing


def installed(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return which contestants' packages are here, and which are not."""
    if unknown := [name for name in names if base_of(name) not in CONTESTANTS]:
        raise ConfigError(f"unknown contestant {unknown[0]!r}: {expected_one_of(unknown[0], CONTESTANTS)}")
    here = [name for name in names if importlib.util.find_spec(CONTESTANTS[base_of(name)][1])]
    return here, [name for name in names if name not in here]


@contextmanager
def busy_processes(n: int) -> Iterator[None]:
    """Let n processes compute beside this one, as long as the context is entered."""
    with ExitStack() as stack:
        for _ in range(n):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            stack.callback(process.kill)
        yield


def measure(name: str, work: Work, what: str, epochs: int, round_: int, neighbours: int = 0) -> Result:
    """Return what a contestant measures in a process of its own, beside so many others that are busy."""
    task = {"contestant": base_of(name), "what": what, "epochs": epochs, "target": TARGET, "work": asdict(work)}
    command = [sys.executable, "-m", "xpmlp.benchmark.child", json.dumps(task)]
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    if "@" in name:
        env["OPENBLAS_NUM_THREADS"] = env["MKL_NUM_THREADS"] = name.partition("@")[2]
    began = time.time()
    with busy_processes(neighbours):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    answers, problem = read_answers(done)
    result = Result(name, work.batch_size, f"beside {neighbours}" if neighbours else what, problem=problem)
    for answer in answers:
        result.description |= answer.get("description", {})
        result.peak_bytes = answer.get("peak_bytes", result.peak_bytes)
        result.accuracy = answer.get("accuracy", result.accuracy)
        if "seconds" in answer:
            result.seconds.append(answer["seconds"])
        elif answer.get("accuracy", 0) >= TARGET:
            result.seconds = [answer["at"] - began]
    return result


def read_answers(done: subprocess.CompletedProcess[str]) -> tuple[list[dict[str, Any]], str]:
    """Return all that a process has answered by `child.answer`, and why it failed, where it did."""
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"at"')]
    if not done.returncode:
        return answers, ""
    lines = [line.strip() for line in done.stderr.splitlines() if any(sign.isalpha() for sign in line)]
    own = [line for line in lines if "Error" in line or "error" in line]  # before a launcher's banner
    return answers, f"exit code {done.returncode}: {(own or lines or ['no message'])[-1]}"


def measure_recipe(name: str, work: Work, seed: int) -> Result:
    """Return how long ``xpmlp train --recipe quick`` takes until it says its test accuracy, and its memory by then."""
    result = Result(name, work.batch_size, "cold")
    backend, kernels = ("numpy", "compiled") if name == "numba" else (name, "inplace")
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "xpmlp", "train", "--recipe", "quick", "--dataset", "mnist", "--no-plot"]
        command += ["--backend", backend, "--kernels", kernels, "--data-dir", work.data_dir, "--seed", str(seed)]
        command += ["--out", os.path.join(folder, "run")]
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
    groups: dict[tuple[str, int], dict[str, list[Result]]] = {}
    for result in results:
        group = groups.setdefault((result.what, result.batch_size), {})
        group.setdefault(result.contestant, []).append(result)
    rows = []
    for (what, batch_size), group in groups.items():
        times = {name: spread([second for result in own for second in result.seconds]) for name, own in group.items()}
        medians = {name: time["seconds"] for name, time in times.items() if time["seconds"]}
        fastest = min((medians[name] for name in PEERS if name in medians), default=None)
        for name, own in group.items():
            peaks = [result.peak_bytes for result in own if result.peak_bytes]
            median = medians.get(name)
            rows.append(
                {
                    "what": what,
                    "batch_size": batch_size,
                    "contestant": name,
                    **times[name],
                    "peak_bytes": statistics.median(peaks) if peaks else None,
                    "accuracy": own[-1].accuracy,
                    "description": own[-1].description,
                    "problem": next((result.problem for result in own if result.problem), ""),
                    "by_fastest_peer": median / fastest if median and fastest else None,
                    "share_of_floor": medians["floor"] / median if median and "floor" in medians else None,
                }
            )
    return rows


def heading(what: str, batch_size: int) -> str:
    """Return what a group of rows is of."""
    if what == "cold":
        return "cold start to 98 % test accuracy, s"
    n = what.removeprefix("beside ")
    beside = "" if what == "steady" else f", beside {n} busy process{'' if n == '1' else 'es'}"
    return f"batch {batch_size}{beside}, s/epoch"


def label(name: str) -> str:
    """Return a contestant's name in a picture."""
    base, _, threads = name.partition("@")
    fixed = f", {threads} thread{'' if threads == '1' else 's'}" if threads else ""
    return f"xpmlp, {base}{fixed}" if base in OURS else name


def spread(seconds: Sequence[float]) -> dict[str, Any]:
    """Return the median, the least and the greatest, where there are any."""
    median = statistics.median(seconds) if seconds else None
    return {"seconds": median, "least": min(seconds, default=None), "most": max(seconds, default=None)}


def plot_benchmark(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str) -> None:
    """Draw what `summarise` returns as bars with their spread: a panel a batch size, one for cold starts."""
    panels = list(dict.fromkeys((row["what"], row["batch_size"]) for row in rows))
    figure = new_figure(5 * len(panels), 3.6)
    figure.suptitle(title)
    for axes, (what, batch_size) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        group = [row for row in rows if (row["what"], row["batch_size"]) == (what, batch_size) and row["seconds"]]
        group.sort(key=lambda row: -row["seconds"])
        for k, row in enumerate(group):
            name = row["contestant"]
            colour = "#bbbbbb" if name == "floor" else TRAINING if base_of(name) in OURS else VALIDATION
            axes.barh(k, row["seconds"], color=colour, height=0.7)
            axes.plot([row["least"], row["most"]], [k, k], color="black", linewidth=1)
            axes.text(row["most"], k, f"  {row['seconds']:.2f}", va="center", size=8)
        names = [row["contestant"] for row in group]
        axes.set_yticks(range(len(group)), [label(name) for name in names])
        axes.set_xlabel(heading(what, batch_size))
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
