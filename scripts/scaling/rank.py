"""One of the ranks that are timed together; rank 0 reports for all."""

import dataclasses
import json
import sys
import time
from typing import Any

import numpy as np
import threadpoolctl

from xpmlp.backends import Backend, get_backend, own_process
from xpmlp.benchmark.child import answer
from xpmlp.communication import Communicator, join, join_gpus, leave
from xpmlp.data import load_dataset
from xpmlp.math.layout import Layout
from xpmlp.training.config import TrainConfig
from xpmlp.training.run import train_network
from xpmlp.training.steps import TAIL

SUMMED = tuple(4**k for k in range(12))  # lengths of the sums, besides a step's: from 4 bytes to 17 MB of float32
_PATIENCE = 0.3  # seconds after which no further sum of a length starts, once there were five


def main() -> None:
    """Do the task in the first argument."""
    task = json.loads(sys.argv[1])
    ranks, spec = join(), task["backend"]
    own_process(spec)
    backend = get_backend(f"cupy:{ranks.local_rank}" if spec == "cupy" and ranks.size > 1 else spec, "float32")
    ranks = join_gpus(ranks, backend.context) if backend.name == "cupy" else ranks
    settings = {**task["settings"], "hidden": tuple(task["settings"]["hidden"])}
    data = load_dataset("mnist", task["data_dir"]).train
    n_summed = Layout((784, *settings["hidden"], 10)).size + TAIL
    threadpoolctl.threadpool_limits(task["threads"])  # another host has its own environment, which may not say so
    if ranks.rank == 0:
        about = {name: getattr(ranks, name) for name in ("engine", "hosts", "local_size", "cores")}
        answer(bytes_a_step=4 * n_summed, **about, **backend.describe())
    for batch_size in (size for size in task["batch_sizes"] if size <= len(data)):
        n = min(task["steps"], len(data) // batch_size) * batch_size  # whole batches
        part = dataclasses.replace(data, images=data.images[:n], labels=data.labels[:n])
        _, history = train_network(TrainConfig(**settings, batch_size=batch_size), part, backend, communicator=ranks)
        if ranks.rank == 0:
            timed = history.epochs[1:]  # the first compiles and fills the caches
            seconds = [epoch.seconds / history.plan.steps_per_epoch for epoch in timed]
            answer(batch_size=batch_size, seconds=seconds)
    for n in sorted({*SUMMED, n_summed}) if ranks.size > 1 else ():
        seconds = sum_seconds(n, backend, ranks)
        if ranks.rank == 0:
            answer(bytes=4 * n, seconds=seconds)
    leave()


def sum_seconds(n: int, backend: Backend, ranks: Communicator) -> list[float]:
    """Return the seconds of sums of n float32 numbers, each until the last rank has it; some go through the host."""
    is_direct = ranks.library in (None, backend.library)
    vector: Any = backend.asarray(np.zeros(n, np.float32), copy=True)  # zeros stay zeros
    seconds: list[float] = []
    began = time.perf_counter()
    for k in range(205):
        late = len(seconds) >= 5 and time.perf_counter() - began > _PATIENCE
        if ranks.broadcast(late):
            break
        ranks.barrier()
        start = time.perf_counter()
        vector = ranks.sum(vector) if is_direct else backend.asarray(ranks.sum(backend.to_numpy(vector)))
        backend.synchronize()
        if k >= 5:
            seconds.append(time.perf_counter() - start)
    return [max(those) for those in zip(*ranks.gather(seconds), strict=True)]


if __name__ == "__main__":
    main()
