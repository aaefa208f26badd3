"""NCCL, through CuPy: sums of arrays on GPUs, one GPU per rank, queued behind the work that makes them.

It has never been run: no machine with two GPUs was at hand.
"""

import os
import sys
import threading
import warnings
from typing import Any

import cupy

from xpmlp.communication import Communicator
from xpmlp.errors import CommunicationError

with warnings.catch_warnings():  # CuPy's message has many lines if NCCL is missing; ours has one
    warnings.simplefilter("ignore")
    from cupy.cuda import nccl

WATCH_INTERVAL = 2.0
"""Seconds between two checks that NCCL still reaches all ranks."""


class NcclCommunicator(Communicator):
    """The ranks of an MPI launch: sums go from GPU to GPU, all else through MPI on the host."""

    library = "cupy"
    stop_poll_interval = 16

    def __init__(self, host: Communicator) -> None:
        if not nccl.available:
            raise CommunicationError(
                f"{host.size} ranks on GPUs, and NCCL is missing: pip install 'xpmlp[nccl]' "
                "(for CUDA 12: pip install nvidia-nccl-cu12)"
            )
        self._host = host
        self.rank, self.size, self.hosts, self.cores = host.rank, host.size, host.hosts, host.cores
        self.local_rank, self.local_size = host.local_rank, host.local_size
        self.broadcast, self.gather = host.broadcast, host.gather  # type: ignore[method-assign]
        self.barrier, self.abort = host.barrier, host.abort  # type: ignore[method-assign]
        identity = host.broadcast(nccl.get_unique_id() if host.rank == 0 else None)
        try:
            self._ranks = nccl.NcclCommunicator(host.size, identity, host.rank)
        except nccl.NcclError as error:
            raise CommunicationError(f"NCCL cannot join rank {host.rank}: {str(error).splitlines()[0]}") from None
        self._has_left = threading.Event()
        self._watch = threading.Thread(target=self._end_where_lost, name="xpmlp-nccl", daemon=True)
        self._watch.start()
        version = nccl.get_version()
        self.engine = f"NCCL {version // 10000}.{version // 100 % 100}.{version % 100}, {host.engine}"

    def sum(self, vector: Any) -> Any:
        """Queue the sum behind the work that makes the vector; return the vector, which later holds the sum."""
        kinds = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}
        pointer, stream = vector.data.ptr, cupy.cuda.get_current_stream().ptr
        try:
            self._ranks.allReduce(pointer, pointer, vector.size, kinds[vector.dtype.name], nccl.NCCL_SUM, stream)
        except nccl.NcclError as error:
            raise CommunicationError(_lost(self.rank, error)) from None
        return vector

    def _end_where_lost(self) -> None:
        """End this process, and so the launch, once NCCL reports an error: queued sums would never end."""
        while not self._has_left.wait(WATCH_INTERVAL):
            try:
                self._ranks.check_async_error()
            except nccl.NcclError as error:
                sys.stderr.write(f"xpmlp: {_lost(self.rank, error)}\n")
                sys.stderr.flush()
                os._exit(2)  # the main thread waits for the GPU, and only it may call MPI

    def leave(self) -> None:
        self._has_left.set()
        self._watch.join()
        self._ranks.destroy()
        self._host.leave()


def _lost(rank: int, error: Exception) -> str:
    problem = str(error).splitlines()[0]
    return f"NCCL on rank {rank} no longer reaches the others ({problem}): --resume continues from the last checkpoint"
