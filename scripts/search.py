"""Time a search in stacks beside scikit-learn's and `jax.vmap`: ``python scripts/search.py --help``.

All search the same grid, on digits and on a table of 20,000 × 30. Then K networks of one stack are timed beside K of
`jax.vmap`. The rounds take turns, and medians count.
"""

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Callable

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # joblib's processes have one each, too
warnings.simplefilter("ignore")  # that nothing has converged
os.environ["PYTHONWARNINGS"] = "ignore"

import joblib  # noqa: E402
import numpy as np  # noqa: E402
import sklearn.model_selection as theirs  # noqa: E402
import sklearn.neural_network  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402

import xpmlp  # noqa: E402

GRID = {"alpha": np.geomspace(1e-5, 1e-1, 6).tolist(), "learning_rate_init": np.geomspace(1e-3, 1e-2, 8).tolist()}
KS = (1, 4, 16, 64, 256)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Seconds of a search of 48 settings × 5 folds, and of K networks.")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each (%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="of each network (%(default)s)")
    parser.add_argument("--table-epochs", type=int, default=2, help="of each network on the table (%(default)s)")
    parser.add_argument("--dtype", action="append", choices=["float32", "float64"], help="of the samples (repeat)")
    parser.add_argument("--no-vmap", action="store_true", help="leave the second table out")
    arguments = parser.parse_args()
    dtypes = arguments.dtype or ["float64", "float32"]
    print(f"{joblib.cpu_count()} cores\n\n| data, dtype, batch size | {' | '.join(searches())} | ratio to theirs |")
    print("|" + "---|" * (2 + len(searches())))
    for name, (X, y, hidden, epochs) in data(arguments.epochs, arguments.table_epochs).items():
        for dtype in dtypes:
            for batch_size in (32, 200):
                search(
                    f"{name}, {dtype}, {batch_size}", X.astype(dtype), y, hidden, batch_size, epochs, arguments.rounds
                )
    if not arguments.no_vmap:
        print("\n| networks | ours on NumPy | ours on JAX | jax.vmap | one by one |\n|---|---|---|---|---|")
        for K in KS:
            several(K, arguments.rounds)


def data(epochs: int, table_epochs: int) -> dict[str, tuple[np.ndarray, np.ndarray, tuple[int, ...], int]]:
    """Return samples, labels, hidden layers and epochs by the data's name."""
    X, y = load_digits(return_X_y=True)
    table = np.random.default_rng(0).standard_normal((20_000, 30))
    labels = (table[:, 0] * table[:, 1] + table[:, 2] > 0).astype(int)
    return {"digits": (X / 16, y, (100,), epochs), "20,000 × 30": (table, labels, (64,), table_epochs)}


def searches() -> dict[str, tuple[type, type, int]]:
    """Return the search, the estimator and the jobs by a column's name."""
    n, own = joblib.cpu_count(), sklearn.neural_network.MLPClassifier
    return {
        "theirs, 1": (theirs.GridSearchCV, own, 1),
        f"theirs, {n}": (theirs.GridSearchCV, own, n),
        f"theirs of our MLP, {n}": (theirs.GridSearchCV, xpmlp.MLPClassifier, n),
        "ours, 1": (xpmlp.GridSearchCV, xpmlp.MLPClassifier, 1),
        f"ours, {n}": (xpmlp.GridSearchCV, xpmlp.MLPClassifier, n),
    }


def search(
    row: str, X: np.ndarray, y: np.ndarray, hidden: tuple[int, ...], batch_size: int, epochs: int, rounds: int
) -> None:
    """Print a line of the first table."""
    settings = {"hidden_layer_sizes": hidden, "batch_size": batch_size, "max_iter": epochs, "random_state": 0}
    seconds: dict[str, list[float]] = {name: [] for name in searches()}
    best = {}
    for _ in range(rounds):
        for name, (kind, estimator, n_jobs) in searches().items():
            began = time.perf_counter()
            found = kind(estimator(**settings), GRID, cv=5, n_jobs=n_jobs, refit=False).fit(X, y)
            seconds[name].append(time.perf_counter() - began)
            best[name] = found.cv_results_["mean_test_score"]
    names = list(seconds)
    assert all(np.array_equal(best[name], best[names[2]]) for name in names[3:]), "a stack has other scores"
    least = [min(pair) for pair in zip(seconds[names[0]], seconds[names[1]], strict=True)]
    cells = [f"{statistics.median(seconds[name]):.1f} s" for name in names]
    ratios = []
    for name in names[-2:]:
        each = [ours / other for ours, other in zip(seconds[name], least, strict=True)]
        ratios.append(f"{name}: {statistics.median(each):.2f} ({min(each):.2f}–{max(each):.2f})")
    print(f"| {row} | {' | '.join(cells)} | {'; '.join(ratios)} |", flush=True)


def several(K: int, rounds: int) -> None:
    """Print a line of the second table: microseconds of a network's step, of K at once; digits, float32, batch 32."""
    X, y = load_digits(return_X_y=True)
    X, y = (X / 16).astype(np.float32)[:1792], y[:1792].astype(np.int32)
    epochs = max(1, 64 // K)
    ways: dict[str, Callable[[], None]] = {"numpy": stacked(X, y, K, epochs, "numpy")}
    ways |= {"jax": stacked(X, y, K, epochs, "jax"), "vmap": vmapped(X, y, K, epochs), "alone": alone(X, y, K, epochs)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in ways.items():
        way()  # compiles
        for _ in range(rounds):
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    steps = K * epochs * len(X) // 32
    print(f"| {K} | {' | '.join(f'{statistics.median(each) / steps * 1e6:.0f} µs' for each in seconds.values())} |")


def networks(K: int, epochs: int) -> list[xpmlp.MLPClassifier]:
    """Return K networks that differ in their seed."""
    return [xpmlp.MLPClassifier((100,), batch_size=32, max_iter=epochs, random_state=seed) for seed in range(K)]


def stacked(X: np.ndarray, y: np.ndarray, K: int, epochs: int, spec: str) -> Callable[[], None]:
    """Return what fits K networks in stacks."""
    from xpmlp.estimators.stacks import Job, fit_together

    backend = xpmlp.get_backend(spec)
    samples, labels = backend.asarray(X), backend.asarray(y)
    return lambda: fit_together([Job(each, samples, labels, source=0) for each in networks(K, epochs)]) and None


def alone(X: np.ndarray, y: np.ndarray, K: int, epochs: int) -> Callable[[], None]:
    """Return what fits K networks one by one."""
    return lambda: [each.fit(X, y) for each in networks(K, epochs)] and None


def vmapped(X: np.ndarray, y: np.ndarray, K: int, epochs: int) -> Callable[[], None]:
    """Return what trains K networks by `jax.vmap` of a step written by hand: Adam, cross-entropy, an L2 penalty."""
    import jax
    from jax import numpy as jnp

    def loss(theta, X, y):  # type: ignore[no-untyped-def]
        W1, b1, W2, b2 = theta
        log_P = jax.nn.log_softmax(jax.nn.relu(X @ W1 + b1) @ W2 + b2)
        penalty = 0.5e-4 / 32 * (jnp.sum(W1 * W1) + jnp.sum(W2 * W2))
        return -jnp.mean(jnp.take_along_axis(log_P, y[:, None], axis=1)) + penalty

    def step(theta, m, v, t, rows, X, y):  # type: ignore[no-untyped-def]
        g = jax.grad(loss)(theta, X[rows], y[rows])
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        return jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), theta, m, v), m, v

    def epoch(theta, m, v, t, orders, X, y):  # type: ignore[no-untyped-def]
        def turn(carry, rows):  # type: ignore[no-untyped-def]
            theta, m, v, t = carry
            return (*jax.vmap(step, (0, 0, 0, None, 0, None, None))(theta, m, v, t + 1, rows, X, y), t + 1), None

        return jax.lax.scan(turn, (theta, m, v, t), orders)[0]

    compiled = jax.jit(epoch, donate_argnums=(0, 1, 2))
    rng = np.random.default_rng(0)
    shapes = ((K, 64, 100), (K, 100), (K, 100, 10), (K, 10))
    samples, labels = jnp.asarray(X), jnp.asarray(y)

    def train() -> None:
        theta = tuple(jnp.asarray(0.1 * rng.standard_normal(shape), jnp.float32) for shape in shapes)
        m, v, t = (*(jax.tree.map(jnp.zeros_like, theta) for _ in range(2)), jnp.float32(0))
        for _ in range(epochs):
            orders = np.stack([rng.permutation(len(X)) for _ in range(K)]).reshape(K, -1, 32).swapaxes(0, 1)
            theta, m, v, t = compiled(theta, m, v, t, jnp.asarray(orders, jnp.int32), samples, labels)
        jax.block_until_ready(theta)

    return train


if __name__ == "__main__":
    main()
