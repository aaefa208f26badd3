"""One ``xpmlp predict``: what is read, computed and said, in order."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from xpmlp.data import idx
from xpmlp.data.pictures import normalise, read_picture
from xpmlp.errors import DataError
from xpmlp.models.model import Model, load

PICTURES = {".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".pnm", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
"""The endings by which a folder's pictures are told from its other files."""

BATCH = 256
"""Pictures that are classified together: few, so that their lines come soon."""


class Sample(NamedTuple):
    """An image of the model's form, and where it is from."""

    source: dict[str, Any]
    image: np.ndarray


def run(model: str, files: Sequence[str], top: int | None, backend: str) -> int:
    """Predict as the command line says, and return how many pictures could not be read."""
    network = load(model, backend)
    problems = 0
    waiting: list[Sample] = []
    for file in files:
        for found in _samples(Path(file), network):
            if isinstance(found, DataError):
                problems += 1
                _say(waiting, network, top)  # in the order of the files
                click.echo(f"{click.get_current_context().command_path}: {' '.join(str(found).split())}", err=True)
                continue
            waiting.append(found)
            if len(waiting) == BATCH:
                _say(waiting, network, top)
    _say(waiting, network, top)
    return problems


def _samples(path: Path, network: Model) -> Iterator[Sample | DataError]:
    """Yield the images that a path stands for, and an error in the place of each that cannot be had."""
    if path.is_dir():
        pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
        if not pictures:
            yield DataError(f"{path} has no pictures: expected files that end in {', '.join(sorted(PICTURES))}")
        for file in pictures:
            yield from _samples(file, network)
        return
    try:
        if _is_idx(path):
            yield from _of_idx(path, network)
            return
        picture = read_picture(path)
    except DataError as error:
        yield error
        return
    try:
        yield Sample({"file": str(path)}, normalise(picture, network.image_shape, network.max_value))
    except DataError as error:
        yield DataError(f"{path}: {error}")


def _is_idx(path: Path) -> bool:
    """Return whether a file begins as an IDX file does, plain or in gzip."""
    try:
        with path.open("rb") as file:
            magic = file.read(2)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    return magic in (b"\0\0", b"\x1f\x8b")


def _of_idx(path: Path, network: Model) -> Iterator[Sample | DataError]:
    images = idx.read(path)
    if images.ndim != 3 or images.dtype != np.uint8:
        raise DataError(
            f"{path}: an array of {images.dtype}, shape {images.shape}: expected images, uint8 (n, height, width)"
        )
    is_ours = images.shape[1:] == network.image_shape
    if is_ours and images.size and images.max() > network.max_value:
        raise DataError(f"{path}: grey values up to {images.max()}: the model's images go to {network.max_value}")
    for index, image in enumerate(images):
        try:
            sample = image if is_ours else normalise(image, network.image_shape, network.max_value)
        except DataError as error:
            yield DataError(f"{path}, image {index}: {error}")
        else:
            yield Sample({"file": str(path), "index": index}, sample)


def _say(waiting: list[Sample], network: Model, top: int | None) -> None:
    """Classify what is waiting, print a line each, and wait for nothing."""
    if not waiting:
        return
    P = network.predict_proba(np.stack([sample.image for sample in waiting]))
    for sample, probabilities in zip(waiting, P, strict=True):
        order = range(len(probabilities)) if top is None else np.argsort(-probabilities, kind="stable")[:top]
        line = {
            **sample.source,
            "label": network.class_names[int(probabilities.argmax())],
            "probabilities": {network.class_names[k]: float(probabilities[k]) for k in order},
        }
        click.echo(json.dumps(line, ensure_ascii=False, allow_nan=False))
    waiting.clear()
