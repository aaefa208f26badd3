"""Find a data set by its name, and read its images and labels."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xpmlp.data import idx_folders
from xpmlp.data.dataset import MOST_CLASSES, Dataset, LoadedData
from xpmlp.data.download import Progress, download
from xpmlp.data.preparation import DIGITS
from xpmlp.data.sources import SOURCES
from xpmlp.errors import DataError, expected_one_of

DATA_VARIABLE = "XPMLP_DATA"  # the environment variable with the folder that is searched first

NAMES = ("auto", *SOURCES, "digits")

OWN = ("file", "pictures")
"""The prefixes of the names of users' own data sets; the path follows."""

_NAMES = (*NAMES, "an existing path")


def load_dataset(
    name: str | os.PathLike[str] = "auto",
    data_dir: str | os.PathLike[str] | None = None,
    *,
    progress: Progress | None = None,
    label_column: str | int | None = None,
    shape: str | Sequence[int] | None = None,
    seed: int = 0,
) -> LoadedData:
    """Find a data set, or download it, and read it.

    Parameters
    ----------
    name : str
        A name: ``mnist``, ``fashion-mnist``, ``kmnist``, ``qmnist``, ``emnist-letters``, ``emnist-balanced``,
        ``emnist-digits``, ``emnist-mnist``, ``digits`` or ``auto``. ``digits`` has 1,797 images of 8 × 8 and ships with
        scikit-learn. ``auto`` is MNIST if it is on disk or can be downloaded, else the digits. Or a path. It is an
        ``.npz`` archive, or a CSV, TSV or Parquet file. Or it is a folder with MNIST's four files (also
        ``idx:FOLDER``), or with one folder of pictures per class.
    data_dir : path or None
        The only folder to search: it holds the files, or a folder with the data set's name that does. None: search the
        folder in the environment variable XPMLP_DATA, then the user's cache, then download to the cache.
    progress : callable or None
        During a download, called with a file's name, the bytes received and the bytes in total. While pictures are
        read, called with ``pictures``, how many were read and how many there are.
    label_column : str, int or None
        The label column of a table, if its header does not name it: a column's name or number, ``first`` or ``last``.
    shape : str, sequence of int or None
        ``HEIGHTxWIDTH``, or ``HEIGHTxWIDTHx3`` in colour. It is the shape of images stored as rows of numbers, if the
        file does not say it. Pictures are resized to it. ``none``: rows of numbers are features, not images.
    seed : int
        Random seed of the split, if the data set has no test part.

    Raises
    ------
    DataError
        If the name is unknown, or the data set does not exist, cannot be downloaded, is damaged or is a different one.
    """
    name = os.fspath(name)
    label_column = None if label_column is None else str(label_column)
    if shape is not None and not isinstance(shape, str):
        shape = "x".join(map(str, shape)) or "none"
    if not name.startswith("idx:") and name.lower() in (*SOURCES, "digits", "auto"):
        name = name.lower()
    data_dir = None if data_dir is None else expanded(data_dir)
    is_digits, path = name == "digits", _own_path(name)
    is_known = name in (*SOURCES, "digits", "auto") or name.startswith("idx:")
    if path is None and is_known and (label_column is not None or shape is not None):
        raise DataError(f"{name} has its labels and its shape: leave --label-column and --shape out")
    if path is not None:
        if data_dir is not None:
            raise DataError(f"{name} is a path: leave out the data folder {data_dir}")
        return _read_own(path, label_column, shape, seed, progress)
    if is_digits or name.startswith("idx:"):
        if data_dir is not None:
            where = "ship with scikit-learn" if is_digits else "name their folder themselves"
            raise DataError(f"{name} {where}: leave out the data folder {data_dir}")
        return _digits() if is_digits else idx_folders.read(name, expanded(name.removeprefix("idx:")))
    if name in SOURCES:
        return idx_folders.read(name, _find_or_download(name, data_dir, progress))
    if name == "auto":
        try:
            folder = _find_or_download("mnist", data_dir, progress)
        except DataError as error:
            if data_dir is not None:
                raise
            return dataclasses.replace(_digits(), note=str(error))
        return idx_folders.read("mnist", folder)
    raise DataError(f"unknown data set {name!r}: {expected_one_of(name, _NAMES)}")


def is_path(name: str) -> bool:
    """Return whether a data set's name is a path."""
    return _own_path(name) is not None and not idx_folders.has_files(expanded(name))


def _own_path(name: str) -> Path | None:
    """Return the path that a name stands for; None if it is a data set's name or the path does not exist."""
    kind, _, rest = name.partition(":")
    if kind in OWN and rest:
        return expanded(rest)
    is_name = name in (*SOURCES, "digits", "auto") or name.startswith("idx:")
    path = expanded(name)
    return path if not is_name and name and os.path.lexists(path) else None


def _read_own(
    path: Path, label_column: str | None, shape: str | None, seed: int, progress: Progress | None
) -> LoadedData:
    """Return the data set at a path, in any format."""
    from xpmlp.data import formats

    if idx_folders.has_files(path):
        if label_column is not None or shape is not None:
            raise DataError(f"{path} has MNIST's files, which say it: leave --label-column and --shape out")
        return idx_folders.read(f"idx:{path}", path)
    found = formats.read_path(path, label_column, shape, seed, progress)
    names, labels = formats.named_classes([found.train[1], found.test[1]])
    if len(names) > MOST_CLASSES:
        raise DataError(f"{path} has {len(names)} classes: expected at most {MOST_CLASSES}")
    kind = "pictures" if path.is_dir() else "file"

    def part(title: str, images: np.ndarray, classes: np.ndarray, preparation: str | None = None) -> Dataset:
        where = f"{title} set in {path}"
        further = {"scaling": found.scaling, "columns": found.columns, "preparation": preparation}
        return Dataset(images, classes, names, found.max_value, where, **further)  # type: ignore[arg-type]

    train = part("training", found.train[0], labels[0])
    test = part("test", found.test[0], labels[1], train.preparation)  # it may be too small to measure
    n_empty = len(names) - len(np.unique(train.labels))
    warning = f"{n_empty} of the {len(names)} classes have no training {train.samples}" if n_empty else ""
    if len(names) == 1:
        warning = f"all {train.samples} are of one class, {names[0]}: there is nothing to learn"
    return LoadedData(f"{kind}:{path}", train, test, warning=warning, about=found.about)


def _find_or_download(name: str, data_dir: str | os.PathLike[str] | None, progress: Progress | None) -> Path:
    import platformdirs

    cache, given = platformdirs.user_cache_path("xpmlp"), os.environ.get(DATA_VARIABLE)
    parents = [Path(data_dir)] if data_dir is not None else [expanded(given), cache] if given else [cache]
    folders = [folder for parent in parents for folder in (*idx_folders.called(name, parent), parent)]
    folders = [idx_folders.inner(folder, name) for folder in folders]
    for folder in folders:
        if not idx_folders.missing(folder, name):
            return folder
    if data_dir is not None:
        also = f" (nor in its folder {name})" if parents[0].is_dir() else ""
        raise DataError(f"{name} is not in the given folder: {idx_folders.missing(parents[0], name)}{also}")
    nearly = [idx_folders.missing(folder, name) for folder in folders if idx_folders.files_in(folder, name)]
    source = SOURCES[name]
    target = cache / ("emnist" if source.archive else name)
    try:
        download(name, source, target, progress)
    except DataError as error:
        looked, why = "; ".join([", ".join(map(str, parents)), *nearly]), str(error).removeprefix(f"{name} ")
        mend = f"give the folder of its files with --data-dir or {DATA_VARIABLE}"
        raise DataError(f"{name} is not on this disk ({looked}) and {why}; {mend}") from None
    return target


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` and environment variables expanded."""
    return Path(os.path.expandvars(os.path.expanduser(path)))


def _digits() -> LoadedData:
    """Return scikit-learn's digits. Every fifth image of a class is a test image, for any seed."""
    import sklearn
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels = bunch.images.astype(np.uint8), bunch.target.astype(np.int32)
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        is_test[np.flatnonzero(labels == label)[4::5]] = True

    def part(name: str, rows: np.ndarray) -> Dataset:
        provenance = f"digits {name} set of scikit-learn {sklearn.__version__}"
        return Dataset(images[rows], labels[rows], tuple("0123456789"), 16, provenance, preparation=DIGITS)

    return LoadedData("digits", part("training", ~is_test), part("test", is_test))
