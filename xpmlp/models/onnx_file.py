"""A trained model as an ONNX file. It maps the data set's own numbers to the class, its name and the probabilities."""

import json
from typing import TYPE_CHECKING

import numpy as np

from xpmlp.models.model import ModelInfo, describe
from xpmlp.models.onnx_graph import Graph, add_network

if TYPE_CHECKING:
    import onnx


def to_onnx(theta: np.ndarray, info: ModelInfo) -> "onnx.ModelProto":
    """Return a model as ONNX; see `Model.to_onnx`."""
    dtype, n_classes = theta.dtype.name, len(info.class_names)
    graph = Graph(dtype)
    S = add_network(graph, _scaled_rows(graph, info), info.layout.unflatten(theta), "relu")
    names = graph.constant(np.array(info.class_names), "class_names")
    label = graph.add("ArgMax", S, name="label", axis=1, keepdims=0)
    graph.output(label, "int64", ())
    graph.output(graph.add("Gather", names, label, name="name"), "U", ())
    graph.output(graph.add("Softmax", S, name="probabilities", axis=1), dtype, (n_classes,))
    described = describe(info, theta.dtype)
    return graph.finish({name: json.dumps(value, ensure_ascii=False) for name, value in described.items()})


def _scaled_rows(graph: Graph, info: ModelInfo) -> str:
    """Add the input, and the nodes that scale it to the first layer's rows."""
    shape, scaling, most = info.image_shape, info.scaling, info.max_value
    takes_bytes = scaling is None and most > 1  # if 1 is the greatest value, bytes and floats are the same numbers
    X = graph.input("X", "uint8" if takes_bytes else graph.dtype, shape)
    if len(shape) > 1:
        X = graph.add("Flatten", X, axis=1)
    if takes_bytes:
        return graph.add("Mul", graph.cast(X, graph.dtype), graph.constant(1 / most, "share"))
    if scaling is None:
        return X
    # In float64, as in xpmlp: otherwise the difference loses digits if a column is far from 0.
    shift, factor = scaling.arrays("float64")
    difference = graph.add("Sub", graph.cast(X, "float64"), graph.constant(shift, "shift"))
    return graph.cast(graph.add("Mul", difference, graph.constant(factor, "factor")), graph.dtype)
