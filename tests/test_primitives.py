"""Native versions of operations against the agnostic ones."""

import numpy as np
import pytest

from xpmlp.primitives import join


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
