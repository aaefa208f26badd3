"""What is drawn for every training step: how images are deformed, which units are left out."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from xpmlp.backends.base import Backend
from xpmlp.namespaces import Array


class Noise(NamedTuple):
    """What was drawn for one step, each as its `epoch` yields it: a table, and which line of it; None where nothing."""

    deformation: tuple[Array, int] | None = None
    dropout: tuple[Array, int] | None = None

    def of(self, rows: slice) -> "Noise":
        """Return what was drawn for a part of the batch."""
        return Noise(*(drawn and (drawn[0][drawn[1] : drawn[1] + 1, rows, ...], 0) for drawn in self))


def lines(
    seed: int, start: int, batches: int, draw: Callable[[np.random.Generator, int], np.ndarray], backend: Backend
) -> Iterator[tuple[Array, int]]:
    """Yield an epoch's drawn tables on the device, a line a batch from batch `start` on, without an end.

    The epoch's seed decides them alone, and a batch has the same wherever the epoch is taken up. `draw` makes the
    lines of so many `batches` at once, (batches, …), from a generator and the first one's number.
    """
    block, line = divmod(start, batches)
    while True:
        table = backend.asarray(draw(np.random.default_rng((seed, block)), block * batches))
        for k in range(line, batches):
            yield table, k
        block, line = block + 1, 0
