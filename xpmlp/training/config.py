"""The settings that decide a training run, and what they stand for."""

import dataclasses
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xpmlp.data.loading import TRANSFERS
from xpmlp.errors import ConfigError
from xpmlp.kernels import KERNELS, resolve_kernels
from xpmlp.math.layout import Layout
from xpmlp.math.optimizers import Optimizer, adam, adamw, sgd
from xpmlp.math.schedules import Schedule, constant, cosine, one_cycle

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "one-cycle")
DTYPES = ("float32", "float64")

_LEAST_STEPS, _MOST_EPOCHS = 1500, 100
"""Where the number of epochs is left to us, a small data set gets more than five: so many steps, or so many epochs."""

_MOST_DEFORMED = 10
"""Of a tenth of that no digit is left."""

_MAY_CHANGE = ("epochs", "target_accuracy", "transfer", "kernels")
"""The settings that may differ where a run goes on: how long, and what gives the same results either way, or, of the
kernels, the same but for rounding."""

RECIPES: dict[str, dict[str, Any]] = {
    "quick": {
        "hidden": (256,),
        "epochs": 3,
        "batch_size": 192,
        "learning_rate": 0.5,
        "center": 0.13,  # near the mean of MNIST's pixels
        "val_size": 0,
        "kernels": "inplace",  # numba's import would take longer than it saves
    },
    "best": {
        "hidden": (1024, 512, 256),
        "epochs": 150,
        "batch_size": 256,
        "learning_rate": 0.1,
        "weight_decay": 2e-5,
        "deform": 1.0,
        "deform_fade": 0.2,
        "val_size": 0,
    },
    "record": {  # the widths of Cireşan, Meier, Gambardella & Schmidhuber 2010
        "hidden": (2500, 2000, 1500, 1000, 500),
        "epochs": 500,
        "batch_size": 256,
        "learning_rate": 0.05,
        "weight_decay": 2e-5,
        "deform": 1.0,
        "deform_fade": 0.2,
        "val_size": 0,
    },
    "default": {},
}
"""Settings by what they are for: 98 % on MNIST's test images as fast as can be, 99.5 % in ten minutes on two
cores, the widths of 2010 for a GPU (never run whole: there was none), and `TrainConfig`'s own defaults."""


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
    center : float
        For sgd alone: train as if this had been subtracted of all inputs, which go from 0 to 1 (derivation.md, "Centred
        inputs"); the network itself takes them as they are.
    deform : float
        How much each training image is deformed, anew in every epoch, as `xpmlp.data.deformation` has it; 0: not at
        all. The training loss and accuracy are then of deformed images.
    deform_fade : float
        Over which last part of all steps the deformation fades out, 0 to 1.
    dropout : float
        Which part of the hidden units each step leaves out, at least 0 and below 1; rounded to a 256th.
    seed : int
        Of the one generator that draws the initial weights, the held-out images, each epoch's order and the seeds of
        its deformations and its dropout.
    dtype : {"float32", "float64"}
        What is computed in.
    target_accuracy : float or None
        Stop after the first epoch whose validation accuracy, in (0, 1], reaches it.
    transfer : {"auto", "resident", "stream"}
        How images come to the device, as `DeviceLoader` has it; the results are the same.
    average_every : int
        Steps that each of several ranks makes alone before their parameters are averaged, which is for slow links; 1:
        they make every step together, as one process would.
    kernels : {"auto", "plain", "inplace", "compiled"}
        What the library makes of the lines between the matrix products. ``plain``: the lines as they stand, without
        jit. ``compiled``: loops that numba compiles on NumPy, generated kernels on CuPy, jit on JAX, PyTorch's fused
        operations. ``inplace``: NumPy's own functions in place; elsewhere as compiled. ``auto``: compiled, but
        inplace where numba is not installed. The results differ in their last bits.

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
    center: float = 0.0
    deform: float = 0.0
    deform_fade: float = 0.0
    dropout: float = 0.0
    seed: int = 0
    dtype: str = "float32"
    target_accuracy: float | None = None
    transfer: str = "auto"
    average_every: int = 1
    kernels: str = "auto"

    def __post_init__(self) -> None:
        try:
            Layout((1, *self.hidden, 1))
        except (ConfigError, TypeError):
            raise ConfigError(f"hidden layers {self.hidden!r}: expected widths of at least 1, whole numbers") from None
        _require_one_of("optimizer", self.optimizer, OPTIMIZERS)
        _require_one_of("schedule", self.schedule, SCHEDULES)
        _require_one_of("dtype", self.dtype, DTYPES)
        _require_one_of("transfer", self.transfer, TRANSFERS)
        _require_one_of("kernels", self.kernels, KERNELS)
        _require_count("epochs", self.epochs, least=1)
        _require_count("batch size", self.batch_size, least=1)
        _require_count("seed", self.seed, least=0)
        _require_count("average every", self.average_every, least=1)
        rate, share, target = self.learning_rate, self.val_size, self.target_accuracy
        if rate is not None and not 0 < rate < math.inf:
            raise ConfigError(f"learning rate {rate}: expected a finite number above 0")
        if share is not None and not (0 <= share < 1 or (1 <= share < math.inf and share == int(share))):
            raise ConfigError(f"validation size {share}: expected a whole number of images, a fraction below 1, or 0")
        if target is not None and not 0 < target <= 1:
            raise ConfigError(f"target accuracy {target}: expected a fraction above 0, at most 1")
        if target is not None and share == 0:
            raise ConfigError(f"target accuracy {target} without validation data: give a validation size above 0")
        if not 0 <= self.center < 1:
            raise ConfigError(f"center {self.center}: expected a grey of at least 0 and below 1")
        if self.optimizer != "sgd" and self.center:
            raise ConfigError(
                f"center is for sgd, whose step is linear in the gradient: leave it out with {self.optimizer}"
            )
        if self.optimizer != "sgd" and (self.momentum is not None or self.nesterov):
            raise ConfigError(f"momentum and nesterov are for sgd: leave them out with {self.optimizer}")
        if not 0 <= self.deform <= _MOST_DEFORMED:
            raise ConfigError(
                f"deform {self.deform}: expected a strength of at least 0 (off), at most {_MOST_DEFORMED}"
            )
        if not 0 <= self.deform_fade <= 1:
            raise ConfigError(f"deform fade {self.deform_fade}: expected a part of the run, 0 to 1")
        if self.deform_fade and not self.deform:
            raise ConfigError(f"deform fade {self.deform_fade} without a deformation: give its strength, such as 1")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout}: expected at least 0 (off) and below 1")
        if self.dropout and not self.hidden:
            raise ConfigError(f"dropout {self.dropout} without hidden layers: there is nothing to leave out")
        make_optimizer(self)  # refuses what does not fit it

    def resolve(self, n_images: int) -> "TrainConfig":
        """Return the same with every None replaced by what it stands for, for a training set of n images.

        What does not apply stays None: momentum and nesterov without sgd, and no target accuracy.

        Raises
        ------
        ConfigError
            If the validation size or the batch size does not fit the data, or numba is asked for and not installed.
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
        filled["kernels"] = resolve_kernels(self.kernels)
        if self.optimizer == "sgd":
            filled["momentum"] = 0.9 if self.momentum is None else self.momentum
            filled["nesterov"] = filled["momentum"] > 0 if self.nesterov is None else self.nesterov
        if self.learning_rate is None:
            filled["learning_rate"] = usual_rate(self.optimizer, filled.get("momentum"), batch_size)
        if self.weight_decay is None:
            filled["weight_decay"] = 0.01 if self.optimizer == "adamw" else 0.0
        return dataclasses.replace(self, **filled)


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
    rate = resolved_rate(config)
    if config.schedule == "constant":
        return constant(rate)
    return (cosine if config.schedule == "cosine" else one_cycle)(rate, total_steps)


def continued(begun: TrainConfig, changes: Mapping[str, Any], n_images: int) -> TrainConfig:
    """Return the config with which a run goes on: what it was begun with, save what may change on the way.

    Parameters
    ----------
    begun : TrainConfig
        What the run was begun with, resolved.
    changes : mapping
        Settings by name, as they are wanted now; None and what equals the run's own change nothing.
    n_images : int
        Of the training set, which a validation size below 1 is a fraction of.

    Raises
    ------
    ConfigError
        If a setting differs without which it would be another run, or the number of epochs where the schedule was
        laid out for it.
    """
    wanted = {name: value for name, value in changes.items() if value is not None}
    for name, value in wanted.items():
        was = getattr(begun, name)
        value = round(value * n_images) if name == "val_size" and value < 1 else value
        if name not in _MAY_CHANGE and value != was:
            raise ConfigError(
                f"{name.replace('_', ' ')} {_shown(value)}: the run was begun with {_shown(was)}; "
                "leave it out, or start a new run"
            )
    config = dataclasses.replace(begun, **{name: wanted[name] for name in _MAY_CHANGE if name in wanted})
    if config.epochs != begun.epochs and begun.schedule != "constant":
        raise ConfigError(
            f"epochs {config.epochs}: the run's {begun.schedule} learning rate was laid out for {begun.epochs}, and "
            "only a constant one may end elsewhere; start a new run"
        )
    return config


def usual_rate(optimizer: str, momentum: float | None, batch_size: int) -> float:
    """Return the learning rate that suits an optimizer."""
    rate = 0.003
    if optimizer == "sgd":  # with momentum a gradient counts 1 / (1 − momentum) times
        rate = 0.2 if momentum else 0.5
    return rate * min(1.0, math.sqrt(batch_size / 128))  # fewer images, more noise


def resolved(value: float | None) -> int:
    """Return a whole number that `TrainConfig.resolve` has filled in."""
    assert value is not None, "a config is resolved before it is used"
    return int(value)


def resolved_rate(config: TrainConfig) -> float:
    """Return the learning rate that `TrainConfig.resolve` has filled in."""
    assert config.learning_rate is not None, "a config is resolved before it is used"
    return config.learning_rate


def _shown(value: Any) -> str:
    return (",".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


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
