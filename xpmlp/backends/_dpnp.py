"""dpnp, on Intel's GPUs and on CPUs, by SYCL."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from xpmlp.backends.base import CPU_WAY_OUT, Backend, free_host_memory
from xpmlp.errors import BackendError

_VARIABLE = "OCL_ICD_FILENAMES"
_CPU_DRIVER = Path(sys.prefix) / "lib" / "libintelocl.so"
"""OpenCL for CPUs, from the wheel intel-opencl-rt."""


@contextmanager
def _finding_the_cpu() -> Iterator[None]:
    """Let OpenCL find the wheel's driver for CPUs: the file that should name it names a folder of the wheel's builders.

    OpenCL reads the variable once, when the devices are listed. The user's own value stays.
    """
    if _VARIABLE in os.environ or not _CPU_DRIVER.exists():
        yield
        return
    os.environ[_VARIABLE] = str(_CPU_DRIVER)
    try:
        yield
    finally:
        del os.environ[_VARIABLE]


try:
    with _finding_the_cpu():
        import dpnp  # noqa: I001, the one whose absence is to be named
        import dpctl.memory

        dpctl.get_devices()
except ImportError as error:
    raise BackendError(
        f"dpnp cannot be imported ({str(error).splitlines()[0]}): pip install 'xpmlp[dpnp]', {CPU_WAY_OUT}"
    ) from None


class DpnpBackend(Backend):
    """dpnp's arrays: ``dpnp`` is SYCL's default device, a GPU before a CPU; ``dpnp:gpu:1`` is the second GPU.

    All arrays of a device are on the one queue that dpnp keeps for it. Arrays on another queue cannot be mixed with
    them, and belong to another backend.
    """

    name = library = "dpnp"
    namespace = dpnp
    further_devices = ("gpu", "cpu")
    out_of_memory = ("OUT_OF_DEVICE_MEMORY", "OUT_OF_HOST_MEMORY")  # of a kernel

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        try:
            probe = dpnp.ones((2, 2), dtype="float32", device=device)
            if float((probe @ probe).sum()) != 8.0:
                raise RuntimeError("a product of ones came out wrong")
        except (dpctl.SyclDeviceCreationError, RuntimeError, ValueError) as error:
            where = f" on {device!r}" if device else ""
            raise BackendError(f"dpnp cannot run{where}: {_problem(device, error)}, {CPU_WAY_OUT}") from None
        self.device = probe.device
        self.require(dtype)

    @property
    def spec(self) -> str:
        return f"dpnp:{self._sycl_device.filter_string}"

    def __str__(self) -> str:
        named = f"dpnp on {self._sycl_device.filter_string}"
        usual = dpnp.empty(0, dtype="bool", device=self._sycl_device).device
        return named if self.device == usual else f"{named}, queue {hash(self.device.sycl_queue)}"

    @property
    def _sycl_device(self) -> Any:
        return self.device.sycl_device

    def _put(self, array: np.ndarray) -> Any:
        return dpnp.asarray(array, dtype=array.dtype, device=self.device)  # without the dtype, dpnp may narrow it

    def _fetch(self, array: Any) -> np.ndarray:
        return np.array(dpnp.asnumpy(array), order="C")  # a copy from SYCL's memory

    def synchronize(self) -> None:
        self.device.sycl_queue.wait()

    def free_memory(self) -> int | None:
        if self._sycl_device.is_cpu:
            return free_host_memory()
        from dpctl.utils import intel_device_info

        return intel_device_info(self._sycl_device).get("free_memory")  # type: ignore[no-any-return]

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, dpctl.memory.USMAllocationError) or super().is_out_of_memory(error)

    def describe(self) -> dict[str, str]:
        setting = "MKL_BLAS_COMPUTE_MODE"
        return {
            "version": dpnp.__version__,
            "device": f"{self._sycl_device.name} ({self._sycl_device.filter_string})",
            "products": f"oneMKL in float32, {setting}={os.environ.get(setting, 'unset')}",
        }


def _problem(device: str | None, error: Exception) -> str:
    """Return why a device does not run, and the remedy."""
    found = [each.filter_string for each in dpctl.get_devices()]
    if found and not isinstance(error, dpctl.SyclDeviceCreationError):
        return f"{str(error).splitlines()[0]}; its driver may not fit it: write dpnp:{found[-1]}"
    if found and "gpu" in str(device):
        return f"SYCL finds {', '.join(found)} alone; install the GPU's driver (apt install intel-opencl-icd)"
    if found:
        return f"SYCL knows no such device; write {' or '.join(f'dpnp:{name}' for name in found)}"
    if _CPU_DRIVER.exists():
        return f"SYCL finds no device; set {_VARIABLE}={_CPU_DRIVER} before dpnp is imported, for the CPU"
    return "SYCL finds no device; pip install intel-opencl-rt for the CPU, or install a GPU's driver"
