"""``xpmlp predict``: what a model sees in pictures."""

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from xpmlp.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np

    from xpmlp.models.model import Model

PICTURES = {".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".pnm", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
"""The endings by which a folder's pictures are told from its other files."""

BATCH = 256  # pictures that are classified together: few, so that their lines come soon


_BEGINNING = 512  # bytes of a file that tell what it is


class Sample(NamedTuple):
    """An image of the model's form, and what its line says of where it is from."""

    source: dict[str, Any]
    image: "np.ndarray"


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(readable=False))
@click.option("--top", type=click.IntRange(1), help="Give only the K most probable classes. [all]", metavar="K")
@click.option("--split", is_flag=True, help="Read pages of several characters: a line each, with its box.")
@click.option("--invert", is_flag=True, help="Exchange light and dark, for models of other than handwriting.")
@click.option("--label-column", metavar="COLUMN", help="Of a table: the column to leave out. [one called label, …]")
@click.option("--backend", default="auto", show_default=True, help="numpy, cupy, torch, jax, … and a device: cupy:1.")
@click.pass_context
def predict(
    context: click.Context,
    model: str,
    files: Sequence[str],
    top: int | None,
    split: bool,
    invert: bool,
    label_column: str | None,
    backend: str,
) -> None:
    """Classify pictures (PNG, JPEG, PGM, …), all those in a folder, the images of an IDX file, or a table's rows.

    MODEL is the file of a model, or a run's folder. A line of JSON a picture on standard output: file, label,
    probabilities, and a warning where something is doubtful. Pictures are prepared as the model's were. Those of
    handwriting such as MNIST's: the paper is taken away, the ink fitted into the middle. Others: brought to the model's
    size. One that cannot be read is a line on standard error; the rest go on, and the exit code is 1.
    """
    from xpmlp.backends import own_process
    from xpmlp.models.model import load

    own_process(backend, "float64")  # a model may be of it
    network = load(model, backend)
    way = _Way(network, split, invert, label_column)
    problems = 0
    waiting: list[Sample] = []
    for found in (found for file in files for found in way.samples(Path(file))):
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


def _beginning(path: Path) -> bytes:
    """Return the first bytes of a file, or of what it holds in gzip."""
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    if beginning.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(path) as inner:
                return inner.read(_BEGINNING)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: damaged gzip data ({error}): get the file again") from None
    return beginning


class _Way:
    """From a path to images of a model's form."""

    def __init__(self, network: "Model", split: bool, invert: bool, label_column: str | None) -> None:
        from xpmlp.data.preparation import FORMS

        self._label_column = label_column
        self._network, self._split, self._invert = network, split, invert
        self._shape, self._most = network.image_shape, network.max_value
        self._form = FORMS.get(network.preparation)
        if split and not self._form:
            raise ConfigError(f"--split is for models of handwriting such as MNIST's: this one is of {network.dataset}")
        if invert and self._form:
            raise ConfigError("--invert: this model's pictures are told light from dark by themselves; leave it out")

    def samples(self, path: Path) -> Iterator[Sample | DataError]:
        """Yield the images that a path stands for, and an error in the place of each that cannot be had."""
        from xpmlp.data.files import known_kind
        from xpmlp.data.pictures import read_values
        from xpmlp.data.tables import is_table

        if path.is_dir():
            pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
            if not pictures:
                yield DataError(f"{path} has no pictures: expected files that end in {', '.join(sorted(PICTURES))}")
            for file in pictures:
                yield from self.samples(file)
            return
        try:
            beginning = _beginning(path)
            if beginning.startswith(b"\0\0") and known_kind(beginning) is None:
                yield from self._of_idx(path)
            elif is_table(beginning):
                yield from self._of_table(path)
            else:
                yield from self._prepared(read_values(path), str(path), {"file": str(path)})
        except DataError as error:
            yield error
        except OSError as error:
            yield DataError(f"{path}: {error.strerror or error}")

    def _of_idx(self, path: Path) -> Iterator[Sample | DataError]:
        import numpy as np

        from xpmlp.data import idx

        images = idx.read(path)
        if images.ndim != 3 or images.dtype != np.uint8:
            found = f"an array of {images.dtype}, shape {images.shape}"
            raise DataError(f"{path}: {found}: expected images, uint8 (n, height, width)")
        if images.shape[1:] == self._shape and images.size and images.max() > self._most:
            raise DataError(f"{path}: values up to {images.max()}: the model's images go to {self._most}")
        for index, image in enumerate(images):
            yield from self._prepared(image, f"{path}, image {index}", {"file": str(path), "index": index})

    def _of_table(self, path: Path) -> Iterator[Sample | DataError]:
        from xpmlp.data.tables import read_rows

        rows = read_rows(path, math.prod(self._shape), self._label_column)
        for index, row in enumerate(rows.reshape(len(rows), *self._shape)):
            yield from self._prepared(row, f"{path}, row {index}", {"file": str(path), "index": index})

    def _prepared(self, values: "np.ndarray", name: str, source: dict[str, Any]) -> Iterator[Sample | DataError]:
        """Yield a picture, or each character on it, as the model's images were prepared."""
        from xpmlp.data.ink import character_in
        from xpmlp.data.pages import characters_on
        from xpmlp.data.pictures import grey_bytes

        try:
            if not self._form:
                yield Sample(source, self._as_trained(values))
            elif self._split:
                for box, (image, warning) in characters_on(grey_bytes(values), self._shape, self._most, self._form):
                    yield Sample({**source, "box": list(box)} | ({"warning": warning} if warning else {}), image)
            else:
                image, warning = character_in(grey_bytes(values), self._shape, self._most, self._form)
                yield Sample(source | ({"warning": warning} if warning else {}), image)
        except DataError as error:
            yield DataError(f"{name}: {error}")

    def _as_trained(self, values: "np.ndarray") -> "np.ndarray":
        """Return a picture of the size and the range of the training images."""
        import numpy as np

        from xpmlp.data.pictures import grey_bytes, resized, white_of

        scaling = self._network.scaling
        if len(self._shape) == 1:
            if values.ndim > 1:
                raise DataError(f"a picture: the model takes samples of {self._shape[0]} numbers, as in a CSV file")
            return values.astype(np.float64)
        if values.dtype != np.uint8 and not scaling:
            values = grey_bytes(values)
        if self._invert:
            values = (255 if values.dtype == np.uint8 else white_of(float(values.max()))) - values
        values = resized(values, self._shape)
        if scaling:  # such a model takes floats: of bytes the parts of its range
            is_part = values.dtype == np.uint8
            return (values / (255 * scaling.factor[0]) + scaling.shift[0] if is_part else values).astype(np.float64)
        return values if values.max() <= self._most else np.rint(values * (self._most / 255)).astype(np.uint8)


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
