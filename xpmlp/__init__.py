"""The multilayer perceptron, written once against the Python Array API standard."""

from typing import TYPE_CHECKING, Any

from xpmlp.errors import (
    ArrayError,
    BackendError,
    CheckpointError,
    CommunicationError,
    ConfigError,
    DataError,
    ShapeError,
    TrainingError,
    XpmlpError,
)
from xpmlp.math.activations import log_softmax, softmax
from xpmlp.math.layout import Layout, init
from xpmlp.math.network import backward, forward, score

if TYPE_CHECKING:
    from xpmlp.backends import Backend, available_backends, backend_of, get_backend
    from xpmlp.data import Dataset, DeviceLoader, load_dataset
    from xpmlp.estimators.classifier import MLPClassifier
    from xpmlp.estimators.regressor import MLPRegressor
    from xpmlp.models.model import Model, load
    from xpmlp.training.config import TrainConfig
    from xpmlp.training.evaluation import evaluate
    from xpmlp.training.records import Callback, Checkpoint, History
    from xpmlp.training.train import train

__version__ = "0.1.0"

__all__ = [
    "ArrayError",
    "Backend",
    "BackendError",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "CommunicationError",
    "ConfigError",
    "DataError",
    "Dataset",
    "DeviceLoader",
    "History",
    "Layout",
    "MLPClassifier",
    "MLPRegressor",
    "Model",
    "ShapeError",
    "TrainConfig",
    "TrainingError",
    "XpmlpError",
    "available_backends",
    "backend_of",
    "backward",
    "evaluate",
    "forward",
    "get_backend",
    "init",
    "load",
    "load_dataset",
    "log_softmax",
    "score",
    "softmax",
    "train",
]

_LAZY = {
    **dict.fromkeys(("Backend", "available_backends", "backend_of", "get_backend"), "xpmlp.backends"),
    **dict.fromkeys(("Dataset", "DeviceLoader", "load_dataset"), "xpmlp.data"),
    "TrainConfig": "xpmlp.training.config",
    "MLPClassifier": "xpmlp.estimators.classifier",
    "MLPRegressor": "xpmlp.estimators.regressor",
    **dict.fromkeys(("Model", "load"), "xpmlp.models.model"),
    **dict.fromkeys(("Callback", "Checkpoint", "History"), "xpmlp.training.records"),
    "evaluate": "xpmlp.training.evaluation",
    "train": "xpmlp.training.train",
}
"""What needs NumPy, imported when it is first asked for."""


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
