"""Pickles and copies: arrays of other libraries lie in them as NumPy's, with where they were."""

import copy
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends import Backend, backend_of, reopened
from xpmlp.estimators.inputs import is_foreign
from xpmlp.estimators.labels import Labels
from xpmlp.estimators.rates import Rates


class Packed(NamedTuple):
    """An array of another library than NumPy."""

    host: np.ndarray
    spec: str


def packed(value: Any) -> Any:
    """Return an estimator's attribute as a pickle holds it."""
    if is_foreign(value):
        backend = backend_of(value)
        return Packed(backend.to_numpy(value), backend.spec)
    return _changed(value, packed)


def unpacked(value: Any, opened: dict[str, Backend]) -> Any:
    """Return an attribute as it was, on NumPy where its library or device is missing, which a warning says once.

    `opened` holds the backends of the estimator's other attributes.
    """
    if isinstance(value, Packed):
        if value.spec not in opened:
            opened[value.spec] = reopened(value.spec)
        return opened[value.spec].asarray(value.host, copy=True)
    return _changed(value, lambda member: unpacked(member, opened))


def _changed(value: Any, change: Any) -> Any:
    """Return a container with its members changed, and anything else as it is."""
    if type(value) is list:
        return [change(member) for member in value]
    if isinstance(value, dict):
        return {name: change(member) for name, member in value.items()}
    if isinstance(value, Labels | Rates):
        changed = copy.copy(value)
        changed.__dict__ = _changed(vars(value), change)
        return changed
    return value
