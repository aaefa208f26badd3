"""Tables of the activations between layers, and of the heads behind the last layer with their losses.

The derivation's network has ReLU between its layers and softmax with cross-entropy at its end.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from xpmlp.errors import ConfigError, expected_one_of
from xpmlp.math import elements
from xpmlp.namespaces import Array, array_namespace, clipped


class Activation(NamedTuple):
    """An activation f, and its derivative."""

    activate: Callable[[Array, Array, Array | None], tuple[Array, Array]]
    """Arguments: a layer's products A W, which may be overwritten, its biases b, and dropout's mask or None. Returns
    the argument of the derivative, and f(A W + b), masked. The first is f's value before the mask if that is enough,
    else A W + b."""
    times_derivative: Callable[[Array, Array, Array, Array | None], Array]
    """Arguments: these two, the loss's gradient with respect to the second, which may be overwritten, and the mask.
    Returns the gradient with respect to A W + b."""


def _of_its_value(function: Any, backward: Any) -> Activation:
    """Return an activation whose derivative is a function of its value."""

    def activate(Z: Array, b: Array, mask: Array | None) -> tuple[Array, Array]:
        A = function(Z, b)
        return A, (A if mask is None else A * mask)

    def times_derivative(kept: Array, A: Array, dA: Array, mask: Array | None) -> Array:
        return backward(kept, _masked(dA, mask))

    return Activation(activate, times_derivative)


def _of_its_argument(function: Any, backward: Any) -> Activation:
    """Return an activation whose derivative is a function of its argument."""

    def activate(Z: Array, b: Array, mask: Array | None) -> tuple[Array, Array]:
        Z, A = function(Z, b)
        return Z, _masked(A, mask)

    def times_derivative(kept: Array, A: Array, dA: Array, mask: Array | None) -> Array:
        return backward(kept, _masked(dA, mask))

    return Activation(activate, times_derivative)


def _masked(array: Array, mask: Array | None) -> Array:
    """Return an array times a mask; the array may be overwritten."""
    if mask is not None:
        array *= mask
    return array


def _relu(Z: Array, b: Array, mask: Array | None) -> tuple[Array, Array]:
    A = elements.bias_relu(Z, b) if mask is None else elements.masked_bias_relu(Z, b, mask)
    return A, A


def _relu_backward(kept: Array, A: Array, dA: Array, mask: Array | None) -> Array:
    return elements.relu_backward(A, dA) if mask is None else elements.masked_relu_backward(A, dA, mask)


ACTIVATIONS = {
    "relu": Activation(_relu, _relu_backward),  # the mask is in the same pass: the derivative is the same behind a mask
    "identity": _of_its_value(elements.bias_identity, lambda A, dA: dA),
    "logistic": _of_its_value(elements.bias_logistic, elements.logistic_backward),
    "tanh": _of_its_value(elements.bias_tanh, elements.tanh_backward),
    "leaky_relu": _of_its_value(elements.bias_leaky_relu, elements.leaky_relu_backward),
    "elu": _of_its_value(elements.bias_elu, elements.elu_backward),
    "softplus": _of_its_value(elements.bias_softplus, elements.softplus_backward),
    "silu": _of_its_argument(elements.bias_silu, elements.silu_backward),
    "gelu": _of_its_argument(elements.bias_gelu, elements.gelu_backward),
}
"""Activations of hidden layers, by name (derivation.md, A1 to A9)."""


def activations_of(names: str | Sequence[str], n_hidden: int) -> list[Activation]:
    """Return each hidden layer's activation: one name for all layers, or one name per layer."""
    each = [names] * n_hidden if isinstance(names, str) else list(names)
    if len(each) != n_hidden:
        raise ConfigError(f"{len(each)} activations for {n_hidden} hidden layers: expected one name, or one for each")
    unknown = [name for name in each if name not in ACTIVATIONS]
    if unknown:
        raise ConfigError(f"unknown activation {unknown[0]!r}: {expected_one_of(unknown[0], ACTIVATIONS)}")
    return [ACTIVATIONS[name] for name in each]


class Head(NamedTuple):
    """The output behind the last layer: the inverse of a canonical link, and its matching loss."""

    predict: Callable[[Any, Array], Array]
    """Arguments: the namespace and the sums S, (…, n, c). Returns the predictions P."""
    losses: Callable[[Any, Array, Array], Array]
    """Arguments: the namespace, S and the targets T. Returns the loss of each sample and output, (…, n, c)."""
    delta: Callable[[Array, Array], Array] = lambda P, T: P - T
    """Arguments: P and T. Returns the gradient of the summed losses with respect to S: P − T if the link is
    canonical."""
    reported: Callable[[Any, Array, Array], Array] | None = None
    """Arguments: the namespace, S and T. Returns each sample's loss as scikit-learn reports it, (…, n). None: the sum
    of `losses`."""


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


def _absolute_errors(xp: Any, S: Array, T: Array) -> Array:
    return xp.abs(S - T)


def _signs(S: Array, T: Array) -> Array:
    return array_namespace(S=S).sign(S - T)


@lru_cache
def huber(threshold: float) -> Head:
    """Return the head with Huber's loss (Huber 1964): half the squared error up to the threshold, linear beyond it."""

    def losses(xp: Any, S: Array, T: Array) -> Array:
        size = xp.abs(S - T)
        return xp.where(size <= threshold, 0.5 * size * size, threshold * (size - 0.5 * threshold))

    return Head(lambda xp, S: S, losses, lambda S, T: clipped(S - T, -threshold, threshold))


HEADS = {
    "softmax": Head(_softmax, lambda xp, S, T: -xp.where(T, log_softmax(S), 0.0), reported=_clipped_cross_entropies),
    "logistic": Head(_logistic, _binary_cross_entropies, reported=_clipped_binary_cross_entropies),
    "identity": Head(lambda xp, S: S, lambda xp, S, T: 0.5 * (S - T) ** 2, reported=_mean_squared_errors),
    "exp": Head(lambda xp, S: xp.exp(S), _poisson_deviances),
    "absolute": Head(lambda xp, S: S, _absolute_errors, _signs),
    "huber": huber(1.0),
}
"""Outputs and their losses. Class probabilities have cross-entropy (F6, F7), independent probabilities binary
cross-entropies. Values have half squared errors, rates half Poisson deviances. (Generalised linear models with their
canonical links: McCullagh & Nelder 1989, section 2.2.) The last two are losses of values in which outliers count
less."""


def head_of(head: str | Head) -> Head:
    """Return the head with a name; a head is returned unchanged."""
    return HEADS[head] if isinstance(head, str) else head


def predictions(S: Array, head: str | Head = "softmax") -> Array:
    """Return the predictions P of the sums S, both (…, n, c), by the head with that name."""
    return head_of(head).predict(array_namespace(S=S), S)


def softmax(S: Array) -> Array:
    """Return each row's class probabilities (F6), an array of the shape of the logits S, (…, n, c)."""
    return predictions(S)


def reported_losses(S: Array, T: Array, head: str | Head) -> Array:
    """Return each sample's loss as scikit-learn reports it, (…, n), for the sums S and T in the form of `score`.

    For cross-entropies, probabilities are clipped to the dtype's epsilon from 0 and 1. Squared errors are averaged over
    the outputs.
    """
    xp, row = array_namespace(S=S, T=T), head_of(head)
    T = one_hot(T, S) if head == "softmax" else xp.astype(T, S.dtype, copy=False)
    return row.reported(xp, S, T) if row.reported else xp.sum(row.losses(xp, S, T), axis=-1)


def one_hot(labels: Array, S: Array) -> Array:
    """Return T, (…, n, c) booleans. A comparison makes them, without a gather or a check that waits for the device."""
    xp = array_namespace(S=S, labels=labels)
    # Under jax.jit an array has no device yet; a narrow dtype could not count the classes.
    classes = xp.arange(S.shape[-1], dtype=xp.int32, device=getattr(labels, "device", None))
    return xp.astype(labels, xp.int32, copy=False)[..., None] == classes
