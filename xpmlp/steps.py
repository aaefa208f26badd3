"""The functions of arrays that train on a batch, or test on one: what a backend compiles."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from xpmlp.backends.base import Backend
from xpmlp.data.deformation import Deformation
from xpmlp.data.loading import Batch, read_batch
from xpmlp.dropout import Dropout
from xpmlp.math.elements import accumulate, scaled
from xpmlp.math.layout import Layer, Layout, center_gradients, gradient_vector, join
from xpmlp.math.network import backward, forward, score
from xpmlp.math.optimizers import Optimizer, Scalars, State
from xpmlp.namespaces import Array, array_namespace
from xpmlp.noise import Noise


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


TrainStep: TypeAlias = Callable[..., tuple[Array, State, Totals]]
GradientStep: TypeAlias = Callable[..., Array]
UpdateStep: TypeAlias = Callable[[Array, State, Totals, Array, Scalars], tuple[Array, State, Totals]]
EvaluationStep: TypeAlias = Callable[[Totals, Array, Batch], Totals]

TAIL = 3
"""What the ranks sum behind the gradient: the losses, the number correct, and the wishes to stop."""


def make_train_step(
    layout: Layout,
    optimizer: Optimizer,
    max_value: int,
    center: float = 0.0,
    *,
    deformation: Deformation | None = None,
    dropout: Dropout | None = None,
) -> TrainStep:
    """Return the function of arrays that trains on one batch and waits for nothing.

    It takes theta, the optimizer's state, the totals, a batch as `DeviceLoader.batches` yields it or its images (uint8,
    n × d) and labels (int32, n), the step's scalars and, with a deformation or dropout, the step's `Noise`; the first
    three are handed over, and their successors returned.
    """
    differentiate = _make_differentiation(layout, max_value, center, deformation, dropout)

    def step(
        theta: Array, state: State, totals: Totals, batch: Batch, scalars: Scalars, noise: Noise | None = None
    ) -> tuple[Array, State, Totals]:
        gradient, loss, correct, n = differentiate(theta, batch, noise)
        totals = Totals(*accumulate(*totals, loss, correct, n=n))
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
) -> GradientStep:
    """Return the first half of a step of several ranks: what one rank adds to the vector that they sum.

    The function takes theta, the rank's part of a batch, how great a part of it that is (0 to 1), 1.0 where the rank
    wishes to stop, else 0.0, and with a deformation or dropout the part's noise. The vector is the part's gradient,
    times its share; the sum of its images' losses; how many are correct; and the wish. A loss that is not finite makes
    the sum of losses so.
    """
    differentiate = _make_differentiation(layout, max_value, center, deformation, dropout)

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
        totals = add_summed(totals, summed, layout.size)
        theta, state = optimizer.update(theta, state, summed[: layout.size], scalars)
        return theta, state, totals

    return step


def _make_differentiation(
    layout: Layout,
    max_value: int,
    center: float,
    deformation: Deformation | None,
    dropout: Dropout | None,
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
        X = (
            deformation(images, drawn)
            if deformation and drawn
            else scaled(images, share=1 / max_value, dtype=theta.dtype)
        )
        masks = dropout.masks(theta, X.shape[0], left_out) if dropout and left_out else None
        S, trail = forward(layers, X, masks=masks)
        delta, loss, correct = score(S, labels)
        if share is not None:
            delta *= share  # all gradients are linear in it, and it is the smallest of them

        def compute(into: Sequence[Layer] | None) -> Sequence[Layer]:
            if not center:
                return backward(layers, trail, delta, masks=masks, into=into)
            X = trail[0][1]
            X -= center  # C1
            return center_gradients(backward(layers, [(X, X), *trail[1:]], delta, masks=masks, into=into), center)

        return gradient_vector(layout, theta, compute), loss, correct, S.shape[0]

    return differentiate


def make_evaluation_step(layout: Layout, max_value: int) -> EvaluationStep:
    """Return the function of arrays that adds one batch to the totals, which are handed over."""

    def step(totals: Totals, theta: Array, batch: Batch) -> Totals:
        images, labels = read_batch(batch)
        S, _ = forward(layout.unflatten(theta), scaled(images, share=1 / max_value, dtype=theta.dtype))
        _, loss, correct = score(S, labels)
        return Totals(*accumulate(*totals, loss, correct, n=S.shape[0]))

    return step


def zero_totals(backend: Backend, dtype: str) -> Totals:
    """Return the totals of nothing."""
    return Totals(*(backend.asarray(np.zeros((), kind), copy=True) for kind in (dtype, "int32", "int32", "int32")))


def add_summed(totals: Totals, summed: Array, n: int) -> Totals:
    """Return the totals with the sum of losses and the number correct that stand behind a sum's first n numbers."""
    xp = array_namespace(summed=summed)
    loss, correct = (xp.reshape(summed[k : k + 1], ()) for k in (n, n + 1))
    return Totals(*accumulate(*totals, loss, xp.astype(correct, xp.int32), n=1))
