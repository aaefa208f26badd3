"""CuPy, on NVIDIA's GPUs."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

import numpy as np

from xpmlp.backends._driver import Driver, ask_driver
from xpmlp.backends.base import CPU_WAY_OUT, Backend, Copier, Step
from xpmlp.errors import BackendError

try:
    import cupy
    import cupyx
    from array_api_compat import cupy as xp
    from cupy import _core  # no public function tells whether products use TF32
except ImportError as error:
    driver, missing = ask_driver(), f"CuPy cannot be imported ({str(error).splitlines()[0]})"
    if driver.problem:  # an installed CuPy does not help without them
        missing = f"{driver.problem}, and {missing}: {driver.remedy}, then"
    else:
        missing += ":"
    raise BackendError(f"{missing} pip install 'xpmlp[{driver.extra}]', {CPU_WAY_OUT}") from None


_STAGED = 1 << 24
"""Arrays up to so many bytes go through page-locked memory, which CuPy's pool keeps for later ones."""


class CupyBackend(Backend):
    """CuPy's arrays: ``cupy`` is the first GPU, ``cupy:1`` the second. The thread's current GPU stays current."""

    name = library = "cupy"
    namespace = xp
    out_of_memory = ("ALLOC_FAILED", "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY")  # cuBLAS's, CUDA's

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        index = device or "0"
        if not index.isdecimal():
            raise BackendError(f"cupy has no device {device!r}: expected a number, such as cupy:0")
        problem = _problem(int(index), ask_driver(), cupy.cuda.runtime.runtimeGetVersion() // 1000)
        if problem:
            raise BackendError(f"cupy cannot run: {problem}, {CPU_WAY_OUT}")
        self.device = cupy.cuda.Device(int(index))

    @classmethod
    def devices(cls) -> tuple[str | None, ...]:
        return (None, *map(str, range(1, ask_driver().devices)))

    @property
    def spec(self) -> str:
        return f"cupy:{self.device.id}"

    def __str__(self) -> str:
        return f"cupy on cuda:{self.device.id}"

    def _put(self, array: np.ndarray) -> Any:
        """CuPy may still be reading the array, if it is pinned memory without a copy."""
        with self.context():
            if array.nbytes <= _STAGED:
                return cupy.asarray(array, order="C")
            moved = cupy.empty(array.shape, array.dtype)
            moved.set(array)
            return moved

    def _fetch(self, array: Any) -> np.ndarray:
        return np.asarray(cupy.asnumpy(array, order="C"))

    def context(self) -> AbstractContextManager[Any]:
        """Return a context in which the GPU is the thread's current one: CuPy's default device.

        Each call returns a new object, since several threads enter it at once.
        """
        return cupy.cuda.Device(self.device.id)  # type: ignore[no-any-return]

    def compile(self, step: Step, *, donate: Sequence[int] = ()) -> Step:
        @wraps(step)
        def on_device(*arguments: Any) -> Any:
            with self.context():
                return step(*arguments)

        return on_device  # type: ignore[return-value]

    def use_tf32(self) -> None:
        """Let cuBLAS use TF32 for float32, like CUPY_TF32=1 in the environment; never run on a GPU so far."""
        if int(self.device.compute_capability) < 80:
            super().use_tf32()
        with self.context():
            _core.set_compute_type(np.float32, _core._routines_linalg.COMPUTE_TYPE_TF32)

    def copier(self) -> Copier:
        return _PinnedCopier(self)

    def synchronize(self) -> None:
        self.device.synchronize()

    def free_memory(self) -> int | None:
        """Return the free bytes, including unused memory in CuPy's pool."""
        with self.context():
            return int(self.device.mem_info[0]) + int(cupy.get_default_memory_pool().free_bytes())

    def describe(self) -> dict[str, str]:
        name = cupy.cuda.runtime.getDeviceProperties(self.device.id)["name"].decode()
        deciding = ("CUPY_TF32", "NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION")
        settings = " ".join(f"{setting}={os.environ.get(setting, 'unset')}" for setting in deciding)
        chosen = _core.get_compute_type(np.float32)
        precision = "TF32" if chosen == _core._routines_linalg.COMPUTE_TYPE_TF32 else "float32"
        device = f"{name} (cuda:{self.device.id})"
        return {"version": cupy.__version__, "device": device, "products": f"cuBLAS in {precision}, {settings}"}


class _PinnedCopier(Copier):
    """Copies from page-locked memory on its own stream, while the caller's current stream computes.

    Device buffers are allocated outside of the copying stream. CuPy's pool returns a block to the stream that was
    current at its allocation, even if another stream still reads it.
    """

    reuses_buffers = True

    def __init__(self, backend: CupyBackend) -> None:
        super().__init__(backend)
        with backend.context():
            self._stream = cupy.cuda.Stream(non_blocking=True)

    def host_buffer(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return page-locked memory: only this is copied while the host continues."""
        with self.backend.context():
            return np.asarray(cupyx.empty_pinned(shape, dtype))

    def device_buffer(self, host: np.ndarray) -> Any:
        with self.backend.context():
            return cupy.empty(host.shape, host.dtype)

    def copy(self, host: np.ndarray, device: Any, n: int) -> Any:
        rows = device[:n]
        rows.set(host[:n], stream=self._stream)
        return rows

    def event(self) -> Any:
        """Return an event that the host waits for without spinning."""
        with self.backend.context():
            return cupy.cuda.Event(block=True, disable_timing=True)

    def record_copied(self, event: Any) -> None:
        self._stream.record(event)

    def record_used(self, event: Any) -> None:
        with self.backend.context():
            cupy.cuda.get_current_stream().record(event)

    def copying_waits_for(self, event: Any) -> None:
        self._stream.wait_event(event)

    def computing_waits_for(self, event: Any) -> None:
        with self.backend.context():
            cupy.cuda.get_current_stream().wait_event(event)

    def host_waits_for(self, event: Any) -> None:
        event.synchronize()

    def finish(self) -> None:
        self._stream.synchronize()


def _problem(index: int, driver: Driver, wheel: int) -> str | None:
    """Return why CuPy cannot run on a GPU, and the remedy; None if it can.

    ``cupy.is_available()`` only counts devices, so this runs one kernel and one product. They need the run-time
    compiler, the runtime's headers, cuBLAS, and a wheel for this GPU's architecture. `wheel` is the major version of
    CUDA that CuPy was built for.
    """
    if driver.problem:
        return f"{driver.problem}; {driver.remedy}"
    if index >= driver.devices:
        return f"GPU {index} was asked for and the driver sees {driver.devices}; write cupy:0"
    if driver.version // 1000 < wheel:
        found = f"the driver knows CUDA {driver.version // 1000}, CuPy's wheel needs CUDA {wheel}"
        if driver.version < 12000:
            return f"{found}; install a newer driver (580 or newer for the extra cuda13, 525 for cuda12)"
        return f"{found}; pip uninstall cupy-cuda{wheel}x and pip install 'xpmlp[{driver.extra}]'"
    try:
        with cupy.cuda.Device(index):
            x = cupy.arange(6, dtype=cupy.float32).reshape(2, 3) + 0.0
            total = float((x @ x.T).sum())
    except MemoryError as error:
        return f"GPU {index} has no memory left ({str(error).splitlines()[0]}); end what else runs on it"
    except OSError as error:
        return f"{error}; CuPy keeps its compiled kernels there: let CUPY_CACHE_DIR name a folder that can be written"
    except (ImportError, RuntimeError, cupy.cuda.compiler.CompileException) as error:
        found = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return f"{found}; CUDA's parts are missing or do not fit this GPU: pip install 'xpmlp[{driver.extra}]'"
    return None if total == 83.0 else f"a product on GPU {index} gave {total} and should have given 83.0"
