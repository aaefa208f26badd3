"""Find and number the classes in labels, on the host or on a device."""

from typing import Any

import numpy as np
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.multiclass import type_of_target, unique_labels

from xpmlp.backends import on_host
from xpmlp.estimators.inputs import require_finite
from xpmlp.namespaces import Array, array_namespace

MULTILABEL = "multilabel-indicator"


class Labels:
    """A LabelBinarizer like scikit-learn's for labels of any library: their classes, and their kind."""

    def __init__(self, classes: Array, kind: str) -> None:
        self.classes_, self.y_type_ = classes, kind

    @classmethod
    def of(cls, y: Array) -> "Labels":
        """Return the classes of labels, (n,), or of indicators 0 and 1 for k classes, (n, k)."""
        if isinstance(y, np.ndarray):
            kind = type_of_target(y, input_name="y")
            if "multioutput" in kind:
                raise ValueError("Multioutput target data is not supported with label binarization")
            return cls(unique_labels(y), kind)
        xp = array_namespace(y=y)
        if y.ndim == 2 and y.shape[1] > 1:
            values = xp.unique_values(y)
            if values.shape[0] > 2 or not bool(xp.all((values == 0) | (values == 1))):
                raise ValueError("Multioutput target data is not supported with label binarization")
            return cls(xp.arange(y.shape[1], device=y.device), MULTILABEL)
        y = _flat(y)
        if xp.isdtype(y.dtype, "real floating"):
            require_finite(y, xp, "y", "the estimator")
            if not bool(xp.all(y == xp.floor(y))):
                why = "which expects discrete classes on a regression target with continuous values."
                raise ValueError(f"Unknown label type: continuous. Maybe you are trying to fit a classifier, {why}")
        classes = xp.unique_values(y)
        return cls(classes, "multiclass" if classes.shape[0] > 2 else "binary")

    def transform(self, y: Array) -> Array:
        """Return T of booleans: (n, 1) for two classes, else (n, classes)."""
        n_classes = self.classes_.shape[0]
        if self.y_type_ == MULTILABEL:
            if y.ndim != 2 or y.shape[1] != n_classes:
                raise ValueError(f"y has shape {tuple(y.shape)}: expected 0 and 1 for each of {n_classes} classes")
            return y != 0
        if self.y_type_ == "multiclass":
            return _flat(y)[:, None] == self.classes_[None, :]
        T = _flat(y)[:, None] == self.classes_[None, -1:]
        return T if n_classes == 2 else ~T  # with a single class, all labels are the first class

    def inverse_transform(self, P: Array) -> Array:
        """Return the labels of predictions."""
        xp = array_namespace(P=P)
        if self.y_type_ == MULTILABEL:
            return xp.astype(P > 0.5, self.classes_.dtype)
        if self.y_type_ == "multiclass":
            return xp.take(self.classes_, xp.argmax(P, axis=1), axis=0)
        return xp.where(xp.reshape(P, (-1,)) > 0.5, self.classes_[self.classes_.shape[0] - 1], self.classes_[0])

    def to_sklearn(self) -> Any:
        """Return scikit-learn's binarizer of the same classes, on the host."""
        classes = on_host(self.classes_)
        return LabelBinarizer().fit(np.eye(len(classes), dtype=int) if self.y_type_ == MULTILABEL else classes)


def _flat(y: Array) -> Array:
    """Return labels, also a column, as (n,)."""
    if y.ndim == 2 and y.shape[1] == 1:
        return y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"y should be a 1d array, got an array of shape {tuple(y.shape)} instead.")
    return y
