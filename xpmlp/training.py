"""The training loop, and nothing that draws or prints."""

import contextlib
import dataclasses
import math
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from xpmlp.backends.base import Backend, format_bytes, free_host_memory
from xpmlp.data.datasets import Dataset
from xpmlp.data.loading import TRANSFERS, DeviceLoader, row_dtype
from xpmlp.errors import BackendError, ConfigError, DataError, TrainingError
from xpmlp.namespaces import Array, array_namespace
from xpmlp.network import Layout, backward, count_correct, cross_entropy, forward, init
from xpmlp.optimizers import Optimizer, Scalars, State, adam, adamw, sgd
from xpmlp.schedules import Schedule, constant, cosine, one_cycle

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "one-cycle")
DTYPES = ("float32", "float64")

_LEAST_STEPS, _MOST_EPOCHS = 1500, 100
"""Where the number of epochs is left to us, a small data set gets more than five: so many steps, or so many epochs."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What decides a training run, data and backend aside. None stands for a default that `resolve` fills in.

    Parameters
    ----------
    hidden : tuple of int
        The widths of the hidden layers.
    epochs : int or None
        Passes over the training images; None: 5, or where that would make fewer than 1,500 steps more, up to 100.
    batch_size : int or None
        Images a step; None: 128, or 32 where there are fewer than 10,000 training images.
    optimizer : {"sgd", "adam", "adamw"}
        The update rule.
    learning_rate : float or None
        The schedule's greatest rate; None: what suits the optimizer.
    schedule : {"constant", "cosine", "one-cycle"}
        How the rate changes over the run.
    momentum : float or None
        For sgd alone; None: 0.9.
    nesterov : bool or None
        For sgd alone; None: where there is momentum.
    weight_decay : float or None
        None: 0, or 0.01 for adamw.
    val_size : int, float or None
        How much of the training set is held out for validation: a count if at least 1, a fraction if below, 0 for
        none; None: a sixth.
    seed : int
        Of the one generator that draws the initial weights, the held-out images and each epoch's order.
    dtype : {"float32", "float64"}
        What is computed in.
    target_accuracy : float or None
        Stop after the first epoch whose validation accuracy, in (0, 1], reaches it.
    transfer : {"auto", "resident", "stream"}
        How images come to the device, as `DeviceLoader` has it; the results are the same.

    Raises
    ------
    ConfigError
        If a value is outside its range, or contradicts another.
    """

    hidden: tuple[int, ...] = (256, 128)
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: str = "sgd"
    learning_rate: float | None = None
    schedule: str = "one-cycle"
    momentum: float | None = None
    nesterov: bool | None = None
    weight_decay: float | None = None
    val_size: int | float | None = None
    seed: int = 0
    dtype: str = "float32"
    target_accuracy: float | None = None
    transfer: str = "auto"

    def __post_init__(self) -> None:
        try:
            Layout((1, *self.hidden, 1))
        except (ConfigError, TypeError):
            raise ConfigError(f"hidden layers {self.hidden!r}: expected widths of at least 1, whole numbers") from None
        _require_one_of("optimizer", self.optimizer, OPTIMIZERS)
        _require_one_of("schedule", self.schedule, SCHEDULES)
        _require_one_of("dtype", self.dtype, DTYPES)
        _require_one_of("transfer", self.transfer, TRANSFERS)
        _require_count("epochs", self.epochs, least=1)
        _require_count("batch size", self.batch_size, least=1)
        _require_count("seed", self.seed, least=0)
        rate, share, target = self.learning_rate, self.val_size, self.target_accuracy
        if rate is not None and not 0 < rate < math.inf:
            raise ConfigError(f"learning rate {rate}: expected a finite number above 0")
        if share is not None and not (0 <= share < 1 or (1 <= share < math.inf and share == int(share))):
            raise ConfigError(f"validation size {share}: expected a whole number of images, a fraction below 1, or 0")
        if target is not None and not 0 < target <= 1:
            raise ConfigError(f"target accuracy {target}: expected a fraction above 0, at most 1")
        if target is not None and share == 0:
            raise ConfigError(f"target accuracy {target} without validation data: give a validation size above 0")
        if self.optimizer != "sgd" and (self.momentum is not None or self.nesterov):
            raise ConfigError(f"momentum and nesterov are for sgd: leave them out with {self.optimizer}")
        make_optimizer(self)  # refuses what does not fit it

    def resolve(self, n_images: int) -> "TrainConfig":
        """Return the same with every None replaced by what it stands for, for a training set of n images.

        What does not apply stays None: momentum and nesterov without sgd, and no target accuracy.

        Raises
        ------
        ConfigError
            If the validation size or the batch size does not fit the data.
        """
        n_val = n_images // 6 if self.val_size is None else self.val_size
        n_val = round(n_val * n_images) if n_val < 1 else int(n_val)
        n_train = n_images - n_val
        if n_train < 1:
            raise ConfigError(f"validation size {n_val}: the training set has {n_images} images; hold out fewer")
        if self.target_accuracy is not None and n_val == 0:
            raise ConfigError(f"target accuracy {self.target_accuracy}: no image is left for validation")
        batch_size = min(n_train, 128 if n_train >= 10_000 else 32) if self.batch_size is None else self.batch_size
        if batch_size > n_train:
            raise ConfigError(f"batch size {batch_size}: there are {n_train} training images; make it smaller")
        steps = math.ceil(n_train / batch_size)
        epochs = self.epochs or min(max(5, math.ceil(_LEAST_STEPS / steps)), _MOST_EPOCHS)
        filled: dict[str, Any] = {"val_size": n_val, "batch_size": batch_size, "epochs": epochs}
        if self.optimizer == "sgd":
            filled["momentum"] = 0.9 if self.momentum is None else self.momentum
            filled["nesterov"] = filled["momentum"] > 0 if self.nesterov is None else self.nesterov
        if self.learning_rate is None:
            filled["learning_rate"] = _usual_rate(self.optimizer, filled.get("momentum"), batch_size)
        if self.weight_decay is None:
            filled["weight_decay"] = 0.01 if self.optimizer == "adamw" else 0.0
        return dataclasses.replace(self, **filled)


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch's line in the metrics.

    Parameters
    ----------
    epoch : int
        Counted from 1.
    train_loss, train_accuracy : float
        Means over the epoch's images, each seen before the update that it caused.
    val_loss, val_accuracy : float or None
        Of the held-out images after the epoch; None without any.
    learning_rate : float
        Of the epoch's last step.
    seconds : float
        For the order, the batches, the steps, and waiting for the last of them.
    samples_per_second : float
        Training images by those seconds.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    learning_rate: float
    seconds: float
    samples_per_second: float


@dataclass(frozen=True)
class Plan:
    """What is known before the first step.

    Parameters
    ----------
    config : TrainConfig
        With every default resolved.
    layout : Layout
        The network's widths.
    n_train, n_val : int
        Images trained on and held out.
    steps_per_epoch : int
        Batches an epoch, the last short one included.
    """

    config: TrainConfig
    layout: Layout
    n_train: int
    n_val: int
    steps_per_epoch: int

    @property
    def epochs(self) -> int:
        """Passes over the training images, unless a target is reached before."""
        return _resolved(self.config.epochs)

    @property
    def batch_size(self) -> int:
        """Images a step."""
        return _resolved(self.config.batch_size)


@dataclass(frozen=True)
class History:
    """What a training run measured.

    Parameters
    ----------
    plan : Plan
        What it set out to do.
    epochs : tuple of EpochMetrics
        What came of it.
    """

    plan: Plan
    epochs: tuple[EpochMetrics, ...]

    @property
    def best(self) -> EpochMetrics | None:
        """The first epoch of the greatest validation accuracy, None without validation data."""
        validated = [epoch for epoch in self.epochs if epoch.val_accuracy is not None]
        return max(validated, key=lambda epoch: epoch.val_accuracy or 0.0, default=None)


class Callback:
    """What is told how a run goes on. Each method does nothing here; override those that matter."""

    def on_begin(self, plan: Plan) -> None:
        """Do something before the first step, when data and parameters are on the device."""

    def on_step(self, step: int) -> None:
        """Do something after a step was queued (the device may still be at it); steps count from 1 over the run."""

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Do something after an epoch and its validation."""


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


TrainStep: TypeAlias = Callable[[Array, State, Totals, Array, Array, Scalars], tuple[Array, State, Totals]]
EvaluationStep: TypeAlias = Callable[[Totals, Array, Array, Array], Totals]


def make_optimizer(config: TrainConfig) -> Optimizer:
    """Return the optimizer that a config names, with its settings (None: the optimizer's own defaults)."""
    if config.optimizer == "sgd":
        momentum = 0.9 if config.momentum is None else config.momentum
        nesterov = momentum > 0 if config.nesterov is None else config.nesterov
        return sgd(momentum, nesterov=nesterov, weight_decay=config.weight_decay or 0.0)
    make = adam if config.optimizer == "adam" else adamw
    return make() if config.weight_decay is None else make(weight_decay=config.weight_decay)


def make_schedule(config: TrainConfig, total_steps: int) -> Schedule:
    """Return the schedule that a resolved config names, for a run of so many steps."""
    rate = _resolved_rate(config)
    if config.schedule == "constant":
        return constant(rate)
    return (cosine if config.schedule == "cosine" else one_cycle)(rate, total_steps)


def make_train_step(layout: Layout, optimizer: Optimizer, max_value: int) -> TrainStep:
    """Return the function of arrays that trains on one batch and waits for nothing.

    It takes theta, the optimizer's state, the totals, images (uint8, n × d), labels (int32, n) and the step's
    scalars; the first three are handed over, and their successors returned.
    """

    def step(
        theta: Array, state: State, totals: Totals, images: Array, labels: Array, scalars: Scalars
    ) -> tuple[Array, State, Totals]:
        layers = layout.unflatten(theta)
        S, activations = forward(layers, _scaled(images, theta, max_value))
        totals = _add(totals, S, labels)
        gradient = layout.flatten(backward(layers, activations, S, labels))
        theta, state = optimizer.update(theta, state, gradient, scalars)
        return theta, state, totals

    return step


def make_evaluation_step(layout: Layout, max_value: int) -> EvaluationStep:
    """Return the function of arrays that adds one batch to the totals, which are handed over."""

    def step(totals: Totals, theta: Array, images: Array, labels: Array) -> Totals:
        S, _ = forward(layout.unflatten(theta), _scaled(images, theta, max_value))
        return _add(totals, S, labels)

    return step


def zero_totals(backend: Backend, dtype: str) -> Totals:
    """Return the totals of nothing."""
    return Totals(*(backend.asarray(np.zeros((), kind), copy=True) for kind in (dtype, "int32", "int32", "int32")))


def train(
    config: TrainConfig, dataset: Dataset, backend: Backend, callbacks: Sequence[Callback] = ()
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

    Returns
    -------
    theta : array, shape (layout.size,)
        The parameters after the last epoch, on the device.
    history : History
        What was measured.

    Raises
    ------
    ConfigError
        If the config does not fit the data, or the network the memory.
    BackendError
        If the device's memory runs out.
    TrainingError
        If the loss is no longer finite.
    """
    _require_kinds(dataset, backend)
    config = config.resolve(len(dataset))
    with _computing(backend, _resolved(config.batch_size)):
        return _train(config, dataset, backend, callbacks)


def evaluate(
    theta: Array,
    layout: Layout,
    dataset: Dataset,
    backend: Backend,
    batch_size: int = 1024,
    transfer: str = "auto",
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
    with _computing(backend, batch_size):
        step = backend.compile(make_evaluation_step(layout, dataset.max_value), donate=(0,))
        loader = DeviceLoader(dataset, backend, batch_size, transfer, reuse_buffers=True)
        evaluation = _evaluate(step, theta, loader, _all_rows(dataset), backend)
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


@contextlib.contextmanager
def _computing(backend: Backend, batch_size: int) -> Iterator[None]:
    """Compute on the backend's device, and say what to do where its memory runs out."""
    try:
        with backend.context(), np.errstate(all="ignore"):  # what diverges is found by its loss, on every library
            yield
    except Exception as error:
        if not backend.is_out_of_memory(error):
            raise
        raise BackendError(
            f"{backend} ran out of memory with batch size {batch_size}: "
            f"try a smaller one, such as {max(1, batch_size // 2)}, or narrower layers"
        ) from error


def _train(
    config: TrainConfig, dataset: Dataset, backend: Backend, callbacks: Sequence[Callback]
) -> tuple[Array, History]:
    n_val, batch_size, epochs = (_resolved(value) for value in (config.val_size, config.batch_size, config.epochs))
    n_train = len(dataset) - n_val
    n_pixels = dataset.image_shape[0] * dataset.image_shape[1]
    layout = Layout((n_pixels, *config.hidden, len(dataset.class_names)))
    optimizer = make_optimizer(config)
    steps_per_epoch = math.ceil(n_train / batch_size)
    schedule = make_schedule(config, epochs * steps_per_epoch)
    _require_memory(config, layout, backend)

    rng = np.random.default_rng(config.seed)
    theta = backend.asarray(init(layout, rng, config.dtype), copy=True)
    rows = rng.permutation(_all_rows(dataset)) if n_val else _all_rows(dataset)
    val_rows, train_rows = np.sort(rows[:n_val]), np.sort(rows[n_val:])
    del rows
    state = optimizer.init(theta)
    loader = DeviceLoader(dataset, backend, batch_size, config.transfer, reuse_buffers=True)
    plan = Plan(dataclasses.replace(config, transfer=loader.transfer), layout, n_train, n_val, steps_per_epoch)
    train_step = backend.compile(make_train_step(layout, optimizer, dataset.max_value), donate=(0, 1, 2))
    evaluation_step = backend.compile(make_evaluation_step(layout, dataset.max_value), donate=(0,))

    for callback in callbacks:
        callback.on_begin(plan)
    done: list[EpochMetrics] = []
    step, learning_rate = 0, 0.0
    for epoch in range(1, epochs + 1):
        started = time.perf_counter()
        totals = zero_totals(backend, config.dtype)
        for images, labels in loader.epoch(rng.permutation(train_rows)):
            step += 1
            learning_rate = schedule(step)
            scalars = optimizer.scalars(step, learning_rate)
            theta, state, totals = train_step(theta, state, totals, images, labels, scalars)
            for callback in callbacks:
                callback.on_step(step)
        backend.synchronize()
        seconds = time.perf_counter() - started
        loss, correct = _read(totals, backend, plan, epoch)
        validation = _evaluate(evaluation_step, theta, loader, val_rows, backend) if n_val else None
        _require_finite(theta, validation, backend, plan, epoch)
        metrics = EpochMetrics(
            epoch=epoch,
            train_loss=loss / n_train,
            train_accuracy=correct / n_train,
            val_loss=validation.loss if validation else None,
            val_accuracy=validation.accuracy if validation else None,
            learning_rate=learning_rate,
            seconds=seconds,
            samples_per_second=n_train / seconds,
        )
        done.append(metrics)
        for callback in callbacks:
            callback.on_epoch(metrics)
        if config.target_accuracy is not None and validation and validation.accuracy >= config.target_accuracy:
            break
    return theta, History(plan, tuple(done))


def _all_rows(dataset: Dataset) -> np.ndarray:
    return np.arange(len(dataset), dtype=row_dtype(len(dataset)))


def _scaled(images: Array, theta: Array, max_value: int) -> Array:
    """Return bytes as X, numbers from 0 to 1 of theta's dtype."""
    xp = array_namespace(theta=theta, images=images)
    X = xp.astype(images, theta.dtype)
    X *= 1 / max_value
    return X


def _add(totals: Totals, S: Array, labels: Array) -> Totals:
    """Return the totals with one more batch: its logits S before the update."""
    xp = array_namespace(S=S, labels=labels)
    mean = cross_entropy(S, labels)
    loss, correct, steps, finite = totals
    loss += mean * S.shape[0]
    correct += count_correct(S, labels)
    finite += xp.astype(xp.logical_and(finite == steps, xp.isfinite(mean)), xp.int32)
    steps += 1
    return Totals(loss, correct, steps, finite)


def _evaluate(
    step: EvaluationStep, theta: Array, loader: DeviceLoader, rows: np.ndarray, backend: Backend
) -> Evaluation:
    totals = zero_totals(backend, "float64" if "float64" in str(theta.dtype) else "float32")
    for images, labels in loader.epoch(rows):
        totals = step(totals, theta, images, labels)
    loss, correct = float(backend.to_numpy(totals.loss)), int(backend.to_numpy(totals.correct))
    return Evaluation(loss / len(rows), correct / len(rows))


def _read(totals: Totals, backend: Backend, plan: Plan, epoch: int) -> tuple[float, int]:
    """Return an epoch's summed loss and number correct, once it is sure that the losses were finite."""
    loss, correct, steps, finite = (backend.to_numpy(total).item() for total in totals)
    if finite < steps:
        raise TrainingError(
            f"the loss was no longer finite in epoch {epoch}, step {finite + 1} of {plan.steps_per_epoch}: "
            f"{_slower(plan)}"
        )
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
    config, rate = plan.config, _resolved_rate(plan.config)
    if config.weight_decay and rate * config.weight_decay > 1:
        return f"the weight decay {config.weight_decay:g} is too great for the learning rate {rate:g}; make it smaller"
    usual = _usual_rate(config.optimizer, config.momentum, plan.batch_size)
    return f"the learning rate {rate:g} is too great for this run; try one such as {min(usual, rate / 10):.3g}"


def _usual_rate(optimizer: str, momentum: float | None, batch_size: int) -> float:
    """Return the learning rate that suits an optimizer."""
    rate = 0.003
    if optimizer == "sgd":  # with momentum a gradient counts 1 / (1 − momentum) times
        rate = 0.2 if momentum else 0.5
    return rate * min(1.0, math.sqrt(batch_size / 128))  # fewer images, more noise


def _require_memory(config: TrainConfig, layout: Layout, backend: Backend) -> None:
    """Refuse a network that the device cannot hold, before a byte of it is taken."""
    itemsize = np.dtype(config.dtype).itemsize
    vectors = {"sgd": 5, "adam": 7, "adamw": 7}[config.optimizer]  # theta, gradient twice, temporaries; the state
    activations = _resolved(config.batch_size) * sum(layout.sizes) * 3
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


def _resolved(value: float | None) -> int:
    assert value is not None, "a config is resolved before it is used"
    return int(value)


def _resolved_rate(config: TrainConfig) -> float:
    assert config.learning_rate is not None, "a config is resolved before it is used"
    return config.learning_rate


def _widths(hidden: Iterable[int]) -> str:
    return ",".join(map(str, hidden)) or "none"


def _require_one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"unknown {name} {value!r}: expected {', '.join(known[:-1])} or {known[-1]}")


def _require_count(name: str, value: int | None, least: int) -> None:
    if value is None:
        return
    try:
        fits = operator.index(value) >= least
    except TypeError:
        fits = False
    if not fits:
        raise ConfigError(f"{name} {value}: expected a whole number of at least {least}")
