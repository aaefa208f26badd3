"""The few named operations of the math that some library does faster in a way of its own.

Each stands here in its agnostic version. A native one, in the file of its library, is taken by the arrays' library
alone, and tested equal to it.
"""

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

from xpmlp.namespaces import Array, array_namespace, library_of

_NATIVE = {"jax": "xpmlp.primitives._jax", "numpy": "xpmlp.primitives._numpy"}


def join(arrays: tuple[Array, ...]) -> Array:
    """Return arrays of any shapes, each in C order and without gaps, as one new vector."""
    native = _native(library_of(type(arrays[0])), "join")
    if native is not None:
        joined: Array = native(arrays)
        return joined
    xp = array_namespace(arrays=arrays)
    return xp.concat([xp.reshape(array, (-1,)) for array in arrays])


def relu(Z: Array) -> Array:
    """Return max(Z, 0); Z is handed over."""
    native = _native(library_of(type(Z)), "relu")
    result: Array = native(Z) if native else array_namespace(Z=Z).maximum(Z, 0)
    return result


def relu_backward(A: Array, dA: Array) -> Array:
    """Return the gradient by a ReLU's input of that by its output A: dA where A > 0, else 0. dA is handed over."""
    native = _native(library_of(type(dA)), "relu_backward")
    if native is not None:
        delta: Array = native(A, dA)
        return delta
    xp = array_namespace(A=A, dA=dA)
    return xp.where(A > 0, dA, 0.0)


def adam_step(
    theta: Array, m: Array, v: Array, gradient: Array, beta1: float, beta2: float, rate: Any, epsilon: Any
) -> tuple[Array, Array, Array]:
    """Return theta, m and v after a step of Adam, whose bias corrections are in the rate and in epsilon.

    The first three are handed over; the gradient is left as it was.
    """
    native = _native(library_of(type(theta)), "adam_step")
    if native is not None:
        stepped: tuple[Array, Array, Array] = native(theta, m, v, gradient, beta1, beta2, rate, epsilon)
        return stepped
    xp = array_namespace(theta=theta, m=m, v=v, gradient=gradient)
    change = gradient - m
    change *= 1 - beta1
    m += change
    square = gradient * gradient
    square *= 1 - beta2
    v *= beta2
    v += square
    denominator = xp.sqrt(v)
    denominator += epsilon
    step = m / denominator
    step *= rate
    theta -= step
    return theta, m, v


@cache
def _native(library: str, name: str) -> Callable[..., Any] | None:
    """Return a library's native version of an operation, None where there is none."""
    if library not in _NATIVE:
        return None
    found: Callable[..., Any] | None = getattr(importlib.import_module(_NATIVE[library]), name, None)
    return found
