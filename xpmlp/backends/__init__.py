"""Choose an array library and device: a name becomes a `Backend`."""

import contextlib
import difflib
import importlib
import warnings
from importlib.metadata import entry_points
from typing import Any, cast

import numpy as np

from xpmlp.backends._driver import ask_driver
from xpmlp.backends.base import CPU_WAY_OUT, Backend
from xpmlp.errors import ArrayError, BackendError

__all__ = ["Backend", "available_backends", "backend_names", "backend_of", "get_backend"]

GROUP = "xpmlp.backends"
"""The entry-point group by which other packages add a backend: its name, and a `Backend` subclass."""

GPUS = ("cupy", "torch:cuda", "jax:gpu")
"""The backends on a GPU. Several ranks of a host take one GPU each."""

_BUILT_IN = {
    "numpy": "xpmlp.backends._numpy:NumpyBackend",
    "cupy": "xpmlp.backends._cupy:CupyBackend",
    "torch": "xpmlp.backends._torch:TorchBackend",
    "jax": "xpmlp.backends._jax:JaxBackend",
    "dpnp": "xpmlp.backends._dpnp:DpnpBackend",
    "array-api-strict": "xpmlp.backends._strict:StrictBackend",
}

_LIBRARIES = {"jaxlib": "jax", "array_api_strict": "array-api-strict"}
"""The packages of built-in backends' arrays, if their names differ from the backend's."""


def get_backend(spec: str = "auto", dtype: str | None = None, precision: str | None = None) -> Backend:
    """Return the backend with a name. Only `precision` changes a setting of the process or library.

    Parameters
    ----------
    spec : str
        ``auto``, ``numpy``, ``cupy``, ``torch``, ``jax``, ``dpnp``, ``array-api-strict`` or a backend that another
        package added. ``auto`` is CuPy if a CUDA device answers, else NumPy; the result's `note` says why. A name alone
        means its usual device. A device follows a colon: ``cupy:1``, ``torch:cuda``, ``jax:gpu``, ``dpnp:gpu``.
    dtype : {"float32", "float64"} or None
        The dtype of later computations. float64 on JAX needs its 64-bit types (`jax_enable_x64`).
    precision : {"float32", "tf32"} or None
        The precision of products of float32. ``tf32`` lets the whole library, in this process, round factors to TF32's
        10 bits of mantissa. NVIDIA's GPUs since Ampere multiply these several times as fast. None and ``float32``
        change nothing: products are true float32, unless the user has set the library otherwise.

    Raises
    ------
    BackendError
        If the name is unknown, or the library or device cannot run here or has no TF32. No other backend is taken
        instead.
    """
    if not isinstance(spec, str):
        raise BackendError(f"{spec!r}: expected a backend's name, such as numpy or torch:cuda")
    if dtype not in (None, "float32", "float64"):
        raise BackendError(f"dtype {dtype!r}: expected float32 or float64")
    if precision not in (None, "float32", "tf32"):
        raise BackendError(f"precision {precision!r}: expected float32 or tf32")
    if spec == "auto":
        backend = _choose(dtype)
    else:
        name, _, device = spec.partition(":")
        backend = backend_class(name)(device or None, dtype)
    if precision == "tf32":
        backend.use_tf32()
    return backend


def backend_of(array: Any) -> Backend:
    """Return the backend of an array's library and device.

    Raises
    ------
    ArrayError
        If no backend has arrays of its type.
    """
    root = type(array).__module__.partition(".")[0]
    name = _LIBRARIES.get(root, root)
    if name in _BUILT_IN:
        return backend_class(name).of(array)
    for entry in entry_points(group=GROUP):
        with contextlib.suppress(BackendError):  # a broken backend must not hide another's arrays
            added = backend_class(entry.name)
            if added.library == root:
                return added.of(array)
    raise ArrayError(
        f"a {type(array).__name__} of {root} belongs to no backend: expected an array of {', '.join(backend_names())}"
    )


def is_foreign(array: object) -> bool:
    """Return whether an object is another library's array: not NumPy's, nor a data frame, list or sparse matrix."""
    if not isinstance(array, np.ndarray | np.generic) and hasattr(array, "__dlpack__"):
        with contextlib.suppress(ArrayError):
            return backend_of(array) is not None
    return False


def is_traced(array: Any) -> bool:
    """Return whether an array is a tracer: JAX's array without values in a function that is being transformed."""
    if not type(array).__module__.startswith("jax"):
        return False
    import jax

    return isinstance(array, jax.core.Tracer)


def on_host(array: Any) -> Any:
    """Return another library's array as NumPy's, and any other object unchanged."""
    return backend_of(array).to_numpy(array) if is_foreign(array) else array


def own_process(spec: str, dtype: str | None = None) -> None:
    """Set for the whole process what a backend needs to compute in a dtype; for programs that own the process."""
    with contextlib.suppress(BackendError):  # `get_backend` says it
        backend_class("numpy" if spec == "auto" else spec.partition(":")[0]).own_process(dtype)


def reopened(spec: str, dtype: str | None = None) -> Backend:
    """Return the backend of a pickle or a copy, or NumPy with a warning if that backend cannot run here."""
    try:
        return get_backend(spec, dtype)
    except BackendError as error:
        problem = str(error).removesuffix(f", {CPU_WAY_OUT}")
        warnings.warn(f"what was on {spec} opens on NumPy: {problem}", stacklevel=3)
        return get_backend("numpy")


def backend_names() -> list[str]:
    """Return the names of all backends, including those that cannot run here."""
    return [*_BUILT_IN, *sorted(entry.name for entry in entry_points(group=GROUP) if entry.name not in _BUILT_IN)]


def available_backends() -> list[str]:
    """Return the names of the backends that can run here, with a device if there are several.

    Each is tried in its own process. All together take a second or two.
    """
    from xpmlp.backends.probe import probe_all

    return [report.spec for report in probe_all() if report.problem is None]


def backend_class(name: str) -> type[Backend]:
    """Return a backend's class by its name; refuse an unknown name, and a library that is not installed."""
    if name in _BUILT_IN:
        module, _, attribute = _BUILT_IN[name].partition(":")
        return cast(type[Backend], getattr(importlib.import_module(module), attribute))
    for entry in entry_points(group=GROUP):
        if entry.name == name:
            try:
                return cast(type[Backend], entry.load())
            except Exception as error:  # another package's import may raise anything
                raise BackendError(f"the backend {name} ({entry.value}) cannot be loaded: {error}") from None
    names = ["auto", *backend_names()]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise BackendError(f"unknown backend {name!r}: {hint}expected {', '.join(names[:-1])} or {names[-1]}")


def _choose(dtype: str | None) -> Backend:
    note = ask_driver().problem
    if note is None:
        try:
            backend = get_backend("cupy", dtype)
            backend.note = "a CUDA device answers"
            return backend
        except BackendError as error:
            note = f"a CUDA device answers, but {str(error).removesuffix(f', {CPU_WAY_OUT}')}"
    backend = get_backend("numpy", dtype)
    backend.note = note
    return backend
