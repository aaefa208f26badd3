"""What stands between two layers and behind the last: tables of activations, and of heads with their losses.

The derivation's network has ReLU between its layers, and softmax with the cross-entropy at its end.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from xpmlp.errors import ConfigError
from xpmlp.math import elements
from xpmlp.namespaces import Array, array_namespace, clipped


class Activation(NamedTuple):
    """A nonlinearity f, and its derivative."""

    activate: Callable[[Array, Array, Array | None], tuple[Array, Array]]
    """From a layer's products A W, which may be overwritten, its biases b, and dropout's mask or None, to Z = A W + b
    and f(Z), masked. Where the derivative is a function of f(Z) alone, as it is of all here, Z is overwritten by it,
    and both are f(Z)."""
    times_derivative: Callable[[Array, Array, Array, Array | None], Array]
    """From these two, the loss's gradient with respect to f(Z), which may be overwritten, and the mask, to its gradient
    with respect to Z."""


def _of_its_value(name: str, function: Any, backward: Any) -> Activation:
    """Return an activation whose derivative is a function of what it returned."""

    def activate(Z: Array, b: Array, mask: Array | None) -> tuple[Array, Array]:
        if mask is not None:
            raise ConfigError(f"masks with {name}: expected relu, whose derivative is the same behind a mask")
        A = function(Z, b)
        return A, A

    def times_derivative(Z: Array, A: Array, dA: Array, mask: Array | None) -> Array:
        return backward(A, dA)

    return Activation(activate, times_derivative)


def _relu(Z: Array, b: Array, mask: Array | None) -> tuple[Array, Array]:
    A = elements.bias_relu(Z, b) if mask is None else elements.masked_bias_relu(Z, b, mask)
    return A, A


def _relu_backward(Z: Array, A: Array, dA: Array, mask: Array | None) -> Array:
    return elements.relu_backward(A, dA) if mask is None else elements.masked_relu_backward(A, dA, mask)


ACTIVATIONS = {
    "relu": Activation(_relu, _relu_backward),
    "identity": _of_its_value("identity", elements.bias_identity, lambda A, dA: dA),
    "logistic": _of_its_value("logistic", elements.bias_logistic, elements.logistic_backward),
    "tanh": _of_its_value("tanh", elements.bias_tanh, elements.tanh_backward),
}
"""A hidden layer's nonlinearities, by name."""


class Head(NamedTuple):
    """What stands behind the last layer: the inverse of a canonical link, and the loss that belongs to it."""

    predict: Callable[[Any, Array], Array]
    """From the namespace and the sums S, (…, n, c), to the predictions P."""
    losses: Callable[[Any, Array, Array], Array]
    """From the namespace, S and the targets T to the loss of each sample and output, (…, n, c)."""
    delta: Callable[[Array, Array], Array] = lambda P, T: P - T
    """From P, which is handed over, and T to the gradient of the summed losses with respect to S: P − T if the
    link is canonical."""
    reported: Callable[[Any, Array, Array], Array] | None = None
    """From the namespace, S and T to the loss of each sample that scikit-learn reports, (…, n); None: the sum of the
    same."""


def _softmax(xp: Any, S: Array) -> Array:
    P = xp.exp(S - xp.max(S, axis=-1, keepdims=True))  # so that no logit overflows
    P /= xp.sum(P, axis=-1, keepdims=True)
    return P


def log_softmax(S: Array) -> Array:
    """Return the logarithm of each row's class probabilities, (…, n, c): finite, too, where one rounds to 0."""
    xp = array_namespace(S=S)
    Z = S - xp.max(S, axis=-1, keepdims=True)
    Z -= xp.log(xp.sum(xp.exp(Z), axis=-1, keepdims=True))
    return Z


def _logistic(xp: Any, S: Array) -> Array:
    return elements.bias_logistic.function(xp, S, 0.0)


def _binary_cross_entropies(xp: Any, S: Array, T: Array) -> Array:
    """Return −T log P − (1 − T) log(1 − P), without forming P: log(1 + exp(S)) − T S."""
    return xp.maximum(S, 0.0) - S * T + xp.log1p(xp.exp(-xp.abs(S)))


def _poisson_deviances(xp: Any, S: Array, T: Array) -> Array:
    """Return half the unit deviances, T log(T / P) − T + P, with 0 log 0 = 0."""
    return xp.where(T > 0, T * (xp.log(xp.where(T > 0, T, 1.0)) - S), 0.0) - T + xp.exp(S)


def _clipped(xp: Any, P: Array) -> Array:
    """Return probabilities kept from 0 and 1 by the dtype's epsilon."""
    eps = float(xp.finfo(P.dtype).eps)
    return clipped(P, eps, 1 - eps)


def _clipped_cross_entropies(xp: Any, S: Array, T: Array) -> Array:
    return -xp.sum(xp.log(xp.where(T, _clipped(xp, _softmax(xp, S)), 1.0)), axis=-1)


def _clipped_binary_cross_entropies(xp: Any, S: Array, T: Array) -> Array:
    P = _clipped(xp, _logistic(xp, S))
    return -xp.sum(xp.log(xp.where(T > 0, P, 1 - P)), axis=-1)


def _mean_squared_errors(xp: Any, S: Array, T: Array) -> Array:
    return xp.sum((T - S) ** 2, axis=-1) * (0.5 / S.shape[-1])


HEADS = {
    "softmax": Head(_softmax, lambda xp, S, T: -xp.where(T, log_softmax(S), 0.0), reported=_clipped_cross_entropies),
    "logistic": Head(_logistic, _binary_cross_entropies, reported=_clipped_binary_cross_entropies),
    "identity": Head(lambda xp, S: S, lambda xp, S, T: 0.5 * (S - T) ** 2, reported=_mean_squared_errors),
    "exp": Head(lambda xp, S: xp.exp(S), _poisson_deviances),
}
"""Outputs and their losses, by what makes P of S: class probabilities and cross-entropy (F6, F7), independent
probabilities and binary cross-entropies, values and half squared errors, rates and half Poisson deviances.
(Generalised linear models with their canonical links: McCullagh & Nelder 1989, section 2.2.)"""


def predictions(S: Array, head: str = "softmax") -> Array:
    """Return what the network predicts, P, of the sums S, both (…, n, c), by the head of that name."""
    return HEADS[head].predict(array_namespace(S=S), S)


def softmax(S: Array) -> Array:
    """Return each row's class probabilities (F6), an array of the shape of the logits S, (…, n, c)."""
    return predictions(S)


def reported_losses(S: Array, T: Array, head: str) -> Array:
    """Return the loss of each sample as scikit-learn reports it, (…, n): of the sums S and T, as `score` takes them.

    Cross-entropies are those of probabilities kept from 0 and 1 by the dtype's epsilon; squared errors are averaged
    over the outputs.
    """
    xp, row = array_namespace(S=S, T=T), HEADS[head]
    T = one_hot(T, S) if head == "softmax" else xp.astype(T, S.dtype, copy=False)
    return row.reported(xp, S, T) if row.reported else xp.sum(row.losses(xp, S, T), axis=-1)


def one_hot(labels: Array, S: Array) -> Array:
    """Return T, (…, n, c) booleans: by comparison, so that there is no gather and no check that waits."""
    xp = array_namespace(S=S, labels=labels)
    # Under jax.jit an array has no device yet; a narrow dtype could not count the classes.
    classes = xp.arange(S.shape[-1], dtype=xp.int32, device=getattr(labels, "device", None))
    return xp.astype(labels, xp.int32, copy=False)[..., None] == classes
