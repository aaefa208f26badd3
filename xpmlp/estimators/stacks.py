"""Many fits at once: a stack of networks in one array, each trained as its own `fit` would train it.

What may differ from network to network: first parameters, order, rates, momentum, penalty, dropout's draws, samples and
their weights. Those that differ in more (widths, activation, batch size) go to stacks of their own.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.utils import gen_batches

from xpmlp.backends.base import computing
from xpmlp.data.loading import gather
from xpmlp.data.noise import Noise
from xpmlp.estimators.epochs import Task, WholeEpochs, take
from xpmlp.estimators.fitting import begin, begin_by_batches, finish, objective_of, split
from xpmlp.estimators.inputs import SparseSamples
from xpmlp.estimators.parameters import STOCHASTIC
from xpmlp.kernels import exact_kernels
from xpmlp.math.optimizers import Scalars
from xpmlp.namespaces import Array
from xpmlp.training.distributed import SingleProcess
from xpmlp.training.interrupts import first_interrupt
from xpmlp.training.loop import Loop
from xpmlp.training.steps import Carry, compiled_step, release, zero_totals
from xpmlp.training.threads import tuned_threads

if TYPE_CHECKING:
    from xpmlp.estimators.base import Perceptron

MOST = 32
"""Networks of a stack. More gain little."""

CACHED = 3 << 20
"""Bytes that a step of a stack may touch on NumPy: with more, each pass reads them from memory."""


class Job(NamedTuple):
    """An estimator that is to be fitted."""

    estimator: "Perceptron"
    X: Any
    y: Any
    sample_weight: Any = None
    source: Any = None
    """Jobs of the same source have the same X and y, which are then checked and kept once."""


class _Member:
    """A network of a stack, with its own epochs."""

    def __init__(self, e: "Perceptron", task: Task, number: int) -> None:
        self.e, self.number = e, number
        rows = None
        if e.early_stopping:
            train, held_out = split(e, task)
            rows = task.place.host(train)
            task = task._replace(held_out=take(task.place.xp, task.data, held_out))
        self.task, self.work = task, begin(e, task, rows=rows)
        self.weights = None if task.data[2] is None else task.place.host(task.data[2])

    @property
    def is_on_numpy(self) -> bool:
        """Whether NumPy computes."""
        return self.task.place.device.name == "numpy"

    @property
    def element_steps(self) -> int:
        """How many parameters and activations NumPy computes in all steps at most."""
        work = self.work
        activations = work.parts[0].stop * sum(work.layout.sizes[1:])
        return work.epochs * len(work.parts) * (work.layout.size + activations) if self.is_on_numpy else 0

    @property
    def key(self) -> tuple[Any, ...]:
        """What networks of one stack have in common."""
        work, settings = self.work, self.e._optimizer.settings
        rule = (settings[0], *(settings[2:] if settings[0] == "sgd" else settings[1:3]))
        head, dropout = self.e._loss_head(), self.work.dropout and self.work.dropout.rate
        widths = work.layout, self.e._between(), work.parts[0].stop, len(work.parts)
        return (*widths, head, dropout, rule, work.dtype, str(work.place.device), work.place.is_host)


def fit_together(jobs: Sequence[Job]) -> list[BaseException | None]:
    """Fit each job's estimator as its own `fit` would, and return what each of these would have raised, or None."""
    errors: list[BaseException | None] = [None] * len(jobs)
    shared: dict[Any, tuple[Any, Task]] = {}
    stacks: dict[Any, list[_Member]] = {}
    for number, job in enumerate(jobs):
        try:
            member = _member(job, number, shared)
            if member is not None:
                stacks.setdefault(member.key, []).append(member)
        except Exception as error:
            errors[number] = error
    element_steps = sum(member.element_steps for members in stacks.values() for member in members)
    with first_interrupt() as is_interrupted, exact_kernels(element_steps):
        for members in stacks.values():
            # Those with as many samples, and with the same ones, together.
            members.sort(key=lambda member: (len(member.work.rows), id(member.task.data[0])))
            for part in gen_batches(len(members), _most(members[0])):
                if not is_interrupted():
                    _train(members[part], errors, is_interrupted)
        if is_interrupted():
            raise KeyboardInterrupt
    return errors


def _member(job: Job, number: int, shared: dict[Any, tuple[Any, Task]]) -> _Member | None:
    """Return a job as a network of a stack; one that cannot be is fitted alone."""
    e = job.estimator
    goes_on = e.warm_start and hasattr(e, "coefs_")
    e._validate_params()
    key = job.source, type(e), e.backend, e.dtype, id(job.sample_weight), str(getattr(e, "class_weight", None))
    if job.source is None or goes_on or key not in shared:
        task = e._prepare(job.X, job.y, job.sample_weight)
    else:
        task = e._prepare_like(*shared[key])
    X, _, weights = task.data
    counts_all = weights is None or bool(task.place.xp.all(weights != 0))
    if e.solver not in STOCHASTIC or goes_on or isinstance(X, SparseSamples) or not counts_all:
        e._train(task, begin_by_batches(e, task, False) if e.solver in STOCHASTIC else None)
        return None
    shared.setdefault(key, (e, task))
    if job.source is not None:  # the same numbers, kept once, whatever the classes weigh
        same = shared.setdefault((*key[:4], str(task.place.device)), (e, task))[1]
        task = task._replace(data=(same.data[0], same.data[1], weights))
    return _Member(e, task, number)


def _most(member: _Member) -> int:
    """Return how many networks a stack may have: its memory is bounded, and on NumPy better cached."""
    layout, size = member.work.layout, 8 if member.work.dtype == "float64" else 4
    batch = member.work.parts[0].stop * (layout.sizes[0] + 2 * sum(layout.sizes[1:]))
    touched, free = size * (5 * layout.size + batch), member.task.place.device.free_memory()
    bounds = [MOST, CACHED // touched] if member.is_on_numpy else [MOST]
    bounds += [free // (4 * touched)] if free is not None else []
    return max(1, min(bounds))


def _train(members: list[_Member], errors: list[BaseException | None], is_interrupted: Callable[[], bool]) -> None:
    """Train a stack, and note what goes wrong with which network."""
    stack, first, device = Stack(members, errors), members[0], members[0].task.place.device
    alpha = max((0.0 if member.e.solver == "adamw" else float(member.e.alpha)) for member in members)
    objective = dataclasses.replace(
        objective_of(first.e, first.work.layout, first.work.dropout), alpha=float(alpha > 0)
    )
    decays = max(range(len(members)), key=lambda k: float(members[k].e.alpha))  # whose rule has a decay, if one has
    step = compiled_step(device, objective, members[decays].e._optimizer.rule)
    steps = max(member.work.epochs for member in members) * len(first.work.parts)
    with computing(device, first.work.parts[0].stop), tuned_threads(device, steps) as tuner:
        loop = Loop(stack, SingleProcess(tuner.watched(step), is_interrupted), device, stack.first())
        try:
            loop.run()
        finally:
            release(step)
        if loop.is_stopped:
            stack.stop(loop.carry)


class Stack(WholeEpochs):
    """What the loop asks of a stack of networks; see `xpmlp.training.loop.Work`."""

    def __init__(self, members: Sequence[_Member], errors: list[BaseException | None]) -> None:
        self.slots, self._errors, self.place = list(members), errors, members[0].task.place
        self._active = [True] * len(self.slots)
        self._X, self._X_starts = self._joined(0)
        self._T, self._T_starts = self._joined(1)
        self._alpha = self._of_each([0.0 if m.e.solver == "adamw" else float(m.e.alpha) for m in self.slots])

    def _joined(self, which: int) -> tuple[Array, dict[int, int]]:
        """Return the members' samples, or targets, one after the other, and where each's begin; each array once."""
        found: list[Array] = [member.task.data[which] for member in self.slots]
        arrays = {id(array): array for array in found}
        starts, start = {}, 0
        for name, array in arrays.items():
            starts[name], start = start, start + array.shape[0]
        parts = list(arrays.values())
        return parts[0] if len(parts) == 1 else self.place.xp.concat(parts, axis=0), starts

    def _of_each(self, numbers: Sequence[float]) -> Array:
        return self.place.to_device(np.asarray(numbers, np.float64).reshape(-1, 1, 1))

    def first(self) -> Carry:
        """Return what the first step is handed."""
        xp, work = self.place.xp, self.slots[0].work
        dtype = getattr(xp, work.dtype)
        thetas = [xp.astype(m.e._theta(work.layout, self.place), dtype, copy=False) for m in self.slots]
        theta = xp.stack(thetas, axis=0)
        state = self.slots[0].e._optimizer.rule.init(theta)
        return Carry(theta, state, zero_totals(self.place.device, work.dtype, (len(self.slots),)))

    def begin_epoch(self, step: int) -> tuple[Iterator[tuple[Any, Noise | None]], int] | None:
        """Draw each network's order."""
        if not any(self._active):
            return None
        for member, is_active in zip(self.slots, self._active, strict=True):
            if is_active:
                member.work.draw()
        return self._batches(), step + len(self.slots[0].work.parts)

    def _batches(self) -> Iterator[tuple[Any, Noise | None]]:
        xp, place, K = self.place.xp, self.place, len(self.slots)
        lengths = [len(member.work.rows) for member in self.slots]
        most, is_ragged = max(lengths), len(set(lengths)) > 1
        is_weighted = any(member.weights is not None for member in self.slots)
        rows_X, rows_T = np.zeros((2, K, most), int)
        weights = np.zeros((K, most), self.slots[0].work.dtype) if is_ragged or is_weighted else None
        for k, (member, n) in enumerate(zip(self.slots, lengths, strict=True)):
            rows, (X, T, _) = member.work.rows, member.task.data
            rows_X[k, :n] = rows + self._X_starts[id(X)]
            rows_T[k, :n] = rows + self._T_starts[id(T)]
            if weights is not None:
                weights[k, :n] = 1.0 if member.weights is None else member.weights[rows]
        on_device = [rows_X, rows_T] if place.device.name == "numpy" else [*map(place.to_device, (rows_X, rows_T))]
        counts: Array = None if weights is None else place.to_device(weights)
        running = [m.work.noise() if is_active else None for m, is_active in zip(self.slots, self._active, strict=True)]
        still = next(noise for noise in running if noise is not None)  # whose draws do for those that are over
        size, parts = self.slots[0].work.parts[0].stop, len(self.slots[0].work.parts)
        for part in range(parts):
            start, stop = part * size, min((part + 1) * size, most)
            X, T = (
                _rows(xp, array, rows[:, start:stop]) for array, rows in zip((self._X, self._T), on_device, strict=True)
            )
            is_filled = is_ragged and part == parts - 1
            count = place.to_device(np.asarray(lengths, self.slots[0].work.dtype) - start) if is_filled else None
            own = next(still)
            drawn = [own if noise is still or noise is None else next(noise) for noise in running]
            w = counts[:, start:stop] if is_weighted or is_filled else None
            yield (X, T, w, self._alpha, count), _together(xp, drawn)

    def scalars(self, step: int) -> Scalars:
        """Return the numbers of each network's next step, (K, 1) each."""
        numbers = [
            member.e._optimizer.next_scalars() if is_active else None
            for member, is_active in zip(self.slots, self._active, strict=True)
        ]
        names = next(each for each in numbers if each is not None)
        dtype = self.slots[0].work.dtype
        return {
            name: self.place.to_device(np.asarray([[each[name] if each else 0.0] for each in numbers], dtype))
            for name in names
        }

    def end_epoch(self, step: int, carry: Carry) -> Carry:
        """Let each network decide whether it was its last epoch; half of them gone, go on with the others."""
        losses = self.place.device.to_numpy(carry.totals.loss)
        for k, member in enumerate(self.slots):
            if self._active[k]:
                self._judge(k, member, losses[k], carry)
        wanted = [k for k, is_active in enumerate(self._active) if is_active]
        if wanted and len(wanted) <= len(self.slots) / 2:
            size = 1 << (len(wanted) - 1).bit_length()  # of powers of two JAX compiles few
            gone = [k for k, is_active in enumerate(self._active) if not is_active]
            carry = self._only([*wanted, *gone][:size], carry)
        work = self.slots[0].work
        return carry._replace(totals=zero_totals(self.place.device, work.dtype, (len(self.slots),)))

    def _judge(self, k: int, member: _Member, loss: Any, carry: Carry) -> None:
        try:
            member.work.judge(loss, carry.theta[k, :] if member.work.held_out else None)
        except Exception as error:
            self._errors[member.number], self._active[k] = error, False
        if self._active[k] and member.work.is_done:
            self._finish(k, carry)

    def _finish(self, k: int, carry: Carry, is_stopped: bool = False) -> None:
        """Let an estimator have what its network learned."""
        member, xp = self.slots[k], self.place.xp
        self._active[k] = False
        theta, *state = (xp.asarray(array[k, :], copy=True) for array in (carry.theta, *carry.state.values()))
        try:
            finish(member.work, theta, dict(zip(carry.state, state, strict=True)), is_stopped=is_stopped)
            member.e._require_finite()
        except Exception as error:
            self._errors[member.number] = error

    def stop(self, carry: Carry) -> None:
        """Let all estimators have what their networks learned so far."""
        for k, is_active in enumerate(self._active):
            if is_active:
                self._finish(k, carry, is_stopped=True)

    def _only(self, kept: list[int], carry: Carry) -> Carry:
        """Go on with some of the networks."""
        self.slots = [self.slots[k] for k in kept]
        self._active = [self._active[k] for k in kept]
        self._alpha = self._of_each([0.0 if m.e.solver == "adamw" else float(m.e.alpha) for m in self.slots])
        xp, rows = self.place.xp, self.place.to_device(np.asarray(kept))
        theta, *state = (xp.take(array, rows, axis=0) for array in (carry.theta, *carry.state.values()))
        return Carry(theta, dict(zip(carry.state, state, strict=True)), carry.totals)


def _rows(xp: Any, array: Array, rows: Array) -> Array:
    """Return rows of an array by their numbers, (K, n): (K, n, …)."""
    if isinstance(array, np.ndarray):
        return gather(array, rows)
    taken = xp.take(array, xp.reshape(rows, (-1,)), axis=0)
    return xp.reshape(taken, (*rows.shape, *array.shape[1:]))


def _together(xp: Any, drawn: Iterable[Noise | None]) -> Noise | None:
    """Return what was drawn for each network's step as one."""
    lines = [noise.dropout for noise in drawn if noise is not None and noise.dropout is not None]
    if not lines:
        return None
    return Noise(dropout=(xp.stack([table[line, :, :] for table, line in lines], axis=0)[None, ...], 0))
