"""Change one setting of a recipe at a time, and measure the gain on validation data.

``python scripts/ablate.py --help``. The script writes one line of JSON per run to runs/ablate.jsonl, skips the runs
that it holds already, and prints a table. It does not read the test set.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import xpmlp
from xpmlp.errors import ConfigError, TrainingError, XpmlpError
from xpmlp.training.config import RECIPES

CHANGES: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "no deformation": {"deform": 0.0, "deform_fade": 0.0},
    "deformation 0.5": {"deform": 0.5},
    "deformation 0.75": {"deform": 0.75},
    "deformation 1.5": {"deform": 1.5},
    "no fading": {"deform_fade": 0.0},
    "deformation fades over the last tenth": {"deform_fade": 0.1},
    "deformation fades over the last half": {"deform_fade": 0.5},
    "cosine": {"schedule": "cosine"},
    "peak 0.05": {"learning_rate": 0.05},
    "peak 0.2": {"learning_rate": 0.2},
    "batch 128": {"batch_size": 128},
    "no weight decay": {"weight_decay": 0.0},
    "dropout 0.1": {"dropout": 0.1},
    "dropout 0.3": {"dropout": 0.3},
    "centred at 0.13": {"center": 0.13},
    "1024-512": {"hidden": (1024, 512)},
    "1024-512, no fading": {"hidden": (1024, 512), "deform_fade": 0.0},
    "1024-512-256": {"hidden": (1024, 512, 256)},
    "1536-768": {"hidden": (1536, 768)},
    "1280-768-384": {"hidden": (1280, 768, 384)},
}


def main() -> None:
    """Make the missing runs, seed by seed, and print the table."""
    parser = argparse.ArgumentParser(description="What each change of a recipe gains, on validation data.")
    parser.add_argument("--recipe", default="best", choices=RECIPES, help="what is changed (%(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="of each run (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each setting (%(default)s)")
    parser.add_argument("--val-size", type=float, default=10_000, help="held out: images or a fraction (%(default)s)")
    parser.add_argument("--only", action="append", choices=CHANGES, metavar="NAME", help="this change (repeat)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="in every run (repeat)")
    parser.add_argument("--dataset", default="mnist", help="(%(default)s)")
    parser.add_argument("--data-dir", help="where its files are (else XPMLP_DATA, the cache, or a download)")
    parser.add_argument("--backend", default="auto", help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/ablate.jsonl"), help="the runs (%(default)s)")
    arguments = parser.parse_args()
    try:
        if arguments.seeds < 1:
            raise ConfigError(f"--seeds {arguments.seeds}: expected at least 1")
        if not arguments.val_size:
            raise ConfigError("--val-size 0: expected images to be held out, on which the changes are compared")
        common = {"epochs": arguments.epochs, "val_size": arguments.val_size, **dict(map(assignment, arguments.set))}
        backend = xpmlp.get_backend(arguments.backend)
        train = xpmlp.load_dataset(arguments.dataset, arguments.data_dir).train
        base = {**RECIPES[arguments.recipe], **common}
        names = dict.fromkeys(arguments.only or CHANGES)
        changes = {name: CHANGES[name] for name in names if is_a_change(name, base, len(train))}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        lines = read(arguments.out)
    except (XpmlpError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    done = {line["key"]: line for line in lines}
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(arguments.seeds):
        for name, change in changes.items():
            settings = {**base, **change, "seed": seed}
            key = json.dumps([arguments.dataset, dict(sorted(settings.items()))])
            if key not in done:
                try:
                    measured = measure(settings, train, backend)
                except TrainingError as error:
                    print(f"left out: {name}, seed {seed}: {error}", file=sys.stderr)
                    continue
                done[key] = {"change": name, "seed": seed, **measured, "key": key}
                with arguments.out.open("a") as file:
                    file.write(json.dumps(done[key]) + "\n")
                shown = {what: value for what, value in done[key].items() if what != "key"}
                print(json.dumps(shown), flush=True)
            found.setdefault(name, []).append(done[key])
    tell(found)


def assignment(pair: str) -> tuple[str, Any]:
    """Return the name and the value of ``NAME=VALUE``: a setting of `xpmlp.TrainConfig`, in JSON or a bare word."""
    name, is_there, value = pair.partition("=")
    given_elsewhere = ("seed", "epochs", "val_size")
    known = [field.name for field in dataclasses.fields(xpmlp.TrainConfig) if field.name not in given_elsewhere]
    if not is_there or name not in known:
        raise ConfigError(f"--set {pair}: expected NAME=VALUE, such as hidden=[64], with one of {', '.join(known)}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def is_a_change(name: str, base: dict[str, Any], n_images: int) -> bool:
    """Return whether a change makes a different run of so many images; print it if not. Refuse invalid settings."""
    changed, was = {**base, **CHANGES[name]}, xpmlp.TrainConfig(**base).resolve(n_images)
    if changed.get("deform_fade") and not changed.get("deform"):
        print(f"left out: {name}: no deformation is there to fade", file=sys.stderr)
        return False
    if xpmlp.TrainConfig(**changed).resolve(n_images) == was and CHANGES[name]:
        print(f"left out: {name}: that is the recipe", file=sys.stderr)
        return False
    return True


def read(path: Path) -> list[dict[str, Any]]:
    """Return the runs in a file; none if there is no file."""
    if not path.exists():
        return []
    try:
        return [{**line, "key": line["key"]} for line in map(json.loads, path.read_text().splitlines())]
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f"{path} is no file of runs: expected a JSON object a line; name another") from None


def measure(settings: dict[str, Any], train: xpmlp.Dataset, backend: xpmlp.Backend) -> dict[str, Any]:
    """Return the metrics of a run's last epoch, and its seconds."""
    began = time.perf_counter()
    _, history = xpmlp.train(train, backend=backend, **settings)
    last = history.epochs[-1]
    return {
        "val_accuracy": last.val_accuracy,
        "val_loss": last.val_loss,
        "train_accuracy": last.train_accuracy,
        "seconds": round(time.perf_counter() - began, 1),
        "backend": str(backend),
    }


def tell(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print one row per change: mean, least and greatest over the seeds; the recipe first."""
    print("| change | validation accuracy, % | least–most | against the recipe | validation loss | s/run | seeds |")
    print("|---|---|---|---|---|---|---|")
    recipe = mean(found["the recipe"], "val_accuracy") if "the recipe" in found else None
    order = sorted(found, key=lambda name: (name != "the recipe", -mean(found[name], "val_accuracy")))
    for name in order:
        accuracies = [100 * line["val_accuracy"] for line in found[name]]
        gain = "" if recipe is None or name == "the recipe" else f"{statistics.mean(accuracies) - 100 * recipe:+.3f}"
        print(
            f"| {name} | {statistics.mean(accuracies):.3f} | {min(accuracies):.2f}–{max(accuracies):.2f} | {gain} "
            f"| {mean(found[name], 'val_loss'):.4f} | {mean(found[name], 'seconds'):.0f} | {len(accuracies)} |"
        )


def mean(lines: list[dict[str, Any]], what: str) -> float:
    """Return the mean of a metric over runs."""
    return statistics.mean(line[what] for line in lines)


if __name__ == "__main__":
    main()
