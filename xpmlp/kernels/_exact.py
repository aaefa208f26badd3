"""NumPy's arrays, in numba's loops where these give NumPy's results to the last bit, else by NumPy's own functions.

All libraries round sums, products, quotients and roots alike; each has its own exponentials and logarithms.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xpmlp.kernels import Elements, _numba, _numpy
from xpmlp.kernels.trace import Program

_OWN = {"exp", "expm1", "log", "log1p", "tanh"}


def compile_elements(function: Elements) -> Callable[..., Any]:
    """Return a function of elements that one or the other compiles, as its first call shows."""
    compiled: list[Any] = []

    def version_for(arrays: Sequence[Any], keywords: Mapping[str, Any]) -> Callable[..., Any]:
        if not compiled:
            steps = Program(function, [array.dtype for array in arrays], keywords).steps
            compiler = _numpy if any(step.operation in _OWN for step in steps) else _numba
            compiled.append(compiler.compile_elements(function))
        version: Callable[..., Any] = compiled[0].version_for(arrays, keywords)
        return version

    def call(*arrays: Any, **keywords: Any) -> Any:
        return version_for(arrays, keywords)(*arrays, **keywords)

    call.version_for = version_for  # type: ignore[attr-defined]
    return call
