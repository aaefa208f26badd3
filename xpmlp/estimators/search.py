"""GridSearchCV and RandomizedSearchCV: scikit-learn's searches, with fits in stacks of networks.

scikit-learn makes candidates and splits, scores, ranks and refits. It gets a stand-in for the estimator. The stand-in's
`fit` takes a network that was trained in a stack with the next ones in line.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Self

import joblib
import numpy as np
import sklearn.model_selection
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.model_selection import ParameterGrid, ParameterSampler, check_cv
from sklearn.pipeline import Pipeline
from sklearn.utils import indexable
from sklearn.utils.parallel import Parallel, delayed

from xpmlp.backends import is_foreign
from xpmlp.estimators._sklearn import check_method_params, routing_enabled, safe_split
from xpmlp.estimators.base import Perceptron
from xpmlp.estimators.stacks import Job, fit_together

AT_ONCE = 256
"""Networks that are trained before the first of them is scored, if their samples are few enough."""

KEPT = 1 << 28
"""Bytes of different samples that are kept at once: of the networks in line, and of Pipelines' earlier steps."""


class _Fit:
    """One fit of a search: its estimator, the network in it that is to be trained, and what went wrong."""

    job: Any  # a Job, or None

    def __init__(self, estimator: Any, job: Job | None, error: BaseException | None = None) -> None:
        self.estimator, self.job, self.error = estimator, job, error


class _Pool:
    """The fits of a search, in the order in which scikit-learn asks for them; they are made as they are needed."""

    def __init__(self, n_jobs: int | None) -> None:
        self._n_jobs, self._parallel = joblib.effective_n_jobs(n_jobs), Parallel(n_jobs)
        self._waiting: Iterator[Callable[[], _Fit]] = iter(())
        self._ready: list[_Fit] = []
        self.seconds: list[float] = []
        """That each fit took: its stack's time by the networks in it."""

    def fill(self, fits: Iterable[Callable[[], _Fit]]) -> None:
        """Take what is to be fitted next."""
        self._waiting, self._ready = iter(fits), []

    def take(self) -> Any:
        """Return the next fitted estimator, or raise what its fit has raised; None: all were taken."""
        if not self._ready:
            self._train()
        if not self._ready:
            return None
        fit = self._ready.pop(0)
        if fit.error is not None:
            raise fit.error
        return fit.estimator

    def _train(self) -> None:
        started = time.perf_counter()
        fits = self._next()
        networks = [fit for fit in fits if fit.job is not None]
        if not fits:
            return
        if self._n_jobs == 1 or any(is_foreign(fit.job.X) for fit in networks):
            errors = fit_together([fit.job for fit in networks])
            for fit, error in zip(networks, errors, strict=True):
                fit.error = error
        else:
            self._train_in_processes(networks)
        self.seconds += [(time.perf_counter() - started) / len(fits)] * len(fits)
        self._ready = fits

    def _next(self) -> list["_Fit"]:
        """Return the next fits in line, as many as are to be trained at once."""
        fits: list[_Fit] = []
        sizes: dict[int, int] = {}
        for make in self._waiting:
            fits.append(make())
            if fits[-1].job is not None:
                sizes[id(fits[-1].job.X)] = getattr(fits[-1].job.X, "nbytes", 0)
            if len(fits) == AT_ONCE or sum(sizes.values()) > KEPT:
                break
        return fits

    def _train_in_processes(self, fits: list["_Fit"]) -> None:
        """Train in as many processes as there are jobs, those with the same samples in the same one."""
        fits = sorted(fits, key=lambda fit: str(fit.job.source))
        size = -(-len(fits) // self._n_jobs)
        parts = [fits[first : first + size] for first in range(0, len(fits), size)]
        found = self._parallel(delayed(_fitted)([fit.job for fit in part]) for part in parts)
        for part, results in zip(parts, found, strict=True):
            for fit, (state, error) in zip(part, results, strict=True):
                fit.job.estimator.__dict__, fit.error = state, error


def _fitted(jobs: list[Job]) -> list[tuple[dict[str, Any], BaseException | None]]:
    """Return what each estimator has learned, and what went wrong."""
    errors = fit_together(jobs)
    return [(job.estimator.__dict__, error) for job, error in zip(jobs, errors, strict=True)]


class _Pooled(BaseEstimator):  # type: ignore[misc]
    """What scikit-learn fits in the place of an estimator: its `fit` takes from a pool, and becomes what it took."""

    def __init__(self, estimator: Any, pool: _Pool) -> None:
        self.estimator, self.pool = estimator, pool

    def __sklearn_clone__(self) -> "_Pooled":
        return _Pooled(clone(self.estimator), self.pool)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the estimator's own parameters."""
        return dict(self.estimator.get_params(deep))

    def set_params(self, **parameters: Any) -> Self:
        """Set the estimator's own parameters."""
        self.estimator.set_params(**parameters)
        return self

    def fit(self, X: Any, y: Any, **parameters: Any) -> Self:
        """Take the next fit; the one that comes after all, with the best parameters, is made here."""
        taken = self.pool.take()
        fitted = self.estimator.fit(X, y, **parameters) if taken is None else taken
        own = {name: value for name, value in vars(self).items() if name not in ("estimator", "pool")}  # scikit-learn's
        self.__class__, self.__dict__ = type(fitted), {**vars(fitted), **own}  # so that scorers see nothing else
        return self

    def __sklearn_tags__(self) -> Any:
        return self.estimator.__sklearn_tags__()

    def __getattr__(self, name: str) -> Any:
        if name in ("estimator", "pool") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.estimator, name)


class _Folds:
    """A search's data: the training part of each split, and the earlier steps of a Pipeline fitted to it."""

    def __init__(self, X: Any, y: Any, fit_params: dict[str, Any]) -> None:
        self.X, self.y, self._fit_params = X, y, fit_params
        self._parts: dict[int, tuple[Any, Any, Any]] = {}
        self._heads: dict[tuple[int, Any], tuple[Any, Any]] = {}

    def fit(self, base: Any, parameters: dict[str, Any], number: int, train: np.ndarray) -> _Fit:
        """Return the fit of an estimator with some parameters to the training part of a split."""
        estimator = clone(base)
        try:
            estimator.set_params(**clone(parameters, safe=False))
            network, source = network_of(estimator), number
            X, y, weights = self._part(estimator, number, train)
            if network is None:
                estimator.fit(X, y, **check_method_params(self.X, params=self._fit_params, indices=train))
                return _Fit(estimator, None)
            if isinstance(estimator, Pipeline) and len(estimator.steps) > 1:
                head, X, source = self._head(estimator, number, train)
                estimator.steps[:-1] = head.steps
            return _Fit(estimator, Job(network, X, y, weights, source))
        except Exception as error:
            return _Fit(estimator, None, error)

    def _part(self, estimator: Any, number: int, train: np.ndarray) -> tuple[Any, Any, Any]:
        if number not in self._parts:
            params = check_method_params(self.X, params=self._fit_params, indices=train)
            weights = next(iter(params.values()), None)
            self._parts[number] = *safe_split(estimator, self.X, self.y, train), weights
        return self._parts[number]

    def _head(self, pipeline: Any, number: int, train: np.ndarray) -> tuple[Any, Any, Any]:
        """Return a Pipeline's earlier steps, fitted once a split, and what they make of its samples."""
        head = pipeline[:-1]
        try:
            key = number, joblib.hash(head)
        except Exception:  # what cannot be pickled is fitted for each network
            key = number, object()
        if key not in self._heads:
            X, y = safe_split(pipeline, self.X, self.y, train)  # its own: a step may work in place
            self._heads[key] = head, head.fit_transform(X, y)
            while len(self._heads) > 1 and sum(getattr(X, "nbytes", 0) for _, X in self._heads.values()) > KEPT:
                del self._heads[next(iter(self._heads))]
        return *self._heads[key], key


class _Splits:
    """Splits that were made already."""

    def __init__(self, splits: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
        self._splits = splits

    def split(self, X: Any = None, y: Any = None, groups: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return them."""
        return iter(self._splits)

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return how many there are."""
        return len(self._splits)


def network_of(estimator: Any) -> Perceptron | None:
    """Return an estimator, or a Pipeline's last step, if it is one of ours, and neither has another `fit`."""
    last = estimator.steps[-1][1] if type(estimator) is Pipeline else estimator
    return last if isinstance(last, Perceptron) and type(last).fit is Perceptron.fit else None


class _InStacks:
    """The additions of both searches to scikit-learn's classes."""

    _data: Any = None
    best_estimator_: Any

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Search, and fit the best parameters to all samples.

        Parameters
        ----------
        X, y
            As in the estimator's `fit`.
        params
            `groups` for the splitter, and `sample_weight` for the estimator (of a Pipeline, of its last step). With
            other parameters, metadata routing or another estimator, all is scikit-learn's.
        """
        search: Any = self
        estimator, pipeline = search.estimator, isinstance(search.estimator, Pipeline)
        weights = f"{estimator.steps[-1][0]}__sample_weight" if pipeline else "sample_weight"
        if network_of(estimator) is None or routing_enabled() or not set(params) <= {"groups", weights} or y is None:
            return super().fit(X, y, **params)  # type: ignore[misc, no-any-return]
        pool = _Pool(search.n_jobs)
        X, y = indexable(X, y)
        self._data, cv = (pool, estimator, X, y, params), search.cv
        search.estimator = _Pooled(estimator, pool)
        search.cv = check_cv(cv, y, classifier=is_classifier(estimator))  # once, since it may be a generator
        try:
            with joblib.parallel_config(backend="sequential"):
                super().fit(X, y, **params)  # type: ignore[misc]
        finally:
            search.estimator, search.cv = estimator, cv
            del self._data
        if hasattr(search.scorer_, "_estimator"):
            search.scorer_._estimator = estimator
        return self

    def _run_search(self, evaluate_candidates: Callable[..., Any]) -> None:
        if self._data is None:
            evaluate_candidates(self._candidates())
            return
        pool, estimator, X, y, params = self._data
        fit_params = {name: value for name, value in params.items() if name != "groups" and value is not None}
        folds = _Folds(X, y, fit_params)
        splits = list(self.cv.split(X, y, params.get("groups")))  # type: ignore[attr-defined]

        candidates = list(self._candidates())
        tasks = [(parameters, number, train) for parameters in candidates for number, (train, _) in enumerate(splits)]
        pool.fill(partial(folds.fit, estimator, *task) for task in tasks)
        results = evaluate_candidates(candidates, cv=_Splits(splits))
        seconds = np.reshape(pool.seconds, (-1, len(splits)))
        results["mean_fit_time"], results["std_fit_time"] = seconds.mean(axis=1), seconds.std(axis=1)

    def _candidates(self) -> Iterable[dict[str, Any]]:
        raise NotImplementedError


class GridSearchCV(_InStacks, sklearn.model_selection.GridSearchCV):  # type: ignore[misc]
    """scikit-learn's GridSearchCV; it fits many `MLPClassifier` or `MLPRegressor` at once.

    Parameters, attributes and results are scikit-learn's. The estimator is one of ours, or a Pipeline whose last step
    is; its earlier steps are fitted once a split. `n_jobs` processes train stacks. `fit_time` is a stack's time divided
    by its number of networks. With any other estimator it behaves as scikit-learn's class.

    See Also
    --------
    sklearn.model_selection.GridSearchCV : All parameters and attributes.
    """

    def _candidates(self) -> Iterable[dict[str, Any]]:
        return ParameterGrid(self.param_grid)  # type: ignore[no-any-return]


class RandomizedSearchCV(_InStacks, sklearn.model_selection.RandomizedSearchCV):  # type: ignore[misc]
    """scikit-learn's RandomizedSearchCV, with fits as in `GridSearchCV`.

    See Also
    --------
    sklearn.model_selection.RandomizedSearchCV : All parameters and attributes.
    """

    def _candidates(self) -> Iterable[dict[str, Any]]:
        return ParameterSampler(self.param_distributions, self.n_iter, random_state=self.random_state)  # type: ignore[no-any-return]
