"""A trained model in other programs: each predicts what the model predicts, of the data set's own numbers."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import environment, make_dataset
from xpmlp import Scaling
from xpmlp.backends import get_backend
from xpmlp.errors import ExportError
from xpmlp.math.layout import Layout, init
from xpmlp.models import onnx_graph
from xpmlp.models.model import Model, ModelInfo, describe

RNG = np.random.default_rng(0)
LAYOUT, NAMES = Layout((20, 16, 7, 3)), ("null", "één", "zwei")
COLUMNS = Scaling(tuple(np.linspace(-1e6, 3e6, 20)), tuple(np.linspace(0.001, 2.0, 20)))  # far from 0, narrow
DATA = {
    "bytes": (ModelInfo(LAYOUT, (5, 4), 255, NAMES, "made-up"), RNG.integers(0, 256, (50, 5, 4), np.uint8)),
    "bytes to 16": (ModelInfo(LAYOUT, (20,), 16, NAMES, "made-up"), RNG.integers(0, 17, (50, 20), np.uint8)),
    "colours": (
        ModelInfo(Layout((24, 6, 3)), (4, 2, 3), 255, NAMES, "made-up"),
        RNG.integers(0, 256, (50, 4, 2, 3), np.uint8),
    ),
    "floats": (ModelInfo(LAYOUT, (5, 4), 1, NAMES, "made-up"), RNG.random((50, 5, 4))),
    "floats of a range": (
        ModelInfo(LAYOUT, (5, 4), 255, NAMES, "made-up", Scaling.of_range(-3.0, 5.5)),
        RNG.uniform(-3, 5.5, (50, 5, 4)),
    ),
    "columns": (
        ModelInfo(LAYOUT, (20,), 255, NAMES, "made-up", COLUMNS),
        RNG.standard_normal((50, 20)) / COLUMNS.factor + COLUMNS.shift,
    ),
    "two classes": (
        ModelInfo(Layout((20, 9, 2)), (20,), 255, ("no", "yes"), "made-up", COLUMNS),
        RNG.standard_normal((50, 20)) / COLUMNS.factor + COLUMNS.shift,
    ),
    "no hidden layer": (
        ModelInfo(Layout((20, 3)), (5, 4), 255, NAMES, "made-up"),
        RNG.integers(0, 256, (50, 5, 4), np.uint8),
    ),
}
"""What a model was trained on, and samples of it."""

EXACT = {"float32": 1e-6, "float64": 1e-14}


@pytest.fixture(params=DATA)
def trained(request, dtype):
    """A model, and samples in the data set's own numbers."""
    info, X = DATA[request.param]
    theta = init(info.layout, np.random.default_rng(1), dtype)
    theta += np.random.default_rng(2).normal(0, 0.1, theta.shape).astype(dtype)  # biases that are not 0
    return Model(get_backend("numpy", dtype), theta, info), X if X.dtype == np.uint8 else X.astype(dtype)


@pytest.mark.needs(module="onnx")
class TestOnnx:
    @pytest.mark.needs(module="onnxruntime")
    def test_runs_elsewhere_and_predicts_the_same(self, trained, tmp_path, dtype):
        import onnx
        import onnxruntime

        model, X = trained
        model.to_onnx(tmp_path / "model.onnx")
        onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
        (taken,) = session.get_inputs()
        assert (taken.name, tuple(taken.shape)) == ("X", ("n", *model.image_shape))
        assert {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(double)": "float64"}[
            taken.type
        ] == X.dtype
        for rows in (X, X[:1], X[:0]):  # any number of samples
            label, name, P = session.run(["label", "name", "probabilities"], {"X": rows})
            expected = model.predict_proba(rows)
            assert (P.dtype, P.shape) == (expected.dtype, expected.shape)
            assert np.abs(P - expected).max(initial=0) <= EXACT[dtype]
            assert label.tolist() == model.predict(rows).tolist()
            assert name.tolist() == [model.class_names[k] for k in label]

    def test_is_of_the_oldest_format_that_carries_its_operators_and_describes_itself(self, trained):
        import onnx

        model, _ = trained
        made = model.to_onnx()
        ((domain, version),) = [(opset.domain, opset.version) for opset in made.opset_import]
        assert (domain, version, made.ir_version) == ("", 17, 8)
        oldest = onnx.helper.find_min_ir_version_for(made.opset_import)
        assert made.ir_version == oldest
        found = {one.key: json.loads(one.value) for one in made.metadata_props}
        assert found == json.loads(json.dumps(describe(model.info, model.theta.dtype)))
        (tensor,) = [one for one in made.graph.initializer if one.name == "W1"]
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), model.layers[0][0])

    def test_the_same_model_is_the_same_bytes(self, trained, tmp_path):
        model, _ = trained
        for name in ("one", "two"):
            model.to_onnx(tmp_path / name)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()

    def test_a_greater_network_than_a_file_can_hold_is_refused_and_leaves_nothing(self, tmp_path, monkeypatch):
        info, _ = DATA["bytes"]
        model = Model(get_backend("numpy"), init(LAYOUT, np.random.default_rng(0)), info)
        monkeypatch.setattr(onnx_graph, "MOST_BYTES", model.theta.nbytes - 1)
        with pytest.raises(ExportError, match="of parameters: an ONNX file is below 2 GiB"):
            model.to_onnx(tmp_path / "model.onnx")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("method", "module", "extra"), [("to_onnx", "onnx", "export"), ("to_torch", "torch", "torch")])
def test_says_which_package_is_missing(method, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "xpmlp.models.torch_module", raising=False)
    info, _ = DATA["bytes"]
    model = Model(get_backend("numpy"), init(LAYOUT, np.random.default_rng(0)), info)
    with pytest.raises(ExportError, match=rf"is not installed: pip install 'xpmlp\[{extra}\]'"):
        getattr(model, method)()


@pytest.mark.needs("torch")
class TestTorch:
    def test_predicts_the_same(self, trained, dtype):
        import torch

        model, X = trained
        module, expected = model.to_torch(), model.predict_proba(X)
        for rows in (X, X.reshape(50, -1)):
            P = module(torch.from_numpy(rows)).softmax(1).detach().numpy()
            assert P.dtype == dtype
            assert np.abs(P - expected).max() <= EXACT[dtype]

    def test_is_of_another_dtype_where_it_is_asked_to_be(self, trained):
        import torch

        model, X = trained
        P = model.to_torch().double()(torch.from_numpy(X)).softmax(1)
        assert P.dtype == torch.float64
        assert np.abs(P.detach().numpy() - model.predict_proba(X)).max() <= EXACT["float32"]

    def test_draws_no_random_numbers_and_shares_no_memory(self, trained):
        import torch

        model, X = trained
        state, before = torch.random.get_rng_state(), model.predict_proba(X)
        module = model.to_torch()
        assert torch.equal(torch.random.get_rng_state(), state)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
        np.testing.assert_array_equal(model.predict_proba(X), before)

    def test_trains_on(self):
        import torch

        info, data = DATA["bytes"][0], make_dataset(60)
        model = Model(get_backend("numpy"), init(LAYOUT, np.random.default_rng(0)), info)
        module, labels = model.to_torch(), torch.from_numpy(data.labels.astype(np.int64))
        optimizer = torch.optim.Adam(module.parameters(), 0.01)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(data.images)), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] / 2

    @pytest.mark.parametrize("data", ["bytes", "floats of a range"])
    def test_its_tensors_load_where_xpmlp_is_not(self, data, tmp_path):
        """In a process that imports PyTorch and safetensors alone."""
        import torch
        from safetensors.torch import save_file

        info, X = DATA[data]
        model = Model(get_backend("numpy"), init(LAYOUT, np.random.default_rng(0)), info)
        module = model.to_torch()
        save_file(module.state_dict(), tmp_path / "model.safetensors")
        np.save(tmp_path / "X.npy", X)
        code = """
import sys, numpy, torch
from safetensors.torch import load_file
from torch import nn
tensors = load_file("model.safetensors")
layers = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 7), nn.ReLU(), nn.Linear(7, 3))
layers.load_state_dict({name[7:]: t for name, t in tensors.items() if name.startswith("layers.")})
X = torch.from_numpy(numpy.load("X.npy")).flatten(1)
S = layers(((X - tensors["shift"]) * tensors["factor"]).float())
numpy.save("S.npy", S.detach().numpy())
assert "xpmlp" not in sys.modules
"""
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment())
        np.testing.assert_array_equal(np.load(tmp_path / "S.npy"), module(torch.from_numpy(X)).detach().numpy())


class TestScikitLearn:
    def test_predicts_the_same(self, trained, dtype):
        model, X = trained
        theirs, rows = model.to_sklearn(), X.reshape(50, -1)
        assert type(theirs).__module__.startswith("sklearn.")
        assert theirs.classes_.tolist() == list(range(len(model.class_names)))
        P, expected = theirs.predict_proba(rows), model.predict_proba(X)
        assert P.shape == expected.shape
        far = 1e-8 if model.scaling and len(model.scaling.shift) > 1 else 0  # X W1 + b1 of columns in the millions
        assert np.abs(P - expected).max() <= max(EXACT[dtype], far)
        assert theirs.predict(rows).tolist() == model.predict(X).tolist()

    def test_of_two_classes_one_output_is_left(self):
        info, _ = DATA["two classes"]
        model = Model(get_backend("numpy"), init(info.layout, np.random.default_rng(0)), info)
        theirs = model.to_sklearn()
        assert (theirs.n_outputs_, theirs.out_activation_, theirs.coefs_[-1].shape) == (1, "logistic", (9, 1))

    @pytest.mark.parametrize("n_classes", [2, 3])
    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_is_cloned_scored_and_trained_on(self, n_classes):
        from sklearn.base import clone

        data, layout = make_dataset(60, n_classes=n_classes), Layout((20, 9, n_classes))
        info = ModelInfo(layout, (5, 4), 255, data.class_names, "made-up")
        model = Model(get_backend("numpy"), init(layout, np.random.default_rng(0)), info)
        theirs, X = model.to_sklearn(), data.images.reshape(60, 20)
        assert theirs.score(X, data.labels) == model.evaluate(data).accuracy < 0.9
        for _ in range(300):
            theirs.partial_fit(X, data.labels)
        assert theirs.score(X, data.labels) > 0.95
        assert theirs.loss_curve_[-1] < theirs.loss_curve_[0] / 2
        clone(theirs).set_params(max_iter=2).fit(X, data.labels)

    def test_of_a_single_class_there_is_none(self):
        info = ModelInfo(Layout((20, 1)), (20,), 255, ("all",), "made-up")
        model = Model(get_backend("numpy"), init(info.layout, np.random.default_rng(0)), info)
        with pytest.raises(ExportError, match="a model of the one class all: scikit-learn's tells two at least apart"):
            model.to_sklearn()


@pytest.mark.parametrize("spec", ["cupy", "torch", "jax", "dpnp", "array-api-strict:device1"])
@pytest.mark.needs("{spec}")
@pytest.mark.needs(module="onnx")
def test_leaves_from_any_backend(spec, find_backend):
    info, _ = DATA["bytes"]
    model = Model(get_backend("numpy"), init(LAYOUT, np.random.default_rng(0)), info)
    moved = model.to(find_backend(spec))
    assert moved.to_onnx() == model.to_onnx()
    np.testing.assert_array_equal(moved.to_sklearn().coefs_[0], model.to_sklearn().coefs_[0])
