"""array-api-strict: the standard and nothing else, for authors of array code."""

from typing import Any

import numpy as np

from xpmlp.backends.base import CPU_WAY_OUT, Backend
from xpmlp.errors import BackendError

try:
    import array_api_strict as xp
except ImportError:
    raise BackendError(f"array-api-strict is not installed: pip install array-api-strict, {CPU_WAY_OUT}") from None


class StrictBackend(Backend):
    """array-api-strict's arrays, on its ``CPU_DEVICE`` or one of its imaginary devices.

    Arrays on ``device1`` and ``device2`` are in host memory, but the host cannot read them by accident. They stand in
    for a GPU on machines without one.
    """

    name = "array-api-strict"
    library = "array_api_strict"
    namespace = xp
    further_devices = ("device1",)

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        known = {"cpu": "CPU_DEVICE", "device1": "device1", "device2": "device2"}
        if (device or "cpu") not in known:
            raise BackendError(f"array-api-strict has no device {device!r}: expected {', '.join(known)}")
        self.device = xp.Device(known[device or "cpu"])

    @property
    def spec(self) -> str:
        return self.name if "CPU" in self._device_name else f"{self.name}:{self._device_name}"

    @property
    def _device_name(self) -> str:
        return str(self.device).split("'")[1]

    def __str__(self) -> str:
        return f"{self.name} on {self._device_name}"

    def _put(self, array: np.ndarray) -> Any:
        return xp.asarray(array, device=self.device, copy=True)

    def _fetch(self, array: Any) -> np.ndarray:
        return np.array(xp.asarray(array, device=xp.Device("CPU_DEVICE")), order="C")

    def describe(self) -> dict[str, str]:
        return {"version": xp.__version__, "device": self._device_name, "products": f"numpy {np.__version__}"}
