"""Memory that is checked: what a program reads and writes beside its arrays, after their end, or from the host."""

import signal

import pytest

from tests.cuda_on_cpu.emulated import check, run, run_fresh  # skips this module where the device is not installed

EACH = {"CUDA_ON_CPU_ALLOCATOR": "each"}

TOUCH = """
    code = 'extern "C" __global__ void touch(float* x, int i, int write) {'
    code += ' i += threadIdx.x; if (write) x[i] = 1; else if (x[i] == 12345) __trap(); }'
    kernel = cupy.RawKernel(code, "touch")

    def touch(x, i, write=0, threads=1):
        kernel((1,), (threads,), (x, np.int32(i), np.int32(write)))
        runtime.deviceSynchronize()

    """


@pytest.mark.parametrize("mode", ["now", "lazy"])
@pytest.mark.parametrize("side", ["end", "start"])
@pytest.mark.parametrize(("i", "write", "fault"), [
    (100, 0, "reads at offset 400 of an array of 400 bytes (block 0,0,0, thread 0,0,0)"),
    (100, 1, "writes at offset 400 of an array of 400 bytes (block 0,0,0, thread 0,0,0)"),
    (5000, 0, "reads at offset 20000 of an array of 400 bytes (block 0,0,0, thread 0,0,0)"),
    (-1, 0, "reads at offset -4 of an array of 400 bytes (block 0,0,0, thread 0,0,0)"),
    (-3000, 1, "writes at offset -12000 of an array of 400 bytes (block 0,0,0, thread 0,0,0)"),
])  # fmt: skip
def test_a_kernel_that_leaves_its_array_fails_and_is_named(i, write, fault, side, mode):
    done = run(
        TOUCH + f"x = cupy.zeros(100, 'float32'); touch(x, 0, 1, 100); print(error_of(touch, x, {i}, {write}))",
        mode,
        CUDA_ON_CPU_CHECKED=side,
        **EACH,
    )
    assert done.returncode == 0
    assert "an illegal memory access" in done.stdout or "CUDA_ERROR_ILLEGAL_ADDRESS" in done.stdout
    assert done.stderr.splitlines()[0] == f"cuda-on-cpu: kernel touch {fault}"


def test_the_thread_that_leaves_its_array_is_named():
    script = TOUCH + "print(error_of(touch, cupy.zeros(100, 'float32'), 90, 0, 32))"
    done = run(script, CUDA_ON_CPU_CHECKED="end", **EACH)
    assert "(block 0,0,0, thread 10,0,0)" in done.stderr


@pytest.mark.parametrize(("side", "first", "n"), [("start", 98, 2 * 4), ("end", -2, 2 * 4)])
def test_what_a_kernel_writes_beside_an_array_on_its_own_pages_is_found_when_it_ends(side, first, n):
    """Threads of the array itself come first, and open its pages; what is beside it is compared afterwards."""
    script = """
    code = 'extern "C" __global__ void beside(int* x, int first) {'
    code += ' x[1] = 0; for (int i = 0; i < 4; ++i) x[first + i] = 7; }'
    kernel = cupy.RawKernel(code, "beside")
    x = cupy.zeros(100, "int32")
    print(error_of(kernel, (1,), (1,), (x, np.int32(FIRST))))
    """
    done = run(script.replace("FIRST", str(first)), CUDA_ON_CPU_CHECKED=side, **EACH)
    assert done.stdout.startswith("CUDA_ERROR_ILLEGAL_ADDRESS")
    assert done.stderr.splitlines()[0] == f"cuda-on-cpu: kernel beside wrote {n} bytes beside an array of 400"


@pytest.mark.parametrize("access", ["host_view(x)[0]", "host_view(x).__setitem__(0, 1)"])
def test_a_host_that_touches_a_devices_memory_is_ended(access):
    script = f"x = cupy.arange(3.0) + 1; assert float(x.sum()) == 6; {access}; print('not reached')"
    done = run(script, CUDA_ON_CPU_CHECKED="end")
    assert done.returncode == -signal.SIGSEGV
    assert "not reached" not in done.stdout
    verb = "writes" if "set" in access else "reads"
    assert f"cuda-on-cpu: the host {verb} a device's memory, at offset " in done.stderr


def test_faulthandler_still_shows_where_the_host_was():
    script = """
    import faulthandler
    x = cupy.arange(3.0)
    faulthandler.enable()
    x += 1
    host_view(x)[0]
    """
    done = run(script, CUDA_ON_CPU_CHECKED="end")
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr


def test_freed_memory_is_no_argument_of_a_kernel():
    script = TOUCH + "x = cupy.zeros(100, 'float32'); p = np.intp(x.data.ptr); del x; print(error_of(touch, p, 0))"
    done = run(script, CUDA_ON_CPU_CHECKED="end", **EACH)
    assert done.stdout.startswith("CUDA_ERROR_ILLEGAL_ADDRESS")
    assert done.stderr.splitlines()[0] == "cuda-on-cpu: kernel touch: argument 0 points into memory that was freed"


def test_freed_memory_that_a_kernel_finds_by_itself_is_named():
    script = """
    x = cupy.zeros(100, "float32")
    pointers = cupy.asarray([x.data.ptr])
    del x
    code = 'extern "C" __global__ void follow(float** at) { at[0][3] = 1; }'
    print(error_of(cupy.RawKernel(code, "follow"), (1,), (1,), (pointers,)))
    """
    done = run(script, CUDA_ON_CPU_CHECKED="end", **EACH)
    fault = "kernel follow writes at offset 12 of an array of 400 bytes that was freed"
    assert done.stderr.startswith(f"cuda-on-cpu: {fault}")


def test_the_error_is_sticky_and_the_process_lives():
    script = TOUCH + "x = cupy.zeros(100); error_of(touch, x, 5000); print(error_of(runtime.malloc, 10))"
    done = run(script, "lazy", CUDA_ON_CPU_CHECKED="end", **EACH)
    assert (done.returncode, done.stdout) == (
        0,
        "cudaErrorIllegalAddress: an illegal memory access was encountered\n",
    )


@pytest.mark.parametrize("allocator", ["pool", "each", "stream"])
@pytest.mark.parametrize("side", ["end", "start"])
def test_nothing_is_said_of_a_program_without_faults(side, allocator):
    check(
        """
    rng = np.random.default_rng(0)
    for n in 0, 1, 3, 1000, 5000:
        a, b = rng.random((n, 7)), rng.random((7, 5)).astype("float32")
        x, y = cupy.asarray(a), cupy.asarray(b)
        assert np.allclose((x @ y).get(), a @ b)
        assert np.allclose(cupy.sort(x, axis=0).get(), np.sort(a, axis=0))
        assert (cupy.argsort(x, axis=0).get() == np.argsort(a, axis=0, kind="stable")).all()
        assert np.allclose(x[::-2].sum(axis=0).get(), a[::-2].sum(axis=0))
        z = x.astype("uint8"); z[:] = 3
        assert (z.get() == 3).all()
    stream = Stream(non_blocking=True)
    with stream:
        host = cupyx.empty_pinned(1000, "float32"); host[:] = 2
        x = cupy.empty(1000, "float32"); x.set(host)
        x *= 2
    stream.synchronize()
    assert (x.get() == 4).all()
    """,
        mode="lazy",
        CUDA_ON_CPU_CHECKED=side,
        CUDA_ON_CPU_ALLOCATOR=allocator,
    )


REUSE = """
    x, copied, other = cupy.ones(1000), cupy.empty(1000), Stream(non_blocking=True)
    Stream.null.synchronize()
    where = x.data.ptr
    with other:
        copied[:] = x
    WAIT
    del x
    y = cupy.zeros(1000)
    other.synchronize()
    print(y.data.ptr == where, float(copied[0]), float(y[0]))
    """


@pytest.mark.parametrize("allocator", ["stream", "pool"])
def test_an_array_that_another_stream_still_reads_is_overwritten_by_the_next(allocator):
    def after(wait):
        # Nothing waits for the other stream: that of the default stream, then what is late on the other one.
        script = REUSE.replace("WAIT", wait).replace(
            "other.synchronize", "Stream.null.synchronize(); other.synchronize"
        )
        return run(script, "lazy", CUDA_ON_CPU_ALLOCATOR=allocator).stdout

    assert after("") == "True 0.0 0.0\n"
    assert after("Stream.null.wait_event(other.record())") == "True 1.0 0.0\n"


def test_a_block_goes_round_in_its_stream_alone_and_full_of_nan():
    check(
        """
    other = Stream(non_blocking=True)
    x = cupy.ones(1000)
    where = x.data.ptr
    del x
    with other:
        assert cupy.empty(1000).data.ptr != where
    assert cupy.empty(999).data.ptr != where
    y = cupy.empty(1000)
    assert y.data.ptr == where and cupy.isnan(y).all()
    """,
        CUDA_ON_CPU_ALLOCATOR="stream",
    )


def test_memory_that_is_idle_is_given_to_an_array_of_another_size():
    check(
        """
    x = cupy.empty(600_000, "uint8"); del x
    y = cupy.empty(700_000, "uint8")
    try:
        cupy.empty(600_000, "uint8")
    except cupy.cuda.memory.OutOfMemoryError:
        del y
    cupy.empty(900_000, "uint8")
    """,
        CUDA_ON_CPU_ALLOCATOR="stream",
        CUDA_ON_CPU_MEMORY="1000000",
    )


def test_an_unknown_allocator_is_refused():
    done = run_fresh("", CUDA_ON_CPU_ALLOCATOR="poll")
    assert done.stderr.splitlines()[-1] == "ValueError: CUDA_ON_CPU_ALLOCATOR=poll: expected each, stream or pool"
