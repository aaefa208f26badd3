"""Read and write IDX files, the format that MNIST is distributed in.

The header has two zero bytes, the element type, the number of axes and each axis's length (big-endian 32-bit). The
elements follow in C order, big-endian. (LeCun, Cortes & Burges, "The MNIST database of handwritten digits".)
"""

import contextlib
import gzip
import hashlib
import math
import os
import struct
import zlib
from typing import IO, Any, cast

import numpy as np

from xpmlp.data.files import known_kind
from xpmlp.errors import DataError

unzip: Any = gzip.open
_DAMAGED: Any = (gzip.BadGzipFile, EOFError, zlib.error)
with contextlib.suppress(ImportError):
    from isal import igzip, isal_zlib  # Intel's: half of the time

    unzip, _DAMAGED = igzip.open, (*_DAMAGED, isal_zlib.error)

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CODES = {np.dtype(kind).newbyteorder("="): code for code, kind in _TYPES.items()}

_GZIP_MAGIC = b"\x1f\x8b"
_MOST_INFLATION = 1032  # no DEFLATE stream is longer by more than this factor than compressed (zlib's notes)
_CHUNK = 1 << 20


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the array in an IDX file, plain or gzipped, in native byte order and writable."""
    name = str(path)
    try:
        with open(path, "rb") as raw:
            length = raw.seek(0, os.SEEK_END)
            raw.seek(0)
            beginning = raw.read(64)
            zipped = beginning[:2] == _GZIP_MAGIC
            if not zipped and (kind := known_kind(beginning)):
                raise DataError(f"{name}: {kind}; expected an IDX file")
            raw.seek(0)
            if zipped:
                with unzip(raw, "rb") as file:
                    return _parse(cast(IO[bytes], file), name, length * _MOST_INFLATION, exact=False)
            return _parse(raw, name, length, exact=True)
    except _DAMAGED as error:
        raise DataError(f"{name}: damaged gzip data ({error}): get the file again") from None
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}") from None


def _parse(file: IO[bytes], name: str, most: int, *, exact: bool) -> np.ndarray:
    """Return the array in an open stream of at most `most` bytes, or of exactly so many."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES:
        raise DataError(f"{name}: begins with {magic.hex(' ') or 'nothing'}: expected an IDX file (00 00 type axes)")
    dtype, n_axes = np.dtype(_TYPES[magic[2]]), magic[3]
    lengths = file.read(4 * n_axes)
    if len(lengths) < 4 * n_axes:
        raise DataError(f"{name}: ends within its header of {n_axes} axes: get the file again")
    shape = struct.unpack(f">{n_axes}I", lengths)
    header, promised = 4 + 4 * n_axes, math.prod(shape) * dtype.itemsize
    size_of = f"its header promises {promised:,} bytes ({' × '.join(map(str, shape)) or 'one element'}, {dtype.name})"
    # Allocate nothing for a header that the file's length contradicts.
    if header + promised > most or (exact and header + promised < most):
        raise DataError(f"{name}: {size_of}, the file's length is for {most - header:,}: get the file again")
    contents = bytearray()  # grows with the bytes read: a gzip stream may hold less than it promises
    while len(contents) <= promised:  # one byte more than promised: it must not exist; this also checks gzip's sum
        chunk = file.read(min(_CHUNK, promised + 1 - len(contents)))
        if not chunk:
            break
        contents += chunk
    if len(contents) != promised:
        found = "more follow" if len(contents) > promised else f"{len(contents):,} are there"
        raise DataError(f"{name}: {size_of}, {found}: get the file again")
    array = np.frombuffer(contents, dtype)
    if not dtype.isnative:
        array = array.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return array.reshape(shape)


def write(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write an array as an IDX file, gzipped where the path ends in ``.gz``."""
    opener: Any = gzip.open if str(path).endswith(".gz") else open
    try:
        with opener(path, "wb") as file:
            file.writelines(contents_of(array))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None


def contents_of(array: np.ndarray) -> tuple[bytes, memoryview]:
    """Return an array's IDX file, uncompressed: the header and the elements."""
    array = np.asarray(array)
    code = _CODES.get(array.dtype.newbyteorder("="))
    if code is None or array.ndim > 255 or max(array.shape, default=0) >= 2**32:
        expected = f"expected one of {', '.join(kind.name for kind in _CODES)}"
        raise DataError(f"{array.dtype} of shape {array.shape} does not fit an IDX file: {expected}")
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header, np.asarray(array, dtype=_TYPES[code], order="C").reshape(-1).view(np.uint8).data


def sum_of_contents(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's uncompressed IDX file, in hexadecimal: the same as its source file's."""
    sum_ = hashlib.sha256()
    for part in contents_of(array):
        sum_.update(part)
    return sum_.hexdigest()
