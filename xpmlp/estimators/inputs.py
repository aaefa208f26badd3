"""An estimator's input: arrays of any library, used on their device and checked as scikit-learn checks its own.

Scikit-learn's own validation checks NumPy's arrays and all that converts to one: lists, data frames, sparse matrices.
Arrays of other libraries have the same checks on their device, with scikit-learn's messages. These do not depend on its
array API dispatch.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from sklearn.utils.validation import validate_data

from xpmlp.backends import backend_of, get_backend, is_foreign, is_traced, on_host
from xpmlp.backends.base import Backend
from xpmlp.namespaces import Array

_BACKENDS: dict[str, Backend] = {}  # one backend per library and device, so that its compiled functions are reused


@dataclass(frozen=True)
class Place:
    """The device of some data, and the backend that computes with them."""

    source: Backend | None
    device: Backend

    @property
    def is_host(self) -> bool:
        """Whether the data are on the host."""
        return self.source is None

    @property
    def xp(self) -> Any:
        """The namespace of the computation."""
        return self.device.namespace

    def to_device(self, array: Any) -> Array:
        """Return an array of any library on the computing device; unchanged if it is there already."""
        if is_foreign(array):
            found = _one(backend_of(array))
            if found is self.device:
                return array
            array = found.to_numpy(array)
        host = np.asarray(array)
        if host.dtype.kind not in "biuf":
            raise ValueError(f"{host.dtype} where numbers are expected: {self.device} has no such arrays")
        # JAX has no 64-bit numbers, unless they are enabled; some GPUs have no float64.
        if host.dtype.itemsize == 8 and host.dtype.name not in self.device.dtypes():
            narrow = host.astype(f"{host.dtype.kind}4")
            if host.dtype.kind != "f" and not np.array_equal(narrow, host):
                raise ValueError(f"{host.dtype} numbers that {self.device} cannot hold: they do not fit 32 bits")
            host = narrow
        return self.device.asarray(host)

    def samples(self, X: Any, dtype: Any) -> Array:
        """Return validated samples of the host, dense or sparse, on the computing device in a dtype."""
        if not isinstance(X, np.ndarray) and self.device.name != "numpy":
            raise ValueError(f"sparse X is for NumPy: {self.device} takes dense arrays; use X.toarray()")
        X = as_samples(X).astype(dtype, copy=False)
        return X if self.device.name == "numpy" else self.to_device(X)

    def weights(self, weights: Any, n: int, dtype: Any) -> Array | None:
        """Return the weights of n samples on the computing device in a dtype."""
        if weights is None:
            return None
        xp, w = self.xp, self.xp.astype(self.to_device(weights), dtype)
        if w.ndim == 0:
            w = xp.zeros((n,), dtype=dtype, device=self.device.device) + w
        if w.ndim != 1:
            raise ValueError("Sample weights must be 1D array or scalar")
        if w.shape[0] != n:
            raise ValueError(f"sample_weight.shape == {tuple(w.shape)}, expected {(n,)}!")
        require_finite(w, xp, "sample_weight", "the estimator")
        require_some(w, xp)
        return w

    def require_same(self, X: object, fitted: Array, name: str, method: str) -> None:
        """Refuse X if it is not on the device that the estimator was fitted on."""
        was, now = _one(backend_of(fitted)), self.source or _named("numpy")
        if was is not now:
            raise ValueError(
                f"Inputs passed to {name}.{method}() must use the same namespace and the same device as those passed "
                f"to fit(). fit() was given arrays of {was}, {method} a {type(X).__name__} of {now}: move X there, or "
                f"the estimator here, with to({now.spec!r})"
            )

    @property
    def where(self) -> str:
        """The data's device, in words."""
        return f"an array of {self.source or _named('numpy')}"

    def to_source(self, array: Array) -> Array:
        """Return a result on the data's device."""
        return array if self.source is self.device else self.host(array)

    def host(self, array: Array) -> np.ndarray:
        """Return a result on the host; a NumPy array unchanged."""
        return array if isinstance(array, np.ndarray) else self.device.to_numpy(array)


def place_on(backend: str | Backend) -> Place:
    """Return the place of data that are on a backend and are computed with there."""
    device = _one(backend) if isinstance(backend, Backend) else _named(backend)
    return Place(None if device.name == "numpy" else device, device)


def place_of(X: Any, spec: str | None, dtype: str | None = None, fitted: Any = None) -> Place:
    """Return X's place and the backend that computes with it in a dtype: the one with that name, or X's own.

    An array that JAX traces is where the fitted parameters are.
    """
    if fitted is not None and is_foreign(fitted) and is_traced(X):
        return place_on(backend_of(fitted))
    if str(getattr(X, "layout", "torch.strided")) != "torch.strided":
        raise ValueError(f"sparse X of PyTorch ({X.layout}): dense samples are expected; use X.to_dense()")
    source = _one(backend_of(X)) if is_foreign(X) else None
    wanted = None if spec is None else _named(spec)
    if source is not None and wanted is not None and str(wanted) != str(source):
        mend = "leave the backend out, or hand X over as NumPy's"
        raise ValueError(f"backend={spec!r} is {wanted}, X is an array of {source}: {mend}")
    device = wanted or source or _named("numpy")
    device.require(dtype)
    return Place(source, device)


def check_samples(estimator: Any, X: Array, y: Any, place: Place, dtype: str | None, reset: bool) -> Array:
    """Return X, (n, d) of float32 or float64, of a library other than NumPy. y is only checked not to be None."""
    xp = place.xp
    if xp.isdtype(X.dtype, "complex floating"):
        raise ValueError(f"Complex data not supported\n{X}\n")
    # scikit-learn checks the shape on zeros that take no memory, and stores or compares the number of features.
    same_shape = np.broadcast_to(np.float32(0), X.shape) if X.ndim == 2 else on_host(X)
    y = None if y is None else "no_validation"
    validate_data(estimator, same_shape, y, reset=reset, dtype=None, ensure_all_finite=False)
    if dtype is not None or X.dtype not in (xp.float32, xp.float64):
        X = xp.astype(X, getattr(xp, dtype) if dtype else widest_float(place.device))
    require_finite(X, xp, "X", type(estimator).__name__)
    return X


def check_values(y: Array, xp: Any, X: Array, name: str) -> Array:
    """Return a regressor's targets for X as T, (n, outputs), of its dtype, of a library other than NumPy."""
    if y.ndim not in (1, 2):
        raise ValueError(f"y should be a 1d or 2d array, got an array of shape {tuple(y.shape)} instead.")
    require_length(y, X)
    T = xp.astype(y, X.dtype)
    require_finite(T, xp, "y", name)
    return T if T.ndim == 2 else T[:, None]


class SparseSamples:
    """A SciPy sparse matrix as the network's X. It supports only the two dense products that are needed."""

    ndim = 2

    def __init__(self, matrix: Any) -> None:
        self.matrix, self.shape, self.dtype = matrix, matrix.shape, matrix.dtype

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return np

    @property
    def mT(self) -> "SparseSamples":
        """The matrix transposed."""
        return SparseSamples(self.matrix.T)

    def __matmul__(self, other: np.ndarray) -> np.ndarray:
        return np.asarray(self.matrix @ other)

    def __getitem__(self, key: Any) -> "SparseSamples":
        return SparseSamples(self.matrix[key])

    def by_rows(self) -> "SparseSamples":
        """Return the samples in SciPy's CSR format, which reads rows fast."""
        return SparseSamples(self.matrix.tocsr())

    def astype(self, dtype: Any, copy: bool = True) -> "SparseSamples":
        """Return the samples in another dtype."""
        return SparseSamples(self.matrix.astype(dtype, copy=copy))


def as_samples(X: Any) -> Any:
    """Return NumPy's array unchanged, and a sparse matrix as `SparseSamples`."""
    return X if isinstance(X, np.ndarray) else SparseSamples(X)


@cache
def _named(spec: str) -> Backend:
    """Return a backend by its name. It is tried once per process, not in each fit and predict."""
    return _one(get_backend(spec))


def _one(backend: Backend) -> Backend:
    return _BACKENDS.setdefault(str(backend), backend)


def require_length(y: Array, X: Array) -> None:
    """Refuse targets of another length than the samples."""
    if y.shape[0] != X.shape[0]:
        raise ValueError(f"Found input variables with inconsistent numbers of samples: [{X.shape[0]}, {y.shape[0]}]")


def require_finite(array: Array, xp: Any, what: str, name: str) -> None:
    """Refuse NaN and infinity; skip traced arrays, which have no values."""
    if is_traced(array) or bool(xp.all(xp.isfinite(array))):
        return
    problem = "NaN" if bool(xp.any(xp.isnan(array))) else f"infinity or a value too large for {array.dtype}"
    raise ValueError(f"Input {what} contains {problem}. {name} takes finite numbers only.")


def require_some(weights: Array, xp: Any) -> None:
    """Refuse weights that are all 0, with scikit-learn's message."""
    if not bool(xp.any(weights != 0)):
        raise ValueError("Sample weights must contain at least one non-zero number.")


def widest_float(backend: Backend) -> Any:
    """Return float64, or float32 if the device has no other (JAX without its 64-bit types, some GPUs)."""
    kinds = backend.dtypes("real floating")
    return kinds.get("float64", kinds["float32"])
