"""Elementwise functions between the matrix products; each is written once, for every library.

The first argument is the namespace. If the library's arrays are writable, the result overwrites the argument that the
decorator names. The caller must not use that argument again. `xpmlp.kernels` has the compilers.
"""

import math
from typing import Any, TypeAlias

from xpmlp.kernels import elements
from xpmlp.namespaces import Array

Scalar: TypeAlias = Any
"""A Python number, or an array that broadcasts, such as one number per network."""

LEAK = 0.01
GELU_SCALE, GELU_CUBE = math.sqrt(2 / math.pi), 0.044715


@elements(fixed=("dtype",))
def scaled(xp: Any, images: Array, *, share: Scalar, dtype: Any) -> Array:
    """X: bytes cast to a dtype, times a factor."""
    return xp.astype(images, dtype) * share


# --- activations: A = f(Z + b), and the gradient with respect to Z, from A and that with respect to A -----------------


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
    """ReLU′ ⊙ dA. A is above 0 exactly where Z is."""
    return xp.where(A > 0, dA, 0.0)


@elements("Z")
def masked_bias_relu(xp: Any, Z: Array, b: Array, mask: Array) -> Array:
    """max(Z + b, 0) ⊙ dropout's mask."""
    return xp.maximum(Z + b, 0.0) * mask


@elements("dA")
def masked_relu_backward(xp: Any, A: Array, dA: Array, mask: Array) -> Array:
    """ReLU′ ⊙ mask ⊙ dA. A is 0 where the mask is 0."""
    return xp.where(A > 0, dA * mask, 0.0)


@elements("Z")
def bias_leaky_relu(xp: Any, Z: Array, b: Array) -> Array:
    """Z + b where it is above 0, else 0.01 (Z + b)."""
    Z = Z + b
    return xp.where(Z > 0, Z, LEAK * Z)


@elements("dA")
def leaky_relu_backward(xp: Any, A: Array, dA: Array) -> Array:
    """1 where A is above 0, else 0.01; times dA."""
    return xp.where(A > 0, dA, LEAK * dA)


@elements("Z")
def bias_elu(xp: Any, Z: Array, b: Array) -> Array:
    """Z + b where it is above 0, else exp(Z + b) − 1."""
    Z = Z + b
    return xp.where(Z > 0, Z, xp.expm1(xp.minimum(Z, 0.0)))


@elements("dA")
def elu_backward(xp: Any, A: Array, dA: Array) -> Array:
    """1 where A is above 0, else A + 1; times dA."""
    return xp.where(A > 0, dA, (A + 1) * dA)


@elements("Z")
def bias_softplus(xp: Any, Z: Array, b: Array) -> Array:
    """log(1 + exp(Z + b)), without overflow."""
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
    """1 / (1 + exp(−Z − b)), without overflow and with all digits of small results."""
    return _logistic(xp, Z + b)


def _logistic(xp: Any, Z: Any) -> Any:
    e = xp.exp(-abs(Z))
    return xp.where(Z < 0, e, 1.0) / (1 + e)


@elements("dA")
def logistic_backward(xp: Any, A: Array, dA: Array) -> Array:
    """(1 − A) A ⊙ dA."""
    return dA * A * (1 - A)


# --- activations whose derivative needs Z + b, which they return with A -----------------------------------------------


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
    """Z + b (called Z from here), and Z (1 + tanh u) / 2 with u = √(2/π) (Z + 0.044715 Z³)."""
    Z = Z + b
    return Z, 0.5 * Z * (1 + xp.tanh(GELU_SCALE * (Z + GELU_CUBE * (Z * Z * Z))))


@elements("dA")
def gelu_backward(xp: Any, Z: Array, dA: Array) -> Array:
    """(1 + t + Z (1 − t²) u′) / 2 ⊙ dA, with t = tanh u and u′ = √(2/π) (1 + 3 · 0.044715 Z²)."""
    squared = Z * Z
    t = xp.tanh(GELU_SCALE * Z * (1 + GELU_CUBE * squared))
    slope = GELU_SCALE * (1 + (3 * GELU_CUBE) * squared)
    return dA * (0.5 * (1 + t + Z * (1 - t * t) * slope))


# --- the gradient: its additional terms and its factors ---------------------------------------------------------------


@elements("delta")
def weighted(xp: Any, delta: Array, weights: Array, *, share: Scalar) -> Array:
    """Each row times its sample's weight and a common factor."""
    return delta * (weights * share)


@elements()
def decayed(xp: Any, gradient: Array, theta: Array, *, weight_decay: Scalar) -> Array:
    """Add the gradient of weight_decay / 2 · theta², in a new array."""
    return gradient + weight_decay * theta


# --- updates; see `xpmlp.math.optimizers` -----------------------------------------------------------------------------


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
    """One step of momentum, Polyak's or Nesterov's, with the rate outside or inside of the velocity."""
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
    """One step of Adam; the rate and epsilon include the bias corrections."""
    m = m + (1 - beta1) * (gradient - m)
    v = beta2 * v + (1 - beta2) * (gradient * gradient)
    return theta - rate * (m / (xp.sqrt(v) + epsilon)), m, v


@elements("theta")
def partly_shrunk(xp: Any, theta: Array, shares: Array, *, decay: Scalar) -> Array:
    """Decoupled weight decay, with a share for each parameter; see `shrunk`."""
    return theta - decay * shares * theta


@elements("theta")
def shrunk(xp: Any, theta: Array, *, decay: Scalar) -> Array:
    """Decoupled weight decay. theta · (1 − decay) would keep only two of decay's digits in float32."""
    return theta - decay * theta


# --- an epoch's totals ------------------------------------------------------------------------------------------------


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
    """Add a batch of n to the totals: losses, number correct, batches, and batches before a loss that is not finite."""
    loss = loss + batch_loss * n
    return loss, correct + batch_correct, steps + 1, finite + xp.astype(xp.isfinite(loss), xp.int32)
