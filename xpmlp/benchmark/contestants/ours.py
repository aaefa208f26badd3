"""xpmlp itself, on one of its backends: what `xpmlp.train` does in an epoch."""

from collections.abc import Iterator

import numpy as np

from xpmlp.backends import get_backend, own_process
from xpmlp.backends.base import computing, keep_freed_memory
from xpmlp.benchmark.work import UNTIL_EXIT, Contestant, Work
from xpmlp.data import DeviceLoader, load_dataset
from xpmlp.data.loading import Batch
from xpmlp.kernels import kernels
from xpmlp.math.layout import Layout, init
from xpmlp.math.optimizers import Scalars
from xpmlp.training.config import TrainConfig, make_optimizer
from xpmlp.training.evaluation import evaluate
from xpmlp.training.objectives import ImageObjective
from xpmlp.training.steps import Carry, compiled, make_step, zero_totals
from xpmlp.training.threads import tuned_threads


def enter(work: Work, name: str) -> Contestant:
    """Return xpmlp's own training step and loader."""
    library, way = ("numpy", "compiled") if name == "numba" else (name, "inplace")
    own_process(library)
    backend, layout, rng = get_backend(library, "float32"), Layout(work.sizes), np.random.default_rng(0)
    data = load_dataset("mnist", work.data_dir)
    keep_freed_memory()
    momentum = work.momentum if work.optimizer == "sgd" else None
    config = TrainConfig(hidden=work.hidden, optimizer=work.optimizer, momentum=momentum, batch_size=work.batch_size)
    optimizer = make_optimizer(config)
    with computing(backend, work.batch_size):
        theta = backend.asarray(init(layout, rng, "float32"), copy=True)
        carry = Carry(theta, optimizer.init(theta), zero_totals(backend, "float32"))
        loader = DeviceLoader(data.train, backend, work.batch_size, reuse_buffers=True)
        train_step = make_step(ImageObjective(layout, data.train.max_value), optimizer)
        train_step = compiled(backend, train_step, donate=(0, 1, 2))
    train_step = UNTIL_EXIT.enter_context(tuned_threads(backend)).watched(train_step)
    step = 0

    def inputs(batches: Iterator[Batch]) -> Iterator[tuple[Batch, Scalars, None]]:
        nonlocal step
        for batch in batches:
            step += 1
            yield batch, optimizer.scalars(step, work.rate(step)), None

    def epoch() -> None:
        nonlocal carry
        with computing(backend, work.batch_size), kernels(way):
            carry = carry._replace(totals=zero_totals(backend, "float32"))
            carry = backend.repeat(train_step, carry, inputs(loader.batches(rng.permutation(work.n_images))))
            backend.to_numpy(carry.totals.loss)

    about = {"library": backend.name, "kernels": way, **backend.describe()}
    return Contestant(epoch, lambda: evaluate(carry.theta, layout, data.test, backend).accuracy, about)
