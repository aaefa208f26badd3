"""Deform images differently in every epoch: rotate, scale, shear, shift, and bend them by a smooth random field.

The network then never sees the same image twice. (Simard, Steinkraus & Platt 2003, "Best Practices for Convolutional
Neural Networks Applied to Visual Document Analysis".) (Cireşan, Meier, Gambardella & Schmidhuber 2010, "Deep Big Simple
Neural Nets Excel on Handwritten Digit Recognition".)

A pixel of the deformed image shows another place of the original. The displacement to that place, down and to the
right, is a sum of a few smooth functions of the pixel. A constant shifts the image. The pixel's row and column rotate,
scale and shear it. Hills around the knots of a coarse grid bend it. So a batch's displacements are one matrix product:
numbers drawn for each image, times a basis that all images share.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np

from xpmlp.backends.base import Backend
from xpmlp.data.dataset import described
from xpmlp.data.noise import lines
from xpmlp.errors import DataError
from xpmlp.kernels import operation
from xpmlp.namespaces import Array, array_namespace, clipped

TURN, SHEAR, SCALE, SHIFT = np.deg2rad(15), 0.2, 0.15, 0.05
"""The limits at strength 1: the angle; columns per row; the logarithm of each axis's factor; a fraction of the side."""
BEND = 0.04  # standard deviation of the random field's displacements at strength 1, a fraction of the side
KNOTS, SMOOTHNESS = 6, 1 / 6  # that field's knots per side; the hills' standard deviation, a fraction of the side
COUNT = 3 + KNOTS**2  # number of functions in the basis
_BLOCK = 16_384  # images whose coefficients are drawn and copied to the device at once, if a batch is not larger
Numbers: TypeAlias = tuple[Array, int]  # batches' coefficients, (batches, batch, 2, COUNT), and a batch's index


def basis(image_shape: tuple[int, ...]) -> np.ndarray:
    """Return the basis functions of the displacements at every pixel, (COUNT, height · width) of float64."""
    rows, columns = (np.arange(side) - (side - 1) / 2 for side in image_shape)
    hills = []
    for places, side in zip((rows, columns), image_shape, strict=True):
        knots = np.linspace(places[0], places[-1], KNOTS)
        heights = np.exp(-0.5 * ((places - knots[:, None]) / (SMOOTHNESS * side)) ** 2)
        hills.append(heights / np.sqrt(np.sum(heights**2, axis=0)))  # displacements have the variance of their numbers
    down, right = np.meshgrid(rows, columns, indexing="ij")
    bends = np.einsum("iy,jx->ijyx", *hills).reshape(KNOTS**2, -1)
    return np.concatenate([np.ones((1, down.size)), down.reshape(1, -1), right.reshape(1, -1), bends])


def draw(rng: np.random.Generator, n: int, strength: Any, image_shape: tuple[int, ...]) -> np.ndarray:
    """Draw the coefficients that displace n images down and right, (n, 2, COUNT); one strength for all or for each."""
    even = rng.random((6, n)) * 2 - 1
    # The generator advances by the same amount for every strength; with 0 the coefficients are 0.
    normal = rng.standard_normal((n, 2, KNOTS**2), dtype=np.float32)
    angle, shear, *other = even * strength
    log_scale, shift = np.stack(other[:2]), np.stack(other[2:])
    sides = np.array(image_shape)
    cos, sin = np.cos(TURN * angle), np.sin(TURN * angle)
    high, wide = np.exp(SCALE * log_scale)
    slant = SHEAR * shear
    numbers = np.empty((n, 2, COUNT), np.float32)
    numbers[:, :, 0] = SHIFT * (shift * sides[:, None]).T
    # [[cos, sin], [−sin, cos]] · [[1, 0], [slant, 1]] · [[high, 0], [0, wide]], less the identity.
    numbers[:, 0, 1], numbers[:, 0, 2] = (cos + sin * slant) * high - 1, sin * wide
    numbers[:, 1, 1], numbers[:, 1, 2] = (cos * slant - sin) * high, cos * wide - 1
    amplitude = BEND * np.broadcast_to(strength, (n,))[:, None] * sides
    np.multiply(normal, amplitude[:, :, None], out=numbers[:, :, 3:], casting="same_kind")
    return numbers


def deformed(images: Array, numbers: Array, basis: Array, image_shape: tuple[int, ...], max_value: int) -> Array:
    """Return images as X, deformed, in the dtype of `draw`'s numbers and of the basis; bytes are scaled to 0 to 1."""
    xp = array_namespace(images=images, numbers=numbers, basis=basis)
    n, size, (height, width) = images.shape[0], math.prod(image_shape), image_shape[:2]
    if images.ndim != 2 or images.shape[1] != size:
        expected = f"expected (n, {size}), pictures of {' × '.join(map(str, image_shape))}"
        raise DataError(f"images of shape {tuple(images.shape)} cannot be deformed: {expected}")
    displacements = xp.reshape(xp.reshape(numbers, (2 * n, COUNT)) @ basis, (n, 2, height, width))
    if len(image_shape) == 2:
        return sampled(images, displacements, max_value)
    colours = xp.reshape(images, (n, height * width, image_shape[2]))
    planes = [sampled(colours[:, :, k], displacements, max_value) for k in range(image_shape[2])]
    return xp.reshape(xp.stack(planes, axis=2), (n, size))


@operation()
def sampled(images: Array, displacements: Array, max_value: int) -> Array:
    """Return images (bytes or floats) as X of the displacements' dtype, each pixel read at its displacement.

    The displacements, (n, 2, height, width), are in pixels: down, and to the right. Values between pixels are
    interpolated linearly in both directions. Outside of the image the value is 0.
    """
    xp = array_namespace(images=images, displacements=displacements)
    n, _, height, width = displacements.shape
    dtype, device = displacements.dtype, getattr(displacements, "device", None)
    pixels = xp.reshape(images, (n, height, width))
    row, column = xp.zeros_like(pixels[:, :1, :]), xp.zeros((n, height + 2, 1), dtype=images.dtype, device=device)
    around = xp.concat([column, xp.concat([row, pixels, row], axis=1), column], axis=2)
    # Positions count from the corner of the padding.
    y = displacements[:, 0, :, :] + xp.arange(1, height + 1, dtype=dtype, device=device)[:, None]
    x = displacements[:, 1, :, :] + xp.arange(1, width + 1, dtype=dtype, device=device)
    y, x = clipped(y, 0, height + 1), clipped(x, 0, width + 1)
    top = clipped(xp.floor(y), 0, height)  # so that a row below it exists and, in the next line, a column right of it
    left = clipped(xp.floor(x), 0, width)
    y -= top
    x -= left
    index = xp.astype(top, xp.int32) * (width + 2)
    index += xp.astype(left, xp.int32)
    area = (height + 2) * (width + 2)
    index += xp.arange(0, n * area, area, dtype=xp.int32, device=device)[:, None, None]
    index, around = xp.reshape(index, (-1,)), xp.reshape(around, (-1,))

    def at(offset: int) -> Array:
        return xp.reshape(xp.astype(xp.take(around, index + offset), dtype), (n, height, width))

    upper, lower = at(0), at(width + 2)
    upper += x * (at(1) - upper)
    lower += x * (at(width + 3) - lower)
    lower -= upper
    lower *= y
    upper += lower
    upper *= 1 / max_value
    return xp.reshape(upper, (n, height * width))


class Deformation:
    """Deforms a training run's batches to X of a dtype. The strength depends on the step, counted from 1."""

    def __init__(
        self,
        strength: Callable[[int], float],
        image_shape: tuple[int, ...],
        max_value: int,
        batch_size: int,
        backend: Backend,
        dtype: str = "float32",
    ) -> None:
        if len(image_shape) < 2 or min(image_shape[:2]) < 2:
            expected = "expected images of at least 2 × 2 pixels; leave the deformation out"
            raise DataError(f"{described(image_shape)} cannot be deformed: {expected}")
        self.strength, self.image_shape, self.max_value, self.batch_size = strength, image_shape, max_value, batch_size
        self._backend, self._dtype = backend, dtype
        self._basis = backend.asarray(basis(image_shape[:2]).astype(dtype))

    def __call__(self, images: Array, numbers: Numbers) -> Array:
        """Return a batch's X, deformed; a compiled step may call it."""
        table, line = numbers
        return deformed(images, table[line, : images.shape[0], :, :], self._basis, self.image_shape, self.max_value)

    def epoch(self, seed: int, start: int = 0, before: int = 0) -> Iterator[Numbers]:
        """Yield an epoch's coefficients as `lines` does, one line per batch; `before` steps precede the epoch."""
        batches = max(1, _BLOCK // self.batch_size)

        def numbers(rng: np.random.Generator, first: int) -> np.ndarray:
            steps = range(before + first + 1, before + first + 1 + batches)
            strengths = np.repeat([self.strength(step) for step in steps], self.batch_size)
            drawn = draw(rng, len(strengths), strengths, self.image_shape[:2]).astype(self._dtype)
            return drawn.reshape(batches, self.batch_size, 2, COUNT)

        return lines(seed, start, batches, numbers, self._backend)
