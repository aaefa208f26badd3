"""Move an estimator: into a pickle, to another device, to and from scikit-learn."""

import copy
import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from xpmlp.backends import Backend, backend_of, is_foreign, on_host, reopened
from xpmlp.estimators.inputs import Place, place_on, widest_float
from xpmlp.estimators.labels import Labels
from xpmlp.estimators.parameters import for_sklearn
from xpmlp.estimators.rates import Rates
from xpmlp.namespaces import float_name
from xpmlp.storage.files import StrPath

if TYPE_CHECKING:
    import onnx


class Movable(BaseEstimator):  # type: ignore[misc]
    """An estimator that can be pickled, copied, and moved to other devices and to scikit-learn."""

    _sklearn: ClassVar[Any]
    _between: Callable[[], str | Sequence[str]]

    def to(self, backend: str | Backend) -> Self:
        """Return the same fitted estimator on another library or device. Later X must be there.

        Parameters
        ----------
        backend : str or Backend
            The target, as in `xpmlp.get_backend`. The new estimator's own `backend` is None: it computes where X is. A
            library without float64 gets float32.

        Raises
        ------
        NotFittedError, BackendError
            If the estimator is not fitted; if the backend cannot run.
        """
        check_is_fitted(self)
        moved = type(self)(**{**self.get_params(deep=False), "backend": None})
        moved.__dict__.update(_fitted(self))
        place = place_on(backend)
        if self.dtype == "float64" and float_name(widest_float(place.device)) != "float64":
            moved.dtype = None
        _move(moved, place)
        return moved

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for a pickle or a copy: arrays on the host, each with its original device."""
        return {name: _packed(value) for name, value in super().__getstate__().items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        reopen, spec = cache(reopened), state.get("backend")
        if "coefs_" in state and spec not in (None, "auto") and reopen(spec).name == "numpy":  # auto finds NumPy itself
            state = {**state, "backend": "numpy"}
        parameters = inspect.signature(type(self).__init__).parameters
        new = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
        super().__setstate__({**new, **{name: _unpacked(value, reopen) for name, value in state.items()}})

    @classmethod
    def from_sklearn(cls, estimator: Any, **parameters: Any) -> Self:
        """Return scikit-learn's estimator as one of ours, with its parameters and, if fitted, its learned state.

        Parameters
        ----------
        estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
            The estimator that this class corresponds to; another is a TypeError.
        parameters
            Additional parameters, such as ``backend``.
        """
        if not isinstance(estimator, cls._sklearn):
            raise TypeError(f"{type(estimator).__name__}: expected scikit-learn's {cls._sklearn.__name__}")
        ours = cls(**{**estimator.get_params(deep=False), **parameters})
        ours.__dict__.update(_fitted(estimator))
        if hasattr(ours, "_optimizer"):
            ours._optimizer = Rates.from_sklearn(estimator._optimizer)
        if hasattr(ours, "_label_binarizer"):
            ours._label_binarizer = Labels(ours.classes_, ours._label_binarizer.y_type_)
        return ours

    def to_sklearn(self) -> Any:
        """Return the estimator as scikit-learn's own, with NumPy's arrays; `backend` and `dtype` are lost.

        Raises
        ------
        ValueError
            If a parameter has a value that scikit-learn's estimator cannot have, such as ``solver="adamw"``.
        """
        theirs = self._sklearn(**for_sklearn(self._sklearn.__name__, self.get_params(deep=False)))
        fitted = _fitted(self)
        fitted.pop("validation_loss_curve_", None)
        vars(theirs).update(fitted)
        if hasattr(self, "_optimizer"):
            theirs._optimizer = self._optimizer.to_sklearn(theirs.coefs_, theirs.intercepts_)
        if hasattr(self, "_label_binarizer"):
            theirs._label_binarizer = self._label_binarizer.to_sklearn()
        return theirs

    def to_onnx(self, path: StrPath | None = None) -> "onnx.ModelProto":
        """Return the estimator as ONNX (opset 17). If a path is given, also write it there: whole, or not at all.

        The input ``X``, (n, features), has the dtype of the estimator's computation. A classifier's outputs are
        ``label``, in the classes' own dtype, and ``probabilities``: the results of `predict` and `predict_proba`. A
        regressor's output is ``prediction``.

        Raises
        ------
        NotFittedError, ExportError
            If the estimator is not fitted. If the package onnx is not installed, the classes are neither numbers nor
            strings, or the network is too large for an ONNX file.
        """
        from xpmlp.estimators.exporting import to_onnx
        from xpmlp.models.onnx_graph import save

        check_is_fitted(self)
        made = to_onnx(self)
        if path is not None:
            save(made, path)
        return made

    def to_torch(self) -> Any:
        """Return the estimator as an `nn.Sequential` of PyTorch's layers on the CPU, with its own memory.

        The module takes X, (n, features), of the dtype of the estimator's computation. It returns the sums S, (n,
        outputs). For classes these are the logits; for two classes, the logit of the second. For a regressor they are
        the predictions; for Poisson's loss, their logarithms.

        Raises
        ------
        NotFittedError, ExportError
            If the estimator is not fitted; if PyTorch is not installed.
        """
        check_is_fitted(self)
        from xpmlp.estimators.exporting import layers_of
        from xpmlp.models.torch_module import of_layers

        return of_layers(layers_of(self), self._between())


def _move(estimator: Any, place: Place) -> None:
    """Move an estimator's learned arrays from the host to a device."""
    e = estimator
    with place.device.context():
        for name in ("coefs_", "intercepts_", "_best_coefs", "_best_intercepts"):
            if hasattr(e, name):
                setattr(e, name, [place.to_device(array) for array in getattr(e, name)])
        if hasattr(e, "_label_binarizer") and e.classes_.dtype.kind in "iufb":
            e.classes_ = place.to_device(e.classes_)
            e._label_binarizer = Labels(e.classes_, e._label_binarizer.y_type_)


class _Packed(NamedTuple):
    """Another library's array in a pickle."""

    host: np.ndarray
    spec: str


def _packed(value: Any) -> Any:
    """Return an estimator's attribute in the form for a pickle."""
    if is_foreign(value):
        backend = backend_of(value)
        return _Packed(backend.to_numpy(value), backend.spec)
    if isinstance(value, Rates):  # the next fit moves its vectors to the computing device
        return value.on_host()
    return _changed(value, _packed)


def _unpacked(value: Any, reopen: Callable[[str], Backend]) -> Any:
    """Return an attribute as before; on NumPy, with one warning, if its library or device is missing."""
    if isinstance(value, _Packed):
        return reopen(value.spec).asarray(value.host, copy=True)
    return _changed(value, lambda member: _unpacked(member, reopen))


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a container with changed members, and any other object unchanged."""
    if type(value) is list:
        return [change(member) for member in value]
    if isinstance(value, dict):
        return {name: change(member) for name, member in value.items()}
    if isinstance(value, Labels | Rates):
        changed = copy.copy(value)
        changed.__dict__ = _changed(vars(value), change)
        return changed
    return value


def _fitted(estimator: Any) -> dict[str, Any]:
    """Return a copy of all attributes that are not parameters, with NumPy's arrays."""
    parameters = {*estimator.get_params(deep=False), "loss"}
    return {name: _copied(value) for name, value in vars(estimator).items() if name not in parameters}


def _copied(value: Any) -> Any:
    """Return a copy of an attribute; an array becomes NumPy's."""
    if isinstance(value, Rates):
        return copy.deepcopy(value.on_host())
    changed = _changed(value, _copied)
    return copy.deepcopy(on_host(value)) if changed is value else changed
