"""Batches on the device."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import make_dataset
from xpmlp.data import DeviceLoader
from xpmlp.errors import ConfigError, DataError


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(1, 30), batch_size=st.integers(1, 40), part=st.integers(0, 30), seed=st.integers(0, 99))
def test_the_batches_are_the_permutations(backend, n, batch_size, part, seed):
    dataset = make_dataset(n)
    rows = np.random.default_rng(seed).permutation(n)[: n - part % n]
    batches = list(DeviceLoader(dataset, backend, batch_size).epoch(rows))
    assert [labels.shape[0] for _, labels in batches[:-1]] == [batch_size] * (len(batches) - 1)
    images = np.concatenate([backend.to_numpy(images) for images, _ in batches])
    labels = np.concatenate([backend.to_numpy(labels) for _, labels in batches])
    assert images.dtype == np.uint8
    assert labels.dtype == np.int32
    assert np.array_equal(images, dataset.images[rows].reshape(len(rows), -1))
    assert np.array_equal(labels, dataset.labels[rows])


def test_an_epoch_can_begin_in_the_middle(backend, tiny):
    loader = DeviceLoader(tiny, backend, 50)
    rows = np.random.default_rng(0).permutation(240)
    whole, rest = list(loader.epoch(rows)), list(loader.epoch(rows, start=3))
    assert len(whole) == 5
    assert len(rest) == 2
    for (images, labels), (same_images, same_labels) in zip(whole[3:], rest, strict=True):
        assert np.array_equal(backend.to_numpy(images), backend.to_numpy(same_images))
        assert np.array_equal(backend.to_numpy(labels), backend.to_numpy(same_labels))


@pytest.mark.parametrize("rows", [[0, 240], [-1, 3]])
def test_an_image_that_is_not_there_is_refused(backend, tiny, rows):
    """CuPy would wrap around, and JAX clamp, in silence."""
    with pytest.raises(DataError, match="the data set has 0 to 239"):
        next(DeviceLoader(tiny, backend, 2).epoch(np.array(rows)))


def test_a_batch_of_nothing_is_refused(tiny, find_backend):
    with pytest.raises(ConfigError, match="batch size 0: expected at least 1"):
        DeviceLoader(tiny, find_backend("numpy"), 0)
