"""scikit-learn's optimizers: ours, with scikit-learn's learning rates and rules to lower them and to stop."""

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Self

import numpy as np

from xpmlp.backends import on_host
from xpmlp.estimators._sklearn import AdamOptimizer, SGDOptimizer
from xpmlp.estimators.parameters import SCHEDULED
from xpmlp.math.layout import Layout
from xpmlp.math.optimizers import Optimizer, Scalars, State, adam, adamw, sgd
from xpmlp.math.schedules import cosine, one_cycle


class Rates:
    """An optimizer's settings, its state, and the learning rate of its next step; the names are scikit-learn's."""

    state: State | None

    def __init__(
        self, settings: tuple[Any, ...], learning_rate_init: float, lr_schedule: str = "constant", power_t: float = 0.5
    ) -> None:
        self.settings, self.lr_schedule, self.power_t = settings, lr_schedule, power_t
        self.learning_rate_init, self.learning_rate = learning_rate_init, float(learning_rate_init)
        self.t, self.state = 0, None
        self.place, self.total_steps = 0, 1  # in a schedule, which also counts batches that are left out

    @classmethod
    def of(cls, estimator: Any, layout: Layout) -> Self:
        """Return an estimator's optimizer before its first step."""
        e = estimator
        if e.solver == "sgd":
            settings: tuple[Any, ...] = ("sgd", float(e.momentum), bool(e.nesterovs_momentum))
            return cls(settings, e.learning_rate_init, e.learning_rate, e.power_t)
        settings = (e.solver, float(e.beta_1), float(e.beta_2), float(e.epsilon))
        if e.solver == "adamw":
            settings += (float(e.alpha), layout)
        return cls(settings, e.learning_rate_init, e.learning_rate if e.learning_rate in SCHEDULED else "constant")

    @property
    def rule(self) -> Optimizer:
        """The update. Equal settings give the same object, so that its step is compiled once."""
        return _rule(self.settings)

    @property
    def is_scheduled(self) -> bool:
        """Whether the learning rate follows a schedule over all steps, to 0 at the last."""
        return self.lr_schedule in SCHEDULED

    @property
    def rate(self) -> float:
        """The learning rate of the last step, or of the first one before it; without Adam's correction."""
        if self.is_scheduled:
            schedule = cosine if self.lr_schedule == "cosine" else one_cycle
            return schedule(float(self.learning_rate_init), self.total_steps)(min(max(1, self.place), self.total_steps))
        return self.learning_rate if self.settings[0] == "sgd" else float(self.learning_rate_init)

    def next_scalars(self) -> Scalars:
        """Return the next step's numbers."""
        self.t += 1
        self.place += 1
        scalars = self.rule.scalars(self.t, self.rate)
        self.learning_rate = scalars["learning_rate" if self.settings[0] == "sgd" else "rate"]
        return scalars

    def goes_on_for(self, estimator: Any, layout: Layout) -> bool:
        """Return whether `partial_fit` continues with it: as in scikit-learn, unless a decay or a schedule is new."""
        wanted = type(self).of(estimator, layout).settings
        is_same = wanted == self.settings or "adamw" not in (wanted[0], self.settings[0])
        return is_same and not self.is_scheduled

    def on_host(self) -> Self:
        """Return a copy with NumPy's vectors."""
        copied = copy.copy(self)
        if self.state is not None:
            copied.state = {name: np.array(on_host(vector)) for name, vector in self.state.items()}
        return copied

    def iteration_ends(self, n_seen: int) -> None:
        """Lower the learning rate after an epoch, if it depends on the samples seen."""
        if self.lr_schedule == "invscaling":
            self.learning_rate = float(self.learning_rate_init) / (n_seen + 1) ** self.power_t

    def trigger_stopping(self, reason: str, verbose: bool) -> bool:
        """Return whether to stop. An adaptive rate is divided by five instead, down to 1e-6."""
        stops, what = True, " Stopping."
        if self.lr_schedule == "adaptive":
            stops, what = self.learning_rate <= 1e-6, " Learning rate too small. Stopping."
        if not stops:
            self.learning_rate /= 5.0
            what = f" Setting learning rate to {self.learning_rate:f}"
        if verbose:
            print(f"{reason}{what}")  # noqa: T201
        return stops

    @classmethod
    def from_sklearn(cls, theirs: Any) -> Self:
        """Return scikit-learn's optimizer as one of ours."""
        init, adams = theirs.learning_rate_init, ("beta_1", "beta_2", "epsilon")
        if isinstance(theirs, SGDOptimizer):
            ours = cls(("sgd", float(theirs.momentum), bool(theirs.nesterov)), init, theirs.lr_schedule, theirs.power_t)
            lists = {"velocity": theirs.velocities}
        else:
            ours = cls(("adam", *(float(getattr(theirs, name)) for name in adams)), init)
            ours.t, lists = theirs.t, {"m": theirs.ms, "v": theirs.vs}
        ours.learning_rate = theirs.learning_rate
        ours.state = {name: _joined(arrays) for name, arrays in lists.items()}
        return ours

    def to_sklearn(self, coefs: Sequence[np.ndarray], intercepts: Sequence[np.ndarray]) -> Any:
        """Return scikit-learn's optimizer of the same settings and state."""
        params = [*coefs, *intercepts]
        layout, state = Layout((coefs[0].shape[0], *(W.shape[1] for W in coefs))), {}
        for name, vector in (self.state or {}).items():
            layers = layout.unflatten(on_host(vector))
            state[name] = [*(W.copy() for W, _ in layers), *(b.ravel().copy() for _, b in layers)]
        if self.settings[0] == "sgd":
            _, momentum, nesterov = self.settings
            schedule = "constant" if self.is_scheduled else self.lr_schedule
            theirs = SGDOptimizer(params, self.learning_rate_init, schedule, momentum, nesterov, self.power_t)
            theirs.velocities = state.get("velocity", theirs.velocities)
        else:
            theirs = AdamOptimizer(params, self.learning_rate_init, *self.settings[1:4])
            theirs.t, theirs.ms, theirs.vs = self.t, state.get("m", theirs.ms), state.get("v", theirs.vs)
        theirs.learning_rate = float(self.learning_rate_init) if self.is_scheduled else self.learning_rate
        return theirs


@lru_cache(maxsize=64)
def _rule(settings: tuple[Any, ...]) -> Optimizer:
    if settings[0] == "sgd":
        return sgd(settings[1], nesterov=settings[2], rate_inside=True)
    if settings[0] == "adamw":  # PyTorch's, with decay only for weights
        _, beta_1, beta_2, epsilon, alpha, layout = settings
        return adamw(beta_1, beta_2, epsilon=epsilon, weight_decay=alpha, layout=layout)
    return adam(settings[1], settings[2], epsilon=settings[3], epsilon_hat=True)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return arrays, all weights and then all biases, as one vector, layer by layer."""
    n = len(arrays) // 2
    return np.concatenate([array.ravel() for k in range(n) for array in (arrays[k], arrays[n + k])])
