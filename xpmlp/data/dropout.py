"""Dropout: in each training step, hidden units at random are left out (Srivastava et al. 2014, JMLR 15, section 4)."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from xpmlp.backends.base import Backend
from xpmlp.data.noise import lines
from xpmlp.namespaces import Array, array_namespace

LEVELS = 256
"""A unit is left out where a byte is below the rate's share of these."""

_BLOCK = 2**24
"""Bytes that are drawn and brought to the device at once, if a batch does not take more."""


class Dropout:
    """What leaves units out: it draws each step's bytes, and makes masks of them on the device.

    Parameters
    ----------
    rate : float
        Which part of the units, above 0 and below 1; rounded to a 256th.
    hidden : sequence of int
        The hidden layers' widths.
    batch_size : int
        Images a batch.
    backend : Backend
        Whose device the masks are on.
    """

    def __init__(self, rate: float, hidden: Sequence[int], batch_size: int, backend: Backend) -> None:
        self.level = min(max(1, round(rate * LEVELS)), LEVELS - 1)
        self.hidden, self.batch_size, self._backend = tuple(hidden), batch_size, backend

    def masks(self, theta: Array, n: int, drawn: tuple[Array, int]) -> list[Array]:
        """Return a mask for each hidden layer, (n, width) of theta's dtype; a compiled step may call it.

        It is 0 where a unit is left out, and else so much above 1 that the mean of all is 1.

        Parameters
        ----------
        theta : array
            Whose dtype is meant.
        n : int
            Images, at most a batch's.
        drawn : (array of uint8, shape (batches, batch, units), int)
            What `epoch` yields.
        """
        table, line = drawn
        xp = array_namespace(theta=theta, table=table)
        kept = xp.astype(table[line, :n, :] >= self.level, theta.dtype)
        kept *= LEVELS / (LEVELS - self.level)
        stops = [sum(self.hidden[:k]) for k in range(len(self.hidden) + 1)]
        return [kept[:, start:stop] for start, stop in itertools.pairwise(stops)]

    def epoch(self, seed: int, start: int = 0) -> Iterator[tuple[Array, int]]:
        """Return an epoch's bytes, a line a batch, as `xpmlp.data.noise.lines` has them.

        Parameters
        ----------
        seed : int
            Of the epoch, at least 0.
        start : int
            The batch to begin with.
        """
        shape = self.batch_size, sum(self.hidden)
        batches = max(1, _BLOCK // (shape[0] * shape[1]))

        def draw(rng: np.random.Generator, first: int) -> np.ndarray:
            return rng.integers(0, LEVELS, (batches, *shape), dtype=np.uint8)

        return lines(seed, start, batches, draw, self._backend)
