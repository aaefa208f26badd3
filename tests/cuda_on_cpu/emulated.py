"""What the tests of the emulated device share. To import it skips the module where there is no such device."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

pytest.importorskip(
    "cuda_on_cpu", reason="the emulated device is not installed here: python tests/cuda_on_cpu/build.py"
)
if os.environ.get("CUDA_ON_CPU") == "0":
    pytest.skip("CUDA_ON_CPU=0 switches the emulated device off", allow_module_level=True)

PRELUDE = """
import ctypes
import numpy as np
import cupy, cupyx
from cupy.cuda import Device, Event, Stream, runtime

def host_view(x):  # of a device array: what lies in its memory now, whatever is still queued
    return np.frombuffer((ctypes.c_char * x.nbytes).from_address(x.data.ptr), x.dtype).reshape(x.shape)

def error_of(call, *arguments):
    try:
        call(*arguments)
    except Exception as error:
        return str(error)
    return "no error"

"""


# Forks a process for each script, from one that has imported CuPy and not used the device.
SERVER = """
import json, os, signal, sys
import numpy, cupy, cupyx

for line in sys.stdin:
    code, variables, out, err = json.loads(line)
    child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
signal.alarm(100)
for path, descriptor in (os.devnull, 0), (out, 1), (err, 2):
    os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), descriptor)
os.environ.update(variables)
if "CUDA_ON_CPU_ALLOCATOR" in variables:
    from cuda_on_cpu import allocators
    allocators.use(variables["CUDA_ON_CPU_ALLOCATOR"])
exec(compile(code, "<script>", "exec"), {"__name__": "__main__"})
"""


@functools.cache
def server():
    command, pipe = [sys.executable, "-c", SERVER], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=without_ours())
    atexit.register(process.communicate)  # it ends with its input
    return process


def without_ours():
    return {name: value for name, value in os.environ.items() if not name.startswith("CUDA_ON_CPU")}


def run(code, mode="now", order="as-is", **more):
    """Run a script in a process of its own, since that reads the variables when it first uses the device."""
    variables = {"CUDA_ON_CPU_MODE": mode, "CUDA_ON_CPU_ORDER": order, **more}
    code = PRELUDE + textwrap.dedent(code)
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        print(json.dumps([code, variables, str(out), str(err)]), file=server().stdin, flush=True)
        status = int(server().stdout.readline())
        return subprocess.CompletedProcess(code, status, out.read_text(), err.read_text())


def run_fresh(code, prelude=PRELUDE, mode="now", order="as-is", **more):
    """Run a script in a new process, where it matters how that starts."""
    variables = {"CUDA_ON_CPU_MODE": mode, "CUDA_ON_CPU_ORDER": order, **more}
    command = [sys.executable, "-c", prelude + textwrap.dedent(code)]
    return subprocess.run(command, env=without_ours() | variables, capture_output=True, text=True, timeout=100)


def check(code, run=run, **options):
    """Run a script whose assertions must hold, and which must say nothing."""
    done = run(code, **options)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0
