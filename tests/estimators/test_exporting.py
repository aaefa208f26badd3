"""Estimators in other programs: each predicts what the estimator predicts."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from tests.estimators.test_estimators import TARGETS, X, outputs, pair
from xpmlp import MLPClassifier, MLPRegressor
from xpmlp.errors import ExportError
from xpmlp.estimators import exporting
from xpmlp.math.activations import ACTIVATIONS, HEADS
from xpmlp.models import onnx_graph

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

FORMS = {name: {"activation": name} for name in ACTIVATIONS} | {
    "one for each layer": {"activation": ["tanh", "gelu"]},
    "no hidden layer": {"hidden_layer_sizes": ()},
}
SHORT = {"max_iter": 3}
EXACT = {"float32": 2e-6, "float64": 1e-13}

in_onnx = [pytest.mark.needs(module="onnx"), pytest.mark.needs(module="onnxruntime")]


def session(estimator):
    import onnxruntime

    return onnxruntime.InferenceSession(estimator.to_onnx().SerializeToString())


def labels(y, **settings):
    """Return the label that ONNX gives, and the estimator's, of a classifier fitted to labels."""
    model = MLPClassifier((4,), random_state=0, max_iter=3, **settings).fit(X, y)
    return session(model).run(["label"], {"X": X})[0], model.predict(X)


class TestOnnx:
    pytestmark = in_onnx

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("target", TARGETS)
    def test_predicts_the_same(self, target, form, dtype):
        _, ours = pair(target, **FORMS[form], **SHORT)
        rows = X.astype(dtype)
        ours.fit(rows, TARGETS[target])
        running = session(ours)
        (taken,) = running.get_inputs()
        assert (taken.name, taken.shape) == ("X", ["n", 6])
        for given in (rows, rows[:1]):
            found = running.run(None, {"X": given})
            expected = [outputs(ours, given)]
            if hasattr(ours, "classes_"):
                expected = [ours.predict(given), *expected]
                assert [one.name for one in running.get_outputs()] == ["label", "probabilities"]
                assert found[0].tolist() == expected[0].tolist()
            else:
                assert [one.name for one in running.get_outputs()] == ["prediction"]
            assert (found[-1].dtype, found[-1].shape) == (expected[-1].dtype, expected[-1].shape)
            scale = max(1, np.abs(expected[-1]).max())
            assert np.abs(found[-1] - expected[-1]).max() <= EXACT[dtype] * scale

    @pytest.mark.parametrize(
        "classes",
        [
            np.array([-7, 3, 12], np.int64),
            np.array([1, 2, 250], np.uint8),
            np.array([0.0, 1.0, 5.0]),
            np.array(["één", "null", "zwei"]),
            np.array(["één", "null", "zwei"], object),
            np.array([False, True]),
            np.array([5]),
        ],
        ids=lambda classes: f"{len(classes)} {classes.dtype}",
    )
    def test_labels_are_of_the_classes_own_dtype(self, classes):
        found, expected = labels(classes[np.arange(240) % len(classes)])
        assert found.tolist() == expected.tolist()
        assert found.dtype == (object if classes.dtype.kind in "UO" else expected.dtype)

    def test_computes_in_the_estimators_own_dtype(self):
        model = MLPClassifier((4,), random_state=0, max_iter=3).fit(X, TARGETS["two classes"])
        assert session(model).get_inputs()[0].type == "tensor(double)"
        model.set_params(dtype="float32")
        assert session(model).get_inputs()[0].type == "tensor(float)"

    def test_is_written_whole_and_checked(self, tmp_path):
        import onnx

        model = MLPRegressor(hidden_layer_sizes=(4,), random_state=0, max_iter=3).fit(X, TARGETS["values"])
        made = model.to_onnx(tmp_path / "model.onnx")
        onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
        assert onnx.load(tmp_path / "model.onnx") == made

    def test_refuses_classes_that_onnx_has_no_type_for(self):
        model = MLPClassifier((4,), random_state=0, max_iter=3).fit(X, TARGETS["two classes"])
        model.classes_ = np.array([b"no", b"yes"], object)
        with pytest.raises(ExportError, match="classes_ are bytes: expected numbers, booleans or strings"):
            model.to_onnx()

    @pytest.mark.parametrize("spec", ["cupy", "torch", "jax"])
    @pytest.mark.needs("{spec}")
    def test_leaves_from_any_device(self, spec, find_backend):
        model = MLPClassifier((4,), random_state=0, max_iter=3, dtype="float32").fit(X, TARGETS["four classes"])
        there = model.to(find_backend(spec))
        given = {"X": X.astype("f4")}
        for one, other in zip(session(there).run(None, given), session(model).run(None, given), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("target", ["two classes", "four classes", "several values", "rates"])
def test_pytorchs_module_gives_the_sums(target, form, dtype):
    import torch

    _, ours = pair(target, **FORMS[form], **SHORT)
    rows = X.astype(dtype)
    ours.fit(rows, TARGETS[target])
    S = ours.to_torch()(torch.from_numpy(rows)).detach()
    P = {"softmax": lambda S: S.softmax(1), "logistic": torch.sigmoid, "identity": lambda S: S, "exp": torch.exp}[
        ours.out_activation_
    ](S).numpy()
    expected = outputs(ours, rows)
    expected = expected[:, 1:] if ours.out_activation_ == "logistic" else expected.reshape(P.shape)
    assert np.abs(P - expected).max() <= EXACT[dtype] * max(1, np.abs(expected).max())


@pytest.mark.needs("torch")
def test_pytorchs_module_has_its_own_memory_and_all_of_softplus():
    import torch

    model = MLPRegressor(hidden_layer_sizes=(9,), activation="softplus", random_state=0, max_iter=3)
    model.fit(X, TARGETS["values"])
    rows = 20 * X  # some sums are between 20 and 40, where PyTorch's own threshold would be seen
    sums = rows @ model.coefs_[0] + model.intercepts_[0]
    assert ((sums > 20) & (sums < 40)).any()
    module, expected = model.to_torch(), model.predict(rows)
    assert np.abs(module(torch.from_numpy(rows)).detach().numpy()[:, 0] - expected).max() < 1e-12
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(model.predict(rows), expected)


@pytest.mark.needs("torch")
def test_whatever_an_estimator_may_have_leaves():
    """A new activation or head is missed here."""
    from xpmlp.models import torch_module

    assert set(onnx_graph.ACTIVATIONS) == set(torch_module.ACTIVATIONS) == set(ACTIVATIONS)
    assert {*exporting.HEADS, "absolute", "huber"} == set(HEADS)  # these two are losses of the identity


@pytest.mark.parametrize("method", ["to_onnx", pytest.param("to_torch", marks=pytest.mark.needs("torch"))])
def test_one_that_is_not_fitted_or_has_an_unknown_activation_is_refused(method):
    with pytest.raises(NotFittedError):
        getattr(MLPClassifier(), method)()
    model = MLPClassifier((4,), random_state=0, max_iter=3).fit(X, TARGETS["two classes"])
    model.activation = "step"
    with pytest.raises(ExportError, match="activation 'step': "):
        getattr(model, method)()
