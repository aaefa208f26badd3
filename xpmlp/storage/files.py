"""Files that are written whole or not at all, and a lock on a folder that ends with its process."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeAlias

from xpmlp.errors import CheckpointError

StrPath: TypeAlias = str | os.PathLike[str]
PART = ".part"  # ending of the name of a file that is not complete


def write_whole(path: StrPath, content: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, also after a crash or an error.

    The bytes are on the disk before the file gets its name. The name is on the disk when this returns.
    """
    named, path = Path(path), Path(os.path.realpath(path))  # a link stays one
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")  # another process may be writing the same file
    with naming(named):
        if path.exists() and not path.is_file():  # a device or a pipe takes the bytes, not the name
            path.write_bytes(content)
            return
        try:
            with temporary.open("wb") as file:
                file.write(content)
                flush(file)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        flush_folder(path.parent)


def flush(file: IO[bytes]) -> None:
    """Return when a file's contents are on the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk, if the system can promise that."""
    if sys.platform == "win32":  # it has no such call, and opens no folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to a system error; the system leaves it out if a write fails."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


class FolderLock:
    """The system's lock on a file in a folder, until `release` or the process's end.

    The file holds the process's number.
    """

    NAME = ".lock"

    def __init__(self, folder: Path) -> None:
        path = folder / self.NAME
        with naming(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with naming(path):
                _lock(self._descriptor)
        except (BlockingIOError, PermissionError):
            holder = os.pread(self._descriptor, 20, 0).decode(errors="replace") if hasattr(os, "pread") else ""
            os.close(self._descriptor)
            who = f"the process {holder}" if holder.isdecimal() else "another process"
            raise CheckpointError(f"{folder} is being written by {who}: wait for its end, or stop it") from None
        with contextlib.suppress(OSError):  # a full disk; the number is only for people
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, str(os.getpid()).encode())

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        """Lock a byte that no process number reaches, since Windows lets nobody read what is locked."""
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
