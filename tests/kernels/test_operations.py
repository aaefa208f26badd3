"""The named operations and the functions of elements, in every version that a library has, against their plain
lines."""

import itertools

import numpy as np
import pytest

from xpmlp.errors import ConfigError
from xpmlp.kernels import Elements, kernels, resolve_kernels
from xpmlp.math import elements
from xpmlp.math.layout import Layout, gradient_vector, join, new_gradient
from xpmlp.math.network import backward, column_sums, cross_entropy, forward, product, score

TOLERANCE = {"float32": 3e-6, "float64": 1e-13}


def check(backend, found, expected, dtype):
    """Compare an array on the device with one on the host."""
    found, tolerance = backend.to_numpy(found), TOLERANCE[dtype]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.max(np.abs(expected), initial=0))


def at_an_odd_offset(backend, host):
    """Return an array that is a view into a longer vector, where the library has views."""
    xp = backend.namespace
    longer = backend.asarray(
        np.concatenate([np.zeros(3, host.dtype), host.ravel(), np.zeros(2, host.dtype)]), copy=True
    )
    return xp.reshape(longer[3 : 3 + host.size], host.shape)


def plain(operation, *arguments):
    """Return what an operation's plain version makes of NumPy's arrays, which it may not change."""
    return operation.__wrapped__(*(x.copy() if isinstance(x, np.ndarray) else x for x in arguments))


NUMBERS = {
    "rate": 0.03, "momentum": 0.9, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-4, "share": 1 / 255, "weight_decay": 0.01,
    "decay": 0.001, "n": 5,
}  # fmt: skip
SHAPES = {"b": (1, 7), "weights": (5, 1), **dict.fromkeys(("loss", "correct", "steps", "finite", "batch_loss"), ())}
SHAPES |= {"batch_correct": ()}


def momentum(theta, v, g, *, rate, momentum, nesterov, rate_inside):
    """Sutskever et al. 2013, with the rate outside of the velocity or, as scikit-learn has it, inside."""
    if not rate_inside:
        v = momentum * v + g
        return theta - rate * (g + momentum * v if nesterov else v), v
    v = momentum * v - rate * g
    return theta + (momentum * v - rate * g if nesterov else v), v


def adam(theta, m, v, g, *, rate, beta1, beta2, epsilon):
    """Kingma & Ba 2015, algorithm 1, without the corrections."""
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    return theta - rate * m / (v**0.5 + epsilon), m, v


def totals(loss, correct, steps, finite, batch_loss, batch_correct, *, n):
    loss = loss + n * batch_loss
    return loss, correct + batch_correct, steps + 1, finite + int(np.isfinite(loss))


def silu_backward(Z, dA):
    s = 1 / (1 + np.exp(-Z))
    return (s + Z * s * (1 - s)) * dA


def gelu_argument(Z):
    return np.sqrt(2 / np.pi) * (Z + 0.044715 * Z**3)


def gelu_backward(Z, dA):
    t = np.tanh(gelu_argument(Z))
    slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * Z**2)
    return ((1 + t) / 2 + Z / 2 * (1 - t**2) * slope) * dA


DEFINITIONS = {
    "scaled": lambda images, share, dtype: images * share,
    "bias_identity": lambda Z, b: Z + b,
    "bias_relu": lambda Z, b: np.where(Z + b > 0, Z + b, 0),
    "relu_backward": lambda A, dA: (A > 0) * dA,
    "masked_bias_relu": lambda Z, b, mask: np.where(Z + b > 0, Z + b, 0) * mask,
    "masked_relu_backward": lambda A, dA, mask: (A > 0) * mask * dA,
    "bias_leaky_relu": lambda Z, b: np.where(Z + b > 0, Z + b, 0.01 * (Z + b)),
    "leaky_relu_backward": lambda A, dA: np.where(A > 0, 1, 0.01) * dA,
    "bias_elu": lambda Z, b: np.where(Z + b > 0, Z + b, np.expm1(Z + b)),
    "elu_backward": lambda A, dA: np.where(A > 0, 1, A + 1) * dA,
    "bias_softplus": lambda Z, b: np.log(1 + np.exp(Z + b)),
    "softplus_backward": lambda A, dA: (1 - np.exp(-A)) * dA,
    "bias_silu": lambda Z, b: (Z + b, (Z + b) / (1 + np.exp(-Z - b))),
    "silu_backward": silu_backward,
    "bias_gelu": lambda Z, b: (Z + b, (Z + b) / 2 * (1 + np.tanh(gelu_argument(Z + b)))),
    "gelu_backward": gelu_backward,
    "bias_tanh": lambda Z, b: np.tanh(Z + b),
    "tanh_backward": lambda A, dA: (1 - A**2) * dA,
    "bias_logistic": lambda Z, b: 1 / (1 + np.exp(-Z - b)),
    "logistic_backward": lambda A, dA: A * (1 - A) * dA,
    "weighted": lambda delta, weights, share: share * weights * delta,
    "decayed": lambda gradient, theta, weight_decay: gradient + weight_decay * theta,
    "sgd_step": lambda theta, gradient, rate: theta - rate * gradient,
    "momentum_step": momentum,
    "adam_step": adam,
    "partly_shrunk": lambda theta, shares, decay: theta - decay * shares * theta,
    "shrunk": lambda theta, decay: theta - decay * theta,
    "accumulate": totals,
}
"""What each function of elements is, in float64."""


def defined(name, arrays, keywords):
    """Return what a function of elements should return, and each result's dtype."""
    doubles = [array.astype(np.float64) if array.dtype.kind == "f" else array for array in arrays]
    found = DEFINITIONS[name](*doubles, **keywords)
    return found if isinstance(found, tuple) else (found,)


FUNCTIONS = {name: found for name, found in vars(elements).items() if isinstance(found, Elements)}


def arguments_of(function, dtype, seed=0):
    """Return arrays and keywords that fit a function of elements, by the names of its parameters."""
    rng = np.random.default_rng(seed)
    arrays = []
    for name in function.arrays:
        array = np.asarray(rng.standard_normal(SHAPES.get(name, (5, 7))).astype(dtype))
        if name in ("correct", "steps", "finite", "batch_correct"):
            array = np.asarray(rng.integers(0, 9), np.int32)
        elif name == "images":
            array = rng.integers(0, 256, array.shape, dtype=np.uint8)
        elif name in ("A", "v"):  # of a ReLU, or squares
            array = np.maximum(array, 0)
        arrays.append(array)
    keywords = {name: NUMBERS.get(name, False) for name in function.keywords}
    if "dtype" in keywords:
        keywords["dtype"] = np.dtype(dtype)
    return arrays, keywords


@pytest.mark.parametrize("name", FUNCTIONS)
class TestAFunctionOfElements:
    def test_is_its_definition(self, backend, each_way, dtype, name):
        function = FUNCTIONS[name]
        named = [switch for switch in function.fixed if switch != "dtype"]
        for switch in (dict(zip(named, on, strict=True)) for on in itertools.product((False, True), repeat=len(named))):
            for seed in range(2):
                arrays, keywords = arguments_of(function, dtype, seed)
                expected = defined(name, arrays, {**keywords, **switch})
                if "dtype" in keywords:
                    keywords["dtype"] = backend.asarray(np.zeros(1, dtype)).dtype
                for _ in each_way():
                    given = [at_an_odd_offset(backend, array) for array in arrays]
                    found = function(*given, **{**keywords, **switch})
                    found = found if isinstance(found, tuple) else (found,)
                    for ours, value in zip(found, map(np.asarray, expected), strict=True):
                        check(backend, ours, value.astype(dtype if value.dtype.kind == "f" else "int32"), dtype)
                    for parameter, array, host in zip(function.arrays, given, arrays, strict=True):
                        if parameter not in function.overwrites:
                            assert np.array_equal(backend.to_numpy(array), host), f"{parameter} is left as it was"

    def test_takes_arrays_with_gaps_in_their_memory(self, backend, each_way, name):
        function = FUNCTIONS[name]
        arrays, keywords = arguments_of(function, "float64")
        expected = defined(name, arrays, keywords)
        if "dtype" in keywords:
            keywords["dtype"] = backend.asarray(np.zeros(1)).dtype
        for _ in each_way():
            given = [backend.asarray(np.ascontiguousarray(array.T), copy=True).T if array.ndim else
                     backend.asarray(array, copy=True) for array in arrays]  # fmt: skip
            found = function(*given, **keywords)
            found = found if isinstance(found, tuple) else (found,)
            for ours, value in zip(found, map(np.asarray, expected), strict=True):
                check(backend, ours, value.astype("float64" if value.dtype.kind == "f" else "int32"), "float64")


def test_a_nan_stays_one(backend, each_way, dtype):
    """Else the loss of parameters that broke could be finite."""
    Z, b = np.array([[np.nan, 1, -1]], dtype), np.zeros((1, 3), dtype)
    for _ in each_way():
        for name in (name for name in FUNCTIONS if name.startswith("bias_")):
            A = FUNCTIONS[name](backend.asarray(Z, copy=True), backend.asarray(b))
            A = backend.to_numpy(A[-1] if isinstance(A, tuple) else A)
            assert np.isnan(A).tolist() == [[True, False, False]], name


def test_what_relu_cuts_off_is_zero_whatever_comes_back(backend, each_way, dtype):
    A, dA = np.array([[0, 0, 2, 0]], dtype), np.array([[np.nan, np.inf, np.nan, -1]], dtype)
    for _ in each_way():
        delta = backend.to_numpy(elements.relu_backward(backend.asarray(A), backend.asarray(dA, copy=True)))
        np.testing.assert_array_equal(delta, np.array([[0, 0, np.nan, 0]], dtype))


def test_scalars_are_computed_in_float64(backend, each_way):
    """1 − 0.999 is wrong by 5e-5 in float32."""
    zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    numbers = {"rate": 0.0, "beta1": 0.9, "beta2": 0.999, "epsilon": 1.0}
    for _ in each_way():
        arrays = [backend.asarray(array, copy=True) for array in (zero, zero, zero, one)]
        v = backend.to_numpy(elements.adam_step(*arrays, **numbers)[2])
        np.testing.assert_allclose(v, np.float32(1 - 0.999), rtol=1e-7)


def test_accumulate_counts_each_image_the_same(backend, each_way, dtype):
    for _ in each_way():
        totals = [backend.asarray(np.zeros((), kind), copy=True) for kind in (dtype, "int32", "int32", "int32")]
        for batch_loss, n in ((0.5, 4), (3.0, 2)):
            batch = np.asarray(batch_loss, dtype), np.asarray(1, np.int32)
            totals = elements.accumulate(*totals, *map(backend.asarray, batch), n=n)
        assert [backend.to_numpy(x).item() for x in totals] == [8, 2, 2, 2]


def test_accumulate_finds_the_first_batch_that_broke(backend, each_way, dtype):
    for _ in each_way():
        totals = [backend.asarray(np.zeros((), kind), copy=True) for kind in (dtype, "int32", "int32", "int32")]
        for batch_loss, batch_correct, n in ((0.3, 2, 5), (1.7, 0, 3), (np.inf, 1, 5), (0.1, 1, 1)):
            batch = np.asarray(batch_loss, dtype), np.asarray(batch_correct, np.int32)
            totals = elements.accumulate(*totals, *map(backend.asarray, batch), n=n)
        found = [backend.to_numpy(x) for x in totals]
        assert [(x.shape, str(x.dtype)) for x in found] == [((), dtype)] + [((), "int32")] * 3
        assert [x.item() for x in found] == [np.inf, 4, 4, 2]


@pytest.mark.parametrize("shapes", [[(3,)], [(2, 3), (1, 3)], [(5, 1), (1, 1), (7, 4), (1, 4)], [(2, 0), (3, 2)]])
def test_join_is_each_array_in_c_order_without_gaps(backend, dtype, shapes):
    rng = np.random.default_rng(0)
    host = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    expected = np.concatenate([array.ravel() for array in host])
    arrays = tuple(backend.asarray(array) for array in host)
    for function in (join, backend.compile(join)):
        joined = backend.to_numpy(function(arrays))
        assert joined.dtype == dtype
        assert np.array_equal(joined, expected)


def test_join_takes_views_at_odd_offsets_and_of_any_order(backend):
    theta = backend.asarray(np.arange(40.0))
    xp = backend.namespace
    W, b = xp.reshape(theta[3:15], (4, 3)).T, xp.reshape(theta[17:21], (1, 4))
    expected = np.concatenate([np.arange(3.0, 15).reshape(4, 3).T.ravel(), np.arange(17.0, 21)])
    assert np.array_equal(backend.to_numpy(join((W, b))), expected)


@pytest.mark.parametrize(("n", "fan_in", "fan_out"), [(1, 1, 1), (5, 4, 3), (7, 1, 2), (2, 6, 1)])
def test_products_and_sums_come_into_parts_of_one_vector(backend, each_way, dtype, n, fan_in, fan_out):
    rng = np.random.default_rng(0)
    A, delta = rng.standard_normal((n, fan_in)).astype(dtype), rng.standard_normal((n, fan_out)).astype(dtype)
    expected = A.T @ delta, delta.sum(axis=0, keepdims=True)
    size, xp = fan_in * fan_out, backend.namespace
    for _ in each_way():
        on_device = at_an_odd_offset(backend, A), at_an_odd_offset(backend, delta)
        check(backend, product(on_device[0].mT, on_device[1], None), expected[0], dtype)
        check(backend, column_sums(on_device[1], None), expected[1], dtype)
        vector = new_gradient(backend.asarray(np.zeros(size + fan_out + 8, dtype)))
        if vector is None:
            continue
        places = xp.reshape(vector[3 : 3 + size], (fan_in, fan_out)), xp.reshape(vector[3 + size : -5], (1, fan_out))
        product(on_device[0].mT, on_device[1], places[0]), column_sums(on_device[1], places[1])
        written = backend.to_numpy(vector)[3:-5]
        check(backend, backend.asarray(written), np.concatenate([part.ravel() for part in expected]), dtype)


def test_the_gradients_vector_has_each_layers_gradients_in_their_places(backend, each_way, dtype):
    layout = Layout((7, 5, 3))
    rng = np.random.default_rng(0)
    theta = backend.asarray(rng.standard_normal(layout.size).astype(dtype), copy=True)
    X, labels = backend.asarray(rng.random((11, 7)).astype(dtype)), backend.asarray(np.arange(11, dtype=np.int32) % 3)
    layers = layout.unflatten(theta)

    def compute(into=None):
        S, trail = forward(layers, X)
        return backward(layers, trail, score(S, labels)[0], into=into)

    for _ in each_way():
        found, again = (gradient_vector(layout, theta, compute) for _ in range(2))
        expected = layout.flatten(compute())
        np.testing.assert_allclose(backend.to_numpy(found), backend.to_numpy(expected), rtol=1e-6, atol=1e-9)
        assert backend.to_numpy(found).tobytes() == backend.to_numpy(again).tobytes()
        assert found is not again, "a second gradient leaves the first as it was"


class TestCrossEntropy:
    @pytest.mark.parametrize(
        ("n", "c", "scale"), [(1, 1, 1), (1, 10, 1), (5, 1, 100), (9, 33, 100), (300, 10, 1), (3, 2000, 1)]
    )
    def test_is_its_plain_lines(self, backend, each_way, dtype, n, c, scale):
        rng = np.random.default_rng(0)
        S = (scale * rng.standard_normal((n, c))).astype(dtype)
        labels = rng.integers(0, c, n).astype(np.int32)
        expected = plain(cross_entropy, S, labels)
        for _ in each_way():
            on_device = at_an_odd_offset(backend, S)
            delta, loss, correct = cross_entropy(on_device, at_an_odd_offset(backend, labels))
            check(backend, delta, expected[0], dtype)
            check(backend, loss, np.asarray(expected[1]), dtype)
            assert int(backend.to_numpy(correct)) == int(expected[2])
            assert np.array_equal(backend.to_numpy(on_device), S), "the logits are left as they were"

    def test_of_equal_logits_the_first_is_the_prediction(self, backend, each_way, dtype):
        S = np.zeros((4, 40), dtype)
        S[1, [3, 35]] = S[2, [35, 39]] = 2
        labels = np.array([0, 3, 39, 1], np.int32)
        for _ in each_way():
            correct = cross_entropy(backend.asarray(S), backend.asarray(labels))[2]
            assert int(backend.to_numpy(correct)) == 2

    def test_a_nan_is_the_greatest_logit(self, backend, each_way, dtype):
        """As `argmax` has it; what lies on either side of it makes no difference."""
        S = np.zeros((4, 40), dtype)
        S[:, 39] = 2
        S[0, 0] = S[1, 3] = S[2, 20] = S[3, 38] = np.nan
        labels = np.array([0, 39, 20, 38], np.int32)
        for _ in each_way():
            with np.errstate(invalid="ignore"):
                correct = cross_entropy(backend.asarray(S), backend.asarray(labels))[2]
            assert int(backend.to_numpy(correct)) == 3

    def test_of_several_nans_the_first_is_the_prediction(self, backend, each_way, dtype):
        if backend.name == "dpnp":
            pytest.skip("dpnp.argmax of several NaN in a row is not always the first (0.20.0)")
        S = np.zeros((2, 40), dtype)
        S[0, [20, 35]] = S[1, [2, 3]] = np.nan
        labels = np.array([20, 3], np.int32)
        for _ in each_way():
            with np.errstate(invalid="ignore"):
                correct = cross_entropy(backend.asarray(S), backend.asarray(labels))[2]
            assert int(backend.to_numpy(correct)) == 1

    def test_a_label_that_no_class_has_touches_no_other_row(self, backend, each_way):
        """It is refused where data sets are made; here no memory beside its row may be read or written."""
        S = backend.asarray(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))
        P = np.exp([1.0, 2, 3]) / np.exp([1.0, 2, 3]).sum()
        for _ in each_way():
            for label in (3, 1000, -1):
                delta, loss, correct = score(S, backend.asarray(np.array([2, label], dtype=np.int32)))
                np.testing.assert_allclose(backend.to_numpy(delta)[0], (P - [0, 0, 1]) / 2, rtol=1e-12)
                assert np.isfinite(backend.to_numpy(loss))
                assert int(backend.to_numpy(correct)) == 1

    @pytest.mark.parametrize("backend", ["numpy", "cupy", "torch", "array-api-strict"], indirect=True)
    def test_a_label_that_is_no_class_adds_nothing_and_is_not_correct(self, backend, each_way, dtype):
        """JAX's version counts -1 as the last class, and gives a row with a greater label no gradient."""
        S = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)
        labels = np.array([2, -1, 3, 1_000_000], np.int32)
        delta, loss, correct = plain(cross_entropy, S, labels)
        for _ in each_way():
            found = cross_entropy(backend.asarray(S), backend.asarray(labels))
            check(backend, found[0], delta, dtype)
            check(backend, found[1], np.asarray(loss), dtype)
            assert int(backend.to_numpy(found[2])) == int(correct)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_of_logits_that_are_not_finite_is_not_finite(self, backend, each_way, dtype, value):
        S = np.random.default_rng(0).standard_normal((5, 3)).astype(dtype)
        S[2, 1] = value
        for _ in each_way():
            with np.errstate(invalid="ignore"):
                loss = cross_entropy(backend.asarray(S), backend.asarray(np.zeros(5, np.int32)))[1]
            assert not np.isfinite(backend.to_numpy(loss))

    def test_is_the_same_bits_twice(self, backend, each_way, dtype):
        rng = np.random.default_rng(0)
        S, labels = backend.asarray(rng.standard_normal((5000, 10)).astype(dtype)), rng.integers(0, 10, 5000)
        labels = backend.asarray(labels.astype(np.int32))
        for _ in each_way():
            first, second = ([backend.to_numpy(x).tobytes() for x in cross_entropy(S, labels)] for _ in range(2))
            assert first == second


class TestKernels:
    def test_auto_is_compiled_where_numba_is_installed(self, monkeypatch):
        for found, name in ((object(), "compiled"), (None, "inplace")):
            monkeypatch.setattr("importlib.util.find_spec", lambda package, found=found: found)
            assert resolve_kernels("auto") == name

    def test_an_unknown_name_is_refused(self):
        message = "unknown kernels 'fast': expected auto, plain, inplace or compiled"
        with pytest.raises(ConfigError, match=message), kernels("fast"):
            pass

    def test_hold_only_within_and_only_in_their_thread(self, monkeypatch):
        import threading

        seen = []

        def use():
            def identity(xp, x):
                return x

            function = Elements(identity, (), ())
            function.plain = lambda x: seen.append("plain")
            function(np.ones(3))

        use()
        with kernels("plain"):
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
            assert seen == []
            use()
        use()
        assert seen == ["plain"]


@pytest.mark.needs("cupy")
class TestWorkspacesOnCupy:
    """Where the softmax's blocks leave their sums."""

    @pytest.fixture
    def native(self, find_backend):
        find_backend("cupy")
        from xpmlp.kernels import _cupy

        return _cupy

    def test_more_rows_than_all_blocks_take_at_once_are_all_counted(self, native, find_backend, dtype, monkeypatch):
        """And nothing beside the workspace is written."""
        backend = find_backend("cupy")
        longer = tuple(backend.asarray(np.full(500, 7, kind), copy=True) for kind in (dtype, "int32"))
        counter = backend.asarray(np.zeros(1, np.uint32), copy=True)
        monkeypatch.setattr(native, "_MOST_BLOCKS", 3)
        monkeypatch.setattr(native, "_workspace", lambda dtype: (*(array[:3] for array in longer), counter))
        rng = np.random.default_rng(0)
        S, labels = rng.standard_normal((200, 10)).astype(dtype), rng.integers(0, 10, 200).astype(np.int32)
        found = cross_entropy(backend.asarray(S), backend.asarray(labels))
        for ours, theirs in zip(found, plain(cross_entropy, S, labels), strict=True):
            check(backend, ours, np.asarray(theirs), dtype)
        for array in longer:
            assert np.all(backend.to_numpy(array)[3:] == 7)

    def test_begins_at_zero_whatever_lay_there(self, native, monkeypatch):
        import cupy

        monkeypatch.setattr(native, "_workspaces", native._Workspaces())
        with cupy.cuda.Stream():
            used = [cupy.full(128, 7, np.uint32) for _ in range(8)]
            del used  # to the stream's pool, which hands it out again as it is
            assert int(native._workspace("float32")[2][0]) == 0

    def test_launches_that_may_overlap_share_none(self, native):
        from concurrent.futures import ThreadPoolExecutor

        import cupy

        def workspaces():
            found = []
            for stream in streams:
                with stream:
                    found += [native._workspace(dtype) for dtype in ("float32", "float64")]
            return found

        streams = [cupy.cuda.Stream.null, cupy.cuda.Stream(), cupy.cuda.Stream()]
        with ThreadPoolExecutor(1) as pool:
            found = [*workspaces(), *pool.submit(workspaces).result()]
            again = [*workspaces(), *pool.submit(workspaces).result()]
        counters = [counter.data.ptr for _, _, counter in found]
        assert len(set(counters)) == 12
        assert [counter.data.ptr for _, _, counter in again] == counters


def test_two_threads_do_not_share_what_lies_between_two_lines():
    from concurrent.futures import ThreadPoolExecutor

    numbers = {"rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}

    def train(seed):
        rng = np.random.default_rng(seed)
        theta, m, v = rng.standard_normal(5000), np.zeros(5000), np.zeros(5000)
        for _ in range(200):
            theta, m, v = elements.adam_step(theta, m, v, rng.standard_normal(5000), **numbers)
        return theta.tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(train, range(4))) == [train(seed) for seed in range(4)]
