"""Recognise an unexpected file by its first bytes, and check that memory has room for its contents."""

import gzip
import os
import zlib
from pathlib import Path

from xpmlp.backends.base import free_host_memory
from xpmlp.errors import DataError

_BEGINNING = 512  # bytes of a file that tell what it is
_BEGINNINGS = (
    (b"version https://git-lfs", "a Git LFS pointer: get the file itself with git lfs pull"),
    (b"PK\x03\x04", "a zip archive: unpack it first"),
    (b"\x1f\x8b", "gzip data"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it first"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PAR1", "a Parquet table"),
    (b"\x89HDF", "an HDF5 file"),
)


def known_kind(beginning: bytes) -> str | None:
    """Return the kind of a file with these first bytes, and what to do about it; None if unknown."""
    for signature, kind in _BEGINNINGS:
        if beginning.startswith(signature):
            return kind
    if beginning[4:8] == b"ftyp" and beginning[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return "a HEIC photograph: save it as JPEG or PNG first"
    start = beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, perhaps an error message of the server: download the file again"
    return None


def beginning_of(path: Path) -> bytes:
    """Return the first bytes of a file, decompressed if it is gzip."""
    with path.open("rb") as file:
        beginning = file.read(_BEGINNING)
    if beginning.startswith(b"\x1f\x8b"):
        try:
            with gzip.open(path) as inner:
                return inner.read(_BEGINNING)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path}: damaged gzip data ({error}): get the file again") from None
    return beginning


def require_memory(n_bytes: int, name: str | os.PathLike[str]) -> None:
    """Refuse data that would take more than half of the free memory."""
    free = free_host_memory()
    if free is not None and n_bytes > free / 2:
        raise DataError(f"{name} holds {n_bytes / 1e9:.1f} GB of numbers, {free / 1e9:.1f} GB of memory are free")
