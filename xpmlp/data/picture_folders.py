"""Read a folder with one folder of pictures per class, or with two such folders: training and test."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from xpmlp.data.download import READING, Progress
from xpmlp.data.files import require_memory
from xpmlp.data.pictures import ENDINGS, read_values, resized, size_and_mode, white_of
from xpmlp.data.tables import Table
from xpmlp.errors import DataError

_TRAINING, _VALIDATION, _TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
_GREY = ("1", "L", "F")  # Pillow's modes without colour; those of 16 bits begin with I
_DEEP = ("F", "I")  # prefixes of the modes of more than 8 bits
_AHEAD = 64  # pictures that are read ahead


def read(path: Path, size: tuple[int, ...] | None, progress: Progress | None) -> list[Table]:
    """Return the training part and, if present, the test part.

    Pictures are resized to `size`: (height, width), optionally with 1 for grey or 3 for colour. None: the most frequent
    size, in colour if half of the pictures are.
    """
    folders = {folder.name.lower(): folder for folder in _visible(path) if folder.is_dir()}
    train, validation, test = (
        next((folders[name] for name in names if name in folders), None) for names in (_TRAINING, _VALIDATION, _TEST)
    )
    parts: list[list[Path | None]] = [[train, validation], [test]] if test else [[train], [validation]]
    if train is None or (test is None and validation is None) or _pictures(train):
        parts = [[path]]
    files = [_by_class([folder for folder in part if folder]) for part in parts]
    if len(files) == 2 and len(files[0]) > 1 and len(files[1]) < 2:
        raise DataError(f"{parts[1][0]} has no folder for each class, as {train} has: expected labelled pictures there")
    if any(len(classes) < 2 for classes in files):
        found = ", ".join(sorted(folders)[:6]) or "no folder"
        expected = "a folder of pictures for each class (in train and test, or without), or MNIST's four IDX files"
        raise DataError(f"{path} has {found}: expected {expected}; perhaps you mean a folder in it")
    labels = [np.array([name for name, paths in classes.items() for _ in paths]) for classes in files]
    paths = [file for classes in files for those in classes.values() for file in those]
    images, how = read_all(paths, size, str(path), progress)
    about = f"a folder with {len(files[0])} classes of pictures" + (", training and test" if len(files) == 2 else "")
    others = _n_others([folder for part in parts for folder in part if folder])
    about += f", {others} other files left out" if others else ""
    ends = np.cumsum([len(each) for each in labels])[:-1]
    return [Table(x, y, None, about + how) for x, y in zip(np.split(images, ends), labels, strict=True)]


def _n_others(folders: list[Path]) -> int:
    """Return how many files in the classes' folders do not have a picture's name."""
    classes = [sub for folder in folders for sub in _visible(folder) if sub.is_dir()]
    return sum(file.is_file() and file.suffix.lower() not in ENDINGS for sub in classes for file in _visible(sub))


def read_all(
    pictures: Sequence[Any], size: tuple[int, ...] | None, name: str, progress: Progress | None
) -> tuple[np.ndarray, str]:
    """Return pictures (paths, or open files) as one array, and a description of the changes made.

    The array is uint8, (n, height, width), in colour (n, height, width, 3); float32 if all have more than 8 bits.
    """
    heads = _each(size_and_mode, pictures)
    sizes = Counter(found for found, _ in heads)
    height, width = (size or sizes.most_common(1)[0][0])[:2]
    may_be_coloured = any(not mode.startswith((*_GREY, *_DEEP)) for _, mode in heads)
    has_colour = size[2] == 3 if size and len(size) == 3 else may_be_coloured
    is_deep = all(map(_is_deep, heads)) and not has_colour
    shape = (height, width, 3) if has_colour else (height, width)
    dtype = np.dtype(np.float32 if is_deep else np.uint8)
    require_memory(len(pictures) * math.prod(shape) * dtype.itemsize, name)
    images, n_coloured = np.empty((len(pictures), *shape), dtype), 0
    white = (
        255 if is_deep else _white_of_deep([each for each, head in zip(pictures, heads, strict=True) if _is_deep(head)])
    )

    def image_of(picture: Any) -> tuple[np.ndarray, bool]:
        values = read_values(picture)
        if values.dtype != np.uint8 and not is_deep:  # one range for all of them
            values = np.rint(np.clip(values, 0, white) * (255 / white)).astype(np.uint8)
        return resized(values, shape), values.ndim == 3

    for k, (image, is_coloured) in enumerate(_each_in_turn(image_of, pictures)):
        images[k] = image
        n_coloured += is_coloured
        if progress and (k % 100 == 0 or k + 1 == len(pictures)):
            progress(READING, k + 1, len(pictures))
    how = ""
    if has_colour and not (size and len(size) == 3) and 2 * n_coloured < len(pictures):
        images = np.stack([resized(image, shape[:2]) for image in images])
        how = f", of which {n_coloured} in colour were made grey" if n_coloured else ""
    others = sum(n for found, n in sizes.items() if found != (height, width))
    if others:
        which = f"{height} × {width}" if size else "the most frequent size"
        how += f", {others} of {len(pictures)} brought to {which}"
    return images, how


def _is_deep(head: tuple[tuple[int, int], str]) -> bool:
    return head[1].startswith(_DEEP)


def _white_of_deep(pictures: Sequence[Any]) -> int:
    """Return the probable value of white in pictures of more than 8 bits."""
    return white_of(max((float(values.max()) for values in _each_in_turn(read_values, pictures)), default=0))


def _visible(folder: Path) -> list[Path]:
    """Return a folder's contents, without the hidden files of systems and editors."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def _pictures(folder: Path) -> list[Path]:
    return [file for file in _visible(folder) if file.suffix.lower() in ENDINGS and file.is_file()]


def _by_class(folders: list[Path]) -> dict[str, list[Path]]:
    """Return each class's pictures in some folders, without classes that have none."""
    classes: dict[str, list[Path]] = {}
    for sub in (sub for folder in folders for sub in _visible(folder) if sub.is_dir()):
        classes.setdefault(sub.name, []).extend(_pictures(sub))
    return {name: files for name, files in sorted(classes.items()) if files}


def _each(function: Callable[[Any], Any], pictures: Sequence[Any], of: int | None = None) -> list[Any]:
    """Return a function's result for each picture; each must be readable. `of` is the number in total."""
    problems: list[str] = []

    def found(picture: Any) -> Any:
        try:
            return function(picture)
        except DataError as error:
            problems.append(str(error))
            return None

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(found, pictures))
    if problems:
        more = f" (and {len(problems) - 1} more of {of or len(pictures)})" if len(problems) > 1 else ""
        raise DataError(f"{sorted(problems)[0]}{more}")
    return results


def _each_in_turn(function: Callable[[Any], Any], pictures: Sequence[Any]) -> Iterable[Any]:
    """Yield the same in order, a few computed ahead, so that a large picture's memory is freed soon."""
    for first in range(0, len(pictures), _AHEAD):
        yield from _each(function, pictures[first : first + _AHEAD], len(pictures))
