"""What every contestant is given to do, and how it is asked for it."""

import contextlib
import gzip
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np

CONTESTANTS = {
    "floor": ("others", "numpy", "the step's eight products alone, through NumPy"),
    "numpy": ("ours", "numpy", "xpmlp on NumPy"),
    "numba": ("ours", "numba", "xpmlp on NumPy, kernels compiled"),
    "torch": ("ours", "torch", "xpmlp on PyTorch"),
    "jax": ("ours", "jax", "xpmlp on JAX"),
    "cupy": ("ours", "cupy", "xpmlp on CuPy"),
    "scikit-learn": ("others", "sklearn", "scikit-learn's MLPClassifier"),
    "pytorch": ("pytorch", "torch", "PyTorch, tensor indexing, fused optimizer"),
    "pytorch-dataloader": ("pytorch", "torch", "PyTorch, DataLoader"),
    "pytorch-compile": ("pytorch", "torch", "PyTorch, torch.compile"),
    "jax-by-hand": ("jax_by_hand", "jax", "JAX, jitted step, buffers donated"),
    "keras": ("others", "keras", "Keras on JAX"),
    "thinc": ("others", "thinc", "Thinc"),
}
"""Each name's module in `contestants`, the package that it needs, and what it is."""

WITH_BLAS_THREADS = ("numpy", "numba")
"""Those of ours whose number of BLAS threads can be fixed: ``numba@2`` has two, ``numba`` as many as it finds best."""

UNTIL_EXIT = contextlib.ExitStack()
"""Keeps what a contestant enters: a context whose stack is collected is left at once."""

OURS = ("numpy", "numba", "torch", "jax", "cupy")
PEERS = tuple(name for name in CONTESTANTS if name not in (*OURS, "floor"))


@dataclass(frozen=True)
class Work:
    """A network, an optimizer and a batch size; MNIST's images, in float32."""

    hidden: tuple[int, ...]
    batch_size: int
    optimizer: str  # "adam", at a constant rate, or "sgd", with Nesterov's momentum and a one-cycle rate
    learning_rate: float  # or the cycle's peak
    epochs: int  # over which the rate's cycle goes
    data_dir: str
    n_images: int = 60_000  # of the training set
    center: float = 0.0  # what is subtracted from all inputs
    momentum: float = 0.9  # of sgd

    @property
    def sizes(self) -> tuple[int, ...]:
        """The widths from the pixels to the classes."""
        return (784, *self.hidden, 10)

    @property
    def steps_per_epoch(self) -> int:
        """The last one's batch may be smaller."""
        return -(-self.n_images // self.batch_size)

    def rate(self, step: int) -> float:
        """Return a step's rate, counted from 1: what every contestant with one-cycle rates uses."""
        if self.optimizer == "adam":
            return self.learning_rate
        n_steps = self.steps_per_epoch * self.epochs
        top = 0.1 * n_steps
        return self.learning_rate * min(step / top, (n_steps + 1 - step) / (n_steps + 1 - top))


class Contestant(NamedTuple):
    """One library's way to do the work, its files read and its network made."""

    epoch: Callable[[], object]  # trains on every image once, in a newly drawn order; returns when that is done
    test_accuracy: Callable[[], float]  # over the 10,000 test images
    description: dict[str, str]  # the library, its version, and the precision of products


def base_of(name: str) -> str:
    """Return a contestant's name without its number of threads."""
    return name.partition("@")[0]


def about(name: str) -> str:
    """Return what a contestant is, in words."""
    base, _, threads = name.partition("@")
    return CONTESTANTS[base][2] + (f", {threads} BLAS thread{'' if threads == '1' else 's'}" if threads else "")


def make(name: str, work: Work) -> Contestant:
    """Return a contestant by its name, ready for its first epoch."""
    return Contestant(*import_module(f"xpmlp.benchmark.contestants.{CONTESTANTS[name][0]}").enter(work, name))


def read_mnist(work: Work) -> tuple[np.ndarray, ...]:
    """Return X, y, X_test, y_test as those who write a benchmark by hand read them: centred float32, and int64."""
    found: list[np.ndarray] = []
    for part, n in (("train", work.n_images), ("t10k", 10_000)):
        images = _read(Path(work.data_dir) / f"{part}-images-idx3-ubyte", 16).reshape(-1, 784)[:n]
        labels = _read(Path(work.data_dir) / f"{part}-labels-idx1-ubyte", 8)[:n]
        X = images / np.float32(255)
        X -= np.float32(work.center)  # in its place, as the peers' memory is measured
        found += [X, labels.astype(np.int64)]
    return tuple(found)


def _read(path: Path, header: int) -> np.ndarray:
    content = path.read_bytes() if path.exists() else gzip.decompress(Path(f"{path}.gz").read_bytes())
    return np.frombuffer(content, np.uint8, offset=header)
