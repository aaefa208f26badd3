"""array-api-strict: the standard and nothing else, for those who write array code."""

from typing import Any, Self

import numpy as np

from xpmlp.backends.base import CPU_WAY_OUT, Backend, host_array
from xpmlp.errors import ArrayError, BackendError

try:
    import array_api_strict as xp
except ImportError:
    raise BackendError(f"array-api-strict is not installed: pip install array-api-strict, {CPU_WAY_OUT}") from None


class StrictBackend(Backend):
    """array-api-strict's arrays, on its ``CPU_DEVICE`` or one of the devices that it makes up.

    On ``device1`` and ``device2`` its arrays lie in host memory, but nothing reaches them from the host by accident:
    a stand-in for a GPU on machines that have none.
    """

    name = "array-api-strict"
    library = "array_api_strict"

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        known = {"cpu": "CPU_DEVICE", "device1": "device1", "device2": "device2"}
        if (device or "cpu") not in known:
            raise BackendError(f"array-api-strict has no device {device!r}: expected {', '.join(known)}")
        self.namespace = xp
        self.device = xp.Device(known[device or "cpu"])

    def __str__(self) -> str:
        return f"{self.name} on {_device_name(self.device)}"

    @classmethod
    def devices(cls) -> tuple[str | None, ...]:
        """Return the devices that a listing tries."""
        return (None, "device1")

    @classmethod
    def of(cls, array: Any) -> Self:
        """Return the backend of the array's device."""
        device = _device_name(array.device)
        return cls(None if device == "CPU_DEVICE" else device)

    def asarray(self, host: Any, *, copy: bool | None = None) -> Any:
        """Return an array on the device, always a copy."""
        array = host_array(host, copy=True)
        try:
            return xp.asarray(array, device=self.device)
        except TypeError as error:
            raise ArrayError(f"array-api-strict takes no {array.dtype}: {error}") from None

    def to_numpy(self, array: Any) -> np.ndarray:
        """Return a copy on the host."""
        self._require_own(array)
        return np.array(xp.asarray(array, device=xp.Device("CPU_DEVICE")), order="C")

    def describe(self) -> dict[str, str]:
        """Return the library's version and the device."""
        return {
            "version": xp.__version__,
            "device": _device_name(self.device),
            "products": f"numpy {np.__version__}",
        }


def _device_name(device: Any) -> str:
    return str(device).split("'")[1]
