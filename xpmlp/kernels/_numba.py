"""Loops over NumPy's arrays, compiled by numba: one pass each, in one thread.

Numba's own threads would compete with those of the BLAS library, which spin until the next product. Numba's cache keeps
the compiled loops. Importing numba and reading them takes about half a second per process.
"""

import contextlib
import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from numba import njit

from xpmlp.kernels import Elements, loops
from xpmlp.kernels._numpy import made, parameters
from xpmlp.kernels.trace import Program


def _compiled(function: Any) -> Any:
    """Return the function as a kernel, kept on disk where there is a place to keep it."""
    # NumPy's error model: a check for division by zero would keep the loop from being vectorised.
    try:
        return njit(cache=True, error_model="numpy", nogil=True)(function)
    except RuntimeError:  # neither the function's folder nor the user's cache can be written to
        return njit(error_model="numpy", nogil=True)(function)


def compile_elements(function: Elements) -> Callable[..., Any]:
    """Return a function of elements as loops, which are written and compiled at the first call with new dtypes."""
    versions: dict[tuple[Any, ...], Callable[..., Any]] = {}
    fixed = function.fixed

    def version_for(arrays: Sequence[Any], keywords: Mapping[str, Any]) -> Callable[..., Any]:
        if not arrays[0].shape:  # single numbers are done before a loop is called
            return partial(function.function, np)
        parts = [part for array in arrays for part in (array.dtype, array.shape)]
        if keywords:
            parts += [keywords[name] for name in fixed]
            parts += [value.shape for value in keywords.values() if isinstance(value, np.ndarray)]
        key = tuple(parts)
        version = versions.get(key)
        if version is None:
            version = versions[key] = _version(function, arrays, keywords)
        return version

    def call(*arrays: Any, **keywords: Any) -> Any:
        return version_for(arrays, keywords)(*arrays, **keywords)

    call.version_for = version_for  # type: ignore[attr-defined]
    return call


def _version(function: Elements, arrays: Sequence[Any], keywords: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a function of elements for arrays of these dtypes and shapes: a loop, and what hands arrays to it."""
    program = Program(function, [array.dtype for array in arrays], keywords)
    values = [eval(symbol.operands[0], {}, keywords) for symbol in program.scalars]  # expressions of the trace's own
    shapes = [array.shape for array in arrays] + [np.shape(value) for value in values if np.ndim(value)]
    patterns, reshaped = loops.merged(shapes)
    of_scalars = iter(zip(patterns[len(arrays) :], reshaped[len(arrays) :], strict=True))
    scalars = [next(of_scalars) if np.ndim(value) else ("", ()) for value in values]
    loop = _loop(function.name, loops.source(program, patterns[: len(arrays)], [pattern for pattern, _ in scalars]))

    shape = np.broadcast_shapes(*shapes)
    whole = max(reshaped, key=math.prod)
    given = []
    for name, flat, array in zip(program.arrays, reshaped, arrays, strict=False):
        given.append(name if array.shape == flat else f"{name}.reshape({flat})")
    given += [name if shape == whole else f"{name}.reshape({whole})" for name in program.new]
    for symbol, (pattern, flat) in zip(program.scalars, scalars, strict=True):
        number = f"np.{symbol.dtype}({symbol.operands[0]})"
        given.append(f"np.reshape({number}, {flat})" if pattern else number)
    lines = [
        f"def call({parameters(program)}):",
        *(f"{name} = {name} if {name}.flags.c_contiguous else {name}.copy()" for name in function.overwrites),
        *(made(name, k, str(shape), value.dtype) for k, (name, value) in enumerate(program.new.items())),
        f"loop({', '.join(given)})",
        f"return {', '.join(program.outputs)}",
    ]
    space: dict[str, Any] = {"np": np, "loop": loop}
    exec("\n    ".join(lines), space)
    return space["call"]  # type: ignore[no-any-return]


@cache
def _loop(name: str, source: str) -> Any:
    """Return a loop, compiled, whose source lies in the user's cache: there numba keeps what it made."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    file = Path(platformdirs.user_cache_path("xpmlp")) / "kernels" / f"{name}_{digest}.py"
    with contextlib.suppress(OSError):  # then it is compiled for this process alone
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, suffix=".part") as part:
                part.write(source)
            os.replace(part.name, file)
    space: dict[str, Any] = {"__name__": __name__}  # numba imports it with what it has kept
    exec(compile(source, str(file), "exec"), space)
    return _compiled(space[name])


def sampled(images: np.ndarray, displacements: np.ndarray, max_value: int) -> np.ndarray:
    """Return images as X, each pixel taken from another place of its image: one image after the other, in the cache."""
    n, _, height, width = displacements.shape
    X = np.empty((n, height * width), displacements.dtype)
    shape = n, height, width
    _sampled(images.reshape(shape), displacements, X.reshape(shape), displacements.dtype.type(1 / max_value))
    return X


def cross_entropy(S: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, Any, Any]:
    """Return delta, the mean loss and the number correct, row by row."""
    delta = np.empty_like(S)
    if S.ndim > 2:
        parts = [_cross_entropy(*rows, S.dtype.type(1 / S.shape[-2])) for rows in zip(S, labels, delta, strict=True)]
        return delta, np.array([loss for loss, _ in parts], S.dtype), np.array([n for _, n in parts], np.int32)
    loss, correct = _cross_entropy(S, labels, delta, S.dtype.type(1 / len(S)))
    return delta, S.dtype.type(loss), np.int32(correct)


@_compiled
def _sampled(images, displacements, X, share):  # type: ignore[no-untyped-def]
    n, height, width = X.shape
    wide = width + 2
    real = X.dtype.type
    zero, bottom, right = real(0), real(height + 1), real(width + 1)
    around = np.zeros((height + 2) * wide, X.dtype)
    for i in range(n):
        for r in range(height):
            for c in range(width):
                around[(r + 1) * wide + c + 1] = images[i, r, c] * share
        for r in range(height):
            for c in range(width):
                y = min(max(displacements[i, 0, r, c] + real(r + 1), zero), bottom)
                x = min(max(displacements[i, 1, r, c] + real(c + 1), zero), right)
                top, left = min(int(y), height), min(int(x), width)
                y -= real(top)
                x -= real(left)
                k = top * wide + left
                upper = around[k] + x * (around[k + 1] - around[k])
                lower = around[k + wide] + x * (around[k + wide + 1] - around[k + wide])
                X[i, r, c] = upper + y * (lower - upper)


@_compiled
def _cross_entropy(S, labels, delta, share):  # type: ignore[no-untyped-def]
    loss, correct = S.dtype.type(0), np.int32(0)
    n, c = S.shape
    for i in range(n):
        best = 0
        for j in range(1, c):
            if S[i, j] > S[i, best]:
                best = j
        most = S[i, best]
        total = S.dtype.type(0)
        for j in range(c):
            e = np.exp(S[i, j] - most)
            delta[i, j] = e
            total += e
        if total != total:
            for j in range(c):  # the first NaN is the greatest, as argmax has it
                if S[i, j] != S[i, j]:
                    best = j
                    break
        label = labels[i]
        for j in range(c):
            delta[i, j] = delta[i, j] / total * share
        if 0 <= label < c:  # another would be read and written beside the row
            loss += np.log(total) - (S[i, label] - most)
            correct += best == label
            delta[i, label] -= share
    return loss * share, correct
