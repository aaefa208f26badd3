"""What the estimators' fitting is made of: one step, scikit-learn's optimizers and losses, and their scores."""

import functools
import warnings
from collections.abc import Sequence
from typing import Any, Self, TypeAlias

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning

from xpmlp.backends.base import Backend
from xpmlp.inputs import SparseSamples, on_host
from xpmlp.math.activations import predictions, reported_losses
from xpmlp.math.elements import weighted
from xpmlp.math.layout import Layer, Layout, gradient_vector, penalize
from xpmlp.math.network import backward, forward, score
from xpmlp.math.optimizers import Optimizer, Scalars, State, adam, sgd
from xpmlp.namespaces import Array, array_namespace

Batch: TypeAlias = tuple[Array, Array, Array | None]
"""Samples, targets and weights."""


class Stepper:
    """An optimizer's settings, its state, and the rate of its next step; the name that scikit-learn has for it too."""

    def __init__(
        self, settings: tuple[Any, ...], learning_rate_init: float, lr_schedule: str = "constant", power_t: float = 0.5
    ) -> None:
        self.settings = settings
        self.learning_rate_init = learning_rate_init
        self.learning_rate = float(learning_rate_init)
        self.lr_schedule, self.power_t = lr_schedule, power_t
        self.t = 0
        self.state: State | None = None

    @classmethod
    def of(cls, estimator: Any) -> Self:
        """Return an estimator's optimizer before its first step."""
        e = estimator
        if e.solver == "sgd":
            settings = ("sgd", float(e.momentum), bool(e.nesterovs_momentum))
            return cls(settings, e.learning_rate_init, e.learning_rate, e.power_t)
        return cls(("adam", float(e.beta_1), float(e.beta_2), float(e.epsilon)), e.learning_rate_init)

    def init(self, theta: Array) -> State:
        """Return the state before the first step."""
        return _rule(self.settings).init(theta)

    def next_scalars(self) -> Scalars:
        """Return the next step's numbers."""
        self.t += 1
        if self.settings[0] == "sgd":
            return _rule(self.settings).scalars(self.t, self.learning_rate)
        scalars = _rule(self.settings).scalars(self.t, self.learning_rate_init)
        self.learning_rate = scalars["rate"]
        return scalars

    def iteration_ends(self, n_seen: int) -> None:
        """Lower the rate after an epoch, where it goes by the samples seen."""
        if self.lr_schedule == "invscaling":
            self.learning_rate = float(self.learning_rate_init) / (n_seen + 1) ** self.power_t

    def trigger_stopping(self, reason: str, verbose: bool) -> bool:
        """Return whether to stop; the adaptive rate is divided by five instead, down to 1e-6."""
        stops, what = True, " Stopping."
        if self.lr_schedule == "adaptive":
            stops, what = self.learning_rate <= 1e-6, " Learning rate too small. Stopping."
        if not stops:
            self.learning_rate /= 5.0
            what = f" Setting learning rate to {self.learning_rate:f}"
        if verbose:
            print(f"{reason}{what}")  # noqa: T201
        return stops

    @classmethod
    def from_sklearn(cls, theirs: Any) -> Self:
        """Return scikit-learn's optimizer as one of ours."""
        is_sgd = hasattr(theirs, "velocities")
        if is_sgd:
            settings: tuple[Any, ...] = ("sgd", float(theirs.momentum), bool(theirs.nesterov))
            ours = cls(settings, theirs.learning_rate_init, theirs.lr_schedule, theirs.power_t)
            lists = {"velocity": theirs.velocities}
        else:
            settings = ("adam", float(theirs.beta_1), float(theirs.beta_2), float(theirs.epsilon))
            ours = cls(settings, theirs.learning_rate_init)
            ours.t = theirs.t
            lists = {"m": theirs.ms, "v": theirs.vs}
        ours.learning_rate = theirs.learning_rate
        ours.state = {name: _joined(arrays) for name, arrays in lists.items()}
        return ours

    def to_sklearn(self, coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> Any:
        """Return scikit-learn's optimizer of the same settings and state."""
        from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

        params = [*coefs, *intercepts]
        state = {name: _parted(on_host(vector), coefs) for name, vector in (self.state or {}).items()}
        if self.settings[0] == "sgd":
            _, momentum, nesterov = self.settings
            theirs = SGDOptimizer(params, self.learning_rate_init, self.lr_schedule, momentum, nesterov, self.power_t)
            theirs.velocities = state.get("velocity", theirs.velocities)
        else:
            theirs = AdamOptimizer(params, self.learning_rate_init, *self.settings[1:])
            theirs.t, theirs.ms, theirs.vs = self.t, state.get("m", theirs.ms), state.get("v", theirs.vs)
        theirs.learning_rate = self.learning_rate
        return theirs


@functools.lru_cache(maxsize=64)
def _rule(settings: tuple[Any, ...]) -> Optimizer:
    if settings[0] == "sgd":
        return sgd(settings[1], nesterov=settings[2], rate_inside=True)
    return adam(settings[1], settings[2], epsilon=settings[3], epsilon_hat=True)


@functools.lru_cache(maxsize=64)
def compiled_step(
    device: Backend, layout: Layout, activation: str, head: str, alpha: float, settings: tuple[Any, ...]
) -> Any:
    """Return the step that trains on one batch, as the device repeats it fastest; one of a kind is compiled once."""
    optimizer = _rule(settings)

    def step(
        theta: Array, state: State, total: Array, X: Array, T: Array, weights: Array | None, scalars: Scalars
    ) -> tuple[Array, State, Array]:
        value, gradient = _loss_and_gradient(layout, theta, X, T, weights, activation, head, alpha)
        total += value * X.shape[0]
        theta, state = optimizer.update(theta, state, gradient, scalars)
        return theta, state, total

    return device.compile(step, donate=(0, 1, 2))


@functools.lru_cache(maxsize=64)
def compiled_gradient(device: Backend, layout: Layout, activation: str, head: str, alpha: float) -> Any:
    """Return the loss and its gradient as a function of the parameters, for L-BFGS."""

    def evaluate(theta: Array, X: Array, T: Array, weights: Array | None) -> tuple[Array, Array]:
        return _loss_and_gradient(layout, theta, X, T, weights, activation, head, alpha)

    return device.compile(evaluate)


def _loss_and_gradient(
    layout: Layout,
    theta: Array,
    X: Array,
    T: Array,
    weights: Array | None,
    activation: str,
    head: str,
    alpha: float,
) -> tuple[Array, Array]:
    layers = layout.unflatten(theta)
    S, trail = forward(layers, X, activation)
    n = S.shape[0]
    share: Any = 1 / n if weights is None else 1 / array_namespace(weights=weights).sum(weights)
    losses = reported_losses(S, T, head)
    xp = array_namespace(S=S)
    value = xp.sum(losses if weights is None else losses * weights) * share
    if alpha:
        squares = [xp.reshape(W, (-1,)) for W, _ in layers]
        value = value + (0.5 * alpha) * share * sum((w @ w for w in squares[1:]), squares[0] @ squares[0])
    delta, _, _ = score(S, T, head)
    if weights is not None:
        delta = weighted(delta, weights[:, None], share=n * share)

    def compute(into: Sequence[Layer] | None) -> Sequence[Layer]:
        gradients = backward(layers, trail, delta, activation, into=into)
        return penalize(gradients, layers, alpha * share) if alpha else gradients

    return value, gradient_vector(layout, theta, compute)


AT_ONCE = 16_384
"""Samples whose activations are kept at a time where only the last layer's are wanted."""


def infer(layers: Sequence[Layer], X: Array, activation: str, head: str) -> Array:
    """Return the predictions P, (n, outputs)."""
    n = X.shape[0]
    parts = []
    for first in range(0, n, AT_ONCE):
        S, _ = forward(layers, X if n <= AT_ONCE else X[first : min(first + AT_ONCE, n), :], activation)
        parts.append(predictions(S, head))
    return parts[0] if len(parts) == 1 else array_namespace(P=parts[0]).concat(parts, axis=0)


def take(xp: Any, data: Batch, rows: Any) -> Batch:
    """Return some of the samples, named by a slice or by their numbers."""
    X, T, weights = data
    if isinstance(rows, slice):
        return X[rows, :], T[rows, ...], None if weights is None else weights[rows]
    X = X[rows, :] if isinstance(X, SparseSamples) else xp.take(X, rows, axis=0)
    return X, xp.take(T, rows, axis=0), None if weights is None else xp.take(weights, rows, axis=0)


def mean_of_hits(hits: Array, weights: Array | None) -> float:
    """Return how many rows are all true, by their weights."""
    xp = array_namespace(hits=hits)
    if hits.ndim == 2:
        hits = xp.all(hits, axis=1)
    if weights is None:
        return int(xp.sum(xp.astype(hits, xp.int32))) / int(hits.shape[0])
    return float(xp.sum(xp.where(hits, weights, 0.0)) / xp.sum(weights))


def r2(P: Array, T: Array, weights: Array | None) -> float:
    """Return 1 less the squared errors by the squared deviations from the mean, averaged over the outputs.

    It is NaN of predictions that are not finite, and of a single sample.
    """
    xp = array_namespace(P=P, T=T)
    if not bool(xp.all(xp.isfinite(P))):
        return float("nan")
    if P.shape[0] < 2:
        warnings.warn("R^2 score is not well-defined with less than two samples.", UndefinedMetricWarning, stacklevel=3)
        return float("nan")
    w = xp.ones_like(T[:, :1]) if weights is None else weights[:, None]
    errors = xp.sum(w * (T - P) ** 2, axis=0)
    mean = xp.sum(w * T, axis=0, keepdims=True) / xp.sum(w)
    deviations = xp.sum(w * (T - mean) ** 2, axis=0)
    varies = deviations > 0
    ratios = xp.where(varies, errors / xp.where(varies, deviations, 1.0), xp.astype(errors > 0, errors.dtype))
    return float(1 - xp.sum(ratios) / ratios.shape[0])


def name_of(dtype: Any) -> str:
    """Return a floating dtype's name, whatever the library calls it."""
    return "float64" if "float64" in str(dtype) else "float32"


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the arrays of all weights and then all biases as one vector, layer by layer."""
    n = len(arrays) // 2
    return np.concatenate([array.ravel() for k in range(n) for array in (arrays[k], arrays[n + k])])


def _parted(vector: np.ndarray, coefs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return a vector as the arrays of all weights and then all biases."""
    layers = Layout((coefs[0].shape[0], *(W.shape[1] for W in coefs))).unflatten(vector)
    return [*(W.copy() for W, _ in layers), *(b.ravel().copy() for _, b in layers)]
