"""NumPy's own versions: results written into arrays that are there already, and fewer passes over them."""

import threading
from typing import Any

import numpy as np

_scratch = threading.local()
"""Each thread's vectors for what lies between two lines: the same memory from step to step stays in the cache."""


def relu(Z: np.ndarray) -> np.ndarray:
    """Return max(Z, 0), in Z."""
    np.maximum(Z, 0, out=Z)
    return Z


def relu_backward(A: np.ndarray, dA: np.ndarray) -> np.ndarray:
    """Return dA where A > 0 and else 0, in dA: a product by booleans takes a quarter of `np.where`'s time."""
    np.multiply(dA, A > 0, out=dA)
    return dA


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
