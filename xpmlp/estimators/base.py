"""What the two estimators have in common: what they are given is checked, fitted, and predicted for."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator, is_regressor
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from xpmlp.backends import Backend, backend_of, is_foreign, on_host, reopened
from xpmlp.backends.base import computing
from xpmlp.estimators._sklearn import CLASSIFIER_CONSTRAINTS, StrOptions, check_sample_weight, fit_context
from xpmlp.estimators.fitting import STOCHASTIC, Samples, fit_by_batches, fit_lbfgs
from xpmlp.estimators.inputs import Place, check_samples, place_of, require_length
from xpmlp.estimators.labels import Labels
from xpmlp.estimators.rates import Rates
from xpmlp.estimators.scores import infer
from xpmlp.math.layout import Layout
from xpmlp.namespaces import Array, array_namespace, float_name

SPARSE = ["csr", "csc"]  # what SciPy's sparse matrices are made, if they are of another kind


class Perceptron(BaseEstimator):  # type: ignore[misc]
    """What the classifier and the regressor have in common.

    Each adds `_check_targets`, which returns T, (n, outputs), where it is computed with; `_validation_score`, by which
    early stopping goes; and `_head`, the name in `xpmlp.math.activations.HEADS` of what is behind the last layer.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **CLASSIFIER_CONSTRAINTS,
        "backend": [str, None],
        "dtype": [StrOptions({"float32", "float64"}), None],
    }
    _sklearn: ClassVar[Any]
    loss: str = "log_loss"
    coefs_: list[Array]
    intercepts_: list[Array]
    validation_scores_: Any
    _loss_type: type[np.floating[Any]] = np.float64
    """Of the losses that are reported: scikit-learn's, which makes them of the targets' dtype too."""

    def _keep(self, arguments: dict[str, Any]) -> None:
        """Let every argument of the constructor be an attribute, untouched, as scikit-learn's estimators have it."""
        self.__dict__.update({name: arguments[name] for name in self._get_param_names()})

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the network to samples and targets.

        Parameters
        ----------
        X : array, shape (n, features)
            The samples, of any array library, or what scikit-learn takes: a list, a data frame, a sparse matrix.
        y : array, shape (n,) or (n, outputs)
            The targets; they are moved to where X is.
        sample_weight : array, shape (n,), or None
            What each sample counts; moved to where X is.

        Raises
        ------
        ValueError, BackendError
            As scikit-learn's does; if the `backend` cannot run, or the device's memory runs out.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def _check_solver(self) -> bool:
        if self.solver not in STOCHASTIC:
            why = f"{self.solver} is not stochastic."
            raise AttributeError(f"partial_fit is only available for stochastic optimizers. {why}")
        return True

    def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Self:
        hidden = self.hidden_layer_sizes
        hidden = list(hidden) if hasattr(hidden, "__iter__") else [hidden]
        if any(width <= 0 for width in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        first_pass = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        place = place_of(X, self.backend, self.dtype)
        if not first_pass:
            place.require_same(X, self.coefs_[0], type(self).__name__, "partial_fit" if incremental else "fit")
        with place.device.context():
            X, T, weights = self._check_input(X, y, sample_weight, place, incremental, reset=first_pass)
        layout = Layout((X.shape[1], *map(int, hidden), T.shape[1]))
        if not first_pass and [tuple(W.shape) for W in self.coefs_] != list(layout.shapes):
            sizes = (self.coefs_[0].shape[0], *(W.shape[1] for W in self.coefs_))
            found = f"hidden_layer_sizes and the data make a network {layout.sizes}"
            raise ValueError(f"{found}: the one that goes on is {sizes}")
        self.n_outputs_ = T.shape[1]
        self._random_state = check_random_state(self.random_state)
        with computing(place.device, X.shape[0] if self.batch_size == "auto" else self.batch_size):
            if first_pass:
                self._initialise(layout, X.dtype, place)
            if self.out_activation_ == "softmax":
                T = place.xp.astype(place.xp.argmax(place.xp.astype(T, place.xp.int8), axis=1), place.xp.int32)
            if self.solver == "lbfgs":
                fit_lbfgs(self, layout, (X, T, weights), place)
            else:
                fit_by_batches(self, layout, (X, T, weights), place, incremental)
            xp = array_namespace(coefs=tuple(self.coefs_))
            if not all(bool(xp.all(xp.isfinite(array))) for array in (*self.coefs_, *self.intercepts_)):
                why = "The input data may contain large values and need to be preprocessed."
                raise ValueError(f"Solver produced non-finite parameter weights. {why}")
        return self

    def _check_input(self, X: Any, y: Any, sample_weight: Any, place: Place, incremental: bool, reset: bool) -> Samples:
        """Return samples, targets and weights where they are computed with, of one floating dtype but for labels."""
        dtype = self.dtype or (None if reset else float_name(self.coefs_[0].dtype))
        if place.is_host:
            floats, is_numeric = (np.float64, np.float32), is_regressor(self)
            rules = {"accept_sparse": SPARSE, "multi_output": True, "y_numeric": is_numeric, "dtype": floats}
            X, y = validate_data(self, X, on_host(y), reset=reset, **rules)
            y = column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y
            if sample_weight is not None:
                sample_weight = place.to_device(check_sample_weight(on_host(sample_weight), X))
            X = place.samples(X, dtype or X.dtype)
            return X, self._check_targets(X, y, place, incremental), sample_weight
        X = check_samples(self, X, y, place.xp, dtype, reset)
        T = self._check_targets(X, y, place, incremental)
        require_length(T, X)
        return X, T, place.weights(sample_weight, X.shape[0], X.dtype)

    def _initialise(self, layout: Layout, dtype: Any, place: Place) -> None:
        """Draw the first parameters: uniform, after Glorot & Bengio 2010, biases too."""
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(layout.sizes)
        self.out_activation_ = self._head()
        factor = 2.0 if self.activation == "logistic" else 6.0
        self.coefs_, self.intercepts_ = [], []
        for fan_in, fan_out in layout.shapes:
            bound = np.sqrt(factor / (fan_in + fan_out))
            for arrays, shape in ((self.coefs_, (fan_in, fan_out)), (self.intercepts_, (fan_out,))):
                drawn = self._random_state.uniform(-bound, bound, shape)
                drawn = drawn.astype(float_name(dtype), copy=False)
                arrays.append(drawn if place.is_host else place.device.asarray(drawn, copy=True))
        self._keep_best()
        if self.solver in STOCHASTIC:
            self.loss_curve_: list[float] = []
            self._no_improvement_count = 0
            self.validation_scores_ = [] if self.early_stopping else None
            self.best_validation_score_ = -np.inf if self.early_stopping else None
            self.best_loss_ = None if self.early_stopping else np.inf

    def _keep_best(self) -> None:
        self._best_coefs = [_copy(W) for W in self.coefs_]
        self._best_intercepts = [_copy(b) for b in self.intercepts_]

    def _theta(self, layout: Layout, place: Place) -> Array:
        """Return `coefs_` and `intercepts_`, which are the truth, as one vector where they are computed with."""
        xp = array_namespace(coefs=tuple(self.coefs_))
        layers = [(W, xp.reshape(b, (1, -1))) for W, b in zip(self.coefs_, self.intercepts_, strict=True)]
        return place.to_device(layout.flatten(layers))

    def _set_parameters(self, layout: Layout, theta: Array, place: Place) -> None:
        """Let `coefs_` and `intercepts_` be the parts of a vector, where X was."""
        theta = place.to_source(theta)
        xp = array_namespace(theta=theta)
        layers = layout.unflatten(theta)
        self.coefs_ = [W for W, _ in layers]
        self.intercepts_ = [xp.reshape(b, (-1,)) for _, b in layers]

    @contextmanager
    def _outputs(self, X: Any, method: str) -> Iterator[tuple[Array, Place]]:
        """Give the network's predictions P, (n, outputs), and where X is, with that device as the current one."""
        check_is_fitted(self)
        place = place_of(X, self.backend, self.dtype)
        with place.device.context():
            place.require_same(X, self.coefs_[0], type(self).__name__, method)
            xp, kept = place.xp, self.coefs_[0].dtype
            if place.is_host:
                X = validate_data(self, X, accept_sparse=SPARSE, reset=False)
                X = place.samples(X, self.dtype or np.result_type(X.dtype, float_name(kept)))
            else:
                X = check_samples(self, X, "none needed", xp, None, reset=False)
                X = xp.astype(X, getattr(xp, self.dtype) if self.dtype else xp.result_type(X.dtype, kept), copy=False)
            with computing(place.device, X.shape[0]):
                layers = []
                for layer in zip(self.coefs_, self.intercepts_, strict=True):
                    W, b = (xp.astype(place.to_device(array), X.dtype, copy=False) for array in layer)
                    layers.append((W, xp.reshape(b, (1, -1))))
                P = infer(layers, X, self.activation, self.out_activation_)
            yield P, place

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle or a copy holds: arrays on the host, each with where it was."""
        return {name: _packed(value) for name, value in super().__getstate__().items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        reopen, spec = cache(reopened), state.get("backend")
        if "coefs_" in state and spec not in (None, "auto") and reopen(spec).name == "numpy":  # which auto finds itself
            state = {**state, "backend": "numpy"}
        super().__setstate__({name: _unpacked(value, reopen) for name, value in state.items()})

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    @classmethod
    def from_sklearn(cls, estimator: Any, **parameters: Any) -> Self:
        """Return the same estimator as one of ours: its parameters and, where it is fitted, all that it has learned.

        Parameters
        ----------
        estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
            The one whose interface this class has; another is a TypeError.
        parameters
            Others than it has, such as ``backend``.
        """
        if not isinstance(estimator, cls._sklearn):
            raise TypeError(f"{type(estimator).__name__}: expected scikit-learn's {cls._sklearn.__name__}")
        ours = cls(**{**estimator.get_params(deep=False), **parameters})
        ours.__dict__.update(_fitted(estimator))
        if hasattr(ours, "_optimizer"):
            ours._optimizer = Rates.from_sklearn(estimator._optimizer)
        if hasattr(ours, "_label_binarizer"):
            ours._label_binarizer = Labels(ours.classes_, ours._label_binarizer.y_type_)
        return ours

    def to_sklearn(self) -> Any:
        """Return the same estimator as scikit-learn's own, with NumPy's arrays; backend and dtype are lost."""
        known = self._sklearn().get_params(deep=False)
        theirs = self._sklearn(**{name: value for name, value in self.get_params(deep=False).items() if name in known})
        vars(theirs).update(_fitted(self))
        if hasattr(self, "_optimizer"):
            theirs._optimizer = self._optimizer.to_sklearn(theirs.coefs_, theirs.intercepts_)
        if hasattr(self, "_label_binarizer"):
            theirs._label_binarizer = self._label_binarizer.to_sklearn()
        return theirs


def _copy(array: Array) -> Array:
    return array_namespace(array=array).asarray(array, copy=True)


class _Packed(NamedTuple):
    """An array of another library than NumPy in a pickle."""

    host: np.ndarray
    spec: str


def _packed(value: Any) -> Any:
    """Return an estimator's attribute as a pickle holds it."""
    if is_foreign(value):
        backend = backend_of(value)
        return _Packed(backend.to_numpy(value), backend.spec)
    if isinstance(value, Rates) and value.state:  # the next fit moves it to where it computes
        value = copy.copy(value)
        value.state = {name: on_host(vector) for name, vector in value.state.items()}
    return _changed(value, _packed)


def _unpacked(value: Any, reopen: Callable[[str], Backend]) -> Any:
    """Return an attribute as it was, on NumPy where its library or device is missing, with one warning of it."""
    if isinstance(value, _Packed):
        return reopen(value.spec).asarray(value.host, copy=True)
    return _changed(value, lambda member: _unpacked(member, reopen))


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a container with its members changed, and anything else as it is."""
    if type(value) is list:
        return [change(member) for member in value]
    if isinstance(value, dict):
        return {name: change(member) for name, member in value.items()}
    if isinstance(value, Labels | Rates):
        changed = copy.copy(value)
        changed.__dict__ = _changed(vars(value), change)
        return changed
    return value


def _fitted(estimator: Any) -> dict[str, Any]:
    """Return a copy of all that an estimator has beside its parameters, with NumPy's arrays."""
    parameters = {*estimator.get_params(deep=False), "loss"}
    return {name: _copied(value) for name, value in vars(estimator).items() if name not in parameters}


def _copied(value: Any) -> Any:
    """Return a copy of an attribute, of an array NumPy's."""
    return [_copied(item) for item in value] if isinstance(value, list) else copy.deepcopy(on_host(value))
