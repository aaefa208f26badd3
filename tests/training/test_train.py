"""``xpmlp.train`` and the model that it returns, as a user of Python sees them."""

import copy
import pickle
import signal

import numpy as np
import pytest

import xpmlp
from tests.conftest import run_python
from xpmlp import ConfigError, DataError, Dataset, LoadedData, TrainConfig, train
from xpmlp.training.run import train_network

SMALL = {"hidden": (8,), "epochs": 2, "batch_size": 20}


@pytest.fixture
def data(tiny):
    return LoadedData("tiny", tiny, Dataset(tiny.images[:60], tiny.labels[:60], tiny.class_names, tiny.max_value))


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((200, 5))
    return X, np.where(X[:, 0] > 0, "yes", "no")


class TestData:
    def test_of_a_loaded_data_set_the_training_part_is_trained_on_and_the_test_part_tested(self, data, backend):
        model, history = train(data, backend=backend, **SMALL)
        theta, expected = train_network(TrainConfig(**SMALL), data.train, backend)
        assert history.epochs[-1].train_loss == expected.epochs[-1].train_loss
        assert backend.to_numpy(model.theta).tobytes() == backend.to_numpy(theta).tobytes()
        assert model.evaluate() == model.evaluate(data) == model.evaluate(data.test)
        assert model.evaluate().accuracy == np.mean(model.predict(data.test.images) == data.test.labels)

    def test_one_part_has_no_test_data(self, tiny):
        model, _ = train(tiny, backend="numpy", **SMALL)
        with pytest.raises(DataError, match="the model has no test data of its own: give evaluate a data set"):
            model.evaluate()
        assert 0 <= model.evaluate(tiny).accuracy <= 1

    def test_samples_and_classes(self, samples, backend):
        model, _ = train(samples, backend=backend, hidden=(8,), epochs=30, dtype="float64")
        assert model.class_names == ("no", "yes")
        assert model.evaluate(samples).accuracy > 0.95
        found = np.array(model.class_names)[model.predict(samples[0])]
        assert np.mean(found == samples[1]) == model.evaluate(samples).accuracy

    def test_floats_are_taken_as_they_are(self, tiny):
        """Bytes are divided by their greatest value; the quotients, given as floats, train the same network."""
        config = TrainConfig(**SMALL, dtype="float64")
        of_bytes, _ = train(tiny, config, backend="numpy")
        of_floats, _ = train((tiny.images.astype(np.float64) * (1 / 255), tiny.labels), config, backend="numpy")
        assert of_floats.theta.tobytes() == of_bytes.theta.tobytes()
        assert np.array_equal(of_floats.predict_proba(tiny.images * (1 / 255)), of_bytes.predict_proba(tiny.images))

    @pytest.mark.needs("torch")
    def test_of_another_library(self, samples, find_backend):
        torch = find_backend("torch")
        labels = (samples[1] == "yes").astype(np.int64)
        model, _ = train((torch.asarray(samples[0]), torch.asarray(labels)), backend="numpy", **SMALL)
        assert model.theta.tobytes() == train((samples[0], labels), backend="numpy", **SMALL)[0].theta.tobytes()

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (3, "data is a int: expected what load_dataset returns, a Dataset, or"),
            ((np.zeros((4, 3)), np.zeros((4, 1))), r"y of float64, shape \(4, 1\): expected a class for each sample"),
            ((np.zeros((4, 3)), np.zeros(5)), "4 images and 5 labels"),
            ((np.full((4, 3), np.nan), np.arange(4)), "some numbers are infinite or NaN"),
        ],
        ids=["a number", "a column", "too many", "NaN"],
    )
    def test_what_is_none_is_refused(self, wrong, message):
        with pytest.raises(DataError, match=message):
            train(wrong)

    def test_samples_that_are_no_images_are_not_deformed(self, samples):
        with pytest.raises(ConfigError, match="deform 1.0 is for images: these are samples of 5 numbers"):
            train(samples, backend="numpy", deform=1.0)


class TestSettings:
    def test_beat_the_configs(self, tiny):
        _, history = train(tiny, TrainConfig(hidden=(8,), epochs=3), backend="numpy", epochs=2)
        assert (history.plan.config.hidden, history.plan.epochs) == ((8,), 2)

    def test_an_unknown_one_is_named(self, tiny):
        with pytest.raises(ConfigError, match="unknown setting 'learning_rat': did you mean learning_rate?"):
            train(tiny, learning_rat=0.1)


class TestCallbacks:
    def test_a_function_learns_of_each_epoch_and_true_ends_the_run(self, tiny):
        seen = []

        def callback(metrics):
            seen.append(metrics.epoch)
            return metrics.epoch == 3

        _, history = train(tiny, backend="numpy", callbacks=[callback], hidden=(8,), epochs=10)
        assert seen == [1, 2, 3]
        assert (len(history.epochs), history.is_complete) == (3, True)

    def test_what_is_none_is_refused(self, tiny):
        with pytest.raises(ConfigError, match="callback 3: expected a Callback, or a function"):
            train(tiny, callbacks=[3])


class TestInterrupts:
    def test_the_first_returns_what_there_is(self, tiny):
        def press(metrics):
            if metrics.epoch == 2:
                signal.raise_signal(signal.SIGINT)

        with pytest.warns(UserWarning, match="training was interrupted after 2 of 50 epochs"):
            model, history = train(tiny, backend="numpy", callbacks=[press], hidden=(8,), epochs=50)
        assert (len(history.epochs), history.is_complete) == (2, False)
        assert model.predict(tiny.images).shape == (240,)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_a_second_one_is_the_programs_own(self, tiny):
        def press(metrics):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            train(tiny, backend="numpy", callbacks=[press], **SMALL)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class TestModel:
    @pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
    def test_can_be_copied_and_pickled(self, data, backend, again):
        model, _ = train(data, backend=backend, **SMALL)
        back = again(model)
        assert str(back.backend) == str(model.backend)
        assert back.theta is not model.theta
        assert backend.to_numpy(back.theta).tobytes() == backend.to_numpy(model.theta).tobytes()
        assert back.evaluate(data) == model.evaluate()

    def test_moves_to_another_backend(self, data, backend):
        model, _ = train(data, backend="numpy", **SMALL)
        there = model.to(backend)
        assert there.backend is backend
        assert backend.to_numpy(there.theta).tobytes() == model.theta.tobytes()
        assert there.to("numpy").evaluate() == model.evaluate()

    def test_is_saved_and_loaded(self, data, tmp_path):
        model, _ = train(data, backend="numpy", **SMALL)
        model.save(tmp_path / "model.safetensors")
        back = xpmlp.load(tmp_path / "model.safetensors", backend="numpy")
        assert back.theta.tobytes() == model.theta.tobytes()
        assert (back.class_names, back.dataset) == (model.class_names, "tiny")

    def test_refuses_classes_that_it_does_not_know(self, data):
        model, _ = train(data, backend="numpy", **SMALL)
        with pytest.raises(DataError, match="class z: the network knows a, b, c"):
            model.evaluate((data.test.images, np.array([*"zab"] * 20)))

    @pytest.mark.needs("torch")
    def test_opens_on_numpy_where_its_library_is_missing(self, tmp_path):
        """So does an estimator."""
        code = f"""
import pickle, warnings, numpy as np, xpmlp
warnings.simplefilter("ignore")
D = np.random.default_rng(0).standard_normal((50, 3)), np.arange(50) % 2
model = xpmlp.train(D, backend="torch", hidden=(4,), epochs=1)[0]
estimator = xpmlp.MLPClassifier((4,), max_iter=1, backend="torch").fit(*D)
for name in ("model", "estimator"):
    pickle.dump(globals()[name], open(f"{tmp_path}/{{name}}", "wb"))
"""
        assert run_python("-c", code).returncode == 0
        code = f"""
import importlib.abc, pickle, sys, warnings, numpy as np

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Missing())
for name in ("model", "estimator"):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        it = pickle.load(open(f"{tmp_path}/{{name}}", "rb"))
    print(it.predict(np.zeros((2, 3))).shape, *(warning.message for warning in said))
"""
        line = "(2,) what was on {} opens on NumPy: PyTorch is not installed: pip install 'xpmlp[torch]'"
        done = run_python("-c", code)
        assert done.stdout.splitlines() == [line.format(spec) for spec in ("torch:cpu", "torch")], done.stderr


def test_a_loader_can_be_iterated(tiny, backend):
    loader = xpmlp.DeviceLoader(tiny, backend, 100)
    assert len(loader) == 3
    assert sum(images.shape[0] for images, _ in loader) == 240
    first, labels = next(iter(loader))
    assert backend.to_numpy(first).tobytes() == tiny.images[:100].tobytes()
    assert backend.to_numpy(labels).tolist() == tiny.labels[:100].tolist()
