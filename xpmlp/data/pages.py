"""Split a page of handwritten characters: each in the form of MNIST's images, in reading order, with its place."""

from typing import NamedTuple, TypeAlias

import numpy as np

from xpmlp.data import ink
from xpmlp.data.ink import Character
from xpmlp.data.preparation import FORMS, MNIST, Form
from xpmlp.errors import DataError

_WORKING_SIZE = 1600  # pixels of the longer side in which characters are searched
_SPECK = 0.2  # share of a character's height: a smaller piece is not a character, nor a part of one
_OVERLAP = 0.5  # share of the narrower width: pieces above each other that overlap so much are one character
_GAP = 0.4  # share of a character's height: the greatest gap between its pieces
_MOST = 2000  # greatest number of pieces of ink on a page
_SAME_LINE = 0.4  # share of the lower height that characters of one line have in common


class Box(NamedTuple):
    """A place on a page, in pixels; the ends are excluded."""

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


_Group: TypeAlias = tuple[Box, set[int]]
"""A box, and the numbers of the pieces of ink that form its character."""


def characters_on(
    picture: np.ndarray, image_shape: tuple[int, ...], max_value: int, form: Form = FORMS[MNIST]
) -> list[tuple[Box, Character]]:
    """Return the characters on a page, line by line from the left, each as `character_in` returns it.

    Parameters
    ----------
    picture : numpy.ndarray of uint8, shape (height, width)
        Dark ink on light paper, or light on dark. Characters that touch each other count as one.
    image_shape : (int, int)
        The height and width of the network's images.
    max_value : int
        The value in the network's images that counts as 1.
    form : Form
        The size and position of the characters in those images.

    Raises
    ------
    DataError
        If no ink is found.
    """
    small = ink.shrunk(picture, _WORKING_SIZE)
    if ink.is_light_on_dark(ink.shrunk(picture)):
        picture, small = 255 - picture, 255 - small
    scale = max(picture.shape) / max(small.shape)
    pieces, groups = _characters(ink.ink_map(small))
    found = []
    for box, numbers in groups:
        margin = 0.2 * max(box.height, box.width)
        left, top = (max(0, int(start - margin)) for start in box[:2])
        right, bottom = (int(stop + margin) + 1 for stop in box[2:])
        others = _others(pieces[top:bottom, left:right], numbers)
        rows, columns = (slice(int(first * scale), int(stop * scale)) for first, stop in ((top, bottom), (left, right)))
        cut = _without(picture[rows, columns], others)
        place = Box(*(round(end * scale) for end in box))
        try:
            found.append((place, ink.dark_character_in(cut, image_shape, max_value, form)))
        except DataError:
            continue  # a stain: it has an edge too soft for ink
    if not found:
        raise DataError(ink.NO_INK)
    return found


def _others(pieces: np.ndarray, numbers: set[int]) -> np.ndarray:
    """Return the places of all pieces except some, with their soft edges."""
    from scipy import ndimage

    is_other: np.ndarray = (pieces > 0) & ~np.isin(pieces, list(numbers))
    is_own = (pieces > 0) & ~is_other
    return np.asarray(ndimage.binary_dilation(is_other, np.ones((3, 3)), iterations=3) & ~is_own)


def _without(picture: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return a part of a page with other characters' ink replaced by paper."""
    from PIL import Image

    if not others.any() or not picture.size:
        return picture
    height, width = picture.shape
    mask = np.asarray(Image.fromarray(others.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)) > 0
    if mask.all():
        return picture
    # The lighter half of the rest is paper.
    return np.where(mask, np.percentile(picture[~mask], 75).astype(np.uint8), picture)


def _characters(inked: np.ndarray) -> tuple[np.ndarray, list[_Group]]:
    """Return the numbered pieces of a page's ink, and, in order, each character's box with its pieces' numbers."""
    from scipy import ndimage

    pieces, n = ndimage.label(inked >= 0.5, np.ones((3, 3)))
    boxes = [Box(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in ndimage.find_objects(pieces)]
    usual = _usual_height(boxes, ndimage.sum_labels(inked, pieces, np.arange(1, n + 1)))
    groups = [(box, {k}) for k, box in enumerate(boxes, start=1) if max(box.height, box.width) >= _SPECK * usual]
    if len(groups) > _MOST:
        raise DataError(f"{len(groups):,} pieces of ink: expected a page of at most {_MOST:,}; cut it into parts")
    n_before = 0
    while n_before != len(groups):
        n_before, groups = len(groups), _joined(groups, usual)
    return pieces, _in_reading_order(
        [each for each in groups if max(each[0].height, each[0].width) >= 2 * _SPECK * usual]
    )


def _joined(groups: list[_Group], usual: float) -> list[_Group]:
    """Return groups of pieces, with the parts of one character joined."""
    found: list[_Group] = []
    for box, numbers in sorted(groups, key=lambda group: group[0]):
        for k in range(len(found) - 1, -1, -1):
            other = found[k][0]
            if _are_one(other, box, usual):
                found[k] = other.joined(box), found[k][1] | numbers
                break
        else:
            found.append((box, numbers))
    return found


def _usual_height(boxes: list[Box], sizes: np.ndarray) -> float:
    """Return a character's usual height: the median height of the pieces, weighted by their ink."""
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


def _in_reading_order(groups: list[_Group]) -> list[_Group]:
    """Return groups of pieces by lines from the top, and in each from the left."""
    lines: list[list[_Group]] = []
    for group in sorted(groups, key=lambda group: group[0].top + group[0].bottom):
        box = group[0]
        for line in reversed(lines):
            near = min((other for other, _ in line), key=lambda other: abs(other.left - box.left))  # lines rise or fall
            shared = min(near.bottom, box.bottom) - max(near.top, box.top)
            if shared >= _SAME_LINE * min(near.height, box.height):
                line.append(group)
                break
        else:
            lines.append([group])
    lines.sort(key=lambda line: sum(box.top + box.bottom for box, _ in line) / len(line))
    return [group for line in lines for group in sorted(line, key=lambda group: group[0])]
