"""From a picture of one handwritten character to the image that a network trained on MNIST expects.

MNIST was made of scans in black and white: each character was scaled, its proportions kept, into a box of 20 × 20
pixels, and laid into a field of 28 × 28 with the centre of its mass in the middle. Here a picture comes to that by the
same way, after its ink has been told from its paper, which in a scan or photograph is neither white nor even.
"""

from typing import NamedTuple

import numpy as np

from xpmlp.data.preparation import FAINTEST, FORMS, MNIST, Form, are_placed
from xpmlp.errors import DataError

_WORKING_SIZE = 256  # pixels of the longer side where ink is looked for: noise averages out, no picture takes long
_LARGE_ENOUGH = 0.4  # how much of the working size a character must have; a smaller one is looked at more closely
_THINNEST = 2.1 / 20  # of the character's size: the width to which strokes are thickened; few in MNIST are thinner
NO_INK = "no ink found: expected one character, dark on light or light on dark"
_DARK, _LIGHT = 32, 223  # values of a border that is plainly the background of a small image
_SPECK = 0.03  # of the greatest piece's ink: a piece with less is none of a small image's character
_FITS = 1.5 / 28  # of the side: by how much a character that is only shifted may be larger or smaller than the form's
_FULL = 0.7  # how much of its box no character's ink fills, but for a stroke's
_TALL, _HEAVY = 0.5, 0.3  # of the height, and of the most ink, what each of several characters has
_WIDE = 2.0  # how much wider than high the widest characters are
_BRIGHT = 0.7  # of the greatest value, which the ink of an image that is ready has


class Character(NamedTuple):
    """An image as MNIST's are, and what is doubtful about it."""

    image: np.ndarray
    warning: str = ""


def character_in(
    picture: np.ndarray, image_shape: tuple[int, ...], max_value: int = 255, form: Form = FORMS[MNIST]
) -> Character:
    """Return the image that a network trained on MNIST expects of a picture of one character.

    It shows the character alone, light on 0, of the size and in the place that MNIST's have. An image that has all that
    is taken as it is; one of the right size that is off centre is only shifted.

    Parameters
    ----------
    picture : numpy.ndarray of uint8, shape (height, width)
        Dark ink on light paper, or light on dark.
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
    ready = _ready(picture, image_shape, max_value, form) if picture.shape == tuple(image_shape) else None
    if ready is not None:
        return ready
    dark = 255 - picture if is_light_on_dark(shrunk(picture)) else picture
    return dark_character_in(dark, image_shape, max_value, form)


def dark_character_in(picture: np.ndarray, image_shape: tuple[int, ...], max_value: int, form: Form) -> Character:
    """Return the same of a picture of dark ink on light paper."""
    return _finished(_ink_of(picture), image_shape, max_value, form)


def _finished(ink: np.ndarray, image_shape: tuple[int, ...], max_value: int, form: Form) -> Character:
    image = _placed(_thickened(ink), image_shape, form)
    return Character(np.round(image * max_value).astype(np.uint8), _doubt(ink))


def _ready(picture: np.ndarray, image_shape: tuple[int, ...], max_value: int, form: Form) -> Character | None:
    """Return a small image on a plain background in MNIST's form; None where the background is not plain."""
    from scipy import ndimage

    # Its greatest value tells whether it counts to 255 or, as the model, less far.
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
    """Return what is doubtful about a character's ink, cut out along its edges."""
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
    """Return the character of dark ink that a picture shows, from 0, paper, to 1, ink, cut out along its edges."""
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
    """Return a picture whose longer side has at most so many pixels."""
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((size, size), Image.Resampling.BOX, reducing_gap=None)
    return np.asarray(image)


def is_light_on_dark(picture: np.ndarray) -> bool:
    """Return whether the ink is lighter than the paper.

    Ink is what there is less of, and so what departs further from the mean around it. Where a character fills the
    picture there may be more ink than paper; then the border tells, most of which is paper.
    """
    from scipy import ndimage

    detail = picture - ndimage.gaussian_filter(picture.astype(np.float32), max(picture.shape) / 8)
    detail /= max(float(np.sqrt(np.mean(detail**2))), 1e-6)
    border = np.clip(np.mean(_border(detail)), -1, 1)  # a dark frame must not decide alone
    return bool(np.mean(detail**3) > 0.55 * border)


def _character(picture: np.ndarray) -> np.ndarray:
    """Return how much of each pixel is ink, from 0 to 1, in a picture of dark ink; specks and the like are left out."""
    return _without_specks(ink_map(picture))


def ink_map(picture: np.ndarray) -> np.ndarray:
    """Return how much of each pixel is ink, from 0 to 1, in a picture of dark ink, whatever else is dark included."""
    from scipy import ndimage

    sigma = 1.0 if max(picture.shape) > 60 else 0.5
    values = picture / np.float32(255)
    smooth = ndimage.gaussian_filter(values, sigma)
    # The median deviation as a normal distribution's standard one, and what the filter leaves of it.
    noise = 1.48 * float(np.median(np.abs(values - smooth))) * 0.28 / sigma
    # The paper is what is left where dark things narrower than a third of the picture are filled from around them. A
    # shadow, its edge and a dark frame are wide, since the picture is taken to go on beyond its border, and remain.
    reach = max(1, max(picture.shape) // 6)
    closed = ndimage.grey_closing(np.pad(smooth, reach, mode="edge"), (2 * reach + 1, 2 * reach + 1))
    paper = np.maximum(closed[reach:-reach, reach:-reach], 0.1)
    # It is found at the height of its noise's crests, about three standard deviations up.
    contrast = 1 - (smooth + 3 * noise) / paper
    noise /= float(np.median(paper))
    strong = contrast[contrast > max(5 * noise, FAINTEST)]
    # A mean in which the ink outweighs a wide, weak stain.
    level = np.sum(strong**3) / np.sum(strong**2) if strong.size else 0
    if level < max(8 * noise, FAINTEST):
        raise DataError(NO_INK)
    # As in a scan in black and white the ink's edge is where half of it is; ruled lines are well below.
    ink: np.ndarray = np.clip((contrast / level - 0.3) / 0.4, 0, 1)
    return ink


def _without_specks(ink: np.ndarray) -> np.ndarray:
    """Return the ink without the pieces that are no part of the character."""
    from scipy import ndimage

    pieces, n = ndimage.label(ink >= 0.5, np.ones((3, 3)))
    numbers = np.arange(n + 1)
    mass = ndimage.sum_labels(ink, pieces, numbers) * (numbers > 0)
    inside = ~np.isin(numbers, _border(pieces))
    if mass[inside].max(initial=0) > 0.3 * mass.max():
        mass[~inside] = 0  # the picture's frame, or a neighbour cut through
    # A shadow or the light of a lamp ends more softly than ink. In a small picture a stroke may be one pixel wide, of
    # which a wide filter would leave little.
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
    """Return the ink with strokes of at least MNIST's width: a thin pen's would be faint or broken once scaled down."""
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
    """Return an image whose box the ink fills in one direction, its strongest pixel 1."""
    from PIL import Image

    height, width = ink.shape
    scale = min(round(form.box * image_shape[0]) / height, round(form.box * image_shape[1]) / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    fitted = Image.fromarray(ink.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    values = np.clip(np.asarray(fitted), 0, 1)
    return _laid(values / values.max(), image_shape, form)


def _laid(values: np.ndarray, image_shape: tuple[int, ...], form: Form) -> np.ndarray:
    """Return an image with ink laid into it, its centre in the middle, as nearly as pixels and the edge allow."""
    place = []
    for axis in (0, 1):
        profile = values.sum(axis=1 - axis)
        centre = float(profile @ np.arange(len(profile)) / profile.sum()) if form.by_mass else len(profile) / 2
        start = min(max(round(image_shape[axis] / 2 - centre), 0), image_shape[axis] - len(profile))
        place.append(slice(start, start + len(profile)))
    image = np.zeros(image_shape)
    image[tuple(place)] = values
    return image
