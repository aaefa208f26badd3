"""Read Parquet files as Hugging Face distributes them: a column of labels, and one of pictures or many of numbers."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xpmlp.data import picture_folders, tables
from xpmlp.data.download import Progress
from xpmlp.data.files import require_memory
from xpmlp.data.pictures import Encoded
from xpmlp.data.tables import Table, is_index
from xpmlp.errors import DataError

if TYPE_CHECKING:
    import pyarrow

BEGINNING = b"PAR1"
"""The first bytes of a Parquet file."""

_PARTS = {"test": "test", **dict.fromkeys(("train", "training", "validation", "valid", "val"), "train")}
"""Words in a file's name, and the part that they stand for. A run holds out validation data itself."""


def files_in(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder, or else one level deeper, or two."""
    try:
        for pattern in ("*.parquet", "*/*.parquet", "*/*/*.parquet"):
            found = [path for path in folder.glob(pattern) if path.is_file() and not _is_hidden(path, folder)]
            if found:
                return sorted(found)
    except OSError:
        pass
    return []


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _part_of(file: Path, folder: Path) -> str:
    """Return the part of a set that a file's name or folder states; an empty text if they do not."""
    words = re.findall(r"[a-z]+", str(file.relative_to(folder)).lower().removesuffix(".parquet"))
    named = {_PARTS[word] for word in words if word in _PARTS}
    return named.pop() if len(named) == 1 else ""


def read(path: Path, label_column: str | None, size: tuple[int, ...] | None, progress: Progress | None) -> list[Table]:
    """Return each part of a set in Parquet files: the training part and, if present, the test part.

    In a folder, the words train, validation and test in the names of files or folders state the parts. Validation data
    join the training data.
    """
    files = files_in(path) if path.is_dir() else [path]
    parts = {file: _part_of(file, path) if path.is_dir() else "train" for file in files}
    if not any(parts.values()):
        parts = dict.fromkeys(files, "train")
    unknown = [str(file.relative_to(path)) for file, part in parts.items() if not part]
    if unknown:
        raise DataError(f"{path}: {unknown[0]} is neither train, validation nor test by its name: move it elsewhere")
    groups = [[file for file in files if parts[file] == part] for part in ("train", "test")]
    if not groups[0]:
        there = ", ".join(file.name for file in groups[1])
        raise DataError(f"{path} has only {there}: expected a training part too")
    contents = [[_table(file) for file in group] for group in groups if group]
    schemas = [table.schema for group in contents for table in group]
    if any(schema.names != schemas[0].names for schema in schemas):
        raise DataError(f"{path}: its files have other columns: {', '.join(sorted(set(schemas[-1].names)))}")
    first = contents[0][0]
    label = _label(path, first, label_column)
    picture = _picture_column(path, first, label)
    labels = [np.concatenate([_labels(path, table, label) for table in group]) for group in contents]
    about = f"a Parquet {'set' if path.is_dir() else 'file'}: column {label!r} is the label"
    names: tuple[str, ...] | None = None
    if picture is None:
        names = tuple(name for name in first.column_names if name != label and not is_index(name))
        rows = [np.concatenate([_numbers(path, table, names) for table in group]) for group in contents]
        about += f", {len(names)} columns are numbers"
    elif _is_encoded(first.schema.field(picture).type):
        counts = [len(each) for each in labels]
        pictures = [each for group in contents for table in group for each in _encoded(path, table, picture)]
        whole, how = picture_folders.read_all(pictures, size, str(path), progress)
        rows = np.split(whole, np.cumsum(counts)[:-1])
        about += f", {picture!r} the picture{how}"
    else:
        rows = [np.concatenate([_lists(path, table, picture) for table in group]) for group in contents]
        about += f", {picture!r} the picture"
    return [Table(x, y, names, about) for x, y in zip(rows, labels, strict=True)]


def read_rows(path: Path, n_numbers: int, names: tuple[str, ...] | None) -> np.ndarray:
    """Return the rows of a table, (n, n_numbers): the columns of these names, or all except the label."""
    table = _table(path)
    if names is None:
        names = tuple(name for name in table.column_names if name.lower() not in tables.LABELS and not is_index(name))
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}, which the model takes")
    if len(names) != n_numbers:
        raise DataError(f"{path} has {len(names)} columns: the model takes {n_numbers}")
    return _numbers(path, table, names)


def _table(path: Path) -> "pyarrow.Table":
    """Return a file's columns, if they fit in memory."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path}: pyarrow is not installed, which reads Parquet: pip install 'xpmlp[parquet]'"
        ) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            groups = (file.metadata.row_group(k) for k in range(file.metadata.num_row_groups))
            require_memory(sum(group.total_byte_size for group in groups), path)
            table = file.read(use_threads=False)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: damaged Parquet file ({reason}): get the file again") from None
    if not table.num_rows:
        raise DataError(f"{path} has no rows: expected at least one")
    return table


def _label(path: Path, table: "pyarrow.Table", wanted: str | None) -> str:
    """Return the name of the column with the labels; refuse to guess."""
    names = table.column_names
    if len(set(names)) < len(names):
        raise DataError(f"{path} has two columns of one name ({', '.join(names[:6])}): rename one")
    if wanted is None and len(names) == 2:  # beside a picture
        others = [name for name in names if not _is_picture(table.schema.field(name).type)]
        wanted = others[0] if len(others) == 1 else None
    return str(names[tables.place_of_label(path, names, True, wanted)])


def _is_encoded(kind: Any) -> bool:
    """Return whether a column holds pictures as files: bytes, or bytes with a path."""
    import pyarrow.types as types

    if types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_picture(kind: Any) -> bool:
    import pyarrow.types as types

    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return bool(_is_encoded(kind) or is_list)


def _picture_column(path: Path, table: "pyarrow.Table", label: str) -> str | None:
    """Return the column with the pictures; None if the columns are numbers."""
    found = [name for name in table.column_names if name != label and _is_picture(table.schema.field(name).type)]
    if len(found) > 1:
        raise DataError(
            f"{path} has several columns of pictures ({', '.join(found)}): expected one; leave the others out"
        )
    return str(found[0]) if found else None


def _encoded(path: Path, table: "pyarrow.Table", name: str) -> list[Encoded]:
    pictures = []
    for row, value in enumerate(table.column(name).to_pylist()):
        content = value.get("bytes") if isinstance(value, dict) else value
        if content is None:
            raise DataError(f"{path}, row {row}: {name} holds no picture: expected its bytes in the file")
        pictures.append(Encoded(f"{path}, row {row}", content))
    return pictures


def _lists(path: Path, table: "pyarrow.Table", name: str) -> np.ndarray:
    """Return pictures stored as lists of numbers, or as lists of lists, all of one length."""
    import pyarrow.compute
    import pyarrow.types as types

    array, shape = table.column(name).combine_chunks(), [table.num_rows]
    while types.is_list(array.type) or types.is_large_list(array.type) or types.is_fixed_size_list(array.type):
        lengths = pyarrow.compute.unique(pyarrow.compute.list_value_length(array)).to_pylist()
        if len(lengths) != 1 or not lengths[0]:
            raise DataError(f"{path}: {name} holds lists of several lengths, or none: expected one size")
        shape.append(lengths[0])
        array = array.flatten()
    if array.null_count or not (types.is_integer(array.type) or types.is_floating(array.type)):
        raise DataError(f"{path}: {name} holds lists of {array.type}: expected numbers, none missing")
    pictures: np.ndarray = array.to_numpy().reshape(shape)
    return pictures


def _numbers(path: Path, table: "pyarrow.Table", names: Sequence[str]) -> np.ndarray:
    """Return columns of numbers as rows."""
    import pyarrow.types as types

    columns = []
    for name in names:
        column = table.column(name)
        kind = column.type
        if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
            raise DataError(f"{path}: column {name!r} holds {kind}: expected numbers; leave it out, or make them of it")
        if column.null_count:
            raise DataError(f"{path}: column {name!r} has {column.null_count} missing values: expected numbers")
        columns.append(column.to_numpy())
    if not columns:
        raise DataError(f"{path} has only its label: expected columns of numbers or pictures")
    is_bytes = all(column.dtype.kind in "iub" and column.min() >= 0 and column.max() <= 255 for column in columns)
    dtype = np.uint8 if is_bytes else np.float64
    return np.stack([column.astype(dtype) for column in columns], axis=1)


def _labels(path: Path, table: "pyarrow.Table", name: str) -> np.ndarray:
    """Return labels as numbers, or as the names that the file gives them."""
    column = table.column(name)
    if column.null_count:
        raise DataError(f"{path}: {column.null_count} labels are missing")
    labels = np.array(column.to_pylist())
    if labels.dtype.kind == "b":
        return labels.astype(str)  # as pandas writes them to CSV
    names = _class_names(table, name)
    if names is None or labels.dtype.kind not in "iu":
        return labels
    if labels.min() < 0 or labels.max() >= len(names):
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(f"{path}: a label is {wrong}: expected 0 to {len(names) - 1}; perhaps this part has no labels")
    named: np.ndarray = np.array(names)[labels]
    return named


def _class_names(table: "pyarrow.Table", name: str) -> list[str] | None:
    """Return the classes' names, which Hugging Face's library keeps with the schema."""
    try:
        about = json.loads((table.schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][name]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    is_list = isinstance(names, list) and names and all(isinstance(each, str) for each in names)
    return names if is_list else None
