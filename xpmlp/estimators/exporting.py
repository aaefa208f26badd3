"""Export a fitted estimator or ensemble: as an ONNX graph, a PyTorch module, or scikit-learn's ensemble."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import Bunch

from xpmlp.backends import on_host
from xpmlp.errors import ExportError
from xpmlp.estimators.labels import MULTILABEL, Labels
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
    """Return a fitted estimator as ONNX; see `Movable.to_onnx`."""
    return _graph_of([estimator], type(estimator).__name__)


def ensemble_to_onnx(ensemble: Any) -> "onnx.ModelProto":
    """Return a fitted ensemble as ONNX; see `MLPEnsemble.to_onnx`."""
    return _graph_of(ensemble.estimators_, type(ensemble).__name__)


def _graph_of(networks: Sequence[Any], name: str) -> "onnx.ModelProto":
    """Return one graph of fitted networks of the same settings, which predicts their mean."""
    first, layers = networks[0], [layers_of(network) for network in networks]
    W = layers[0][0][0]
    dtype = W.dtype.name
    graph = Graph(dtype)
    X = graph.input("X", dtype, (W.shape[0],))
    each = []
    for k, (network, own) in enumerate(zip(networks, layers, strict=True), start=1):
        S = add_network(graph, X, own, network._between(), f"network{k}_" if len(networks) > 1 else "")
        each.append(HEADS[network.out_activation_](graph, S))
    P = each[0] if len(each) == 1 else graph.add("Div", graph.add("Sum", *each), graph.constant(float(len(each))))
    if hasattr(first, "classes_"):
        _add_labels(graph, P, first._label_binarizer.y_type_, _numbers_or_names(first.classes_))
    elif first.n_outputs_ == 1:
        graph.output(graph.add("Reshape", P, graph.constant(np.array([-1])), name="prediction"), dtype, ())
    else:
        graph.output(graph.add("Identity", P, name="prediction"), dtype, (first.n_outputs_,))
    return graph.finish({"estimator": name})


def ensemble_to_sklearn(ensemble: Any) -> Any:
    """Return a fitted ensemble as scikit-learn's; see `MLPEnsemble.to_sklearn`."""
    from sklearn.ensemble import VotingClassifier, VotingRegressor

    first = ensemble.estimators_[0]
    networks = [(f"network{k}", network.to_sklearn()) for k, network in enumerate(ensemble.estimators_, start=1)]
    if not hasattr(first, "classes_"):
        if first.n_outputs_ > 1:
            raise ExportError(f"{first.n_outputs_} outputs: scikit-learn's VotingRegressor has one; use to_onnx")
        return _voting(VotingRegressor(networks))
    labels, n_classes = first._label_binarizer, len(first.classes_)
    if n_classes == 1:
        raise ExportError("a single class: scikit-learn's VotingClassifier needs two; use to_onnx")
    if labels.y_type_ == MULTILABEL:
        raise ExportError("several labels for a sample: scikit-learn's VotingClassifier takes one; use to_onnx")
    voting = _voting(VotingClassifier(networks, voting="soft"))
    voting.le_ = LabelEncoder().fit(on_host(labels.classes_))
    voting.classes_ = voting.le_.classes_
    numbers = np.arange(n_classes)
    for network in voting.estimators_:  # which scikit-learn fits to the classes' numbers
        network.classes_, network._label_binarizer = numbers, Labels(numbers, labels.y_type_).to_sklearn()
    return voting


def _voting(voting: Any) -> Any:
    """Return an ensemble of scikit-learn's whose members are fitted as one that is."""
    voting.estimators_ = [network for _, network in voting.estimators]
    voting.named_estimators_ = Bunch(**dict(voting.estimators))
    if hasattr(voting.estimators_[0], "feature_names_in_"):
        voting.feature_names_in_ = voting.estimators_[0].feature_names_in_
    return voting


def _add_labels(graph: Graph, P: str, kind: str, classes: np.ndarray) -> None:
    """Add a classifier's two outputs. P has a probability for each class, or only that of the second."""
    n_classes = len(classes)
    if kind == MULTILABEL:
        label = graph.cast(graph.add("Greater", P, graph.constant(0.5)), classes.dtype.name, name="label")
        graph.output(label, classes.dtype, (n_classes,))
        graph.output(graph.add("Identity", P, name="probabilities"), graph.dtype, (n_classes,))
        return
    if kind == "multiclass":
        index, both = graph.add("ArgMax", P, axis=1, keepdims=0), graph.add("Identity", P, name="probabilities")
    else:
        row = graph.add("Reshape", P, graph.constant(np.array([-1])))
        index = graph.cast(graph.add("Greater", row, graph.constant(0.5)), "int64")
        both = graph.add("Concat", graph.add("Sub", graph.constant(1.0), P), P, name="probabilities", axis=1)
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
