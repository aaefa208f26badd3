"""A function of elements, called with symbols: what it computes, as a list of operations that a compiler can write out.

Symbols have dtypes, and a number beside one takes its, as in the Array API. Computations with only scalars stay on the
host, in float64. Their result is another argument of the kernel: in float32, 1 − 0.999 would be wrong in the fifth
digit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from xpmlp.kernels import Elements

UNARY = ("abs", "exp", "expm1", "log", "log1p", "negative", "sqrt", "tanh")
ARITHMETIC = ("add", "subtract", "multiply", "divide", "maximum", "minimum")
COMPARISONS = ("less", "less_equal", "greater", "greater_equal")
OPERATORS = {
    "add": ("add", "+"),
    "sub": ("subtract", "-"),
    "mul": ("multiply", "*"),
    "truediv": ("divide", "/"),
    "lt": ("less", "<"),
    "le": ("less_equal", "<="),
    "gt": ("greater", ">"),
    "ge": ("greater_equal", ">="),
}
"""Python's names of the operators that a symbol has, the standard's, and their signs."""

INFIX = {"negative": "-{0}", **{name: f"{{0}} {sign} {{1}}" for name, sign in OPERATORS.values()}}
"""What Python and C++ write alike."""


class Scalar:
    """A number that the host computes before each call: an expression in Python of the function's scalars."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __neg__(self) -> "Scalar":
        return Scalar(f"(-{self.code})")


class Symbol:
    """An element that is not there yet, noted in a program.

    Its operation is a function of the standard, and its operands are symbols. Or it is an ``array``: a parameter of the
    traced function, by its name. Or it is a ``scalar``, by the expression that the host computes, or a ``number``, a
    constant.
    """

    __array_ufunc__ = None  # a NumPy number on the left leaves the operator to the symbol

    def __init__(self, program: "Program", dtype: np.dtype, operation: str, operands: tuple[Any, ...]) -> None:
        self.program, self.dtype, self.operation, self.operands = program, dtype, operation, operands

    def __neg__(self) -> "Symbol":
        return self.program.negative(self)

    def __abs__(self) -> "Symbol":
        return self.program.abs(self)

    def __bool__(self) -> bool:
        raise TypeError("a function of elements cannot ask whether an element is true: use where")


class Program:
    """The namespace that a function of elements is traced with, for arrays of these dtypes, and what was noted.

    Of the keywords that the function is called with, the trace is for the fixed ones.
    """

    def __init__(self, function: Elements, dtypes: Sequence[np.dtype], keywords: Mapping[str, Any]) -> None:
        self.function = function
        self._noted: dict[tuple[Any, ...], Symbol] = {}
        named = zip(function.arrays, dtypes, strict=True)
        self.arrays = {name: self._note(dtype, "array", name) for name, dtype in named}
        scalars = {name: Scalar(name) for name in function.scalars}
        fixed = {name: keywords[name] for name in function.fixed}
        returned = function.function(self, *self.arrays.values(), **scalars, **fixed)
        values = returned if isinstance(returned, tuple) else (returned,)
        names = [*function.overwrites, *(f"r{k}" for k in range(len(function.overwrites), len(values)))]
        self.outputs: dict[str, Symbol] = dict(zip(names, values, strict=True))
        """By the arrays that they overwrite, or the names of new ones."""
        self.new = {name: value for name, value in self.outputs.items() if name not in self.arrays}
        used = {id(value) for value in values}
        for symbol in reversed(self._noted.values()):  # each was noted behind its operands
            if id(symbol) in used:
                used |= {id(operand) for operand in symbol.operands}
        noted = [symbol for symbol in self._noted.values() if id(symbol) in used]
        self.scalars = [symbol for symbol in noted if symbol.operation == "scalar"]
        self.steps = [symbol for symbol in noted if symbol.operation not in ("array", "scalar", "number")]
        """What is computed, in an order that can be followed."""

    def where(self, condition: Symbol, one: Any, other: Any) -> Symbol:
        """Return one where the condition is true, and the other where it is not."""
        one, other = self._alike("where", one, other)
        return self._note(one.dtype, "where", condition, one, other)

    def isfinite(self, x: Symbol) -> Symbol:
        """Return whether an element is neither infinite nor NaN."""
        return self._note(np.dtype(bool), "isfinite", x)

    def astype(self, x: Symbol, dtype: Any) -> Symbol:
        """Return an element as another type."""
        return x if x.dtype == dtype else self._note(np.dtype(dtype), "astype", x)

    float32, float64, int32 = np.dtype("float32"), np.dtype("float64"), np.dtype("int32")

    def __getattr__(self, name: str) -> Callable[..., Symbol]:
        if name in UNARY:
            return lambda x: self._note(x.dtype, name, x)
        if name in ARITHMETIC or name in COMPARISONS:
            return lambda one, other: self._binary(name, one, other)
        raise AttributeError(f"a function of elements has no {name}: {__name__} knows those that it may use")

    def _binary(self, name: str, one: Any, other: Any) -> Symbol:
        one, other = self._alike(name, one, other)
        return self._note(np.dtype(bool) if name in COMPARISONS else one.dtype, name, one, other)

    def _alike(self, name: str, *operands: Any) -> list[Symbol]:
        """Return operands as symbols of one dtype: a number or a scalar takes that of the symbol beside it."""
        dtypes = {operand.dtype for operand in operands if isinstance(operand, Symbol)}
        if len(dtypes) != 1:
            raise TypeError(
                f"{name} of {' and '.join(map(str, dtypes)) or 'numbers alone'}: expected one dtype, see astype"
            )
        (dtype,) = dtypes
        found = []
        for operand in operands:
            if not isinstance(operand, Symbol):
                code = operand.code if isinstance(operand, Scalar) else dtype.type(operand).item()
                kind = "scalar" if isinstance(operand, Scalar) else "number"
                if dtype.kind != "f" and not (dtype.kind == "i" and type(operand) is int):
                    raise TypeError(f"{name} of {dtype} and {operand!r}: expected numbers of its kind")
                operand = self._note(dtype, kind, code)
            found.append(operand)
        return found

    def _note(self, dtype: np.dtype, operation: str, *operands: Any) -> Symbol:
        # repr tells −0.0 from 0.0 and is the same for every NaN.
        key = dtype, operation, *(id(x) if isinstance(x, Symbol) else repr(x) for x in operands)
        if key not in self._noted:
            self._noted[key] = Symbol(self, dtype, operation, operands)
        return self._noted[key]


def _operator(name: str, swapped: bool) -> Callable[[Any, Any], Any]:
    """Return the method of `Symbol` for an operator; swapped: the one for its right-hand side."""

    def method(self: Any, other: Any) -> Any:
        one, another = (other, self) if swapped else (self, other)
        return self.program._binary(name, one, another)

    return method


def _scalar_operator(sign: str, swapped: bool) -> Callable[[Any, Any], Any]:
    def method(self: Scalar, other: Any) -> Any:
        if isinstance(other, Symbol):
            return NotImplemented
        code = other.code if isinstance(other, Scalar) else repr(other)
        return Scalar(f"({code} {sign} {self.code})" if swapped else f"({self.code} {sign} {code})")

    return method


for _python, (_standard, _sign) in OPERATORS.items():
    setattr(Symbol, f"__{_python}__", _operator(_standard, swapped=False))
    if _standard in ARITHMETIC:
        setattr(Symbol, f"__r{_python}__", _operator(_standard, swapped=True))
        setattr(Scalar, f"__{_python}__", _scalar_operator(_sign, swapped=False))
        setattr(Scalar, f"__r{_python}__", _scalar_operator(_sign, swapped=True))
