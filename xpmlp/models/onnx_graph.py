"""A network as the nodes of an ONNX graph: the part that models and estimators share."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xpmlp.errors import ExportError
from xpmlp.math.elements import GELU_CUBE, GELU_SCALE, LEAK
from xpmlp.storage.files import StrPath, write_whole

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 17, 8
"""The version of the operators, and the lowest version of the format that carries them. Runtimes of 2022 read both."""

MOST_BYTES = 2**31 - 2**20
"""The limit of the parameters in one file: a protobuf message ends at 2 GiB, and the nodes take a little."""


class Graph:
    """The nodes and constants of a graph. Each method that adds one returns the name of its output.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        The dtype of the computation, and of the numbers given to `constant`.

    Raises
    ------
    ExportError
        If the package onnx is not installed.
    """

    def __init__(self, dtype: str) -> None:
        try:
            import onnx
        except ImportError:
            raise ExportError("onnx is not installed: pip install 'xpmlp[export]'") from None
        self.onnx, self.dtype = onnx, dtype
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._n_bytes = 0

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """Add a node of an operator with one output, and return the output's name."""
        name = name or f"{operator}_{len(self._nodes)}"
        self._nodes.append(self.onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, name: str | None = None) -> str:
        """Add an array unchanged, or a Python float as a number of the graph's dtype."""
        array = np.array(value, self.dtype) if isinstance(value, float) else np.ascontiguousarray(value)
        name = name or f"constant_{len(self._constants)}"
        self._n_bytes += array.nbytes
        if self._n_bytes > MOST_BYTES:
            raise ExportError(f"more than {MOST_BYTES / 1e9:.2f} GB of parameters: an ONNX file is below 2 GiB")
        self._constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def cast(self, value: str, dtype: str, name: str | None = None) -> str:
        """Add a cast of a value to another type."""
        return self.add("Cast", value, name=name, to=self._type_of(np.dtype(dtype)))

    def input(self, name: str, dtype: str, shape: tuple[int, ...]) -> str:
        """Declare an input of any number of samples of one shape."""
        self._inputs.append(self._declared(name, np.dtype(dtype), shape))
        return name

    def output(self, name: str, dtype: np.dtype | str, shape: tuple[int, ...]) -> None:
        """Declare a node's output, one value of a shape per sample, as an output of the graph."""
        self._outputs.append(self._declared(name, np.dtype(dtype), shape))

    def _declared(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> Any:
        return self.onnx.helper.make_tensor_value_info(name, self._type_of(dtype), ["n", *shape])

    def _type_of(self, dtype: np.dtype) -> int:
        if dtype.kind == "U":
            return int(self.onnx.TensorProto.STRING)
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(dtype))

    def finish(self, metadata: Mapping[str, str]) -> "onnx.ModelProto":
        """Return the graph as a model, after onnx's checker has accepted it."""
        helper = self.onnx.helper
        graph = helper.make_graph(self._nodes, "xpmlp", self._inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="xpmlp")
        helper.set_model_props(model, dict(metadata))
        self.onnx.checker.check_model(model, full_check=True)
        return model


def save(model: "onnx.ModelProto", path: StrPath) -> None:
    """Write an ONNX model to a file: whole, or not at all."""
    write_whole(path, model.SerializeToString(deterministic=True))


def add_network(
    graph: Graph,
    X: str,
    layers: Sequence[tuple[np.ndarray, np.ndarray]],
    activation: str | Sequence[str],
    prefix: str = "",
) -> str:
    """Add the computation of `xpmlp.math.network.forward`, and return the name of the sums S.

    Parameters
    ----------
    graph : Graph
        The graph to extend.
    X : str
        The name of the samples, (n, d), of the graph's dtype.
    layers : sequence of (W, b)
        On the host; W (fan_in, fan_out), b of fan_out numbers.
    activation : str or sequence of str
        As in `forward`.
    prefix : str
        The beginning of the parameters' names, W1, b1, …: another one for each network of a graph.
    """
    A, n_hidden = X, len(layers) - 1
    each = [activation] * n_hidden if isinstance(activation, str) else list(activation)
    for k, ((W, b), name) in enumerate(zip(layers, [*each, "identity"], strict=True), start=1):
        if name not in ACTIVATIONS:
            raise ExportError(f"activation {name!r}: what ONNX can be given is {', '.join(ACTIVATIONS)}")
        W, b = W.astype(graph.dtype, copy=False), b.astype(graph.dtype, copy=False).reshape(-1)
        Z = graph.add("Gemm", A, graph.constant(W, f"{prefix}W{k}"), graph.constant(b, f"{prefix}b{k}"))
        A = ACTIVATIONS[name](graph, Z)
    return A


def _leaky_relu(graph: Graph, Z: str) -> str:
    # Not LeakyRelu: its slope is float32's 0.01 even in float64.
    return graph.add("Max", Z, graph.add("Mul", Z, graph.constant(LEAK)))


def _elu(graph: Graph, Z: str) -> str:
    zero, one = graph.constant(0.0), graph.constant(1.0)
    below = graph.add("Sub", graph.add("Exp", graph.add("Min", Z, zero)), one)
    return graph.add("Add", graph.add("Max", Z, zero), below)


def _softplus(graph: Graph, Z: str) -> str:
    zero, one = graph.constant(0.0), graph.constant(1.0)
    e = graph.add("Exp", graph.add("Neg", graph.add("Abs", Z)))
    return graph.add("Add", graph.add("Max", Z, zero), graph.add("Log", graph.add("Add", e, one)))


def _silu(graph: Graph, Z: str) -> str:
    # Not Z times its Sigmoid: older onnxruntimes fuse them to an operator that they lack in float64.
    return graph.add("Div", Z, graph.add("Add", graph.add("Exp", graph.add("Neg", Z)), graph.constant(1.0)))


def _gelu(graph: Graph, Z: str) -> str:
    cube = graph.add("Mul", graph.add("Mul", graph.add("Mul", Z, Z), Z), graph.constant(GELU_CUBE))
    u = graph.add("Mul", graph.add("Add", Z, cube), graph.constant(GELU_SCALE))
    t = graph.add("Add", graph.add("Tanh", u), graph.constant(1.0))
    return graph.add("Mul", graph.add("Mul", Z, graph.constant(0.5)), t)


ACTIVATIONS: dict[str, Callable[[Graph, str], str]] = {
    "relu": lambda graph, Z: graph.add("Relu", Z),
    "identity": lambda graph, Z: Z,
    "logistic": lambda graph, Z: graph.add("Sigmoid", Z),
    "tanh": lambda graph, Z: graph.add("Tanh", Z),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "softplus": _softplus,
    "silu": _silu,
    "gelu": _gelu,
}
"""The activations of `xpmlp.math.activations`, from operators that onnxruntime also has in float64. It lacks Elu and
Softplus there."""
