"""All private parts of scikit-learn that are used here: a release may move them."""

import sklearn

try:
    from sklearn.base import _fit_context as fit_context
    from sklearn.neural_network import MLPClassifier
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
    from sklearn.utils._metadata_requests import _routing_enabled as routing_enabled
    from sklearn.utils._param_validation import Interval, StrOptions
    from sklearn.utils.metaestimators import _safe_split as safe_split
    from sklearn.utils.optimize import _check_optimize_result as check_optimize_result
    from sklearn.utils.validation import _check_method_params as check_method_params
    from sklearn.utils.validation import _check_sample_weight as check_sample_weight

    CLASSIFIER_CONSTRAINTS = MLPClassifier._parameter_constraints
except (ImportError, AttributeError) as error:
    raise ImportError(
        f"scikit-learn {sklearn.__version__} has not what xpmlp's estimators need ({error}): "
        f"they are tested with 1.7 and 1.9; install one of these"
    ) from None

__all__ = ["CLASSIFIER_CONSTRAINTS", "AdamOptimizer", "Interval", "SGDOptimizer"]
__all__ += [
    "StrOptions",
    "check_method_params",
    "check_optimize_result",
    "check_sample_weight",
    "fit_context",
    "routing_enabled",
]
__all__ += ["safe_split"]
