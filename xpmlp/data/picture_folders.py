"""A folder that has a folder of pictures for each class, or two such: training and test."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from xpmlp.data.pictures import read_picture
from xpmlp.errors import DataError

_ENDINGS = {".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".pbm", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
_TRAINING, _VALIDATION, _TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")


def read(path: Path) -> tuple[list[tuple[np.ndarray, np.ndarray]], str]:
    """Return images and labels of the training part and, if it is there, the test part, and what was recognised."""
    folders = {folder.name.lower(): folder for folder in _visible(path) if folder.is_dir()}
    train, validation, test = (
        next((folders[name] for name in names if name in folders), None) for names in (_TRAINING, _VALIDATION, _TEST)
    )
    parts: list[list[Path | None]] = [[train, validation], [test]] if test else [[train], [validation]]
    if train is None or (test is None and validation is None) or _pictures(train):
        parts = [[path]]
    files = [_by_class([folder for folder in part if folder]) for part in parts]
    if any(len(classes) < 2 for classes in files):
        found = ", ".join(sorted(folders)[:6]) or "no folder"
        expected = "a folder of pictures for each class (in train and test, or without), or MNIST's four IDX files"
        raise DataError(f"{path} has {found}: expected {expected}; perhaps the path goes on")
    read_ = [(_all(each), each) for each in files]
    sizes = Counter(image.shape for images, _ in read_ for image in images)
    size = sizes.most_common(1)[0][0]
    arrays = []
    for images, classes in read_:
        labels = [name for name, paths in classes.items() for _ in paths]
        arrays.append((np.stack([_resized(image, size) for image in images]), np.array(labels)))
    about = f"a folder with {len(files[0])} classes of pictures" + (", training and test" if len(files) == 2 else "")
    if len(sizes) > 1:
        others = sum(n for shape, n in sizes.items() if shape != size)
        about += f", {others} of {sizes.total()} brought to the most frequent size"
    return arrays, about


def _visible(folder: Path) -> list[Path]:
    """Return what a folder holds, but for what systems and editors hide in it."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX")))


def _pictures(folder: Path) -> list[Path]:
    return [file for file in _visible(folder) if file.suffix.lower() in _ENDINGS and file.is_file()]


def _by_class(folders: list[Path]) -> dict[str, list[Path]]:
    """Return each class's pictures in some folders; a class without pictures is left out."""
    classes: dict[str, list[Path]] = {}
    for sub in (sub for folder in folders for sub in _visible(folder) if sub.is_dir()):
        classes.setdefault(sub.name, []).extend(_pictures(sub))
    return {name: files for name, files in sorted(classes.items()) if files}


def _all(classes: dict[str, list[Path]]) -> list[np.ndarray]:
    """Return the pictures, all of which must be readable."""
    paths = [path for files in classes.values() for path in files]
    problems: list[str] = []

    def image_at(path: Path) -> np.ndarray | None:
        try:
            return read_picture(path)
        except DataError as error:
            problems.append(str(error))
            return None

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(image_at, paths))
    images = [image for image in found if image is not None]
    if problems:
        more = f" (and {len(problems) - 1} more of {len(paths)})" if len(problems) > 1 else ""
        raise DataError(f"{sorted(problems)[0]}{more}")
    return images


def _resized(image: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if image.shape == size:
        return image
    from PIL import Image

    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
