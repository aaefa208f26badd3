"""One model on many processes: how a rank joins the others, and communicates by MPI or NCCL.

MPI sums arrays on the host, NCCL sums arrays on GPUs. This package opens no connection itself. The math, its kernels
and the backends do not depend on it. A process that no MPI launcher started is alone and costs nothing: neither mpi4py
nor CuPy is imported.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any, NamedTuple

from xpmlp.errors import ConfigError, JoiningError, expected_one_of

WAYS = ("auto", "off", "mpi")
"""The ways to join a process to others."""

_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")
_RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "MV2_COMM_WORLD_RANK")
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "MV2_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
"""The variables that the launchers of Open MPI, MPICH, Intel and Slurm set for a process."""


class Communicator:
    """The ranks of one launch, seen from one of them. The base class is the view of a single rank.

    All ranks call every method except `abort`, in the same order.
    """

    rank: int = 0
    """The rank's number, from 0."""
    size: int = 1
    """The number of ranks."""
    local_rank: int = 0
    """The rank's number on its host."""
    local_size: int = 1
    """The number of ranks on its host."""
    hosts: int = 1
    """The number of hosts."""
    engine: str | None = None
    """The library that communicates, and its version; None for a single rank."""
    library: str | None = None
    """The library whose arrays `sum` takes; None if it takes any."""
    stop_poll_interval: int = 1
    """The host reads a sum after so many steps; on a GPU, reading waits for the sum."""

    @cached_property
    def cores(self) -> int:
        """The number of processor cores that all ranks of its host may use together."""
        return len(usable_cores())

    def sum(self, vector: Any) -> Any:
        """Return the sum of the ranks' vectors, with the same bits on all ranks. The vector may be overwritten."""
        return vector

    def broadcast(self, content: Any) -> Any:
        """Return rank 0's content on all ranks."""
        return content

    def gather(self, content: Any) -> list[Any]:
        """Return every rank's content, in order, on all ranks."""
        return [content]

    def barrier(self) -> None:
        """Return when all ranks have called this."""

    def leave(self) -> None:
        """Return when all ranks have called this; then each may continue and end alone."""

    def abort(self, code: int) -> None:
        """End all ranks at once; a single rank ends by itself."""


class SingleRank(Communicator):
    """A single process: its sums are its arguments, and it waits for nothing."""


def usable_cores() -> set[int]:
    """Return the processor cores that this process may use; a launcher may have bound it to some."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


class Launch(NamedTuple):
    """The information that an MPI launcher gives to a process."""

    rank: int
    size: int | None
    """The number of ranks; None if unknown."""
    local_rank: int | None = None
    """The rank's number on its host; None if unknown."""


_joined: Communicator | None = None
"""The ranks that this process has joined and not left: if it ends, all of them end."""


def find_launch(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """Return an MPI launcher's information; None if no launcher started this process."""

    def first(names: Sequence[str]) -> int | None:
        return next((int(environment[name]) for name in names if environment.get(name, "").isdecimal()), None)

    rank, size = first(_RANKS), first(_SIZES)
    if rank is None and size is None:
        return None
    return Launch(rank or 0, size, first(_LOCAL_RANKS))


def join(way: str = "auto") -> Communicator:
    """Join the ranks that were started together with this one.

    Parameters
    ----------
    way : {"auto", "off", "mpi"}
        ``auto``: join all ranks of an MPI launch, if it has more than one. ``off``: join none. ``mpi``: join all, even
        a single one; it is an error if no launcher started this process.

    Raises
    ------
    ConfigError
        If the way is unknown, or ``mpi`` has no launcher.
    JoiningError
        If a launcher started ranks that do not find each other.
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
    """Return a communicator of the same ranks that sums CuPy's arrays, each rank on the GPU of a context."""
    if communicator.size == 1:
        return communicator
    global _joined
    from xpmlp.communication._nccl import NcclCommunicator

    with context():  # NCCL uses the current GPU
        _joined = NcclCommunicator(communicator)
    return _joined


def leave() -> None:
    """Wait until all ranks have called this, then continue alone."""
    global _joined
    if _joined:
        _joined.leave()
        _joined = None


def abort(code: int) -> None:
    """End all ranks that this process has joined; do nothing if it is alone or has left them."""
    if _joined:
        time.sleep(0.2)  # the launcher prints this process's output before its own lines
        _joined.abort(code)


def wait_for_rank_0() -> None:
    """Give lower ranks the time to report a common problem first and to end all ranks: so it is printed once."""
    launch = find_launch()
    if launch and launch.rank > 0:
        time.sleep(1.0 + min(3.0, 0.3 * (launch.rank - 1)))  # each rank has its own time


def is_first_of_host() -> bool:
    """Return whether this process is the first on its host, as far as a launcher says."""
    launch = find_launch()
    return not (launch and launch.local_rank)


def those_that_differ(communicator: Communicator, content: Any) -> list[int]:
    """Return the ranks with other content than rank 0; all ranks get the same answer."""
    first, *others = communicator.gather(content)
    return [rank for rank, other in enumerate(others, start=1) if other != first]


def part_of(n: int, communicator: Communicator) -> slice:
    """Return a rank's part of n rows. Parts are contiguous and even; the first ones may be one row longer."""
    size, rank = communicator.size, communicator.rank
    share, rest = divmod(n, size)
    first = rank * share + min(rank, rest)
    return slice(first, first + share + (rank < rest))
