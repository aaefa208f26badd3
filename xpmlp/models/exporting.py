"""What a trained model becomes in other programs: an ONNX graph, a module of PyTorch, scikit-learn's classifier."""

from typing import TYPE_CHECKING, Any

from xpmlp.backends.base import Backend
from xpmlp.namespaces import Array
from xpmlp.storage.files import StrPath

if TYPE_CHECKING:
    import onnx

    from xpmlp.models.model import ModelInfo


class Exportable:
    """A model that goes elsewhere; what writes each form is imported when it is asked for."""

    backend: Backend
    theta: Array
    info: "ModelInfo"

    def to_onnx(self, path: StrPath | None = None) -> "onnx.ModelProto":
        """Return the model as ONNX (opset 17), and write it where a path is given: whole, or not at all.

        Its input ``X`` (n, *image_shape) takes the data set's own numbers: uint8, or floats of the parameters' dtype
        where it was trained on floats (those without a scaling have `max_value` 1). Its outputs are ``label`` (n,), an
        index into `class_names`; ``name`` (n,), that name; ``probabilities`` (n, classes). What `ModelInfo` has is in
        the metadata, as JSON.

        Raises
        ------
        ExportError
            If the package onnx is not installed, or the network is greater than such a file can be.
        """
        from xpmlp.models.onnx_file import to_onnx
        from xpmlp.models.onnx_graph import save

        made = to_onnx(self.backend.to_numpy(self.theta), self.info)
        if path is not None:
            save(made, path)
        return made

    def to_torch(self) -> Any:
        """Return the model as a module of PyTorch's layers on the CPU, of its own memory.

        It goes from the data set's own numbers, (n, *image_shape) or (n, d), to the logits, (n, classes). ``layers`` is
        an `nn.Sequential` of `nn.Linear` and `nn.ReLU`. It is given (X − ``shift``) · ``factor``: two buffers, of the
        parameters' dtype where bytes are taken, of float64 where floats are scaled.

        Raises
        ------
        ExportError
            If PyTorch is not installed.
        """
        from xpmlp.models.torch_module import to_torch

        return to_torch(self.backend.to_numpy(self.theta), self.info)

    def to_sklearn(self) -> Any:
        """Return the model as scikit-learn's MLPClassifier, fitted, in float64.

        It takes the data set's own numbers, (n, d): the scaling is in the first layer's weights. Of two classes the
        last layer's columns become one, their difference. Its classes are the indices into `class_names`.

        Raises
        ------
        ExportError
            If there is a single class.
        """
        from xpmlp.models.sklearn_estimator import to_sklearn

        return to_sklearn(self.backend.to_numpy(self.theta), self.info)
