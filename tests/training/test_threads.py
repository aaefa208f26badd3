"""The number of BLAS threads follows the time of steps, on a machine that is made up, and on this one."""

import json
import os
import random
import threading

import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import make_dataset
from xpmlp import ConfigError, MLPClassifier, train
from xpmlp.backends import get_backend
from xpmlp.commands import main
from xpmlp.training import threads as module
from xpmlp.training.threads import ThreadTuner, tuned_threads


class Machine:
    """Steps whose time depends on the threads and on the moment, and a tuner that watches them.

    `quiet` has a step's seconds for each number of threads. Between the two moments of `neighbour` something else
    computes, and of the steps on more than one thread a `share` takes `lost` times as long.
    """

    def __init__(self, quiet, neighbour=(0.0, 0.0), share=1.0, seed=0):
        self.quiet, self.neighbour, self.share, self.rng = quiet, neighbour, share, random.Random(seed)
        self.lost = 3 if quiet[1] > 0.1 else 30  # threads of long products wait less often
        self.now, self.steps, self.changes, self.spent = 0.0, 0, [], dict.fromkeys(quiet, 0.0)
        self.tuner = ThreadTuner(tuple(quiet), self.set_threads, self.told, lambda: self.now)
        self.step = self.tuner.watched(self.make_step)

    def set_threads(self, n):
        self.threads = n

    def told(self, change):
        self.changes.append((self.now, change.threads))

    def make_step(self):
        seconds = self.quiet[self.threads] * self.rng.uniform(0.97, 1.06)
        begins, ends = self.neighbour
        if begins <= self.now < ends and self.threads > 1 and self.rng.random() < self.share:
            seconds *= self.lost
        self.now, self.steps = self.now + seconds, self.steps + 1
        self.spent[self.threads] += seconds

    def run(self, until):
        while self.now < until:
            self.step()
        return self


QUIETS = [
    pytest.param({1: 0.0025, 2: 0.0018}, id="two cores"),
    pytest.param({1: 0.0025, 2: 0.0032}, id="small products"),
    pytest.param({1: 0.9, 2: 0.5}, id="long steps"),
    pytest.param({1: 0.00005, 2: 0.00004}, id="short steps"),
    pytest.param({1: 0.008, 2: 0.0045, 4: 0.0026, 8: 0.0019, 16: 0.004}, id="sixteen cores"),
]


def long(quiet):
    """Return seconds in which many trials are made; of short steps fewer, or the simulation would take them."""
    return 10 if quiet[1] < 0.001 else 60 * max(1.0, 60 * quiet[1])


@pytest.mark.parametrize("quiet", QUIETS)
def test_a_quiet_machine_computes_with_what_is_fastest(quiet):
    machine = Machine(quiet).run(long(quiet))
    best = min(quiet, key=quiet.get)
    assert machine.tuner.threads == best
    assert machine.spent[best] > 0.95 * machine.now
    assert machine.now / machine.steps < 1.05 * quiet[best]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("quiet", QUIETS)
def test_beside_a_neighbour_one_thread_computes_from_the_start(quiet, share, seed):
    machine = Machine(quiet, (0.0, 1e9), share, seed)
    machine.run(long(quiet))
    assert machine.spent[1] > 0.85 * machine.now
    assert machine.now / machine.steps < 1.15 * quiet[1] * 1.015  # of which 1.5 % is the steps' own spread


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("quiet", [{1: 0.0025, 2: 0.0018}, {1: 0.9, 2: 0.5}, {1: 0.004, 2: 0.0022, 4: 0.0014}], ids=str)
def test_a_neighbour_that_comes_and_goes_is_followed(quiet, seed):
    fastest, long = max(quiet), max(1.0, 20 * quiet[1])
    comes, goes = 20 * long, 40 * long
    machine = Machine(quiet, (comes, goes), seed=seed).run(comes)
    assert machine.tuner.threads == fastest
    slow_steps = 4 * machine.lost * quiet[fastest] + 7 * quiet[1]
    machine.run(comes + max(1.0, slow_steps))
    assert machine.tuner.threads == 1, "down within a second or three steps, and a trial of one thread"
    machine.run(goes)
    assert machine.tuner.threads == 1
    machine.run(goes + 20 * long)
    assert machine.tuner.threads == fastest


def test_what_slows_all_numbers_changes_none():
    quiet = {1: 0.0025, 2: 0.0018}
    machine = Machine(quiet).run(5)
    for n in quiet:  # another program takes the memory's bandwidth
        quiet[n] *= 2
    machine.run(30)
    assert machine.tuner.threads == 2
    assert len(machine.changes) == 1


@given(times=st.lists(st.floats(1e-6, 10.0), max_size=400), most=st.sampled_from([2, 3, 4, 12, 64]))
def test_any_times_of_steps_lead_to_one_of_the_numbers(times, most):
    candidates, taken, now, changes = [1, 2, most] if most > 2 else [1, 2], [], 0.0, []
    tuner = ThreadTuner(candidates, taken.append, changes.append, lambda: now)
    for seconds in times:
        now += seconds
        tuner.note(seconds)
    assert set(taken) <= set(candidates)
    assert tuner.threads in candidates
    if changes:
        assert changes[-1].threads == tuner.threads
        assert [change.before is None for change in changes] == [True, *[False] * (len(changes) - 1)]


# --- when the number is ours to choose -----------------------------------------------------------------------------


class Library:
    """A BLAS library of four threads."""

    def __init__(self):
        self.n, self.taken = 4, []

    def get_num_threads(self):
        return self.n

    def set_num_threads(self, n):
        self.n = n
        self.taken.append(n)


@pytest.fixture
def library(monkeypatch):
    """Four cores, a BLAS library of as many threads, and nobody who has said how many to take."""
    library = Library()
    for name in module._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "blas_libraries", lambda: [library])
    monkeypatch.setattr(module, "usable_cores", lambda: {0, 1, 2, 3})
    return library


def test_the_number_is_restored(library):
    def work(tuner):
        for _ in range(100):
            tuner.note(0.003 / library.n)
        assert library.n == 4
        for _ in range(20):
            tuner.note(0.003 if library.n == 1 else 0.1)
        assert library.n == 1
        raise KeyError

    with pytest.raises(KeyError), tuned_threads(get_backend("numpy")) as tuner:
        work(tuner)
    assert library.n == 4
    assert set(library.taken) == {1, 2, 4}


def test_it_is_left_alone_where_somebody_has_set_it(library, monkeypatch):
    def is_tuned(backend="numpy", n_steps=1000):
        with tuned_threads(get_backend(backend), n_steps) as tuner:
            return tuner.is_tuned

    assert is_tuned()
    assert not is_tuned(n_steps=module.FEWEST_STEPS - 1)
    for name in module._VARIABLES:
        with monkeypatch.context() as patch:
            patch.setenv(name, "4")
            assert not is_tuned(), name
    monkeypatch.setenv("OMP_NUM_THREADS", "")  # which says nothing
    assert is_tuned()
    for limit in 1, 2, 3:  # threadpoolctl's, joblib's
        library.n = limit
        assert not is_tuned()
        assert library.n == limit
    library.n = 4
    found = []
    thread = threading.Thread(target=lambda: found.append(is_tuned()))
    thread.start()
    thread.join()
    assert found == [False]


@pytest.mark.needs("torch")
def test_other_libraries_have_threads_of_their_own(library):
    with tuned_threads(get_backend("torch")) as tuner:
        assert not tuner.is_tuned


def test_training_in_python_is_watched_and_restores_the_number(library):
    train(make_dataset(400), backend="numpy", hidden=(8,), epochs=10, batch_size=16)
    assert library.taken[:2] == [1, 2]
    assert library.n == 4


def test_a_number_that_is_given_is_kept(library):
    train(make_dataset(400), backend="numpy", hidden=(8,), epochs=2, threads=1)
    assert library.taken == []
    with pytest.raises(ConfigError, match="threads 0: expected a whole number of at least 1, or None"):
        train(make_dataset(400), backend="numpy", threads=0)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_long_fits_of_an_estimator_are_watched_and_short_ones_not(library):
    data = make_dataset(400)
    X, y = data.images.reshape(400, -1) / 255, data.labels
    MLPClassifier((8,), batch_size=40, max_iter=module.FEWEST_STEPS // 10 - 1).fit(X, y)
    assert library.taken == []
    fitted = MLPClassifier((8,), batch_size=40, max_iter=module.FEWEST_STEPS // 10).fit(X, y)
    assert library.taken[:2] == [1, 2]
    assert library.n == 4
    library.taken.clear()
    fitted.partial_fit(X, y)
    assert library.taken == []


# --- the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def trained(monkeypatch, tmp_path, idx_folder):
    """Return a function that trains with options, and returns the folder of the run."""
    monkeypatch.chdir(tmp_path)

    def run(*options):
        data = ("--dataset", f"idx:{idx_folder}", "--backend", "numpy", "--hidden", "8", "--no-plot", "--quiet")
        assert main(["train", *data, "--out", "run", *options]) == 0
        return tmp_path / "run"

    return run


def test_a_runs_config_and_its_changes_are_written(library, trained):
    run = trained("--batch-size", "8", "--epochs", "40")
    assert json.loads((run / "config.json").read_text())["threads"] == "auto"
    changes = [json.loads(line) for line in (run / "threads.jsonl").read_text().splitlines()]
    assert changes[0]["threads"] in (1, 2, 4)
    assert changes[0]["seconds_a_step"] > 0
    assert changes[0]["seconds_a_step_before"] is None
    assert changes[0]["step"] > 12
    assert main(["train", "--resume", "run", "--quiet", "--no-plot"]) == 0


def test_a_number_on_the_command_line_is_kept(library, trained):
    run = trained("--epochs", "1", "--threads", "1")
    assert json.loads((run / "config.json").read_text())["threads"] == 1
    assert not (run / "threads.jsonl").exists()
    assert library.taken == []


def test_a_resumed_run_keeps_to_what_was_asked_for(library, trained, monkeypatch):
    """Not to what there was: neither to a limit of one start, nor to fewer cores than threads."""

    def threads(run):
        record = json.loads((run / "config.json").read_text())
        return record["threads"], record["threads_asked"]

    with monkeypatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        run = trained("--epochs", "1", "--schedule", "constant")
    assert threads(run)[1] == "auto"
    assert main(["train", "--resume", "run", "--epochs", "2", "--quiet", "--no-plot"]) == 0
    assert threads(run) == ("auto", "auto")
    assert main(["train", "--resume", "run", "--epochs", "3", "--threads", "1000", "--quiet", "--no-plot"]) == 0
    assert main(["train", "--resume", "run", "--epochs", "4", "--quiet", "--no-plot"]) == 0
    assert threads(run)[1] == 1000


@pytest.mark.parametrize("threads", ["2", 1.0, True, 0, -1])
def test_what_is_no_number_of_threads_is_refused(threads):
    with pytest.raises(ConfigError, match=f"threads {threads!r}: expected a whole number of at least 1, or None"):
        train(make_dataset(40), backend="numpy", threads=threads)


def test_what_the_environment_says_is_kept(trained):
    run = trained("--epochs", "1")
    found = {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}
    assert os.environ["OPENBLAS_NUM_THREADS"]
    assert json.loads((run / "config.json").read_text())["threads"] == max(found)


@pytest.mark.parametrize("number", ["0", "-1", "many", "1025", "1.5"])
def test_a_number_that_is_none_is_refused(number, capsys):
    assert main(["train", "--threads", number]) == 2
    assert f"{number!r}: expected a number from 1 to 1024, or auto" in capsys.readouterr().err
