"""Floats, colours and tables: what a network takes of them is in the data set, and in the model that it trains."""

import dataclasses
import json

import numpy as np
import pytest

import xpmlp
from tests.conftest import make_dataset
from xpmlp import DataError, Dataset, Scaling, TrainConfig, load, train
from xpmlp.data.deformation import basis, deformed, draw
from xpmlp.training.evaluation import evaluate

QUICK = TrainConfig(hidden=(8,), epochs=2, batch_size=32, val_size=0)


def made(kind, dtype="float32"):
    """Return the made-up images as floats from −3 to 7, as a table whose columns differ, or in colour."""
    tiny = make_dataset(240)
    floats = tiny.images.astype(dtype) / dtype_of(dtype)(25.5) - dtype_of(dtype)(3)
    if kind == "range":
        return dataclasses.replace(tiny, images=floats, max_value=255, scaling=Scaling.of_range(-3, 7))
    if kind == "columns":
        rows = floats.reshape(240, 20) * np.logspace(-3, 3, 20, dtype=dtype) + np.arange(20, dtype=dtype)
        return dataclasses.replace(tiny, images=rows, max_value=255, scaling=Scaling.of_columns(rows))
    colours = np.stack([tiny.images, tiny.images // 2, 255 - tiny.images], axis=3)
    return dataclasses.replace(tiny, images=colours)


def dtype_of(name):
    return np.dtype(name).type


class TestScaling:
    def test_of_a_range_takes_it_to_0_and_1(self):
        scaled = Scaling.of_range(-3, 7).scaled(np.array([[-3.0, 2.0, 7.0]]), "float64")
        np.testing.assert_allclose(scaled, [[0, 0.5, 1]], rtol=0, atol=1e-15)

    def test_of_columns_gives_each_mean_0_and_deviation_1(self):
        rows = np.random.default_rng(0).normal(5, 3, (3000, 4)) * [1e-6, 1, 1e3, 1e6]
        scaled = Scaling.of_columns(rows).scaled(rows, "float64")
        np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(scaled.std(axis=0), 1, rtol=1e-12)

    def test_a_column_of_one_value_becomes_0(self):
        rows = np.full((5, 2), 0.1) * [1, 1e9]
        assert not Scaling.of_columns(rows).scaled(rows, "float64").any()
        assert Scaling.of_range(3, 3).scaled(np.full((1, 2), 3.0), "float32").tolist() == [[0, 0]]

    @pytest.mark.parametrize(("shift", "factor"), [((0.0,), (1.0, 2.0)), ((), ()), ((np.nan,), (1.0,))])
    def test_that_is_none_is_refused(self, shift, factor):
        with pytest.raises(ValueError, match="shift"):
            Scaling(shift, factor)


class TestADataSet:
    @pytest.mark.parametrize(("changes", "problem"), [
        ({"class_names": ("a", "b", "a")}, "two classes are called a: expected a name for each"),
        ({"columns": ("a", "b")}, "2 columns' names: expected one for each of"),
        ({"images": np.zeros((240, 20), np.uint8)}, "a scaling of bytes: expected floats, or max_value"),
        ({"scaling": Scaling((0.0,) * 7, (1.0,) * 7)}, "a scaling of 7 values: each sample has 20"),
        ({"preparation": "none"}, "preparation 'none': expected mnist or digits or as-trained"),
    ])  # fmt: skip
    def test_refuses_a_scaling_that_does_not_fit(self, changes, problem):
        with pytest.raises(DataError, match=problem):
            dataclasses.replace(made("columns"), **changes)

    def test_takes_labels_that_are_strings(self):
        tiny = make_dataset(240)
        names = np.array(["cat", "ant", "bee"])[tiny.labels]
        found = Dataset(tiny.images, names)
        assert found.class_names == ("ant", "bee", "cat")
        assert [found.class_names[label] for label in found.labels] == names.tolist()
        given = Dataset(tiny.images, names, ("cat", "bee", "ant", "dog"))
        assert [given.class_names[label] for label in given.labels] == names.tolist()
        for words in (names.astype(object), np.char.encode(names)):
            for made_of in (Dataset, Dataset.of):
                assert made_of(tiny.images, words).class_names == found.class_names
        with pytest.raises(DataError, match=r"labels are objects \(dict\): expected numbers or strings"):
            Dataset(tiny.images, np.array([{}] * 240))
        with pytest.raises(DataError, match="labels are bytes that are not UTF-8"):
            Dataset(tiny.images, np.array([b"\xe9"] * 240))
        with pytest.raises(DataError, match="label 'bee': expected cat, ant"):
            Dataset(tiny.images, names, ("cat", "ant"))

    def test_of_another_scaling_is_another(self):
        one = made("range")
        other = dataclasses.replace(one, scaling=Scaling.of_range(-3, 8))
        assert one.fingerprint != other.fingerprint

    def test_of_rows_or_colours_says_what_it_has(self):
        shapes = {kind: made(kind).image_shape for kind in ("range", "columns", "colours")}
        assert shapes == {"range": (5, 4), "columns": (20,), "colours": (5, 4, 3)}
        assert {kind: made(kind).samples for kind in shapes}["columns"] == "samples"


@pytest.mark.long_on_jax
@pytest.mark.parametrize("kind", ["range", "columns", "colours"])
class TestAModel:
    def test_trains_as_on_the_numbers_that_the_scaling_makes(self, kind, backend):
        data = made(kind)
        as_they_are = data.images.reshape(240, -1) / np.float32(255)
        if data.scaling:
            as_they_are = data.scaling.scaled(data.images.reshape(240, -1), "float64")
        plain = dataclasses.replace(data, images=as_they_are.astype(np.float64), scaling=None, max_value=1)
        found, expected = (
            train(part, QUICK, dtype="float64", kernels="plain", backend=backend, threads=1) for part in (data, plain)
        )
        tolerance = 1e-6 if kind == "colours" else 1e-12  # bytes are divided in float64, the others were in float32
        assert found[1].epochs[-1].train_loss == pytest.approx(expected[1].epochs[-1].train_loss, rel=tolerance)

    def test_takes_such_numbers_wherever_they_are(self, kind, backend, tmp_path):
        data = made(kind)
        model, _ = train(data, QUICK, backend=backend, threads=1)
        model.save(tmp_path / "model.safetensors")
        again = load(tmp_path / "model.safetensors", backend)
        assert again.info == model.info
        expected = model.predict_proba(data.images)
        assert np.array_equal(again.predict_proba(data.images), expected)
        there = backend.to_numpy(model.predict_proba(backend.asarray(data.images)))
        np.testing.assert_allclose(there, expected, rtol=0, atol=2e-6)
        assert model.evaluate(data).accuracy == np.mean(expected.argmax(axis=1) == data.labels)


def test_columns_far_from_0_keep_their_digits_on_the_device(backend):
    rows = np.random.default_rng(0).normal(0, 1, (240, 4)).astype(np.float32) * 2 + np.float32(1.234567e6)
    data = Dataset(rows, make_dataset(240).labels, scaling=Scaling.of_columns(rows))
    model, _ = train(data, QUICK, backend=backend, threads=1)
    there = backend.to_numpy(model.predict_proba(backend.asarray(rows)))
    np.testing.assert_allclose(there, model.predict_proba(rows), rtol=0, atol=2e-6)


@pytest.mark.parametrize("scaling", [Scaling.of_range(0, 300), None])
@pytest.mark.parametrize("n_columns", [1, 20])
def test_a_model_of_floats_takes_bytes_and_integers_for_numbers(scaling, n_columns, backend):
    rows = make_dataset(240).images.reshape(240, 20)[:, :n_columns]
    scaling = scaling or Scaling.of_columns(rows)
    data = Dataset(rows.astype(np.float32), make_dataset(240).labels, scaling=scaling)
    model, _ = train(data, QUICK, backend=backend, threads=1)
    expected = model.predict_proba(rows.astype(np.float32))
    for numbers in (rows, rows.astype(np.int64)):
        np.testing.assert_allclose(model.predict_proba(numbers), expected, rtol=0, atol=1e-6)
    there = backend.to_numpy(model.predict_proba(backend.asarray(rows)))
    np.testing.assert_allclose(there, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["bytes", "bytes to 100", "floats", "floats with a greatest", "range", "columns"])
def test_training_and_the_model_measure_the_same(kind):
    tiny = make_dataset(240)
    data = {
        "bytes": tiny, "bytes to 100": dataclasses.replace(tiny, images=tiny.images // 3, max_value=100),
        "floats": dataclasses.replace(tiny, images=tiny.images / 255, max_value=1),
        "floats with a greatest": dataclasses.replace(tiny, images=tiny.images / 255, max_value=255),
        "range": made("range"), "columns": made("columns"),
    }[kind]  # fmt: skip
    model, _ = train(data, QUICK, backend="numpy", threads=1)
    found = evaluate(model.theta, model.layout, data, model.backend)
    assert model.evaluate(data) == pytest.approx(found, rel=1e-5)


def test_a_data_set_of_other_numbers_is_refused():
    bytes_, _ = train(make_dataset(240), QUICK, backend="numpy", threads=1)
    with pytest.raises(DataError, match="values from .*: the model was trained on bytes and knows no other range"):
        bytes_.evaluate(made("range"))
    table, _ = train(made("columns"), QUICK, backend="numpy", threads=1)
    with pytest.raises(DataError, match="images of 5 × 4: the model takes samples of 20 numbers"):
        table.evaluate(make_dataset(240))
    names = tuple("abcdefghijklmnopqrst")
    table, _ = train(dataclasses.replace(made("columns"), columns=names), QUICK, backend="numpy", threads=1)
    other = dataclasses.replace(made("columns"), columns=("z", *names[1:]))
    with pytest.raises(DataError, match="no column 'a', which the network was trained on"):
        table.evaluate(other)


def test_columns_with_names_are_found_in_any_order():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    data = made("columns")
    frame = pandas.DataFrame(data.as_inputs("float64").images, columns=list("abcdefghijklmnopqrst"))
    model, _ = train((frame, np.array(list("xyz"))[data.labels]), QUICK, backend="numpy", threads=1)
    assert model.info.columns == tuple(frame.columns)
    found = model.predict_proba(frame)
    shuffled = frame[list(frame.columns[::-1])].assign(more="text")
    assert np.array_equal(model.predict_proba(shuffled), found)
    assert np.array_equal(model.predict_proba(frame.to_numpy().tolist()), found)
    assert model.evaluate((shuffled.drop(columns="more"), np.array(list("xyz"))[data.labels])) == model.evaluate(
        (frame, np.array(list("xyz"))[data.labels])
    )
    with pytest.raises(DataError, match="the DataFrame: no column 'a' and 1 more, which the network was trained on"):
        model.predict(frame.drop(columns=["a", "b"]))
    with pytest.raises(DataError, match="images hold NaN or infinity"):
        model.predict(frame * np.nan)


def test_a_file_of_format_1_is_read(tmp_path):
    """It says nothing of scaling and preparation."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    from xpmlp.storage.tensors import _sum

    model, _ = train(make_dataset(240), QUICK, backend="numpy", threads=1)
    model.save(tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", "numpy") as file:
        described = json.loads(file.metadata()["xpmlp"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert described["format_version"] == 2
    old = {name: value for name, value in described.items() if name not in ("preparation", "sum")}
    old |= {"format_version": 1, "dataset": "mnist"}
    old["sum"] = _sum(old, tensors)
    save_file(tensors, tmp_path / "old.safetensors", {"xpmlp": json.dumps(old)})
    again = load(tmp_path / "old.safetensors", "numpy")
    assert (again.scaling, again.preparation) == (None, "mnist")
    images = make_dataset(9).images
    assert np.array_equal(again.predict_proba(images), model.predict_proba(images))


@pytest.mark.parametrize("scaling", [{"shift": [0]}, {"shift": [0], "factor": ["a"]}, {"shift": [], "factor": []}, 7])
def test_a_file_with_a_scaling_that_is_none_is_damaged(tmp_path, scaling):
    from xpmlp.models.model import describe, to_tensors
    from xpmlp.storage import tensors

    model, _ = train(made("range"), QUICK, backend="numpy", threads=1)
    theta = model.backend.to_numpy(model.theta)
    path = tmp_path / "model.safetensors"
    tensors.write(
        path, "model", to_tensors(theta, model.layout), describe(model.info, theta.dtype) | {"scaling": scaling}
    )
    with pytest.raises(xpmlp.CheckpointError, match="is damaged: its description is no network's"):
        load(path, "numpy")


@pytest.mark.long_on_jax
class TestDeformation:
    @pytest.mark.parametrize("shape", [(5, 9, 3), pytest.param((8, 8, 3), marks=pytest.mark.full)])
    def test_of_colours_is_that_of_each(self, backend, each_way, dtype, shape):
        images = np.random.default_rng(0).integers(0, 256, (6, *shape), dtype=np.uint8)
        numbers = backend.asarray(draw(np.random.default_rng(1), 6, 1.0, shape[:2]).astype(dtype))
        functions = backend.asarray(basis(shape[:2]).astype(dtype))
        for _ in each_way():
            found = deformed(backend.asarray(images.reshape(6, -1)), numbers, functions, shape, 255)
            found = backend.to_numpy(found).reshape(images.shape)
            for k in range(3):
                grey = backend.asarray(np.ascontiguousarray(images[..., k]).reshape(6, -1))
                alone = backend.to_numpy(deformed(grey, numbers, functions, shape[:2], 255))
                assert np.array_equal(found[..., k], alone.reshape(6, *shape[:2]))

    def test_of_floats_is_that_of_bytes(self, backend, each_way, dtype):
        images = np.random.default_rng(0).integers(0, 256, (6, 5, 9), dtype=np.uint8).reshape(6, -1)
        numbers = backend.asarray(draw(np.random.default_rng(1), 6, 1.0, (5, 9)).astype(dtype))
        functions = backend.asarray(basis((5, 9)).astype(dtype))
        for _ in each_way():
            of_bytes = backend.to_numpy(deformed(backend.asarray(images), numbers, functions, (5, 9), 255))
            floats = backend.asarray((images / 255).astype(dtype))
            of_floats = backend.to_numpy(deformed(floats, numbers, functions, (5, 9), 1))
            np.testing.assert_allclose(of_floats, of_bytes, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("kind", ["range", "colours"])
    def test_trains_on_every_backend_as_on_numpy(self, kind, backend, find_backend):
        config = dataclasses.replace(QUICK, deform=1.0, dtype="float64", kernels="plain")
        losses = [
            train(made(kind), config, backend=each, threads=1)[1].epochs[-1].train_loss
            for each in (backend, find_backend("numpy", "float64"))
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)

    def test_of_colours_in_a_compiled_step(self, find_backend):
        losses = [
            train(made("colours"), QUICK, deform=1.0, kernels=kernels, backend="numpy", threads=1)[1]
            .epochs[-1]
            .train_loss
            for kernels in ("plain", "inplace")
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
