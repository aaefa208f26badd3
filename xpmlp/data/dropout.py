"""Dropout: in each training step, hidden units at random are left out (Srivastava et al. 2014, JMLR 15, section 4)."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from xpmlp.backends.base import Backend
from xpmlp.data.noise import lines
from xpmlp.namespaces import Array, array_namespace

LEVELS = 256  # a unit is left out where a byte is below the rate's share of these
_BLOCK = 2**24  # bytes that are drawn and brought to the device at once, if a batch does not take more


@dataclass(frozen=True)
class Dropout:
    """What leaves a part of the hidden layers' units out.

    Parameters
    ----------
    rate : float
        The part, above 0 and below 1, rounded to a 256th.
    hidden : tuple of int
        The hidden layers' widths.
    batch_size : int
        The most samples of a step.
    backend : Backend
        Where the masks are made.
    """

    rate: float
    hidden: tuple[int, ...]
    batch_size: int
    backend: Backend

    @property
    def level(self) -> int:
        """Below which a drawn byte leaves a unit out."""
        return min(max(1, round(self.rate * LEVELS)), LEVELS - 1)

    def masks(self, theta: Array, n: int, drawn: tuple[Array, int]) -> list[Array]:
        """Return a mask for each hidden layer, (…, n, width): 0 where a unit is left out, else above 1, on average 1.

        Of several networks the table is (lines, K, batch, units).
        """
        table, line = drawn
        xp = array_namespace(theta=theta, table=table)
        kept = xp.astype(table[line, ..., :n, :] >= self.level, theta.dtype)
        kept *= LEVELS / (LEVELS - self.level)
        stops = [sum(self.hidden[:k]) for k in range(len(self.hidden) + 1)]
        return [kept[..., start:stop] for start, stop in itertools.pairwise(stops)]

    def epoch(self, seed: int, start: int = 0, steps: int | None = None) -> Iterator[tuple[Array, int]]:
        """Return an epoch's bytes, (batches, batch, units) and a line a batch, as `xpmlp.data.noise.lines` has them.

        Where the epoch's steps are given, no more are drawn.
        """
        shape = self.batch_size, sum(self.hidden)
        batches = max(1, min(_BLOCK // (shape[0] * shape[1]), steps or _BLOCK))

        def draw(rng: np.random.Generator, first: int) -> np.ndarray:
            return rng.integers(0, LEVELS, (batches, *shape), dtype=np.uint8)

        return lines(seed, start, batches, draw, self.backend)
