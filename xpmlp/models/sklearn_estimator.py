"""A trained model as scikit-learn's MLPClassifier."""

import numpy as np
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import LabelBinarizer

from xpmlp.errors import ExportError
from xpmlp.models.model import ModelInfo


def to_sklearn(theta: np.ndarray, info: ModelInfo) -> MLPClassifier:
    """Return a model as a fitted classifier; see `Model.to_sklearn`."""
    sizes, classes = info.layout.sizes, np.arange(len(info.class_names))
    if len(classes) < 2:
        raise ExportError(f"a model of the one class {info.class_names[0]}: scikit-learn's tells two at least apart")
    layers = [(W, b[0]) for W, b in info.layout.unflatten(theta.astype(np.float64))]
    W, b = layers[0]
    if info.scaling:
        shift, factor = info.scaling.arrays("float64")
        W = W * factor.T  # W1 of the rows (X − shift) · factor, and b1, are these of X
        layers[0] = W, b - (shift * np.ones(sizes[0])) @ W
    else:
        layers[0] = W * (1 / info.max_value), b
    if len(classes) == 2:  # their softmax is the logistic function of the difference
        W, b = layers[-1]
        layers[-1] = W[:, 1:] - W[:, :1], b[1:] - b[:1]
    made = MLPClassifier(sizes[1:-1])
    made.coefs_, made.intercepts_ = [W for W, _ in layers], [np.ravel(b) for _, b in layers]
    made.classes_, made._label_binarizer = classes, LabelBinarizer().fit(classes)
    made.n_features_in_, made.n_layers_, made.n_outputs_ = sizes[0], len(sizes), layers[-1][0].shape[1]
    made.out_activation_ = "logistic" if len(classes) == 2 else "softmax"
    # The state from which `partial_fit` and `warm_start` continue: scikit-learn has trained nothing yet.
    made.n_iter_ = made.t_ = made._no_improvement_count = 0
    made.loss_curve_, made.best_loss_ = [], np.inf
    made.validation_scores_ = made.best_validation_score_ = None
    return made
