"""Gives CuPy's wheel a CUDA device made of host memory, in every process of the environment that it is installed in.

CUDA_ON_CPU=0 turns it off. Nothing is loaded until a process imports ctypes, by which it may ask the driver, or CuPy.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_DRIVER = "libcuda.so.1"
_LIBRARIES = ("libnvrtc.so.13", "libcublasLt.so.13", "libcublas.so.13")
_RUNTIME = "cupy_backends.cuda.api.runtime"
_THRUST = "cupy.cuda.thrust"


def _load(*names):
    import _ctypes  # not ctypes, whose import this may be part of

    for name in names:
        _ctypes.dlopen(f"{_HERE}/lib/{name}", os.RTLD_NOW | os.RTLD_LOCAL)


class _Finder:
    """Loads our libraries before anything asks for NVIDIA's by their names, and replaces two of CuPy's modules."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "ctypes":
            _load(_DRIVER)
        elif name == "cupy_backends":
            _load(_DRIVER, *_LIBRARIES)
            os.environ.setdefault("CUPY_ACCELERATORS", "")  # CUB's kernels are NVIDIA's machine code
        elif name in (_RUNTIME, _THRUST):
            from importlib.machinery import EXTENSION_SUFFIXES
            from importlib.util import spec_from_file_location

            file = f"lib/runtime{EXTENSION_SUFFIXES[0]}" if name == _RUNTIME else "thrust.py"
            return spec_from_file_location(name, f"{_HERE}/{file}")
        elif name == "cupy" and os.environ.get("CUDA_ON_CPU_ALLOCATOR"):
            return _with_allocator(name, path)
        return None


def _with_allocator(name, path):
    from importlib.machinery import PathFinder

    if (spec := PathFinder.find_spec(name, path)) is None:
        return None
    execute = spec.loader.exec_module

    def execute_and_set(module):
        execute(module)
        from cuda_on_cpu import allocators

        allocators.use(os.environ["CUDA_ON_CPU_ALLOCATOR"])

    spec.loader.exec_module = execute_and_set
    return spec


if os.environ.get("CUDA_ON_CPU", "1") != "0":
    if "ctypes" in sys.modules:
        _load(_DRIVER)
    sys.meta_path.insert(0, _Finder)
