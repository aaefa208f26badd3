"""Updates of one parameter vector by its gradient: `sgd`, `adam` and `adamw` are equal to PyTorch's of the same name.

An optimizer is three functions. ``init(theta)`` makes its state, vectors like theta. ``scalars(step, learning_rate)``
computes on the host, in float64, all that changes from step to step. ``update(theta, state, gradient, scalars)``
applies one step: theta and the state are handed over (changed in place where arrays can change), and the caller goes
on with the returned ones; the gradient is left as it was.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from xpmlp.errors import ConfigError
from xpmlp.namespaces import Array, array_namespace
from xpmlp.primitives import adam_step, momentum_step

State: TypeAlias = dict[str, Array]
"""The optimizer's vectors by name, each of theta's shape and dtype."""

Scalars: TypeAlias = Mapping[str, float]
"""A step's numbers by name: Python floats, or 0-d arrays of theta's dtype in a compiled step."""


class Optimizer(NamedTuple):
    """An update rule; see the module's description for its three functions."""

    name: str
    init: Callable[[Array], State]
    scalars: Callable[[int, float], dict[str, float]]
    update: Callable[[Array, State, Array, Scalars], tuple[Array, State]]


def sgd(momentum: float = 0.0, *, nesterov: bool = False, weight_decay: float = 0.0) -> Optimizer:
    """Return stochastic gradient descent.

    With g the gradient plus weight_decay · theta::

        v ← momentum · v + g
        theta ← theta − learning_rate · d,   d = g + momentum · v (Nesterov), v (momentum) or g (neither)

    Parameters
    ----------
    momentum : float
        0 ≤ momentum < 1 (Polyak 1964).
    nesterov : bool
        Look ahead (Nesterov 1983), in the form of Sutskever, Martens, Dahl & Hinton 2013, "On the importance of
        initialization and momentum in deep learning". Needs momentum.
    weight_decay : float
        The factor of an L2 penalty's gradient, at least 0.

    Raises
    ------
    ConfigError
        If a value is outside its range.
    """
    _require("momentum", momentum, 0 <= momentum < 1, "at least 0 and below 1")
    _require("weight decay", weight_decay, 0 <= weight_decay < math.inf, "a finite number of at least 0")
    if nesterov and momentum == 0:
        raise ConfigError("nesterov with momentum 0: Nesterov's step needs momentum; set one, such as 0.9")

    def init(theta: Array) -> State:
        return {"velocity": array_namespace(theta=theta).zeros_like(theta)} if momentum else {}

    def scalars(step: int, learning_rate: float) -> dict[str, float]:
        return {"learning_rate": float(learning_rate)}

    def update(theta: Array, state: State, gradient: Array, scalars: Scalars) -> tuple[Array, State]:
        array_namespace(theta=theta, gradient=gradient)
        rate = scalars["learning_rate"]
        if weight_decay:
            gradient = gradient + weight_decay * theta
        if not momentum:
            theta -= rate * gradient
            return theta, state
        theta, v = momentum_step(theta, state["velocity"], gradient, momentum, nesterov, rate)
        return theta, {"velocity": v}

    return Optimizer("sgd", init, scalars, update)


def sgd_rate_inside(momentum: float = 0.0, *, nesterov: bool = False) -> Optimizer:
    """Return stochastic gradient descent with the learning rate inside the velocity, as scikit-learn has it.

    With g the gradient::

        v ← momentum · v − learning_rate · g
        theta ← theta + d,   d = momentum · v − learning_rate · g (Nesterov) or v

    (Sutskever, Martens, Dahl & Hinton 2013, equations 1 and 2, and 3 and 4 in the form of Bengio, Boulanger-Lewandowski
    & Pascanu 2013, section 3.5.) With a constant rate the parameters are those of `sgd`; where the rate changes, here
    the steps already taken keep the rate that they were taken with.

    Parameters
    ----------
    momentum : float
        0 ≤ momentum ≤ 1.
    nesterov : bool
        Look ahead.

    Raises
    ------
    ConfigError
        If the momentum is outside its range.
    """
    _require("momentum", momentum, 0 <= momentum <= 1, "0 to 1")

    def init(theta: Array) -> State:
        return {"velocity": array_namespace(theta=theta).zeros_like(theta)}

    def scalars(step: int, learning_rate: float) -> dict[str, float]:
        return {"learning_rate": float(learning_rate)}

    def update(theta: Array, state: State, gradient: Array, scalars: Scalars) -> tuple[Array, State]:
        array_namespace(theta=theta, gradient=gradient)
        v = state["velocity"]
        change = scalars["learning_rate"] * gradient
        v *= momentum
        v -= change
        theta += momentum * v - change if nesterov else v
        return theta, {"velocity": v}

    return Optimizer("sgd_rate_inside", init, scalars, update)


def adam(beta1: float = 0.9, beta2: float = 0.999, *, epsilon: float = 1e-8, weight_decay: float = 0.0) -> Optimizer:
    """Return Adam (Kingma & Ba 2015, "Adam: A Method for Stochastic Optimization", algorithm 1).

    With g the gradient plus weight_decay · theta, at step t::

        m ← beta1 · m + (1 − beta1) · g
        v ← beta2 · v + (1 − beta2) · g²
        theta ← theta − learning_rate · m̂ / (√v̂ + epsilon),   m̂ = m / (1 − beta1ᵗ),   v̂ = v / (1 − beta2ᵗ)

    The two corrections are folded into the step's scalars (the end of the paper's section 2), which saves two passes
    over the vector: theta ← theta − a · m / (√v + e), a = learning_rate · √(1 − beta2ᵗ) / (1 − beta1ᵗ),
    e = epsilon · √(1 − beta2ᵗ).

    Parameters
    ----------
    beta1, beta2 : float
        The decay of the two means, at least 0 and below 1.
    epsilon : float
        Added to the root, above 0.
    weight_decay : float
        The factor of an L2 penalty's gradient, at least 0.

    Raises
    ------
    ConfigError
        If a value is outside its range.
    """
    return _adam("adam", beta1, beta2, epsilon, weight_decay, decoupled=False)


def adam_epsilon_hat(beta1: float = 0.9, beta2: float = 0.999, *, epsilon: float = 1e-8) -> Optimizer:
    """Return Adam with epsilon added before the bias correction, as scikit-learn has it.

    As `adam`, with theta ← theta − a · m / (√v + epsilon), a = learning_rate · √(1 − beta2ᵗ) / (1 − beta1ᵗ): the form
    at the end of the paper's section 2, whose epsilon the authors write with a hat. In the first steps it counts up to
    1 / √(1 − beta2) times as much as in `adam`.

    Parameters
    ----------
    beta1, beta2, epsilon
        As for `adam`.

    Raises
    ------
    ConfigError
        If a value is outside its range.
    """
    return _adam("adam_epsilon_hat", beta1, beta2, epsilon, 0.0, decoupled=False, corrects_epsilon=False)


def adamw(beta1: float = 0.9, beta2: float = 0.999, *, epsilon: float = 1e-8, weight_decay: float = 0.01) -> Optimizer:
    """Return Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).

    As `adam`, without weight decay in g, and theta ← theta − learning_rate · weight_decay · theta before its step.

    Parameters
    ----------
    beta1, beta2, epsilon
        As for `adam`.
    weight_decay : float
        The decay, at least 0, in units of the learning rate.

    Raises
    ------
    ConfigError
        If a value is outside its range.
    """
    return _adam("adamw", beta1, beta2, epsilon, weight_decay, decoupled=True)


def _adam(
    name: str,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    *,
    decoupled: bool,
    corrects_epsilon: bool = True,
) -> Optimizer:
    _require("beta1", beta1, 0 <= beta1 < 1, "at least 0 and below 1")
    _require("beta2", beta2, 0 <= beta2 < 1, "at least 0 and below 1")
    _require("epsilon", epsilon, 0 < epsilon < math.inf, "a finite number above 0")
    _require("weight decay", weight_decay, 0 <= weight_decay < math.inf, "a finite number of at least 0")

    def init(theta: Array) -> State:
        xp = array_namespace(theta=theta)
        return {"m": xp.zeros_like(theta), "v": xp.zeros_like(theta)}

    def scalars(step: int, learning_rate: float) -> dict[str, float]:
        learning_rate = float(learning_rate)  # a NumPy float64 would promote a float32 theta
        root = math.sqrt(1 - beta2**step)
        return {
            "rate": learning_rate * root / (1 - beta1**step),
            "epsilon": epsilon * root if corrects_epsilon else epsilon,
            "decay": learning_rate * weight_decay,
        }

    def update(theta: Array, state: State, gradient: Array, scalars: Scalars) -> tuple[Array, State]:
        array_namespace(theta=theta, gradient=gradient)
        m, v = state["m"], state["v"]
        if weight_decay and decoupled:
            theta -= scalars["decay"] * theta  # not theta *= 1 − decay: near 1, float32 would keep two of its digits
        elif weight_decay:
            gradient = gradient + weight_decay * theta
        theta, m, v = adam_step(theta, m, v, gradient, beta1, beta2, scalars["rate"], scalars["epsilon"])
        return theta, {"m": m, "v": v}

    return Optimizer(name, init, scalars, update)


def _require(name: str, value: float, fits: bool, expected: str) -> None:
    if not fits:
        raise ConfigError(f"{name} {value}: expected {expected}")
