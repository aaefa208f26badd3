"""NumPy, on the CPU."""

from functools import cache
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
        products = f"{blas['name']} {blas['version']}"
        loaded = [library.info() for library in blas_libraries()]
        own: dict[str, Any] = min(
            loaded, key=lambda info: "numpy" not in info["filepath"], default={}
        )  # SciPy may have another
        if "architecture" in own:  # the processor for which it has chosen its kernels
            by_hand = " (OPENBLAS_CORETYPE)" if own["internal_api"] == "openblas" else ""
            products += f", {own['architecture']} kernels{by_hand}"
        return {"version": np.__version__, "device": "cpu", "products": products}


@cache
def blas_libraries() -> list[Any]:
    """Return threadpoolctl's controllers of the BLAS libraries that this process has loaded."""
    from threadpoolctl import ThreadpoolController

    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]


class _InPlace(Copier):
    """A batch is gathered where it is computed with: there is nothing to copy, and nothing to wait for."""

    reuses_buffers = True

    def copy(self, host: np.ndarray, device: Any, n: int) -> np.ndarray:
        return host[:n]
