"""JAX as its users write it well: one jitted step with gather, gradient and update, its buffers donated."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xpmlp.benchmark.work import Contestant, Work, read_mnist

jax.config.update("jax_default_matmul_precision", "highest")  # true float32, as all others have


def _loss(params: Any, X: Any, y: Any) -> Any:
    A = X
    for W, b in params[:-1]:
        A = jax.nn.relu(A @ W + b)
    W, b = params[-1]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(A @ W + b), y[:, None], axis=1))


@functools.partial(jax.jit, donate_argnums=(0, 1, 2))
def _adam(params: Any, m: Any, v: Any, t: Any, rate: Any, X: Any, y: Any, rows: Any) -> Any:
    gradient = jax.grad(_loss)(params, X[rows], y[rows])
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradient)
    scale = jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    params = jax.tree.map(lambda p, m, v: p - rate * scale * m / (jnp.sqrt(v) + 1e-8), params, m, v)
    return params, m, v


@functools.partial(jax.jit, donate_argnums=(0, 1, 2))
def _nesterov(params: Any, m: Any, v: Any, t: Any, rate: Any, X: Any, y: Any, rows: Any) -> Any:
    gradient = jax.grad(_loss)(params, X[rows], y[rows])
    m = jax.tree.map(lambda m, g: 0.9 * m + g, m, gradient)
    params = jax.tree.map(lambda p, m, g: p - rate * (g + 0.9 * m), params, m, gradient)
    return params, m, v


class Entry(Contestant):
    """A list of layers, and tree maps."""

    def __init__(self, work: Work, backend: str) -> None:
        self.work = work
        X, y, X_test, self.y_test = read_mnist(work)
        self.X, self.y, self.X_test = jnp.asarray(X), jnp.asarray(y.astype(np.int32)), jnp.asarray(X_test)
        rng = np.random.default_rng(0)
        self.params = [
            (jnp.asarray(rng.normal(0, np.sqrt(2 / i), (i, o)).astype(np.float32)), jnp.zeros(o))
            for i, o in zip(work.sizes, work.sizes[1:], strict=False)
        ]
        self.m = jax.tree.map(jnp.zeros_like, self.params)
        self.v = jax.tree.map(jnp.zeros_like, self.params)
        self.rng, self.step = rng, 0
        self.update = _adam if work.optimizer == "adam" else _nesterov

    def epoch(self) -> None:
        """Train on every image once."""
        n, size = len(self.X), self.work.batch_size
        n_steps = -(-n // size) * self.work.epochs
        order = jnp.asarray(self.rng.permutation(n).astype(np.int32))
        for first in range(0, n, size):
            self.step += 1
            rate = self.work.rate(self.step, n_steps)
            rows = order[first : first + size]
            self.params, self.m, self.v = self.update(
                self.params, self.m, self.v, self.step, rate, self.X, self.y, rows
            )
        jax.block_until_ready(self.params)

    def test_accuracy(self) -> float:
        """Return the accuracy over the test images."""
        A = self.X_test
        for W, b in self.params[:-1]:
            A = jax.nn.relu(A @ W + b)
        W, b = self.params[-1]
        return float(np.mean(np.argmax(np.asarray(A @ W + b), axis=1) == self.y_test))

    def describe(self) -> dict[str, str]:
        """Return its version and precision."""
        return {
            "library": "jax",
            "version": jax.__version__,
            "device": str(jax.devices()[0]),
            "products": f"float32 at {jax.config.jax_default_matmul_precision!r}",
        }
