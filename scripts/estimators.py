"""Time an epoch of our MLPClassifier beside scikit-learn's: ``python scripts/estimators.py --help``.

Each is timed in a process of its own, since ours changes how the C library keeps memory for its whole process; the
rounds take turns, and medians count.
"""

import argparse
import json
import statistics
import subprocess
import sys

HIDDEN = ((100,), (256, 128), (1024, 1024))
BATCHES = (200, 1024)


def main() -> None:
    """Print the table, or measure one column of one round."""
    parser = argparse.ArgumentParser(description="Seconds an epoch of MLPClassifier, Adam, float32: ours and theirs.")
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
    heads = ["hidden, batch size", *(f"{column}, s/epoch" for column in columns), "ratio of numpy's"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in dict.fromkeys(row for row, _ in found):
        medians = {column: statistics.median(found[row, column]) for column in columns}
        cells = [f"{medians[column]:.3f} ({spread(found[row, column])})" for column in columns]
        print(f"| {row} | {' | '.join(cells)} | {medians['numpy'] / medians['scikit-learn']:.2f} |")


def spread(values: list[float]) -> str:
    """Return the least and the greatest."""
    return f"{min(values):.3f}–{max(values):.3f}"


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
    return found


if __name__ == "__main__":
    main()
