"""What NVIDIA's driver says, asked by itself: no array library is imported for it."""

import ctypes
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Driver:
    """The driver's answer."""

    problem: str | None
    """Why no CUDA device can be used, as a part of a sentence; None where one answers."""
    version: int = 0
    """The newest CUDA that the driver knows, as 13020 for 13.2; 0 without a driver."""
    devices: int = 0
    """How many it sees."""
    remedy: str = ""
    """What to do about the problem."""

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
        remedy = "install the driver (580 or newer for the extra cuda13, 525 for cuda12)"
        return Driver(f"there is no NVIDIA driver ({name} was not found)", remedy=remedy)
    version, devices = ctypes.c_int(), ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(devices))
    if status == 100 or (status == 0 and devices.value == 0):  # CUDA_ERROR_NO_DEVICE
        remedy = "look at what nvidia-smi lists and at CUDA_VISIBLE_DEVICES"
        return Driver("NVIDIA's driver sees no CUDA device", version.value, remedy=remedy)
    if status:
        remedy = "see whether nvidia-smi answers, and restart the machine after an update of the driver"
        return Driver(f"NVIDIA's driver does not start (CUDA error {status})", version.value, remedy=remedy)
    return Driver(None, version.value, devices.value)
