"""Measure how far a backend is from NumPy in float64, on this machine."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xpmlp.backends import Backend, get_backend
from xpmlp.kernels import kernels, resolve_kernels
from xpmlp.math.layout import Layer, Layout, init
from xpmlp.math.network import backward, forward, score
from xpmlp.math.optimizers import Optimizer, adam, adamw, sgd
from xpmlp.training.objectives import ImageObjective
from xpmlp.training.steps import compiled, make_evaluation_step, make_step, zero_totals

STEPS = 100  # of training, with each optimizer
MARGIN = 1e-4  # no pre-activation is nearer to 0: a ReLU that rounding flips would look like an error
ONE_PASS = {"float32": 1e-5, "float64": 1e-12}  # bounds for the logits, the loss and each gradient
AFTER_STEPS = {"float32": 1e-3, "float64": 1e-10}  # bounds for the loss in float32, for the parameters in float64

OPTIMIZERS: dict[str, tuple[Optimizer, float]] = {
    "sgd": (sgd(), 0.01),
    "sgd, momentum": (sgd(0.9), 0.001),
    "sgd, Nesterov": (sgd(0.9, nesterov=True), 0.001),
    "adam": (adam(), 1e-4),
    "adamw": (adamw(), 1e-4),
}
"""The optimizers of the steps, and their learning rates. A rate brings the loss from 2.9 to 1.5, not to nearly 0: there
float32's relative error is large on every library."""


@dataclass(frozen=True)
class Measurement:
    """One figure beside its bound."""

    what: str
    dtype: str  # what it was computed in
    error: float  # relative to NumPy's in float64; for the round trip, how many arrays came back different
    bound: float
    kernels: str = ""  # what computed, as `xpmlp.kernels.KERNELS` has it

    @property
    def is_within(self) -> bool:
        """Whether the error is within its bound; one that is not a number is not."""
        return self.error <= self.bound


@dataclass(frozen=True, eq=False)
class Problem:
    """A network and a batch on the host, no pre-activation nearer to 0 than `MARGIN`."""

    layout: Layout
    theta: np.ndarray  # float64, each a float32 number, so that both precisions begin at the same point
    images: np.ndarray  # uint8
    labels: np.ndarray  # int32

    @property
    def X(self) -> np.ndarray:
        """The samples as numbers from 0 to 1."""
        return self.images * (1 / 255)


def make_problem(sizes: tuple[int, ...] = (784, 256, 128, 10), n: int = 128, seed: int = 0) -> Problem:
    """Return a random network and n random samples; those too near a ReLU's corner are drawn again."""
    rng = np.random.default_rng(seed)
    layout = Layout(sizes)
    theta = init(layout, rng)
    theta += 0.01 * rng.standard_normal(layout.size)  # so that biases are not all zero
    theta = theta.astype(np.float64)
    layers = layout.unflatten(theta)
    rows: list[np.ndarray] = []
    while len(rows) < n:
        row = rng.integers(0, 256, (1, sizes[0]), dtype=np.uint8)
        _, activations = forward(layers, row * (1 / 255))
        if all(np.min(np.abs(A @ W + b)) >= MARGIN for (W, b), A in zip(layers[:-1], activations, strict=False)):
            rows.append(row)
    labels = rng.integers(0, sizes[-1], n, dtype=np.int32)
    return Problem(layout, theta, np.concatenate(rows), labels)


def relative_error(found: ArrayLike, expected: ArrayLike) -> float:
    """Return ‖found − expected‖₂ / ‖expected‖₂."""
    difference = np.asarray(found, dtype=np.float64) - np.asarray(expected, dtype=np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(np.asarray(expected)))


def check_backend(spec: str) -> Iterator[Measurement]:
    """Yield every measurement of a backend, float32 first."""
    problem = make_problem()
    for dtype in ("float32", "float64"):
        backend = get_backend(spec, dtype)
        yield check_round_trip(backend, dtype)
        for way in ("plain", "auto"):
            with kernels(way):
                way = resolve_kernels(way)
                found = list(check_one_pass(backend, problem, dtype))
                found += [check_training(backend, problem, dtype, name) for name in OPTIMIZERS]
            yield from (dataclasses.replace(measurement, kernels=way) for measurement in found)


def check_round_trip(backend: Backend, dtype: str) -> Measurement:
    """Return how many of several awkward arrays do not come back from the device as they were."""
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((5, 7)).astype(dtype)
    read_only = plain.copy()
    read_only.flags.writeable = False
    arrays = [plain, plain.T, plain[::2, ::-1], plain.astype(plain.dtype.newbyteorder()), read_only, plain[:0]]
    arrays += [np.asarray(plain[0, 0]), plain > 0]
    arrays += [rng.integers(0, 256, (3, 4), dtype=np.uint8), rng.integers(-9, 9, 6, dtype=np.int32)]
    different = 0
    for array in arrays:
        for copy in (None, True):
            back = backend.to_numpy(backend.asarray(array, copy=copy))
            same = back.shape == array.shape and back.dtype == array.dtype.newbyteorder("=")
            different += not (same and back.flags.writeable and np.array_equal(back, array))
    return Measurement("round trip of arrays", dtype, different, 0)


def check_one_pass(backend: Backend, problem: Problem, dtype: str) -> Iterator[Measurement]:
    """Yield the errors of the logits, the loss, and the gradient with respect to every weight and bias."""
    layout = problem.layout
    expected = _one_pass(layout.unflatten(problem.theta), problem.X, problem.labels)
    with backend.context():
        layers = layout.unflatten(backend.asarray(problem.theta.astype(dtype), copy=True))
        X, labels = backend.asarray(problem.X.astype(dtype)), backend.asarray(problem.labels)
        found = _one_pass(layers, X, labels)
    for what, array in found.items():
        yield Measurement(what, dtype, relative_error(backend.to_numpy(array), expected[what]), ONE_PASS[dtype])


def _one_pass(layers: Sequence[Layer], X: Any, labels: Any) -> dict[str, Any]:
    S, trail = forward(layers, X)
    delta, loss, _ = score(S, labels)
    found = {"logits S": S, "loss L": loss}
    for k, (dW, db) in enumerate(backward(layers, trail, delta), start=1):
        found |= {f"gradient W{k}": dW, f"gradient b{k}": db}
    return found


def check_training(backend: Backend, problem: Problem, dtype: str, name: str) -> Measurement:
    """Return the error after `STEPS` steps of one of `OPTIMIZERS`, as `train` makes them."""
    what, k = ("loss", 1) if dtype == "float32" else ("parameters", 0)
    error = relative_error(train_steps(backend, problem, dtype, name)[k], _expected(problem, name)[k])
    return Measurement(f"{STEPS} steps of {name}: {what}", dtype, error, AFTER_STEPS[dtype])


def train_steps(backend: Backend, problem: Problem, dtype: str, name: str) -> tuple[np.ndarray, float]:
    """Return the parameters after `STEPS` steps over four batches in turn, and their loss over all four."""
    optimizer, rate = OPTIMIZERS[name]
    with backend.context():
        theta = backend.asarray(problem.theta.astype(dtype), copy=True)
        state, totals = optimizer.init(theta), zero_totals(backend, dtype)
        parts = [np.arange(k, len(problem.labels), 4) for k in range(4)]
        batches = [(backend.asarray(problem.images[rows]), backend.asarray(problem.labels[rows])) for rows in parts]
        step = compiled(backend, make_step(ImageObjective(problem.layout, 255), optimizer), donate=(0, 1, 2))
        for k in range(1, STEPS + 1):
            theta, state, totals = step(theta, state, totals, batches[k % len(batches)], optimizer.scalars(k, rate))
        measure = compiled(backend, make_evaluation_step(problem.layout, 255), donate=(0,))
        totals = zero_totals(backend, dtype)
        for batch in batches:
            totals = measure(totals, theta, batch)
        return backend.to_numpy(theta), float(backend.to_numpy(totals.loss)) / len(problem.labels)


@cache
def _expected(problem: Problem, name: str) -> tuple[np.ndarray, float]:
    with kernels("plain"):
        return train_steps(get_backend("numpy"), problem, "float64", name)
