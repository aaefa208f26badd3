"""From a data set's name to its images and labels."""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xpmlp.data import idx
from xpmlp.errors import DataError

MNIST_CLASSES = tuple("0123456789")
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_CLASSES = {"mnist": MNIST_CLASSES, "fashion-mnist": FASHION_CLASSES}
_NAMES = ("auto", "mnist", "fashion-mnist", "digits", "idx:FOLDER")

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""The names of MNIST's four files, which Fashion-MNIST bears too, each alone or with ``.gz``."""


@dataclass(frozen=True)
class Dataset:
    """Labelled images on the host.

    Parameters
    ----------
    images : numpy.ndarray of uint8, shape (n, height, width)
        Grey values from 0 to `max_value`.
    labels : numpy.ndarray of any integer dtype, shape (n,)
        Each image's class, an index into `class_names`.
    class_names : tuple of str
        What the classes are called.
    max_value : int
        The grey value that counts as 1 (255 in MNIST, 16 in the digits).
    provenance : str
        Where it came from, in one line.

    Raises
    ------
    DataError
        If the arrays do not fit this description or each other, or there are no images.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    max_value: int
    provenance: str

    def __post_init__(self) -> None:
        images, labels, where = self.images, self.labels, self.provenance
        if images.ndim != 3 or images.dtype != np.uint8:
            raise DataError(
                f"{where}: images of {images.dtype}, shape {images.shape}: expected uint8 (n, height, width)"
            )
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DataError(f"{where}: labels of {labels.dtype}, shape {labels.shape}: expected integers (n,)")
        if len(images) != len(labels):
            raise DataError(f"{where}: {len(images)} images and {len(labels)} labels: expected one label an image")
        if images.size == 0:
            raise DataError(f"{where}: images of shape {images.shape}: expected at least one, of at least one pixel")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.class_names):
            found = low if low < 0 else high
            raise DataError(f"{where}: a label is {found}: expected 0 to {len(self.class_names) - 1}")
        if not 0 < self.max_value <= 255:
            raise DataError(f"{where}: max_value {self.max_value}: expected 1 to 255")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int]:
        """The height and width of an image, in pixels."""
        return self.images.shape[1], self.images.shape[2]


@dataclass(frozen=True)
class LoadedData:
    """A data set as `load_dataset` found it.

    Parameters
    ----------
    name : str
        Which one it is, as the user would name it.
    train, test : Dataset
        Its two parts.
    note : str
        Why it was chosen, where the user left the choice.
    """

    name: str
    train: Dataset
    test: Dataset
    note: str = ""


def load_dataset(name: str = "auto", data_dir: str | os.PathLike[str] | None = None) -> LoadedData:
    """Find a data set and read it.

    Parameters
    ----------
    name : str
        ``mnist``, ``fashion-mnist``, ``digits`` (1,797 images of 8 × 8 that ship with scikit-learn), ``idx:FOLDER`` (a
        folder of one's own with MNIST's four file names), or ``auto``: MNIST where it is on disk, else the digits.
    data_dir : path or None
        The only folder to look in: the files are in it, or in a folder of the data set's name in it. None: the
        folder that the environment variable XPMLP_DATA names, then the user's cache.

    Raises
    ------
    DataError
        If the name is unknown, or the data set is not there or damaged.
    """
    if name == "digits":
        return _digits()
    if name.startswith("idx:"):
        folder = Path(name.removeprefix("idx:"))
        if not _is_whole(folder):
            raise DataError(_missing(folder))
        return _read(name, folder, None)
    if name in _CLASSES:
        found = _find(name, data_dir)
        if found is None:
            raise DataError(f"{name} is not on this disk: {_remedy(name, data_dir)}")
        return _read(name, found, _CLASSES[name])
    if name == "auto":
        found = _find("mnist", data_dir)
        if found is not None:
            return _read("mnist", found, MNIST_CLASSES)
        if data_dir is not None:
            raise DataError(f"there is no MNIST in the given folder: {_remedy('mnist', data_dir)}")
        digits = _digits()
        note = f"MNIST is not on this disk: {_remedy('mnist', None)}"
        return LoadedData(digits.name, digits.train, digits.test, note)
    near = difflib.get_close_matches(name, _NAMES, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise DataError(f"unknown data set {name!r}: {hint}expected {', '.join(_NAMES[:-1])} or {_NAMES[-1]}")


def _folders(name: str, data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Return where a data set may be, in the order in which the folders are looked at."""
    if data_dir is not None:
        parents = [Path(data_dir)]
    else:
        import platformdirs

        given = os.environ.get("XPMLP_DATA")
        parents = [*([Path(given)] if given else []), platformdirs.user_cache_path("xpmlp")]
    return [folder for parent in parents for folder in (parent / name, parent)]


def _find(name: str, data_dir: str | os.PathLike[str] | None) -> Path | None:
    return next((folder for folder in _folders(name, data_dir) if _is_whole(folder)), None)


def _remedy(name: str, data_dir: str | os.PathLike[str] | None) -> str:
    if data_dir is not None:
        return _missing(Path(data_dir), f" (nor in its folder {name})")
    looked = ", ".join(str(folder) for folder in _folders(name, None)[::2])
    return f"no {_FILES[0]} and its three siblings in {looked}; give their folder with --data-dir or XPMLP_DATA"


def _missing(folder: Path, also: str = "") -> str:
    if not folder.is_dir():
        return f"{folder} is no folder"
    missing = [file for file in _FILES if _path(folder, file) is None]
    return f"{folder} has no {', '.join(missing)}, plain or .gz{also}"


def _path(folder: Path, file: str) -> Path | None:
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)


def _is_whole(folder: Path) -> bool:
    return all(_path(folder, file) for file in _FILES)


def _read(name: str, folder: Path, class_names: tuple[str, ...] | None) -> LoadedData:
    arrays = [idx.read(path) for file in _FILES if (path := _path(folder, file))]
    if class_names is None:
        labels = arrays[1]
        n_classes = int(labels.max()) + 1 if labels.size and labels.dtype.kind in "iu" else 1
        class_names = tuple(str(label) for label in range(max(n_classes, 1)))
    train = Dataset(arrays[0], arrays[1], class_names, 255, f"{name} training set in {folder}")
    test = Dataset(arrays[2], arrays[3], class_names, 255, f"{name} test set in {folder}")
    if train.image_shape != test.image_shape:
        raise DataError(
            f"{folder}: training images of {train.image_shape} and test images of {test.image_shape} pixels: "
            "expected one size"
        )
    return LoadedData(name, train, test)


def _digits() -> LoadedData:
    """Return scikit-learn's digits; every fifth image of a class is for the test, whatever the seed."""
    import sklearn
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int32)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[4::5]] = True
    train, test = (
        Dataset(
            images[rows], labels[rows], MNIST_CLASSES, 16, f"digits {part} set of scikit-learn {sklearn.__version__}"
        )
        for part, rows in (("training", ~is_test), ("test", is_test))
    )
    return LoadedData("digits", train, test)
