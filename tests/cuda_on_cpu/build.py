"""Build the emulated CUDA device and install it into the environment of the Python that runs this.

python tests/cuda_on_cpu/build.py [--remove]
"""

import compileall
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from interface import Problem, check_tools, compare

HERE = Path(__file__).resolve().parent
SITE = Path(sysconfig.get_paths()["platlib"])
PACKAGE, HOOK = SITE / "cuda_on_cpu", SITE / "cuda_on_cpu.pth"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")

CXX = ["g++", "-std=c++17", "-O2", "-fPIC", "-Wall", "-Wextra", f"-I{HERE}/device", f"-I{HERE}/installed/include"]
C = ["g++", "-x", "c", "-fPIC"]
# What nvrtc/compiler.cpp passes for every kernel, without which the precompiled header is not used.
KERNEL = ["g++", "-O1", "-std=gnu++17", "-w", "-fPIC", "-fno-gnu-unique", "-fno-semantic-interposition"]
KERNEL += ["-fno-strict-aliasing", "-ffp-contract=off", "-D__CUDA_ARCH__=900"]


def run(*words, **options):
    """Run a compiler, and fail with what it printed."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)
    if done.returncode:
        raise Problem(f"{words[0]} failed:\n{done.stdout}{done.stderr}")
    sys.stderr.write(done.stderr)
    return done.stdout


def sources(folder):
    return sorted((HERE / folder).glob("*.cpp"))


def build_id():
    """Tell one state of the sources from another, for CuPy's cache of kernels."""
    digest = hashlib.sha256()
    for file in sorted([*(HERE / "installed/include").rglob("*.h"), *(HERE / "nvrtc").iterdir()]):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def compile_object(source, work):
    run(*CXX, f'-DBUILD_ID="{build_id()}"', "-c", source, "-o", work / f"{source.stem}.o")


def compile_runtime(work, theirs):
    """Translate and compile the module that stands in for CuPy's own; Cython wants the package's folders."""
    tree = work / "cupy_backends/cuda/api"
    tree.mkdir(parents=True)
    for folder in (tree, tree.parent, tree.parent.parent):
        (folder / "__init__.py").touch()
    for file in (HERE / "runtime").iterdir():
        shutil.copy(file, tree)
    signatures = {name: signature.encode() for name, signature in theirs["signatures"].items()}
    (tree / "wheel.pxi").write_text(f"_SIGNATURES = {signatures}\n_FUNCTIONS = {theirs['functions']}\n")
    run(sys.executable, "-m", "cython", "-3", tree / "runtime.pyx", "-o", work / "runtime.c", cwd=work)
    includes = [f"-I{sysconfig.get_paths()['include']}", f"-I{HERE}/device"]
    run(*C, "-O1", "-w", *includes, "-c", work / "runtime.c", "-o", work / "runtime.o")


def refuse_cublas(wheel, work):
    """Define the functions of cuBLAS that CuPy links to and ours lacks; they answer CUBLAS_STATUS_NOT_SUPPORTED."""
    defined = {line.split()[-1] for line in run("nm", "--defined-only", work / "cublas.o").splitlines()}
    lines = [f"int {name}(void) {{ return 15; }}\n" for name in sorted(wheel.cublas() - defined)]
    (work / "refused.c").write_text("".join(lines))
    run(*C, "-c", work / "refused.c", "-o", work / "refused.o")


def link(output, *words):
    run("g++", "-shared", f"-Wl,-soname,{output.name}", "-Wl,-rpath,$ORIGIN", "-o", output, *words)


def build(wheel, theirs, package, work):
    """Make the package that is to be installed."""
    shutil.copytree(HERE / "installed", package, ignore=shutil.ignore_patterns("__pycache__"))
    lib = package / "lib"
    lib.mkdir()
    compileall.compile_dir(package, ddir=PACKAGE, quiet=1)
    header = package / "include/cuda_on_cpu.h"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(compile_runtime, work, theirs)]
        jobs += [
            pool.submit(compile_object, file, work) for name in ("device", "nvrtc", "cublas") for file in sources(name)
        ]
        # By its bare name, which is what messages show of it.
        jobs += [pool.submit(run, *KERNEL, "-x", "c++-header", header.name, "-o", f"{header}.gch", cwd=header.parent)]
        for job in jobs:
            job.result()
    refuse_cublas(wheel, work)
    link(lib / "libcuda.so.1", *(work / f"{file.stem}.o" for file in sources("device")))
    link(lib / "libnvrtc.so.13", *(work / f"{file.stem}.o" for file in sources("nvrtc")))
    versions = f"-Wl,--version-script={HERE}/cublas/versions.map"
    link(lib / "libcublas.so.13", versions, work / "cublas.o", work / "refused.o", lib / "libcuda.so.1")
    (work / "empty.c").touch()
    link(lib / "libcublasLt.so.13", "-x", "c", work / "empty.c")  # CuPy looks for it, and calls nothing of it
    link(lib / f"runtime{SUFFIX}", work / "runtime.o", lib / "libcuda.so.1")


def remove():
    HOOK.unlink(missing_ok=True)
    shutil.rmtree(PACKAGE, ignore_errors=True)


def install():
    wheel = check_tools()
    with tempfile.TemporaryDirectory(prefix=".cuda_on_cpu-", dir=SITE) as folder:
        package, work = Path(folder) / "cuda_on_cpu", Path(folder) / "work"
        work.mkdir()
        theirs = wheel.runtime()
        build(wheel, theirs, package, work)
        compare(wheel, package / "lib", theirs)
        remove()
        package.rename(PACKAGE)
    HOOK.write_text("import cuda_on_cpu\n")
    sys.stdout.write(f"installed in {PACKAGE}\n")


def main(arguments):
    if arguments not in ([], ["--remove"]):
        sys.stderr.write("usage: build.py [--remove]\n")
        return 2
    try:
        remove() if arguments else install()
    except Problem as problem:
        sys.stderr.write(f"build.py: {problem}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
