"""NumPy's arrays: its own functions with ``out=``, in place and in as little other memory as can be."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from xpmlp.kernels import Elements
from xpmlp.kernels.trace import Program, Symbol

_memory = threading.local()
"""Each thread's scratch: the same memory from step to step stays in the cache."""


def compile_elements(function: Elements) -> Callable[..., Any]:
    """Return a function of elements as calls of NumPy's functions, written at the first call with new dtypes."""
    versions: dict[tuple[Any, ...], Callable[..., Any]] = {}
    fixed = function.fixed

    def version_for(arrays: Sequence[Any], keywords: Mapping[str, Any]) -> Callable[..., Any]:
        if not arrays[0].shape:  # single numbers are done before NumPy has looked at its out=
            return partial(function.function, np)
        key = tuple([array.dtype for array in arrays] + [keywords[name] for name in fixed])
        version = versions.get(key)
        if version is None:
            code = source(Program(function, [array.dtype for array in arrays], keywords))
            space: dict[str, Any] = {"np": np, "scratch": scratch}
            exec(compile(code, f"<{function.name} in place>", "exec"), space)
            version = versions[key] = space[function.name]
        return version

    def call(*arrays: Any, **keywords: Any) -> Any:
        return version_for(arrays, keywords)(*arrays, **keywords)

    call.version_for = version_for  # type: ignore[attr-defined]
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


FUNCTIONS = {"abs": "absolute"}
"""NumPy's names, where they are not the standard's."""


class _Memory:
    """Where each value of a program lies: in an array that is overwritten, in a new one, or in a scratch vector."""

    def __init__(self, program: Program) -> None:
        self._last = {id(symbol): k for k, step in enumerate(program.steps) for symbol in step.operands}
        self._last |= {id(value): len(program.steps) for value in program.outputs.values()}
        self._wanted = {id(value): name for name, value in program.outputs.items()}
        self._new = program.new
        self._holders = {name: program.arrays[name] for name in program.function.overwrites}
        self._kinds = {name: symbol.dtype for name, symbol in self._holders.items()}
        self.of = {id(symbol): name for name, symbol in program.arrays.items()}
        self.of |= {id(symbol): f"s{k}" for k, symbol in enumerate(program.scalars)}
        self.scratch: list[tuple[str, np.dtype]] = []

    def take(self, symbol: Symbol, step: int) -> str:
        """Return where the result of a step goes."""
        wanted = self._wanted.get(id(symbol), "")
        if wanted in self._new:
            return self._put(symbol, wanted)
        operands = [self.of[id(o)] for o in symbol.operands if isinstance(o, Symbol) and id(o) in self.of]
        for name in (wanted, *operands, *self._kinds):
            if name in self._kinds and self._kinds[name] == symbol.dtype and self._is_free(name, step):
                return self._put(symbol, name)
        return self._put(symbol, self.extra(symbol.dtype))

    def extra(self, dtype: np.dtype) -> str:
        """Return a new scratch vector."""
        name = f"x{len(self.scratch)}"
        self.scratch.append((name, dtype))
        self._kinds[name] = dtype
        return name

    def _is_free(self, name: str, step: int) -> bool:
        holder = self._holders.get(name)
        return holder is None or self._last.get(id(holder), -1) <= step

    def _put(self, symbol: Symbol, name: str) -> str:
        self._holders[name] = symbol
        self.of[id(symbol)] = name
        return name


def source(program: Program) -> str:
    """Return a module that defines a program's function again, as calls each with ``out=``; it takes `scratch`."""
    memory = _Memory(program)

    def code(symbol: Symbol) -> str:
        return repr(symbol.operands[0]) if symbol.operation == "number" else memory.of[id(symbol)]

    def lines() -> Iterator[str]:
        for k, symbol in enumerate(program.steps):
            operands = [code(o) for o in symbol.operands]
            out = memory.take(symbol, k)
            if symbol.operation == "where" and operands[2] in ("0", "0.0"):
                # As integers: a product of floats would keep a NaN, and np.where takes many times as long.
                kind = np.dtype(f"i{symbol.dtype.itemsize}")
                bits = f"{operands[1]}.view(np.{kind}), {operands[0]}.view(np.int8)"
                yield f"np.multiply({bits}, out={out}.view(np.{kind}))"
            elif symbol.operation == "where":
                yield f"np.copyto({out}, np.where({', '.join(operands)}))"
            elif symbol.operation == "astype":
                yield f"np.copyto({out}, {operands[0]}, casting='unsafe')"
            else:
                function = FUNCTIONS.get(symbol.operation, symbol.operation)
                yield f"np.{function}({', '.join(operands)}, out={out})"
        found = {place: code(value) for place, value in program.outputs.items()}
        moved = [(place, value) for place, value in found.items() if place != value]
        for k, (_, value) in enumerate(moved):
            if value in program.outputs:  # where another output may be copied to first
                yield f"y{k} = {value}.copy()"
        for k, (place, value) in enumerate(moved):
            yield f"np.copyto({place}, {f'y{k}' if value in program.outputs else value})"

    body = list(lines())
    arrays, overwritten = list(program.arrays), program.function.overwrites
    shapes = ", ".join(f"np.shape({array})" for array in arrays)
    shape = f"{overwritten[0]}.shape" if overwritten else f"np.broadcast_shapes({shapes})"
    head = [f"def {program.function.name}({parameters(program)}):", f"shape = {shape}"]
    head += [f"s{k} = {symbol.operands[0]}" for k, symbol in enumerate(program.scalars)]
    head += [f"{x} = scratch({k}, shape, np.{dtype})" for k, (x, dtype) in enumerate(memory.scratch)]
    head += [made(place, k, "shape", value.dtype) for k, (place, value) in enumerate(program.new.items())]
    return "\n    ".join([*head, *body, f"return {', '.join(program.outputs)}"]) + "\n"


def parameters(program: Program) -> str:
    """Return a function's parameters, with `into`: None, or arrays for what is new."""
    own = program.function.parameters
    return own if not program.new else f"{own}, into=None" if "*" in own else f"{own}, *, into=None"


def made(name: str, k: int, shape: str, dtype: Any) -> str:
    """Return the line that makes a new result, or takes that of `into`."""
    return f"{name} = np.empty({shape}, np.{dtype}) if into is None else into[{k}]"


def new_gradient(theta: np.ndarray) -> np.ndarray:
    return np.empty_like(theta)


def product(A: Any, B: np.ndarray, out: np.ndarray | None) -> Any:
    if out is None:
        return A @ B
    if isinstance(A, np.ndarray):
        return np.matmul(A, B, out=out)
    out[...] = A @ B  # SciPy's sparse matrices have no out=
    return out


def column_sums(delta: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    sums: np.ndarray = np.add.reduce(delta, axis=-2, keepdims=True, out=out)
    return sums
