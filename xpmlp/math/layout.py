"""All parameters as one vector, theta: its layers, its initial values, and its gradient."""

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from xpmlp.errors import ConfigError, ShapeError
from xpmlp.kernels import operation
from xpmlp.namespaces import Array, array_namespace

Layer: TypeAlias = tuple[Array, Array]
"""One layer's weights W (…, fan_in, fan_out) and biases b (…, 1, fan_out)."""


@dataclass(frozen=True)
class Layout:
    """The positions of each layer's parameters in one vector.

    The vector ``theta`` holds W1, b1, W2, b2, …, each in C order, without gaps.

    Parameters
    ----------
    sizes : tuple of int
        The widths from the inputs to the classes, such as ``(784, 256, 128, 10)``.

    Raises
    ------
    ConfigError
        If there are fewer than two widths, or a width is not a whole number of at least 1.
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
        """Return each layer's ``(W, b)``: views of theta, if the library has views.

        Parameters
        ----------
        theta : array, shape (…, size)
            All parameters; for several networks, one row each.

        Raises
        ------
        ShapeError
            If theta has another shape.
        """
        xp = array_namespace(theta=theta)
        *networks, size = theta.shape or (0,)
        if size != self.size:
            raise ShapeError(
                f"theta has shape {tuple(theta.shape)}: layers {self.sizes} have {self.size} parameters in one vector"
            )
        layers, start = [], 0
        for fan_in, fan_out in self.shapes:
            middle = start + fan_in * fan_out
            stop = middle + fan_out
            W = xp.reshape(theta[..., start:middle], (*networks, fan_in, fan_out))
            b = xp.reshape(theta[..., middle:stop], (*networks, 1, fan_out))
            layers.append((W, b))
            start = stop
        return tuple(layers)

    def flatten(self, layers: Iterable[Layer]) -> Array:
        """Return parameters or gradients, arrays of the shapes that `unflatten` gives, as one new vector."""
        arrays = tuple(array for layer in layers for array in layer)
        found = [tuple(array.shape[-2:]) for array in arrays]
        expected = [shape for fan_in, fan_out in self.shapes for shape in ((fan_in, fan_out), (1, fan_out))]
        if found != expected:
            raise ShapeError(f"layers of shapes {found}: sizes {self.sizes} have {expected}")
        array_namespace(layers=arrays)
        return join(arrays, arrays[0].ndim - 2)


def init(layout: Layout, rng: Any, dtype: str = "float32") -> Any:
    """Return initial parameters on the host: He-normal weights and zero biases.

    W ~ N(0, 2 / fan_in) keeps the variance through a ReLU layer. (He, Zhang, Ren & Sun 2015, "Delving Deep into
    Rectifiers", eq. 10.) The weights are drawn in float64, layer by layer, and then cast. So one generator state gives
    the same network in either precision.

    Parameters
    ----------
    layout : Layout
        The network's widths.
    rng : numpy.random.Generator
        The generator that draws the weights; its state advances.
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


@operation()
def join(arrays: tuple[Array, ...], networks: int = 0) -> Array:
    """Return arrays of any shapes as one new vector, each in C order; leading axes, which number networks, stay."""
    xp = array_namespace(arrays=arrays)
    kept = tuple(arrays[0].shape[:networks])
    return xp.concat([xp.reshape(array, (*kept, -1)) for array in arrays], axis=-1)


def penalize(gradients: Iterable[Layer], layers: Iterable[Layer], penalty: Any) -> tuple[Layer, ...]:
    """Return gradients, which may be overwritten, plus that of penalty / 2 · Σ W²; biases have no penalty."""
    penalized = []
    for (dW, db), (W, _) in zip(gradients, layers, strict=True):
        dW += penalty * W  # the parameters' device
        penalized.append((dW, db))
    return tuple(penalized)


def center_gradients(gradients: Iterable[Layer], center: float) -> tuple[Layer, ...]:
    """Return gradients that give a linear update the step of centred inputs (C3).

    The given gradients are those of X − center (C1) as the first layer's inputs. The first db may be overwritten.
    """
    (dW, db), *others = gradients
    db -= center * array_namespace(dW=dW).sum(dW, axis=-2, keepdims=True)
    return ((dW, db), *others)


@operation()
def new_gradient(theta: Array) -> Array | None:
    """Return a new vector like theta to write gradients into; None if the library's arrays are not writable."""
    return None


def gradient_vector(
    layout: Layout, theta: Array, compute: Callable[[Sequence[Layer] | None], Iterable[Layer]]
) -> Array:
    """Return the gradient with respect to theta as one new vector, from the layers' gradients that `compute` returns.

    If the library's arrays are writable, `compute` gets the vector's parts to write into, which saves copies; else
    None.
    """
    vector = new_gradient(theta)
    if vector is None:
        return layout.flatten(compute(None))
    compute(layout.unflatten(vector))
    return vector
