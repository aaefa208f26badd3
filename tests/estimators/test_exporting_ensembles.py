"""Ensembles in other programs: each predicts the mean that the ensemble predicts."""

import pickle

import numpy as np
import pytest
import sklearn.ensemble
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from tests.estimators.test_estimators import TARGETS, X
from tests.estimators.test_exporting import EXACT, session
from xpmlp import MLPClassifier, MLPEnsemble, MLPRegressor
from xpmlp.errors import ExportError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ONE_LABEL = ["two classes", "four classes", "strings"]


def ensemble(target, n=3, **settings):
    """Return an ensemble for a target, not fitted."""
    settings = {"hidden_layer_sizes": (9, 5), "max_iter": 3, **settings}
    if "value" in target or target == "rates":
        return MLPEnsemble(
            MLPRegressor("poisson" if target == "rates" else "squared_error", **settings), n, random_state=0
        )
    return MLPEnsemble(MLPClassifier(**settings), n, random_state=0)


def fitted(target, dtype="float64", **settings):
    return ensemble(target, **settings).fit(X.astype(dtype), TARGETS[target])


def mean_of(ours, rows):
    return ours.predict_proba(rows) if hasattr(ours, "predict_proba") else ours.predict(rows)


@pytest.mark.needs(module="onnx")
@pytest.mark.needs(module="onnxruntime")
class TestOnnx:
    @pytest.mark.parametrize("activation", ["relu", ["tanh", "gelu"]], ids=str)
    @pytest.mark.parametrize("target", TARGETS)
    def test_predicts_the_same(self, target, activation, dtype):
        rows = X.astype(dtype)
        ours = fitted(target, dtype, activation=activation)
        running = session(ours)
        (taken,) = running.get_inputs()
        assert (taken.name, taken.shape) == ("X", ["n", 6])
        for given in (rows, rows[:1]):
            *label, found = running.run(None, {"X": given})
            expected = mean_of(ours, given)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert np.abs(found - expected).max() <= EXACT[dtype] * max(1, np.abs(expected).max())
            assert [each.tolist() for each in label] == ([ours.predict(given).tolist()] if label else [])
        names = ["label", "probabilities"] if hasattr(ours, "predict_proba") else ["prediction"]
        assert [one.name for one in running.get_outputs()] == names

    def test_has_each_networks_own_parameters(self):
        from onnx import numpy_helper

        ours = fitted("values")
        constants = {each.name: numpy_helper.to_array(each) for each in ours.to_onnx().graph.initializer}
        for k, network in enumerate(ours.estimators_, start=1):
            for layer, (W, b) in enumerate(zip(network.coefs_, network.intercepts_, strict=True), start=1):
                np.testing.assert_array_equal(constants[f"network{k}_W{layer}"], W)
                np.testing.assert_array_equal(constants[f"network{k}_b{layer}"], b)

    def test_of_one_network_is_that_one(self):
        ours = fitted("two classes", n=1)
        np.testing.assert_array_equal(
            session(ours).run(None, {"X": X})[1], session(ours.estimators_[0]).run(None, {"X": X})[1]
        )

    def test_leaves_from_any_device(self, backend):
        ours = ensemble("four classes").fit(backend.asarray(X), backend.asarray(TARGETS["four classes"]))
        label, P = session(ours).run(None, {"X": X})
        samples = backend.asarray(X)
        assert np.abs(P - backend.to_numpy(ours.predict_proba(samples))).max() < 1e-13
        assert label.tolist() == backend.to_numpy(ours.predict(samples)).tolist()

    def test_is_written_whole_and_checked(self, tmp_path):
        import onnx

        made = fitted("values").to_onnx(tmp_path / "model.onnx")
        onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
        assert onnx.load(tmp_path / "model.onnx") == made
        assert {each.key: each.value for each in made.metadata_props} == {"estimator": "MLPEnsemble"}

    def test_has_no_part_that_nothing_uses(self):
        for target in TARGETS:
            graph = fitted(target).to_onnx().graph
            used = {name for node in graph.node for name in node.input}
            assert {each.name for each in graph.initializer} <= used


class TestScikitLearn:
    @pytest.mark.parametrize("target", [*ONE_LABEL, "values", "rates"])
    def test_predicts_the_same(self, target):
        ours = fitted(target)
        theirs = ours.to_sklearn()
        kind = "VotingClassifier" if target in ONE_LABEL else "VotingRegressor"
        assert type(theirs) is getattr(sklearn.ensemble, kind)
        for there in (theirs, pickle.loads(pickle.dumps(theirs))):
            expected = mean_of(ours, X)
            found = there.predict_proba(X) if target in ONE_LABEL else there.predict(X)
            assert np.abs(found - expected).max() <= EXACT["float64"] * max(1, np.abs(expected).max())
            if target in ONE_LABEL:
                assert there.predict(X).tolist() == ours.predict(X).tolist()
            assert there.score(X, TARGETS[target]) == pytest.approx(ours.score(X, TARGETS[target]))

    @pytest.mark.parametrize("target", [*ONE_LABEL, "values"])
    def test_is_what_scikit_learns_own_fit_makes(self, target):
        theirs, y = fitted(target).to_sklearn(), TARGETS[target]
        again = clone(theirs).fit(X, y)
        assert vars(theirs).keys() == vars(again).keys()
        assert theirs.named_estimators_.keys() == again.named_estimators_.keys()
        for one, other in zip(theirs.estimators_, again.estimators_, strict=True):
            np.testing.assert_allclose(one.coefs_[0], other.coefs_[0], rtol=1e-8)
            np.testing.assert_array_equal(getattr(one, "classes_", []), getattr(other, "classes_", []))
        if target in ONE_LABEL:
            vote = [each.set_params(voting="hard").predict(X).tolist() for each in (theirs, again)]
            assert vote[0] == vote[1]

    @pytest.mark.needs(module="pandas")
    def test_knows_its_features_by_name(self):
        import pandas as pd

        frame = pd.DataFrame(X, columns=list("abcdef"))
        theirs = ensemble("two classes").fit(frame, TARGETS["two classes"]).to_sklearn()
        assert theirs.feature_names_in_.tolist() == list("abcdef")
        with pytest.raises(ValueError, match="feature names should match"):
            theirs.predict(frame[list("fedcba")])

    @pytest.mark.parametrize(
        ("target", "settings", "problem"),
        [
            (
                "several labels",
                {},
                "several labels for a sample: scikit-learn's VotingClassifier takes one; use to_onnx",
            ),
            ("several values", {}, "3 outputs: scikit-learn's VotingRegressor has one; use to_onnx"),
            ("two classes", {"dropout": 0.5}, "dropout=0.5: scikit-learn's MLPClassifier has no dropout"),
        ],
    )
    def test_refuses_what_it_cannot_hold(self, target, settings, problem):
        with pytest.raises(ValueError, match=f"^{problem}"):
            fitted(target, **settings).to_sklearn()

    def test_refuses_a_single_class(self):
        ours = ensemble("two classes").fit(X, np.zeros(240))
        with pytest.raises(
            ExportError, match="^a single class: scikit-learn's VotingClassifier needs two; use to_onnx$"
        ):
            ours.to_sklearn()


@pytest.mark.parametrize("method", [pytest.param("to_onnx", marks=pytest.mark.needs(module="onnx")), "to_sklearn"])
def test_one_that_is_not_fitted_is_refused(method):
    with pytest.raises(NotFittedError):
        getattr(MLPEnsemble(), method)()
