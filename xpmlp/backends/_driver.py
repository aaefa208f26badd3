"""Ask NVIDIA's driver directly, without importing an array library."""

import ctypes
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Driver:
    """The driver's answer."""

    problem: str | None
    """Why no CUDA device can be used, as a part of a sentence; None if one answers."""
    version: int = 0
    """The newest CUDA that the driver knows, as 13020 for 13.2; 0 without a driver."""
    devices: int = 0
    """The number of devices that it sees."""
    remedy: str = ""
    """What to do about the problem."""

    @property
    def extra(self) -> str:
        """The extra of this package whose CUDA the driver can run."""
        return "cuda12" if 0 < self.version < 13000 else "cuda13"


def ask_driver() -> Driver:
    """Return the answer of NVIDIA's driver, asked in a child process.

    Counting devices starts the driver (``cuInit``). Children that a process forks after that have no CUDA.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(name)
    except OSError:
        remedy = "install the driver (580 or newer for the extra cuda13, 525 for cuda12)"
        return Driver(f"there is no NVIDIA driver ({name} was not found)", remedy=remedy)
    version = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    status, devices = _started(os.environ.get("CUDA_VISIBLE_DEVICES"))
    if status == 100 or (status == 0 and devices == 0):  # CUDA_ERROR_NO_DEVICE
        remedy = "look at what nvidia-smi lists and at CUDA_VISIBLE_DEVICES"
        return Driver("NVIDIA's driver sees no CUDA device", version.value, remedy=remedy)
    if status:
        remedy = "see whether nvidia-smi answers, and restart the machine after an update of the driver"
        return Driver(f"NVIDIA's driver does not start (CUDA error {status})", version.value, remedy=remedy)
    return Driver(None, version.value, devices)


@lru_cache
def _started(visible: str | None) -> tuple[int, int]:
    """Start the driver; return its status and the number of visible devices."""
    try:
        done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, timeout=60, check=False)
        status, devices = map(int, done.stdout.split())
        return status, devices
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 999, 0  # CUDA_ERROR_UNKNOWN


if __name__ == "__main__":
    driver, count = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"), ctypes.c_int()
    print(driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)), count.value)  # noqa: T201
