"""One contestant in a process of its own: told what to do in JSON, it answers in JSON, a line as each thing is done."""

import json
import sys
import time
from typing import Any

from xpmlp.benchmark.rounds import peak_memory
from xpmlp.benchmark.work import Work, make


def main() -> None:
    """Do what the first argument says."""
    task = json.loads(sys.argv[1])
    work = Work(**{**task["work"], "hidden": tuple(task["work"]["hidden"])})
    contestant = make(task["contestant"], work)
    answer(ready=True, **contestant.describe())
    if task["what"] == "steady":
        contestant.epoch()  # it compiles, and fills the caches
        for _ in range(task["epochs"]):
            began = time.perf_counter()
            contestant.epoch()
            answer(seconds=time.perf_counter() - began)
        if task["contestant"] == "cupy":
            from xpmlp.benchmark.gpu import measure_gpu

            ours: Any = contestant
            answer(gpu=measure_gpu(ours.epoch, ours.layout.sizes, ours.n, work.batch_size))
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


if __name__ == "__main__":
    main()
