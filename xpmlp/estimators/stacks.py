"""Many fits at once: a stack of networks in one array, each trained as its own `fit` would train it.

Networks of a stack may differ in their initial parameters, order, learning rates, momentum, penalty, dropout's draws,
samples and weights. Networks with other widths, activations or batch sizes go to other stacks.
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
from xpmlp.namespaces import Array, array_namespace
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
    """An estimator to fit."""

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
    """Fit each job's estimator as its own `fit` would; return the exception of each, or None."""
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


class StackRows(NamedTuple):
    """A batch of a stack of K networks by their samples' numbers, for a step that gathers it."""

    samples: tuple[Array, Array]
    """All samples and targets."""
    tables: tuple[Array, Array, Array | None]
    """For several batches, the numbers of each network's samples, and of its targets: (batches, K, n). And weights."""
    line: int
    """The batch's line in the tables."""
    alpha: Array
    """Each network's penalty, (K, 1, 1)."""
    n: Array | None
    """Each network's number of samples, (K,); None for the same number."""

    def read(self) -> tuple[Array, Array, Array | None, Array, Array | None]:
        """Return the batch as `xpmlp.training.objectives.SampleObjective` takes it; a compiled step may call it."""
        X, T, weights = (None if table is None else table[self.line, ...] for table in self.tables)
        xp = array_namespace(X=X)
        X, T = (_rows(xp, array, rows) for array, rows in zip(self.samples, (X, T), strict=True))
        return X, T, weights, self.alpha, self.n


class Stack(WholeEpochs):
    """A stack of networks in the form that the loop requires; see `xpmlp.training.loop.Work`."""

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
        running = [m.work.noise() if is_active else None for m, is_active in zip(self.slots, self._active, strict=True)]
        still = next(noise for noise in running if noise is not None)  # whose draws do for those that are over
        size, parts = self.slots[0].work.parts[0].stop, len(self.slots[0].work.parts)
        whole = parts - 1 if is_ragged or most % size else parts
        for first, last in ((0, whole), (whole, parts)):
            if first == last:
                continue
            start, stop, is_filled = first * size, min(last * size, most), is_ragged and last == parts
            count = place.to_device(np.asarray(lengths, self.slots[0].work.dtype) - start) if is_filled else None
            own = weights if is_weighted or is_filled else None
            tables = [_table(place, each, start, stop, last - first) for each in (rows_X, rows_T, own)]
            for line in range(last - first):
                batch = StackRows((self._X, self._T), (tables[0], tables[1], tables[2]), line, self._alpha, count)
                drawn = next(still)
                noise = [drawn if each is still or each is None else next(each) for each in running]
                # Gathered here, unless the library makes many steps in one call.
                yield batch if place.device.run_length > 1 else batch.read(), _together(xp, noise)

    def scalars(self, step: int) -> Scalars:
        """Return the numbers of each network's next step, (K, 1) each."""
        numbers = [
            member.e._optimizer.next_scalars() if is_active else None
            for member, is_active in zip(self.slots, self._active, strict=True)
        ]
        names = next(each for each in numbers if each is not None)
        dtype = self.slots[0].work.dtype
        columns: dict[str, Any] = {
            name: np.asarray([[each[name] if each else 0.0] for each in numbers], dtype) for name in names
        }
        if self.place.device.run_length > 1:  # which takes numbers of the host for many steps at once
            return columns
        return {name: self.place.to_device(column) for name, column in columns.items()}

    def end_epoch(self, step: int, carry: Carry) -> Carry:
        """Let each network decide whether it has ended; once half of them have, continue with the others."""
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
        """Give an estimator its network's parameters."""
        member, xp = self.slots[k], self.place.xp
        self._active[k] = False
        theta, *state = (xp.asarray(array[k, :], copy=True) for array in (carry.theta, *carry.state.values()))
        try:
            finish(member.work, theta, dict(zip(carry.state, state, strict=True)), is_stopped=is_stopped)
            member.e._require_finite()
        except Exception as error:
            self._errors[member.number] = error

    def stop(self, carry: Carry) -> None:
        """Give all estimators their networks' present parameters."""
        for k, is_active in enumerate(self._active):
            if is_active:
                self._finish(k, carry, is_stopped=True)

    def _only(self, kept: list[int], carry: Carry) -> Carry:
        """Continue with some of the networks."""
        self.slots = [self.slots[k] for k in kept]
        self._active = [self._active[k] for k in kept]
        self._alpha = self._of_each([0.0 if m.e.solver == "adamw" else float(m.e.alpha) for m in self.slots])
        xp, rows = self.place.xp, self.place.to_device(np.asarray(kept))
        theta, *state = (xp.take(array, rows, axis=0) for array in (carry.theta, *carry.state.values()))
        return Carry(theta, dict(zip(carry.state, state, strict=True)), carry.totals)


def _table(place: Any, array: np.ndarray | None, start: int, stop: int, batches: int) -> Array | None:
    """Return some columns of a host array (K, n) by batches, (batches, K, size), on the computing device."""
    if array is None:
        return None
    cut = array[:, start:stop].reshape(len(array), batches, -1).swapaxes(0, 1)
    return np.ascontiguousarray(cut) if place.device.name == "numpy" else place.to_device(cut)


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
