"""How the pictures of a data set were prepared, as others must be before a network trained on those reads them."""

from typing import NamedTuple

import numpy as np


class Form(NamedTuple):
    """Where a character is in an image, light ink on 0."""

    box: float  # how much of the image's height or width, whichever it fills first
    by_mass: bool  # whether the centre of its mass is in the middle, or that of the box


MNIST, DIGITS, AS_TRAINED = "mnist", "digits", "as-trained"
FORMS = {MNIST: Form(20 / 28, by_mass=True), DIGITS: Form(1.0, by_mass=False)}
"""Those of MNIST (LeCun et al. 1998) and of scikit-learn's digits."""
PREPARATIONS = (*FORMS, AS_TRAINED)
"""The forms, and that of which only size and range are known."""

FAINTEST = 0.1
"""Of the greatest value: what is darker counts as background."""
_SAMPLE = 1000  # images that are measured
_LARGE = 1 << 30  # bytes
_ENOUGH = 0.95  # of them
_OFF = (
    0.6 / 28
)  # of the side: how far from the middle the centre of mass may be; rounding to pixels makes it half a pixel


def measure(images: np.ndarray, max_value: int) -> str:
    """Return how images of bytes, (n, height, width), were prepared, by where their ink lies."""
    if images.ndim != 3 or images.dtype != np.uint8 or min(images.shape[1:]) < 14:
        return AS_TRAINED
    # Of a file larger than memory the first ones: those far apart would each bring their surroundings into memory.
    step = max(1, len(images) // _SAMPLE) if images.nbytes < _LARGE else 1
    some = images[::step][:_SAMPLE]
    return MNIST if np.mean(are_placed(some, max_value, FORMS[MNIST])) >= _ENOUGH else AS_TRAINED


def are_placed(images: np.ndarray, max_value: int, form: Form) -> np.ndarray:
    """Return of which images, (n, height, width), light ink on a dark background has a form's size and place."""
    ok, parts = np.ones(len(images), bool), []
    for axis in (1, 2):
        length = images.shape[axis]
        profiles = images.sum(axis=3 - axis, dtype=np.float64)
        mass = profiles.sum(axis=1)
        centres = profiles @ np.arange(length) / np.maximum(mass, 1)
        ok &= (mass > 0) & ((np.abs(centres - length / 2) <= _OFF * length) | (not form.by_mass))
        has_ink: np.ndarray = np.any(np.greater(images, FAINTEST * max_value), axis=3 - axis)
        first, last = has_ink.argmax(axis=1), length - 1 - has_ink[:, ::-1].argmax(axis=1)
        parts.append((last - first + 1) * has_ink.any(axis=1) / length)
    placed: np.ndarray = ok & (np.abs(np.maximum(*parts) - form.box) <= 1 / min(images.shape[1:]) + 1e-9)
    return placed
