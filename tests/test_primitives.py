"""Native versions of operations against the agnostic ones."""

import numpy as np
import pytest

from xpmlp.primitives import adam_step, join, relu, relu_backward


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
    Z[0, 0] = 0.0
    A = backend.to_numpy(relu(at_an_odd_offset(backend, Z)))
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
