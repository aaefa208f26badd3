"""What was asked of the emulated devices, and in which order it is done."""

import contextlib
import ctypes
import os
from typing import NamedTuple


class Counts(NamedTuple):
    """How often each was asked for, or how many bytes; see device.h."""

    kernels: int
    library_calls: int
    fills: int
    copies_to_device: int
    copies_to_host: int
    copies_on_device: int
    bytes_to_device: int
    bytes_to_host: int
    bytes_on_device: int
    waits: int

    def __sub__(self, other):
        return Counts(*(one - another for one, another in zip(self, other, strict=True)))


def count():
    """Return what was asked in this process so far."""
    numbers = (ctypes.c_uint64 * len(Counts._fields))()
    _library().emu_count(numbers)
    return Counts(*numbers)


def interleave(seed):
    """Let what is queued from now on be done in an order that a seed decides, as far as CUDA leaves it open.

    0: as CUDA_ON_CPU_MODE says.
    """
    _library().emu_interleave(ctypes.c_uint64(seed))


@contextlib.contextmanager
def on_host(*pointers):
    """Let the host touch the devices' memory that pointers point to, which CUDA_ON_CPU_CHECKED keeps from it."""
    library, opened = _library(), []
    try:
        for pointer in filter(None, pointers):
            if library.emu_open(ctypes.c_void_p(pointer)):
                raise ValueError(f"{pointer:#x} points into no memory of a device, or into memory that was freed")
            opened.append(pointer)
        yield
    finally:
        for pointer in opened:
            library.emu_close(ctypes.c_void_p(pointer))


def _library():
    return ctypes.CDLL(os.path.join(os.path.dirname(os.path.abspath(__file__)), "lib", "libcuda.so.1"))
