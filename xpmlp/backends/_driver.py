"""What NVIDIA's driver says, asked by itself: no array library is imported for it."""

import ctypes
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Driver:
    """The driver's answer.

    Parameters
    ----------
    problem : str or None
        Why no CUDA device can be used, as a part of a sentence; None where one answers.
    version : int
        The newest CUDA that the driver knows, as 13020 for 13.2; 0 without a driver.
    devices : int
        How many devices it sees.
    """

    problem: str | None
    version: int = 0
    devices: int = 0

    @property
    def extra(self) -> str:
        """The extra of this package whose CUDA the driver can run."""
        return "cuda12" if 0 < self.version < 13000 else "cuda13"


def ask_driver() -> Driver:
    """Load NVIDIA's driver library, start it and count its devices."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(name)
    except OSError:
        return Driver(f"there is no NVIDIA driver ({name} was not found)")
    version, devices = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(devices))
    if status == 100 or (status == 0 and devices.value == 0):  # CUDA_ERROR_NO_DEVICE
        return Driver("NVIDIA's driver sees no CUDA device", version.value)
    if status:
        return Driver(f"NVIDIA's driver does not start (cuInit error {status})", version.value)
    return Driver(None, version.value, devices.value)
