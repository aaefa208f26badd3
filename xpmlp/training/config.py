"""The settings of a training run, their defaults, and recipes."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeVar

from xpmlp.errors import ConfigError, expected_one_of
from xpmlp.kernels import KERNELS, resolve_kernels
from xpmlp.math.layout import Layout
from xpmlp.math.optimizers import Optimizer, adam, adamw, sgd
from xpmlp.math.schedules import Schedule, constant, cosine, one_cycle

_Value = TypeVar("_Value")

_LEAST_STEPS, _MOST_EPOCHS = 1500, 100
"""By default, a small data set gets more than five epochs: so many steps, or so many epochs."""

_MOST_DEFORMED = 10
"""A tenth of it would keep no digit."""

_MAY_CHANGE = ("epochs", "target_accuracy", "transfer", "kernels")
"""The settings that may differ when a run resumes: its length, and those that do not change the results. Kernels change
them only by rounding."""

_ALL_DEFORMED = {"batch_size": 256, "weight_decay": 2e-5, "deform": 1.0, "deform_fade": 0.2, "val_size": 0}

RECIPES: dict[str, dict[str, Any]] = {
    "quick": {
        "hidden": (320,),
        "epochs": 2,
        "batch_size": 128,
        "learning_rate": 0.7,
        "momentum": 0.8,
        "center": 0.13,  # near the mean of MNIST's pixels
        "val_size": 0,
        "kernels": "inplace",  # numba's import would take longer than it saves
    },
    "best": {**_ALL_DEFORMED, "hidden": (1024, 512, 256), "epochs": 150, "learning_rate": 0.1},
    # The widths of Cireşan, Meier, Gambardella & Schmidhuber 2010.
    "record": {**_ALL_DEFORMED, "hidden": (2500, 2000, 1500, 1000, 500), "epochs": 500, "learning_rate": 0.05},
    "default": {},
}
"""Settings by their purpose. ``quick``: 98 % on MNIST's test images in the shortest time. ``best``: 99.5 % in ten
minutes on two cores. ``record``: the widths of 2010, for a GPU (never run whole: there was none). ``default``:
`TrainConfig`'s own defaults."""


def _setting(
    default: Any, about: str, otherwise: str = "", *, one_of: tuple[str, ...] = (), least: int | None = None
) -> Any:
    """Return a field of `TrainConfig`: its default, its help, the replacement of None, and its valid values."""
    metadata = {"about": about, "otherwise": otherwise, "one_of": one_of, "least": least}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The settings of a training run, except data and backend. `resolve` replaces None by a default.

    Raises
    ------
    ConfigError
        If a value is outside of its range, or contradicts another.
    """

    hidden: tuple[int, ...] = _setting((256, 128), "Widths of the hidden layers.")
    epochs: int | None = _setting(None, "Passes over the training images.", "5, more for small data sets", least=1)
    batch_size: int | None = _setting(None, "Images per step.", "128, or 32 below 10,000 images", least=1)
    optimizer: str = _setting("sgd", "sgd, adam or adamw.", one_of=("sgd", "adam", "adamw"))
    learning_rate: float | None = _setting(None, "Peak learning rate.", "depends on the optimizer")
    schedule: str = _setting(
        "one-cycle",
        "How the learning rate changes: constant, cosine or one-cycle.",
        one_of=("constant", "cosine", "one-cycle"),
    )
    momentum: float | None = _setting(None, "Momentum, for sgd.", "0.9")
    nesterov: bool | None = _setting(None, "Nesterov's momentum, for sgd.", "with momentum")
    weight_decay: float | None = _setting(None, "L2 penalty; for adamw, decoupled weight decay.", "0; 0.01 for adamw")
    val_size: int | float | None = _setting(
        None, "Size of the validation set: a count, or a fraction below 1; 0 for none.", "a sixth"
    )
    center: float = _setting(
        0.0,
        "For sgd: subtract this number (0 to 1) from the inputs during training. The network still takes the inputs "
        'as they are (derivation.md, "Centred inputs").',
    )
    deform: float = _setting(
        0.0,
        "Distort the training images at random, differently in each epoch: 0 none, 1 strong. Training figures are "
        "those of the distorted images.",
    )
    deform_fade: float = _setting(0.0, "Let deform fade out over this last fraction of the run.")
    dropout: float = _setting(0.0, "Fraction of the hidden units left out in each step, rounded to 1/256.")
    seed: int = _setting(0, "Random seed.", least=0)
    dtype: str = _setting("float32", "Type of all numbers: float32 or float64.", one_of=("float32", "float64"))
    target_accuracy: float | None = _setting(None, "Stop once the validation accuracy, in (0, 1], reaches it.", "never")
    transfer: str = _setting(
        "auto",
        "How images reach the device: resident (all at once), stream (batch by batch) or auto. Same results.",
        one_of=("auto", "resident", "stream"),
    )
    average_every: int = _setting(
        1, "For slow links: steps that each rank makes alone before all average; 1: no averaging.", least=1
    )
    kernels: str = _setting(
        "auto",
        "How the code between the matrix products runs. compiled: numba on NumPy, generated kernels on CuPy, jit on "
        "JAX, fused operations on PyTorch. inplace: NumPy's functions in place; elsewhere as compiled. plain: the "
        "lines as they stand. auto: compiled, or inplace without numba. The last bits differ.",
        one_of=KERNELS,
    )

    def __post_init__(self) -> None:
        try:
            Layout((1, *self.hidden, 1))
        except (ConfigError, TypeError):
            raise ConfigError(f"hidden {self.hidden!r}: expected widths of at least 1, whole numbers") from None
        for field in dataclasses.fields(self):
            value, known, least = getattr(self, field.name), field.metadata["one_of"], field.metadata["least"]
            if known and value not in known:
                raise ConfigError(f"{field.name} {value!r}: {expected_one_of(value, known)}")
            is_whole = isinstance(value, Integral) and int(value) >= (least or 0)
            if least is not None and value is not None and not is_whole:
                raise ConfigError(f"{field.name} {value}: expected a whole number of at least {least}")
        self._require_ranges()
        self._require_accord()
        make_optimizer(self)  # refuses what does not fit it

    def _require_ranges(self) -> None:
        for name in ("learning_rate", "momentum", "weight_decay", "val_size", "target_accuracy", "center", "deform"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Real):
                raise ConfigError(f"{name} {value!r}: expected a number")
        rate, share, target = self.learning_rate, self.val_size, self.target_accuracy
        is_share = share is None or 0 <= share < 1 or (1 <= share < math.inf and share == int(share))
        for name, fits, expected in (
            ("learning_rate", rate is None or 0 < rate < math.inf, "a finite number above 0"),
            ("val_size", is_share, "a whole number of images, a fraction below 1, or 0"),
            ("target_accuracy", target is None or 0 < target <= 1, "a fraction above 0, at most 1"),
            ("center", 0 <= self.center < 1, "a grey of at least 0 and below 1"),
            ("deform", 0 <= self.deform <= _MOST_DEFORMED, f"a strength of at least 0 (off), at most {_MOST_DEFORMED}"),
            ("deform_fade", 0 <= self.deform_fade <= 1, "a part of the run, 0 to 1"),
            ("dropout", 0 <= self.dropout < 1, "at least 0 (off) and below 1"),
        ):
            if not fits:
                raise ConfigError(f"{name} {getattr(self, name)}: expected {expected}")

    def _require_accord(self) -> None:
        """Refuse settings that contradict each other."""
        target, name = self.target_accuracy, self.optimizer
        if target is not None and self.val_size == 0:
            raise ConfigError(f"target_accuracy {target} without validation data: give a val_size above 0")
        if name != "sgd" and self.center:
            raise ConfigError(f"center is for sgd, whose step is linear in the gradient: leave it out with {name}")
        if name != "sgd" and (self.momentum is not None or self.nesterov):
            raise ConfigError(f"momentum and nesterov are for sgd: leave them out with {name}")
        if self.deform_fade and not self.deform:
            raise ConfigError(f"deform_fade {self.deform_fade} without a deformation: give deform too, such as 1")
        if self.dropout and not self.hidden:
            raise ConfigError(f"dropout {self.dropout} without hidden layers: there is nothing to leave out")

    def resolve(self, n_images: int) -> "TrainConfig":
        """Return the config with every None replaced by its default, for a training set of n images.

        Settings that do not apply stay None: momentum and nesterov without sgd, and no target accuracy.

        Raises
        ------
        ConfigError
            If the validation size or the batch size does not fit the data, or numba is required but not installed.
        """
        n_val = n_images // 6 if self.val_size is None else self.val_size
        n_val = round(n_val * n_images) if n_val < 1 else int(n_val)
        n_train = n_images - n_val
        if n_train < 1:
            raise ConfigError(f"val_size {n_val}: the training set has {n_images} images; hold out fewer")
        if self.target_accuracy is not None and n_val == 0:
            raise ConfigError(f"target_accuracy {self.target_accuracy}: no image is left for validation")
        batch_size = min(n_train, 128 if n_train >= 10_000 else 32) if self.batch_size is None else self.batch_size
        if batch_size > n_train:
            raise ConfigError(f"batch_size {batch_size}: there are {n_train} training images; make it smaller")
        enough = math.ceil(_LEAST_STEPS / math.ceil(n_train / batch_size))
        epochs = self.epochs or min(max(5, enough), _MOST_EPOCHS)
        filled: dict[str, Any] = {"val_size": n_val, "batch_size": batch_size, "epochs": epochs}
        filled["kernels"] = resolve_kernels(self.kernels)
        if self.optimizer == "sgd":
            filled["momentum"], filled["nesterov"] = _momentum(self)
        if self.learning_rate is None:
            filled["learning_rate"] = usual_rate(self.optimizer, filled.get("momentum"), batch_size)
        if self.weight_decay is None:
            filled["weight_decay"] = 0.01 if self.optimizer == "adamw" else 0.0
        return dataclasses.replace(self, **filled)


def _parameters() -> str:
    """Return the parameter section of `TrainConfig`'s docstring, made from its fields."""
    lines = ["", "    Parameters", "    ----------"]
    for field in dataclasses.fields(TrainConfig):
        about, otherwise = field.metadata["about"], field.metadata["otherwise"]
        lines.append(f"    {field.name} : {getattr(field.type, '__name__', field.type)}")
        lines.append(f"        {about}{f' None: {otherwise}.' if otherwise else ''}")
    return "\n".join(lines)


TrainConfig.__doc__ = (TrainConfig.__doc__ or "").replace("\n\n", f"\n{_parameters()}\n\n", 1)


def make_optimizer(config: TrainConfig) -> Optimizer:
    """Return a config's optimizer with its settings (None: the optimizer's own defaults)."""
    if config.optimizer == "sgd":
        momentum, nesterov = _momentum(config)
        return sgd(momentum, nesterov=nesterov, weight_decay=config.weight_decay or 0.0)
    make = adam if config.optimizer == "adam" else adamw
    return make() if config.weight_decay is None else make(weight_decay=config.weight_decay)


def _momentum(config: TrainConfig) -> tuple[float, bool]:
    """Return the momentum of sgd, and whether it is Nesterov's."""
    momentum = 0.9 if config.momentum is None else config.momentum
    return momentum, momentum > 0 if config.nesterov is None else config.nesterov


def make_schedule(config: TrainConfig, total_steps: int) -> Schedule:
    """Return a resolved config's schedule for a run of so many steps."""
    rate = resolved(config.learning_rate)
    if config.schedule == "constant":
        return constant(rate)
    return (cosine if config.schedule == "cosine" else one_cycle)(rate, total_steps)


def continued(begun: TrainConfig, changes: Mapping[str, Any], n_images: int) -> TrainConfig:
    """Return the config of a resumed run: the original one, with the permitted changes.

    A change to None, or to the run's own value, changes nothing. All others are a `ConfigError`. A validation size
    below 1 is a fraction of `n_images`, the number of training images.
    """
    wanted = {name: value for name, value in changes.items() if value is not None}
    for name, value in wanted.items():
        was = getattr(begun, name)
        value = round(value * n_images) if name == "val_size" and value < 1 else value
        if name not in _MAY_CHANGE and value != was:
            raise ConfigError(
                f"{name} {shown(value)}: the run was begun with {shown(was)}; leave it out, or start a new run"
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
    if optimizer == "sgd":  # with momentum, a gradient has 1 / (1 − momentum) times the effect
        rate = 0.2 if momentum else 0.5
    return rate * min(1.0, math.sqrt(batch_size / 128))  # fewer images, more noise


def resolved(value: _Value | None) -> _Value:
    """Return a setting that `TrainConfig.resolve` has set."""
    assert value is not None, "a config is resolved before it is used"
    return value


def shown(value: Any) -> str:
    """Return a setting as text for the command line."""
    return (",".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)
