"""A trained network: its file, and its predictions."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends import backend_of, get_backend, reopened
from xpmlp.backends.base import Backend, computing
from xpmlp.data.dataset import Dataset, parts_of
from xpmlp.data.preparation import AS_TRAINED, FORMS, PREPARATIONS
from xpmlp.data.scaling import Scaling
from xpmlp.errors import ArrayError, CheckpointError, ConfigError, DataError, ShapeError
from xpmlp.math.activations import softmax
from xpmlp.math.layout import Layer, Layout
from xpmlp.math.network import forward, score
from xpmlp.models.exporting import Exportable
from xpmlp.models.inputs import in_order, labels_of, require_fit, rows_of, takes_numbers
from xpmlp.namespaces import Array, array_namespace, float_name
from xpmlp.storage import tensors
from xpmlp.storage.files import StrPath

FILE = "model.safetensors"  # the file name of a run's model
CHECKPOINTS = "checkpoints"  # the folder of a run's checkpoints; each is a model too
BATCH_SIZE = 1024  # images per batch, by default


class Evaluation(NamedTuple):
    """The mean loss, and the fraction of samples classified correctly."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class ModelInfo:
    """The facts that are needed to use a network's parameters."""

    layout: Layout
    image_shape: tuple[int, ...]  # (height, width) in pixels, (height, width, 3) in colour, (d,) of other samples
    max_value: int  # the value of bytes that counts as 1
    class_names: tuple[str, ...]
    dataset: str  # the name of the data set that it was trained on
    scaling: Scaling | None = None  # how floats are scaled; None: they are not
    preparation: str = AS_TRAINED  # how the pictures were prepared: see `xpmlp.data.preparation`
    columns: tuple[str, ...] | None = None  # the column names of a table of features

    def __post_init__(self) -> None:
        shape, sizes = self.image_shape, self.layout.sizes
        if not 1 <= len(shape) <= 3 or math.prod(shape) != sizes[0] or len(self.class_names) != sizes[-1]:
            what = f"images of {' × '.join(map(str, shape))} and {len(self.class_names)} classes"
            raise ConfigError(f"{what}: the network's layers are {sizes}")
        if not 0 < self.max_value <= 255:
            raise ConfigError(f"max_value {self.max_value}: expected 1 to 255")
        if self.scaling and len(self.scaling.shift) not in (1, sizes[0]):
            raise ConfigError(f"a scaling of {len(self.scaling.shift)} values: the network takes {sizes[0]}")
        if self.columns is not None and len(self.columns) != sizes[0]:
            raise ConfigError(f"{len(self.columns)} columns: the network takes {sizes[0]}")
        if self.preparation not in PREPARATIONS:
            raise ConfigError(f"preparation {self.preparation!r}: expected {' or '.join(PREPARATIONS)}")


def info_of(layout: Layout, part: Dataset, name: str) -> ModelInfo:
    """Return the facts about a network that is trained on a data set."""
    same = ("image_shape", "max_value", "class_names", "scaling", "preparation", "columns")
    return ModelInfo(layout, dataset=name, **{field: getattr(part, field) for field in same})


def write_model(path: StrPath, theta: np.ndarray, info: ModelInfo) -> None:
    """Write the parameters with all that is needed to use them: the tensors W1, b1, … and a description."""
    tensors.write(path, "model", to_tensors(theta, info.layout), describe(info, theta.dtype))


def load(path: StrPath, backend: str | Backend = "auto") -> "Model":
    """Load a trained network on any backend, whichever backend trained it.

    Parameters
    ----------
    path : path
        The file of a model or a checkpoint, or the folder of a run. An unfinished run's last checkpoint is loaded.
    backend : str or Backend
        The backend to compute on, as in `get_backend`.

    Raises
    ------
    CheckpointError
        If there is no model, or it is damaged, of a newer format or written by another program.
    """
    while True:
        file = find_model(path)
        try:
            found = tensors.read(file, ("model", "checkpoint"))
            break
        except CheckpointError:
            if not Path(path).is_dir() or file.exists():
                raise  # else the run continues and has a newer one
    return _placed(backend, *from_tensors(found, file))


def find_model(path: StrPath) -> Path:
    """Return a model's file, from that file or from a run's folder: its model, or else its last checkpoint."""
    if not os.fspath(path):
        raise CheckpointError("the model has no name: expected a model's file or a run's folder")
    path = Path(path)
    if not os.path.lexists(path):
        raise CheckpointError(f"{path}: no such file or folder; expected a run's folder or a model's file")
    if not path.is_dir():
        return path
    if (path / FILE).exists():
        return path / FILE
    checkpoints = list_checkpoints(path)
    if not checkpoints:
        raise CheckpointError(f"{path} is a folder without {FILE} or checkpoints: expected a run's, or a model's file")
    return checkpoints[-1]


def list_checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints, in order."""
    found = (run / CHECKPOINTS).glob("step-*.safetensors")
    return sorted(found, key=lambda path: (len(path.name), path.name))  # a step of nine digits sorts after one of eight


class Model(Exportable):
    """A trained network on a backend's device; `xpmlp.train` and `xpmlp.load` return one.

    A model can be pickled and copied. It opens on the same library and device if they can run, else on NumPy.

    Parameters
    ----------
    backend : Backend
        The backend to compute on.
    theta : array, shape (info.layout.size,)
        Its parameters, on the backend's device.
    info : ModelInfo
        The facts about the parameters.
    test : Dataset or None
        The default data of `evaluate`. They are not saved, pickled or copied.

    Attributes
    ----------
    layout, image_shape, max_value, class_names, dataset, scaling, preparation
        As `ModelInfo` has them.
    """

    def __init__(self, backend: Backend, theta: Array, info: ModelInfo, test: Dataset | None = None) -> None:
        self.backend, self.theta, self.info, self._test = backend, theta, info, test
        self.layout, self.image_shape, self.max_value = info.layout, info.image_shape, info.max_value
        self.class_names, self.dataset = info.class_names, info.dataset
        self.scaling, self.preparation = info.scaling, info.preparation

    def __repr__(self) -> str:
        widths = "-".join(map(str, self.layout.sizes))
        return f"<xpmlp model {widths} of {self.dataset}, {self.theta.dtype}, {self.backend}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.backend.spec, self.backend.to_numpy(self.theta), self.info)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Each layer's weights (fan_in × fan_out) and biases (1 × fan_out), on the device."""
        return self.layout.unflatten(self.theta)

    def to(self, backend: str | Backend) -> "Model":
        """Return the same model on another backend, named as in `get_backend`."""
        return _placed(backend, self.backend.to_numpy(self.theta), self.info, self._test)

    def save(self, path: StrPath) -> None:
        """Write the model to a safetensors file for `xpmlp.load`: whole, or not at all."""
        write_model(path, self.backend.to_numpy(self.theta), self.info)

    def evaluate(self, data: Any = None) -> Evaluation:
        """Return the mean loss and the accuracy over a data set.

        Parameters
        ----------
        data : LoadedData, Dataset, (X, y) or None
            The test part of a loaded data set is used. None: the test part of the data that the model was trained on.

        Raises
        ------
        DataError
            If there are no such data, or their images or classes do not fit the network.
        """
        part = self._test
        if data is not None:
            first, second = parts_of(data)
            part = second or first
        if part is None:
            raise DataError("the model has no test data of its own: give evaluate a data set, or (X, y)")
        part = in_order(part, self.info)
        require_fit(part, self.info)
        labels = labels_of(part, self.info)
        with np.errstate(all="ignore"):
            _, loss, correct = score(self.logits(part.images), labels)
        assert correct is not None
        return Evaluation(float(loss), int(correct) / len(part))

    def _scaled(self, rows: Array) -> Array:
        """Return rows on the device: floats scaled in their own dtype, bytes scaled in the parameters' dtype."""
        assert self.scaling is not None
        xp = array_namespace(rows=rows)
        if rows.dtype == xp.uint8:
            rows = xp.astype(rows, self.theta.dtype)
        dtype = float_name(rows.dtype)
        shift, factor = (self.backend.asarray(array) for array in self.scaling.arrays(dtype))
        # What the shift lost by rounding: without it, the difference loses digits if a column is far from 0.
        rest = self.backend.asarray(self.scaling.rest_of_shift(dtype))
        return (rows - shift - rest) * factor

    def predict(self, images: Array, batch_size: int = BATCH_SIZE) -> Array:
        """Return each image's class, an index into `class_names`; see `predict_proba` for the arguments."""
        with computing(self.backend, batch_size):
            S = self.logits(images, batch_size)
            return array_namespace(S=S).argmax(S, axis=1)

    def predict_proba(self, images: Array, batch_size: int = BATCH_SIZE) -> Array:
        """Return the probability of each class (F6).

        Parameters
        ----------
        images : array, shape (n, *image_shape) or (n, d), d being their product
            The kind of numbers that the network was trained on. Without a `scaling`: bytes from 0 to `max_value`, or
            floats from 0 to 1. With one: unscaled numbers, which are scaled as the data set's were. An array of NumPy,
            or of the backend's library on its device; a list; or a DataFrame, whose columns are found by name.
        batch_size : int
            Images per batch.

        Returns
        -------
        array, shape (n, classes)
            A NumPy array if the images are one, else an array on the device.

        Raises
        ------
        ArrayError, ShapeError
            If the images are of another library, device or size, or are neither uint8 nor floats.
        DataError
            If a NumPy array holds NaN or infinity, or a DataFrame lacks a column.
        """
        with computing(self.backend, batch_size):
            return softmax(self.logits(images, batch_size))

    def logits(self, images: Array, batch_size: int = BATCH_SIZE) -> Array:
        """Return the last layer's outputs S (F5), (n, classes); see `predict_proba` for the arguments."""
        if batch_size < 1:
            raise ConfigError(f"batch size {batch_size}: expected at least 1")
        images = rows_of(images, self.info)
        is_host = isinstance(images, np.ndarray)
        if is_host and images.dtype.kind == "f" and not np.isfinite(images).all():
            raise DataError("images hold NaN or infinity: expected finite numbers")
        xp = array_namespace(images=images) if is_host else array_namespace(images=images, theta=self.theta)
        there, here = (getattr(array, "device", None) for array in (images, self.theta))
        if type(there) is type(here) and there != here:  # unknown for JAX's traced arrays
            found = backend_of(images)
            way_out = f"move them, or call to({found.spec!r}) of the model"
            raise ArrayError(f"images are on {found}, the model is on {self.backend}: {way_out}")
        if is_host and images.dtype.kind in "iub" and images.dtype != np.uint8 and takes_numbers(self.info):
            images = images.astype(np.float64)
        is_bytes = images.dtype == xp.uint8
        if not is_bytes and not xp.isdtype(images.dtype, "real floating"):
            expected = f"expected uint8, values from 0 to {self.max_value}, or floats"
            raise ArrayError(f"images are {images.dtype}: {expected}")
        n, n_pixels = images.shape[0], self.layout.sizes[0]
        if tuple(images.shape[1:]) not in (self.image_shape, (n_pixels,)):
            shapes = dict.fromkeys((", ".join(map(str, self.image_shape)), str(n_pixels)))
            expected = f"expected {' or '.join(f'(n, {shape})' for shape in shapes)}"
            raise ShapeError(f"images have shape {tuple(images.shape)}: {expected}")
        rows, parts = xp.reshape(images, (n, n_pixels)), []
        with computing(self.backend, batch_size):
            layers, scaling = self.layers, self.scaling
            share = 1 / self.max_value if is_bytes and scaling is None else 1.0
            dtype = images.dtype if is_bytes and not scaling else float_name(self.theta.dtype)
            for first in range(0, max(1, n), batch_size):
                batch = rows[first : min(first + batch_size, n), :]
                if is_host:
                    batch = scaling.scaled(batch, dtype) if scaling else batch.astype(dtype, copy=False)
                    batch = self.backend.asarray(batch)
                if scaling and not is_host:
                    batch = self._scaled(batch)
                X = array_namespace(theta=self.theta).astype(batch, self.theta.dtype) * share
                S, _ = forward(layers, X)
                parts.append(self.backend.to_numpy(S) if is_host else S)
            return xp.concat(parts, axis=0)


def _placed(backend: str | Backend, theta: np.ndarray, info: ModelInfo, test: Dataset | None = None) -> Model:
    device = backend if isinstance(backend, Backend) else get_backend(backend, theta.dtype.name)
    with computing(device, BATCH_SIZE):
        return Model(device, device.asarray(theta, copy=True), info, test)


def _reopened(spec: str, theta: np.ndarray, info: ModelInfo) -> Model:
    """Return a model that was pickled or copied."""
    return _placed(reopened(spec, theta.dtype.name), theta, info)


def to_tensors(theta: np.ndarray, layout: Layout) -> dict[str, np.ndarray]:
    """Return the parameters as in a file: W1 (fan_in × fan_out), b1 (1 × fan_out), …."""
    return {
        f"{letter}{k}": array
        for k, layer in enumerate(layout.unflatten(theta), start=1)
        for letter, array in zip("Wb", layer, strict=True)
    }


def describe(info: ModelInfo, dtype: np.dtype) -> dict[str, Any]:
    """Return a file's description of its parameters."""
    others = {name: value for name, value in vars(info).items() if name not in ("layout", "scaling", "columns")}
    further = {"scaling": info.scaling and asdict(info.scaling), "columns": info.columns}
    further = {name: value for name, value in further.items() if value is not None}
    return {"sizes": info.layout.sizes, "dtype": dtype.name, **others, **further}


def from_tensors(found: tensors.Contents, path: Path) -> tuple[np.ndarray, ModelInfo]:
    """Return a file's parameters and their description; refuse a file that contradicts its description."""
    record = found.description
    try:
        shape, names, dtype = map(int, record["image_shape"]), record["class_names"], record["dtype"]
        if dtype not in ("float32", "float64") or not all(isinstance(name, str) for name in names):
            raise ValueError(f"dtype {dtype}, classes {names}")
        layout, most = Layout(tuple(record["sizes"])), int(record["max_value"])
        dataset, scaling = str(record["dataset"]), record.get("scaling")
        scaling = scaling and Scaling(tuple(scaling["shift"]), tuple(scaling["factor"]))
        # Files of format 1 do not say how pictures were prepared.
        preparation = record.get("preparation", dataset if dataset in FORMS else AS_TRAINED)
        columns = record.get("columns")
        columns = columns and tuple(map(str, columns))
        info = ModelInfo(layout, tuple(shape), most, tuple(names), dataset, scaling, preparation, columns)
    except (KeyError, TypeError, ValueError) as error:
        problem = f"no {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{path} is damaged: its description is no network's ({problem})") from None
    layers = []
    for k, (fan_in, fan_out) in enumerate(info.layout.shapes, start=1):
        expected = {f"W{k}": (fan_in, fan_out), f"b{k}": (1, fan_out)}
        require_tensors(found.tensors, expected, dtype, path)
        layers.append((found.tensors[f"W{k}"], found.tensors[f"b{k}"]))
    if not found.is_intact:
        raise CheckpointError(f"{path} is damaged: its contents have not the SHA-256 sum that they were written with")
    return info.layout.flatten(layers), info


def require_tensors(
    found: Mapping[str, np.ndarray], expected: Mapping[str, Sequence[int]], dtype: str, path: Path
) -> None:
    """Refuse a file in which a tensor is missing, or has another shape or dtype."""
    for name, shape in expected.items():
        tensor, wanted = found.get(name), f"expected {dtype} {tuple(shape)}"
        if tensor is None:
            raise CheckpointError(f"{path}: tensor {name} is missing: {wanted}")
        if tensor.dtype.name != dtype or tensor.shape != tuple(shape):
            raise CheckpointError(f"{path}: tensor {name} is {tensor.dtype} {tensor.shape}: {wanted}")
