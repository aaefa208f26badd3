"""MLPEnsemble: networks that differ only in their seed, trained together; their mean, and their spread."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from xpmlp.backends import is_foreign, on_host
from xpmlp.estimators.base import Perceptron
from xpmlp.estimators.classifier import MLPClassifier
from xpmlp.estimators.stacks import Job, fit_together
from xpmlp.namespaces import Array, array_namespace
from xpmlp.storage.files import StrPath

if TYPE_CHECKING:
    import onnx


class MLPEnsemble(BaseEstimator):  # type: ignore[misc]
    """Several networks with the same settings: their mean, usually better than any of them, and their spread.

    Each network equals the result of its estimator's own `fit` with its seed. They are trained in stacks, on X's
    device. (Lakshminarayanan, Pritzel & Blundell 2017, "Simple and Scalable Predictive Uncertainty Estimation Using
    Deep Ensembles", without adversarial training.)

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor or None
        The network. The ensemble is a classifier or a regressor, as the network is. None: ``MLPClassifier()``.
    n_estimators : int
        The number of networks, at least 1.
    random_state : int, RandomState or None
        The source of the networks' seeds; their own `random_state` is not used.

    Attributes
    ----------
    estimators_ : list of MLPClassifier or MLPRegressor
        The fitted networks.
    classes_ : array
        Of a classifier, as in `MLPClassifier`.
    """

    def __init__(self, estimator: Any = None, n_estimators: int = 10, *, random_state: Any = None) -> None:
        self.estimator, self.n_estimators, self.random_state = estimator, n_estimators, random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit all networks to samples and targets; see `MLPClassifier.fit`.

        Raises
        ------
        ValueError, TypeError, BackendError
            If there is no network, or the estimator has another type; also the errors of the networks' `fit`.
        """
        estimator = self._estimator()
        if not isinstance(estimator, Perceptron):
            raise TypeError(
                f"estimator is a {type(estimator).__name__}: expected MLPClassifier or MLPRegressor of xpmlp"
            )
        if not isinstance(self.n_estimators, int | np.integer) or self.n_estimators < 1:
            raise ValueError(f"n_estimators is {self.n_estimators!r}: expected a whole number of at least 1")
        seeds = check_random_state(self.random_state).randint(2**31 - 1, size=self.n_estimators)
        networks = [clone(estimator).set_params(random_state=int(seed)) for seed in seeds]
        for error in fit_together([Job(network, X, y, sample_weight, source="all") for network in networks]):
            if error is not None:
                raise error
        self.estimators_ = networks
        self.n_features_in_ = networks[0].n_features_in_
        if hasattr(networks[0], "feature_names_in_"):
            self.feature_names_in_ = networks[0].feature_names_in_
        return self

    @property
    def classes_(self) -> Array:
        """The first network's classes."""
        return self.estimators_[0].classes_

    def predict(self, X: Any) -> Array:
        """Return the class with the greatest mean probability, or the mean value; see `MLPClassifier.predict`."""
        P = self._mean(X)[0]
        if not is_classifier(self):
            return P
        labels = self.estimators_[0]._label_binarizer
        P = P[:, 1:] if labels.y_type_ == "binary" else P
        return labels.inverse_transform(P if is_foreign(labels.classes_) else on_host(P))

    @available_if(lambda ensemble: is_classifier(ensemble._estimator()))
    def predict_proba(self, X: Any) -> Array:
        """Return the mean of the networks' probabilities, (n, classes), in the order of `classes_`."""
        return self._mean(X)[0]

    def spread(self, X: Any) -> Array:
        """Return the standard deviation of the networks' probabilities, (n, classes), or values, (n,) or (n, outputs).

        If it is large, the networks disagree: the sample is unlike the training samples, or between classes.
        """
        mean, each = self._mean(X)
        xp = array_namespace(mean=mean)
        return xp.sqrt(sum((P - mean) ** 2 for P in each) / len(each))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy, or R²; see `MLPClassifier.score`. The figures are computed on the host."""
        measure = accuracy_score if is_classifier(self) else r2_score
        return float(measure(on_host(y), on_host(self.predict(X)), sample_weight=on_host(sample_weight)))

    def to_onnx(self, path: StrPath | None = None) -> "onnx.ModelProto":
        """Return all networks and their mean as one ONNX graph, and write it where a path is given.

        Inputs and outputs are those of `MLPClassifier.to_onnx`: what `predict` and `predict_proba` return here.

        Raises
        ------
        NotFittedError, ExportError
            As `MLPClassifier.to_onnx` does.
        """
        from xpmlp.estimators.exporting import ensemble_to_onnx
        from xpmlp.models.onnx_graph import save

        check_is_fitted(self)
        made = ensemble_to_onnx(self)
        if path is not None:
            save(made, path)
        return made

    def to_sklearn(self) -> Any:
        """Return scikit-learn's VotingClassifier, of the mean probabilities, or VotingRegressor, fitted, on the host.

        Raises
        ------
        NotFittedError, ExportError, ValueError
            If the ensemble is not fitted; if there are several labels for a sample, a single class, or several outputs;
            what the networks' own `to_sklearn` refuses.
        """
        from xpmlp.estimators.exporting import ensemble_to_sklearn

        check_is_fitted(self)
        return ensemble_to_sklearn(self)

    def _estimator(self) -> Any:
        return MLPClassifier() if self.estimator is None else self.estimator

    def _mean(self, X: Any) -> tuple[Array, list[Array]]:
        """Return the mean of the networks' predictions, and each network's."""
        check_is_fitted(self)
        name = "predict_proba" if is_classifier(self) else "predict"
        each = [getattr(network, name)(X) for network in self.estimators_]
        return sum(each[1:], each[0]) / len(each), each

    def __sklearn_tags__(self) -> Any:
        tags, own = super().__sklearn_tags__(), self._estimator().__sklearn_tags__()
        tags.estimator_type, tags.classifier_tags, tags.regressor_tags = (
            own.estimator_type,
            own.classifier_tags,
            own.regressor_tags,
        )
        tags.input_tags, tags.target_tags, tags.array_api_support = own.input_tags, own.target_tags, True
        return tags
