"""What build.py checks before it builds, and what it compares with the installed CuPy."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cuda_on_cpu import interface

HERE = Path(__file__).resolve().parent
needs_cupy = pytest.mark.skipif(interface.version("cupy-cuda13x") is None, reason="cupy-cuda13x is not installed here")


def refusal(*arguments, python=(), **variables):
    command = [sys.executable, *python, HERE / "build.py", *arguments]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    return done.stderr


def test_an_unknown_argument_is_refused():
    assert refusal("--help-me") == "usage: build.py [--remove]\n"


def test_without_cupy_it_says_what_to_install():
    message = refusal(python=["-S"])  # without site-packages
    assert message.startswith("build.py: cupy-cuda13x is not installed in ")
    assert message.endswith(": pip install cupy-cuda13x==14.2.0\n")


@needs_cupy
def test_without_a_compiler_it_says_what_to_install(tmp_path):
    assert "there is no g++ on PATH" in refusal(PATH=str(tmp_path))


def pretend_cython(folder, version):
    fake = folder / f"cython-{version}.dist-info"
    fake.mkdir()
    (fake / "METADATA").write_text(f"Metadata-Version: 2.1\nName: cython\nVersion: {version}\n")


@needs_cupy
def test_another_cython_than_the_wheels_is_refused(tmp_path):
    pretend_cython(tmp_path, "0.29.0")
    message = refusal(PYTHONPATH=str(tmp_path))
    assert "was built with Cython 3." in message
    assert "and here is 0.29.0: pip install cython==3." in message


@needs_cupy
def test_without_the_runtimes_headers_it_says_what_to_install(tmp_path):
    pretend_cython(tmp_path, interface.Wheel().cython)
    fake = tmp_path / "cuda/pathfinder"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("def find_nvidia_header_directory(name): return None\n")
    assert refusal(PYTHONPATH=str(tmp_path)).endswith(": pip install nvidia-cuda-runtime\n")


@pytest.fixture
def lib():
    reason = "the emulated device is not installed here: python tests/cuda_on_cpu/build.py"
    return Path(pytest.importorskip("cuda_on_cpu", reason=reason).__file__).parent / "lib"


def test_what_is_installed_has_the_interface_of_the_installed_cupy(lib):
    wheel = interface.Wheel()
    interface.compare(wheel, lib, wheel.runtime())


def test_an_interface_that_differs_is_told_in_one_line(lib):
    wheel = interface.Wheel()
    theirs = wheel.runtime()
    theirs["signatures"]["free"] = "PyObject *(size_t)"
    del theirs["signatures"]["malloc"]
    theirs["classes"].append("Capsule")
    theirs["constants"]["eventDefault"] = 8
    with pytest.raises(interface.Problem) as problem:
        interface.compare(wheel, lib, theirs)
    ours = "PyObject *(intptr_t, int __pyx_skip_dispatch)"
    assert str(problem.value) == (
        f"CuPy {wheel.version} has another interface: free is PyObject *(size_t) in CuPy, {ours} in ours; "
        "malloc is not there in CuPy, intptr_t (size_t, int __pyx_skip_dispatch) in ours; "
        f"the class Capsule is not there in ours (and 1 more): mend {HERE}/runtime/runtime.pyx and runtime.pxd"
    )


def test_only_a_function_whose_callers_see_the_exception_is_left_to_be_refused(lib, monkeypatch):
    wheel = interface.Wheel()
    theirs = wheel.runtime()
    describe = interface.describe

    def with_one_more(file):
        ours = describe(file)
        ours["signatures"]["deviceGetSomething"] = "int (int)"
        ours["refused"].append("deviceGetSomething")
        return ours

    theirs["signatures"]["deviceGetSomething"] = "int (int)"
    monkeypatch.setattr(interface, "describe", with_one_more)
    with pytest.raises(interface.Problem, match=r"deviceGetSomething is int \(int\) in CuPy, not there in ours"):
        interface.compare(wheel, lib, theirs)


def test_functions_that_cupy_looks_up_are_missed(lib, tmp_path):
    (tmp_path / "runtime.so").symlink_to(next(lib.glob("runtime.*")))
    (tmp_path / "libcuda.so.1").symlink_to(lib / "libcuda.so.1")
    (tmp_path / "empty.c").touch()
    command = ["g++", "-shared", "-Wl,-soname,libnvrtc.so.13", "-o", tmp_path / "libnvrtc.so.13", tmp_path / "empty.c"]
    subprocess.run(command, check=True)
    wheel = interface.Wheel()
    with pytest.raises(interface.Problem, match=r"it looks up nvrtc\w+, which ours lacks"):
        interface.compare(wheel, tmp_path, wheel.runtime())


def test_a_change_of_any_header_of_kernels_renews_the_cache(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    build = pytest.importorskip("build")
    shutil.copytree(HERE / "installed", tmp_path / "installed")
    shutil.copytree(HERE / "nvrtc", tmp_path / "nvrtc")
    monkeypatch.setattr(build, "HERE", tmp_path)
    seen = {build.build_id()}
    for header in sorted((tmp_path / "installed/include").rglob("*.h")):
        header.write_text(header.read_text() + "\n")
        seen.add(build.build_id())
    assert len(seen) > 5
    assert len(seen) == 1 + len(list((tmp_path / "installed/include").rglob("*.h")))
