"""`xpmlp.train`: from data and settings to a model."""

import dataclasses
import difflib
import math
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from threadpoolctl import threadpool_limits

from xpmlp.backends import get_backend
from xpmlp.backends.base import Backend
from xpmlp.communication import Communicator
from xpmlp.data.dataset import LoadedData, parts_of
from xpmlp.errors import ConfigError
from xpmlp.models.model import Model, info_of
from xpmlp.training.config import TrainConfig
from xpmlp.training.interrupts import first_interrupt
from xpmlp.training.records import Callback, Checkpoint, EpochMetrics, History
from xpmlp.training.run import train_network
from xpmlp.training.steps import Step
from xpmlp.training.threads import FixedThreads, tuned_threads


def train(
    data: Any,
    config: TrainConfig | None = None,
    *,
    backend: str | Backend = "auto",
    callbacks: Sequence[Callback | Callable[[EpochMetrics], Any]] = (),
    start: Checkpoint | None = None,
    checkpoint_steps: int | None = None,
    should_stop: Callable[[], bool] | None = None,
    communicator: Communicator | None = None,
    threads: int | None = None,
    **settings: Any,
) -> tuple[Model, History]:
    """Train a perceptron that classifies.

    Ctrl-C finishes the current step, warns, and returns the model so far; a second Ctrl-C interrupts at once.

    Parameters
    ----------
    data : LoadedData, Dataset or (X, y)
        The result of `load_dataset`: its training part is used, and its test part is the default of `Model.evaluate`.
        Or one part; or samples (n, d) or (n, height, width) and their classes (n,). Bytes are divided by their
        `max_value`. Floats are scaled if the data set says how, and cast to the parameters' dtype.
    config : TrainConfig or None
        The run's settings. None: the defaults.
    backend : str or Backend
        The backend to compute on, as in `get_backend`.
    callbacks : sequence of Callback or callable
        Notified of progress. A plain function is called with each epoch's metrics; the run ends if it returns True.
    start : Checkpoint or None
        Where to resume an earlier run of the same config and data set; its backend may be another. On NumPy, with the
        same number of threads, the results are bit for bit those of an uninterrupted run.
    checkpoint_steps : int or None
        Steps between two checkpoints within an epoch. None: one checkpoint after each epoch.
    should_stop : callable or None
        Called after each step. If it returns true, the run ends with a checkpoint, and the history is not complete. If
        one of several ranks requests a stop, all stop after the same step.
    communicator : Communicator or None
        The ranks that train one model together. All of them call this with the same arguments, except the callbacks.
    threads : int or None
        The number of threads that the BLAS library uses during training. None: the number is chosen by measurement and
        adapted during the run; two runs then agree to rounding. This applies on NumPy, in the main thread, with one
        rank, if neither the environment nor threadpoolctl sets the number.
    **settings
        Fields that replace those of the config.

    Returns
    -------
    model : Model
        The network after the last step, on the backend's device.
    history : History
        The run's measurements.

    Raises
    ------
    ConfigError
        If a setting is unknown, is outside of its range or does not fit the data.
    DataError
        If the data are none of these.
    BackendError
        If the backend cannot run, or the device runs out of memory.
    TrainingError
        If the loss is no longer finite.
    """
    part, test = parts_of(data)
    config = _with(config or TrainConfig(), settings)
    device = backend if isinstance(backend, Backend) else get_backend(backend, config.dtype)
    told = [callback if isinstance(callback, Callback) else _Function(callback) for callback in callbacks]
    is_alone = communicator is None or communicator.size == 1
    with first_interrupt() as is_interrupted, _threads(device, threads, is_tuned=is_alone) as watched:
        theta, history = train_network(
            config,
            part,
            device,
            told,
            start=start,
            checkpoint_steps=checkpoint_steps,
            should_stop=lambda: is_interrupted() or bool(should_stop and should_stop()),
            communicator=communicator,
            watched=watched,
        )
        if is_interrupted():
            done = f"after {len(history.epochs)} of {history.plan.epochs} epochs"
            warnings.warn(f"training was interrupted {done}: the model is as it was then", stacklevel=2)
    name = data.name if isinstance(data, LoadedData) else part.provenance
    info = info_of(history.plan.layout, part, name)
    return Model(device, theta, info, test), history


@contextmanager
def _threads(backend: Backend, threads: int | None, is_tuned: bool) -> Iterator[Callable[[Step], Step]]:
    """Compute with so many BLAS threads, or with a measured number; give the function that watches a step for that."""
    if threads is None:
        with tuned_threads(backend, math.inf if is_tuned else 0) as tuner:
            yield tuner.watched
        return
    try:
        number = 0 if isinstance(threads, bool) else operator.index(threads)
    except TypeError:
        number = 0
    if number < 1:
        raise ConfigError(f"threads {threads!r}: expected a whole number of at least 1, or None")
    with threadpool_limits(number, user_api="blas"):
        yield FixedThreads().watched


class _Function(Callback):
    """Calls a plain function with each epoch's metrics; it ends the run by returning True."""

    def __init__(self, function: Callable[[EpochMetrics], Any]) -> None:
        if not callable(function):
            raise ConfigError(f"callback {function!r}: expected a Callback, or a function of an epoch's metrics")
        self._function = function

    def on_epoch(self, metrics: EpochMetrics) -> bool:
        """Call it."""
        return self._function(metrics) is True


def _with(config: TrainConfig, settings: dict[str, Any]) -> TrainConfig:
    known = [field.name for field in dataclasses.fields(TrainConfig)]
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
            raise ConfigError(f"unknown setting {name!r}: {hint}")
    return dataclasses.replace(config, **settings)
