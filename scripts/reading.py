"""Measure how well ``xpmlp predict`` reads digits: off centre, in other sizes, black on white, and on pages.

    python scripts/reading.py RUN     # a run on MNIST; its test images are what is read

Each figure is the share of digits that are read correctly, for the original and for the changed images.
"""

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import xpmlp
from xpmlp.data.ink import character_in
from xpmlp.data.pages import characters_on

N = 2000  # number of images that are changed
SHAPE = (28, 28)


def shifted(image: np.ndarray, by: int) -> np.ndarray:
    """Return an image moved up and to the left by so many pixels; pixels that leave it are lost."""
    moved = np.zeros_like(image)
    moved[: 28 - by, : 28 - by] = image[by:, by:]
    return moved


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image with its digit resized to so many pixels, in the upper left corner."""
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    cut = Image.fromarray(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    size = [max(1, round(length * side / max(cut.size))) for length in cut.size]
    field = Image.new("L", SHAPE)
    field.paste(cut.resize(size, Image.Resampling.BICUBIC), (0, 0))
    return np.asarray(field)


def page(images: np.ndarray, columns: int, scale: int, rng: np.random.Generator) -> np.ndarray:
    """Return a page of grey ink on grey paper with noise; the digits are slightly out of line."""
    rows = -(-len(images) // columns)
    ink = np.zeros((rows * 34 * scale + 40, columns * 30 * scale + 40))
    for image, (row, column) in zip(images, itertools.product(range(rows), range(columns)), strict=False):
        large = np.asarray(Image.fromarray(image).resize([28 * scale] * 2, Image.Resampling.BICUBIC))
        top, left = (20 + k * step * scale + rng.integers(-2, 3) for k, step in ((row, 34), (column, 30)))
        part = ink[top : top + large.shape[0], left : left + large.shape[1]]
        np.maximum(part, large[: part.shape[0], : part.shape[1]], out=part)
    return np.clip(230 - ink * (190 / 255) + rng.normal(0, 5, ink.shape), 0, 255).astype(np.uint8)


def main() -> None:
    """Print a line for each change."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run on MNIST, or its model")
    parser.add_argument("--data-dir", help="the folder of MNIST")
    options = parser.parse_args()
    model, test = xpmlp.load(options.run, "numpy"), xpmlp.load_dataset("mnist", options.data_dir).test

    def right(pictures: list[np.ndarray]) -> float:
        read = np.stack([character_in(picture, SHAPE).image for picture in pictures])
        return float(np.mean(model.predict(read) == test.labels[: len(read)]))

    some = list(test.images[:N])
    same = np.mean([np.array_equal(character_in(image, SHAPE).image, image) for image in test.images])
    print(f"taken as they are: {same:.4f} of {len(test):,}; read rightly {right(list(test.images)):.4f}")
    print(f"the first {N:,}: {right(some):.4f}; black on white {right([255 - image for image in some]):.4f}")
    for by in range(1, 8):
        moved = [shifted(image, by) for image in some]
        print(f"{by} px off centre: {right(moved):.4f}; black on white {right([255 - each for each in moved]):.4f}")
    for side in (10, 14, 17, 24, 27):
        print(f"{side} px long: {right([resized(image, side) for image in some]):.4f}")
    rng = np.random.default_rng(0)
    for count, columns, scale in ((15, 5, 6), (40, 8, 2), (120, 12, 2), (200, 20, 4)):
        n_right = n_counted = 0
        for k in range(6):
            rows = slice(k * count, (k + 1) * count)
            found = characters_on(page(test.images[rows], columns, scale, rng), SHAPE, 255)
            if len(found) == count:
                n_counted += 1
                n_right += int(np.sum(model.predict(np.stack([each.image for _, each in found])) == test.labels[rows]))
        of = f"{n_right} of {n_counted * count}" if n_counted else "none"
        print(f"pages of {count}: {n_counted} of 6 have as many characters found; of these are read {of}")


if __name__ == "__main__":
    main()
