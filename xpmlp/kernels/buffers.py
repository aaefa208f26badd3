"""A program as calls of NumPy's functions, each with ``out=``: in place, and in as little other memory as can be."""

from collections.abc import Iterator, Sequence

import numpy as np

from xpmlp.kernels.trace import Program, Symbol

FUNCTIONS = {"abs": "absolute"}
"""NumPy's names, where they are not the standard's."""


class _Memory:
    """Where each value of a program lies: in an array that is overwritten, in a new one, or in a scratch vector."""

    def __init__(self, program: Program, places: Sequence[str | None]) -> None:
        self._last = {id(symbol): k for k, step in enumerate(program.steps) for symbol in step.operands}
        self._last |= {id(output.value): len(program.steps) for output in program.outputs}
        self.of = {id(symbol): name for name, symbol in program.arrays.items()}
        self._wanted = {id(o.value): place for o, place in zip(program.outputs, places, strict=True) if place}
        self._kinds = {place: program.arrays[place].dtype for place in places if place in program.arrays}
        self._holders = {name: symbol for name, symbol in program.arrays.items() if name in self._kinds}
        self.scratch: list[tuple[str, np.dtype]] = []
        self._new = [place for place in places if place not in program.arrays]

    def take(self, symbol: Symbol, step: int) -> str:
        """Return where the result of a step goes."""
        wanted = self._wanted.get(id(symbol), "")
        if wanted in self._new:
            return self._put(symbol, wanted)
        operands = [self.of[id(o)] for o in symbol.operands if isinstance(o, Symbol) and id(o) in self.of]
        for name in (wanted, *operands, *self._kinds):
            if name in self._kinds and self._kinds[name] == symbol.dtype and self._is_free(name, step):
                return self._put(symbol, name)
        return self.extra(symbol.dtype, symbol)

    def extra(self, dtype: np.dtype, symbol: Symbol | None = None) -> str:
        """Return a new scratch vector."""
        name = f"x{len(self.scratch)}"
        self.scratch.append((name, dtype))
        self._kinds[name] = dtype
        return name if symbol is None else self._put(symbol, name)

    def _is_free(self, name: str, step: int) -> bool:
        holder = self._holders.get(name)
        return holder is None or self._last.get(id(holder), -1) <= step

    def _put(self, symbol: Symbol, name: str) -> str:
        self._holders[name] = symbol
        self.of[id(symbol)] = name
        return name


def source(name: str, program: Program, keywords: Sequence[str]) -> str:
    """Return a module with a function of a program's arrays and, by keyword, scalars and what was fixed.

    The module's namespace must have ``scratch(index, shape, dtype)``, which returns memory that nothing else uses
    meanwhile.
    """
    places = [output.place or f"r{k}" for k, output in enumerate(program.outputs)]
    memory = _Memory(program, places)
    values = {id(symbol): f"s{k}" for k, symbol in enumerate(program.scalars)}

    def code(symbol: Symbol) -> str:
        if symbol.operation == "number":
            return repr(symbol.operands[0])
        return values.get(id(symbol)) or memory.of[id(symbol)]

    def lines() -> Iterator[str]:
        for k, symbol in enumerate(program.steps):
            operands = [code(o) for o in symbol.operands]
            out = memory.take(symbol, k)
            if symbol.operation == "where" and operands[2] in ("0", "0.0"):
                # As bits: a product by the mask would keep a NaN, and np.where takes three times as long.
                kind = np.dtype(f"i{symbol.dtype.itemsize}")
                bits = memory.extra(kind)
                yield f"np.negative({operands[0]}.view(np.int8), out={bits}, dtype=np.{kind}, casting='unsafe')"
                yield f"np.bitwise_and({operands[1]}.view(np.{kind}), {bits}, out={out}.view(np.{kind}))"
            elif symbol.operation == "where":
                yield f"np.copyto({out}, np.where({', '.join(operands)}))"
            elif symbol.operation == "astype":
                yield f"np.copyto({out}, {operands[0]}, casting='unsafe')"
            else:
                function = FUNCTIONS.get(symbol.operation, symbol.operation)
                yield f"np.{function}({', '.join(operands)}, out={out})"
        found = [code(output.value) for output in program.outputs]
        moved = [(place, value) for place, value in zip(places, found, strict=True) if place != value]
        for k, (_, value) in enumerate(moved):
            if value in places:  # where another output may be copied to first
                yield f"y{k} = {value}.copy()"
        for k, (place, value) in enumerate(moved):
            yield f"np.copyto({place}, {f'y{k}' if value in places else value})"

    body = list(lines())
    first = next((output.place for output in program.outputs if output.place), None)
    arrays = list(program.arrays)
    shape = f"{first}.shape" if first else f"np.broadcast_shapes({', '.join(f'np.shape({a})' for a in arrays)})"
    head = [f"def {name}({', '.join([*arrays, *(['*', *keywords] if keywords else [])])}):", f"shape = {shape}"]
    head += [f"s{k} = {symbol.operands[0]}" for k, symbol in enumerate(program.scalars)]
    head += [f"{x} = scratch({k}, shape, np.{dtype})" for k, (x, dtype) in enumerate(memory.scratch)]
    fresh = [
        (place, output.value.dtype) for place, output in zip(places, program.outputs, strict=True) if not output.place
    ]
    head += [f"{place} = np.empty(shape, np.{dtype})" for place, dtype in fresh]
    return "\n    ".join([*head, *body, f"return {', '.join(places)}"]) + "\n"
