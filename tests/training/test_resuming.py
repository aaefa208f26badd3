"""``xpmlp train --resume`` as its users see it, within this process."""

import json

import pytest

from tests.conftest import make_dataset, results
from xpmlp.commands import main
from xpmlp.data import idx
from xpmlp.errors import TrainingError
from xpmlp.storage.files import FolderLock
from xpmlp.training.records import Callback

RUN = ("--epochs", "4", "--hidden", "16,8", "--batch-size", "16", "--no-plot")
"""Of 4 epochs of 13 steps."""


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def train(idx_folder):
    return lambda *options: main(["train", "--backend", "numpy", "--dataset", f"idx:{idx_folder}", *RUN, *options])


@pytest.fixture
def stop_after(monkeypatch):
    """Return a function that makes runs end like a crash after so many steps of one process; None: no more."""
    from xpmlp.commands._run import Recorder

    original = Recorder.on_step

    def stop_after(steps):
        def on_step(self, step):
            original(self, step)
            if steps is not None and step == steps:
                raise TrainingError("a crash")

        monkeypatch.setattr(Recorder, "on_step", on_step)

    return stop_after


def resume(*options):
    return main(["train", "--resume", "run", *options])


def settings(run):
    return json.loads((run / "config.json").read_text())


@pytest.mark.parametrize("steps", [1, 14, 52, *(pytest.param(steps, marks=pytest.mark.full) for steps in (13, 20, 51))])
def test_a_run_that_crashed_goes_on_to_the_same_end(train, at_home, stop_after, capsys, steps):
    stop_after(None)
    assert train("--out", "whole", "--seed", "3") == 0
    stop_after(steps)
    assert train("--out", "run", "--seed", "3", "--checkpoint-steps", "3") == 2
    stop_after(None)
    capsys.readouterr()
    assert resume() == 0
    said, errors = capsys.readouterr()
    assert errors == ""
    done = max(0, steps - 1) // 13 * 13 + (steps - 1) % 13
    last = max(done // 3 * 3, done // 13 * 13)
    assert f"resumed  after step {last} of 52" in said
    assert results(at_home / "run") == results(at_home / "whole")
    assert settings(at_home / "run") == {**settings(at_home / "whole"), "checkpoint_steps": 3}


def test_a_run_that_went_on_draws_all_its_epochs(train, at_home, stop_after, monkeypatch):
    drawn = []
    monkeypatch.setattr("xpmlp.commands._recording.plot_history", lambda epochs, *rest: drawn.extend(epochs))
    stop_after(30)
    assert train("--out", "run") == 2
    stop_after(None)
    assert resume() == 0
    assert [epoch["epoch"] for epoch in drawn] == [1, 2, 3, 4]


def test_a_finished_run_says_so(train, at_home, capsys):
    assert train("--out", "run") == 0
    before = {path: path.stat().st_mtime_ns for path in (at_home / "run").rglob("*") if path.name != ".lock"}
    capsys.readouterr()
    assert resume("--no-plot") == 0
    said, errors = capsys.readouterr()
    assert said.startswith("finished run has made its 4 epochs; test accuracy ")
    assert errors == ""
    assert before == {path: path.stat().st_mtime_ns for path in (at_home / "run").rglob("*") if path.name != ".lock"}


def test_a_finished_run_whose_picture_was_cut_short_is_drawn(train, at_home, capsys):
    assert train("--out", "run") == 0
    assert resume() == 0
    assert "drawn    run/history.png" in capsys.readouterr().out
    assert (at_home / "run" / "history.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_without_its_checkpoints_is_finished(train, at_home, capfd):
    assert train("--out", "run", "--schedule", "constant") == 0
    for path in (at_home / "run" / "checkpoints").iterdir():
        path.unlink()
    before = results(at_home / "run")
    assert resume("--no-plot") == 0
    assert resume("--epochs", "9") == 2
    said, errors = capfd.readouterr()
    assert "finished run has made its 4 epochs" in said
    assert errors == "xpmlp: run is finished and its checkpoints are gone: nothing to resume from\n"
    assert results(at_home / "run") == before


def test_more_epochs_are_made_where_the_rate_is_constant(train, at_home):
    constant = ("--schedule", "constant")
    assert train("--out", "whole", *constant, "--epochs", "6") == 0
    assert train("--out", "run", *constant) == 0
    assert resume("--epochs", "6") == 0
    assert results(at_home / "run") == results(at_home / "whole")
    assert settings(at_home / "run") == settings(at_home / "whole")


def test_a_run_that_ends_between_its_last_epoch_and_its_summary_goes_on(train, at_home, monkeypatch):
    assert train("--out", "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(
            "xpmlp.commands._run.evaluate", lambda *arguments: (_ for _ in ()).throw(TrainingError("a crash"))
        )
        assert train("--out", "run") == 2
    assert not (at_home / "run" / "summary.json").exists()
    assert resume() == 0
    assert results(at_home / "run") == results(at_home / "whole")


def test_a_run_without_a_checkpoint_begins_again(train, at_home, stop_after, capsys):
    assert train("--out", "whole") == 0
    stop_after(20)
    assert train("--out", "run") == 2
    stop_after(None)
    for path in (at_home / "run" / "checkpoints").iterdir():
        path.unlink()
    capsys.readouterr()
    assert resume() == 0
    said = capsys.readouterr().out
    assert "metrics  run/metrics.jsonl: 1 epoch after the checkpoint is made again" in said
    assert "resumed  from the beginning" in said
    assert results(at_home / "run") == results(at_home / "whole")


def test_a_torn_line_is_repaired_and_said(train, at_home, stop_after, capsys):
    assert train("--out", "whole") == 0
    stop_after(30)
    assert train("--out", "run") == 2
    stop_after(None)
    with (at_home / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "train_lo')
    capsys.readouterr()
    assert resume() == 0
    assert "metrics  run/metrics.jsonl: its last line was torn; repaired" in capsys.readouterr().out
    assert results(at_home / "run") == results(at_home / "whole")


@pytest.mark.parametrize("spec", ["cupy", "torch", "jax", "dpnp", "array-api-strict:device1"])
@pytest.mark.needs("{spec}")
@pytest.mark.long_on_jax
def test_another_backend_goes_on(train, at_home, stop_after, spec, find_backend):
    find_backend(spec)
    assert train("--out", "whole") == 0
    stop_after(20)
    assert train("--out", "run", "--backend", spec) == 2
    stop_after(None)
    assert resume() == 0
    (metrics, summary, _), (expected, whole, _) = results(at_home / "run"), results(at_home / "whole")
    assert summary["backend"] == spec.partition(":")[0]
    assert summary["test_loss"] == pytest.approx(whole["test_loss"], rel=1e-3)
    assert [line["train_loss"] for line in metrics] == pytest.approx(
        [line["train_loss"] for line in expected], rel=1e-3
    )


def test_the_data_set_may_have_moved_and_is_found_from_anywhere(train, at_home, stop_after, idx_folder, monkeypatch):
    stop_after(20)
    monkeypatch.chdir(idx_folder.parent)
    begin = ["train", "--backend", "numpy", "--dataset", f"idx:{idx_folder.name}", *RUN, "--out", str(at_home / "run")]
    assert main(begin) == 2
    stop_after(30)
    monkeypatch.chdir(at_home)
    assert resume() == 2
    stop_after(None)
    moved = idx_folder.rename(idx_folder.with_name("moved"))
    assert resume("--dataset", f"idx:{moved}") == 0


class TestRefusals:
    @pytest.fixture
    def refused(self, train, stop_after, capfd, at_home):
        """Return a function that tries to go on and returns the one line that refuses it."""
        stop_after(20)
        assert train("--out", "run") == 2
        stop_after(None)
        with (at_home / "run" / "metrics.jsonl").open("a") as file:
            file.write('{"torn": ')  # which is repaired only where the run goes on

        def refused(*options, run="run"):
            def state():
                return {
                    path: path.read_bytes() for path in at_home.rglob("*") if path.is_file() and path.name != ".lock"
                }

            before = state()
            capfd.readouterr()
            assert main(["train", "--resume", run, *options]) == 2
            errors = capfd.readouterr().err
            assert errors.count("\n") == 1
            assert state() == before, "something was lost or changed"
            return errors.removeprefix("xpmlp: ").removesuffix("\n")

        return refused

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--hidden", "16,9"), "--hidden 16,9: the run was begun with 16,8; leave it out, or start a new run"),
            (("--dtype", "float64"), "--dtype float64: the run was begun with float32; leave it out, or start a new"),
            (("--optimizer", "adam"), "--optimizer adam: the run was begun with sgd; leave it out, or start a new run"),
            (("--learning-rate", "0.3"), "--learning-rate 0.3: the run was begun with 0.0707"),
            (("--val-size", "0.25"), "--val-size 60: the run was begun with 40; leave it out, or start a new run"),
            (("--seed", "1"), "--seed 1: the run was begun with 0; leave it out, or start a new run"),
            (("--epochs", "5"), "--epochs 5: the run's one-cycle learning rate was laid out for 4"),
            (("--target-accuracy", "7"), "--target-accuracy 7.0: expected a fraction above 0, at most 1"),
            (("--dataset", "digits"), "run was begun on idx:"),
            (("--backend", "cudy"), "unknown backend 'cudy'"),
            (("--out", "other"), "--out other: a resumed run stays in its folder run; leave it out"),
        ],
        ids=str,
    )
    def test_of_another_run_name_both_values(self, refused, options, message):
        assert refused(*options).startswith(message)

    def test_the_same_values_are_no_others(self, refused):
        options = ("--hidden", "16,8", "--dtype", "float32", "--epochs", "4", "--seed", "0", "--batch-size", "16")
        assert resume(*options, "--val-size", "40", "--schedule", "one-cycle", "--nesterov") == 0

    def test_of_other_contents_under_the_same_name(self, refused, idx_folder):
        labels = make_dataset(60, seed=1).labels
        labels[0] ^= 1
        idx.write(idx_folder / "t10k-labels-idx1-ubyte", labels)
        assert "idx:" in (message := refused())
        assert "(test set " in message
        assert "is another data set (" in message

    def test_of_what_is_no_run(self, refused, at_home):
        (at_home / "file").touch()
        (at_home / "empty").mkdir()
        assert refused(run="") == "the run's folder has no name: expected the folder of a run"
        assert refused(run="nowhere") == "nowhere is not there: expected the folder of a run"
        assert refused(run="file") == "file is a file: expected the folder of a run"
        assert refused(run="empty") == "empty has no config.json: expected the folder of a run that has begun"

    def test_of_a_config_that_is_damaged_or_of_a_newer_version(self, refused, at_home):
        path = at_home / "run" / "config.json"
        content = settings(at_home / "run")
        path.write_text("{torn")
        assert refused().startswith("run/config.json is no JSON (")
        for changes, message in (
            ({"format_version": 9}, "run/config.json has format version 9: this xpmlp reads up to 1; update xpmlp"),
            ({"format_version": None}, "run/config.json has no format version: expected the config.json of a run"),
            ({"n_val": None}, "run/config.json: n_val is None: expected a whole number"),
            ({"batch_size": 0}, "run/config.json: batch_size 0: expected a whole number of at least 1"),
        ):
            path.write_text(json.dumps({**content, **changes}))
            assert refused() == message
        del content["seed"]
        path.write_text(json.dumps(content))
        assert refused() == "run/config.json has no 'seed': expected every setting of a run"

    def test_of_a_summary_that_is_damaged(self, refused, at_home):
        assert resume("--no-plot") == 0
        (at_home / "run" / "summary.json").write_text('{"test_accuracy": null}')
        assert refused() == "run/summary.json: test_accuracy is None: expected a number"

    def test_of_a_checkpoint_that_is_damaged(self, refused, at_home):
        last = max((at_home / "run" / "checkpoints").iterdir())
        last.write_bytes(last.read_bytes()[:-1])
        message = refused()
        assert message.startswith(f"run/checkpoints/{last.name} is not a complete safetensors file (")
        assert message.endswith("; remove it to resume from step-00000000.safetensors")
        last.unlink()
        assert resume() == 0, "the one before is there for that"

    def test_of_a_run_that_another_process_is_writing(self, refused, at_home):
        lock = FolderLock(at_home / "run")
        assert refused().startswith("run is being written by the process ")
        lock.release()
        assert resume() == 0

    @pytest.mark.parametrize("option", ["--keep", "--checkpoint-steps"])
    def test_of_numbers_that_make_no_sense(self, train, option, capfd):
        assert train("--out", "run", option, "0") == 2
        assert "0 is not in the range x>=1" in capfd.readouterr().err


def test_the_last_checkpoints_are_kept(train, at_home):
    for keep in (1, 3):
        assert train("--out", f"run{keep}", "--keep", str(keep), "--checkpoint-steps", "5") == 0
        names = sorted(path.name for path in (at_home / f"run{keep}" / "checkpoints").iterdir())
        assert names == [f"step-{step:08}.safetensors" for step in (45, 50, 52)[-keep:]]


def test_a_callback_need_not_know_of_checkpoints():
    Callback().on_checkpoint(lambda: pytest.fail("nobody asked for it"))


@pytest.mark.needs(module="numba")
def test_a_run_goes_on_with_its_kernels_unless_others_are_given(train, at_home, stop_after, capfd, monkeypatch):
    stop_after(20)
    assert train("--out", "run", "--kernels", "compiled") == 2
    stop_after(None)
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    capfd.readouterr()
    assert resume() == 2
    assert "kernels compiled: numba is not installed" in capfd.readouterr().err
    assert settings(at_home / "run")["kernels"] == "compiled"
    assert resume("--kernels", "inplace") == 0
    assert settings(at_home / "run")["kernels"] == "inplace"


def test_a_run_that_goes_on_takes_no_recipe(train, capfd):
    assert train("--out", "run") == 0
    assert resume("--recipe", "quick") == 2
    assert "--recipe quick: a resumed run keeps its settings; leave it out" in capfd.readouterr().err
