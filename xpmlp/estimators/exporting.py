"""Export a fitted estimator: as an ONNX graph or a PyTorch module."""

from typing import TYPE_CHECKING, Any

import numpy as np

from xpmlp.backends import on_host
from xpmlp.errors import ExportError
from xpmlp.estimators.labels import MULTILABEL
from xpmlp.models.onnx_graph import Graph, add_network
from xpmlp.namespaces import float_name

if TYPE_CHECKING:
    import onnx

HEADS = {
    "softmax": lambda graph, S: graph.add("Softmax", S, axis=1),
    "logistic": lambda graph, S: graph.add("Sigmoid", S),
    "identity": lambda graph, S: S,
    "exp": lambda graph, S: graph.add("Exp", S),
}
"""The function from the sums to the predictions, by `out_activation_`."""


def layers_of(estimator: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return a fitted estimator's weights and biases on the host, in the dtype of its computation."""
    dtype = estimator.dtype or float_name(estimator.coefs_[0].dtype)
    pairs = zip(estimator.coefs_, estimator.intercepts_, strict=True)
    return [(on_host(W).astype(dtype, copy=False), on_host(b).astype(dtype, copy=False)) for W, b in pairs]


def to_onnx(estimator: Any) -> "onnx.ModelProto":
    """Return a fitted estimator as ONNX; see `Perceptron.to_onnx`."""
    layers = layers_of(estimator)
    dtype = layers[0][0].dtype.name
    graph = Graph(dtype)
    X = graph.input("X", dtype, (layers[0][0].shape[0],))
    P = HEADS[estimator.out_activation_](graph, add_network(graph, X, layers, estimator._between()))
    if hasattr(estimator, "classes_"):
        _add_labels(graph, P, estimator._label_binarizer.y_type_, _numbers_or_names(estimator.classes_))
    elif estimator.n_outputs_ == 1:
        graph.output(graph.add("Reshape", P, graph.constant(np.array([-1])), name="prediction"), dtype, ())
    else:
        graph.output(graph.add("Identity", P, name="prediction"), dtype, (estimator.n_outputs_,))
    return graph.finish({"estimator": type(estimator).__name__})


def _add_labels(graph: Graph, P: str, kind: str, classes: np.ndarray) -> None:
    """Add a classifier's two outputs. P has a probability for each class, or only that of the second."""
    n_classes, half, one = len(classes), graph.constant(0.5), graph.constant(1.0)
    if kind == MULTILABEL:
        label = graph.cast(graph.add("Greater", P, half), classes.dtype.name, name="label")
        graph.output(label, classes.dtype, (n_classes,))
        graph.output(graph.add("Identity", P, name="probabilities"), graph.dtype, (n_classes,))
        return
    if kind == "multiclass":
        index, both = graph.add("ArgMax", P, axis=1, keepdims=0), graph.add("Identity", P, name="probabilities")
    else:
        row = graph.add("Reshape", P, graph.constant(np.array([-1])))
        index = graph.cast(graph.add("Greater", row, half), "int64")
        both = graph.add("Concat", graph.add("Sub", one, P), P, name="probabilities", axis=1)
        classes = classes[[0, -1]]  # a single class is both columns
        n_classes = 2
    graph.output(graph.add("Gather", graph.constant(classes, "classes"), index, name="label"), classes.dtype, ())
    graph.output(both, graph.dtype, (n_classes,))


def _numbers_or_names(classes: Any) -> np.ndarray:
    """Return classes as an array of a type that ONNX has; refuse others."""
    array = np.asarray(on_host(classes))
    if array.dtype.kind == "O" and all(isinstance(name, str) for name in array):
        array = array.astype(str)
    if array.dtype.kind not in "biufU" or (array.dtype.itemsize > 8 and array.dtype.kind != "U"):
        kind = type(array[0]).__name__ if array.dtype.kind == "O" else array.dtype
        raise ExportError(f"classes_ are {kind}: expected numbers, booleans or strings, which ONNX has")
    return array
