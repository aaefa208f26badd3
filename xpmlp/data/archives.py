"""NumPy's ``.npz`` archives, as Keras distributes MNIST: ``x_train``, ``y_train``, ``x_test``, ``y_test``."""

import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from xpmlp.data.files import require_memory
from xpmlp.errors import DataError

_PARTS = (("test", "test"), ("t10k", "test"), ("train", "train"), ("valid", "train"), ("val", "train"))
"""Words in an array's name, and the part that they stand for. A run holds validation data out itself."""

_KINDS = {
    **dict.fromkeys(("x", "images", "image", "imgs", "data", "features", "inputs", "pixels"), "images"),
    **dict.fromkeys(("y", "labels", "label", "targets", "target", "classes"), "labels"),
}


def is_npz(path: Path) -> bool:
    """Return whether a zip archive holds NumPy's arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, NotImplementedError):
        return path.suffix.lower() == ".npz"  # a damaged one, which `read` says


def read(path: Path) -> tuple[list[tuple[np.ndarray, np.ndarray]], str]:
    """Return images and labels of the training part and of the test part, if present, and what was recognised."""
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = _wanted(path, archive)
            with np.load(path, allow_pickle=False) as arrays:
                found = {key: [arrays[name] for name in names] for key, names in wanted.items()}
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: damaged archive ({' '.join(str(error).split())}): get the file again") from None
    parts = []
    for part in ("train", "test"):
        if (part, "images") in found:
            for x, y in zip(found[part, "images"], found[part, "labels"], strict=True):
                if x.ndim and y.ndim and len(x) != len(y):
                    raise DataError(f"{path}: {len(x)} images and {len(y)} labels: expected one label per image")
            images, labels = (_joined(path, found[part, kind]) for kind in ("images", "labels"))
            parts.append((images, labels))
    names = ", ".join(name for names in wanted.values() for name in names)
    return parts, f"a NumPy archive with {names}"


def _joined(path: Path, arrays: list[np.ndarray]) -> np.ndarray:
    if any(array.shape[1:] != arrays[0].shape[1:] or array.ndim == 0 for array in arrays):
        raise DataError(f"{path}: arrays of shapes {', '.join(str(array.shape) for array in arrays)}: expected one")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _wanted(path: Path, archive: zipfile.ZipFile) -> dict[tuple[str, str], list[str]]:
    """Return the arrays' names by part and kind; refuse ambiguous names and arrays that do not fit in memory."""
    wanted: dict[tuple[str, str], list[str]] = {}
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    total = 0
    for name in names:
        key = _key(name)
        if key is None:
            continue
        wanted.setdefault(key, []).append(name)
        dtype, shape = _header(path, archive, f"{name}.npy")
        total += dtype.itemsize * math.prod(shape)
    require_memory(total, path)
    if ("train", "images") not in wanted:  # a set in one part
        wanted = {("train", kind): found for (part, kind), found in wanted.items() if part == ""}
    else:
        wanted = {key: found for key, found in wanted.items() if key[0]}
    kinds = {(part, kind) for part, kind in wanted}
    for found in wanted.values():
        found.sort(key=lambda name: "val" in name.lower())  # those for validation behind those for training
    complete = all(
        len(wanted.get((part, "images"), ())) == len(wanted.get((part, "labels"), ())) > 0 for part, _ in kinds
    )
    if not kinds or not complete or ("train", "images") not in kinds:
        expected = "expected x_train, y_train, x_test and y_test, or x and y"
        raise DataError(f"{path} holds {', '.join(names) or 'no arrays'}: {expected}")
    return wanted


def _key(name: str) -> tuple[str, str] | None:
    """Return which part and kind an array's name stands for; None if that is ambiguous."""
    low = name.lower()
    word, part = next(((word, part) for word, part in _PARTS if word in low), ("", ""))
    rest = re.sub(r"[^a-z]+", "", low.replace(word, "", 1).replace("idation", "").replace("ing", "")) if word else low
    kind = _KINDS.get(rest)
    return None if kind is None else (part, kind)


def _header(path: Path, archive: zipfile.ZipFile, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(file)
    if dtype.hasobject:
        raise DataError(f"{path}: {name} holds pickled objects, which are not read: save arrays of numbers")
    return dtype, shape
