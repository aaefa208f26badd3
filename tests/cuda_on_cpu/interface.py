"""What the device is built for: the tools, and the interface of the installed CuPy, which ours must match."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path


class Problem(Exception):
    """Why the device cannot be built, in one line."""


def check_tools():
    """Return the folder of the installed CuPy's low-level modules, once all that is needed is there."""
    try:
        importlib.metadata.version("cupy-cuda13x")
    except importlib.metadata.PackageNotFoundError:
        raise Problem(f"cupy-cuda13x is not installed in {sys.prefix}: pip install cupy-cuda13x==14.2.0") from None
    if not shutil.which("g++"):
        raise Problem("there is no g++ on PATH, which compiles the device and its kernels: install g++")
    wheel = Path(importlib.util.find_spec("cupy_backends").origin).parent / "cuda"
    found = re.search(rb"_cython_(\d+)_(\d+)_(\d+)", next(wheel.glob("api/runtime.*.so")).read_bytes())
    wanted = ".".join(number.decode() for number in found.groups())
    try:
        cython = importlib.metadata.version("cython")
    except importlib.metadata.PackageNotFoundError:
        cython = "none"
    if cython != wanted:
        raise Problem(f"CuPy's wheel was built with Cython {wanted}, here is {cython}: pip install cython=={wanted}")
    from cuda.pathfinder import find_nvidia_header_directory

    if find_nvidia_header_directory("cudart") is None:
        raise Problem("CuPy compiles no kernel without the headers of CUDA's runtime: pip install nvidia-cuda-runtime")
    return wheel


def undefined_symbols(wheel, prefix):
    file = next(wheel.glob("libs/cublas.*.so"))
    lines = subprocess.run(["nm", "-D", "--undefined-only", file], capture_output=True, text=True, check=True).stdout
    names = {line.split()[-1].split("@")[0] for line in lines.splitlines()}
    return {name for name in names if name.startswith(prefix)}


def read_wheel():
    return {}


def compare(wheel, package):
    pass
