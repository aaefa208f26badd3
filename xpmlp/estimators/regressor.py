"""MLPRegressor: scikit-learn's regressor on any array library and device."""

from typing import Any, ClassVar, Self

import numpy as np
import sklearn.neural_network
from sklearn.base import RegressorMixin
from sklearn.utils.metaestimators import available_if

from xpmlp.backends import is_foreign, on_host
from xpmlp.estimators._sklearn import fit_context
from xpmlp.estimators.base import Perceptron
from xpmlp.estimators.epochs import Task
from xpmlp.estimators.inputs import Place, check_values, place_of
from xpmlp.estimators.parameters import OF_REGRESSORS
from xpmlp.estimators.scores import r2
from xpmlp.math.activations import Head, huber
from xpmlp.namespaces import Array, float_name


class MLPRegressor(RegressorMixin, Perceptron):  # type: ignore[misc]
    """A multilayer perceptron for values or rates: scikit-learn's MLPRegressor on any array library and device.

    It does all that `MLPClassifier` does, for numeric targets.

    Parameters
    ----------
    loss : {"squared_error", "poisson", "absolute_error", "huber"}
        The loss, summed over the outputs: half the squared error, half the Poisson deviance, the absolute error
        (derivation.md, L1), or Huber's loss (L2). Poisson's takes no negative targets.
    huber_delta : float
        The error up to which Huber's loss is half the squared error, above 0.
    hidden_layer_sizes, activation, solver, ..., dropout, callbacks, backend, dtype
        As for `MLPClassifier`.

    Attributes
    ----------
    coefs_, intercepts_, best_loss_, n_iter_, ...
        As for `MLPClassifier`.
    loss_, loss_curve_ : float, list of float
        As scikit-learn reports them: the squared error is averaged over the outputs, but its gradient is that of their
        sum.
    """

    _sklearn = sklearn.neural_network.MLPRegressor
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = OF_REGRESSORS

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
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
        dropout: float = 0.0,
        callbacks: Any = None,
        huber_delta: float = 1.0,
        backend: str | None = None,
        dtype: str | None = None,
    ) -> None:
        self._keep(locals())

    @available_if(lambda estimator: estimator._check_solver())
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Make one epoch over the samples; see `fit`."""
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Array:
        """Return the predictions, (n,) or (n, outputs), on X's device.

        Parameters
        ----------
        X : array, shape (n, features)
            The samples, of the same library and device as in `fit`.
        """
        with self._outputs(X, "predict") as (P, place):
            return place.to_source(P[:, 0] if P.shape[1] == 1 else P)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R², the explained share of the targets' variance, averaged over the outputs; see `fit`."""
        if not is_foreign(X):
            return float(super().score(X, on_host(y), on_host(sample_weight)))
        found, place = self.predict(X), place_of(X, self.backend, self.dtype)
        with place.device.context():
            P = place.xp.reshape(found, (found.shape[0], -1))
            T = check_values(place.to_device(y), place.xp, P, type(self).__name__)
            if T.shape != P.shape:
                raise ValueError(f"y_true and y_pred have different number of output ({T.shape[1]}!={P.shape[1]})")
            return r2(P, T, place.weights(sample_weight, P.shape[0], P.dtype))

    def _head(self) -> str:
        return "exp" if self.loss == "poisson" else "identity"

    def _loss_head(self) -> str | Head:
        if self.loss == "huber":
            return huber(float(self.huber_delta))
        return "absolute" if self.loss == "absolute_error" else super()._loss_head()

    def _check_held_out_targets(self, X: Array, y: Any, place: Place) -> Array:
        if place.is_host:
            _require_numbers(y)
        return self._checked(y, X, place)

    def _check_targets(self, X: Array, y: Any, place: Place, incremental: bool) -> Array:
        if place.is_host:
            _require_numbers(y)
            dtype = float_name(X.dtype)
            self._loss_type = np.result_type(dtype, y.dtype).type
            y = y.astype(dtype, copy=False)
        return self._checked(y, X, place)

    def _checked(self, y: Any, X: Array, place: Place) -> Array:
        T = check_values(place.to_device(y), place.xp, X, type(self).__name__)
        self._require_range(T, place)
        return T

    def _prepare_like(self, other: Perceptron, task: Task) -> Task:
        with task.place.device.context():
            self._require_range(task.data[1], task.place)  # whose own loss may be another
        return super()._prepare_like(other, task)

    def _require_range(self, T: Array, place: Place) -> None:
        """Refuse targets that the loss is not defined for, in the words of scikit-learn's trees."""
        if self.loss == "poisson" and bool(place.xp.any(T < 0)):
            raise ValueError("Some value(s) of y are negative which is not allowed for Poisson regression.")

    def _validation_score(self, P: Array, T: Array, weights: Array | None) -> float:
        return r2(P, T, weights)


def _require_numbers(y: np.ndarray) -> None:
    if y.dtype.kind not in "biuf":
        mend = "Convert your data to numeric values explicitly instead."
        raise ValueError(f"dtype='numeric' is not compatible with arrays of bytes/strings. {mend}")
