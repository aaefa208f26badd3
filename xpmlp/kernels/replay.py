"""A recorded NumPy step: repeats its array calls without its Python code, which dominates small networks.

A recorded step is written out as one flat function. It makes the step's calls, without duplicates and without unused
ones. It writes results into memory that stays, and takes views of that memory only once. It is used for arguments of
the same shapes, strides and dtypes. First it must give the results of the step's own lines, to the last bit. A step
must be a function of its arguments. One that looks at a value is not recorded, and runs as it stands.
"""

import operator
import threading
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np

from xpmlp.kernels import _numpy
from xpmlp.kernels.recording import (
    REDUCTIONS,
    SIGNS,
    VIEWS,
    Call,
    Noted,
    Number,
    Recording,
    Unrecordable,
    cast,
    leaves_of,
    mapped,
    transposed,
)

_CALLS_BEFORE = 2
"""How often a step runs unrecorded for given shapes."""

_LARGE, _CALLS_MORE = 2 << 20, 50
"""Arguments of more bytes, and how many calls more come before: recording takes as long as four steps."""

_MOST_PROGRAMS = 32
"""Per step and thread; when full, all are dropped."""

_SMALL, _CALLS_AFTER = 8 << 20, 200
"""Bytes that a program may keep while its step is not used, and how many calls come before one that was dropped."""

_MOST_BYTES = 64 << 20
"""Bytes of memory that a program may have; where arrays are larger, Python's part of a step's time is small."""


class _Writer:
    """Writes a recording out as Python: ``bind``, of the arrays that are kept, returns ``run``, of all other arguments.

    An array *stays* if its memory does: a constant, a result that a function can be told to write, or a view of one.
    It is a name of the module. Views of kept arrays are taken in ``bind``; all else happens in ``run``.
    """

    def __init__(self, recording: Recording, calls: list[Call], kept: list[int]) -> None:
        self.space: dict[str, Any] = {"np": np}
        self._roots = recording.roots()
        self._kept, self._of_kept = kept, set(kept)
        self._stays: dict[int, Any] = {place: recording.values[place] for place in recording.constants}
        self._bind: list[str] = []
        self._run: list[str] = []
        for call in calls:
            self._write(call)

    def source(self, given: list[int], returned: Any) -> str:
        """Return the module."""
        kept, others = (", ".join(f"v{place}" for place in places) for places in (self._kept, given))
        lines = [f"def bind({kept}):", *(f"    {line}" for line in self._bind), f"    def run({others}):"]
        lines += [f"        {line}" for line in [*self._run, f"return {self._returned(returned)}"]]
        return "\n".join([*lines, "    return run"]) + "\n"

    def _write(self, call: Call) -> None:
        """Write a call where it belongs, or nothing if its result is known."""
        function, results, known = call.function, call.results, call.places
        noted = [x for x in leaves_of((call.arguments, call.keywords)) if isinstance(x, Noted)]
        result = results[0]
        is_new_array = len(results) == 1 and result.place not in known and result.ndim > 0
        if is_new_array and function in VIEWS and any(np.may_share_memory(result.value, x.value) for x in noted):
            if known <= self._stays.keys():
                self._stays[result.place] = result.value
                return
            if known <= self._stays.keys() | self._of_kept:
                self._of_kept.add(result.place)
                self._bind.append(f"v{result.place} = {self._call(call)}")
                return
        elif is_new_array and function is _numpy.new_gradient:
            self._stays[result.place] = result.value
            return
        elif is_new_array and function is cast:
            self._stays[result.place] = result.value
            self._run.append(f"np.copyto({self._code(result)}, {self._code(call.arguments[0])}, casting='unsafe')")
            return
        elif is_new_array and (isinstance(function, np.ufunc) or function in REDUCTIONS):
            self._stays[result.place] = result.value
            self._run.append(self._call(call, out=result))
            return
        elif is_new_array and _takes_into(function):
            self._stays[result.place] = result.value
            self._run.append(self._call(call, into=(result,)))
            return
        targets = ["_" if x.place in known else f"v{x.place}" for x in results]
        target = "" if all(x.place in known for x in results) else f"{', '.join(targets)} = "
        self._run.append(target + self._call(call))

    def _call(self, call: Call, **out: Any) -> str:
        """Return the code of a call."""
        function, keywords = call.function, {**call.keywords, **out}
        words = list(map(self._code, call.arguments))
        if function is operator.getitem:
            return f"{words[0]}[{self._key(call.arguments[1])}]"
        if function is transposed:
            return f"{words[0]}.mT"
        if function is np.reshape:
            return f"{words[0]}.reshape({', '.join(words[1:])})"
        if function is cast:
            return f"{words[0]}.astype({', '.join(words[1:])})"
        if function in SIGNS and len(words) == 2 and not keywords:
            return f"{words[0]} {SIGNS[function]} {words[1]}"
        if function in REDUCTIONS:
            function, keywords = REDUCTIONS[function], {"axis": None, **keywords}
        words += [f"{name}={self._code(value)}" for name, value in keywords.items()]
        return f"{self._code(function)}({', '.join(words)})"

    def _code(self, x: Any) -> str:
        """Return the code of an argument."""
        if isinstance(x, Noted | Number):
            if x.place in self._stays:
                self.space[f"v{x.place}"] = self._stays[x.place]
            return f"v{x.place}"
        if isinstance(x, tuple | list):
            parts = "".join(f"{self._code(part)}, " for part in x)
            return f"({parts})" if isinstance(x, tuple) else f"[{parts}]"
        if x is None or isinstance(x, bool | int | str) or (type(x) is float and np.isfinite(x)):
            return repr(x)
        name = f"k{len(self.space)}"
        self.space[name] = x
        return name

    def _key(self, key: Any) -> str:
        """Return the code of what stands in an array's brackets."""
        if isinstance(key, tuple):
            return "".join(f"{self._key(part)}, " for part in key)
        if isinstance(key, slice):
            parts = (key.start, key.stop, key.step)
            return ":".join("" if part is None else self._code(part) for part in parts)
        return "..." if key is Ellipsis else self._code(key)

    def _returned(self, tree: Any) -> str:
        """Return the code of what the step returns; arrays in memory that stays are copied."""
        if isinstance(tree, Noted):
            stays = {tree.place, self._roots[tree.place]} & self._stays.keys()
            return f"{self._code(tree)}.copy()" if stays else self._code(tree)
        if isinstance(tree, dict):
            return "{" + "".join(f"{name!r}: {self._returned(part)}, " for name, part in tree.items()) + "}"
        if isinstance(tree, list):
            return "[" + "".join(f"{self._returned(part)}, " for part in tree) + "]"
        if isinstance(tree, tuple):
            parts = "".join(f"{self._returned(part)}, " for part in tree)
            return f"{self._code(type(tree))}({parts})" if hasattr(tree, "_fields") else f"({parts})"
        return self._code(tree)


class Recorded:
    """A step that is recorded for each combination of its arguments' shapes and dtypes, in each thread by itself.

    Parameters
    ----------
    step : callable
        A function of tuples, dictionaries, NumPy's arrays and numbers.
    kept : sequence of int
        The positions of the arguments that are handed over; their arrays come back as the same objects.
    kernels : callable
        Returns the name of the kernels that run now.
    """

    def __init__(self, step: Callable[..., Any], kept: tuple[int, ...], kernels: Callable[[], str]) -> None:
        self.step, self._kept, self._kernels, self._thread = step, kept, kernels, threading.local()

    def __call__(self, *arguments: Any) -> Any:  # noqa: D102
        kernels, leaves = self._kernels(), list[Any]()
        if kernels == "plain":
            return self.step(*arguments)
        try:
            key = (kernels, *[_flatten(argument, leaves) for argument in arguments])
        except Unrecordable:
            return self.step(*arguments)
        programs = self._programs
        program = programs.get(key, 0)
        if key not in programs and sum(leaf.nbytes for leaf in leaves if isinstance(leaf, np.ndarray)) > _LARGE:
            program = -_CALLS_MORE
        if isinstance(program, int):
            if program < _CALLS_BEFORE:
                if len(programs) >= _MOST_PROGRAMS:
                    programs.clear()
                programs[key] = program + 1
                return self.step(*arguments)
            program = programs[key] = record(self.step, arguments, self._kept)
        return program(leaves) if program else self.step(*arguments)

    @property
    def _programs(self) -> dict[Any, "Program | int | None"]:
        """Programs of the current thread, by shapes. An int counts the calls so far; None rules a program out."""
        found: dict[Any, Program | int | None] = self._thread.__dict__
        return found

    def release(self) -> None:
        """Drop references to this thread's last arguments, and programs with large buffers."""
        for key, program in list(self._programs.items()):
            if isinstance(program, Program):
                program.forget()
                if program.n_bytes > _SMALL:
                    self._programs[key] = -_CALLS_AFTER


def _takes_into(function: Any) -> bool:
    """Return whether a function of elements can be given the memory of its result."""
    return isinstance(function, FunctionType) and "into" in function.__code__.co_varnames


def _flatten(value: Any, leaves: list[Any]) -> Any:
    """Add a tree's arrays and numbers to a list, and return what must be equal where a program fits."""
    kind = type(value)
    if kind is np.ndarray:
        leaves.append(value)
        return value.shape, value.dtype, value.strides
    if kind is float or kind is int:
        leaves.append(value)
        return kind
    if value is None or kind is bool or kind is str:
        return value
    if kind is dict:
        return kind, *[(name, _flatten(part, leaves)) for name, part in value.items()]
    if isinstance(value, tuple):
        return kind, *[_flatten(part, leaves) for part in value]
    if isinstance(value, np.generic):
        leaves.append(value)
        return kind
    raise Unrecordable(f"a {kind.__name__} among its arguments")


def record(step: Callable[..., Any], arguments: tuple[Any, ...], kept: tuple[int, ...]) -> "Program | None":
    """Return a program for arguments like these, or None if it would not reproduce the step's own results."""
    recording, places = Recording(), list[tuple[int, bool]]()

    def copies() -> tuple[Any, ...]:
        copy = partial(mapped, function=lambda leaf: leaf.copy(order="K") if isinstance(leaf, np.ndarray) else leaf)
        return tuple(copy(argument) if k in kept else argument for k, argument in enumerate(arguments))

    def run(program: Program, arguments: Any) -> Any:
        leaves: list[Any] = []
        _flatten(arguments, leaves)
        return program(leaves)

    def noted(value: Any, is_kept: bool) -> Any:
        is_array = isinstance(value, np.ndarray | np.generic)
        if not is_array and type(value) not in (float, int):
            return value
        x: Any = recording.note(value) if is_array else recording.number(value)
        places.append((x.place, is_kept and is_array and value.ndim > 0))
        recording.arguments.add(x.place)
        return x

    try:
        expected = step(*copies())
        given = [mapped(argument, partial(noted, is_kept=k in kept)) for k, argument in enumerate(copies())]
        program = Program(recording, places, step(*given))
        run(program, mapped(copies(), _halved))  # other values, of which nothing may be left
        is_same = _is_same(run(program, copies()), expected)
    except Exception:  # whatever it does that is more than calls of functions of arrays: it goes on as it stands
        return None
    program.forget()
    return program if is_same and program.n_bytes <= _MOST_BYTES else None


def _halved(leaf: Any) -> Any:
    """Return half of an array or number, and what has no half as it is."""
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f":
        return leaf * leaf.dtype.type(0.5)
    return type(leaf)(leaf * 0.5) if isinstance(leaf, float | np.floating) else leaf


def _is_same(found: Any, expected: Any) -> bool:
    """Return whether two trees hold the same bits."""
    pairs = list(zip(leaves_of(found), leaves_of(expected), strict=True))
    return all(type(x) is type(y) and _bits(x) == _bits(y) for x, y in pairs)


def _bits(x: Any) -> Any:
    array = np.asarray(x)
    return array.shape, array.dtype, array.tobytes()


def _base(value: Any) -> Any:
    """Return the array that has an array's memory."""
    while isinstance(value, np.ndarray) and isinstance(value.base, np.ndarray):
        value = value.base
    return value


class Program:
    """A recorded step as a function of its arguments' leaves, in their order.

    Attributes
    ----------
    text : str
        What it was compiled of.
    n_bytes : int
        How much memory stays.
    """

    def __init__(self, recording: Recording, places: list[tuple[int, bool]], returned: Any) -> None:
        kept, given = ([place for place, is_kept in places if is_kept is wanted] for wanted in (True, False))
        calls, returned = recording.lean(returned)
        writer = _Writer(recording, calls, kept)
        self.text, space = writer.source(given, returned), writer.space
        memory = {id(base): base.nbytes for base in map(_base, space.values()) if isinstance(base, np.ndarray)}
        self.n_bytes = sum(memory.values())
        exec(compile(self.text, "<a recorded step>", "exec"), space)
        self._bind: Callable[..., Any] = space["bind"]
        self._at_kept = [k for k, (_, is_kept) in enumerate(places) if is_kept]
        self._at_given = [k for k, (_, is_kept) in enumerate(places) if not is_kept]
        self.forget()

    def forget(self) -> None:
        """Let go of the arguments that it was called with."""
        self._bound: list[Any] = []
        self._run: Any = None

    def __call__(self, leaves: list[Any]) -> Any:
        """Return what the step returns."""
        kept = [leaves[k] for k in self._at_kept]
        if self._run is None or any(map(operator.is_not, kept, self._bound)):
            self._bound, self._run = kept, self._bind(*kept)
        return self._run(*[leaves[k] for k in self._at_given])
