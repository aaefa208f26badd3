"""A program in C++, for the body of a CUDA kernel: a line an operation."""

import numpy as np

from xpmlp.kernels.trace import INFIX, Program, Symbol

TYPES = {
    "bool": "bool",
    "uint8": "unsigned char",
    "int32": "int",
    "int64": "long long",
    "float32": "float",
    "float64": "double",
}

EXPRESSIONS = {
    **INFIX,
    "maximum": "{0} >= {1} || {0} != {0} ? {0} : {1}",  # in this order a NaN on either side stays one
    "minimum": "{0} <= {1} || {0} != {0} ? {0} : {1}",
    "where": "{0} ? {1} : {2}",
    "abs": "fabs({0})",
    **{name: f"{name}({{0}})" for name in ("exp", "isfinite", "log", "log1p", "sqrt", "tanh")},
}


def body(program: Program) -> str:
    """Return the statements that compute a program's outputs, and store them under their names."""
    names = {id(symbol): name for name, symbol in program.arrays.items()}
    names |= {id(symbol): f"s{k}" for k, symbol in enumerate(program.scalars)}
    lines = []

    def code(symbol: Symbol) -> str:
        return _number(symbol) if symbol.operation == "number" else names[id(symbol)]

    for k, symbol in enumerate(program.steps):
        kind, names[id(symbol)] = TYPES[symbol.dtype.name], f"t{k}"
        expression = f"({kind}){{0}}" if symbol.operation == "astype" else EXPRESSIONS[symbol.operation]
        lines.append(f"const {kind} t{k} = {expression.format(*map(code, symbol.operands))};")
    lines += [f"{name} = {code(value)};" for name, value in program.outputs.items()]
    return "\n".join(lines)


def _number(symbol: Symbol) -> str:
    (value,) = symbol.operands
    if not np.isfinite(value):
        raise TypeError(f"{value} in a function of elements: expected finite numbers")
    return f"{TYPES[symbol.dtype.name]}({value!r})"
