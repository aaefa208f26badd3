"""Kernels for NumPy's arrays that numba compiles, each one pass in one thread.

Threads of numba's own would fight those of the BLAS library, which wait for the next product without sleeping. The
compiled kernels are kept in numba's cache; importing numba and reading them takes about half a second a process.
"""

from typing import Any

import numpy as np
from numba import njit


def _compiled(function: Any) -> Any:
    """Return the function as a kernel, kept on disk where there is a place to keep it."""
    # NumPy's error model: a check for division by zero would keep the loop from being vectorised.
    try:
        return njit(cache=True, error_model="numpy", nogil=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return njit(error_model="numpy", nogil=True)(function)


def scaled(images: np.ndarray, theta: np.ndarray, max_value: int) -> np.ndarray:
    """Return bytes as X, numbers from 0 to 1 of theta's dtype."""
    X = np.empty(images.shape, theta.dtype)
    _scaled(images.reshape(-1), X.reshape(-1), theta.dtype.type(1 / max_value))
    return X


def sampled(images: np.ndarray, displacements: np.ndarray, max_value: int) -> np.ndarray:
    """Return bytes as X, each pixel taken from another place of its image: one image after the other, in the cache."""
    n, _, height, width = displacements.shape
    X = np.empty((n, height * width), displacements.dtype)
    shape = n, height, width
    _sampled(images.reshape(shape), displacements, X.reshape(shape), displacements.dtype.type(1 / max_value))
    return X


def bias_relu(Z: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return max(Z + b, 0), in Z."""
    _bias_relu(Z, b)
    return Z


def relu_backward(A: np.ndarray, dA: np.ndarray) -> np.ndarray:
    """Return dA where A > 0 and else 0, in dA."""
    dA = np.ascontiguousarray(dA)  # one with gaps would be written to in a copy
    _relu_backward(A.reshape(-1), dA.reshape(-1))
    return dA


def softmax_cross_entropy(S: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, Any, Any]:
    """Return delta, the mean loss and the number correct, row by row."""
    delta = np.empty_like(S)
    loss, correct = _softmax_cross_entropy(S, labels, delta, S.dtype.type(1 / len(S)))
    return delta, S.dtype.type(loss), np.int32(correct)


def momentum_step(
    theta: np.ndarray, velocity: np.ndarray, gradient: np.ndarray, momentum: float, nesterov: bool, rate: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return theta and the velocity after a step, each in its place."""
    real = theta.dtype.type
    step = _nesterov_step if nesterov else _momentum_step
    step(theta, velocity, gradient, real(momentum), real(rate))
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
    real = theta.dtype.type
    betas = real(beta1), real(1 - beta1), real(beta2), real(1 - beta2)
    _adam_step(theta, m, v, gradient, *betas, real(rate), real(epsilon))
    return theta, m, v


@_compiled
def _scaled(images, X, share):  # type: ignore[no-untyped-def]
    for i in range(X.size):
        X[i] = images[i] * share


@_compiled
def _sampled(images, displacements, X, share):  # type: ignore[no-untyped-def]
    n, height, width = X.shape
    wide = width + 2
    real = X.dtype.type
    zero, bottom, right = real(0), real(height + 1), real(width + 1)
    around = np.zeros((height + 2) * wide, X.dtype)
    for i in range(n):
        for r in range(height):
            for c in range(width):
                around[(r + 1) * wide + c + 1] = images[i, r, c] * share
        for r in range(height):
            for c in range(width):
                y = min(max(displacements[i, 0, r, c] + real(r + 1), zero), bottom)
                x = min(max(displacements[i, 1, r, c] + real(c + 1), zero), right)
                top, left = min(int(y), height), min(int(x), width)
                y -= real(top)
                x -= real(left)
                k = top * wide + left
                upper = around[k] + x * (around[k + 1] - around[k])
                lower = around[k + wide] + x * (around[k + wide + 1] - around[k + wide])
                X[i, r, c] = upper + y * (lower - upper)


@_compiled
def _bias_relu(Z, b):  # type: ignore[no-untyped-def]
    zero = Z.dtype.type(0)
    for i in range(Z.shape[0]):
        for j in range(Z.shape[1]):
            z = Z[i, j] + b[0, j]
            Z[i, j] = zero if z < zero else z  # in this order a NaN stays one


@_compiled
def _relu_backward(A, dA):  # type: ignore[no-untyped-def]
    zero = A.dtype.type(0)
    for i in range(A.size):
        dA[i] = dA[i] if A[i] > zero else zero


@_compiled
def _softmax_cross_entropy(S, labels, delta, share):  # type: ignore[no-untyped-def]
    loss, correct = S.dtype.type(0), np.int32(0)
    n, c = S.shape
    for i in range(n):
        best = 0
        for j in range(1, c):
            if S[i, j] > S[i, best]:
                best = j
        most = S[i, best]
        total = S.dtype.type(0)
        for j in range(c):
            e = np.exp(S[i, j] - most)
            delta[i, j] = e
            total += e
        label = labels[i]
        for j in range(c):
            delta[i, j] = delta[i, j] / total * share
        if 0 <= label < c:  # another would be read and written beside the row
            loss += np.log(total) - (S[i, label] - most)
            correct += best == label
            delta[i, label] -= share
    return loss * share, correct


@_compiled
def _momentum_step(theta, velocity, gradient, momentum, rate):  # type: ignore[no-untyped-def]
    for i in range(theta.size):
        v = momentum * velocity[i] + gradient[i]
        theta[i] -= rate * v
        velocity[i] = v


@_compiled
def _nesterov_step(theta, velocity, gradient, momentum, rate):  # type: ignore[no-untyped-def]
    for i in range(theta.size):
        g = gradient[i]
        v = momentum * velocity[i] + g
        theta[i] -= rate * (g + momentum * v)
        velocity[i] = v


@_compiled
def _adam_step(theta, m, v, gradient, beta1, rest1, beta2, rest2, rate, epsilon):  # type: ignore[no-untyped-def]
    for i in range(theta.size):
        g = gradient[i]
        mean = beta1 * m[i] + rest1 * g
        square = beta2 * v[i] + rest2 * (g * g)
        theta[i] -= rate * mean / (np.sqrt(square) + epsilon)
        m[i], v[i] = mean, square
