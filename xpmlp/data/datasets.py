"""From a data set's name to its images and labels."""

import dataclasses
import difflib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xpmlp.backends import on_host
from xpmlp.data import idx
from xpmlp.data.download import Progress, download
from xpmlp.data.sources import FILES, SOURCES, file_of
from xpmlp.errors import DataError

DATA_VARIABLE = "XPMLP_DATA"  # of the environment: the folder in which data sets are looked for first
_MOST_CLASSES = 10_000  # of a user's own data: one wrong label would make a network as wide as it is great

NAMES = ("auto", *SOURCES, "digits")

OWN = ("file", "pictures")
"""What the names of data sets of one's own begin with, before the path."""

_NAMES = (*NAMES, "a path that is there")


@dataclass(frozen=True)
class Dataset:
    """Labelled images, or other samples, on the host.

    Parameters
    ----------
    images : numpy.ndarray, shape (n, height, width)
        Of uint8: grey values from 0 to `max_value`. Of float32 or float64: finite numbers, which are taken as they are.
    labels : numpy.ndarray of any integer dtype, shape (n,)
        Each image's class, an index into `class_names`.
    class_names : tuple of str or None
        What the classes are called; None: their numbers, up to the greatest label.
    max_value : int or None
        The grey value that counts as 1 (255 in MNIST, 16 in the digits); None: 255 of bytes, 1 of floats.
    provenance : str
        Where it came from, in one line.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...] = None  # type: ignore[assignment]  # filled in where it is left out
    max_value: int = None  # type: ignore[assignment]
    provenance: str = "a data set in memory"

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        is_bytes = images.dtype == np.uint8
        if self.max_value is None:
            object.__setattr__(self, "max_value", 255 if is_bytes else 1)
        if self.class_names is None and labels.size and labels.dtype.kind in "iu":
            greatest = min(max(0, int(labels.max())), _MOST_CLASSES - 1)
            object.__setattr__(self, "class_names", tuple(map(str, range(greatest + 1))))
        problem, n_classes = "", len(self.class_names or ())
        if images.ndim != 3 or not (is_bytes or images.dtype in (np.float32, np.float64)):
            problem = f"images of {images.dtype}, shape {images.shape}: expected uint8 or floats (n, height, width)"
        elif labels.ndim != 1 or labels.dtype.kind not in "iu":
            problem = f"labels of {labels.dtype}, shape {labels.shape}: expected integers (n,)"
        elif len(images) != len(labels):
            problem = f"{len(images)} images and {len(labels)} labels: expected one label an image"
        elif images.size == 0:
            problem = f"images of shape {images.shape}: expected at least one, of at least one pixel"
        elif labels.min() < 0 or labels.max() >= n_classes:
            found = labels.min() if labels.min() < 0 else labels.max()
            expected = "classes from 0 to at most" if n_classes == _MOST_CLASSES else "0 to"
            problem = f"a label is {found}: expected {expected} {n_classes - 1}"
        elif not 0 < self.max_value <= 255:
            problem = f"max_value {self.max_value}: expected 1 to 255"
        elif not is_bytes and not np.isfinite(images).all():
            problem = "some numbers are infinite or NaN: expected finite ones"
        if problem:
            raise DataError(f"{self.provenance}: {problem}")

    @classmethod
    def of(cls, X: Any, y: Any) -> "Dataset":
        """Return samples and their classes as a data set on the host.

        Parameters
        ----------
        X : array, shape (n, d) or (n, height, width)
            Bytes, or numbers that are taken as they are: NumPy's, another library's, or what NumPy makes an array of.
        y : array, shape (n,)
            Numbers, booleans or strings; what they are called is the classes' names, in their order.
        """
        X, y = (np.asarray(on_host(array)) for array in (X, y))
        if X.dtype.kind in "iub" and X.dtype != np.uint8:
            X = X.astype(np.float64)
        if y.ndim != 1 or y.dtype.kind not in "iubfUS":
            raise DataError(f"y of {y.dtype}, shape {y.shape}: expected a class for each sample, (n,)")
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) > _MOST_CLASSES:
            raise DataError(f"y has {len(classes)} classes: expected at most {_MOST_CLASSES}")
        images = X[:, None, :] if X.ndim == 2 else X
        return cls(images, labels.astype(np.int32), tuple(str(name) for name in classes.tolist()))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int]:
        """The height and width of an image, in pixels."""
        return self.images.shape[1], self.images.shape[2]

    @cached_property
    def images_sum(self) -> str:
        """The SHA-256 of the images' IDX file, in hexadecimal; it takes reading every image once."""
        return idx.sum_of_contents(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of all that a training run sees of it, in hexadecimal."""
        labels = idx.sum_of_contents(self.labels.astype(np.int32))
        return hashlib.sha256(f"{self.images_sum} {labels} {self.max_value} {self.class_names}".encode()).hexdigest()


@dataclass(frozen=True)
class LoadedData:
    """A data set as `load_dataset` found it."""

    name: str  # which one it is, as the user would name it
    train: Dataset
    test: Dataset
    note: str = ""  # why it was chosen, where the user left the choice
    warning: str = ""  # what the user should know about its files
    about: str = ""  # what was recognised in a user's own file or folder


def parts_of(data: Any) -> tuple[Dataset, Dataset | None]:
    """Return the data set to train on, and the one to test on where there is one, of whatever stands for them."""
    if isinstance(data, LoadedData):
        return data.train, data.test
    if isinstance(data, Dataset):
        return data, None
    if isinstance(data, tuple) and len(data) == 2:
        return Dataset.of(*data), None
    raise DataError(f"data is a {type(data).__name__}: expected what load_dataset returns, a Dataset, or (X, y)")


def load_dataset(
    name: str = "auto",
    data_dir: str | os.PathLike[str] | None = None,
    *,
    progress: Progress | None = None,
    label_column: str | None = None,
    shape: str | None = None,
    seed: int = 0,
) -> LoadedData:
    """Find a data set, or download it, and read it.

    Parameters
    ----------
    name : str
        ``mnist``, ``fashion-mnist``, ``digits`` (1,797 images of 8 × 8 that ship with scikit-learn), ``auto`` (MNIST
        where it is on disk or can be downloaded, else the digits), or a path: a folder with MNIST's four files (also
        ``idx:FOLDER``), an ``.npz`` archive, a CSV or TSV file, or a folder with a folder of pictures for each class.
    data_dir : path or None
        The only folder to look in: the files are in it, or in a folder of the data set's name in it. None: the
        folder that the environment variable XPMLP_DATA names, then the user's cache, and then a download to there.
    progress : callable or None
        Is told a file's name, the bytes that have come and the bytes in all, where something is downloaded.
    label_column : str or None
        Of a table: a column's name or number, ``first`` or ``last``, where its header does not say which one it is.
    shape : str or None
        ``HEIGHTxWIDTH`` of images that are rows of numbers, where the file does not say it.
    seed : int
        What decides which sixth of a set in one part is for the test.

    Raises
    ------
    DataError
        If the name is unknown, or the data set is not there, cannot be had, is damaged or is another one.
    """
    if not name.startswith("idx:") and name.lower() in (*SOURCES, "digits", "auto"):
        name = name.lower()
    data_dir = None if data_dir is None else expanded(data_dir)
    is_digits, path = name == "digits", _own_path(name)
    if path is None and (label_column is not None or shape is not None):
        raise DataError(f"{name} has its labels and its shape: leave --label-column and --shape out")
    if path is not None:
        if data_dir is not None:
            raise DataError(f"{name} is a path: leave out the data folder {data_dir}")
        return _read_own(path, label_column, shape, seed)
    if is_digits or name.startswith("idx:"):
        if data_dir is not None:
            where = "ship with scikit-learn" if is_digits else "name their folder themselves"
            raise DataError(f"{name} {where}: leave out the data folder {data_dir}")
        return _digits() if is_digits else _read(name, folder_of_files(expanded(name.removeprefix("idx:"))))
    if name in SOURCES:
        return _read(name, _find_or_download(name, data_dir, progress))
    if name == "auto":
        try:
            folder = _find_or_download("mnist", data_dir, progress)
        except DataError as error:
            if data_dir is not None:
                raise
            return dataclasses.replace(_digits(), note=str(error))
        return _read("mnist", folder)
    near = difflib.get_close_matches(name.lower(), _NAMES, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise DataError(f"unknown data set {name!r}: {hint}expected {', '.join(_NAMES[:-1])} or {_NAMES[-1]}")


def _own_path(name: str) -> Path | None:
    """Return the path that a name stands for, None where it is a set's name or there is no such path."""
    kind, _, rest = name.partition(":")
    if kind in OWN and rest:
        return expanded(rest)
    is_name = name in (*SOURCES, "digits", "auto") or name.startswith("idx:")
    path = expanded(name)
    return path if not is_name and name and os.path.lexists(path) else None


def _read_own(path: Path, label_column: str | None, shape: str | None, seed: int) -> LoadedData:
    """Return the data set at a path, whatever its format."""
    from xpmlp.data import formats

    folder = folder_of_files(path)
    if _files_in(folder):
        if label_column is not None or shape is not None:
            raise DataError(f"{path} has MNIST's files, which say it: leave --label-column and --shape out")
        return _read(f"idx:{path}", folder)
    found = formats.read_path(path, label_column, shape, seed)
    names, labels = formats.named_classes([found.train[1], found.test[1]])
    if len(names) > _MOST_CLASSES:
        raise DataError(f"{path} has {len(names)} classes: expected at most {_MOST_CLASSES}")
    kind = "pictures" if path.is_dir() else "file"

    def part(title: str, images: np.ndarray, classes: np.ndarray) -> Dataset:
        return Dataset(images, classes, names, found.max_value, f"{title} set in {path}")

    train, test = part("training", found.train[0], labels[0]), part("test", found.test[0], labels[1])
    n_empty = len(names) - len(np.unique(train.labels))
    warning = f"{n_empty} of the {len(names)} classes have no training image" if n_empty else ""
    if len(names) == 1:
        warning = f"all images are of one class, {names[0]}: there is nothing to learn"
    return LoadedData(f"{kind}:{path}", train, test, warning=warning, about=found.about)


def _find_or_download(name: str, data_dir: str | os.PathLike[str] | None, progress: Progress | None) -> Path:
    import platformdirs

    cache, given = platformdirs.user_cache_path("xpmlp"), os.environ.get(DATA_VARIABLE)
    parents = [Path(data_dir)] if data_dir is not None else [expanded(given), cache] if given else [cache]
    folders = [folder for parent in parents for folder in (*_folders_called(name, parent), parent)]
    for folder in map(folder_of_files, folders):
        if not _missing(folder):
            return folder
    if data_dir is not None:
        also = f" (nor in its folder {name})" if parents[0].is_dir() else ""
        raise DataError(f"{name} is not in the given folder: {_missing(parents[0])}{also}")
    nearly = "".join(f"; {_missing(folder)}" for folder in map(folder_of_files, folders) if _files_in(folder))
    try:
        download(name, SOURCES[name], cache / name, progress)
    except DataError as error:
        looked, why = ", ".join(map(str, parents)), str(error).removeprefix(f"{name} ")
        mend = f"give the folder of its files with --data-dir or {DATA_VARIABLE}"
        raise DataError(f"{name} is not on this disk ({looked}{nearly}) and {why}; {mend}") from None
    return cache / name


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path in which ``~`` and the environment's variables stand for what they are."""
    return Path(os.path.expandvars(os.path.expanduser(path)))


def _folders_called(name: str, parent: Path) -> list[Path]:
    """Return a folder's folders of a data set's name, however that is written: mnist, MNIST, FashionMNIST."""
    wanted = name.replace("-", "")
    found = [path for path in _entries(parent) if path.name.lower().replace("-", "").replace("_", "") == wanted]
    return sorted(found, key=lambda path: (path.name != name, path.name))


def folder_of_files(folder: Path) -> Path:
    """Return where a data set's files are: in a folder, or in its folder ``raw``, as torchvision leaves them."""
    return folder / "raw" if not _files_in(folder) and _files_in(folder / "raw") else folder


def _files_in(folder: Path) -> dict[str, Path]:
    """Return those of the four files that a folder has, plain or else gzipped; each may be in a folder of its name."""
    found: dict[str, Path] = {}
    for path in sorted(_entries(folder), key=lambda path: path.name.lower().endswith(".gz"), reverse=True):
        file = file_of(path.name)
        if file is not None and path.is_dir():
            path = next((inner for inner in _entries(path) if file_of(inner.name) == file and inner.is_file()), path)
        if file is not None and path.is_file():
            found[file] = path
    return {file: found[file] for file in FILES if file in found}


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _missing(folder: Path) -> str:
    """Return what keeps a folder from being a data set's, nothing where it has the four files."""
    if not folder.is_dir():
        return f"{folder} is no folder"
    missing = [file for file in FILES if file not in _files_in(folder)]
    return f"{folder} has no {', '.join(missing)}, plain or .gz" if missing else ""


def _read(name: str, folder: Path) -> LoadedData:
    missing = _missing(folder)
    if missing:
        raise DataError(missing)
    paths = _files_in(folder)
    with ThreadPoolExecutor(len(FILES)) as pool:  # inflating and summing let go of the interpreter's lock
        arrays = dict(zip(FILES, pool.map(idx.read, paths.values()), strict=True))
        sums = dict(zip(FILES, pool.map(idx.sum_of_contents, arrays.values()), strict=True))
    in_sources = name in SOURCES
    unknown = [paths[k].name for k in FILES if in_sources and not _is_published(name, k, paths[k], sums[k])]

    def part(title: str, images: str, labels: str, class_names: Any) -> Dataset:
        data = Dataset(arrays[images], arrays[labels], class_names, 255, f"{name} {title} set in {folder}")
        vars(data)["images_sum"] = sums[images]  # the property's, taken while the file was read
        return data

    train = part("training", *FILES[:2], SOURCES[name].class_names if in_sources else None)
    test = part("test", *FILES[2:], train.class_names)
    if train.image_shape != test.image_shape:
        shapes = f"training images of {train.image_shape} and test images of {test.image_shape} pixels"
        raise DataError(f"{folder}: {shapes}: expected one size")
    warning, n_empty = "", len(train.class_names) - len(np.unique(train.labels))
    if unknown:
        warning = f"{', '.join(unknown)} in {folder}: not {name} as it was published (their sums are unknown)"
    elif n_empty and not in_sources:
        warning = f"{n_empty} of the {len(train.class_names)} classes have no training image"
    return LoadedData(name, train, test, warning=warning)


def _is_published(name: str, file: str, path: Path, sum_: str) -> bool:
    """Return whether a file is what was published under that name; refuse what was published under another."""
    published = {}
    for owner, source in SOURCES.items():
        for sums in (source.zipped, source.contents):
            published.update({known: (owner, kind) for kind, known in sums.items()})
    found = published.get(sum_)  # of the contents: a file may have been recompressed
    if found is None and path.suffix == ".gz":  # of Fashion-MNIST only the compressed files' sums are known
        found = published.get(hashlib.sha256(path.read_bytes()).hexdigest())
    if found not in (None, (name, file)):
        raise DataError(f"{path} is {found[0]}'s {found[1]}, by its SHA-256: expected {name}'s {file}; name its folder")
    return found is not None


def _digits() -> LoadedData:
    """Return scikit-learn's digits; every fifth image of a class is for the test, whatever the seed."""
    import sklearn
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int32)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[4::5]] = True

    def part(name: str, rows: np.ndarray) -> Dataset:
        provenance = f"digits {name} set of scikit-learn {sklearn.__version__}"
        return Dataset(images[rows], labels[rows], tuple("0123456789"), 16, provenance)

    return LoadedData("digits", part("training", ~is_test), part("test", is_test))
