"""Threads, forks, exits, several processes, and what the device costs a process that does not use it."""

import os
import subprocess
import sys

import pytest

from tests.cuda_on_cpu.emulated import PRELUDE, check, run_fresh  # skips this module where the device is not installed

from xpmlp.backends._driver import ask_driver  # isort: skip


def check_fresh(code, **options):
    check(code, run=run_fresh, **options)


LOADED = """
def loaded():
    with open("/proc/self/maps") as maps:
        return sorted({line.split("/")[-1].strip() for line in maps if "/cuda_on_cpu/lib/" in line})

"""


def test_a_process_that_needs_no_device_loads_nothing():
    check_fresh(
        """
    import sys
    assert "cuda_on_cpu" in sys.modules
    assert "ctypes" not in sys.modules
    assert loaded() == []
    """,
        prelude=LOADED,
    )


def test_who_may_ask_the_driver_finds_ours():
    check_fresh(
        """
    import ctypes
    assert loaded() == ["libcuda.so.1"]
    n = ctypes.c_int()
    assert ctypes.CDLL("libcuda.so.1").cuDeviceGetCount(ctypes.byref(n)) == 0
    assert n.value == 2
    """,
        prelude=LOADED,
        CUDA_ON_CPU_DEVICES="2",
    )


def test_the_project_finds_the_device():
    assert ask_driver().problem is None


def test_a_driver_may_see_no_device():
    check_fresh(
        """
    from xpmlp.backends._driver import ask_driver
    assert ask_driver().problem == "NVIDIA's driver sees no CUDA device"
    assert not cupy.is_available()
    assert error_of(runtime.getDeviceCount) == "cudaErrorNoDevice: no CUDA-capable device is detected"
    assert "cudaErrorNoDevice" in error_of(cupy.zeros, 3)
    """,
        CUDA_ON_CPU_DEVICES="0",
    )


def test_it_can_be_switched_off():
    check_fresh(
        """
    import cupy
    assert loaded() == []
    assert not cupy.is_available()
    """,
        prelude=LOADED,
        CUDA_ON_CPU="0",
    )


@pytest.mark.parametrize("mode", ["now", "lazy"])
def test_threads_use_the_device_at_once(mode):
    check(
        """
    import sys, threading
    sys.setswitchinterval(1e-5)
    results = {}
    code = '''extern "C" __global__ void turn(int* x) {
        __shared__ int all[64]; int t = threadIdx.x; all[t] = x[t]; __syncthreads(); x[t] = all[63 - t] + 1; }'''
    kernel = cupy.RawKernel(code, "turn")

    def work(number):
        seen = []
        with Stream(non_blocking=True) as stream:
            x = cupy.full(64, number, "int32")
            for i in range(60):
                kernel((1,), (64,), (x,))
                stream.launch_host_func(seen.append, i)
                if i % 20 == 0:
                    stream.synchronize()
            stream.synchronize()
            results[number] = x.tolist() == [number + 60] * 64 and seen == list(range(60))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert results == dict.fromkeys(range(6), True)
    """,
        mode=mode,
    )


@pytest.mark.parametrize("mode", ["now", "lazy"])
def test_a_host_function_may_wait_for_another_thread_that_uses_the_device(mode):
    check(
        """
    import threading
    asked, answered = threading.Event(), threading.Event()

    def answer():
        asked.wait()
        with Stream(non_blocking=True):
            assert float(cupy.ones(10).sum()) == 10
        answered.set()

    other = threading.Thread(target=answer)
    other.start()
    stream = Stream(non_blocking=True)
    stream.launch_host_func(lambda _: (asked.set(), answered.wait()), None)
    stream.synchronize()
    other.join()
    """,
        mode=mode,
    )


def test_a_thread_waits_for_what_another_one_runs():
    check(
        """
    import threading, time
    started, go, seen = threading.Event(), threading.Event(), []
    stream = Stream(non_blocking=True)
    stream.launch_host_func(lambda _: (started.set(), go.wait(), seen.append("first")), None)
    stream.launch_host_func(seen.append, "second")
    one = threading.Thread(target=stream.synchronize)
    other = threading.Thread(target=lambda: (stream.synchronize(), seen.append("waited")))
    one.start()
    started.wait()
    other.start()
    time.sleep(0.1)  # time to overtake, if it could
    go.set()
    one.join()
    other.join()
    assert seen == ["first", "second", "waited"]
    """,
        mode="lazy",
    )


def test_two_threads_wait_for_each_others_streams():
    check(
        """
    import threading
    streams = [Stream(non_blocking=True) for _ in range(2)]
    steps = []
    for i in range(20):  # each stream's step waits for the other's last one
        one, other = streams[i % 2], streams[1 - i % 2]
        one.wait_event(other.record())
        one.launch_host_func(steps.append, i)
    threads = [threading.Thread(target=stream.synchronize) for stream in streams]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert steps == list(range(20))
    """,
        mode="lazy",
    )


def test_a_child_forked_after_the_device_was_used_cannot_use_it_but_ends():
    check(
        """
    import os, threading, warnings
    warnings.simplefilter("ignore")
    assert float(cupy.ones(1000).sum()) == 1000
    stop = threading.Event()

    def keep_busy():
        with Stream(non_blocking=True):
            while not stop.is_set():
                cupy.ones(1000).sum()

    thread = threading.Thread(target=keep_busy, daemon=True)
    thread.start()
    for _ in range(20):
        child = os.fork()
        if child == 0:
            os._exit(int("cudaErrorInitializationError" not in error_of(runtime.malloc, 10)))
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    thread.join()
    assert int(cupy.ones(3).sum()) == 3
    """
    )


def test_a_child_forked_before_the_device_is_used_has_it():
    check(
        """
    import os
    child = os.fork()
    if child == 0:
        os._exit(int(cupy.ones(3).sum() != 3))
    assert os.waitpid(child, 0)[1] == 0
    """
    )


@pytest.mark.parametrize("end", ["", "sys.exit()", "os._exit(0)"])
def test_a_process_may_end_with_work_queued(end):
    check(
        f"""
    import os, sys
    stream, pinned = Stream(non_blocking=True), cupyx.empty_pinned(100)
    x = cupy.zeros(100)
    x.set(pinned, stream=stream)
    stream.launch_host_func(print, "never")
    event = stream.record()
    x += 1
    {end}
    """,
        mode="lazy",
    )


@pytest.mark.parametrize("work", ["cupy.ones(10).sum()", "stream.launch_host_func(int, 1); stream.synchronize()"])
def test_a_process_may_end_while_a_thread_uses_the_device(work):
    check(
        f"""
    import threading, time

    def keep_busy():
        with Stream(non_blocking=True) as stream:
            while True:
                {work}

    threading.Thread(target=keep_busy, daemon=True).start()
    time.sleep(0.2)
    """
    )


def test_two_processes_may_compile_the_same_kernel_at_once(tmp_path):
    code = 'extern "C" __global__ void f(int* x) { x[0] = 1; }'
    script = PRELUDE + f"x = cupy.empty(1, 'i'); cupy.RawKernel({code!r}, 'f')((1,), (1,), (x,)); assert x.get() == 1"
    variables = {**os.environ, "CUPY_CACHE_DIR": str(tmp_path), "CUDA_ON_CPU_MODE": "now"}
    both = [subprocess.Popen([sys.executable, "-c", script], env=variables) for _ in range(2)]
    assert [one.wait(timeout=100) for one in both] == [0, 0]


@pytest.mark.parametrize("end", ["", "cupy.RawKernel('no C++', 'f').compile()", "import os; os.abort()"])
def test_no_file_is_left_behind(tmp_path, end):
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    temporary.mkdir()
    kernel = "cupy.RawKernel('extern \"C\" __global__ void f(int* x) { x[0] = 1; }', 'f')"
    done = run_fresh(
        f"{kernel}((1,), (1,), (cupy.zeros(1, 'i'),)); {end}", CUPY_CACHE_DIR=str(cache), TMPDIR=str(temporary)
    )
    assert (done.returncode == 0) == (end == "")
    assert list(temporary.iterdir()) == []
    assert list(cache.iterdir())


def test_kernels_are_compiled_again_with_other_flags(tmp_path):
    script = 'cupy.RawKernel(\'extern "C" __global__ void f() {}\', "f").compile()'
    for flags, files in ("-O1", 1), ("-O1", 1), ("-O0", 2):
        check_fresh(script, CUPY_CACHE_DIR=str(tmp_path), CUDA_ON_CPU_FLAGS=flags)
        assert len(list(tmp_path.iterdir())) == files


def test_the_sources_and_logs_of_kernels_can_be_kept(tmp_path):
    script = 'cupy.RawKernel(\'extern "C" __global__ void f() {}\', "f").compile()'
    check_fresh(script, CUPY_CACHE_DIR=str(tmp_path / "cache"), CUDA_ON_CPU_KEEP=str(tmp_path / "kept"))
    source, log = sorted((tmp_path / "kept").iterdir())
    assert "void f() {} EMU_KERNEL(f)" in source.read_text()
    assert "g++" in log.read_text()
