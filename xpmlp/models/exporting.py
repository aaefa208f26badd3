"""Export a trained model: as an ONNX graph, a PyTorch module or scikit-learn's classifier."""

from typing import TYPE_CHECKING, Any

from xpmlp.backends.base import Backend
from xpmlp.namespaces import Array
from xpmlp.storage.files import StrPath

if TYPE_CHECKING:
    import onnx

    from xpmlp.models.model import ModelInfo


class Exportable:
    """A model with exports. Each format's writer is imported when it is used."""

    backend: Backend
    theta: Array
    info: "ModelInfo"

    def to_onnx(self, path: StrPath | None = None) -> "onnx.ModelProto":
        """Return the model as ONNX (opset 17). If a path is given, also write it there: whole, or not at all.

        The input ``X`` (n, *image_shape) takes the data set's own numbers. They are uint8, or, for a model trained on
        floats, floats of the parameters' dtype. (Floats without a scaling have `max_value` 1.) The outputs are
        ``label`` (n,), an index into `class_names`; ``name`` (n,), that name; and ``probabilities`` (n, classes). The
        metadata hold `ModelInfo` as JSON.

        Raises
        ------
        ExportError
            If the package onnx is not installed, or the network is too large for an ONNX file.
        """
        from xpmlp.models.onnx_file import to_onnx
        from xpmlp.models.onnx_graph import save

        made = to_onnx(self.backend.to_numpy(self.theta), self.info)
        if path is not None:
            save(made, path)
        return made

    def to_torch(self) -> Any:
        """Return the model as a module of PyTorch's layers on the CPU, with its own memory.

        The module takes the data set's own numbers, (n, *image_shape) or (n, d), and returns the logits, (n, classes).
        ``layers`` is an `nn.Sequential` of `nn.Linear` and `nn.ReLU`. Its input is (X − ``shift``) · ``factor``. These
        two buffers are of the parameters' dtype for bytes, and of float64 for scaled floats.

        Raises
        ------
        ExportError
            If PyTorch is not installed.
        """
        from xpmlp.models.torch_module import to_torch

        return to_torch(self.backend.to_numpy(self.theta), self.info)

    def to_sklearn(self) -> Any:
        """Return the model as scikit-learn's MLPClassifier, fitted, in float64.

        It takes the data set's own numbers, (n, d): the first layer's weights include the scaling. For two classes, the
        last layer's two columns become one, their difference. The classes are the indices into `class_names`.

        Raises
        ------
        ExportError
            If there is only one class.
        """
        from xpmlp.models.sklearn_estimator import to_sklearn

        return to_sklearn(self.backend.to_numpy(self.theta), self.info)
