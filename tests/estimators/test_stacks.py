"""Stacks of networks: each is what its own `fit` would make of it; searches and ensembles over them."""

import pickle
import re
import signal

import numpy as np
import pytest

from tests.conftest import SPECS
from tests.estimators.test_beyond import CASES, KINDS, WISHES, made
from tests.estimators.test_estimators import TARGETS, X, arrays, outputs
from xpmlp.backends import backend_of
from xpmlp.benchmark.checking import relative_error

pytest.importorskip("sklearn", minversion="1.7")

import sklearn.model_selection as theirs
import sklearn.neural_network
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from xpmlp import GridSearchCV, MLPClassifier, MLPEnsemble, MLPRegressor, RandomizedSearchCV
from xpmlp.estimators import search, stacks
from xpmlp.estimators.stacks import Job, Stack, fit_together
from xpmlp.kernels import _kernels, exact_kernels, kernels

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DIFFERENT = [
    {"learning_rate_init": rate, "alpha": alpha, "random_state": seed}
    for seed, (rate, alpha) in enumerate([(0.001, 0.0), (0.01, 0.1), (0.03, 1e-4), (0.005, 1.0), (0.02, 0.0)])
]
"""What differs from network to network."""


def fitted(estimators, y, samples=X, weights=None):
    """Return estimators fitted together, which must go well."""
    errors = fit_together([Job(e, samples, y, weights, source=0) for e in estimators])
    assert errors == [None] * len(errors)
    return estimators


def require_same(found, expected, backend=None, bound=None):
    """Require equal parameters, to the bit without a bound, and that nothing else differs."""
    to_numpy = backend.to_numpy if backend else np.asarray
    for ours, alone in zip(found, expected, strict=True):
        assert (ours.n_iter_, ours.t_) == (alone.n_iter_, alone.t_)
        for array, other in zip(arrays(ours), arrays(alone), strict=True):
            array, other = to_numpy(array), to_numpy(other)
            assert np.array_equal(array, other) if bound is None else relative_error(array, other) < bound
        assert ours.loss_curve_ == (alone.loss_curve_ if bound is None else pytest.approx(alone.loss_curve_, rel=1e-8))
        assert vars(ours).keys() == vars(alone).keys()
        assert ours._optimizer.t == alone._optimizer.t
        assert ours._optimizer.state.keys() == alone._optimizer.state.keys()


ALONE = ("a batch without weight", "validation data", "early stopping by validation data")
"""What `fit` alone is given."""


class TestAStack:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize(
        ("kind", "wish"), [*((kind, None) for kind in KINDS), *(case for case in CASES if case[1] not in ALONE)]
    )
    def test_is_each_network_alone_to_the_bit(self, kind, wish, dtype):
        y, samples = TARGETS[KINDS[kind]], X.astype(dtype)
        base, _ = made(kind, WISHES.get(wish, {}))
        different = [{name: value for name, value in each.items() if name not in WISHES.get(wish, {})}
                     for each in DIFFERENT]  # fmt: skip
        alone = [clone(base).set_params(**each).fit(samples, y) for each in different]
        require_same(fitted([clone(base).set_params(**each) for each in different], y, samples), alone)

    @pytest.mark.needs(module="numba")
    @pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
    def test_long_work_takes_numbas_loops_for_the_same_bits(self, activation, monkeypatch):
        y = TARGETS["four classes"]
        networks = [MLPClassifier((9, 5), activation=activation, max_iter=8, random_state=k) for k in range(3)]
        alone = [clone(e).fit(X, y) for e in networks]
        monkeypatch.setattr("xpmlp.kernels._WORTH_NUMBA", 0)
        with exact_kernels(1):
            assert _kernels.get() == "exact"
        with kernels("plain"), exact_kernels(1):
            assert _kernels.get() == "plain"
        require_same(fitted(networks, y), alone)

    @pytest.mark.parametrize("momentums", [[0.0, 0.9, 0.5], [0.9, 0.9, 0.9]])
    def test_with_momentum_of_their_own(self, momentums):
        y = TARGETS["four classes"]
        networks = [MLPClassifier((9,), solver="sgd", momentum=m, max_iter=5, random_state=0) for m in momentums]
        require_same(fitted([clone(e) for e in networks], y), [e.fit(X, y) for e in networks])

    @pytest.mark.parametrize("dropout", [0.0, 0.25])
    @pytest.mark.parametrize("kind", KINDS)
    def test_those_that_stop_early_leave(self, kind, dropout, monkeypatch):
        sizes, step = [], Stack.scalars

        def noted(self, k):
            sizes.append(len(self.slots))
            return step(self, k)

        monkeypatch.setattr(Stack, "scalars", noted)
        y = TARGETS[KINDS[kind]]
        settings = {"hidden_layer_sizes": (9,), "max_iter": 40, "learning_rate_init": 0.05, "n_iter_no_change": 2}
        settings["dropout"] = dropout
        family = MLPRegressor if kind == "regressor" else MLPClassifier
        networks = [family(**settings, early_stopping=True, tol=tol, random_state=seed)
                    for seed, tol in enumerate([1e-4, 0.1, 1e-3, 0.1, 0.1, 0.1])]  # fmt: skip
        alone = [clone(e).fit(X, y) for e in networks]
        assert len({e.n_iter_ for e in alone}) > 2
        require_same(fitted(networks, y), alone)
        for ours, expected in zip(networks, alone, strict=True):
            assert ours.validation_scores_ == expected.validation_scores_
            assert ours.best_validation_score_ == expected.best_validation_score_
        assert set(sizes) <= {6, 4, 2, 1}
        assert min(sizes) < 3

    def test_with_weights_of_their_own(self):
        y = TARGETS["four classes"]
        networks = [MLPClassifier((9,), max_iter=4, class_weight=given, random_state=0)
                    for given in (None, "balanced", {0: 1.0, 1: 2.0, 2: 3.0, 3: 0.5})]  # fmt: skip
        for weights in (None, np.random.default_rng(0).random(240) + 0.1):
            alone = [clone(e).fit(X, y, weights) for e in networks]
            require_same(fitted([clone(e) for e in networks], y, weights=weights), alone, bound=1e-12)

    def test_with_samples_of_their_own(self):
        """Folds of as many samples to the bit; ragged ones, filled up by samples without weight, to rounding."""
        y = TARGETS["four classes"]
        for folds, bound in ((KFold(4), None), (KFold(7), 1e-12)):
            jobs, alone = [], []
            for number, (train, _) in enumerate(folds.split(X)):
                base = MLPClassifier((9,), batch_size=25, max_iter=5, random_state=number)
                alone.append(clone(base).fit(X[train], y[train]))
                jobs.append(Job(base, X[train], y[train], None, number))
            assert fit_together(jobs) == [None] * len(jobs)
            require_same([job.estimator for job in jobs], alone, bound=bound)

    def test_after_100_steps(self):
        y = TARGETS["several values"]
        networks = [
            MLPRegressor(hidden_layer_sizes=(20, 10), batch_size=24, max_iter=10, random_state=k) for k in range(9)
        ]
        require_same(fitted([clone(e) for e in networks], y), [e.fit(X, y) for e in networks])

    def test_what_cannot_be_stacked_is_fitted_alone_or_in_other_stacks(self):
        y = TARGETS["two classes"]
        sparse = pytest.importorskip("scipy.sparse")
        networks = [
            MLPClassifier((9,), max_iter=3, random_state=0),
            MLPClassifier((5, 4), max_iter=3, random_state=0),
            MLPClassifier((9,), activation="tanh", max_iter=3, random_state=0),
            MLPClassifier((9,), solver="lbfgs", max_iter=3, random_state=0),
            MLPClassifier((9,), solver="sgd", max_iter=3, random_state=0),
            MLPClassifier((9,), batch_size=20, max_iter=3, random_state=0),
            MLPClassifier((9,), beta_1=0.8, max_iter=3, random_state=0),
            MLPClassifier((9,), dropout=0.5, max_iter=3, random_state=0),
            MLPClassifier((9,), dtype="float32", max_iter=3, random_state=0),
        ]
        alone = [clone(e).fit(X, y) for e in networks]
        for ours, expected in zip(fitted(networks, y), alone, strict=True):
            assert all(np.array_equal(*pair) for pair in zip(arrays(ours), arrays(expected), strict=True))
        thin, w = sparse.csr_array(np.where(X > 1, X, 0.0)), np.repeat([0.0, 1.0], [120, 120])
        for samples, weights in ((thin, None), (X, w)):
            expected = clone(networks[0]).fit(samples, y, weights)
            (ours,) = fitted([clone(networks[0])], y, samples, weights)
            assert np.array_equal(ours.coefs_[0], expected.coefs_[0])

    def test_one_that_fails_leaves_the_others(self):
        def fails(figures):
            raise RuntimeError("the log is full")

        y = TARGETS["values"]
        networks = [
            MLPRegressor(hidden_layer_sizes=(9,), max_iter=3, random_state=0),
            MLPRegressor(hidden_layer_sizes=(9,), max_iter=3, random_state=0, callbacks=fails),
            MLPRegressor(hidden_layer_sizes=(9,), max_iter=3, random_state=0, alpha=-1.0),
            MLPRegressor(hidden_layer_sizes=(9,), max_iter=3, random_state=0, learning_rate_init=1e300),
        ]
        alone = clone(networks[0]).fit(X, y)
        with np.errstate(all="ignore"):
            errors = fit_together([Job(e, X, y, source=0) for e in networks])
        assert errors[0] is None
        assert np.array_equal(networks[0].coefs_[0], alone.coefs_[0])
        problems = ["the log is full", "The 'alpha' parameter of MLPRegressor must be", "non-finite parameter weights"]
        for error, problem in zip(errors[1:], problems, strict=True):
            assert problem in str(error)
        assert networks[1].n_iter_ == 1

    def test_is_cut_to_what_fits_the_device(self, monkeypatch):
        sizes, first = [], Stack.first

        def noted(self):
            sizes.append(len(self.slots))
            return first(self)

        monkeypatch.setattr(Stack, "first", noted)
        y = TARGETS["two classes"]
        networks = [MLPClassifier((9,), max_iter=2, random_state=k) for k in range(7)]
        fitted([clone(e) for e in networks], y)
        backend = backend_of(X)
        monkeypatch.setattr(type(backend), "free_memory", lambda self: 0)
        fitted([clone(e) for e in networks], y)
        monkeypatch.setattr(type(backend), "free_memory", lambda self: None)
        monkeypatch.setattr(stacks, "CACHED", 3 * 8 * (5 * 73 + 200 * (6 + 2 * 10)))
        fitted([clone(e) for e in networks], y)
        assert sizes == [7, *[1] * 7, 3, 3, 1]

    def test_ctrl_c_keeps_what_was_learned(self, monkeypatch):
        usual = Stack.scalars

        def scalars(self, step):
            if step == 3:
                signal.raise_signal(signal.SIGINT)
            return usual(self, step)

        monkeypatch.setattr(Stack, "scalars", scalars)
        networks = [MLPClassifier((9,), batch_size=60, random_state=k) for k in range(3)]
        with pytest.warns(UserWarning, match="Training interrupted by user"), pytest.raises(KeyboardInterrupt):
            fit_together([Job(e, X, TARGETS["two classes"]) for e in networks])
        assert [e._optimizer.t for e in networks] == [3, 3, 3]
        assert networks[0].predict(X).shape == (240,)


@pytest.mark.parametrize("backend", [spec for spec in SPECS if spec != "numpy"], indirect=True)
@pytest.mark.parametrize(("kind", "wish"), [("classifier", None), ("regressor", "huber"), ("several labels", "dropout"),
                                            ("classifier", "adamw"), ("classifier", "cosine"),
                                            ("classifier", "class_weight")])  # fmt: skip
def test_a_stack_on_every_library(backend, kind, wish):
    y = TARGETS[KINDS[kind]]
    base, _ = made(kind, WISHES.get(wish, {}), max_iter=20)
    networks = [clone(base).set_params(**each) for each in DIFFERENT[:3]]
    alone = [clone(e).fit(X, y) for e in networks]
    fitted(networks, backend.asarray(y), backend.asarray(X))
    assert all(e._optimizer.t == 100 for e in networks)
    for ours, expected in zip(networks, alone, strict=True):
        for array, other in zip(arrays(ours), arrays(expected), strict=True):
            assert str(backend_of(array)) == str(backend)
            assert relative_error(backend.to_numpy(array), other) < 1e-10


@pytest.mark.needs("jax")
class TestOnJax:
    """There a call costs more than a small network's step: an epoch's equal batches are runs of one call each."""

    @pytest.fixture
    def runs(self, monkeypatch):
        from xpmlp.backends import _jax

        lengths, original = [], _jax._Compiled._in_a_loop

        def in_a_loop(step, carry, first, columns):
            lengths.append(len(columns[0]))
            return original(step, carry, first, columns)

        monkeypatch.setattr(_jax._Compiled, "_in_a_loop", in_a_loop)
        return lengths

    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("settings", [{"shuffle": False}, {"solver": "sgd"}, {"dropout": 0.25}], ids=str)
    def test_a_fit_is_runs_of_steps(self, runs, find_backend, settings, weighted):
        backend, weights = find_backend("jax", "float64"), np.arange(len(X)) % 5 if weighted else None
        estimator = MLPClassifier((5,), batch_size=4, max_iter=2, random_state=0, **settings)
        ours = clone(estimator).fit(backend.asarray(X), backend.asarray(TARGETS["two classes"]), weights)
        assert len(X) == 240
        assert runs == [32, 28] * 2
        self.require_near(backend, [ours], [estimator.fit(X, TARGETS["two classes"], weights)])

    def test_a_stack_is_runs_of_steps(self, runs, find_backend):
        backend, y = find_backend("jax", "float64"), TARGETS["two classes"]
        networks = [MLPClassifier((5,), batch_size=4, max_iter=2).set_params(**each) for each in DIFFERENT]
        alone = [clone(e).fit(X, y) for e in networks]
        self.require_near(backend, fitted(networks, backend.asarray(y), backend.asarray(X)), alone)
        assert runs == [32, 28] * 2

    def test_a_smaller_last_batch_is_a_call_of_its_own(self, runs, find_backend):
        backend, y = find_backend("jax", "float64"), TARGETS["two classes"]
        estimator = MLPClassifier((5,), batch_size=7, max_iter=2, random_state=0)
        ours = clone(estimator).fit(backend.asarray(X), backend.asarray(y))
        assert runs == [32, 2] * 2
        self.require_near(backend, [ours], [estimator.fit(X, y)])

    def require_near(self, backend, found, expected):
        for ours, alone in zip(found, expected, strict=True):
            for array, other in zip(arrays(ours), arrays(alone), strict=True):
                assert relative_error(backend.to_numpy(array), other) < 1e-10


SEARCHES = [
    ("GridSearchCV", {"param_grid": {"alpha": [1e-4, 0.3], "learning_rate_init": [0.003, 0.03]}}),
    ("GridSearchCV", {"param_grid": [{"hidden_layer_sizes": [(4,), (9, 5)]}, {"solver": ["lbfgs", "sgd"]}]}),
    ("RandomizedSearchCV", {"param_distributions": {"alpha": [1e-4, 1e-2, 1.0, 10.0]}, "n_iter": 3, "random_state": 0}),
]
OURS = {"GridSearchCV": GridSearchCV, "RandomizedSearchCV": RandomizedSearchCV}


def require_equal_searches(ours, expected):
    """Require the same results but for times, which are there."""
    assert ours.cv_results_.keys() == expected.cv_results_.keys()
    for name, column in expected.cv_results_.items():
        if name.endswith("_time"):
            assert (np.asarray(ours.cv_results_[name]) >= 0).all()
        else:
            np.testing.assert_array_equal(ours.cv_results_[name], column, err_msg=name)
    assert (ours.cv_results_["mean_fit_time"] > 0).all()
    for name in ("best_index_", "best_params_", "best_score_", "n_splits_", "multimetric_"):
        if hasattr(expected, name):
            assert getattr(ours, name) == getattr(expected, name)


class TestASearch:
    @pytest.mark.parametrize(("name", "space"), SEARCHES, ids=["rates", "kinds", "random"])
    @pytest.mark.parametrize("target", ["two classes", "four classes", "strings", "several labels", "values"])
    def test_has_scikit_learns_results(self, name, space, target):
        family = MLPRegressor if target == "values" else MLPClassifier
        estimator, y = family(hidden_layer_sizes=(9,), max_iter=6, random_state=0), TARGETS[target]
        cv = KFold(4, shuffle=True, random_state=0)
        found, expected = (kind(estimator, **space, cv=cv, return_train_score=True).fit(X, y)
                           for kind in (OURS[name], getattr(theirs, name)))  # fmt: skip
        require_equal_searches(found, expected)
        assert isinstance(found.best_estimator_, family)
        assert found.estimator is estimator
        assert np.array_equal(found.predict(X), expected.predict(X))
        assert found.score(X, y) == expected.score(X, y)
        assert np.array_equal(pickle.loads(pickle.dumps(found)).predict(X), expected.predict(X))
        assert clone(found).get_params() == clone(expected).get_params() or name

    def test_scores_are_those_of_scikit_learns_own_networks(self):
        y, grid = TARGETS["four classes"], {"alpha": [1e-4, 0.3], "learning_rate_init": [0.003, 0.03]}
        settings = {"hidden_layer_sizes": (9,), "max_iter": 6, "random_state": 0}
        ours = GridSearchCV(MLPClassifier(**settings), grid, cv=4).fit(X, y)
        expected = theirs.GridSearchCV(sklearn.neural_network.MLPClassifier(**settings), grid, cv=4).fit(X, y)
        require_equal_searches(ours, expected)

    @pytest.mark.parametrize("settings", [
        {"scoring": "f1_macro"}, {"scoring": ["accuracy", "neg_log_loss"], "refit": "accuracy"}, {"refit": False},
        {"cv": GroupKFold(3)}, {"cv": StratifiedKFold(3, shuffle=True, random_state=1)}, {"n_jobs": 2},
    ], ids=str)  # fmt: skip
    def test_takes_scorers_groups_and_the_rest(self, settings):
        y, groups = TARGETS["four classes"], np.arange(240) // 20
        estimator = MLPClassifier((9,), max_iter=4, random_state=0)
        given = {"groups": groups} if "cv" in settings and isinstance(settings["cv"], GroupKFold) else {}
        grid = {"alpha": [1e-4, 1.0], "activation": ["relu", "tanh"]}
        found, expected = (kind(estimator, grid, **settings).fit(X, y, **given)
                           for kind in (GridSearchCV, theirs.GridSearchCV))  # fmt: skip
        require_equal_searches(found, expected)

    def test_splits_at_random_once(self):
        y, estimator = TARGETS["two classes"], MLPClassifier((4,), max_iter=3, random_state=0)
        search = GridSearchCV(estimator, {"alpha": [1e-4, 1.0]}, cv=KFold(3, shuffle=True), error_score="raise").fit(
            X, y
        )
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()

    def test_takes_weights(self):
        y, w = TARGETS["four classes"], np.random.default_rng(0).random(240) + 0.1
        for estimator, name in ((MLPClassifier((9,), max_iter=4, random_state=0), "sample_weight"),
                                (make_pipeline(StandardScaler(), MLPClassifier((9,), max_iter=4, random_state=0)),
                                 "mlpclassifier__sample_weight")):  # fmt: skip
            grid = {name.replace("sample_weight", "alpha"): [1e-4, 1.0]}
            found, expected = (kind(estimator, grid, cv=KFold(3)).fit(X, y, **{name: w})
                               for kind in (GridSearchCV, theirs.GridSearchCV))  # fmt: skip
            for column in ("mean_test_score", "rank_test_score"):
                np.testing.assert_array_equal(found.cv_results_[column], expected.cv_results_[column])

    def test_fits_a_pipelines_earlier_steps_once_a_split(self, monkeypatch):
        calls, fit = [], StandardScaler.fit

        def noted(self, X, y=None, sample_weight=None):
            calls.append(len(X))
            return fit(self, X, y, sample_weight)

        y = TARGETS["four classes"]
        model = make_pipeline(StandardScaler(), MLPClassifier((9,), max_iter=4, random_state=0))
        grid = {"mlpclassifier__alpha": [1e-4, 0.1, 1.0], "standardscaler__with_mean": [True, False]}
        expected = theirs.GridSearchCV(model, grid, cv=4).fit(X, y)
        monkeypatch.setattr(StandardScaler, "fit", noted)
        found = GridSearchCV(model, grid, cv=4).fit(X, y)
        require_equal_searches(found, expected)
        assert len(calls) == 4 * 2 + 1, "four splits, two scalers, and the best at the end"
        other = {"standardscaler": [StandardScaler(), MinMaxScaler(), "passthrough"]}
        require_equal_searches(*(kind(model, other, cv=3).fit(X, y) for kind in (GridSearchCV, theirs.GridSearchCV)))

    def test_data_frames_keep_their_names(self):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(X, columns=[*"abcdef"])
        estimator = MLPClassifier((4,), max_iter=2, random_state=0)
        search = GridSearchCV(estimator, {"alpha": [1e-4, 1.0]}, cv=3).fit(frame, pandas.Series(TARGETS["strings"]))
        assert search.feature_names_in_.tolist() == [*"abcdef"]
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()

    def test_another_estimator_is_searched_as_ever(self):
        from sklearn.linear_model import LogisticRegression

        y = TARGETS["two classes"]
        found, expected = (kind(LogisticRegression(), {"C": [0.1, 1.0]}, cv=3).fit(X, y)
                           for kind in (GridSearchCV, theirs.GridSearchCV))  # fmt: skip
        require_equal_searches_but_fit_time = found.cv_results_["mean_test_score"].tolist()
        assert require_equal_searches_but_fit_time == expected.cv_results_["mean_test_score"].tolist()
        model = make_pipeline(StandardScaler(), MLPClassifier((4,), max_iter=3, random_state=0))
        steps = {"mlpclassifier": [MLPClassifier((3,), max_iter=3, random_state=0), LogisticRegression()]}
        require_equal_searches(*(kind(model, steps, cv=3).fit(X, y) for kind in (GridSearchCV, theirs.GridSearchCV)))

    @pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite:UserWarning")
    def test_what_fails_has_scikit_learns_score_and_warning(self):
        y, estimator = TARGETS["two classes"], MLPClassifier((4,), max_iter=2, random_state=0)
        for kind in (GridSearchCV, theirs.GridSearchCV):
            with pytest.warns(Warning, match="3 fits failed out of a total of 6"):
                search = kind(estimator, {"activation": ["relu", ["tanh", "tanh"]]}, cv=3).fit(X, y)
            assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True]
            with pytest.raises(ValueError, match="activation has 2 names, hidden_layer_sizes 1"):
                kind(estimator, {"activation": [["tanh", "tanh"]]}, cv=3, error_score="raise").fit(X, y)
            with pytest.raises(ValueError, match="Invalid parameter 'depth' for estimator MLPClassifier"):
                kind(estimator, {"depth": [3]}, cv=3).fit(X, y)
            with pytest.raises(ValueError, match="Parameter grid for parameter 'alpha' need"):
                kind(estimator, {"alpha": []}, cv=3).fit(X, y)
            with pytest.raises(ValueError, match="n_splits=3 cannot be greater than the number of members"):
                kind(estimator, {"alpha": [1.0]}, cv=3).fit(X[:4], [0, 0, 1, 1])

    def test_is_made_in_parts(self, monkeypatch):
        monkeypatch.setattr(search, "AT_ONCE", 5)
        y, estimator = TARGETS["four classes"], MLPClassifier((9,), max_iter=3, random_state=0)
        grid = {"alpha": [1e-4, 0.1, 1.0], "beta_1": [0.8, 0.9]}
        options = {"cv": 3, "scoring": "neg_log_loss"}  # which no two fits have alike
        expected = theirs.GridSearchCV(estimator, grid, **options).fit(X, y)
        for n_jobs in (1, 2):
            require_equal_searches(GridSearchCV(estimator, grid, n_jobs=n_jobs, **options).fit(X, y), expected)
        monkeypatch.setattr(search, "KEPT", 0)
        require_equal_searches(GridSearchCV(estimator, grid, **options).fit(X, y), expected)

    def test_a_step_may_work_in_place(self):
        y, model = (
            TARGETS["four classes"],
            make_pipeline(StandardScaler(copy=False), MLPClassifier((9,), max_iter=4, random_state=0)),
        )
        grid = {"standardscaler__with_std": [True, False], "mlpclassifier__alpha": [1e-4, 1.0]}
        before = X.copy()
        require_equal_searches(*(kind(model, grid, cv=3, scoring="neg_log_loss").fit(X.copy(), y)
                                 for kind in (GridSearchCV, theirs.GridSearchCV)))  # fmt: skip
        assert np.array_equal(X, before)

    def test_a_step_that_cannot_be_pickled_is_fitted_each_time(self):
        from sklearn.preprocessing import FunctionTransformer

        y = TARGETS["four classes"]
        model = make_pipeline(FunctionTransformer(lambda x: 2 * x), MLPClassifier((9,), max_iter=4, random_state=0))
        grid = {"mlpclassifier__alpha": [1e-4, 1.0]}
        require_equal_searches(*(kind(model, grid, cv=3).fit(X, y) for kind in (GridSearchCV, theirs.GridSearchCV)))

    def test_splits_may_come_from_a_generator(self):
        y, estimator = TARGETS["four classes"], MLPClassifier((9,), max_iter=4, random_state=0)
        found, expected = (kind(estimator, {"alpha": [1e-4, 1.0]}, cv=KFold(3).split(X)).fit(X, y)
                           for kind in (GridSearchCV, theirs.GridSearchCV))  # fmt: skip
        require_equal_searches(found, expected)

    def test_scorers_are_handed_the_estimator_itself(self):
        def score(estimator, X, y):
            assert type(estimator) is MLPClassifier
            assert len(pickle.dumps(estimator)) < 100_000
            return clone(estimator).fit(X, y).score(X, y) + estimator.loss_

        y, estimator = TARGETS["four classes"], MLPClassifier((9,), max_iter=4, random_state=0)
        options = {"cv": 3, "scoring": score, "error_score": "raise"}
        found, expected = (kind(estimator, {"alpha": [1e-4, 0.1, 1.0]}, **options).fit(X, y)
                           for kind in (GridSearchCV, theirs.GridSearchCV))  # fmt: skip
        require_equal_searches(found, expected)

    def test_a_fit_of_ones_own_is_called(self):
        class First40(MLPClassifier):
            def fit(self, X, y, sample_weight=None):
                return super().fit(X[:40], y[:40])

        y, options = TARGETS["two classes"], {"cv": 3, "scoring": "neg_log_loss"}
        own, grid = First40((9,), max_iter=4, random_state=0), {"alpha": [1e-4, 1.0]}
        found, expected = (kind(own, grid, **options).fit(X, y) for kind in (GridSearchCV, theirs.GridSearchCV))
        for column in ("mean_test_score", "std_test_score"):
            np.testing.assert_array_equal(found.cv_results_[column], expected.cv_results_[column])

    def test_a_classifier_and_a_regressor_in_one_grid(self):
        from sklearn.pipeline import Pipeline

        kinds = [
            MLPClassifier((9,), max_iter=9, random_state=0),
            MLPRegressor(hidden_layer_sizes=(9,), max_iter=9, random_state=0),
        ]
        y, model = TARGETS["two classes"] + 1, Pipeline([("network", kinds[0])])
        options = {"cv": KFold(3), "scoring": "neg_mean_squared_error"}
        require_equal_searches(*(kind(model, {"network": kinds}, **options).fit(X, y)
                                 for kind in (GridSearchCV, theirs.GridSearchCV)))  # fmt: skip

    @pytest.mark.parametrize("backend", [spec for spec in SPECS if spec != "numpy"], indirect=True)
    def test_on_every_library(self, backend):
        y, estimator = TARGETS["four classes"], MLPClassifier((9,), max_iter=4, random_state=0)
        grid = {"alpha": [1e-4, 1.0]}
        expected = theirs.GridSearchCV(estimator, grid, cv=KFold(3)).fit(X, y)
        with sklearn.config_context(array_api_dispatch=True):
            found = GridSearchCV(estimator, grid, cv=KFold(3)).fit(backend.asarray(X), backend.asarray(y))
            np.testing.assert_array_equal(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])
            assert str(backend_of(found.best_estimator_.coefs_[0])) == str(backend)


class TestAnEnsemble:
    def test_is_the_mean_of_networks_that_differ_in_their_seed(self):
        y = TARGETS["four classes"]
        ours = MLPEnsemble(MLPClassifier((9,), max_iter=4), 5, random_state=3).fit(X, y)
        seeds = np.random.RandomState(3).randint(2**31 - 1, size=5)
        alone = [MLPClassifier((9,), max_iter=4, random_state=int(seed)).fit(X, y) for seed in seeds]
        each = np.stack([e.predict_proba(X) for e in alone])
        np.testing.assert_allclose(ours.predict_proba(X), each.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(ours.spread(X), each.std(axis=0), rtol=1e-9, atol=1e-15)
        assert np.array_equal(ours.predict(X), each.mean(axis=0).argmax(axis=1))
        assert ours.score(X, y) == np.mean(ours.predict(X) == y)
        require_same(ours.estimators_, alone)

    @pytest.mark.parametrize("backend", SPECS, indirect=True)
    @pytest.mark.parametrize("target", ["two classes", "strings", "several labels", "values", "several values"])
    def test_of_every_kind_on_every_library(self, backend, target):
        y = TARGETS[target]
        family = MLPRegressor if target.endswith("values") else MLPClassifier
        ours = MLPEnsemble(family(hidden_layer_sizes=(9,), max_iter=4), 3, random_state=0)
        there = clone(ours)
        expected = ours.fit(X, y)
        there.fit(backend.asarray(X), y if target == "strings" else backend.asarray(y))
        samples = backend.asarray(X)
        for name in ("spread", "predict"):
            found, wanted = getattr(there, name)(samples), getattr(expected, name)(X)
            if target == "strings" and name == "predict":
                assert found.tolist() == wanted.tolist()
            else:
                assert str(backend_of(found)) == str(backend)
                np.testing.assert_allclose(backend.to_numpy(found), wanted, rtol=1e-8, atol=1e-12)
        assert there.score(samples, y) == pytest.approx(expected.score(X, y))

    def test_is_surer_of_what_it_knows(self):
        x = np.linspace(-1, 1, 200)[:, None]
        ours = MLPEnsemble(MLPRegressor(hidden_layer_sizes=(30,), learning_rate_init=0.01), 8, random_state=0)
        ours.fit(x, np.sin(3 * x[:, 0]))
        near, far = ours.spread(np.array([[0.0], [8.0]]))
        assert far > 5 * near

    def test_goes_into_a_search(self):
        y = TARGETS["two classes"]
        ensemble = MLPEnsemble(MLPClassifier((4,), max_iter=2), 2, random_state=0)
        assert GridSearchCV(ensemble, {"n_estimators": [1, 2]}, cv=3).fit(X, y).best_params_["n_estimators"] in (1, 2)

    @pytest.mark.parametrize(
        ("settings", "error", "problem"),
        [
            ({"n_estimators": 0}, ValueError, "n_estimators is 0: expected a whole number of at least 1"),
            ({"n_estimators": 2.5}, ValueError, "n_estimators is 2.5: expected a whole number of at least 1"),
            ({"estimator": StandardScaler()}, TypeError, "estimator is a StandardScaler: expected MLPClassifier or"),
            ({"estimator": MLPClassifier(alpha=-1)}, ValueError, "The 'alpha' parameter of MLPClassifier must be"),
        ],
    )
    def test_what_is_refused(self, settings, error, problem):
        with pytest.raises(error, match=re.escape(problem)):
            MLPEnsemble(**settings).fit(X, TARGETS["two classes"])


SMALL = MLPClassifier((20,), max_iter=200), MLPRegressor(hidden_layer_sizes=(100,), max_iter=200)


CHECKS = parametrize_with_checks([MLPEnsemble(estimator, 2) for estimator in SMALL]).args[1]


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(
            *pair,
            id=f"{type(pair[0].estimator).__name__}-{getattr(pair[1], 'func', pair[1]).__name__}-{k}",
            marks=pytest.mark.full if isinstance(pair[0].estimator, MLPRegressor) else (),
        )
        for k, pair in enumerate(CHECKS)
        if "array_api" not in str(pair[1])
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks_of_ensembles(estimator, check):
    """But those of other libraries, for which see `test_of_every_kind_on_every_library`."""
    check(estimator)


def test_outputs_of_stacked_networks_can_be_pickled_and_go_on():
    y = TARGETS["two classes"]
    networks = [MLPClassifier((9,), max_iter=3, random_state=k) for k in range(3)]
    alone = [clone(e).fit(X, y).partial_fit(X, y) for e in networks]
    for ours, expected in zip(fitted(networks, y), alone, strict=True):
        back = pickle.loads(pickle.dumps(ours)).partial_fit(X, y)
        assert np.array_equal(outputs(back, X), outputs(expected, X))
