"""The common part of both estimators: check the input, fit, and predict."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin, is_regressor
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from xpmlp.backends import on_host
from xpmlp.backends.base import computing
from xpmlp.estimators._sklearn import check_sample_weight, fit_context
from xpmlp.estimators.epochs import Epochs, Samples, Task
from xpmlp.estimators.fitting import begin_by_batches, fit_by_batches, fit_lbfgs
from xpmlp.estimators.inputs import Place, check_samples, place_of, require_length, require_some
from xpmlp.estimators.moving import Movable
from xpmlp.estimators.parameters import CONSTRAINTS, STOCHASTIC, activation_names, hidden_widths, require_possible
from xpmlp.estimators.scores import hidden_layers, infer
from xpmlp.math.activations import Head
from xpmlp.math.layout import Layer, Layout
from xpmlp.namespaces import Array, array_namespace, float_name

LEARNED_BY_CHECKING = (
    "n_features_in_",
    "feature_names_in_",
    "n_outputs_",
    "classes_",
    "_label_binarizer",
    "_loss_type",
)
"""Attributes that only X and y decide."""

SPARSE = ["csr", "csc"]  # what SciPy's sparse matrices are made, if they are of another kind


class Perceptron(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Movable):  # type: ignore[misc]
    """The common part of the classifier and the regressor.

    Each adds four methods. `_check_targets` returns T, (n, outputs), on the computing device; `_check_held_out_targets`
    does so for validation data. `_validation_score` is the score for early stopping. `_head` is the name of the output
    in `xpmlp.math.activations.HEADS`.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = CONSTRAINTS
    coefs_: list[Array]
    intercepts_: list[Array]
    validation_scores_: Any
    validation_loss_curve_: Any
    best_validation_score_: Any
    out_activation_: str
    _loss_type: type[np.floating[Any]] = np.float64
    """Of the losses that are reported: scikit-learn's, which makes them of the targets' dtype too."""

    def _keep(self, arguments: dict[str, Any]) -> None:
        """Store every argument of the constructor unchanged as an attribute, as scikit-learn's estimators do."""
        self.__dict__.update({name: arguments[name] for name in self._get_param_names()})

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> Self:
        """Fit the network to samples and targets.

        Parameters
        ----------
        X : array, shape (n, features)
            The samples: an array of any library, a list, a data frame, or a sparse matrix.
        y : array, shape (n,) or (n, outputs)
            The targets; they are moved to X's device.
        sample_weight : array, shape (n,), or None
            Weight of each sample; moved to X's device. A batch whose weights are all 0 is skipped.
        validation_data : (X, y), (X, y, sample_weight) or None
            Samples that are not trained on, prepared like X (in a Pipeline, transformed). The network that is best on
            them is kept: by its score with early stopping, else by its loss. None: with early stopping, the part
            `validation_fraction` of X.

        Raises
        ------
        ValueError, TypeError, BackendError
            As in scikit-learn, before the estimator changes. Also if the `backend` cannot run, or the device runs out
            of memory.
        """
        return self._fit(X, y, sample_weight, incremental=False, validation_data=validation_data)

    def _check_solver(self) -> bool:
        if self.solver not in STOCHASTIC:
            why = f"{self.solver} is not stochastic."
            raise AttributeError(f"partial_fit is only available for stochastic optimizers. {why}")
        return True

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, incremental: bool, classes: Any = None, validation_data: Any = None
    ) -> Self:
        with self._unchanged_by_an_error():
            task = self._prepare(X, y, sample_weight, incremental, classes, validation_data)
            with computing(task.place.device, task.batch_size(self)):
                work = begin_by_batches(self, task, incremental) if self.solver in STOCHASTIC else None
        return self._train(task, work, incremental)

    def _train(self, task: Task, work: Epochs | None = None, incremental: bool = False) -> Self:
        with computing(task.place.device, task.batch_size(self)):
            if work is None:
                fit_lbfgs(self, task)
            else:
                fit_by_batches(work, incremental)
            self._require_finite()
        return self

    def _prepare(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        incremental: bool = False,
        classes: Any = None,
        validation_data: Any = None,
    ) -> Task:
        """Check what `fit` was given, draw the first parameters, and return what is to be trained."""
        hidden = hidden_widths(self.hidden_layer_sizes)
        require_possible(self, incremental, validation_data is not None)
        first_pass = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        place = place_of(X, self.backend, self.dtype)
        held_out: Samples | None = None
        if not first_pass:
            place.require_same(X, self.coefs_[0], type(self).__name__, "partial_fit" if incremental else "fit")
        with place.device.context():
            activation_names(self.activation, len(hidden))
            if incremental:
                self._learn_classes(y, classes, place)
            X, T, weights = self._check_input(X, y, sample_weight, place, incremental, reset=first_pass)
            if validation_data is not None:
                held_out = self._check_held_out(validation_data, place, (X, T))
            layout = Layout((X.shape[1], *hidden, T.shape[1]))
            if not first_pass and [tuple(W.shape) for W in self.coefs_] != list(layout.shapes):
                sizes = (self.coefs_[0].shape[0], *(W.shape[1] for W in self.coefs_))
                found = f"{layout.sizes}, as hidden_layer_sizes and the data have it now"
                raise ValueError(
                    f"the fitted network {sizes} cannot go on as {found}: restore them, or set warm_start=False"
                )
            if not first_pass and self.out_activation_ != self._head():
                found = f"the fitted network ends in {self.out_activation_}, the loss now wants {self._head()}"
                raise ValueError(f"{found}: restore the loss, or fit without warm_start")
        self.n_outputs_ = T.shape[1]
        self._random_state = check_random_state(self.random_state)
        task = Task(layout, (X, T, weights), held_out, place)
        with computing(place.device, task.batch_size(self)):
            if first_pass:
                self._initialise(layout, X.dtype, place)
            T = self._as_trained(T, place)
            if held_out is not None:
                held_out = held_out[0], self._as_trained(held_out[1], place), held_out[2]
        return task._replace(data=(X, T, weights), held_out=held_out)

    def _prepare_like(self, other: "Perceptron", task: Task) -> Task:
        """Return what is to be trained, of samples that were checked for another estimator of the same kind."""
        hidden = hidden_widths(self.hidden_layer_sizes)
        require_possible(self, incremental=False, is_validated=False)
        activation_names(self.activation, len(hidden))
        self.__dict__.update({name: value for name, value in vars(other).items() if name in LEARNED_BY_CHECKING})
        layout = Layout((task.layout.sizes[0], *hidden, self.n_outputs_))
        self._random_state = check_random_state(self.random_state)
        with computing(task.place.device, task.batch_size(self)):
            self._initialise(layout, task.data[0].dtype, task.place)
        return task._replace(layout=layout)

    def _require_finite(self) -> None:
        xp = array_namespace(coefs=tuple(self.coefs_))
        if not all(bool(xp.all(xp.isfinite(array))) for array in (*self.coefs_, *self.intercepts_)):
            why = "The input data may contain large values and need to be preprocessed."
            raise ValueError(f"Solver produced non-finite parameter weights. {why}")

    @contextmanager
    def _unchanged_by_an_error(self) -> Iterator[None]:
        """Undo all changes of the estimator if the context's body fails."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            self.__dict__ = before
            raise

    def _check_input(self, X: Any, y: Any, sample_weight: Any, place: Place, incremental: bool, reset: bool) -> Samples:
        """Return samples, targets and weights where they are computed with, of one floating dtype but for labels."""
        dtype = self.dtype or (None if reset else float_name(self.coefs_[0].dtype))
        if place.is_host:
            X, y = validate_data(self, X, on_host(y), reset=reset, **self._rules())
            y = column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y
            own = np.dtype(dtype or X.dtype)
            if sample_weight is not None:
                sample_weight = place.to_device(check_sample_weight(on_host(sample_weight), X, dtype=own))
            X = place.samples(X, own)
        else:
            X = check_samples(self, X, y, place, dtype, reset)
        T = self._check_targets(X, y, place, incremental)
        if not place.is_host:
            require_length(T, X)
            sample_weight = place.weights(sample_weight, X.shape[0], X.dtype)
        return X, T, self._weights(T, sample_weight, place, X.dtype)

    def _rules(self) -> dict[str, Any]:
        """Return what scikit-learn's validation requires of samples and targets on the host."""
        floats = (np.float64, np.float32)
        return {"accept_sparse": SPARSE, "multi_output": True, "y_numeric": is_regressor(self), "dtype": floats}

    def _check_held_out(self, data: Any, place: Place, trained: tuple[Array, Array]) -> Samples:
        """Return validation data as `_check_input` returns what is trained on."""
        if not isinstance(data, tuple | list) or len(data) not in (2, 3):
            found = f"{type(data).__name__} of {len(data)}" if hasattr(data, "__len__") else type(data).__name__
            raise ValueError(f"validation_data is a {found}: expected (X, y) or (X, y, sample_weight)")
        X, y, given = (*data, None)[:3]
        if place_of(X, self.backend, self.dtype) != place:
            found = f"its X is a {type(X).__name__}, that of fit {place.where}"
            raise ValueError(f"validation_data: {found}; hand over both in the same library, on the same device")
        try:
            if place.is_host:
                X, y = validate_data(self, X, on_host(y), reset=False, **self._rules())
                own = np.dtype(float_name(trained[0].dtype))
                weights = None if given is None else place.to_device(check_sample_weight(on_host(given), X, dtype=own))
                X = place.samples(X, own)
            else:
                X = check_samples(self, X, y, place, float_name(trained[0].dtype), reset=False)
                weights = place.weights(given, X.shape[0], X.dtype)
            T = self._check_held_out_targets(X, y, place)
            require_length(T, X)
        except ValueError as error:
            raise ValueError(f"validation_data: {error}") from error
        if X.shape[0] < 2:
            raise ValueError(f"validation_data has {X.shape[0]} sample: expected at least 2")
        if T.shape[1] != trained[1].shape[1]:
            raise ValueError(f"validation_data: y has {T.shape[1]} outputs, that of fit {trained[1].shape[1]}")
        return X, T, self._weights(T, weights, place, X.dtype, trained[1])

    def _learn_classes(self, y: Any, classes: Any, place: Place) -> None:
        """Do nothing: only a classifier has classes."""

    def _weights(
        self, T: Array, weights: Array | None, place: Place, dtype: Any, trained: Array | None = None
    ) -> Array | None:
        """Return what each sample counts, of which one at least must count; of held-out ones as of those trained on."""
        if weights is not None:
            require_some(weights, place.xp)
        return weights

    def _loss_head(self) -> str | Head:
        """Return whose loss is minimised, by its name or as it is."""
        return self.out_activation_

    def _as_trained(self, T: Array, place: Place) -> Array:
        """Return targets as the loss takes them."""
        return T

    def _initialise(self, layout: Layout, dtype: Any, place: Place) -> None:
        """Draw the first parameters: uniform, after Glorot & Bengio 2010, biases too."""
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(layout.sizes)
        self.out_activation_ = self._head()
        names = self.activation
        each = [names] * len(layout.shapes) if isinstance(names, str) else [*names, *names[-1:]] or ["relu"]
        self.coefs_, self.intercepts_ = [], []
        for (fan_in, fan_out), name in zip(layout.shapes, each, strict=True):  # the last layer as the one before
            bound = np.sqrt((2.0 if name == "logistic" else 6.0) / (fan_in + fan_out))
            for arrays, shape in ((self.coefs_, (fan_in, fan_out)), (self.intercepts_, (fan_out,))):
                drawn = self._random_state.uniform(-bound, bound, shape)
                drawn = drawn.astype(float_name(dtype), copy=False)
                arrays.append(drawn if place.is_host else place.device.asarray(drawn, copy=True))
        self._keep_best()
        self.validation_loss_curve_ = None
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

    def hidden_activations(self, X: Any) -> list[Array]:
        """Return each hidden layer's output for the samples, (n, width) each, on X's device; see `predict`."""
        return self._hidden(X, "hidden_activations")

    def transform(self, X: Any) -> Array:
        """Return the last hidden layer's output for the samples, (n, width), on X's device; see `predict`.

        Raises
        ------
        ValueError
            If the network has no hidden layer.
        """
        found = self._hidden(X, "transform")
        if not found:
            raise ValueError("transform: the network has no hidden layer; expected hidden_layer_sizes with one")
        return found[-1]

    def _hidden(self, X: Any, method: str) -> list[Array]:
        with self._layers_for(X, method) as (layers, X, place):
            return [place.to_source(A) for A in hidden_layers(layers, X, self._between())]

    @property
    def _n_features_out(self) -> int:
        return int(self.coefs_[-1].shape[0])

    def _between(self) -> str | tuple[str, ...]:
        """Return the activations between the layers that the estimator has."""
        return activation_names(self.activation, len(self.coefs_) - 1)

    @contextmanager
    def _outputs(self, X: Any, method: str) -> Iterator[tuple[Array, Place]]:
        """Give the network's predictions P, (n, outputs), and X's place, with that device as the current one."""
        with self._layers_for(X, method) as (layers, X, place):
            yield infer(layers, X, self._between(), self.out_activation_), place

    @contextmanager
    def _layers_for(self, X: Any, method: str) -> Iterator[tuple[list[Layer], Array, Place]]:
        """Give the layers and checked samples of one dtype, and X's place, with that device as the current one."""
        check_is_fitted(self)
        place = place_of(X, self.backend, self.dtype, self.coefs_[0])
        with place.device.context():
            place.require_same(X, self.coefs_[0], type(self).__name__, method)
            xp, kept = place.xp, self.coefs_[0].dtype
            if place.is_host:
                X = validate_data(self, X, accept_sparse=SPARSE, reset=False)
                X = place.samples(X, self.dtype or np.result_type(X.dtype, float_name(kept)))
            else:
                X = check_samples(self, X, "none needed", place, None, reset=False)
                X = xp.astype(X, getattr(xp, self.dtype) if self.dtype else xp.result_type(X.dtype, kept), copy=False)
            with computing(place.device, X.shape[0]):
                layers = []
                for layer in zip(self.coefs_, self.intercepts_, strict=True):
                    W, b = (xp.astype(place.to_device(array), X.dtype, copy=False) for array in layer)
                    layers.append((W, xp.reshape(b, (1, -1))))
                yield layers, X, place

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _copy(array: Array) -> Array:
    return array_namespace(array=array).asarray(array, copy=True)
