"""SIGINT, SIGTERM and SIGUSR1: an exception at most times, a wish to stop while a run trains."""

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
    """A signal has come whose default action is to end the process.

    Parameters
    ----------
    signum : int
        Which.
    is_of_all : bool
        Whether all ranks of a run are about to end for it, after the same step.
    """

    def __init__(self, signum: int, *, is_of_all: bool = False) -> None:
        self.signum, self.is_of_all = signum, is_of_all

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that a signal has ended."""
        return 128 + self.signum

    def __str__(self) -> str:
        words = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
        return words.get(signal.Signals(self.signum), f"stopped by {signal.Signals(self.signum).name}")


def _raise(signum: int, frame: FrameType | None) -> None:
    raise Interrupted(signum)


@contextlib.contextmanager
def raising() -> Iterator[None]:
    """Let these signals raise `Interrupted`: also as a container's first process, which has no default action."""
    with _handling(_raise):
        yield


class StopRequest:
    """A wish to stop, asked by calling it: true after the first of these signals. A second one ends the process.

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
    # Of the three, mpiexec passes SIGUSR1 on and lets the ranks end in their own time; so do job schedulers.
    names = ("SIGINT", "SIGTERM", "SIGUSR1")
    signals = [getattr(signal, name) for name in names if hasattr(signal, name)]  # Windows has no third
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
