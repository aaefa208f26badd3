"""What the tests share: every available backend through one fixture, and small data."""

import dataclasses
import importlib.util
import json
import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(
        _variable, "1"
    )  # small products: threads would only wait, and fight where tests run side by side

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # or scikit-learn's checks of other libraries' arrays skip silently

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script, and so in all that tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from xpmlp.backends import Backend, get_backend, own_process  # noqa: E402
from xpmlp.backends._driver import ask_driver  # noqa: E402
from xpmlp.data import Dataset, idx  # noqa: E402
from xpmlp.data.sources import SOURCES  # noqa: E402
from xpmlp.kernels import kernels  # noqa: E402

settings.register_profile("untimed", settings(), deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

ROOT = Path(__file__).parent.parent
collect_ignore = [] if importlib.util.find_spec("cupy") else ["kernels/test_cuda_kernels.py"]
SPECS = (
    "numpy",
    "cupy",
    "torch",
    "torch:cuda",
    "jax",
    "jax:gpu",
    "dpnp",
    "array-api-strict",
    "array-api-strict:device1",
)
OPTIONAL_DEVICES = {"cupy:1", "torch:cuda", "jax:gpu"}
"""Devices beside the library's own, which no requirement covers: `--require-backend torch` is its CPU."""

ONE_CASE = {"torch:cuda", "jax", "jax:gpu", "array-api-strict:device1"}
"""Of these backends a test with many cases runs one, which its name draws, and the others are `full`: JAX compiles
every operation for every shape and dtype, and the others do what their library does on its usual device."""

IN_FLOAT32 = {"torch", "array-api-strict"}
"""Of these the cases in float64 are `full` where the same are there in float32, in which a stray float64 shows."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-backend",
        action="append",
        default=[],
        metavar="NAME",
        help="fail, instead of leaving out, the tests of a backend that cannot run here",
    )


def pytest_configure(config: pytest.Config) -> None:
    known = {spec.partition(":")[0] for spec in SPECS} | set(SPECS)
    unknown = set(config.getoption("--require-backend")) - known
    if unknown:
        raise pytest.UsageError(f"--require-backend {', '.join(unknown)}: expected one of {', '.join(sorted(known))}")
    if hasattr(config, "workerinput"):
        PROBLEMS.update(config.workerinput["problems"])
    else:
        hasten_jax(config)


def hasten_jax(config: pytest.Config) -> None:
    """Have XLA compile fast rather than well, and only once what several processes need; inherited by all of them."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = config.cache.mkdir("jax") if hasattr(config, "cache") else tempfile.mkdtemp(prefix="xpmlp-jax-")
        if not hasattr(config, "cache"):
            config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    library = importlib.util.find_spec("jaxlib")
    if library and ask_driver().problem and "XLA_FLAGS" not in os.environ and not names_full(config):
        flags = ["--xla_backend_optimization_level=0"]
        binary = Path(library.origin).with_name("libjax_common.so")
        if binary.exists():  # a flag that XLA does not know ends the process
            with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if content.find(b"xla_cpu_use_fusion_emitters") >= 0:
                    flags.append("--xla_cpu_use_fusion_emitters=false")
        os.environ["XLA_FLAGS"] = " ".join(flags)


def names_full(config: pytest.Config) -> bool:
    """Return whether ``-m`` names the marker `full`."""
    return re.search(r"\bfull\b", config.getoption("markexpr")) is not None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    """Find out for pytest-xdist's processes what runs here."""
    node.workerinput["problems"] = {spec: problem_of(spec) for spec in (*SPECS, *OPTIONAL_DEVICES)}


PROBLEMS: dict[str, str | None] = {}
"""What each backend that was asked for lacks here."""

LEFT_OUT = pytest.StashKey[dict[str, int]]()


def problem_of(spec: str) -> str | None:
    """Return what a backend lacks to run here, None where it runs."""
    if spec not in PROBLEMS:
        PROBLEMS[spec] = find_problem(spec)
    return PROBLEMS[spec]


def find_problem(spec: str) -> str | None:
    """Return what a backend lacks, found without importing it into this process."""
    name, _, device = spec.partition(":")
    if importlib.util.find_spec(name.replace("-", "_")) is None:
        return name
    if name != "cupy" and device not in ("cuda", "gpu"):
        return None  # one that is installed and broken fails its tests
    driver = ask_driver()
    if driver.problem:
        return f"a CUDA device ({driver.problem})"
    code = f"import xpmlp\ntry: xpmlp.get_backend({spec!r})\nexcept xpmlp.BackendError as error: print(error)"
    done = run_python("-c", code)
    lines = (done.stderr if done.returncode else done.stdout).splitlines()
    return f"{spec} ({lines[-1]})" if lines else None


def backends_of(item: pytest.Item) -> list[str]:
    """Return the backends that an item runs on, as its parameters and marks say."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    marked = [spec.format(**parameters) for mark in item.iter_markers("needs") for spec in mark.args]
    return [*marked, *(parameters[name] for name in ("backend", "device") if parameters.get(name) in SPECS)]


def missing(config: pytest.Config, item: pytest.Item) -> str | None:
    """Return what an item needs and has not here, as its marks and its parameters say."""
    required = config.getoption("--require-backend")
    modules, commands, device = [], [], None
    for mark in item.iter_markers("needs"):
        modules.append(mark.kwargs.get("module"))
        commands += mark.kwargs.get("commands", ())
        device = mark.kwargs.get("device", device)
    for spec in backends_of(item):
        is_required = spec in required or (spec.partition(":")[0] in required and spec not in OPTIONAL_DEVICES)
        if not is_required and problem_of(spec):
            return problem_of(spec)
    modules += ["cupy"] if "cupy" in item.fixturenames else []
    if "mpiexec" in item.fixturenames:
        modules.append("mpi4py")
        if find_mpiexec() is None:
            return "mpiexec"
    for module in filter(None, modules):
        if importlib.util.find_spec(module) is None:
            return module
    for command in commands:
        if shutil.which(command) is None:
            return f"{command} on the PATH"
    if device is not None and device != (ask_driver().problem is None):
        return "a CUDA device" if device else "a machine without a CUDA device"
    return None


def inner_cases(name: str, spec: str, group: list[pytest.Item]) -> list[pytest.Item]:
    """Return those of a test's cases on one backend that its default run leaves out."""
    if spec in ONE_CASE:
        if spec == "jax" and group[0].get_closest_marker("long_on_jax"):
            return group
        drawn = zlib.crc32(name.encode()) % len(group)
        return [*group[:drawn], *group[drawn + 1 :]]
    dtypes = {item: item.callspec.params.get("dtype") for item in group if hasattr(item, "callspec")}
    return [item for item in dtypes if dtypes[item] == "float64"] if "float32" in dtypes.values() else []


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]):
    """Leave out what cannot run here, and what is `full` unless ``-m`` names that."""
    cases: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        if any(spec.partition(":")[0] == "cupy" for spec in backends_of(item)):
            item.add_marker("cupy")
        for spec in (ONE_CASE | IN_FLOAT32).intersection(backends_of(item)):
            cases.setdefault((item.nodeid.partition("[")[0], spec), []).append(item)
    for (name, spec), group in cases.items():
        for item in inner_cases(name, spec, group):
            item.add_marker("full")
    seen = set()
    for item in items:  # of a slow test's cases one is enough between releases
        if item.get_closest_marker("slow"):
            function = item.nodeid.partition("[")[0]
            if function in seen:
                item.add_marker("full")
            seen.add(function)
    yield
    kept, left_out, why = [], [], Counter()
    for item in items:
        reason = missing(config, item)
        if reason is None and (names_full(config) or not item.get_closest_marker("full")):
            kept.append(item)
        else:
            left_out.append(item)
            why[reason or "-m full"] += 1
    items[:] = kept
    config.stash[LEFT_OUT] = why
    config.hook.pytest_deselected(items=left_out)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = dict(session.config.stash.get(LEFT_OUT, {}))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left out", {})


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    """Say in a line what was left out, and for want of what."""
    left_out = config.stash.get(LEFT_OUT, {})
    if left_out:
        terminalreporter.write_line("left out: " + ", ".join(f"{n} need {what}" for what, n in left_out.items()))


@pytest.fixture(scope="session")
def find_backend() -> Callable[..., Backend]:
    """Return a backend by its name; a test that calls this says so by the marker `needs`."""

    def find(spec: str, dtype: str | None = None) -> Backend:
        own_process(spec, dtype)
        return get_backend(spec, dtype)

    return find


@pytest.fixture(params=SPECS)
def backend(request: pytest.FixtureRequest, find_backend: Callable[..., Backend]) -> Backend:
    """Every backend that can run here, in turn, able to compute in float64."""
    return find_backend(request.param, "float64")


@pytest.fixture
def each_way(backend):
    """Return an iterator over the kernels that a library has: plain lines, NumPy's in place, compiled ones.

    JAX's few are written by hand; of the others it runs the plain lines anyway.
    """

    def ways():
        numba = importlib.util.find_spec("numba") is not None
        others = {"numpy": ["inplace", "compiled"] if numba else ["inplace"], "array-api-strict": []}
        plain = ["plain"] if backend.name != "jax" else []
        for name in [*plain, *others.get(backend.name, ["compiled"])]:
            with kernels(name):
                yield name

    return ways


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks a data set's real mirrors."""
    for name, source in SOURCES.items():
        monkeypatch.setitem(SOURCES, name, dataclasses.replace(source, mirrors=()))


def make_dataset(n: int, seed: int = 0, *, n_classes: int = 3) -> Dataset:
    """Return n images of 5 × 4 pixels that a perceptron learns in an instant: each class is bright elsewhere."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % n_classes).astype(np.uint8)
    images = rng.integers(0, 120, (n, 5, 4), dtype=np.uint8)
    images[np.arange(n), labels] += 100
    return Dataset(images, labels, tuple("abcdefghij"[:n_classes]), 255, f"{n} made-up images")


@pytest.fixture
def tiny() -> Dataset:
    return make_dataset(240)


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """A folder with MNIST's four files, of made-up images."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    for part, data in (("train", make_dataset(240)), ("t10k", make_dataset(60, seed=1))):
        idx.write(folder / f"{part}-images-idx3-ubyte.gz", data.images)
        idx.write(folder / f"{part}-labels-idx1-ubyte", data.labels)
    return folder


def results(run: Path) -> tuple[list[dict], dict, bytes]:
    """Return what must be the same in a run that went on and one that was never interrupted."""
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    for line in metrics:
        del line["seconds"], line["samples_per_second"]
    del summary["total_seconds"]
    return metrics, summary, (run / "model.safetensors").read_bytes()


def environment(**variables: str) -> dict[str, str]:
    """Return an environment in which a Python process finds this checkout's package, installed or not."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **variables}


def run_on_a_terminal(command: list[str], **variables: str) -> tuple[int, str]:
    """Run a command whose output is a pseudo-terminal; return its exit code and what it printed."""
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment(**variables)) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    return process.returncode, shown.decode()


def run_python(*arguments: str, timeout: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run this Python on a command line and return what came of it."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**variables),
        check=False,
    )


def find_mpiexec() -> str | None:
    """Return the command that starts ranks, of this environment before any other."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which("mpiexec", path=beside)


@pytest.fixture(scope="session")
def mpiexec() -> str | None:
    """The command that starts ranks; without one, or without mpi4py, tests that ask for it are left out."""
    return find_mpiexec()


@pytest.fixture
def mnist_like(tmp_path: Path) -> Path:
    """MNIST's four files, of 28 × 28 made-up images that are learned in an instant."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, n in (("train", 600), ("t10k", 100)):
        labels = (np.arange(n) % 10).astype(np.uint8)
        images = rng.integers(0, 60, (n, 28, 28), dtype=np.uint8)
        images[np.arange(n), 2 * labels] += 190
        idx.write(folder / f"{part}-images-idx3-ubyte.gz", images)
        idx.write(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder
