"""Dropout: masks as inputs, of the run's seed, and their derivative."""

import dataclasses
import itertools

import numpy as np
import pytest

from tests.training.test_training import Keeper, untimed
from xpmlp.backends import get_backend
from xpmlp.data.dropout import Dropout
from xpmlp.errors import ConfigError
from xpmlp.math.layout import Layout
from xpmlp.math.network import backward, forward, score
from xpmlp.training.config import TrainConfig
from xpmlp.training.run import train_network as train

CONFIG = TrainConfig(hidden=(16, 8), epochs=3, batch_size=16, learning_rate=0.1, dropout=0.25)


class TestMasks:
    def test_are_of_two_values_and_of_mean_1(self, backend, dtype):
        dropout = Dropout(0.25, (300, 200), 64, backend)
        theta = backend.asarray(np.zeros(1, dtype))
        masks = [backend.to_numpy(mask) for mask in dropout.masks(theta, 50, next(dropout.epoch(0)))]
        assert [(mask.shape, mask.dtype) for mask in masks] == [((50, 300), dtype), ((50, 200), dtype)]
        for mask in masks:
            assert np.unique(mask).tolist() == pytest.approx([0, 4 / 3])
            assert mask.mean() == pytest.approx(1, abs=0.03)

    @pytest.mark.parametrize(("rate", "kept"), [(1e-9, 255 / 256), (0.5, 0.5), (0.999999, 1 / 256)])
    def test_leave_something_out_and_something_in_at_any_rate(self, rate, kept):
        dropout = Dropout(rate, (10_000,), 4, get_backend("numpy"))
        (mask,) = dropout.masks(np.zeros(1), 4, next(dropout.epoch(0)))
        assert (mask > 0).mean() == pytest.approx(kept, abs=0.02)
        assert mask.mean() == pytest.approx(1, abs=0.1)

    @pytest.mark.long_on_jax
    def test_are_the_same_wherever_an_epoch_is_taken_up(self, backend):
        dropout = Dropout(0.5, (2000, 1000), 1024, backend)  # blocks of five batches
        theta = backend.asarray(np.zeros(1))
        whole = [
            [backend.to_numpy(mask).tobytes() for mask in dropout.masks(theta, 1024, drawn)]
            for drawn in itertools.islice(dropout.epoch(3), 7)
        ]
        assert len({mask for masks in whole for mask in masks}) == 14
        for start in (1, 4, 5, 6):
            masks = dropout.masks(theta, 1024, next(dropout.epoch(3, start)))
            assert [backend.to_numpy(mask).tobytes() for mask in masks] == whole[start]


@pytest.mark.long_on_jax
def test_the_gradient_behind_masks_is_that_of_finite_differences(backend):
    rng, layout = np.random.default_rng(0), Layout((5, 7, 6, 3))
    theta = rng.standard_normal(layout.size)  # biases too: at 0, where all inputs are left out, ReLU has a kink
    X, labels = rng.random((9, 5)), rng.integers(0, 3, 9).astype(np.int32)
    hosts = [rng.integers(0, 2, (9, width)) / 0.5 for width in (7, 6)]

    def loss(theta, masks=hosts):
        return float(score(forward(layout.unflatten(theta), X, masks=masks)[0], labels)[1])

    masks = [backend.asarray(mask) for mask in hosts]
    layers = layout.unflatten(backend.asarray(theta, copy=True))
    S, trail = forward(layers, backend.asarray(X), masks=masks)
    delta, found, _ = score(S, backend.asarray(labels))
    assert float(backend.to_numpy(found)) == pytest.approx(loss(theta))
    gradient = backend.to_numpy(layout.flatten(backward(layers, trail, delta, masks=masks)))
    steps = 1e-6 * np.eye(layout.size)
    expected = np.array([(loss(theta + step) - loss(theta - step)) / 2e-6 for step in steps])
    np.testing.assert_allclose(gradient, expected, atol=1e-8)
    assert loss(theta) != pytest.approx(loss(theta, masks=None)), "the masks do something"


class TestARun:
    @pytest.mark.long_on_jax
    def test_is_the_same_on_every_backend(self, backend, tiny):
        config = dataclasses.replace(CONFIG, dtype="float64")
        theta = backend.to_numpy(train(config, tiny, backend)[0])
        reference, _ = train(config, tiny, get_backend("numpy"))
        np.testing.assert_allclose(theta, reference, rtol=1e-6, atol=1e-9)
        without, _ = train(dataclasses.replace(config, dropout=0.0), tiny, backend)
        assert not np.allclose(theta, backend.to_numpy(without))

    def test_that_went_on_ends_as_if_it_had_never_stopped(self, tiny):
        """With everything that is drawn or kept beside the plain step."""
        backend, keeper = get_backend("numpy"), Keeper()
        config = dataclasses.replace(CONFIG, deform=1.0, deform_fade=0.5)
        whole, history = train(config, tiny, backend, [keeper], checkpoint_steps=5)
        assert len(keeper.checkpoints) > 6
        for checkpoint in keeper.checkpoints.values():
            theta, gone_on = train(config, tiny, backend, start=checkpoint)
            assert np.array_equal(theta, whole), checkpoint.step
            assert untimed(gone_on.epochs) == untimed(history.epochs)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_refuses_a_rate_that_is_none(rate):
    with pytest.raises(ConfigError, match=rf"dropout {rate}: expected at least 0 \(off\) and below 1"):
        TrainConfig(dropout=rate)


def test_refuses_a_network_with_nothing_to_leave_out():
    with pytest.raises(ConfigError, match="dropout 0.5 without hidden layers"):
        TrainConfig(dropout=0.5, hidden=())
