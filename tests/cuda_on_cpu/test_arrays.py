"""What a user's script calls of CuPy, against NumPy."""

import numpy as np
import pytest

from tests.cuda_on_cpu.emulated import check, run  # skips this module where the device is not installed

import cupy  # isort: skip
import cupyx  # isort: skip

h = np.random.default_rng(0).standard_normal((37, 53)).astype("float32")


@pytest.fixture(scope="module")
def x():
    return cupy.asarray(h)


def same(got, expected, tolerance=1e-5):
    got, expected = cupy.asnumpy(got), np.asarray(expected)
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, tolerance, tolerance)


CALLS = {
    "add": lambda xp, x: x + 1,
    "in place": lambda xp, x: xp.copy(x).__imul__(2),
    "exp": lambda xp, x: xp.exp(x),
    "complex exp": lambda xp, x: xp.exp(x * 1j),
    "where": lambda xp, x: xp.where(x > 0, x, -x),
    "remainder": lambda xp, x: (x * 100).astype("int32") % 7,
    "floor_divide": lambda xp, x: x // 0.3,
    "shift": lambda xp, x: (x * 100).astype("int64") << 2,
    "isfinite": lambda xp, x: xp.isfinite(xp.where(x > 0, x, xp.inf)),
    "sum": lambda xp, x: x.sum(),
    "sum along rows": lambda xp, x: x.sum(axis=0, keepdims=True),
    "sum of bytes": lambda xp, x: xp.abs(x * 50).astype("uint8").sum(axis=1),
    "mean": lambda xp, x: x.mean(axis=1),
    "var": lambda xp, x: x.var(),
    "max": lambda xp, x: x.max(axis=1),
    "argmax": lambda xp, x: x.argmax(axis=1),
    "argmin": lambda xp, x: x.argmin(),
    "all": lambda xp, x: (x == x.T.T).all(),
    "count_nonzero": lambda xp, x: xp.count_nonzero(x > 0, axis=0),
    "cumsum": lambda xp, x: xp.cumsum(x[0]),
    "norm": lambda xp, x: xp.linalg.norm(x),
    "slice": lambda xp, x: x[3:20:2, ::-1],
    "take": lambda xp, x: xp.take(x, xp.asarray([3, 1, 2]), axis=0),
    "integer index": lambda xp, x: x[xp.asarray([3, 1, -2])],
    "mask": lambda xp, x: x[x > 0.5],
    "nonzero": lambda xp, x: xp.nonzero(x > 2)[1],
    "take_along_axis": lambda xp, x: xp.take_along_axis(x, xp.argsort(x, axis=1), axis=1),
    "concatenate": lambda xp, x: xp.concatenate([x, x * 2], axis=1),
    "stack": lambda xp, x: xp.stack([x] * 10),
    "sort": lambda xp, x: xp.sort(x, axis=0),
    "argsort": lambda xp, x: xp.argsort(x[0]),
    "lexsort": lambda xp, x: xp.lexsort(xp.stack([x[0], xp.floor(x[1])])),
    "unique": lambda xp, x: xp.unique((x * 3).astype("int32")),
    "product": lambda xp, x: x @ x.T,
    "product of doubles": lambda xp, x: x.astype("float64").T @ x.astype("float64"),
    "product of complex numbers": lambda xp, x: (x * 1j) @ (x.T + 2j),
    "product with a vector": lambda xp, x: x @ x[0],
    "vector with a product": lambda xp, x: x[:, 0] @ x,
    "inner product": lambda xp, x: xp.dot(x[0], x[1]),
    "outer product": lambda xp, x: xp.outer(x[0], x[:, 0]),
    "batch of products": lambda xp, x: xp.matmul(xp.stack([x, x * 2]), xp.stack([x.T, x.T])),
    "product of slices": lambda xp, x: x[:, 3:9] @ x[:6],
    "product of integers": lambda xp, x: (x * 9).astype("int32") @ (x.T * 9).astype("int32"),
    "product into a view": lambda xp, x: xp.matmul(x.T, x, out=xp.empty((60, 53), "float32")[:53]),
    "tensordot": lambda xp, x: xp.tensordot(x, x, axes=([0], [0])),
    "einsum": lambda xp, x: xp.einsum("ij,kj->ik", x, x),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_gives_what_numpy_gives(x, name):
    same(CALLS[name](cupy, x), CALLS[name](np, h), 2e-4)


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int16", "uint32", "int64", "float16", "float64", "complex64"]
)
def test_a_dtype_survives_arithmetic_and_the_way_back(dtype):
    values = np.arange(12).reshape(3, 4).astype(dtype)
    x = cupy.asarray(values)
    same(x, values)
    same(x + x, values + values)
    same(x.sum(axis=0), values.sum(axis=0))
    same(x.astype("complex128"), values.astype("complex128"))


def test_no_elements_are_fine():
    x = cupy.zeros((0, 5), "float32")
    same(x @ cupy.ones((5, 3), "float32"), np.zeros((0, 3), "float32"))
    same(x.T @ cupy.ones((0, 3), "float32"), np.zeros((5, 3), "float32"))
    assert float(x.sum()) == 0


def test_add_at_adds_repeated_places():
    x = cupy.zeros(3, "float32")
    cupy.add.at(x, cupy.asarray([0, 0, 2]), 1.0)
    assert x.tolist() == [2, 0, 1]


def test_elementwise_kernel(x):
    kernel = cupy.ElementwiseKernel("T a, T b", "T c", "c = a > b ? a - b : T(0)", "positive_difference")
    same(kernel(x, x[::-1]), np.maximum(h - h[::-1], 0))


def test_reduction_kernel(x):
    kernel = cupy.ReductionKernel("T a", "T b", "a * a", "a + b", "b = sqrt(a)", "0", "length")
    same(kernel(x, axis=1), np.sqrt((h * h).sum(1)), 1e-4)


def test_fuse(x):
    @cupy.fuse()
    def larger(a, b):
        return cupy.maximum(a * b, a + b)

    same(larger(x, x), np.maximum(h * h, h + h))


def test_raw_kernel_with_shared_memory_barriers_and_atomics(x):
    kernel = cupy.RawKernel(
        r"""
        extern "C" __global__ void __launch_bounds__(256) block_sums(const float* x, float* y, int n) {
            extern __shared__ float part[];
            int i = blockIdx.x * blockDim.x + threadIdx.x;  // a comment with a { brace
            part[threadIdx.x] = i < n ? x[i] : 0;
            __syncthreads();
            for (int half = blockDim.x / 2; half > 0; half /= 2) {
                if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
                __syncthreads();
            }
            if (threadIdx.x == 0) atomicAdd(y, part[0]);
        }""",
        "block_sums",
    )
    total = cupy.zeros((), "float32")
    kernel((8,), (256,), (x, total, np.int32(x.size)), shared_mem=1024)
    same(total, h.sum(), 1e-4)


def test_raw_kernel_with_warp_shuffles(x):
    kernel = cupy.RawKernel(
        r"""
        __device__ float warp_sum(float v) {
            for (int bits = 16; bits > 0; bits /= 2) v += __shfl_xor_sync(0xffffffffu, v, bits);
            return v;
        }
        extern "C" __global__ void row_sums(const float* x, float* y, int columns) {
            float v = 0;
            for (int i = threadIdx.x; i < columns; i += 32) v += x[blockIdx.x * columns + i];
            v = warp_sum(v);
            if (threadIdx.x == 0) y[blockIdx.x] = v;
        }""",
        "row_sums",
    )
    sums = cupy.empty(37, "float32")
    kernel((37,), (32,), (x, sums, np.int32(53)))
    same(sums, h.sum(axis=1), 1e-4)


def test_raw_module_with_templates_and_variables(x):
    module = cupy.RawModule(
        code=r"""
        __constant__ float factor;
        template <class T> __global__ void scale(T* x, int n) {
            int i = blockIdx.x * blockDim.x + threadIdx.x;
            if (i < n) x[i] *= T(factor);
        }""",
        name_expressions=("scale<float>", "scale<double>"),
    )
    factor = cupy.ndarray((1,), "float32", memptr=module.get_global("factor"))
    factor[...] = 3
    for dtype in "float32", "float64":
        y = x.astype(dtype)
        name = "scale<float>" if dtype == "float32" else "scale<double>"
        module.get_function(name)((10,), (256,), (y, np.int32(y.size)))
        same(y, h.astype(dtype) * 3)


def test_a_kernel_that_does_not_compile_says_where():
    kernel = cupy.RawKernel('extern "C" __global__ void broken(int* p) {\n    p[0] = undefined_name;\n}', "broken")
    with pytest.raises(cupy.cuda.compiler.CompileException, match=r":2:.*undefined_name"):
        kernel.compile()


def test_pinned_memory_streams_and_events(x):
    pinned = cupyx.empty_pinned(h.shape, "float32")
    pinned[...] = h
    copy = cupy.cuda.Stream(non_blocking=True)
    copied = cupy.cuda.Event(block=True, disable_timing=True)
    y = cupy.empty(h.shape, "float32")
    y.set(pinned, stream=copy)
    copied.record(copy)
    cupy.cuda.get_current_stream().wait_event(copied)
    same(y * 2, 2 * h)
    back = cupyx.empty_pinned(h.shape, "float32")
    y.get(stream=copy, out=back, blocking=False)
    copy.synchronize()
    same(back, h)


def test_events_measure_time():
    first, last = cupy.cuda.Event(), cupy.cuda.Event()
    first.record()
    cupy.ones(1000).sum()
    last.record()
    last.synchronize()
    assert cupy.cuda.get_elapsed_time(first, last) > 0


def test_pools_give_their_memory_back():
    check(
        """
        x = cupy.ones(1 << 20)
        free = runtime.memGetInfo()[0]
        del x
        cupy.get_default_memory_pool().free_all_blocks()
        assert runtime.memGetInfo()[0] >= free + (8 << 20)
        """
    )


def test_the_order_of_threads_changes_no_result():
    script = """
        x = cupy.asarray(np.random.default_rng(0).integers(0, 256, (300, 70)).astype("float32"))
        for y in (x @ x.T, x.sum(axis=0), cupy.sort(x, axis=1), cupy.cumsum(x), x[x > 99], x.argmax(axis=1)):
            print(y.tolist())
        """
    results = [run(script, order=order) for order in ("as-is", "reverse", "shuffle")]
    assert [done.stderr for done in results] == ["", "", ""]
    assert results[0].stdout == results[1].stdout == results[2].stdout != ""
