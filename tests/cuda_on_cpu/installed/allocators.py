"""Allocators for CuPy's arrays, instead of its pool, which cuts many arrays from one block of the device's memory.

CUDA_ON_CPU_ALLOCATOR=each|stream sets one as soon as CuPy is imported. With both, an array is all of an allocation, so
that CUDA_ON_CPU_CHECKED finds what is read or written beside it.
"""

import collections
import contextlib
import sys

import cupy
from cupy.cuda import MemoryPointer, UnownedMemory, runtime


def use(name):
    """Set the allocator of this process: `each`, `stream`, or CuPy's `pool`."""
    if name == "each":
        cupy.cuda.set_allocator(None)  # cudaMalloc, and cudaFree, which waits for the device
    elif name == "stream":
        cupy.cuda.set_allocator(StreamOrdered().malloc)
    elif name == "pool":
        cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
    else:
        raise ValueError(f"CUDA_ON_CPU_ALLOCATOR={name}: expected each, stream or pool")


class StreamOrdered:
    """Hands a block out again as soon as Python has let it go, to the stream that was current when it was taken.

    So does CuPy's pool, and nothing waits: what another stream has queued may still read or write the block. Here it is
    filled with NaN in the stream's order, and the next array of that size has it.
    """

    def __init__(self):
        self._idle = collections.defaultdict(list)

    def malloc(self, size):
        """Return a block for an array of so many bytes."""
        place = cupy.cuda.Device().id, cupy.cuda.get_current_stream().ptr, size
        try:
            pointer = self._idle[place].pop()
        except IndexError:
            pointer = self._allocate(*place)
        return MemoryPointer(UnownedMemory(pointer, size, _Loan(self, pointer, place)), 0)

    def _allocate(self, device, stream, size):
        try:
            return runtime.malloc(size)
        except runtime.CUDARuntimeError:
            for (where, _, _), pointers in list(self._idle.items()):
                while where == device and pointers:
                    runtime.free(pointers.pop())
        try:
            return runtime.malloc(size)
        except runtime.CUDARuntimeError:
            raise cupy.cuda.memory.OutOfMemoryError(size, 0) from None

    def give_back(self, pointer, place):
        """Overwrite a block, and keep it for the next array."""
        device, stream, size = place
        with contextlib.suppress(runtime.CUDARuntimeError), cupy.cuda.Device(device):  # the stream may have gone
            runtime.memsetAsync(pointer, 0xFF, size, stream)
        self._idle[place].append(pointer)


class _Loan:
    """A block as long as an array has it."""

    def __init__(self, allocator, pointer, place):
        self.allocator, self.pointer, self.place = allocator, pointer, place

    def __del__(self):
        if not sys.is_finalizing():
            self.allocator.give_back(self.pointer, self.place)
