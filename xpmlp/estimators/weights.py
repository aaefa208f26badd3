"""The weight of each sample: its own weight times that of its class."""

from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from xpmlp.estimators.inputs import Place
from xpmlp.estimators.labels import MULTILABEL, Labels
from xpmlp.namespaces import Array


def of_classes(
    class_weight: Any, labels: Labels, T: Array, place: Place, dtype: Any, trained: Array | None = None
) -> Array:
    """Return each sample's weight from its class, (n,), as scikit-learn's `compute_sample_weight` defines it.

    Parameters
    ----------
    class_weight : dict, list of dict, or "balanced"
        Weights by class; one dict per label for several labels. Balanced: n / (classes that occur · samples of the
        class).
    labels : Labels
        The classes.
    T : array of bool, shape (n, 1) or (n, classes)
        The targets in the form of `labels.transform`.
    place : Place
        The place of the computation with T.
    dtype : dtype
        The weights' dtype.
    trained : array of bool or None
        The targets to balance, if T has those of held-out samples.

    Raises
    ------
    ValueError
        If a dict has an unknown class, or lacks one; with scikit-learn's message if there is one.
    """
    xp = place.xp
    trained = T if trained is None else trained
    if labels.y_type_ != MULTILABEL:
        if isinstance(class_weight, list):
            raise ValueError("class_weight is a list, which is for several labels: expected a dict or 'balanced'")
        members, counted = (
            rows if labels.y_type_ == "multiclass" else xp.concat([~rows, rows], axis=1) for rows in (T, trained)
        )
        if class_weight == "balanced":
            return _looked_up(xp, members, _balanced(xp, counted, dtype))
        return _looked_up(xp, members, _by_class(class_weight, place.host(labels.classes_), place, dtype))
    if not isinstance(class_weight, list) and class_weight != "balanced":
        raise ValueError("For multi-output, class_weight should be a list of dicts, or the string 'balanced'.")
    if isinstance(class_weight, list) and len(class_weight) != T.shape[1]:
        problem = f"Got {len(class_weight)} element(s) while having {T.shape[1]} outputs."
        raise ValueError(
            f"For multi-output, number of elements in class_weight should match number of outputs. {problem}"
        )
    weights = xp.ones((T.shape[0],), dtype=dtype, device=place.device.device)
    for k in range(T.shape[1]):
        members, counted = (xp.concat([~rows[:, k : k + 1], rows[:, k : k + 1]], axis=1) for rows in (T, trained))
        if class_weight == "balanced":
            each = _balanced(xp, counted, dtype)
        elif isinstance(class_weight[k], dict):
            each = _by_class(class_weight[k], np.arange(2), place, dtype)
        else:
            raise ValueError(f"class_weight[{k}] is {class_weight[k]!r}: expected a dict")
        weights = weights * _looked_up(xp, members, each)
    return weights


def _balanced(xp: Any, members: Array, dtype: Any) -> Array:
    """Return the weight of each class from its number of rows."""
    counts = xp.sum(xp.astype(members, dtype), axis=0)
    occurs = counts > 0
    return xp.sum(counts) / (xp.sum(xp.astype(occurs, dtype)) * xp.where(occurs, counts, 1.0))


def _looked_up(xp: Any, members: Array, weights: Array) -> Array:
    """Return the weight of each row's class."""
    return xp.sum(xp.where(members, weights[None, :], 0.0), axis=1)


def _by_class(class_weight: dict[Any, float], classes: np.ndarray, place: Place, dtype: Any) -> Array:
    """Return a dict's weights in the classes' order; for a single class two, since the second has no members."""
    known = classes.tolist()
    for name, weight in class_weight.items():
        if name not in known:
            raise ValueError(f"class_weight has a weight for class {name!r}: the classes are {known}")
        if not isinstance(weight, Real) or not 0 <= weight < np.inf:
            raise ValueError(f"class_weight[{name!r}] is {weight!r}: expected a finite number of at least 0")
    weights = compute_class_weight(class_weight, classes=classes, y=classes)
    weights = np.append(weights, 1.0) if len(weights) == 1 else weights
    return place.xp.astype(place.to_device(weights), dtype)
