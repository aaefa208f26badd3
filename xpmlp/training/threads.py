"""How many threads the BLAS library takes for NumPy's products: measured while steps are made, and adapted.

BLAS threads wait for one another by spinning. Beside anything else that computes, one of them waits for a core while
the others spin, and a step takes up to thirty times as long as on one thread (OpenBLAS issues 731 and 900, scikit-learn
issue 25822).
"""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from xpmlp.backends._numpy import blas_libraries
from xpmlp.backends.base import Backend
from xpmlp.communication import usable_cores

FEWEST_STEPS = 200
"""Shorter runs are not tuned: trials would cost as much as they gain."""

_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "GOTO_NUM_THREADS")
"""Where a user has said how many threads there are to be, or joblib for its workers."""

_MOST_KNOWN = 64
"""The most threads that the BLAS library in NumPy's wheels supports."""

_TRIAL = ((2, 0.5), (5, 0.05), (10, 0.01), (100, 0.0))
"""A trial is over after so many steps, if they have taken so many seconds."""

_SLOW, _BETTER = 1.4, 0.97
"""How much slower steps must get to trigger a trial, and how much faster another number must be to win."""

_WINDOW = 12
"""Steps in the running mean."""

_FIRST, _SOONEST, _LATEST = 0.2, 1.0, 8.0
"""Seconds to the next trial: after the first, after a change, and after several in vain; of steps longer than 50 ms,
units of 20 steps. The first is soon repeated: a program that started meanwhile may have disturbed it."""

_WARM_UP = 4
"""Steps at the start that are not measured: kernels are compiled, and the step is recorded."""


class Change(NamedTuple):
    """A number of threads that is taken from now on."""

    threads: int
    seconds: float
    """Of a step with it."""
    before: float | None
    """Of a step with the number before, None at the start."""


class FixedThreads:
    """What takes the place of a tuner where the number of threads stays."""

    is_tuned = False

    def watched(self, step: Any) -> Any:
        """Return the step as it is."""
        return step


class ThreadTuner:
    """Chooses a number of threads by the time of steps, and goes on choosing.

    At the start each number is tried for a few steps, and the fastest is taken. One thread is tried as soon as three
    steps running, or the mean of twelve, are much slower than usual; the next number up or down now and then, ever more
    rarely while that brings nothing.

    Parameters
    ----------
    candidates : sequence of int
        The numbers to choose from, ascending.
    set_threads : callable
        Is called with the number to compute with from the next step on.
    on_change : callable
        Is called with each `Change`.
    clock : callable
        Returns the time in seconds.
    """

    is_tuned = True

    def __init__(
        self,
        candidates: Sequence[int],
        set_threads: Callable[[int], object],
        on_change: Callable[[Change], object] = lambda change: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._candidates, self._set, self._on_change, self._clock = tuple(candidates), set_threads, on_change, clock
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._usual: float | None = None
        self._pause, self._next_look, self._changed, self._looks_up = _FIRST, 0.0, -_LATEST, True
        self.threads, self._to_skip = self._candidates[0], _WARM_UP
        self._start_trials(self._candidates, {})

    def watched(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same step, whose calls are timed."""
        clock, note = self._clock, self.note

        def timed(*arguments: Any) -> Any:
            began = clock()
            result = step(*arguments)
            note(clock() - began)
            return result

        return timed

    def note(self, seconds: float) -> None:
        """Take note of a step's time, and of what follows from it for the next one."""
        if self._to_skip:
            self._to_skip -= 1
            return
        if self._trials:
            self._try(seconds)
            return
        recent, limit = self._recent, _SLOW * (self._usual or 0.0)
        recent.append(seconds)
        last = list(recent)[-3:]
        if (len(last) == 3 and min(last) > limit) or (len(recent) == _WINDOW and _mean(recent) > limit):
            self._doubt()
        elif len(recent) == _WINDOW and self._clock() >= self._next_look:
            self._look_around()

    def _start_trials(self, candidates: Sequence[int], known: dict[int, float]) -> None:
        """Try some numbers from the next step on, beside what is known."""
        self._trials, self._times, self._found = list(candidates), list[float](), known
        self._set(self._trials[0])

    def _try(self, seconds: float) -> None:
        times = self._times
        times.append(seconds)
        counted = times[1:]  # the first step wakes threads up
        best = min(self._found.values(), default=float("inf"))
        is_hopeless = times[0] > 8 * best or (len(counted) > 0 and min(times) > 2 * best)
        is_enough = any(len(counted) >= n and sum(counted) >= seconds for n, seconds in _TRIAL)
        if is_hopeless or is_enough:
            self._found[self._trials.pop(0)] = _mean(counted or times)
            self._times = []
            if self._trials:
                self._set(self._trials[0])
            else:
                self._decide()

    def _decide(self) -> None:
        """Take the fastest; of those that are hardly slower the one that was taken so far, or the fewest threads."""
        found, before, now = self._found, self.threads, self._clock()
        good = [threads for threads, seconds in found.items() if seconds * _BETTER <= min(found.values())]
        is_first = self._usual is None
        self.threads = before if before in good and not is_first else min(good)
        self._usual = found[self.threads]
        self._recent.clear()
        self._set(self.threads)
        if is_first or self.threads != before:
            self._on_change(Change(self.threads, self._usual, None if is_first else found[before]))
            self._changed = now
        if self.threads > before and not is_first:  # there may be more to gain
            self._pause, self._looks_up = _SOONEST, True
        self._next_look = now + self._pause * max(1.0, 20 * self._usual)

    def _doubt(self) -> None:
        """Try one thread, and this number again."""
        mean = _mean(self._recent)
        is_new = self._clock() - self._changed < 5 * max(_SOONEST, 20 * mean)
        self._pause = _LATEST if is_new else _SOONEST  # what was found better and is not is looked at seldom
        if self.threads == self._candidates[0]:  # all is slower
            self._usual = mean
            self._recent.clear()
        else:
            self._start_trials([self._candidates[0], self.threads], {})

    def _look_around(self) -> None:
        """Try the next number up, and the next time that down."""
        place = self._candidates.index(self.threads)
        up, down = self._candidates[place + 1 : place + 2], self._candidates[max(0, place - 1) : place]
        other = (up or down) if self._looks_up else (down or up)
        self._looks_up = not self._looks_up
        self._pause = min(2 * self._pause, _LATEST)
        self._start_trials(other, {self.threads: _mean(self._recent)})


def _mean(times: Sequence[float]) -> float:
    """Return the mean of all but the longest, which may be the system's doing."""
    return sum(times) / len(times) if len(times) < 3 else (sum(times) - max(times)) / (len(times) - 1)


@contextmanager
def tuned_threads(
    backend: Backend, n_steps: float = math.inf, on_change: Callable[[Change], object] = lambda change: None
) -> Iterator[ThreadTuner | FixedThreads]:
    """Yield a tuner of the BLAS library's threads, if they are tuned; restore their number at the end.

    They are tuned for NumPy, in the main thread, outside of joblib's workers, if neither the environment nor
    threadpoolctl limits them, unless the caller knows of fewer than `FEWEST_STEPS` steps.
    """
    is_main = threading.current_thread() is threading.main_thread()
    is_said = any(os.environ.get(name, "").partition(",")[0].strip().isdecimal() for name in _VARIABLES)
    if backend.name != "numpy" or n_steps < FEWEST_STEPS or not is_main or is_said:
        yield FixedThreads()
        return
    libraries = blas_libraries()
    before = [library.get_num_threads() for library in libraries]
    most, cores = min(before, default=1), min(len(usable_cores()), _MOST_KNOWN)
    if any(getattr(library, "internal_api", "") == "mkl" for library in libraries):
        cores = (cores + 1) // 2  # MKL takes a thread for each physical core
    if most == 1 or most < cores:
        yield FixedThreads()
        return

    def set_threads(n: int) -> None:
        for library in libraries:
            library.set_num_threads(n)

    candidates = [*(2**k for k in range(10) if 2**k < most), most]
    try:
        yield ThreadTuner(candidates, set_threads, on_change)
    finally:
        for library, n in zip(libraries, before, strict=True):
            library.set_num_threads(n)
