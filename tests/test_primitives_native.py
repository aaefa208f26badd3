"""Each operation as each backend does it, against its agnostic version on NumPy's arrays."""

import numpy as np
import pytest

from tests.conftest import SPECS
from tests.test_primitives import at_an_odd_offset
from xpmlp.primitives import (
    accumulate,
    bias_relu,
    momentum_step,
    new_gradient,
    parameter_gradients,
    relu_backward,
    scaled,
    softmax_cross_entropy,
)

TOLERANCE = {"float32": 3e-6, "float64": 1e-13}


def agnostic(operation, *arguments):
    """Return what an operation's agnostic version makes of NumPy's arrays, which it may not change."""
    return operation.__wrapped__(*(x.copy() if isinstance(x, np.ndarray) else x for x in arguments))


def check(backend, found, expected, dtype):
    """Compare an array on the device with one on the host."""
    found, tolerance = backend.to_numpy(found), TOLERANCE[dtype]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.max(np.abs(expected), initial=0))


@pytest.mark.parametrize(("shape", "max_value"), [((1, 1), 255), ((5, 7), 16), ((3, 784), 255)])
def test_scaled(backend, each_way, dtype, shape, max_value):
    images = np.random.default_rng(0).integers(0, max_value + 1, shape, dtype=np.uint8)
    theta = np.zeros(3, dtype)
    expected = agnostic(scaled, images, theta, max_value)
    for _ in each_way():
        on_device = at_an_odd_offset(backend, images)
        check(backend, scaled(on_device, backend.asarray(theta), max_value), expected, dtype)
        assert np.array_equal(backend.to_numpy(on_device), images), "the images are left as they were"


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 3)])
def test_bias_relu_and_relu_backward(backend, each_way, dtype, shape):
    rng = np.random.default_rng(0)
    Z, dA = rng.standard_normal((2, *shape)).astype(dtype)
    b = rng.standard_normal((1, shape[1])).astype(dtype)
    A = agnostic(bias_relu, Z, b)
    dZ = agnostic(relu_backward, A, dA)
    for _ in each_way():
        on_device = at_an_odd_offset(backend, b)
        check(backend, bias_relu(at_an_odd_offset(backend, Z), on_device), A, dtype)
        assert np.array_equal(backend.to_numpy(on_device), b)
        check(backend, relu_backward(at_an_odd_offset(backend, A), at_an_odd_offset(backend, dA)), dZ, dtype)


def test_bias_relu_hides_no_nan(backend, each_way, dtype):
    """Else the loss of parameters that broke could be finite."""
    Z, b = np.array([[np.nan, 1, -1]], dtype), np.zeros((1, 3), dtype)
    for _ in each_way():
        A = backend.to_numpy(bias_relu(backend.asarray(Z, copy=True), backend.asarray(b)))
        np.testing.assert_array_equal(A, np.array([[np.nan, 1, 0]], dtype))


@pytest.mark.parametrize(("n", "fan_in", "fan_out"), [(1, 1, 1), (5, 4, 3), (7, 1, 2), (2, 6, 1)])
def test_parameter_gradients_come_into_parts_of_one_vector(backend, each_way, dtype, n, fan_in, fan_out):
    rng = np.random.default_rng(0)
    A, delta = rng.standard_normal((n, fan_in)).astype(dtype), rng.standard_normal((n, fan_out)).astype(dtype)
    expected = agnostic(parameter_gradients, delta, A, None)
    size = fan_in * fan_out
    xp = backend.namespace
    for _ in each_way():
        arrays = at_an_odd_offset(backend, delta), at_an_odd_offset(backend, A)
        vector = new_gradient(backend.asarray(np.zeros(size + fan_out + 8, dtype)))
        into = None
        if vector is not None:
            assert (str(vector.dtype).rpartition(".")[2], vector.shape) == (dtype, (size + fan_out + 8,))
            W, b = vector[3 : 3 + size], vector[3 + size : 3 + size + fan_out]
            into = xp.reshape(W, (fan_in, fan_out)), xp.reshape(b, (1, fan_out))
        for ways in {None, into} if into is None else (None, into):
            for found, value in zip(parameter_gradients(*arrays, ways), expected, strict=True):
                check(backend, found, value, dtype)
        if vector is not None:
            written = backend.to_numpy(vector)[3 : 3 + size + fan_out]
            check(backend, backend.asarray(written), np.concatenate([part.ravel() for part in expected]), dtype)


@pytest.mark.parametrize(
    ("n", "c", "scale"), [(1, 1, 1), (1, 10, 1), (5, 1, 100), (9, 33, 100), (300, 10, 1), (3, 2000, 1)]
)
def test_softmax_cross_entropy(backend, each_way, dtype, n, c, scale):
    rng = np.random.default_rng(0)
    S = (scale * rng.standard_normal((n, c))).astype(dtype)
    labels = rng.integers(0, c, n).astype(np.int32)
    expected = agnostic(softmax_cross_entropy, S, labels)
    for _ in each_way():
        on_device = at_an_odd_offset(backend, S)
        delta, loss, correct = softmax_cross_entropy(on_device, at_an_odd_offset(backend, labels))
        check(backend, delta, expected[0], dtype)
        check(backend, loss, np.asarray(expected[1]), dtype)
        assert int(backend.to_numpy(correct)) == int(expected[2])
        assert np.array_equal(backend.to_numpy(on_device), S), "the logits are left as they were"


def test_of_equal_logits_the_first_is_the_prediction(backend, each_way, dtype):
    S = np.zeros((4, 40), dtype)
    S[1, [3, 35]] = S[2, [35, 39]] = 2
    labels = np.array([0, 3, 39, 1], np.int32)
    for _ in each_way():
        correct = softmax_cross_entropy(backend.asarray(S), backend.asarray(labels))[2]
        assert int(backend.to_numpy(correct)) == 2


def test_a_nan_is_the_greatest_logit(backend, each_way, dtype):
    """As `argmax` has it; what lies on either side of it makes no difference."""
    S = np.zeros((3, 40), dtype)
    S[:, 39] = 2
    S[0, 0] = S[1, 3] = S[2, [20, 35]] = np.nan
    labels = np.array([0, 39, 20], np.int32)
    for _ in each_way():
        with np.errstate(invalid="ignore"):
            correct = softmax_cross_entropy(backend.asarray(S), backend.asarray(labels))[2]
        assert int(backend.to_numpy(correct)) == 2


@pytest.mark.parametrize("backend", [spec for spec in SPECS if not spec.startswith("jax")], indirect=True)
def test_a_label_that_is_no_class_adds_nothing_and_is_not_correct(backend, each_way, dtype):
    """JAX's version counts -1 as the last class, and gives a row with a greater label no gradient."""
    S = np.random.default_rng(0).standard_normal((4, 3)).astype(dtype)
    labels = np.array([2, -1, 3, 1_000_000], np.int32)
    delta, loss, correct = agnostic(softmax_cross_entropy, S, labels)
    for _ in each_way():
        found = softmax_cross_entropy(backend.asarray(S), backend.asarray(labels))
        check(backend, found[0], delta, dtype)
        check(backend, found[1], np.asarray(loss), dtype)
        assert int(backend.to_numpy(found[2])) == int(correct)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_have_no_finite_loss(backend, each_way, dtype, value):
    S = np.random.default_rng(0).standard_normal((5, 3)).astype(dtype)
    S[2, 1] = value
    labels = np.zeros(5, np.int32)
    for _ in each_way():
        with np.errstate(invalid="ignore"):
            loss = softmax_cross_entropy(backend.asarray(S), backend.asarray(labels))[1]
        assert not np.isfinite(backend.to_numpy(loss))


def test_the_same_bits_twice(backend, each_way, dtype):
    rng = np.random.default_rng(0)
    S, labels = backend.asarray(rng.standard_normal((5000, 10)).astype(dtype)), rng.integers(0, 10, 5000)
    labels = backend.asarray(labels.astype(np.int32))
    for _ in each_way():
        first, second = ([backend.to_numpy(x).tobytes() for x in softmax_cross_entropy(S, labels)] for _ in range(2))
        assert first == second


def test_accumulate(backend, each_way, dtype):
    for _ in each_way():
        host = [np.zeros((), kind) for kind in (dtype, "int32", "int32", "int32")]
        device = [backend.asarray(x, copy=True) for x in host]
        for batch_loss, batch_correct, n in ((0.3, 2, 5), (1.7, 0, 3), (np.inf, 1, 5), (0.1, 1, 1)):
            batch = np.asarray(batch_loss, dtype), np.asarray(batch_correct, np.int32)
            host = agnostic(accumulate, *map(np.asarray, host), *batch, n)
            device = accumulate(*device, *map(backend.asarray, batch), n)
        found = [backend.to_numpy(x) for x in device]
        assert [(x.shape, str(x.dtype)) for x in found] == [((), dtype)] + [((), "int32")] * 3
        assert [x.item() for x in found] == [np.inf, 4, 4, 2] == [x.item() for x in host]


def test_accumulate_counts_each_image_the_same(backend, each_way, dtype):
    for _ in each_way():
        totals = [backend.asarray(np.zeros((), kind), copy=True) for kind in (dtype, "int32", "int32", "int32")]
        for batch_loss, n in ((0.5, 4), (3.0, 2)):
            batch = np.asarray(batch_loss, dtype), np.asarray(1, np.int32)
            totals = accumulate(*totals, *map(backend.asarray, batch), n)
        assert [backend.to_numpy(x).item() for x in totals] == [8, 2, 2, 2]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("size", [1, 1000])
def test_momentum_step(backend, each_way, dtype, nesterov, size):
    rng = np.random.default_rng(0)
    theta, velocity, gradient = rng.standard_normal((3, size)).astype(dtype)
    expected = agnostic(momentum_step, theta, velocity, gradient, 0.9, nesterov, 0.05)
    for _ in each_way():
        parts = (at_an_odd_offset(backend, part) for part in (theta, velocity))
        on_device = at_an_odd_offset(backend, gradient)
        found = momentum_step(*parts, on_device, 0.9, nesterov, 0.05)
        for ours, value in zip(found, expected, strict=True):
            check(backend, ours, value, dtype)
        assert np.array_equal(backend.to_numpy(on_device), gradient)


@pytest.mark.needs("cupy")
class TestWorkspacesOnCupy:
    """Where the softmax's blocks leave their sums."""

    @pytest.fixture
    def native(self, find_backend):
        find_backend("cupy")
        from xpmlp.primitives import _cupy

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
        found = softmax_cross_entropy(backend.asarray(S), backend.asarray(labels))
        for ours, theirs in zip(found, agnostic(softmax_cross_entropy, S, labels), strict=True):
            check(backend, ours, np.asarray(theirs), dtype)
        for array in longer:
            assert np.all(backend.to_numpy(array)[3:] == 7)

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
