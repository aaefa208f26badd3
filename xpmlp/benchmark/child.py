"""One contestant in a process of its own."""

import json
import sys
import time

from xpmlp.benchmark.processes import answer, peak_memory
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


if __name__ == "__main__":
    main()
