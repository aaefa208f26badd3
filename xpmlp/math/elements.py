"""What lies between the matrix products, element by element; each function is written once, for every library.

The first argument is the namespace. Where an array's library can write into arrays, a result lies in the memory of
the argument that is named in the decorator, which the caller hands over. `xpmlp.kernels` has the compilers.
"""

import math
from typing import Any, TypeAlias

from xpmlp.kernels import elements
from xpmlp.namespaces import Array

Scalar: TypeAlias = Any
"""A Python number, or an array that broadcasts: one number a network, say."""

LEAK = 0.01
GELU_SCALE, GELU_CUBE = math.sqrt(2 / math.pi), 0.044715


@elements(fixed=("dtype",))
def scaled(xp: Any, images: Array, *, share: Scalar, dtype: Any) -> Array:
    """X: bytes as numbers of a dtype, times a share of 1."""
    return xp.astype(images, dtype) * share


# --- activations: A = f(Z + b), and the gradient with respect to Z, from A and that with respect to A ---------------


@elements("Z")
def bias_identity(xp: Any, Z: Array, b: Array) -> Array:
    """Z + b."""
    return Z + b


@elements("Z")
def bias_relu(xp: Any, Z: Array, b: Array) -> Array:
    """max(Z + b, 0)."""
    return xp.maximum(Z + b, 0.0)


@elements("dA")
def relu_backward(xp: Any, A: Array, dA: Array) -> Array:
    """ReLU′ ⊙ dA: A is above 0 just where Z is."""
    return xp.where(A > 0, dA, 0.0)


@elements("Z")
def masked_bias_relu(xp: Any, Z: Array, b: Array, mask: Array) -> Array:
    """max(Z + b, 0) ⊙ mask, the dropout's."""
    return xp.maximum(Z + b, 0.0) * mask


@elements("dA")
def masked_relu_backward(xp: Any, A: Array, dA: Array, mask: Array) -> Array:
    """ReLU′ ⊙ mask ⊙ dA; where the mask is 0, A is."""
    return xp.where(A > 0, dA * mask, 0.0)


@elements("Z")
def bias_leaky_relu(xp: Any, Z: Array, b: Array) -> Array:
    """Z + b where it is above 0, else a hundredth of it."""
    Z = Z + b
    return xp.where(Z > 0, Z, LEAK * Z)


@elements("dA")
def leaky_relu_backward(xp: Any, A: Array, dA: Array) -> Array:
    """1 where A is above 0, else a hundredth, times dA."""
    return xp.where(A > 0, dA, LEAK * dA)


@elements("Z")
def bias_elu(xp: Any, Z: Array, b: Array) -> Array:
    """Z + b where it is above 0, else exp(Z + b) − 1."""
    Z = Z + b
    return xp.where(Z > 0, Z, xp.expm1(xp.minimum(Z, 0.0)))


@elements("dA")
def elu_backward(xp: Any, A: Array, dA: Array) -> Array:
    """1 where A is above 0, else A + 1, times dA."""
    return xp.where(A > 0, dA, (A + 1) * dA)


@elements("Z")
def bias_softplus(xp: Any, Z: Array, b: Array) -> Array:
    """log(1 + exp(Z + b)): the exponential overflows nowhere."""
    Z = Z + b
    return xp.maximum(Z, 0.0) + xp.log1p(xp.exp(-abs(Z)))


@elements("dA")
def softplus_backward(xp: Any, A: Array, dA: Array) -> Array:
    """(1 − exp(−A)) ⊙ dA, which is the logistic function of Z + b."""
    return dA * -xp.expm1(-A)


@elements("Z")
def bias_tanh(xp: Any, Z: Array, b: Array) -> Array:
    """tanh(Z + b)."""
    return xp.tanh(Z + b)


@elements("dA")
def tanh_backward(xp: Any, A: Array, dA: Array) -> Array:
    """(1 − A²) ⊙ dA."""
    return dA * (1 - A * A)


@elements("Z")
def bias_logistic(xp: Any, Z: Array, b: Array) -> Array:
    """1 / (1 + exp(−Z − b)): the exponential overflows nowhere, and small results keep all their digits."""
    return _logistic(xp, Z + b)


def _logistic(xp: Any, Z: Any) -> Any:
    e = xp.exp(-abs(Z))
    return xp.where(Z < 0, e, 1.0) / (1 + e)


@elements("dA")
def logistic_backward(xp: Any, A: Array, dA: Array) -> Array:
    """(1 − A) A ⊙ dA."""
    return dA * A * (1 - A)


# --- activations whose derivative needs Z + b, which they return beside A -------------------------------------------


@elements("Z")
def bias_silu(xp: Any, Z: Array, b: Array) -> tuple[Array, Array]:
    """Z + b, and its product with its logistic function."""
    Z = Z + b
    return Z, Z * _logistic(xp, Z)


@elements("dA")
def silu_backward(xp: Any, Z: Array, dA: Array) -> Array:
    """σ (1 + Z (1 − σ)) ⊙ dA, with σ the logistic function of Z."""
    s = _logistic(xp, Z)
    return dA * (s * (1 + Z * (1 - s)))


@elements("Z")
def bias_gelu(xp: Any, Z: Array, b: Array) -> tuple[Array, Array]:
    """Z + b, and Z (1 + tanh u) / 2 of it, u = √(2/π) (Z + 0.044715 Z³)."""
    Z = Z + b
    return Z, 0.5 * Z * (1 + xp.tanh(GELU_SCALE * (Z + GELU_CUBE * (Z * Z * Z))))


@elements("dA")
def gelu_backward(xp: Any, Z: Array, dA: Array) -> Array:
    """(1 + t + Z (1 − t²) u′) / 2 ⊙ dA, with t = tanh u and u′ = √(2/π) (1 + 3 · 0.044715 Z²)."""
    squared = Z * Z
    t = xp.tanh(GELU_SCALE * Z * (1 + GELU_CUBE * squared))
    slope = GELU_SCALE * (1 + (3 * GELU_CUBE) * squared)
    return dA * (0.5 * (1 + t + Z * (1 - t * t) * slope))


# --- the gradient: what is added to it, or multiplies it ------------------------------------------------------------


@elements("delta")
def weighted(xp: Any, delta: Array, weights: Array, *, share: Scalar) -> Array:
    """Each row by its sample's weight, of which a share counts."""
    return delta * (weights * share)


@elements()
def decayed(xp: Any, gradient: Array, theta: Array, *, weight_decay: Scalar) -> Array:
    """Plus the gradient of weight_decay / 2 · theta², in a new array."""
    return gradient + weight_decay * theta


# --- updates; see `xpmlp.math.optimizers` ---------------------------------------------------------------------------


@elements("theta")
def sgd_step(xp: Any, theta: Array, gradient: Array, *, rate: Scalar) -> Array:
    """One step down the gradient."""
    return theta - rate * gradient


@elements("theta", "velocity", fixed=("nesterov", "rate_inside"))
def momentum_step(
    xp: Any,
    theta: Array,
    velocity: Array,
    gradient: Array,
    *,
    rate: Scalar,
    momentum: Scalar,
    nesterov: bool,
    rate_inside: bool,
) -> tuple[Array, Array]:
    """One step of momentum, Polyak's or Nesterov's, the rate outside of the velocity or inside."""
    if rate_inside:
        gradient = -rate * gradient
    velocity = momentum * velocity + gradient
    direction = gradient + momentum * velocity if nesterov else velocity
    return (theta + direction if rate_inside else theta - rate * direction), velocity


@elements("theta", "m", "v")
def adam_step(
    xp: Any,
    theta: Array,
    m: Array,
    v: Array,
    gradient: Array,
    *,
    rate: Scalar,
    beta1: Scalar,
    beta2: Scalar,
    epsilon: Scalar,
) -> tuple[Array, Array, Array]:
    """One step of Adam, whose bias corrections are in the rate and in epsilon."""
    m = m + (1 - beta1) * (gradient - m)
    v = beta2 * v + (1 - beta2) * (gradient * gradient)
    return theta - rate * (m / (xp.sqrt(v) + epsilon)), m, v


@elements("theta")
def partly_shrunk(xp: Any, theta: Array, shares: Array, *, decay: Scalar) -> Array:
    """Decoupled weight decay, of each parameter a share; see `shrunk`."""
    return theta - decay * shares * theta


@elements("theta")
def shrunk(xp: Any, theta: Array, *, decay: Scalar) -> Array:
    """Decoupled weight decay. Not theta · (1 − decay): near 1, float32 would keep two of decay's digits."""
    return theta - decay * theta


# --- an epoch's totals ----------------------------------------------------------------------------------------------


@elements("loss", "correct", "steps", "finite")
def accumulate(
    xp: Any,
    loss: Array,
    correct: Array,
    steps: Array,
    finite: Array,
    batch_loss: Array,
    batch_correct: Array,
    *,
    n: Scalar,
) -> tuple[Array, Array, Array, Array]:
    """One more batch of n in the sums: losses, number correct, batches, and those before a loss that is not finite."""
    loss = loss + batch_loss * n
    return loss, correct + batch_correct, steps + 1, finite + xp.astype(xp.isfinite(loss), xp.int32)
