"""The loop: epochs of steps, for any work and any library."""

from collections.abc import Iterator
from typing import Any, Protocol

from xpmlp.backends.base import Backend
from xpmlp.math.optimizers import Scalars
from xpmlp.training.distributed import Strategy
from xpmlp.training.steps import Carry


class Work(Protocol):
    """The work that is trained: its batches, and the actions between steps and between epochs."""

    def begin_epoch(self, step: int) -> tuple[Iterator[tuple[Any, Any]], int] | None:
        """Return an epoch's batches after a step, each with its noise, and its last step; None: no epoch is left."""

    def scalars(self, step: int) -> Scalars:
        """Return the optimizer's numbers for a step; steps count from 1 over the whole run."""

    def next_due(self, step: int) -> int:
        """Return the next step after which `after_step` or `keep` is due."""

    def after_step(self, step: int) -> None:
        """Act after a step, which may still be queued on the device."""

    def keeps(self, step: int) -> bool:
        """Return whether a checkpoint is due after a step within an epoch."""

    def keep(self, step: int, carry: Carry) -> None:
        """Write a checkpoint, or keep the work so far in another way."""

    def end_epoch(self, step: int, carry: Carry) -> Carry:
        """Finish an epoch, and return the carry for the next one."""


class Loop:
    """Makes the steps of some work by a strategy on a backend, to its end or until a stop is requested.

    The backend gets runs of steps between which nothing is due, so a library may compile a run. `carry` and `step` (the
    number of earlier steps) are those of the last step made. `is_stopped` says whether the loop ended early.
    """

    def __init__(self, work: Work, strategy: Strategy, backend: Backend, carry: Carry, step: int = 0) -> None:
        self.work, self.strategy, self.backend, self.carry, self.step = work, strategy, backend, carry, step
        self.is_stopped = False

    def run(self) -> None:
        """Train."""
        work, strategy = self.work, self.strategy
        while not self.is_stopped and (epoch := work.begin_epoch(self.step)) is not None:
            batches, last = epoch
            while self.step < last and not self.is_stopped:
                inputs = self._inputs(batches, min(last, work.next_due(self.step)))
                self.carry = self.backend.repeat(strategy.step, self.carry, inputs)
                work.after_step(self.step)
                self.is_stopped = self.is_stopped or strategy.should_stop()
                if self.is_stopped or (self.step < last and work.keeps(self.step)):
                    self.carry = strategy.sync(self.carry)
                    work.keep(self.step, self.carry)
            if not self.is_stopped:
                self.carry = work.end_epoch(self.step, strategy.sync(self.carry))

    def _inputs(self, batches: Iterator[tuple[Any, Any]], due: int) -> Iterator[tuple[Any, Scalars, Any]]:
        """Yield each step's arguments, up to the next step with something due or a stop request."""
        for batch, noise in batches:
            self.step += 1
            yield batch, self.work.scalars(self.step), noise
            if self.step == due:
                return
            if self.strategy.should_stop():
                self.is_stopped = True
                return
