"""The few named operations of the math that some library does faster in a way of its own.

Each stands here in its agnostic version. A native one, in the file of its library, is taken by the arrays' library
alone, and tested equal to it. NumPy's arrays have two such files, between which `kernels` chooses: NumPy's own
functions, and kernels that numba compiles.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any, TypeVar

from xpmlp.errors import ConfigError
from xpmlp.namespaces import Array, array_namespace, clipped, library_of

Operation = TypeVar("Operation", bound=Callable[..., Any])

KERNELS = ("auto", "numpy", "numba")
"""What computes the operations on NumPy's arrays; auto is numba where it is installed."""

_NATIVE = {
    "cupy": ("_cupy",),
    "jax": ("_jax",),
    "numpy": ("_numpy",),
    "torch": ("_torch",),
}
"""Each library's files."""

_kernels: ContextVar[str] = ContextVar("kernels", default="numpy")


def resolve_kernels(name: str) -> str:
    """Return ``numpy`` or ``numba`` for one of `KERNELS`.

    Raises
    ------
    ConfigError
        If the name is unknown, or numba is asked for and not installed.
    """
    if name not in KERNELS:
        raise ConfigError(f"unknown kernels {name!r}: expected {', '.join(KERNELS[:-1])} or {KERNELS[-1]}")
    installed = importlib.util.find_spec("numba") is not None
    if name == "numba" and not installed:
        raise ConfigError("kernels numba: numba is not installed: pip install 'xpmlp[fast]', or take kernels numpy")
    return name if name != "auto" else "numba" if installed else "numpy"


@contextmanager
def kernels(name: str) -> Iterator[None]:
    """Compute the operations on NumPy's arrays with these kernels, in this thread; outside of it, with NumPy's own.

    Parameters
    ----------
    name : {"auto", "numpy", "numba"}
        Which.

    Raises
    ------
    ConfigError
        If the name is unknown, or numba is asked for and not installed.
    """
    token = _kernels.set(resolve_kernels(name))
    try:
        yield
    finally:
        _kernels.reset(token)


def _with_native(operation: Operation) -> Operation:
    """Let an operation be done by the version of its first argument's library, where there is one."""
    name = operation.__name__

    @wraps(operation)
    def choose(first: Any, *rest: Any) -> Any:
        kind: Any = type(first[0] if type(first) is tuple else first)
        native = _native(kind, _kernels.get(), name)
        return (native or operation)(first, *rest)

    chosen: Any = choose
    return chosen  # type: ignore[no-any-return]


@cache
def _native(kind: Any, kernels: str, name: str) -> Callable[..., Any] | None:
    """Return a type of arrays' native version of an operation, None where there is none."""
    library = library_of(kind)
    files = _NATIVE.get(library, ())
    if library == "numpy" and kernels == "numba":
        files = ("_numba", *files)
    for file in files:
        found: Callable[..., Any] | None = getattr(importlib.import_module(f"{__name__}.{file}"), name, None)
        if found is not None:
            return found
    return None


@_with_native
def join(arrays: tuple[Array, ...]) -> Array:
    """Return arrays of any shapes, each in C order and without gaps, as one new vector."""
    xp = array_namespace(arrays=arrays)
    return xp.concat([xp.reshape(array, (-1,)) for array in arrays])


@_with_native
def new_gradient(theta: Array) -> Array | None:
    """Return a new vector like theta, into whose parts gradients are written; None where a library's arrays are not.

    With None, the gradients are arrays of their own, and `join` makes the vector.
    """
    return None


@_with_native
def scaled(images: Array, theta: Array, max_value: int) -> Array:
    """Return bytes as X, numbers from 0 to 1 of theta's dtype."""
    xp = array_namespace(images=images, theta=theta)
    X = xp.astype(images, theta.dtype)
    X *= 1 / max_value
    return X


@_with_native
def sampled(images: Array, displacements: Array, max_value: int) -> Array:
    """Return bytes as X, of the displacements' dtype, each pixel taken from another place of its image.

    Parameters
    ----------
    images : array of uint8, shape (n, height · width)
        The images. Between pixels a value is interpolated linearly in both directions; around an image all is 0.
    displacements : array, shape (n, 2, height, width)
        How far down and how far to the right each pixel's place is, in pixels. Where both are 0, X is what `scaled`
        returns.
    max_value : int
        The grey value that counts as 1.
    """
    xp = array_namespace(images=images, displacements=displacements)
    n, _, height, width = displacements.shape
    dtype, device = displacements.dtype, getattr(displacements, "device", None)
    pixels = xp.reshape(images, (n, height, width))
    row, column = xp.zeros_like(pixels[:, :1, :]), xp.zeros((n, height + 2, 1), dtype=images.dtype, device=device)
    around = xp.concat([column, xp.concat([row, pixels, row], axis=1), column], axis=2)
    # Places count from the corner of what lies around.
    y = displacements[:, 0, :, :] + xp.arange(1, height + 1, dtype=dtype, device=device)[:, None]
    x = displacements[:, 1, :, :] + xp.arange(1, width + 1, dtype=dtype, device=device)
    y, x = clipped(y, 0, height + 1), clipped(x, 0, width + 1)
    top = clipped(xp.floor(y), 0, height)  # there is a row below it and, below, a column right of it
    left = clipped(xp.floor(x), 0, width)
    y -= top
    x -= left
    index = xp.astype(top, xp.int32) * (width + 2)
    index += xp.astype(left, xp.int32)
    index += xp.arange(0, n * (height + 2) * (width + 2), (height + 2) * (width + 2), dtype=xp.int32, device=device)[
        :, None, None
    ]
    index, around = xp.reshape(index, (-1,)), xp.reshape(around, (-1,))

    def at(offset: int) -> Array:
        return xp.reshape(xp.astype(xp.take(around, index + offset), dtype), (n, height, width))

    upper, lower = at(0), at(width + 2)
    upper += x * (at(1) - upper)
    lower += x * (at(width + 3) - lower)
    lower -= upper
    lower *= y
    upper += lower
    upper *= 1 / max_value
    return xp.reshape(upper, (n, height * width))


@_with_native
def bias_relu(Z: Array, b: Array) -> Array:
    """Return max(Z + b, 0); Z is handed over."""
    Z += b
    return array_namespace(Z=Z).maximum(Z, 0)


@_with_native
def relu_backward(A: Array, dA: Array) -> Array:
    """Return the gradient by a ReLU's input of that by its output A: dA where A > 0, else 0. dA is handed over."""
    xp = array_namespace(A=A, dA=dA)
    return xp.where(A > 0, dA, 0.0)


@_with_native
def parameter_gradients(delta: Array, A: Array, into: tuple[Array, Array] | None) -> tuple[Array, Array]:
    """Return the gradients by a layer's W and b, in `into` where that is given.

    Parameters
    ----------
    delta : array, shape (n, fan_out)
        The loss's gradient by the layer's sums.
    A : array, shape (n, fan_in)
        What the layer was given.
    into : (array (fan_in, fan_out), array (1, fan_out)) or None
        Parts of `new_gradient`.
    """
    xp = array_namespace(delta=delta)
    dW = A.T @ delta  # B2, B6, B10
    db = xp.sum(delta, axis=0, keepdims=True)  # B3, B7, B11
    return dW, db


@_with_native
def softmax_cross_entropy(S: Array, labels: Array) -> tuple[Array, Array, Array]:
    """Return all that a step wants of a batch's logits: the gradient by them, the mean loss and the number correct.

    Parameters
    ----------
    S : array, shape (n, c)
        The logits.
    labels : array of int32, shape (n,)
        Each row's class.

    Returns
    -------
    delta : array, shape (n, c)
        (P − T) / n.
    loss : 0-d array
        The mean cross-entropy.
    correct : 0-d array of int32
        How many rows are greatest at their label.
    """
    xp = array_namespace(S=S, labels=labels)
    T = one_hot(labels, S)
    Z = S - xp.max(S, axis=1, keepdims=True)
    P = xp.exp(Z)
    total = xp.sum(P, axis=1, keepdims=True)
    P /= total  # F6
    share = 1 / S.shape[0]
    loss = xp.sum(xp.where(T, xp.log(total) - Z, 0.0)) * share  # F7
    delta = P - xp.astype(T, S.dtype)
    delta *= share  # B1
    correct = xp.sum(xp.astype(xp.argmax(S, axis=1) == labels, xp.int32), dtype=xp.int32)
    return delta, loss, correct


def one_hot(labels: Array, S: Array) -> Array:
    """Return T, (n, c) booleans: by comparison, so that there is no gather and no check that waits."""
    xp = array_namespace(S=S, labels=labels)
    # Under jax.jit an array has no device yet; a narrow dtype could not count the classes.
    classes = xp.arange(S.shape[1], dtype=xp.int32, device=getattr(labels, "device", None))
    return xp.astype(labels, xp.int32, copy=False)[:, None] == classes[None, :]


@_with_native
def accumulate(
    loss: Array, correct: Array, steps: Array, finite: Array, batch_loss: Array, batch_correct: Array, n: int
) -> tuple[Array, Array, Array, Array]:
    """Return an epoch's running totals with one more batch; the first four, 0-d arrays, are handed over.

    Parameters
    ----------
    loss, correct, steps, finite : 0-d arrays
        The sum of the samples' losses, how many were correct (int32), how many batches there were (int32), and how
        many of them before the first whose loss was not finite (int32).
    batch_loss, batch_correct : 0-d arrays
        The batch's mean loss and number correct.
    n : int
        The batch's samples.
    """
    xp = array_namespace(loss=loss)
    loss += batch_loss * n
    correct += batch_correct
    steps += 1
    finite += xp.astype(xp.isfinite(loss), xp.int32)  # no sum is finite again
    return loss, correct, steps, finite


@_with_native
def momentum_step(
    theta: Array, velocity: Array, gradient: Array, momentum: float, nesterov: bool, rate: Any
) -> tuple[Array, Array]:
    """Return theta and the velocity after a step of SGD with momentum.

    The first two are handed over; the gradient is left as it was.
    """
    velocity *= momentum
    velocity += gradient
    direction = gradient + momentum * velocity if nesterov else velocity
    theta -= rate * direction
    return theta, velocity


@_with_native
def adam_step(
    theta: Array, m: Array, v: Array, gradient: Array, beta1: float, beta2: float, rate: Any, epsilon: Any
) -> tuple[Array, Array, Array]:
    """Return theta, m and v after a step of Adam, whose bias corrections are in the rate and in epsilon.

    The first three are handed over; the gradient is left as it was.
    """
    xp = array_namespace(theta=theta, m=m, v=v, gradient=gradient)
    change = gradient - m
    change *= 1 - beta1
    m += change
    square = gradient * gradient
    square *= 1 - beta2
    v *= beta2
    v += square
    denominator = xp.sqrt(v)
    denominator += epsilon
    step = m / denominator
    step *= rate
    theta -= step
    return theta, m, v
