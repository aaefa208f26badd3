"""Choosing a library and device, and the two doors between host and device."""

import importlib.metadata
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import xpmlp
import xpmlp.backends
from tests.conftest import SPECS, run_python
from xpmlp.backends import available_backends, backend_names, backend_of, get_backend
from xpmlp.backends._driver import Driver
from xpmlp.backends._numpy import NumpyBackend
from xpmlp.backends.base import _free_a_large_block, computing, format_bytes, free_host_memory
from xpmlp.backends.probe import probe, probe_all
from xpmlp.benchmark.checking import relative_error
from xpmlp.errors import ArrayError, BackendError

KINDS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"]
without_a_device = pytest.mark.needs(device=False)


@pytest.fixture
def cupy():
    import cupy

    return cupy


class TestTheDoors:
    @pytest.mark.parametrize("copy", [None, True])
    @pytest.mark.parametrize("kind", KINDS)
    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_values_dtype_and_shape_survive(self, backend, kind, copy, data):
        array = data.draw(hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0, max_side=4)))
        back = backend.to_numpy(backend.asarray(array, copy=copy))
        assert type(back) is np.ndarray
        assert back.dtype == array.dtype
        assert back.shape == array.shape
        assert np.array_equal(back, array, equal_nan=np.dtype(kind).kind == "f")

    @pytest.mark.parametrize(
        "awkward",
        [
            lambda plain: plain.T,
            lambda plain: plain[::-1, ::2],
            lambda plain: plain.astype(plain.dtype.newbyteorder()),
            lambda plain: np.broadcast_to(plain[0], plain.shape),
            lambda plain: np.asfortranarray(plain),
        ],
        ids=["transposed", "strided", "foreign byte order", "read-only", "Fortran order"],
    )
    def test_awkward_arrays_become_ordinary(self, backend, awkward):
        array = awkward(np.arange(24, dtype=np.float32).reshape(4, 6))
        back = backend.to_numpy(backend.asarray(array))
        assert np.array_equal(back, array)
        assert back.dtype == np.float32
        assert back.flags.c_contiguous
        assert back.flags.writeable

    def test_numbers_and_lists_are_host_data_too(self, backend):
        assert backend.to_numpy(backend.asarray(2.5)).shape == ()
        assert backend.to_numpy(backend.asarray([[1.0, 2.0]])).tolist() == [[1.0, 2.0]]

    def test_a_copy_does_not_follow_its_source(self, backend):
        host = np.zeros(1000, dtype=np.float32)
        array = backend.asarray(host, copy=True)
        host += 1
        assert not backend.to_numpy(array).any()

    def test_what_comes_back_does_not_follow_the_array(self):
        theta = np.zeros(4)
        back = NumpyBackend().to_numpy(theta)
        theta += 1
        assert not back.any()

    @pytest.mark.needs("array-api-strict")
    def test_another_librarys_array_is_refused_at_both_doors(self, find_backend):
        strict, numpy = find_backend("array-api-strict"), find_backend("numpy")
        array = strict.asarray(np.ones(3))
        with pytest.raises(ArrayError, match="not a Array of array_api_strict: move it with backend_of"):
            numpy.asarray(array)
        with pytest.raises(ArrayError, match="numpy was handed a Array of array_api_strict"):
            numpy.to_numpy(array)
        with pytest.raises(ArrayError, match="array-api-strict was handed a ndarray of numpy"):
            strict.to_numpy(np.ones(3))

    @pytest.mark.parametrize(
        "backend", [spec for spec in SPECS if spec != "numpy"], indirect=True
    )  # that has every type
    def test_a_type_that_the_library_has_not_is_refused(self, backend):
        with pytest.raises(ArrayError, match="longdouble|float128"):
            backend.asarray(np.ones(2, np.longdouble))

    def test_text_is_refused(self, backend):
        with pytest.raises(ArrayError, match="asarray takes numbers, not <U3"):
            backend.asarray(np.array(["abc"]))

    @pytest.mark.needs("array-api-strict:device1")
    def test_nothing_reaches_a_strict_device_by_accident(self, find_backend):
        array = find_backend("array-api-strict:device1").asarray(np.ones(3))
        with pytest.raises(RuntimeError, match="device1"):
            np.asarray(array)


class TestNames:
    def test_backend_of_finds_library_and_device(self, backend):
        found = backend_of(backend.asarray(np.ones(2, dtype=np.float32)))
        assert (found.name, str(found.device), str(found)) == (backend.name, str(backend.device), str(backend))
        again = found.to_numpy(found.asarray(np.ones(2, dtype=np.float32)))
        assert again.tolist() == [1, 1]

    def test_backend_of_something_else_is_refused(self):
        with pytest.raises(
            ArrayError, match="a list of builtins belongs to no backend: expected an array of numpy, cupy"
        ):
            backend_of([1, 2])

    def test_every_backend_describes_itself(self, backend):
        described = backend.describe()
        assert {"version", "device", "products"} <= set(described)
        assert all(type(value) is str and value for value in described.values())
        assert backend.free_memory() is None or backend.free_memory() > 0

    def test_numpy_names_the_kernels_of_its_blas_library(self, monkeypatch):
        class Library:
            def __init__(self, **info):
                self.info = lambda: info

        scipys = Library(filepath="/site/scipy.libs/libopenblas.so", internal_api="openblas", architecture="Haswell")
        own = Library(filepath="/site/numpy.libs/libopenblas.so", internal_api="openblas", architecture="SkylakeX")
        other = Library(filepath="/opt/libmkl_rt.so", internal_api="mkl")
        for libraries, expected in [
            ([scipys, own], ", SkylakeX kernels (OPENBLAS_CORETYPE)"),
            ([scipys], ", Haswell kernels (OPENBLAS_CORETYPE)"),
            ([Library(filepath="libblis.so", internal_api="blis", architecture="zen3")], ", zen3 kernels"),
        ]:
            monkeypatch.setattr("xpmlp.backends._numpy.blas_libraries", lambda libraries=libraries: libraries)
            assert get_backend("numpy").describe()["products"].endswith(expected)
        for libraries in ([other], []):
            monkeypatch.setattr("xpmlp.backends._numpy.blas_libraries", lambda libraries=libraries: libraries)
            assert "kernels" not in get_backend("numpy").describe()["products"]

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("nunpy", "unknown backend 'nunpy': did you mean numpy\\? expected auto, numpy, cupy"),
            ("", "unknown backend ''"),
            ("numpy:gpu", "numpy has no device 'gpu'"),
            ("array-api-strict:device9", "array-api-strict has no device 'device9': expected cpu, device1"),
        ],
    )
    def test_an_unknown_name_is_refused(self, spec, message):
        with pytest.raises(BackendError, match=message):
            get_backend(spec)

    @pytest.mark.parametrize(
        ("name", "device"),
        [
            ("torch", "cuda:7"),
            ("torch", "abacus"),
            ("jax", "abacus"),
            ("jax", "cpu:99"),
            ("jax", "cpu:x"),
            ("dpnp", "abacus"),
        ],
    )
    @pytest.mark.needs("{name}")
    def test_an_unknown_device_is_refused_with_a_way_out(self, name, device):
        with pytest.raises(BackendError, match="cannot run on .* or --backend auto to train on the CPU") as caught:
            get_backend(f"{name}:{device}")
        assert "\n" not in str(caught.value)

    def test_an_unknown_dtype_is_refused(self):
        with pytest.raises(BackendError, match="dtype 'float16': expected float32 or float64"):
            get_backend("numpy", "float16")


class TestPrecision:
    @pytest.mark.parametrize("spec", ["numpy", "torch", "jax:cpu", "dpnp:cpu", "array-api-strict"])
    @pytest.mark.needs("{spec}")
    def test_tf32_is_refused_where_there_is_none(self, spec):
        with pytest.raises(
            BackendError, match="has no TF32, a precision of NVIDIA's GPUs since Ampere: leave the precision tf32"
        ):
            get_backend(spec, precision="tf32")
        assert str(get_backend(spec, precision="float32")) == str(get_backend(spec))

    def test_an_unknown_one_is_refused(self):
        with pytest.raises(BackendError, match="precision 'half': expected float32 or tf32"):
            get_backend("numpy", precision="half")

    @pytest.mark.parametrize("spec", ["cupy", "torch:cuda", "jax:gpu"])
    @pytest.mark.needs("{spec}")
    def test_tf32_is_taken_on_a_gpu_and_seen_in_a_product(self, spec, find_backend):
        find_backend(spec)
        code = f"""
import numpy as np
from xpmlp.backends import get_backend
x = np.random.default_rng(0).random((512, 512), dtype=np.float32)
def error():
    device = get_backend({spec!r}, precision=precision)
    X = device.asarray(x)
    return np.abs(device.to_numpy(X @ X) / (x.astype("f8") @ x) - 1).max()
precision = None
assert error() < 1e-5
precision = "tf32"
assert 1e-5 < error() < 1e-2, error()
assert "TF32" in str(get_backend({spec!r}).describe()) or {spec!r} != "cupy"
"""
        done = run_python("-c", code)  # it changes the whole process
        assert done.returncode == 0, done.stderr

    @pytest.mark.needs(module="cupy")
    def test_cupys_switch_has_the_names_that_are_used(self):
        from cupy import _core as core

        assert callable(core.set_compute_type)
        assert callable(core.get_compute_type)
        assert core._routines_linalg.COMPUTE_TYPE_TF32 != core._routines_linalg.COMPUTE_TYPE_FP32


class TestWithoutADevice:
    """Against the real CuPy, on a machine that has none of what it needs."""

    @without_a_device
    def test_auto_falls_back_to_numpy_and_says_why(self):
        backend = get_backend("auto")
        assert backend.name == "numpy"
        assert "NVIDIA" in backend.note

    @without_a_device
    def test_auto_does_not_import_cupy(self):
        code = "import sys, xpmlp; xpmlp.get_backend('auto'); print('cupy' in sys.modules)"
        assert run_python("-c", code).stdout.strip() == "False"

    @without_a_device
    @pytest.mark.parametrize("spec", ["cupy", "cupy:0", "cupy:1"])
    def test_cupy_is_refused_in_one_line_with_a_way_out(self, cupy, spec):
        with pytest.raises(BackendError) as caught:
            get_backend(spec)
        message = str(caught.value)
        assert "\n" not in message
        assert message.startswith("cupy cannot run: ")
        assert "driver" in message
        assert message.endswith("or --backend auto to train on the CPU")

    def test_a_device_that_is_no_number_is_refused(self, cupy):
        with pytest.raises(BackendError, match="cupy has no device 'gpu': expected a number, such as cupy:0"):
            get_backend("cupy:gpu")

    @without_a_device
    def test_missing_cuda_parts_are_found_by_running_them(self, cupy):
        """A driver that claims a device: the trial then fails for real, and its error becomes one line."""
        from xpmlp.backends._cupy import _problem

        problem = _problem(0, Driver(None, version=13020, devices=1), wheel=13)
        assert "\n" not in problem
        assert "pip install 'xpmlp[cuda13]'" in problem
        assert "CUDARuntimeError" in problem

    @pytest.mark.parametrize(
        ("version", "wheel", "remedy"),
        [
            (12080, 13, "pip uninstall cupy-cuda13x and pip install 'xpmlp[cuda12]'"),
            (11080, 13, "install a newer driver"),
            (11080, 12, "install a newer driver"),
        ],
    )
    def test_a_driver_too_old_for_the_wheel_is_told_what_fits(self, cupy, version, wheel, remedy):
        from xpmlp.backends._cupy import _problem

        problem = _problem(0, Driver(None, version=version, devices=1), wheel)
        assert f"the driver knows CUDA {version // 1000}, CuPy's wheel needs CUDA {wheel}" in problem
        assert remedy in problem

    def test_a_driver_without_a_device_is_not_told_to_install_a_driver(self, cupy):
        from xpmlp.backends._cupy import _problem

        assert (
            _problem(0, Driver("no device", 13020, remedy="look at nvidia-smi"), 13) == "no device; look at nvidia-smi"
        )

    def test_a_full_gpu_is_not_told_to_install_anything(self, cupy, monkeypatch):
        from contextlib import nullcontext

        from xpmlp.backends._cupy import _problem

        def full(*arguments, **keywords):
            raise cupy.cuda.memory.OutOfMemoryError(1, 2)

        monkeypatch.setattr(cupy.cuda, "Device", lambda index: nullcontext())
        monkeypatch.setattr(cupy, "arange", full)
        problem = _problem(0, Driver(None, version=13020, devices=1), wheel=13)
        assert problem.startswith("GPU 0 has no memory left")
        assert "pip" not in problem

    def test_a_gpu_that_is_not_there_is_named(self, cupy):
        from xpmlp.backends._cupy import _problem

        assert "GPU 3 was asked for and the driver sees 1" in _problem(3, Driver(None, version=13020, devices=1), 13)

    @without_a_device
    def test_auto_goes_on_where_a_device_answers_and_cupy_cannot_run(self, cupy, monkeypatch):
        monkeypatch.setattr(xpmlp.backends, "ask_driver", lambda: Driver(None, version=13020, devices=1))
        backend = get_backend("auto")
        assert backend.name == "numpy"
        assert backend.note.startswith("a CUDA device answers, but cupy cannot run: ")
        assert "--backend auto" not in backend.note, "that is what was asked for"

    @pytest.mark.parametrize(
        ("version", "extra"), [(0, "cuda13"), (12080, "cuda12"), (13000, "cuda13"), (13020, "cuda13")]
    )
    def test_the_extra_fits_the_driver(self, version, extra):
        assert Driver("nothing", version=version).extra == extra


@pytest.mark.parametrize(
    ("package", "spec", "remedy"),
    [
        ("torch", "torch", "pip install 'xpmlp[torch]'"),
        ("jax", "jax", "pip install 'xpmlp[jax]'"),
        ("dpnp", "dpnp", "pip install 'xpmlp[dpnp]'"),
        ("array_api_strict", "array-api-strict", "pip install array-api-strict"),
        ("cupy", "cupy", "pip install 'xpmlp[cuda1"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_what_mends_it(package, spec, remedy):
    code = f"import sys; sys.modules[{package!r}] = None; import xpmlp.__main__ as m; sys.exit(m.main(sys.argv[1:]))"
    done = run_python("-c", code, "train", "--backend", spec)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert remedy in done.stderr
    assert done.stderr.endswith("or --backend auto to train on the CPU\n")


@pytest.mark.needs("jax")
class TestJax:
    def test_an_array_that_would_be_narrowed_is_refused(self, find_backend):
        find_backend("jax")
        code = """
import numpy as np, xpmlp
backend = xpmlp.get_backend("jax")
for kind in ("float64", "int64", "uint64"):
    try:
        backend.asarray(np.ones(2, kind))
    except xpmlp.ArrayError as error:
        print(error)
try:
    xpmlp.get_backend("jax", "float64")
except xpmlp.BackendError as error:
    print(error)
import jax
jax.config.update("jax_enable_x64", True)
print(xpmlp.get_backend("jax", "float64").asarray(np.ones(2)).dtype)
"""
        lines = run_python("-c", code, JAX_ENABLE_X64="0").stdout.splitlines()
        narrow = [line.split(":")[0] for line in lines[:3]]
        assert narrow == [f"JAX would narrow {kind}64 to {kind}32" for kind in ("float", "int", "uint")]
        assert lines[3].startswith('JAX computes in float32 only: jax.config.update("jax_enable_x64", True) at the')
        assert lines[4:] == ["float64"]

    @pytest.mark.slow
    def test_products_are_true_float32_unless_the_user_says_otherwise(self, find_backend):
        find_backend("jax")
        code = """
import jax, xpmlp
with xpmlp.get_backend("jax").context():
    print(jax.config.jax_default_matmul_precision)
print(jax.config.jax_default_matmul_precision)
"""
        assert run_python("-c", code).stdout.split() == ["highest", "None"]
        said = run_python("-c", code, JAX_DEFAULT_MATMUL_PRECISION="tensorfloat32")
        assert said.stdout.split() == ["tensorfloat32"] * 2

    @pytest.mark.slow
    def test_memory_is_not_taken_in_advance_unless_the_user_says_so(self, find_backend):
        find_backend("jax")
        name = "XLA_PYTHON_CLIENT_PREALLOCATE"
        code = """
import os, jax, xpmlp
name, devices = "XLA_PYTHON_CLIENT_PREALLOCATE", jax.devices
def opened(platform=None):
    print(os.environ.get(name))
    return devices(platform)
jax.devices = opened
xpmlp.get_backend("jax")
print(os.environ.get(name))
"""
        assert run_python("-c", code).stdout.split() == ["false", "None"], "and the environment is as it was"
        for setting in (name, "XLA_CLIENT_MEM_FRACTION"):
            said = run_python("-c", code, **{setting: "0.5"}).stdout.split()
            assert said == ["0.5" if setting == name else "None"] * 2


@pytest.mark.needs("dpnp")
class TestDpnp:
    """Its devices, of which it has a CPU wherever its wheel is whole."""

    @staticmethod
    def said(code, **variables):
        """Return what a program prints, which begins without what the tests have set."""
        done = run_python("-c", f"import os, xpmlp; {code}", **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def test_the_device_that_is_said_is_the_device_that_is_had(self, find_backend):
        backend = find_backend("dpnp:cpu")
        assert re.fullmatch(r"dpnp:opencl:cpu:\d", backend.spec)
        assert str(find_backend(backend.spec)) == str(backend) == f"dpnp on {backend.spec.removeprefix('dpnp:')}"
        assert "cpu" in backend.describe()["device"]

    def test_all_arrays_of_a_device_are_on_one_queue(self, find_backend):
        first, second = find_backend("dpnp"), find_backend("dpnp")
        theirs = first.namespace.ones(3)  # as a user makes it
        found = backend_of(theirs).asarray(np.ones(3)) + first.asarray(np.ones(3)) + second.asarray(np.ones(3)) + theirs
        assert first.to_numpy(found).tolist() == [4, 4, 4]

    def test_an_array_on_a_queue_of_its_own_stays_there_and_is_told_apart(self, find_backend):
        usual = find_backend("dpnp")
        import dpctl

        array = usual.namespace.ones(3, sycl_queue=dpctl.SyclQueue())
        found = backend_of(array)
        assert str(found).startswith(f"{usual}, queue ")
        assert str(backend_of(array + 1)) == str(found)
        assert found.to_numpy(found.asarray(np.ones(3)) + array).tolist() == [2, 2, 2]
        assert str(find_backend(found.spec)) == str(usual)

    def test_the_environment_is_as_it_was_and_what_the_user_set_stays(self):
        variable = "OCL_ICD_FILENAMES"
        assert self.said(f"xpmlp.get_backend('dpnp:cpu'); print(os.environ.get({variable!r}))") == "None"
        code = "try: xpmlp.get_backend('dpnp')\nexcept xpmlp.BackendError as error: print(error)"
        found = self.said("\n" + code, **{variable: "/nowhere", "OCL_ICD_VENDORS": "/nowhere"})
        assert found == "" or found.startswith("dpnp cannot run: SYCL finds no device; set OCL_ICD_FILENAMES=")
        assert "\n" not in found

    def test_what_is_missing_is_told_from_what_does_not_work(self, find_backend, monkeypatch):
        find_backend("dpnp")
        import dpctl

        from xpmlp.backends import _dpnp

        none = dpctl.SyclDeviceCreationError("Default device is unavailable.")
        assert _dpnp._problem(None, RuntimeError("no kernel\nat all")).startswith(
            "no kernel; its driver may not fit it"
        )
        assert _dpnp._problem("abacus", none).startswith("SYCL knows no such device; write dpnp:")
        monkeypatch.setattr(dpctl, "get_devices", list)
        monkeypatch.setattr(_dpnp, "_CPU_DRIVER", Path("/nowhere/libintelocl.so"))
        assert _dpnp._problem(None, none).startswith("SYCL finds no device; pip install intel-opencl-rt")
        monkeypatch.setattr(_dpnp, "_CPU_DRIVER", Path(__file__))
        assert _dpnp._problem("cpu", none).startswith(f"SYCL finds no device; set OCL_ICD_FILENAMES={__file__} before")

    def test_a_gpu_that_is_not_there_is_named_with_what_mends_it(self, find_backend):
        find_backend("dpnp")
        with pytest.raises(BackendError, match="dpnp cannot run on 'gpu:99': SYCL finds .* alone; install the GPU's"):
            get_backend("dpnp:gpu:99")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
class TestADeviceWithoutFloat64:
    """As some of Intel's GPUs are: array-api-strict has one."""

    @pytest.fixture
    def narrow(self):
        strict = pytest.importorskip("array_api_strict", minversion="2.6")
        from xpmlp.backends._strict import StrictBackend

        class Narrow(StrictBackend):
            def __init__(self):
                self.device = strict.Device("no_float64")

        return Narrow()

    def test_refuses_it_in_one_line(self, narrow):
        with pytest.raises(BackendError, match="strict on no_float64 has no float64: take float32, or --backend auto"):
            narrow.require("float64")
        narrow.require("float32")
        with pytest.raises(ArrayError, match="array-api-strict takes no float64"):
            narrow.asarray(np.ones(2))

    @pytest.mark.parametrize("solver", ["adam", "lbfgs"])
    def test_has_estimators_in_float32(self, narrow, solver):
        rng = np.random.default_rng(0)
        X, y = rng.random((60, 5), dtype=np.float32), np.arange(60) % 3
        settings = {"hidden_layer_sizes": (6,), "max_iter": 3, "random_state": 0, "solver": solver}
        expected = xpmlp.MLPClassifier(**settings).fit(X, y)
        ours = xpmlp.MLPClassifier(**settings).fit(narrow.asarray(X), y, rng.random(60) * 0 + 1)
        found = narrow.to_numpy(ours.predict_proba(narrow.asarray(X)))
        assert found.dtype == np.float32
        assert relative_error(found, expected.predict_proba(X)) < 1e-4
        with pytest.raises(BackendError, match="no_float64 has no float64"):
            xpmlp.MLPClassifier(dtype="float64").fit(narrow.asarray(X), y)

    def test_takes_an_estimator_of_float64_as_float32(self, narrow):
        X, y = np.random.default_rng(0).random((60, 5)), np.arange(60) % 3
        ours = xpmlp.MLPClassifier((6,), dtype="float64", max_iter=3, random_state=0).fit(X, y)
        there = ours.to(narrow)
        found = narrow.to_numpy(there.predict_proba(narrow.asarray(X.astype(np.float32))))
        assert relative_error(found, ours.predict_proba(X)) < 1e-5


class TestThirdParties:
    @pytest.fixture
    def added(self, monkeypatch):
        class Abacus(NumpyBackend):
            name = "abacus"
            library = "decimal"

            @classmethod
            def of(cls, array):
                return cls()

        class Entry(importlib.metadata.EntryPoint):
            def load(self):
                if self.name == "a-broken-one":
                    raise RuntimeError("no beads")
                return Abacus

        entries = [Entry(name, "beads:Abacus", "xpmlp.backends") for name in ("a-broken-one", "abacus")]
        monkeypatch.setattr(xpmlp.backends, "entry_points", lambda group: entries if group == "xpmlp.backends" else [])
        return Abacus

    def test_a_backend_is_added_by_its_entry_point(self, added):
        assert type(get_backend("abacus")) is added
        assert backend_names()[-2:] == ["a-broken-one", "abacus"]

    def test_its_arrays_are_known_whatever_is_wrong_with_another(self, added):
        import decimal

        assert type(backend_of(decimal.Decimal(1))) is added

    def test_one_that_does_not_load_is_refused_in_one_line(self, added):
        with pytest.raises(BackendError, match=r"the backend a-broken-one \(beads:Abacus\) cannot be loaded: no beads"):
            get_backend("a-broken-one")


class TestProbing:
    def test_a_backend_that_runs_reports_version_device_and_memory(self):
        (report,) = probe("numpy")
        assert report.problem is None
        assert (report.spec, report.version, report.device) == ("numpy", np.__version__, "cpu")
        assert report.memory is None or report.memory > 10**6

    @pytest.mark.needs("array-api-strict")
    def test_further_devices_are_reported_where_they_run(self, find_backend):
        find_backend("array-api-strict")
        assert [report.spec for report in probe("array-api-strict")] == ["array-api-strict", "array-api-strict:device1"]

    def test_one_that_cannot_run_reports_why(self):
        (report,) = probe("no-such")
        assert report.problem.startswith("unknown backend 'no-such'")

    @pytest.fixture
    def only_numpy(self, monkeypatch):
        monkeypatch.setattr("xpmlp.backends.probe.backend_names", lambda: ["numpy"])

    def test_each_is_probed_in_a_process_of_its_own(self, only_numpy, monkeypatch):
        monkeypatch.setattr(NumpyBackend, "describe", lambda self: {"version": "of this process", "device": ""})
        (report,) = probe_all()
        assert (report.spec, report.version) == ("numpy", np.__version__)

    def test_one_that_does_not_answer_is_given_up(self, only_numpy, monkeypatch):
        monkeypatch.setattr("xpmlp.backends.probe.TIME_LIMIT", 0.01)
        (report,) = probe_all()
        assert report.problem.startswith("it did not answer in")

    def test_one_that_ends_its_process_is_said_to(self, only_numpy, monkeypatch):
        monkeypatch.setattr("sys.executable", "/bin/false")
        (report,) = probe_all()
        assert report.problem.startswith("its process ended with 1")

    @pytest.mark.full
    def test_the_available_ones_can_be_had(self):
        specs = available_backends()
        assert "numpy" in specs
        for spec in specs:
            assert get_backend(spec).asarray(np.ones(1, dtype=np.float32)) is not None


def test_memory_is_written_as_people_read_it():
    assert [format_bytes(count) for count in (12, 1500, 24.8e9, 3e21)] == ["12 bytes", "1.5 kB", "24.8 GB", "3e+03 EB"]


def test_free_memory_of_the_host_is_no_more_than_it_has():
    free = free_host_memory()
    assert free is None or 10**6 < free < 10**15


def test_memory_that_is_short_ends_no_computation_before_it_begins(monkeypatch):
    def short(*arguments):
        raise MemoryError

    _free_a_large_block.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", short)
        with computing(get_backend("numpy"), 8):
            pass


class TestFreedMemory:
    """A step's arrays come from the memory that the step before freed: no page of it is asked for again."""

    CODE = """
import platform, resource
import numpy as np
from xpmlp.backends import get_backend
from xpmlp.benchmark.checking import make_problem
from xpmlp.math.network import backward, forward, score
problem = make_problem(n=32)
theta, X = problem.theta.astype("float32"), problem.X.astype("float32")

def gradient():
    layers = problem.layout.unflatten(theta)
    S, trail = forward(layers, X)
    return problem.layout.flatten(backward(layers, trail, score(S, problem.labels)[0]))

gradient = get_backend("numpy").compile(gradient)
for _ in range(5):
    gradient()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    gradient()
print(platform.libc_ver()[0], (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 20)
"""

    @pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
    def test_no_step_asks_the_system_for_memory(self):
        library, faults = run_python("-c", self.CODE).stdout.split()
        if library != "glibc":
            pytest.skip(f"the C library is {library}, not glibc")
        assert float(faults) < 20
        _, faults = run_python("-c", self.CODE, MALLOC_TRIM_THRESHOLD_="131072").stdout.split()
        assert float(faults) > 200, "what the user set in the environment was changed, or there was nothing to mend"


class TestRunsOfSteps:
    @staticmethod
    def step(total, count, batch, scalars, noise):
        table, line = batch
        return total * scalars["decay"] + table[line, :] * scalars["rate"], count + 1

    @staticmethod
    def inputs(table, n):
        for k in range(n):
            yield (table, k % table.shape[0]), {"rate": 1.0 / (k + 1), "decay": 0.5}, None

    @pytest.mark.parametrize("n", [0, 1, 2, 31, 32, 33, 100])
    def test_end_where_their_steps_end(self, backend, n):
        table = backend.asarray(np.random.default_rng(0).random((7, 5)))

        def start():
            return tuple(backend.asarray(zeros, copy=True) for zeros in (np.ones(5), np.zeros((), np.int32)))

        one_by_one = start()
        for each in self.inputs(table, n):
            one_by_one = self.step(*one_by_one, *each)
        compiled = backend.compile(self.step, donate=(0, 1))
        found = backend.repeat(compiled, start(), self.inputs(table, n))
        assert relative_error(backend.to_numpy(found[0]), backend.to_numpy(one_by_one[0])) < 1e-12
        assert int(found[1]) == n

    @pytest.mark.needs("jax")
    def test_are_one_call_of_jax_where_only_numbers_differ(self, find_backend):
        backend = find_backend("jax", "float64")
        called, table = [], backend.asarray(np.ones((7, 5)))

        def step(*arguments):
            called.append(len(called))
            return self.step(*arguments)

        compiled, carry = backend.compile(step), (backend.asarray(np.zeros(5)), backend.asarray(np.zeros((), np.int32)))
        for n in 100, 7, 64:
            carry = backend.repeat(compiled, carry, self.inputs(table, n))
        assert int(carry[1]) == 171
        assert len(called) <= 3, "a loop is traced, for any number of turns"
        others = (((backend.asarray(np.ones((7, 5)) * k), 0), {"rate": 1.0, "decay": 1.0}, None) for k in range(40))
        total, count = backend.repeat(compiled, carry, others)  # an array of its own in each step
        assert int(count) == 211
        assert relative_error(backend.to_numpy(total), backend.to_numpy(carry[0]) + sum(range(40))) < 1e-12

    @pytest.mark.needs("jax")
    def test_of_jax_may_differ_in_arrays_of_the_host(self, find_backend):
        backend, lengths = find_backend("jax", "float64"), []
        compiled, total = backend.compile(lambda total, rate: (total + rate,)), backend.asarray(np.zeros((3, 1)))
        original = compiled.repeat
        compiled.repeat = lambda carry, inputs: lengths.append(len(inputs)) or original(carry, inputs)
        rates = np.random.default_rng(0).random((40, 3, 1))
        (found,) = backend.repeat(compiled, (total,), ((rate,) for rate in rates))
        assert lengths == [32, 8]
        assert relative_error(backend.to_numpy(found), rates.sum(axis=0)) < 1e-12
        ragged = [rates[0], rates[1], rates[2, :1], rates[3]]  # of other shapes: step by step
        (found,) = backend.repeat(compiled, (total,), ((rate,) for rate in ragged))
        assert relative_error(backend.to_numpy(found), sum(ragged)) < 1e-12
