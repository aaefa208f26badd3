"""The valid values of the estimators' parameters, alone and together, and the parameters that scikit-learn lacks."""

import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any

from xpmlp.errors import expected_one_of
from xpmlp.estimators._sklearn import CLASSIFIER_CONSTRAINTS, Interval, StrOptions
from xpmlp.math.activations import ACTIVATIONS

STOCHASTIC = ("sgd", "adam", "adamw")
SCHEDULED = ("cosine", "one-cycle")

CONSTRAINTS: dict[str, list[Any]] = {
    **CLASSIFIER_CONSTRAINTS,
    "activation": [StrOptions(set(ACTIVATIONS)), list, tuple],
    "solver": [StrOptions({"lbfgs", *STOCHASTIC})],
    "learning_rate": [StrOptions({"constant", "invscaling", "adaptive", *SCHEDULED})],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "callbacks": [callable, list, tuple, None],
    "backend": [str, None],
    "dtype": [StrOptions({"float32", "float64"}), None],
}
"""The constraints of both estimators' parameters, in the form of scikit-learn's validation."""

OF_CLASSIFIERS: dict[str, list[Any]] = {**CONSTRAINTS, "class_weight": [dict, list, StrOptions({"balanced"}), None]}

OF_REGRESSORS: dict[str, list[Any]] = {
    **CONSTRAINTS,
    "loss": [StrOptions({"squared_error", "poisson", "absolute_error", "huber"})],
    "huber_delta": [Interval(Real, 0, None, closed="neither")],
}

_EXTRA = {"class_weight": None, "dropout": 0.0, "callbacks": None}
"""Parameters that scikit-learn's estimators lack, with the values that make ours equal theirs."""

_WHATEVER = ("backend", "dtype", "huber_delta")
"""More of them: scikit-learn's estimator loses these, without a change of the result."""

_THEIRS = {
    "activation": ("identity", "logistic", "tanh", "relu"),
    "solver": ("lbfgs", "sgd", "adam"),
    "learning_rate": ("constant", "invscaling", "adaptive"),
    "loss": ("squared_error", "poisson"),
}
"""The values that scikit-learn's estimators accept, for parameters with more values in ours."""


def hidden_widths(sizes: Any) -> list[int]:
    """Return `hidden_layer_sizes` as a list of whole numbers of at least 1."""
    widths = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    try:
        whole = [operator.index(width) for width in widths if not isinstance(width, bool)]
    except TypeError:
        whole = []
    if len(whole) < len(widths):
        raise TypeError(f"hidden_layer_sizes must be whole numbers, got {widths}.")
    if any(width <= 0 for width in whole):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {widths}.")
    return whole


def activation_names(activation: Any, n_hidden: int) -> str | tuple[str, ...]:
    """Return `activation` in the network's form: one name, or a name for each hidden layer."""
    if isinstance(activation, str):
        return activation
    names = tuple(activation)
    if len(names) != n_hidden:
        found = f"activation has {len(names)} names, hidden_layer_sizes {n_hidden}"
        raise ValueError(f"{found}: expected one name for all layers, or a list with one for each")
    unknown = [k for k, name in enumerate(names) if name not in ACTIVATIONS]
    if unknown:
        problem = f"activation[{unknown[0]}] is {names[unknown[0]]!r}"
        raise ValueError(f"{problem}: {expected_one_of(names[unknown[0]], ACTIVATIONS)}")
    return names


def require_possible(estimator: Any, incremental: bool, is_validated: bool) -> None:
    """Refuse parameters that contradict each other in `fit` or `partial_fit`, with or without validation data."""
    e = estimator
    if incremental and e.early_stopping:
        raise ValueError("partial_fit does not support early_stopping=True")
    if incremental and e.learning_rate in SCHEDULED:
        raise ValueError(f"partial_fit does not support learning_rate={e.learning_rate!r}: its end is not known")
    if e.solver not in STOCHASTIC:
        asked = {
            "dropout": e.dropout > 0,
            f"learning_rate={e.learning_rate!r}": e.learning_rate in SCHEDULED,
            "validation_data": is_validated,
        }
        for name, is_asked in asked.items():
            if is_asked:
                raise ValueError(f"{name} with solver={e.solver!r}: expected a solver of {', '.join(STOCHASTIC)}")
    for function in functions(e.callbacks):
        if not callable(function):
            raise TypeError(f"callbacks must be functions of an epoch's figures, got {function!r}.")


def functions(callbacks: Any) -> list[Any]:
    """Return `callbacks` as a list."""
    return [] if callbacks is None else [callbacks] if callable(callbacks) else list(callbacks)


def for_sklearn(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that scikit-learn's estimator of that name has; refuse values that it lacks."""
    activation, parameters = parameters["activation"], dict(parameters)
    if not isinstance(activation, str) and len(set(activation)) == 1:
        parameters["activation"] = activation[0]
    for parameter, value in parameters.items():
        if parameter in _EXTRA and (value or None) != (_EXTRA[parameter] or None):
            raise ValueError(
                f"{parameter}={value!r}: scikit-learn's {name} has no {parameter}; "
                f"to leave it out, set_params({parameter}={_EXTRA[parameter]!r}) first"
            )
        if parameter in _THEIRS and value not in _THEIRS[parameter]:
            expected = ", ".join(_THEIRS[parameter])
            mend = "fit one with such an activation" if parameter == "activation" else "set one of these first"
            raise ValueError(f"{parameter}={value!r}: scikit-learn's {name} knows {expected}; {mend}")
    return {name: value for name, value in parameters.items() if name not in (*_EXTRA, *_WHATEVER)}
