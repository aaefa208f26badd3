"""Several ranks train one model: real launches by mpiexec, each with a time limit."""

import contextlib
import json
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import environment, make_dataset, run_python
from xpmlp.backends._numpy import NumpyBackend
from xpmlp.benchmark.checking import relative_error
from xpmlp.communication import Launch, SingleRank, find_launch, join, part_of
from xpmlp.data import idx
from xpmlp.errors import CommunicationError, ConfigError, TrainingError
from xpmlp.math.layout import Layout, init
from xpmlp.math.network import backward, forward, score
from xpmlp.models.model import load
from xpmlp.training.config import TrainConfig
from xpmlp.training.distributed import parts_of
from xpmlp.training.evaluation import evaluate
from xpmlp.training.folder import read_checkpoint
from xpmlp.training.records import Callback
from xpmlp.training.run import train_network as train

LAUNCH_ENV = environment(
    PYTHONDONTWRITEBYTECODE="1",
    OMPI_ALLOW_RUN_AS_ROOT="1",
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe",
    OMPI_MCA_mpi_yield_when_idle="1",  # to the other tests
)
LIMIT = 60
"""Seconds that a launch may take before it counts as hanging."""

TRAIN = (sys.executable, "-m", "xpmlp", "train")
SMALL = ("--hidden", "16,8", "--batch-size", "16", "--kernels", "inplace", "--no-plot")
ON_MNIST = (*TRAIN, *SMALL, *["--dataset", "mnist", "--epochs", "1", "--backend", "numpy", "--out", "run", "--quiet"])
LONG = (*SMALL, "--epochs", "100000", "--schedule", "constant", "--quiet")


@pytest.fixture
def launch(mpiexec, tmp_path):
    """Return a function that runs a command on n ranks, and returns what came of it."""

    def launch(n, *command, env=LAUNCH_ENV):
        with start(mpiexec, n, *command, cwd=tmp_path, env=env) as process:
            try:
                out, errors = process.communicate(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                pytest.fail(f"{n} ranks hang: {process.communicate()}")
        return subprocess.CompletedProcess(command, process.returncode, out, errors)

    return launch


def start(mpiexec, n, *command, cwd, env=LAUNCH_ENV):
    return subprocess.Popen(
        [mpiexec, "-n", str(n), *command], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def data(idx_folder):
    return ("--backend", "numpy", "--dataset", f"idx:{idx_folder}")


def ours(text):
    """Return the lines that xpmlp has written, without the launcher's banner and the signs of a terminal."""
    return [line.strip() for line in text.splitlines() if line.strip().startswith(("xpmlp", "train.py", "Traceback"))]


class Ranks(SingleRank):
    """One of several ranks, as far as the division of work is concerned."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size


class TestAlone:
    def test_sums_are_what_they_are_given(self):
        alone, vector = join("auto"), np.ones(3)
        assert alone.sum(vector) is vector
        assert (alone.broadcast("x"), alone.gather("x")) == ("x", ["x"])
        assert (alone.rank, alone.size, alone.local_rank, alone.local_size, alone.hosts) == (0, 1, 0, 1, 1)
        assert 1 <= alone.cores <= os.cpu_count()
        assert alone.engine is None

    @pytest.mark.slow
    def test_without_a_launcher_nothing_of_mpi_is_imported(self, idx_folder, tmp_path):
        arguments = ["train", "--backend", "numpy", "--dataset", f"idx:{idx_folder}", "--out", str(tmp_path / "run")]
        arguments += ["--epochs", "1", "--no-plot", "--quiet"]
        code = f"from xpmlp.commands import main; assert main({arguments}) == 0; import sys; print(*sys.modules)"
        done = run_python("-c", code)
        assert done.returncode == 0, done.stderr
        loaded = done.stdout.split()
        assert "xpmlp.communication" in loaded
        assert not {"mpi4py", "xpmlp.communication._mpi", "xpmlp.communication._nccl"} & set(loaded)

    def test_of_ways_that_are_none_or_need_a_launcher_is_refused(self):
        with pytest.raises(ConfigError, match="unknown distributed 'yes': expected auto, off or mpi"):
            join("yes")
        with pytest.raises(ConfigError, match="distributed mpi: no MPI launcher has started this process"):
            join("mpi")

    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({}, None),
            ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),
            ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "PMIX_RANK": "2"}, Launch(2, 4)),
            ({"PMI_SIZE": "3", "PMI_RANK": "2", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1"}, Launch(2, 3, 1)),
            ({"PMIX_RANK": "5"}, Launch(5, None)),
        ],
        ids=str,
    )
    def test_a_launcher_is_known_by_what_it_tells(self, variables, expected):
        assert find_launch(variables) == expected


@pytest.mark.parametrize("n", [0, 1, 2, 3, 100, 101, 128])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_parts_are_contiguous_even_and_all_of_it(n, size):
    parts = [range(n)[part_of(n, Ranks(rank, size))] for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(n))
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


class Slices:
    """A loader that yields rows as they are, for those who divide them."""

    def __init__(self, batch_size):
        self.batch_size = batch_size

    def batches(self, rows, first):
        starts = range(first * self.batch_size, len(rows), self.batch_size)
        return (rows[start : start + self.batch_size].tolist() for start in starts)


@given(n=st.integers(1, 60), batch_size=st.integers(1, 20), size=st.integers(2, 5), data=st.data())
def test_the_parts_of_all_ranks_are_each_batch(n, batch_size, size, data):
    """Also where the last batch is whole, short, or too short for a row each."""
    size = min(size, batch_size)
    order, n_batches = np.arange(100, 100 + n), -(-n // batch_size)
    first = data.draw(st.integers(0, n_batches - 1))
    batches = [order[k : k + batch_size].tolist() for k in range(0, n, batch_size)][first:]
    parts = []
    for rank in range(size):
        ranks = Ranks(rank, size)
        loader = Slices(len(range(batch_size)[part_of(batch_size, ranks)]))
        parts.append(list(parts_of(loader, order, first, batch_size, ranks)))
    assert {len(own) for own in parts} == {len(batches)}
    for batch, those in zip(batches, zip(*parts, strict=True), strict=True):
        assert [row for part in those for row in part.batch or []] == batch
        assert [batch[part.rows] for part in those] == [part.batch or [] for part in those]
        assert [part.share for part in those] == [len(part.batch or []) / len(batch) for part in those]


PARITY = """
import json, sys
import numpy as np
from tests.conftest import make_dataset
from xpmlp.backends import get_backend
from xpmlp.communication import join, leave
from xpmlp.training.config import TrainConfig
from xpmlp.training.evaluation import evaluate
from xpmlp.training.run import train_network as train

settings, spec, out = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
backend, ranks = get_backend(spec, settings["dtype"]), join()
theta, history = train(TrainConfig(**settings), make_dataset(250), backend, communicator=ranks)
test = evaluate(theta, history.plan.layout, make_dataset(61, seed=1), backend, 16, communicator=ranks)
found = [[epoch.train_loss, epoch.train_accuracy, epoch.val_loss, epoch.val_accuracy] for epoch in history.epochs]
np.savez(f"{out}{ranks.rank}.npz", theta=backend.to_numpy(theta), epochs=np.array(found), test=np.array(test))
leave()
"""
"""Trains and tests, and leaves each rank's results in a file."""


class TestTheSameWork:
    """Of 250 images 41 are held out; batches of 25 leave a last one of 9, of 26 one of 1 (for one rank), of 19 none."""

    SETTINGS: ClassVar = {"hidden": [16, 8], "epochs": 12, "batch_size": 25, "dtype": "float64", "kernels": "inplace"}

    def found(self, launch, tmp_path, n, settings, spec="numpy", out="rank"):
        done = launch(n, sys.executable, "-c", PARITY, json.dumps(settings), spec, out)
        assert done.returncode == 0, done.stderr
        files = [np.load(tmp_path / f"{out}{rank}.npz") for rank in range(n)]
        return [{name: file[name] for name in file.files} for file in files]

    def alone(self, settings):
        config = TrainConfig(**{**settings, "hidden": tuple(settings["hidden"])})
        theta, history = train(config, make_dataset(250), NumpyBackend())
        test = evaluate(theta, history.plan.layout, make_dataset(61, seed=1), NumpyBackend(), 16)
        epochs = [[e.train_loss, e.train_accuracy, e.val_loss, e.val_accuracy] for e in history.epochs]
        return theta, np.array(epochs), np.array(test)

    @pytest.mark.parametrize("n", [pytest.param(2, marks=pytest.mark.full), 3, pytest.param(4, marks=pytest.mark.full)])
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            pytest.param({"batch_size": 26, "optimizer": "adamw"}, marks=pytest.mark.slow),
            pytest.param({"batch_size": 19}, marks=pytest.mark.full),
            pytest.param({"transfer": "stream", "center": 0.2}, marks=pytest.mark.slow),
            pytest.param({"deform": 1.0}, marks=pytest.mark.full),
            pytest.param({"deform": 1.0, "deform_fade": 0.5, "dropout": 0.25}, marks=pytest.mark.slow),
            pytest.param({"batch_size": 26, "transfer": "stream"}, marks=pytest.mark.full),
        ],
        ids=str,
    )
    def test_is_done_by_any_number_of_ranks(self, launch, tmp_path, n, changes):
        """108 or more steps in float64."""
        settings = {**self.SETTINGS, **changes}
        theta, epochs, test = self.alone(settings)
        found = self.found(launch, tmp_path, n, settings)
        for rank in found:
            assert rank["theta"].tobytes() == found[0]["theta"].tobytes(), "bit for bit on all ranks"
            assert relative_error(rank["theta"], theta) <= 1e-10
            np.testing.assert_allclose(rank["epochs"], epochs, rtol=1e-10)
            np.testing.assert_allclose(rank["test"], test, rtol=1e-10)
        assert (found[0]["epochs"][:, [1, 3]] == epochs[:, [1, 3]]).all(), "counts are whole numbers"

    @pytest.mark.full
    def test_is_the_same_bits_a_second_time(self, launch, tmp_path):
        settings = {**self.SETTINGS, "dtype": "float32"}
        first, second = (self.found(launch, tmp_path, 3, settings, out=out)[0] for out in ("first", "second"))
        assert first["theta"].tobytes() == second["theta"].tobytes()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "spec", ["array-api-strict", *(pytest.param(spec, marks=pytest.mark.full) for spec in ("jax", "torch"))]
    )
    @pytest.mark.needs("{spec}")
    def test_is_done_through_the_host_by_other_libraries(self, launch, tmp_path, find_backend, spec):
        find_backend(spec)
        theta, _, _ = self.alone(self.SETTINGS)
        assert relative_error(self.found(launch, tmp_path, 2, self.SETTINGS, spec)[0]["theta"], theta) <= 1e-10

    def test_a_streaming_rank_reads_only_its_own_rows(self, monkeypatch):
        """Three ranks in turn, whose sums are made up: what counts is which images each asks for."""
        from xpmlp.data.loading import Staging

        seen: list[set[int]] = []
        fill = Staging.fill
        monkeypatch.setattr(Staging, "fill", lambda self, slot, rows: seen[-1].update(rows) or fill(self, slot, rows))
        config = TrainConfig(hidden=(8,), epochs=1, batch_size=25, val_size=41, transfer="stream", kernels="inplace")
        data = make_dataset(250)
        for rank in range(3):
            seen.append(set())
            train(config, data, NumpyBackend(), communicator=Ranks(rank, 3))
        assert set().union(*seen) == set(range(250))
        assert sum(map(len, seen)) == 250, "no image is read by two"
        assert max(map(len, seen)) <= 90


class TestLocalSGD:
    """Steps that each rank makes alone, and an average after some of them."""

    SETTINGS: ClassVar = {
        "hidden": [16, 8],
        "epochs": 3,
        "batch_size": 26,
        "dtype": "float64",
        "kernels": "inplace",
        "average_every": 4,
        "schedule": "constant",
        "learning_rate": 0.05,
    }

    @pytest.mark.parametrize("n", [1, pytest.param(3, marks=pytest.mark.slow)])
    def test_are_this_loop(self, launch, tmp_path, n):
        """The ranks written out in one process: 9 steps an epoch, in rounds of 4, 4 and 1; the last batch has a row."""
        size, data = 3 if n > 1 else 1, make_dataset(250)
        rng = np.random.default_rng(0)
        layout = Layout((20, 16, 8, 3))
        theta = init(layout, rng, "float64")
        rest = np.sort(rng.permutation(np.arange(250, dtype=np.int32))[41:])
        X = data.images.reshape(250, -1) / 255
        outer, velocities = np.zeros_like(theta), [np.zeros_like(theta) for _ in range(size)]
        losses = []
        for _ in range(3):
            order, own, epoch_losses = rng.permutation(rest), [theta.copy() for _ in range(size)], 0.0
            for step in range(1, 10):
                batch = order[26 * (step - 1) : 26 * step]
                for rank in range(size):
                    rows = batch[part_of(len(batch), Ranks(rank, size))]
                    if len(rows) == 0:
                        continue
                    layers = layout.unflatten(own[rank])
                    S, trail = forward(layers, X[rows])
                    epoch_losses += float(score(S, data.labels[rows])[1]) * len(rows)
                    g = layout.flatten(backward(layers, trail, score(S, data.labels[rows])[0]))
                    velocities[rank] = 0.9 * velocities[rank] + g
                    own[rank] = own[rank] - 0.05 * (g + 0.9 * velocities[rank])
                if step in (4, 8, 9):
                    change = theta - sum(own) / size
                    outer = 0.5 * outer + change
                    theta = theta - 0.7 * (change + 0.5 * outer)
                    own = [theta.copy() for _ in range(size)]
            velocities = [sum(velocities) / size] * size
            losses.append(epoch_losses / 209)
        done = launch(n, sys.executable, "-c", PARITY, json.dumps(self.SETTINGS), "numpy", "rank")
        assert done.returncode == 0, done.stderr
        for rank in range(n):
            found = np.load(tmp_path / f"rank{rank}.npz")
            assert relative_error(found["theta"], theta) <= 1e-10
            np.testing.assert_allclose(found["epochs"][:, 0], losses, rtol=1e-10)

    @pytest.mark.long_on_jax
    def test_of_every_backend_are_the_same(self, backend, tiny):
        config = TrainConfig(
            hidden=(16, 8), epochs=3, batch_size=16, dtype="float64", average_every=5, kernels="inplace"
        )
        theta, history = train(config, tiny, backend)
        expected, expected_history = train(config, tiny, NumpyBackend())
        assert relative_error(backend.to_numpy(theta), expected) <= 1e-10
        for ours, theirs in zip(history.epochs, expected_history.epochs, strict=True):
            assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-10)
            assert ours.train_accuracy == theirs.train_accuracy

    @pytest.mark.slow
    def test_that_were_interrupted_at_a_checkpoint_go_on_exactly(self, launch, data, tmp_path):
        """A checkpoint ends a round, whether or not the run goes on from it."""
        options = (
            *SMALL,
            "--average-every",
            "4",
            "--epochs",
            "4",
            "--checkpoint-steps",
            "6",
            "--keep",
            "99",
            "--quiet",
        )
        assert launch(2, *TRAIN, *data, *options, "--out", "run").returncode == 0
        whole = (tmp_path / "run" / "model.safetensors").read_bytes()
        (tmp_path / "run" / "summary.json").unlink()
        for path in (tmp_path / "run" / "checkpoints").iterdir():
            if int(path.stem.removeprefix("step-")) > 18:
                path.unlink()
        done = launch(2, *TRAIN, "--resume", "run", "--quiet", "--no-plot")
        assert (done.returncode, done.stderr) == (0, "")
        assert (tmp_path / "run" / "model.safetensors").read_bytes() == whole

    def test_of_no_steps_are_refused_once(self, launch, data):
        done = launch(2, *TRAIN, *data, "--average-every", "0")
        assert ours(done.stderr) == ["xpmlp: --average-every 0: expected a whole number of at least 1"]
        assert done.returncode != 0

    @pytest.mark.slow
    def test_whose_loss_breaks_are_named(self, tiny):
        config = TrainConfig(hidden=(8,), epochs=2, batch_size=16, average_every=4, learning_rate=1e30)
        with pytest.raises(TrainingError, match="no longer finite in epoch 1, after step 0 of"):
            train(config, tiny, NumpyBackend())


class TestTheCommand:
    def test_leaves_one_folder_and_says_everything_once(self, launch, data, tmp_path):
        done = launch(3, *TRAIN, *data, *SMALL, "--epochs", "2", "--out", "run")
        assert (done.returncode, done.stderr) == (0, "")
        for beginning in ("data ", "backend ", "ranks ", "network ", "training ", "best ", "test ", "run "):
            assert len([line for line in re.split(r"[\r\n]", done.stdout) if line.startswith(beginning)]) == 1
        assert re.search(r"^ranks    3 on 1 host, .*, 1 BLAS thread each", done.stdout, re.M)
        config = json.loads((tmp_path / "run" / "config.json").read_text())
        assert (config["ranks"], config["hosts"]) == (3, 1)
        assert re.fullmatch(r".+ \d[\d.]*, mpi4py \d[\d.]*", config["engine"])
        assert {path.name for path in tmp_path.iterdir()} == {"mnist", "run"}
        assert load(tmp_path / "run").predict(make_dataset(60, seed=1).images).shape == (60,)

    @pytest.mark.slow
    def test_of_the_scripts_folder_is_the_same(self, launch, data, tmp_path):
        from tests.conftest import ROOT

        script = str(ROOT / "scripts" / "train.py")
        done = launch(2, sys.executable, script, *data, *SMALL, "--epochs", "1", "--quiet", "--out", "run")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert json.loads((tmp_path / "run" / "config.json").read_text())["ranks"] == 2

    @pytest.mark.slow
    def test_divides_the_cores(self, launch, data, tmp_path):
        env = {name: value for name, value in LAUNCH_ENV.items() if not name.endswith("_NUM_THREADS")}
        for n, options in ((2, ()), (2, ("--threads", "3"))):
            out = f"run{len(options)}"
            done = launch(n, *TRAIN, *data, *SMALL, *options, "--epochs", "1", "--out", out, "--quiet", env=env)
            assert done.returncode == 0, done.stderr
        threads = [json.loads((tmp_path / run / "config.json").read_text())["threads"] for run in ("run0", "run2")]
        assert threads == [max(1, SingleRank().cores // 2), 3]

    @pytest.mark.slow
    def test_of_one_rank_is_alone_unless_it_is_asked_for(self, launch, data, tmp_path):
        for way, engine in (("auto", False), ("mpi", True)):
            run = ("--distributed", way, "--out", way)
            done = launch(1, *TRAIN, *data, *SMALL, "--epochs", "1", "--quiet", *run)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            config = json.loads((tmp_path / way / "config.json").read_text())
            assert (config["ranks"], config["engine"] is not None) == (1, engine)

    @pytest.mark.slow
    def test_goes_on_with_any_number_of_ranks(self, launch, data, tmp_path):
        options = (*SMALL, "--dtype", "float64", "--epochs", "5", "--checkpoint-steps", "7", "--keep", "99", "--quiet")
        assert launch(1, *TRAIN, *data, *options, "--out", "run").returncode == 0
        expected = load(tmp_path / "run").theta
        for n in (3, 1, 2):
            shutil.copytree(tmp_path / "run", tmp_path / f"run{n}")
            (tmp_path / f"run{n}" / "summary.json").unlink()
            for path in (tmp_path / f"run{n}" / "checkpoints").iterdir():
                if int(path.stem.removeprefix("step-")) > 21:
                    path.unlink()
            done = launch(n, *TRAIN, "--resume", f"run{n}", "--quiet", "--no-plot")
            assert (done.returncode, done.stderr) == (0, "")
            assert relative_error(load(tmp_path / f"run{n}").theta, expected) <= 1e-10
            assert json.loads((tmp_path / f"run{n}" / "config.json").read_text())["ranks"] == n
        done = launch(2, *TRAIN, "--resume", "run2", "--no-plot")
        assert done.returncode == 0
        assert done.stdout.count("finished run2 has made its 5 epochs") == 1

    @pytest.mark.parametrize(
        ("n", "options", "message"),
        [
            (3, ("--batch-size", "2"), "--batch-size 2: 3 ranks share each batch; make it at least 3, or start fewer"),
            (2, ("--frobnicate",), "No such option '--frobnicate'; see xpmlp train --help"),
            *(
                pytest.param(2, *rest, marks=pytest.mark.slow)
                for rest in (
                    (("--dtype", "float16"), "--dtype 'float16': expected float32 or float64"),
                    (("--learning-rate", "nan"), "learning rate nan: expected a finite number above 0"),
                    (("--distributed", "on"), "unknown distributed 'on': expected auto, off or mpi"),
                    (("--resume", "nowhere"), "nowhere is not there: expected the folder of a run"),
                    (
                        ("--learning-rate", "1e30", "--schedule", "constant"),
                        "the loss was no longer finite in epoch 1",
                    ),
                )
            ),
        ],
        ids=str,
    )
    def test_refuses_once(self, launch, data, tmp_path, n, options, message):
        out = () if "--resume" in options else (*data, *SMALL, "--out", "run")
        done = launch(n, *TRAIN, *out, *options, "--quiet")
        assert len(ours(done.stderr)) == 1, done.stderr
        assert message in ours(done.stderr)[0].replace("\u2019", "'")
        assert done.returncode not in (0, 143)
        assert ours(done.stdout) == []

    @pytest.mark.parametrize(
        "command",
        [
            "evaluate run",
            *(pytest.param(command, marks=pytest.mark.slow) for command in ("data digits", "bench", "check")),
        ],
    )
    def test_commands_for_one_process_are_refused_once(self, launch, tmp_path, command):
        name, *options = command.split()
        done = launch(3, sys.executable, "-m", "xpmlp", name, *options)
        assert ours(done.stderr) == [
            f"xpmlp: {name} is for one process, and an MPI launcher has started 3: run it without the launcher"
        ]
        assert (done.returncode, done.stdout) == (2, "")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_help_is_for_any_number(self, launch):
        for words in (["--version"], ["evaluate", "--help"], ["data", "-h"]):
            assert launch(2, sys.executable, "-m", "xpmlp", *words).returncode == 0

    @pytest.mark.full
    def test_threads_and_the_folder_of_data_may_be_each_ranks_own(self, launch, mnist_like, tmp_path):
        shutil.copytree(mnist_like, tmp_path / "elsewhere")
        second = (":", "-n", "1", *ON_MNIST, "--data-dir", "elsewhere", "--threads", "1")
        done = launch(1, *ON_MNIST, "--data-dir", str(mnist_like), *second)
        assert (done.returncode, ours(done.stderr)) == (0, [])
        shutil.rmtree(tmp_path / "run")
        shutil.rmtree(tmp_path / "elsewhere")
        done = launch(1, *ON_MNIST, "--data-dir", str(mnist_like), *second)
        (line,) = ours(done.stderr)
        assert "elsewhere is not a folder" in line
        assert done.returncode != 0

    @pytest.mark.slow
    def test_data_that_rank_0_is_told_of_by_its_environment_the_others_find_too(self, launch, mnist_like):
        """A launcher passes no variable on to another host."""
        told = {**LAUNCH_ENV, "XPMLP_DATA": str(mnist_like)}
        done = launch(1, *ON_MNIST, ":", "-n", "1", "env", "-u", "XPMLP_DATA", *ON_MNIST, env=told)
        assert (done.returncode, ours(done.stderr)) == (0, [])

    def test_ranks_of_one_host_share_its_memory_and_the_batch(self, monkeypatch):
        """A step of 16 images takes 684 kB, 48 kB of them for activations; two ranks on one host each 660 kB."""
        config = TrainConfig(hidden=(1000,), batch_size=4, epochs=1, kernels="inplace", val_size=0)
        data = make_dataset(16)
        monkeypatch.setattr(NumpyBackend, "free_memory", lambda self: 1_000_000)
        for hosts in (1, 2):
            ranks = Ranks(0, 2)
            ranks.local_size, ranks.hosts = 2 // hosts, hosts
            if hosts == 2:
                train(config, data, NumpyBackend(), communicator=ranks)
                continue
            with pytest.raises(
                ConfigError, match=r"need about .* in each of 2 ranks: numpy on cpu has 1(\.0)? MB free"
            ):
                train(config, data, NumpyBackend(), communicator=ranks)

    @pytest.mark.parametrize("spec", ["cupy:1", "torch:cuda:1", "jax:gpu:1"])
    def test_ranks_of_one_host_have_a_gpu_each(self, monkeypatch, spec):
        config = TrainConfig(hidden=(1000,), batch_size=4, epochs=1, kernels="inplace", val_size=0)
        monkeypatch.setattr(NumpyBackend, "free_memory", lambda self: 1_000_000)
        monkeypatch.setattr(NumpyBackend, "spec", spec)
        ranks = Ranks(0, 2)
        ranks.local_size = 2
        assert len(train(config, make_dataset(16), NumpyBackend(), communicator=ranks)[1].epochs) == 1

    def test_without_a_launcher_there_is_nothing_to_join(self, data, tmp_path):
        done = run_python("-m", "xpmlp", "train", *data, "--out", str(tmp_path / "run"), "--distributed", "mpi")
        assert done.returncode == 2
        assert done.stderr.startswith("xpmlp: distributed mpi: no MPI launcher has started this process; ")
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "run").exists()

    def test_without_mpi4py_is_refused_once_and_nothing_written(self, launch, data, tmp_path):
        code = "import sys; sys.modules['mpi4py'] = None; from xpmlp.commands import main; sys.exit(main())"
        done = launch(2, sys.executable, "-c", code, "train", *data, *SMALL, "--out", "run")
        (line,) = ours(done.stderr)
        assert "mpi4py cannot be imported" in line
        assert "pip install 'xpmlp[mpi]', or --distributed off" in line
        assert done.returncode != 0
        assert not (tmp_path / "run").exists()

    def test_ranks_that_find_themselves_alone_are_refused(self, launch, data, tmp_path):
        """An mpi4py of another MPI than the launcher's: each of its processes is a world of its own."""
        code = (
            "import os, sys\n"
            "for name in [name for name in os.environ if name.startswith(('PMIX_', 'OMPI_', 'PRTE_'))]:\n"
            "    if name not in ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK'): del os.environ[name]\n"
            "os.environ['OMPI_ALLOW_RUN_AS_ROOT'] = os.environ['OMPI_ALLOW_RUN_AS_ROOT_CONFIRM'] = '1'\n"
            "import mpi4py; mpi4py.rc.initialize = False\n"
            "from mpi4py import MPI\n"
            "keep = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith('OMPI_COMM_WORLD')}\n"
            "MPI.Init()\n"
            "os.environ.update(keep)\n"
            "from xpmlp.commands import main\n"
            "sys.exit(main())"
        )
        done = launch(2, sys.executable, "-c", code, "train", *data, *SMALL, "--out", "run")
        lines = ours(done.stderr)
        assert len(lines) == 1, done.stderr
        assert "the launcher has started 2 ranks, and mpi4py, with " in lines[0]
        assert "finds itself alone" in lines[0]
        assert done.returncode != 0
        assert not (tmp_path / "run").exists()

    @pytest.mark.slow
    def test_off_is_each_for_itself(self, launch, data, tmp_path):
        done = launch(
            2, "bash", "-c", '"$@" --out "run$OMPI_COMM_WORLD_RANK$PMI_RANK"', "bash",
            *TRAIN, *data, *SMALL, "--epochs", "1", "--quiet", "--distributed", "off",
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        configs = [json.loads((tmp_path / f"run{rank}" / "config.json").read_text()) for rank in (0, 1)]
        assert [config["ranks"] for config in configs] == [1, 1]

    def test_more_ranks_than_gpus_are_refused(self, monkeypatch):
        from xpmlp.backends._driver import Driver
        from xpmlp.commands import _run

        found = Driver(None, version=13000, devices=2)
        monkeypatch.setattr(_run, "ask_driver", lambda: found)
        monkeypatch.setattr(_run, "get_backend", lambda spec, *rest: spec)
        task = _run.Task(TrainConfig(), "cupy", None, "digits", None, None, None, None)
        ranks = Ranks(0, 3)
        ranks.local_size, ranks.gather = 3, lambda content: [content] * 3
        with pytest.raises(ConfigError, match="3 ranks on a host with 2 GPUs: start as many as it has"):
            _run._equip(task, ranks)
        ranks = Ranks(1, 2)
        ranks.local_size, ranks.local_rank = 2, 1
        ranks.broadcast, ranks.gather = lambda content: "cupy", lambda content: [content] * 2
        assert _run._equip(task, ranks) == "cupy:1"
        for spec in ("torch:cuda", "jax:gpu"):
            ranks.broadcast = lambda content, spec=spec: spec
            assert _run._equip(task, ranks) == f"{spec}:1"

    def test_a_launcher_may_show_each_rank_a_gpu_of_its_own(self, monkeypatch):
        from xpmlp.backends._driver import Driver
        from xpmlp.commands import _run

        monkeypatch.setattr(_run, "ask_driver", lambda: Driver(None, version=13000, devices=1))
        monkeypatch.setattr(_run, "get_backend", lambda spec, *rest: spec)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
        task = _run.Task(TrainConfig(), "cupy", None, "digits", None, None, None, None)
        ranks = Ranks(1, 4)
        ranks.local_size, ranks.local_rank, ranks.broadcast = 4, 1, lambda content: "cupy"
        ranks.gather = lambda content: [(content[0], str(k)) for k in (2, 3, 0, 1)]
        assert _run._equip(task, ranks) == "cupy:0"


class TestNccl:
    """What can be held without two GPUs: the refusal, and what NCCL would be told."""

    @pytest.fixture
    def module(self):
        from xpmlp.communication import _nccl

        return _nccl

    @pytest.mark.needs(module="cupy")
    def test_that_is_missing_is_named_with_its_extra(self, module, monkeypatch):
        monkeypatch.setattr(module.nccl, "available", False)
        with pytest.raises(CommunicationError, match=r"2 ranks on GPUs, and NCCL is missing: pip .* 'xpmlp\[nccl\]'"):
            module.NcclCommunicator(Ranks(0, 2))

    @pytest.mark.needs(module="cupy")
    def test_is_given_the_vector_on_the_current_stream(self, module, monkeypatch):
        calls = []

        class Communicator:
            def __init__(self, size, identity, rank):
                calls.append((size, identity, rank))

            def allReduce(self, *arguments):
                calls.append(arguments)

            def check_async_error(self):
                """Find none."""

            def destroy(self):
                calls.append("destroyed")

        nccl = SimpleNamespace(
            available=True, get_unique_id=lambda: b"id", get_version=lambda: 22707, NcclCommunicator=Communicator,
            NcclError=RuntimeError, NCCL_FLOAT32=7, NCCL_FLOAT64=8, NCCL_SUM=0,
        )  # fmt: skip
        monkeypatch.setattr(module, "nccl", nccl)
        monkeypatch.setattr(module.cupy.cuda, "get_current_stream", lambda: SimpleNamespace(ptr=99))
        ranks = module.NcclCommunicator(Ranks(0, 2))
        vector = SimpleNamespace(data=SimpleNamespace(ptr=1234), size=10, dtype=np.dtype("float64"))
        assert ranks.sum(vector) is vector
        assert calls == [(2, b"id", 0), (1234, 1234, 10, 8, 0, 99)]
        assert ranks.engine == "NCCL 2.27.7, None"
        assert ranks.library == "cupy"
        ranks.leave()
        assert calls[-1] == "destroyed"
        assert not [thread for thread in threading.enumerate() if thread.name == "xpmlp-nccl"]

    @pytest.mark.needs(module="cupy")
    def test_has_the_names_that_are_used(self, module):
        if not module.nccl.available:
            pytest.skip("NCCL is not installed")
        for name in ("get_unique_id", "get_version", "NcclError", "NCCL_FLOAT32", "NCCL_FLOAT64", "NCCL_SUM"):
            assert hasattr(module.nccl, name)
        for name in ("allReduce", "check_async_error", "destroy"):
            assert hasattr(module.nccl.NcclCommunicator, name)
        assert len(module.nccl.get_unique_id()) == 128

    def test_looks_at_its_sums_every_sixteen_steps_at_the_same_ones_on_all_ranks(self, tiny_steps):
        """So a wish to stop after step 20 is met after step 32."""
        assert tiny_steps(looks=16, wish_after=20) == 32
        assert tiny_steps(looks=1, wish_after=20) == 21

    @pytest.fixture
    def tiny_steps(self):
        def run(looks, wish_after):
            ranks, made = Ranks(0, 2), []
            ranks.stop_poll_interval = looks
            counter = Callback()
            counter.on_step = made.append
            config = TrainConfig(hidden=(4,), epochs=9, batch_size=16, kernels="inplace")
            _, history = train(
                config, make_dataset(240), NumpyBackend(), [counter],
                should_stop=lambda: len(made) >= wish_after, communicator=ranks,
            )  # fmt: skip
            assert not history.is_complete
            return made[-1]

        return run


class TestComingApart:
    @pytest.mark.slow
    def test_other_settings_are_told_in_one_line(self, mpiexec, data, tmp_path):
        command = [*TRAIN, *data, *SMALL, "--out", "run", "--quiet"]
        second = [":", "-n", "1", *command, "--seed", "1"]
        with start(mpiexec, 1, *command, *second, cwd=tmp_path) as process:
            _, errors = process.communicate(timeout=LIMIT)
        assert ours(errors) == [
            "xpmlp: rank 1 was started with another command or another version of xpmlp than rank 0: "
            "all ranks of a run need the same"
        ]
        assert process.returncode != 0
        assert not (tmp_path / "run").exists()

    def test_another_number_of_steps_between_checkpoints_is_told(self, tiny):
        """It decides where a round ends, and so when the ranks meet."""

        class Other(Ranks):
            def gather(self, content):
                return [content, None if content == 3 else content]

        config = TrainConfig(hidden=(4,), epochs=1, batch_size=16, average_every=4, kernels="inplace")
        with pytest.raises(
            CommunicationError, match="rank 1 has another number of steps between checkpoints than rank"
        ):
            train(config, tiny, NumpyBackend(), checkpoint_steps=3, communicator=Other(0, 2))

    @pytest.mark.slow
    def test_other_data_are_told_in_one_line(self, mpiexec, idx_folder, tmp_path):
        other = tmp_path / "other" / "mnist"
        shutil.copytree(idx_folder, other)
        labels = make_dataset(240).labels
        labels[0] ^= 1
        idx.write(other / "train-labels-idx1-ubyte", labels)
        command = [*TRAIN, "--backend", "numpy", "--dataset", f"idx:{Path('mnist')}", *SMALL, "--quiet", "--out", "run"]
        elsewhere = ["bash", "-c", 'cd other && exec "$@"', "bash", *command]
        with start(mpiexec, 1, *command, ":", "-n", "1", *elsewhere, cwd=tmp_path) as process:
            _, errors = process.communicate(timeout=LIMIT)
        assert ours(errors) == [
            "xpmlp: rank 1 has another training set than rank 0: all ranks need the same command and the same data"
        ]
        assert process.returncode != 0
        assert not (tmp_path / "run").exists()

    @pytest.mark.slow
    def test_parameters_that_come_apart_are_an_error_after_the_epoch(self, launch, data, tmp_path):
        code = (
            "import sys\n"
            "from xpmlp.training import distributed\n"
            "from xpmlp.commands import main\n"
            "step = distributed.Synchronous.step\n"
            "def bent(self, theta, *rest):\n"
            "    if self._group.communicator.rank == 1 and self._steps == 20: theta[0] += 1e-6\n"
            "    return step(self, theta, *rest)\n"
            "distributed.Synchronous.step = bent\n"
            "sys.exit(main())"
        )
        done = launch(3, sys.executable, "-c", code, "train", *data, *SMALL, "--out", "run", "--quiet")
        (line,) = ours(done.stderr)
        assert "rank 1 has other parameters than rank 0 after epoch 2: " in line
        assert done.returncode != 0


def wait_for(path, process, seconds=LIMIT):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.02)


def ranks_of(process):
    """Return the process numbers of a launch's ranks."""
    found = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    parents = {int(line.split()[0]): (int(line.split()[1]), line) for line in found}

    def is_below(pid):
        while pid in parents:
            pid = parents[pid][0]
            if pid == process.pid:
                return True
        return False

    return [pid for pid, (_, line) in parents.items() if "xpmlp" in line and "train" in line and is_below(pid)]


def are_gone(pids):
    def is_there(pid):
        try:
            return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return False

    return not any(map(is_there, pids))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
class TestFaults:
    @pytest.fixture
    def running(self, mpiexec, data, tmp_path):
        """A launch of three ranks that is in its training, and ends only if something ends it."""
        command = [*TRAIN, *data, *LONG, "--out", "run"]
        with start(mpiexec, 3, *command, cwd=tmp_path) as process:
            wait_for(tmp_path / "run" / "metrics.jsonl", process)
            process.pids = ranks_of(process)
            assert len(process.pids) == 3
            yield process
            for pid in (process.pid, *process.pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def finish(self, process, seconds=10):
        """Return what a launch has written, once it is over and none of its processes is left."""
        began = time.monotonic()
        _, errors = process.communicate(timeout=seconds)
        assert time.monotonic() - began < seconds
        end = time.monotonic() + 2
        while not are_gone(process.pids) and time.monotonic() < end:
            time.sleep(0.05)
        assert are_gone(process.pids), "a rank is left"
        return errors

    def check(self, tmp_path):
        """Return the last checkpoint, which is whole."""
        return read_checkpoint(max((tmp_path / "run" / "checkpoints").glob("step-*")))[0]

    @pytest.mark.parametrize("victim", [0, 1, 2])
    @pytest.mark.slow
    def test_a_rank_that_is_killed_ends_all(self, running, tmp_path, victim):
        os.kill(running.pids[victim], signal.SIGKILL)
        self.finish(running)
        assert running.returncode != 0
        assert self.check(tmp_path).step > 0

    @pytest.mark.slow
    def test_sigusr1_finishes_the_step_on_all_and_leaves_a_checkpoint(self, running, tmp_path, launch):
        running.send_signal(signal.SIGUSR1)
        errors = self.finish(running)
        (line,) = ours(errors)
        step = self.check(tmp_path).step
        where = f"stopped by SIGUSR1 after step {step:,}, in epoch {-(-step // 13)} of 100000"
        assert line == f"xpmlp train: {where}; continue with: xpmlp train --resume run"
        assert running.returncode != 0
        metrics = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        assert len(metrics) == len(self.check(tmp_path).epochs)
        epochs = ("--epochs", str(len(metrics) + 2))
        assert launch(2, *TRAIN, "--resume", "run", *epochs, "--quiet", "--no-plot").returncode == 0

    @pytest.mark.slow
    def test_a_signal_to_one_rank_stops_all_after_the_same_step(self, running, tmp_path):
        os.kill(running.pids[2], signal.SIGTERM)
        (line,) = ours(self.finish(running))
        assert line.startswith(f"xpmlp train: terminated after step {self.check(tmp_path).step:,}, in epoch ")

    @pytest.mark.slow
    def test_sigterm_leaves_a_whole_checkpoint(self, running, tmp_path):
        running.send_signal(signal.SIGTERM)
        self.finish(running)
        assert running.returncode != 0
        assert self.check(tmp_path).step > 0

    @pytest.mark.parametrize("rank", [0, *(pytest.param(rank, marks=pytest.mark.slow) for rank in (1, 2))])
    def test_an_error_on_one_rank_is_one_line_and_ends_all(self, launch, data, tmp_path, rank):
        """A file that cannot be read any more, on one of three ranks, in the midst of the training."""
        code = (
            "import os, sys\n"
            "from xpmlp.training import distributed\n"
            "from xpmlp.errors import DataError\n"
            "from xpmlp.commands import main\n"
            "step = distributed.Synchronous.step\n"
            "def broken(self, *rest):\n"
            f"    if self._group.communicator.rank == {rank} and self._steps == 20:\n"
            "        raise DataError('images: a bad file')\n"
            "    return step(self, *rest)\n"
            "distributed.Synchronous.step = broken\n"
            "sys.exit(main())"
        )
        began = time.monotonic()
        done = launch(3, sys.executable, "-c", code, "train", *data, *LONG, "--out", "run")
        assert time.monotonic() - began < 20
        (line,) = ours(done.stderr)
        where = f"rank {rank} on {platform.node()}: " if rank else ""
        assert line.startswith(f"xpmlp: {where}images: a bad file")
        assert done.returncode == 2
        assert self.check(tmp_path).step == 13

    @pytest.mark.slow
    def test_a_bug_on_one_rank_ends_all(self, launch, data, tmp_path):
        code = (
            "import sys\n"
            "from xpmlp.training import distributed\n"
            "from xpmlp.commands import main\n"
            "step = distributed.Synchronous.step\n"
            "def broken(self, *rest):\n"
            "    if self._group.communicator.rank == 1 and self._steps == 20: raise RuntimeError('a bug')\n"
            "    return step(self, *rest)\n"
            "distributed.Synchronous.step = broken\n"
            "sys.exit(main())"
        )
        done = launch(3, sys.executable, "-c", code, "train", *data, *LONG, "--out", "run")
        assert done.stderr.count("Traceback") == 1
        assert "RuntimeError: a bug" in done.stderr
        assert done.returncode != 0

    @pytest.mark.slow
    def test_a_full_disk_is_one_line_and_ends_all(self, launch, data, tmp_path):
        code = (
            "import resource, sys\n"
            "from xpmlp.commands import main, _run\n"
            "write = _run.RunFolder.write_checkpoint\n"
            "def full(self, checkpoint, *rest):\n"
            "    if checkpoint.step > 20: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
            "    return write(self, checkpoint, *rest)\n"
            "_run.RunFolder.write_checkpoint = full\n"
            "sys.exit(main())"
        )
        done = launch(3, sys.executable, "-c", code, "train", *data, *LONG, "--out", "run")
        (line,) = ours(done.stderr)
        assert "File too large: make room, then resume from the last checkpoint with: xpmlp train --resume run" in line
        assert done.returncode == 2
        assert self.check(tmp_path).step == 13


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")
@pytest.mark.parametrize("most", [3, pytest.param(20, marks=pytest.mark.full)])
def test_a_run_survives_kills_of_a_rank_each_taken_up_by_another_number_of_ranks(mpiexec, data, tmp_path, most):
    """The first tells how long a life is; each other is killed, taken up and killed again until it is at its end."""
    options = (*SMALL, "--epochs", "30", "--dtype", "float64", "--checkpoint-steps", "4", "--quiet")
    assert run_python("-m", "xpmlp", "train", *data, *options, "--out", str(tmp_path / "whole")).returncode == 0
    whole = load(tmp_path / "whole").theta
    rng = random.Random(0)
    lives: list[float] = []  # of the launches that came to their run's end
    n = kills = kills_in_training = runs = 0
    while kills < most or (tmp_path / "run").exists():
        n = rng.choice([size for size in (2, 3, 4) if size != n])
        has_begun = (tmp_path / "run" / "config.json").exists()
        way = ("--resume", "run", "--quiet", "--no-plot") if has_begun else (*data, *options, "--out", "run")
        before = last_step(tmp_path / "run")
        began = time.monotonic()
        with start(mpiexec, n, *TRAIN, *way, cwd=tmp_path) as process:
            try:
                if lives and kills < most:
                    process.wait(rng.uniform(0.2, 1.0) * lives[len(lives) // 2])
            except subprocess.TimeoutExpired:
                pids = ranks_of(process)
                if pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(rng.choice(pids), signal.SIGKILL)
                        kills += 1
                        kills_in_training += last_step(tmp_path / "run") is not None
                    process.communicate(timeout=10)
                    assert are_gone(pids), "a rank is left"
            _, errors = process.communicate(timeout=LIMIT)
        after = last_step(tmp_path / "run")
        assert (after or 0) >= (before or 0), "steps were lost that a checkpoint had"
        if after is not None:
            read_checkpoint(tmp_path / "run" / "checkpoints" / f"step-{after:08}.safetensors")
        if process.returncode == 0:
            assert errors == ""
            assert relative_error(load(tmp_path / "run").theta, whole) <= 1e-10
            lives = sorted([*lives, time.monotonic() - began])
            runs += 1
            (tmp_path / "run").rename(tmp_path / f"run-{runs}")
    assert kills_in_training >= most / 4, "the kills did not reach the training"


def last_step(run):
    """Return the step of a run's last checkpoint, None before the first."""
    steps = [int(path.stem.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*.safetensors")]
    return max(steps, default=None)
