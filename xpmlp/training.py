"""The training loop, and nothing that draws or prints."""

import dataclasses
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from xpmlp.backends.base import Backend, computing, format_bytes, free_host_memory
from xpmlp.communication import Alone, Communicator, part_of, those_that_differ
from xpmlp.config import TrainConfig, continued, make_optimizer, make_schedule, resolved, resolved_rate, usual_rate
from xpmlp.data.datasets import Dataset
from xpmlp.data.deformation import Deformation
from xpmlp.data.loading import Batch, DeviceLoader, read_batch, row_dtype
from xpmlp.dropout import Dropout
from xpmlp.errors import BackendError, CheckpointError, CommunicationError, ConfigError, DataError, TrainingError
from xpmlp.namespaces import Array, array_namespace
from xpmlp.network import Layer, Layout, backpropagate, center_gradients, forward, gradient_vector, init, score, smooth
from xpmlp.optimizers import Optimizer, Scalars, State, sgd
from xpmlp.primitives import accumulate, join, kernels, scaled
from xpmlp.records import Checkpoint, EpochMetrics, History, Plan
from xpmlp.schedules import fading


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


class Totals(NamedTuple):
    """An epoch's running totals, 0-d arrays on the device."""

    loss: Array
    """The sum of the images' losses, of theta's dtype."""
    correct: Array
    """How many were classified correctly, int32."""
    steps: Array
    """How many steps were made, int32."""
    finite: Array
    """How many were made before the first whose loss was not finite, int32."""


class Noise(NamedTuple):
    """What was drawn for one step, each as its `epoch` yields it: a table, and which line of it; None where nothing."""

    deformation: tuple[Array, int] | None = None
    dropout: tuple[Array, int] | None = None

    def of(self, rows: slice) -> "Noise":
        """Return what was drawn for a part of the batch."""
        return Noise(*(drawn and (drawn[0][drawn[1] : drawn[1] + 1, rows, ...], 0) for drawn in self))


TrainStep: TypeAlias = Callable[..., tuple[Array, State, Totals]]
GradientStep: TypeAlias = Callable[..., Array]
UpdateStep: TypeAlias = Callable[[Array, State, Totals, Array, Scalars], tuple[Array, State, Totals]]
EvaluationStep: TypeAlias = Callable[[Totals, Array, Batch], Totals]

_OUTER, _OUTER_RATE = sgd(0.5, nesterov=True), 0.7
"""What makes a step of the ranks' average, and its rate. DiLoCo's momentum of 0.9, for rounds of 500 AdamW steps, costs
accuracy where each rank's own steps have momentum (MNIST, 4 ranks: 93 % where this has 97.7 %)."""

_OUTER_VELOCITY = "outer_velocity"
"""What its vector is called beside the optimizer's own."""

_TAIL = 3
"""What the ranks sum behind the gradient: the losses, the number correct, and the wishes to stop."""


def make_train_step(
    layout: Layout,
    optimizer: Optimizer,
    max_value: int,
    center: float = 0.0,
    *,
    deformation: Deformation | None = None,
    dropout: Dropout | None = None,
    smoothing: float = 0.0,
) -> TrainStep:
    """Return the function of arrays that trains on one batch and waits for nothing.

    It takes theta, the optimizer's state, the totals, a batch as `DeviceLoader.batches` yields it or its images (uint8,
    n × d) and labels (int32, n), the step's scalars and, with a deformation or dropout, the step's `Noise`; the first
    three are handed over, and their successors returned. The totals are of the loss without smoothing.
    """
    differentiate = _make_differentiation(layout, max_value, center, deformation, dropout, smoothing)

    def step(
        theta: Array, state: State, totals: Totals, batch: Batch, scalars: Scalars, noise: Noise | None = None
    ) -> tuple[Array, State, Totals]:
        gradient, loss, correct, n = differentiate(theta, batch, noise)
        totals = Totals(*accumulate(*totals, loss, correct, n))
        theta, state = optimizer.update(theta, state, gradient, scalars)
        return theta, state, totals

    return step


def make_gradient_step(
    layout: Layout,
    max_value: int,
    center: float = 0.0,
    *,
    deformation: Deformation | None = None,
    dropout: Dropout | None = None,
    smoothing: float = 0.0,
) -> GradientStep:
    """Return the first half of a step of several ranks: what one rank adds to the vector that they sum.

    The function takes theta, the rank's part of a batch, how great a part of it that is (0 to 1), 1.0 where the rank
    wishes to stop, else 0.0, and with a deformation or dropout the part's noise. The vector is the part's gradient,
    times its share; the sum of its images' losses; how many are correct; and the wish. A loss that is not finite makes
    the sum of losses so.
    """
    differentiate = _make_differentiation(layout, max_value, center, deformation, dropout, smoothing)

    def step(theta: Array, batch: Batch, share: float, wish: float, noise: Noise | None = None) -> Array:
        gradient, loss, correct, n = differentiate(theta, batch, noise, share)
        xp = array_namespace(theta=theta)
        return join((gradient, loss * n, xp.astype(xp.asarray(correct), theta.dtype), xp.zeros_like(loss) + wish))

    return step


def make_update_step(layout: Layout, optimizer: Optimizer) -> UpdateStep:
    """Return the second half of a step of several ranks: the update by the sum of their vectors.

    The function takes theta, the optimizer's state, the totals, the sum, and the step's scalars; the first three are
    handed over, and their successors returned.
    """

    def step(
        theta: Array, state: State, totals: Totals, summed: Array, scalars: Scalars
    ) -> tuple[Array, State, Totals]:
        xp = array_namespace(theta=theta)
        n = layout.size
        loss, correct = (xp.reshape(summed[k : k + 1], ()) for k in (n, n + 1))
        totals = Totals(*accumulate(*totals, loss, xp.astype(correct, xp.int32), 1))
        theta, state = optimizer.update(theta, state, summed[:n], scalars)
        return theta, state, totals

    return step


def _make_differentiation(
    layout: Layout,
    max_value: int,
    center: float,
    deformation: Deformation | None,
    dropout: Dropout | None,
    smoothing: float,
) -> Callable[..., tuple[Array, Array, Array, int]]:
    """Return the function of theta and a batch that returns gradient, mean loss, number correct and number of images.

    Its third argument is the batch's noise, where there is some; its fourth multiplies the gradient.
    """

    def differentiate(
        theta: Array, batch: Batch, noise: Noise | None, share: float | None = None
    ) -> tuple[Array, Array, Array, int]:
        images, labels = read_batch(batch)
        layers = layout.unflatten(theta)
        drawn, left_out = noise or Noise()
        X = deformation(images, drawn) if deformation and drawn else scaled(images, theta, max_value)
        masks = dropout.masks(theta, X.shape[0], left_out) if dropout and left_out else None
        S, activations = forward(layers, X, masks=masks)
        delta, loss, correct = score(S, labels)
        if smoothing:
            delta = smooth(delta, labels, smoothing)
        if share is not None:
            delta *= share  # all gradients are linear in it, and it is the smallest of them

        def compute(into: Sequence[Layer] | None) -> Sequence[Layer]:
            if not center:
                return backpropagate(layers, activations, delta, masks=masks, into=into)
            X = activations[0]
            X -= center  # C1
            centred = backpropagate(layers, (X, *activations[1:]), delta, masks=masks, into=into)
            return center_gradients(centred, center)

        return gradient_vector(layout, theta, compute), loss, correct, S.shape[0]

    return differentiate


def make_evaluation_step(layout: Layout, max_value: int) -> EvaluationStep:
    """Return the function of arrays that adds one batch to the totals, which are handed over."""

    def step(totals: Totals, theta: Array, batch: Batch) -> Totals:
        images, labels = read_batch(batch)
        S, _ = forward(layout.unflatten(theta), scaled(images, theta, max_value))
        _, loss, correct = score(S, labels)
        return Totals(*accumulate(*totals, loss, correct, S.shape[0]))

    return step


def zero_totals(backend: Backend, dtype: str) -> Totals:
    """Return the totals of nothing."""
    return Totals(*(backend.asarray(np.zeros((), kind), copy=True) for kind in (dtype, "int32", "int32", "int32")))


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
    with computing(backend, resolved(config.batch_size)), kernels(config.kernels):
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
    _require_memory(config, layout, backend)
    if communicator.size > 1:
        _require_same_work(communicator, config, dataset, start)
        _require_rows_for_all(communicator, batch_size)

    rng = np.random.default_rng(config.seed)
    theta = backend.asarray(init(layout, rng, config.dtype), copy=True)
    rows = rng.permutation(_all_rows(dataset)) if n_val else _all_rows(dataset)
    val_rows, train_rows = np.sort(rows[:n_val]), np.sort(rows[n_val:])
    del rows
    state, totals = optimizer.init(theta), zero_totals(backend, config.dtype)
    if config.average_every > 1:
        state[_OUTER_VELOCITY] = backend.namespace.zeros_like(theta)
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
        "smoothing": config.label_smoothing,
    }
    wants_to_stop = should_stop or _never
    in_parts = communicator.size > 1 or config.average_every > 1
    train_step: Callable[..., tuple[Array, State, Totals]]
    rounds: Rounds | None = None
    if not in_parts or config.average_every > 1:
        train_step = backend.compile(make_train_step(layout, optimizer, **of_the_math), donate=(0, 1, 2))
        if config.average_every > 1:
            train_step = rounds = Rounds(communicator, backend, train_step, config, wants_to_stop, theta)
            wants_to_stop = rounds.is_to_stop
    else:
        train_step = together = StepOfAll(
            communicator,
            backend,
            backend.compile(make_gradient_step(layout, **of_the_math)),
            backend.compile(make_update_step(layout, optimizer), donate=(0, 1, 2)),
            wants_to_stop,
        )
        wants_to_stop = together.is_to_stop
    if communicator.size > 1:
        _require_same_parameters(communicator, theta, backend, "before the first step")
    evaluation_step = backend.compile(make_evaluation_step(layout, dataset.max_value), donate=(0,))
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
        batches = _batches(loader, order, first, batch_size, communicator, in_parts)
        for batch, drawn in zip(batches, noise, strict=False):
            step += 1
            scalars = optimizer.scalars(step, schedule(step))
            theta, state, totals = train_step(theta, state, totals, batch, scalars, drawn)
            for callback in callbacks:
                callback.on_step(step)
            if wants_to_stop():
                settle()
                _offer(take, callbacks)
                return state.get("average", theta), History(plan, tuple(done), is_complete=False)
            if checkpoint_steps and step % checkpoint_steps == 0 and step < last_step:
                settle()
                _offer(take, callbacks)
        settle()
        backend.synchronize()
        seconds = time.perf_counter() - epoch_began
        loss, correct = _read(totals, backend, plan, epoch)
        shown = state.get("average", theta)
        validation = _evaluate(evaluation_step, shown, loader, val_rows, backend, communicator) if n_val else None
        _require_finite(theta, validation, backend, plan, epoch)
        if communicator.size > 1:
            _require_same_parameters(communicator, theta, backend, f"after epoch {epoch}")
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
    return state.get("average", theta), History(plan, tuple(done))


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


class StepOfAll:
    """A step that several ranks make together: each one's gradient, the sum of them, the same update on all.

    It is called as what `make_train_step` returns, with a batch as `_batches` yields it.

    Parameters
    ----------
    communicator : Communicator
        The ranks.
    backend : Backend
        Whose arrays they compute with.
    gradient_step, update_step : callable
        What `make_gradient_step` and `make_update_step` return, compiled.
    wishes_to_stop : callable
        Whether this rank does.
    """

    def __init__(
        self,
        communicator: Communicator,
        backend: Backend,
        gradient_step: GradientStep,
        update_step: UpdateStep,
        wishes_to_stop: Callable[[], bool],
    ) -> None:
        self._communicator, self._backend = communicator, backend
        self._gradient_step, self._update_step, self._wishes_to_stop = gradient_step, update_step, wishes_to_stop
        self._steps, self._is_to_stop = 0, False

    def __call__(
        self,
        theta: Array,
        state: State,
        totals: Totals,
        part: "Part",
        scalars: Scalars,
        noise: Noise | None = None,
    ) -> tuple[Array, State, Totals]:
        """Make the step; all ranks call it, those that have no row of the batch too."""
        wish = 1.0 if self._wishes_to_stop() else 0.0
        if part.batch is None:
            vector = np.zeros(theta.shape[0] + _TAIL, str(theta.dtype).rpartition(".")[2])
            vector[-1] = wish
            vector = self._backend.asarray(vector)
        else:
            noise = noise and noise.of(part.rows)
            vector = self._gradient_step(theta, part.batch, part.share, wish, noise)
        vector, wishes = _sum(vector, self._backend, self._communicator)
        self._steps += 1
        if self._steps % self._communicator.steps_between_looks == 0:  # the same steps on all ranks
            self._is_to_stop = float(wishes) > 0
        return self._update_step(theta, state, totals, vector, scalars)

    def is_to_stop(self) -> bool:
        """Return whether a rank has wished to stop, which all ranks learn of after the same step."""
        return self._is_to_stop


def _sum(vector: Array, backend: Backend, communicator: Communicator) -> tuple[Array, Array]:
    """Return the sum of the ranks' vectors and its last number, which costs nothing to look at on the host.

    The vector is handed over, save where it is not of the communicator's library, which then goes through the host.
    """
    if communicator.library in (None, backend.library):
        vector = communicator.sum(vector)
        return vector, vector[-1]
    host = communicator.sum(backend.to_numpy(vector))
    return backend.asarray(host), host[-1]


class Rounds:
    """Steps that each rank makes alone on its parts of the batches, and after some of them one step of all.

    That step goes from where the round began towards the mean of where the ranks have come, with a momentum of its own:
    local SGD (Stich 2019, "Local SGD Converges Fast and Communicates Little") with the outer step of DiLoCo (Douillard
    et al. 2023, "DiLoCo: Distributed Low-Communication Training of Language Models", algorithm 1)::

        g ← start − mean of the ranks' theta
        v ← 0.5 · v + g
        theta ← start − 0.7 · (g + 0.5 · v)

    The optimizer's vectors stay each rank's own in between. It is called as what `make_train_step` returns, with a
    `Part` for a batch.

    Parameters
    ----------
    communicator : Communicator
        The ranks.
    backend : Backend
        Whose arrays they compute with.
    step : callable
        What `make_train_step` returns, compiled.
    config : TrainConfig
        How many steps a round has.
    wishes_to_stop : callable
        Whether this rank does; all learn of it at a round's end.
    theta : array, shape (layout.size,)
        Where the first round begins.
    """

    def __init__(
        self,
        communicator: Communicator,
        backend: Backend,
        step: TrainStep,
        config: TrainConfig,
        wishes_to_stop: Callable[[], bool],
        theta: Array,
    ) -> None:
        self._communicator, self._backend, self._step = communicator, backend, step
        self._every, self._dtype, self._wishes_to_stop = config.average_every, config.dtype, wishes_to_stop
        self._start = backend.namespace.asarray(theta, copy=True)
        self._own = zero_totals(backend, config.dtype)
        self._steps, self._is_to_stop = 0, False

    def __call__(
        self, theta: Array, state: State, totals: Totals, part: "Part", scalars: Scalars, noise: Noise | None = None
    ) -> tuple[Array, State, Totals]:
        """Make a step, and the round's last one with all ranks, which all call it as often."""
        if part.batch is not None:
            own = {name: vector for name, vector in state.items() if name != _OUTER_VELOCITY}
            noise = noise and noise.of(part.rows)
            theta, own, self._own = self._step(theta, own, self._own, part.batch, scalars, noise)
            state = {**own, _OUTER_VELOCITY: state[_OUTER_VELOCITY]}
        self._steps += 1
        if self._steps == self._every:
            return self._average(theta, state, totals)
        return theta, state, totals

    def is_to_stop(self) -> bool:
        """Return whether a rank had wished to stop when the last round ended."""
        return self._is_to_stop

    def settle(self, theta: Array, state: State, totals: Totals) -> tuple[Array, State, Totals]:
        """Return what the ranks have in common: a round is ended, and the optimizer's vectors are averaged too."""
        if self._steps:
            theta, state, totals = self._average(theta, state, totals)
        shared = {
            name: vector
            if name == _OUTER_VELOCITY
            else _sum(vector, self._backend, self._communicator)[0] / self._communicator.size
            for name, vector in state.items()
        }
        return theta, shared, totals

    def _average(self, theta: Array, state: State, totals: Totals) -> tuple[Array, State, Totals]:
        xp = array_namespace(theta=theta)
        loss, correct, n = self._own.loss, xp.astype(self._own.correct, theta.dtype), theta.shape[0]
        vector = join((theta, loss, correct, xp.zeros_like(loss) + (1.0 if self._wishes_to_stop() else 0.0)))
        vector, wishes = _sum(vector, self._backend, self._communicator)
        self._is_to_stop = float(wishes) > 0
        loss, correct = (xp.reshape(vector[k : k + 1], ()) for k in (n, n + 1))
        totals = Totals(*accumulate(*totals, loss, xp.astype(correct, xp.int32), 1))
        towards = self._start - vector[:n] / self._communicator.size
        velocity = {"velocity": state[_OUTER_VELOCITY]}
        theta, velocity = _OUTER.update(self._start, velocity, towards, {"learning_rate": _OUTER_RATE})
        self._start = xp.asarray(theta, copy=True)  # the steps change theta itself
        self._own, self._steps = zero_totals(self._backend, self._dtype), 0
        return theta, {**state, _OUTER_VELOCITY: velocity["velocity"]}, totals


class Part(NamedTuple):
    """One rank's part of a batch."""

    batch: Batch | None
    """Its rows; None where it has none."""
    share: float
    """How great a part of the batch they are."""
    rows: slice
    """Which."""


def _batches(
    loader: DeviceLoader, order: np.ndarray, first: int, batch_size: int, communicator: Communicator, in_parts: bool
) -> Iterable[Any]:
    """Return an epoch's batches from the first on, or this rank's `Part` of each."""
    if not in_parts:
        return loader.batches(order, first)
    n_whole = len(order) - len(order) % batch_size
    whole, rest = order[:n_whole].reshape(-1, batch_size), order[n_whole:]
    in_whole, in_rest = part_of(batch_size, communicator), part_of(len(rest), communicator)
    own, own_rest = whole[:, in_whole], rest[in_rest]
    shares = [own.shape[1] / batch_size] * len(whole) + [len(own_rest) / len(rest)] * (len(rest) > 0)
    places = [in_whole] * len(whole) + [in_rest] * (len(rest) > 0)
    rows = np.concatenate([own.reshape(-1), own_rest])
    # Each of its parts is a batch of the loader's own size, save the last one, which may be shorter or empty.
    return itertools.starmap(Part, itertools.zip_longest(loader.batches(rows, first), shares[first:], places[first:]))


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


def _require_rows_for_all(communicator: Communicator, batch_size: int) -> None:
    if batch_size < communicator.size:
        raise ConfigError(
            f"batch size {batch_size}: {communicator.size} ranks share each batch; "
            f"make it at least {communicator.size}, or start fewer ranks"
        )


def _require_same_work(
    communicator: Communicator, config: TrainConfig, dataset: Dataset, start: Checkpoint | None
) -> None:
    """Refuse ranks that would train on other data, with other settings or from elsewhere than rank 0."""
    arrays = (start.theta, *(start.state[name] for name in sorted(start.state))) if start else ()
    begun = start and (start.step, [hashlib.sha256(array.data).hexdigest() for array in arrays])
    for what, content in (
        ("other settings", dataclasses.asdict(dataclasses.replace(config, transfer="auto"))),
        ("another training set", dataset.fingerprint),
        ("another checkpoint", begun),
    ):
        differ = those_that_differ(communicator, content)
        if differ:
            raise CommunicationError(
                f"{_ranks(differ)} {what} than rank 0: all ranks need the same command and the same data"
            )


def _require_same_parameters(communicator: Communicator, theta: Array, backend: Backend, when: str) -> None:
    """Refuse ranks whose parameters are not rank 0's, bit for bit."""
    differ = those_that_differ(communicator, hashlib.sha256(backend.to_numpy(theta).data).digest())
    if differ:
        raise CommunicationError(
            f"{_ranks(differ)} other parameters than rank 0 {when}: their results differ, as those of other processors "
            "or libraries do; start the ranks on machines that are alike"
        )


def _ranks(ranks: Sequence[int]) -> str:
    """Return which ranks have something, as the beginning of a sentence."""
    names = ", ".join(map(str, ranks[:5])) + (f" and {len(ranks) - 5} more" if len(ranks) > 5 else "")
    return f"rank {names} has" if len(ranks) == 1 else f"ranks {names} have"


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


def _slower(plan: Plan) -> str:
    """Return what is the matter with a run that diverges, and what to do."""
    config, rate = plan.config, resolved_rate(plan.config)
    if config.weight_decay and rate * config.weight_decay > 1:
        return f"the weight decay {config.weight_decay:g} is too great for the learning rate {rate:g}; make it smaller"
    usual = usual_rate(config.optimizer, config.momentum, plan.batch_size)
    return f"the learning rate {rate:g} is too great for this run; try one such as {min(usual, rate / 10):.3g}"


def _require_memory(config: TrainConfig, layout: Layout, backend: Backend) -> None:
    """Refuse a network that the device cannot hold, before a byte of it is taken."""
    itemsize = np.dtype(config.dtype).itemsize
    vectors = {"sgd": 5, "adam": 7, "adamw": 7}[config.optimizer]  # theta, gradient twice, temporaries; the state
    vectors += 2 if config.average else 0
    activations = resolved(config.batch_size) * sum(layout.sizes) * 3
    needed = itemsize * (vectors * layout.size + activations)
    drawing = itemsize * 2 * layout.size + 8 * max(fan_in * fan_out for fan_in, fan_out in layout.shapes)
    for where, free, bytes_ in (
        (str(backend), backend.free_memory(), needed),
        ("the host", free_host_memory(), drawing),  # where the initial weights are drawn, in float64
    ):
        if free is not None and bytes_ > free:
            raise ConfigError(
                f"hidden layers {_widths(config.hidden)} with batch size {config.batch_size} need about "
                f"{format_bytes(bytes_)}: {where} has {format_bytes(free)} free; make them smaller"
            )


def _widths(hidden: Iterable[int]) -> str:
    return ",".join(map(str, hidden)) or "none"
