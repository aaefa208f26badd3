"""What the device is built for: the tools, and the interface of the installed CuPy, which ours must match."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUNTIME = "cupy_backends.cuda.api.runtime"

# In a process of its own: the C signatures that a runtime module exports, and what it has for Python.
DESCRIBE = """
import ctypes, importlib.util, json, sys
sys.path.insert(0, {site!r})
import cupy_backends.cuda.api
spec = importlib.util.spec_from_file_location({name!r}, {file!r})
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
name_of = ctypes.pythonapi.PyCapsule_GetName
name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
public = {{name: value for name, value in vars(module).items() if not name.startswith("_")}}
print(json.dumps({{
    "signatures": {{name: name_of(capsule).decode() for name, capsule in module.__pyx_capi__.items()}},
    "functions": [name for name, value in public.items() if callable(value) and not isinstance(value, type)],
    "classes": [name for name, value in public.items() if isinstance(value, type)],
    "constants": {{name: value for name, value in public.items() if isinstance(value, int)}},
    "refused": getattr(module, "_REFUSED", []),
}}))
"""

# In a process of its own: which functions CuPy's modules look up in the driver and the compiler, and ours lack.
LOOK_UP = """
import ctypes, json
asked = {{}}

class CDLL(ctypes.CDLL):
    def __getattr__(self, name):
        if name.startswith(("cu", "nvrtc")):
            asked[name] = hasattr(ours["cu" if name.startswith("cu") else "nvrtc"], name)
        return super().__getattr__(name)

ours = {{"cu": ctypes.CDLL({lib!r} + "/libcuda.so.1"), "nvrtc": ctypes.CDLL({lib!r} + "/libnvrtc.so.13")}}
ctypes.CDLL = CDLL
from cupy_backends.cuda.api import driver
from cupy_backends.cuda.libs import nvrtc
for call in driver.ctxGetCurrent, nvrtc.getVersion:  # which look all functions up
    try:
        call()
    except Exception:
        pass  # it called one that is missing
assert "cuLaunchKernel" in asked and "nvrtcCompileProgram" in asked, "CuPy looks functions up in another way"
print(json.dumps([name for name, found in asked.items() if not found]))
"""


class Problem(Exception):
    """Why the device cannot be built, in one line."""


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def run_python(code, **values):
    code = code.format(**values)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "CUDA_ON_CPU": "0"}, capture_output=True, text=True
    )
    if done.returncode:
        raise Problem(f"CuPy {version('cupy-cuda13x')} cannot be compared with: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


class Wheel:
    """The installed CuPy."""

    def __init__(self):
        self.version = version("cupy-cuda13x")
        if self.version is None:
            raise Problem(f"cupy-cuda13x is not installed in {sys.prefix}: pip install cupy-cuda13x==14.2.0")
        self.folder = Path(importlib.util.find_spec("cupy_backends").origin).parent / "cuda"

    def file(self, name):
        return next(self.folder.glob(f"{name}.*.so"))

    @property
    def cython(self):
        """The version of Cython that translated it, without which signatures have other names."""
        found = re.search(rb"_cython_(\d+)_(\d+)_(\d+)", self.file("api/runtime").read_bytes())
        if not found:
            raise Problem(f"{self.file('api/runtime')} does not say which Cython made it")
        return ".".join(number.decode() for number in found.groups())

    def runtime(self):
        return describe(self.file("api/runtime"))

    def cublas(self):
        """Which functions of cuBLAS it links to."""
        command = ["nm", "-D", "--undefined-only", self.file("libs/cublas")]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        names = {line.split()[-1].split("@")[0] for line in lines}
        return {name for name in names if name.startswith("cublas")}


def describe(file):
    return run_python(
        DESCRIBE,
        site=str(Path(importlib.util.find_spec("cupy_backends").origin).parent.parent),
        name=RUNTIME,
        file=str(file),
    )


def check_tools():
    """Return the installed CuPy, once all is there that building the device and running its kernels needs."""
    wheel = Wheel()
    if sys.platform != "linux":
        raise Problem(f"the device is made for Linux, and here is {sys.platform}")
    if not shutil.which("g++"):
        raise Problem("there is no g++ on PATH, which compiles the device and its kernels: install g++")
    if version("cython") != wheel.cython:
        raise Problem(
            f"the wheel of CuPy {wheel.version} was built with Cython {wheel.cython}, and here is "
            f"{version('cython') or 'none'}: pip install cython=={wheel.cython}"
        )
    if not (include := Path(sysconfig.get_paths()["include"], "Python.h")).exists():
        raise Problem(f"{include} is not there, which compiling CuPy's module needs: install python3-dev")
    # No kernel of ours includes them, but CuPy compiles none without their folder.
    from cuda.pathfinder import find_nvidia_header_directory

    if find_nvidia_header_directory("cudart") is None:
        raise Problem("CuPy asks for the headers of CUDA's runtime: pip install nvidia-cuda-runtime")
    return wheel


def compare(wheel, lib, theirs):
    """Fail where what was built in `lib` does not have the interface that the installed CuPy calls."""
    ours = describe(next(lib.glob("runtime.*")))
    wrong = []
    for name, signature in sorted(ours["signatures"].items()):
        expected = theirs["signatures"].get(name)
        if signature != expected:
            wrong.append(f"{name} is {expected or 'not there'} in CuPy, {signature} in ours")
        # Who calls these sees an exception by what is returned: -1 for an int, null or 0 for all others.
        elif name in ours["refused"] and re.match(r"(unsigned )?int\b|size_t|float|double", signature):
            wrong.append(f"{name} is {signature} in CuPy, not there in ours")
    wrong += [f"the class {name} is not there in ours" for name in sorted({*theirs["classes"]} - {*ours["classes"]})]
    for name, value in sorted(theirs["constants"].items()):
        if ours["constants"].get(name) != value:
            wrong.append(f"{name} is {value} in CuPy, {ours['constants'].get(name, 'not there')} in ours")
    fail_for(wheel, wrong, "runtime/runtime.pyx and runtime.pxd")
    missing = run_python(LOOK_UP, lib=str(lib))
    fail_for(
        wheel, [f"it looks up {name}, which ours lacks" for name in missing], "device/driver.cpp or nvrtc/nvrtc.cpp"
    )


def fail_for(wheel, wrong, where):
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise Problem(f"CuPy {wheel.version} has another interface: {'; '.join(wrong[:3])}{more}: mend {HERE}/{where}")
