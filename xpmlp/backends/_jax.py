"""JAX, on whatever device it runs."""

import os
import sys
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from xpmlp.backends._malloc import keep_freed_memory
from xpmlp.backends.base import CPU_WAY_OUT, Backend, Step, free_host_memory, host_array
from xpmlp.errors import ArrayError, BackendError

_MEMORY_SETTINGS = (
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)
if "jax" not in sys.modules and not any(setting in os.environ for setting in _MEMORY_SETTINGS):
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # else JAX takes three quarters of the GPU's memory

try:
    import jax
except ImportError:
    raise BackendError(f"JAX is not installed: pip install 'xpmlp[jax]', {CPU_WAY_OUT}") from None


class JaxBackend(Backend):
    """JAX's arrays; ``jax`` alone is its default device, ``jax:gpu`` or ``jax:cpu:0`` a given one.

    Two of JAX's global settings are changed: products of float32 run in float32 (`jax_default_matmul_precision`
    becomes ``highest``, unless the user has set it; JAX's default on recent GPUs is TF32), and `dtype="float64"`
    switches `jax_enable_x64` on.
    """

    name = "jax"
    library = "jax"

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        if dtype == "float64":
            jax.config.update("jax_enable_x64", True)
        if jax.config.jax_default_matmul_precision is None:
            jax.config.update("jax_default_matmul_precision", "highest")
        platform, _, index = (device or "").partition(":")
        try:
            devices = jax.devices(platform or None)
            self.device = devices[int(index or 0)]
        except (RuntimeError, ValueError, IndexError) as error:
            raise BackendError(
                f"jax cannot run on {device!r}: {str(error).splitlines()[0]}; "
                f"install a JAX build for that device (pip install 'jax[cuda13]' for NVIDIA's), {CPU_WAY_OUT}"
            ) from None
        self.namespace = jax.numpy

    @classmethod
    def devices(cls) -> tuple[str | None, ...]:
        """Return the devices that a listing tries."""
        return (None, "gpu")

    @classmethod
    def of(cls, array: Any) -> Self:
        """Return the backend of the array's device, the first of them where there are several."""
        device = min(array.devices(), key=lambda device: device.id)
        return cls(f"{device.platform}:{jax.devices(device.platform).index(device)}")

    def asarray(self, host: Any, *, copy: bool | None = None) -> Any:
        """Return an array on the device; on the CPU it may share the host's memory unless `copy` is true.

        Raises
        ------
        ArrayError
            If JAX would narrow the array, which it does silently to 64-bit types unless x64 is on.
        """
        array = host_array(host, copy=copy)
        try:
            narrowed = jax.dtypes.canonicalize_dtype(array.dtype)
            if narrowed != array.dtype:
                raise ArrayError(
                    f"JAX would narrow {array.dtype} to {narrowed}: cast it first, or switch JAX's 64-bit types on "
                    'with get_backend("jax", dtype="float64")'
                )
            return jax.device_put(array, self.device)
        except ArrayError:
            raise
        except TypeError as error:
            raise ArrayError(f"JAX takes no {array.dtype}: {error}") from None

    def to_numpy(self, array: Any) -> np.ndarray:
        """Return a copy on the host."""
        self._require_own(array)
        return np.array(array, order="C")

    def compile(self, step: Step, *, donate: Sequence[int] = ()) -> Step:
        """Return ``jax.jit`` of the step, with the buffers that are handed over reused for its results."""
        if self.device.platform == "cpu":
            keep_freed_memory()
        compiled: Step = jax.jit(step, donate_argnums=tuple(donate))
        return compiled

    def use_tf32(self) -> None:
        """Set JAX's default for products to ``tensorfloat32``."""
        if self.device.platform != "gpu":
            super().use_tf32()
        jax.config.update("jax_default_matmul_precision", "tensorfloat32")

    def synchronize(self) -> None:
        """Wait for every array that is still being computed."""
        for array in jax.live_arrays():
            array.block_until_ready()

    def free_memory(self) -> int | None:
        """Return what the device's allocator may still take, None where it does not say."""
        if self.device.platform == "cpu":
            return free_host_memory()
        stats = self.device.memory_stats() or {}
        if "bytes_limit" not in stats:
            return None
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Return whether it is XLA's error for that."""
        if isinstance(error, MemoryError):
            return True
        return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)

    def describe(self) -> dict[str, str]:
        """Return JAX's version, the device, and the precision of its float32 products."""
        return {
            "version": jax.__version__,
            "device": str(self.device)
            if self.device.platform == "cpu"
            else f"{self.device.device_kind} ({self.device})",
            "products": f"float32 at {jax.config.jax_default_matmul_precision!r} "
            "(JAX_DEFAULT_MATMUL_PRECISION, NVIDIA_TF32_OVERRIDE)",
        }
