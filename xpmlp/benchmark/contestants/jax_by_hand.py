"""JAX as its users write it well: one jitted step with gather, gradient and update, its buffers donated."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xpmlp.benchmark.work import Contestant, Work, read_mnist

jax.config.update("jax_default_matmul_precision", "highest")  # true float32, as all others have


def _logits(params: Any, X: Any) -> Any:
    *hidden, (W, b) = params
    for V, c in hidden:
        X = jax.nn.relu(X @ V + c)
    return X @ W + b


def _loss(params: Any, X: Any, y: Any) -> Any:
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(_logits(params, X)), y[:, None], axis=1))


@functools.partial(jax.jit, donate_argnums=(0, 1, 2))
def _adam(params: Any, m: Any, v: Any, t: Any, rate: Any, X: Any, y: Any, rows: Any) -> Any:
    gradient = jax.grad(_loss)(params, X[rows], y[rows])
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradient)
    scale = jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    return jax.tree.map(lambda p, m, v: p - rate * scale * m / (jnp.sqrt(v) + 1e-8), params, m, v), m, v


@functools.partial(jax.jit, donate_argnums=(0, 1, 2))
def _nesterov(params: Any, m: Any, v: Any, t: Any, rate: Any, X: Any, y: Any, rows: Any, momentum: Any) -> Any:
    gradient = jax.grad(_loss)(params, X[rows], y[rows])
    m = jax.tree.map(lambda m, g: momentum * m + g, m, gradient)
    return jax.tree.map(lambda p, m, g: p - rate * (g + momentum * m), params, m, gradient), m, v


def enter(work: Work, name: str) -> Contestant:
    """Return a list of layers, and tree maps."""
    X, y, X_test, y_test = read_mnist(work)
    X, y, X_test = jnp.asarray(X), jnp.asarray(y.astype(np.int32)), jnp.asarray(X_test)
    rng = np.random.default_rng(0)
    params = [
        (jnp.asarray(rng.normal(0, np.sqrt(2 / i), (i, o)).astype(np.float32)), jnp.zeros(o))
        for i, o in itertools.pairwise(work.sizes)
    ]
    m, v = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
    update = _adam if work.optimizer == "adam" else functools.partial(_nesterov, momentum=work.momentum)
    step = 0

    def epoch() -> None:
        nonlocal params, m, v, step
        order = jnp.asarray(rng.permutation(len(X)).astype(np.int32))
        for first in range(0, len(X), work.batch_size):
            step += 1
            rows = order[first : first + work.batch_size]
            params, m, v = update(params, m, v, step, work.rate(step), X, y, rows)
        jax.block_until_ready(params)

    def test_accuracy() -> float:
        return float(np.mean(np.argmax(np.asarray(_logits(params, X_test)), axis=1) == y_test))

    products = f"float32 at {jax.config.jax_default_matmul_precision!r}"
    about = {"library": "jax", "version": jax.__version__, "device": str(jax.devices()[0]), "products": products}
    return Contestant(epoch, test_accuracy, about)
