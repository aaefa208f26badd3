"""``xpmlp predict``: what a model sees in pictures."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from xpmlp.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from xpmlp.models.model import Model

PICTURES = {".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".pnm", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
"""The endings by which a folder's pictures are told from its other files."""

BATCH = 256  # pictures that are classified together: few, so that their lines come soon


class Sample(NamedTuple):
    """An image of the model's form, and where it is from."""

    source: dict[str, Any]
    image: "np.ndarray"


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(readable=False))
@click.option("--top", type=click.IntRange(1), help="Give only the K most probable classes. [all]", metavar="K")
@click.option("--backend", default="auto", show_default=True, help="numpy, cupy, torch, jax, … and a device: cupy:1.")
@click.pass_context
def predict(context: click.Context, model: str, files: Sequence[str], top: int | None, backend: str) -> None:
    """Classify pictures (PNG, JPEG, PGM, …), all those in a folder, or the images of an IDX file.

    MODEL is the file of a model, or a run's folder. A line of JSON a picture on standard output: file, label,
    probabilities. Scans and photographs are brought to the form of MNIST's images: the paper is taken away, the ink
    fitted into the middle. One that cannot be read is a line on standard error; the rest go on, and the exit code is 1.
    """
    from xpmlp.backends import own_process
    from xpmlp.models.model import load

    own_process(backend, "float64")  # a model may be of it
    network = load(model, backend)
    problems = 0
    waiting: list[Sample] = []
    for found in (found for file in files for found in _samples(Path(file), network)):
        if isinstance(found, Sample):
            waiting.append(found)
        if isinstance(found, DataError) or len(waiting) == BATCH:
            _say(waiting, network, top)  # in the order of the files
        if isinstance(found, DataError):
            problems += 1
            click.echo(f"{context.command_path}: {' '.join(str(found).split())}", err=True)
    _say(waiting, network, top)
    if problems:
        context.exit(1)


def _samples(path: Path, network: "Model") -> Iterator[Sample | DataError]:
    """Yield the images that a path stands for, and an error in the place of each that cannot be had."""
    from xpmlp.data.pictures import read_picture

    if path.is_dir():
        pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
        if not pictures:
            yield DataError(f"{path} has no pictures: expected files that end in {', '.join(sorted(PICTURES))}")
        for file in pictures:
            yield from _samples(file, network)
        return
    try:
        with path.open("rb") as opened:
            beginning = opened.read(2)
        if beginning in (b"\0\0", b"\x1f\x8b"):  # of an IDX file, plain or in gzip
            yield from _of_idx(path, network)
        else:
            yield _normalised(read_picture(path), network, str(path), {"file": str(path)})
    except DataError as error:
        yield error
    except OSError as error:
        yield DataError(f"{path}: {error.strerror or error}")


def _of_idx(path: Path, network: "Model") -> Iterator[Sample | DataError]:
    import numpy as np

    from xpmlp.data import idx

    images = idx.read(path)
    if images.ndim != 3 or images.dtype != np.uint8:
        found = f"an array of {images.dtype}, shape {images.shape}"
        raise DataError(f"{path}: {found}: expected images, uint8 (n, height, width)")
    is_ours = images.shape[1:] == network.image_shape
    if is_ours and images.size and images.max() > network.max_value:
        raise DataError(f"{path}: grey values up to {images.max()}: the model's images go to {network.max_value}")
    for index, image in enumerate(images):
        source = {"file": str(path), "index": index}
        yield Sample(source, image) if is_ours else _normalised(image, network, f"{path}, image {index}", source)


def _normalised(picture: "np.ndarray", network: "Model", name: str, source: dict[str, Any]) -> Sample | DataError:
    from xpmlp.data.pictures import normalise

    try:
        return Sample(source, normalise(picture, network.image_shape[:2], network.max_value))
    except DataError as error:
        return DataError(f"{name}: {error}")


def _say(waiting: list[Sample], network: "Model", top: int | None) -> None:
    """Classify what is waiting, print a line each, and wait for nothing."""
    import numpy as np

    if not waiting:
        return
    P = network.predict_proba(np.stack([sample.image for sample in waiting]))
    for sample, probabilities in zip(waiting, P, strict=True):
        order = range(len(probabilities)) if top is None else np.argsort(-probabilities, kind="stable")[:top]
        label = network.class_names[int(probabilities.argmax())]
        shown = {network.class_names[k]: float(probabilities[k]) for k in order}
        line = {**sample.source, "label": label, "probabilities": shown}
        click.echo(json.dumps(line, ensure_ascii=False, allow_nan=False))
    waiting.clear()
