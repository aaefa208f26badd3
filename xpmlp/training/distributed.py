"""Strategies that join the ranks of a run: not at all, in every step, or by an average after some steps."""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends.base import Backend
from xpmlp.communication import Communicator, part_of, those_that_differ
from xpmlp.data.dataset import Dataset
from xpmlp.data.loading import Batch, DeviceLoader
from xpmlp.data.noise import Noise
from xpmlp.errors import CommunicationError, ConfigError
from xpmlp.math.layout import join
from xpmlp.math.optimizers import Optimizer, Scalars, State, sgd
from xpmlp.namespaces import Array, array_namespace, float_name
from xpmlp.training.config import TrainConfig, resolved
from xpmlp.training.objectives import Objective
from xpmlp.training.records import Checkpoint
from xpmlp.training.steps import (
    TAIL,
    Carry,
    Step,
    Totals,
    compiled,
    make_gradient_step,
    make_step,
    make_update_step,
    zero_totals,
)

_OUTER, _OUTER_RATE = sgd(0.5, nesterov=True), 0.7
"""The optimizer of the outer step, on the ranks' average, and its rate. DiLoCo's momentum of 0.9 is for rounds of 500
AdamW steps. It costs accuracy if each rank's own steps have momentum (MNIST, 4 ranks: 93 % instead of 97.7 %)."""

_OUTER_VELOCITY = "outer_velocity"
"""The name of its vector, beside the optimizer's own."""


class Strategy:
    """Makes a run's steps on one of its ranks."""

    _steps, _is_to_stop = 0, False

    step: Step
    """Arguments: theta, state, totals, a batch, scalars and noise. Returns a `Carry`, as `make_step`'s function
    does."""

    def sync(self, carry: Carry) -> Carry:
        """Return the state that all ranks share; all ranks call it after the same step."""
        return carry

    def should_stop(self) -> bool:
        """Return whether a rank has requested a stop; all ranks learn it after the same step."""
        return self._is_to_stop


class SingleProcess(Strategy):
    """A single process: its step is the whole step."""

    def __init__(self, step: Step, wishes_to_stop: Callable[[], bool]) -> None:
        self.step, self._wishes_to_stop = step, wishes_to_stop

    def should_stop(self) -> bool:
        """Return whether it has requested a stop."""
        return self._wishes_to_stop()


class Group(NamedTuple):
    """The ranks of a run, seen from one of them; any may request a stop."""

    communicator: Communicator
    backend: Backend
    wishes_to_stop: Callable[[], bool]

    def wish(self) -> float:
        """Return 1.0 if the rank has requested a stop, else 0.0."""
        return 1.0 if self.wishes_to_stop() else 0.0

    def sum(self, vector: Array) -> tuple[Array, Array]:
        """Return the sum of the ranks' vectors, and its last number, which the host reads without cost.

        The vector may be overwritten. If it is not of the communicator's library, it goes through the host and is kept.
        """
        if self.communicator.library in (None, self.backend.library):
            vector = self.communicator.sum(vector)
            return vector, vector[-1]
        host = self.communicator.sum(self.backend.to_numpy(vector))
        return self.backend.asarray(host), host[-1]


class Synchronous(Strategy):
    """Steps that all ranks make together: each computes its gradient, all add them up, and all make the same update."""

    def __init__(self, group: Group, objective: Objective, optimizer: Optimizer, n: int) -> None:
        self._group, backend = group, group.backend
        self._gradient_step = compiled(backend, make_gradient_step(objective))
        self._update_step = compiled(backend, make_update_step(optimizer, n), donate=(0, 1, 2))

    def step(
        self, theta: Array, state: State, totals: Totals, part: "Part", scalars: Scalars, noise: Noise | None = None
    ) -> Carry:
        """Make the step; all ranks call it, even without a row of the batch."""
        wish = self._group.wish()
        if part.batch is None:
            vector = np.zeros(theta.shape[0] + TAIL, float_name(theta.dtype))
            vector[-1] = wish
            vector = self._group.backend.asarray(vector)
        else:
            vector = self._gradient_step(theta, part.batch, part.share, wish, noise and noise.of(part.rows))
        vector, wishes = self._group.sum(vector)
        self._steps += 1
        if self._steps % self._group.communicator.stop_poll_interval == 0:  # the same steps on all ranks
            self._is_to_stop = float(wishes) > 0
        carry: Carry = self._update_step(theta, state, totals, vector, scalars)
        return carry


class LocalSGD(Strategy):
    """Steps that each rank makes alone on its parts of the batches; after some steps, all are averaged.

    The average moves from the round's start towards the mean of the ranks' parameters, with its own momentum. This is
    local SGD (Stich 2019, "Local SGD Converges Fast and Communicates Little"). Its outer step is that of DiLoCo
    (Douillard et al. 2023, "DiLoCo: Distributed Low-Communication Training of Language Models", algorithm 1)::

        g ← start − mean of the ranks' theta
        v ← 0.5 · v + g
        theta ← start − 0.7 · (g + 0.5 · v)

    The optimizer's state stays local between averages; `with_outer_velocity` adds v to it.
    """

    def __init__(self, group: Group, step: Step, interval: int, theta: Array) -> None:
        self._group, self._own_step, self._interval = group, step, interval
        self._start = group.backend.namespace.asarray(theta, copy=True)  # the steps change theta itself
        self._own = zero_totals(group.backend, float_name(theta.dtype))

    def step(
        self, theta: Array, state: State, totals: Totals, part: "Part", scalars: Scalars, noise: Noise | None = None
    ) -> Carry:
        """Make a step; after the round's last one, average with all ranks. All ranks call it equally often."""
        if part.batch is not None:
            noise = noise and noise.of(part.rows)
            theta, state, self._own = self._own_step(theta, state, self._own, part.batch, scalars, noise)
        self._steps += 1
        carry = Carry(theta, state, totals)
        return carry if self._steps < self._interval else self._average(carry)

    def sync(self, carry: Carry) -> Carry:
        """End the round; average the optimizer's vectors too."""
        theta, state, totals = self._average(carry) if self._steps else carry
        own, size = set(state) - {_OUTER_VELOCITY}, self._group.communicator.size
        shared = {name: self._group.sum(state[name])[0] / size for name in sorted(own)}  # in one order on all ranks
        return Carry(theta, {**state, **shared}, totals)

    def _average(self, carry: Carry) -> Carry:
        theta, state, totals = carry
        xp, n, own = array_namespace(theta=theta), theta.shape[0], self._own
        vector = join(
            (theta, own.loss, xp.astype(own.correct, theta.dtype), xp.zeros_like(own.loss) + self._group.wish())
        )
        vector, wishes = self._group.sum(vector)
        self._is_to_stop = float(wishes) > 0
        loss = totals.loss + xp.reshape(vector[n : n + 1], ())
        correct = totals.correct + xp.astype(xp.reshape(vector[n + 1 : n + 2], ()), xp.int32)
        finite = totals.finite + xp.astype(xp.isfinite(loss), xp.int32) * self._steps
        totals = Totals(loss, correct, totals.steps + self._steps, finite)
        towards = self._start - vector[:n] / self._group.communicator.size
        velocity = {"velocity": state[_OUTER_VELOCITY]}
        theta, velocity = _OUTER.update(self._start, velocity, towards, _OUTER.scalars(1, _OUTER_RATE))
        self._start = xp.asarray(theta, copy=True)
        self._own, self._steps = zero_totals(self._group.backend, float_name(theta.dtype)), 0
        return Carry(theta, {**state, _OUTER_VELOCITY: velocity["velocity"]}, totals)


def with_outer_velocity(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer with room in its state for the velocity of `LocalSGD`'s averages."""

    def init(theta: Array) -> State:
        return {**optimizer.init(theta), _OUTER_VELOCITY: array_namespace(theta=theta).zeros_like(theta)}

    def update(theta: Array, state: State, gradient: Array, scalars: Scalars) -> tuple[Array, State]:
        own = {name: vector for name, vector in state.items() if name != _OUTER_VELOCITY}
        theta, own = optimizer.update(theta, own, gradient, scalars)
        return theta, {**own, _OUTER_VELOCITY: state[_OUTER_VELOCITY]}

    return optimizer._replace(init=init, update=update)


def make_strategy(
    config: TrainConfig, group: Group, objective: Objective, optimizer: Optimizer, theta: Array
) -> Strategy:
    """Return the strategy for a run's steps from theta on."""
    if group.communicator.size > 1 and config.average_every == 1:
        return Synchronous(group, objective, optimizer, theta.shape[0])
    step = compiled(group.backend, make_step(objective, optimizer), donate=(0, 1, 2))
    if config.average_every == 1:
        return SingleProcess(step, group.wishes_to_stop)
    return LocalSGD(group, step, config.average_every, theta)


class Part(NamedTuple):
    """One rank's part of a batch."""

    batch: Batch | None
    """Its rows; None if it has none."""
    share: float
    """Their fraction of the batch."""
    rows: slice


def parts_of(
    loader: DeviceLoader, order: np.ndarray, first: int, batch_size: int, ranks: Communicator
) -> Iterator[Part]:
    """Yield this rank's `Part` of each batch of an epoch."""
    n_whole = len(order) - len(order) % batch_size
    whole, rest = order[:n_whole].reshape(-1, batch_size), order[n_whole:]
    in_whole, in_rest = part_of(batch_size, ranks), part_of(len(rest), ranks)
    own, own_rest = whole[:, in_whole], rest[in_rest]
    parts = [(own.shape[1] / batch_size, in_whole)] * len(whole)
    if len(rest):
        parts.append((len(own_rest) / len(rest), in_rest))
    rows = np.concatenate([own.reshape(-1), own_rest])
    # Each part is a batch of the loader's own size, except the last one, which may be shorter or empty.
    return (Part(batch, *part) for batch, part in itertools.zip_longest(loader.batches(rows, first), parts[first:]))


def require_same_work(
    ranks: Communicator, config: TrainConfig, dataset: Dataset, start: Checkpoint | None, checkpoint_steps: int | None
) -> None:
    """Refuse ranks with other work than rank 0, and more ranks than a batch has rows."""
    arrays = (start.theta, *(start.state[name] for name in sorted(start.state))) if start else ()
    begun = start and (start.step, [hashlib.sha256(array.data).hexdigest() for array in arrays])
    for what, content in (
        ("other settings", dataclasses.asdict(dataclasses.replace(config, transfer="auto"))),
        ("another training set", dataset.fingerprint),
        ("another checkpoint", begun),
        ("another number of steps between checkpoints", checkpoint_steps),
    ):
        _require_same(ranks, content, f"{what} than rank 0: all ranks need the same command and the same data")
    if (batch_size := resolved(config.batch_size)) < ranks.size:
        raise ConfigError(
            f"batch_size {batch_size}: {ranks.size} ranks share each batch; "
            f"make it at least {ranks.size}, or start fewer ranks"
        )


def require_same_parameters(ranks: Communicator, theta: Array, backend: Backend, when: str) -> None:
    """Refuse ranks with other parameters than rank 0, bit for bit."""
    cause = "their results differ, as those of other processors or libraries do"
    digest = hashlib.sha256(backend.to_numpy(theta).data).digest()
    _require_same(
        ranks, digest, f"other parameters than rank 0 {when}: {cause}; start the ranks on machines that are alike"
    )


def _require_same(ranks: Communicator, content: Any, problem: str) -> None:
    """Refuse ranks with other content than rank 0; the problem describes it."""
    differ = those_that_differ(ranks, content)
    if differ:
        names = ", ".join(map(str, differ[:5])) + (f" and {len(differ) - 5} more" if len(differ) > 5 else "")
        raise CommunicationError(f"{f'rank {names} has' if len(differ) == 1 else f'ranks {names} have'} {problem}")
