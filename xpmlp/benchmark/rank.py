"""One of the ranks that are timed together: told what to do in JSON, rank 0 answers in JSON, a line as each is done."""

import dataclasses
import json
import sys
import time
from typing import Any

import numpy as np
import threadpoolctl

from xpmlp.backends import Backend, get_backend
from xpmlp.benchmark.child import answer
from xpmlp.communication import Communicator, join, join_gpus, leave
from xpmlp.data import Dataset, load_dataset
from xpmlp.math.layout import Layout
from xpmlp.training.config import TrainConfig
from xpmlp.training.steps import TAIL
from xpmlp.training.train import train

SUMMED = tuple(4**k for k in range(12))
"""How many numbers are summed, beside those of a step: from 4 bytes to 17 MB of float32."""

_PATIENCE = 0.3
"""Seconds after which no further sum of a length is begun, once there were five."""


def main() -> None:
    """Do what the first argument says."""
    task = json.loads(sys.argv[1])
    ranks = join()
    backend = get_backend(
        f"cupy:{ranks.local_rank}" if task["backend"] == "cupy" and ranks.size > 1 else task["backend"], "float32"
    )
    ranks = join_gpus(ranks) if backend.name == "cupy" else ranks
    data = load_dataset("mnist", task["data_dir"]).train
    layout = Layout((784, *task["hidden"], 10))
    threadpoolctl.threadpool_limits(task["threads"])  # on another host the environment, which says so too, is its own
    if ranks.rank == 0:
        about = {name: getattr(ranks, name) for name in ("engine", "hosts", "local_size", "cores")}
        answer(bytes_a_step=4 * (layout.size + TAIL), **about, **backend.describe())
    for batch_size in (size for size in task["batch_sizes"] if size <= len(data)):
        config = TrainConfig(
            hidden=tuple(task["hidden"]),
            epochs=task["epochs"] + 1,
            batch_size=batch_size,
            optimizer=task["optimizer"],
            learning_rate=0.001,
            schedule="constant",
            val_size=0,
            kernels=task["kernels"],
        )
        n_images = min(task["steps"], len(data) // batch_size) * batch_size  # whole batches
        seconds = step_seconds(config, first_images(data, n_images), backend, ranks)
        if ranks.rank == 0:
            answer(batch_size=batch_size, seconds=seconds)
    for n in sorted({*SUMMED, layout.size + TAIL}) if ranks.size > 1 else ():
        seconds = sum_seconds(n, backend, ranks)
        if ranks.rank == 0:
            answer(bytes=4 * n, seconds=seconds)
    leave()


def first_images(data: Dataset, n: int) -> Dataset:
    """Return the first n images."""
    return dataclasses.replace(data, images=data.images[:n], labels=data.labels[:n])


def step_seconds(config: TrainConfig, data: Dataset, backend: Backend, ranks: Communicator) -> list[float]:
    """Return what a step takes in each epoch but the first, which compiles and fills the caches."""
    _, history = train(config, data, backend, communicator=ranks)
    return [metrics.seconds / history.plan.steps_per_epoch for metrics in history.epochs[1:]]


def sum_seconds(n: int, backend: Backend, ranks: Communicator) -> list[float]:
    """Return what sums of n float32 numbers take, each until the last rank has it; some go by way of the host."""
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
