"""A training step queues work and waits for none of it: nothing in it asks the host for a number on the device."""

import contextlib
import functools

import numpy as np
import pytest

from tests.conftest import make_dataset
from xpmlp import MLPClassifier, MLPRegressor, TrainConfig
from xpmlp.training.run import train_network as train
from xpmlp.training.steps import compiled_gradient, compiled_step

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ASKING = ("__bool__", "__float__", "__int__", "__index__", "__complex__", "item", "tolist", "get", "nonzero")


@pytest.fixture(params=["cupy", "torch", "array-api-strict"])
def device(request, find_backend):
    """The libraries that run a step line by line on arrays of a class of their own.

    NumPy's arrays lie on the host, and JAX compiles a step without numbers.
    """
    return find_backend(request.param, "float64")


@contextlib.contextmanager
def no_waiting(kind):
    """Let every method of a class of arrays fail that has to know a number, and every index that is a mask."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(name, *_):
            raise AssertionError(f"the step waits for the device: {name}")

        def by_number(method, array, key, *value):
            for part in key if isinstance(key, tuple) else (key,):
                if "bool" in str(getattr(part, "dtype", "")):
                    refuse("a mask as an index")
            return method(array, key, *value)

        for name in ASKING:
            if hasattr(kind, name):
                patch.setattr(kind, name, functools.partialmethod(lambda array, name, *_: refuse(name), name))
        for name in ("__getitem__", "__setitem__"):
            method = getattr(kind, name)
            patch.setattr(kind, name, lambda array, *rest, method=method: by_number(method, array, *rest))
        yield


@pytest.fixture
def in_steps(device, monkeypatch):
    """Put `no_waiting` around whatever the backend compiles, and return a list with an entry for each call."""
    compile_, kind, calls = type(device).compile, type(device.asarray(np.zeros(1))), []

    def compile_guarded(self, step, **options):
        compiled = compile_(self, step, **options)

        def guarded(*arguments):
            calls.append(step)
            with no_waiting(kind):
                return compiled(*arguments)

        return guarded

    monkeypatch.setattr(type(device), "compile", compile_guarded)
    for function in (compiled_step, compiled_gradient):
        function.cache_clear()
    yield calls
    for function in (compiled_step, compiled_gradient):
        function.cache_clear()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"transfer": "stream"},
        {"optimizer": "adam"},
        {"optimizer": "adamw", "dropout": 0.2},
        {"deform": 1.0, "center": 0.1},
        {"average_every": 2},
    ],
    ids=str,
)
def test_of_the_training_waits_for_nothing(device, in_steps, settings):
    config = TrainConfig(hidden=(6, 5), epochs=2, batch_size=50, **settings)
    train(config, make_dataset(120), device)
    assert len(in_steps) >= 6


@pytest.mark.parametrize(
    ("kind", "n_classes", "settings"),
    [
        (MLPClassifier, 3, {}),
        (MLPClassifier, 2, {"solver": "sgd", "activation": "logistic"}),
        (MLPClassifier, 3, {"solver": "lbfgs", "activation": "tanh"}),
        (MLPRegressor, 3, {}),
        (MLPRegressor, 3, {"loss": "poisson"}),
    ],
    ids=["adam", "sgd", "lbfgs", "values", "rates"],
)
def test_of_the_estimators_waits_for_nothing(device, in_steps, kind, n_classes, settings):
    rng = np.random.default_rng(0)
    X, y, weights = rng.random((60, 5)), rng.integers(0, n_classes, 60), rng.random(60)
    estimator = kind(hidden_layer_sizes=(4,), batch_size=20, max_iter=3, backend=device.name, **settings)
    estimator.fit(X, y, weights)
    assert len(in_steps) >= 3


def test_is_held_to_that(device, in_steps):
    """Each way to wait is noticed."""
    x = device.asarray(np.arange(3.0))
    for waiting in (lambda x: bool(x[0] > 1), lambda x: float(x[0]), lambda x: x[x > 1]):
        with pytest.raises(AssertionError, match="the step waits for the device"):
            device.compile(waiting)(x)
