"""The network: forward (F1–F5), the loss and its gradient (F6, F7, B1), backward (B2–B11), for any number of layers.

A comment beside each statement has the number of its equation in `derivation.md`. Rows are samples. The layers are
numbered from 1 to K; A_0 = X. Axes before the last two number networks that are computed at once.
"""

from collections.abc import Sequence
from typing import Any

from xpmlp.errors import ArrayError, ShapeError
from xpmlp.kernels import operation
from xpmlp.math.activations import Head, activations_of, head_of, log_softmax, one_hot
from xpmlp.math.elements import bias_identity
from xpmlp.math.layout import Layer
from xpmlp.namespaces import Array, array_namespace


def forward(
    layers: Sequence[Layer],
    X: Array,
    activation: str | Sequence[str] = "relu",
    masks: Sequence[Array] | None = None,
) -> tuple[Array, list[tuple[Array, Array]]]:
    """Return the last layer's sums S, (…, n, c), and the list that `backward` needs.

    The list has a pair for each layer. The second member is the layer's input (X, A_1, …, A_{K−1}). The first is the
    argument for the derivative of the activation before it: that input, unmasked, or its Z.

    Parameters
    ----------
    layers : sequence of (W, b)
        Weights (…, fan_in, fan_out) and biases (…, 1, fan_out), K of each.
    X : array, shape (…, n, d)
        The samples, of the layers' dtype.
    activation : str or sequence of K − 1 str
        A name from `xpmlp.math.activations.ACTIVATIONS` for all hidden layers, or one name for each.
    masks : sequence of K − 1 arrays or None
        Dropout: the factors of A_1, …, A_{K−1}, each of its shape.

    Raises
    ------
    ArrayError, ShapeError
        If X is of another library or dtype than the layers, or its columns are not as many as the first layer's inputs.
    ConfigError
        If an activation is unknown, or their number is not that of the hidden layers.
    """
    _require_samples(X, layers)
    A, trail = X, [(X, X)]
    between = activations_of(activation, len(layers) - 1)
    for (W, b), f, mask in zip(layers[:-1], between, masks or [None] * len(between), strict=True):
        Z, A = f.activate(A @ W, b, mask)  # F1, F2: H = X W1 + b1, A = ReLU(H); F3, F4: O and q
        trail.append((Z, A))
    W, b = layers[-1]
    S = bias_identity(A @ W, b)  # F5: S = q W3 + b3
    return S, trail


def score(S: Array, T: Array, head: str | Head = "softmax") -> tuple[Array, Array, Array | None]:
    """Return the gradient with respect to S, the mean loss, and the number of rows with the maximum at their label.

    The number is 0-d, int32.

    Parameters
    ----------
    S : array, shape (…, n, c)
        The sums that `forward` returned.
    T : array
        For softmax, the labels: integers (…, n), 0 to c − 1. They are not checked here, since a check would wait for
        the device. A row with another label counts as unlabelled, and its loss is 0. For other heads, the targets (…,
        n, c), of S's dtype or booleans.
    head : str or Head
        A name from `xpmlp.math.activations.HEADS`, or a head. Correct rows are counted only for softmax; otherwise the
        count is None.

    Raises
    ------
    ArrayError, ShapeError
        If T is of another library than S, its dtype or shape is none of these, or there are no samples.
    """
    xp = array_namespace(S=S, T=T)
    _require_targets(xp, S, T, head)
    if head == "softmax":
        delta, loss, correct = cross_entropy(S, xp.astype(T, xp.int32, copy=False))  # F6, F7, B1
        return delta, loss, correct
    share, T, row = 1 / S.shape[-2], xp.astype(T, S.dtype, copy=False), head_of(head)
    delta = row.delta(row.predict(xp, S), T) * share
    return delta, xp.sum(row.losses(xp, S, T), axis=(-2, -1)) * share, None


@operation()
def cross_entropy(S: Array, labels: Array) -> tuple[Array, Array, Array]:
    """F6, P; F7, the loss; and B1, its gradient. Some libraries make one pass over each row for them. See `score`."""
    xp = array_namespace(S=S, labels=labels)
    T, share, log_P = one_hot(labels, S), 1 / S.shape[-2], log_softmax(S)
    P = xp.exp(log_P)
    loss = -xp.sum(xp.where(T, log_P, 0.0), axis=(-2, -1)) * share
    delta = (P - xp.astype(T, S.dtype)) * share
    correct = xp.sum(xp.astype(xp.argmax(S, axis=-1) == labels, xp.int32), axis=-1, dtype=xp.int32)
    return delta, loss, correct


def backward(
    layers: Sequence[Layer],
    trail: Sequence[tuple[Array, Array]],
    delta: Array,
    activation: str | Sequence[str] = "relu",
    masks: Sequence[Array] | None = None,
    into: Sequence[Layer] | None = None,
) -> tuple[Layer, ...]:
    """Return the loss's gradient with respect to every weight and bias, (dW, db) for each layer.

    Parameters
    ----------
    layers, trail, activation, masks
        The arguments of `forward`, and the list that it returned. The list's arrays may be overwritten.
    delta : array, shape (…, n, c)
        The gradient with respect to S that `score` returned.
    into : sequence of (array, array) or None
        Arrays to write the gradients into, if the library's arrays are writable.
    """
    gradients: list[Layer] = []
    between = activations_of(activation, len(layers) - 1)
    masked = masks or [None] * len(between)
    for k in reversed(range(len(layers))):
        (Z, A), (W, _), (out_W, out_b) = trail[k], layers[k], into[k] if into else (None, None)
        dW = product(A.mT, delta, out_W)  # B2, B6, B10
        db = column_sums(delta, out_b)  # B3, B7, B11
        gradients.append((dW, db))
        if k > 0:
            f, mask = between[k - 1], masked[k - 1]
            dA = delta @ W.mT  # B4, B8
            delta = f.times_derivative(Z, A, dA, mask)  # B5, B9
    return tuple(reversed(gradients))


@operation(decisive=1)  # B says which library's version runs: A may be a sparse matrix
def product(A: Array, B: Array, out: Array | None) -> Array:
    """Return A B, written into `out` if that is given and the library's arrays are writable."""
    return A @ B


@operation()
def column_sums(delta: Array, out: Array | None) -> Array:
    """Return the sums over the rows, 1ᵀ delta; see `product`."""
    return array_namespace(delta=delta).sum(delta, axis=-2, keepdims=True)


def _require_samples(X: Array, layers: Sequence[Layer]) -> None:
    array_namespace(layers=tuple(array for layer in layers for array in layer), X=X)
    first = layers[0][0]
    if X.ndim < 2 or X.shape[-1] != first.shape[-2]:
        raise ShapeError(f"X has shape {tuple(X.shape)}: the first layer expects (samples, {first.shape[-2]})")
    if X.dtype != first.dtype:
        raise ArrayError(f"X is {X.dtype}, the layers are {first.dtype}: cast X to it")


def _require_targets(xp: Any, S: Array, T: Array, head: str | Head) -> None:
    is_labels = head == "softmax"
    if S.shape[-2] == 0:
        raise ShapeError(f"S has shape {tuple(S.shape)}: expected at least one sample: the loss is a mean")
    if is_labels and not xp.isdtype(T.dtype, "integral"):
        raise ArrayError(f"labels are {T.dtype}: expected integers, each sample's class")
    expected = S.shape[:-1] if is_labels else S.shape
    if tuple(T.shape) != tuple(expected):
        shapes = f"have shape {tuple(T.shape)}: expected {tuple(expected)}, as S has {tuple(S.shape)}"
        raise ShapeError(f"{'labels' if is_labels else 'targets'} {shapes}")
