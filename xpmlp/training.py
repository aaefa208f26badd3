"""The training loop, and nothing that draws or prints."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpmlp.backends.base import Backend, computing, format_bytes, free_host_memory
from xpmlp.communication import Alone, Communicator, part_of
from xpmlp.config import TrainConfig, continued, make_optimizer, make_schedule, resolved, resolved_rate, usual_rate
from xpmlp.data.datasets import Dataset
from xpmlp.data.deformation import Deformation
from xpmlp.data.loading import DeviceLoader, row_dtype
from xpmlp.dropout import Dropout
from xpmlp.errors import BackendError, CheckpointError, ConfigError, DataError, TrainingError
from xpmlp.kernels import are_plain, kernels
from xpmlp.math.layout import Layout, init
from xpmlp.math.optimizers import State
from xpmlp.math.schedules import fading
from xpmlp.namespaces import Array
from xpmlp.noise import Noise
from xpmlp.records import Checkpoint, EpochMetrics, History, Plan
from xpmlp.steps import (
    EvaluationStep,
    Totals,
    make_evaluation_step,
    make_gradient_step,
    make_train_step,
    make_update_step,
    zero_totals,
)
from xpmlp.together import (
    OUTER_VELOCITY,
    Rounds,
    StepOfAll,
    parts_of,
    require_rows_for_all,
    require_same_parameters,
    require_same_work,
)


class Callback:
    """What is told how a run goes on. Each method does nothing here; override those that matter."""

    def on_begin(self, plan: Plan) -> None:
        """Do something before the first step, when data and parameters are on the device."""

    def on_step(self, step: int) -> None:
        """Do something after a step was queued (the device may still be at it); steps count from 1 over the run."""

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Do something after an epoch and its validation."""

    def on_checkpoint(self, take: Callable[[], Checkpoint]) -> None:
        """Do something where the run could go on: before the first step, after each epoch, every so many steps.

        ``take()`` copies what that needs to the host; it is to be called before this returns, or not at all.
        """


class Evaluation(NamedTuple):
    """The mean loss and the fraction classified correctly."""

    loss: float
    accuracy: float


def train(
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
    """Train a perceptron.

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
    _require_kinds(dataset, backend)
    config = config.resolve(len(dataset))
    with computing(backend, resolved(config.batch_size)), kernels(config.kernels, backend.name):
        return _train(
            config, dataset, backend, callbacks, start, checkpoint_steps, should_stop, communicator or Alone()
        )


def evaluate(
    theta: Array,
    layout: Layout,
    dataset: Dataset,
    backend: Backend,
    batch_size: int = 1024,
    transfer: str = "auto",
    communicator: Communicator | None = None,
) -> Evaluation:
    """Return the mean loss and the accuracy of a network over a data set.

    Parameters
    ----------
    theta : array, shape (layout.size,)
        The parameters, on the backend's device.
    layout : Layout
        The network's widths.
    dataset : Dataset
        The images and labels.
    backend : Backend
        The library and device that compute.
    batch_size : int
        Images at a time.
    transfer : {"auto", "resident", "stream"}
        How they come to the device.
    communicator : Communicator or None
        The ranks that share the work, all of them calling this; None: this process alone.

    Raises
    ------
    DataError
        If the images have not as many pixels as the network has inputs, or there are more classes than outputs.
    BackendError
        If the device's memory runs out.
    TrainingError
        If the loss is not finite.
    """
    _require_kinds(dataset, backend)
    n_pixels = dataset.image_shape[0] * dataset.image_shape[1]
    if n_pixels != layout.sizes[0] or len(dataset.class_names) > layout.sizes[-1]:
        raise DataError(
            f"{dataset.provenance}: {n_pixels} pixels and {len(dataset.class_names)} classes: "
            f"the network has {layout.sizes[0]} inputs and {layout.sizes[-1]} outputs"
        )
    with computing(backend, batch_size):
        step = backend.compile(make_evaluation_step(layout, dataset.max_value), donate=(0,))
        loader = DeviceLoader(dataset, backend, batch_size, transfer, reuse_buffers=True)
        evaluation = _evaluate(step, theta, loader, _all_rows(dataset), backend, communicator or Alone())
    if not math.isfinite(evaluation.loss):
        raise TrainingError(
            f"{dataset.provenance}: the loss is {evaluation.loss}: the parameters are too great or not finite"
        )
    return evaluation


def _require_kinds(dataset: object, backend: object) -> None:
    """Refuse what is easily handed over in another's place: both parts of a data set, a backend's name."""
    if not isinstance(dataset, Dataset):
        raise DataError(f"a {type(dataset).__name__} where a Dataset is expected: give one part, such as data.train")
    if not isinstance(backend, Backend):
        raise BackendError(f"{backend!r} where a Backend is expected: give what get_backend(...) returns")


def _train(
    config: TrainConfig,
    dataset: Dataset,
    backend: Backend,
    callbacks: Sequence[Callback],
    start: Checkpoint | None,
    checkpoint_steps: int | None,
    should_stop: Callable[[], bool] | None,
    communicator: Communicator,
) -> tuple[Array, History]:
    began = time.perf_counter() - (start.seconds if start else 0.0)
    n_val, batch_size, epochs = (resolved(value) for value in (config.val_size, config.batch_size, config.epochs))
    n_train = len(dataset) - n_val
    n_pixels = dataset.image_shape[0] * dataset.image_shape[1]
    layout = Layout((n_pixels, *config.hidden, len(dataset.class_names)))
    optimizer = make_optimizer(config)
    steps_per_epoch = math.ceil(n_train / batch_size)
    schedule = make_schedule(config, epochs * steps_per_epoch)
    if start:
        _require_same_run(start, config, layout, len(dataset))
    _require_memory(config, layout, backend, communicator)
    if communicator.size > 1:
        require_same_work(communicator, config, dataset, start, checkpoint_steps)
        require_rows_for_all(communicator, batch_size)

    rng = np.random.default_rng(config.seed)
    theta = backend.asarray(init(layout, rng, config.dtype), copy=True)
    rows = rng.permutation(_all_rows(dataset)) if n_val else _all_rows(dataset)
    val_rows, train_rows = np.sort(rows[:n_val]), np.sort(rows[n_val:])
    del rows
    state, totals = optimizer.init(theta), zero_totals(backend, config.dtype)
    if config.average_every > 1:
        state[OUTER_VELOCITY] = backend.namespace.zeros_like(theta)
    if start:
        if set(start.state) != set(state):
            raise CheckpointError(f"the checkpoint has {sorted(start.state)}: {optimizer.name} has {sorted(state)}")
        theta = backend.asarray(start.theta, copy=True)
        state = {name: backend.asarray(vector, copy=True) for name, vector in start.state.items()}
        totals = Totals(**{name: backend.asarray(total, copy=True) for name, total in start.totals.items()})
        rng.bit_generator.state = start.generator
    n_own = len(range(batch_size)[part_of(batch_size, communicator)])
    loader = DeviceLoader(dataset, backend, n_own, config.transfer, reuse_buffers=True)
    step, done = (start.step, list(start.epochs)) if start else (0, [])
    plan = Plan(dataclasses.replace(config, transfer=loader.transfer), layout, n_train, n_val, steps_per_epoch, step)
    strength = fading(config.deform, epochs * steps_per_epoch, config.deform_fade)
    shape, max_value = dataset.image_shape, dataset.max_value
    deformation = Deformation(strength, shape, max_value, batch_size, backend, config.dtype) if config.deform else None
    dropout = Dropout(config.dropout, config.hidden, batch_size, backend) if config.dropout else None
    of_the_math: dict[str, Any] = {
        "max_value": max_value,
        "center": config.center,
        "deformation": deformation,
        "dropout": dropout,
    }
    compile_: Callable[..., Any] = _as_it_stands if are_plain() else backend.compile
    wants_to_stop = should_stop or _never
    in_parts = communicator.size > 1 or config.average_every > 1
    train_step: Callable[..., tuple[Array, State, Totals]]
    rounds: Rounds | None = None
    if communicator.size == 1 or config.average_every > 1:
        train_step = compile_(make_train_step(layout, optimizer, **of_the_math), donate=(0, 1, 2))
        if config.average_every > 1:
            train_step = rounds = Rounds(communicator, backend, train_step, config, wants_to_stop, theta)
            wants_to_stop = rounds.is_to_stop
    else:
        train_step = together = StepOfAll(
            communicator,
            backend,
            compile_(make_gradient_step(layout, **of_the_math)),
            compile_(make_update_step(layout, optimizer), donate=(0, 1, 2)),
            wants_to_stop,
        )
        wants_to_stop = together.is_to_stop
    if communicator.size > 1:
        require_same_parameters(communicator, theta, backend, "before the first step")
    evaluation_step = compile_(make_evaluation_step(layout, dataset.max_value), donate=(0,))
    generator, epoch_began = rng.bit_generator.state, time.perf_counter() - (start.epoch_seconds if start else 0.0)

    def take() -> Checkpoint:
        """Copy to the host what the run needs to go on from here, once it is sure that it is worth going on."""
        host_theta = backend.to_numpy(theta)
        _read(totals, backend, plan, len(done) + 1)
        if not np.isfinite(host_theta).all():
            raise TrainingError(f"the parameters are no longer finite after step {step:,}: {_slower(plan)}")
        now = time.perf_counter()
        return Checkpoint(
            config=plan.config,
            layout=layout,
            step=step,
            epochs=tuple(done),
            theta=host_theta,
            state={name: backend.to_numpy(vector) for name, vector in state.items()},
            totals={name: backend.to_numpy(total) for name, total in totals._asdict().items()},
            generator=generator,
            epoch_seconds=now - epoch_began,
            seconds=now - began,
        )

    def settle() -> None:
        """Let what this rank has be what all have, where they have gone ways of their own."""
        nonlocal theta, state, totals
        if rounds:
            theta, state, totals = rounds.settle(theta, state, totals)

    for callback in callbacks:
        callback.on_begin(plan)
    if not start:
        _offer(take, callbacks)
    for epoch in range(len(done) + 1, epochs + 1):
        if is_reached(config, done):
            break
        last_step = epoch * steps_per_epoch
        before = last_step - steps_per_epoch
        order, first = rng.permutation(train_rows), step - before
        noise = _noise(rng, deformation, dropout, first, before)
        parts = parts_of(loader, order, first, batch_size, communicator, in_parts)
        for batch, drawn in zip(parts, noise, strict=False):
            step += 1
            scalars = optimizer.scalars(step, schedule(step))
            theta, state, totals = train_step(theta, state, totals, batch, scalars, drawn)
            for callback in callbacks:
                callback.on_step(step)
            if wants_to_stop():
                settle()
                _offer(take, callbacks)
                return theta, History(plan, tuple(done), is_complete=False)
            if checkpoint_steps and step % checkpoint_steps == 0 and step < last_step:
                settle()
                _offer(take, callbacks)
        settle()
        backend.synchronize()
        seconds = time.perf_counter() - epoch_began
        loss, correct = _read(totals, backend, plan, epoch)
        validation = _evaluate(evaluation_step, theta, loader, val_rows, backend, communicator) if n_val else None
        _require_finite(theta, validation, backend, plan, epoch)
        if communicator.size > 1:
            require_same_parameters(communicator, theta, backend, f"after epoch {epoch}")
        metrics = EpochMetrics(
            epoch=epoch,
            train_loss=loss / n_train,
            train_accuracy=correct / n_train,
            val_loss=validation.loss if validation else None,
            val_accuracy=validation.accuracy if validation else None,
            learning_rate=schedule(last_step),
            seconds=seconds,
            samples_per_second=n_train / seconds,
        )
        done.append(metrics)
        totals, generator, epoch_began = (
            zero_totals(backend, config.dtype),
            rng.bit_generator.state,
            time.perf_counter(),
        )
        for callback in callbacks:
            callback.on_epoch(metrics)
        _offer(take, callbacks)
    return theta, History(plan, tuple(done))


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


def _never() -> bool:
    return False


def _offer(take: Callable[[], Checkpoint], callbacks: Sequence[Callback]) -> None:
    for callback in callbacks:
        callback.on_checkpoint(take)


def is_reached(config: TrainConfig, done: Sequence[EpochMetrics]) -> bool:
    """Return whether one of a run's epochs has reached its target."""
    target = config.target_accuracy
    return target is not None and any((epoch.val_accuracy or 0.0) >= target for epoch in done)


def _require_same_run(start: Checkpoint, config: TrainConfig, layout: Layout, n_images: int) -> None:
    """Refuse to go on with another run's checkpoint, or to an end that lies behind it."""
    if start.layout != layout:
        raise CheckpointError(
            f"the checkpoint is of a network {start.layout.sizes}: the config and the data set make {layout.sizes}; "
            "start a new run"
        )
    continued(start.config, dataclasses.asdict(config), n_images)
    epochs = resolved(config.epochs)
    if len(start.epochs) > epochs:
        raise ConfigError(f"epochs {epochs}: the run has made {len(start.epochs)} already; give as many or more")


def _all_rows(dataset: Dataset) -> np.ndarray:
    return np.arange(len(dataset), dtype=row_dtype(len(dataset)))


def _evaluate(
    step: EvaluationStep,
    theta: Array,
    loader: DeviceLoader,
    rows: np.ndarray,
    backend: Backend,
    communicator: Communicator,
) -> Evaluation:
    totals = zero_totals(backend, "float64" if "float64" in str(theta.dtype) else "float32")
    for batch in loader.batches(rows[part_of(len(rows), communicator)]):
        totals = step(totals, theta, batch)
    found = communicator.gather((float(backend.to_numpy(totals.loss)), int(backend.to_numpy(totals.correct))))
    loss, correct = sum(loss for loss, _ in found), sum(correct for _, correct in found)
    return Evaluation(loss / len(rows), correct / len(rows))


def _read(totals: Totals, backend: Backend, plan: Plan, epoch: int) -> tuple[float, int]:
    """Return an epoch's summed loss and number correct, once it is sure that the losses were finite."""
    loss, correct, steps, finite = (backend.to_numpy(total).item() for total in totals)
    if finite < steps:
        where = f"step {finite + 1} of {plan.steps_per_epoch}"
        if plan.config.average_every > 1:
            where = f"round {finite + 1} of {plan.config.average_every} steps"
        raise TrainingError(f"the loss was no longer finite in epoch {epoch}, {where}: {_slower(plan)}")
    return loss, correct


def _require_finite(theta: Array, validation: Evaluation | None, backend: Backend, plan: Plan, epoch: int) -> None:
    """Refuse to go on where the epoch's last update broke the parameters, which no training loss has seen yet."""
    xp = backend.namespace
    finite = bool(backend.to_numpy(xp.all(xp.isfinite(theta))))
    if not finite or (validation and not math.isfinite(validation.loss)):
        what = "the validation loss is" if finite else "the parameters are"
        raise TrainingError(f"{what} no longer finite after epoch {epoch}: {_slower(plan)}")


def _as_it_stands(step: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return a step that is not to be compiled."""
    return step


def _slower(plan: Plan) -> str:
    """Return what is the matter with a run that diverges, and what to do."""
    config, rate = plan.config, resolved_rate(plan.config)
    if config.weight_decay and rate * config.weight_decay > 1:
        return f"the weight decay {config.weight_decay:g} is too great for the learning rate {rate:g}; make it smaller"
    usual = usual_rate(config.optimizer, config.momentum, plan.batch_size)
    return f"the learning rate {rate:g} is too great for this run; try one such as {min(usual, rate / 10):.3g}"


def _require_memory(config: TrainConfig, layout: Layout, backend: Backend, communicator: Communicator) -> None:
    """Refuse a network that the device cannot hold, before a byte of it is taken; ranks of a host share its memory."""
    itemsize = np.dtype(config.dtype).itemsize
    vectors = {"sgd": 5, "adam": 7, "adamw": 7}[config.optimizer]  # theta, gradient twice, temporaries; the state
    activations = math.ceil(resolved(config.batch_size) / communicator.size) * sum(layout.sizes) * 3
    sharing = communicator.local_size
    needed = itemsize * (vectors * layout.size + activations)
    drawing = itemsize * 2 * layout.size + 8 * max(fan_in * fan_out for fan_in, fan_out in layout.shapes)
    for where, free, bytes_, share in (
        (str(backend), backend.free_memory(), needed, 1 if backend.name == "cupy" else sharing),  # a GPU a rank
        ("the host", free_host_memory(), drawing, sharing),  # where the initial weights are drawn, in float64
    ):
        if free is not None and share * bytes_ > free:
            by = f" in each of {share} ranks" if share > 1 else ""
            raise ConfigError(
                f"hidden layers {_widths(config.hidden)} with batch size {config.batch_size} need about "
                f"{format_bytes(bytes_)}{by}: {where} has {format_bytes(free)} free; make them smaller"
            )


def _widths(hidden: Iterable[int]) -> str:
    return ",".join(map(str, hidden)) or "none"
