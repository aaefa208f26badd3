"""One ``xpmlp evaluate``: what is computed, written and said, in order."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

import xpmlp
from xpmlp.commands._progress import make_download_progress, say
from xpmlp.data import Dataset, load_dataset
from xpmlp.errors import ConfigError, DataError
from xpmlp.models.drawing import plot_confusion, plot_mistakes
from xpmlp.models.model import CHECKPOINTS, Model, find_model, load
from xpmlp.models.scoring import score, vote, worst_mistakes
from xpmlp.storage.files import write_whole
from xpmlp.training.folder import read_json

WORST = 30
"""How many mistakes are drawn."""

PARTS = ("test", "train")


def run(
    *,
    models: Sequence[str],
    dataset: str | None,
    data_dir: str | None,
    part: str,
    backend: str,
    batch_size: int,
    out: str | None,
    plot: bool,
) -> None:
    """Evaluate as the command line says; the arguments are its options."""
    if part not in PARTS:
        raise ConfigError(f"unknown part {part!r}: expected {' or '.join(PARTS)}")
    paths = [find_model(model) for model in models]
    networks = [load(path, backend) for path in paths]
    path, network, is_vote = paths[0], networks[0], len(paths) > 1
    folder = None if is_vote and out is None else _folder(out, path)  # a vote is at home in no model's folder
    if dataset is None:
        dataset, data_dir = _recorded_by_all(paths, networks, data_dir)
    loaded = load_dataset(dataset, data_dir, progress=make_download_progress())
    data = loaded.test if part == "test" else loaded.train
    for other in networks:
        _require_fit(other, data)
        if other.class_names != network.class_names:
            raise DataError(f"{', '.join(map(str, paths))}: models of different classes have no vote; give them singly")

    if not is_vote:
        say("model", _described(path, network))
    say("data", f"{data.provenance}, {len(data):,} images")
    say("backend", f"{network.backend}{', since ' if network.backend.note else ''}{network.backend.note}")
    record: dict[str, Any]
    if is_vote:
        S, voters = _vote(paths, networks, data, batch_size)
        record, widths = {"models": voters}, f"{len(paths)} models' vote"
    else:
        S, widths = _logits(path, network, data, batch_size), _widths(network)
        record = {"model": str(path), "model_sha256": _sum_of(path)}
    figures = score(S, data.labels, network.class_names)
    mistakes = worst_mistakes(S, data.labels, WORST)
    if is_vote:
        say("vote", f"the mean of {len(paths)} models' probabilities")
    _tell(figures, network)
    if folder is None:
        return

    evaluation = {
        "xpmlp": xpmlp.__version__,
        **record,
        "dataset": loaded.name,
        "part": part,
        "provenance": data.provenance,
        "backend": str(network.backend),
        **figures,
        "mistakes": [
            {
                "image": mistake.image,
                "label": network.class_names[mistake.label],
                "prediction": network.class_names[mistake.prediction],
                "probability": mistake.probability,
            }
            for mistake in mistakes
        ],
    }
    write_whole(
        folder / "evaluation.json",
        (json.dumps(evaluation, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode(),
    )
    written = ["evaluation.json"]
    if plot:
        n_wrong = round(figures["images"] * (1 - figures["accuracy"]))
        title = f"{widths} on the {part} set of {loaded.name}: {100 * figures['accuracy']:.2f} %"
        confusion = np.array(figures["confusion"])
        plot_confusion(confusion, network.class_names, folder / "confusion.png", title)
        captions = [
            f"{network.class_names[mistake.label]} taken for {network.class_names[mistake.prediction]}\n"
            f"{mistake.probability:.1%}, image {mistake.image}".replace("%", " %")
            for mistake in mistakes
        ]
        images = data.images[[mistake.image for mistake in mistakes]]
        shown = f"the most confident of {n_wrong:,} mistakes" if n_wrong > WORST else f"{n_wrong:,} mistakes"
        plot_mistakes(images, captions, folder / "mistakes.png", f"{title}, {shown}", network.max_value)
        written += ["confusion.png", "mistakes.png"]
    say("written", f"{', '.join(written)} in {folder}")


def _described(path: Path, network: Model) -> str:
    note = "" if path.parent.name != CHECKPOINTS else ", a checkpoint"
    return f"{path}: {_widths(network)} of {network.dataset}, {network.theta.dtype}{note}"


def _widths(network: Model) -> str:
    return "-".join(map(str, network.layout.sizes))


def _sum_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _logits(path: Path, network: Model, data: Dataset, batch_size: int) -> np.ndarray:
    S: np.ndarray = network.logits(data.images, batch_size)
    if not np.isfinite(S).all():
        raise DataError(f"{path}: the network's outputs are not finite: its parameters are too great or not finite")
    return S


def _vote(
    paths: Sequence[Path], networks: Sequence[Model], data: Dataset, batch_size: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Say how good each model is; return the logits of their vote, and what the record has of each."""
    logits, voters = [], []
    for path, network in zip(paths, networks, strict=True):
        S = _logits(path, network, data, batch_size)
        figures = score(S, data.labels, network.class_names)
        say("model", _described(path, network))
        say("", f"loss {figures['loss']:.4f}, accuracy {100 * figures['accuracy']:.2f} %")
        logits.append(S)
        kept = {name: figures[name] for name in ("loss", "accuracy", "calibration_error")}
        voters.append({"model": str(path), "model_sha256": _sum_of(path), **kept})
    return vote(logits), voters


def _recorded_by_all(paths: Sequence[Path], networks: Sequence[Model], data_dir: str | None) -> tuple[str, str | None]:
    """Return the one data set that the models were trained on, and its folder."""
    found = [_recorded(path, network) for path, network in zip(paths, networks, strict=True)]
    dataset, recorded = found[0]
    other = next((name for name, _ in found if name != dataset), None)
    if other:
        raise DataError(f"the models were trained on {dataset} and on {other}: name one data set with --dataset")
    return dataset, recorded if data_dir is None else data_dir


def _folder(out: str | None, path: Path) -> Path:
    """Return where the files go, once it is sure that they can."""
    folder = Path(out) if out is not None else path.parent
    if out is None and path.parent.name == CHECKPOINTS:
        folder = path.parent.parent
    if out is not None:
        if not out or (folder.exists() and not folder.is_dir()):
            raise ConfigError(f"--out {out!r}: expected a folder; name another")
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder} cannot be written: name another folder with --out")
    return folder


def _recorded(path: Path, network: Model) -> tuple[str, str | None]:
    """Return the data set that a model was trained on, and its folder where the run beside the file knows it."""
    for folder in (path.parent, path.parent.parent):
        if (folder / "config.json").exists() and path.parent in (folder, folder / CHECKPOINTS):
            record = read_json(folder / "config.json")
            return str(record.get("dataset_spec", network.dataset)), record.get("data_dir")
    return network.dataset, None


def _require_fit(network: Model, data: Dataset) -> None:
    """Refuse data that the network was not made for."""
    (height, width), (rows, columns) = network.image_shape, data.image_shape
    if (height, width) != (rows, columns):
        raise DataError(f"{data.provenance}: images of {rows} × {columns}: the model takes {height} × {width}")
    if len(data.class_names) > len(network.class_names):
        raise DataError(f"{data.provenance}: {len(data.class_names)} classes: the model has {len(network.class_names)}")
    if data.images.max() > network.max_value:
        raise DataError(
            f"{data.provenance}: grey values up to {data.images.max()}: the model's images go to {network.max_value}"
        )


def _tell(figures: dict[str, Any], network: Model) -> None:
    """Print the figures."""
    n_wrong = figures["images"] - sum(figures["confusion"][k][k] for k in range(len(network.class_names)))
    say("loss", f"{figures['loss']:.4f}, expected calibration error {100 * figures['calibration_error']:.2f} %")
    say("accuracy", f"{100 * figures['accuracy']:.2f} %, {n_wrong:,} mistakes in {figures['images']:,} images")
    wide = max(len("class"), *map(len, network.class_names))
    click.echo(f"{'class':<{wide}}  {'images':>7}  {'precision':>9}  {'recall':>9}  {'F1':>9}")
    for line in figures["classes"]:
        ratios = (line["precision"], line["recall"], line["f1"])
        shown = "  ".join(f"{'–' if ratio is None else format(ratio, '.4f'):>9}" for ratio in ratios)
        click.echo(f"{line['class']:<{wide}}  {line['images']:>7,}  {shown}")
    pairs = sorted(
        (
            (count, row, column)
            for row, counts in enumerate(figures["confusion"])
            for column, count in enumerate(counts)
        ),
        key=lambda pair: (-pair[0], pair[1:]),
    )
    worst = [pair for pair in pairs if pair[1] != pair[2] and pair[0]][:3]
    if worst:
        names = network.class_names
        told = ", ".join(f"{names[row]} for {names[column]} ({count:,})" for count, row, column in worst)
        say("mistaken", f"most often {told}")
