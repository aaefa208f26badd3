"""xpmlp train --seeds: runs that differ in their seed, resumable as one."""

import json
import re
import shutil
import signal
import statistics

import numpy as np
import pytest

from tests.commands.test_commands import FILES, QUICK, at_home, parameters, read, train  # noqa: F401
from xpmlp.commands import _run, main
from xpmlp.training.drawing import plot_seeds

CONSTANT = (*QUICK, "--schedule", "constant")


def test_each_is_the_run_with_its_seed(train, at_home, capsys):  # noqa: F811
    assert train("--seeds", "3,5-6", "--out", "three") == 0
    said = capsys.readouterr().out
    three = at_home / "three"
    assert {path.name for path in three.iterdir()} == {
        ".lock", "seeds.json", "summary.json", "history.png", "seed-3", "seed-5", "seed-6",
    }  # fmt: skip
    for seed in (3, 5, 6):
        assert {path.name for path in (three / f"seed-{seed}").iterdir()} == FILES
        assert train("--seed", str(seed), "--out", f"alone-{seed}") == 0
        assert parameters(three / f"seed-{seed}") == parameters(at_home / f"alone-{seed}")
    summary = read(three / "summary.json")
    assert summary["seeds"] == [3, 5, 6]
    found = summary["figures"]["test_loss"]
    losses = [read(three / f"seed-{seed}" / "summary.json")["test_loss"] for seed in (3, 5, 6)]
    assert found == pytest.approx({"mean": statistics.fmean(losses), "std": np.std(losses, ddof=1),
                                   "min": min(losses), "max": max(losses)})  # fmt: skip
    assert not {"seed", "backend", "library_versions"} & summary["figures"].keys()
    assert re.search(r"^seed +5, 2 of 3$", said, re.M)
    assert re.search(
        r"^seeds +test accuracy \d+\.\d\d ± \d+\.\d\d %, \d+\.\d\d to \d+\.\d\d % of 3; three$", said, re.M
    )


def test_one_that_was_cut_short_goes_on_as_one(train, at_home, monkeypatch, capsys):  # noqa: F811
    """After the first seed's run, in the second's, before the third's."""
    assert train("--seeds", "1-3", "--out", "whole") == 0
    usual, calls = _run.train_network, []

    def stopped(*arguments, **keywords):
        calls.append(keywords)
        if len(calls) == 2:
            keywords["should_stop"].signum = signal.SIGINT  # as if Ctrl-C had been pressed
        return usual(*arguments, **keywords)

    monkeypatch.setattr(_run, "train_network", stopped)
    capsys.readouterr()
    assert train("--seeds", "1-3", "--out", "cut") == 130
    assert "continue with: xpmlp train --resume cut\n" in capsys.readouterr().err
    monkeypatch.setattr(_run, "train_network", usual)
    cut, whole = at_home / "cut", at_home / "whole"
    assert not (cut / "seed-3").exists()
    assert main(["train", "--resume", "cut", "--quiet"]) == 0
    for seed in (1, 2, 3):
        assert parameters(cut / f"seed-{seed}") == parameters(whole / f"seed-{seed}")
    assert read(cut / "summary.json")["figures"].keys() == read(whole / "summary.json")["figures"].keys()
    assert capsys.readouterr().out == ""
    shutil.rmtree(cut / "seed-2")
    assert main(["train", "--resume", "cut", "--quiet"]) == 0
    assert parameters(cut / "seed-2") == parameters(whole / "seed-2")


def test_all_make_more_epochs(train, at_home, capsys):  # noqa: F811
    assert train(*CONSTANT, "--seeds", "0-1", "--out", "runs") == 0
    shutil.rmtree(at_home / "runs" / "seed-1")
    assert main(["train", "--resume", "runs", "--epochs", "5"]) == 0
    assert train(*CONSTANT, "--epochs", "5", "--seed", "1", "--out", "alone") == 0
    assert parameters(at_home / "runs" / "seed-1") == parameters(at_home / "alone")
    assert read(at_home / "runs" / "summary.json")["figures"]["epochs"]["mean"] == 5
    before = read(at_home / "runs" / "seeds.json")
    assert main(["train", "--resume", "runs", "--schedule", "cosine"]) == 2
    assert "the run was begun with constant" in capsys.readouterr().err
    assert read(at_home / "runs" / "seeds.json") == before


def test_more_epochs_are_made_by_all_whenever_the_first_was_interrupted(train, at_home, monkeypatch):  # noqa: F811
    assert train(*CONSTANT, "--seeds", "0-1", "--out", "runs") == 0
    usual = _run.train_network

    def stopped(*arguments, **keywords):
        keywords["should_stop"].signum = signal.SIGINT
        return usual(*arguments, **keywords)

    monkeypatch.setattr(_run, "train_network", stopped)
    assert main(["train", "--resume", "runs", "--epochs", "5", "--quiet"]) == 130
    monkeypatch.setattr(_run, "train_network", usual)
    assert main(["train", "--resume", "runs", "--quiet"]) == 0
    figures = read(at_home / "runs" / "summary.json")["figures"]["epochs"]
    assert (figures["min"], figures["max"]) == (5, 5)


def test_go_on_from_any_folder(at_home, monkeypatch):  # noqa: F811
    idx_set = at_home / "set"
    from tests.data.test_formats import write_csv

    idx_set.mkdir()
    write_csv(idx_set / "train.csv")
    quick = ["--epochs", "1", "--hidden", "4", "--quiet", "--no-plot"]
    assert main(["train", "--dataset", "set/train.csv", *quick, "--seeds", "0-1", "--out", "runs"]) == 0
    shutil.rmtree(at_home / "runs" / "seed-1")
    monkeypatch.chdir(idx_set)
    assert main(["train", "--resume", "../runs", "--quiet", "--no-plot"]) == 0
    assert (at_home / "runs" / "seed-1" / "summary.json").exists()


@pytest.mark.parametrize("options", [["--dataset", "nosuch"], ["--epochs", "0"]])
def test_what_never_began_leaves_nothing(options, at_home, capsys):  # noqa: F811
    for out in ([], ["--out", "deep/runs"]):
        assert main(["train", "--dataset", "digits", "--seeds", "0-1", *out, *options]) == 2
        assert list(at_home.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--seeds", "0-"], "Invalid value for '--seeds': '0-': expected seeds such as 0-9 or 1,5,7, each once"),
        (["--seeds", "3,1-4"], "'3,1-4': expected seeds such as 0-9 or 1,5,7, each once"),
        (["--seeds", "5-3"], "'5-3': expected seeds"),
        (["--seeds", ""], "'': expected seeds"),
        (["--seeds", "0-1000"], "0-1000: expected at most 1000 seeds"),
        (["--seeds", "0-1", "--seed", "7"], "--seed 7 with --seeds: give one of them"),
        (["--seeds", "0-1", "--resume", "runs"], "--seeds with --resume runs: resumed runs have their seeds"),
        (["--seeds", "0-1", "--out", "full"], "full holds something: a run needs an empty folder"),
        (["--resume", "damaged"], "seeds.json is damaged, or of a newer xpmlp: expected seeds and options"),
        (["--resume", "damaged", "--out", "x"], "--out x: resumed runs stay in their folder; leave it out"),
        (["--resume", "empty"], "seeds.json is damaged, or of a newer xpmlp: expected seeds and options"),
    ],
)
def test_what_is_refused(options, problem, at_home, capsys):  # noqa: F811
    (at_home / "full").mkdir()
    (at_home / "full" / "file").touch()
    (at_home / "damaged").mkdir()
    (at_home / "damaged" / "seeds.json").write_text(json.dumps({"seeds": 3}))
    (at_home / "empty").mkdir()
    (at_home / "empty" / "seeds.json").write_text(json.dumps({"seeds": [3], "options": {}, "format_version": 1}))
    data = [] if "--resume" in options else ["--dataset", "digits"]
    assert main(["train", *data, *options]) == 2
    assert problem in capsys.readouterr().err
    assert {path.name for path in at_home.iterdir()} == {"full", "damaged", "empty"}


def test_are_for_one_process(monkeypatch, at_home, capsys):  # noqa: F811
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    assert main(["train", "--dataset", "digits", "--seeds", "0-1"]) == 2
    assert "seeds are trained one after the other in one process" in capsys.readouterr().err


def test_the_band_is_of_those_that_came_so_far(tmp_path):
    line = {"train_loss": 1.0, "val_loss": None, "train_accuracy": 0.5, "val_accuracy": None}
    runs = [[line] * 3, [{**line, "train_loss": 2.0}] * 2]
    plot_seeds(runs, tmp_path / "band.png", "two runs, one longer")
    assert (tmp_path / "band.png").stat().st_size > 5000
