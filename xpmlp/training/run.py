"""One run: from a data set, settings and a backend to parameters and a history; nothing here draws or prints."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from xpmlp.backends import GPUS
from xpmlp.backends.base import Backend, computing, format_bytes, free_host_memory
from xpmlp.communication import Communicator, SingleRank, part_of
from xpmlp.data.dataset import Dataset, described
from xpmlp.data.deformation import Deformation
from xpmlp.data.dropout import Dropout
from xpmlp.data.loading import DeviceLoader
from xpmlp.data.noise import Noise
from xpmlp.errors import CheckpointError, ConfigError, TrainingError
from xpmlp.kernels import kernels
from xpmlp.math.layout import Layout, init
from xpmlp.math.optimizers import Scalars
from xpmlp.math.schedules import fading
from xpmlp.models.model import Evaluation
from xpmlp.namespaces import Array
from xpmlp.training.config import TrainConfig, continued, make_optimizer, make_schedule, resolved, shown, usual_rate
from xpmlp.training.distributed import (
    Group,
    make_strategy,
    parts_of,
    require_same_parameters,
    require_same_work,
    with_outer_velocity,
)
from xpmlp.training.evaluation import all_rows, evaluate_rows, require_kinds
from xpmlp.training.loop import Loop
from xpmlp.training.objectives import ImageObjective
from xpmlp.training.records import Callback, Checkpoint, EpochMetrics, History, Plan
from xpmlp.training.steps import Carry, Step, Totals, compiled, make_evaluation_step, zero_totals


def train_network(
    config: TrainConfig,
    dataset: Dataset,
    backend: Backend,
    callbacks: Sequence[Callback] = (),
    *,
    start: Checkpoint | None = None,
    checkpoint_steps: int | None = None,
    should_stop: Callable[[], bool] | None = None,
    communicator: Communicator | None = None,
    watched: Callable[[Step], Step] | None = None,
) -> tuple[Array, History]:
    """Train a network; return its parameters, on the device, and the history; see `xpmlp.train`.

    Each rank takes its part of every batch, and all ranks return the same parameters. `watched` returns the function
    that is called for a step.
    """
    require_kinds(dataset, backend)
    config, ranks = config.resolve(len(dataset)), communicator or SingleRank()
    plan = _plan(config, dataset, start)
    dataset = dataset.as_inputs(config.dtype)
    with computing(backend, plan.batch_size), kernels(config.kernels, backend.name):
        _require_memory(plan, backend, ranks)
        if ranks.size > 1:
            require_same_work(ranks, config, dataset, start, checkpoint_steps)
        group = Group(ranks, backend, should_stop or (lambda: False))
        run = _Run(plan, dataset, group, start)
        strategy = make_strategy(config, group, run.objective, run.optimizer, run.carry.theta)
        if watched is not None:
            strategy.step = watched(strategy.step)
        run.begin(callbacks, checkpoint_steps, is_new=start is None)
        loop = Loop(run, strategy, backend, run.carry, plan.steps_done)
        loop.run()
        return loop.carry.theta, History(run.plan, tuple(run.done), is_complete=not loop.is_stopped)


class _Run:
    """One run on one rank, in the form that the loop requires; see `xpmlp.training.loop.Work`."""

    def __init__(self, plan: Plan, dataset: Dataset, group: Group, start: Checkpoint | None) -> None:
        config, max_value = plan.config, dataset.max_value
        self.ranks, self.backend = ranks, backend = group.communicator, group.backend
        self.is_over, self.done = False, list(start.epochs) if start else []
        self.began = time.perf_counter() - (start.seconds if start else 0.0)
        self.schedule, optimizer = make_schedule(config, plan.total_steps), make_optimizer(config)
        self.optimizer = with_outer_velocity(optimizer) if config.average_every > 1 else optimizer
        self.rng = np.random.default_rng(config.seed)
        theta = backend.asarray(init(plan.layout, self.rng, config.dtype), copy=True)
        rows = self.rng.permutation(all_rows(dataset)) if plan.n_val else all_rows(dataset)
        self.val_rows, self.train_rows = np.sort(rows[: plan.n_val]), np.sort(rows[plan.n_val :])
        self.carry = Carry(theta, self.optimizer.init(theta), zero_totals(backend, config.dtype))
        if start:
            self.carry = _restored(start, self.carry, backend, optimizer.name)
            self.rng.bit_generator.state = start.generator
        n_own = len(range(plan.batch_size)[part_of(plan.batch_size, ranks)])
        self.loader = DeviceLoader(dataset, backend, n_own, config.transfer, reuse_buffers=True)
        self.plan = dataclasses.replace(plan, config=dataclasses.replace(config, transfer=self.loader.transfer))
        self.deformation = self.dropout = None
        if config.deform:
            strength = fading(config.deform, plan.total_steps, config.deform_fade)
            shape, size = dataset.image_shape, plan.batch_size
            self.deformation = Deformation(strength, shape, max_value, size, backend, config.dtype)
        if config.dropout:
            self.dropout = Dropout(config.dropout, config.hidden, plan.batch_size, backend)
        self.objective = ImageObjective(plan.layout, max_value, config.center, self.deformation, self.dropout)
        self.evaluation_step = compiled(backend, make_evaluation_step(plan.layout, max_value), donate=(0,))
        self.generator = self.rng.bit_generator.state
        self.epoch_began = time.perf_counter() - (start.epoch_seconds if start else 0.0)

    def begin(self, callbacks: Sequence[Callback], checkpoint_steps: int | None, *, is_new: bool) -> None:
        self.callbacks, self.checkpoint_steps = callbacks, checkpoint_steps
        if self.ranks.size > 1:
            require_same_parameters(self.ranks, self.carry.theta, self.backend, "before the first step")
        for callback in self.callbacks:
            callback.on_begin(self.plan)
        if is_new:
            self.keep(0, self.carry)

    def begin_epoch(self, step: int) -> tuple[Iterator[tuple[Any, Noise | None]], int] | None:
        plan = self.plan
        if self.is_over or len(self.done) == plan.epochs or is_reached(plan.config, self.done):
            return None
        before = len(self.done) * plan.steps_per_epoch
        order, first = self.rng.permutation(self.train_rows), step - before
        if self.ranks.size > 1 or plan.config.average_every > 1:
            batches: Iterator[Any] = parts_of(self.loader, order, first, plan.batch_size, self.ranks)
        else:
            batches = self.loader.batches(order, first)
        return zip(batches, self._noise(first, before), strict=False), before + plan.steps_per_epoch

    def _noise(self, first: int, before: int) -> Iterator[Noise | None]:
        """Yield the random numbers for each step of an epoch, from one of its batches on.

        The run's generator gives only one seed per epoch and kind of noise, after the order. A run that resumes within
        the epoch draws the seed again, and so has the same noise at the same step.
        """
        seeds = [int(self.rng.integers(2**63)) if part else 0 for part in (self.deformation, self.dropout)]
        nothing = itertools.repeat(None)
        deformations = self.deformation.epoch(seeds[0], first, before) if self.deformation else nothing
        masks = self.dropout.epoch(seeds[1], first) if self.dropout else nothing
        return map(Noise, deformations, masks) if self.deformation or self.dropout else nothing

    def scalars(self, step: int) -> Scalars:
        return self.optimizer.scalars(step, self.schedule(step))

    def next_due(self, step: int) -> int:
        """Return the next step with a callback or a checkpoint."""
        following = [each for each in self.callbacks if getattr(each.on_step, "__func__", None) is not Callback.on_step]
        length = 1 if any(each.every_step for each in following) else self.backend.run_length if following else 2**62
        checkpoint = (step // self.checkpoint_steps + 1) * self.checkpoint_steps if self.checkpoint_steps else 2**62
        return min(step + length, checkpoint)

    def after_step(self, step: int) -> None:
        for callback in self.callbacks:
            callback.on_step(step)

    def keeps(self, step: int) -> bool:
        return self.checkpoint_steps is not None and step % self.checkpoint_steps == 0

    def keep(self, step: int, carry: Carry) -> None:

        def take() -> Checkpoint:
            """Copy a checkpoint to the host; refuse one from which it is not worth resuming."""
            theta = self.backend.to_numpy(carry.theta)
            self._read(carry.totals, len(self.done) + 1)
            if not np.isfinite(theta).all():
                raise TrainingError(f"the parameters are no longer finite after step {step:,}: {_slower(self.plan)}")
            now = time.perf_counter()
            return Checkpoint(
                config=self.plan.config,
                layout=self.plan.layout,
                step=step,
                epochs=tuple(self.done),
                theta=theta,
                state=_mapped(carry.state, self.backend.to_numpy),
                totals=_mapped(carry.totals._asdict(), self.backend.to_numpy),
                generator=self.generator,
                epoch_seconds=now - self.epoch_began,
                seconds=now - self.began,
            )

        for callback in self.callbacks:
            callback.on_checkpoint(take)

    def end_epoch(self, step: int, carry: Carry) -> Carry:
        plan, epoch = self.plan, len(self.done) + 1
        self.backend.synchronize()
        seconds = time.perf_counter() - self.epoch_began
        loss, correct = self._read(carry.totals, epoch)
        validation = self._validate(carry.theta, epoch)
        if self.ranks.size > 1:
            require_same_parameters(self.ranks, carry.theta, self.backend, f"after epoch {epoch}")
        metrics = EpochMetrics(
            epoch=epoch,
            train_loss=loss / plan.n_train,
            train_accuracy=correct / plan.n_train,
            val_loss=validation.loss if validation else None,
            val_accuracy=validation.accuracy if validation else None,
            learning_rate=self.schedule(step),
            seconds=seconds,
            samples_per_second=plan.n_train / seconds,
        )
        self.done.append(metrics)
        carry = carry._replace(totals=zero_totals(self.backend, plan.config.dtype))
        self.generator, self.epoch_began = self.rng.bit_generator.state, time.perf_counter()
        ends = [callback.on_epoch(metrics) is True for callback in self.callbacks]
        self.is_over = any(found for those in self.ranks.gather(ends) for found in those)
        self.keep(step, carry)
        return carry

    def _validate(self, theta: Array, epoch: int) -> Evaluation | None:
        """Evaluate; refuse parameters that the epoch's last update broke, which no training loss shows yet."""
        found = None
        if self.plan.n_val:
            found = evaluate_rows(self.evaluation_step, theta, self.loader, self.val_rows, self.backend, self.ranks)
        xp = self.backend.namespace
        finite = bool(self.backend.to_numpy(xp.all(xp.isfinite(theta))))
        if not finite or (found and not math.isfinite(found.loss)):
            what = "the validation loss is" if finite else "the parameters are"
            raise TrainingError(f"{what} no longer finite after epoch {epoch}: {_slower(self.plan)}")
        return found

    def _read(self, totals: Totals, epoch: int) -> tuple[float, int]:
        """Return an epoch's summed loss and number correct; refuse losses that were not finite."""
        loss, correct, steps, finite = (self.backend.to_numpy(total).item() for total in totals)
        if finite < steps:
            where = f"after step {finite:,} of {self.plan.steps_per_epoch:,}"
            raise TrainingError(f"the loss was no longer finite in epoch {epoch}, {where}: {_slower(self.plan)}")
        return loss, correct


def is_reached(config: TrainConfig, done: Sequence[EpochMetrics]) -> bool:
    """Return whether one of a run's epochs has reached its target."""
    target = config.target_accuracy
    return target is not None and any((epoch.val_accuracy or 0.0) >= target for epoch in done)


def _plan(config: TrainConfig, dataset: Dataset, start: Checkpoint | None) -> Plan:
    """Return the plan of a resolved config for a data set; refuse a checkpoint of another run."""
    n_val = int(resolved(config.val_size))
    layout = Layout((dataset.n_inputs, *config.hidden, len(dataset.class_names)))
    if config.deform and len(dataset.image_shape) == 1:
        what = described(dataset.image_shape)
        raise ConfigError(f"deform {config.deform} is for images: these are {what}; leave it out")
    n_train = len(dataset) - n_val
    steps_per_epoch = math.ceil(n_train / resolved(config.batch_size))
    if start and start.layout != layout:
        raise CheckpointError(
            f"the checkpoint is of a network {start.layout.sizes}: the config and the data set make {layout.sizes}; "
            "start a new run"
        )
    if start:
        continued(start.config, dataclasses.asdict(config), len(dataset))
        if len(start.epochs) > resolved(config.epochs):
            raise ConfigError(
                f"epochs {config.epochs}: the run has made {len(start.epochs)} already; give as many or more"
            )
    return Plan(config, layout, n_train, n_val, steps_per_epoch, start.step if start else 0)


def _restored(start: Checkpoint, carry: Carry, backend: Backend, optimizer: str) -> Carry:
    """Return a checkpoint's contents on the device."""
    if set(start.state) != set(carry.state):
        raise CheckpointError(f"the checkpoint has {sorted(start.state)}: {optimizer} has {sorted(carry.state)}")
    load = partial(backend.asarray, copy=True)
    return Carry(load(start.theta), _mapped(start.state, load), Totals(**_mapped(start.totals, load)))


def _mapped(arrays: Mapping[str, Any], copy: Callable[[Any], Any]) -> dict[str, Any]:
    return {name: copy(array) for name, array in arrays.items()}


def _slower(plan: Plan) -> str:
    """Return in words why a run diverges, and what to do."""
    config, rate = plan.config, resolved(plan.config.learning_rate)
    if config.weight_decay and rate * config.weight_decay > 1:
        return f"the weight decay {config.weight_decay:g} is too great for the learning rate {rate:g}; make it smaller"
    usual = usual_rate(config.optimizer, config.momentum, plan.batch_size)
    return f"the learning rate {rate:g} is too great for this run; try one such as {min(usual, rate / 10):.3g}"


def _require_memory(plan: Plan, backend: Backend, ranks: Communicator) -> None:
    """Refuse a network that does not fit in the device's memory, before allocating it. Ranks of a host share memory."""
    config, layout, sharing = plan.config, plan.layout, ranks.local_size
    itemsize = np.dtype(config.dtype).itemsize
    vectors = {"sgd": 5, "adam": 7, "adamw": 7}[config.optimizer]  # theta, gradient twice, temporaries; the state
    activations = math.ceil(plan.batch_size / ranks.size) * sum(layout.sizes) * 3
    needed = itemsize * (vectors * layout.size + activations)
    drawing = itemsize * 2 * layout.size + 8 * max(fan_in * fan_out for fan_in, fan_out in layout.shapes)
    for where, free, bytes_, share in (
        (
            str(backend),
            backend.free_memory(),
            needed,
            1 if backend.spec.startswith(GPUS) else sharing,
        ),  # a GPU per rank
        ("the host", free_host_memory(), drawing, sharing),  # the initial weights are drawn on the host, in float64
    ):
        if free is not None and share * bytes_ > free:
            by = f" in each of {share} ranks" if share > 1 else ""
            raise ConfigError(
                f"hidden {shown(config.hidden)} with batch_size {config.batch_size} need about "
                f"{format_bytes(bytes_)}{by}: {where} has {format_bytes(free)} free; make them smaller"
            )
