"""Find the Array API namespace of an array."""

from typing import Any, TypeAlias

from xpmlp.errors import ArrayError

Array: TypeAlias = Any
"""An array of any library that follows the Python Array API standard. The standard has no type for it yet."""


def array_namespace(**arguments: Array | tuple[Array, ...]) -> Any:
    """Return the Array API namespace that all arrays of a call share.

    Pass the arrays by the caller's names for them. An object that is not an array, or is of another library than the
    first, is an `ArrayError`. The namespace is the library's own if its arrays name one (NumPy, JAX, array-api-strict),
    else array-api-compat's wrapper (CuPy, PyTorch).
    """
    xp = kind = first = None
    for name, value in arguments.items():
        for x in value if isinstance(value, tuple) else (value,):
            if type(x) is kind:
                continue
            found = _namespace_of(x, name)
            if xp is None:
                xp, kind, first = found, type(x), name
            elif found is not xp:
                if hasattr(kind, "is_noted") is hasattr(type(x), "is_noted"):
                    raise ArrayError(
                        f"{name} comes from {library_of(type(x))}, {first} from {library_of(kind)}: "
                        f"move {name} to the same library with get_backend(...).asarray(...)"
                    )
                if hasattr(type(x), "is_noted"):  # of a step that is being recorded; other values are its constants
                    xp, kind = found, type(x)
    return xp


def clipped(x: Array, low: float, high: float) -> Array:
    """Return x clipped to the bounds; NaN stays NaN.

    A step uses this instead of the standard's `clip`. CuPy's arrays get the one of array-api-compat, which indexes by a
    mask: the host waits for the device to count it.
    """
    xp = array_namespace(x=x)
    return xp.minimum(xp.maximum(x, low), high)


def float_name(dtype: Any) -> str:
    """Return a floating dtype's name, the same for every library."""
    return "float64" if "float64" in str(dtype) else "float32"


def library_of(kind: type | None) -> str:
    """Return the package of an array type, such as ``numpy``."""
    root = str(kind.__module__).partition(".")[0]
    return "jax" if root == "jaxlib" else root


def _namespace_of(x: Array, name: str) -> Any:
    try:
        return x.__array_namespace__()
    except AttributeError:
        import array_api_compat  # an import of 20 ms that NumPy, JAX and array-api-strict do not need

        try:
            return array_api_compat.array_namespace(x)
        except TypeError:
            raise ArrayError(
                f"{name} is a {type(x).__name__}, not an array: "
                "make it one of the network's library with get_backend(...).asarray(...)"
            ) from None
