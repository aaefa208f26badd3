"""NumPy's own versions: results written into arrays that are there already, and fewer passes over them."""

import threading
from typing import Any

import numpy as np

_scratch = threading.local()
"""Each thread's vectors for what lies between two lines: the same memory from step to step stays in the cache."""


def new_gradient(theta: np.ndarray) -> np.ndarray:
    """Return memory of theta's kind."""
    return np.empty_like(theta)


def bias_relu(Z: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return max(Z + b, 0), in Z."""
    Z += b
    np.maximum(Z, 0, out=Z)
    return Z


def relu_backward(A: np.ndarray, dA: np.ndarray) -> np.ndarray:
    """Return dA where A > 0 and else 0, in dA: a product by booleans takes a quarter of `np.where`'s time."""
    np.multiply(dA, A > 0, out=dA)
    return dA


def parameter_gradients(
    delta: np.ndarray, A: Any, into: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return Aᵀ delta and delta's sums, each written where it stays; A may be a SciPy sparse matrix."""
    if into is None:
        return A.T @ delta, np.sum(delta, axis=0, keepdims=True)
    dW, db = into
    if isinstance(A, np.ndarray):
        np.matmul(A.T, delta, out=dW)
    else:
        dW[...] = A.T @ delta
    np.add.reduce(delta, axis=0, keepdims=True, out=db)
    return into


def momentum_step(
    theta: np.ndarray, velocity: np.ndarray, gradient: np.ndarray, momentum: float, nesterov: bool, rate: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return theta and the velocity after a step, each in its place."""
    velocity *= momentum
    velocity += gradient
    s = _vector(theta)
    if nesterov:
        np.multiply(velocity, momentum, out=s)
        s += gradient
        s *= rate
    else:
        np.multiply(velocity, rate, out=s)
    theta -= s
    return theta, velocity


def adam_step(
    theta: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    gradient: np.ndarray,
    beta1: float,
    beta2: float,
    rate: Any,
    epsilon: Any,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return theta, m and v after a step, each in its place."""
    s = _vector(theta)
    np.subtract(gradient, m, out=s)
    s *= 1 - beta1
    m += s
    np.multiply(gradient, gradient, out=s)
    s *= 1 - beta2
    v *= beta2
    v += s
    np.sqrt(v, out=s)
    s += epsilon
    np.divide(m, s, out=s)
    s *= rate
    theta -= s
    return theta, m, v


def _vector(like: np.ndarray) -> np.ndarray:
    """Return this thread's vector of an array's size and dtype, whatever is in it."""
    found: np.ndarray | None = getattr(_scratch, "vector", None)
    if found is None or found.shape != like.shape or found.dtype != like.dtype:
        found = _scratch.vector = np.empty_like(like)
    return found
