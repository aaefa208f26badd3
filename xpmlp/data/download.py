"""Download a data set from the mirror that answers first, into a folder that never holds a partial file."""

import logging
import queue
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from xpmlp.data.sources import ARCHIVE, FILES, SOURCES, Source, algorithm_of
from xpmlp.errors import DataError
from xpmlp.storage.files import write_whole

ANSWER_WITHIN = 10.0  # seconds in which some mirror must answer, name resolution included
STALLED_AFTER = 10.0  # seconds without a byte after which a download is given up

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with a file's name, the bytes received and the total (0: unknown), or with `READING` and counts of
pictures."""

READING = "pictures"
"""The name that stands for pictures read from the disk."""


def download(name: str, source: Source, folder: Path, progress: Progress | None = None) -> None:
    """Download a data set's four files into a folder, from the mirrors in the order in which they answer.

    Each file is written under a temporary name, checked by its sum and then renamed, so a file with its name is
    complete.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise DataError(f"the cache folder {folder} cannot be written ({error.strerror})") from None
    failures = []
    for mirror, problem in _answers(source.mirrors, _published(source)[-1][0]):
        problem = problem or _download_from(mirror, source, folder, progress)
        if problem is None:
            return
        failures.append(f"{mirror}: {problem}")
    raise DataError(f"{name} cannot be downloaded ({'; '.join(failures) or 'it has no mirror'})")


def _answers(mirrors: tuple[str, ...], file: str) -> Iterator[tuple[str, str | None]]:
    """Yield each mirror as it answers, with None or its error; at the deadline, yield the rest."""
    import requests

    answers: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()

    def ask(mirror: str) -> None:
        try:
            requests.head(mirror + file, timeout=ANSWER_WITHIN, allow_redirects=True).raise_for_status()
            answers.put((mirror, None))
        except (requests.RequestException, OSError, ValueError) as error:
            answers.put((mirror, _in_short(error)))

    # A client restarts its time limit at each address, and has none while it resolves a name: hence threads.
    for mirror in mirrors:
        threading.Thread(target=ask, args=[mirror], daemon=True).start()
    deadline = time.monotonic() + ANSWER_WITHIN
    waiting = list(mirrors)
    while waiting:
        try:
            mirror, problem = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            mirror, problem = waiting[0], f"no answer in {ANSWER_WITHIN:.0f} s"
        waiting.remove(mirror)
        yield mirror, problem


def _download_from(mirror: str, source: Source, folder: Path, progress: Progress | None) -> str | None:
    """Return None once all files are downloaded, or the error."""
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    for file, sum_ in _published(source):
        downloader = pooch.HTTPDownloader(
            progressbar=_Bar(file, progress), timeout=(ANSWER_WITHIN, STALLED_AFTER), chunk_size=1 << 16
        )
        known = f"{algorithm_of(sum_)}:{sum_}"
        try:
            pooch.retrieve(f"{mirror}{file}", known, file, folder, downloader=downloader)
            if source.archive:
                _unpack(folder / file)
        except requests.RequestException as error:
            return f"{file}: {_in_short(error)}"
        except ValueError:  # pooch's word for another sum
            return f"{file}: what was sent is not the file that was published (its sum is another)"
        except OSError as error:
            raise DataError(f"the cache folder {folder} cannot be written ({error.strerror or error})") from None
    return None


def _published(source: Source) -> list[tuple[str, str]]:
    """Return the names and sums of the files to download."""
    if source.archive:
        return [(ARCHIVE, source.archive)]
    names = dict(zip(FILES, source.names, strict=True))
    return [(f"{names[file]}.gz", sum_) for file, sum_ in source.zipped.items()]


def _unpack(archive: Path) -> None:
    """Unpack the files of all sets in a checked archive next to it, each whole, and remove the archive."""
    wanted = {name for source in SOURCES.values() if source.archive for name in source.names}
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            name = Path(member.filename).name
            if name.removesuffix(".gz") in wanted:
                write_whole(archive.with_name(name), opened.read(member))
    archive.unlink(missing_ok=True)  # another process may have done the same


def _in_short(error: Exception) -> str:
    """Return a network error in a few words: requests wraps them four deep."""
    import requests

    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP status {response.status_code}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    inner: Any = error
    while (cause := inner.__cause__ or inner.__context__) is not None:
        inner = cause
    return f"{type(error).__name__}: {getattr(inner, 'strerror', None) or str(inner).splitlines()[0]}"


class _Bar:
    """The progress bar that pooch calls: it passes on how many bytes of a file were received."""

    def __init__(self, file: str, progress: Progress | None) -> None:
        self.total, self._file, self._progress, self._done = 0, file, progress, 0

    def update(self, count: int) -> None:
        self._done = min(self._done + count, self.total) if self.total else self._done + count
        if self._progress:
            self._progress(self._file, self._done, self.total)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        pass
