"""Pickles and copies: arrays of other libraries lie in them as NumPy's, with where they were."""

import copy
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends import Backend, backend_of, reopened
from xpmlp.estimators.inputs import is_foreign, on_host
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
    if isinstance(value, Rates) and value.state:  # which the next fit moves to where it computes
        value = copy.copy(value)
        value.state = {name: on_host(vector) for name, vector in value.state.items()}
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
    if isinstance(value, Labels):
        changed = copy.copy(value)
        vars(changed).update({name: change(member) for name, member in vars(value).items()})
        return changed
    return value
