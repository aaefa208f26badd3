"""Run the notes' equations literally, with each of their slips and each pair of them, over rates from 1e-4 to 1.

``python scripts/why.py --help``. The script writes one line of JSON per run to runs/why.jsonl, and skips the runs that
it holds already. It prints a table and draws scripts/pictures/why.png. The findings are in xpmlp/math/derivation.md,
"Why 0.376?".
"""

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path

import numpy as np

import xpmlp

SLIPS = {
    "sum": "sum, not mean",
    "rows": "n-row bias gradients",
    "product": "misplaced product",
    "pixels": "raw pixels",
    "weights": "unit-scale weights",
    "few": "too few steps",
}
"""The slips by their names in a run's line: those of derivation.md, "Where this page departs from the notes", and three
usual ones."""

NOTES = 0.376
WIDTH, BATCH, STEPS, FEW = 128, 100, 500, 25
"""The width of both hidden layers (the misplaced product fits no other); images per step; steps of an epoch; too few
steps."""

RATES = [round(10 ** (k / 2), 6) for k in range(-8, 1)]
LOOKS = 5
"""How often a run measures the validation accuracy, including at its end."""


def main() -> None:
    """Make the missing runs, print the table and draw the graph."""
    parser = argparse.ArgumentParser(description="Which slips end near a validation accuracy of 0.376?")
    parser.add_argument("--data-dir", help="where MNIST is (else XPMLP_DATA, the cache, or a download)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each setting (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/why.jsonl"), help="the runs (%(default)s)")
    parser.add_argument("--picture", type=Path, default=Path(__file__).parent / "pictures" / "why.png")
    arguments = parser.parse_args()
    settings = [(), *((slip,) for slip in SLIPS), *itertools.combinations(SLIPS, 2)]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    done = {(tuple(line["slips"]), line["rate"], line["seed"]) for line in lines}
    train = xpmlp.load_dataset("mnist", arguments.data_dir).train
    images, labels = train.images.reshape(len(train), -1), train.labels
    with arguments.out.open("a") as file:
        for seed, slips, rate in itertools.product(range(arguments.seeds), settings, RATES):
            if (slips, rate, seed) in done:
                continue
            began = time.perf_counter()
            best, last = run(set(slips), rate, seed, images, labels)
            line = {"slips": slips, "rate": rate, "seed": seed, "best": best, "last": last}
            print(line, f"{time.perf_counter() - began:.1f} s", flush=True)
            lines.append(line)
            file.write(json.dumps(line) + "\n")
            file.flush()
    found: dict[tuple[str, ...], dict[float, list[float]]] = {}
    for line in lines:
        found.setdefault(tuple(line["slips"]), {}).setdefault(line["rate"], []).append(line["best"])
    medians = {slips: {rate: statistics.median(found[slips][rate]) for rate in RATES} for slips in settings}
    tell(medians)
    draw(medians, arguments.picture)


def run(slips: set[str], rate: float, seed: int, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the best and the last validation accuracy of one run, on the training set's last 10,000 images."""
    rng = np.random.default_rng(seed)
    sizes = (784, WIDTH, WIDTH, 10)
    weights = [rng.standard_normal(shape) for shape in itertools.pairwise(sizes)]
    if "weights" not in slips:
        weights = [W * np.sqrt(2 / len(W)) for W in weights]
    theta = [array.astype(np.float32) for W in weights for array in (W, np.zeros((1, W.shape[1])))]
    order = rng.permutation(50_000)
    scale = np.float32(1 if "pixels" in slips else 1 / 255)
    steps = FEW if "few" in slips else STEPS
    accuracies = []
    with np.errstate(over="ignore", invalid="ignore"):  # a run may diverge
        for k in range(steps):
            rows = order[k * BATCH : (k + 1) * BATCH]
            theta = step(theta, images[rows] * scale, labels[rows], np.float32(rate), slips)
            if (k + 1) % (steps // LOOKS) == 0:
                accuracies.append(accuracy(theta, images[50_000:], labels[50_000:], scale))
    return max(accuracies), accuracies[-1]


def forward(theta: list[np.ndarray], X: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return all arrays of the forward pass, F1 to F6."""
    W1, b1, W2, b2, W3, b3 = theta
    H = X @ W1 + b1
    A = np.maximum(H, 0)
    O = A @ W2 + b2  # noqa: E741
    q = np.maximum(O, 0)
    S = q @ W3 + b3
    P = np.exp(S - S.max(axis=1, keepdims=True))
    P /= P.sum(axis=1, keepdims=True)
    return H, A, O, q, P


def step(
    theta: list[np.ndarray], X: np.ndarray, labels: np.ndarray, rate: np.float32, slips: set[str]
) -> list[np.ndarray]:
    """Return the parameters after one step of plain gradient descent: B1 to B11, changed by the slips."""
    W2, W3 = theta[2], theta[4]
    H, A, O, q, P = forward(theta, X)  # noqa: E741
    T = np.eye(10, dtype=X.dtype)[labels]
    dS = P - T if "sum" in slips else (P - T) / np.float32(len(X))
    dq = dS @ W3.T
    dO = (O > 0) * dq
    dA = (O > 0) * (dq @ W2.T) if "product" in slips else dO @ W2.T
    dH = (H > 0) * dA

    def bias(delta: np.ndarray) -> np.ndarray:
        """With a gradient of n rows, a bias gets n rows too: one for each place in the batch."""
        return delta if "rows" in slips else delta.sum(axis=0, keepdims=True)

    gradients = X.T @ dH, bias(dH), A.T @ dO, bias(dO), q.T @ dS, bias(dS)
    return [array - rate * gradient for array, gradient in zip(theta, gradients, strict=True)]


def accuracy(theta: list[np.ndarray], images: np.ndarray, labels: np.ndarray, scale: np.float32) -> float:
    """Return the accuracy, computed batch by batch, since biases of n rows need it.

    If outputs are not finite, NumPy takes the first as the greatest: about a tenth is then correct.
    """
    right = 0
    for k in range(0, len(images), BATCH):
        P = forward(theta, images[k : k + BATCH] * scale)[-1]
        right += int(np.sum(P.argmax(axis=1) == labels[k : k + BATCH]))
    return right / len(images)


def tell(medians: dict[tuple[str, ...], dict[float, float]]) -> None:
    """Print one row per setting: its validation accuracy at each rate."""
    print("| slips | " + " | ".join(f"{rate:.2g}" for rate in RATES) + " | best |\n|" + "---|" * (len(RATES) + 2))
    for slips, of in sorted(medians.items(), key=lambda item: (len(item[0]), -max(item[1].values()))):
        name = " and ".join(SLIPS[slip] for slip in slips) or "none"
        print(f"| {name} | " + " | ".join(f"{of[rate]:.3f}" for rate in RATES) + f" | {max(of.values()):.3f} |")


def draw(medians: dict[tuple[str, ...], dict[float, float]], path: Path) -> None:
    """Draw the single slips over the rates, and each pair's accuracy at its best rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    singly, pairs = figure.subplots(1, 2)
    for k, slips in enumerate([(), *((slip,) for slip in SLIPS)]):
        style = {"color": "black", "linewidth": 2.5} if not slips else {"color": f"C{k - 1}", "marker": "o"}
        y = [medians[slips][rate] for rate in RATES]
        singly.plot(RATES, y, label=SLIPS[slips[0]] if slips else "none", markersize=4, **style)
    singly.axhline(NOTES, color="grey", linestyle="--", linewidth=1)
    singly.text(1.01, NOTES, f"{NOTES}", color="grey", va="center", transform=singly.get_yaxis_transform())
    singly.set(
        xscale="log", ylim=(0, 1), xlabel="learning rate", ylabel="validation accuracy", title="one slip, one epoch"
    )
    singly.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4)
    singly.grid(alpha=0.3)
    names = list(SLIPS)
    best = np.full((len(names), len(names)), np.nan)
    for (i, first), (j, second) in itertools.product(enumerate(names), repeat=2):
        if j <= i:
            slips = (first,) if i == j else (second, first)
            best[i, j] = max(medians[slips].values())
            near = abs(best[i, j] - NOTES) < 0.1
            weight = "bold" if near else "normal"
            shade = "white" if best[i, j] < 0.6 else "black"
            pairs.text(j, i, f"{best[i, j]:.3f}", ha="center", va="center", weight=weight, color=shade)
    pairs.imshow(best, cmap="viridis", vmin=0, vmax=1)
    pairs.set_xticks(range(len(names)), [SLIPS[name] for name in names], rotation=30, ha="right")
    pairs.set_yticks(range(len(names)), [SLIPS[name] for name in names])
    pairs.set_title("two slips (one on the diagonal), at the best rate")
    pairs.spines[:].set_visible(False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
