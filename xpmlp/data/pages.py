"""A page of handwritten characters: each in the form of MNIST's images, in reading order, with its place."""

from typing import NamedTuple

import numpy as np

from xpmlp.data import ink
from xpmlp.data.ink import Character
from xpmlp.data.preparation import FORMS, MNIST, Form
from xpmlp.errors import DataError

_WORKING_SIZE = 1600  # pixels of the longer side where characters are looked for
_SPECK = 0.2  # of a character's height: what is smaller is none, nor a part of one
_OVERLAP = 0.5  # of the narrower: pieces above each other that share so much of their width are one character
_GAP = 0.4  # of a character's height: how far apart the pieces of one may be
_SAME_LINE = 0.4  # of the lower height: how much of it characters of one line share


class Box(NamedTuple):
    """A place on a page, in pixels, the ends excluded."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def height(self) -> int:
        """From top to bottom."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """From left to right."""
        return self.right - self.left

    def joined(self, other: "Box") -> "Box":
        """Return the smallest box around both."""
        ends = zip(self[2:], other[2:], strict=True)
        starts = zip(self[:2], other[:2], strict=True)
        return Box(*(min(pair) for pair in starts), *(max(pair) for pair in ends))


def characters_on(
    picture: np.ndarray, image_shape: tuple[int, ...], max_value: int, form: Form = FORMS[MNIST]
) -> list[tuple[Box, Character]]:
    """Return the characters on a page, line by line from the left, each as `character_in` returns it.

    Parameters
    ----------
    picture : numpy.ndarray of uint8, shape (height, width)
        Dark ink on light paper, or light on dark. Characters that touch each other are taken for one.
    image_shape : (int, int)
        The height and width of the network's images.
    max_value : int
        The value of theirs that counts as 1.
    form : Form
        Of what size their characters are, and where.

    Raises
    ------
    DataError
        If no ink is found.
    """
    small = ink.shrunk(picture, _WORKING_SIZE)
    if ink.is_light_on_dark(ink.shrunk(picture)):
        picture, small = 255 - picture, 255 - small
    scale = max(picture.shape) / max(small.shape)
    found = []
    for box in _in_reading_order(_boxes(ink.ink_map(small))):
        margin = 0.2 * max(box.height, box.width)
        left, top = (max(0, int((start - margin) * scale)) for start in box[:2])
        right, bottom = (int((stop + margin) * scale) + 1 for stop in box[2:])
        cut = picture[top:bottom, left:right]
        place = Box(*(round(end * scale) for end in box))
        try:
            found.append((place, ink.dark_character_in(cut, image_shape, max_value, form)))
        except DataError:
            continue  # a stain: it has an edge too soft for ink
    if not found:
        raise DataError(ink.NO_INK)
    return found


def _boxes(inked: np.ndarray) -> list[Box]:
    """Return a box around each character."""
    from scipy import ndimage

    pieces, n = ndimage.label(inked >= 0.5, np.ones((3, 3)))
    boxes = [Box(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in ndimage.find_objects(pieces)]
    sizes = ndimage.sum_labels(inked, pieces, np.arange(1, n + 1))
    usual = _usual_height(boxes, sizes)
    boxes = [box for box in boxes if max(box.height, box.width) >= _SPECK * usual]
    joined = True
    while joined:
        joined = False
        boxes.sort()
        for i, one in enumerate(boxes):
            j = next((j for j in range(i + 1, len(boxes)) if _are_one(one, boxes[j], usual)), None)
            if j is not None:
                boxes[i] = one.joined(boxes.pop(j))
                joined = True
                break
    return [box for box in boxes if box.height >= _SPECK * 2 * usual or box.width >= _SPECK * 2 * usual]


def _usual_height(boxes: list[Box], sizes: np.ndarray) -> float:
    """Return how high a character is: the height above which half of the ink's pieces are, each counted by its ink."""
    heights = np.array([box.height for box in boxes])
    order = np.argsort(heights)
    share = np.cumsum(sizes[order]) / max(float(np.sum(sizes)), 1e-30)
    return float(heights[order[np.searchsorted(share, 0.5)]]) if len(boxes) else 0.0


def _are_one(one: Box, other: Box, usual: float) -> bool:
    """Return whether two pieces are parts of one character: above each other and near."""
    shared = min(one.right, other.right) - max(one.left, other.left)
    apart = max(one.top, other.top) - min(one.bottom, other.bottom)
    is_part = min(one.height, other.height) < 0.75 * usual
    high = max(one.bottom, other.bottom) - min(one.top, other.top)
    return (
        shared >= _OVERLAP * min(one.width, other.width)
        and apart <= _GAP * usual
        and (apart <= 0 or (is_part and high <= 1.6 * usual))
    )


def _in_reading_order(boxes: list[Box]) -> list[Box]:
    """Return boxes by lines from the top, and in each from the left."""
    lines: list[list[Box]] = []
    for box in sorted(boxes, key=lambda box: box.top + box.bottom):
        for line in reversed(lines):
            last = min(line, key=lambda other: abs(other.left - box.left))  # lines may rise or fall
            shared = min(last.bottom, box.bottom) - max(last.top, box.top)
            if shared >= _SAME_LINE * min(last.height, box.height):
                line.append(box)
                break
        else:
            lines.append([box])
    lines.sort(key=lambda line: sum(box.top + box.bottom for box in line) / len(line))
    return [box for line in lines for box in sorted(line)]
