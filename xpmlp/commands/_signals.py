"""SIGINT and SIGTERM: an exception at most times, a wish to stop while a run trains."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SHOW_CURSOR = b"\x1b[?25h"
"""To a terminal on which a progress bar has hidden it."""


class Interrupted(BaseException):
    """A signal has come whose default action is to end the process."""

    def __init__(self, signum: int) -> None:
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal has ended."""
        return 128 + self.signum

    def __str__(self) -> str:
        return "interrupted" if self.signum == signal.SIGINT else "terminated"


def _raise(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Interrupted`: also as a container's first process, which has no default action."""
    with _handling(_raise):
        yield


class StopRequest:
    """A wish to stop, asked by calling it: true after the first SIGINT or SIGTERM. A second one ends the process.

    Attributes
    ----------
    signum : int or None
        Which it was.
    """

    def __init__(self) -> None:
        self.signum: int | None = None

    def __call__(self) -> bool:
        return self.signum is not None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen while this is entered."""
        with _handling(self._hear):
            yield

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
            return
        if sys.__stdout__ is not None and sys.__stdout__.isatty():
            os.write(sys.__stdout__.fileno(), SHOW_CURSOR)
        os._exit(128 + signum)  # at once: what is half-written is a .part, which a run that goes on removes


@contextlib.contextmanager
def _handling(handler: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # another thread can set no handler, and gets none
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    # One that is ignored, as nohup and `&` in a script leave SIGINT, stays ignored.
    before = {signum: signal.getsignal(signum) for signum in signals}
    heard = [signum for signum in signals if before[signum] not in (signal.SIG_IGN, None)]
    for signum in heard:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum in heard:
            signal.signal(signum, before[signum])
