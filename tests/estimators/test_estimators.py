"""MLPClassifier and MLPRegressor: scikit-learn's results, scikit-learn's interface, on every library."""

import inspect
import pickle
import re
import signal
import warnings

import numpy as np
import pytest

from tests.conftest import SPECS, run_python
from tests.data.test_loading import LAYOUTS
from xpmlp.backends import backend_of, get_backend
from xpmlp.benchmark.checking import relative_error
from xpmlp.errors import BackendError

sklearn = pytest.importorskip("sklearn", minversion="1.7")

import sklearn.neural_network as theirs  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

from xpmlp import MLPClassifier, MLPRegressor  # noqa: E402
from xpmlp.estimators import epochs, fitting  # noqa: E402
from xpmlp.estimators.epochs import Epochs  # noqa: E402
from xpmlp.estimators.inputs import SparseSamples  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((240, 6))
SIGNAL = X @ RNG.standard_normal((6, 3)) + 0.3 * RNG.standard_normal((240, 3))
WEIGHTS = RNG.random(240)
TARGETS = {
    "two classes": (SIGNAL[:, 0] > 0).astype(int),
    "four classes": np.digitize(SIGNAL[:, 0], [-2, 0, 2]),
    "strings": np.array(["no", "yes", "perhaps"])[np.digitize(SIGNAL[:, 0], [-1, 1])],
    "several labels": (SIGNAL > 0).astype(int),
    "values": SIGNAL[:, 0],
    "several values": SIGNAL,
    "rates": np.floor(np.abs(SIGNAL[:, 0])),
}
SETTINGS = {
    "adam": {},
    "sgd": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.05},
    "sgd, nesterov, invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1},
    "sgd, adaptive": {
        "solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.02, "tol": 0.1, "n_iter_no_change": 2,
    },
    "sgd, momentum 0": {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.1},
    "lbfgs": {"solver": "lbfgs"},
    "lbfgs, tanh": {"solver": "lbfgs", "activation": "tanh"},
    "early stopping": {"early_stopping": True, "learning_rate_init": 0.02, "n_iter_no_change": 2},
    "identity": {"activation": "identity"},
    "logistic": {"activation": "logistic"},
    "tanh": {"activation": "tanh"},
    "no penalty": {"alpha": 0.0},
    "no shuffling": {"shuffle": False, "batch_size": 50},
    "one layer": {"hidden_layer_sizes": ()},
}  # fmt: skip


def pair(target, **settings):
    """Return scikit-learn's estimator for a target, and ours."""
    if target == "strings" and settings.get("early_stopping") and sklearn.__version__ < "1.8":
        pytest.skip("scikit-learn 1.7's own fails here: it asks whether strings are finite")
    settings = {"hidden_layer_sizes": (9, 5), "max_iter": 20, "random_state": 1, **settings}
    if target in ("values", "several values", "rates"):
        settings["loss"] = "poisson" if target == "rates" else "squared_error"
        return theirs.MLPRegressor(**settings), MLPRegressor(**settings)
    return theirs.MLPClassifier(**settings), MLPClassifier(**settings)


def outputs(estimator, X):
    return estimator.predict_proba(X) if hasattr(estimator, "classes_") else estimator.predict(X)


def arrays(estimator):
    return [*estimator.coefs_, *estimator.intercepts_]


def require_equal(ours, expected, X, y, bound=1e-8):
    """Require that two fitted estimators, the first of them ours, have learned the same."""
    assert ours.n_iter_ == expected.n_iter_
    for found, array in zip(arrays(ours), arrays(expected), strict=True):
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert relative_error(found, array) < bound
    fitted = {name for name in vars(expected) if name.endswith("_")}
    assert fitted <= set(vars(ours))
    for name in fitted & {"loss_", "best_loss_", "loss_curve_", "validation_scores_", "best_validation_score_", "t_"}:
        found, value = getattr(ours, name), getattr(expected, name)
        if sklearn.__version__ >= "1.9":  # before, it was another type of float with some versions of SciPy
            assert type(found) is type(value), name
        if value is not None:
            assert found == pytest.approx(value, rel=bound), name
    for name in fitted & {"n_layers_", "n_outputs_", "n_features_in_", "out_activation_"}:
        assert getattr(ours, name) == getattr(expected, name)
    if hasattr(expected, "classes_"):
        assert ours.classes_.dtype == expected.classes_.dtype
        assert ours.classes_.tolist() == expected.classes_.tolist()
        assert ours.predict(X).tolist() == expected.predict(X).tolist()
    found, expectation = outputs(ours, X), outputs(expected, X)
    assert (found.dtype, found.shape) == (expectation.dtype, expectation.shape)
    assert relative_error(found, expectation) < bound
    assert ours.score(X, y) == pytest.approx(expected.score(X, y), abs=1e-3 if bound > 1e-6 else 1e-12)


class TestADropIn:
    """With the same parameters and random_state, on NumPy, our estimators are scikit-learn's."""

    @pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
    @pytest.mark.parametrize("target", TARGETS)
    @pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.full), "float64"])
    def test_learns_the_same(self, target, settings, dtype):
        expected, ours = pair(target, **settings)
        samples, y = X.astype(dtype), TARGETS[target]
        require_equal(ours.fit(samples, y), expected.fit(samples, y), samples, y, 1e-8 if dtype == "float64" else 1e-3)

    @pytest.mark.parametrize("settings", ["adam", "lbfgs", "early stopping"])
    @pytest.mark.parametrize("target", TARGETS)
    def test_learns_the_same_from_weighted_samples(self, target, settings):
        expected, ours = pair(target, **SETTINGS[settings])
        y = TARGETS[target]
        require_equal(ours.fit(X, y, WEIGHTS), expected.fit(X, y, WEIGHTS), X, y)
        assert ours.score(X, y, WEIGHTS) == pytest.approx(expected.score(X, y, WEIGHTS), abs=1e-12)

    @pytest.mark.parametrize("kind", [list, np.float32, np.float64, int])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("settings", ["adam", "lbfgs"])
    def test_weights_may_be_of_any_dtype(self, settings, dtype, kind):
        expected, ours = pair("four classes", **SETTINGS[settings])
        weights = np.arange(len(X)) % 3 + 1
        given = weights.tolist() if kind is list else weights.astype(kind)
        samples, y = X.astype(dtype), TARGETS["four classes"]
        bound = 1e-8 if dtype == "float64" else 1e-3
        require_equal(ours.fit(samples, y, given), expected.fit(samples, y, weights), samples, y, bound)
        held_out = (samples, y, given)
        MLPClassifier((4,), max_iter=2).fit(samples, y, given, validation_data=held_out)

    @pytest.mark.parametrize("solver", ["adam", "sgd"])
    @pytest.mark.parametrize("target", TARGETS)
    def test_learns_the_same_part_by_part(self, target, solver):
        expected, ours = pair(target, solver=solver)
        y = TARGETS[target]
        classes = {} if "value" in target or target == "rates" else {"classes": np.unique(y)}
        if target == "several labels":
            classes = {"classes": range(3)}
        for part in (slice(0, 100), slice(100, 240), slice(0, 240)):
            for estimator in (expected, ours):
                estimator.partial_fit(X[part], y[part], **classes)
            assert ours._optimizer.learning_rate == expected._optimizer.learning_rate
            assert ours._no_improvement_count == expected._no_improvement_count
        require_equal(ours, expected, X, y)

    @pytest.mark.parametrize("target", ["two classes", "four classes", "several values"])
    def test_warm_starts_go_on_the_same_way(self, target):
        expected, ours = pair(target, warm_start=True, early_stopping=True)
        for _ in range(3):
            require_equal(ours.fit(X, TARGETS[target]), expected.fit(X, TARGETS[target]), X, TARGETS[target])

    @pytest.mark.parametrize("solver", ["adam", "lbfgs"])
    @pytest.mark.parametrize("kind", ["csr_matrix", "csc_array"])
    def test_takes_sparse_samples(self, kind, solver):
        sparse = pytest.importorskip("scipy.sparse")
        dense = np.where(np.abs(X) < 0.7, 0, X)
        samples = getattr(sparse, kind)(dense)
        expected, ours = pair("four classes", solver=solver)
        y = TARGETS["four classes"]
        require_equal(ours.fit(samples, y), expected.fit(samples, y), samples, y)
        assert relative_error(ours.predict_proba(samples), ours.predict_proba(dense)) < 1e-12

    def test_takes_data_frames_and_lists(self):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(X, columns=[*"abcdef"])
        expected, ours = pair("strings")
        ours.fit(frame, pandas.Series(TARGETS["strings"]))
        expected.fit(frame, pandas.Series(TARGETS["strings"]))
        assert ours.feature_names_in_.tolist() == [*"abcdef"]
        require_equal(ours, expected, frame, TARGETS["strings"])
        with pytest.raises(ValueError, match="The feature names should match"):
            ours.predict(frame[[*"fedcba"]])
        assert MLPClassifier(max_iter=1).fit(X.tolist(), TARGETS["strings"].tolist()).score(X, TARGETS["strings"]) >= 0

    def test_many_samples_are_predicted_part_by_part(self, monkeypatch):
        monkeypatch.setattr("xpmlp.estimators.scores.AT_ONCE", 50)
        expected, ours = pair("four classes")
        require_equal(ours.fit(X, TARGETS["four classes"]), expected.fit(X, TARGETS["four classes"]), X,
                      TARGETS["four classes"])  # fmt: skip

    def test_predicts_the_logarithms_too(self):
        expected, ours = pair("two classes")
        for estimator in (expected, ours):
            estimator.fit(X, TARGETS["two classes"])
        assert relative_error(ours.predict_log_proba(X), expected.predict_log_proba(X)) < 1e-8

    def test_says_the_same(self, capsys):
        said = []
        for estimator in pair("two classes", verbose=True, early_stopping=True, solver="sgd", learning_rate="adaptive",
                              tol=0.2, n_iter_no_change=1):  # fmt: skip
            estimator.fit(X, TARGETS["two classes"])
            said.append(capsys.readouterr().out)
        assert said[0] == said[1]
        assert "Setting learning rate to" in said[0]

    @pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
    def test_has_every_parameter_with_its_default(self, kind):
        ours, expected = (inspect.signature(getattr(module, kind)).parameters for module in (xpmlp_module(), theirs))
        own = {"class_weight": None} if kind == "MLPClassifier" else {"huber_delta": 1.0}
        beyond = {"dropout": 0.0, "callbacks": None, "backend": None, "dtype": None, **own}
        assert set(ours) == {*expected, *beyond}
        assert list(ours)[: len(expected)] == list(expected)
        for name, parameter in expected.items():
            assert (ours[name].default, ours[name].kind) == (parameter.default, parameter.kind)
        for name, default in beyond.items():
            assert (ours[name].default, ours[name].kind) == (default, inspect.Parameter.KEYWORD_ONLY)


def xpmlp_module():
    import xpmlp

    return xpmlp


@pytest.mark.parametrize("is_copied", [True, False])
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_x_in_any_memory_layout_is_gathered_row_by_row(layout, kind, is_copied, monkeypatch):
    """From one copy, where memory has room for it; else a batch reads its own rows and copies no others."""
    gathered, gather = [], epochs.gather

    def noted(array, rows):
        gathered.append(array)
        return gather(array, rows)

    monkeypatch.setattr(epochs, "gather", noted)
    if not is_copied:
        monkeypatch.setattr(fitting, "free_host_memory", lambda: 0)
    y = TARGETS["four classes" if kind is MLPClassifier else "several values"]
    found, expected = (
        kind(hidden_layer_sizes=(9, 5), max_iter=3, random_state=1).fit(LAYOUTS[at](X), LAYOUTS[at](y), WEIGHTS)
        for at in (layout, "rows")
    )
    assert all(np.array_equal(*pair) for pair in zip(arrays(found), arrays(expected), strict=True))
    if is_copied:
        assert all(array.flags.c_contiguous for array in gathered)


def test_columns_of_a_sparse_x_are_gathered_as_rows(monkeypatch):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    sparse = scipy_sparse.csc_array(np.where(np.abs(X) > 1, X, 0.0))
    formats, take = [], SparseSamples.__getitem__

    def noted(self, key):
        formats.append(self.matrix.format)
        return take(self, key)

    monkeypatch.setattr(SparseSamples, "__getitem__", noted)
    y = TARGETS["four classes"]
    found, expected = (MLPClassifier((9, 5), max_iter=3, random_state=1).fit(X, y) for X in (sparse, sparse.tocsr()))
    assert set(formats) == {"csr"}
    assert all(np.array_equal(*pair) for pair in zip(arrays(found), arrays(expected), strict=True))


@pytest.mark.parametrize("backend", [spec for spec in SPECS if spec != "numpy"], indirect=True)
class TestWhereTheDataAre:
    @pytest.fixture
    def other(self, backend):
        return backend

    def on(self, backend, array):
        return array if array.dtype.kind == "U" else backend.asarray(array)

    @pytest.mark.parametrize(
        ("target", "settings"),
        [
            *((target, "adam") for target in TARGETS),
            *(("two classes", settings) for settings in ("lbfgs", "early stopping", "logistic", "no shuffling")),
            *(("several values", settings) for settings in ("sgd, adaptive", "lbfgs", "early stopping", "tanh")),
        ],
    )
    def test_learns_and_predicts_there_what_numpy_would(self, other, target, settings):
        y = TARGETS[target]
        _, expected = pair(target, **SETTINGS[settings])
        ours = clone(expected)
        expected.fit(X, y)
        samples, there = other.asarray(X), self.on(other, y)
        ours.fit(samples, there)
        for found, array in zip(arrays(ours), arrays(expected), strict=True):
            assert type(found) is type(samples)
            assert str(backend_of(found)) == str(other)
            assert relative_error(other.to_numpy(found), array) < 1e-8
        assert ours.n_iter_ == expected.n_iter_
        P = outputs(ours, samples)
        assert type(P) is type(samples)
        assert relative_error(other.to_numpy(P), outputs(expected, X)) < 1e-8
        if target == "strings":
            assert ours.predict(samples).tolist() == expected.predict(X).tolist()
        elif hasattr(ours, "classes_"):
            labels = ours.predict(samples)
            assert type(labels) is type(ours.classes_) is type(samples)
            assert other.to_numpy(labels).tolist() == expected.predict(X).tolist()
        assert ours.score(samples, there) == pytest.approx(expected.score(X, y), abs=1e-8)

    @pytest.mark.parametrize("kind", [np.float64, int])
    def test_weights_of_another_dtype_are_cast_where_the_host_has_them(self, other, kind):
        y, samples, weights = TARGETS["four classes"], X.astype(np.float32), np.arange(len(X)) % 3 + 1
        ours, expected = (MLPClassifier((5,), max_iter=3, random_state=0, backend=b) for b in (other.spec, None))
        ours.fit(samples, y, weights.astype(kind), validation_data=(samples, y, weights))
        of_its_dtype = weights.astype(np.float32)
        expected.fit(samples, y, of_its_dtype, validation_data=(samples, y, of_its_dtype))
        assert relative_error(ours.coefs_[0], expected.coefs_[0]) < 1e-5

    @pytest.mark.parametrize("target", ["four classes", "several labels", "several values"])
    @pytest.mark.long_on_jax
    def test_weights_and_targets_come_to_where_the_samples_are(self, other, target):
        y = TARGETS[target]
        _, expected = pair(target)
        expected.fit(X, y, WEIGHTS)
        for move in (np.asarray, other.asarray):
            ours = clone(expected).fit(other.asarray(X), move(y), move(WEIGHTS))
            assert relative_error(other.to_numpy(ours.coefs_[0]), expected.coefs_[0]) < 1e-8
            score = ours.score(other.asarray(X), move(y), move(WEIGHTS))
            assert score == pytest.approx(expected.score(X, y, WEIGHTS), abs=1e-8)
        if target == "four classes":
            parts = clone(expected), clone(expected)
            parts[0].partial_fit(X, other.asarray(y), classes=other.asarray(np.arange(4)))
            assert relative_error(parts[0].coefs_[0], parts[1].partial_fit(X, y, classes=range(4)).coefs_[0]) < 1e-8
        ours = clone(expected).fit(X, other.asarray(y), other.asarray(WEIGHTS))
        assert relative_error(ours.coefs_[0], expected.coefs_[0]) < 1e-8
        assert ours.score(X, other.asarray(y), other.asarray(WEIGHTS)) == expected.score(X, y, WEIGHTS)

    @pytest.mark.long_on_jax
    def test_partial_fit_goes_on_there(self, other):
        _, expected = pair("four classes")
        ours, y = clone(expected), TARGETS["four classes"]
        for part in (slice(0, 100), slice(100, 240)):
            expected.partial_fit(X[part], y[part], classes=range(4))
            ours.partial_fit(other.asarray(X[part]), other.asarray(y[part]), classes=other.asarray(np.arange(4)))
        assert relative_error(other.to_numpy(ours.coefs_[0]), expected.coefs_[0]) < 1e-8
        with pytest.raises(ValueError, match="is not the same as on last call to partial_fit"):
            ours.partial_fit(other.asarray(X), other.asarray(y), classes=other.asarray(np.arange(5)))
        with pytest.raises(ValueError, match="`y` has classes not in `self.classes_`"):
            ours.partial_fit(other.asarray(X), other.asarray(y + 1))

    @pytest.mark.parametrize("target", ["four classes", "several values"])
    @pytest.mark.long_on_jax
    def test_the_backend_may_be_named_for_numpys_arrays(self, other, target, request):
        spec = request.node.callspec.params["backend"]
        assert str(get_backend(spec)) == str(other)
        _, expected = pair(target)
        y = TARGETS[target]
        ours = clone(expected).set_params(backend=spec)
        require_equal(ours.fit(X, y), expected.fit(X, y), X, y)
        for part in (slice(0, 120), slice(120, 240)):
            for estimator in (ours, expected):
                estimator.partial_fit(X[part], y[part])
        require_equal(ours, expected, X, y)
        sparse = pytest.importorskip("scipy.sparse")
        with pytest.raises(ValueError, match="sparse X is for NumPy"):
            ours.fit(sparse.csr_matrix(X), y)

    @pytest.mark.long_on_jax
    def test_samples_from_elsewhere_are_refused(self, other):
        y = TARGETS["four classes"]
        _, ours = pair("four classes")
        ours.fit(other.asarray(X), other.asarray(y))
        message = r"Inputs passed to MLPClassifier.{}\(\) must use the same namespace and the same device as those"
        for method in ("predict", "predict_proba", "predict_log_proba"):
            with pytest.raises(ValueError, match=message.format(method)):
                getattr(ours, method)(X)
        with pytest.raises(ValueError, match=message.format("partial_fit")):
            ours.partial_fit(X, y)
        ours.fit(X, y)
        with pytest.raises(ValueError, match=message.format("predict")):
            ours.predict(other.asarray(X))
        with pytest.raises(ValueError, match="backend='numpy' is numpy on cpu, X is an array of"):
            clone(ours).set_params(backend="numpy").fit(other.asarray(X), y)

    def test_what_is_no_finite_matrix_is_refused_in_scikit_learns_words(self, other):
        _, ours = pair("four classes")
        y = other.asarray(TARGETS["four classes"])
        broken = X.copy()
        broken[3, 2] = np.nan
        with pytest.raises(ValueError, match="Input X contains NaN"):
            ours.fit(other.asarray(broken), y)
        broken[3, 2] = np.inf
        with pytest.raises(ValueError, match="Input X contains infinity or a value too large for .*float64"):
            ours.fit(other.asarray(broken), y)
        with pytest.raises(ValueError, match="Expected 2D array, got 1D array instead"):
            ours.fit(other.asarray(X[:, 0].copy()), y)
        with pytest.raises(ValueError, match="Found array with dim 3"):
            ours.fit(other.asarray(X[None]), y)
        with pytest.raises(ValueError, match="Found array with 0 sample"):
            ours.fit(other.asarray(X[:0]), y)
        with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[240, 239\]"):
            ours.fit(other.asarray(X), y[:239])
        with pytest.raises(ValueError, match="Unknown label type: continuous"):
            ours.fit(other.asarray(X), other.asarray(SIGNAL[:, 0].copy()))
        with pytest.raises(ValueError, match=r"sample_weight.shape == \(3,\), expected \(240,\)"):
            ours.fit(other.asarray(X), y, other.asarray(np.ones(3)))
        with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
            ours.fit(other.asarray(X), None)
        ours.fit(other.asarray(X), y)
        with pytest.raises(ValueError, match="X has 5 features, but MLPClassifier is expecting 6 features as input"):
            ours.predict(other.asarray(X[:, :5].copy()))

    @pytest.mark.long_on_jax
    def test_whole_numbers_become_floats(self, other):
        _, ours = pair("two classes", max_iter=2)
        ours.fit(other.asarray(np.round(X).astype(np.int32)), other.asarray(TARGETS["two classes"]))
        assert "float" in str(ours.coefs_[0].dtype)

    @pytest.mark.long_on_jax
    def test_pickles_with_its_arrays(self, other):
        y = other.asarray(TARGETS["four classes"])
        _, ours = pair("four classes")
        ours.fit(other.asarray(X), y)
        back = pickle.loads(pickle.dumps(ours))
        assert other.to_numpy(back.predict(other.asarray(X))).tolist() == (
            other.to_numpy(ours.predict(other.asarray(X))).tolist()
        )
        back.partial_fit(other.asarray(X), y)


@pytest.mark.needs("array-api-strict:device1")
def test_nothing_but_scalars_crosses_to_the_host(find_backend, monkeypatch):
    strict = find_backend("array-api-strict:device1")
    from xpmlp.backends._strict import StrictBackend

    original, crossed = StrictBackend.to_numpy, []

    def to_numpy(self, array):
        crossed.append(tuple(array.shape))
        return original(self, array)

    monkeypatch.setattr(StrictBackend, "to_numpy", to_numpy)
    samples = strict.asarray(X)
    for target in ("two classes", "four classes", "several labels", "several values"):
        for settings in ("adam", "early stopping"):
            _, ours = pair(target, **SETTINGS[settings])
            y = strict.asarray(TARGETS[target])
            ours.fit(samples, y).predict(samples)
            ours.score(samples, y)
    assert set(crossed) == {()}
    assert len(crossed) > 20, "an epoch's loss is a scalar"


@pytest.mark.needs("array-api-strict")
class TestScoresOnADevice:
    """What scikit-learn would refuse is refused; nothing is broadcast."""

    @pytest.fixture
    def strict(self, find_backend):
        return find_backend("array-api-strict")

    def test_of_values(self, strict):
        ours = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2).fit(strict.asarray(X), strict.asarray(SIGNAL))
        with pytest.raises(ValueError, match="Input y contains NaN"):
            ours.score(strict.asarray(X), strict.asarray(np.where(SIGNAL > 1, np.nan, SIGNAL)))
        with pytest.raises(ValueError, match=r"different number of output \(1!=3\)"):
            ours.score(strict.asarray(X), strict.asarray(SIGNAL[:, 0].copy()))
        with pytest.raises(ValueError, match="inconsistent numbers of samples"):
            ours.score(strict.asarray(X), strict.asarray(SIGNAL[:9]))
        with pytest.warns(sklearn.exceptions.UndefinedMetricWarning):
            assert np.isnan(ours.score(strict.asarray(X[:1]), strict.asarray(SIGNAL[:1])))

    def test_of_labels(self, strict):
        y = TARGETS["four classes"]
        ours = MLPClassifier((4,), max_iter=2).fit(strict.asarray(X), strict.asarray(y))
        for wrong, weights, message in (
            (y[:9], None, "inconsistent numbers of samples"),
            (y, np.ones(9), r"sample_weight.shape == \(9,\), expected \(240,\)"),
            (y, np.zeros(240), "must contain at least one non-zero number"),
            (y.astype(str), None, "y holds <U21: the classes that were learned are .*int64"),
        ):
            with pytest.raises((ValueError, TypeError), match=message):
                ours.score(strict.asarray(X), wrong, weights)


class TestGoingOnOtherwise:
    """A fit that goes on with samples of another dtype, on another backend, or as another kind of fit."""

    @pytest.mark.parametrize("solver", ["adam", "sgd"])
    @pytest.mark.parametrize("dtypes", [("f8", "f4"), ("f4", "f8")])
    def test_in_another_dtype(self, dtypes, solver):
        y = TARGETS["four classes"]
        expected, ours = pair("four classes", solver=solver)
        for dtype in dtypes:
            for estimator in (expected, ours):
                estimator.partial_fit(X.astype(dtype), y, classes=range(4))
        assert ours.coefs_[0].dtype == expected.coefs_[0].dtype
        assert relative_error(ours.coefs_[0], expected.coefs_[0]) < (1e-8 if dtypes[0] == "f8" else 1e-4)
        ours.set_params(dtype="float32").partial_fit(X, y)
        assert ours.coefs_[0].dtype == ours.predict_proba(X).dtype == np.float32

    @pytest.mark.parametrize("spec", ["torch", "jax", "array-api-strict"])
    @pytest.mark.needs("{spec}")
    def test_on_another_backend(self, spec, find_backend):
        find_backend(spec, "float64")
        y = TARGETS["four classes"]
        expected, ours = pair("four classes")
        ours = MLPClassifier.from_sklearn(expected.fit(X, y), backend=spec)
        for backend in (spec, None, spec):
            ours.set_params(backend=backend).partial_fit(X, y)
            assert relative_error(ours.coefs_[0], expected.partial_fit(X, y).coefs_[0]) < 1e-8

    def test_with_early_stopping_switched_on_or_off(self):
        y = TARGETS["four classes"]
        _, ours = pair("four classes", warm_start=True, max_iter=3)
        for early_stopping in (False, True, False):
            ours.set_params(early_stopping=early_stopping).fit(X, y)
        assert len(ours.validation_scores_) == 3

    def test_as_another_network_is_refused_by_name(self):
        _, ours = pair("four classes", warm_start=True, max_iter=1)
        ours.fit(X, TARGETS["four classes"]).set_params(hidden_layer_sizes=(3,))
        message = r"the fitted network \(6, 9, 5, 4\) cannot go on as \(6, 3, 4\)"
        with pytest.raises(ValueError, match=message):
            ours.fit(X, TARGETS["four classes"])


@pytest.mark.parametrize("y", [np.zeros(240, int), np.full(240, "a")], ids=["numbers", "strings"])
def test_one_class_alone_is_always_right(y):
    expected, ours = pair("strings" if y.dtype.kind == "U" else "two classes", early_stopping=True)
    assert ours.fit(X, y).validation_scores_ == expected.fit(X, y).validation_scores_
    assert ours.predict(X).tolist() == y.tolist()


JAX_IN_32_BITS = """
import numpy as np, jax.numpy as jnp, warnings
warnings.simplefilter("ignore")
from xpmlp import BackendError, MLPClassifier, MLPRegressor
X = np.random.default_rng(0).standard_normal((60, 3))
y, t, w = (X[:, 0] > 0).astype(int), X @ [1.0, 2.0, 3.0], np.ones(60)
K = dict(hidden_layer_sizes=(4,), max_iter=3, random_state=0)
J = jnp.asarray
for early in (False, True):
    MLPClassifier(early_stopping=early, **K).fit(J(X), J(y)).score(J(X), y)
    MLPRegressor(early_stopping=early, **K).fit(J(X), t, w).score(J(X), t, w)
MLPClassifier(**K).fit(J(X), list(y)).partial_fit(J(X), J(y), classes=[0, 1])
MLPClassifier(solver="lbfgs", **K).fit(J(X), y)
for dtype in (None, "float32"):
    m = MLPClassifier(backend="jax", dtype=dtype, **K).fit(X, y)
    assert m.coefs_[0].dtype == m.predict_proba(X).dtype == np.float32
for samples in (X, J(X)):
    try:
        MLPClassifier(backend="jax", dtype="float64", **K).fit(samples, y)
    except BackendError as error:
        print(str(error).partition(" at the")[0])
assert jnp.zeros(1).dtype == np.float32
"""


@pytest.mark.needs("jax")
@pytest.mark.full
def test_jax_takes_what_it_must_narrow_where_its_wide_types_are_off(find_backend):
    find_backend("jax")
    done = run_python("-c", JAX_IN_32_BITS)
    line = 'JAX computes in float32 only: jax.config.update("jax_enable_x64", True)'
    assert (done.returncode, done.stdout) == (0, f"{line}\n" * 2), done.stderr


class TestWhatWasLearned:
    def test_is_in_coefs_and_intercepts(self):
        y = TARGETS["two classes"]
        expected, ours = pair("two classes")
        for estimator in (expected, ours):
            estimator.fit(X, y)
            estimator.coefs_ = [W * 0.5 for W in estimator.coefs_]
            estimator.intercepts_[1] = estimator.intercepts_[1] + 1
        assert relative_error(ours.predict_proba(X), expected.predict_proba(X)) < 1e-8
        ours.partial_fit(X, y)
        again = pair("two classes")[1].fit(X, y)
        again.coefs_ = [W * 0.5 for W in again.coefs_]
        again.partial_fit(X, y)
        assert relative_error(ours.coefs_[0], again.coefs_[0]) > 1e-6, "the changed intercepts count"

    @pytest.mark.parametrize("settings", ["adam", "sgd", "early stopping", "lbfgs"])
    @pytest.mark.parametrize("target", TARGETS)
    def test_comes_from_scikit_learn_and_goes_back(self, target, settings):
        y = TARGETS[target]
        expected, _ = pair(target, **SETTINGS[settings])
        expected.fit(X, y)
        ours = type(pair(target)[1]).from_sklearn(expected)
        require_equal(ours, expected, X, y, bound=1e-14)
        back = ours.to_sklearn()
        assert type(back) is type(expected)
        assert back.get_params() == expected.get_params()
        for found, array in zip(arrays(back), arrays(expected), strict=True):
            assert found.tobytes() == array.tobytes()
        if settings in ("adam", "sgd"):
            for estimator in (expected, ours, back):
                estimator.partial_fit(X, y)
            assert relative_error(ours.coefs_[0], expected.coefs_[0]) < 1e-12
            assert arrays(back)[0].tobytes() == arrays(expected)[0].tobytes()

    def test_goes_to_scikit_learn_from_any_library(self, backend):
        y = TARGETS["four classes"]
        _, ours = pair("four classes")
        ours.fit(backend.asarray(X), backend.asarray(y))
        back = ours.to_sklearn()
        assert type(back.coefs_[0]) is np.ndarray
        assert back.predict(X).tolist() == backend.to_numpy(ours.predict(backend.asarray(X))).tolist()
        back.partial_fit(X, y)

    def test_unfitted_ones_go_too_and_others_are_refused(self):
        ours = MLPRegressor.from_sklearn(theirs.MLPRegressor(alpha=0.5), backend="numpy")
        assert (ours.alpha, ours.backend) == (0.5, "numpy")
        assert ours.to_sklearn().alpha == 0.5
        with pytest.raises(TypeError, match="MLPRegressor: expected scikit-learn's MLPClassifier"):
            MLPClassifier.from_sklearn(theirs.MLPRegressor())

    def test_may_be_computed_in_another_dtype(self):
        ours = MLPClassifier((9,), max_iter=2, dtype="float32")
        ours.fit(X, TARGETS["four classes"])
        assert ours.coefs_[0].dtype == np.float32
        assert MLPClassifier((9,), solver="lbfgs", max_iter=2).fit(X.astype("f4"), X[:, 0] > 0).coefs_[0].dtype == "f8"


class TestAmongScikitLearnsTools:
    def test_in_a_pipeline_a_search_and_a_validation(self):
        from sklearn.model_selection import GridSearchCV, cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        y = TARGETS["four classes"]
        found = []
        for kind in (theirs.MLPClassifier, MLPClassifier):
            model = make_pipeline(StandardScaler(), kind((9,), max_iter=15, random_state=0))
            search = GridSearchCV(model, {f"{kind.__name__.lower()}__alpha": [1e-4, 1.0]}, cv=3).fit(X, y)
            found.append((search.best_params_, search.best_score_, cross_val_score(model, X, y, cv=3).tolist()))
        assert found[0] == found[1]

    @pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning")  # of the scaler itself
    @pytest.mark.filterwarnings("ignore:You are comparing a array_api_strict dtype:UserWarning")  # of its validation
    @pytest.mark.parametrize("spec", ["torch", "array-api-strict"])
    @pytest.mark.needs("{spec}")
    def test_in_a_pipeline_on_a_device(self, spec, find_backend):
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if spec == "array-api-strict" and sklearn.__version__ < "1.8":
            pytest.skip("scikit-learn 1.7's own scaler fails here: it compares a dtype of another library with NumPy's")
        backend = find_backend(spec, "float64")
        y = TARGETS["four classes"]
        model = make_pipeline(StandardScaler(), MLPClassifier((9,), max_iter=15, random_state=0))
        expected = clone(model).fit(X, y).predict_proba(X)
        with sklearn.config_context(array_api_dispatch=True):
            found = model.fit(backend.asarray(X), backend.asarray(y)).predict_proba(backend.asarray(X))
        assert relative_error(backend.to_numpy(found), expected) < 1e-8

    def test_bad_parameters_are_refused_in_its_words(self):
        for settings in ({"alpha": -1}, {"solver": "newton"}, {"batch_size": 0}, {"dtype": "float16"}, {"backend": 3}):
            with pytest.raises(ValueError, match=f"The '{next(iter(settings))}' parameter of MLPClassifier must be"):
                MLPClassifier(**settings).fit(X, TARGETS["two classes"])
        with pytest.raises(ValueError, match=re.escape("hidden_layer_sizes must be > 0, got [3, 0].")):
            MLPClassifier((3, 0)).fit(X, TARGETS["two classes"])
        with pytest.raises(BackendError, match="unknown backend 'cudy'"):
            MLPClassifier(backend="cudy").fit(X, TARGETS["two classes"])

    def test_partial_fit_is_for_solvers_that_go_step_by_step(self):
        assert not hasattr(MLPClassifier(solver="lbfgs"), "partial_fit")
        with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
            MLPClassifier(early_stopping=True).partial_fit(X, TARGETS["two classes"], classes=[0, 1])
        with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
            MLPClassifier().partial_fit(X, TARGETS["two classes"])

    @pytest.mark.filterwarnings("default::sklearn.exceptions.ConvergenceWarning")
    def test_warns_as_it_does(self):
        for kind in (theirs.MLPClassifier, MLPClassifier):
            with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(1\) reached"):
                kind(max_iter=1).fit(X, TARGETS["two classes"])
            with pytest.warns(UserWarning, match="Got `batch_size` less than 1 or larger than sample size"):
                kind(max_iter=1, batch_size=999).fit(X, TARGETS["two classes"])
        for kind in (theirs.MLPRegressor, MLPRegressor):
            with pytest.raises(ValueError, match="The validation set is too small"):
                kind(early_stopping=True, validation_fraction=0.001).fit(X, X[:, 0])

    def test_numbers_that_overflow_are_found(self):
        with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
            MLPRegressor(solver="sgd", learning_rate_init=1e6, max_iter=50).fit(X, SIGNAL)

    def test_an_interrupted_fit_keeps_what_it_has(self, monkeypatch):
        """Ctrl-C ends it after the step; a second one is the program's own."""

        def press(times):
            def scalars(self, step):
                for _ in range(times if step == 3 else 0):
                    signal.raise_signal(signal.SIGINT)
                return usual(self, step)

            return scalars

        usual = Epochs.scalars
        monkeypatch.setattr(Epochs, "scalars", press(1))
        with pytest.warns(UserWarning, match="Training interrupted by user"):
            ours = MLPClassifier((9,), batch_size=60).fit(X, TARGETS["two classes"])
        assert (ours._optimizer.t, ours.n_iter_) == (3, 0)
        assert ours.predict(X).shape == (240,)
        monkeypatch.setattr(Epochs, "scalars", press(2))
        with pytest.raises(KeyboardInterrupt):
            MLPClassifier((9,), batch_size=60).fit(X, TARGETS["two classes"])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_pickle_and_joblib_give_it_back(self, tmp_path):
        joblib = pytest.importorskip("joblib")
        _, ours = pair("strings")
        ours.fit(X, TARGETS["strings"])
        joblib.dump(ours, tmp_path / "model")
        for back in (pickle.loads(pickle.dumps(ours)), joblib.load(tmp_path / "model")):
            assert back.predict_proba(X).tobytes() == ours.predict_proba(X).tobytes()
            back.partial_fit(X, TARGETS["strings"])

    @pytest.mark.parametrize("spec", ["auto", "numpy"])
    def test_a_pickle_keeps_the_backends_name(self, spec):
        ours = MLPClassifier((4,), max_iter=2, backend=spec).fit(X, TARGETS["two classes"])
        assert pickle.loads(pickle.dumps(ours)).backend == spec


def own_checks():
    """Yield scikit-learn's checks, but those of libraries that xpmlp has no backend for, marked by what they need."""
    short = {"max_iter": 20, "learning_rate_init": 0.02}
    estimators = [MLPClassifier(**short), MLPRegressor(**short), MLPClassifier(), MLPRegressor()]
    for estimator, check in parametrize_with_checks(estimators).args[1]:
        keywords = getattr(check, "keywords", {})
        places = [(value.xp, value.device) for value in keywords.values() if hasattr(value, "xp")]
        if "array_namespace" in keywords:
            places.append((keywords["array_namespace"], keywords.get("device_name")))
        specs = [
            name.replace("_", "-") + ("" if device in (None, "cpu", "CPU_DEVICE") else f":{device}")
            for name, device in places
        ]
        if set(specs) <= set(SPECS):
            details = "-".join([*specs, *(str(value) for key, value in keywords.items() if key == "dtype_name")])
            name = f"{type(estimator).__name__}-{getattr(check, 'func', check).__name__}-{details}"
            marks = [
                pytest.mark.needs(*(spec.removesuffix(":device1") for spec in specs))
            ]  # each is a check of its own
            if estimator.max_iter != short["max_iter"]:
                marks.append(pytest.mark.full)
            yield pytest.param(estimator, check, id=name.removesuffix("-"), marks=marks)


@pytest.mark.parametrize(("estimator", "check"), list(own_checks()))
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks(estimator, check, request, find_backend):
    for mark in request.node.iter_markers("needs"):
        for spec in mark.args:
            find_backend(spec)  # which finds dpnp's device, where scikit-learn's check would not
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)
