"""Objectives: functions of the parameters and a batch that return the loss and its gradient."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from xpmlp.data.deformation import Deformation
from xpmlp.data.dropout import Dropout
from xpmlp.data.loading import Batch, read_batch
from xpmlp.data.noise import Noise
from xpmlp.math.activations import Head, reported_losses
from xpmlp.math.elements import scaled, weighted
from xpmlp.math.layout import Layer, Layout, center_gradients, gradient_vector, penalize
from xpmlp.math.network import backward, forward, score
from xpmlp.namespaces import Array, array_namespace

Objective: TypeAlias = Callable[..., tuple[Array, Array, Array | None, int]]
"""Arguments: theta, a batch, and its noise or None. Returns the gradient with respect to theta, the batch's mean loss,
the number of correct samples (None: not counted), and the number of samples."""


@dataclass(frozen=True)
class ImageObjective:
    """The mean cross-entropy of images.

    Call it with theta, a batch, the step's `Noise` or None, and the gradient's factor or None. The batch is one of
    `DeviceLoader.batches`, or its images, uint8 n × d, and labels, int32 n.

    Parameters
    ----------
    layout : Layout
        The network's widths.
    max_value : int
        The value of bytes that counts as 1.
    center : float
        Train as if this were subtracted from all inputs (derivation.md, C1 to C3).
    deformation : Deformation or None
        Deforms the images by the step's noise.
    dropout : Dropout or None
        What makes masks of the step's noise.
    """

    layout: Layout
    max_value: int
    center: float = 0.0
    deformation: Deformation | None = None
    dropout: Dropout | None = None

    def __call__(  # noqa: D102
        self, theta: Array, batch: Batch, noise: Noise | None = None, share: Any = None
    ) -> tuple[Array, Array, Array | None, int]:
        images, labels = read_batch(batch)
        layers = self.layout.unflatten(theta)
        drawn, left_out = noise or Noise()
        if self.deformation and drawn:
            X = self.deformation(images, drawn)
        else:
            X = scaled(images, share=1 / self.max_value, dtype=theta.dtype)
        masks = self.dropout.masks(theta, X.shape[0], left_out) if self.dropout and left_out else None
        S, trail = forward(layers, X, masks=masks)
        delta, loss, correct = score(S, labels)
        if share is not None:
            delta *= share  # all gradients are linear in it, and it is the smallest array

        def compute(into: Sequence[Layer] | None) -> Sequence[Layer]:
            if not self.center:
                return backward(layers, trail, delta, masks=masks, into=into)
            X = trail[0][1]
            X -= self.center  # C1
            gradients = backward(layers, [(X, X), *trail[1:]], delta, masks=masks, into=into)
            return center_gradients(gradients, self.center)

        return gradient_vector(self.layout, theta, compute), loss, correct, S.shape[0]


@dataclass(frozen=True)
class SampleObjective:
    """The mean loss of samples with a penalty on the weights, as scikit-learn reports it, and its gradient.

    Call it with theta, a batch (X, T, weights or None) and the step's `Noise` or None. X and T are as in
    `xpmlp.math.network.score`. For K networks at once theta is (K, size), X (K, n, d), T (K, n) or (K, n, c), and
    weights (K, n). The batch then has two more members: the networks' alpha, (K, 1, 1), and each one's number of
    samples, (K,), or None for n. A batch that the step is to gather has a function `read`, which returns it.

    Parameters
    ----------
    layout : Layout
        The network's widths.
    activation : str or tuple of str
        A name from `xpmlp.math.activations.ACTIVATIONS`, or one for each hidden layer.
    head : str or Head
        A name from `xpmlp.math.activations.HEADS`, or a head.
    alpha : float
        The penalty is alpha / 2 times the sum of the squared weights, divided by the number of samples or the sum of
        their weights. For several networks: 0 if all their alphas are 0, else any other number.
    dropout : Dropout or None
        What makes masks of the step's noise.
    """

    layout: Layout
    activation: str | tuple[str, ...]
    head: str | Head
    alpha: float
    dropout: Dropout | None = None

    def __call__(  # noqa: D102
        self, theta: Array, batch: Batch, noise: Noise | None = None
    ) -> tuple[Array, Array, None, Any]:
        if hasattr(batch, "read"):
            batch = batch.read()
        X, T, weights, alpha, count = batch if len(batch) == 5 else (*batch, self.alpha, None)
        layers, is_stack = self.layout.unflatten(theta), theta.ndim > 1
        drawn = (noise or Noise()).dropout
        masks = self.dropout.masks(theta, X.shape[-2], drawn) if self.dropout and drawn else None
        S, trail = forward(layers, X, self.activation, masks)
        xp, n = array_namespace(S=S), S.shape[-2]
        share: Any = 1 / n if weights is None else 1 / xp.sum(weights, axis=-1)  # of one sample, in each network
        each = share[:, None, None] if is_stack and weights is not None else share
        losses = reported_losses(S, T, self.head)
        loss = xp.sum(losses if weights is None else losses * weights, axis=-1) * share
        if is_stack and weights is not None:
            alpha = xp.astype(alpha, theta.dtype)  # as a number beside an array of it
        penalty: Any = xp.astype(alpha * each, theta.dtype) if is_stack else alpha * share
        if self.alpha:
            squares = [_squares(xp, W) for W, _ in layers]
            half = xp.reshape(0.5 * penalty, (-1,)) if is_stack else 0.5 * penalty
            loss = loss + half * sum(squares[1:], squares[0])
        delta, _, _ = score(S, T, self.head)
        if weights is not None:
            delta = weighted(delta, weights[..., None], share=n * each)

        def compute(into: Sequence[Layer] | None) -> Sequence[Layer]:
            gradients = backward(layers, trail, delta, self.activation, masks, into)
            return penalize(gradients, layers, penalty) if self.alpha else gradients

        return gradient_vector(self.layout, theta, compute), loss, None, n if count is None else count


def _squares(xp: Any, W: Array) -> Array:
    """Return the sum of the squares of a matrix, or of each matrix of a stack."""
    if W.ndim == 2:
        w = xp.reshape(W, (-1,))
        return w @ w
    w = xp.reshape(W, (W.shape[0], 1, -1))
    return xp.reshape(w @ w.mT, (-1,))
