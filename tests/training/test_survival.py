"""Runs that are cut short from outside: signals, kills at any moment, a disk that is full."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import environment, results

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals and limits")

TRAIN = (sys.executable, "-m", "xpmlp", "train")
KERNELS = ("--kernels", "inplace")  # numba would take longer to begin than a run takes
LONG = (*KERNELS, "--epochs", "100000", "--hidden", "16,8", "--batch-size", "16", "--schedule", "constant", "--no-plot")
"""So many epochs that only a signal ends them."""
SHORT = (
    *KERNELS,
    "--epochs",
    "20",
    "--hidden",
    "16,8",
    "--batch-size",
    "16",
    "--checkpoint-steps",
    "4",
    "--quiet",
    "--no-plot",
)
"""Of 20 epochs of 13 steps, with four checkpoints each: most of its time goes into writing."""

QUIET_ENV = environment(PYTHONDONTWRITEBYTECODE="1")


def begin(*options, cwd):
    return subprocess.Popen(
        [*TRAIN, *options], cwd=cwd, env=QUIET_ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(process, path, seconds=60):
    """Return once a file is there."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.005)


@pytest.fixture
def data(idx_folder):
    return ("--backend", "numpy", "--dataset", f"idx:{idx_folder}")


class TestSignals:
    @pytest.mark.parametrize(
        ("signum", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
    )
    def test_the_step_is_finished_and_how_to_go_on_said(self, tmp_path, data, signum, code, word):
        from xpmlp.training.folder import RunFolder, read_checkpoint

        process = begin(*data, *LONG, "--out", "run", "--quiet", cwd=tmp_path)
        wait_for(process, tmp_path / "run" / "metrics.jsonl")
        process.send_signal(signum)
        said, errors = process.communicate(timeout=60)
        assert (process.returncode, said) == (code, "")
        folder = RunFolder.reopen(tmp_path / "run")  # nobody holds it
        folder.close()
        checkpoint, _ = read_checkpoint(folder.checkpoints[-1])
        epoch = -(-checkpoint.step // 13)
        where = f"after step {checkpoint.step:,}, in epoch {epoch} of 100000"
        assert errors == f"xpmlp train: {word} {where}; continue with: xpmlp train --resume run\n"
        done = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
        assert done == len(checkpoint.epochs)

    def test_a_second_one_ends_at_once_and_the_last_checkpoint_is_whole(self, tmp_path, data):
        from xpmlp.training.folder import read_checkpoint

        # The step never ends, so that only the second signal can end the process.
        code = (
            "import sys, time\n"
            "from xpmlp.commands import main, _run\n"
            "def on_step(self, step):\n"
            "    if step == 30:\n"
            "        open('reached', 'w').close()\n"
            "        while True: time.sleep(0.01)\n"
            "_run.Recorder.on_step = on_step\n"
            "sys.exit(main(['train', *sys.argv[1:]]))"
        )
        command = [sys.executable, "-c", code, *data, *LONG, "--out", "run", "--quiet"]
        with subprocess.Popen(command, cwd=tmp_path, env=QUIET_ENV, stderr=subprocess.PIPE, text=True) as process:
            wait_for(process, tmp_path / "reached")
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.3)
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130
        last = max((tmp_path / "run" / "checkpoints").iterdir())
        assert read_checkpoint(last)[0].step == 26

    def test_before_the_first_step_nothing_is_left(self, tmp_path, data):
        code = (
            "import os, signal, sys\n"
            "from xpmlp.commands import main, _run\n"
            "_run.load_dataset = lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM)\n"
            "sys.exit(main(['train', *sys.argv[1:]]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *data, *LONG, "--out", "run"],
            cwd=tmp_path, env=QUIET_ENV, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (143, "", "xpmlp: terminated\n")
        assert not (tmp_path / "run").exists()

    @pytest.mark.slow
    def test_in_the_final_test_too_the_run_can_go_on(self, tmp_path, data):
        code = (
            "import os, signal, sys\n"
            "from xpmlp.commands import main, _run\n"
            "_run.evaluate = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\n"
            "sys.exit(main(['train', *sys.argv[1:]]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *data, *SHORT, "--out", "run"],
            cwd=tmp_path, env=QUIET_ENV, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        where = "interrupted after step 260, in epoch 20 of 20"
        assert done.stderr == f"xpmlp train: {where}; continue with: xpmlp train --resume run\n"
        assert done.returncode == 130
        assert subprocess.run([*TRAIN, "--resume", "run"], cwd=tmp_path, env=QUIET_ENV, check=False).returncode == 0


@pytest.fixture
def whole(tmp_path, data):
    """The results of a run that was never interrupted."""
    done = begin(*data, *SHORT, "--out", "whole", cwd=tmp_path)
    _, errors = done.communicate(timeout=60)
    assert (done.returncode, errors) == (0, "")
    return results(tmp_path / "whole")


def go_on(tmp_path, data):
    """Return the command that takes a run up after whatever happened, as a user would."""
    has_begun = (tmp_path / "run" / "config.json").exists()
    return ("--resume", "run", "--quiet", "--no-plot") if has_begun else (*data, *SHORT, "--out", "run")


@pytest.mark.slow
@pytest.mark.parametrize("most", [10, pytest.param(50, marks=pytest.mark.full)])
def test_a_run_survives_being_killed_at_random_moments(tmp_path, data, whole, most):
    """The first tells how long a life is; each other is killed, taken up and killed again until it is at its end."""
    rng = random.Random(0)
    lives: list[float] = []  # of the processes that came to their run's end
    kills = kills_in_training = runs = 0
    while kills < most or (tmp_path / "run").exists():
        steps_before = last_step(tmp_path / "run")
        began = time.monotonic()
        process = begin(*go_on(tmp_path, data), cwd=tmp_path)
        limit = rng.uniform(0.3, 1.0) * lives[len(lives) // 2] if lives and kills < most else 60
        try:
            _, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
            steps_after = last_step(tmp_path / "run")
            kills_in_training += steps_after is not None
            assert (steps_after or 0) >= (steps_before or 0), "steps were lost that a checkpoint had"
            continue
        assert (process.returncode, errors) == (0, "")
        assert results(tmp_path / "run") == whole
        lives = sorted([*lives, time.monotonic() - began])
        runs += 1
        (tmp_path / "run").rename(tmp_path / f"run-{runs}")
    assert kills_in_training >= most / 5, "the kills did not reach the training"


def last_step(run):
    """Return the step of a run's last checkpoint, None before the first."""
    names = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    return int(names[-1].removeprefix("step-").removesuffix(".safetensors")) if names else None


KILLED_AT = """
import os, sys
from xpmlp.commands import main

calls, last = 0, int(sys.argv[1])

def count(call):
    def counted(*arguments, **keywords):
        global calls
        calls += 1
        if calls == last:
            os._exit(9)
        return call(*arguments, **keywords)
    return counted

for name in ("fsync", "replace", "unlink", "mkdir", "ftruncate"):
    setattr(os, name, count(getattr(os, name)))
code = main(["train", *sys.argv[2:]])
print(calls)
sys.exit(code)
"""
"""Trains, and dies like a process that is killed before its n-th call that changes what is on the disk."""


@pytest.mark.slow
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.full)])
def test_a_run_survives_being_killed_before_every_call_that_changes_the_disk(tmp_path, data, every):
    options = (*KERNELS, "--epochs", "2", "--hidden", "4", "--batch-size", "100", "--keep", "1", "--quiet", "--no-plot")
    command = [sys.executable, "-c", KILLED_AT]
    done = subprocess.run(
        [*command, "0", *data, *options, "--out", "whole"],
        cwd=tmp_path, env=QUIET_ENV, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    n_calls, whole = int(done.stdout), results(tmp_path / "whole")
    assert n_calls > 15
    for k in range(1, n_calls + 1, every):
        first = subprocess.run(
            [*command, str(k), *data, *options, "--out", "run"], cwd=tmp_path, env=QUIET_ENV, check=False
        )
        assert first.returncode == 9
        has_begun = (tmp_path / "run" / "config.json").exists()
        rest = ("--resume", "run", "--quiet", "--no-plot") if has_begun else (*data, *options, "--out", "run")
        again = subprocess.run(
            [*TRAIN, *rest], cwd=tmp_path, env=QUIET_ENV, capture_output=True, text=True, check=False
        )
        assert (again.returncode, again.stderr) == (0, ""), f"killed before call {k}"
        assert results(tmp_path / "run") == whole, f"killed before call {k}"
        assert not list((tmp_path / "run").rglob(".*.part"))
        (tmp_path / "run").rename(tmp_path / f"run-{k}")


class TestAFullDisk:
    """RLIMIT_FSIZE refuses what a full disk would, at any size, without being root."""

    @pytest.mark.parametrize(
        "limit",
        [
            pytest.param(0, marks=pytest.mark.slow),
            *(pytest.param(size, marks=pytest.mark.full) for size in (500, 3000)),
            None,
        ],
    )
    @pytest.mark.slow
    def test_is_one_line_and_the_run_goes_on_when_there_is_room(self, tmp_path, data, whole, limit):
        is_amid = limit is None
        if is_amid:  # a checkpoint grows with the epochs that it tells of
            limit = max((tmp_path / "whole" / "checkpoints").iterdir()).stat().st_size - 1000
        code = (
            "import resource, sys\n"
            "from xpmlp.commands import main\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)\n"
            "sys.exit(main(['train', *sys.argv[2:]]))"
        )
        command = [sys.executable, "-c", code, str(limit), *data, *SHORT, "--out", "run"]
        done = subprocess.run(command, cwd=tmp_path, env=QUIET_ENV, capture_output=True, text=True, check=False)
        errors = done.stderr
        assert (done.returncode, done.stdout, errors.count("\n")) == (2, "", 1)
        assert "File too large" in errors
        if is_amid:
            assert errors.startswith("xpmlp: run/checkpoints/step-")
            assert "make room, then resume from the last checkpoint with: xpmlp train --resume run" in errors
            assert last_step(tmp_path / "run") > 13
        else:
            assert not (tmp_path / "run").exists(), "a run that never began leaves nothing"
        assert not list(tmp_path.rglob(".*.part"))
        again = begin(*go_on(tmp_path, data), cwd=tmp_path)
        assert (again.communicate(timeout=60), again.returncode) == (("", ""), 0)
        assert results(tmp_path / "run") == whole

    @pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may mount a file system")
    @pytest.mark.slow
    def test_of_a_real_file_system(self, tmp_path, data, whole):
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(disk)]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
        try:
            process = begin(*data, *SHORT, "--keep", "9", "--out", str(disk / "run"), cwd=tmp_path)
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 2
            assert "No space left on device: make room, then resume from the last checkpoint with: " in errors
            assert errors.count("\n") == 1
            subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
            again = begin("--resume", str(disk / "run"), "--quiet", "--no-plot", cwd=tmp_path)
            assert (again.communicate(timeout=60), again.returncode) == (("", ""), 0)
            assert results(disk / "run") == whole
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)
