"""One contestant in its own process: it reads its task in JSON, and prints a line of JSON after each result."""

import json
import sys
import time
from typing import Any

from xpmlp.benchmark.work import Work, make


def main() -> None:
    """Do what the first argument says."""
    task = json.loads(sys.argv[1])
    work = Work(**{**task["work"], "hidden": tuple(task["work"]["hidden"])})
    contestant = make(task["contestant"], work)
    answer(description=contestant.description)
    if task["what"] == "steady":
        contestant.epoch()  # it compiles, and fills the caches
        for _ in range(task["epochs"]):
            began = time.perf_counter()
            contestant.epoch()
            answer(seconds=time.perf_counter() - began)
        if task["contestant"] == "cupy":
            from xpmlp.benchmark.gpu import measure_gpu

            answer(description={"gpu": measure_gpu(contestant.epoch, work)})
    else:
        for _ in range(task["epochs"]):
            contestant.epoch()
            accuracy = contestant.test_accuracy()
            answer(accuracy=accuracy)
            if accuracy >= task["target"]:
                break
    answer(peak_bytes=peak_memory())


def answer(**what: Any) -> None:
    """Print a line of JSON at once, with the time."""
    print(json.dumps({"at": time.time(), **what}), flush=True)  # noqa: T201


def peak_memory(pid: int | str = "self") -> int | None:
    """Return the most memory that a process has had resident, in bytes."""
    try:
        with open(f"/proc/{pid}/status") as file:  # ru_maxrss begins with that of the process that forked it
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:")), None)
    except OSError:
        return None


if __name__ == "__main__":
    main()
