"""The mathematics of the perceptron: arrays in, arrays out, on whatever library holds them.

Each line bears the number of its equation in ``derivation.md``. Rows are samples; K layers have K weight
matrices; activations are A_0 = X, A_1, …, A_{K−1}; S are the last layer's sums (the logits, where it classifies).

The derivation's network has ReLU between its layers and softmax with the cross-entropy at its end. Others of its kind
stand beside these in two tables: `ACTIVATIONS`, and `HEADS`, in which a loss belongs to the function that makes the
predictions P of S, such that its gradient by S is always (P − T) / n (B1).
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

from xpmlp.errors import ArrayError, ConfigError, ShapeError
from xpmlp.namespaces import Array, array_namespace
from xpmlp.primitives import (
    bias_relu,
    join,
    new_gradient,
    one_hot,
    parameter_gradients,
    relu_backward,
    softmax_cross_entropy,
)

Layer: TypeAlias = tuple[Array, Array]
"""One layer's weights W (fan_in × fan_out) and biases b (1 × fan_out)."""


@dataclass(frozen=True)
class Layout:
    """Where each layer's parameters lie in one vector.

    The vector ``theta`` is W1, b1, W2, b2, …, each in C order, without gaps.

    Parameters
    ----------
    sizes : tuple of int
        The widths from the inputs to the classes, such as ``(784, 256, 128, 10)``.

    Raises
    ------
    ConfigError
        If there are fewer than two widths, or one is not a whole number of at least 1.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        try:
            sizes = tuple(operator.index(size) for size in self.sizes)
        except TypeError:
            raise ConfigError(f"layer sizes {self.sizes!r}: expected whole numbers") from None
        if len(sizes) < 2:
            raise ConfigError(f"layer sizes {sizes}: expected at least two, the inputs' width and the classes'")
        if min(sizes) < 1:
            raise ConfigError(f"layer sizes {sizes}: expected widths of at least 1")
        object.__setattr__(self, "sizes", sizes)

    @cached_property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The shape (fan_in, fan_out) of each layer's weights."""
        return tuple(itertools.pairwise(self.sizes))

    @cached_property
    def size(self) -> int:
        """The number of parameters."""
        return sum(fan_in * fan_out + fan_out for fan_in, fan_out in self.shapes)

    def unflatten(self, theta: Array) -> tuple[Layer, ...]:
        """Return each layer's ``(W, b)``: views of theta, where the library has views.

        Parameters
        ----------
        theta : array, shape (size,)
            All parameters.

        Raises
        ------
        ShapeError
            If theta has another shape.
        """
        xp = array_namespace(theta=theta)
        if tuple(theta.shape) != (self.size,):
            raise ShapeError(
                f"theta has shape {tuple(theta.shape)}: layers {self.sizes} have {self.size} parameters in one vector"
            )
        reshape = xp.reshape
        return tuple(
            (reshape(theta[start:middle], (fan_in, fan_out)), reshape(theta[middle:stop], (1, fan_out)))
            for start, middle, stop, fan_in, fan_out in self._places
        )

    @cached_property
    def _places(self) -> tuple[tuple[int, int, int, int, int], ...]:
        """Where each layer's weights begin, its biases begin, both end; and its widths."""
        places = []
        start = 0
        for fan_in, fan_out in self.shapes:
            middle = start + fan_in * fan_out
            places.append((start, middle, middle + fan_out, fan_in, fan_out))
            start = middle + fan_out
        return tuple(places)

    def flatten(self, layers: Iterable[Layer]) -> Array:
        """Return the layers' arrays, parameters or gradients, as one new vector.

        Parameters
        ----------
        layers : sequence of (W, b)
            Arrays of the shapes that `unflatten` gives.

        Raises
        ------
        ShapeError
            If there are more or fewer layers, or one has another shape.
        """
        arrays = tuple(array for layer in layers for array in layer)
        found = [tuple(array.shape) for array in arrays]
        expected = [shape for fan_in, fan_out in self.shapes for shape in ((fan_in, fan_out), (1, fan_out))]
        if found != expected:
            raise ShapeError(f"layers of shapes {found}: sizes {self.sizes} have {expected}")
        array_namespace(layers=arrays)
        return join(arrays)


def init(layout: Layout, rng: Any, dtype: str = "float32") -> Any:
    """Return initial parameters on the host: He-normal weights and zero biases.

    W ~ N(0, 2 / fan_in), which keeps the variance of what passes through a ReLU layer (He, Zhang, Ren & Sun 2015,
    "Delving Deep into Rectifiers", eq. 10). The weights are drawn in float64, layer by layer, and then cast, so that
    one generator state gives the same network in either precision.

    Parameters
    ----------
    layout : Layout
        The network's widths.
    rng : numpy.random.Generator
        What the weights are drawn from; it is advanced.
    dtype : {"float32", "float64"}
        The parameters' type.

    Returns
    -------
    numpy.ndarray, shape (layout.size,)
        The vector theta.

    Raises
    ------
    ConfigError
        If the dtype is neither of the two.
    """
    if dtype not in ("float32", "float64"):
        raise ConfigError(f"dtype {dtype!r}: expected float32 or float64")
    layers = []
    for fan_in, fan_out in layout.shapes:
        W = rng.standard_normal((fan_in, fan_out))
        W *= math.sqrt(2 / fan_in)
        xp = array_namespace(W=W)
        layers.append((xp.astype(W, getattr(xp, dtype)), xp.zeros((1, fan_out), dtype=getattr(xp, dtype))))
    return layout.flatten(layers)


class Activation(NamedTuple):
    """What stands between two layers."""

    apply: Callable[[Any, Array, Array], Array]
    """From the namespace, a layer's products Z and its biases b to A = f(Z + b); Z is handed over."""
    pull_back: Callable[[Any, Array, Array], Array]
    """From the namespace, A and the loss's gradient by A, which is handed over, to the gradient by Z."""


def _plus(Z: Array, b: Array) -> Array:
    Z += b
    return Z


def _logistic(xp: Any, Z: Array) -> Array:
    """Return 1 / (1 + exp(−Z)), whose exponential overflows nowhere and whose small values keep all their digits."""
    e = xp.exp(-xp.abs(Z))
    return xp.where(Z >= 0, 1.0, e) / (1 + e)


ACTIVATIONS = {
    "relu": Activation(
        lambda xp, Z, b: bias_relu(Z, b),  # F2, F4: A and q
        lambda xp, A, dA: relu_backward(A, dA),  # B5, B9: A > 0 just where its pre-activation is
    ),
    "identity": Activation(lambda xp, Z, b: _plus(Z, b), lambda xp, A, dA: dA),
    "logistic": Activation(lambda xp, Z, b: _logistic(xp, _plus(Z, b)), lambda xp, A, dA: dA * A * (1 - A)),
    "tanh": Activation(lambda xp, Z, b: xp.tanh(_plus(Z, b)), lambda xp, A, dA: dA * (1 - A * A)),
}
"""A hidden layer's nonlinearities, by name. Each derivative is a function of what the nonlinearity returned."""


class Head(NamedTuple):
    """What stands behind the last layer: the inverse of a canonical link, and the loss that belongs to it."""

    predict: Callable[[Any, Array], Array]
    """From the namespace and the sums S to the predictions P, (n, c)."""
    losses: Callable[[Any, Array, Array], Array]
    """From the namespace, S and the targets T to the loss of each sample and output, (n, c)."""


def _softmax(xp: Any, S: Array) -> Array:
    P = xp.exp(S - xp.max(S, axis=1, keepdims=True))
    P /= xp.sum(P, axis=1, keepdims=True)
    return P


def _log_softmax(xp: Any, S: Array) -> Array:
    Z = S - xp.max(S, axis=1, keepdims=True)
    Z -= xp.log(xp.sum(xp.exp(Z), axis=1, keepdims=True))
    return Z


def _binary_cross_entropies(xp: Any, S: Array, T: Array) -> Array:
    """Return −T log P − (1 − T) log(1 − P), without forming P: log(1 + exp(S)) − T S."""
    return xp.maximum(S, 0) - S * T + xp.log1p(xp.exp(-xp.abs(S)))


def _poisson_deviances(xp: Any, S: Array, T: Array) -> Array:
    """Return half the unit deviances, T log(T / P) − T + P, with 0 log 0 = 0."""
    return xp.where(T > 0, T * (xp.log(xp.where(T > 0, T, 1.0)) - S), 0.0) - T + xp.exp(S)


HEADS = {
    "softmax": Head(_softmax, lambda xp, S, T: -xp.where(T > 0, T * _log_softmax(xp, S), 0.0)),
    "logistic": Head(_logistic, _binary_cross_entropies),
    "identity": Head(lambda xp, S: S, lambda xp, S, T: 0.5 * (S - T) ** 2),
    "exp": Head(lambda xp, S: xp.exp(S), _poisson_deviances),
}
"""Outputs and their losses, by what makes P of S: class probabilities and cross-entropy (F6, F7), independent
probabilities and binary cross-entropies, values and half squared errors, rates and half Poisson deviances. (Generalised
linear models with their canonical links: McCullagh & Nelder 1989, section 2.2.)"""


def forward(
    layers: Sequence[Layer], X: Array, activation: str = "relu", masks: Sequence[Array] | None = None
) -> tuple[Array, tuple[Array, ...]]:
    """Return the last layer's sums for a batch, and the activations that `backward` needs.

    Parameters
    ----------
    layers : sequence of (W, b)
        Weights (fan_in × fan_out) and biases (1 × fan_out), K of each.
    X : array, shape (n, d)
        The samples, of the layers' dtype. With NumPy's layers it may be a SciPy sparse matrix or array.
    activation : {"relu", "identity", "logistic", "tanh"}
        What stands between the layers.
    masks : sequence of K − 1 arrays or None
        Dropout: what each of A_1, …, A_{K−1} is multiplied by, of its shape; for ReLU alone.

    Returns
    -------
    S : array, shape (n, c)
        The logits.
    activations : tuple of K arrays
        X, A_1, …, A_{K−1}, each (n, fan_in) of its layer.

    Raises
    ------
    ArrayError
        If X is of another library or dtype than the layers.
    ShapeError
        If X is not (n, d), d being the first layer's fan_in.
    ConfigError
        If there are masks, and the activation is not ReLU.
    """
    arrays = tuple(array for layer in layers for array in layer)
    xp = array_namespace(layers=arrays) if _is_sparse(X) else array_namespace(layers=arrays, X=X)
    first = layers[0][0]
    if X.ndim != 2 or X.shape[1] != first.shape[0]:
        raise ShapeError(f"X has shape {tuple(X.shape)}: the first layer expects (samples, {first.shape[0]})")
    if X.dtype != first.dtype:
        raise ArrayError(f"X is {X.dtype}, the layers are {first.dtype}: cast X to it")
    if masks and activation != "relu":
        raise ConfigError(f"masks with {activation}: expected relu, whose derivative is the same behind a mask")
    apply = ACTIVATIONS[activation].apply
    A = X
    activations = [X]
    for k, (W, b) in enumerate(layers[:-1]):
        Z = A @ W  # F1, F3: H and O, to which the biases are still to be added
        A = apply(xp, Z, b)  # F2, F4: A and q
        if masks:
            A *= masks[k]
        activations.append(A)
    W, b = layers[-1]
    S = A @ W  # F5
    S += b
    return S, tuple(activations)


def predictions(S: Array, head: str = "softmax") -> Array:
    """Return what the network predicts, P (n, c), from the sums S (n, c), by the head of that name."""
    return HEADS[head].predict(array_namespace(S=S), S)


def softmax(S: Array) -> Array:
    """Return each row's class probabilities (F6), an array of the shape of the logits S, (n, c).

    The row's maximum is subtracted first, so that no logit overflows.
    """
    return predictions(S)


def log_softmax(S: Array) -> Array:
    """Return the logarithm of each row's class probabilities, (n, c), without forming the probabilities.

    So it is finite where a probability rounds to 0.
    """
    return _log_softmax(array_namespace(S=S), S)


def loss(S: Array, targets: Array, head: str = "softmax", weights: Array | None = None) -> Array:
    """Return the mean over the samples of the loss, summed over the outputs, a 0-d array.

    Parameters
    ----------
    S : array, shape (n, c)
        The last layer's sums.
    targets : array, shape (n, c) or (n,)
        What was to be predicted: T, of S's dtype or of booleans; for softmax also labels, as `cross_entropy` has them.
    head : {"softmax", "logistic", "identity", "exp"}
        Whose loss: cross-entropy, binary cross-entropy, half the squared error, half the Poisson deviance.
    weights : array of S's dtype, shape (n,), or None
        What each sample counts in the mean; None: the same.

    Raises
    ------
    ArrayError
        If the targets or weights are of another library than S, or labels are not integers.
    ShapeError
        If they are of another shape.
    """
    xp = array_namespace(S=S, targets=targets)
    T = xp.astype(_targets(xp, targets, S), S.dtype, copy=False)
    losses = HEADS[head].losses(xp, S, T)
    if weights is None:
        return xp.sum(losses) * (1 / S.shape[0])
    return xp.sum(losses * _column(xp, weights, S)) / xp.sum(weights)


def cross_entropy(S: Array, labels: Array) -> Array:
    """Return the mean negative log-likelihood of the labels (F7), a 0-d array.

    Parameters
    ----------
    S : array, shape (n, c)
        The logits.
    labels : array of any integer dtype, shape (n,)
        Each sample's class, 0 to c − 1. The values are not looked at here, which would wait for the device.

    Raises
    ------
    ArrayError
        If the labels are of another library than S, or not integers.
    ShapeError
        If the labels are not (n,).
    """
    xp = array_namespace(S=S, labels=labels)
    T = _one_hot(xp, labels, S)
    return xp.sum(xp.where(T, log_softmax(S), 0.0)) * (-1 / S.shape[0])  # F7


def count_correct(S: Array, labels: Array) -> Array:
    """Return how many rows of the logits S (n, c) are greatest at their label, a 0-d int32 array."""
    xp = array_namespace(S=S, labels=labels)
    return xp.sum(xp.astype(xp.argmax(S, axis=1) == labels, xp.int32), dtype=xp.int32)


def backward(
    layers: Sequence[Layer],
    activations: Sequence[Array],
    S: Array,
    targets: Array,
    *,
    head: str = "softmax",
    activation: str = "relu",
    weights: Array | None = None,
    l2: float = 0.0,
    into: Sequence[Layer] | None = None,
) -> tuple[tuple[Array, Array], ...]:
    """Return the gradient by every weight and bias of the loss, and of a penalty on the weights.

    Of `cross_entropy`, where nothing else is asked for; else of `loss` and of l2 / (2 n) · Σ W², with the sum of the
    samples' weights in the place of their number n, where they have weights.

    Parameters
    ----------
    layers : sequence of (W, b)
        What `forward` was given.
    activations, S
        What `forward` returned.
    targets : array of any integer dtype, shape (n,), or array, shape (n, c)
        Each sample's class, 0 to c − 1, or T; as `loss` has them.
    head, activation : str
        Which of `HEADS` and of `ACTIVATIONS`.
    weights : array of S's dtype, shape (n,), or None
        What each sample counts; None: the same.
    l2 : float
        The penalty's factor, at least 0.
    into : sequence of (array, array) or None
        Where to write the gradients, for a library whose arrays can be written.

    Returns
    -------
    tuple of (dW, db)
        Of the layers' shapes and in their order.

    Raises
    ------
    ArrayError, ShapeError
        As `loss` does.
    """
    xp = array_namespace(S=S, targets=targets)
    T = xp.astype(_targets(xp, targets, S), S.dtype, copy=False)
    delta = HEADS[head].predict(xp, S) - T
    share = 1 / S.shape[0] if weights is None else 1 / xp.sum(weights)
    delta *= share if weights is None else share * _column(xp, weights, S)  # B1
    return backpropagate(layers, activations, delta, activation=activation, penalty=l2 and l2 * share, into=into)


def backpropagate(
    layers: Sequence[Layer],
    activations: Sequence[Array],
    delta: Array,
    *,
    activation: str = "relu",
    penalty: Any = 0.0,
    masks: Sequence[Array] | None = None,
    into: Sequence[Layer] | None = None,
) -> tuple[tuple[Array, Array], ...]:
    """Return the gradient by every weight and bias, from that by the last layer's sums.

    Parameters
    ----------
    layers : sequence of (W, b)
        What `forward` was given.
    activations : sequence of arrays
        What `forward` returned.
    delta : array, shape (n, c)
        The gradient by S, such as `score` returns.
    activation : str
        Which of `ACTIVATIONS`.
    penalty : float or 0-d array
        What each weight adds to its gradient, times itself.
    masks : sequence of arrays or None
        What `forward` was given.
    into : sequence of (array, array) or None
        Where to write the gradients, for a library whose arrays can be written.

    Returns
    -------
    tuple of (dW, db)
        Of the layers' shapes and in their order.
    """
    xp = array_namespace(delta=delta)
    pull_back = ACTIVATIONS[activation].pull_back
    gradients = []
    for k in range(len(layers) - 1, -1, -1):
        A, (W, _) = activations[k], layers[k]
        dW, db = parameter_gradients(delta, A, into[k] if into else None)  # B2, B3, B6, B7, B10, B11
        if not (isinstance(penalty, float | int) and penalty == 0):
            dW += penalty * W
        gradients.append((dW, db))
        if k > 0:
            dA = delta @ W.T  # B4, B8
            if masks:
                dA *= masks[k - 1]
            delta = pull_back(xp, A, dA)  # B5, B9
    return tuple(reversed(gradients))


def center_gradients(gradients: Sequence[Layer], center: float) -> tuple[Layer, ...]:
    """Return gradients with which a linear update makes the step that centred inputs would make (C3).

    Parameters
    ----------
    gradients : sequence of (dW, db)
        What `backpropagate` returned for activations that begin with X − center (C1); the first db is handed over.
    center : float
        What was subtracted of every input.
    """
    (G, db), *others = gradients
    db -= center * array_namespace(G=G).sum(G, axis=0, keepdims=True)
    return ((G, db), *others)


def score(S: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return what a training step wants of a batch's logits, in one go.

    Parameters
    ----------
    S : array, shape (n, c)
        The logits.
    labels : array of any integer dtype, shape (n,)
        Each sample's class, 0 to c − 1. The values are not looked at here, which would wait for the device.

    Returns
    -------
    delta : array, shape (n, c)
        The gradient of the loss by S: (P − T) / n (B1).
    loss : 0-d array
        As `cross_entropy` returns it (F7).
    correct : 0-d array of int32
        As `count_correct` returns it.

    Raises
    ------
    ArrayError, ShapeError
        As `cross_entropy` does.
    """
    xp = array_namespace(S=S, labels=labels)
    _require_labels(xp, labels, S)
    return softmax_cross_entropy(S, xp.astype(labels, xp.int32, copy=False))


def gradient_vector(
    layout: Layout, theta: Array, compute: Callable[[Sequence[Layer] | None], Iterable[Layer]]
) -> Array:
    """Return the gradient by theta as one new vector.

    Parameters
    ----------
    layout : Layout
        Where each layer's parameters lie in theta.
    theta : array, shape (layout.size,)
        The parameters.
    compute : callable
        Returns each layer's gradients: `backward` or `backpropagate`, given where to write them, so that the vector
        needs no copies where the library's arrays can be written; else given None.
    """
    vector = new_gradient(theta)
    if vector is None:
        return layout.flatten(compute(None))
    compute(layout.unflatten(vector))
    return vector


def _targets(xp: Any, targets: Array, S: Array) -> Array:
    """Return T, (n, c), of labels or of what is T already."""
    if targets.ndim == 1:
        return _one_hot(xp, targets, S)
    if tuple(targets.shape) != tuple(S.shape):
        raise ShapeError(f"targets have shape {tuple(targets.shape)}: expected {tuple(S.shape)}, or labels for softmax")
    return targets


def _column(xp: Any, weights: Array, S: Array) -> Array:
    array_namespace(S=S, weights=weights)
    if tuple(weights.shape) != (S.shape[0],):
        raise ShapeError(f"weights have shape {tuple(weights.shape)}: expected ({S.shape[0]},), one for each row of S")
    return weights[:, None]


def _is_sparse(X: Array) -> bool:
    """Return whether X is one of SciPy's, of which only the two products are taken, and those are dense."""
    return type(X).__module__.startswith("scipy.sparse")


def _one_hot(xp: Any, labels: Array, S: Array) -> Array:
    """Return T, (n, c) booleans."""
    _require_labels(xp, labels, S)
    return one_hot(labels, S)


def _require_labels(xp: Any, labels: Array, S: Array) -> None:
    if not xp.isdtype(labels.dtype, "integral"):
        raise ArrayError(f"labels are {labels.dtype}: expected integers, each sample's class")
    n = S.shape[0]
    if tuple(labels.shape) != (n,):
        raise ShapeError(f"labels have shape {tuple(labels.shape)}: expected ({n},), one for each row of S")
