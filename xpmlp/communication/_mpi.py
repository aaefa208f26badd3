"""MPI, through mpi4py: sums of NumPy's arrays."""

import sys
import warnings
from typing import Any

import numpy as np

from xpmlp.communication import Communicator, usable_cores
from xpmlp.errors import JoiningError

_was_running = "mpi4py.MPI" in sys.modules
"""Whether the user's own program started MPI. Then that program must end it."""

try:
    import mpi4py

    if not _was_running:
        # If a process ends without finalising MPI, the launcher regards it as failed and ends the others. Finalising at
        # exit, as usual, would wait for ranks that wait for this one.
        mpi4py.rc.finalize = False
        mpi4py.rc.thread_level = "funneled"  # the loader's thread does not call MPI
    with warnings.catch_warnings():  # mpi4py's message about an MPI that is not the launcher's; ours is one line
        warnings.filterwarnings("ignore", "suspicious MPI execution environment", RuntimeWarning)
        from mpi4py import MPI
except (ImportError, RuntimeError) as error:
    raise JoiningError(
        f"an MPI launcher has started this process, and mpi4py cannot be imported ({str(error).splitlines()[0]}): "
        "pip install 'xpmlp[mpi]', or --distributed off for a run of one process"
    ) from None


class MpiCommunicator(Communicator):
    """All ranks of one launch."""

    library = "numpy"

    def __init__(self) -> None:
        self._world = MPI.COMM_WORLD
        local = self._world.Split_type(MPI.COMM_TYPE_SHARED)
        self.rank, self.size = self._world.Get_rank(), self._world.Get_size()
        self.local_rank, self.local_size = local.Get_rank(), local.Get_size()
        self.cores = len(set().union(*local.allgather(usable_cores())))
        self.hosts = self._world.allreduce(int(self.local_rank == 0))
        local.Free()
        name, version = MPI.get_vendor()
        self.engine = f"{name} {'.'.join(map(str, version))}, mpi4py {mpi4py.__version__}"

    def sum(self, vector: np.ndarray) -> np.ndarray:
        self._world.Allreduce(MPI.IN_PLACE, vector)
        return vector

    def broadcast(self, content: Any) -> Any:
        return self._world.bcast(content)

    def gather(self, content: Any) -> list[Any]:
        return list(self._world.allgather(content))

    def barrier(self) -> None:
        self._world.Barrier()

    def leave(self) -> None:
        self._world.Barrier()
        if not _was_running:
            MPI.Finalize()

    def abort(self, code: int) -> None:
        self._world.Abort(code)  # the launcher reports it in its own lines
