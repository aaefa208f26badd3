"""A network's predictions for samples, and their scores."""

import warnings
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from sklearn.exceptions import UndefinedMetricWarning

from xpmlp.math.activations import Head, predictions, reported_losses
from xpmlp.math.layout import Layer
from xpmlp.math.network import forward
from xpmlp.namespaces import Array, array_namespace

Names: TypeAlias = str | Sequence[str]
"""The activations between the layers."""

AT_ONCE = 16_384  # samples per block if only the last layer's activations are needed


def logits(layers: Sequence[Layer], X: Array, activation: Names) -> Array:
    """Return the last layer's sums S, (n, outputs)."""
    return _joined([forward(layers, rows, activation)[0] for rows in _parts(X)])


def infer(layers: Sequence[Layer], X: Array, activation: Names, head: str) -> Array:
    """Return the predictions P, (n, outputs)."""
    return predictions(logits(layers, X, activation), head)


def hidden_layers(layers: Sequence[Layer], X: Array, activation: Names) -> list[Array]:
    """Return each hidden layer's output for the samples, (n, width) each."""
    parts = [forward(layers, rows, activation)[1] for rows in _parts(X)]
    return [_joined([trail[k][1] for trail in parts]) for k in range(1, len(layers))]


def _parts(X: Array) -> Iterator[Array]:
    n = X.shape[0]
    for first in range(0, n, AT_ONCE):
        yield X if n <= AT_ONCE else X[first : min(first + AT_ONCE, n), :]


def _joined(parts: list[Array]) -> Array:
    return parts[0] if len(parts) == 1 else array_namespace(first=parts[0]).concat(parts, axis=0)


def mean_loss(S: Array, T: Array, weights: Array | None, head: str | Head) -> float:
    """Return the mean loss of the samples, as in `loss_` but without the penalty."""
    xp, losses = array_namespace(S=S), reported_losses(S, T, head)
    if weights is None:
        return float(xp.sum(losses)) / int(S.shape[0])
    return float(xp.sum(losses * weights) / xp.sum(weights))


def mean_of_hits(hits: Array, weights: Array | None) -> float:
    """Return the weighted share of rows that are all true."""
    xp = array_namespace(hits=hits)
    if hits.ndim == 2:
        hits = xp.all(hits, axis=1)
    if weights is None:
        return int(xp.sum(xp.astype(hits, xp.int32))) / int(hits.shape[0])
    return float(xp.sum(xp.where(hits, weights, 0.0)) / xp.sum(weights))


def r2(P: Array, T: Array, weights: Array | None) -> float:
    """Return R², averaged over the outputs; NaN if predictions are not finite, or for a single sample."""
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
