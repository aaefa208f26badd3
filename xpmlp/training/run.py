"""One run: a data set, settings and a backend become parameters and a history; nothing here draws or prints."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from xpmlp.backends.base import Backend, computing, format_bytes, free_host_memory
from xpmlp.communication import Communicator, SingleRank, part_of
from xpmlp.data.datasets import Dataset
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
from xpmlp.training.config import (
    TrainConfig,
    continued,
    make_optimizer,
    make_schedule,
    resolved,
    resolved_rate,
    usual_rate,
)
from xpmlp.training.distributed import (
    make_strategy,
    parts_of,
    require_rows_for_all,
    require_same_parameters,
    require_same_work,
    with_outer_velocity,
)
from xpmlp.training.evaluation import all_rows, evaluate_rows, require_kinds
from xpmlp.training.loop import Loop
from xpmlp.training.objectives import ImageObjective
from xpmlp.training.records import Callback, Checkpoint, EpochMetrics, History, Plan
from xpmlp.training.steps import Carry, Totals, compiled, make_evaluation_step, zero_totals


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
) -> tuple[Array, History]:
    """Train a network's parameters, as `xpmlp.train` and the command line do.

    Parameters
    ----------
    config : TrainConfig
        What decides the run.
    dataset : Dataset
        The training set; a part of it is held out for validation, as the config says.
    backend : Backend
        The library and device that compute.
    callbacks : sequence of Callback
        What is told how it goes on.
    start : Checkpoint or None
        Where an earlier run of the same config and data set is taken up, on whichever backend it was: on NumPy the
        results are those of a run that was never interrupted, bit for bit.
    checkpoint_steps : int or None
        Steps between two checkpoints within an epoch; None: there is one after each epoch.
    should_stop : callable or None
        Asked after each step; where it returns true, the run ends with a checkpoint, and the history is not complete.
        Where one of several ranks wishes to stop, all do, after the same step.
    communicator : Communicator or None
        The ranks that train one model together, all of them calling this with the same arguments, callbacks aside;
        None: this process alone. Each takes its part of every batch, and all return the same parameters.

    Returns
    -------
    theta : array, shape (layout.size,)
        The parameters after the last step, on the device.
    history : History
        What was measured.

    Raises
    ------
    ConfigError
        If the config does not fit the data or what the run was begun with, or the network the memory.
    CheckpointError
        If the checkpoint is of another network than the config and the data set make.
    BackendError
        If the device's memory runs out.
    TrainingError
        If the loss is no longer finite.
    CommunicationError
        If the ranks see different data or settings, or their parameters come apart.
    """
    require_kinds(dataset, backend)
    config, ranks = config.resolve(len(dataset)), communicator or SingleRank()
    plan = _plan(config, dataset, start)
    if dataset.images.dtype.kind == "f":
        dataset = dataclasses.replace(dataset, images=dataset.images.astype(config.dtype, copy=False))
    with computing(backend, plan.batch_size), kernels(config.kernels, backend.name):
        _require_memory(plan, backend, ranks)
        if ranks.size > 1:
            require_same_work(ranks, config, dataset, start, checkpoint_steps)
            require_rows_for_all(ranks, plan.batch_size)
        run = _Run(plan, dataset, backend, callbacks, start, checkpoint_steps, ranks)
        strategy = make_strategy(
            config, ranks, backend, run.objective, run.optimizer, should_stop or (lambda: False), run.carry.theta
        )
        run.begin()
        loop = Loop(run, strategy, backend, run.carry, plan.steps_done)
        loop.run()
        return loop.carry.theta, History(run.plan, tuple(run.done), is_complete=not loop.is_stopped)


class _Run:
    """What the loop asks of one run on one rank; see `xpmlp.training.loop.Work`."""

    def __init__(
        self,
        plan: Plan,
        dataset: Dataset,
        backend: Backend,
        callbacks: Sequence[Callback],
        start: Checkpoint | None,
        checkpoint_steps: int | None,
        ranks: Communicator,
    ) -> None:
        self.is_new, self.is_over, config, n_steps = (
            start is None,
            False,
            plan.config,
            plan.epochs * plan.steps_per_epoch,
        )
        self.backend, self.callbacks, self.ranks, self.checkpoint_steps = backend, callbacks, ranks, checkpoint_steps
        self.began = time.perf_counter() - (start.seconds if start else 0.0)
        self.schedule, optimizer = make_schedule(config, n_steps), make_optimizer(config)
        self.optimizer = with_outer_velocity(optimizer) if config.average_every > 1 else optimizer
        self.rng = np.random.default_rng(config.seed)
        theta = backend.asarray(init(plan.layout, self.rng, config.dtype), copy=True)
        rows = self.rng.permutation(all_rows(dataset)) if plan.n_val else all_rows(dataset)
        self.val_rows, self.train_rows = np.sort(rows[: plan.n_val]), np.sort(rows[plan.n_val :])
        del rows
        self.carry = Carry(theta, self.optimizer.init(theta), zero_totals(backend, config.dtype))
        if start:
            self.carry = _restored(start, self.carry, backend, optimizer.name)
            self.rng.bit_generator.state = start.generator
        n_own = len(range(plan.batch_size)[part_of(plan.batch_size, ranks)])
        self.loader = DeviceLoader(dataset, backend, n_own, config.transfer, reuse_buffers=True)
        self.plan = dataclasses.replace(plan, config=dataclasses.replace(config, transfer=self.loader.transfer))
        max_value, size = dataset.max_value, plan.batch_size
        strength = fading(config.deform, n_steps, config.deform_fade)
        self.deformation = self.dropout = None
        if config.deform:
            self.deformation = Deformation(strength, dataset.image_shape, max_value, size, backend, config.dtype)
        if config.dropout:
            self.dropout = Dropout(config.dropout, config.hidden, size, backend)
        self.objective = ImageObjective(plan.layout, max_value, config.center, self.deformation, self.dropout)
        self.evaluation_step = compiled(backend, make_evaluation_step(plan.layout, max_value), donate=(0,))
        self.done = list(start.epochs) if start else []
        self.generator = self.rng.bit_generator.state
        self.epoch_began = time.perf_counter() - (start.epoch_seconds if start else 0.0)

    def begin(self) -> None:
        """Do what is due before the first step."""
        if self.ranks.size > 1:
            require_same_parameters(self.ranks, self.carry.theta, self.backend, "before the first step")
        for callback in self.callbacks:
            callback.on_begin(self.plan)
        if self.is_new:
            self.keep(0, self.carry)

    def begin_epoch(self, step: int) -> tuple[Iterator[tuple[Any, Noise | None]], int] | None:
        """Draw the epoch's order and its noise."""
        plan = self.plan
        if self.is_over or len(self.done) == plan.epochs or is_reached(plan.config, self.done):
            return None
        before = len(self.done) * self.plan.steps_per_epoch
        order, first = self.rng.permutation(self.train_rows), step - before
        noise = _noise(self.rng, self.deformation, self.dropout, first, before)
        if self.ranks.size > 1 or self.plan.config.average_every > 1:
            batches: Iterator[Any] = parts_of(self.loader, order, first, self.plan.batch_size, self.ranks)
        else:
            batches = self.loader.batches(order, first)
        return zip(batches, noise, strict=False), before + self.plan.steps_per_epoch

    def scalars(self, step: int) -> Scalars:
        """Return the optimizer's numbers at the schedule's rate."""
        return self.optimizer.scalars(step, self.schedule(step))

    def next_due(self, step: int) -> int:
        """Return the next step, which the callbacks learn of, or without them that of the next checkpoint."""
        if self.callbacks:
            return step + 1
        return (step // self.checkpoint_steps + 1) * self.checkpoint_steps if self.checkpoint_steps else 2**62

    def after_step(self, step: int) -> None:
        """Tell the callbacks."""
        for callback in self.callbacks:
            callback.on_step(step)

    def keeps(self, step: int) -> bool:
        """Return whether there is a checkpoint after a step."""
        return self.checkpoint_steps is not None and step % self.checkpoint_steps == 0

    def keep(self, step: int, carry: Carry) -> None:
        """Offer a checkpoint to the callbacks."""

        def take() -> Checkpoint:
            """Copy to the host what the run needs to go on from here, once it is sure that it is worth going on."""
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
                state={name: self.backend.to_numpy(vector) for name, vector in carry.state.items()},
                totals={name: self.backend.to_numpy(total) for name, total in carry.totals._asdict().items()},
                generator=self.generator,
                epoch_seconds=now - self.epoch_began,
                seconds=now - self.began,
            )

        for callback in self.callbacks:
            callback.on_checkpoint(take)

    def end_epoch(self, step: int, carry: Carry) -> Carry:
        """Validate, and offer a checkpoint with which the next epoch begins."""
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
        """Evaluate, and refuse parameters that the epoch's last update broke, which no training loss has seen yet."""
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
        """Return an epoch's summed loss and number correct, once it is sure that the losses were finite."""
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
    """Return what a resolved config makes of a data set, once it is sure that a checkpoint is of the same run."""
    n_val, n_pixels = resolved(config.val_size), dataset.image_shape[0] * dataset.image_shape[1]
    layout = Layout((n_pixels, *config.hidden, len(dataset.class_names)))
    if config.deform and dataset.images.dtype.kind == "f":
        raise ConfigError(f"deform {config.deform} is for images of bytes: these samples are floats; leave it out")
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
    """Return what a checkpoint holds on the device."""
    if set(start.state) != set(carry.state):
        raise CheckpointError(f"the checkpoint has {sorted(start.state)}: {optimizer} has {sorted(carry.state)}")
    theta = backend.asarray(start.theta, copy=True)
    state = {name: backend.asarray(vector, copy=True) for name, vector in start.state.items()}
    return Carry(theta, state, Totals(**{n: backend.asarray(total, copy=True) for n, total in start.totals.items()}))


def _noise(
    rng: np.random.Generator, deformation: Deformation | None, dropout: Dropout | None, start: int, before: int
) -> Iterator[Noise | None]:
    """Yield what is drawn for each step of an epoch, from one of its batches on.

    Only a seed comes from the run's generator, for each kind of noise, once an epoch, after the order: a run that goes
    on within the epoch draws it again, and has the same noise at the same step.
    """
    seeds = [int(rng.integers(2**63)) if part else 0 for part in (deformation, dropout)]
    deformations = deformation.epoch(seeds[0], start, before) if deformation else None
    masks = dropout.epoch(seeds[1], start) if dropout else None
    while True:
        if deformations or masks:
            yield Noise(next(deformations) if deformations else None, next(masks) if masks else None)
        else:
            yield None


def _slower(plan: Plan) -> str:
    """Return what is the matter with a run that diverges, and what to do."""
    config, rate = plan.config, resolved_rate(plan.config)
    if config.weight_decay and rate * config.weight_decay > 1:
        return f"the weight decay {config.weight_decay:g} is too great for the learning rate {rate:g}; make it smaller"
    usual = usual_rate(config.optimizer, config.momentum, plan.batch_size)
    return f"the learning rate {rate:g} is too great for this run; try one such as {min(usual, rate / 10):.3g}"


def _require_memory(plan: Plan, backend: Backend, ranks: Communicator) -> None:
    """Refuse a network that the device cannot hold, before a byte of it is taken; ranks of a host share its memory."""
    config, layout, sharing = plan.config, plan.layout, ranks.local_size
    itemsize = np.dtype(config.dtype).itemsize
    vectors = {"sgd": 5, "adam": 7, "adamw": 7}[config.optimizer]  # theta, gradient twice, temporaries; the state
    activations = math.ceil(plan.batch_size / ranks.size) * sum(layout.sizes) * 3
    needed = itemsize * (vectors * layout.size + activations)
    drawing = itemsize * 2 * layout.size + 8 * max(fan_in * fan_out for fan_in, fan_out in layout.shapes)
    for where, free, bytes_, share in (
        (str(backend), backend.free_memory(), needed, 1 if backend.name == "cupy" else sharing),  # a GPU a rank
        ("the host", free_host_memory(), drawing, sharing),  # where the initial weights are drawn, in float64
    ):
        if free is not None and share * bytes_ > free:
            by, widths = f" in each of {share} ranks" if share > 1 else "", ",".join(map(str, config.hidden)) or "none"
            raise ConfigError(
                f"hidden {widths} with batch_size {config.batch_size} need about "
                f"{format_bytes(bytes_)}{by}: {where} has {format_bytes(free)} free; make them smaller"
            )
