"""The command line, as its users see it."""

import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest

import xpmlp
from tests.conftest import ROOT, environment, run_on_a_terminal, run_python
from xpmlp.benchmark.checking import make_problem, relative_error
from xpmlp.commands import main
from xpmlp.data import DeviceLoader, idx, load_dataset
from xpmlp.models.model import load as load_model
from xpmlp.training.config import RECIPES

FILES = {".lock", "checkpoints", "config.json", "metrics.jsonl", "summary.json", "model.safetensors", "history.png"}
QUICK = ("--epochs", "3", "--hidden", "16,8", "--batch-size", "16")


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    """In an empty folder, where no data set of this machine's user is found."""
    monkeypatch.delenv("XPMLP_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def train(idx_folder):
    """Return a function that trains on the made-up images with the options that it is given."""
    return lambda *options: main(["train", "--backend", "numpy", "--dataset", f"idx:{idx_folder}", *QUICK, *options])


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def parameters(run):
    """Return each tensor's bytes (the file's own differ: safetensors writes its metadata in any order)."""
    from safetensors.numpy import load_file

    return {name: tensor.tobytes() for name, tensor in load_file(run / "model.safetensors").items()}


class TestTrain:
    def test_leaves_a_folder_with_everything_in_it(self, train, at_home, capsys):
        assert train("--out", "run") == 0
        run = at_home / "run"
        assert {path.name for path in run.iterdir()} == FILES
        config, summary = read(run / "config.json"), read(run / "summary.json")
        metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

        unset = {key for key, value in config.items() if value is None}
        assert unset == {"target_accuracy", "checkpoint_steps", "data_dir", "engine", "label_column", "shape"}, (
            "every default is resolved"
        )
        assert config["sizes"] == [20, 16, 8, 3]
        assert (config["n_train"], config["n_val"], config["n_test"], config["val_size"]) == (200, 40, 60, 40)
        assert (config["learning_rate"], config["momentum"], config["nesterov"]) == (
            pytest.approx(0.0707, 1e-2),
            0.9,
            True,
        )
        assert config["threads"] >= 1

        keys = [
            "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds",
            "samples_per_second",
        ]  # fmt: skip
        assert [list(line) for line in metrics] == [keys] * 3
        assert [line["epoch"] for line in metrics] == [1, 2, 3]

        assert set(summary) == {
            "best_val_accuracy", "best_epoch", "test_loss", "test_accuracy", "epochs", "total_seconds", "backend",
            "device", "library_versions", "seed", "dataset",
        }  # fmt: skip
        assert summary["best_val_accuracy"] == max(line["val_accuracy"] for line in metrics)
        assert summary["backend"] == "numpy"
        assert {"xpmlp", "python", "numpy"} <= set(summary["library_versions"])

        said, errors = capsys.readouterr()
        assert errors == ""
        for expected in ("200 training, 40 validation and 60 test images of 5 × 4", "20-16-8-3", "epoch 3/3", "run "):
            assert expected in said
        assert f"accuracy {100 * summary['test_accuracy']:.2f} %" in said

    def test_the_model_is_the_last_epochs(self, train, at_home, idx_folder):
        from safetensors.numpy import load_file

        from xpmlp.backends import get_backend
        from xpmlp.math.layout import Layout
        from xpmlp.training.evaluation import evaluate

        assert train("--out", "run", "--no-plot") == 0
        tensors = load_file(at_home / "run" / "model.safetensors")
        layout = Layout((20, 16, 8, 3))
        theta = layout.flatten([(tensors[f"W{k}"], tensors[f"b{k}"]) for k in (1, 2, 3)])
        found = evaluate(theta, layout, load_dataset(f"idx:{idx_folder}").test, get_backend("numpy"))
        summary = read(at_home / "run" / "summary.json")
        assert found.accuracy == summary["test_accuracy"]
        assert found.loss == pytest.approx(summary["test_loss"], rel=1e-6)

    def test_without_validation_data_leaves_it_out(self, train, at_home, capsys):
        assert train("--out", "run", "--val-size", "0") == 0
        summary = read(at_home / "run" / "summary.json")
        assert (summary["best_val_accuracy"], summary["best_epoch"]) == (None, None)
        lines = (at_home / "run" / "metrics.jsonl").read_text().splitlines()
        assert all(json.loads(line)["val_loss"] is None for line in lines)
        assert "validation loss" not in capsys.readouterr().out

    def test_stops_at_its_target(self, train, at_home):
        assert train("--out", "run", "--epochs", "60", "--target-accuracy", "0.8") == 0
        summary = read(at_home / "run" / "summary.json")
        assert summary["epochs"] == summary["best_epoch"] < 60
        assert summary["best_val_accuracy"] >= 0.8

    def test_one_seed_is_one_run(self, train, at_home):
        for run in ("one", "two"):
            assert train("--out", run, "--seed", "5", "--no-plot", "--quiet") == 0
        assert parameters(at_home / "one") == parameters(at_home / "two")

    @pytest.mark.parametrize("spec", ["cupy", "torch", "jax", "array-api-strict:device1"])
    @pytest.mark.needs("{spec}")
    def test_every_backend_gives_the_same_model(self, train, at_home, spec, find_backend):
        find_backend(spec)
        for run, backend in (("one", "numpy"), ("two", spec)):
            assert train("--out", run, "--backend", backend, "--no-plot", "--quiet") == 0
        one, two = (read(at_home / run / "summary.json") for run in ("one", "two"))
        assert two["backend"] == spec.partition(":")[0]
        assert two["test_loss"] == pytest.approx(one["test_loss"], rel=1e-3)
        assert abs(two["test_accuracy"] - one["test_accuracy"]) <= 1 / 60

    def test_the_default_folder_says_when_on_what_and_with_what(self, train, at_home, monkeypatch):
        monkeypatch.setattr("time.strftime", lambda form: "20260101-000000")
        assert train("--no-plot", "--quiet") == 0
        assert train("--no-plot", "--quiet") == 0
        names = sorted(path.name for path in (at_home / "runs").iterdir())
        assert len(names) == 2
        assert names == ["20260101-000000-idx-mnist-numpy", "20260101-000000-idx-mnist-numpy-2"]

    def test_an_empty_folder_may_be_given(self, train, at_home):
        (at_home / "run").mkdir()
        assert train("--out", "run", "--no-plot", "--quiet") == 0

    def test_quiet_prints_nothing(self, train, capsys):
        assert train("--out", "run", "--quiet") == 0
        assert capsys.readouterr() == ("", "")

    def test_auto_says_that_it_took_the_digits_and_why(self, at_home, capsys):
        assert main(["train", "--backend", "numpy", "--out", "run", "--epochs", "1", "--no-plot"]) == 0
        said = capsys.readouterr().out
        assert len(re.findall("^dataset +digits, since mnist is not on this disk .*XPMLP_DATA$", said, re.M)) == 1
        config, summary = read(at_home / "run" / "config.json"), read(at_home / "run" / "summary.json")
        assert config["dataset"] == summary["dataset"] == "digits"
        assert config["dataset_note"].startswith("mnist is not on this disk")

    def test_a_recipe_is_beaten_by_options_and_recorded(self, idx_folder, at_home, capsys):
        options = ["train", "--backend", "numpy", "--dataset", f"idx:{idx_folder}", "--recipe", "quick", "--no-plot"]
        assert main([*options, "--out", "run", "--hidden", "9"]) == 0
        assert "recipe quick" in capsys.readouterr().out
        config = read(at_home / "run" / "config.json")
        assert config["recipe"] == "quick"
        assert config["hidden"] == [9], "the user's"
        quick = {name: value for name, value in RECIPES["quick"].items() if name != "hidden"}
        assert {name: config[name] for name in quick} == quick

        assert main([*options, "--out", "adam", "--optimizer", "adam"]) == 0
        assert read(at_home / "adam" / "config.json")["learning_rate"] == 0.003, "SGD's rate is not Adam's"

    @pytest.mark.parametrize(
        "recipe", [pytest.param(name, marks=pytest.mark.full if name == "record" else ()) for name in RECIPES]
    )
    def test_every_recipe_trains(self, at_home, recipe):
        """A few steps of it, on the digits, since MNIST's take long."""
        options = ("--recipe", recipe, "--dataset", "digits", "--epochs", "2", "--backend", "numpy", "--no-plot")
        assert main(["train", *options, "--out", "run"]) == 0
        config = read(at_home / "run" / "config.json")
        expected = {**RECIPES[recipe], "epochs": 2}
        assert {name: config[name] for name in expected} == json.loads(json.dumps(expected))
        assert read(at_home / "run" / "summary.json")["test_accuracy"] > 0.3, "three times as much as by chance"

    def test_a_recipe_without_its_deformation_has_none_to_fade(self, at_home):
        options = ("--recipe", "best", "--deform", "0", "--dataset", "digits", "--epochs", "1", "--backend", "numpy")
        assert main(["train", *options, "--hidden", "8", "--no-plot", "--out", "run"]) == 0
        config = read(at_home / "run" / "config.json")
        assert (config["deform"], config["deform_fade"]) == (0, 0)

    @pytest.mark.needs(module="numba")
    def test_the_kernels_are_recorded_and_change_nothing_but_rounding(self, train, at_home, capsys, monkeypatch):
        from xpmlp.kernels import _numba

        counts, compiled = [], _numba._cross_entropy
        monkeypatch.setattr(_numba, "_cross_entropy", lambda *arrays: counts.append(1) or compiled(*arrays))
        seen = []
        for kernels in ("plain", "inplace", "compiled", "auto"):
            assert train("--out", kernels, "--kernels", kernels, "--no-plot", "--dtype", "float64") == 0
            seen.append(len(counts))
        assert 0 == seen[0] == seen[1] < seen[2] < seen[3], "each runs the kernels that it names"
        assert "numpy on cpu, kernels compiled" in capsys.readouterr().out
        names = "plain", "inplace", "compiled", "auto"
        recorded = [read(at_home / kernels / "config.json")["kernels"] for kernels in names]
        assert recorded == ["plain", "inplace", "compiled", "compiled"]
        assert parameters(at_home / "auto") == parameters(at_home / "compiled")
        ours, *others = (load_model(at_home / name, "numpy").theta for name in names)
        assert all(relative_error(ours, other) < 1e-12 for other in others)

    def test_threads_are_set_and_recorded(self, train, at_home):
        for threads in (1, 2):
            assert train("--out", f"run{threads}", "--threads", str(threads), "--no-plot", "--quiet") == 0
            assert read(at_home / f"run{threads}" / "config.json")["threads"] == threads

    @pytest.mark.slow
    def test_the_digits_pass_96_percent_in_seconds(self, at_home):
        assert main(["train", "--backend", "numpy", "--dataset", "digits", "--out", "run", "--quiet"]) == 0
        assert read(at_home / "run" / "summary.json")["test_accuracy"] > 0.96

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
    @pytest.mark.slow
    def test_a_terminal_is_shown_a_bar(self, idx_folder, at_home):
        command = [sys.executable, "-m", "xpmlp", "train", "--backend", "numpy", "--dataset", f"idx:{idx_folder}"]
        code, text = run_on_a_terminal([*command, "--epochs", "100", "--no-plot"], TERM="xterm")
        assert code == 0
        assert "\x1b[" in text
        assert re.search(r"epoch \d+/100 .*━.* loss .*accuracy .*samples/s", text)
        assert "epoch 100/100" in text


def test_what_makes_a_run_harder_is_said_and_recorded(train, at_home, capsys):
    options = {"deform": 1.0, "deform_fade": 0.5, "dropout": 0.25}
    given = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert train("--out", "run", "--no-plot", *given) == 0
    said = capsys.readouterr().out
    assert "images deformed with strength 1, fading over the last 0.5 of the run, dropout 0.25" in said
    config = read(at_home / "run" / "config.json")
    assert {name: config[name] for name in options} == options


BAD = {
    "an unknown backend": (["--backend", "cudy"], "unknown backend 'cudy': did you mean"),
    "an unknown data set": (["--dataset", "minst"], "unknown data set 'minst': did you mean mnist?"),
    "an unknown optimizer": (["--optimizer", "adamm"], "--optimizer 'adamm': did you mean adam? expected sgd, adam or"),
    "an unknown schedule": (["--schedule", "linear"], "--schedule 'linear'"),
    "an unknown recipe": (["--recipe", "slow"], "unknown recipe 'slow': expected quick, best, record or default"),
    "a negative deformation": (["--deform", "-1"], "deform -1.0: expected a strength of at least 0 (off), at most 10"),
    "a deformation that is no number": (["--deform", "nan"], "deform nan: expected a strength of at least 0 (off)"),
    "a dropout of everything": (["--dropout", "1"], "dropout 1.0: expected at least 0 (off) and below 1"),
    "an unknown precision": (["--precision", "half"], "precision 'half': expected float32 or tf32"),
    "TF32 on a CPU": (["--precision", "tf32"], "numpy on cpu has no TF32, a precision of NVIDIA's GPUs"),
    "unknown kernels": (["--kernels", "fast"], "--kernels 'fast': expected auto, plain, inplace or compiled"),
    "an unknown dtype": (["--dtype", "half"], "--dtype 'half'"),
    "an unknown flag": (["--epoch", "3"], "No such option"),
    "an argument too many": (["fast"], "unexpected extra argument"),
    "a flag without its value": (["--epochs"], "requires an argument"),
    "words for numbers": (["--epochs", "many"], "'many' is not a valid integer"),
    "words for widths": (
        ["--hidden", "wide"],
        "'wide': expected whole numbers with commas between them, such as 256,128",
    ),
    "no width": (["--hidden", "0"], "expected widths of at least 1"),
    "a negative width": (["--hidden", "256,-128"], "expected widths of at least 1"),
    "a huge width": (["--hidden", "100000000,100000000"], "--hidden 100000000,100000000 with --batch-size 16 need"),
    "no epochs": (["--epochs", "0"], "epochs 0: expected a whole number of at least 1"),
    "no batch": (["--batch-size", "0"], "--batch-size 0"),
    "a batch larger than the data": (["--batch-size", "201"], "--batch-size 201: there are 200 training images"),
    "a negative rate": (["--learning-rate", "-0.1"], "--learning-rate -0.1: expected a finite number above 0"),
    "a rate that is no number": (["--learning-rate", "nan"], "--learning-rate nan"),
    "a target without validation": (["--target-accuracy", "0.9", "--val-size", "0"], "without validation data"),
    "a target in percent": (["--target-accuracy", "98"], "expected a fraction above 0, at most 1"),
    "more validation than data": (["--val-size", "240"], "the training set has 240 images"),
    "an unknown transfer": (["--transfer", "fax"], "--transfer 'fax': expected auto, resident or stream"),
    "no threads": (["--threads", "0"], "'0': expected a number from 1 to 1024, or auto"),
    "momentum for adam": (["--optimizer", "adam", "--momentum", "0.9"], "momentum and nesterov are for sgd"),
    "a data folder that is none": (["--dataset", "mnist", "--data-dir", "nowhere"], "nowhere is not a folder"),
    "auto in a folder without mnist": (["--dataset", "auto", "--data-dir", "."], "mnist is not in the given folder"),
    "a folder that holds something": (["--out", ".."], "is not empty: choose another folder"),
    "a file for a folder": (["--out", "file"], "file is a file: expected a folder"),
    "a folder without a name": (["--out", ""], "the run's folder has no name"),
    "a folder that cannot be": (["--out", "/dev/null/run"], "cannot be made"),
    "a backend that is not there": (["--backend", "numpy:abacus"], "or --backend auto to train on the CPU"),
    "a rate that diverges at once": (["--learning-rate", "1e38", "--schedule", "constant"], "too great for this run"),
}


class TestBadInput:
    @pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
    def test_is_one_line_and_exit_code_2(self, train, at_home, capfd, options, message):
        (at_home / "file").touch()
        assert train(*options) == 2
        said, errors = capfd.readouterr()
        assert message in errors
        assert errors.count("\n") == 1
        assert errors.startswith("xpmlp")
        if "too great" not in message:
            assert said == ""
            assert [path.name for path in at_home.iterdir()] == ["file"], "something is left half-written"

    def test_a_run_that_diverges_keeps_what_it_has_and_says_where(self, train, at_home, capfd):
        assert train("--out", "run", "--learning-rate", "1e38", "--schedule", "constant") == 2
        last = "run/checkpoints/step-00000000.safetensors"
        assert f"(the last good checkpoint: {last})" in capfd.readouterr().err
        assert (at_home / last).exists()

    def test_memory_that_runs_out_in_the_first_step_leaves_nothing(self, train, at_home, capfd, monkeypatch):
        from xpmlp.backends._numpy import NumpyBackend

        def full(self, step, *, donate=()):
            def step(*arguments):
                raise MemoryError

            return step

        monkeypatch.setattr(NumpyBackend, "compile", full)
        assert train("--out", "deep/run") == 2
        assert "ran out of memory with batch size 16" in capfd.readouterr().err
        assert list(at_home.iterdir()) == []

    def test_memory_that_runs_out_in_the_final_test_leaves_the_model(self, train, at_home, capfd, monkeypatch):
        original, calls = DeviceLoader.__init__, []

        def full(self, *arguments, **keywords):
            calls.append(1)
            if len(calls) == 2:
                raise MemoryError
            original(self, *arguments, **keywords)

        monkeypatch.setattr(DeviceLoader, "__init__", full)
        assert train("--out", "run", "--quiet") == 2
        errors = capfd.readouterr().err
        assert "ran out of memory with batch size 16" in errors
        assert "(the run so far is in run)" in errors
        assert {path.name for path in (at_home / "run").iterdir()} == FILES - {"summary.json", "history.png"}

    def test_a_disk_that_fills_up_is_one_line(self, train, capfd, monkeypatch):
        from xpmlp.training.folder import RunFolder

        def full(self, metrics):
            raise OSError(28, "No space left on device", str(self.path / "metrics.jsonl"))

        monkeypatch.setattr(RunFolder, "append_metrics", full)
        assert train("--out", "run", "--quiet") == 2
        assert capfd.readouterr().err == (
            "xpmlp: run/metrics.jsonl: No space left on device: make room, then resume from the last checkpoint with: "
            "xpmlp train --resume run\n"
        )

    def test_control_c_is_130(self, train, capfd, monkeypatch):
        from xpmlp.training.folder import RunFolder

        def interrupt(self, metrics):
            raise KeyboardInterrupt

        monkeypatch.setattr(RunFolder, "append_metrics", interrupt)
        assert train("--out", "run", "--quiet") == 130
        assert capfd.readouterr().err == (
            "xpmlp train: interrupted after step 13, in epoch 1 of 3; continue with: xpmlp train --resume run\n"
        )

    def test_an_unknown_command(self, capfd):
        assert main(["tran"]) == 2
        assert re.match(r"xpmlp: unknown command 'tran': .*; see xpmlp --help\n$", capfd.readouterr().err)


class TestOtherCommands:
    def test_help_and_version(self, capsys):
        assert main([]) == 0
        assert main(["--version"]) == 0
        said = capsys.readouterr().out
        assert "Commands:" in said
        assert f"xpmlp {xpmlp.__version__}" in said

    @pytest.fixture(autouse=True)
    def small_problem(self, monkeypatch):
        small = make_problem((100, 64, 32, 10), n=64)
        monkeypatch.setattr("xpmlp.benchmark.checking.make_problem", lambda: small)

    @pytest.mark.slow
    def test_check_prints_each_figure_beside_its_bound(self, capsys):
        assert main(["check", "--backend", "numpy"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert re.match(r"gradient W1 +plain +float32 +\S+ +1e-05$", next(line for line in lines if "W1" in line))
        assert lines[-1] == "numpy: all 54 figures are within their bounds"

    def test_check_of_an_imprecise_library_is_exit_code_1(self, capsys, monkeypatch):
        from tests.benchmark.test_checking import Imprecise

        monkeypatch.setattr("xpmlp.benchmark.checking.get_backend", lambda spec, dtype=None: Imprecise())
        assert main(["check", "--backend", "numpy"]) == 1
        said = capsys.readouterr().out
        assert "OUTSIDE" in said
        assert re.search(r"numpy: \d+ of 54 figures are outside their bounds", said)

    def test_check_of_a_backend_that_is_not_there_is_exit_code_2(self, capfd):
        assert main(["check", "--backend", "nothing"]) == 2
        assert capfd.readouterr().err.count("\n") == 1

    def test_backends_lists_every_library_with_its_version_or_why_not(self, capsys, monkeypatch):
        from xpmlp.backends.probe import Report

        reports = [
            Report("numpy", None, "2.4.6", "cpu", 24_000_000_000),
            Report("cupy", problem="cupy cannot run: there is no NVIDIA driver"),
            Report("torch:mps", None, "2.13", "mps", None),
        ]
        monkeypatch.setattr("xpmlp.backends.probe.probe_all", lambda: iter(reports))
        assert main(["backends"]) == 0
        numpy, cupy, torch = capsys.readouterr().out.splitlines()
        assert numpy.split() == ["numpy", "2.4.6", "cpu", "24", "GB", "free"]
        assert re.match("cupy +cannot run: there is no NVIDIA driver", cupy)
        assert "memory unknown" in torch

    @pytest.mark.slow
    def test_backends_runs(self):
        done = run_python("-m", "xpmlp", "backends")
        assert done.returncode == 0
        assert {line.split()[0] for line in done.stdout.splitlines()} >= {"numpy", "cupy", "torch", "jax"}


class TestAsAProgram:
    @pytest.mark.slow
    def test_the_script_and_the_module_are_the_same_command(self, idx_folder, at_home):
        options = ["--backend", "numpy", "--dataset", f"idx:{idx_folder}", *QUICK, "--no-plot"]
        script = run_python(str(ROOT / "scripts" / "train.py"), *options, "--out", str(at_home / "one"))
        module = run_python("-m", "xpmlp", "train", *options, "--out", str(at_home / "two"))
        assert (script.returncode, script.stderr) == (module.returncode, module.stderr) == (0, "")
        assert parameters(at_home / "one") == parameters(at_home / "two")

    def test_the_scripts_errors_bear_its_name(self):
        done = run_python(str(ROOT / "scripts" / "train.py"), "--epochs", "0")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "train.py: --epochs 0: expected a whole number of at least 1\n"

    def test_a_clone_that_was_not_installed_says_so_in_one_line(self):
        done = subprocess.run(
            [sys.executable, "-S", "-E", str(ROOT / "scripts" / "train.py")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert re.match(r"train.py: xpmlp is not installed: run `python -m pip install -e \.` .*\n$", done.stderr)
        command = [sys.executable, "-S", "-E", "-m", "xpmlp", "train"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 2
        assert re.match(r"xpmlp: \w+ is not installed: run `python -m pip install -e \.` .*\n$", done.stderr)

    @pytest.mark.parametrize("how", [">&-", "PYTHONIOENCODING=ascii"])
    @pytest.mark.slow
    def test_an_output_that_takes_nothing_or_no_signs_is_no_traceback(self, idx_folder, at_home, how):
        command = (
            f"{sys.executable} -m xpmlp train --dataset idx:{idx_folder} --backend numpy --epochs 1 --no-plot --out run"
        )
        command = f"{command} {how}" if how == ">&-" else f"{how} {command}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment(), check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert (at_home / "run" / "summary.json").exists()

    @pytest.mark.slow
    def test_a_reader_that_goes_away_is_no_traceback(self, idx_folder, at_home):
        command = (
            f"{sys.executable} -m xpmlp train --dataset idx:{idx_folder} --backend numpy --no-plot --out run | true"
        )
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"],
            capture_output=True,
            text=True,
            env=environment(),
            check=False,
        )
        assert (done.returncode, done.stderr) == (141, "")


class TestData:
    def test_prints_what_a_data_set_holds_and_draws_it(self, idx_folder, at_home, capsys):
        assert main(["data", f"idx:{idx_folder}"]) == 0
        said, errors = capsys.readouterr()
        assert errors == ""
        assert "240 images of 5 × 4" in said
        assert "60 images of 5 × 4" in said
        assert re.search("values 0 to 2[0-9][0-9], mean [0-9.]+; 255 counts as 1", said)
        sum_ = hashlib.sha256((idx_folder / "train-labels-idx1-ubyte").read_bytes()).hexdigest()
        assert f"labels sha256 {sum_}" in said
        assert re.findall(r"^(\d) +(\d+) +(\d+)$", said, re.M) == [(str(k), "80", "20") for k in range(3)]
        assert (at_home / "samples.png").read_bytes().startswith(b"\x89PNG")

    def test_draws_deformations_beside_the_samples(self, at_home, capsys):
        for strength in ("1", "0.5"):
            (at_home / f"of-{strength}").mkdir()
            assert main(["data", "digits", "--deform", strength, "--out", f"of-{strength}/samples.png"]) == 0
            assert f"picture  of-{strength}/deformed.png\n" in capsys.readouterr().out
        pictures = [(at_home / f"of-{strength}" / "deformed.png").read_bytes() for strength in ("1", "0.5")]
        assert all(picture.startswith(b"\x89PNG") for picture in pictures)
        assert pictures[0] != pictures[1]

    def test_of_what_are_no_images_draws_no_deformations_and_nothing_else(self, at_home, tmp_path_factory, capsys):
        folder = tmp_path_factory.mktemp("rows")
        for part in ("train", "t10k"):
            idx.write(folder / f"{part}-images-idx3-ubyte", np.zeros((6, 1, 20), np.uint8))
            idx.write(folder / f"{part}-labels-idx1-ubyte", np.arange(6, dtype=np.uint8) % 3)
        assert main(["data", f"idx:{folder}", "--deform", "1"]) == 2
        assert "1 × 20" in capsys.readouterr().err
        assert list(at_home.iterdir()) == []

    def test_says_what_is_unusual_about_the_files(self, idx_folder, capsys):
        assert main(["data", "mnist", "--data-dir", str(idx_folder), "--out", "mine.png"]) == 0
        assert re.search("^warning +train-images.*not mnist as it was published", capsys.readouterr().out, re.M)

    def test_draws_to_just_the_name_that_was_given_on_any_screen(self, at_home, monkeypatch):
        monkeypatch.setenv("MPLBACKEND", "nonsense")
        assert main(["data", "digits", "--out", "picture.txt"]) == 0
        assert [path.name for path in at_home.iterdir()] == ["picture.txt"]

    def test_takes_the_digits_where_nothing_else_is_and_says_why(self, capsys):
        assert main(["data"]) == 0
        assert re.search("^data +digits, since mnist is not on this disk", capsys.readouterr().out, re.M)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["minst"], "unknown data set 'minst': did you mean mnist?"),
            (["mnist", "--data-dir", "nowhere"], "nowhere is not a folder"),
            (["digits", "--out", "nowhere/samples.png"], "nowhere/samples.png: No such file or directory"),
            (["digits", "--deform", "-1"], "deform -1.0: expected a strength of at least 0 (off), at most 10"),
            (["digits", "--deform", "nan"], "deform nan: expected a strength of at least 0"),
            (["digits", "--out", "."], "--out '.' is not a file name"),
            (["digits", "--deform", "1", "--out", "deformed.png"], "--out deformed.png: --deform draws its own"),
            (["digits", "--out", ""], "--out '' is not a file name"),
        ],
    )
    def test_refuses_in_one_line(self, capfd, arguments, message):
        assert main(["data", *arguments]) == 2
        errors = capfd.readouterr().err
        assert message in errors
        assert errors.count("\n") == 1


@pytest.mark.parametrize("transfer", ["resident", "stream"])
def test_the_way_of_transfer_changes_no_result_and_is_recorded(train, at_home, transfer):
    assert train("--out", "auto", "--no-plot", "--quiet") == 0
    assert train("--out", "run", "--transfer", transfer, "--no-plot", "--quiet") == 0
    assert parameters(at_home / "auto") == parameters(at_home / "run")
    assert read(at_home / "auto" / "config.json")["transfer"] == "resident"
    assert read(at_home / "run" / "config.json")["transfer"] == transfer
