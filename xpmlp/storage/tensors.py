"""Arrays and their description in one safetensors file, which knows whether it is whole.

The description is JSON under the metadata's one key ``xpmlp`` (of several the order is any): what the file is
(``kind``), the ``format_version``, what the writer adds, and ``sum``, the SHA-256 of all else.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpmlp.errors import CheckpointError
from xpmlp.storage.files import StrPath, write_whole

FORMAT_VERSION = 2  # of the files written here; a reader refuses a newer one


class Contents(NamedTuple):
    """What a file holds."""

    description: dict[str, Any]
    tensors: dict[str, np.ndarray]
    is_intact: bool
    """Whether its sum is that of what was written. A reader that finds nothing else to complain of asks for it."""


def write(path: StrPath, kind: str, tensors: Mapping[str, np.ndarray], description: Mapping[str, Any]) -> None:
    """Write arrays, of any byte order and strides, and what JSON can hold of them, as a whole or not at all."""
    from safetensors.numpy import save  # 60 ms that a plain `import xpmlp` need not pay

    # Arrays of another order or byte order it would write wrongly.
    ordinary = {name: np.asarray(a, a.dtype.newbyteorder("="), order="C") for name, a in tensors.items()}
    described = {**description, "kind": kind, "format_version": FORMAT_VERSION}
    described = json.loads(json.dumps(described, allow_nan=False))  # as a reader will see it
    described["sum"] = _sum(described, ordinary)
    write_whole(path, save(ordinary, {"xpmlp": json.dumps(described, ensure_ascii=False, allow_nan=False)}))


def read(path: StrPath, kinds: tuple[str, ...]) -> Contents:
    """Return the arrays and the description in a file, which must be of one of these kinds."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    expected = f"expected a {' or '.join(kinds)} that xpmlp wrote"
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: {expected}, a file")
    try:
        path.open("rb").close()  # safe_open takes a file that may not be read for one that is not there
        with safe_open(path, "numpy") as file:
            described = (file.metadata() or {}).get("xpmlp")
            # Another program's may have types that NumPy has not.
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
