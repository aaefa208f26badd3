"""Streamed batches, whatever the order in which a device's streams get on: hypothesis searches it by a seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import make_dataset
from xpmlp import DeviceLoader, get_backend

pytestmark = pytest.mark.needs("cupy", module="cuda_on_cpu")

DATA = make_dataset(150)


@pytest.fixture(autouse=True)
def usual_order():
    from cuda_on_cpu.control import interleave

    yield
    interleave(0)


@pytest.mark.parametrize("reuse_buffers", [True, False])
@given(seed=st.integers(1, 2**63 - 1))
@settings(max_examples=20)
def test_every_computation_sees_its_own_batch(reuse_buffers, seed):
    from cuda_on_cpu.control import interleave

    interleave(seed)
    backend, rng = get_backend("cupy"), np.random.default_rng(seed)
    xp = backend.namespace
    loader = DeviceLoader(DATA, backend, 16, "stream", reuse_buffers=reuse_buffers)
    for _ in range(2):
        order, found = rng.permutation(len(DATA)), []
        for images, labels in loader.epoch(order):
            found.append((xp.sum(images, axis=1, dtype=xp.int64) * 10 + labels) * 3 - 1)  # a few kernels, queued
        expected = (DATA.images.reshape(len(DATA), -1).sum(axis=1, dtype=np.int64) * 10 + DATA.labels) * 3 - 1
        assert np.concatenate([backend.to_numpy(batch) for batch in found]).tolist() == expected[order].tolist()
