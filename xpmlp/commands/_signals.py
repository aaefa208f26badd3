"""SIGINT, SIGTERM and SIGUSR1: an exception at most times, a wish to stop while a run trains."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType

from xpmlp.training.interrupts import handling


class Interrupted(BaseException):
    """A signal has come whose default action is to end the process.

    `is_of_all`: all ranks of a run are about to end for it, after the same step.
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


def raising() -> AbstractContextManager[None]:
    """Let these signals raise `Interrupted`: also as a container's first process, which has no default action."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    return _handling(interrupt)


class StopRequest:
    """A wish to stop, asked by calling it: true after the first of these signals. A second one ends the process."""

    signum: int | None = None
    """Which it was."""

    def __call__(self) -> bool:
        return self.signum is not None

    def listening(self) -> AbstractContextManager[None]:
        """Listen while this is entered."""
        return _handling(self._hear)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
            return
        if sys.__stdout__ is not None and sys.__stdout__.isatty():
            os.write(sys.__stdout__.fileno(), b"\x1b[?25h")  # shows the cursor, which a progress bar has hidden
        os._exit(128 + signum)  # at once: what is half-written is a .part, which a run that goes on removes


def _handling(handler: Callable[..., None]) -> AbstractContextManager[None]:
    # Of the three, mpiexec passes SIGUSR1 on and lets the ranks end in their own time; so do job schedulers.
    # One that is ignored, as nohup and `&` in a script leave SIGINT, stays ignored.
    ignored = (signal.SIG_IGN, None)
    return handling(handler, "SIGINT", "SIGTERM", "SIGUSR1", gives_way=lambda usual: usual not in ignored)
