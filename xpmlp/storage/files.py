"""Files that are there as a whole or not at all, and a lock on a folder that dies with its process."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeAlias

from xpmlp.errors import CheckpointError

StrPath: TypeAlias = str | os.PathLike[str]
PART = ".part"  # what the name of a file ends in that is not whole yet


def write_whole(path: StrPath, content: bytes) -> None:
    """Write a file such that a reader, now or after a crash or an error, finds the old one or the new one.

    The bytes are on the disk before their file takes the name, and the name is on the disk when this returns.
    """
    named, path = Path(path), Path(os.path.realpath(path))  # a link stays one
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")  # another process may write the same file
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
    """Return when what was written to a file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk, where the system can promise that."""
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
    """Let an error of the system name the file, which it leaves out where a write fails."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


class FolderLock:
    """The system's lock on a file in a folder, which holds the process's number: until `release` or this one's end."""

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
        """Give it back."""
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
