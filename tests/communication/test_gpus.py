"""Ranks on GPUs: real launches on emulated devices, where a stand-in for NCCL's communicator sums through the host.

It holds what NCCL is told, and when: the device, the order, the dtype, the memory. NCCL itself was never run.
"""

import re
import subprocess
import sys

import numpy as np
import pytest

from tests.communication.test_communication import LAUNCH_ENV, LIMIT, launch  # noqa: F401
from tests.conftest import environment
from xpmlp import load
from xpmlp.benchmark.checking import relative_error
from xpmlp.commands import main

pytestmark = pytest.mark.needs("cupy", module="cuda_on_cpu")

STAND_IN = """
import ctypes, os, sys, time
from types import SimpleNamespace
import cupy, numpy as np
from cuda_on_cpu.control import on_host
from mpi4py import MPI
import xpmlp.communication._nccl as module

class Communicator:
    def __init__(self, size, identity, rank):
        assert (size, rank, identity) == (MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank, b"rank 0's")
        self.device, self.sums = cupy.cuda.Device().id, 0

    def allReduce(self, source, target, n, kind, operation, stream):
        assert source == target and operation == "sum"
        assert cupy.cuda.Device().id == self.device, "another GPU is the current one"
        assert stream == cupy.cuda.get_current_stream().ptr
        where = cupy.cuda.runtime.pointerGetAttributes(source)
        assert (where.type, where.device) == (2, self.device), "the vector is not this GPU's"
        self.sums += 1

        def add(_):  # in its turn on the stream
            memory = (ctypes.c_char * (n * np.dtype(kind).itemsize)).from_address(source)
            with on_host(source):
                MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, np.frombuffer(memory, kind))

        cupy.cuda.runtime.launchHostFunc(stream, add, 0)

    def check_async_error(self):
        if module.WATCH_INTERVAL < 1 and self.sums >= 20:
            raise RuntimeError("NCCL_ERROR_REMOTE_ERROR: a remote process exited or there was a network error")

    def destroy(self):
        print("rank", MPI.COMM_WORLD.rank, "on GPU", self.device, "summed", self.sums, "times", flush=True)

module.nccl = SimpleNamespace(
    available=True, NcclError=RuntimeError, NCCL_FLOAT32="float32", NCCL_FLOAT64="float64", NCCL_SUM="sum",
    get_unique_id=lambda: b"rank 0's", get_version=lambda: 22707, NcclCommunicator=Communicator,
)
from xpmlp.commands import main
KILL
sys.exit(main(["train", *sys.argv[1:]]))
"""

KILL = """
from xpmlp.training import run
scalars = run._Run.scalars
def scalars_or_death(self, step):
    if step == 20 and MPI.COMM_WORLD.rank == 1:
        os.kill(os.getpid(), 9)
    return scalars(self, step)
run._Run.scalars = scalars_or_death
"""

DEAD_LINK = """
from xpmlp.training import run
module.WATCH_INTERVAL = 0.1
scalars = run._Run.scalars
def scalars_or_silence(self, step):
    if step == 21 and MPI.COMM_WORLD.rank == 1:
        time.sleep(LIMIT)
    return scalars(self, step)
run._Run.scalars = scalars_or_silence
""".replace("LIMIT", str(LIMIT))

OPTIONS = ("--hidden", "16,8", "--batch-size", "16", "--epochs", "2", "--dtype", "float64", "--no-plot", "--quiet")


def on_gpus(launch, idx_folder, *options, kill=""):  # noqa: F811
    env = {**LAUNCH_ENV, "CUDA_ON_CPU_DEVICES": "2", "CUDA_ON_CPU_MODE": "lazy"}
    program = STAND_IN.replace("KILL", kill)
    data = ("--backend", "cupy", "--dataset", f"idx:{idx_folder}")
    return launch(2, sys.executable, "-c", program, *data, *OPTIONS, *options, "--out", "two", env=env)


@pytest.mark.parametrize(
    ("options", "sums"),
    [((), 26), (("--optimizer", "adam"), 26), (("--average-every", "4"), 2 * 4 + 2)],
    ids=["sgd", "adam", "local SGD"],
)
def test_two_ranks_train_what_one_does(launch, mpiexec, idx_folder, tmp_path, monkeypatch, options, sums):  # noqa: F811
    done = on_gpus(launch, idx_folder, *options)
    assert done.returncode == 0, done.stderr
    said = sorted(line for line in done.stdout.splitlines() if line.startswith("rank "))
    assert said == [f"rank {rank} on GPU {rank} summed {sums} times" for rank in (0, 1)]
    if "--average-every" not in options:  # whose ranks go ways of their own
        monkeypatch.chdir(tmp_path)
        data = ("--backend", "numpy", "--dataset", f"idx:{idx_folder}")
        assert main(["train", *data, *OPTIONS, *options, "--out", "one"]) == 0
        one, two = (load(tmp_path / name, "numpy").theta for name in ("one", "two"))
        assert relative_error(two, one) <= 1e-10
    else:
        assert np.isfinite(load(tmp_path / "two", "numpy").theta).all()


def test_a_rank_that_is_killed_ends_all(launch, mpiexec, idx_folder, tmp_path):  # noqa: F811
    done = on_gpus(launch, idx_folder, kill=KILL)
    assert done.returncode != 0
    assert "summed" not in done.stdout
    assert resumed(tmp_path).returncode == 0


def test_a_link_that_is_dead_ends_all(launch, mpiexec, idx_folder, tmp_path):  # noqa: F811
    """Rank 0 waits in a sum for a rank that never comes, and NCCL says so, on the rank that looks first."""
    done = on_gpus(launch, idx_folder, "--checkpoint-steps", "5", kill=DEAD_LINK)
    assert done.returncode != 0
    assert re.search(r"^xpmlp: NCCL on rank [01] no longer reaches the others \(NCCL_ERROR_REMOTE", done.stderr, re.M)
    assert "summed" not in done.stdout
    assert resumed(tmp_path).returncode == 0


def resumed(folder):
    """Return what comes of the run, gone on by one process."""
    return subprocess.run(
        [sys.executable, "-m", "xpmlp", "train", "--resume", "two", "--quiet", "--no-plot"],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
