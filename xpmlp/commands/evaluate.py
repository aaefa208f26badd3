"""``xpmlp evaluate``: test a trained model, in figures and in pictures."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import xpmlp
from xpmlp.errors import ConfigError, DataError, expected_one_of

if TYPE_CHECKING:
    import numpy as np

    from xpmlp.data import Dataset, LoadedData
    from xpmlp.models.model import Model

WORST = 30  # number of mistakes drawn
PARTS = ("test", "train", "all")


@click.command()
@click.argument("models", metavar="RUN_OR_MODEL...", nargs=-1, required=True)
@click.option("--dataset", help="A published set, digits or a path. [what the model was trained on]")
@click.option("--data-dir", type=click.Path(), help="The only folder to look in. [the run's; XPMLP_DATA; the cache]")
@click.option("--label-column", metavar="COLUMN", help="The label's column in a table: name, number, first or last.")
@click.option("--shape", metavar="SHAPE", help="Size of images: HxW, HxWx3 in colour; none: a table of features.")
@click.option("--part", default="test", show_default=True, help="Part of the data set: test, train or all.")
@click.option("--backend", default="auto", show_default=True, help="numpy, cupy, torch, jax, … and a device: cupy:1.")
@click.option("--batch-size", type=click.IntRange(1), default=1024, show_default=True, help="Images at a time.")
@click.option("--out", type=click.Path(), help="Where the files go. [the one run's folder, or model's]")
@click.option("--plot/--no-plot", default=True, help="Draw confusion.png and mistakes.png. [--plot]")
def evaluate(
    models: Sequence[str],
    dataset: str | None,
    data_dir: str | None,
    label_column: str | None,
    shape: str | None,
    part: str,
    backend: str,
    batch_size: int,
    out: str | None,
    plot: bool,
) -> None:
    """Test a model, or the vote of several.

    RUN_OR_MODEL is a run's folder, or the file of a model or checkpoint. Prints and writes the loss, accuracy,
    calibration error, and the precision, recall and F1 of each class (evaluation.json). Draws the confusion matrix
    (confusion.png) and the most confident mistakes (mistakes.png). Several models are tested one by one, then by the
    mean of their probabilities; --out says where to write that.
    """
    from xpmlp.backends import own_process
    from xpmlp.commands._progress import say
    from xpmlp.models.inputs import in_order, labels_of, require_fit
    from xpmlp.models.model import find_model, load
    from xpmlp.models.scoring import score, worst_mistakes
    from xpmlp.storage.files import write_whole

    if part not in PARTS:
        raise ConfigError(f"unknown part {part!r}: {expected_one_of(part, PARTS)}")
    paths = [find_model(model) for model in models]
    own_process(backend, "float64")  # the model may be float64
    networks = [load(path, backend) for path in paths]
    names, device, is_vote = networks[0].class_names, networks[0].backend, len(paths) > 1
    folder = None if is_vote and out is None else _folder(out, paths[0])  # a vote belongs to no model's folder
    own = {"label_column": label_column, "shape": shape}
    loaded = _loaded(paths, networks, dataset, data_dir, own)
    data = {"test": loaded.test, "train": loaded.train}.get(part) or _joined(loaded)
    data = in_order(data, networks[0].info)
    for network in networks:
        require_fit(data, network.info)
        labels_of(data, network.info)
        if network.class_names != names:
            raise DataError(f"{', '.join(map(str, paths))}: models of different classes have no vote; give them singly")

    if loaded.about:
        say("format", loaded.about)
    say("data", f"{data.provenance}, {len(data):,} {data.samples}")
    say("backend", f"{device}{f' ({device.note})' if device.note else ''}")
    S, record = _outputs(paths, networks, data, batch_size)
    labels = labels_of(data, networks[0].info)
    figures, mistakes = score(S, labels, names), worst_mistakes(S, labels, len(data))
    _tell(figures, len(mistakes), data.samples)
    if folder is None:
        return
    record |= {"dataset": loaded.name, "part": part, "provenance": data.provenance, "backend": str(device), **figures}
    record["mistakes"] = [
        {**mistake._asdict(), "label": names[mistake.label], "prediction": names[mistake.prediction]}
        for mistake in mistakes[:WORST]
    ]
    text = json.dumps({"xpmlp": xpmlp.__version__, **record}, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(folder / "evaluation.json", f"{text}\n".encode())
    if plot:
        who = f"{len(paths)} models' vote" if is_vote else _widths(networks[0])
        most = float(networks[0].max_value if data.scaling is None else data.images.max())
        _draw(folder, who, record, len(mistakes), data.images, most)
    pictures = ", confusion.png" + (", mistakes.png" if len(data.image_shape) > 1 else "") if plot else ""
    say("written", f"evaluation.json{pictures} in {folder}")


def _loaded(
    paths: Sequence[Path],
    networks: Sequence["Model"],
    dataset: str | None,
    data_dir: str | None,
    own: dict[str, Any],
) -> "LoadedData":
    """Return the user's data set, or the models' own; read it as the models' was, unless the user says how."""
    from xpmlp.commands._progress import make_download_progress
    from xpmlp.data import load_dataset
    from xpmlp.data.datasets import is_path

    own = {name: value for name, value in own.items() if value is not None}
    if dataset is None:
        dataset, recorded, known = _recorded_by_all(paths, networks)
        data_dir, own = recorded if data_dir is None else data_dir, {**known, **own}
    elif is_path(dataset):
        own = {**_own(paths[0]), **own}
    return load_dataset(dataset, data_dir, progress=make_download_progress(), **own)


def _joined(loaded: "LoadedData") -> "Dataset":
    """Return both parts of a data set as one."""
    import numpy as np

    images = np.concatenate([loaded.train.images, loaded.test.images])
    labels = np.concatenate([loaded.train.labels, loaded.test.labels])
    provenance = f"both parts of {loaded.name}"
    return dataclasses.replace(loaded.test, images=images, labels=labels, provenance=provenance)


def _outputs(
    paths: Sequence[Path], networks: Sequence["Model"], data: "Dataset", batch_size: int
) -> tuple["np.ndarray", dict[str, Any]]:
    """Return a model's logits or several models' vote, and each one's record; print each voter's metrics."""
    import numpy as np

    from xpmlp.commands._progress import say
    from xpmlp.models.inputs import labels_of
    from xpmlp.models.scoring import score, vote

    records, logits = [], []
    for path, network in zip(paths, networks, strict=True):
        note = "" if _home(path) == path.parent else ", a checkpoint"
        say("model", f"{path}: {_widths(network)} of {network.dataset}, {network.theta.dtype}{note}")
        S = network.logits(data.images, batch_size)
        if not np.isfinite(S).all():
            raise DataError(f"{path}: the network's outputs are not finite: its parameters are too great or not finite")
        record = {"model": str(path), "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        if len(paths) == 1:
            return S, record
        figures = score(S, labels_of(data, network.info), network.class_names)
        say("", f"loss {figures['loss']:.4f}, accuracy {100 * figures['accuracy']:.2f} %")
        records.append(record | {name: figures[name] for name in ("loss", "accuracy", "calibration_error")})
        logits.append(S)
    say("vote", f"the mean of {len(paths)} models' probabilities")
    return vote(logits), {"models": records}


def _folder(out: str | None, path: Path) -> Path:
    """Return the folder for the files, after checking that it is writable."""
    folder = _home(path) if out is None else Path(out)
    if out == "" or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"--out {out!r}: expected a folder; name another")
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder} cannot be written: name another folder with --out")
    return folder


def _recorded_by_all(paths: Sequence[Path], networks: Sequence["Model"]) -> tuple[str, str | None, dict[str, Any]]:
    """Return the data set that all models were trained on, its folder, and how the first one's run read it."""
    from xpmlp.data.datasets import OWN
    from xpmlp.training.folder import read_json

    found: list[tuple[str, str | None, dict[str, Any]]] = []
    for path, network in zip(paths, networks, strict=True):
        config = _home(path) / "config.json"
        record = read_json(config) if config.exists() else {}
        found.append((str(record.get("dataset_spec", network.dataset)), record.get("data_dir"), _own(path)))
    others = [dataset for dataset, *_ in found if dataset != found[0][0]]
    if others:
        both = f"{found[0][0]} and on {others[0]}"
        raise DataError(f"the models were trained on {both}: name one data set with --dataset")
    if found[0][0].startswith(tuple(f"{kind}:" for kind in OWN)) and len({own.get("seed") for *_, own in found}) > 1:
        raise DataError(f"the models were trained on other parts of {found[0][0]}: name a test set with --dataset")
    return found[0]


def _own(path: Path) -> dict[str, Any]:
    """Return the options with which a model's run read its data set."""
    from xpmlp.training.folder import read_json

    config = _home(path) / "config.json"
    record = read_json(config) if config.exists() else {}
    return {name: record[name] for name in ("label_column", "shape", "seed") if name in record}


def _home(path: Path) -> Path:
    """Return the folder of a model's file; for a checkpoint, the run's folder."""
    from xpmlp.models.model import CHECKPOINTS

    is_checkpoint = path.parent.name == CHECKPOINTS and not (path.parent / "config.json").exists()
    return path.parent.parent if is_checkpoint else path.parent


def _widths(network: "Model") -> str:
    return "-".join(map(str, network.layout.sizes))


def _tell(figures: dict[str, Any], n_wrong: int, what: str) -> None:
    """Print the figures."""
    import numpy as np

    from xpmlp.commands._progress import say

    classes, confusion = figures["classes"], np.array(figures["confusion"])
    say("loss", f"{figures['loss']:.4f}, expected calibration error {100 * figures['calibration_error']:.2f} %")
    say("accuracy", f"{100 * figures['accuracy']:.2f} %, {n_wrong:,} mistakes in {figures['images']:,} {what}")
    wide = max(len("class"), *(len(line["class"]) for line in classes))
    click.echo(f"{'class':<{wide}}  {'images':>7}  {'precision':>9}  {'recall':>9}  {'F1':>9}")
    for line in classes:
        ratios = (line["precision"], line["recall"], line["f1"])
        shown = "  ".join(f"{'–' if ratio is None else format(ratio, '.4f'):>9}" for ratio in ratios)
        click.echo(f"{line['class']:<{wide}}  {line['images']:>7,}  {shown}")
    np.fill_diagonal(confusion, 0)
    most = [divmod(int(k), len(classes)) for k in np.argsort(-confusion, axis=None, kind="stable")[:3]]
    mistaken = [
        f"{classes[row]['class']} for {classes[column]['class']} ({confusion[row, column]:,})"
        for row, column in most
        if confusion[row, column]
    ]
    if mistaken:
        say("mistaken", f"most often {', '.join(mistaken)}")


def _draw(folder: Path, who: str, record: dict[str, Any], n_wrong: int, images: "np.ndarray", most: float) -> None:
    """Draw the confusion matrix and, for images, the most confident mistakes."""
    import numpy as np

    from xpmlp.models.drawing import plot_confusion, plot_mistakes

    title = f"{who} on the {record['part']} set of {record['dataset']}: {100 * record['accuracy']:.2f} %"
    names, mistakes = [line["class"] for line in record["classes"]], record["mistakes"]
    plot_confusion(np.array(record["confusion"]), names, folder / "confusion.png", title)
    if images.ndim == 2:
        return
    title += f", {'the most confident of ' if n_wrong > WORST else ''}{n_wrong:,} mistakes"
    captions = [
        f"{m['label']} taken for {m['prediction']}\n{100 * m['probability']:.1f} %, image {m['image']}"
        for m in mistakes
    ]
    shown = images[[mistake["image"] for mistake in mistakes]]
    plot_mistakes(shown, captions, folder / "mistakes.png", title, most)
