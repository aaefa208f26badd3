"""Work is done on the GPU where the arrays are, whichever GPU is the thread's current one."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

import xpmlp
from tests.conftest import make_dataset, results
from xpmlp import DeviceLoader, MLPClassifier, MLPRegressor, Model, TrainConfig
from xpmlp.backends import get_backend
from xpmlp.benchmark.checking import check_one_pass, check_training, make_problem
from xpmlp.commands import main
from xpmlp.commands._run import Recorder
from xpmlp.errors import ArrayError, TrainingError
from xpmlp.math.layout import Layout
from xpmlp.models.model import ModelInfo
from xpmlp.training.evaluation import evaluate
from xpmlp.training.run import train_network as train

pytestmark = [
    pytest.mark.needs("cupy:1"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

RNG = np.random.default_rng(0)
X, CLASSES, VALUES, WEIGHTS = RNG.random((60, 5)), RNG.integers(0, 3, 60), RNG.random((60, 2)), RNG.random(60)


@pytest.fixture
def second(find_backend):
    """The second GPU, while the first is the current one, before and after."""
    backend = find_backend("cupy:1", "float64")
    import cupy

    cupy.cuda.Device(0).use()
    yield backend
    assert cupy.cuda.runtime.getDevice() == 0


def gpus(value):
    """Return the GPUs of all arrays in an object's attributes, a sequence or a dictionary."""
    if type(value).__module__.startswith("cupy"):
        return {value.device.id} if hasattr(value, "device") else set()
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return set().union(*map(gpus, value))
    return gpus(vars(value)) if type(value).__module__.startswith("xpmlp") and hasattr(value, "__dict__") else set()


@pytest.mark.parametrize(
    ("kind", "y", "settings"),
    [
        (MLPClassifier, CLASSES, {}),
        (MLPClassifier, CLASSES, {"early_stopping": True}),
        (MLPClassifier, CLASSES, {"solver": "lbfgs"}),
        (MLPClassifier, CLASSES > 0, {"solver": "sgd"}),
        (MLPRegressor, VALUES, {"batch_size": 7, "warm_start": True}),
    ],
    ids=["classes", "early stopping", "lbfgs", "two classes", "values"],
)
def test_of_an_estimator(second, kind, y, settings):
    samples, targets, weights = (second.asarray(array) for array in (X, y, WEIGHTS))
    ours = kind(hidden_layer_sizes=(4,), max_iter=3, random_state=0, **settings)
    expected = kind(hidden_layer_sizes=(4,), max_iter=3, random_state=0, **settings)
    for _ in range(2):
        ours.fit(samples, targets, weights), expected.fit(X, y, WEIGHTS)
    if ours.solver != "lbfgs" and not ours.early_stopping:
        ours.partial_fit(samples, targets), expected.partial_fit(X, y)
    methods = ["predict"] + ["predict_proba", "predict_log_proba"] * (kind is MLPClassifier)
    found = [getattr(ours, method)(samples) for method in methods]
    assert gpus([vars(ours), *found]) == {1}
    assert np.isclose(ours.score(samples, targets, weights), expected.score(X, y, WEIGHTS))
    assert np.allclose(second.to_numpy(found[0]), expected.predict(X))


def test_of_an_estimator_that_is_handed_its_classes(second):
    samples, targets, classes = (second.asarray(array) for array in (X, CLASSES, np.arange(3)))
    ours = MLPClassifier(hidden_layer_sizes=(4,), random_state=0)
    for _ in range(2):
        ours.partial_fit(samples, targets, classes=classes)
    assert gpus(vars(ours)) == {1}


def test_of_a_compiled_step(second):
    xp = second.namespace
    assert gpus(second.compile(lambda x: (x + 1, xp.zeros(3)))(second.asarray(X))) == {1}


@pytest.mark.parametrize("late", [False, True])
def test_of_batches_that_are_read(second, late):
    """What is computed on the second GPU waits for its copies, and they for it, from wherever batches are asked for."""
    data, seen, xp = make_dataset(240), [], second.namespace
    for images, _ in DeviceLoader(data, second, 20, "stream", reuse_buffers=True).epoch(np.arange(240)):
        with second.context():
            seen.append(xp.astype(images, xp.int32) if late else second.to_numpy(images))
    found = np.concatenate([second.to_numpy(images) if late else images for images in seen])
    assert np.array_equal(found, data.images.reshape(240, -1))


def test_of_a_model(second):
    layout = Layout((20, 6, 3))
    info = ModelInfo(layout, (5, 4), 255, ("a", "b", "c"), "made up")
    model = Model(second, second.asarray(RNG.standard_normal(layout.size)), info)
    images = make_dataset(40).images
    there = second.asarray(images)
    found = model.predict(there, 16), model.predict_proba(there, 16), model.logits(there, 16), *model.layers
    assert gpus([*found]) == {1}
    assert np.array_equal(second.to_numpy(found[0]), model.predict(images))


@pytest.mark.parametrize("transfer", ["resident", "stream"])
def test_of_training_and_batches(second, transfer):
    data = make_dataset(120)
    config = TrainConfig(hidden=(6,), epochs=2, batch_size=50, transfer=transfer, deform=1.0, dropout=0.2)
    theta, history = train(config, data, second)
    evaluation = evaluate(theta, history.plan.layout, data, second, transfer=transfer)
    assert np.isfinite(evaluation.loss)
    for reuse_buffers in (False, True):
        loader = DeviceLoader(data, second, 50, transfer, reuse_buffers=reuse_buffers)
        assert gpus([theta, *loader.epoch(np.arange(120))]) == {1}


def test_of_threads_that_train_at_once(second):
    """Each on its own GPU: what one makes current is not the other's, and both give what they give alone."""
    data = make_dataset(120)
    config = TrainConfig(hidden=(6,), epochs=3, batch_size=20, transfer="stream", deform=1.0, dropout=0.2, val_size=0)
    together = Barrier(2, timeout=60)

    def work(spec):
        backend = get_backend(spec, "float64")
        together.wait()
        theta, _ = train(config, data, backend)
        return gpus([theta]), backend.to_numpy(theta)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, ("cupy:0", "cupy:1")))
    expected = second.to_numpy(train(config, data, second)[0])
    assert [where for where, _ in found] == [{0}, {1}]
    assert all(np.array_equal(theta, expected) for _, theta in found)


def test_of_a_run_that_goes_on_from_its_checkpoint(second, idx_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = ("--backend", "cupy:1", "--dataset", f"idx:{idx_folder}", "--hidden", "6", "--epochs", "2", "--quiet")
    start = ("train", *options, "--batch-size", "16", "--no-plot", "--optimizer", "adam", "--out")
    assert main([*start, "whole"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("xpmlp.commands._run.Recorder.on_step", stopped_at_step_20(Recorder.on_step))
        assert main([*start, "run", "--checkpoint-steps", "5"]) == 2
    assert main(["train", "--resume", "run", "--quiet"]) == 0
    assert results(tmp_path / "run") == results(tmp_path / "whole")


def stopped_at_step_20(original):
    def on_step(self, step):
        original(self, step)
        if step == 20:
            raise TrainingError("a crash")

    return on_step


def test_of_arrays_on_another_gpu_than_the_model_which_are_refused(second):
    """No kernel reads another GPU's memory, whatever peers the machine has."""
    here, there = (backend.asarray(X) for backend in (get_backend("cupy:0", "float64"), second))
    ours = MLPClassifier(hidden_layer_sizes=(4,), max_iter=1).fit(here, second.asarray(CLASSES))
    for call in ours.predict, ours.predict_proba, lambda array: ours.partial_fit(array, CLASSES):
        with pytest.raises(ValueError, match="same device.* of cupy on cuda:0, .* of cupy on cuda:1: move X"):
            call(there)
    model, _ = xpmlp.train((here, CLASSES), backend="cupy:0", hidden=(4,), epochs=1, dtype="float64")
    message = r"images are on cupy on cuda:1, the model is on cupy on cuda:0: move them, or call to\('cupy:1'\)"
    with pytest.raises(ArrayError, match=message):
        model.predict(there)
    assert gpus([model.to("cupy:1").predict(there)]) == {1}


def test_of_the_check(second):
    problem = make_problem((12, 6, 3), 16)
    assert all(measurement.is_within for measurement in check_one_pass(second, problem, "float64"))
    assert check_training(second, problem, "float64", "adam").is_within
