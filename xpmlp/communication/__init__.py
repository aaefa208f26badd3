"""One model on many processes: a rank's way to the others, by MPI and NCCL in a file each, and how they are joined.

The engine is one that exists: MPI for arrays on the host, NCCL for arrays on GPUs; nothing here opens a connection. The
math, its kernels and the backends know nothing of it. A process that no MPI launcher started is alone, and pays
nothing: neither mpi4py nor CuPy is imported for it.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, NamedTuple

from xpmlp.errors import ConfigError, JoiningError, expected_one_of

WAYS = ("auto", "off", "mpi")
"""How a process may be joined to others."""

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK")
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
"""What Open MPI's, MPICH's, Intel's and Slurm's launchers tell a process of itself."""


class Communicator:
    """The ranks of one launch, seen from one of them; as it stands, from the only one there is.

    Every method but `abort` is called by all ranks, in one order.
    """

    rank: int = 0
    """The process's number, from 0."""
    size: int = 1
    """How many there are."""
    local_rank: int = 0
    """Its number among those of its host."""
    local_size: int = 1
    """How many there are on its host."""
    hosts: int = 1
    """How many hosts there are."""
    engine: str | None = None
    """What moves the numbers, and its version; None where nothing does."""
    library: str | None = None
    """The library whose arrays `sum` takes; None where it takes any."""
    stop_poll_interval: int = 1
    """After how many steps a sum's numbers are looked at, which on a GPU waits for it."""

    @cached_property
    def cores(self) -> int:
        """The processor cores that the ranks of its host may use, all of them together."""
        return len(usable_cores())

    def sum(self, vector: Any) -> Any:
        """Return the sum of the ranks' vectors, the same bits on all; the vector is handed over."""
        return vector

    def broadcast(self, content: Any) -> Any:
        """Return rank 0's content, whatever the others give."""
        return content

    def gather(self, content: Any) -> list[Any]:
        """Return every rank's content, in their order, on all of them."""
        return [content]

    def barrier(self) -> None:
        """Return when all ranks have come here."""

    def leave(self) -> None:
        """Return when all ranks have come here, and let each go on and end alone."""

    def abort(self, code: int) -> None:
        """End all ranks at once, wherever they are; one that is alone ends as it would."""


class SingleRank(Communicator):
    """A process that has no others: its sums are what it is given, and nothing is waited for."""


def usable_cores() -> set[int]:
    """Return the processor cores that this process may use, which a launcher may have bound to some."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


class Launch(NamedTuple):
    """What an MPI launcher has told a process."""

    rank: int
    size: int | None
    """None where it did not say."""
    local_rank: int | None = None
    """The number among the ranks of its host, None where it did not say."""


_joined: Communicator | None = None
"""What this process was joined to and has not left, so that its end is that of all."""


def find_launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Return what an MPI launcher has told this process, None where none has started it."""

    def first(names: Sequence[str]) -> int | None:
        return next((int(environment[name]) for name in names if environment.get(name, "").isdecimal()), None)

    rank, size = first(_RANKS), first(_SIZES)
    if rank is None and size is None:
        return None
    return Launch(rank or 0, size, first(_LOCAL_RANKS))


def join(way: str = "auto") -> Communicator:
    """Return the way to the ranks that were started together with this one.

    Parameters
    ----------
    way : {"auto", "off", "mpi"}
        ``auto``: to all of a launch by MPI, where that has more than one rank. ``off``: to none. ``mpi``: to all, one
        included, and an error where no launcher has started this process.

    Raises
    ------
    ConfigError
        If there is no such way, or no launcher.
    JoiningError
        If a launcher has started ranks that do not find each other.
    """
    global _joined
    if way not in WAYS:
        raise ConfigError(f"unknown distributed {way!r}: {expected_one_of(way, WAYS)}")
    launch = find_launch()
    if launch is None and way == "mpi":
        raise ConfigError(
            "distributed mpi: no MPI launcher has started this process; "
            "begin the command with one, such as mpiexec -n 4, or leave it out"
        )
    if launch is None or way == "off" or (way == "auto" and launch.size == 1):
        return SingleRank()
    from xpmlp.communication._mpi import MpiCommunicator  # MPI starts with this import

    communicator = MpiCommunicator()
    expected = max(launch.size or 1, launch.rank + 1)
    if communicator.size == 1 and expected > 1:
        mpi = str(communicator.engine).partition(",")[0]
        raise JoiningError(
            f"the launcher has started {launch.size or 'several'} ranks, and mpi4py, with {mpi}, finds itself alone: "
            "they are of two MPIs; take the mpiexec of mpi4py's own, or --distributed off"
        )
    _joined = communicator
    if communicator.size == 1 and way == "auto":
        leave()
        return SingleRank()
    return communicator


def join_gpus(communicator: Communicator, context: Callable[[], AbstractContextManager[Any]]) -> Communicator:
    """Return the way to the same ranks whose sums are CuPy's, each rank on the GPU of a context."""
    if communicator.size == 1:
        return communicator
    global _joined
    from xpmlp.communication._nccl import NcclCommunicator

    with context():  # NCCL takes the current GPU
        _joined = NcclCommunicator(communicator)
    return _joined


def leave() -> None:
    """Go on alone, when all ranks have come here."""
    global _joined
    if _joined:
        _joined.leave()
        _joined = None


def abort(code: int) -> None:
    """End all ranks that this process is joined to; nothing happens where it is alone, or has left them."""
    if _joined:
        time.sleep(0.2)  # the launcher passes on what this process has said, before lines of its own
        _joined.abort(code)


def wait_for_rank_0() -> None:
    """Leave the ranks below the time to say first what all have met, and to end all: so it is said once."""
    launch = find_launch()
    if launch and launch.rank > 0:
        time.sleep(1.0 + min(3.0, 0.3 * (launch.rank - 1)))  # each its own time


def is_first_of_host() -> bool:
    """Return whether this process is the first of its host, as far as a launcher has said."""
    launch = find_launch()
    return not (launch and launch.local_rank)


def those_that_differ(communicator: Communicator, content: Any) -> list[int]:
    """Return the ranks whose content is not rank 0's; all ranks learn of them."""
    first, *others = communicator.gather(content)
    return [rank for rank, other in enumerate(others, start=1) if other != first]


def part_of(n: int, communicator: Communicator) -> slice:
    """Return which of n rows are a rank's: contiguous parts, as even as can be, the first ones one row longer."""
    size, rank = communicator.size, communicator.rank
    share, rest = divmod(n, size)
    first = rank * share + min(rank, rest)
    return slice(first, first + share + (rank < rest))
