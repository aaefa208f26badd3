"""SIGINT, SIGTERM and SIGUSR1: a stop request while a run trains, an exception at other times."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType

from xpmlp.training.interrupts import handling


class Interrupted(BaseException):
    """A signal that ends the process by default has arrived.

    `is_of_all`: all ranks of a run are about to end because of it, after the same step.
    """

    def __init__(self, signum: int, *, is_of_all: bool = False) -> None:
        self.signum, self.is_of_all = signum, is_of_all

    @property
    def exit_code(self) -> int:
        """The exit code that a shell expects of a process ended by a signal."""
        return 128 + self.signum

    def __str__(self) -> str:
        words = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
        return words.get(signal.Signals(self.signum), f"stopped by {signal.Signals(self.signum).name}")


def raising() -> AbstractContextManager[None]:
    """Let these signals raise `Interrupted`, also in a container's first process, which has no default action."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    return _handling(interrupt)


class StopRequest:
    """A stop request: calling it returns true after the first of these signals. A second signal ends the process."""

    signum: int | None = None
    """The signal that arrived."""

    def __call__(self) -> bool:
        return self.signum is not None

    def listening(self) -> AbstractContextManager[None]:
        """Listen to the signals within this context."""
        return _handling(self._hear)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
            return
        if sys.__stdout__ is not None and sys.__stdout__.isatty():
            os.write(sys.__stdout__.fileno(), b"\x1b[?25h")  # shows the cursor again after a progress bar
        os._exit(128 + signum)  # at once: an incomplete file is a .part, which a resumed run removes


def _handling(handler: Callable[..., None]) -> AbstractContextManager[None]:
    # Of the three, mpiexec and job schedulers pass SIGUSR1 on and let the ranks end in their own time. An ignored
    # signal stays ignored: nohup and `&` in a script ignore SIGINT.
    ignored = (signal.SIG_IGN, None)
    return handling(handler, "SIGINT", "SIGTERM", "SIGUSR1", gives_way=lambda usual: usual not in ignored)
