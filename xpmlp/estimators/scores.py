"""What a network predicts for samples, and how good that is."""

import warnings
from collections.abc import Sequence

from sklearn.exceptions import UndefinedMetricWarning

from xpmlp.math.activations import predictions
from xpmlp.math.layout import Layer
from xpmlp.math.network import forward
from xpmlp.namespaces import Array, array_namespace

AT_ONCE = 16_384  # samples whose activations are kept at a time where only the last layer's are wanted


def infer(layers: Sequence[Layer], X: Array, activation: str, head: str) -> Array:
    """Return the predictions P, (n, outputs)."""
    n = X.shape[0]
    parts = []
    for first in range(0, n, AT_ONCE):
        S, _ = forward(layers, X if n <= AT_ONCE else X[first : min(first + AT_ONCE, n), :], activation)
        parts.append(predictions(S, head))
    return parts[0] if len(parts) == 1 else array_namespace(P=parts[0]).concat(parts, axis=0)


def mean_of_hits(hits: Array, weights: Array | None) -> float:
    """Return how many rows are all true, by their weights."""
    xp = array_namespace(hits=hits)
    if hits.ndim == 2:
        hits = xp.all(hits, axis=1)
    if weights is None:
        return int(xp.sum(xp.astype(hits, xp.int32))) / int(hits.shape[0])
    return float(xp.sum(xp.where(hits, weights, 0.0)) / xp.sum(weights))


def r2(P: Array, T: Array, weights: Array | None) -> float:
    """Return R², averaged over the outputs: NaN of predictions that are not finite, and of a single sample."""
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
