"""A user's own data set: read images and labels from a path, by the files' contents, never by their names alone."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from xpmlp.data import archives, parquet, picture_folders, tables
from xpmlp.data.dataset import as_words, described
from xpmlp.data.download import Progress
from xpmlp.data.files import beginning_of, known_kind
from xpmlp.data.labels import numbers_of
from xpmlp.data.pictures import white_of
from xpmlp.data.scaling import Scaling
from xpmlp.data.tables import Table
from xpmlp.errors import DataError

TEST_SHARE = 6
"""If a set has one part, one in this many samples of each class is a test sample."""

_ROUNDING = 0.01  # tolerance to whole numbers, for bytes that were divided by 255 in float16 or text

Shape: TypeAlias = tuple[int, ...]
"""The shape of images, (height, width), optionally with 3 or 1 channels; empty: not images."""


class Found(NamedTuple):
    """The data that were read, of both parts: images (or rows of numbers), and labels (n,), numbers or strings."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    about: str
    """What was recognised, in one line."""
    max_value: int | None
    """The value of bytes that counts as 1; None for floats."""
    scaling: Scaling | None
    """How floats are scaled for a network."""
    columns: tuple[str, ...] | None
    """The column names of a table of features."""


def read_path(path: Path, label_column: str | None, shape: str | None, seed: int, progress: Progress | None) -> Found:
    """Return the data set at a path: a table, an archive, Parquet, or a folder with one folder per class.

    Parameters
    ----------
    path : Path
        An existing path.
    label_column : str or None
        The label column of a table: its name or number (from 0), ``first`` or ``last``. None: the column called label,
        class, target or y.
    shape : str or None
        ``HEIGHTxWIDTH``, in colour ``HEIGHTxWIDTHx3``: the shape of images stored as rows of numbers, or the size that
        pictures are resized to. ``none``: rows of numbers are not images. None: what the file says.
    seed : int
        Random seed that selects the test samples of a set in one part.
    progress : callable or None
        Called with `READING`, the number of pictures read and the number in total.

    Raises
    ------
    DataError
        If the format is unknown, the file is damaged, or its contents are ambiguous.
    """
    size = None if shape is None else parsed_shape(shape)
    tables_ = _read(path, label_column, size, progress)
    about, names = tables_[0].about, tables_[0].names
    are_pictures = path.is_dir() and not parquet.files_in(path)
    if names is not None and size is None:
        size = tables.shape_of(names)
    arrays, how = shaped([table.rows for table in tables_], str(path), None if are_pictures else size)
    about += how
    labels = [_labels(table.labels, str(path), len(x)) for x, table in zip(arrays, tables_, strict=True)]
    if len(arrays) == 1:
        is_test = held_out(labels[0], seed, str(path))
        arrays = [arrays[0][~is_test], arrays[0][is_test]]
        labels = [labels[0][~is_test], labels[0][is_test]]
    arrays, how, most, scaling = valued(arrays, str(path), are_pictures)
    about += how
    if len(tables_) == 1:
        about += f"; a sixth of each class is the test set, by seed {seed}"
    columns = names if arrays[0].ndim == 2 else None
    return Found((arrays[0], labels[0]), (arrays[1], labels[1]), about, most, scaling, columns)


def _read(path: Path, label_column: str | None, size: Shape | None, progress: Progress | None) -> list[Table]:
    """Return the data at a path: the training part and, if present, the test part."""
    if path.is_dir() and parquet.files_in(path):
        return parquet.read(path, label_column, size, progress)
    if path.is_dir():
        if label_column is not None or size == ():
            raise DataError(f"{path} is a folder of pictures: leave --label-column and --shape none out")
        return picture_folders.read(path, size, progress)
    try:
        beginning = beginning_of(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    if beginning.startswith(b"PK\x03\x04") and archives.is_npz(path):
        if label_column is not None:
            raise DataError(f"{path} is a NumPy archive, whose arrays have names: leave --label-column out")
        parts, about = archives.read(path)
        return [Table(x, y, None, about) for x, y in parts]
    if beginning.startswith(parquet.BEGINNING):
        return parquet.read(path, label_column, size, progress)
    if kind := known_kind(beginning):
        raise DataError(f"{path}: {kind}; expected an .npz, a CSV or Parquet file, or a folder")
    if beginning.startswith(b"\0\0"):
        raise DataError(f"{path} is one file, perhaps of an IDX set: name the folder that holds all four")
    return [tables.read(path, label_column)]


def parsed_shape(text: str) -> Shape:
    """Return (height, width), in colour (height, width, 3); an empty tuple for ``none``."""
    if text.lower() == "none":
        return ()
    sides = text.lower().split("x")
    if not all(side.isdecimal() and int(side) for side in sides) or not 2 <= len(sides) <= 3:
        raise DataError(f"shape {text!r}: expected HEIGHTxWIDTH, such as 28x28, HEIGHTxWIDTHx3 in colour, or none")
    shape = tuple(map(int, sides))
    if len(shape) == 3 and shape[2] not in (1, 3):
        raise DataError(f"shape {text!r}: expected 1 or 3 channels")
    return shape


def shaped(arrays: Sequence[np.ndarray], name: str, size: Shape | None) -> tuple[list[np.ndarray], str]:
    """Return arrays as images, (n, height, width) or (n, height, width, 3), or rows (n, d), and the shape in words."""
    shape = None if size is None else size[:2] if size[2:] == (1,) else size
    found = []
    for array in arrays:
        if array.ndim == 4 and array.shape[3] == 1:
            array = array[..., 0]
        elif array.ndim == 4 and array.shape[1] == 3 and array.shape[3] != 3:  # as PyTorch has them
            array = np.ascontiguousarray(array.transpose(0, 2, 3, 1))
        if array.ndim == 4 and array.shape[3] != 3:
            expected = "expected grey ones, (height, width), or colours, (height, width, 3)"
            raise DataError(f"{name}: images of shape {array.shape[1:]}: {expected}")
        if array.ndim not in (2, 3, 4) or array.size == 0:
            raise DataError(f"{name}: images of shape {array.shape}: expected (n, height, width), not empty")
        if array.ndim == 2 and shape is None:
            ways = "give their shape, such as --shape 28x28, or --shape none for a table of features"
            raise DataError(f"{name}: rows of {array.shape[1]} numbers: {ways}")
        if array.ndim == 2 and shape and math.prod(shape) != array.shape[1]:
            raise DataError(f"{name}: rows of {array.shape[1]} numbers are no images of {' × '.join(map(str, shape))}")
        if array.ndim > 2 and shape not in (None, array.shape[1:]):
            raise DataError(f"{name}: images of {' × '.join(map(str, array.shape[1:]))}: leave --shape out")
        found.append(array.reshape(len(array), *shape) if array.ndim == 2 and shape else array)
    if any(array.shape[1:] != found[0].shape[1:] for array in found):
        shapes = " and ".join(str(array.shape[1:]) for array in found)
        raise DataError(f"{name}: images of {shapes} pixels: expected one size")
    return found, f", {described(found[0].shape[1:])}"


def valued(
    arrays: list[np.ndarray], name: str, are_pictures: bool = False
) -> tuple[list[np.ndarray], str, int | None, Scaling | None]:
    """Return images as bytes or floats and rows as floats, a description, the value of 1, and the floats' scaling.

    The first array is the training part; the scaling is computed from it. For pictures' bytes, 255 is 1.
    """
    what = "rows" if arrays[0].ndim == 2 else "images"
    if any(array.dtype.kind not in "biuf" for array in arrays):
        raise DataError(f"{name}: {what} of {arrays[0].dtype}: expected numbers")
    if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrays):
        raise DataError(f"{name}: {what} hold NaN or infinity: expected finite numbers")
    if arrays[0].ndim == 2:
        fits = all(array.dtype.itemsize <= 2 or array.dtype == np.float32 for array in arrays)  # float32 holds them
        rows = [array.astype(np.float32 if fits else np.float64) for array in arrays]
        how = ", each column scaled to mean 0 and standard deviation 1"
        return rows, how, None, Scaling.of_columns(rows[0])
    low, high = min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)
    is_whole = all(array.dtype.kind != "f" or np.array_equal(array, np.rint(array)) for array in arrays)
    if is_whole and low >= 0 and high <= 255:
        most = 255 if high > 127 or high == 0 or (are_pictures and high > 1) else int(high)
        how = f", values to {most}, which counts as 1" if most != 255 else ""
        return [array.astype(np.uint8) for array in arrays], how, most, None
    for factor, is_meant in ((255.0, high <= 1), (1 / 257, is_whole and high <= 65_535)):
        if is_meant and low >= 0 and all(_is_lossless(array, factor) for array in arrays):
            how = f", values from {low:g} to {high:g} taken as 256 grey levels"
            return [np.rint(array * factor).astype(np.uint8) for array in arrays], how, 255, None
    if low >= 0 and high <= 1:
        least, greatest = 0.0, 1.0
    elif is_whole and low >= 0 and high <= 65_535:
        least, greatest = 0.0, float(white_of(high))
    else:
        least, greatest = float(arrays[0].min()), float(arrays[0].max())
    how = f", values from {low:g} to {high:g}, of which {least:g} counts as 0 and {greatest:g} as 1"
    return [array.astype(np.float32) for array in arrays], how, None, Scaling.of_range(least, greatest)


def _is_lossless(array: np.ndarray, factor: float) -> bool:
    """Return whether values are bytes times a constant factor."""
    return all(
        bool(np.all(np.abs(np.rint(block * factor) - block * factor) <= _ROUNDING))
        for block in np.array_split(array, max(1, len(array) // 1024))
    )


def _labels(y: np.ndarray, name: str, n: int) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 1 and y.dtype.kind == "f" and np.isfinite(y).all() and np.array_equal(y, np.rint(y)):
        y = y.astype(np.int64)
    if y.ndim != 1 or y.dtype.kind not in "iubUS":
        raise DataError(f"{name}: labels of {y.dtype}, shape {y.shape}: expected whole numbers or strings, (n,)")
    if len(y) != n:
        raise DataError(f"{name}: {n} images and {len(y)} labels: expected one label per image")
    return as_words(y, name) if y.dtype.kind == "S" else y.astype(np.int64) if y.dtype.kind == "b" else y


def held_out(labels: np.ndarray, seed: int, name: str) -> np.ndarray:
    """Select the test samples at random: a sixth of each class, rounded."""
    rng, is_test = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        is_test[rng.permutation(rows)[: round(len(rows) / TEST_SHARE)]] = True
    if not is_test.any() or is_test.all():
        found = f"{len(labels)} samples with {len(np.unique(labels))} different labels"
        raise DataError(f"{name}: {found}: a sixth of each class is the test set; expected classes of several samples")
    return is_test


def named_classes(parts: Sequence[np.ndarray]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Return the names of the classes in all parts, numbers in their order, and each part's labels as their numbers."""
    names = sorted({str(value) for labels in parts for value in np.unique(labels).tolist()})
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        names.sort(key=int)
    found = []
    for labels in parts:
        values, places = np.unique(labels, return_inverse=True)
        found.append(numbers_of([str(value) for value in values.tolist()], names)[places.reshape(-1)])
    return tuple(names), found
