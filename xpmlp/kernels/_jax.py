"""JAX's own versions."""

from collections.abc import Sequence
from typing import Any

import jax
from jax import numpy as jnp


def join(arrays: Sequence[Any], networks: int = 0) -> Any:
    """Return the arrays as one vector, on the CPU by writing each into its place.

    On the CPU, XLA's concatenation takes 1 to 4 ms for 235,146 float32 numbers, three times a whole training step.
    Writing slices takes a twentieth of that.
    """
    kept = arrays[0].shape[:networks]
    parts = [array.reshape(*kept, -1) for array in arrays]
    return jax.lax.platform_dependent(*parts, cpu=_write, default=lambda *parts: jnp.concatenate(parts, axis=-1))


def _write(*parts: Any) -> Any:
    *kept, _ = parts[0].shape
    joined = jnp.zeros((*kept, sum(part.shape[-1] for part in parts)), parts[0].dtype)
    start = 0
    for part in parts:
        joined = jax.lax.dynamic_update_slice(joined, part, (*[0] * len(kept), start))
        start += part.shape[-1]
    return joined


def cross_entropy(S: Any, labels: Any) -> tuple[Any, Any, Any]:
    """Return delta, the mean loss and the number correct, the first by JAX's own derivative of the second.

    On the CPU, XLA orders the step's products better around that derivative's scatter than around a comparison with all
    classes. A step of 784-256-128-10 takes 0.88 of the time.
    """

    def losses(S: Any) -> tuple[Any, Any]:
        log_P = jnp.take_along_axis(jax.nn.log_softmax(S), labels[..., None], axis=-1, mode="fill", fill_value=0)
        means = -jnp.mean(log_P, axis=(-2, -1))
        return jnp.sum(means), means

    delta, means = jax.grad(losses, has_aux=True)(S)
    return delta, means, jnp.sum(jnp.argmax(S, axis=-1) == labels, axis=-1, dtype=jnp.int32)
