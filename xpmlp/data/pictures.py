"""Read picture files: their values as a viewer shows them, in grey or in colour, of 8 bits or more."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from xpmlp.data.files import known_kind
from xpmlp.errors import DataError
from xpmlp.storage.files import StrPath

if TYPE_CHECKING:
    from PIL import Image

_FORMATS = ("PNG", "JPEG", "PPM", "BMP", "GIF", "TIFF", "WEBP")
"""The formats that Pillow reads by itself; for others it would start programs (ghostscript for EPS)."""
ENDINGS = {".png", ".jpg", ".jpeg", ".jfif", ".pgm", ".ppm", ".pbm", ".pnm", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
"""The endings by which a folder's pictures differ from its other files."""
_MOST_PIXELS = 100_000_000
_ORIENTATION = 0x0112  # the EXIF tag of the camera's orientation
_COLOURED = 8  # least difference of channels in a colour picture; JPEG makes grey differ by less


class Encoded(NamedTuple):
    """A picture file's contents, and its name for error messages."""

    name: str
    content: bytes


def read_picture(path: StrPath) -> np.ndarray:
    """Return the grey values, uint8 from 0 black to 255 white, of a picture file; see `read_values`."""
    return grey_bytes(read_values(path))


def read_values(path: StrPath | Encoded) -> np.ndarray:
    """Return the values of a PNG, JPEG, PGM (PPM, PBM), BMP, GIF, TIFF or WebP file.

    The picture is rotated as its EXIF data say. Transparent pixels are white, or black under light ink. If a file has
    several pictures, the first is read.

    Returns
    -------
    numpy.ndarray
        uint8 (height, width), in colour (height, width, 3). With more than 8 bits, float32 (height, width): the file's
        own numbers, with 0 for those that are not finite.

    Raises
    ------
    DataError
        If it cannot be opened, is damaged, is too large or is not a picture.
    """
    with _opened(path) as image:
        return _values(image)


def size_and_mode(path: StrPath | Encoded) -> tuple[tuple[int, int], str]:
    """Return a picture's height and width, rotated as in `read_values`, and Pillow's mode, from its header."""
    with _opened(path) as image:
        turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        width, height = image.size
        return ((width, height) if turned else (height, width)), image.mode


def grey_bytes(values: np.ndarray) -> np.ndarray:
    """Return a picture's values as grey values from 0 to 255, by its probable range.

    The range ends at the least of 1, 255, 511, 1023, … 65,535 that no value exceeds. Beyond 65,535 it is from the least
    value to the greatest.
    """
    if values.ndim == 3:
        from PIL import Image

        return np.asarray(Image.fromarray(values).convert("L"))
    low, high = float(values.min()), float(values.max())
    if values.dtype == np.uint8 and high != 1:
        return values
    if low < 0 or high > 65_535:
        return np.round((values - low) * (255 / max(high - low, 1e-30))).astype(np.uint8)
    return np.round(values * np.float64(255 / white_of(high))).astype(np.uint8)


def white_of(high: float) -> int:
    """Return the probable value of white for numbers up to `high`."""
    return 1 if high <= 1 else 2 ** max(8, int(np.ceil(high)).bit_length()) - 1


def resized(values: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    """Return a picture's values resized: grey (height, width), in colour (height, width, 3)."""
    from PIL import Image

    if values.ndim != len(image_shape):
        if values.ndim == 3:
            values = grey_bytes(values)
        else:
            values = np.repeat((values if values.dtype == np.uint8 else grey_bytes(values))[..., None], 3, axis=2)
    if values.shape == tuple(image_shape):
        return values
    height, width = image_shape[:2]
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))


def _file(path: StrPath | Encoded) -> IO[bytes]:
    return io.BytesIO(path.content) if isinstance(path, Encoded) else open(path, "rb")


@contextmanager
def _opened(path: StrPath | Encoded) -> Iterator["Image.Image"]:
    """Open a picture; name every problem with it in one line."""
    from PIL import Image, UnidentifiedImageError

    name = path.name if isinstance(path, Encoded) else os.fspath(path)
    expected = "expected a picture (PNG, JPEG, PGM, BMP, GIF, TIFF or WebP)"
    fewer = f"expected at most {_MOST_PIXELS:,} in all: scale it down"
    try:
        with _file(path) as file:
            beginning = file.read(64)
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}") from None
    if not beginning:
        raise DataError(f"{name}: is empty: {expected}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's: of what it reads all the same, and of sizes refused here
            with _file(path) as file, Image.open(file, formats=_FORMATS) as image:
                width, height = image.size
                if width * height > _MOST_PIXELS:
                    raise DataError(f"{name}: {width} × {height} pixels: {fewer}")
                yield image
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


def _values(image: "Image.Image") -> np.ndarray:
    """Return an open picture's values as a viewer shows them."""
    from PIL import Image, ImageOps

    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):  # 16 bits, or numbers without a greatest value
        return np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=0, neginf=0)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        opacity = np.asarray(image.getchannel("A"), dtype=np.float64) / 255
        light = float(np.sum(np.asarray(image.convert("L")) * opacity)) > 127 * float(np.sum(opacity))
        # Place a drawing with a transparent background so that it stands out: white on black, all else on white.
        background = "black" if light and opacity.mean() < 0.5 else "white"
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))
    image = image.convert("RGB")  # some modes convert to grey only through it
    colours = np.array(image)
    return colours if np.ptp(colours, axis=2).max() > _COLOURED else np.array(image.convert("L"))
