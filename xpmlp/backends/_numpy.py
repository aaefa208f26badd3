"""NumPy, on the CPU."""

from typing import Any

import numpy as np

from xpmlp.backends.base import CPU_WAY_OUT, Backend, Copier
from xpmlp.errors import BackendError


class NumpyBackend(Backend):
    """NumPy's arrays, which are the host's own."""

    name = library = "numpy"
    namespace = np

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        if device not in (None, "cpu"):
            raise BackendError(f"numpy has no device {device!r}: write numpy, {CPU_WAY_OUT}")
        self.device = "cpu"

    def copier(self) -> Copier:
        return _InPlace(self)

    def describe(self) -> dict[str, str]:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return {"version": np.__version__, "device": "cpu", "products": f"{blas['name']} {blas['version']}"}


class _InPlace(Copier):
    """A batch is gathered where it is computed with: there is nothing to copy, and nothing to wait for."""

    reuses_buffers = True

    def copy(self, host: np.ndarray, device: Any, n: int) -> np.ndarray:
        return host[:n]
