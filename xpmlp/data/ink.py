"""Turn a picture of one handwritten character into the image that a network trained on MNIST expects.

MNIST was made from scans in black and white. Each character was scaled into a box of 20 × 20 pixels, with its
proportions kept. The box was placed in an image of 28 × 28 with the centre of mass in the middle. This module does the
same, after it has separated the ink from the paper. In a scan or photograph the paper is neither white nor even.
"""

from typing import NamedTuple

import numpy as np

from xpmlp.data.preparation import FAINTEST, FORMS, MNIST, Form, are_placed
from xpmlp.errors import DataError

_WORKING_SIZE = 256  # pixels of the longer side in which ink is searched: noise averages out, and no picture takes long
_LARGE_ENOUGH = 0.4  # least share of the working size; a smaller character is cropped and searched again
_THINNEST = 2.1 / 20  # width to which strokes are thickened, a share of the character's size; few in MNIST are thinner
NO_INK = "no ink found: expected one character, dark on light or light on dark"
_DARK, _LIGHT = 32, 223  # grey levels: a small image's border below the first or above the second is plain background
_SPECK = 0.03  # share of the largest piece's ink: a piece with less is not part of a small image's character
_FITS = 1.5 / 28  # share of the side: how far the size of a character that is only shifted may be from the form's
_FULL = 0.7  # share of its box that no character's ink fills, except a stroke's
_TALL, _HEAVY = 0.5, 0.3  # least share of the greatest height, and of the most ink, of each of several characters
_WIDE = 2.0  # ratio of width to height of the widest characters
_BRIGHT = 0.7  # share of the greatest value that the ink of a ready image has


class Character(NamedTuple):
    """An image in MNIST's form, and what is doubtful about it."""

    image: np.ndarray
    warning: str = ""


def character_in(
    picture: np.ndarray, image_shape: tuple[int, ...], max_value: int = 255, form: Form = FORMS[MNIST]
) -> Character:
    """Return a picture of one character as the image that a network trained on MNIST expects.

    The image shows the character alone, light on 0, with MNIST's size and position. An image that has all this already
    is unchanged. One of the right size that is off centre is only shifted.

    Parameters
    ----------
    picture : numpy.ndarray of uint8, shape (height, width)
        Dark ink on light paper, or light on dark.
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
    ready = _ready(picture, image_shape, max_value, form) if picture.shape == tuple(image_shape) else None
    if ready is not None:
        return ready
    dark = 255 - picture if is_light_on_dark(shrunk(picture)) else picture
    return dark_character_in(dark, image_shape, max_value, form)


def dark_character_in(picture: np.ndarray, image_shape: tuple[int, ...], max_value: int, form: Form) -> Character:
    """Return the same for a picture of dark ink on light paper."""
    return _finished(_ink_of(picture), image_shape, max_value, form)


def _finished(ink: np.ndarray, image_shape: tuple[int, ...], max_value: int, form: Form) -> Character:
    image = _placed(_thickened(ink), image_shape, form)
    return Character(np.round(image * max_value).astype(np.uint8), _doubt(ink))


def _ready(picture: np.ndarray, image_shape: tuple[int, ...], max_value: int, form: Form) -> Character | None:
    """Return a small image on a plain background in MNIST's form; None if the background is not plain."""
    from scipy import ndimage

    # Its greatest value tells whether 1 is 255 or the model's own value.
    most = max_value if picture.max() <= max_value else 255
    border = float(np.median(_border(picture))) * 255 / most
    if _DARK <= border <= _LIGHT:
        return None
    ink = (picture if border < _DARK else most - picture) / most
    if np.ptp(ink) < FAINTEST:
        raise DataError(NO_INK)
    image = np.round(ink * max_value).astype(np.uint8)
    if ink.max() >= _BRIGHT and are_placed(image[None], max_value, form)[0]:
        return Character(image, _doubt(ink[_box_around(ink > FAINTEST)]))
    ink /= ink.max()
    pieces, n = ndimage.label(ink > FAINTEST, np.ones((3, 3)))
    mass = ndimage.sum_labels(ink, pieces, np.arange(n + 1)) * (np.arange(n + 1) > 0)
    ink = np.where((mass > _SPECK * mass.max())[ndimage.grey_dilation(pieces, (3, 3))], ink, 0)
    ink = ink[_box_around(ink > FAINTEST)]
    if abs(max(np.divide(ink.shape, image_shape)) - form.box) < _FITS:
        return Character(np.round(_laid(ink, image_shape, form) * max_value).astype(np.uint8), _doubt(ink))
    return _finished(ink, image_shape, max_value, form)


def _doubt(ink: np.ndarray) -> str:
    """Return what is doubtful about a character's ink, which is cropped to its edges."""
    height, width = ink.shape
    if ink.mean() > _FULL and 2 * min(ink.shape) > max(ink.shape):
        return "ink fills the picture: expected one character with paper around it"
    columns = np.flatnonzero(np.diff(np.concatenate([[0], (ink >= 0.5).any(axis=0), [0]])))
    parts = [ink[:, first:last] for first, last in columns.reshape(-1, 2)]
    mass = [part.sum() for part in parts]
    tall = [
        each
        for part, each in zip(parts, mass, strict=True)
        if np.ptp(np.flatnonzero((part >= 0.5).any(axis=1))) + 1 >= _TALL * height and each >= _HEAVY * max(mass)
    ]
    if len(tall) > 1:
        return f"there seem to be {len(tall)} characters: expected one"
    if width > _WIDE * height:
        return "it is wider than one character: there may be several"
    return ""


def _border(picture: np.ndarray) -> np.ndarray:
    return np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])


def _ink_of(picture: np.ndarray) -> np.ndarray:
    """Return the character in a picture of dark ink, cropped to its edges, from 0 (paper) to 1 (ink)."""
    small = shrunk(picture)
    while True:
        ink = _character(small)
        box = _box_around(ink)
        scale = max(picture.shape) / max(small.shape)
        if scale == 1 or max(ink[box].shape) >= _LARGE_ENOUGH * max(ink.shape):
            return ink[box]
        margin = max(ink[box].shape) / 2  # so that enough paper is left around it
        ends = [(int((side.start - margin) * scale), int((side.stop + margin) * scale) + 1) for side in box]
        picture = picture[tuple(slice(max(0, first), stop) for first, stop in ends)]
        small = shrunk(picture)


def shrunk(picture: np.ndarray, size: int = _WORKING_SIZE) -> np.ndarray:
    """Return a picture, shrunk if needed, whose longer side has at most so many pixels."""
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((size, size), Image.Resampling.BOX, reducing_gap=None)
    return np.asarray(image)


def is_light_on_dark(picture: np.ndarray) -> bool:
    """Return whether the ink is lighter than the paper.

    There is less ink than paper, so ink departs further from the mean around it. If a character fills the picture,
    there may be more ink than paper. The border decides then, since most of it is paper.
    """
    from scipy import ndimage

    detail = picture - ndimage.gaussian_filter(picture.astype(np.float32), max(picture.shape) / 8)
    detail /= max(float(np.sqrt(np.mean(detail**2))), 1e-6)
    border = np.clip(np.mean(_border(detail)), -1, 1)  # a dark frame must not decide alone
    return bool(np.mean(detail**3) > 0.55 * border)


def _character(picture: np.ndarray) -> np.ndarray:
    """Return the share of ink in each pixel, 0 to 1, of a picture of dark ink, without specks."""
    return _without_specks(ink_map(picture))


def ink_map(picture: np.ndarray) -> np.ndarray:
    """Return the share of ink in each pixel, 0 to 1, of a picture of dark ink, with specks and other dark things."""
    from scipy import ndimage

    sigma = 1.0 if max(picture.shape) > 60 else 0.5
    values = picture / np.float32(255)
    smooth = ndimage.gaussian_filter(values, sigma)
    # Convert the median deviation to a normal distribution's standard deviation, and correct for the filter.
    noise = 1.48 * float(np.median(np.abs(values - smooth))) * 0.28 / sigma
    # The paper is what remains once dark things narrower than a third of the picture are filled from around them.
    # Shadows, their edges and dark frames remain: they are wide, since the picture is assumed to continue beyond its
    # border.
    reach = max(1, max(picture.shape) // 6)
    closed = ndimage.grey_closing(np.pad(smooth, reach, mode="edge"), (2 * reach + 1, 2 * reach + 1))
    paper = np.maximum(closed[reach:-reach, reach:-reach], 0.1)
    # It is found at the crests of its noise, about three standard deviations up.
    contrast = 1 - (smooth + 3 * noise) / paper
    noise /= float(np.median(paper))
    strong = contrast[contrast > max(5 * noise, FAINTEST)]
    # A weighted mean: ink outweighs a wide, weak stain.
    level = np.sum(strong**3) / np.sum(strong**2) if strong.size else 0
    if level < max(8 * noise, FAINTEST):
        raise DataError(NO_INK)
    # As in a scan in black and white, the ink's edge is at half its strength; ruled lines are well below.
    ink: np.ndarray = np.clip((contrast / level - 0.3) / 0.4, 0, 1)
    return ink


def _without_specks(ink: np.ndarray) -> np.ndarray:
    """Return the ink without pieces that do not belong to the character."""
    from scipy import ndimage

    pieces, n = ndimage.label(ink >= 0.5, np.ones((3, 3)))
    numbers = np.arange(n + 1)
    mass = ndimage.sum_labels(ink, pieces, numbers) * (numbers > 0)
    inside = ~np.isin(numbers, _border(pieces))
    if mass[inside].max(initial=0) > 0.3 * mass.max():
        mass[~inside] = 0  # the picture's frame, or a neighbour cut through
    # A shadow or the light of a lamp ends more softly than ink. In a small picture, a stroke may be one pixel wide, and
    # a wide filter would leave little of it.
    slope = ndimage.gaussian_gradient_magnitude(ink, 1.5 if max(ink.shape) > 60 else 1.1)
    beside = np.where(pieces == 0, ndimage.grey_dilation(pieces, (3, 3)), 0)
    mass[ndimage.median(slope, beside, numbers) < 0.1] = 0
    kept = (mass > 0.05 * mass.max())[pieces]
    if not kept.any() or max(kept[_box_around(kept)].shape) < max(3, 0.02 * max(ink.shape)):
        raise DataError(NO_INK)
    with_edges = ndimage.binary_dilation(kept, np.ones((3, 3)), iterations=2)
    return np.where(with_edges & (kept | (pieces == 0)), ink, 0)


def _box_around(ink: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _thickened(ink: np.ndarray) -> np.ndarray:
    """Return the ink with strokes of at least MNIST's width. A thin pen's would be faint or broken once scaled down."""
    from scipy import ndimage

    is_ink = np.pad(ink >= 0.5, 1)
    # In a stroke the mean distance to its edge is a quarter of its width.
    width = 4 * float(np.mean(ndimage.distance_transform_edt(is_ink)[is_ink]))
    more = (_THINNEST * max(ink.shape) - width) / 2
    if more <= 0:
        return ink
    ink = np.pad(ink, int(more) + 1)
    thick: np.ndarray = np.maximum(ink, np.clip(more + 0.5 - ndimage.distance_transform_edt(ink < 0.5), 0, 1))
    return thick


def _placed(ink: np.ndarray, image_shape: tuple[int, ...], form: Form) -> np.ndarray:
    """Return an image in which the ink fills the box in one direction; its strongest pixel is 1."""
    from PIL import Image

    height, width = ink.shape
    scale = min(round(form.box * image_shape[0]) / height, round(form.box * image_shape[1]) / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    fitted = Image.fromarray(ink.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    values = np.clip(np.asarray(fitted), 0, 1)
    return _laid(values / values.max(), image_shape, form)


def _laid(values: np.ndarray, image_shape: tuple[int, ...], form: Form) -> np.ndarray:
    """Return an image with the ink's centre in the middle, as nearly as pixels and the edge allow."""
    place = []
    for axis in (0, 1):
        profile = values.sum(axis=1 - axis)
        centre = float(profile @ np.arange(len(profile)) / profile.sum()) if form.by_mass else len(profile) / 2
        start = min(max(round(image_shape[axis] / 2 - centre), 0), image_shape[axis] - len(profile))
        place.append(slice(start, start + len(profile)))
    image = np.zeros(image_shape)
    image[tuple(place)] = values
    return image
