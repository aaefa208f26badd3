"""A data set of one's own: from a path to images and labels, by what the files hold, never by their names alone."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xpmlp.data import archives, picture_folders, tables
from xpmlp.data.files import known_kind
from xpmlp.errors import DataError

TEST_SHARE = 6
"""Of a set in one part, one in so many samples of each class is for the test."""


class Found(NamedTuple):
    """What was read: images, uint8 (n, height, width), and labels, numbers or strings (n,), of both parts."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    about: str
    """What was recognised, in one line."""
    max_value: int
    """The grey value that counts as 1."""


def read_path(path: Path, label_column: str | None, shape: str | None, seed: int) -> Found:
    """Return the data set at a path: an ``.npz``, a CSV or TSV file, or a folder of a folder for each class.

    Parameters
    ----------
    path : Path
        Where it is; it must be there.
    label_column : str or None
        Of a table: a column's name or number (from 0), ``first`` or ``last``; None: the one that is called label,
        class, target or y.
    shape : str or None
        ``HEIGHTxWIDTH`` of images that come as rows of numbers; None: where the file says it.
    seed : int
        What decides which samples of a set in one part are for the test.

    Raises
    ------
    DataError
        If the format is unknown, the file damaged, or something of it not certain.
    """
    size = None if shape is None else parsed_shape(shape)
    if path.is_dir():
        if label_column is not None or shape is not None:
            raise DataError(f"{path} is a folder of pictures: leave --label-column and --shape out")
        parts, about = picture_folders.read(path)
    else:
        try:
            with path.open("rb") as file:
                beginning = file.read(512)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from None
        if beginning.startswith(b"PK\x03\x04") and archives.is_npz(path):
            if label_column is not None:
                raise DataError(f"{path} is a NumPy archive, whose arrays have names: leave --label-column out")
            parts, about = archives.read(path)
        elif (kind := known_kind(beginning)) and not beginning.startswith(b"\x1f\x8b"):
            raise DataError(f"{path}: {kind}; expected an .npz, a CSV file, or a folder")
        elif beginning.startswith(b"\0\0"):
            raise DataError(f"{path} is one file, perhaps of an IDX set: name the folder that holds all four")
        else:
            parts, about, found = tables.read(path, label_column)
            size = size or found
    images, how, most = as_images([images for images, _ in parts], str(path), size)
    labels = [_labels(y, str(path), len(x)) for x, (_, y) in zip(images, parts, strict=True)]
    about += how
    if len(images) == 1:
        is_test = held_out(labels[0], seed, str(path))
        about += f"; a sixth of each class is the test set, by seed {seed}"
        images = [images[0][~is_test], images[0][is_test]]
        labels = [labels[0][~is_test], labels[0][is_test]]
    return Found((images[0], labels[0]), (images[1], labels[1]), about, most)


def parsed_shape(text: str) -> tuple[int, int]:
    """Return a height and a width."""
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) * int(width)):
        raise DataError(f"shape {text!r}: expected HEIGHTxWIDTH, such as 28x28")
    return int(height), int(width)


def as_images(
    arrays: Sequence[np.ndarray], name: str, size: tuple[int, int] | None
) -> tuple[list[np.ndarray], str, int]:
    """Return arrays of images as bytes, (n, height, width), in words how they were taken, and what counts as 1."""
    arrays = [array[..., 0] if array.ndim == 4 and array.shape[-1] == 1 else array for array in arrays]
    for array in arrays:
        if array.ndim == 4:
            raise DataError(f"{name}: images of shape {array.shape[1:]}: expected grey ones, (height, width)")
        if array.ndim not in (2, 3) or array.size == 0:
            raise DataError(f"{name}: images of shape {array.shape}: expected (n, height, width), not empty")
        if array.ndim == 2 and size is None:
            raise DataError(f"{name}: rows of {array.shape[1]} numbers: give their shape, such as --shape 28x28")
        if array.ndim == 2 and size is not None and math.prod(size) != array.shape[1]:
            raise DataError(f"{name}: rows of {array.shape[1]} numbers are no images of {size[0]} × {size[1]}")
        if array.ndim == 3 and size not in (None, array.shape[1:]):
            raise DataError(f"{name}: images of {array.shape[1]} × {array.shape[2]}: leave --shape out")
    arrays = [array.reshape(len(array), *size) if array.ndim == 2 and size else array for array in arrays]
    if any(array.shape[1:] != arrays[0].shape[1:] for array in arrays):
        shapes = " and ".join(str(array.shape[1:]) for array in arrays)
        raise DataError(f"{name}: images of {shapes} pixels: expected one size")
    how = f", images of {arrays[0].shape[1]} × {arrays[0].shape[2]}"
    if any(array.dtype.kind not in "biuf" for array in arrays):
        raise DataError(f"{name}: images of {arrays[0].dtype}: expected numbers")
    if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in arrays):
        raise DataError(f"{name}: images hold NaN or infinity: expected finite numbers")
    low, high = min(float(array.min()) for array in arrays), max(float(array.max()) for array in arrays)
    is_whole = all(array.dtype.kind != "f" or np.array_equal(array, np.rint(array)) for array in arrays)
    if low < 0 or high > 65_535 or not (high <= 1 or is_whole):
        raise DataError(f"{name}: values from {low:g} to {high:g}: expected 0 to 1, or whole numbers from 0 to 65,535")
    if high <= 255 and is_whole:
        most = 255 if high > 127 or high == 0 else int(high)
        how += f", values to {most}, which counts as 1" if most != 255 else ""
        return [array.astype(np.uint8) for array in arrays], how, most
    how += f", values from {low:g} to {high:g} taken as 256 grey levels"
    factor = 255.0 if high <= 1 else 255 / 65_535
    return [np.rint(array * factor).astype(np.uint8) for array in arrays], how, 255


def _labels(y: np.ndarray, name: str, n: int) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 1 and y.dtype.kind == "f" and np.isfinite(y).all() and np.array_equal(y, np.rint(y)):
        y = y.astype(np.int64)
    if y.ndim != 1 or y.dtype.kind not in "iubUS":
        raise DataError(f"{name}: labels of {y.dtype}, shape {y.shape}: expected whole numbers or strings, (n,)")
    if len(y) != n:
        raise DataError(f"{name}: {n} images and {len(y)} labels: expected one label an image")
    return y.astype(str) if y.dtype.kind == "S" else y.astype(np.int64) if y.dtype.kind == "b" else y


def held_out(labels: np.ndarray, seed: int, name: str) -> np.ndarray:
    """Return which samples are for the test: of each class a sixth, rounded, at random."""
    rng, is_test = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        is_test[rng.permutation(rows)[: round(len(rows) / TEST_SHARE)]] = True
    if not is_test.any() or is_test.all():
        raise DataError(f"{name}: {len(labels)} samples are too few to hold a sixth of each class out: expected more")
    return is_test


def named_classes(parts: Sequence[np.ndarray]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Return the names of the classes in all parts, numbers in their order, and each part's labels as their numbers."""
    names = sorted({str(value) for labels in parts for value in np.unique(labels).tolist()})
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        names.sort(key=int)
    number = {name: k for k, name in enumerate(names)}
    found = []
    for labels in parts:
        values, places = np.unique(labels, return_inverse=True)
        numbers = np.array([number[str(value)] for value in values.tolist()], np.int32)
        found.append(numbers[places.reshape(-1)])
    return tuple(names), found
