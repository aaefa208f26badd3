"""The random numbers of each training step: how images are deformed, and which units are left out."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from xpmlp.backends.base import Backend
from xpmlp.namespaces import Array


class Noise(NamedTuple):
    """One step's random numbers, each as its `epoch` yields them: a table and the step's line. None: none are drawn."""

    deformation: tuple[Array, int] | None = None
    dropout: tuple[Array, int] | None = None

    def of(self, rows: slice) -> "Noise":
        """Return the random numbers of a part of the batch."""
        return Noise(*(drawn and (drawn[0][drawn[1] : drawn[1] + 1, rows, ...], 0) for drawn in self))


def lines(
    seed: int, start: int, batches: int, draw: Callable[[np.random.Generator, int], np.ndarray], backend: Backend
) -> Iterator[tuple[Array, int]]:
    """Yield an epoch's tables on the device, one line per batch from batch `start` on, without an end.

    Only the epoch's seed decides them: a batch gets the same numbers for every `start`. `draw` makes the lines of so
    many `batches` at once, (batches, …), from a generator and the first batch's number.
    """
    block, line = divmod(start, batches)
    while True:
        table = backend.asarray(draw(np.random.default_rng((seed, block)), block * batches))
        for k in range(line, batches):
            yield table, k
        block, line = block + 1, 0
