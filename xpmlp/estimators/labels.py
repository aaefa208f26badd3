"""Classes among labels that lie on a device."""

from typing import Any

import numpy as np

from xpmlp.backends import backend_of
from xpmlp.estimators.inputs import require_finite
from xpmlp.namespaces import Array, array_namespace


class DeviceLabels:
    """The classes among labels on a device: what scikit-learn's LabelBinarizer is for those on the host.

    Parameters
    ----------
    y : array, shape (n,) or (n, k)
        Labels, whole numbers or booleans, or 0 and 1 for each of k classes.

    Attributes
    ----------
    classes_ : array
        The classes, on the device.
    y_type_ : {"binary", "multiclass", "multilabel-indicator"}
        What kind of labels they are.

    Raises
    ------
    ValueError
        If they are none of these.
    """

    def __init__(self, y: Array) -> None:
        xp = array_namespace(y=y)
        if y.ndim == 2 and y.shape[1] > 1:
            values = xp.unique_values(y)
            if values.shape[0] > 2 or not bool(xp.all((values == 0) | (values == 1))):
                raise ValueError("Multioutput target data is not supported with label binarization")
            self.y_type_, self.classes_ = "multilabel-indicator", xp.arange(y.shape[1], device=y.device)
            return
        y = _flat(y)
        if xp.isdtype(y.dtype, "real floating"):
            require_finite(y, xp, "y", "the estimator")
            if not bool(xp.all(y == xp.floor(y))):
                raise ValueError(
                    "Unknown label type: continuous. Maybe you are trying to fit a classifier, which expects discrete "
                    "classes on a regression target with continuous values."
                )
        self.classes_ = xp.unique_values(y)
        self.y_type_ = "multiclass" if self.classes_.shape[0] > 2 else "binary"

    def transform(self, y: Array) -> Array:
        """Return T, booleans: (n, 1) for two classes, else (n, classes)."""
        if self.y_type_ == "multilabel-indicator":
            if y.ndim != 2 or y.shape[1] != self.classes_.shape[0]:
                raise ValueError(
                    f"y has shape {tuple(y.shape)}: expected 0 and 1 for each of {self.classes_.shape[0]} classes"
                )
            return y != 0
        T = _flat(y)[:, None] == self.classes_[None, :]
        if self.y_type_ == "multiclass":
            return T
        return T[:, 1:] if T.shape[1] == 2 else ~T  # of a single class all are the first

    def to_sklearn(self) -> Any:
        """Return scikit-learn's binarizer of the same classes, on the host."""
        from sklearn.preprocessing import LabelBinarizer

        classes = backend_of(self.classes_).to_numpy(self.classes_)
        if self.y_type_ == "multilabel-indicator":
            return LabelBinarizer().fit(np.tile([[0], [1]], (1, len(classes))))
        return LabelBinarizer().fit(classes)

    def inverse_transform(self, P: Array) -> Array:
        """Return the labels that predictions are for."""
        xp = array_namespace(P=P)
        if self.y_type_ == "multilabel-indicator":
            return xp.astype(P > 0.5, self.classes_.dtype)
        if self.y_type_ == "multiclass":
            return xp.take(self.classes_, xp.argmax(P, axis=1), axis=0)
        is_second = xp.reshape(P, (-1,)) > 0.5
        n_classes = self.classes_.shape[0]
        return xp.where(is_second, self.classes_[n_classes - 1], self.classes_[0])


def _flat(y: Array) -> Array:
    """Return labels as (n,), a column too."""
    if y.ndim == 2 and y.shape[1] == 1:
        return y[:, 0]
    if y.ndim != 1:
        raise ValueError(f"y should be a 1d array, got an array of shape {tuple(y.shape)} instead.")
    return y
