"""Signals while something trains: whose handlers give way, and Ctrl-C in a program of the user's."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def handling(handler: Callable[..., None], *names: str, gives_way: Callable[[Any], bool]) -> Iterator[None]:
    """Handle those signals whose handler so far gives way; another thread than the main one can set none."""
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
    """Give what tells whether Ctrl-C was pressed: the first time is only noted, a second one is a KeyboardInterrupt.

    A handler that the program has set itself stays.
    """
    pressed = False

    def note(*_: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    with handling(note, "SIGINT", gives_way=lambda usual: usual is signal.default_int_handler):
        yield lambda: pressed
