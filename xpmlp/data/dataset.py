"""A data set in memory: labelled images or other samples, and the facts that a network needs about them."""

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from xpmlp.backends import on_host
from xpmlp.data import idx, preparation
from xpmlp.data.labels import numbers_of
from xpmlp.data.scaling import Scaling
from xpmlp.errors import DataError

MOST_CLASSES = 10_000
"""The limit for a user's own data: one wrong, large label would make the output layer as wide as its value."""


def as_words(labels: np.ndarray, name: str) -> np.ndarray:
    """Return labels of strings, bytes of UTF-8 or objects that are strings as an array of strings."""
    if labels.dtype.kind == "O" and not all(isinstance(label, str) for label in labels):
        kinds = ", ".join(sorted({type(label).__name__ for label in labels}))
        raise DataError(f"{name}: labels are objects ({kinds}): expected numbers or strings")
    try:
        return np.char.decode(labels, "utf-8") if labels.dtype.kind == "S" else labels.astype(str)
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: labels are bytes that are not UTF-8 ({error.reason}): decode them first") from None


def described(image_shape: tuple[int, ...]) -> str:
    """Return a data set's contents in words: images of a size, or samples of so many numbers."""
    if len(image_shape) == 1:
        return f"samples of {image_shape[0]} numbers"
    return f"images of {image_shape[0]} × {image_shape[1]}{' in colour' if len(image_shape) == 3 else ''}"


@dataclass(frozen=True)
class Dataset:
    """Labelled images, or other samples, on the host.

    Parameters
    ----------
    images : numpy.ndarray, shape (n, height, width), in colour (n, height, width, 3), or (n, d) of other samples
        uint8: values from 0 to `max_value`. float32 or float64: finite numbers.
    labels : numpy.ndarray of any integer dtype, or of strings, shape (n,)
        Each image's class, an index into `class_names`, or its name.
    class_names : tuple of str or None
        The classes' names. None: the numbers up to the greatest label, or the sorted strings.
    max_value : int or None
        The value of bytes that counts as 1 (255 in MNIST, 16 in the digits). None: 255, or 1 for floats without a
        scaling.
    provenance : str
        The data set's origin, in one line.
    scaling : Scaling or None
        How floats are scaled for a network. None: they are not scaled.
    preparation : {"mnist", "digits", "as-trained"} or None
        How the pictures were prepared; `xpmlp predict` prepares others in the same way. None: measure it.
    columns : tuple of str or None
        The column names of a table of features.

    Raises
    ------
    DataError
        If an argument is none of these, or the arguments do not fit each other.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = None  # type: ignore[assignment]  # filled in where it is left out
    max_value: int = None  # type: ignore[assignment]
    provenance: str = "a data set in memory"
    scaling: Scaling | None = None
    preparation: str = None  # type: ignore[assignment]
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        is_bytes = images.dtype == np.uint8
        if self.max_value is None:
            object.__setattr__(self, "max_value", 255 if is_bytes or self.scaling else 1)
        if labels.dtype.kind in "USO" and labels.ndim == 1 and labels.size:
            labels = self._with_numbers(as_words(labels, self.provenance))
        if self.class_names is None and labels.size and labels.dtype.kind in "iu":
            greatest = min(max(0, int(labels.max())), MOST_CLASSES - 1)
            object.__setattr__(self, "class_names", tuple(map(str, range(greatest + 1))))
        problem, n_classes = "", len(self.class_names or ())
        has_shape = images.ndim in (2, 3) or (images.ndim == 4 and images.shape[3] == 3)
        if not has_shape or not (is_bytes or images.dtype in (np.float32, np.float64)):
            expected = "expected uint8 or floats (n, height, width), (n, height, width, 3) or (n, d)"
            problem = f"images of {images.dtype}, shape {images.shape}: {expected}"
        elif labels.ndim != 1 or labels.dtype.kind not in "iu":
            problem = f"labels of {labels.dtype}, shape {labels.shape}: expected integers or strings, (n,)"
        elif len(images) != len(labels):
            problem = f"{len(images)} images and {len(labels)} labels: expected one label per image"
        elif images.size == 0:
            problem = f"images of shape {images.shape}: expected at least one, of at least one pixel"
        elif labels.min() < 0 or labels.max() >= n_classes:
            found = labels.min() if labels.min() < 0 else labels.max()
            expected = "classes from 0 to at most" if n_classes == MOST_CLASSES else "0 to"
            problem = f"a label is {found}: expected {expected} {n_classes - 1}"
        elif len(set(self.class_names)) < n_classes:
            twice = next(name for name in self.class_names if self.class_names.count(name) > 1)
            problem = f"two classes are called {twice}: expected a name for each"
        elif self.columns is not None and (images.ndim != 2 or len(self.columns) != images.shape[1]):
            problem = f"{len(self.columns)} columns' names: expected one for each of {images.shape[1:]}"
        elif not 0 < self.max_value <= 255:
            problem = f"max_value {self.max_value}: expected 1 to 255"
        elif not is_bytes and not np.isfinite(images).all():
            problem = "some numbers are infinite or NaN: expected finite ones"
        elif self.scaling and is_bytes:
            problem = "a scaling of bytes: expected floats, or max_value"
        elif self.scaling and len(self.scaling.shift) not in (1, images[0].size):
            problem = f"a scaling of {len(self.scaling.shift)} values: each sample has {images[0].size}"
        elif self.preparation not in (None, *preparation.PREPARATIONS):
            problem = f"preparation {self.preparation!r}: expected {' or '.join(preparation.PREPARATIONS)}"
        if problem:
            raise DataError(f"{self.provenance}: {problem}")
        if self.preparation is None:
            object.__setattr__(self, "preparation", preparation.measure(images, self.max_value))

    def _with_numbers(self, names: np.ndarray) -> np.ndarray:
        """Use the numbers of the classes as their names, and return them."""
        found, places = np.unique(names, return_inverse=True)
        if self.class_names is None:
            object.__setattr__(self, "class_names", tuple(found.tolist()))

        def problem(unknown: str) -> str:
            return f"{self.provenance}: label {unknown!r}: expected {', '.join(self.class_names[:20])}"

        labels: np.ndarray = numbers_of(found.tolist(), self.class_names, problem)[places]
        object.__setattr__(self, "labels", labels)
        return labels

    @classmethod
    def of(cls, X: Any, y: Any) -> "Dataset":
        """Return samples and their classes as a data set on the host.

        Parameters
        ----------
        X : array, shape (n, d), (n, height, width) or (n, height, width, 3)
            Bytes, or numbers that are used unchanged: an array of NumPy or another library, or what NumPy converts to
            an array.
        y : array, shape (n,)
            Numbers, booleans or strings. Their sorted values are the classes' names.
        """
        names = tuple(map(str, X.columns)) if hasattr(X, "columns") and hasattr(X, "to_numpy") else None
        X, y = (np.asarray(on_host(array)) for array in (X, y))
        if X.dtype.kind in "iub" and X.dtype != np.uint8:
            X = X.astype(np.float64)
        if X.dtype == np.float16:
            X = X.astype(np.float32)
        if y.dtype.kind in "SO" and y.ndim == 1:
            y = as_words(y, "y")
        if y.ndim != 1 or y.dtype.kind not in "iubfU":
            raise DataError(f"y of {y.dtype}, shape {y.shape}: expected a class for each sample, (n,)")
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) > MOST_CLASSES:
            raise DataError(f"y has {len(classes)} classes: expected at most {MOST_CLASSES}")
        return cls(X, labels.astype(np.int32), tuple(str(name) for name in classes.tolist()), columns=names)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of a sample: (height, width) of an image, (height, width, 3) in colour, (d,) of other samples."""
        return self.images.shape[1:]

    @property
    def samples(self) -> str:
        """The word for the samples: "images" or "samples"."""
        return "samples" if len(self.image_shape) == 1 else "images"

    @property
    def n_inputs(self) -> int:
        """The number of values in a sample."""
        return math.prod(self.image_shape)

    def as_inputs(self, dtype: str) -> "Dataset":
        """Return the data set, its floats scaled and cast for a network of a dtype. The step itself scales bytes."""
        if self.images.dtype == np.uint8:
            return self
        if self.scaling is None:
            images = self.images.astype(dtype, copy=False)
        else:
            images = self.scaling.scaled(self.images, dtype)
        return dataclasses.replace(self, images=images, scaling=None, max_value=1)

    @cached_property
    def images_sum(self) -> str:
        """The SHA-256 of the images' IDX file, in hexadecimal. Computing it reads every image once."""
        return idx.sum_of_contents(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of all data that a training run reads, in hexadecimal."""
        labels = idx.sum_of_contents(self.labels.astype(np.int32))
        scaled = f" {self.scaling}" if self.scaling else ""
        seen = f"{self.images_sum} {labels} {self.max_value} {self.class_names}{scaled}"
        return hashlib.sha256(seen.encode()).hexdigest()


@dataclass(frozen=True)
class LoadedData:
    """A data set as `load_dataset` returns it."""

    name: str  # which one it is, as the user would name it
    train: Dataset
    test: Dataset
    note: str = ""  # why it was chosen, where the user left the choice
    warning: str = ""  # what the user should know about its files
    about: str = ""  # what was recognised in a user's own file or folder


def parts_of(data: Any) -> tuple[Dataset, Dataset | None]:
    """Return the data set to train on, and the one to test on if there is one, from any accepted form of data."""
    if isinstance(data, LoadedData):
        return data.train, data.test
    if isinstance(data, Dataset):
        return data, None
    if isinstance(data, tuple) and len(data) == 2:
        return Dataset.of(*data), None
    raise DataError(f"data is a {type(data).__name__}: expected what load_dataset returns, a Dataset, or (X, y)")
