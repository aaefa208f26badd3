"""The multilayer perceptron, written once against the Python Array API standard."""

from typing import TYPE_CHECKING, Any

from xpmlp.errors import (
    ArrayError,
    BackendError,
    CheckpointError,
    CommunicationError,
    ConfigError,
    DataError,
    ExportError,
    ShapeError,
    TrainingError,
    XpmlpError,
)
from xpmlp.math.activations import log_softmax, softmax
from xpmlp.math.layout import Layout, init
from xpmlp.math.network import backward, forward, score

if TYPE_CHECKING:
    from xpmlp.backends import Backend, available_backends, backend_of, get_backend
    from xpmlp.data import Dataset, DeviceLoader, LoadedData, Scaling, load_dataset
    from xpmlp.estimators.classifier import MLPClassifier
    from xpmlp.estimators.ensemble import MLPEnsemble
    from xpmlp.estimators.epochs import EpochFigures
    from xpmlp.estimators.regressor import MLPRegressor
    from xpmlp.estimators.search import GridSearchCV, RandomizedSearchCV
    from xpmlp.math.optimizers import Optimizer, adam, adamw, sgd
    from xpmlp.math.schedules import constant, cosine, one_cycle
    from xpmlp.models.model import Evaluation, Model, ModelInfo, load
    from xpmlp.training.config import TrainConfig
    from xpmlp.training.records import Callback, Checkpoint, EpochMetrics, History, Plan
    from xpmlp.training.train import train

__version__ = "0.1.0"

_LAZY = {
    name: module
    for module, names in {
        "xpmlp.backends": ("Backend", "available_backends", "backend_of", "get_backend"),
        "xpmlp.data": ("Dataset", "DeviceLoader", "LoadedData", "Scaling", "load_dataset"),
        "xpmlp.estimators.classifier": ("MLPClassifier",),
        "xpmlp.estimators.ensemble": ("MLPEnsemble",),
        "xpmlp.estimators.epochs": ("EpochFigures",),
        "xpmlp.estimators.regressor": ("MLPRegressor",),
        "xpmlp.estimators.search": ("GridSearchCV", "RandomizedSearchCV"),
        "xpmlp.math.optimizers": ("Optimizer", "adam", "adamw", "sgd"),
        "xpmlp.math.schedules": ("constant", "cosine", "one_cycle"),
        "xpmlp.models.model": ("Evaluation", "Model", "ModelInfo", "load"),
        "xpmlp.training.config": ("TrainConfig",),
        "xpmlp.training.records": ("Callback", "Checkpoint", "EpochMetrics", "History", "Plan"),
        "xpmlp.training.train": ("train",),
    }.items()
    for name in names
}
"""Names that need NumPy or are seldom used, with the module that they are imported from on first use."""

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
    "EpochFigures",
    "EpochMetrics",
    "Evaluation",
    "ExportError",
    "GridSearchCV",
    "History",
    "Layout",
    "LoadedData",
    "MLPClassifier",
    "MLPEnsemble",
    "MLPRegressor",
    "Model",
    "ModelInfo",
    "Optimizer",
    "Plan",
    "RandomizedSearchCV",
    "Scaling",
    "ShapeError",
    "TrainConfig",
    "TrainingError",
    "XpmlpError",
    "adam",
    "adamw",
    "available_backends",
    "backend_of",
    "backward",
    "constant",
    "cosine",
    "forward",
    "get_backend",
    "init",
    "load",
    "load_dataset",
    "log_softmax",
    "one_cycle",
    "score",
    "sgd",
    "softmax",
    "train",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
