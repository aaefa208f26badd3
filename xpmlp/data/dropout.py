"""Dropout: each training step leaves out random hidden units (Srivastava et al. 2014, JMLR 15, section 4)."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xpmlp.backends.base import Backend
from xpmlp.data.noise import lines
from xpmlp.namespaces import Array, array_namespace

LEVELS = 256  # a unit is left out where a byte is below the rate's share of these
_BLOCK = 2**24  # bytes that are drawn and copied to the device at once, if a batch does not need more


@dataclass(frozen=True)
class Dropout:
    """Leaves out a random fraction of the hidden layers' units.

    Parameters
    ----------
    rate : float
        The fraction, above 0 and below 1, rounded to a 256th.
    hidden : tuple of int
        The hidden layers' widths.
    batch_size : int
        The greatest number of samples in a step.
    backend : Backend
        The backend that computes the masks.
    """

    rate: float
    hidden: tuple[int, ...]
    batch_size: int
    backend: Backend

    @property
    def level(self) -> int:
        """The threshold: a unit whose byte is below it is left out."""
        return min(max(1, round(self.rate * LEVELS)), LEVELS - 1)

    def masks(self, theta: Array, n: int, drawn: tuple[Array, int]) -> list[Array]:
        """Return a mask per hidden layer, (…, n, width): 0 where a unit is left out, else above 1; its mean is 1.

        For K networks, the table has the shape (lines, K, batch, units).
        """
        table, line = drawn
        xp = array_namespace(theta=theta, table=table)
        kept = xp.astype(table[line, ..., :n, :] >= self.level, theta.dtype)
        kept *= LEVELS / (LEVELS - self.level)
        stops = [sum(self.hidden[:k]) for k in range(len(self.hidden) + 1)]
        return [kept[..., start:stop] for start, stop in itertools.pairwise(stops)]

    def epoch(self, seed: int, start: int = 0, steps: int | None = None) -> Iterator[tuple[Array, int]]:
        """Yield an epoch's bytes as `xpmlp.data.noise.lines` does: (batches, batch, units), and each batch's line.

        If the epoch's number of steps is given, no more are drawn.
        """
        shape = self.batch_size, sum(self.hidden)
        batches = max(1, min(_BLOCK // (shape[0] * shape[1]), steps or _BLOCK))

        def draw(rng: np.random.Generator, first: int) -> np.ndarray:
            return rng.integers(0, LEVELS, (batches, *shape), dtype=np.uint8)

        return lines(seed, start, batches, draw, self.backend)
