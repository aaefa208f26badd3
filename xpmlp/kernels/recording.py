"""Records the calls that a NumPy step makes, for `xpmlp.kernels.replay` to repeat."""

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from xpmlp.kernels import _numpy

_NONE: Mapping[str, Any] = MappingProxyType({})


class Unrecordable(Exception):
    """A step cannot be recorded."""


class Number:
    """A numeric argument of the step. Its value changes from call to call, so it may only be passed on."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, place: int, value: float) -> None:
        self.place, self.value = place, value

    def _refuse(self, *_: Any) -> Any:
        raise Unrecordable("a number is looked at")

    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __int__ = __float__ = __index__ = _refuse


def _binary(function: Any) -> tuple[Any, Any, Any]:
    def forward(self: "Noted", other: Any) -> Any:
        return self.recording.call(function, (self, other))

    def backward(self: "Noted", other: Any) -> Any:
        return self.recording.call(function, (other, self))

    def in_place(self: "Noted", other: Any) -> Any:
        if isinstance(self.value, np.generic):  # scalars are immutable: a new one is returned
            return self.recording.call(function, (self, other))
        return self.recording.call(function, (self, other, self))

    return forward, backward, in_place


class Noted:
    """An array of a step that is being recorded, with a value, so that all shapes and dtypes are known."""

    is_noted = True
    __array_ufunc__ = None  # NumPy's own arrays leave operators to it
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, recording: "Recording", value: Any, place: int) -> None:
        self.recording, self.value, self.place = recording, value, place

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return self.recording.namespace

    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    dtype = property(lambda self: self.value.dtype)
    device = property(lambda self: "cpu")
    mT = property(lambda self: self.recording.call(transposed, (self,)))

    def __getitem__(self, key: Any) -> Any:
        if any(getattr(getattr(part, "dtype", None), "kind", "") == "b" for part in leaves_of(key)):
            raise Unrecordable("a shape depends on values")
        return self.recording.call(operator.getitem, (self, key))

    def __neg__(self) -> Any:
        return self.recording.call(np.negative, (self,))

    def __abs__(self) -> Any:
        return self.recording.call(np.absolute, (self,))

    def _refuse(self, *_: Any) -> Any:
        raise Unrecordable("a value is looked at")

    __bool__ = __int__ = __float__ = __index__ = __len__ = __iter__ = __setitem__ = __array__ = _refuse

    __add__, __radd__, __iadd__ = _binary(np.add)
    __sub__, __rsub__, __isub__ = _binary(np.subtract)
    __mul__, __rmul__, __imul__ = _binary(np.multiply)
    __truediv__, __rtruediv__, __itruediv__ = _binary(np.divide)
    __pow__, __rpow__, __ipow__ = _binary(np.power)
    __matmul__, __rmatmul__, __imatmul__ = _binary(np.matmul)
    __lt__, __gt__, _ = _binary(np.less)
    __le__, __ge__, _ = _binary(np.less_equal)
    __eq__, _, _ = _binary(np.equal)
    __ne__, _, _ = _binary(np.not_equal)


def transposed(x: Any) -> Any:
    """Return x with its last two axes exchanged."""
    return x.mT


def cast(x: Any, dtype: Any, copy: bool = True) -> Any:
    """Return x in a dtype, which may be x itself."""
    return x.astype(dtype, copy=copy)


def total(x: Any, axis: Any = None, **keywords: Any) -> Any:
    """Return sums, as np.sum does in more Python."""
    return np.add.reduce(x, axis=axis, **keywords)


def greatest(x: Any, axis: Any = None, **keywords: Any) -> Any:
    """Return what is greatest, as np.max does in more Python."""
    return np.maximum.reduce(x, axis=axis, **keywords)


_SHORTER = {"astype": cast, "sum": total, "max": greatest, "matrix_transpose": transposed}
"""Direct replacements for NumPy functions that are written in Python."""

_OF_TYPES = ("isdtype", "result_type", "finfo", "iinfo")
"""Functions that compute on types only."""

_OF_VALUES = ("unique", "nonzero", "argwhere", "flatnonzero", "compress", "extract", "count_nonzero", "repeat")
"""Functions whose result's shape, or whose own arguments, depend on values."""

REDUCTIONS = {total: np.add.reduce, greatest: np.maximum.reduce}
"""Functions that take an ``out=``, by what is noted."""

VIEWS = {operator.getitem, np.reshape, transposed}
"""Functions whose result may be a view."""

SIGNS = {np.add: "+", np.subtract: "-", np.multiply: "*", np.divide: "/"}
"""Operators, which are faster than the function on scalars."""


class Namespace:
    """NumPy, each call of which is noted."""

    def __init__(self, recording: "Recording") -> None:
        self._recording = recording

    def __getattr__(self, name: str) -> Any:
        if name.startswith(_OF_VALUES):
            raise Unrecordable("a shape depends on values")
        found = _SHORTER.get(name) or getattr(np, name)
        if isinstance(found, type) or not callable(found) or name in _OF_TYPES:
            return found

        def call(*arguments: Any, **keywords: Any) -> Any:
            return self._recording.call(found, arguments, keywords)

        self.__dict__[name] = call
        return call


class Call(NamedTuple):
    """A call that was noted; what it was given and returned are trees of `Noted`, `Number` and anything else."""

    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    result: Any

    @property
    def places(self) -> set[int]:
        """The places of what it was given."""
        return {x.place for x in leaves_of((self.arguments, self.keywords)) if isinstance(x, Noted | Number)}

    @property
    def results(self) -> list[Noted]:
        """Its results."""
        return leaves_of(self.result)

    def with_(self, same: Mapping[int, Noted]) -> "Call":
        """Return the call with other arrays among what it is given."""
        return self._replace(arguments=exchanged(self.arguments, same), keywords=exchanged(self.keywords, same))

    def key(self) -> Any:
        """Return what is equal for calls that are the same."""
        return self.function, _key(self.arguments), _key(self.keywords)


class Recording:
    """The calls of one step. An argument, a constant and a result each have a place, which is a number."""

    def __init__(self) -> None:
        self.namespace = Namespace(self)
        self.calls: list[Call] = []
        self.values: list[Any] = []
        self.constants: set[int] = set()
        self._constants: dict[Any, Call] = {}
        self.arguments: set[int] = set()

    def note(self, value: Any) -> Noted:
        """Return a new place's array."""
        self.values.append(value)
        return Noted(self, value, len(self.values) - 1)

    def number(self, value: float) -> Number:
        """Return a new place's number."""
        self.values.append(value)
        return Number(len(self.values) - 1, value)

    def call(self, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any] = _NONE) -> Any:
        """Call a function, and note it."""
        noted = [x for x in leaves_of((arguments, keywords)) if isinstance(x, Noted | Number)]
        result = function(*values_of(arguments), **values_of(dict(keywords)))
        found = Call(function, arguments, dict(keywords), self._wrapped(result, noted))
        if noted:
            self.calls.append(found)
        else:  # of shapes and dtypes alone: the same in every call
            found = self._constants.setdefault(found.key(), found)
            self.constants |= {x.place for x in found.results}
        return found.result

    def call_elements(self, version: Any, arrays: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """Note the call of a function of elements, of the loop or calls that it is for these dtypes and shapes."""
        if hasattr(version, "version_for"):
            version = version.version_for(values_of(arrays), values_of(dict(keywords)))
        return self.call(version, arrays, keywords)

    def call_version(self, version: Any, arguments: tuple[Any, ...]) -> Any:
        """Note the call of an operation's version, of a small one the call that it makes."""
        if version is _numpy.product:
            A, B, out = arguments
            return self.call(np.matmul, (A, B) if out is None else arguments)
        if version is _numpy.column_sums:
            delta, out = arguments
            rows: dict[str, Any] = {"axis": -2, "keepdims": True}
            if out is None:
                return self.call(total, (delta,), rows)
            return self.call(np.add.reduce, (delta,), {**rows, "out": out})
        return self.call(version, arguments)

    def lean(self, returned: Any) -> tuple[list[Call], Any]:
        """Return the calls needed for the result, without duplicates, and the result in terms of them."""
        roots, once = self.roots(), list[Call]()
        self.calls = [
            call for call in self.calls if not (call.function is cast and call.results[0].place in call.places)
        ]
        changes = [{roots[x.place] for x in call.results if x.place in call.places} for call in self.calls]
        changed_last = {root: k for k, those in enumerate(changes) for root in those}
        if changed_last.keys() & self.constants:
            raise Unrecordable("a constant is changed")
        own = {roots[x.place] for x in leaves_of(returned) if isinstance(x, Noted)}
        seen: dict[Any, tuple[int, Call]] = {}
        same: dict[int, Noted] = {}
        for k, (call, changed) in enumerate(zip(self.calls, changes, strict=True)):
            call = call.with_(same)
            key = call.key()
            before = seen.get(key)
            of_memory = {roots[place] for place in call.places}
            stays = all(changed_last.get(roots[x.place], -1) < k and roots[x.place] not in own for x in call.results)
            if before and stays and not changed and not any(of_memory & those for those in changes[before[0] : k]):
                same |= {x.place: y for x, y in zip(call.results, before[1].results, strict=True)}
                continue
            if stays and not changed:
                seen[key] = k, call
            once.append(call)
        returned = exchanged(returned, same)
        live = {roots[x.place] for x in leaves_of(returned) if isinstance(x, Noted)} | self.arguments
        needed = list[Call]()
        for call in reversed(once):
            if live & {roots[x.place] for x in call.results}:
                live |= {roots[place] for place in call.places}
                needed.append(call)
        return needed[::-1], returned

    def roots(self) -> list[int]:
        """Return for each place the first one that has the same memory."""
        roots = list(range(len(self.values)))
        for call in self.calls:
            for x in call.results:
                if x.place not in call.places and isinstance(x.value, np.ndarray):
                    shared = [place for place in call.places if np.may_share_memory(x.value, self.values[place])]
                    roots[x.place] = roots[shared[0]] if shared else x.place
        return roots

    def _wrapped(self, result: Any, noted: list[Any]) -> Any:
        if isinstance(result, tuple):
            return tuple(self._wrapped(part, noted) for part in result)
        if not isinstance(result, np.ndarray | np.generic):
            raise Unrecordable(f"a {type(result).__name__} is computed")
        same = [x for x in noted if isinstance(x, Noted) and x.value is result]
        return same[0] if same else self.note(result)


def leaves_of(tree: Any) -> list[Any]:
    """Return what a tree of tuples, lists and dictionaries holds, in its order."""
    if isinstance(tree, tuple | list):
        return [leaf for part in tree for leaf in leaves_of(part)]
    if isinstance(tree, Mapping):
        return [leaf for part in tree.values() for leaf in leaves_of(part)]
    return [tree]


def mapped(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Return a tree with its leaves changed."""
    if isinstance(tree, tuple | list):
        parts = [mapped(part, function) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if isinstance(tree, dict):
        return {name: mapped(part, function) for name, part in tree.items()}
    return function(tree)


def _key(tree: Any) -> Any:
    """Return what is equal for trees that are the same to the last bit."""
    if isinstance(tree, tuple | list):
        return type(tree), *map(_key, tree)
    if isinstance(tree, Mapping):
        return tuple((name, _key(part)) for name, part in tree.items())
    if isinstance(tree, Noted | Number):
        return "place", tree.place
    if isinstance(tree, slice):
        return slice, _key(tree.start), _key(tree.stop), _key(tree.step)
    return ("array", id(tree)) if isinstance(tree, np.ndarray) else (type(tree), repr(tree))


def exchanged(tree: Any, same: Mapping[int, Noted]) -> Any:
    """Return a tree with other arrays in some places."""
    return mapped(tree, lambda leaf: same.get(leaf.place, leaf) if isinstance(leaf, Noted) else leaf)


def values_of(tree: Any) -> Any:
    """Return a tree with the values of what was noted."""
    return mapped(tree, lambda leaf: leaf.value if isinstance(leaf, Noted | Number) else leaf)
