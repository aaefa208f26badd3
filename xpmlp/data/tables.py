"""Read CSV and TSV files, plain or gzipped: each line has a label, and pixels or features."""

import csv
import gzip
import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from xpmlp.data.files import known_kind, require_memory
from xpmlp.errors import DataError, nearest

LABELS = ("label", "labels", "class", "target", "y")
_NAMES = ("label", "class", "target or y")
_DELIMITERS = ",\t;"
_EXPECTED = "expected lines of values with commas or tabs between them"
_BLOCK = 2048  # lines parsed at once
_LONGEST = 1 << 22  # greatest number of characters in a line
_TRUE, _FALSE = ("true", "yes"), ("false", "no")  # in any case


class Table(NamedTuple):
    """A table's contents."""

    rows: np.ndarray  # (n, d)
    labels: np.ndarray  # (n,); empty if no column is the label
    names: tuple[str, ...] | None  # of the columns of the rows, in its header
    about: str  # what was recognised, in one line


def is_index(name: str) -> bool:
    """Return whether a column has a name that pandas gives to row numbers."""
    return name in ("", "Unnamed: 0") or re.fullmatch(r"__index_level_\d+__", name) is not None


def read(path: Path, label_column: str | None) -> Table:
    """Return the rows and labels of a table."""

    def label_of(cells: list[str], has_header: bool) -> int:
        if len(cells) < 2:
            raise DataError(f"{path} is not a table: {_EXPECTED}")
        return place_of_label(path, cells, has_header, label_column)

    return _read(path, label_column, label_of)


def read_rows(path: Path, n_numbers: int, names: tuple[str, ...] | None, label_column: str | None) -> np.ndarray:
    """Return the rows of a table, (n, n_numbers), without its labels.

    If the columns' names are known and the table has them, only these are read, in their order.
    """
    if names is not None and (found := _read_named(path, names)) is not None:
        return found

    def label_of(cells: list[str], has_header: bool) -> int | None:
        n_columns = sum(not (has_header and is_index(cell)) for cell in cells)
        if n_columns == n_numbers and label_column is None:
            return None
        if n_columns != n_numbers + 1:
            expected = f"the model takes {n_numbers}, beside which there may be a label"
            raise DataError(f"{path} has {n_columns} columns: {expected}")
        return place_of_label(path, cells, has_header, label_column)

    return _read(path, label_column, label_of).rows


def _read_named(path: Path, names: tuple[str, ...]) -> np.ndarray | None:
    """Return the columns of these names, (n, len(names)); None if the table has no header."""
    with _reading(path) as (file, first, delimiter, line):
        cells = _cells(path, first, delimiter)
        if not _is_header(cells, names[0]):
            return None
        missing = [name for name in names if name not in cells]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(f"{path} has no column {missing[0]!r}{more}, which the model takes")
        columns = [cells.index(name) for name in names]
        return _values(path, _lines(path, file), delimiter, len(cells), columns, None, line + 1)[0]


def is_table(beginning: bytes, names: Sequence[str] = ()) -> bool:
    """Return whether a file with these first bytes may be a table: text, with values between commas or tabs.

    A single column is a table if it begins with a number, or with one of some names.
    """
    first = beginning.partition(b"\n")[0]
    is_picture = beginning[:1] == b"P" and beginning[1:2].isdigit()  # of Netpbm's, some of which are text
    is_text = not any(byte < 32 and byte not in b"\t\r\n" for byte in beginning)
    has_values = any(first.count(sign.encode()) for sign in _DELIMITERS) or _is_cell(first, names)
    return is_text and has_values and not is_picture and known_kind(beginning) is None


@contextmanager
def _reading(path: Path) -> Iterator[tuple[IO[str], str, str, int]]:
    """Open a table; give it with its first line, the delimiter and that line's number. Errors say what is wrong."""
    try:
        with _opened(path) as file:
            first, line = file.readline(_LONGEST), 1
            delimiter = max(_DELIMITERS, key=first.count)
            if first.lower().startswith("sep=") and len(first.strip()) == 5:  # a line that Excel writes
                delimiter, first, line = first.strip()[4], file.readline(_LONGEST), 2
            yield file, first, delimiter, line
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from None
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def _cells(path: Path, first: str, delimiter: str) -> list[str]:
    """Return the cells of a table's first line."""
    cells = [cell.strip() for cell in next(csv.reader([first], delimiter=delimiter), [])]
    if "\0" in first or not cells or len(first) == _LONGEST:
        raise DataError(f"{path} is not a table: {_EXPECTED}")
    return cells


def _read(path: Path, label_column: str | None, label_of: Callable[[list[str], bool], int | None]) -> Table:
    with _reading(path) as (file, first, delimiter, line):
        cells = _cells(path, first, delimiter)
        has_header = _is_header(cells, label_column)
        label = label_of(cells, has_header)
        columns = [k for k in range(len(cells)) if k != label and not (has_header and is_index(cells[k]))]
        if not columns:
            raise DataError(f"{path} is not a table: {_EXPECTED}")
        lines = _lines(path, file) if has_header else itertools.chain([first], _lines(path, file))
        rows, labels, n_booleans = _values(path, lines, delimiter, len(cells), columns, label, line + has_header)
    names = tuple(cells[k] for k in columns) if has_header else None
    about = f"a {'TSV' if delimiter == chr(9) else 'CSV'} file"
    if label is not None:
        about += f" with a header: column {cells[label]!r}" if has_header else f" whose column {label}"
        about += " is the label"
    left = [repr(cell) for cell in cells if has_header and is_index(cell)]
    about += f", column {', '.join(left)} numbers the rows and is left out" if left else ""
    about += f", {len(columns)} columns are numbers"
    about += f", {n_booleans} of them true (1) or false (0)" if n_booleans else ""
    return Table(rows, labels, names, about)


def _lines(path: Path, file: IO[str]) -> Iterator[str]:
    """Yield lines; refuse a line that is too long."""
    while line := file.readline(_LONGEST):
        if len(line) == _LONGEST:
            raise DataError(f"{path} has a line of more than {_LONGEST:,} characters: expected one sample per line")
        yield line


def _opened(path: Path) -> IO[str]:
    with path.open("rb") as file:
        is_zipped = file.read(2) == b"\x1f\x8b"
    opener = gzip.open if is_zipped else open
    return opener(path, "rt", encoding="utf-8-sig", newline="")


def _is_header(cells: list[str], label_column: str | None) -> bool:
    """Return whether a first line has names: most are not values, one is a label's, or they count from 0."""
    is_named = label_column is not None and not label_column.isdecimal() and label_column in cells
    return (
        is_named
        or sum(not _is_value(cell) for cell in cells) > len(cells) / 2
        or any(cell.lower() in LABELS[:-1] for cell in cells)  # y alone may be a class
        or (len(cells) > 2 and cells == [str(k) for k in range(len(cells))])
    )


def _is_cell(line: bytes, names: Sequence[str]) -> bool:
    """Return whether a line is one value, or one of some names."""
    text = line.decode("utf-8", "replace").strip()
    return text in names or _is_value(text)


def _is_value(cell: str) -> bool:
    """Return whether a cell is a number or a boolean."""
    try:
        float(cell)
    except ValueError:
        return _is_boolean(cell)
    return True


def _is_boolean(cell: str) -> bool:
    return cell.strip().lower() in (*_TRUE, *_FALSE)


def place_of_label(path: Path, cells: list[str], has_header: bool, wanted: str | None) -> int:
    """Return the number of the column with the labels; refuse to guess."""
    shown = ", ".join(cells[:6]) + (", …" if len(cells) > 6 else "")
    if wanted in ("first", "last"):
        return 0 if wanted == "first" else len(cells) - 1
    if wanted is not None and has_header and wanted in cells:
        return cells.index(wanted)
    if wanted is not None and wanted.isdecimal() and int(wanted) < len(cells):
        return int(wanted)
    if wanted is not None:
        known = () if wanted.isdecimal() else (*(cells if has_header else ()), "first", "last")
        found = f"no column {wanted!r}: {nearest(wanted, known)}its {len(cells)} columns are {shown}"
        raise DataError(f"{path} has {found}")
    places = [k for k, cell in enumerate(cells) if has_header and cell.lower() in LABELS]
    if len(places) != 1:
        what = "several columns that may be the label" if places else f"no column called {', '.join(_NAMES)}"
        raise DataError(f"{path} has {what}: name the label with --label-column. Its columns: {shown}")
    return places[0]


def _values(
    path: Path,
    lines: Iterator[str],
    delimiter: str,
    n_columns: int,
    columns: list[int],
    label: int | None,
    line: int,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return all pixels and labels, read in blocks, and how many columns begin with a boolean.

    `line` is the number of the first line.
    """
    pixels, labels, n_bytes, booleans = list[np.ndarray](), list[np.ndarray](), 0, list[int]()
    while block := list(itertools.islice(lines, _BLOCK)):
        filled = [(line + k, text) for k, text in enumerate(block) if text.strip()]
        for number, text in filled:
            n = text.count(delimiter) + 1 if '"' not in text else len(next(csv.reader([text], delimiter=delimiter)))
            if n != n_columns:
                raise DataError(f"{path}, line {number}: {n} values: expected {n_columns}, as in the first line")
        if filled:
            if not pixels:
                first = next(csv.reader([filled[0][1]], delimiter=delimiter))
                booleans = [k for k in columns if _is_boolean(first[k])]
            x, y = _parsed(path, filled, delimiter, columns, booleans, label)
            n_bytes += x.nbytes
            require_memory(n_bytes, path)
            pixels.append(x)
            labels.append(y)
        line += len(block)
    if not pixels:
        raise DataError(f"{path} has no rows of values: expected at least one")
    named = np.empty(0) if label is None else _numbers_or_words(np.concatenate(labels))
    return np.concatenate(pixels), named, len(booleans)


def _parsed(
    path: Path,
    lines: list[tuple[int, str]],
    delimiter: str,
    columns: list[int],
    booleans: list[int],
    label: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels and labels, as words, of numbered lines."""
    numbers, texts = zip(*lines, strict=True)
    options = {"delimiter": delimiter, "comments": None, "quotechar": '"'}
    try:
        numeric = [k for k in columns if k not in booleans] if booleans else columns
        x = np.empty((len(texts), 0))
        if numeric:
            x = np.loadtxt(texts, np.float64, usecols=numeric, ndmin=2, **options)  # type: ignore[call-overload]
        if booleans:
            words = np.loadtxt(texts, str, usecols=booleans, ndmin=2, **options)  # type: ignore[call-overload]
            x, order = np.concatenate([x, _truths(path, numbers, booleans, words)], axis=1), [*numeric, *booleans]
            x = x[:, [order.index(k) for k in columns]]
        y = np.full(len(x), "0")
        if label is not None:
            y = np.loadtxt(texts, str, usecols=[label], ndmin=1, **options)  # type: ignore[call-overload]
    except DataError:
        raise
    except ValueError as error:
        found = re.search(r"string (.*?) to float64 at row (\d+), column (\d+)", str(error))
        if found:
            where = f"line {numbers[int(found[2])]}, column {int(found[3])}"
            raise DataError(f"{path}, {where}: {found[1]} is not a number") from None
        raise DataError(f"{path}, from line {numbers[0]} on: {error}") from None
    y = np.char.strip(y)
    for problem, is_there in (
        ("a value is missing, NaN or infinite: expected a number", np.isfinite(x).all(axis=1)),
        ("the label is missing", (y != "") & (np.char.lower(y) != "nan")),
    ):
        if not is_there.all():
            raise DataError(f"{path}, line {numbers[int(np.argmin(is_there))]}: {problem}")
    with np.errstate(all="ignore"):
        as_bytes = x.astype(np.uint8)
    return (as_bytes if np.array_equal(as_bytes, x) else x), y


def _truths(path: Path, lines: Sequence[int], columns: list[int], words: np.ndarray) -> np.ndarray:
    """Return columns of booleans as 1 and 0, (n, columns), of the words that stand in numbered lines."""
    lower = np.char.lower(np.char.strip(words))
    is_true = np.isin(lower, _TRUE)
    is_known = is_true | np.isin(lower, _FALSE)
    if not is_known.all():
        row, k = np.argwhere(~is_known)[0]
        where = f"line {lines[row]}, column {columns[k] + 1}"
        if lower[row, k] in ("", "nan"):
            raise DataError(f"{path}, {where}: a value is missing: expected true or false")
        raise DataError(
            f"{path}, {where}: {str(words[row, k])!r} is neither true nor false, as the column's first value is"
        )
    return is_true.astype(np.float64)


def _numbers_or_words(labels: np.ndarray) -> np.ndarray:
    """Return labels as whole numbers, if all are, and booleans in one spelling."""
    values, places = np.unique(labels, return_inverse=True)
    if all(_is_boolean(value) for value in values.tolist()):
        return np.char.capitalize(labels)  # as pandas and Parquet have them
    if not all(re.fullmatch(r"[+-]?\d{1,18}(\.0*)?", value) for value in values.tolist()):
        return labels
    return np.array([int(value.partition(".")[0]) for value in values.tolist()], np.int64)[places]


def shape_of(names: Sequence[str]) -> tuple[int, int] | None:
    """Return the shape of square images whose columns are called pixel0, pixel1, … or 1x1, 1x2, …."""
    side = math.isqrt(len(names))
    known = all(re.fullmatch(r"(pixel|px|p)?[_ ]?\d+|\d+x\d+", name.lower()) for name in names)
    return (side, side) if known and side * side == len(names) else None
