"""Native versions of operations against the agnostic ones."""

import numpy as np
import pytest

from tests.conftest import SPECS
from xpmlp.errors import ConfigError
from xpmlp.network import Layout, backward, forward, gradient_vector, score
from xpmlp.primitives import (
    adam_step,
    bias_relu,
    join,
    kernels,
    momentum_step,
    relu_backward,
    resolve_kernels,
)

WITH_NUMBA = "numpy, kernels numba"


@pytest.fixture(params=[*SPECS, pytest.param(WITH_NUMBA, marks=pytest.mark.needs(module="numba"))])
def backend(request, find_backend):
    """Every backend that can run here, in turn, and NumPy once more with numba's kernels."""
    if request.param != WITH_NUMBA:
        yield find_backend(request.param, "float64")
        return
    with kernels("numba"):
        yield find_backend("numpy")


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


def at_an_odd_offset(backend, host):
    """Return an array that is a view into a longer vector, where the library has views."""
    xp = backend.namespace
    longer = backend.asarray(
        np.concatenate([np.zeros(3, host.dtype), host.ravel(), np.zeros(2, host.dtype)]), copy=True
    )
    return xp.reshape(longer[3 : 3 + host.size], host.shape)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (7, 128)])
def test_relu_and_its_derivative_are_those_of_the_definition(backend, dtype, shape):
    rng = np.random.default_rng(0)
    Z, dA = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    b = np.arange(shape[1], dtype=dtype)[None, :] / 4
    Z[0, 0] = 0.0
    A = backend.to_numpy(bias_relu(at_an_odd_offset(backend, Z), at_an_odd_offset(backend, b)))
    Z = Z + b
    assert (A.dtype, A.tolist()) == (dtype, np.where(Z > 0, Z, 0).tolist())
    delta = backend.to_numpy(relu_backward(backend.asarray(A), at_an_odd_offset(backend, dA)))
    assert (delta.dtype, delta.tolist()) == (dtype, np.where(Z > 0, dA, 0).tolist())


def test_a_step_of_adam_is_that_of_the_definition(backend, dtype):
    rng = np.random.default_rng(0)
    for size in (7, 1000, 7):  # a scratch vector of another size must not be taken
        theta, m, v, g = (rng.standard_normal(size).astype(dtype) for _ in range(4))
        v = np.abs(v)
        m1, v1 = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        expected = theta - 0.003 * m1 / (np.sqrt(v1) + 1e-4), m1, v1
        gradient = at_an_odd_offset(backend, g)
        parts = (at_an_odd_offset(backend, part) for part in (theta, m, v))
        found = adam_step(*parts, gradient, 0.9, 0.99, 0.003, 1e-4)
        for ours, value in zip(found, expected, strict=True):
            assert backend.to_numpy(ours).dtype == dtype
            np.testing.assert_allclose(backend.to_numpy(ours), value, rtol={"float32": 1e-5, "float64": 1e-13}[dtype])
        assert backend.to_numpy(gradient).tobytes() == g.tobytes(), "the gradient is left as it was"


def test_a_derivative_with_gaps_in_its_memory_is_right_too(backend, dtype):
    """As that of a transposed array is, in the one that is returned."""
    rng = np.random.default_rng(0)
    A, dA = (rng.standard_normal((3, 5)).astype(dtype) for _ in range(2))
    delta = relu_backward(backend.asarray(A).T, backend.asarray(dA, copy=True).T)
    assert np.array_equal(backend.to_numpy(delta), np.where(A > 0, dA, 0).T)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_step_with_momentum_is_that_of_the_definition(backend, dtype, nesterov):
    rng = np.random.default_rng(0)
    theta, v, g = (rng.standard_normal(1000).astype(dtype) for _ in range(3))
    v1 = 0.9 * v + g
    expected = theta - 0.03 * (g + 0.9 * v1 if nesterov else v1), v1
    gradient = at_an_odd_offset(backend, g)
    parts = (at_an_odd_offset(backend, part) for part in (theta, v))
    for ours, value in zip(momentum_step(*parts, gradient, 0.9, nesterov, 0.03), expected, strict=True):
        assert backend.to_numpy(ours).dtype == dtype
        np.testing.assert_allclose(backend.to_numpy(ours), value, rtol={"float32": 1e-4, "float64": 1e-12}[dtype])
    assert backend.to_numpy(gradient).tobytes() == g.tobytes(), "the gradient is left as it was"


def test_the_gradients_vector_has_each_layers_gradients_in_their_places(backend, dtype):
    layout = Layout((7, 5, 3))
    rng = np.random.default_rng(0)
    theta = backend.asarray(rng.standard_normal(layout.size).astype(dtype), copy=True)
    X, labels = backend.asarray(rng.random((11, 7)).astype(dtype)), backend.asarray(np.arange(11, dtype=np.int32) % 3)
    layers = layout.unflatten(theta)
    S, activations = forward(layers, X)
    found = gradient_vector(layout, theta, lambda into: backward(layers, activations, S, labels, into=into))
    again = gradient_vector(layout, theta, lambda into: backward(layers, activations, S, labels, into=into))
    expected = layout.flatten(backward(layers, activations, S, labels))
    np.testing.assert_allclose(backend.to_numpy(found), backend.to_numpy(expected), rtol=1e-6, atol=1e-9)
    assert backend.to_numpy(found).tobytes() == backend.to_numpy(again).tobytes()
    assert found is not again, "a second gradient leaves the first as it was"


def test_a_label_that_no_class_has_touches_no_other_row(backend):
    """It is refused where data sets are made; here no memory beside its row may be read or written."""
    S = backend.asarray(np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))
    P = np.exp([1.0, 2, 3]) / np.exp([1.0, 2, 3]).sum()
    for label in (3, 1000, -1):
        delta, loss, correct = score(S, backend.asarray(np.array([2, label], dtype=np.int32)))
        np.testing.assert_allclose(backend.to_numpy(delta)[0], (P - [0, 0, 1]) / 2, rtol=1e-12)
        assert np.isfinite(backend.to_numpy(loss))
        assert int(backend.to_numpy(correct)) == 1


class TestKernels:
    def test_auto_is_numba_where_it_is_installed(self, monkeypatch):
        for found, name in ((object(), "numba"), (None, "numpy")):
            monkeypatch.setattr("importlib.util.find_spec", lambda package, found=found: found)
            assert resolve_kernels("auto") == name

    def test_numba_that_is_not_installed_is_refused_with_what_mends_it(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
        with pytest.raises(ConfigError, match=r"numba is not installed: pip install 'xpmlp\[fast\]'"):
            resolve_kernels("numba")

    def test_an_unknown_name_is_refused(self):
        with pytest.raises(ConfigError, match="unknown kernels 'fast': expected auto, numpy or numba"), kernels("fast"):
            pass

    @pytest.mark.needs(module="numba")
    def test_hold_only_within_and_only_in_their_thread(self, monkeypatch):
        import threading

        from xpmlp.primitives import _numba

        seen = []
        monkeypatch.setattr(_numba, "_bias_relu", lambda Z, b: seen.append("numba"))

        def use():
            bias_relu(np.ones((1, 1)), np.ones((1, 1)))

        use()
        with kernels("numba"):
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
            assert seen == []
            use()
        use()
        assert seen == ["numba"]


def test_two_threads_do_not_share_what_lies_between_two_lines():
    from concurrent.futures import ThreadPoolExecutor

    def train(seed):
        rng = np.random.default_rng(seed)
        theta, m, v = rng.standard_normal(5000), np.zeros(5000), np.zeros(5000)
        for _ in range(200):
            theta, m, v = adam_step(theta, m, v, rng.standard_normal(5000), 0.9, 0.999, 1e-3, 1e-8)
        return theta.tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(train, range(4))) == [train(seed) for seed in range(4)]
