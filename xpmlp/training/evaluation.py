"""The mean loss and the accuracy of a network over a data set."""

import math
from collections.abc import Callable

import numpy as np

from xpmlp.backends.base import Backend, computing
from xpmlp.communication import Communicator, SingleRank, part_of
from xpmlp.data.dataset import Dataset
from xpmlp.data.loading import Batch, DeviceLoader, row_dtype
from xpmlp.errors import BackendError, DataError, TrainingError
from xpmlp.math.layout import Layout
from xpmlp.models.model import Evaluation
from xpmlp.namespaces import Array, float_name
from xpmlp.training.steps import Totals, make_evaluation_step, zero_totals


def evaluate(
    theta: Array,
    layout: Layout,
    dataset: Dataset,
    backend: Backend,
    batch_size: int = 1024,
    transfer: str = "auto",
    communicator: Communicator | None = None,
) -> Evaluation:
    """Return the mean loss and the accuracy of a network over a data set; each rank computes its part."""
    require_kinds(dataset, backend)
    n_pixels, dataset = dataset.n_inputs, dataset.as_inputs(float_name(theta.dtype))
    if n_pixels != layout.sizes[0] or len(dataset.class_names) > layout.sizes[-1]:
        raise DataError(
            f"{dataset.provenance}: {n_pixels} pixels and {len(dataset.class_names)} classes: "
            f"the network has {layout.sizes[0]} inputs and {layout.sizes[-1]} outputs"
        )
    with computing(backend, batch_size):
        step = backend.compile(make_evaluation_step(layout, dataset.max_value), donate=(0,))
        loader = DeviceLoader(dataset, backend, batch_size, transfer, reuse_buffers=True)
        evaluation = evaluate_rows(step, theta, loader, all_rows(dataset), backend, communicator or SingleRank())
    if not math.isfinite(evaluation.loss):
        raise TrainingError(
            f"{dataset.provenance}: the loss is {evaluation.loss}: the parameters are too great or not finite"
        )
    return evaluation


def evaluate_rows(
    step: Callable[[Totals, Array, Batch], Totals],
    theta: Array,
    loader: DeviceLoader,
    rows: np.ndarray,
    backend: Backend,
    communicator: Communicator,
) -> Evaluation:
    """Return the same for some rows of a loader's images; each rank computes its part."""
    totals = zero_totals(backend, float_name(theta.dtype))
    for batch in loader.batches(rows[part_of(len(rows), communicator)]):
        totals = step(totals, theta, batch)
    found = communicator.gather((float(backend.to_numpy(totals.loss)), int(backend.to_numpy(totals.correct))))
    loss, correct = sum(loss for loss, _ in found), sum(correct for _, correct in found)
    return Evaluation(loss / len(rows), correct / len(rows))


def all_rows(dataset: Dataset) -> np.ndarray:
    """Return the row numbers of all images."""
    return np.arange(len(dataset), dtype=row_dtype(len(dataset)))


def require_kinds(dataset: object, backend: object) -> None:
    """Refuse common wrong arguments: both parts of a data set, a backend's name."""
    if not isinstance(dataset, Dataset):
        raise DataError(f"a {type(dataset).__name__} where a Dataset is expected: give one part, such as data.train")
    if not isinstance(backend, Backend):
        raise BackendError(f"{backend!r} where a Backend is expected: give what get_backend(...) returns")
