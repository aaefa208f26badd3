"""The faults that `tests/mutants.py` makes, one at a time."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Parameters
    ----------
    name, why : str
        What it is called, and what is wrong then.
    file, where : str
        The file, and in it a function's or a class's qualified name, or a module's variable.
    old, new : str
        The statement or the expression that is replaced, found by its syntax tree; of a variable, which may hold CUDA's
        source, a piece of its text, however it is spaced. Nothing as `new`: it is left out.
    tests : str
        What pytest is told to run.
    modes : tuple of str
        In which modes, the one that is to find it first.
    times : int
        How often `old` is there, and is replaced.
    hangs : bool
        Whether tests may not end.
    unseen : str
        Why no test can find it.
    """

    name: str
    why: str
    file: str
    where: str
    old: str
    new: str
    tests: str
    modes: tuple[str, ...]
    times: int = 1
    hangs: bool = False
    unseen: str = ""


def of(file: str, tests: str, modes: str, *faults: tuple[str, str, str, str, str], **more: Any) -> list[Mutant]:
    """Return the mutants of a file that the same tests find: the name, why, where, old and new of each."""
    return [
        Mutant(name, why, file, where, old, new, tests, tuple(modes.split()), **more)
        for name, why, where, old, new in faults
    ]


LOADING = "tests/test_loading.py -k cupy"
KERNELS = "tests/test_primitives.py tests/test_checking.py -k cupy"

MUTANTS = [
    *of(
        "xpmlp/backends/_cupy.py",
        LOADING,
        "lazy skew",
        (
            "the steps do not wait",
            "a batch is computed with before it is copied",
            "_PinnedCopier.computing_waits_for",
            "cupy.cuda.get_current_stream().wait_event(event)",
            "",
        ),
        (
            "the copies do not wait",
            "a batch is copied over one that is still computed with",
            "_PinnedCopier.copying_waits_for",
            "self._stream.wait_event(event)",
            "",
        ),
        (
            "the host does not wait",
            "a staging buffer is filled while it is still copied from",
            "_PinnedCopier.host_waits_for",
            "event.synchronize()",
            "",
        ),
        (
            "the end does not wait",
            "memory goes back to CuPy's pools while it is still copied to",
            "_PinnedCopier.finish",
            "self._stream.synchronize()",
            "",
        ),
    ),
    *of(
        "xpmlp/primitives/_cupy.py",
        KERNELS,
        "reverse shuffle now",
        (
            "first barrier left out",
            "warps' sums are read before they are written",
            "_SOFTMAX_CROSS_ENTROPY",
            "warp_corrects[warp] = correct_here;\n    __syncthreads();",
            "warp_corrects[warp] = correct_here;",
        ),
        (
            "half a mask",
            "lanes 16 to 31 take part in no exchange",
            "_SOFTMAX_CROSS_ENTROPY",
            "all = 0xffffffffu",
            "all = 0xffffu",
        ),
        (
            "counter not reset",
            "the second launch's last block does not know that it is the last",
            "_SOFTMAX_CROSS_ENTROPY",
            "atomicInc(counter, gridDim.x - 1)",
            "atomicAdd(counter, 1u)",
        ),
        (
            "share as a Python float",
            "8 bytes are handed to a kernel that reads 4",
            "softmax_cross_entropy",
            "numbers = np.int32(n), np.int32(c), real(1 / n)",
            "numbers = np.int32(n), np.int32(c), 1 / n",
        ),
        (
            "lanes return early",
            "a warp's exchange waits for lanes that have gone",
            "_SOFTMAX_CROSS_ENTROPY",
            "if (!is_last || warp > 0) return;",
            "if (!is_last || lane > 15) return;",
        ),
    ),
]
