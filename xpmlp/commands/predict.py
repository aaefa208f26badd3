"""``xpmlp predict``: classify pictures, pages and tables."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from xpmlp.commands._predictions import Prediction, Show, make_show
from xpmlp.errors import ConfigError, DataError, expected_one_of

if TYPE_CHECKING:
    import numpy as np

    from xpmlp.models.model import Model

BATCH = 256  # pictures classified together: few, so that their lines come soon


class Sample(NamedTuple):
    """An image in the model's form, its name in words, and the fields of its line that name its origin."""

    name: str
    source: dict[str, Any]
    image: "np.ndarray"


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(readable=False))
@click.option("--top", type=click.IntRange(1), help="Give only the K most probable classes. [all]", metavar="K")
@click.option("--split", is_flag=True, help="Read pages of many characters: a line each, with its box.")
@click.option("--invert", is_flag=True, help="Swap light and dark (not for handwriting).")
@click.option("--prepare", metavar="FORM", help="mnist, digits or as-trained. [as the model's pictures were]")
@click.option("--label-column", metavar="COLUMN", help="In a table: the column to ignore. [one called label, …]")
@click.option("--backend", default="auto", show_default=True, help="numpy, cupy, torch, jax, … and a device: cupy:1.")
@click.pass_context
def predict(
    context: click.Context,
    model: str,
    files: Sequence[str],
    top: int | None,
    split: bool,
    invert: bool,
    prepare: str | None,
    label_column: str | None,
    backend: str,
) -> None:
    """Classify pictures, pages and tables.

    MODEL is a run's folder, or the file of a model. FILE is a picture (PNG, JPEG, PGM, …), a folder of pictures, an IDX
    file of images, or a table (CSV). Prints a line of JSON per sample: file, label, probabilities, and a warning if
    something is doubtful. On a terminal it prints a table instead: the label, the runner-up and the warning. Pictures
    are prepared as the model's were: handwriting is cut out and centred, others are brought to the model's size. A
    picture that cannot be read is a line on standard error; the exit code is then 1.
    """
    from xpmlp.backends import own_process
    from xpmlp.models.model import load

    own_process(backend, "float64")  # the model may be float64
    network = load(model, backend)
    way = _Way(network, prepare or network.preparation, split, invert, label_column)
    show, problems = make_show(top), 0
    waiting: list[Sample] = []
    for found in (found for file in files for found in way.samples(Path(file))):
        if isinstance(found, Sample):
            waiting.append(found)
        if isinstance(found, DataError) or len(waiting) == BATCH:
            _say(waiting, network, top, show)  # in the order of the files
        if isinstance(found, DataError):
            problems += 1
            click.echo(f"{context.command_path}: {' '.join(str(found).split())}", err=True)
    _say(waiting, network, top, show)
    if problems:
        context.exit(1)


class _Way:
    """Reads samples from a path in the model's form."""

    def __init__(self, network: "Model", preparation: str, split: bool, invert: bool, label_column: str | None) -> None:
        from xpmlp.data.preparation import FORMS, PREPARATIONS

        if preparation not in PREPARATIONS:
            raise ConfigError(f"preparation {preparation!r}: {expected_one_of(preparation, PREPARATIONS)}")
        self._network, self._split, self._invert = network, split, invert
        self._label_column, self._form = label_column, FORMS.get(preparation)
        self._shape, self._most, self._scaling = network.image_shape, network.max_value, network.scaling
        is_grey_bytes = len(self._shape) == 2 and self._scaling is None
        if self._form and not is_grey_bytes:
            raise ConfigError(f"preparation {preparation} is for grey pictures: the model takes other samples")
        if split and not self._form:
            raise ConfigError(f"--split is for models of handwriting such as MNIST's: this one is of {network.dataset}")
        if invert and (self._form or len(self._shape) == 1):
            why = "light and dark are told apart automatically" if self._form else "the model takes no pictures"
            raise ConfigError(f"--invert: {why}; leave it out")

    def samples(self, path: Path) -> Iterator[Sample | DataError]:
        """Yield a path's samples, and an error in the place of each unreadable one."""
        from xpmlp.data import parquet
        from xpmlp.data.files import beginning_of, known_kind
        from xpmlp.data.pictures import ENDINGS, read_values
        from xpmlp.data.tables import is_table

        if path.is_dir():
            pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS)
            if not pictures:
                yield DataError(f"{path} has no pictures: expected files that end in {', '.join(sorted(ENDINGS))}")
            for file in pictures:
                yield from self.samples(file)
            return
        try:
            beginning = beginning_of(path)
            if beginning.startswith(b"\0\0") and known_kind(beginning) is None:
                yield from self._of_arrays(path, *self._of_idx(path), "image")
            elif is_table(beginning, self._network.info.columns or ()) or beginning.startswith(parquet.BEGINNING):
                yield from self._of_arrays(path, *self._of_table(path, beginning), "row")
            else:
                yield from self._of_picture(read_values(path), str(path), {"file": str(path)})
        except DataError as error:
            yield error
        except OSError as error:
            yield DataError(f"{path}: {error.strerror or error}")

    def _of_idx(self, path: Path) -> tuple["np.ndarray", bool]:
        """Return the images in an IDX file, and whether they have the model's size."""
        import numpy as np

        from xpmlp.data import idx

        images = idx.read(path)
        if images.ndim != 3 or images.dtype != np.uint8:
            found = f"an array of {images.dtype}, shape {images.shape}"
            raise DataError(f"{path}: {found}: expected images, uint8 (n, height, width)")
        is_ours = images.shape[1:] == self._shape
        return (self._numbers(path, images) if is_ours else images), is_ours

    def _of_table(self, path: Path, beginning: bytes) -> tuple["np.ndarray", bool]:
        import numpy as np

        from xpmlp.data import parquet, tables

        n, names = math.prod(self._shape), self._network.info.columns
        if beginning.startswith(parquet.BEGINNING):
            rows = parquet.read_rows(path, n, names)
        else:
            rows = tables.read_rows(path, n, names, self._label_column)
        numbers: np.ndarray = self._numbers(path, rows).reshape(len(rows), *self._shape)
        return numbers, True

    def _numbers(self, path: Path, values: "np.ndarray") -> "np.ndarray":
        """Return numbers in the data set's form, converted alike for all samples; refuse others."""
        import numpy as np

        if self._scaling is not None or self._most == 1 or not values.size:
            return values.astype(np.float64)
        low, high = float(values.min()), float(values.max())
        is_whole = values.dtype == np.uint8 or np.array_equal(values, np.rint(values))
        if low >= 0 and high <= 1:  # parts of 1; bytes would include greater values
            parts: np.ndarray = np.rint(values * self._most).astype(np.uint8)
            return parts
        if low >= 0 and high <= self._most and is_whole:
            return values.astype(np.uint8)
        found = f"values {'up to' if is_whole and low >= 0 else f'from {low:g} to'} {high:g}"
        raise DataError(f"{path}: {found}: the model's images go to {self._most}")

    def _of_arrays(self, path: Path, arrays: "np.ndarray", are_ours: bool, what: str) -> Iterator[Sample | DataError]:
        for index, array in enumerate(arrays):
            name, source = f"{path}, {what} {index}", {"file": str(path), "index": index}
            if are_ours and not self._form:
                yield Sample(name, source, self._inverted(array) if self._invert else array)
            else:
                yield from self._of_picture(array, name, source)

    def _of_picture(self, values: "np.ndarray", name: str, source: dict[str, Any]) -> Iterator[Sample | DataError]:
        """Yield a picture, or each character on it, prepared as the model's pictures were."""
        from xpmlp.data.ink import character_in
        from xpmlp.data.pages import characters_on
        from xpmlp.data.pictures import grey_bytes

        try:
            if not self._form:
                yield self._as_trained(values, name, source)
            elif self._split:
                for box, (image, warning) in characters_on(grey_bytes(values), self._shape, self._most, self._form):
                    yield Sample(name, {**source, "box": list(box)} | ({"warning": warning} if warning else {}), image)
            else:
                image, warning = character_in(grey_bytes(values), self._shape, self._most, self._form)
                warning += "; --split reads several" if "characters" in warning or "several" in warning else ""
                yield Sample(name, source | ({"warning": warning} if warning else {}), image)
        except DataError as error:
            yield DataError(f"{name}: {error}")

    def _as_trained(self, values: "np.ndarray", name: str, source: dict[str, Any]) -> Sample:
        """Return a picture in the training images' size and range."""
        import numpy as np

        from xpmlp.data.pictures import grey_bytes, resized

        if len(self._shape) == 1:
            raise DataError(f"a picture: the model takes samples of {self._shape[0]} numbers, as in a CSV file")
        low, high = self._range()
        is_raw = values.dtype != np.uint8 and low == 0 and high > 255  # as the training pictures, of more than 8 bits
        if not is_raw and values.dtype != np.uint8:
            values = grey_bytes(values)
        values = resized(values, self._shape)
        if is_raw and values.max() > high:
            source = source | {"warning": f"values up to {values.max():g}: the model's range ends at {high:g}"}
        if not is_raw:
            values = low + values * ((high - low) / 255)
        if self._invert:
            values = self._inverted(values)
        return Sample(name, source, values if self._scaling else np.rint(values).astype(np.uint8))

    def _range(self) -> tuple[float, float]:
        """Return the numbers that count as 0 and as 1."""
        if self._scaling is None:
            return 0.0, float(self._most)
        low = self._scaling.shift[0]
        return low, low + 1 / self._scaling.factor[0]

    def _inverted(self, values: "np.ndarray") -> "np.ndarray":
        import numpy as np

        low, high = self._range()
        inverted: np.ndarray = (low + high - values).astype(values.dtype)
        return inverted


def _say(waiting: list[Sample], network: "Model", top: int | None, show: Show) -> None:
    """Classify the waiting samples, show them, and empty the list."""
    import numpy as np

    if not waiting:
        return
    P = network.predict_proba(np.stack([sample.image for sample in waiting]))
    found: list[Prediction] = []
    for sample, probabilities in zip(waiting, P, strict=True):
        if not np.isfinite(probabilities).all():
            show(found)
            raise DataError(f"{sample.name}: its values are too large for the model: its probabilities are not finite")
        order = range(len(probabilities)) if top is None else np.argsort(-probabilities, kind="stable")[:top]
        label = network.class_names[int(probabilities.argmax())]
        named = {network.class_names[k]: float(probabilities[k]) for k in order}
        found.append(Prediction(sample.name, sample.source, label, named))
    show(found)
    waiting.clear()
