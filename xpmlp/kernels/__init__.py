"""Choose the version of an operation for an array library, inside the operation.

There are two kinds. A *function of elements* (`elements`) is written once, and small compilers write it out for
NumPy, numba and CuPy. A *named operation* (`operation`) is written in plain terms, and again by hand where a library
does it faster.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, TypeVar

from xpmlp.errors import ConfigError, expected_one_of
from xpmlp.namespaces import array_namespace, library_of

Operation = TypeVar("Operation", bound=Callable[..., Any])

KERNELS = ("auto", "plain", "inplace", "compiled")
"""``plain``: the lines as they stand. ``compiled``: by numba on NumPy's arrays, by CUDA's compiler on CuPy's, by jit
on JAX's, PyTorch's fused operations. ``inplace``: on NumPy's arrays its own functions, in place; on others as
``compiled``. ``auto``: compiled, but for NumPy's arrays where numba is not installed."""

_FILES = {
    ("numpy", "inplace"): ("_numpy",),
    ("numpy", "exact"): ("_exact", "_numpy"),
    ("numpy", "compiled"): ("_numba", "_numpy"),
    **{
        (name, kernels): (f"_{name}",)
        for name in ("cupy", "jax", "torch")
        for kernels in ("inplace", "exact", "compiled")
    },
}
"""The files that have versions for a library's arrays, the best first."""

_WORTH_NUMBA = 5e8
"""Parameters and activations, times steps, from which on numba saves more time than its import takes."""

_kernels: ContextVar[str] = ContextVar("kernels", default="inplace")


def resolve_kernels(name: str, library: str | None = None) -> str:
    """Resolve one of `KERNELS` on this machine, for a library if known; refuse other names."""
    if name not in KERNELS:
        raise ConfigError(f"unknown kernels {name!r}: {expected_one_of(name, KERNELS)}")
    has_numba = importlib.util.find_spec("numba") is not None
    if name == "compiled" and library == "numpy" and not has_numba:
        raise ConfigError(
            "kernels compiled: numba is not installed: pip install 'xpmlp[fast]', or take kernels inplace"
        )
    return name if name != "auto" else "compiled" if has_numba else "inplace"


@contextmanager
def kernels(name: str, library: str | None = None) -> Iterator[None]:
    """Let one of `KERNELS` run in this thread while the context is entered; outside of it, it is ``inplace``."""
    token = _kernels.set(resolve_kernels(name, library))
    try:
        yield
    finally:
        _kernels.reset(token)


@contextmanager
def exact_kernels(element_steps: float) -> Iterator[None]:
    """Let numba compile what it computes to NumPy's last bit, in long work: so many numbers a step, times steps.

    Its import takes half a second to a second. Where numba is missing or other kernels were chosen, nothing changes.
    """
    is_worth_it = "numba" in sys.modules or element_steps > _WORTH_NUMBA
    if _kernels.get() != "inplace" or not is_worth_it or importlib.util.find_spec("numba") is None:
        yield
        return
    token = _kernels.set("exact")
    try:
        yield
    finally:
        _kernels.reset(token)


def recorded(step: Callable[..., Any], donate: tuple[int, ...] = ()) -> Callable[..., Any]:
    """Return a step of NumPy's arrays that is recorded and repeated without its Python, unless kernels are plain.

    `donate` has the positions of the arguments that are overwritten.
    """
    from xpmlp.kernels.replay import Recorded

    return Recorded(step, donate, _kernels.get)


def are_plain() -> bool:
    """Return whether the code runs unchanged, so that nothing is compiled."""
    return _kernels.get() == "plain"


def operation(decisive: int = 0) -> Callable[[Operation], Operation]:
    """Let a function run in the version of the library of one argument, the decisive: an array, or a tuple of them."""

    def decorate(plain: Operation) -> Operation:
        found: dict[tuple[type, str], Callable[..., Any]] = {}

        @wraps(plain)
        def choose(*arguments: Any) -> Any:
            array = arguments[decisive]
            first = array[0] if type(array) is tuple else array
            key = type(first), _kernels.get()
            version = found.get(key)
            if version is None:
                if hasattr(first, "is_noted"):
                    return _note(plain, first, arguments)
                version = found[key] = _find(*key, plain.__name__) or plain
            return version(*arguments)

        return choose  # type: ignore[return-value]

    return decorate


class Elements:
    """A function of elements: written once, compiled for the library of its arguments.

    Its arguments are a namespace, arrays that broadcast, and keywords. It returns an array or a tuple of arrays. A
    keyword is a scalar (a number, or an array that broadcasts), unless it is `fixed`. A fixed keyword is a switch or a
    dtype; the function is compiled for each value. If the library's arrays are writable, the first outputs overwrite
    the arrays that `overwrites` names. The other outputs are new arrays.
    """

    def __init__(self, function: Callable[..., Any], overwrites: tuple[str, ...], fixed: tuple[str, ...]) -> None:
        self.function, self.overwrites, self.fixed = function, overwrites, fixed
        self.name, self.__doc__, self.__wrapped__ = function.__name__, function.__doc__, function
        code = function.__code__
        self.arrays = list(code.co_varnames[1 : code.co_argcount])  # behind the namespace
        self.keywords = list(code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount])
        self.scalars = [name for name in self.keywords if name not in fixed]
        self.parameters = ", ".join([*self.arrays, *(["*", *self.keywords] if self.keywords else [])])
        self._versions: dict[tuple[type, str], Callable[..., Any]] = {}

    def __call__(self, *arrays: Any, **keywords: Any) -> Any:  # noqa: D102
        first, kernels = arrays[0], _kernels.get()
        version = self._versions.get((type(first), kernels))
        if version is None:
            if hasattr(first, "is_noted"):
                return first.recording.call_elements(self._find_version(type(first.value), kernels), arrays, keywords)
            version = self._find_version(type(first), kernels)
        return version(*arrays, **keywords)

    def _find_version(self, kind: type, kernels: str) -> Callable[..., Any]:
        if (kind, kernels) not in self._versions:
            compiler = _find(kind, kernels, "compile_elements")
            version = _find(kind, kernels, self.name) or (compiler(self) if compiler else self.plain)
            self._versions[kind, kernels] = version
        return self._versions[kind, kernels]

    def plain(self, *arrays: Any, **keywords: Any) -> Any:
        """Run the code unchanged."""
        return self.function(array_namespace(**dict(zip(self.arrays, arrays, strict=True))), *arrays, **keywords)


def elements(*overwrites: str, fixed: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Elements]:
    """Decorate a function of elements; see `Elements`."""
    return lambda function: Elements(function, overwrites, fixed)


def _note(plain: Callable[..., Any], noted: Any, arguments: tuple[Any, ...]) -> Any:
    """Note the call of an operation of a step that is being recorded: of its version, or of what its lines call."""
    version = _find(type(noted.value), _kernels.get(), plain.__name__)
    return noted.recording.call_version(version, arguments) if version else plain(*arguments)


def _find(kind: type, kernels: str, name: str) -> Callable[..., Any] | None:
    """Return what the best file for a type of arrays has under a name; None where none of them has it."""
    for file in _FILES.get((library_of(kind), kernels), ()):
        module = importlib.import_module(f"{__name__}.{file}")
        if hasattr(module, name):
            return getattr(module, name)  # type: ignore[no-any-return]
    return None
