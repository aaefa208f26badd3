"""One process that has no others: its sums are what it is given."""

import os
from typing import Any


class SingleRank:
    """A launch of one rank; each method does nothing and costs nothing. See `xpmlp.communication.Communicator`."""

    rank = local_rank = 0
    size = local_size = hosts = stop_poll_interval = 1
    engine: str | None = None
    library: str | None = None

    @property
    def cores(self) -> int:
        """The processor cores that this process may use."""
        return len(usable_cores())

    def sum(self, vector: Any) -> Any:
        """Return the vector."""
        return vector

    def broadcast(self, content: Any) -> Any:
        """Return the content."""
        return content

    def gather(self, content: Any) -> list[Any]:
        """Return the content, alone in a list."""
        return [content]

    def barrier(self) -> None:
        """Do nothing."""

    def leave(self) -> None:
        """Do nothing."""

    def abort(self, code: int) -> None:
        """Do nothing: this process ends as it would."""


def usable_cores() -> set[int]:
    """Return the processor cores that this process may use, which a launcher may have bound to some."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
