"""MLPClassifier: scikit-learn's classifier on any array library and device."""

from typing import Any, ClassVar, Self

import numpy as np
import sklearn.neural_network
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import column_or_1d
from sklearn.utils.metaestimators import available_if

from xpmlp.backends import is_foreign, is_traced, on_host
from xpmlp.estimators._sklearn import fit_context
from xpmlp.estimators.base import Perceptron
from xpmlp.estimators.inputs import Place, place_of, require_length
from xpmlp.estimators.labels import MULTILABEL, Labels
from xpmlp.estimators.parameters import OF_CLASSIFIERS
from xpmlp.estimators.scores import mean_of_hits
from xpmlp.estimators.weights import of_classes
from xpmlp.namespaces import Array, array_namespace


class MLPClassifier(ClassifierMixin, Perceptron):  # type: ignore[misc]
    """A multilayer perceptron that classifies: scikit-learn's MLPClassifier on any array library and device.

    Computation follows the data: arrays of NumPy, CuPy, PyTorch and JAX stay on their own device. Only an epoch's loss
    and, with early stopping, its score go to the host. (With ``solver="lbfgs"``, SciPy works on the host. Each
    evaluation sends the parameters to the device, and gets their gradient back.) Training minimises the cross-entropy
    (F7, or its binary form) with an L2 penalty on the weights. With the same parameters and `random_state` the results
    are scikit-learn's.

    Parameters
    ----------
    hidden_layer_sizes, alpha, batch_size, learning_rate_init, power_t, max_iter, shuffle, random_state, tol, verbose, \
    warm_start, momentum, nesterovs_momentum, early_stopping, validation_fraction, beta_1, beta_2, epsilon, \
    n_iter_no_change, max_fun
        As in `sklearn.neural_network.MLPClassifier`, with the same defaults.
    activation : {"identity", "logistic", "tanh", "relu", "leaky_relu", "elu", "gelu", "silu", "softplus"} or a list
        Activation function of the hidden layers (derivation.md, A1 to A9); a list has one for each.
    solver : {"lbfgs", "sgd", "adam", "adamw"}
        As in scikit-learn. adamw is Adam with decoupled decay (Loshchilov & Hutter 2019): `alpha` times the learning
        rate, only for weights, and not in the loss.
    learning_rate : {"constant", "invscaling", "adaptive", "one-cycle", "cosine"}
        As in scikit-learn, for sgd. The last two (`xpmlp.one_cycle`, `xpmlp.cosine`) are for sgd, adam and adamw. They
        end at 0 after `max_iter` epochs; `tol` does not stop them.
    class_weight : dict, "balanced", list of dict, or None
        Weight of each class, as in `sklearn.utils.class_weight.compute_sample_weight`. For multilabel targets, a list
        of dicts, one per label.
    dropout : float
        Fraction of the hidden units left out in each step, at least 0 and below 1, rounded to 1/256 (M1, M2).
    callbacks : callable, list of callables, or None
        Functions of an epoch's figures (`xpmlp.estimators.epochs.EpochFigures`). A function that returns True ends
        training. If one raises an exception, `fit` keeps the parameters learned so far and raises it.
    backend : str or None
        The backend to compute on, for NumPy samples (see `xpmlp.get_backend`). Samples go there once, and results come
        back. None: the samples' own library and device.
    dtype : {"float32", "float64"} or None
        Floating-point type of the computation. None: float32 if the samples are, else float64. (lbfgs then leaves
        `coefs_` in float64, as in scikit-learn.)

    Attributes
    ----------
    coefs_, intercepts_ : list of arrays
        Each layer's weights (fan_in × fan_out) and biases (fan_out), on the samples' device. If you assign to them,
        `predict` and `partial_fit` use the new values.
    classes_ : array
        On the samples' device if the labels are numbers, else a NumPy array.
    loss_, loss_curve_ : float, list of float
        The loss of the last epoch and of every epoch, with the penalty. As in scikit-learn, probabilities are clipped
        to the dtype's epsilon from 0 and 1. The gradient is that of the unclipped loss.
    validation_loss_curve_ : list of float or None
        The mean loss of the held-out samples after each epoch, without the penalty; None if none are held out.
    best_loss_, n_iter_, t_, n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_, \
    validation_scores_, best_validation_score_
        As in scikit-learn.
    """

    _sklearn = sklearn.neural_network.MLPClassifier
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = OF_CLASSIFIERS
    loss = "log_loss"

    def __init__(
        self,
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
        class_weight: Any = None,
        dropout: float = 0.0,
        callbacks: Any = None,
        backend: str | None = None,
        dtype: str | None = None,
    ) -> None:
        self._keep(locals())

    @available_if(lambda estimator: estimator._check_solver())
    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Make one epoch over the samples; see `fit`.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        classes : array, shape (n_classes,)
            All classes that can occur. The first call requires them.
        """
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def _learn_classes(self, y: Any, classes: Any, place: Place) -> None:
        """Take the classes from the first call of `partial_fit`, and require the same ones in later calls."""
        known = getattr(self, "classes_", None)
        if classes is None:
            if known is None:
                raise ValueError("classes must be passed on the first call to partial_fit.")
            return
        of_classes = Labels.of(_labels(classes, place))
        if known is None:
            self.classes_, y = of_classes.classes_, _labels(y, place)
            self._label_binarizer = Labels.of(y) if y.ndim == 2 and y.shape[1] > 1 else of_classes
        elif not np.array_equal(on_host(of_classes.classes_), on_host(known)):
            raise ValueError(f"`classes={classes}` is not the same as on last call to partial_fit, was: {known}")

    def predict(self, X: Any) -> Array:
        """Return each sample's class, (n,); for multilabel targets 0 or 1 for each label, (n, classes).

        Parameters
        ----------
        X : array, shape (n, features)
            The samples, of the same library and device as in `fit`. The result is there too if the classes are numbers,
            else a NumPy array.
        """
        with self._outputs(X, "predict") as (P, place):
            if is_traced(P) and not is_foreign(self.classes_):
                found = f"classes are {self.classes_.dtype} on the host"
                raise TypeError(f"predict in a JAX transformation: {found}; fit with numbers, or call predict_proba")
            return self._label_binarizer.inverse_transform(P if is_foreign(self.classes_) else place.host(P))

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n, classes), in the order of `classes_`; see `predict`."""
        return self._probabilities(X, "predict_proba")

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of `predict_proba`."""
        return self._probabilities(X, "predict_log_proba", logarithm=True)

    def _probabilities(self, X: Any, method: str, logarithm: bool = False) -> Array:
        with self._outputs(X, method) as (P, place), np.errstate(divide="ignore"):
            P = place.xp.concat([1 - P, P], axis=1) if self.n_outputs_ == 1 else P
            return place.to_source(place.xp.log(P) if logarithm else P)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy; for multilabel targets, all of a sample's labels must be correct; see `fit`."""
        if not is_foreign(X):
            return float(super().score(X, on_host(y), on_host(sample_weight)))
        found, place = self.predict(X), place_of(X, self.backend, self.dtype)
        if not is_foreign(found):
            return float(accuracy_score(on_host(y), found, sample_weight=on_host(sample_weight)))
        if not _is_numeric(y):
            raise ValueError(f"y holds {np.asarray(y).dtype}: the classes that were learned are {self.classes_.dtype}")
        with place.device.context():
            y = place.to_device(y)
            require_length(y, found)
            weights = place.weights(sample_weight, found.shape[0], self.coefs_[0].dtype)
            return mean_of_hits(found == place.xp.reshape(y, found.shape), weights)

    def _head(self) -> str:
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "logistic"

    def _check_targets(self, X: Array, y: Any, place: Place, incremental: bool) -> Array:
        y = _labels(y, place)
        labels = Labels.of(y)
        if not hasattr(self, "classes_") or (not self.warm_start and not incremental):
            self._label_binarizer, self.classes_ = labels, labels.classes_
        else:
            self._require_known(labels.classes_, place)
        return place.to_device(self._label_binarizer.transform(y))

    def _require_known(self, classes: Array, place: Place) -> None:
        """Refuse labels that do not fit the earlier ones."""
        known, found = (set(place.host(values).tolist()) for values in (self.classes_, classes))
        if self.warm_start:
            if found != known:
                needed = "warm_start can only be used where `y` has the same classes as in the previous call to fit."
                raise ValueError(f"{needed} Previously got {self.classes_}, `y` has {classes}")
        elif not found <= known:
            both = f"`self.classes_` has {self.classes_}. 'y' has {classes}."
            raise ValueError(f"`y` has classes not in `self.classes_`. {both}")

    def _check_held_out_targets(self, X: Array, y: Any, place: Place) -> Array:
        y = _labels(y, place)
        known, found = (set(place.host(values).tolist()) for values in (self.classes_, Labels.of(y).classes_))
        if self._label_binarizer.y_type_ != MULTILABEL and not found <= known:
            raise ValueError(f"y has classes {sorted(found - known)}, that of fit {sorted(known)}")
        return place.to_device(self._label_binarizer.transform(y))

    def _as_trained(self, T: Array, place: Place) -> Array:
        """Return class numbers if the loss is softmax's, else T."""
        if self.out_activation_ != "softmax":
            return T
        return place.xp.astype(place.xp.argmax(place.xp.astype(T, place.xp.int8), axis=1), place.xp.int32)

    def _weights(
        self, T: Array, weights: Array | None, place: Place, dtype: Any, trained: Array | None = None
    ) -> Array | None:
        if self.class_weight is not None:
            by_class = of_classes(self.class_weight, self._label_binarizer, T, place, dtype, trained)
            weights = by_class if weights is None else weights * by_class
        return super()._weights(T, weights, place, dtype)

    def _validation_score(self, P: Array, T: Array, weights: Array | None) -> float:
        xp = array_namespace(P=P)
        if self.classes_.shape[0] == 1:
            return 1.0  # there is only one class to predict
        hits = xp.argmax(P, axis=1) == T if self.out_activation_ == "softmax" else (P > 0.5) == T
        return mean_of_hits(hits, weights)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _labels(y: Any, place: Place) -> Array:
    """Return labels on the computing device; on the host if the samples are there or the labels are not numbers."""
    if not place.is_host and _is_numeric(y):
        return place.to_device(y)
    y = y.toarray() if hasattr(y, "toarray") else np.asarray(on_host(y))
    return column_or_1d(y, warn=True) if y.ndim != 2 or y.shape[1] == 1 else y


def _is_numeric(y: Any) -> bool:
    """Return whether labels can be on a device: another library's array, or numbers and booleans on the host."""
    return is_foreign(y) or (not hasattr(y, "tocsr") and np.asarray(y).dtype.kind in "iufb")
