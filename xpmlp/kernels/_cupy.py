"""CuPy's arrays: a kernel for each function of elements, where operators would launch several, and two written by hand.

A kernel is compiled when it is first called, so that this file is imported without a GPU. Scalars are kernel
arguments of theta's dtype: a new value compiles nothing, and a Python float makes no float32 arithmetic double. All
kernels take views at any offset, of which no more is asked than an element's alignment.
"""

import threading
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np

from xpmlp.kernels import Elements
from xpmlp.kernels.trace import INFIX, Program, Symbol


def compile_elements(function: Elements) -> Callable[..., Any]:
    """Return a function of elements as kernels, one for each combination of dtypes, made at the first call with it."""
    versions: dict[tuple[Any, ...], Callable[..., Any]] = {}
    fixed = function.fixed

    def call(*arrays: Any, **keywords: Any) -> Any:
        key = (*(array.dtype.char for array in arrays), *(keywords[name] for name in fixed))
        version = versions.get(key)
        if version is None:
            version = versions[key] = _version(function, [array.dtype for array in arrays], keywords)
        return version(*arrays, **keywords)

    return call


def kernel(function: Elements, dtypes: list[Any], keywords: dict[str, Any]) -> tuple[Any, Program]:
    """Return the kernel of a function of elements for arrays of these dtypes, and the program that it was written from.

    Its inputs are the arrays that are not overwritten and the scalars; its outputs those that are, and new ones.
    """
    program = Program(function, dtypes, keywords)
    inputs = [f"{symbol.dtype} {name}" for name, symbol in program.arrays.items() if name not in program.outputs]
    inputs += [f"{symbol.dtype} s{k}" for k, symbol in enumerate(program.scalars)]
    outputs = [f"{value.dtype} {name}" for name, value in program.outputs.items()]
    code = body(program)
    return cupy.ElementwiseKernel(", ".join(inputs), ", ".join(outputs), code, f"xpmlp_{function.name}"), program


def _version(function: Elements, dtypes: list[Any], keywords: dict[str, Any]) -> Callable[..., Any]:
    made, program = kernel(function, dtypes, keywords)
    given = [name for name in function.arrays if name not in function.overwrites]
    given += [symbol.operands[0] for symbol in program.scalars]
    given += function.overwrites
    lines = [f"def call({function.parameters}):"]
    if function.overwrites:  # then CuPy is given all outputs
        shape = f"{function.overwrites[0]}.shape"
        lines += [f"{name} = empty({shape}, '{value.dtype}')" for name, value in program.new.items()]
        given += program.new
    space: dict[str, Any] = {"kernel": made, "empty": cupy.empty}
    exec("\n    ".join([*lines, f"return kernel({', '.join(given)})"]), space)
    return space["call"]  # type: ignore[no-any-return]


TYPES = {
    "bool": "bool",
    "uint8": "unsigned char",
    "int32": "int",
    "int64": "long long",
    "float32": "float",
    "float64": "double",
}

EXPRESSIONS = {
    **INFIX,
    "maximum": "{0} >= {1} || {0} != {0} ? {0} : {1}",  # in this order a NaN on either side stays one
    "minimum": "{0} <= {1} || {0} != {0} ? {0} : {1}",
    "where": "{0} ? {1} : {2}",
    "abs": "fabs({0})",
    **{name: f"{name}({{0}})" for name in ("exp", "expm1", "isfinite", "log", "log1p", "sqrt", "tanh")},
}


def body(program: Program) -> str:
    """Return the statements that compute a program's outputs, and store them under their names."""
    names = {id(symbol): name for name, symbol in program.arrays.items()}
    names |= {id(symbol): f"s{k}" for k, symbol in enumerate(program.scalars)}
    lines = []

    def code(symbol: Symbol) -> str:
        if symbol.operation != "number":
            return names[id(symbol)]
        (value,) = symbol.operands
        if not np.isfinite(value):
            raise TypeError(f"{value} in a function of elements: expected finite numbers")
        return f"{TYPES[symbol.dtype.name]}({value!r})"

    for k, symbol in enumerate(program.steps):
        kind, names[id(symbol)] = TYPES[symbol.dtype.name], f"t{k}"
        expression = f"({kind}){{0}}" if symbol.operation == "astype" else EXPRESSIONS[symbol.operation]
        lines.append(f"const {kind} t{k} = {expression.format(*map(code, symbol.operands))};")
    lines += [f"{name} = {code(value)};" for name, value in program.outputs.items()]
    return "\n".join(lines)


_OPTIONS = {dtype: (f"-DREAL={TYPES[dtype]}",) for dtype in ("float32", "float64")}

_SAMPLED = r"""
typedef REAL real;

// A thread takes a pixel of X at a time. Places count from the corner of the zeros that lie around an image.
extern "C" __global__ void xpmlp_sampled(
    const PIXEL* __restrict__ images, const real* __restrict__ displacements, real* __restrict__ X,
    int n, int height, int width, real share
) {
    const int pixels = height * width;
    const real bottom = real(height + 1), right = real(width + 1);
    const long long count = (long long)n * pixels, stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
        const long long k = i / pixels;
        const int pixel = (int)(i - k * pixels), row = pixel / width, column = pixel - row * width;
        const PIXEL* image = images + k * pixels;
        const real* displacement = displacements + 2 * k * pixels + pixel;
        real y = displacement[0] + real(row + 1), x = displacement[pixels] + real(column + 1);
        y = y > real(0) ? (y < bottom ? y : bottom) : real(0);
        x = x > real(0) ? (x < right ? x : right) : real(0);
        int top = (int)y, left = (int)x;
        top = top < height ? top : height, left = left < width ? left : width;
        y -= real(top), x -= real(left);
        const bool above = top > 0, below = top < height, before = left > 0, behind = left < width;
        const PIXEL* at = image + (top - 1) * width + left - 1;
        const real a = above && before ? real(at[0]) : real(0), b = above && behind ? real(at[1]) : real(0);
        const real c = below && before ? real(at[width]) : real(0), d = below && behind ? real(at[width + 1]) : real(0);
        const real upper = a + x * (b - a), lower = c + x * (d - c);
        X[i] = (upper + y * (lower - upper)) * share;
    }
}
"""

_sampled, _sampled_floats = (
    {
        dtype: cupy.RawKernel(_SAMPLED, "xpmlp_sampled", (*options, f"-DPIXEL={pixel or TYPES[dtype]}"))
        for dtype, options in _OPTIONS.items()
    }
    for pixel in ("unsigned char", "")
)

_CROSS_ENTROPY = r"""
typedef REAL real;

// Whether logit a of class i comes before b of class j: the greater does, of equals the first, and a NaN before all.
__device__ bool leads(real a, int i, real b, int j) {
    const bool a_is_nan = a != a, b_is_nan = b != b;
    if (a_is_nan != b_is_nan) return a_is_nan;
    return a == b || a_is_nan ? i < j : a > b;
}

// A warp takes a row at a time. A block leaves the sums of its rows in losses and corrects; the last block to do so,
// as the counter says, adds those up, always in the same order.
extern "C" __global__ void xpmlp_cross_entropy(
    const real* __restrict__ S, const int* __restrict__ labels, real* __restrict__ delta, real* loss, int* correct,
    volatile real* losses, volatile int* corrects, unsigned int* counter, int n, int c, real share
) {
    __shared__ real warp_losses[32];
    __shared__ int warp_corrects[32];
    __shared__ bool is_last;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_warps = blockDim.x / 32;
    const unsigned int all = 0xffffffffu;

    real loss_here = 0;
    int correct_here = 0;
    for (long long row = (long long)blockIdx.x * n_warps + warp; row < n; row += (long long)gridDim.x * n_warps) {
        const real* s = S + row * c;
        real* d = delta + row * c;
        real most = s[0];
        int best = 0;
        for (int j = lane; j < c; j += 32)
            if (leads(s[j], j, most, best)) most = s[j], best = j;
        for (int step = 16; step > 0; step /= 2) {
            const real other = __shfl_xor_sync(all, most, step);
            const int at = __shfl_xor_sync(all, best, step);
            if (leads(other, at, most, best)) most = other, best = at;
        }
        real total = 0;
        for (int j = lane; j < c; j += 32) {
            const real e = exp(s[j] - most);
            d[j] = e;
            total += e;
        }
        for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(all, total, step);
        const int label = labels[row];
        for (int j = lane; j < c; j += 32) d[j] = (d[j] / total - (j == label ? real(1) : real(0))) * share;
        if (0 <= label && label < c) {
            loss_here += log(total) - (s[label] - most);
            correct_here += best == label;
        }
    }

    if (lane == 0) warp_losses[warp] = loss_here, warp_corrects[warp] = correct_here;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < n_warps; ++w) loss_here += warp_losses[w], correct_here += warp_corrects[w];
        losses[blockIdx.x] = loss_here;
        corrects[blockIdx.x] = correct_here;
        __threadfence();
        is_last = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;  // which sets it to 0 for the next launch
    }
    __syncthreads();
    if (!is_last || warp > 0) return;

    __threadfence();
    loss_here = 0;
    correct_here = 0;
    for (int b = lane; b < gridDim.x; b += 32) loss_here += losses[b], correct_here += corrects[b];
    for (int step = 16; step > 0; step /= 2) {
        loss_here += __shfl_xor_sync(all, loss_here, step);
        correct_here += __shfl_xor_sync(all, correct_here, step);
    }
    if (lane == 0) *loss = loss_here * share, *correct = correct_here;
}
"""

_cross_entropy = {
    dtype: cupy.RawKernel(_CROSS_ENTROPY, "xpmlp_cross_entropy", options) for dtype, options in _OPTIONS.items()
}

_THREADS = 256
"""Of a block. Of the softmax's, a warp, which takes a row, has 32."""

_MOST_BLOCKS = 512
"""So many of the softmax, then each takes more rows. A constant: the GPU's size would change the order of sums."""


def new_gradient(theta: Any) -> Any:
    return cupy.empty_like(theta)


def sampled(images: Any, displacements: Any, max_value: int) -> Any:
    """Return images as X, each pixel taken from another place of its image, in one launch."""
    images, displacements = cupy.ascontiguousarray(images), cupy.ascontiguousarray(displacements)
    n, _, height, width = displacements.shape
    X = cupy.empty(images.shape, displacements.dtype)
    numbers = np.int32(n), np.int32(height), np.int32(width), X.dtype.type(1 / max_value)
    n_blocks = max(1, min(-(-X.size // _THREADS), 2**20))  # of none too: CUDA refuses a launch of no blocks
    kernels = _sampled if images.dtype == np.uint8 else _sampled_floats
    kernels[X.dtype.name]((n_blocks,), (_THREADS,), (images, displacements, X, *numbers))
    return X


def product(A: Any, B: Any, out: Any) -> Any:
    return A @ B if out is None else cupy.matmul(A, B, out=out)  # cuBLAS transposes without a copy


def column_sums(delta: Any, out: Any) -> Any:
    return delta.sum(axis=-2, keepdims=True, out=out)


def cross_entropy(S: Any, labels: Any) -> tuple[Any, Any, Any]:
    """Return delta, the mean loss and the number correct, in one launch, the same bits each time."""
    S, labels = cupy.ascontiguousarray(S), cupy.ascontiguousarray(labels)
    if S.ndim > 2:
        parts = [cross_entropy(*rows) for rows in zip(S, labels, strict=True)]
        delta, loss, correct = (cupy.stack(arrays) for arrays in zip(*parts, strict=True))
        return delta, loss, correct
    n, c = S.shape
    real = S.dtype.type
    outputs = cupy.empty_like(S), cupy.empty((), real), cupy.empty((), np.int32)
    n_blocks = min(-(-n * 32 // _THREADS), _MOST_BLOCKS)
    # Of a Python number a raw kernel would make 8 bytes.
    numbers = np.int32(n), np.int32(c), real(1 / n)
    arguments = S, labels, *outputs, *_workspace(S.dtype.name), *numbers
    _cross_entropy[S.dtype.name]((n_blocks,), (_THREADS,), arguments)
    return outputs


class _Workspaces(threading.local):
    """Each thread's workspaces, by device, stream and dtype: launches that may overlap must not share one."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, int, str], tuple[Any, Any, Any]] = {}


_workspaces = _Workspaces()


def _workspace(dtype: str) -> tuple[Any, Any, Any]:
    """Return room for each block's losses and numbers correct, and a counter, which is 0 between launches."""
    key = cupy.cuda.runtime.getDevice(), cupy.cuda.get_current_stream().ptr, dtype
    if key not in _workspaces.found:
        sums = cupy.empty(_MOST_BLOCKS, dtype), cupy.empty(_MOST_BLOCKS, np.int32)
        _workspaces.found[key] = *sums, cupy.zeros(1, np.uint32)
    return _workspaces.found[key]
