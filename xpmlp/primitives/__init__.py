"""The few named operations of the math that some library does faster in a way of its own.

Each stands here in its agnostic version. A native one, in the file of its library, is taken by the arrays' library
alone, and tested equal to it.
"""

import importlib
from functools import cache
from types import ModuleType

from xpmlp.namespaces import Array, array_namespace, library_of

_NATIVE = {"jax": "xpmlp.primitives._jax"}


def join(arrays: tuple[Array, ...]) -> Array:
    """Return arrays of any shapes, each in C order and without gaps, as one new vector."""
    native = _native(library_of(type(arrays[0])))
    if native is not None:
        joined: Array = native.join(arrays)
        return joined
    xp = array_namespace(arrays=arrays)
    return xp.concat([xp.reshape(array, (-1,)) for array in arrays])


@cache
def _native(library: str) -> ModuleType | None:
    return importlib.import_module(_NATIVE[library]) if library in _NATIVE else None
