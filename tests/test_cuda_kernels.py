"""CuPy's kernels without a GPU: compiled for several architectures, and their arithmetic run on the host.

The functions of ``primitives/_cupy.py`` run here on NumPy's arrays. In the place of each kernel stands one that was
compiled as C++ from the same source, and checks its arguments as CuPy does. A raw kernel's threads are run in turn,
those of one block as they meet at barriers and exchanges, in an order that is shuffled anew each time.

How CuPy generates and compiles source has private names, which are those of CuPy 14.
"""

import ast
import ctypes
import functools
import importlib
import io
import re
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

from tests.conftest import ROOT
from xpmlp import primitives

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
if not cupy.__version__.startswith("14."):
    pytest.skip(f"CuPy is {cupy.__version__}: these tests know the private names of 14", allow_module_level=True)

from cupy._core import _carray, _kernel, _scalar, core  # noqa: E402
from cupy.cuda import nvrtc  # noqa: E402
from cupy.cuda.compiler import CompileException, _NVRTCProgram  # noqa: E402
from xpmlp.primitives import _cupy  # noqa: E402

ARCHITECTURES = (75, 80, 90, 100, 120)
C_TYPES = {
    "float": np.float32,
    "double": np.float64,
    "int": np.int32,
    "unsigned int": np.uint32,
    "unsigned char": np.uint8,
}


def kernels() -> dict[tuple[str, str | None], object]:
    """Return whatever the file has CUDA compile, by its name and, in a table, by its key."""
    kinds = cupy.ElementwiseKernel, cupy.RawKernel, cupy.ReductionKernel, cupy.RawModule, type(cupy.fuse(lambda x: x))
    return {
        (name, key): value
        for name, found in vars(_cupy).items()
        for key, value in (found.items() if isinstance(found, dict) else [(None, found)])
        if isinstance(value, kinds)
    }


class Elementwise:
    """An elementwise kernel on NumPy's arrays; without a library it only keeps in `seen` how it was called."""

    def __init__(self, kernel, library, seen):
        self.kernel, self.library, self.seen = kernel, library, seen

    def __call__(self, *arguments):
        kernel = self.kernel
        assert len(arguments) == kernel.nargs, "outputs are given, none is made"
        given = tuple(x.dtype if isinstance(x, np.ndarray) else None for x in arguments)
        outs = arguments[kernel.nin :]
        in_types, out_types, names = kernel._decide_params_type(given[: kernel.nin], given[kernel.nin :])
        arrays = [x for x in arguments if isinstance(x, np.ndarray)]
        shape = np.broadcast_shapes(*(x.shape for x in arrays))
        assert all(out.shape == shape for out in outs)
        types_ = in_types + out_types
        with np.errstate(over="ignore"):  # a number beyond float32 is infinite there
            values = [
                np.broadcast_to(x if isinstance(x, np.ndarray) else np.asarray(x, np.dtype(kind)), shape)
                for x, kind in zip(arguments, types_, strict=True)
            ]
        # As CuPy does with arrays of up to two axes: one axis where all are contiguous.
        is_flat = all(v.flags.c_contiguous for v, kind in zip(values, given, strict=True) if kind is not None)
        ndim = min(len(shape), 1) if is_flat else len(shape)
        infos = [
            _kernel._ArgInfo(1, cupy.ndarray, np.dtype(kind).type, ndim, v.flags.c_contiguous, True)
            if given_kind is not None
            else _kernel._ArgInfo(3, _scalar.CScalar, np.dtype(kind).type, 0, True, True)
            for v, kind, given_kind in zip(values, types_, given, strict=True)
        ]
        infos.append(_kernel._ArgInfo(2, _carray.Indexer, None, ndim, True, True))
        self.seen.setdefault(kernel, {})[tuple(infos)] = names
        if self.library:
            letters = {p.ctype: kind for p, kind in zip(kernel.params, types_, strict=False) if p.dtype is None}
            run = self.library[f"{kernel.name}_{np.dtype(letters['T']).name}"]
            others = {np.dtype(kind).name for letter, kind in letters.items() if letter != "T"}
            assert others <= {"uint8"}, "a type that this was not compiled for"
            rows, columns = (1, 1, *shape)[-2:]
            strides = [stride for v in values for stride in (0, 0, *v.strides)[-2:]]
            run(
                (ctypes.c_longlong * 2)(rows, columns),
                (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values)),
                (ctypes.c_longlong * len(strides))(*strides),
            )
        return outs if len(outs) > 1 else outs[0]


class Raw:
    """A raw kernel on NumPy's arrays."""

    def __init__(self, kernel, library, seen):
        self.kernel, self.library, self.seen = kernel, library, seen
        real = re.search("-DREAL=(.*)", kernel.options[0])[1]
        parameters = re.search(rf"void {kernel.name}\((.*?)\)", kernel.code, re.S)[1].split(",")
        plain = (re.sub(r"\b(__restrict__|volatile|const)\b", "", parameter) for parameter in parameters)
        kinds = (re.fullmatch(r"\s*(.*?)(\*?)\s*\w+\s*", parameter) for parameter in plain)
        self.kinds = [(C_TYPES[real if k[1].strip() == "real" else k[1].strip()], bool(k[2])) for k in kinds]

    def __call__(self, grid, block, arguments):
        for x, (kind, is_pointer) in zip(arguments, self.kinds, strict=True):
            assert isinstance(x, np.ndarray if is_pointer else np.generic), "a Python number would be 8 bytes"
            assert x.dtype == kind
            assert not is_pointer or x.flags.c_contiguous
        assert 1 <= grid[0] < 2**31
        assert block[0] <= 1024
        self.seen.setdefault(self.kernel, {})[()] = None
        if self.library:
            values = [
                ctypes.c_void_p(x.ctypes.data) if is_pointer else np.ctypeslib.as_ctypes_type(kind)(x)
                for x, (kind, is_pointer) in zip(arguments, self.kinds, strict=True)
            ]
            pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
            seed = ctypes.c_uint(np.random.default_rng().integers(2**32))
            assert self.library.launch(grid[0], block[0], seed, pointers) == 0, "threads wait for one that never comes"


def stand_in(monkeypatch, libraries):
    """Put kernels on NumPy's arrays in the places of CuPy's, and return how they are called."""
    seen = {}
    for (name, key), kernel in kernels().items():
        other = {cupy.ElementwiseKernel: Elementwise, cupy.RawKernel: Raw}[type(kernel)]
        other = other(kernel, libraries.get(kernel), seen)
        if key is None:
            monkeypatch.setattr(_cupy, name, other)
        else:
            monkeypatch.setitem(getattr(_cupy, name), key, other)
    host = types.ModuleType("cupy")
    host.__dict__.update(vars(np))
    stream, runtime = types.SimpleNamespace(ptr=0), types.SimpleNamespace(getDevice=lambda: 0)
    host.cuda = types.SimpleNamespace(get_current_stream=lambda: stream, runtime=runtime)
    monkeypatch.setattr(_cupy, "cupy", host)
    monkeypatch.setattr(_cupy, "_workspaces", _cupy._Workspaces())
    return seen


ELEMENTWISE = """
#include <cmath>
using std::exp; using std::isfinite; using std::sqrt;
{functions}
"""

LOOP = """
template <{typenames}> void {name}(const long long* shape, char** data, const long long* strides) {{
  for (long long row = 0; row < shape[0]; ++row) for (long long column = 0; column < shape[1]; ++column) {{
    {references}
    {operation};
  }}
}}
{instances}
"""

INSTANCE = """
extern "C" void {name}_{real}(const long long* s, char** d, const long long* t) {{ {name}<{types}>(s, d, t); }}
"""


def as_loop(kernel) -> str:
    """Return an elementwise kernel as C++: T is float or double, another type that it leaves open is bytes."""
    parameters = kernel.params[:-1]
    references = "\n".join(
        f"{'const ' if p.is_const else ''}{p.ctype}& {p.name} = *({p.ctype}*)"
        f"(data[{i}] + row * strides[{2 * i}] + column * strides[{2 * i + 1}]);"
        for i, p in enumerate(parameters)
    )
    letters = sorted({p.ctype for p in parameters if p.dtype is None})
    assert "T" in letters
    instances = "".join(
        INSTANCE.format(
            name=kernel.name,
            real=dtype,
            types=", ".join(c if letter == "T" else "unsigned char" for letter in letters),
        )
        for c, dtype in (("float", "float32"), ("double", "float64"))
    )
    typenames = ", ".join(f"typename {letter}" for letter in letters)
    return LOOP.format(
        name=kernel.name,
        typenames=typenames,
        references=references,
        operation=kernel.operation,
        instances=instances,
    )


EMULATOR = r"""
#include <ucontext.h>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>
using std::exp; using std::log; using std::sqrt;

struct Index { unsigned x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;

struct Thread { ucontext_t context; std::vector<char> stack; bool is_over; };
static std::vector<Thread> threads;
static ucontext_t scheduler;
static unsigned current;
static unsigned long moves;  // arrivals and ends: a round without one will never see another

struct Barrier {
  unsigned arrived = 0, passed = 0;
  void wait(unsigned size) {
    const unsigned before = passed;
    ++moves;
    if (++arrived == size) { arrived = 0; ++passed; }
    else while (passed == before) swapcontext(&threads[current].context, &scheduler);
  }
};
static Barrier block_barrier, warp_barriers[32];
static char slots[1024][8];

static void __syncthreads() { block_barrier.wait(blockDim.x); }
static void __threadfence() {}
static unsigned atomicInc(unsigned* at, unsigned most) {
  const unsigned old = *at;
  *at = old >= most ? 0 : old + 1;
  return old;
}
template <typename V> V __shfl_xor_sync(unsigned, V value, int step) {
  const unsigned me = current;
  std::memcpy(slots[me], &value, sizeof value);
  warp_barriers[me / 32].wait(32);
  std::memcpy(&value, slots[me ^ step], sizeof value);
  warp_barriers[me / 32].wait(32);
  return value;
}
#define __global__
#define __device__
#define __shared__ static

@CODE@

static void** arguments;
static void run() {
  @NAME@(@ARGUMENTS@);
  threads[current].is_over = true;
  ++moves;
}

extern "C" int launch(unsigned n_blocks, unsigned n_threads, unsigned seed, void** given) {
  arguments = given;
  gridDim = {n_blocks, 1, 1}, blockDim = {n_threads, 1, 1};
  threads.resize(n_threads);
  std::mt19937 random(seed);
  std::vector<unsigned> blocks(n_blocks), order(n_threads);
  std::iota(blocks.begin(), blocks.end(), 0u), std::iota(order.begin(), order.end(), 0u);
  std::shuffle(blocks.begin(), blocks.end(), random);
  for (unsigned block : blocks) {
    blockIdx = {block, 0, 0};
    std::shuffle(order.begin(), order.end(), random);
    for (Thread& thread : threads) {
      thread.stack.resize(1 << 16), thread.is_over = false;
      getcontext(&thread.context);
      thread.context.uc_stack = {thread.stack.data(), 0, thread.stack.size()};
      thread.context.uc_link = &scheduler;
      makecontext(&thread.context, run, 0);
    }
    block_barrier = {};
    for (Barrier& barrier : warp_barriers) barrier = {};
    for (bool is_over = false; !is_over;) {
      const unsigned long before = moves;
      is_over = true;
      for (unsigned t : order) if (!threads[t].is_over) {
        is_over = false;
        current = t, threadIdx = {t, 0, 0};
        swapcontext(&scheduler, &threads[t].context);
      }
      if (!is_over && moves == before) return 1;
    }
  }
  return 0;
}
"""


def as_program(kernel) -> str:
    """Return a raw kernel as C++ with what runs it."""
    parameters = re.search(rf"void {kernel.name}\((.*?)\)", kernel.code, re.S)[1].split(",")
    kinds = [re.sub(r"\w+\s*$", "", parameter.replace("__restrict__", "")).strip() for parameter in parameters]
    arguments = ", ".join(f"*static_cast<std::decay_t<{kind}>*>(arguments[{i}])" for i, kind in enumerate(kinds))
    program = EMULATOR.replace("@CODE@", kernel.code).replace("@NAME@", kernel.name)
    return program.replace("@ARGUMENTS@", arguments)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Return each kernel's host library."""
    compiler = shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("no g++ here, or not Linux, whose ucontext runs the threads of a block")
    folder = tmp_path_factory.mktemp("kernels")

    def compiled(name, code, options=()):
        (folder / f"{name}.cpp").write_text(code)
        command = [compiler, "-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", *options]
        done = subprocess.run(
            [*command, f"{name}.cpp", "-o", f"{name}.so"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(folder / f"{name}.so"))

    elementwise = [kernel for kernel in kernels().values() if isinstance(kernel, cupy.ElementwiseKernel)]
    loops = compiled("elementwise", ELEMENTWISE.format(functions="\n".join(map(as_loop, elementwise))))
    found = dict.fromkeys(elementwise, loops)
    for i, kernel in enumerate(kernels().values()):
        if isinstance(kernel, cupy.RawKernel):
            found[kernel] = compiled(f"raw{i}", as_program(kernel), kernel.options)
    return found


@pytest.fixture
def native(monkeypatch, libraries):
    """Return the file of CuPy's native versions, to be called with NumPy's arrays."""
    stand_in(monkeypatch, libraries)
    return _cupy


def odd(host):
    """Return a copy at an odd offset of a longer vector."""
    longer = np.zeros(host.size + 5, host.dtype)
    part = longer[3 : 3 + host.size].reshape(host.shape)
    part[...] = host
    return part


def agnostic(name):
    """Return an operation's agnostic version."""
    return getattr(primitives, name).__wrapped__


def call_all(dtype):
    """Call every function of the file, in each way that changes what is compiled."""
    rng = np.random.default_rng(0)
    real = np.dtype(dtype).type

    def random(*shape):
        return odd(rng.standard_normal(shape).astype(dtype))

    labels = np.array([0, 2, 1, 1, 0], np.int32)
    _cupy.scaled(rng.integers(0, 256, (5, 7), dtype=np.uint8), random(9), 255)
    _cupy.sampled(odd(rng.integers(0, 256, (5, 12), dtype=np.uint8)), random(5, 2, 3, 4), 255)
    _cupy.bias_relu(random(5, 3), random(1, 3))
    _cupy.bias_relu(random(1, 3), random(1, 3))
    _cupy.relu_backward(random(5, 3), random(5, 3))
    _, loss, correct = _cupy.softmax_cross_entropy(random(5, 3), labels)
    totals = [np.zeros((), kind) for kind in (dtype, np.int32, np.int32, np.int32)]
    _cupy.accumulate(*totals, loss, correct, 5)
    for rate in (0.1, np.array(0.1, real)):  # in a captured step it is an array
        for nesterov in (False, True):
            _cupy.momentum_step(random(9), random(9), random(9), 0.9, nesterov, rate)
        _cupy.adam_step(random(9), random(9), random(9), random(9), 0.9, 0.999, rate, rate)


class TestCompiling:
    """By NVRTC, as CuPy would, but for the device, which is named."""

    @staticmethod
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

    @pytest.fixture
    def sources(self, monkeypatch):
        """Return a function from a dtype to the sources of all kernels, with each one's options."""

        def of(dtype):
            with monkeypatch.context() as patch:
                seen = stand_in(patch, {})
                call_all(dtype)
            generated, raw = [], []
            for kernel, ways in seen.items():
                if isinstance(kernel, cupy.RawKernel):
                    raw.append((kernel.code, kernel.options))
                    continue
                for i, (infos, names) in enumerate(ways.items()):
                    code = _kernel._get_elementwise_kernel_code(
                        infos, names, kernel.params, kernel.operation, kernel.name, kernel.preamble, **kernel.kwargs
                    )
                    assert f"void {kernel.name}(" in code
                    generated.append(code.replace(f"void {kernel.name}(", f"void {kernel.name}_{i}("))
            # In one go: CuPy's headers take longer than all kernels.
            head = "".join(f"#include <{name}>\n" for name in core._cupy_header_list)
            return [(head + "\n".join(generated), ()), *raw]

        return of

    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_every_kernel_compiles_in_float32_and_keeps_its_numbers_in_registers(self, sources, architecture):
        for code, options in sources("float32"):
            _, log = self.compiled(code, architecture, (*options, "--ptxas-options=-v"))
            spills = re.findall(r"(\d+) bytes spill stores", log)
            assert spills == ["0"] * code.count("__global__"), log

    def test_every_kernel_compiles_in_float64(self, sources):
        for code, options in sources("float64"):
            self.compiled(code, 90, options)

    def test_float32_is_never_made_double(self, sources):
        for code, options in sources("float32"):
            text, _ = self.compiled(code, 90, options, method="ptx")
            assert b".entry" in text
            assert re.findall(rb"^.*\.f64\b.*$", text, re.M) == []
        text, _ = self.compiled(sources("float64")[0][0], 90, method="ptx")
        assert re.search(rb"\.f64\b", text), "the search finds nothing"


@pytest.mark.parametrize("room", ["backends/_cupy.py", "primitives/_cupy.py", "benchmark/gpu.py"])
def test_cupy_has_every_name_that_is_taken_from_it(room):
    taken = set()
    for node in ast.walk(ast.parse((ROOT / "xpmlp" / room).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and re.match(r"cupyx?\.", name := ast.unparse(node)):
            taken.add(re.match(r"[\w.]+", name)[0])
    assert "cupy.empty" in taken
    for name in taken:
        library, *path = name.split(".")
        functools.reduce(getattr, path, importlib.import_module(library))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kernel_is_called_by_the_tests(monkeypatch, dtype):
    seen = stand_in(monkeypatch, {})
    call_all(dtype)
    monkeypatch.undo()
    missing = {(name, key) for (name, key), kernel in kernels().items() if kernel not in seen}
    other = "float64" if dtype == "float32" else "float32"
    assert missing == {("_sampled", other), ("_softmax_cross_entropy", other)}


def test_another_rate_compiles_nothing(monkeypatch):
    seen = stand_in(monkeypatch, {})
    theta, velocity, gradient = np.zeros((3, 5), np.float32)
    for rate, momentum in ((0.1, 0.9), (1e300, 0.0), (7, 1)):
        _cupy.momentum_step(theta, velocity, gradient, momentum, False, rate)
    assert [len(ways) for ways in seen.values()] == [1]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
class TestArithmetic:
    @staticmethod
    def close(ours, theirs, dtype, at_most=10):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert np.linalg.norm(ours - theirs) <= at_most * np.finfo(dtype).eps * np.linalg.norm(theirs)

    @pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 784)])
    def test_scaled(self, native, dtype, shape):
        images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        theta = np.zeros(3, dtype)
        assert np.array_equal(native.scaled(images, theta, 255), agnostic("scaled")(images, theta, 255))

    @pytest.mark.parametrize("shape", [(2, 3), (8, 8), (28, 28)])
    @pytest.mark.parametrize("most", [0.0, 0.7, 3.0, 100.0])
    def test_sampled(self, native, dtype, shape, most):
        rng = np.random.default_rng(0)
        images = odd(rng.integers(0, 256, (3, shape[0] * shape[1]), dtype=np.uint8))
        displacements = odd(rng.uniform(-most, most, (3, 2, *shape)).astype(dtype))
        if most == 3.0:  # on pixels, and on the border of what lies around
            displacements = np.rint(displacements)
        expected = agnostic("sampled")(images, displacements, 16)
        found = native.sampled(images, displacements, 16)
        self.close(found, expected, dtype)
        if most in (0.0, 3.0):
            assert np.array_equal(found, expected)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 3)])
    def test_relu_and_its_derivative(self, native, dtype, shape):
        rng = np.random.default_rng(0)
        Z, b, dA = (rng.standard_normal(s).astype(dtype) for s in (shape, (1, shape[1]), shape))
        Z[0, 0], b[0, 0] = 0, 0
        Z[-1, -1] = np.nan
        handed_over = odd(Z)
        A = native.bias_relu(handed_over, odd(b))
        assert A is handed_over
        assert np.array_equal(A, agnostic("bias_relu")(Z.copy(), b), equal_nan=True)
        assert np.array_equal(native.relu_backward(odd(A), odd(dA)), agnostic("relu_backward")(A, dA.copy()))

    @pytest.mark.parametrize("c", [1, 3])
    def test_parameter_gradients(self, native, dtype, c):
        rng = np.random.default_rng(0)
        A, delta = rng.standard_normal((5, 4)).astype(dtype), rng.standard_normal((5, c)).astype(dtype)
        into = odd(np.zeros((4, c), dtype)), odd(np.zeros((1, c), dtype))
        assert native.parameter_gradients(delta, A, into) is into
        for ours, theirs in zip(into, agnostic("parameter_gradients")(delta, A, None), strict=True):
            self.close(ours, theirs, dtype)

    @pytest.mark.parametrize(("n", "c"), [(1, 1), (1, 10), (5, 1), (8, 3), (9, 31), (17, 32), (3, 33), (6, 1000)])
    @pytest.mark.parametrize("scale", [1, 300, 1e30])
    def test_softmax_cross_entropy(self, native, dtype, n, c, scale):
        rng = np.random.default_rng(n * c)
        S = (scale * rng.standard_normal((n, c))).astype(dtype)
        labels = rng.integers(0, c, n).astype(np.int32)
        delta, loss, correct = native.softmax_cross_entropy(odd(S), odd(labels))
        theirs = agnostic("softmax_cross_entropy")(S, labels)
        self.close(delta, theirs[0], dtype, 30)
        assert (loss.shape, loss.dtype) == ((), dtype)
        np.testing.assert_allclose(loss, theirs[1], rtol=30 * np.finfo(dtype).eps, atol=np.finfo(dtype).eps)
        assert (correct.shape, correct.dtype, int(correct)) == ((), np.int32, int(theirs[2]))

    def test_softmax_of_ties_counts_the_first(self, native, dtype):
        S = np.zeros((6, 40), dtype)
        S[1, [3, 35]] = S[2, [35, 39]] = 2
        S[4] = -np.inf
        S[4, [5, 6]] = 1
        labels = np.array([0, 3, 39, 1, 5, 0], np.int32)
        assert int(native.softmax_cross_entropy(S, labels)[2]) == 4

    def test_a_label_that_is_no_class_has_no_row_of_t(self, native, dtype):
        S = np.random.default_rng(0).standard_normal((6, 4)).astype(dtype)
        labels = np.array([-1, 4, 2, 1, -(2**31), 2**31 - 1], np.int32)
        ours, theirs = native.softmax_cross_entropy(S, labels), agnostic("softmax_cross_entropy")(S, labels)
        self.close(ours[0], theirs[0], dtype)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=10 * np.finfo(dtype).eps)
        assert int(ours[2]) == int(theirs[2])

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("column", [0, 3, 34])
    def test_logits_that_are_not_finite_are_those_of_the_agnostic_version(self, native, dtype, value, column):
        S = np.random.default_rng(0).standard_normal((5, 35)).astype(dtype)
        S[2, column] = value
        labels = np.full(5, column, np.int32)
        with np.errstate(invalid="ignore"):
            theirs = agnostic("softmax_cross_entropy")(S, labels)
        ours = native.softmax_cross_entropy(S, labels)
        assert not np.isfinite(ours[1])
        assert np.array_equal(ours[1], theirs[1], equal_nan=True)
        np.testing.assert_allclose(ours[0], theirs[0], rtol=30 * np.finfo(dtype).eps)
        assert int(ours[2]) == int(theirs[2])

    def test_a_row_of_nothing_but_minus_infinity_has_no_finite_loss(self, native, dtype):
        S = np.zeros((2, 3), dtype)
        S[1] = -np.inf
        assert not np.isfinite(native.softmax_cross_entropy(S, np.zeros(2, np.int32))[1])

    def test_the_softmax_gives_the_same_bits_in_any_order_of_threads_and_blocks(self, native, dtype, monkeypatch):
        monkeypatch.setattr(native, "_MOST_BLOCKS", 3)  # so that a warp has several rows, as of 4,096
        rng = np.random.default_rng(0)
        S, labels = rng.standard_normal((100, 10)).astype(dtype), rng.integers(0, 10, 100).astype(np.int32)
        first, *others = (
            tuple(np.asarray(x).tobytes() for x in native.softmax_cross_entropy(S, labels)) for _ in range(4)
        )
        assert others == [first] * 3
        loss = agnostic("softmax_cross_entropy")(S, labels)[1]
        np.testing.assert_allclose(np.frombuffer(first[1], dtype)[0], loss, rtol=30 * np.finfo(dtype).eps)
        (workspace,) = native._workspaces.found.values()
        assert workspace[2].tolist() == [0], "the counter is ready for the next launch"

    def test_accumulate(self, native, dtype):
        def totals():
            return [np.array(x, kind) for x, kind in ((1.5, dtype), (7, "int32"), (2, "int32"), (2, "int32"))]

        for batch_loss in (0.3, np.nan, np.inf):
            ours, theirs = totals(), totals()
            batch = np.array(batch_loss, dtype), np.array(3, np.int32), 5
            native.accumulate(*ours, *batch)
            theirs = agnostic("accumulate")(*theirs, *batch)
            assert [x.dtype for x in ours] == [x.dtype for x in theirs]
            np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize("as_array", [False, True])
    @pytest.mark.parametrize("n", [1, 5, 1000])
    def test_steps_of_momentum_and_adam(self, native, dtype, n, as_array):
        rng = np.random.default_rng(0)
        theta, m, g, v = (rng.standard_normal(n).astype(dtype) for _ in range(4))
        v = np.abs(v)
        rate, epsilon = (np.array(x, dtype) if as_array else x for x in (0.003, 1e-4))
        gradient = odd(g)
        for nesterov in (False, True):
            arguments = 0.9, nesterov, rate
            ours = native.momentum_step(odd(theta), odd(m), gradient, *arguments)
            theirs = agnostic("momentum_step")(theta.copy(), m.copy(), g, *arguments)
            for a, b in zip(ours, theirs, strict=True):
                self.close(a, b, dtype)
        arguments = 0.9, 0.999, rate, epsilon
        ours = native.adam_step(odd(theta), odd(m), odd(v), gradient, *arguments)
        theirs = agnostic("adam_step")(theta.copy(), m.copy(), v.copy(), g, *arguments)
        for a, b in zip(ours, theirs, strict=True):
            self.close(a, b, dtype)
        assert np.array_equal(gradient, g)
