"""What every contestant is given to do, and how it is asked for it."""

import gzip
import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CONTESTANTS = {
    "floor": ("xpmlp.benchmark.contestants.floor", "numpy", "the step's eight products alone, through NumPy"),
    "numpy": ("xpmlp.benchmark.contestants.ours", "numpy", "xpmlp on NumPy"),
    "numba": ("xpmlp.benchmark.contestants.ours", "numba", "xpmlp on NumPy, kernels compiled"),
    "torch": ("xpmlp.benchmark.contestants.ours", "torch", "xpmlp on PyTorch"),
    "jax": ("xpmlp.benchmark.contestants.ours", "jax", "xpmlp on JAX"),
    "cupy": ("xpmlp.benchmark.contestants.ours", "cupy", "xpmlp on CuPy"),
    "scikit-learn": ("xpmlp.benchmark.contestants.scikit_learn", "sklearn", "scikit-learn's MLPClassifier"),
    "pytorch": ("xpmlp.benchmark.contestants.pytorch", "torch", "PyTorch, tensor indexing, fused optimizer"),
    "pytorch-dataloader": ("xpmlp.benchmark.contestants.pytorch_dataloader", "torch", "PyTorch, DataLoader"),
    "pytorch-compile": ("xpmlp.benchmark.contestants.pytorch_compile", "torch", "PyTorch, torch.compile"),
    "jax-by-hand": ("xpmlp.benchmark.contestants.jax_by_hand", "jax", "JAX, jitted step, buffers donated"),
    "keras": ("xpmlp.benchmark.contestants.keras_on_jax", "keras", "Keras on JAX"),
    "thinc": ("xpmlp.benchmark.contestants.thinc_chain", "thinc", "Thinc"),
}
"""Each name's module, the package that it needs, and what it is."""

OURS = ("numpy", "numba", "torch", "jax", "cupy")
PEERS = tuple(name for name in CONTESTANTS if name not in (*OURS, "floor"))


@dataclass(frozen=True)
class Work:
    """A network, an optimizer and a batch size; MNIST's images, in float32.

    Parameters
    ----------
    hidden : tuple of int
        The widths of the hidden layers.
    batch_size : int
        Images a step.
    optimizer : {"adam", "sgd"}
        Adam with its usual settings and a constant rate, or SGD with Nesterov's momentum 0.9 and a one-cycle rate.
    learning_rate : float
        The rate, or the cycle's peak.
    epochs : int
        Over which the rate's cycle goes.
    data_dir : str
        The folder of MNIST's four files.
    n_images : int
        How many training images.
    center : float
        What is subtracted of all inputs.
    """

    hidden: tuple[int, ...]
    batch_size: int
    optimizer: str
    learning_rate: float
    epochs: int
    data_dir: str
    n_images: int = 60_000
    center: float = 0.0

    @property
    def sizes(self) -> tuple[int, ...]:
        """The widths from the pixels to the classes."""
        return (784, *self.hidden, 10)

    def rate(self, step: int, n_steps: int) -> float:
        """Return a step's rate, counted from 1: what every contestant with one-cycle rates uses."""
        if self.optimizer == "adam":
            return self.learning_rate
        top = 0.1 * n_steps
        return self.learning_rate * min(step / top, (n_steps + 1 - step) / (n_steps + 1 - top))


class Contestant(ABC):
    """One library's way to do the work. Its imports, its reading of the files and its set-up are in the making."""

    @abstractmethod
    def __init__(self, work: Work, backend: str) -> None: ...

    @abstractmethod
    def epoch(self) -> None:
        """Train on every image once, in an order drawn anew, and return when that is done."""

    @abstractmethod
    def test_accuracy(self) -> float:
        """Return how many of the 10,000 test images are classified correctly."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Return versions and the precision of products."""


def make(name: str, work: Work) -> Contestant:
    """Return a contestant by its name, ready for its first epoch."""
    module, backend, _ = CONTESTANTS[name]
    made: Contestant = importlib.import_module(module).Entry(work, backend)
    return made


def read_mnist(work: Work) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return X, y, X_test, y_test as those who write a benchmark by hand read them: centred float32, and int64."""
    found = []
    for part, n in (("train", work.n_images), ("t10k", 10_000)):
        for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
            path = Path(work.data_dir) / f"{part}-{kind}-ubyte"
            content = path.read_bytes() if path.exists() else gzip.decompress(Path(f"{path}.gz").read_bytes())
            values = np.frombuffer(content, np.uint8, offset=header)
            if header == 16:
                X = values.reshape(-1, 784)[:n].astype(np.float32)
                X /= np.float32(255)
                if work.center:
                    X -= np.float32(work.center)
                found.append(X)
            else:
                found.append(values[:n].astype(np.int64))
    X, y, X_test, y_test = found
    return X, y, X_test, y_test
