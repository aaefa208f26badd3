"""Faults of a program that the device finds."""

import pytest

from tests.cuda_on_cpu.emulated import check, run  # skips this module where the device is not installed

LAUNCH = """
    def launch(body, block=64, parameters="int* out", arguments=None, **more):
        code = 'extern "C" __global__ void faulty(' + parameters + ') { int t = threadIdx.x; ' + body + ' }'
        out = cupy.zeros(block, "int32")
        cupy.RawKernel(code, "faulty")((1,), (block,), (out,) if arguments is None else arguments, **more)
        return out.get()

    """

FAULTS = {
    "wait for one another for ever": "if (t < 16) __syncthreads(); else __syncwarp();",
    "different kinds of __syncthreads": "if (t < 32) __syncthreads(); else __syncthreads_or(1);",
    "mask does not name the calling lane": "out[t] = __shfl_sync(0xffffu, t, 0);",
    "reads from lane 20, which is not in its mask": "if (t < 16) out[t] = __shfl_sync(0xffffu, t, 20);",
    "names lane 31, which has ended": "if (t % 32 == 31) return; out[t] = __shfl_sync(0xffffffffu, t, 0);",
    "__trap()": "if (t == 3) __trap();",
}


@pytest.mark.parametrize("order", ["as-is", "reverse", "shuffle"])
@pytest.mark.parametrize("message", FAULTS)
def test_a_faulty_kernel_fails_and_names_itself_and_the_thread(message, order):
    done = run(LAUNCH + f"print(error_of(launch, {FAULTS[message]!r}))", order=order)
    assert done.returncode == 0
    assert done.stdout == "CUDA_ERROR_LAUNCH_FAILED: CUDA_ERROR_LAUNCH_FAILED\n"
    assert done.stderr.startswith("cuda-on-cpu: kernel faulty: ")
    assert message in done.stderr
    assert "(block 0,0,0, thread " in done.stderr


@pytest.mark.parametrize("order", ["as-is", "shuffle"])
def test_a_missing_barrier_gives_a_wrong_result(order):
    check(
        LAUNCH
        + """
    body = "__shared__ int all[64]; all[t] = t; BARRIER out[t] = all[63 - t];"
    right = list(range(63, -1, -1))
    assert launch(body.replace("BARRIER", "__syncthreads();")).tolist() == right
    assert launch(body.replace("BARRIER", "")).tolist() != right
    """,
        order=order,
    )


def test_dynamic_shared_memory_starts_as_nan():
    check(LAUNCH + 'assert launch("extern __shared__ float s[]; out[t] = isnan(s[t]);", shared_mem=256).all()')


def test_a_launch_failure_is_sticky():
    done = run(
        LAUNCH
        + """
    error_of(launch, "__trap();")
    for call, *arguments in (runtime.deviceSynchronize,), (runtime.malloc, 10), (runtime.streamCreate,):
        print(error_of(call, *arguments))
    """
    )
    assert done.returncode == 0
    assert done.stdout == 3 * "cudaErrorLaunchFailure: unspecified launch failure\n"


def test_a_late_failure_is_told_to_who_waits():
    done = run(
        """
    kernel = cupy.RawKernel('extern "C" __global__ void late() { __trap(); }', "late")
    kernel((1,), (1,), ())
    print("queued", flush=True)
    print(error_of(Stream.null.synchronize))
    """,
        mode="lazy",
    )
    assert done.stdout == "queued\ncudaErrorLaunchFailure: unspecified launch failure\n"


def test_a_process_ends_quietly_after_a_failure():
    done = run(LAUNCH + "kept = cupy.ones(1 << 20); stream = Stream(); launch('__trap();')")
    assert done.returncode == 1
    assert "Exception ignored" not in done.stderr
    assert done.stderr.rstrip().endswith("CUDADriverError: CUDA_ERROR_LAUNCH_FAILED: CUDA_ERROR_LAUNCH_FAILED")


def test_a_host_pointer_is_no_argument_of_a_kernel():
    done = run(
        LAUNCH
        + """
    array = np.zeros(64, "int32")
    print(error_of(launch, "out[t] = 1;", 64, "int* out", (ctypes.c_void_p(array.ctypes.data),)))
    pointer = np.intp(array.ctypes.data)
    print(error_of(launch, "out[t] = 1;", 64, "int* out", (pointer,)))
    launch("out[t] = 1;", 64, "int* out", (cupyx.empty_pinned(64, "int32").ctypes.data,))
    """
    )
    assert done.returncode == 0
    assert "argument 0 points neither into the device's memory nor into pinned memory" in done.stderr
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in done.stdout.splitlines()[-1]


def test_a_host_pointer_is_no_operand_of_cublas():
    done = run(
        """
    from cupy_backends.cuda.libs import cublas
    host, x, alpha = np.zeros(3, "float32"), cupy.ones(3, "float32"), np.ones(1, "float32")
    handle = cupy.cuda.device.get_cublas_handle()
    print(error_of(cublas.saxpy, handle, 3, alpha.ctypes.data, x.data.ptr, 1, host.ctypes.data, 1))
    """
    )
    assert (done.returncode, done.stdout) == (0, "CUBLAS_STATUS_EXECUTION_FAILED\n")
    assert done.stderr == "cuda-on-cpu: cuBLAS: an operand is not in this device's memory or pinned memory\n"


def test_another_devices_pointer_is_no_argument_of_a_kernel():
    done = run(
        LAUNCH
        + """
    with Device(1):
        elsewhere = cupy.zeros(64, "int32")
    print(error_of(launch, "out[t] = 1;", 64, "int* out", (elsewhere,)))
    with Device(1):
        launch("out[t] = 1;", 64, "int* out", (elsewhere,))
    """,
        CUDA_ON_CPU_DEVICES="2",
    )
    assert done.returncode == 0
    assert "argument 0 points into another device's memory" in done.stderr
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in done.stdout


def test_too_many_threads_or_too_much_shared_memory_is_refused():
    check(
        LAUNCH
        + """
    assert "CUDA_ERROR_INVALID_VALUE" in error_of(launch, "", 1025)
    try:
        launch("", 64, shared_mem=49153)
    except cupy.cuda.driver.CUDADriverError as error:
        assert "CUDA_ERROR_INVALID_VALUE" in str(error)
    else:
        raise AssertionError("49153 bytes of shared memory were granted")
    """
    )


def test_a_copy_must_stay_within_its_block_and_go_where_it_says():
    check(
        """
    device, other = runtime.malloc(100), runtime.malloc(1000)
    pinned, host = runtime.hostAlloc(100, 0), np.zeros(1000, "uint8")
    invalid = "cudaErrorInvalidValue: invalid argument"
    to_device, to_host, within = runtime.memcpyHostToDevice, runtime.memcpyDeviceToHost, runtime.memcpyDeviceToDevice
    runtime.memcpy(device, host.ctypes.data, 100, to_device)
    assert error_of(runtime.memcpy, device, host.ctypes.data, 101, to_device) == invalid
    assert error_of(runtime.memcpy, host.ctypes.data, device + 1, 100, to_host) == invalid
    assert error_of(runtime.memcpy, other, device, 101, within) == invalid
    assert error_of(runtime.memcpyAsync, pinned, other, 101, to_host, 0) == invalid
    assert error_of(runtime.memcpy, device, host.ctypes.data, 10, to_host) == invalid
    assert error_of(runtime.memcpy, host.ctypes.data, device, 10, to_device) == invalid
    assert error_of(runtime.memset, device, 0, 101) == invalid
    assert "InvalidMemcpyDirection" in error_of(runtime.memcpy, device, other, 10, 7)
    """
    )


def test_fresh_memory_is_never_zero_by_chance():
    check(
        """
    assert cupy.isnan(cupy.empty(1000, "float32")).all()
    assert cupy.isnan(cupy.empty(1000, "float64")).all()
    assert (cupy.empty(1000, "int32") != 0).all()
    assert (cupyx.empty_pinned(1000, "int32") != 0).all()
    """
    )


def test_freed_memory_is_overwritten():
    check(
        """
    p = runtime.malloc(1000)
    runtime.memset(p, 7, 1000)
    old = np.frombuffer((ctypes.c_char * 1000).from_address(p), "uint8")
    assert (old == 7).all()
    runtime.free(p)
    assert (old[100:] == 0xFE).all()  # the heap keeps its own notes in the first bytes
    assert "InvalidValue" in error_of(runtime.free, p)
    """
    )


def test_out_of_memory_leaves_the_device_usable():
    check(
        """
    assert runtime.memGetInfo() == (1 << 20, 1 << 20)
    kept = cupy.zeros(1 << 19, "uint8")
    assert "Out of memory" in error_of(cupy.zeros, 1 << 20, "uint8")
    assert error_of(runtime.malloc, 1 << 62) == "cudaErrorMemoryAllocation: out of memory"
    assert int(kept.sum()) == 0
    """,
        CUDA_ON_CPU_MEMORY="1048576",
    )


def test_a_host_function_may_not_call_the_device():
    check(
        """
    seen = []
    stream = Stream(non_blocking=True)
    stream.launch_host_func(lambda _: seen.append(error_of(runtime.malloc, 10)), None)
    stream.synchronize()
    assert seen == ["cudaErrorNotPermitted: operation not permitted"]
    runtime.free(runtime.malloc(10))
    """
    )


def test_handles_that_are_gone_are_refused():
    check(
        """
    stream, event = runtime.streamCreate(), runtime.eventCreate()
    runtime.streamDestroy(stream)
    runtime.eventDestroy(event)
    for call in (runtime.streamSynchronize, runtime.streamDestroy):
        assert "InvalidResourceHandle" in error_of(call, stream)
    for call in (runtime.eventSynchronize, runtime.eventDestroy):
        assert "InvalidResourceHandle" in error_of(call, event)
    assert "InvalidResourceHandle" in error_of(runtime.eventRecord, event, 0)
    """
    )
