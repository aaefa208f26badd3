"""MLPClassifier and MLPRegressor: scikit-learn's interface over the same mathematics, on any array library and device.

With the same parameters and `random_state` they give what scikit-learn's own give: they draw, shuffle, count and stop
as those do.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import numpy as np
import sklearn.neural_network
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import check_random_state, column_or_1d, gen_batches, shuffle
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from xpmlp.backends.base import computing
from xpmlp.fitting import (
    Batch,
    Stepper,
    compiled_gradient,
    compiled_step,
    infer,
    mean_of_hits,
    name_of,
    r2,
    take,
)
from xpmlp.inputs import (
    DeviceLabels,
    Place,
    as_samples,
    check_samples,
    check_values,
    check_weights,
    is_foreign,
    on_host,
    place_of,
    require_length,
    require_same_place,
    widest_float,
)
from xpmlp.math.layout import Layout
from xpmlp.namespaces import Array, array_namespace

_STOCHASTIC = ("sgd", "adam")


class _Perceptron(BaseEstimator):  # type: ignore[misc]
    """What the classifier and the regressor have in common."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **sklearn.neural_network.MLPClassifier._parameter_constraints,
        "backend": [str, None],
        "dtype": [StrOptions({"float32", "float64"}), None],
    }
    _sklearn: ClassVar[Any]
    loss: str = "log_loss"
    coefs_: list[Array]
    intercepts_: list[Array]
    n_features_in_: int
    loss_: Any
    best_loss_: Any
    best_validation_score_: Any
    _label_binarizer: Any
    _loss_type: type[np.floating[Any]] = np.float64
    """Of the losses that are reported: scikit-learn's, which makes them of the targets' dtype too."""

    def _keep(self, arguments: dict[str, Any]) -> None:
        """Let every argument of the constructor be an attribute, untouched, as scikit-learn's estimators have it."""
        self.__dict__.update({name: arguments[name] for name in self._get_param_names()})

    # --- what the two differ in ------------------------------------------------------------------------------------

    def _check_targets(self, X: Any, y: Any, place: Place, incremental: bool) -> Array:
        """Return T, (n, outputs), where it is computed with."""
        raise NotImplementedError

    def _check_both(self, X: Any, y: Any, reset: bool) -> tuple[Any, Any]:
        """Return samples and targets on the host, validated by scikit-learn."""
        raise NotImplementedError

    def _validation_score(self, P: Array, T: Array, weights: Array | None) -> float:
        """Return the score that early stopping goes by."""
        raise NotImplementedError

    def _head(self) -> str:
        """Return what stands behind the last layer, as `xpmlp.math.activations.HEADS` names it."""
        raise NotImplementedError

    # --- fitting ---------------------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
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
        ValueError
            As scikit-learn's does.
        BackendError
            If the `backend` cannot run, or the device's memory runs out.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def _check_solver(self) -> bool:
        if self.solver not in _STOCHASTIC:
            raise AttributeError(
                f"partial_fit is only available for stochastic optimizers. {self.solver} is not stochastic."
            )
        return True

    def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Self:
        hidden = self.hidden_layer_sizes
        hidden = list(hidden) if hasattr(hidden, "__iter__") else [hidden]
        if any(width <= 0 for width in hidden):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {hidden}.")
        first_pass = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        place = place_of(X, self.backend, self.dtype)
        if not first_pass:
            require_same_place(
                X, place, self.coefs_[0], f"{type(self).__name__}.{'partial_fit' if incremental else 'fit'}"
            )
        with place.device.context():
            X, T, weights = self._check_input(X, y, sample_weight, place, incremental, reset=first_pass)
        layout = Layout((X.shape[1], *map(int, hidden), T.shape[1]))
        if not first_pass and [tuple(W.shape) for W in self.coefs_] != list(layout.shapes):
            sizes = (self.coefs_[0].shape[0], *(W.shape[1] for W in self.coefs_))
            raise ValueError(
                f"hidden_layer_sizes and the data make a network {layout.sizes}: the one that goes on is {sizes}"
            )
        self.n_outputs_ = T.shape[1]
        self._random_state = check_random_state(self.random_state)
        with computing(place.device, X.shape[0] if self.batch_size == "auto" else self.batch_size):
            if first_pass:
                self._initialise(layout, X.dtype, place)
            if self.out_activation_ == "softmax":
                T = place.xp.astype(place.xp.argmax(place.xp.astype(T, place.xp.int8), axis=1), place.xp.int32)
            if self.solver == "lbfgs":
                self._fit_lbfgs(layout, (X, T, weights), place)
            else:
                self._fit_stochastic(layout, (X, T, weights), place, incremental)
            if not all(bool(_all_finite(array)) for array in (*self.coefs_, *self.intercepts_)):
                raise ValueError(
                    "Solver produced non-finite parameter weights. The input data may contain large values and need to "
                    "be preprocessed."
                )
        return self

    def _check_input(self, X: Any, y: Any, sample_weight: Any, place: Place, incremental: bool, reset: bool) -> Batch:
        """Return samples, targets and weights where they are computed with, of one floating dtype but for labels."""
        if place.is_host:
            X, y = self._check_both(X, on_host(y), reset)
            dtype = self.dtype or (X.dtype.name if reset else name_of(self.coefs_[0].dtype))
            X = X.astype(dtype, copy=False)
            if sample_weight is not None:
                sample_weight = _check_sample_weight(on_host(sample_weight), X)
            if not isinstance(X, np.ndarray) and place.device.name != "numpy":
                raise ValueError(f"sparse X is for NumPy: {place.device} takes dense arrays; use X.toarray()")
            T = self._check_targets(X, y, place, incremental)
            if place.device.name == "numpy":
                return as_samples(X), T, sample_weight
            weights = None if sample_weight is None else place.to_device(sample_weight)
            return place.to_device(X), place.to_device(T), weights
        name = type(self).__name__
        if y is None:
            raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
        dtype = self.dtype or (None if reset else name_of(self.coefs_[0].dtype))
        X = check_samples(X, place.xp, name, None if reset else self.n_features_in_, dtype)
        if reset:
            self.n_features_in_ = X.shape[1]
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
        T = self._check_targets(X, y, place, incremental)
        require_length(T, X)
        return X, T, None if sample_weight is None else check_weights(sample_weight, place, X)

    def _resolved_batch_size(self, n_samples: int) -> int:
        if self.batch_size == "auto":
            return min(200, n_samples)
        if self.batch_size > n_samples:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=4
            )
        return int(min(max(self.batch_size, 1), n_samples))

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
                if place.is_host:
                    arrays.append(drawn.astype(name_of(dtype), copy=False))
                else:
                    arrays.append(place.device.asarray(drawn.astype(name_of(dtype)), copy=True))
        self._keep_best()
        if self.solver in _STOCHASTIC:
            self.loss_curve_: list[float] = []
            self._no_improvement_count = 0
            self.validation_scores_: list[float] | None = [] if self.early_stopping else None
            self.best_validation_score_ = -np.inf if self.early_stopping else None
            self.best_loss_ = None if self.early_stopping else np.inf

    def _keep_best(self) -> None:
        self._best_coefs = [_copy(W) for W in self.coefs_]
        self._best_intercepts = [_copy(b) for b in self.intercepts_]

    def _fit_stochastic(self, layout: Layout, data: Batch, place: Place, incremental: bool) -> None:
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = Stepper.of(self)
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        held_out = None
        if self.early_stopping:
            data, held_out = self._split(data, place)
        device, xp, n = place.device, place.xp, data[0].shape[0]
        batches = list(gen_batches(n, self._resolved_batch_size(n)))
        # scikit-learn goes on training the very arrays that an earlier fit has kept as its best: no better, they go on.
        best_before, is_best = self._best_coefs, self.coefs_ is self._best_coefs
        dtype = name_of(data[0].dtype)
        theta = xp.astype(self._theta(layout, place), getattr(xp, dtype), copy=False)
        optimizer = self._optimizer
        state = optimizer.init(theta)
        if optimizer.state is not None:
            state = {
                name: xp.astype(place.to_device(vector), getattr(xp, dtype), copy=False)
                for name, vector in optimizer.state.items()
            }
        if self.early_stopping and self.validation_scores_ is None:  # switched on between two warm starts, or off
            self.validation_scores_, self.best_validation_score_ = [], -np.inf
        if not self.early_stopping and self.best_loss_ is None:
            self.best_loss_ = np.inf
        step = compiled_step(
            device, layout, self.activation, self.out_activation_, float(self.alpha), optimizer.settings
        )
        rows = np.arange(n, dtype=int)
        try:
            self.n_iter_ = 0
            for _ in range(self.max_iter):
                if self.shuffle:
                    rows = shuffle(rows, random_state=self._random_state)
                    order = place.to_device(rows)
                total = device.asarray(np.zeros((), dtype), copy=True)
                for part in batches:
                    batch = take(xp, data, order[part] if self.shuffle else part)
                    theta, state, total = step(theta, state, total, *batch, optimizer.next_scalars())
                self._end_epoch(self._loss_type(device.to_numpy(total)) / n, n)
                self._count_without_improvement(layout, theta, held_out, place)
                optimizer.iteration_ends(self.t_)
                if self._no_improvement_count > self.n_iter_no_change:
                    if optimizer.trigger_stopping(self._reason_to_stop(), self.verbose):
                        break
                    self._no_improvement_count = 0
                if incremental:
                    break
                if self.n_iter_ == self.max_iter:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization "
                        "hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=5,
                    )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=5)
        finally:
            optimizer.state = state
            self._set_parameters(layout, theta, place)
        if self.early_stopping and (self._best_coefs is not best_before or not is_best):
            self.coefs_, self.intercepts_ = self._best_coefs, self._best_intercepts
        elif self.early_stopping:
            self._best_coefs, self._best_intercepts = self.coefs_, self.intercepts_

    def _split(self, data: Batch, place: Place) -> tuple[Batch, Batch]:
        """Return the samples to train on and those to stop by, the ones that scikit-learn would draw.

        Two classes are split in proportion. That needs their labels in order, on the host; in any other library their
        number is enough, since the draw among sorted labels, taken from where a stable sort has put them, is the draw
        among the labels themselves.
        """
        X, T, _ = data
        n, xp, labels, order = X.shape[0], place.xp, None, None
        if isinstance(self, ClassifierMixin) and self.n_outputs_ == 1:
            second = T[:, 0]
            n_second = int(xp.sum(xp.astype(second, xp.int32)))
            labels = np.repeat([False, True], [n - n_second, n_second])
            order = xp.argsort(xp.astype(second, xp.int32), stable=True)
        parts = train_test_split(
            np.arange(n), random_state=self._random_state, test_size=self.validation_fraction, stratify=labels
        )
        if len(parts[1]) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        drawn = [place.to_device(rows) for rows in parts]
        train, held_out = (rows if order is None else xp.take(order, rows, axis=0) for rows in drawn)
        return take(xp, data, train), take(xp, data, held_out)

    def _end_epoch(self, loss: float, n: int) -> None:
        self.n_iter_ += 1
        self.t_ += n
        self.loss_ = loss
        self.loss_curve_.append(loss)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")  # noqa: T201

    def _count_without_improvement(self, layout: Layout, theta: Array, held_out: Batch | None, place: Place) -> None:
        """Count the epochs since the last that was better by `tol`: by the held-out samples' score, or by the loss."""
        if held_out is None:
            is_better = self.loss_curve_[-1] <= self.best_loss_ - self.tol
            self.best_loss_ = min(self.best_loss_, self.loss_curve_[-1])
        else:
            X, T, weights = held_out
            P = infer(layout.unflatten(theta), X, self.activation, self.out_activation_)
            score = self._validation_score(P, T, weights)
            assert self.validation_scores_ is not None
            self.validation_scores_.append(score)
            if self.verbose:
                print(f"Validation score: {score:f}")  # noqa: T201
            is_better = not score < self.best_validation_score_ + self.tol
            if score > self.best_validation_score_:
                self.best_validation_score_ = score
                self._set_parameters(layout, theta, place)
                self._keep_best()
        self._no_improvement_count = 0 if is_better else self._no_improvement_count + 1

    def _reason_to_stop(self) -> str:
        what = "Validation score" if self.early_stopping else "Training loss"
        return f"{what} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."

    def _fit_lbfgs(self, layout: Layout, data: Batch, place: Place) -> None:
        """Fit with SciPy's L-BFGS-B.

        It works on the host: once an evaluation the parameters cross to the device, and the loss and its gradient back.
        """
        from scipy import optimize
        from sklearn.utils.optimize import _check_optimize_result

        device = place.device
        X, T, weights = data
        evaluate = compiled_gradient(device, layout, self.activation, self.out_activation_, float(self.alpha))

        def loss_and_gradient(packed: np.ndarray) -> tuple[np.float64, np.ndarray]:
            theta = device.asarray(packed.astype(name_of(X.dtype)), copy=True)
            value, gradient = evaluate(theta, X, T, weights)
            return np.float64(device.to_numpy(value)), device.to_numpy(gradient).astype(np.float64)

        start = place.host(self._theta(layout, place))  # SciPy evaluates at points of its dtype
        found = optimize.minimize(
            loss_and_gradient,
            start,
            method="L-BFGS-B",
            jac=True,
            options={"maxfun": self.max_fun, "maxiter": self.max_iter, "gtol": self.tol},
        )
        self.n_iter_ = _check_optimize_result("lbfgs", found, self.max_iter)
        self.loss_ = self._loss_type(found.fun)
        dtype = self.dtype or name_of(widest_float(place.xp))
        self._set_parameters(layout, device.asarray(found.x.astype(dtype), copy=True), place)

    def _theta(self, layout: Layout, place: Place) -> Array:
        """Return `coefs_` and `intercepts_`, which are the truth, as one vector where they are computed with."""
        xp = array_namespace(coefs=tuple(self.coefs_))
        layers = [(W, xp.reshape(b, (1, -1))) for W, b in zip(self.coefs_, self.intercepts_, strict=True)]
        theta = layout.flatten(layers)
        return theta if place.source is place.device else place.to_device(theta)

    def _set_parameters(self, layout: Layout, theta: Array, place: Place) -> None:
        """Let `coefs_` and `intercepts_` be the parts of a vector, where X was."""
        theta = place.to_source(theta)
        xp = array_namespace(theta=theta)
        layers = layout.unflatten(theta)
        self.coefs_ = [W for W, _ in layers]
        self.intercepts_ = [xp.reshape(b, (-1,)) for _, b in layers]

    # --- predicting ------------------------------------------------------------------------------------------------

    @contextmanager
    def _outputs(self, X: Any, method: str) -> Iterator[tuple[Array, Place]]:
        """Give the network's predictions P, (n, outputs), and where X is, with that device as the current one."""
        check_is_fitted(self)
        place = place_of(X, self.backend, self.dtype)
        with place.device.context():
            yield self._infer(X, place, method), place

    def _infer(self, X: Any, place: Place, method: str) -> Array:
        name = type(self).__name__
        require_same_place(X, place, self.coefs_[0], f"{name}.{method}")
        if place.is_host:
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
            if not isinstance(X, np.ndarray) and place.device.name != "numpy":
                raise ValueError(f"sparse X is for NumPy: {place.device} takes dense arrays; use X.toarray()")
            dtype = self.dtype or np.result_type(X.dtype, self.coefs_[0].dtype).name
            X = as_samples(X).astype(dtype, copy=False)
            if place.device.name != "numpy":
                X = place.to_device(X)
                dtype = name_of(X.dtype)
        else:
            X = check_samples(X, place.xp, name, self.n_features_in_)
            dtype = self.dtype or name_of(place.xp.result_type(X.dtype, self.coefs_[0].dtype))
            X = place.xp.astype(X, getattr(place.xp, dtype), copy=False)
        with computing(place.device, X.shape[0]):
            layers = []
            for W, b in zip(self.coefs_, self.intercepts_, strict=True):
                here = (array if place.source is place.device else place.to_device(array) for array in (W, b))
                W, b = (place.xp.astype(array, getattr(place.xp, dtype), copy=False) for array in here)
                layers.append((W, place.xp.reshape(b, (1, -1))))
            return infer(layers, X, self.activation, self.out_activation_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    # --- to and from scikit-learn's own -----------------------------------------------------------------------------

    @classmethod
    def from_sklearn(cls, estimator: Any, **parameters: Any) -> Self:
        """Return the same estimator as one of ours: its parameters and, where it is fitted, all that it has learned.

        Parameters
        ----------
        estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
            The one whose interface this class has.
        parameters
            Others than it has, such as ``backend``.

        Raises
        ------
        TypeError
            If it is another estimator.
        """
        if not isinstance(estimator, cls._sklearn):
            raise TypeError(f"{type(estimator).__name__}: expected scikit-learn's {cls._sklearn.__name__}")
        ours = cls(**{**estimator.get_params(deep=False), **parameters})
        for name, value in _fitted(estimator).items():
            setattr(ours, name, Stepper.from_sklearn(value) if name == "_optimizer" else _copied(value))
        return ours

    def to_sklearn(self) -> Any:
        """Return the same estimator as scikit-learn's own, with NumPy's arrays; backend and dtype are lost."""
        known = self._sklearn().get_params(deep=False)
        theirs = self._sklearn(**{name: value for name, value in self.get_params(deep=False).items() if name in known})
        for name, value in _fitted(self).items():
            if name == "_optimizer":
                value = value.to_sklearn([on_host(W) for W in self.coefs_], [on_host(b) for b in self.intercepts_])
            setattr(theirs, name, value.to_sklearn() if isinstance(value, DeviceLabels) else _copied(value, host=True))
        return theirs


class MLPClassifier(ClassifierMixin, _Perceptron):  # type: ignore[misc]
    """A multilayer perceptron that classifies: scikit-learn's MLPClassifier, on any array library and device.

    Where the samples are, the work is: NumPy's, CuPy's, PyTorch's, JAX's arrays are trained on and predicted for where
    they lie, and only an epoch's loss and, with early stopping, its score cross to the host. (With ``solver="lbfgs"``
    SciPy works on the host: once an evaluation the parameters cross to the device, and their gradient back.) The
    cross-entropy is minimised (F7, or its binary form), with an L2 penalty on the weights. With the same parameters and
    `random_state` the results are scikit-learn's.

    Parameters
    ----------
    hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, max_iter, \
    shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, \
    validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As `sklearn.neural_network.MLPClassifier` has them, with the same defaults.
    backend : str or None
        What computes, as `xpmlp.get_backend` names it, where the samples are NumPy's: they are moved there once, and
        the results back. None: the samples' own library and device.
    dtype : {"float32", "float64"} or None
        What is computed in; None: float32 where the samples are, else float64. (lbfgs then leaves `coefs_` in float64,
        as scikit-learn's does.)

    Attributes
    ----------
    coefs_, intercepts_ : list of arrays
        Each layer's weights (fan_in × fan_out) and biases (fan_out), where the samples were. They are the truth:
        assigned by hand, they are what `predict` and `partial_fit` use.
    classes_ : array
        On the samples' device where the labels are numbers, else NumPy's.
    loss_, loss_curve_ : float, list of float
        The last epoch's loss and every epoch's, penalty included, as scikit-learn reports them: of probabilities
        that are kept from 0 and 1 by the dtype's epsilon. The gradient is that of the loss without this.
    best_loss_, n_iter_, t_, n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_, \
    validation_scores_, best_validation_score_
        As scikit-learn has them.
    """

    _sklearn = sklearn.neural_network.MLPClassifier

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        max_fun: int = 15000,
        backend: str | None = None,
        dtype: str | None = None,
    ) -> None:
        self._keep(locals())

    @available_if(lambda estimator: estimator._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Make one epoch over the samples; see `fit`.

        Parameters
        ----------
        X, y, sample_weight
            As `fit` has them.
        classes : array, shape (n_classes,)
            All classes there will ever be; needed in the first call.

        Raises
        ------
        ValueError
            As scikit-learn's does.
        """
        place = place_of(X, self.backend, self.dtype)
        with place.device.context():
            self._learn_classes(y, classes, place)
        return self._fit(X, y, sample_weight, incremental=True)

    def _learn_classes(self, y: Any, classes: Any, place: Place) -> None:
        """Take the classes from the first call of `partial_fit`, and require the same ones of later calls."""
        if place.is_host:
            y, classes = on_host(y), on_host(classes)
        on_device = not place.is_host and _is_numeric(y) and (classes is None or _is_numeric(classes))
        if on_device and getattr(self, "classes_", None) is None and classes is not None:
            is_multilabel = getattr(y, "ndim", 1) == 2 and y.shape[1] > 1
            self._label_binarizer = DeviceLabels(place.to_device(y if is_multilabel else classes))
            self.classes_ = self._label_binarizer.classes_
        elif on_device and classes is not None:
            if not _are_equal(place.xp.unique_values(place.to_device(classes)), self.classes_):
                raise ValueError(
                    f"`classes={classes}` is not the same as on last call to partial_fit, was: {self.classes_}"
                )
        elif _check_partial_fit_first_call(self, classes):
            self._label_binarizer = LabelBinarizer()
            self._label_binarizer.fit(y if type_of_target(y).startswith("multilabel") else classes)

    def predict(self, X: Any) -> Array:
        """Return each sample's class, (n,), or 0 and 1 for each of several classes, (n, classes).

        Parameters
        ----------
        X : array, shape (n, features)
            The samples, of the library and on the device that `fit` was given.

        Returns
        -------
        array
            On X's device where the classes are numbers, else NumPy's.
        """
        with self._outputs(X, "predict") as (P, place):
            if isinstance(self._label_binarizer, DeviceLabels):
                return self._label_binarizer.inverse_transform(P)
            P = place.host(P)
        return self._label_binarizer.inverse_transform(P.ravel() if self.n_outputs_ == 1 else P)

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n, classes), in the order of `classes_`; see `predict`."""
        with self._probabilities(X, "predict_proba") as P:
            return P

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of `predict_proba`."""
        with self._probabilities(X, "predict_log_proba") as P, np.errstate(divide="ignore"):
            return array_namespace(P=P).log(P)

    @contextmanager
    def _probabilities(self, X: Any, method: str) -> Iterator[Array]:
        with self._outputs(X, method) as (P, place):
            if self.n_outputs_ == 1:
                P = place.xp.concat([1 - P, P], axis=1)
            yield place.to_source(P)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy: how many samples are classified correctly, of several classes in all of them.

        Parameters
        ----------
        X, y, sample_weight
            As `fit` has them.
        """
        if not is_foreign(X):
            weights = None if sample_weight is None else on_host(sample_weight)
            return float(super().score(X, on_host(y), weights))
        found, place = self.predict(X), place_of(X, self.backend, self.dtype)
        if not is_foreign(found):
            from sklearn.metrics import accuracy_score

            weights = None if sample_weight is None else on_host(sample_weight)
            return float(accuracy_score(y, found, sample_weight=weights))
        if not _is_numeric(y):
            raise ValueError(f"y holds {np.asarray(y).dtype}: the classes that were learned are {self.classes_.dtype}")
        with place.device.context():
            y = place.to_device(y)
            require_length(y, found)
            weights = None
            if sample_weight is not None:
                P = place.xp.zeros(found.shape, dtype=self.coefs_[0].dtype, device=place.device.device)
                weights = check_weights(sample_weight, place, P)
            return mean_of_hits(found == place.xp.reshape(y, found.shape), weights)

    def _head(self) -> str:
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "logistic"

    def _check_both(self, X: Any, y: Any, reset: bool) -> tuple[Any, Any]:
        X, y = validate_data(
            self, X, y, accept_sparse=["csr", "csc"], multi_output=True, dtype=(np.float64, np.float32), reset=reset
        )
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _check_targets(self, X: Any, y: Any, place: Place, incremental: bool) -> Array:
        if place.is_host or not _is_numeric(y):
            return self._check_host_labels(y, place, incremental)
        y = place.to_device(y)
        begins = not hasattr(self, "classes_") or (not self.warm_start and not incremental)
        if begins:
            self._label_binarizer = DeviceLabels(y)
            self.classes_ = self._label_binarizer.classes_
        elif (
            not isinstance(self._label_binarizer, DeviceLabels)
            or self._label_binarizer.y_type_ != "multilabel-indicator"
        ):
            self._require_known(place.xp.unique_values(y), place)
        return self._label_binarizer.transform(y)

    def _check_host_labels(self, y: Any, place: Place, incremental: bool) -> Array:
        """Return T of labels on the host, by scikit-learn's own binarizer."""
        if not place.is_host:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._require_known(unique_labels(y), place)
        T = self._label_binarizer.transform(y).astype(bool)
        return T if place.is_host else place.to_device(T)

    def _require_known(self, classes: Array, place: Place) -> None:
        """Refuse labels that do not fit those seen before."""
        known = {value.item() if hasattr(value, "item") else value for value in place.host(self.classes_)}
        found = {value.item() if hasattr(value, "item") else value for value in place.host(classes)}
        if self.warm_start:
            if found != known:
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
        elif not found <= known:
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )

    def _validation_score(self, P: Array, T: Array, weights: Array | None) -> float:
        xp = array_namespace(P=P)
        if self.classes_.shape[0] == 1:
            return 1.0  # whatever the probability, there is but one class to predict
        hits = xp.argmax(P, axis=1) == T if self.out_activation_ == "softmax" else (P > 0.5) == T
        return mean_of_hits(hits, weights)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, _Perceptron):  # type: ignore[misc]
    """A multilayer perceptron for values or rates: scikit-learn's MLPRegressor, on any array library and device.

    As `MLPClassifier`, with half the squared error or half the Poisson deviance, summed over the outputs, minimised.

    Parameters
    ----------
    loss, hidden_layer_sizes, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t, \
    max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum, early_stopping, \
    validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun
        As `sklearn.neural_network.MLPRegressor` has them, with the same defaults.
    backend, dtype
        As for `MLPClassifier`.

    Attributes
    ----------
    coefs_, intercepts_ : list of arrays
        As for `MLPClassifier`.
    loss_, loss_curve_ : float, list of float
        As scikit-learn reports them: the squared error is averaged over the outputs, where its gradient is that of
        their sum.
    best_loss_, n_iter_, t_, n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_, \
    validation_scores_, best_validation_score_
        As scikit-learn has them.
    """

    _sklearn = sklearn.neural_network.MLPRegressor
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_Perceptron._parameter_constraints,
        "loss": sklearn.neural_network.MLPRegressor._parameter_constraints["loss"],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: int = 10,
        max_fun: int = 15000,
        backend: str | None = None,
        dtype: str | None = None,
    ) -> None:
        self._keep(locals())

    @available_if(lambda estimator: estimator._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Make one epoch over the samples; see `fit`."""
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Array:
        """Return what is predicted for each sample, (n,) or (n, outputs), where X is.

        Parameters
        ----------
        X : array, shape (n, features)
            The samples, of the library and on the device that `fit` was given.
        """
        with self._outputs(X, "predict") as (P, place):
            return place.to_source(P[:, 0] if P.shape[1] == 1 else P)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R², the part of the targets' variance that is explained, the mean over the outputs.

        Parameters
        ----------
        X, y, sample_weight
            As `fit` has them.
        """
        if not is_foreign(X):
            weights = None if sample_weight is None else on_host(sample_weight)
            return float(super().score(X, on_host(y), weights))
        found, place = self.predict(X), place_of(X, self.backend, self.dtype)
        with place.device.context():
            P = place.xp.reshape(found, (found.shape[0], -1))
            T = check_values(place.to_device(y), place.xp, P, type(self).__name__)
            if T.shape != P.shape:
                raise ValueError(f"y_true and y_pred have different number of output ({T.shape[1]}!={P.shape[1]})")
            weights = None if sample_weight is None else check_weights(sample_weight, place, found)
            return r2(P, T, weights)

    def _head(self) -> str:
        return "exp" if self.loss == "poisson" else "identity"

    def _check_both(self, X: Any, y: Any, reset: bool) -> tuple[Any, Any]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=True,
            dtype=(np.float64, np.float32),
            reset=reset,
        )
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _check_targets(self, X: Any, y: Any, place: Place, incremental: bool) -> Array:
        if place.is_host:
            self._loss_type = np.result_type(X.dtype, y.dtype).type
            if y.dtype.kind not in "biuf":
                raise ValueError(
                    "dtype='numeric' is not compatible with arrays of bytes/strings. Convert your data to numeric "
                    "values explicitly instead."
                )
            T = y if y.ndim == 2 else y[:, None]
            return T.astype(X.dtype, copy=False)
        return check_values(place.to_device(y), place.xp, X, type(self).__name__)

    def _validation_score(self, P: Array, T: Array, weights: Array | None) -> float:
        return r2(P, T, weights)


def _all_finite(array: Array) -> Array:
    xp = array_namespace(array=array)
    return xp.all(xp.isfinite(array))


def _copy(array: Array) -> Array:
    return array_namespace(array=array).asarray(array, copy=True)


def _is_numeric(y: Any) -> bool:
    """Return whether labels can lie on a device: another library's array, or numbers and booleans on the host."""
    return is_foreign(y) or (not hasattr(y, "tocsr") and np.asarray(y).dtype.kind in "iufb")


def _are_equal(one: Array, two: Array) -> bool:
    xp = array_namespace(one=one, two=two)
    return tuple(one.shape) == tuple(two.shape) and bool(xp.all(one == two))


def _fitted(estimator: Any) -> dict[str, Any]:
    """Return all that an estimator has beside its parameters."""
    parameters = {*estimator.get_params(deep=False), "loss"}
    return {name: value for name, value in vars(estimator).items() if name not in parameters}


def _copied(value: Any, host: bool = False) -> Any:
    """Return a copy of an attribute, NumPy's if wished."""
    import copy

    if isinstance(value, list):
        return [_copied(item, host) for item in value]
    return copy.deepcopy(on_host(value) if host else value)
