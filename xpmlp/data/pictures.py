"""From a picture file of one handwritten character to the image that a network trained on MNIST expects.

MNIST was made of scans in black and white: each character was scaled, its proportions kept, into a box of 20 × 20
pixels, and laid into a field of 28 × 28 with the centre of its mass in the middle. Here a picture comes to that by the
same way, after its ink has been told from its paper, which in a scan or photograph is neither white nor even.
"""

import os
import warnings
from typing import TYPE_CHECKING

import numpy as np

from xpmlp.data.files import known_kind
from xpmlp.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

_FORMATS = ("PNG", "JPEG", "PPM", "BMP", "GIF", "TIFF", "WEBP")
"""Those that Pillow reads by itself; for others it would start programs (ghostscript for EPS)."""
_MOST_PIXELS = 100_000_000
_BOX = 20 / 28  # how much of an image's height or width, whichever it fills first, a character has in MNIST
_WORKING_SIZE = 256  # pixels of the longer side where ink is looked for: noise averages out, no picture takes long
_LARGE_ENOUGH = 0.4  # how much of the working size a character must have; a smaller one is looked at more closely
_FAINTEST = 0.1  # what is darker than the paper by less than this part of it may be a crease or a stain, and is no ink
_THINNEST = 2.1 / 20  # of the character's size: the width to which strokes are thickened; few in MNIST are thinner
_NO_INK = "no ink found: expected one character, dark on light or light on dark"


def read_picture(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the grey values, 0 black to 255 white, of a PNG, JPEG, PGM (PPM, PBM), BMP, GIF, TIFF or WebP file.

    It is turned as its EXIF data say; the transparent is white, or black under light ink; of several the first is read.
    """
    from PIL import Image, UnidentifiedImageError

    name = os.fspath(path)
    expected = "expected a picture (PNG, JPEG, PGM, BMP, GIF, TIFF or WebP)"
    fewer = f"expected at most {_MOST_PIXELS:,} in all: scale it down"
    try:
        with open(path, "rb") as file:
            beginning = file.read(64)
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}") from None
    if not beginning:
        raise DataError(f"{name}: is empty: {expected}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's: of what it reads all the same, and of sizes refused here
            with open(path, "rb") as file, Image.open(file, formats=_FORMATS) as image:
                width, height = image.size
                if width * height > _MOST_PIXELS:
                    raise DataError(f"{name}: {width} × {height} pixels: {fewer}")
                return _grey(image)
    except DataError:
        raise
    except UnidentifiedImageError:
        kind = known_kind(beginning) or ""
        found = f"begins with {beginning[:8].hex(' ')}: " if not kind or "picture" in kind else f"{kind}; "
        raise DataError(f"{name}: {found}{expected}") from None
    except Image.DecompressionBombError:
        raise DataError(f"{name}: too many pixels: {fewer}") from None
    except Exception as error:  # a damaged file can make Pillow's decoders raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name}: damaged picture ({reason}): get the file again") from None


def normalise(picture: np.ndarray, image_shape: tuple[int, ...], max_value: int = 255) -> np.ndarray:
    """Return the image that a network trained on MNIST expects of a picture of one character.

    It shows the character alone, light on 0, of the size and in the place that MNIST's have. A picture (uint8, dark ink
    on light paper or light on dark) that has the shape already, and a dark background, is taken as it is.
    """
    if picture.shape == tuple(image_shape) and np.median(_border(picture)) < 32:
        # Its greatest value tells whether it counts to 255 or, as the model, less far.
        image = picture / (max_value if picture.max() <= max_value else 255)
        if np.ptp(image) < _FAINTEST:
            raise DataError(_NO_INK)
    else:
        image = _placed(_thickened(_ink_of(picture)), image_shape)
    return np.round(image * max_value).astype(np.uint8)


def _grey(image: "Image.Image") -> np.ndarray:
    """Return an opened picture's grey values as they are meant to be seen."""
    from PIL import Image, ImageOps

    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):  # 16 bits, or numbers that know no greatest value
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
        if values.min() < 0 or values.max() > 65_535:
            values = (values - values.min()) / np.ptp(values) * 65_535
        white = 1 if values.max() <= 1 else 65_535
        return np.round(values * (255 / white)).astype(np.uint8)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        opacity = np.asarray(image.getchannel("A"), dtype=np.float64) / 255
        light = float(np.sum(np.asarray(image.convert("L")) * opacity)) > 127 * float(np.sum(opacity))
        # What is drawn upon nothing stands out: white on black, all else on white.
        background = "black" if light and opacity.mean() < 0.5 else "white"
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    if image.mode not in ("1", "L"):
        image = image.convert("RGB")  # there is no way from some modes to grey but by it
    return np.array(image.convert("L"))


def _border(picture: np.ndarray) -> np.ndarray:
    return np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])


def _ink_of(picture: np.ndarray) -> np.ndarray:
    """Return the character that a picture shows, from 0, paper, to 1, ink, cut out along its edges."""
    small = _shrunk(picture)
    if _is_light_on_dark(small):
        picture, small = 255 - picture, 255 - small
    while True:
        ink = _character(small)
        box = _box_around(ink)
        scale = max(picture.shape) / max(small.shape)
        if scale == 1 or max(ink[box].shape) >= _LARGE_ENOUGH * max(ink.shape):
            return ink[box]
        margin = max(ink[box].shape) / 2  # so that enough paper is left around it
        ends = [(int((side.start - margin) * scale), int((side.stop + margin) * scale) + 1) for side in box]
        picture = picture[tuple(slice(max(0, first), stop) for first, stop in ends)]
        small = _shrunk(picture)


def _shrunk(picture: np.ndarray) -> np.ndarray:
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((_WORKING_SIZE, _WORKING_SIZE), Image.Resampling.BOX, reducing_gap=None)
    return np.asarray(image)


def _is_light_on_dark(picture: np.ndarray) -> bool:
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
    strong = contrast[contrast > max(5 * noise, _FAINTEST)]
    # A mean in which the ink outweighs a wide, weak stain.
    level = np.sum(strong**3) / np.sum(strong**2) if strong.size else 0
    if level < max(8 * noise, _FAINTEST):
        raise DataError(_NO_INK)
    # As in a scan in black and white the ink's edge is where half of it is; ruled lines are well below.
    return _without_specks(np.clip((contrast / level - 0.3) / 0.4, 0, 1))


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
        raise DataError(_NO_INK)
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


def _placed(ink: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    """Return an image whose box the ink fills in one direction, its strongest pixel 1.

    The centre of its mass is on the image's middle, as nearly as whole pixels and the image's edge allow.
    """
    from PIL import Image

    height, width = ink.shape
    scale = min(round(_BOX * image_shape[0]) / height, round(_BOX * image_shape[1]) / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    fitted = Image.fromarray(ink.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    values = np.clip(np.asarray(fitted), 0, 1)
    values /= values.max()
    place = []
    for axis in (0, 1):
        profile = values.sum(axis=1 - axis)
        centre = float(profile @ np.arange(len(profile)) / profile.sum())
        start = min(max(round(image_shape[axis] / 2 - centre), 0), image_shape[axis] - len(profile))
        place.append(slice(start, start + len(profile)))
    image = np.zeros(image_shape)
    image[tuple(place)] = values
    return image
