"""The training loop: what it resolves, what it measures, what it refuses, and that it waits for nothing."""

import dataclasses
import math

import numpy as np
import pytest

from tests.conftest import make_dataset
from xpmlp.backends._numpy import NumpyBackend
from xpmlp.benchmark.checking import relative_error
from xpmlp.data import DeviceLoader
from xpmlp.data.deformation import Deformation
from xpmlp.data.dropout import Dropout
from xpmlp.data.loading import read_batch
from xpmlp.data.noise import Noise
from xpmlp.errors import BackendError, CheckpointError, ConfigError, DataError, TrainingError
from xpmlp.kernels import kernels
from xpmlp.math.layout import Layout, init
from xpmlp.math.network import backward, forward, score
from xpmlp.math.optimizers import sgd
from xpmlp.training.config import TrainConfig, make_optimizer
from xpmlp.training.evaluation import Evaluation, evaluate
from xpmlp.training.objectives import ImageObjective
from xpmlp.training.records import Callback, EpochMetrics, History, Plan
from xpmlp.training.run import train_network as train
from xpmlp.training.steps import (
    make_evaluation_step,
    make_gradient_step,
    make_step,
    make_update_step,
    zero_totals,
)

SMALL = TrainConfig(hidden=(16, 8), epochs=4, batch_size=16, learning_rate=0.1)


class TestConfig:
    def test_defaults_depend_on_the_data(self):
        large, small = TrainConfig().resolve(60_000), TrainConfig().resolve(1442)
        assert (large.val_size, large.batch_size, large.epochs, large.learning_rate) == (10_000, 128, 5, 0.2)
        assert (small.val_size, small.batch_size, small.epochs, small.learning_rate) == (240, 32, 40, 0.1)
        assert TrainConfig().resolve(12).epochs == 100

    def test_defaults_depend_on_the_optimizer(self):
        sgd, adam, adamw = (TrainConfig(optimizer=name).resolve(60_000) for name in ("sgd", "adam", "adamw"))
        assert (sgd.momentum, sgd.nesterov, sgd.weight_decay) == (0.9, True, 0)
        assert (adam.momentum, adam.nesterov, adam.weight_decay) == (None, None, 0)
        assert (adam.learning_rate, adamw.learning_rate, adamw.weight_decay) == (0.003, 0.003, 0.01)

    def test_without_momentum_there_is_no_nesterov(self):
        config = TrainConfig(momentum=0.0).resolve(60_000)
        assert (config.momentum, config.nesterov, config.learning_rate) == (0.0, False, 0.5)

    def test_resolving_twice_changes_nothing(self):
        once = TrainConfig(val_size=0.1).resolve(1000)
        assert once.resolve(1000) == once

    @pytest.mark.parametrize(
        ("val_size", "held_out"), [(None, 50), (0, 0), (0.0, 0), (0.25, 75), (1, 1), (120, 120), (120.0, 120)]
    )
    def test_the_validation_size_is_a_count_or_a_fraction(self, val_size, held_out):
        assert TrainConfig(val_size=val_size).resolve(300).val_size == held_out

    def test_a_default_batch_is_no_larger_than_the_data(self):
        assert TrainConfig().resolve(12).batch_size == 10

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"hidden": (0,)}, "hidden .*: expected widths of at least 1"),
            ({"hidden": 5}, "hidden 5: expected widths of at least 1"),
            ({"hidden": (-5,)}, "expected widths of at least 1"),
            ({"epochs": 0}, "epochs 0: expected a whole number of at least 1"),
            ({"batch_size": 0}, "batch_size 0"),
            ({"batch_size": 2.5}, "batch_size 2.5"),
            ({"seed": -1}, "seed -1: expected a whole number of at least 0"),
            ({"optimizer": "sdg"}, "optimizer 'sdg': did you mean sgd\\? expected sgd, adam or adamw"),
            ({"schedule": "step"}, "schedule 'step': expected constant, cosine or one-cycle"),
            ({"dtype": "float16"}, "dtype 'float16': expected float32 or float64"),
            ({"learning_rate": 0}, "learning_rate 0: expected a finite number above 0"),
            ({"learning_rate": -1}, "learning_rate -1"),
            ({"learning_rate": math.nan}, "learning_rate nan"),
            ({"learning_rate": math.inf}, "learning_rate inf"),
            ({"momentum": 1.0}, "momentum 1.0: expected at least 0 and below 1"),
            ({"momentum": math.nan}, "momentum nan"),
            ({"momentum": 0.0, "nesterov": True}, "nesterov with momentum 0"),
            ({"optimizer": "adam", "momentum": 0.9}, "momentum and nesterov are for sgd"),
            ({"optimizer": "adamw", "nesterov": True}, "momentum and nesterov are for sgd"),
            ({"deform": -0.5}, r"deform -0.5: expected a strength of at least 0 \(off\), at most 10"),
            ({"deform": 1.0, "deform_fade": 1.5}, "deform_fade 1.5: expected a part of the run, 0 to 1"),
            ({"deform_fade": 0.5}, "deform_fade 0.5 without a deformation"),
            ({"weight_decay": -1.0}, "weight decay -1.0"),
            ({"weight_decay": math.nan}, "weight decay nan"),
            ({"val_size": -1}, "val_size -1"),
            ({"val_size": 1.5}, "val_size 1.5"),
            ({"val_size": math.nan}, "val_size nan"),
            ({"target_accuracy": 0}, "target_accuracy 0: expected a fraction above 0, at most 1"),
            ({"target_accuracy": 98}, "target_accuracy 98"),
            ({"target_accuracy": math.nan}, "target_accuracy nan"),
            ({"target_accuracy": 0.9, "val_size": 0}, "target_accuracy 0.9 without validation data"),
        ],
    )
    def test_refuses_a_setting_outside_its_range(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            TrainConfig(**settings)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"batch_size": 201}, "batch_size 201: there are 200 training images"),
            ({"val_size": 240}, "val_size 240: the training set has 240 images"),
            ({"val_size": 0.001, "target_accuracy": 0.5}, "no image is left for validation"),
        ],
    )
    def test_refuses_what_does_not_fit_the_data(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            TrainConfig(**settings).resolve(240)


class TestARun:
    @pytest.mark.long_on_jax
    def test_learns_on_every_backend(self, backend, tiny, dtype):
        theta, history = train(dataclasses.replace(SMALL, dtype=dtype), tiny, backend)
        assert backend.to_numpy(theta).dtype == dtype
        assert history.epochs[-1].train_loss < history.epochs[0].train_loss
        assert history.best.val_accuracy > 0.9
        assert evaluate(theta, history.plan.layout, make_dataset(60, seed=1), backend).accuracy > 0.9

    def test_is_the_same_on_every_backend(self, backend, tiny):
        config = dataclasses.replace(SMALL, dtype="float64")
        theta, history = train(config, tiny, backend)
        expected, expected_history = train(config, tiny, NumpyBackend())
        assert relative_error(backend.to_numpy(theta), expected) <= 1e-10
        for ours, theirs in zip(history.epochs, expected_history.epochs, strict=True):
            assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-10)
            assert (ours.train_accuracy, ours.val_accuracy) == (theirs.train_accuracy, theirs.val_accuracy)

    def test_of_one_seed_is_one_run_bit_for_bit(self, tiny):
        (first, one), (second, other) = (train(SMALL, tiny, NumpyBackend()) for _ in range(2))
        assert first.tobytes() == second.tobytes()
        assert [epoch.val_loss for epoch in one.epochs] == [epoch.val_loss for epoch in other.epochs]
        another, _ = train(dataclasses.replace(SMALL, seed=1), tiny, NumpyBackend())
        assert first.tobytes() != another.tobytes()

    def test_begins_with_the_vector_that_init_draws_from_its_seed(self, tiny):
        """A step of rate 1e-30 leaves it as it was."""
        config = dataclasses.replace(SMALL, learning_rate=1e-30, epochs=1, seed=7)
        theta, history = train(config, tiny, NumpyBackend())
        expected = init(history.plan.layout, np.random.default_rng(7))
        np.testing.assert_allclose(theta, expected, rtol=0, atol=1e-25)

    def test_measures_before_each_update(self, tiny):
        config = dataclasses.replace(SMALL, learning_rate=1e-30, epochs=1, val_size=0)
        theta, history = train(config, tiny, NumpyBackend())
        loss, accuracy = evaluate(theta, history.plan.layout, tiny, NumpyBackend(), batch_size=7)
        assert history.epochs[0].train_loss == pytest.approx(loss, rel=1e-5)
        assert history.epochs[0].train_accuracy == accuracy

    def test_is_this_loop(self):
        """`train` written out: its draws, its order, its scaling, Adam and the one-cycle rate, and what it measures."""
        data = dataclasses.replace(make_dataset(60), max_value=230)
        config = TrainConfig(
            hidden=(7,), epochs=3, batch_size=16, optimizer="adam", learning_rate=0.01, dtype="float64", seed=4
        )
        theta, history = train(config, data, NumpyBackend())

        rng = np.random.default_rng(4)
        layout = Layout((20, 7, 3))
        expected = init(layout, rng, "float64")
        rows = rng.permutation(np.arange(60, dtype=np.int32))
        held_out, rest = np.sort(rows[:10]), np.sort(rows[10:])
        m, v, t, total = np.zeros(layout.size), np.zeros(layout.size), 0, 3 * 4
        X = data.images.reshape(60, -1) / 230
        for epoch in history.epochs:
            order = rng.permutation(rest)
            losses, correct = 0.0, 0
            for first in range(0, 50, 16):
                batch, t = order[first : first + 16], t + 1
                layers = layout.unflatten(expected)
                S, trail = forward(layers, X[batch])
                losses += float(score(S, data.labels[batch])[1]) * len(batch)
                correct += int((S.argmax(axis=1) == data.labels[batch]).sum())
                g = layout.flatten(backward(layers, trail, score(S, data.labels[batch])[0]))
                top = 1.2  # a tenth of 12 steps
                rate = 0.01 * (t / top if t <= top else (total + 1 - t) / (total + 1 - top))
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
                expected = expected - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            S, _ = forward(layout.unflatten(expected), X[held_out])
            assert epoch.train_loss == pytest.approx(losses / 50, rel=1e-10)
            assert epoch.train_accuracy == correct / 50
            assert epoch.val_loss == pytest.approx(float(score(S, data.labels[held_out])[1]), rel=1e-10)
            assert epoch.val_accuracy == (S.argmax(axis=1) == data.labels[held_out]).mean()
            assert epoch.learning_rate == pytest.approx(rate, rel=1e-12)
        assert relative_error(theta, expected) <= 1e-12

    def test_counts_the_seconds_of_training_and_not_of_validation(self, tiny, monkeypatch):
        clock = [0.0]
        waited = []

        def evaluate_slowly(*arguments):
            clock[0] += 1000
            return Evaluation(0.5, 0.5)

        class Device(NumpyBackend):
            def synchronize(self):
                clock[0] += 2
                waited.append(clock[0])

        monkeypatch.setattr("xpmlp.training.run.evaluate_rows", evaluate_slowly)
        monkeypatch.setattr("xpmlp.training.run.time.perf_counter", lambda: clock[0])
        _, history = train(SMALL, tiny, Device())
        assert [epoch.seconds for epoch in history.epochs] == [2.0] * 4, "the wait for the last step counts"
        assert len(waited) == 4

    def test_the_best_epoch_is_the_first_of_the_best(self):
        def epoch(number, accuracy):
            return EpochMetrics(number, 1.0, 0.5, 1.0, accuracy, 0.1, 1.0, 1.0)

        plan = Plan(SMALL, Layout((2, 2)), 1, 1, 1)
        history = History(plan, (epoch(1, 0.5), epoch(2, 0.9), epoch(3, 0.9), epoch(4, 0.8)))
        assert history.best.epoch == 2

    def test_holds_out_what_it_validates_on(self, tiny, monkeypatch):
        seen = []
        original = DeviceLoader.batches

        def spy(self, permutation, start=0):
            seen.append(permutation)
            return original(self, permutation, start)

        monkeypatch.setattr(DeviceLoader, "batches", spy)
        train(dataclasses.replace(SMALL, epochs=2), tiny, NumpyBackend())
        first, held_out, second, again = seen
        assert np.array_equal(held_out, again)
        assert np.array_equal(np.sort(first), np.sort(second))
        assert not np.array_equal(first, second)
        assert sorted([*first, *held_out]) == list(range(240))
        assert len(held_out) == 40

    def test_without_validation_data_has_no_best_epoch(self, tiny):
        _, history = train(dataclasses.replace(SMALL, val_size=0), tiny, NumpyBackend())
        assert history.best is None
        assert history.plan.n_train == 240
        assert {(epoch.val_loss, epoch.val_accuracy) for epoch in history.epochs} == {(None, None)}

    def test_stops_after_the_epoch_that_reaches_its_target(self, tiny):
        config = dataclasses.replace(SMALL, epochs=50, target_accuracy=0.9, schedule="constant")
        _, history = train(config, tiny, NumpyBackend())
        assert len(history.epochs) < 50
        *others, last = (epoch.val_accuracy for epoch in history.epochs)
        assert last >= 0.9
        assert all(accuracy < 0.9 for accuracy in others)

    def test_tells_its_callbacks_in_order(self, tiny):
        said = []

        class Listener(Callback):
            def on_begin(self, plan):
                said.append(("begin", plan.steps_per_epoch))

            def on_step(self, step):
                said.append(step)

            def on_epoch(self, metrics):
                said.append(("epoch", metrics.epoch))

        train(dataclasses.replace(SMALL, epochs=2, batch_size=100), tiny, NumpyBackend(), [Listener(), Callback()])
        assert said == [("begin", 2), 1, 2, ("epoch", 1), 3, 4, ("epoch", 2)]

    def test_records_the_rate_of_each_epochs_last_step(self, tiny):
        _, history = train(dataclasses.replace(SMALL, schedule="constant"), tiny, NumpyBackend())
        assert [epoch.learning_rate for epoch in history.epochs] == [0.1] * 4
        assert all(epoch.samples_per_second == pytest.approx(200 / epoch.seconds) for epoch in history.epochs)

    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
    @pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle"])
    def test_learns_with_every_optimizer_and_schedule_at_its_defaults(self, tiny, optimizer, schedule):
        config = TrainConfig(optimizer=optimizer, schedule=schedule, hidden=(16,), epochs=30)
        assert train(config, tiny, NumpyBackend())[1].best.val_accuracy > 0.9


class Keeper(Callback):
    """Keeps every checkpoint, by its step; of an epoch's end the one after its validation."""

    def __init__(self):
        self.checkpoints = {}
        self.order = []

    def on_checkpoint(self, take):
        checkpoint = take()
        self.checkpoints[checkpoint.step] = checkpoint
        self.order.append(checkpoint.step)


def untimed(epochs):
    return [dataclasses.replace(epoch, seconds=0.0, samples_per_second=0.0) for epoch in epochs]


def as_text(checkpoint):
    """Return all that must be equal in two runs' checkpoints."""
    content = {**vars(checkpoint), "seconds": 0, "epoch_seconds": 0, "epochs": untimed(checkpoint.epochs)}
    arrays = {"theta": checkpoint.theta, **checkpoint.state, **checkpoint.totals}
    return str({**content, **{name: array.tobytes() for name, array in arrays.items()}})


class TestGoingOn:
    """A run of 4 epochs of 13 steps, taken up at any of its checkpoints."""

    @pytest.fixture(params=["sgd", "adamw"])
    def config(self, request):
        rate = {"sgd": 0.1, "adamw": 0.01}[request.param]
        return dataclasses.replace(SMALL, optimizer=request.param, learning_rate=rate, schedule="cosine")

    def test_there_is_a_checkpoint_before_the_first_step_after_each_epoch_and_every_so_many_steps(self, tiny, config):
        for every, expected in (
            (None, [0, 13, 26, 39, 52]),
            (5, [0, 5, 10, 13, 15, 20, 25, 26, 30, 35, 39, 40, 45, 50, 52]),
            (13, [0, 13, 26, 39, 52]),
            (100, [0, 13, 26, 39, 52]),
        ):
            keeper = Keeper()
            train(config, tiny, NumpyBackend(), [keeper], checkpoint_steps=every)
            assert keeper.order == expected

    @pytest.mark.long_on_jax
    def test_taking_checkpoints_changes_nothing(self, backend, tiny, config):
        plain, _ = train(config, tiny, backend)
        kept, _ = train(config, tiny, backend, [Keeper()], checkpoint_steps=1)
        assert backend.to_numpy(plain).tobytes() == backend.to_numpy(kept).tobytes()

    @pytest.mark.parametrize("transfer", ["resident", pytest.param("stream", marks=pytest.mark.full)])
    def test_on_numpy_is_the_run_that_was_not_interrupted_bit_for_bit(self, tiny, config, transfer):
        config = dataclasses.replace(config, transfer=transfer)
        first, second = Keeper(), Keeper()
        theta, history = train(config, tiny, NumpyBackend(), [first], checkpoint_steps=1)
        texts = {step: as_text(checkpoint) for step, checkpoint in first.checkpoints.items()}
        for start in [0, 1, 5, 12, 13, 14, 38, 39, 51, 52]:
            again, went_on = train(
                config, tiny, NumpyBackend(), [second], start=first.checkpoints[start], checkpoint_steps=1
            )
            assert again.tobytes() == theta.tobytes(), start
            assert untimed(went_on.epochs) == untimed(history.epochs)
            assert went_on.plan == dataclasses.replace(history.plan, steps_done=start)
            for step in range(start + 1, 53):
                assert as_text(second.checkpoints[step]) == texts[step]

    def test_goes_on_from_any_backend_to_any_other(self, backend, tiny, config, dtype):
        config = dataclasses.replace(config, dtype=dtype)
        theta, history = train(config, tiny, NumpyBackend())
        keeper = Keeper()
        stops = iter([False] * 19 + [True])
        _, half = train(config, tiny, backend, [keeper], should_stop=lambda: next(stops))
        assert not half.is_complete
        for device in (backend, NumpyBackend()):
            again, went_on = train(config, tiny, device, start=keeper.checkpoints[20])
            assert went_on.is_complete
            bound = {"float32": 1e-4, "float64": 1e-12}[dtype]
            assert relative_error(device.to_numpy(again), theta) < bound
            assert [epoch.epoch for epoch in went_on.epochs] == [1, 2, 3, 4]
            assert went_on.epochs[1].train_loss == pytest.approx(history.epochs[1].train_loss, rel=bound)

    def test_stops_after_the_step_and_leaves_a_checkpoint(self, tiny, config):
        for steps in (1, 13, 52):
            told, keeper = [], Keeper()
            keeper.on_step = told.append
            wishes = iter([False] * (steps - 1) + [True])
            _, history = train(config, tiny, NumpyBackend(), [keeper], should_stop=wishes.__next__)
            assert told == list(range(1, steps + 1))
            assert (history.is_complete, len(history.epochs)) == (False, (steps - 1) // 13)
            assert keeper.order[-1] == steps

    def test_the_time_so_far_counts(self, tiny, config):
        keeper = Keeper()
        train(config, tiny, NumpyBackend(), [keeper], checkpoint_steps=1)
        start = dataclasses.replace(keeper.checkpoints[20], epoch_seconds=1000.0, seconds=3000.0)
        _, history = train(config, tiny, NumpyBackend(), [keeper], start=start)
        assert history.epochs[1].seconds > 1000
        assert history.epochs[2].seconds < 1000
        assert keeper.checkpoints[52].seconds > 3000

    def test_a_target_that_was_reached_is_an_end(self, tiny, config):
        keeper = Keeper()
        config = dataclasses.replace(config, epochs=40, target_accuracy=0.8)
        theta, history = train(config, tiny, NumpyBackend(), [keeper])
        assert len(history.epochs) < 40
        again, went_on = train(config, tiny, NumpyBackend(), start=keeper.checkpoints[keeper.order[-1]])
        assert (again.tobytes(), went_on.epochs) == (theta.tobytes(), history.epochs)

    def test_more_epochs_where_the_schedule_is_constant_are_those_of_a_longer_run(self, tiny, config):
        keeper = Keeper()
        short = dataclasses.replace(config, schedule="constant", epochs=2)
        long = dataclasses.replace(short, epochs=4)
        train(short, tiny, NumpyBackend(), [keeper])
        expected, _ = train(long, tiny, NumpyBackend())
        found, history = train(long, tiny, NumpyBackend(), start=keeper.checkpoints[26])
        assert found.tobytes() == expected.tobytes()
        assert len(history.epochs) == 4

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"hidden": (16, 9)}, r"of a network \(20, 16, 8, 3\): the config and the data set make \(20, 16, 9, 3\)"),
            ({"dtype": "float64"}, "dtype float64: the run was begun with float32; leave it out, or start a new run"),
            ({"seed": 1}, "seed 1: the run was begun with 0"),
            ({"batch_size": 17}, "batch_size 17: the run was begun with 16"),
            ({"val_size": 30}, "val_size 30: the run was begun with 40"),
            ({"optimizer": "adam", "momentum": None}, "optimizer adam: the run was begun with"),
            ({"epochs": 5}, "epochs 5: the run's cosine learning rate was laid out for 4, and only a constant one"),
            ({"epochs": 1}, "epochs 1: the run's cosine learning rate was laid out for 4"),
        ],
        ids=str,
    )
    def test_another_run_is_refused(self, tiny, config, changes, message):
        keeper = Keeper()
        train(config, tiny, NumpyBackend(), [keeper])
        with pytest.raises((ConfigError, CheckpointError), match=message):
            train(dataclasses.replace(config, **changes), tiny, NumpyBackend(), start=keeper.checkpoints[26])

    def test_an_end_that_lies_behind_is_refused(self, tiny, config):
        keeper = Keeper()
        config = dataclasses.replace(config, schedule="constant")
        train(config, tiny, NumpyBackend(), [keeper])
        with pytest.raises(ConfigError, match="epochs 1: the run has made 2 already; give as many or more"):
            train(dataclasses.replace(config, epochs=1), tiny, NumpyBackend(), start=keeper.checkpoints[26])

    def test_another_optimizers_state_is_refused(self, tiny):
        keeper = Keeper()
        train(SMALL, tiny, NumpyBackend(), [keeper])
        start = dataclasses.replace(keeper.checkpoints[13], state={})
        with pytest.raises(CheckpointError, match=r"the checkpoint has \[\]: sgd has \['velocity'\]"):
            train(SMALL, tiny, NumpyBackend(), start=start)

    def test_no_checkpoint_is_taken_of_what_is_no_longer_finite(self, backend, tiny):
        keeper = Keeper()
        broken = dataclasses.replace(SMALL, learning_rate=1e38, schedule="constant")
        with pytest.raises(TrainingError, match="no longer finite"):
            train(broken, tiny, backend, [keeper], checkpoint_steps=1)
        assert max(keeper.order) < 3
        assert all(np.isfinite(checkpoint.theta).all() for checkpoint in keeper.checkpoints.values())


class TestFailure:
    def test_a_loss_that_is_no_longer_finite_stops_the_run_and_names_the_step(self, backend, tiny):
        """The first step's update is so great that the second step's loss is no number."""
        config = dataclasses.replace(SMALL, learning_rate=1e30, schedule="constant")
        with pytest.raises(TrainingError, match="in epoch 1, after step [12] of 13: the learning") as caught:
            train(config, tiny, backend)
        assert str(caught.value).endswith("the learning rate 1e+30 is too great for this run; try one such as 0.0707")

    def test_a_weight_decay_that_breaks_the_run_is_named(self, tiny):
        config = dataclasses.replace(SMALL, weight_decay=1e20)
        with pytest.raises(TrainingError, match="the weight decay 1e\\+20 is too great for the learning rate 0.1"):
            train(config, tiny, NumpyBackend())

    @pytest.mark.long_on_jax
    def test_parameters_that_the_last_update_broke_are_found(self, backend, tiny):
        config = dataclasses.replace(SMALL, epochs=1, batch_size=200, learning_rate=1e39, schedule="constant")
        with pytest.raises(TrainingError, match="no longer finite after epoch 1"):
            train(config, tiny, backend)

    def test_a_test_loss_that_is_not_finite_is_an_error(self, tiny):
        layout = Layout((20, 3))
        with pytest.raises(TrainingError, match="the loss is"):
            evaluate(np.full(layout.size, np.float32(3e38)), layout, tiny, NumpyBackend())

    def test_a_network_that_memory_cannot_hold_is_refused_before_it_is_made(self, backend, tiny):
        with pytest.raises(ConfigError, match=r"hidden 10000000,10000000 .* need about 2 PB: .* free"):
            train(dataclasses.replace(SMALL, hidden=(10_000_000, 10_000_000)), tiny, backend)

    def test_a_device_out_of_memory_suggests_a_smaller_batch(self, tiny):
        class Full(NumpyBackend):
            def compile(self, step, *, donate=()):
                def full(*arguments):
                    raise MemoryError

                return full

        with pytest.raises(BackendError, match="ran out of memory with batch size 16: try a smaller one, such as 8,"):
            train(SMALL, tiny, Full())

    def test_another_error_of_the_device_is_not_hidden(self, tiny):
        class Broken(NumpyBackend):
            def compile(self, step, *, donate=()):
                def broken(*arguments):
                    raise RuntimeError("a bug")

                return broken

        with pytest.raises(RuntimeError, match="a bug"):
            train(SMALL, tiny, Broken())

    def test_every_library_knows_its_own_out_of_memory(self, backend):
        assert backend.is_out_of_memory(MemoryError())
        assert not backend.is_out_of_memory(ValueError("shapes"))
        if backend.name == "torch":
            import torch

            assert backend.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
            assert backend.is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried"))
        if backend.name == "jax":
            import jax

            assert backend.is_out_of_memory(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"))
        if backend.name == "dpnp":
            with pytest.raises(Exception, match="allocation failed") as caught:
                backend.namespace.empty(10**15, dtype="uint8")
            assert backend.is_out_of_memory(caught.value)

    def test_what_is_easily_confused_is_told_apart(self, tiny):
        with pytest.raises(BackendError, match="'numpy' where a Backend is expected"):
            train(SMALL, tiny, "numpy")
        with pytest.raises(DataError, match="a list where a Dataset is expected: give one part"):
            train(SMALL, [tiny], NumpyBackend())

    def test_images_of_another_size_than_the_networks_are_refused(self, tiny):
        layout = Layout((784, 3))
        with pytest.raises(DataError, match="20 pixels and 3 classes: the network has 784 inputs and 3 outputs"):
            evaluate(np.zeros(layout.size, np.float32), layout, tiny, NumpyBackend())


class TestAStepNeitherTransfersNorWaits:
    """On a GPU each `float(x)` in a step would stop the queue. Here what would do so raises."""

    @pytest.fixture(params=["sgd", "adam", "adamw", "sgd, with noise"])
    def steps(self, request, tiny):
        """Return a function that makes one training and one evaluation step on a backend's arrays."""

        def run(backend, *, compiled=False):
            layout = Layout((20, 16, 8, 3))
            name, _, noisy = request.param.partition(", ")
            optimizer = make_optimizer(TrainConfig(optimizer=name))
            theta = backend.asarray(init(layout, np.random.default_rng(0)), copy=True)
            state, totals, seen = (
                optimizer.init(theta),
                zero_totals(backend, "float32"),
                zero_totals(backend, "float32"),
            )
            batches = DeviceLoader(tiny, backend, 100).batches(np.arange(240))
            batch = next(batches)
            arguments, noise = {}, None
            if noisy:
                deformation, dropout = (
                    Deformation(lambda step: 1.0, (5, 4), 255, 100, backend),
                    Dropout(0.5, (16, 8), 100, backend),
                )
                arguments = {"deformation": deformation, "dropout": dropout}
                noise = Noise(next(deformation.epoch(0)), next(dropout.epoch(0)))
            objective = ImageObjective(layout, 255, **arguments)
            train_step = make_step(objective, optimizer)
            measure = make_evaluation_step(layout, 255)
            differentiate, update = make_gradient_step(objective), make_update_step(optimizer, layout.size)
            if compiled:
                differentiate, update = backend.compile(differentiate), backend.compile(update, donate=(0, 1, 2))
                train_step = backend.compile(train_step, donate=(0, 1, 2))
                measure = backend.compile(measure, donate=(0,))

            def step():
                nonlocal batch
                scalars = optimizer.scalars(1, 0.1)
                result = train_step(theta, state, totals, batch, scalars, noise)
                batch = next(batches)
                summed = differentiate(result[0], batch, 0.5, 1.0, noise and noise.of(slice(100)))
                result = update(*result, summed, scalars)
                return result, measure(seen, result[0], batch)

            return step

        return run

    @pytest.mark.parametrize("spec", ["array-api-strict", "array-api-strict:device1", "dpnp"])
    @pytest.mark.needs("{spec}")
    def test_where_every_wait_is_a_method(self, steps, spec, find_backend, monkeypatch):
        backend = find_backend(spec)
        step = steps(backend)
        kind = type(backend.asarray(1.0))

        def waits(self, *arguments):
            raise AssertionError("a step waits for the device")

        for name in ("__float__", "__int__", "__bool__", "__index__", "__complex__", "__array__", "__dlpack__"):
            if hasattr(kind, name):
                monkeypatch.setattr(kind, name, waits)
        with pytest.raises(AssertionError, match="waits"):
            float(backend.asarray(1.0))
        step()

    @pytest.mark.needs("torch")
    def test_on_pytorch(self, steps, find_backend):
        backend = find_backend("torch")
        import torch
        from torch.utils._python_dispatch import TorchDispatchMode

        class NothingWaits(TorchDispatchMode):
            def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
                name = operation.name()
                assert name not in ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero"), name
                moves = (keywords or {}).get("device") not in (None, backend.device)
                assert not moves, f"{name} moves to another device"
                return operation(*arguments, **(keywords or {}))

        step = steps(backend)
        with NothingWaits():
            with pytest.raises(AssertionError, match="_local_scalar_dense"):
                float(torch.ones(1))
            step()

    @pytest.mark.needs("jax")
    def test_on_jax(self, steps, find_backend):
        """Under ``jax.jit`` an array has no value, so that a step that asks for one cannot be compiled."""
        backend = find_backend("jax")
        import jax

        with pytest.raises(jax.errors.ConcretizationTypeError):
            jax.jit(float)(1.0)
        with jax.transfer_guard_device_to_host("disallow"):
            (_, _, totals), seen = steps(backend, compiled=True)()
        assert (int(totals.steps), int(seen.steps)) == (2, 1)


@pytest.mark.needs("jax")
def test_a_step_takes_what_is_handed_over_for_its_results(tiny, find_backend):
    backend = find_backend("jax")
    layout, optimizer = Layout((20, 3)), make_optimizer(TrainConfig())
    theta = backend.asarray(np.zeros(layout.size, np.float32), copy=True)
    batch = next(iter(DeviceLoader(tiny, backend, 100).batches(np.arange(240))))
    step = backend.compile(make_step(ImageObjective(layout, 255), optimizer), donate=(0, 1, 2))
    step(theta, optimizer.init(theta), zero_totals(backend, "float32"), batch, optimizer.scalars(1, 0.1))
    assert theta.is_deleted()
    assert not batch[0].is_deleted()


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_in_two_halves_is_the_step_and_the_parts_of_a_batch_sum_to_it(backend, tiny, dtype, optimizer):
    layout, optimizer = Layout((20, 16, 3)), make_optimizer(TrainConfig(optimizer=optimizer))

    def start():
        theta = backend.asarray(init(layout, np.random.default_rng(0), dtype), copy=True)
        return theta, optimizer.init(theta), zero_totals(backend, dtype)

    batches = DeviceLoader(tiny, backend, 70).batches(np.arange(210))
    batch, others = next(batches), [next(batches), next(batches)]
    scalars = optimizer.scalars(1, 0.1)
    objective = ImageObjective(layout, 255, 0.1)
    theta, _, totals = backend.compile(make_step(objective, optimizer))(*start(), batch, scalars)
    differentiate = backend.compile(make_gradient_step(objective))
    first = start()
    vector = backend.to_numpy(differentiate(first[0], batch, 1.0, 1.0))
    assert vector.dtype == dtype
    assert vector[-1] == 1
    again, _, found = backend.compile(make_update_step(optimizer, layout.size))(
        *first, backend.asarray(vector), scalars
    )
    bound = {"float32": 1e-6, "float64": 1e-14}[dtype]
    assert relative_error(backend.to_numpy(again), backend.to_numpy(theta)) <= bound
    for ours, theirs in zip(found, totals, strict=True):
        assert ours.dtype == theirs.dtype
        assert backend.to_numpy(ours) == pytest.approx(backend.to_numpy(theirs), rel=bound)

    theta = start()[0]
    parts = [backend.to_numpy(differentiate(theta, part, 0.5, 0.0)) for part in others]
    whole = next(DeviceLoader(tiny, backend, 140).batches(np.arange(70, 210)))
    expected = backend.to_numpy(differentiate(theta, whole, 1.0, 0.0))
    assert relative_error(sum(parts), expected) <= bound


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_a_center_makes_the_steps_of_centred_inputs(backend, tiny, momentum, nesterov):
    """Training on X − c, written out, with b1 moved by c 1ᵀW1 at the start and back at the end."""
    center, layout, optimizer = 0.2, Layout((20, 16, 3)), sgd(momentum, nesterov=nesterov)
    start = init(layout, np.random.default_rng(0), "float64")

    theta = backend.asarray(start, copy=True)
    state, totals = optimizer.init(theta), zero_totals(backend, "float64")
    step = backend.compile(make_step(ImageObjective(layout, 255, center), optimizer), donate=(0, 1, 2))
    expected = start.copy()
    (W1, b1), *_ = layout.unflatten(expected)
    b1 += center * W1.sum(axis=0)
    velocity = np.zeros_like(expected)
    for k in range(30):
        rows = np.arange(k % 4, 240, 4)
        images, labels = tiny.images[rows].reshape(-1, 20), tiny.labels[rows].astype(np.int32)
        batch = backend.asarray(images), backend.asarray(labels)
        theta, state, totals = step(theta, state, totals, batch, optimizer.scalars(k + 1, 0.3))

        layers = layout.unflatten(expected)
        S, trail = forward(layers, images / 255 - center)
        gradient = layout.flatten(backward(layers, trail, score(S, labels)[0]))
        velocity = momentum * velocity + gradient
        expected -= 0.3 * (gradient + momentum * velocity if nesterov else velocity)
    b1 -= center * W1.sum(axis=0)
    assert relative_error(backend.to_numpy(theta), expected) <= 1e-11
    assert relative_error(expected, start) > 0.1


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("with_kernels", ["inplace", pytest.param("compiled", marks=pytest.mark.needs(module="numba"))])
def test_a_step_on_numpy_allocates_no_vector_but_the_gradient(with_kernels, optimizer):
    """What makes it fast: the update is in place, and the gradient is written where it stays."""
    import tracemalloc

    backend, layout, rule = NumpyBackend(), Layout((784, 512, 10)), make_optimizer(TrainConfig(optimizer=optimizer))
    theta = init(layout, np.random.default_rng(0))
    state, totals = rule.init(theta), zero_totals(backend, "float32")
    step = backend.compile(make_step(ImageObjective(layout, 255), rule))
    batch = np.zeros((4, 784), np.uint8), np.arange(4, dtype=np.int32)
    with kernels(with_kernels):
        theta, state, totals = step(theta, state, totals, batch, rule.scalars(1, 0.1))  # compiles, makes the scratch
        tracemalloc.start()
        try:
            step(theta, state, totals, batch, rule.scalars(2, 0.1))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert theta.nbytes < peak < 1.1 * theta.nbytes


def test_a_resident_batch_is_gathered_in_the_step(backend, tiny):
    """So that a compiled step can do it; the loader hands on the same arrays and the number of a line each time."""
    batches = list(DeviceLoader(tiny, backend, 50, "resident").batches(np.arange(240)[::-1]))
    assert len(batches) == 5
    images, labels, table, _ = batches[0]
    assert all(batch[0] is images and batch[1] is labels for batch in batches)
    assert all(batch[2] is table and batch[3] == k for k, batch in enumerate(batches[:4]))
    read = [[backend.to_numpy(part) for part in read_batch(batch)] for batch in batches]
    assert np.array_equal(np.concatenate([images for images, _ in read]), tiny.images[::-1].reshape(240, 20))
    assert np.array_equal(np.concatenate([labels for _, labels in read]), tiny.labels[::-1])


def test_rounds_of_ones_own_see_the_same_noise(tiny):
    """One rank whose round is longer than an epoch makes that epoch's steps as a plain run does."""
    config = dataclasses.replace(SMALL, epochs=1, deform=1.0, dropout=0.2)
    (_, rounds), (_, plain) = (
        train(dataclasses.replace(config, average_every=every), tiny, NumpyBackend()) for every in (1000, 1)
    )
    assert rounds.epochs[0].train_loss == pytest.approx(plain.epochs[0].train_loss, rel=1e-6)
    assert rounds.epochs[0].train_accuracy == plain.epochs[0].train_accuracy
    other, _ = train(dataclasses.replace(config, dropout=0.0), tiny, NumpyBackend())
    assert not np.array_equal(other, train(config, tiny, NumpyBackend())[0]), "the noise is there"
