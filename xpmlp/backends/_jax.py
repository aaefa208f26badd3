"""JAX, on any of its devices."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self

import numpy as np

from xpmlp.backends.base import CPU_WAY_OUT, Backend, Step, free_host_memory
from xpmlp.errors import ArrayError, BackendError

try:
    import jax
except ImportError:
    raise BackendError(f"JAX is not installed: pip install 'xpmlp[jax]', {CPU_WAY_OUT}") from None


_PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
_FRACTIONS = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
_MEMORY_SETTINGS = _PREALLOCATE, *_FRACTIONS, "XLA_PYTHON_CLIENT_ALLOCATOR"
_SWITCH_ON = 'jax.config.update("jax_enable_x64", True)'


class JaxBackend(Backend):
    """JAX's arrays: ``jax`` is its default device, ``jax:gpu`` or ``jax:cpu:0`` a given one.

    JAX's own settings stay as they are. In `context` products of float32 run in float32, unless the user has set
    `jax_default_matmul_precision`; JAX's default on recent GPUs is TF32. float64 needs `jax_enable_x64`.
    """

    name = library = "jax"
    namespace = jax.numpy
    further_devices = ("gpu",)
    run_length = 32
    out_of_memory = ("RESOURCE_EXHAUSTED",)

    def __init__(self, device: str | None = None, dtype: str | None = None) -> None:
        self.require(dtype)
        platform, _, index = (device or "").partition(":")
        try:
            with _memory_as_needed():
                self.device = jax.devices(platform or None)[int(index or 0)]
        except (RuntimeError, ValueError, IndexError) as error:
            raise BackendError(
                f"jax cannot run on {device!r}: {str(error).splitlines()[0]}; "
                f"install a JAX build for that device (pip install 'jax[cuda13]' for NVIDIA's), {CPU_WAY_OUT}"
            ) from None

    @classmethod
    def of(cls, array: Any) -> Self:
        device = min(array.devices(), key=lambda device: device.id)  # of several the first
        return cls(f"{device.platform}:{jax.devices(device.platform).index(device)}")

    @classmethod
    def own_process(cls, dtype: str | None = None) -> None:
        if dtype == "float64":
            jax.config.update("jax_enable_x64", True)

    def require(self, dtype: str | None) -> None:
        if dtype == "float64" and not jax.config.jax_enable_x64:
            raise BackendError(f"JAX computes in float32 only: {_SWITCH_ON} at the program's start, or take float32")

    def context(self) -> AbstractContextManager[Any]:
        chosen = jax.config.jax_default_matmul_precision
        return nullcontext() if chosen else jax.default_matmul_precision("highest")

    @property
    def spec(self) -> str:
        return f"jax:{self.device.platform}:{jax.devices(self.device.platform).index(self.device)}"

    def _put(self, array: np.ndarray) -> Any:
        narrowed = jax.dtypes.canonicalize_dtype(array.dtype)
        if narrowed != array.dtype:  # JAX does it silently, to 64-bit types unless x64 is on
            raise ArrayError(
                f"JAX would narrow {array.dtype} to {narrowed}: cast it first, or {_SWITCH_ON} at the program's start"
            )
        return jax.device_put(array, self.device)

    def compile(self, step: Step, *, donate: Sequence[int] = ()) -> Step:
        return _Compiled(step, donate, self)  # type: ignore[return-value]

    def repeat(self, step: Callable[..., Any], carry: Any, inputs: Iterable[tuple[Any, ...]]) -> Any:
        """Make many steps in one call, if only numbers differ between the steps' inputs.

        This holds for resident images. For a small network, a call costs more than its computation.
        """
        rest = iter(inputs)
        first = list(itertools.islice(rest, 2))  # no more: a streamed batch is not to be asked for in advance
        inputs = itertools.chain(first, rest)
        if not isinstance(step, _Compiled) or _columns(first) is None:
            return super().repeat(step, carry, inputs)
        while run := list(itertools.islice(inputs, self.run_length)):
            carry = step.repeat(carry, run)
        return carry

    def use_tf32(self) -> None:
        if self.device.platform != "gpu" or float(getattr(self.device, "compute_capability", "8.0")) < 8:
            super().use_tf32()
        jax.config.update("jax_default_matmul_precision", "tensorfloat32")

    def synchronize(self) -> None:
        for array in jax.live_arrays():
            array.block_until_ready()

    def free_memory(self) -> int | None:
        if self.device.platform == "cpu":
            return free_host_memory()
        stats = self.device.memory_stats() or {}
        if "bytes_limit" not in stats:
            return None
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))

    def describe(self) -> dict[str, str]:
        on_cpu = self.device.platform == "cpu"
        return {
            "version": jax.__version__,
            "device": str(self.device) if on_cpu else f"{self.device.device_kind} ({self.device})",
            "products": f"float32 at {jax.config.jax_default_matmul_precision or 'highest'!r} "
            "(JAX_DEFAULT_MATMUL_PRECISION, NVIDIA_TF32_OVERRIDE)",
        }


class _Compiled:
    """A step under `jax.jit`, and a loop of it."""

    def __init__(self, step: Callable[..., Any], donate: Sequence[int], backend: JaxBackend) -> None:
        self._step, self._once = step, jax.jit(step, donate_argnums=tuple(donate))
        # XLA's loop on a GPU asks the device before each turn, unless it knows how many there are.
        static = ("kind",) if backend.device.platform == "cpu" else ("kind", "n")
        self._loop = jax.jit(self._made_in_a_loop, static_argnames=static, donate_argnums=(0,) if donate else ())
        self._most = backend.run_length

    def __call__(self, *arguments: Any) -> Any:
        return self._once(*arguments)

    def repeat(self, carry: Any, inputs: Sequence[tuple[Any, ...]]) -> Any:
        """Return the carry after some steps: those in a row that only numbers tell apart are one call."""
        columns = _columns(inputs)
        if columns is not None:
            return self._in_a_loop(carry, inputs[0], columns)
        if len(inputs) == 1:
            return self._once(*carry, *inputs[0])
        cut = next(k for k, pair in enumerate(itertools.pairwise(inputs), 1) if _columns(pair) is None)
        return self.repeat(self.repeat(carry, inputs[:cut]), inputs[cut:])

    def _in_a_loop(self, carry: Any, first: tuple[Any, ...], columns: Sequence[tuple[Any, ...]]) -> Any:
        is_number = tuple(type(column[0]) in _NUMBERS for column in columns)
        numbers = [self._padded(column, carry[0].dtype) for column in itertools.compress(columns, is_number)]
        constants = [column[0] for column, is_one in zip(columns, is_number, strict=True) if not is_one]
        kind = jax.tree.structure(first), is_number
        return self._loop(carry, numbers, constants, n=len(columns[0]), kind=kind)

    def _padded(self, column: Sequence[Any], dtype: Any) -> np.ndarray:
        """Return one number or array a step; Python's floats have theta's dtype, as in JAX."""
        first = column[0]
        own = first.dtype if isinstance(first, np.ndarray) else np.int32 if isinstance(first, int) else dtype
        array = np.zeros((self._most, *np.shape(first)), own)
        array[: len(column)] = column
        return array

    def _made_in_a_loop(self, carry: Any, numbers: Any, constants: Any, n: Any, kind: Any) -> Any:
        tree, is_number = kind

        def turn(k: Any, carry: Any) -> Any:
            own, shared = iter(numbers), iter(constants)
            leaves = [next(own)[k] if is_one else next(shared) for is_one in is_number]
            return self._step(*carry, *jax.tree.unflatten(tree, leaves))

        return jax.lax.fori_loop(0, n, turn, carry)


def _columns(inputs: Sequence[Any]) -> list[tuple[Any, ...]] | None:
    """Return each leaf of several inputs, one for each input; None unless only numbers differ, each of one type."""
    flat = [jax.tree.flatten(each) for each in inputs]
    if len(flat) < 2 or any(kind != flat[0][1] for _, kind in flat):
        return None
    columns = list(zip(*(leaves for leaves, _ in flat), strict=True))
    return columns if all(map(_fits, columns)) else None


_NUMBERS = int, float, np.ndarray
"""The types that may differ between the steps of a loop: Python's numbers, and arrays on the host."""


def _fits(leaves: Sequence[Any]) -> bool:
    """Return whether a leaf is the same in each step, or each step's own number or array of one type."""
    if type(leaves[0]) not in _NUMBERS:
        return all(x is leaves[0] for x in leaves)
    return len({(type(x), getattr(x, "dtype", None), np.shape(x)) for x in leaves}) == 1


@contextmanager
def _memory_as_needed() -> Iterator[None]:
    """Let JAX allocate memory when it needs it, instead of three quarters in advance at the GPU's first use.

    JAX reads that from the environment when it opens the device. The user's own value stays.
    """
    if any(setting in os.environ for setting in _MEMORY_SETTINGS):
        yield
        return
    os.environ[_PREALLOCATE] = "false"
    try:
        yield
    finally:
        del os.environ[_PREALLOCATE]
