"""Time our estimators and scikit-learn's: ``python scripts/estimators.py --help``.

Epochs of MLPClassifier on MNIST, and whole fits of small data sets, with as many epochs for both. Each column has its
own process; the rounds take turns, and medians count.
"""

import argparse
import json
import statistics
import subprocess
import sys

HIDDEN = ((100,), (256, 128), (1024, 1024))
BATCHES = (200, 1024)
SMALL = {
    "iris": ("iris", {"hidden_layer_sizes": (100,), "max_iter": 200}),
    "digits (100,)": ("digits", {"hidden_layer_sizes": (100,), "max_iter": 30}),
    "digits (32,), batch 32": ("digits", {"hidden_layer_sizes": (32,), "batch_size": 32, "max_iter": 15}),
    "diabetes, sgd": ("diabetes", {"hidden_layer_sizes": (100,), "solver": "sgd", "learning_rate_init": 0.01,
                                   "max_iter": 100}),
    "20,000 × 30, (64, 64)": ("table", {"hidden_layer_sizes": (64, 64), "max_iter": 5}),
    "iris, lbfgs": ("iris", {"hidden_layer_sizes": (100,), "solver": "lbfgs", "max_iter": 80}),
}  # fmt: skip
"""Fits whose numbers of epochs, or of L-BFGS's iterations, rounding does not change."""


def main() -> None:
    """Print the table, or measure one column of one round."""
    parser = argparse.ArgumentParser(
        description="Seconds of ours and theirs: an epoch of MNIST (MLPClassifier, Adam, float32), and small fits."
    )
    parser.add_argument("--data-dir", help="where MNIST is (else XPMLP_DATA, the cache, or a download)")
    parser.add_argument("--samples", type=int, default=20_000, help="training images (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (%(default)s)")
    parser.add_argument("--backend", action="append", default=[], help="another column: torch, jax, cupy, … (repeat)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child, arguments.data_dir, arguments.samples)))
        return
    columns = ["scikit-learn", "numpy", *arguments.backend]
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.rounds):
        for column in columns:
            command = [sys.executable, __file__, "--child", column, "--samples", str(arguments.samples)]
            command += ["--data-dir", arguments.data_dir] if arguments.data_dir else []
            for row, seconds in json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout).items():
                found.setdefault((row, column), []).append(seconds)
    heads = ["MNIST by its hidden layers and batch size (s/epoch), or a fit (s)", *columns, "ratio of numpy's"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in dict.fromkeys(row for row, _ in found):
        here = [column for column in columns if (row, column) in found]
        cells = [
            f"{statistics.median(found[row, c]):.3f} ({spread(found[row, c])})" if c in here else "" for c in columns
        ]
        ratios = [ours / theirs for ours, theirs in zip(found[row, "numpy"], found[row, "scikit-learn"], strict=True)]
        print(f"| {row} | {' | '.join(cells)} | {statistics.median(ratios):.2f} ({spread(ratios)}) |")


def spread(values: list[float]) -> str:
    """Return the least and the greatest."""
    return f"{min(values):.3g}–{max(values):.3g}"


def measure(column: str, data_dir: str | None, n: int) -> dict[str, float]:
    """Return the median of three epochs, for every row of the table."""
    import time

    import numpy as np

    import xpmlp

    train = xpmlp.load_dataset("mnist", data_dir).train
    X = (train.images[:n].reshape(n, -1) / np.float32(255)).astype(np.float32)
    y, classes = train.labels[:n].astype(np.int32), np.arange(10, dtype=np.int32)
    if column == "scikit-learn":
        from sklearn.neural_network import MLPClassifier as Kind
    else:
        Kind = xpmlp.MLPClassifier
        if column != "numpy":
            backend = xpmlp.get_backend(column)
            X, y, classes = (backend.asarray(array) for array in (X, y, classes))
    found = {}
    for hidden in HIDDEN:
        for batch_size in BATCHES:
            model = Kind(hidden, batch_size=batch_size, random_state=0).partial_fit(X, y, classes=classes)
            seconds = []
            for _ in range(3):
                began = time.perf_counter()
                model.partial_fit(X, y)
                seconds.append(time.perf_counter() - began)
            found[f"{hidden}, {batch_size}"] = statistics.median(seconds)
    return found if column not in ("scikit-learn", "numpy") else found | measure_small(Kind.__module__)


def measure_small(package: str) -> dict[str, float]:
    """Return the median of nine fits of each small data set, by scikit-learn's estimators or ours."""
    import time
    import warnings
    from importlib import import_module

    import numpy as np
    from sklearn import datasets

    import xpmlp

    warnings.simplefilter("ignore")  # that they have not converged
    kinds = import_module("sklearn.neural_network") if package.startswith("sklearn") else xpmlp
    rng = np.random.default_rng(0)
    table = rng.standard_normal((20_000, 30))
    data = {
        "iris": datasets.load_iris(return_X_y=True),
        "digits": datasets.load_digits(return_X_y=True),
        "diabetes": datasets.load_diabetes(return_X_y=True),
        "table": (table, (table[:, 0] * table[:, 1] + table[:, 2] > 0).astype(int)),
    }
    found = {}
    for name, (which, settings) in SMALL.items():
        X, y = data[which]
        X = (X - X.mean(axis=0)) / np.maximum(X.std(axis=0), 1e-3)
        y = (y - y.mean()) / y.std() if which == "diabetes" else y
        kind = kinds.MLPRegressor if which == "diabetes" else kinds.MLPClassifier
        seconds = []
        for _ in range(10):
            began = time.perf_counter()
            kind(random_state=0, tol=0, n_iter_no_change=1000, **settings).fit(X, y)
            seconds.append(time.perf_counter() - began)
        found[name] = statistics.median(seconds[1:])
    return found


if __name__ == "__main__":
    main()
