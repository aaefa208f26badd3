"""Arrays and their description in one safetensors file, with a sum that shows damage.

The description is JSON under the metadata's only key, ``xpmlp``. (Several keys would have no fixed order.) It holds the
file's ``kind``, the ``format_version``, the writer's additions, and ``sum``, the SHA-256 of everything else.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpmlp.errors import CheckpointError
from xpmlp.storage.files import StrPath, write_whole

FORMAT_VERSION = 2  # of the files written here; a reader refuses newer ones


class Contents(NamedTuple):
    """The contents of a file."""

    description: dict[str, Any]
    tensors: dict[str, np.ndarray]
    is_intact: bool
    """Whether the file's sum matches its contents. A reader checks this after all else."""


def write(path: StrPath, kind: str, tensors: Mapping[str, np.ndarray], description: Mapping[str, Any]) -> None:
    """Write arrays, of any byte order and strides, and a description that fits JSON: whole, or not at all."""
    from safetensors.numpy import save  # 60 ms that a plain `import xpmlp` need not pay

    # It would write arrays of another order or byte order wrongly.
    ordinary = {name: np.asarray(a, a.dtype.newbyteorder("="), order="C") for name, a in tensors.items()}
    described = {**description, "kind": kind, "format_version": FORMAT_VERSION}
    described = json.loads(json.dumps(described, allow_nan=False))  # as a reader gets it
    described["sum"] = _sum(described, ordinary)
    write_whole(path, save(ordinary, {"xpmlp": json.dumps(described, ensure_ascii=False, allow_nan=False)}))


def read(path: StrPath, kinds: tuple[str, ...]) -> Contents:
    """Return the arrays and the description in a file of one of these kinds."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    expected = f"expected a {' or '.join(kinds)} that xpmlp wrote"
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: {expected}, a file")
    try:
        path.open("rb").close()  # safe_open reports an unreadable file as missing
        with safe_open(path, "numpy") as file:
            described = (file.metadata() or {}).get("xpmlp")
            # Another program's file may have types that NumPy lacks.
            tensors = {} if described is None else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; {expected}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}; {expected}") from None
    except (SafetensorError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file ({error}): {expected}") from None
    if described is None:
        raise CheckpointError(f"{path} is another program's safetensors file: {expected}")
    try:
        description = json.loads(described)
        kind, version, sum_ = description["kind"], int(description["format_version"]), description.pop("sum")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise CheckpointError(f"{path} is damaged: its description cannot be read; {expected}") from None
    if version > FORMAT_VERSION:
        known = f"this xpmlp reads up to {FORMAT_VERSION}; update xpmlp"
        raise CheckpointError(f"{path} has format version {version}: {known}")
    if kind not in kinds:
        raise CheckpointError(f"{path} is a {kind}: {expected}")
    return Contents(description, tensors, sum_ == _sum(description, tensors))


def _sum(description: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    sum_ = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        sum_.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sum_.update(array.reshape(-1).view(np.uint8).data)
    return sum_.hexdigest()
