"""The small compiler: what is written out of a function of elements is that function, whatever it says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpmlp.kernels import Elements, _numpy, elements, kernels, loops
from xpmlp.kernels.trace import ARITHMETIC, COMPARISONS, UNARY, Program

ARRAYS, SCALARS = ("a", "b", "c"), ("s", "t")
SHAPES = {"a": (3, 4), "b": (1, 4), "c": (3, 1)}

numbers = st.sampled_from([-1.5, -1.0, 0.0, 0.5, 2, 3])
scalars = st.one_of(
    st.sampled_from(SCALARS),
    st.tuples(st.sampled_from("+-*"), numbers, st.sampled_from(SCALARS)).map(lambda x: f"({x[1]} {x[0]} {x[2]})"),
)
leaves = st.sampled_from(ARRAYS)


def grow(inner):
    """Return expressions of smaller ones: at least one operand of each is of elements."""
    other = st.one_of(inner, scalars, numbers.map(repr))
    pairs = st.one_of(st.tuples(inner, other), st.tuples(other, inner))
    condition = st.tuples(st.sampled_from(COMPARISONS), pairs).map(lambda x: f"xp.{x[0]}({x[1][0]}, {x[1][1]})")
    return st.one_of(
        st.tuples(st.sampled_from(UNARY), inner).map(lambda x: f"xp.{x[0]}({x[1]})"),
        st.tuples(st.sampled_from(ARITHMETIC), pairs).map(lambda x: f"xp.{x[0]}({x[1][0]}, {x[1][1]})"),
        st.tuples(st.sampled_from("+-*/"), pairs).map(lambda x: f"({x[1][0]} {x[0]} {x[1][1]})"),
        st.tuples(condition, pairs).map(lambda x: f"xp.where({x[0]}, {x[1][0]}, {x[1][1]})"),
        inner.map(lambda x: f"xp.where(xp.isfinite({x}), {x}, 1.0)"),
        inner.map(lambda x: f"abs(-{x})"),
    )


expressions = st.recursive(leaves, grow, max_leaves=6)
functions = st.tuples(expressions, expressions, st.booleans())


def made(text):
    """Return a function of elements of two expressions, the first of which overwrites `a`."""
    first, second, with_second = text
    body = f"return {first}, {second}" if with_second else f"return {first}"
    space = {}
    exec(f"def f(xp, a, b, c, *, s, t):\n    a = a + 0 * b + 0 * c\n    {body}", space)  # of the whole shape
    return space["f"]


def values(dtype):
    rng = np.random.default_rng(0)
    found = {name: rng.standard_normal(SHAPES[name]).astype(dtype) for name in ARRAYS}
    found["a"][0, :3], found["b"][0, 3] = (0.0, np.nan, np.inf), -0.0
    return found


def require_equal(found, expected, dtype):
    pairs = zip(*((x if isinstance(x, tuple) else (x,)) for x in (found, expected)), strict=True)
    for ours, value in pairs:
        value = np.broadcast_to(np.asarray(value, dtype), SHAPES["a"])
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, value, rtol={"float32": 2e-5, "float64": 1e-12}[dtype], atol=1e-30)


def plainly(function, dtype):
    given = values(dtype)
    return function(np, *(given[name].copy() for name in ARRAYS), s=0.3, t=-2.0)


@pytest.fixture(autouse=True)
def quiet():
    with np.errstate(all="ignore"):
        yield


ALONE = [f"xp.{name}({a}, {b})" for name in ARITHMETIC for a, b in (("a", "b"), ("b", "a"), ("a", "0.5"))]
ALONE += [f"xp.{name}(a)" for name in UNARY] + [f"xp.where(xp.{name}(a, b), a, b)" for name in COMPARISONS]


class TestInPlace:
    @settings(max_examples=300)
    @given(text=functions, dtype=st.sampled_from(["float32", "float64"]))
    def test_it_is_the_function(self, text, dtype):
        function = made(text)
        with np.errstate(all="ignore"), kernels("inplace"):
            given = values(dtype)
            found = Elements(function, ("a",), ())(*(given[name] for name in ARRAYS), s=0.3, t=-2.0)
            require_equal(found, plainly(function, dtype), dtype)
        first = found[0] if isinstance(found, tuple) else found
        assert first is given["a"], "the result lies where it was asked for"
        assert all(np.array_equal(given[name], values(dtype)[name], equal_nan=True) for name in ("b", "c"))

    def test_outputs_may_change_places(self):
        function = elements("a", "b")(lambda_of("a, b", "b, a"))
        a, b = np.zeros(3), np.ones(3)
        function(a, b)
        assert (a.tolist(), b.tolist()) == ([1.0] * 3, [0.0] * 3)

    def test_it_takes_little_memory(self):
        """Adam needs one vector beside its own; each other would be a pass over memory more."""
        from xpmlp.math.elements import adam_step

        program = Program(adam_step, [np.dtype("float32")] * len(adam_step.arrays), {})
        code = _numpy.source(program)
        assert code.count("scratch(") == 1
        assert code.count("np.empty(") == code.count("np.copyto(") == 0

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_relu_and_its_derivative_are_the_plain_lines(self, dtype):
        """Zeros of either sign, infinities, NaN and numbers that are nearly zero, each beside each."""
        from xpmlp.kernels import kernels
        from xpmlp.math.elements import bias_relu, relu_backward

        few = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, np.finfo(dtype).tiny / 4, -1e-30], dtype)
        Z, b = np.meshgrid(few, few, indexing="ij")
        for function, arrays in ((bias_relu, (Z, b[:1])), (relu_backward, (np.maximum(Z, 0), b))):
            results = []
            for name in ("plain", "inplace"):
                with kernels(name), np.errstate(invalid="ignore"):
                    results.append(function(*(array.copy() for array in arrays)))
            assert np.array_equal(*results, equal_nan=True)
            assert np.isnan(results[0]).any()


class TestLoops:
    @settings(max_examples=100)
    @given(text=functions, dtype=st.sampled_from(["float32", "float64"]))
    def test_as_python_runs_them_they_are_the_function(self, text, dtype):
        require_loop(made(text), dtype)

    def test_each_operation_alone(self):
        require_loop(all_of(ALONE), "float64")

    @pytest.mark.needs(module="numba")
    @settings(max_examples=8)
    @given(text=functions, dtype=st.sampled_from(["float32", "float64"]))
    def test_as_numba_compiles_them_they_are_the_function(self, text, dtype):
        require_compiled(made(text), dtype, np.copy, np.asarray)

    @pytest.mark.needs(module="numba")
    def test_a_scalar_may_be_one_number_a_network(self):
        function = elements("theta")(lambda_of("theta, g, *, rate", "theta - (1 - rate) * g"))
        theta, g, rates = np.ones((3, 5)), np.ones((3, 5)), np.array([[0.0], [0.5], [1.0]])
        with kernels("compiled"):
            assert function(theta, g, rate=rates)[:, 0].tolist() == [0.0, 0.5, 1.0]

    @pytest.mark.parametrize(
        ("shapes", "patterns", "merged"),
        [
            ([(3, 4), (3, 4)], ["i", "i"], [(12,), (12,)]),
            ([(3, 4), (1, 4)], ["ii", "1i"], [(3, 4), (1, 4)]),
            ([(3, 4), (4,)], ["ii", "1i"], [(3, 4), (1, 4)]),
            ([(2, 3, 4), (2, 1, 4)], ["iii", "i1i"], [(2, 3, 4), (2, 1, 4)]),
            ([(2, 3, 4), (2, 1, 1)], ["ii", "i1"], [(2, 12), (2, 1)]),
            ([(2, 3, 4), (1, 1, 4), (2, 3, 4)], ["ii", "1i", "ii"], [(6, 4), (1, 4), (6, 4)]),
            ([(5, 1), (1, 1)], ["i", "1"], [(5,), (1,)]),
            ([(), ()], ["i", "i"], [(1,), (1,)]),
        ],
    )
    def test_axes_are_as_few_as_can_be(self, shapes, patterns, merged):
        assert loops.merged(shapes) == (patterns, merged)


@pytest.mark.parametrize("kernels_", ["inplace", pytest.param("compiled", marks=pytest.mark.needs(module="numba"))])
def test_each_operation_alone(kernels_):
    """A NaN and an infinity on either side included."""
    require_compiled(all_of(ALONE), "float64", np.copy, np.asarray, kernels_)


@pytest.mark.needs("cupy")
def test_each_operation_alone_on_cupy():
    import cupy

    require_compiled(all_of(ALONE), "float64", cupy.asarray, cupy.asnumpy, overwrites=())


@pytest.mark.needs("cupy")
@settings(max_examples=10)
@given(text=functions, dtype=st.sampled_from(["float32", "float64"]))
def test_cupys_kernels_are_the_function(text, dtype):
    import cupy

    first, second, _ = text
    require_compiled(made((first, second, False)), dtype, cupy.asarray, cupy.asnumpy)  # CuPy makes all outputs, or none


class TestTracing:
    def trace(self, code, **dtypes):
        function = Elements(lambda_of(", ".join(dtypes), code), (), ())
        return Program(function, [np.dtype(kind) for kind in dtypes.values()], {})

    def test_what_is_computed_twice_is_computed_once(self):
        assert len(self.trace("(a + b) * (a + b)", a="f4", b="f4").steps) == 2

    def test_what_nobody_needs_is_not_computed(self):
        assert [x.operation for x in self.trace("(a * 2, a + 1)[1]", a="f4").steps] == ["add"]

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            ("a + b", "add of .*: expected one dtype, see astype"),
            ("b + 0.5", "add of int32 and 0.5: expected numbers of its kind"),
            ("a if a > 0 else b", "cannot ask whether an element is true: use where"),
        ],
    )
    def test_what_the_standard_leaves_open_is_refused(self, code, message):
        with pytest.raises(TypeError, match=message):
            self.trace(code, a="f4", b="i4")

    def test_a_function_that_no_compiler_knows_is_refused(self):
        with pytest.raises(AttributeError, match="a function of elements has no cumulative_sum"):
            self.trace("xp.cumulative_sum(a)", a="f4")


def lambda_of(parameters, code):
    space = {}
    exec(f"def f(xp, {parameters}):\n    return {code}", space)
    return space["f"]


def as_tuple(found):
    return found if isinstance(found, tuple) else (found,)


def all_of(expressions):
    """Return a function of elements that returns them all."""
    return lambda_of("a, b, c, *, s, t", "(" + ", ".join(f"{code} + 0 * b + 0 * c" for code in expressions) + ")")


def require_loop(function, dtype):
    """Run the loop that numba would compile, as it is written."""
    given = values(dtype)
    program = Program(Elements(function, (), ()), [array.dtype for array in given.values()], {})
    patterns, flat = loops.merged([array.shape for array in given.values()])
    assert flat == [array.shape for array in given.values()]
    space = {}
    exec(loops.source(program, patterns, [""] * len(program.scalars)), space)
    new = [np.empty(SHAPES["a"], dtype) for _ in program.outputs]
    numbers = [np.dtype(dtype).type(eval(x.operands[0], {"s": 0.3, "t": -2.0})) for x in program.scalars]
    with np.errstate(all="ignore"):
        space["f"](*given.values(), *new, *numbers)
        require_equal(tuple(new), as_tuple(plainly(function, dtype)), dtype)


def require_compiled(function, dtype, there, back, kernels_="compiled", overwrites=("a",)):
    given = [there(values(dtype)[name]) for name in ARRAYS]
    with np.errstate(all="ignore"), kernels(kernels_):
        found = Elements(function, overwrites, ())(*given, s=0.3, t=-2.0)
        require_equal(tuple(back(x) for x in as_tuple(found)), as_tuple(plainly(function, dtype)), dtype)
