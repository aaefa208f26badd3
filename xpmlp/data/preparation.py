"""How a data set's pictures were prepared. Other pictures need the same preparation for a network trained on them."""

from typing import NamedTuple

import numpy as np


class Form(NamedTuple):
    """Where a character is in an image, light ink on 0."""

    box: float  # share of the image's height or width, whichever it fills first
    by_mass: bool  # whether the centre of its mass is in the middle, or that of the box


MNIST, DIGITS, AS_TRAINED = "mnist", "digits", "as-trained"
FORMS = {MNIST: Form(20 / 28, by_mass=True), DIGITS: Form(1.0, by_mass=False)}
"""The forms of MNIST (LeCun et al. 1998) and of scikit-learn's digits."""
PREPARATIONS = (*FORMS, AS_TRAINED)
"""The names of the forms, and the one for which only size and range are known."""

FAINTEST = 0.1
"""Share of the greatest value: darker pixels count as background."""
_SAMPLE = 1000  # images that are measured
_LARGE = 1 << 30  # bytes
_ENOUGH = 0.95  # of them
_OFF = (
    0.6 / 28
)  # share of the side: greatest distance of the centre of mass from the middle; rounding to pixels makes half a pixel


def measure(images: np.ndarray, max_value: int) -> str:
    """Return how images of bytes, (n, height, width), were prepared, by the position of their ink."""
    if images.ndim != 3 or images.dtype != np.uint8 or min(images.shape[1:]) < 14:
        return AS_TRAINED
    # The first images of a file larger than memory: images far apart would each load their surroundings.
    step = max(1, len(images) // _SAMPLE) if images.nbytes < _LARGE else 1
    some = images[::step][:_SAMPLE]
    return MNIST if np.mean(are_placed(some, max_value, FORMS[MNIST])) >= _ENOUGH else AS_TRAINED


def are_placed(images: np.ndarray, max_value: int, form: Form) -> np.ndarray:
    """Return for each image, (n, height, width), whether light ink on a dark background has a form's size and place."""
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
