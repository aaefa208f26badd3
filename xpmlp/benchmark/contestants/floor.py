"""The eight matrix products of a step, and nothing else: what no other way through NumPy's BLAS can be faster than."""

import itertools

import numpy as np

from xpmlp.backends import get_backend
from xpmlp.benchmark.work import Contestant, Work


class Entry(Contestant):
    """Products into buffers that are there already."""

    def __init__(self, work: Work, backend: str) -> None:
        self.work, self.backend = work, get_backend(backend)
        rng = np.random.default_rng(0)
        n, sizes = work.batch_size, work.sizes
        self.A = [rng.standard_normal((n, width), dtype=np.float32) for width in sizes]
        self.W = [rng.standard_normal(shape, dtype=np.float32) for shape in itertools.pairwise(sizes)]
        self.dW = [np.empty_like(W) for W in self.W]
        self.out = [np.empty_like(A) for A in self.A]

    def epoch(self) -> None:
        """Make the products of an epoch's steps."""
        A, W, dW, out = self.A, self.W, self.dW, self.out
        for _ in range(-(-self.work.n_images // self.work.batch_size)):
            for k in range(len(W)):
                np.matmul(A[k], W[k], out=out[k + 1])
            for k in range(len(W) - 1, -1, -1):
                np.matmul(A[k].T, A[k + 1], out=dW[k])
                if k:
                    np.matmul(A[k + 1], W[k].T, out=out[k])

    def test_accuracy(self) -> float:
        """Return nothing: it learns nothing."""
        return float("nan")

    def describe(self) -> dict[str, str]:
        """Return NumPy's description."""
        return {"library": "numpy", **self.backend.describe()}
