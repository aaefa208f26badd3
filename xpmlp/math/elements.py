"""What lies between the matrix products, element by element; each function is written once, for every library.

The first argument is the namespace. Where an array's library can write into arrays, a result lies in the memory of
the argument that is named in the decorator, which the caller hands over. `xpmlp.kernels` has the compilers.
"""

from typing import Any, TypeAlias

from xpmlp.kernels import elements
from xpmlp.namespaces import Array

Scalar: TypeAlias = Any
"""A Python number, or an array that broadcasts: one number a network, say."""


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
    Z = Z + b
    e = xp.exp(-abs(Z))
    return xp.where(Z < 0, e, 1.0) / (1 + e)


@elements("dA")
def logistic_backward(xp: Any, A: Array, dA: Array) -> Array:
    """(1 − A) A ⊙ dA."""
    return dA * A * (1 - A)


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
