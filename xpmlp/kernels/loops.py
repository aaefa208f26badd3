"""A program as a loop in Python, for numba to compile: a line an operation, one pass over all arrays."""

import math
from collections.abc import Sequence

import numpy as np

from xpmlp.kernels.trace import INFIX, Program, Symbol

EXPRESSIONS = {
    **INFIX,
    "maximum": "{0} if {0} >= {1} or {0} != {0} else {1}",  # in this order a NaN on either side stays one
    "minimum": "{0} if {0} <= {1} or {0} != {0} else {1}",
    "where": "{1} if {0} else {2}",
    **{name: f"np.{name}({{0}})" for name in ("abs", "exp", "expm1", "isfinite", "log", "log1p", "sqrt", "tanh")},
}

# Against a number, which is no NaN, a comparison is enough, and LLVM makes vectors of it.
AGAINST_A_NUMBER = {"maximum": "{1} if {0} < {1} else {0}", "minimum": "{1} if {0} > {1} else {0}"}


def source(program: Program, patterns: Sequence[str], scalars: Sequence[str]) -> str:
    """Return a module that defines the loop, of a program's arrays, its new outputs and its scalars.

    Patterns place the arrays and the scalars in the loop's axes, with one letter per axis. The letter is ``i`` if the
    array has the axis, and ``1`` if it has one element there, which broadcasts. A scalar's pattern is empty if it is
    one number; new outputs have all axes.
    """
    pattern_of = dict(zip(program.arrays, patterns, strict=True))
    axes = max((len(pattern) for pattern in patterns), default=1)
    whole = "i" * axes
    shaped = next(name for name in (*program.arrays, *program.new) if pattern_of.get(name, whole) == whole)
    names = {id(symbol): f"_e_{array}" for array, symbol in program.arrays.items()}
    for k, (symbol, pattern) in enumerate(zip(program.scalars, scalars, strict=True)):
        names[id(symbol)] = f"s{k}[{_index(pattern)}]" if pattern else f"s{k}"
    constants: list[str] = []
    lines: list[str] = []

    def code(symbol: Symbol) -> str:
        if symbol.operation == "number" and id(symbol) not in names:
            names[id(symbol)] = f"c{len(constants)}"
            constants.append(f"c{len(constants)} = np.{symbol.dtype.name}({symbol.operands[0]!r})")
        return names[id(symbol)]

    used = [*program.outputs.values(), *(operand for step in program.steps for operand in step.operands)]
    read = [array for array, symbol in program.arrays.items() if any(symbol is other for other in used)]
    lines += [f"_e_{array} = _{array}[{_index(pattern_of[array])}]" for array in read]
    for k, symbol in enumerate(program.steps):
        operands = [code(operand) for operand in symbol.operands]
        if symbol.operation == "astype":
            expression = f"np.{symbol.dtype.name}({{0}})" if symbol.dtype != np.dtype(bool) else "{0} != 0"
        elif symbol.operation in AGAINST_A_NUMBER and symbol.operands[1].operation == "number":
            expression = AGAINST_A_NUMBER[symbol.operation]
        else:
            expression = EXPRESSIONS[symbol.operation]
        names[id(symbol)] = f"t{k}"
        lines.append(f"t{k} = {expression.format(*operands)}")
    for name, value in program.outputs.items():
        lines.append(f"_{name}[{_index(pattern_of.get(name, whole))}] = {code(value)}")
    parameters = [f"_{array}" for array in (*program.arrays, *program.new)]
    parameters += [f"s{k}" for k in range(len(program.scalars))]
    head = [f"def {program.function.name}({', '.join(parameters)}):"]
    head += [f"{'    ' * (axis + 1)}for i{axis} in range(_{shaped}.shape[{axis}]):" for axis in range(axes)]
    inner = "    " * (axes + 1)
    return "\n".join(["import numpy as np", *constants, "", *head, *(inner + line for line in lines), ""])


def merged(shapes: Sequence[tuple[int, ...]]) -> tuple[list[str], list[tuple[int, ...]]]:
    """Return how arrays that broadcast lie in as few axes as can be, and their shapes in these.

    Neighbouring axes that all arrays have, or that the same ones lack, are one: of arrays of one shape a single axis
    is left.
    """
    whole = np.broadcast_shapes(*shapes)
    padded = [(1,) * (len(whole) - len(shape)) + tuple(shape) for shape in shapes]
    has = [tuple(shape[axis] == length for shape in padded) for axis, length in enumerate(whole)]
    groups: list[list[int]] = []
    for axis, length in enumerate(whole):
        if length == 1:
            continue  # all arrays have one element there
        if groups and has[axis] == has[groups[-1][-1]]:
            groups[-1].append(axis)
        else:
            groups.append([axis])

    def lengths(shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(math.prod(shape[axis] for axis in group) for group in groups or [[]])

    reshaped = [lengths(shape) for shape in padded]
    patterns = [
        "".join("i" if length == full else "1" for length, full in zip(given, lengths(whole), strict=True))
        for given in reshaped
    ]
    return patterns, reshaped


def _index(pattern: str) -> str:
    return ", ".join(f"i{axis}" if letter == "i" else "0" for axis, letter in enumerate(pattern))
