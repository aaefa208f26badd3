"""``xpmlp bench``: the same work for all, and honest figures of it. (No test looks at how long anything takes.)"""

import gc
import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest

from xpmlp.benchmark.rounds import Result, installed, summarise
from xpmlp.benchmark.work import CONTESTANTS, PEERS, UNTIL_EXIT, Work, make
from xpmlp.commands import main
from xpmlp.errors import ConfigError
from xpmlp.training.threads import FixedThreads

COMPILES = (
    pytest.mark.full,
    pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),  # PyTorch's own
)


def marks_of(name):
    package = CONTESTANTS[name][1]
    needs = pytest.mark.needs(package) if package in ("cupy", "jax", "torch") else pytest.mark.needs(module=package)
    return [needs, *(COMPILES if name == "pytorch-compile" else ())]


@pytest.fixture(autouse=True)
def contestants_leave():
    """In a benchmark each has a process of its own, to whose end it keeps what it enters."""
    yield
    UNTIL_EXIT.close()


@pytest.mark.parametrize("optimizer", ["adam", pytest.param("sgd", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [pytest.param(name, marks=marks_of(name)) for name in CONTESTANTS if name != "floor"])
def test_every_contestant_learns(name, optimizer, mnist_like, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    work = Work((32,), 32, optimizer, 0.003 if optimizer == "adam" else 0.05, 10, str(mnist_like), n_images=600)
    contestant = make(name, work)
    for _ in range(10):
        contestant.epoch()
    assert contestant.test_accuracy() > 0.9
    assert {"library", "version", "products"} <= set(contestant.description)


def test_the_floor_is_the_steps_products(mnist_like, monkeypatch):
    made = []
    original = np.matmul
    monkeypatch.setattr("numpy.matmul", lambda a, b, out: made.append((a.shape, b.shape)) or original(a, b, out=out))
    make("floor", Work((256, 128), 32, "adam", 0.001, 1, str(mnist_like), n_images=32)).epoch()
    assert len(made) == 8
    forward = [((32, 784), (784, 256)), ((32, 256), (256, 128)), ((32, 128), (128, 10))]
    assert made[:3] == forward
    assert set(made[3:]) == {
        *(((fan_in, 32), (32, fan_out)) for (_, fan_in), (_, fan_out) in forward),
        *(((32, fan_out), (fan_out, fan_in)) for (_, fan_in), (_, fan_out) in forward[1:]),
    }


@pytest.mark.parametrize("name", ["floor", "numpy"])
def test_threads_stay_tuned_to_the_end_of_the_process(name, mnist_like, monkeypatch):
    events = []

    @contextmanager
    def tuned_threads(backend):
        events.append("entered")
        yield FixedThreads()
        events.append("left")

    monkeypatch.setattr("xpmlp.training.threads.tuned_threads", tuned_threads)
    monkeypatch.setattr("xpmlp.benchmark.contestants.ours.tuned_threads", tuned_threads)
    contestant = make(name, Work((8,), 32, "adam", 0.001, 1, str(mnist_like), n_images=64))
    gc.collect()
    contestant.epoch()
    assert events == ["entered"]


def test_the_medians_and_ratios_are_of_all_rounds():
    results = [
        Result("numpy", 128, "steady", [1.0, 3.0], 100),
        Result("pytorch", 128, "steady", [2.0], 300),
        Result("numpy", 128, "steady", [2.0], 300),
        Result("jax-by-hand", 128, "steady", [4.0]),
        Result("floor", 128, "steady", [0.5]),
        Result("keras", 128, "cold", [], None, 0.9),
        Result("thinc", 128, "steady", problem="exit code 1: no"),
    ]
    rows = {(row["contestant"], row["what"]): row for row in summarise(results)}
    ours = rows["numpy", "steady"]
    assert (ours["seconds"], ours["least"], ours["most"], ours["peak_bytes"]) == (2.0, 1.0, 3.0, 200)
    assert (ours["by_fastest_peer"], ours["share_of_floor"]) == (1.0, 0.25)
    assert rows["jax-by-hand", "steady"]["by_fastest_peer"] == 2.0
    assert (rows["keras", "cold"]["seconds"], rows["keras", "cold"]["accuracy"]) == (None, 0.9)
    assert rows["thinc", "steady"]["problem"] == "exit code 1: no"


def test_a_contestant_whose_package_is_missing_is_left_out(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name in ("numpy", "sklearn") or None)
    assert installed(["floor", "numpy", *PEERS]) == (
        ["floor", "numpy", "scikit-learn"],
        [name for name in PEERS if name != "scikit-learn"],
    )
    with pytest.raises(ConfigError, match="unknown contestant 'tensorflow': expected floor, numpy"):
        installed(["tensorflow"])


class TestTheCommand:
    @pytest.fixture(autouse=True)
    def at_home(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        return tmp_path

    @pytest.mark.slow
    def test_measures_writes_and_draws(self, mnist_like, at_home, capsys):
        command = ["bench", "--data-dir", str(mnist_like), "--hidden", "8", "--batch-size", "64", "--rounds", "1"]
        assert main([*command, "--epochs", "1", "--peers", "scikit-learn"]) == 0
        said, errors = capsys.readouterr()
        assert errors == ""
        assert "| the step's eight products alone, through NumPy |" in said
        assert "| scikit-learn's MLPClassifier |" in said
        lines = [json.loads(line) for line in (at_home / "benchmark" / "results.jsonl").read_text().splitlines()]
        assert [(line["contestant"], line["what"]) for line in lines] == [
            *((name, "steady") for name in ("floor", "numpy", "scikit-learn")),
            *((name, "cold") for name in ("numpy", "scikit-learn")),
        ]
        assert [line["problem"] for line in lines] == [""] * 5
        assert all(len(line["seconds"]) == 1 for line in lines[:4])
        record = json.loads((at_home / "benchmark" / "bench.json").read_text())
        assert {row["contestant"] for row in record["rows"]} == {"floor", "numpy", "scikit-learn"}
        assert (at_home / "benchmark" / "bench.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.slow
    def test_measures_beside_a_neighbour_and_with_fixed_numbers_of_threads(self, mnist_like, at_home, capsys):
        command = ["bench", "--data-dir", str(mnist_like), "--hidden", "8", "--batch-size", "64", "--rounds", "1"]
        assert (
            main([*command, "--epochs", "1", "--peers", "none", "--neighbours", "1", "--threads", "1", "--no-cold"])
            == 0
        )
        said, _ = capsys.readouterr()
        assert "| batch 64, beside 1 busy process, s/epoch |" in said
        assert said.count("| xpmlp on NumPy, 1 BLAS thread |") == 2
        lines = [json.loads(line) for line in (at_home / "benchmark" / "results.jsonl").read_text().splitlines()]
        expected = [(name, what) for what in ("steady", "beside 1") for name in ("floor", "numpy", "numpy@1")]
        assert [(line["contestant"], line["what"]) for line in lines] == expected
        assert all(line["seconds"] and not line["problem"] for line in lines)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--peers", "tensorflow"], "unknown contestant 'tensorflow': expected floor, numpy"),
            (["--backend", "cudy"], "unknown backend 'cudy': did you mean cupy? expected numpy, numba,"),
            (["--neighbours", "-1"], "-1 is not in the range x>=0"),
            (["--threads", "0"], "--threads 0: expected whole numbers of at least 1"),
            (["--batch-size", "0"], "expected whole numbers of at least 1"),
            (["--batch-size", "many"], "'many': expected whole numbers with commas between them"),
            (["--data-dir", "nowhere", "--peers", "none"], "mnist is not in the given folder: nowhere is not a folder"),
        ],
    )
    def test_refuses_in_one_line(self, at_home, capfd, options, message):
        assert main(["bench", *options]) == 2
        said, errors = capfd.readouterr()
        assert message in errors
        assert (said, errors.count("\n")) == ("", 1)
        assert list(at_home.iterdir()) == []
