"""NumPy, on the CPU."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from xpmlp.backends._malloc import keep_freed_memory
from xpmlp.backends.base import CPU_WAY_OUT, Backend, Copier, Step, host_array
from xpmlp.errors import BackendError


class NumpyBackend(Backend):
    """NumPy's arrays, which are the host's own."""

    name = "numpy"
    library = "numpy"

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        if device not in (None, "cpu"):
            raise BackendError(f"numpy has no device {device!r}: write numpy, {CPU_WAY_OUT}")
        self.namespace = np
        self.device = "cpu"

    @classmethod
    def of(cls, array: Any) -> Self:
        """Return the NumPy backend."""
        return cls()

    def asarray(self, host: Any, *, copy: bool | None = None) -> np.ndarray:
        """Return the array's ordinary form, which may share its memory unless `copy` is true."""
        return host_array(host, copy=copy)

    def to_numpy(self, array: Any) -> np.ndarray:
        """Return a copy."""
        self._require_own(array)
        return np.array(array, order="C")

    def compile(self, step: Step, *, donate: Sequence[int] = ()) -> Step:
        """Return the step itself, and let its arrays' memory be used again from step to step."""
        keep_freed_memory()
        return step

    def copier(self) -> Copier:
        """Return a copier whose staging buffers are the batches themselves."""
        return _InPlace(self)

    def describe(self) -> dict[str, str]:
        """Return NumPy's version and the library behind its products."""
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return {"version": np.__version__, "device": "cpu", "products": f"{blas['name']} {blas['version']}"}


class _InPlace(Copier):
    """A batch is gathered where it is computed with: there is nothing to copy, and nothing to wait for."""

    reuses_buffers = True

    def copy(self, host: np.ndarray, device: Any, n: int) -> np.ndarray:
        """Return the staging buffer's rows."""
        return host[:n]
