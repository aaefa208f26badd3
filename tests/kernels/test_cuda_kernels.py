"""CuPy's kernels as NVIDIA's own compiler takes them, for several architectures; it needs no GPU.

What they compute is seen where CuPy runs, on a GPU or on the emulated device: there each is held to its plain lines.
How CuPy generates and compiles source has private names, which are those of CuPy 14.
"""

import ast
import functools
import importlib
import io
import re

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.kernels.test_operations import FUNCTIONS
from xpmlp.kernels import Elements

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
if not cupy.__version__.startswith("14."):
    pytest.skip(f"CuPy is {cupy.__version__}: these tests know the private names of 14", allow_module_level=True)

from cupy._core import _carray, _kernel, _scalar, core  # noqa: E402
from cupy.cuda import nvrtc  # noqa: E402
from cupy.cuda.compiler import CompileException, _NVRTCProgram  # noqa: E402

from xpmlp.kernels import _cupy  # noqa: E402

ARCHITECTURES = (75, 80, 90, 100, 120)


def generated(function, dtype):
    """Return the CUDA source of a function of elements, for arrays of one shape and for arrays that broadcast."""
    switches = [{name: bool(on) for name in function.fixed} for on in (0, 1)] if function.fixed else [{}]
    if "dtype" in function.fixed:
        switches = [{"dtype": np.dtype(dtype)}]
    whole = {"correct": "int32", "steps": "int32", "finite": "int32", "batch_correct": "int32", "images": "uint8"}
    dtypes = [np.dtype(whole.get(name, dtype)) for name in function.arrays]
    for k, switch in enumerate(switches):
        kernel, program = _cupy.kernel(function, dtypes, switch)
        kinds = [np.dtype(parameter.dtype) for parameter in kernel.params[: kernel.nargs]]
        scalars = {f"s{i}" for i in range(len(program.scalars))}
        for ndim in (1, 2):
            infos = [
                _kernel._ArgInfo(3, _scalar.CScalar, kind.type, 0, True, True)
                if parameter.name in scalars
                else _kernel._ArgInfo(1, cupy.ndarray, kind.type, ndim, ndim == 1, True)
                for parameter, kind in zip(kernel.params, kinds, strict=False)
            ]
            infos.append(_kernel._ArgInfo(2, _carray.Indexer, None, ndim, True, True))
            names = kernel._decide_params_type(tuple(kinds[: kernel.nin]), tuple(kinds[kernel.nin :]))[2]
            code = _kernel._get_elementwise_kernel_code(
                tuple(infos), names, kernel.params, kernel.operation, kernel.name, kernel.preamble, **kernel.kwargs
            )
            assert f"void {kernel.name}(" in code
            yield code.replace(f"void {kernel.name}(", f"void {kernel.name}_{k}_{ndim}(")


def sources(dtype):
    """Return the sources of all kernels, with each one's options."""
    by_hand = [vars(_cupy)[name][dtype] for name in ("_sampled", "_sampled_floats", "_cross_entropy")]
    # In one go: CuPy's headers take longer than all kernels.
    head = "".join(f"#include <{name}>\n" for name in core._cupy_header_list)
    code = "\n".join(code for function in FUNCTIONS.values() for code in generated(function, dtype))
    return [(head + code, ()), *((kernel.code, kernel.options) for kernel in by_hand)]


def compiled(code, architecture, options=(), *, method="cubin"):
    log = io.StringIO()
    prefix = "sm" if method == "cubin" else "compute"
    try:
        if architecture not in nvrtc.getSupportedArchs():
            pytest.skip(f"NVRTC {'.'.join(map(str, nvrtc.getVersion()))} knows no sm_{architecture}")
        options = core.assemble_cupy_compiler_options(tuple(options))
        more = ("-ftz=true", f"-arch={prefix}_{architecture}", "--device-as-default-execution-space")
        result, _ = _NVRTCProgram(code, "k.cu", method=method).compile((*options, *more), log)
    except CompileException as error:
        pytest.fail(str(error))
    except RuntimeError as error:  # a library or headers that are not there
        pytest.skip(f"nothing compiles here: {str(error).splitlines()[0]}")
    return result, log.getvalue()


@pytest.mark.needs(device=False)  # where the emulated one answers, so does its compiler
class TestCompiling:
    @pytest.mark.parametrize(
        "architecture", [75, *(pytest.param(name, marks=pytest.mark.full) for name in ARCHITECTURES[1:-1]), 120]
    )
    def test_every_kernel_compiles_in_float32_and_keeps_its_numbers_in_registers(self, architecture):
        for code, options in sources("float32"):
            _, log = compiled(code, architecture, (*options, "--ptxas-options=-v"))
            spills = re.findall(r"(\d+) bytes spill stores", log)
            assert spills == ["0"] * code.count("__global__"), log

    def test_every_kernel_compiles_in_float64(self):
        for code, options in sources("float64"):
            compiled(code, 90, options)

    def test_float32_is_never_made_double(self):
        for code, options in sources("float32"):
            text, _ = compiled(code, 90, options, method="ptx")
            assert b".entry" in text
            assert re.findall(rb"^.*\.f64\b.*$", text, re.M) == []
        text, _ = compiled(sources("float64")[0][0], 90, method="ptx")
        assert re.search(rb"\.f64\b", text), "the search finds nothing"


def test_every_kernel_is_among_those_that_are_compiled():
    kinds = cupy.ElementwiseKernel, cupy.RawKernel, cupy.ReductionKernel, cupy.RawModule, type(cupy.fuse(lambda x: x))
    found = {
        name
        for name, value in vars(_cupy).items()
        for kernel in (value.values() if isinstance(value, dict) else [value])
        if isinstance(kernel, kinds)
    }
    assert found == {"_sampled", "_sampled_floats", "_cross_entropy"}
    assert len(FUNCTIONS) > 10


def test_another_rate_compiles_nothing(monkeypatch):
    made = []
    monkeypatch.setattr(
        cupy, "ElementwiseKernel", lambda *definition: made.append(definition) or (lambda *given: given)
    )

    def step(xp, theta, gradient, *, rate):
        return theta - rate * gradient

    function = _cupy.compile_elements(Elements(step, ("theta",), ()))
    theta, gradient = np.zeros((2, 3), np.float32)
    assert [function(theta, gradient, rate=rate)[1] for rate in (0.1, 1e300, 7)] == [0.1, 1e300, 7]
    assert made == [("float32 gradient, float32 s0", "float32 theta", made[0][2], "xpmlp_step")]


@pytest.mark.parametrize("room", ["backends/_cupy.py", "kernels/_cupy.py", "benchmark/gpu.py"])
def test_cupy_has_every_name_that_is_taken_from_it(room):
    taken = set()
    for node in ast.walk(ast.parse((ROOT / "xpmlp" / room).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and re.match(r"cupyx?\.", name := ast.unparse(node)):
            taken.add(re.match(r"[\w.]+", name)[0])
    assert "cupy.empty" in taken
    for name in taken:
        library, *path = name.split(".")
        functools.reduce(getattr, path, importlib.import_module(library))
