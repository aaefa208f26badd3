"""The functions of arrays that train or test on a batch; a backend compiles them."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from xpmlp.backends.base import Backend
from xpmlp.data.loading import Batch, read_batch
from xpmlp.data.noise import Noise
from xpmlp.kernels import are_plain, recorded
from xpmlp.math.elements import accumulate, scaled
from xpmlp.math.layout import Layout, join
from xpmlp.math.network import forward, score
from xpmlp.math.optimizers import Optimizer, Scalars, State
from xpmlp.namespaces import Array, array_namespace
from xpmlp.training.objectives import Objective


class Totals(NamedTuple):
    """An epoch's running totals, 0-d arrays on the device."""

    loss: Array
    """The sum of the samples' losses, of theta's dtype."""
    correct: Array
    """The number of correctly classified samples, int32; 0 if not counted."""
    steps: Array
    """The number of steps made, int32."""
    finite: Array
    """The number of steps before the first whose loss was not finite, int32."""


class Carry(NamedTuple):
    """The state between steps. Each step may overwrite these arrays, and returns their successors."""

    theta: Array
    state: State
    totals: Totals


Step: TypeAlias = Callable[..., Carry]
"""Arguments: theta, the optimizer's state, the totals, a batch, the optimizer's scalars and the step's noise. Returns a
`Carry`."""

TAIL = 3
"""The numbers that the ranks sum behind the gradient: the losses, the number correct, and the stop requests."""


def make_step(objective: Objective, optimizer: Optimizer) -> Step:
    """Return the function of arrays that trains on one batch, without waiting for the device."""

    def step(
        theta: Array, state: State, totals: Totals, batch: Batch, scalars: Scalars, noise: Noise | None = None
    ) -> Carry:
        gradient, loss, correct, n = objective(theta, batch, noise)
        counted = totals.correct if correct is None else correct  # where nothing is counted it is 0, and stays it
        totals = Totals(*accumulate(*totals, loss, counted, n=n))
        theta, state = optimizer.update(theta, state, gradient, scalars)
        return Carry(theta, state, totals)

    return step


def make_gradient_step(objective: Objective) -> Callable[..., Array]:
    """Return the first half of a step of several ranks: one rank's term of the vector that they sum.

    The function takes theta, the rank's part of a batch, its share of the batch (0 to 1), a stop request, and the
    part's noise. The request is 1.0 or 0.0. The vector is the part's gradient times its share, the sum of its samples'
    losses, the number correct, and the stop request. A loss that is not finite makes the sum of losses so.
    """

    def step(theta: Array, batch: Batch, share: float, wish: float, noise: Noise | None = None) -> Array:
        gradient, loss, correct, n = objective(theta, batch, noise, share)
        xp = array_namespace(theta=theta)
        return join((gradient, loss * n, xp.astype(xp.asarray(correct), theta.dtype), xp.zeros_like(loss) + wish))

    return step


def make_update_step(optimizer: Optimizer, n: int) -> Callable[..., Carry]:
    """Return the second half of a step of several ranks: the update of n parameters by the sum of their vectors.

    The function takes theta, the optimizer's state, the totals, the sum, and the step's scalars.
    """

    def step(theta: Array, state: State, totals: Totals, summed: Array, scalars: Scalars) -> Carry:
        xp = array_namespace(summed=summed)
        loss, correct = (xp.reshape(summed[k : k + 1], ()) for k in (n, n + 1))
        totals = Totals(*accumulate(*totals, loss, xp.astype(correct, xp.int32), n=1))
        return Carry(*optimizer.update(theta, state, summed[:n], scalars), totals)

    return step


def make_evaluation_step(layout: Layout, max_value: int) -> Callable[[Totals, Array, Batch], Totals]:
    """Return the function of arrays that adds one batch to the totals, which it may overwrite."""

    def step(totals: Totals, theta: Array, batch: Batch) -> Totals:
        images, labels = read_batch(batch)
        S, _ = forward(layout.unflatten(theta), scaled(images, share=1 / max_value, dtype=theta.dtype))
        _, loss, correct = score(S, labels)
        return Totals(*accumulate(*totals, loss, correct, n=S.shape[0]))

    return step


def compiled(backend: Backend, step: Any, donate: tuple[int, ...] = ()) -> Any:
    """Return the fastest form of a repeated step; the step itself if the kernels are plain."""
    return step if are_plain() else _compiled(backend, step, donate)


@lru_cache(maxsize=16)
def compiled_step(backend: Backend, objective: Objective, optimizer: Optimizer) -> Step:
    """Return a compiled step; equal steps are compiled once per process."""
    step: Step = _compiled(backend, make_step(objective, optimizer), donate=(0, 1, 2))
    return step


@lru_cache(maxsize=16)
def compiled_gradient(backend: Backend, objective: Objective) -> Objective:
    """Return a compiled objective; equal objectives are compiled once per process."""
    compiled_objective: Objective = _compiled(backend, objective)
    return compiled_objective


def _compiled(backend: Backend, step: Any, donate: tuple[int, ...] = ()) -> Any:
    step = backend.compile(step, donate=donate)
    return recorded(step, donate) if backend.name == "numpy" else step


def release(step: Any) -> None:
    """Drop references to a compiled step's last arguments, and large buffers, until it is called again."""
    if hasattr(step, "release"):
        step.release()


def zero_totals(backend: Backend, dtype: str, networks: tuple[int, ...] = ()) -> Totals:
    """Return zero totals, for one network or (K,) for several."""
    kinds = (dtype, "int32", "int32", "int32")
    return Totals(*(backend.asarray(np.zeros(networks, kind), copy=True) for kind in kinds))
