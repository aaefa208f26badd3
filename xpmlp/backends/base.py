"""The interface of an array library for training, and the common parts on the host."""

import ctypes
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, cast

import numpy as np

from xpmlp.errors import ArrayError, BackendError

Step = TypeVar("Step", bound=Callable[..., Any])

CPU_WAY_OUT = "or --backend auto to train on the CPU"
"""The end of every message that refuses a named backend."""


class Backend(ABC):
    """One array library on one device.

    The table of `xpmlp.backends` registers a subclass under the name that users write. Another package registers one
    under the entry-point group ``xpmlp.backends``. Only `asarray` and `to_numpy` move data between host and device.

    Parameters
    ----------
    device : str or None
        The part after the colon in ``torch:cuda``; None if there is none.
    dtype : {"float32", "float64"} or None
        The dtype of the caller's computation, for a library that must know it (JAX). None changes nothing.

    Raises
    ------
    BackendError
        If the library or device cannot run here. The message is one line: what is missing, and the command that
        installs it.
    """

    name: ClassVar[str]
    """The library's name, as users write it."""
    library: ClassVar[str]
    """The top-level package of its arrays' types."""
    out_of_memory: ClassVar[tuple[str, ...]] = ()
    """Texts of its RuntimeErrors that mean exhausted memory, besides Python's MemoryError."""
    further_devices: ClassVar[tuple[str, ...]] = ()
    """Further devices that a listing tries."""
    run_length: ClassVar[int] = 1
    """The number of steps that `repeat` makes in one call."""
    namespace: Any
    """The Array API namespace that its arrays are computed with."""
    device: Any
    """The device of its arrays, in the library's terms."""
    note: str = ""
    """Why `get_backend` chose it, if the user left the choice open."""

    @abstractmethod
    def __init__(self, device: str | None = None, dtype: str | None = None) -> None: ...

    @classmethod
    def of(cls, array: Any) -> Self:
        """Return the backend that an array of this library is on."""
        backend = cls.__new__(cls)  # without __init__'s trial: the array is there, so its device runs
        backend.device = array.device
        return backend

    @classmethod
    def devices(cls) -> tuple[str | None, ...]:
        """Return the devices that a listing tries, as users write them; None is the library's own."""
        return (None, *cls.further_devices)

    def asarray(self, host: Any, *, copy: bool | None = None) -> Any:
        """Return an array, number or nested list of the host as an array on the device.

        Values, dtype and shape stay as they are; byte order, strides and write protection become the ordinary ones.

        Parameters
        ----------
        host : numpy.ndarray, number or nested list
            The data to move.
        copy : bool or None
            True: the result has its own memory. None: it may share the host's memory, so neither side may be written.

        Raises
        ------
        ArrayError
            If the library has no such dtype, or would narrow it, or `host` is another library's array.
        """
        array = host_array(host, copy=copy)
        try:
            return self._put(array)
        except ArrayError:
            raise
        except (TypeError, ValueError) as error:
            raise ArrayError(f"{self.name} takes no {array.dtype}: {error}") from None

    def to_numpy(self, array: Any) -> np.ndarray:
        """Return a copy on the host, C-contiguous and writable, of an array of this library.

        Raises
        ------
        ArrayError
            If the array is another library's.
        """
        found = type(array).__module__.partition(".")[0]
        if found not in (self.library, f"{self.library}lib"):
            raise ArrayError(
                f"{self.name} was handed a {type(array).__name__} of {found}: use backend_of(array).to_numpy(array)"
            )
        return self._fetch(array)

    def _put(self, array: np.ndarray) -> Any:
        """Return an ordinary array on the device; here it is on the device already."""
        return array

    def _fetch(self, array: Any) -> np.ndarray:
        """Return a C-contiguous copy on the host; here NumPy can read the library's array."""
        return np.array(array, order="C")

    @classmethod
    def own_process(cls, dtype: str | None = None) -> None:
        """Set for the whole process what a dtype needs; for programs that own the process, such as a command."""

    def dtypes(self, kind: str | None = None) -> Mapping[str, Any]:
        """Return the dtypes that the library has on the device, of one of the standard's kinds, by their names."""
        found = self.namespace.__array_namespace_info__().dtypes(device=self.device, kind=kind)
        return cast(Mapping[str, Any], found)

    def require(self, dtype: str | None) -> None:
        """Refuse a dtype that the library lacks on the device, or has not enabled yet.

        Raises
        ------
        BackendError
            If the dtype is missing.
        """
        if dtype is not None and dtype not in self.dtypes():
            raise BackendError(f"{self} has no {dtype}: take float32, {CPU_WAY_OUT}")

    def context(self) -> AbstractContextManager[Any]:
        """Return the context to compute on the device, for libraries with a current device."""
        return nullcontext()

    def compile(self, step: Step, *, donate: Sequence[int] = ()) -> Step:
        """Return the fastest form of a repeated step; here, the step itself.

        Parameters
        ----------
        step : callable
            A function of arrays, and of dictionaries, tuples and Python floats.
        donate : sequence of int
            The positions of the arguments that may be overwritten: the caller does not use them afterwards.
        """
        return step

    def repeat(self, step: Callable[..., Any], carry: Any, inputs: Iterable[tuple[Any, ...]]) -> Any:
        """Return the carry after a run of a compiled step, one step per input. The given carry may be overwritten."""
        for each in inputs:
            carry = step(*carry, *each)
        return carry

    def use_tf32(self) -> None:
        """Let products of float32 run in TF32, a precision that some GPUs have; refuse it elsewhere."""
        raise BackendError(
            f"{self} has no TF32, a precision of NVIDIA's GPUs since Ampere: leave the precision tf32 out"
        )

    def synchronize(self) -> None:
        """Wait until the device has finished all queued work."""

    def free_memory(self) -> int | None:
        """Return the device's free memory in bytes; None if unknown."""
        return free_host_memory()

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether an error says that memory ran out."""
        if isinstance(error, MemoryError):
            return True
        return isinstance(error, RuntimeError) and any(words in str(error) for words in self.out_of_memory)

    def copier(self) -> "Copier":
        """Return the copier for a stream of batches to the device."""
        return Copier(self)

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Return the library's version, the device, and the setting of the products' precision."""

    @property
    def spec(self) -> str:
        """The argument of `get_backend` for the same library and device."""
        return f"{self.name}:{self.device}"

    def __repr__(self) -> str:
        return f"<xpmlp backend {self}>"

    def __str__(self) -> str:
        return f"{self.name} on {self.device}"


class Copier:
    """Manages staging buffers on the host, buffers on the device, and the order of copies between them.

    The model of the device's work has two queues, one for copies and one for computing, each in its own order. An event
    is recorded in one queue; the other queue or the host waits for it. Nothing waits for an event that was never
    recorded. This class is for libraries without queues: each copy makes a new array and is complete when it returns.
    NumPy and CuPy have their own copiers.
    """

    reuses_buffers = False
    """Whether later batches are copied into a batch's device buffer."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def host_buffer(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return a new staging buffer."""
        return np.empty(shape, dtype)

    def device_buffer(self, host: np.ndarray) -> Any:
        """Return a new buffer on the device for a staging buffer's copies, or None if each makes its own."""
        return None

    def copy(self, host: np.ndarray, device: Any, n: int) -> Any:
        """Queue a copy of a staging buffer's first n rows, and return the array on the device."""
        return self.backend.asarray(host[:n], copy=True)

    def event(self) -> Any:
        """Return a new event."""
        return None

    def record_copied(self, event: Any) -> None:
        """Record an event behind all copies that are queued."""

    def record_used(self, event: Any) -> None:
        """Record an event behind all computing that is queued."""

    def copying_waits_for(self, event: Any) -> None:
        """Let the copies that are queued from now on wait for an event."""

    def computing_waits_for(self, event: Any) -> None:
        """Let the computing that is queued from now on wait for an event."""

    def host_waits_for(self, event: Any) -> None:
        """Return when an event has happened."""

    def finish(self) -> None:
        """Return when all copies are over."""


@contextmanager
def computing(backend: Backend, batch_size: int) -> Iterator[None]:
    """Compute on the backend's device; say what to do if its memory runs out."""
    _free_a_large_block()
    try:
        with backend.context(), np.errstate(all="ignore"):  # what diverges is found by its loss, on every library
            yield
    except Exception as error:
        if not backend.is_out_of_memory(error):
            raise
        raise BackendError(
            f"{backend} ran out of memory with batch size {batch_size}: "
            f"try a smaller one, such as {max(1, batch_size // 2)}, or narrower layers"
        ) from error


def host_array(host: Any, *, copy: bool | None = None) -> np.ndarray:
    """Return the ordinary form of what lies on the host: C-contiguous, of native byte order, writable."""
    if not isinstance(host, np.ndarray | np.generic | bool | int | float | complex | list | tuple):
        found = type(host).__module__.partition(".")[0]
        raise ArrayError(
            f"asarray takes what is on the host, not a {type(host).__name__} of {found}: "
            "move it with backend_of(array).to_numpy(array) first"
        )
    array = np.asarray(host)
    if array.dtype.kind not in "biufc":
        raise ArrayError(f"asarray takes numbers, not {array.dtype}")
    array = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    return array.copy(order="C") if copy or not array.flags.writeable else array


def free_host_memory() -> int | None:
    """Return how many bytes a new allocation on the host can have; None if unknown."""
    if sys.platform == "linux":
        known = []
        try:
            for line in Path("/proc/meminfo").read_text().splitlines():
                if line.startswith("MemAvailable:"):
                    known.append(int(line.split()[1]) * 1024)
            limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
            used = Path("/sys/fs/cgroup/memory.current").read_text()
            if limit.isdecimal():
                known.append(max(0, int(limit) - int(used)))  # a container's, which the machine's own hides
        except OSError:
            pass
        return min(known, default=None)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # all of it: an upper bound
    except (AttributeError, ValueError, OSError):
        return None


@cache
def _free_a_large_block() -> None:
    """Allocate and free memory, which makes glibc's allocator keep blocks up to that size.

    glibc returns a freed block to the system, unless an equally large one was freed before (mallopt(3),
    M_MMAP_THRESHOLD). The system clears each page that it gives out, which takes half the time of a step of
    784-256-128-10. Once per process is enough, and it changes no setting.
    """
    with suppress(MemoryError):  # what is short of it is found where it is needed
        np.empty(31 << 20, np.uint8)  # glibc learns up to 32 MB


def keep_freed_memory() -> None:
    """Let glibc's allocator keep more of what a training step frees, in the whole process.

    With another C library it does nothing, and values that the user set in the environment stay.
    """
    settings = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
    if not sys.platform.startswith("linux") or any(name in os.environ for name in settings):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
    mallopt(M_MMAP_THRESHOLD, 32 << 20)  # arrays up to here come from the kept memory; glibc allows no more
    mallopt(M_TRIM_THRESHOLD, 256 << 20)  # so many bytes may lie free before the system gets them back


def format_bytes(count: float) -> str:
    """Return a number of bytes as people read it, such as 1.5 GB."""
    units = ["bytes", "kB", "MB", "GB", "TB", "PB", "EB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.3g} {units[0]}"
