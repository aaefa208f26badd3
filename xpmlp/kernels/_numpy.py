"""NumPy's arrays: its own functions in place, and results written into arrays that are there already."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from xpmlp.kernels import Elements, buffers
from xpmlp.kernels.trace import Program

_memory = threading.local()
"""Each thread's scratch: the same memory from step to step stays in the cache."""


def compile_elements(function: Elements) -> Callable[..., Any]:
    """Return a function of elements as calls of NumPy's functions, written at the first call with new dtypes."""
    versions: dict[tuple[Any, ...], Callable[..., Any]] = {}
    fixed = function.fixed

    def call(*arrays: Any, **keywords: Any) -> Any:
        if not arrays[0].shape:  # single numbers are done before NumPy has looked at its out=
            return function.function(np, *arrays, **keywords)
        key = tuple([array.dtype for array in arrays] + [keywords[name] for name in fixed])
        version = versions.get(key)
        if version is None:
            code = buffers.source(Program(function, [array.dtype for array in arrays], keywords))
            space: dict[str, Any] = {"np": np, "scratch": scratch}
            exec(compile(code, f"<{function.name} in place>", "exec"), space)
            version = versions[key] = space[function.name]
        return version(*arrays, **keywords)

    return call


def scratch(index: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return this thread's memory of a number, shape and dtype, whatever is in it; a number has one memory."""
    key = index, shape, dtype
    views: dict[Any, np.ndarray] = _memory.__dict__.setdefault("views", {})
    found = views.get(key)
    if found is None:
        vectors: dict[int, np.ndarray] = _memory.__dict__.setdefault("vectors", {})
        size = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
        if index not in vectors or vectors[index].size < size:
            vectors[index] = np.empty(size, np.uint8)
            for other in [other for other in views if other[0] == index]:
                del views[other]
        found = views[key] = vectors[index][:size].view(dtype).reshape(shape)
    return found


def new_gradient(theta: np.ndarray) -> np.ndarray:
    return np.empty_like(theta)


def product(A: Any, B: np.ndarray, place: np.ndarray | None) -> Any:
    if place is None:
        return A @ B
    if isinstance(A, np.ndarray):
        return np.matmul(A, B, out=place)
    place[...] = A @ B  # SciPy's sparse matrices have no out=
    return place


def column_sums(delta: np.ndarray, place: np.ndarray | None) -> np.ndarray:
    sums: np.ndarray = np.add.reduce(delta, axis=-2, keepdims=True, out=place)
    return sums
