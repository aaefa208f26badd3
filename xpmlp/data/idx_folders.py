"""Folders that hold a data set in MNIST's form: four IDX files, in any of the usual spellings."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from xpmlp.data import idx
from xpmlp.data.dataset import Dataset, LoadedData
from xpmlp.data.sources import FILES, SOURCES, Source, algorithm_of
from xpmlp.errors import DataError

_INNER = ("raw", "gzip")
"""Folders in which torchvision, and EMNIST's archive, leave the files."""

_PLAIN = Source((), (), {})
"""The source of files that belong to no published data set."""


def called(name: str, parent: Path) -> list[Path]:
    """Return a folder's subfolders with a data set's name in any spelling: mnist, MNIST, FashionMNIST."""
    wanted = {name.replace("-", ""), *([name.partition("-")[0]] if SOURCES[name].archive else [])}
    found = [path for path in _entries(parent) if path.name.lower().replace("-", "").replace("_", "") in wanted]
    return sorted(found, key=lambda path: (path.name != name, path.name))


def inner(folder: Path, name: str) -> Path:
    """Return the folder of a data set's files: the given one, or a subfolder that other programs make."""
    if files_in(folder, name):
        return folder
    return next((folder / sub for sub in _INNER if files_in(folder / sub, name)), folder)


def files_in(folder: Path, name: str) -> dict[str, Path]:
    """Return a set's files that a folder has, plain or else gzipped. Each may be in a subfolder of its own name."""
    source, found = SOURCES.get(name, _PLAIN), dict[str, Path]()
    for path in sorted(_entries(folder), key=lambda path: path.name.lower().endswith(".gz"), reverse=True):
        file = source.file_of(path.name)
        if file is not None and path.is_dir():
            inside = (each for each in _entries(path) if source.file_of(each.name) == file and each.is_file())
            path = next(inside, path)
        if file is not None and path.is_file():
            found[file] = path
    return {file: found[file] for file in FILES if file in found}


def missing(folder: Path, name: str) -> str:
    """Return what a folder lacks to be a data set's; an empty text if it has the four files."""
    if not folder.is_dir():
        return f"{folder} is not a folder"
    source, found = SOURCES.get(name, _PLAIN), files_in(folder, name)
    lacking = [own for file, own in zip(FILES, source.names, strict=True) if file not in found]
    return f"{folder} has no {', '.join(lacking)}, plain or .gz" if lacking else ""


def has_files(folder: Path) -> bool:
    """Return whether a folder, or a subfolder, has some set's files."""
    return any(files_in(inner(folder, name), name) for name in ("", *_OF_OWN_NAMES))


_OF_OWN_NAMES = [name for name, source in SOURCES.items() if source.names != FILES]
"""The data sets whose files have their own names."""


def read(name: str, folder: Path) -> LoadedData:
    """Return the data set in a folder: a published one by its name, or any for ``idx:FOLDER``."""
    which = name if name in SOURCES else ""
    if not which and not files_in(inner(folder, ""), ""):
        there = [each for each in _OF_OWN_NAMES if files_in(inner(folder, each), each)]
        if len(there) > 1:
            way_out = f"name one, as --dataset {there[0]} --data-dir {folder}"
            raise DataError(f"{folder} has files of {', '.join(there)}: {way_out}")
        which = there[0] if there else ""
    folder = inner(folder, which)
    if problem := missing(folder, which):
        raise DataError(problem)
    paths, source = files_in(folder, which), SOURCES.get(which, _PLAIN)
    with ThreadPoolExecutor(len(FILES)) as pool:  # inflating and summing let go of the interpreter's lock
        arrays = dict(zip(FILES, pool.map(idx.read, paths.values()), strict=True))
        sums = dict(zip(FILES, pool.map(idx.sum_of_contents, arrays.values()), strict=True))
    unknown = [paths[file].name for file in FILES if not _is_published(which, file, paths[file], sums[file])]

    def part(title: str, images: str, labels: str, class_names: Any) -> Dataset:
        taken = arrays[images], _labels(arrays[labels], source, paths[labels])
        if source.is_transposed and taken[0].ndim == 3:
            taken = np.ascontiguousarray(taken[0].transpose(0, 2, 1)), taken[1]
        provenance = f"{name} {title} set in {folder}"
        data = Dataset(*taken, class_names, 255, provenance, preparation=source.preparation)  # type: ignore[arg-type]
        if not source.is_transposed:
            vars(data)["images_sum"] = sums[images]  # the cached property, computed while the file was read
        return data

    train = part("training", *FILES[:2], source.class_names or None)
    test = part("test", *FILES[2:], train.class_names)
    if train.image_shape != test.image_shape:
        shapes = f"training images of {train.image_shape} and test images of {test.image_shape} pixels"
        raise DataError(f"{folder}: {shapes}: expected one size")
    warning, about = "", f"files of {which}" if which != name else ""
    n_empty = len(train.class_names) - len(np.unique(train.labels))
    if which and source.archive:
        about = "; ".join(filter(None, [about, "not checked: no sums of its files are known"]))
    elif which and unknown:
        warning = f"{', '.join(unknown)} in {folder}: not {which} as it was published (their sums are unknown)"
    elif n_empty and not which:
        warning = f"{n_empty} of the {len(train.class_names)} classes have no training image"
    return LoadedData(name, train, test, warning=warning, about=about)


def _labels(labels: np.ndarray, source: Source, path: Path) -> np.ndarray:
    """Return labels from 0 on. QMNIST's files have several columns per digit; the class is taken."""
    if labels.ndim == 2 and source.names[1].endswith("idx2-int") and labels.shape[1]:
        labels = labels[:, 0]
    if source.first_label and labels.size and labels.dtype.kind in "iu":
        if labels.min() < source.first_label:
            raise DataError(f"{path}: a label is {labels.min()}: expected at least {source.first_label}")
        labels = labels - labels.dtype.type(source.first_label)
    return labels


def _is_published(name: str, file: str, path: Path, sum_: str) -> bool:
    """Return whether a file is the one published under that name; refuse one published under another name."""
    if not name:
        return False
    published: dict[str, tuple[str, str]] = {}
    for owner, source in SOURCES.items():
        for sums in (source.zipped, source.contents):
            published.update({known: (owner, kind) for kind, known in sums.items()})
    found = published.get(sum_)  # of the contents: a file may have been recompressed
    if found is None and path.suffix.lower() == ".gz":  # of some sets only the compressed files' sums are known
        found = _by_its_own_sum(path, published)
    if found not in (None, (name, file)):
        raise DataError(f"{path} is {found[0]}'s {found[1]}, by its sum: expected {name}'s {file}; name its folder")
    return found is not None


def _by_its_own_sum(path: Path, published: Mapping[str, tuple[str, str]]) -> tuple[str, str] | None:
    content = path.read_bytes()
    sums = (hashlib.new(algorithm, content).hexdigest() for algorithm in {algorithm_of(sum_) for sum_ in published})
    return next((published[sum_] for sum_ in sums if sum_ in published), None)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
