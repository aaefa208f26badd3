"""What the tests of the emulated device share. To import it skips the module where there is no such device."""

import os
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("cuda_on_cpu", reason="the emulated device is not installed here: python tests/cuda_on_cpu/build.py")
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


def run(code, mode="now", order="as-is", prelude=PRELUDE, **more):
    """Run a script in a process of its own, since it reads the variables when it loads the device."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_ON_CPU")}
    variables = {"CUDA_ON_CPU_MODE": mode, "CUDA_ON_CPU_ORDER": order, **more}
    command = [sys.executable, "-c", prelude + textwrap.dedent(code)]
    return subprocess.run(command, env=ours | variables, capture_output=True, text=True, timeout=100)


def check(code, **options):
    """Run a script whose assertions must hold, and which must say nothing."""
    done = run(code, **options)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0
