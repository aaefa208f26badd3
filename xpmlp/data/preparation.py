"""How the pictures of a data set were prepared, as others must be before a network trained on those reads them."""

import numpy as np

MNIST = "mnist"
"""Light ink on 0, scaled into a box of 20 of 28 pixels, the centre of its mass in the middle (LeCun et al. 1998)."""
AS_TRAINED = "as-trained"
"""Only of the size and range of the training images."""
PREPARATIONS = (MNIST, AS_TRAINED)

BOX = 20 / 28
"""How much of an image's height or width, whichever it fills first, a character has in MNIST."""
FAINTEST = 0.1
"""Of the greatest value: what is darker counts as background."""
_SAMPLE = 1000  # images that are measured
_ENOUGH = 0.95  # of them


def measure(images: np.ndarray, max_value: int) -> str:
    """Return how images of bytes, (n, height, width), were prepared, by where their ink lies."""
    if images.ndim != 3 or images.dtype != np.uint8 or min(images.shape[1:]) < 14:
        return AS_TRAINED
    some = images[:: max(1, len(images) // _SAMPLE)][:_SAMPLE]
    return MNIST if np.mean(are_placed(some, max_value)) >= _ENOUGH else AS_TRAINED


def are_placed(images: np.ndarray, max_value: int) -> np.ndarray:
    """Return of which images, (n, height, width), light ink on a dark background has MNIST's size and place."""
    ok, parts = np.ones(len(images), bool), []
    for axis in (1, 2):
        length = images.shape[axis]
        profiles = images.sum(axis=3 - axis, dtype=np.float64)
        mass = profiles.sum(axis=1)
        centres = profiles @ np.arange(length) / np.maximum(mass, 1)
        ok &= (mass > 0) & (np.abs(centres - length / 2) <= length / 28)
        has_ink: np.ndarray = np.any(np.greater(images, FAINTEST * max_value), axis=3 - axis)
        first, last = has_ink.argmax(axis=1), length - 1 - has_ink[:, ::-1].argmax(axis=1)
        parts.append((last - first + 1) * has_ink.any(axis=1) / length)
    placed: np.ndarray = ok & (np.abs(np.maximum(*parts) - BOX) <= 1 / min(images.shape[1:]) + 1e-9)
    return placed
