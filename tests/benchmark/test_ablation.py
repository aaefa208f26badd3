"""scripts/ablate.py: a table of what each change of a recipe gains."""

import json
import runpy
import subprocess

import pytest

from tests.conftest import ROOT

SMALL = ("--dataset", "digits", "--recipe", "quick", "--set", "hidden=[8]", "--epochs", "1", "--seeds", "2")


@pytest.fixture
def ablate(tmp_path, monkeypatch, capsys):
    """Return a function that runs the script in this process, and returns what came of it."""

    def run(*options, path=tmp_path / "new" / "runs.jsonl"):
        script = str(ROOT / "scripts" / "ablate.py")
        arguments = ["--backend", "numpy", "--out", str(path), *SMALL, "--val-size", "100", *options]
        monkeypatch.setattr("sys.argv", [script, *arguments])
        code = 0
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            code = end.code
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def test_each_run_is_a_line_that_is_not_made_again(ablate, tmp_path):
    options = ("--only", "the recipe", "--only", "peak 0.2", "--only", "peak 0.05")
    first = ablate(*options[:4])
    assert (first.returncode, first.stderr) == (0, "")
    lines = (tmp_path / "new" / "runs.jsonl").read_text().splitlines()
    runs = [json.loads(line) for line in lines]
    assert [(run["change"], run["seed"]) for run in runs] == [
        ("the recipe", 0), ("peak 0.2", 0), ("the recipe", 1), ("peak 0.2", 1)
    ]  # fmt: skip
    rows = first.stdout.splitlines()[-2:]
    mean = sum(run["val_accuracy"] for run in runs if run["change"] == "the recipe") / 2
    assert rows[0].startswith(f"| the recipe | {100 * mean:.3f} |")
    assert rows[1].startswith("| peak 0.2 |")
    again = ablate(*options)
    assert (tmp_path / "new" / "runs.jsonl").read_text().splitlines()[:4] == lines
    assert again.stdout.count('"change"') == 2, "peak 0.05 alone"


def test_what_is_no_change_is_left_out_and_said(ablate):
    done = ablate("--seeds", "1", "--only", "the recipe", "--only", "no deformation", "--only", "no weight decay",
                  "--only", "deformation fades over the last half")  # fmt: skip
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "left out: no deformation: that is the recipe",
        "left out: no weight decay: that is the recipe",
        "left out: deformation fades over the last half: no deformation is there to fade",
    ]
    assert done.stdout.splitlines()[-1].startswith("| the recipe |")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "nonsense=1"), "--set nonsense=1: expected NAME=VALUE, such as hidden=[64]"),
        (("--set", "deform"), "--set deform: expected NAME=VALUE"),
        (("--set", "seed=3"), "--set seed=3: expected NAME=VALUE"),
        (("--set", "deform_fade=0.2"), "deform_fade 0.2 without a deformation"),
        (("--set", "optimizer=adam"), "center is for sgd"),
        (("--dataset", "nope"), "unknown data set 'nope'"),
        (("--epochs", "0"), "epochs 0: expected a whole number of at least 1"),
        (("--seeds", "0"), "--seeds 0: expected at least 1"),
        (("--val-size", "0"), "--val-size 0: expected images to be held out"),
        (("--val-size", "99999"), "val_size 99999: the training set has"),
        (("--backend", "nope"), "unknown backend 'nope'"),
    ],
)
def test_refuses_in_one_line_and_makes_no_file(ablate, tmp_path, options, message):
    done = ablate("--only", "the recipe", *options)
    assert done.stderr.startswith(f"ablate.py: {message}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("line", ["words", "5", '{"seed": 0}'])
def test_a_file_that_holds_no_runs_is_left_as_it_is(ablate, tmp_path, line):
    (tmp_path / "mine").write_text(f"{line}\n")
    done = ablate("--only", "the recipe", path=tmp_path / "mine")
    assert done.returncode == 2
    assert "mine is no file of runs: expected a JSON object a line; name another" in done.stderr
    assert (tmp_path / "mine").read_text() == f"{line}\n"
