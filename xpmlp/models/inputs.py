"""Check a trained network's input, and put its columns and labels into the network's order."""

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from xpmlp.data.dataset import Dataset, described
from xpmlp.data.labels import numbers_of
from xpmlp.errors import DataError

if TYPE_CHECKING:
    from xpmlp.models.model import ModelInfo


def rows_of(images: Any, info: "ModelInfo") -> Any:
    """Return a DataFrame's columns that the network was trained on, lists as an array, and other data unchanged."""
    if hasattr(images, "columns") and hasattr(images, "to_numpy"):
        names = [str(name) for name in images.columns]
        own = info.columns or tuple(names)
        return images.iloc[:, _places(names, own, "the DataFrame")].to_numpy()
    return np.asarray(images) if isinstance(images, list | tuple) else images


def takes_numbers(info: "ModelInfo") -> bool:
    """Return whether the network was trained on numbers, not on bytes."""
    return info.scaling is not None or info.max_value == 1


def in_order(part: Dataset, info: "ModelInfo") -> Dataset:
    """Return a data set with the network's columns in the network's order, if both have column names."""
    own = info.columns
    if not own or not part.columns or part.columns == own:
        return part
    order = _places(part.columns, own, part.provenance)
    return dataclasses.replace(part, images=part.images[:, order], columns=own, scaling=info.scaling)


def _places(names: Any, own: tuple[str, ...], where: str) -> list[int]:
    missing = [name for name in own if name not in names]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{where}: no column {missing[0]!r}{more}, which the network was trained on")
    return [names.index(name) for name in own]


def require_fit(part: Dataset, info: "ModelInfo") -> None:
    """Refuse a data set with other numbers than those that the network was trained on."""
    where = part.provenance
    if part.image_shape != info.image_shape:
        found, expected = described(part.image_shape), described(info.image_shape)
        raise DataError(f"{where}: {found}: the model takes {expected}")
    if part.images.dtype == np.uint8 and not takes_numbers(info) and part.images.max() > info.max_value:
        found = f"values up to {part.images.max()}"
        raise DataError(f"{where}: {found}: the model's images go to {info.max_value}")
    if part.scaling and info.scaling is None:
        found = f"values from {part.images.min():g} to {part.images.max():g}"
        raise DataError(f"{where}: {found}: the model was trained on bytes and knows no other range")


def labels_of(part: Dataset, info: "ModelInfo") -> np.ndarray:
    """Return a data set's labels as the network's class numbers; refuse unknown classes."""

    def problem(unknown: str) -> str:
        known = ", ".join(info.class_names[:20]) + (", …" if len(info.class_names) > 20 else "")
        return f"{part.provenance}: class {unknown}: the network knows {known}"

    labels: np.ndarray = numbers_of(part.class_names, info.class_names, problem)[part.labels]
    return labels
