"""What the benchmark reports of a GPU beside seconds: its own ceilings, and how near to them a training step comes.

Never yet run on a GPU: the names are CuPy's and the arithmetic was tried on a stand-in. Kernel launches are not
counted: CuPy has no count of them, and that of CUDA's profiler needs another package.
"""

import itertools
from collections.abc import Callable
from typing import Any

import cupy
import cupyx
import numpy as np

from xpmlp.benchmark.work import Work
from xpmlp.errors import BackendError

COPIED = 2**28  # bytes: far more than a GPU's caches hold
WIDTH = 8192  # of the large product's matrices


def measure_gpu(epoch: Callable[[], object], work: Work) -> dict[str, Any]:
    """Return the current GPU's ceilings in float32 and a step's share; what is wrong or cannot be is a BackendError."""
    device = cupy.cuda.runtime.getDevice()
    pinned = cupyx.empty_pinned((COPIED,), np.uint8)
    pinned[:] = np.resize(np.arange(251, dtype=np.uint8), COPIED)
    there, again = cupy.empty(COPIED, np.uint8), cupy.empty(COPIED, np.uint8)
    host_to_device = COPIED / seconds(lambda: there.set(pinned, stream=cupy.cuda.get_current_stream()), 10)
    copy = 2 * COPIED / seconds(lambda: cupy.copyto(again, there), 10)
    if not np.array_equal(cupy.asnumpy(again), pinned):
        raise BackendError(f"GPU {device}: what was copied there and back is not what it was")
    A, B, C = (cupy.full((WIDTH, WIDTH), 0.5, np.float32) for _ in range(3))
    products = 2 * WIDTH**3 / seconds(lambda: cupy.matmul(A, B, out=C), 5)
    if not bool((WIDTH / 4 == C).all()):
        raise BackendError(f"GPU {device}: a product of {WIDTH} x {WIDTH} matrices is wrong")
    epoch_seconds = seconds(epoch, 1)
    weights = [fan_in * fan_out for fan_in, fan_out in itertools.pairwise(work.sizes)]
    per_image = 6 * sum(weights) - 2 * weights[0]  # A W, Aᵀ delta and delta Wᵀ, which last the first layer does without
    step_products = work.n_images * per_image / epoch_seconds
    if not 0 < step_products < products:
        raise BackendError(f"GPU {device}: steps of {step_products:.3g} FLOP/s where {products:.3g} is the most")
    return {
        "name": cupy.cuda.runtime.getDeviceProperties(device)["name"].decode(),
        "step_seconds": epoch_seconds / work.steps_per_epoch,  # waits for the host included
        "host_to_device": host_to_device,  # bytes a second
        "copy": copy,  # bytes a second within the GPU, each counted twice: read and written
        "products": products,  # operations a second of one large product
        "step_products": step_products,  # those of the step's products, over all of its time
        "share": step_products / products,
    }


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Return one of several runs' time on the GPU, after one that is not counted."""
    work()
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    end.synchronize()
    return float(cupy.cuda.get_elapsed_time(begin, end)) / 1000 / repeats
