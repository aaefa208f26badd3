"""Poisson's loss takes counts: negative targets are refused in every way to fit, before any work."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.exceptions import FitFailedWarning
from sklearn.tree import DecisionTreeRegressor

from xpmlp import GridSearchCV, MLPEnsemble, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 3))
COUNTS = np.floor(np.abs(3 * X[:, 0]))
NEGATIVE = np.where(np.arange(60) == 7, -1.0, COUNTS)
MODEL = MLPRegressor("poisson", (4,), max_iter=2, random_state=0)
PROBLEM = r"^Some value\(s\) of y are negative which is not allowed for Poisson regression\.$"


def model(**settings):
    return MLPRegressor(**{**MODEL.get_params(), **settings})


def seen_nothing(figures):
    raise AssertionError("an epoch was trained")


def test_the_words_are_those_of_scikit_learns_trees():
    with pytest.raises(ValueError, match=PROBLEM):
        DecisionTreeRegressor(criterion="poisson").fit(X, NEGATIVE)


WAYS = {
    "fit": lambda e, X, y: e.fit(X, y),
    "fit with lbfgs": lambda e, X, y: e.set_params(solver="lbfgs").fit(X, y),
    "partial_fit": lambda e, X, y: e.partial_fit(X, y),
    "several outputs": lambda e, X, y: e.fit(X, y[:, None] * [1, 2]),
    "an ensemble": lambda e, X, y: MLPEnsemble(e, 2).fit(X, y),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_fit_refuses_them_before_an_epoch(way, backend):
    samples, y = backend.asarray(X), NEGATIVE if "several" in way else backend.asarray(NEGATIVE)
    with pytest.raises(ValueError, match=PROBLEM):
        WAYS[way](model(callbacks=seen_nothing), samples, y)


def test_a_network_that_was_fitted_is_as_it_was():
    ours = model().fit(X, COUNTS)
    before = pickle.dumps(ours)
    for call in (ours.fit, ours.partial_fit):
        with pytest.raises(ValueError, match=PROBLEM):
            call(X, NEGATIVE)
        assert pickle.dumps(ours) == before


def test_validation_data_are_refused_by_name():
    with pytest.raises(ValueError, match=f"^validation_data: {PROBLEM[1:]}"):
        model(callbacks=seen_nothing).fit(X, COUNTS, validation_data=(X, NEGATIVE))


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite:UserWarning")
@pytest.mark.parametrize("losses", [["squared_error", "poisson"], ["poisson", "squared_error"]])
def test_a_search_notes_it_for_this_loss_alone(losses):
    grid = {"loss": losses, "alpha": [1e-4, 1e-2]}
    with pytest.warns(FitFailedWarning, match="negative which is not allowed for Poisson regression"):
        found = GridSearchCV(model(), grid, cv=2, refit=False).fit(X, np.where(np.arange(60) % 30 == 7, -1.0, COUNTS))
    of_poisson = np.array([parameters["loss"] == "poisson" for parameters in found.cv_results_["params"]])
    assert np.array_equal(np.isnan(found.cv_results_["mean_test_score"]), of_poisson)


def test_counts_of_0_and_other_losses_of_negative_targets_are_fitted():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=RuntimeWarning)
        assert np.isfinite(model().fit(X, np.zeros(60)).loss_)
        assert np.isfinite(model(loss="huber").fit(X, NEGATIVE).loss_)
