"""What each sample counts: its own weight, times that of its class."""

from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from xpmlp.estimators.inputs import Place
from xpmlp.estimators.labels import MULTILABEL, Labels
from xpmlp.namespaces import Array


def of_classes(class_weight: Any, labels: Labels, T: Array, place: Place, dtype: Any) -> Array:
    """Return each sample's weight by its class, (n,), as scikit-learn's `compute_sample_weight` defines it.

    Parameters
    ----------
    class_weight : dict, list of dict, or "balanced"
        Weights by class; of several labels a dict each. Balanced: n / (classes that occur · samples of the class).
    labels : Labels
        The classes.
    T : array of bool, shape (n, 1) or (n, classes)
        What `labels` made of the targets.
    place : Place
        Where T is computed with.
    dtype : dtype
        Of the weights.

    Raises
    ------
    ValueError
        If a dict has a class that is not there, or lacks one; in scikit-learn's words where it has them.
    """
    xp = place.xp
    if labels.y_type_ != MULTILABEL:
        members = T if labels.y_type_ == "multiclass" else xp.concat([~T, T], axis=1)
        if class_weight == "balanced":
            return _balanced(xp, members, dtype)
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
        members = xp.concat([~T[:, k : k + 1], T[:, k : k + 1]], axis=1)
        if class_weight == "balanced":
            weights = weights * _balanced(xp, members, dtype)
        else:
            weights = weights * _looked_up(xp, members, _by_class(class_weight[k], np.arange(2), place, dtype))
    return weights


def _balanced(xp: Any, members: Array, dtype: Any) -> Array:
    counts = xp.sum(xp.astype(members, dtype), axis=0)
    occurs = counts > 0
    each = xp.sum(counts) / (xp.sum(xp.astype(occurs, dtype)) * xp.where(occurs, counts, 1.0))
    return _looked_up(xp, members, each)


def _looked_up(xp: Any, members: Array, weights: Array) -> Array:
    """Return the weight of the class of which each row is a member."""
    return xp.sum(xp.where(members, weights[None, :], 0.0), axis=1)


def _by_class(class_weight: dict[Any, float], classes: np.ndarray, place: Place, dtype: Any) -> Array:
    """Return a dict's weights in the order of the classes, of a single class two: the second has no members."""
    weights = compute_class_weight(class_weight, classes=classes, y=classes)
    known = classes.tolist()
    unknown = [name for name in class_weight if name not in known]
    if unknown:
        raise ValueError(f"class_weight has a weight for class {unknown[0]!r}: the classes are {known}")
    weights = np.append(weights, 1.0) if len(weights) == 1 else weights
    return place.xp.astype(place.to_device(weights), dtype)
