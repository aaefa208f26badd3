"""Updates of one parameter vector by its gradient: `sgd`, `adam` and `adamw` equal PyTorch's optimizers of these names.

An optimizer has three functions. ``init(theta)`` makes its state: vectors like theta. ``scalars(step, learning_rate)``
computes on the host, in float64, all numbers that change from step to step. ``update(theta, state, gradient, scalars)``
applies one step. It may change theta and the state in place, so the caller must use the returned ones. It does not
change the gradient.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from xpmlp.errors import ConfigError
from xpmlp.math.elements import adam_step, decayed, momentum_step, partly_shrunk, sgd_step, shrunk
from xpmlp.math.layout import Layout
from xpmlp.namespaces import Array, array_namespace

State: TypeAlias = dict[str, Array]
"""The optimizer's vectors, by name, each of theta's shape and dtype."""

Scalars: TypeAlias = Mapping[str, float]
"""A step's numbers, by name: Python floats, or 0-d arrays of theta's dtype in a compiled step."""


class Optimizer(NamedTuple):
    """An update rule; see the module's description for its three functions."""

    name: str
    init: Callable[[Array], State]
    scalars: Callable[[int, float], dict[str, float]]
    update: Callable[[Array, State, Array, Scalars], tuple[Array, State]]


def sgd(
    momentum: float = 0.0, *, nesterov: bool = False, weight_decay: float = 0.0, rate_inside: bool = False
) -> Optimizer:
    """Return stochastic gradient descent.

    With g the gradient plus weight_decay · theta::

        v ← momentum · v + g
        theta ← theta − learning_rate · d,   d = g + momentum · v (Nesterov), v (momentum) or g (neither)

    Parameters
    ----------
    momentum : float
        0 ≤ momentum < 1 (Polyak 1964).
    nesterov : bool
        Look ahead (Nesterov 1983); it needs momentum. The form is that of Sutskever, Martens, Dahl & Hinton 2013, "On
        the importance of initialization and momentum in deep learning".
    weight_decay : float
        The factor of an L2 penalty's gradient, at least 0.
    rate_inside : bool
        Keep −learning_rate · g in the velocity instead of g, as scikit-learn does, and add d to theta (equations 1 to 4
        of that paper). At a constant rate the result is the same. If the rate changes, earlier steps keep the rate that
        they were made with. The momentum may then be 1, and Nesterov's 0.

    Raises
    ------
    ConfigError
        If a value is outside its range.
    """
    in_range, expected = 0 <= momentum < 1, "at least 0 and below 1"
    if rate_inside:
        in_range, expected = 0 <= momentum <= 1, "0 to 1"
    _require("momentum", momentum, in_range, expected)
    _require("weight decay", weight_decay, 0 <= weight_decay < math.inf, "a finite number of at least 0")
    if nesterov and momentum == 0 and not rate_inside:
        raise ConfigError("nesterov with momentum 0: Nesterov's step needs momentum; set one, such as 0.9")

    def init(theta: Array) -> State:
        return {"velocity": array_namespace(theta=theta).zeros_like(theta)} if momentum or rate_inside else {}

    def scalars(step: int, learning_rate: float) -> dict[str, float]:
        return {"learning_rate": float(learning_rate), "momentum": float(momentum)}

    def update(theta: Array, state: State, gradient: Array, scalars: Scalars) -> tuple[Array, State]:
        rate = scalars["learning_rate"]
        if weight_decay:
            gradient = decayed(gradient, theta, weight_decay=weight_decay)
        if not state:
            return sgd_step(theta, gradient, rate=rate), state
        numbers = {"rate": rate, "momentum": scalars["momentum"], "nesterov": nesterov, "rate_inside": rate_inside}
        theta, v = momentum_step(theta, state["velocity"], gradient, **numbers)
        return theta, {"velocity": v}

    return Optimizer("sgd", init, scalars, update)


def adam(
    beta1: float = 0.9,
    beta2: float = 0.999,
    *,
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
    epsilon_hat: bool = False,
) -> Optimizer:
    """Return Adam (Kingma & Ba 2015, "Adam: A Method for Stochastic Optimization", algorithm 1).

    With g the gradient plus weight_decay · theta, at step t::

        m ← beta1 · m + (1 − beta1) · g
        v ← beta2 · v + (1 − beta2) · g²
        theta ← theta − learning_rate · m̂ / (√v̂ + epsilon),   m̂ = m / (1 − beta1ᵗ),   v̂ = v / (1 − beta2ᵗ)

    The step's scalars include the two corrections (the end of the paper's section 2). This saves two passes over the
    vector: theta ← theta − a · m / (√v + e), a = learning_rate · √(1 − beta2ᵗ) / (1 − beta1ᵗ), e = epsilon · √(1 −
    beta2ᵗ).

    Parameters
    ----------
    beta1, beta2 : float
        The decay of the two means, at least 0 and below 1.
    epsilon : float
        Added to the root, above 0.
    weight_decay : float
        The factor of an L2 penalty's gradient, at least 0.
    epsilon_hat : bool
        Keep epsilon uncorrected (e = epsilon), the paper's ε̂, as scikit-learn does. In the first steps it has up to 1
        / √(1 − beta2) times the effect.

    Raises
    ------
    ConfigError
        If a value is outside its range.
    """
    return _adam("adam", beta1, beta2, epsilon, weight_decay, decoupled=False, epsilon_hat=epsilon_hat)


def adamw(
    beta1: float = 0.9,
    beta2: float = 0.999,
    *,
    epsilon: float = 1e-8,
    weight_decay: float = 0.01,
    layout: Layout | None = None,
) -> Optimizer:
    """Return Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).

    The step is that of `adam`, without weight decay in g. Before it, theta ← theta − learning_rate · weight_decay ·
    theta.

    Parameters
    ----------
    beta1, beta2, epsilon
        As for `adam`.
    weight_decay : float
        The decay, at least 0, in units of the learning rate.
    layout : Layout or None
        The layout of theta, to exempt the biases from decay. The state then has a vector ``shares`` besides Adam's two:
        1 for a weight, 0 for a bias.

    Raises
    ------
    ConfigError
        If a value is outside its range.
    """
    return _adam("adamw", beta1, beta2, epsilon, weight_decay, decoupled=True, epsilon_hat=False, layout=layout)


def _adam(
    name: str,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    *,
    decoupled: bool,
    epsilon_hat: bool,
    layout: Layout | None = None,
) -> Optimizer:
    _require("beta1", beta1, 0 <= beta1 < 1, "at least 0 and below 1")
    _require("beta2", beta2, 0 <= beta2 < 1, "at least 0 and below 1")
    _require("epsilon", epsilon, 0 < epsilon < math.inf, "a finite number above 0")
    _require("weight decay", weight_decay, 0 <= weight_decay < math.inf, "a finite number of at least 0")

    def init(theta: Array) -> State:
        xp = array_namespace(theta=theta)
        state = {"m": xp.zeros_like(theta), "v": xp.zeros_like(theta)}
        if layout is not None:
            shares = [(xp.ones_like(W), xp.zeros_like(b)) for W, b in layout.unflatten(theta)]
            state["shares"] = layout.flatten(shares)
        return state

    def scalars(step: int, learning_rate: float) -> dict[str, float]:
        learning_rate = float(learning_rate)  # a NumPy float64 would promote a float32 theta
        root = math.sqrt(1 - beta2**step)
        return {
            "rate": learning_rate * root / (1 - beta1**step),
            "epsilon": epsilon if epsilon_hat else epsilon * root,
            "decay": learning_rate * weight_decay,
        }

    def update(theta: Array, state: State, gradient: Array, scalars: Scalars) -> tuple[Array, State]:
        if weight_decay and layout is not None:
            theta = partly_shrunk(theta, state["shares"], decay=scalars["decay"])
        elif weight_decay and decoupled:
            theta = shrunk(theta, decay=scalars["decay"])
        elif weight_decay:
            gradient = decayed(gradient, theta, weight_decay=weight_decay)
        numbers = {"rate": scalars["rate"], "beta1": beta1, "beta2": beta2, "epsilon": scalars["epsilon"]}
        theta, m, v = adam_step(theta, state["m"], state["v"], gradient, **numbers)
        return theta, {**state, "m": m, "v": v}

    return Optimizer(name, init, scalars, update)


def _require(name: str, value: float, fits: bool, expected: str) -> None:
    if not fits:
        raise ConfigError(f"{name} {value}: expected {expected}")
