"""The mathematics of the perceptron: arrays in, arrays out, on whatever library holds them.

Each line bears the number of its equation in ``derivation.md``. Rows are samples; K layers have K weight
matrices; activations are A_0 = X, A_1, …, A_{K−1}; S are the logits of the last layer.
"""

import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from xpmlp.errors import ArrayError, ConfigError, ShapeError
from xpmlp.namespaces import Array, array_namespace
from xpmlp.primitives import join

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
        layers = []
        start = 0
        for fan_in, fan_out in self.shapes:
            middle = start + fan_in * fan_out
            stop = middle + fan_out
            W = xp.reshape(theta[start:middle], (fan_in, fan_out))
            b = xp.reshape(theta[middle:stop], (1, fan_out))
            layers.append((W, b))
            start = stop
        return tuple(layers)

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


def forward(layers: Sequence[Layer], X: Array) -> tuple[Array, tuple[Array, ...]]:
    """Return the logits of a batch, and the activations that `backward` needs.

    Parameters
    ----------
    layers : sequence of (W, b)
        Weights (fan_in × fan_out) and biases (1 × fan_out), K of each.
    X : array, shape (n, d)
        The samples, of the layers' dtype.

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
    """
    xp = array_namespace(layers=tuple(array for layer in layers for array in layer), X=X)
    first = layers[0][0]
    if X.ndim != 2 or X.shape[1] != first.shape[0]:
        raise ShapeError(f"X has shape {tuple(X.shape)}: the first layer expects (samples, {first.shape[0]})")
    if X.dtype != first.dtype:
        raise ArrayError(f"X is {X.dtype}, the layers are {first.dtype}: cast X to it")
    A = X
    activations = [X]
    for W, b in layers[:-1]:
        Z = A @ W  # F1, F3: H and O
        Z += b
        A = xp.maximum(Z, 0)  # F2, F4: A and q
        activations.append(A)
    W, b = layers[-1]
    S = A @ W  # F5
    S += b
    return S, tuple(activations)


def softmax(S: Array) -> Array:
    """Return each row's class probabilities (F6), an array of the shape of the logits S, (n, c).

    The row's maximum is subtracted first, so that no logit overflows.
    """
    xp = array_namespace(S=S)
    P = xp.exp(S - xp.max(S, axis=1, keepdims=True))
    P /= xp.sum(P, axis=1, keepdims=True)
    return P


def log_softmax(S: Array) -> Array:
    """Return the logarithm of each row's class probabilities, (n, c), without forming the probabilities.

    So it is finite where a probability rounds to 0.
    """
    xp = array_namespace(S=S)
    Z = S - xp.max(S, axis=1, keepdims=True)
    Z -= xp.log(xp.sum(xp.exp(Z), axis=1, keepdims=True))
    return Z


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
    layers: Sequence[Layer], activations: Sequence[Array], S: Array, labels: Array
) -> tuple[tuple[Array, Array], ...]:
    """Return the gradient of `cross_entropy` by every weight and bias.

    Parameters
    ----------
    layers : sequence of (W, b)
        What `forward` was given.
    activations, S
        What `forward` returned.
    labels : array of any integer dtype, shape (n,)
        Each sample's class, 0 to c − 1.

    Returns
    -------
    tuple of (dW, db)
        Of the layers' shapes and in their order.

    Raises
    ------
    ArrayError, ShapeError
        As `cross_entropy` does.
    """
    xp = array_namespace(S=S, labels=labels)
    T = xp.astype(_one_hot(xp, labels, S), S.dtype)
    delta = softmax(S)
    delta -= T
    delta *= 1 / S.shape[0]  # B1
    gradients = []
    for k in range(len(layers) - 1, -1, -1):
        A = activations[k]
        dW = A.T @ delta  # B2, B6, B10
        db = xp.sum(delta, axis=0, keepdims=True)  # B3, B7, B11
        gradients.append((dW, db))
        if k > 0:
            W, _ = layers[k]
            dA = delta @ W.T  # B4, B8
            delta = xp.where(A > 0, dA, 0.0)  # B5, B9: A > 0 just where its pre-activation is
    return tuple(reversed(gradients))


def _one_hot(xp: Any, labels: Array, S: Array) -> Array:
    """Return T, (n, c) booleans: by comparison, so that there is no gather and no check that waits."""
    if not xp.isdtype(labels.dtype, "integral"):
        raise ArrayError(f"labels are {labels.dtype}: expected integers, each sample's class")
    n, n_classes = S.shape
    if tuple(labels.shape) != (n,):
        raise ShapeError(f"labels have shape {tuple(labels.shape)}: expected ({n},), one for each row of S")
    # Under jax.jit an array has no device yet; a narrow dtype could not count the classes.
    classes = xp.arange(n_classes, dtype=xp.int32, device=getattr(labels, "device", None))
    return xp.astype(labels, xp.int32, copy=False)[:, None] == classes[None, :]
