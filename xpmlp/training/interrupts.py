"""Signals during training: replace handlers, and handle Ctrl-C in a user's program."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def handling(handler: Callable[..., None], *names: str, gives_way: Callable[[Any], bool]) -> Iterator[None]:
    """Handle the signals whose present handler may be replaced. Only the main thread can set handlers."""
    is_main = threading.current_thread() is threading.main_thread()
    signals = [getattr(signal, name) for name in names if is_main and hasattr(signal, name)]  # Windows has no SIGUSR1
    before = {signum: usual for signum in signals if gives_way(usual := signal.getsignal(signum))}
    for signum in before:
        signal.signal(signum, handler)
    try:
        yield
    finally:
        for signum, usual in before.items():
            signal.signal(signum, usual)


@contextmanager
def first_interrupt() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether Ctrl-C was pressed. A second Ctrl-C raises KeyboardInterrupt.

    A handler that the program has set stays.
    """
    pressed = False

    def note(*_: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    with handling(note, "SIGINT", gives_way=lambda usual: usual is signal.default_int_handler):
        yield lambda: pressed
