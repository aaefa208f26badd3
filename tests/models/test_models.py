"""A trained network, from its file to its predictions."""

import numpy as np
import pytest

from tests.conftest import make_dataset
from xpmlp.backends import get_backend
from xpmlp.benchmark.checking import relative_error
from xpmlp.errors import ArrayError, CheckpointError, ConfigError, ShapeError
from xpmlp.math.activations import softmax
from xpmlp.math.layout import Layout, init
from xpmlp.math.network import forward
from xpmlp.models.model import ModelInfo, describe, load, to_tensors, write_model
from xpmlp.storage import tensors

LAYOUT = Layout((20, 7, 3))
INFO = ModelInfo(LAYOUT, (5, 4), 255, ("null", "één", "zwei"), "made-up")


@pytest.fixture
def theta(dtype):
    return init(LAYOUT, np.random.default_rng(0), dtype)


@pytest.fixture
def path(tmp_path, theta):
    write_model(tmp_path / "model.safetensors", theta, INFO)
    return tmp_path / "model.safetensors"


@pytest.fixture
def images():
    return make_dataset(50).images


def expected(theta, images):
    """Return the probabilities as NumPy has them in float64."""
    S, _ = forward(LAYOUT.unflatten(theta.astype(np.float64)), images.reshape(-1, 20) / 255)
    return softmax(S)


def test_another_program_reads_its_tensors(path, theta):
    from safetensors.numpy import load_file

    found = load_file(path)
    assert set(found) == {"W1", "b1", "W2", "b2"}
    assert found["W1"].shape == (20, 7)
    assert LAYOUT.flatten([(found["W1"], found["b1"]), (found["W2"], found["b2"])]).tobytes() == theta.tobytes()


def test_knows_what_it_was_trained_on(path, theta):
    model = load(path, "numpy")
    assert (model.class_names, model.max_value, model.image_shape) == (("null", "één", "zwei"), 255, (5, 4))
    assert [(W.shape, b.shape) for W, b in model.layers] == [((20, 7), (1, 7)), ((7, 3), (1, 3))]
    assert model.theta.tobytes() == theta.tobytes()
    assert repr(model) == f"<xpmlp model 20-7-3 of made-up, {theta.dtype}, numpy on cpu>"


def test_predicts_on_every_backend_from_images_on_the_host(path, theta, images, backend):
    model = load(path, backend)
    P = model.predict_proba(images, batch_size=16)
    assert isinstance(P, np.ndarray)
    assert P.dtype == theta.dtype
    assert relative_error(P, expected(theta, images)) < {"float32": 1e-6, "float64": 1e-14}[theta.dtype.name]
    assert model.predict(images).tolist() == P.argmax(axis=1).tolist()


@pytest.mark.long_on_jax
def test_predicts_on_every_backend_from_images_on_the_device_and_leaves_the_result_there(path, theta, images, backend):
    model = load(path, backend)
    on_device = backend.asarray(images)
    P, labels = model.predict_proba(on_device, batch_size=16), model.predict(on_device)
    assert type(P) is type(on_device) is type(labels)
    assert relative_error(backend.to_numpy(P), model.predict_proba(images, batch_size=16)) < 1e-6
    assert backend.to_numpy(labels).tolist() == model.predict(images).tolist()


def test_the_size_of_batches_changes_nothing_but_the_last_bits(path, images):
    model = load(path, "numpy")
    for batch_size in (1, 7, 50, 51):
        assert relative_error(model.predict_proba(images, batch_size), model.predict_proba(images)) < 1e-6


def test_takes_flat_images_and_none_at_all(path, images):
    model = load(path, "numpy")
    assert model.predict(images.reshape(50, 20)).tolist() == model.predict(images).tolist()
    assert model.predict_proba(images[:0]).shape == (0, 3)


def test_grey_values_count_as_in_training(tmp_path, theta):
    write_model(tmp_path / "model", theta, ModelInfo(LAYOUT, (5, 4), 16, ("a", "b", "c"), "made-up"))
    images = make_dataset(20).images // 16
    S, _ = forward(LAYOUT.unflatten(theta.astype(np.float64)), images.reshape(-1, 20) / 16)
    assert relative_error(load(tmp_path / "model", "numpy").predict_proba(images), softmax(S)) < 1e-6


@pytest.mark.needs("array-api-strict")
def test_refuses_images_that_are_none_of_its_own(path, images, find_backend):
    model = load(path, "numpy")
    with pytest.raises(ArrayError, match="images are int32: expected uint8, values from 0 to 255, or floats"):
        model.predict(images.astype(np.int32))
    with pytest.raises(ShapeError, match=r"images have shape \(50, 4, 5\): expected \(n, 5, 4\) or \(n, 20\)"):
        model.predict(images.reshape(50, 4, 5))
    with pytest.raises(ConfigError, match="batch size 0: expected at least 1"):
        model.predict(images, batch_size=0)
    strict = find_backend("array-api-strict")
    with pytest.raises(ArrayError):
        model.predict(strict.asarray(images))
    with pytest.raises(ArrayError, match=r"images are on .*CPU_DEVICE, the model is on .*device1: move them, or call "):
        model.to("array-api-strict:device1").predict(strict.asarray(images))


def test_a_runs_folder_is_its_model_or_else_its_last_checkpoint(tmp_path, theta):
    with pytest.raises(CheckpointError, match="is a folder without model.safetensors or checkpoints"):
        load(tmp_path, "numpy")
    (tmp_path / "checkpoints").mkdir()
    for step in (9, 10):
        arrays = {**to_tensors(theta + step, LAYOUT), "state.velocity": theta}
        path = tmp_path / "checkpoints" / f"step-{step:08}.safetensors"
        tensors.write(path, "checkpoint", arrays, describe(INFO, theta.dtype))
    assert load(tmp_path, "numpy").theta.tobytes() == (theta + 10).tobytes()
    write_model(tmp_path / "model.safetensors", theta, INFO)
    assert load(tmp_path, "numpy").theta.tobytes() == theta.tobytes()


@pytest.mark.parametrize(("dataset", "preparation"), [("mnist", "mnist"), ("made-up", "as-trained")])
def test_a_file_of_format_1_says_nothing_of_scaling_and_preparation_and_predicts_the_same(
    tmp_path, theta, images, dataset, preparation, monkeypatch
):
    info = ModelInfo(LAYOUT, (5, 4), 255, ("a", "b", "c"), dataset)
    write_model(tmp_path / "new", theta, info)
    description = describe(info, theta.dtype)
    del description["preparation"]
    assert set(description) == {"sizes", "dtype", "image_shape", "max_value", "class_names", "dataset"}
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "FORMAT_VERSION", 1)
        tensors.write(tmp_path / "old", "model", to_tensors(theta, LAYOUT), description)
    assert tensors.read(tmp_path / "old", ("model",)).description["format_version"] == 1
    old, new = load(tmp_path / "old", "numpy"), load(tmp_path / "new", "numpy")
    assert (old.scaling, old.preparation) == (None, preparation)
    np.testing.assert_array_equal(old.predict_proba(images), new.predict_proba(images))


def test_a_file_of_a_newer_format_is_refused_by_its_name(tmp_path, theta, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "FORMAT_VERSION", 99)
        write_model(tmp_path / "m", theta, INFO)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "m", "numpy")
    known = f"this xpmlp reads up to {tensors.FORMAT_VERSION}; update xpmlp"
    assert str(caught.value) == f"{tmp_path / 'm'} has format version 99: {known}"


class TestAFileThatIsNotWhatItSays:
    """Each with a sum that is right: what another program might write."""

    @pytest.fixture
    def why(self, tmp_path, theta):
        """Return a function that writes a model with changes and returns why it is refused."""

        def why(arrays=None, description=None):
            arrays = {**to_tensors(theta, LAYOUT), **(arrays or {})}
            arrays = {name: array for name, array in arrays.items() if array is not None}
            tensors.write(tmp_path / "m", "model", arrays, {**describe(INFO, theta.dtype), **(description or {})})
            with pytest.raises(CheckpointError) as caught:
                load(tmp_path / "m", "numpy")
            return str(caught.value).removeprefix(f"{tmp_path}/")

        return why

    def test_a_tensor_of_another_shape_or_dtype_or_none(self, why, dtype):
        assert why({"b1": np.zeros(7, dtype)}) == f"m: tensor b1 is {dtype} (7,): expected {dtype} (1, 7)"
        assert why({"W2": np.zeros((7, 3), "f2")}) == f"m: tensor W2 is float16 (7, 3): expected {dtype} (7, 3)"
        assert why({"W1": None}) == f"m: tensor W1 is missing: expected {dtype} (20, 7)"

    @pytest.mark.parametrize(
        "description",
        [
            {"sizes": [20, 7, 4]},
            {"sizes": [20]},
            {"sizes": "many"},
            {"dtype": "float16"},
            {"image_shape": [5]},
            {"image_shape": [4, 4]},
            {"max_value": 0},
            {"class_names": [1, 2, 3]},
            {"class_names": None},
        ],
        ids=str,
    )
    def test_a_description_of_no_network(self, why, description):
        assert why(description=description).startswith("m is damaged: its description is no network's (")

    def test_a_changed_number(self, path):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="is damaged: its contents have not the SHA-256 sum"):
            load(path, "numpy")


def test_a_checkpoint_that_a_running_training_has_just_removed_is_looked_for_again(tmp_path, theta, monkeypatch):
    (tmp_path / "checkpoints").mkdir()
    paths = [tmp_path / "checkpoints" / f"step-{step:08}.safetensors" for step in (1, 2)]
    for path in paths:
        tensors.write(path, "checkpoint", to_tensors(theta, LAYOUT), describe(INFO, theta.dtype))
    listed = iter([[tmp_path / "checkpoints" / "step-00000000.safetensors"], paths])
    monkeypatch.setattr("xpmlp.models.model.list_checkpoints", lambda run: next(listed))
    assert load(tmp_path, "numpy").theta.tobytes() == theta.tobytes()


def test_no_name_is_no_model():
    with pytest.raises(CheckpointError, match="the model has no name"):
        load("")


def test_a_backend_may_be_named(path):
    assert load(path, "numpy").backend.name == get_backend("numpy").name
