"""xpmlp itself, on one of its backends: what `xpmlp.train` does in an epoch."""

import numpy as np

from xpmlp.backends import get_backend
from xpmlp.backends.base import computing
from xpmlp.benchmark.work import Contestant, Work
from xpmlp.data import DeviceLoader, load_dataset
from xpmlp.kernels import kernels
from xpmlp.math.layout import Layout, init
from xpmlp.training.config import TrainConfig, make_optimizer
from xpmlp.training.evaluation import evaluate
from xpmlp.training.objectives import ImageObjective
from xpmlp.training.steps import make_step, zero_totals


class Entry(Contestant):
    """xpmlp's own training step and loader."""

    def __init__(self, work: Work, backend: str) -> None:
        self.work, self.kernels = work, "compiled" if backend == "numba" else "inplace"
        self.backend = get_backend("numpy" if backend == "numba" else backend, "float32")
        data = load_dataset("mnist", work.data_dir)
        self.n = min(work.n_images, len(data.train))
        self.test = data.test
        self.layout = Layout(work.sizes)
        config = TrainConfig(hidden=work.hidden, optimizer=work.optimizer, batch_size=work.batch_size)
        self.optimizer = make_optimizer(config)
        self.rng = np.random.default_rng(0)
        with computing(self.backend, work.batch_size):
            self.theta = self.backend.asarray(init(self.layout, self.rng, "float32"), copy=True)
            self.state = self.optimizer.init(self.theta)
            self.loader = DeviceLoader(data.train, self.backend, work.batch_size, reuse_buffers=True)
            train_step = make_step(ImageObjective(self.layout, data.train.max_value), self.optimizer)
            self.train_step = self.backend.compile(train_step, donate=(0, 1, 2))
        self.step = 0

    def epoch(self) -> None:
        """Train on every image once."""
        n_steps = -(-self.n // self.work.batch_size) * self.work.epochs
        with computing(self.backend, self.work.batch_size), kernels(self.kernels):
            totals = zero_totals(self.backend, "float32")
            for batch in self.loader.batches(self.rng.permutation(self.n)):
                self.step += 1
                scalars = self.optimizer.scalars(self.step, self.work.rate(self.step, n_steps))
                self.theta, self.state, totals = self.train_step(self.theta, self.state, totals, batch, scalars)
            self.backend.to_numpy(totals.loss)

    def test_accuracy(self) -> float:
        """Return the accuracy over the test images."""
        return evaluate(self.theta, self.layout, self.test, self.backend).accuracy

    def describe(self) -> dict[str, str]:
        """Return the backend's description."""
        return {"library": self.backend.name, "kernels": self.kernels, **self.backend.describe()}
