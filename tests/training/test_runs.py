"""A run's folder."""

import dataclasses
import json
import os
import stat

import numpy as np
import pytest

from xpmlp.errors import CheckpointError, ConfigError
from xpmlp.math.layout import Layout
from xpmlp.models.model import ModelInfo, load
from xpmlp.storage import tensors
from xpmlp.training.config import TrainConfig
from xpmlp.training.folder import RunFolder, read_checkpoint, read_json, read_metrics, read_settings
from xpmlp.training.records import Checkpoint, EpochMetrics

LAYOUT = Layout((20, 4, 3))
INFO = ModelInfo(LAYOUT, (5, 4), 16, ("null", "één", "zwei"), "made-up")


def epoch(number):
    return EpochMetrics(number, 1 / 3, 0.1 * number, None, None, 0.1, 0.7, 1e3)


def vector(seed, dtype="float32"):
    return np.random.default_rng(seed).normal(size=LAYOUT.size).astype(dtype)


CHECKPOINT = Checkpoint(
    config=TrainConfig(hidden=(4,), optimizer="adam").resolve(100),
    layout=LAYOUT,
    step=12,
    epochs=(epoch(1), epoch(2)),
    theta=vector(0),
    state={"m": vector(1), "v": vector(2)},
    totals={"loss": np.array(1.5, "f4"), "correct": np.array(7, "i4")},
    generator=np.random.default_rng(3).bit_generator.state,
    epoch_seconds=0.25,
    seconds=1.75,
)


def test_a_folder_is_made_when_the_run_begins(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "one")
    assert not (tmp_path / "runs").exists()
    folder.create()
    assert folder.path.is_dir()


def test_an_empty_folder_is_taken_and_one_that_holds_something_is_not(tmp_path):
    RunFolder(tmp_path).create()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not empty: choose another folder"):
        RunFolder(tmp_path)
    with pytest.raises(ConfigError, match="is a file: expected a folder"):
        RunFolder(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be made: .*file is not a folder"):
        RunFolder(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(ConfigError, match="not a writable folder"):
        RunFolder(tmp_path / "run")


def test_a_default_name_that_is_taken_gets_a_suffix(tmp_path):
    paths = []
    for _ in range(3):
        folder = RunFolder(tmp_path / "run", is_default=True)
        folder.create()
        paths.append(folder.path.name)
    assert paths == ["run", "run-2", "run-3"]


def test_a_run_that_never_began_leaves_nothing(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.create()
    folder.write_json("config.json", {})
    folder.append_metrics(epoch(1))
    folder.write_checkpoint(CHECKPOINT, INFO, keep=1)
    folder.write_model(CHECKPOINT.theta, INFO)
    folder.discard()
    assert list(tmp_path.iterdir()) == []


def test_discarding_leaves_what_others_put_there(tmp_path):
    folder = RunFolder(tmp_path / "one")
    folder.create()
    folder.write_json("config.json", {})
    (tmp_path / "one" / "theirs").touch()
    folder.discard()
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["theirs"]


def test_discarding_leaves_a_folder_that_the_user_made(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create()
    folder.write_json("config.json", {})
    folder.discard()
    assert tmp_path.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_nowhere_is_refused(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(ConfigError, match="run cannot be made: File exists"):
        folder.create()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_json_is_there_as_a_whole_or_not_at_all(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_json("config.json", {"name": "Größe", "sizes": (3, 2)})
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == {"name": "Größe", "sizes": [3, 2]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_json("summary.json", {"loss": float("nan")})
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_metrics_are_a_line_an_epoch(tmp_path):
    folder = RunFolder(tmp_path)
    for number in (1, 2):
        folder.append_metrics(epoch(number))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [dataclasses.asdict(epoch(number)) for number in (1, 2)]
    assert read_metrics(tmp_path / "metrics.jsonl") == [json.loads(line) for line in lines]


class TestACheckpoint:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = RunFolder(tmp_path)
        folder.create()
        yield folder
        folder.close()

    def test_comes_back_as_it_was_bit_for_bit(self, folder):
        folder.write_checkpoint(CHECKPOINT, INFO, keep=1)
        assert folder.checkpoints[-1].name == "step-00000012.safetensors"
        found, info = read_checkpoint(folder.checkpoints[-1])
        assert info == INFO
        for field in dataclasses.fields(Checkpoint):
            was, is_ = getattr(CHECKPOINT, field.name), getattr(found, field.name)
            if field.name in ("state", "totals"):
                assert {name: (x.dtype, x.shape, x.tobytes()) for name, x in is_.items()} == {
                    name: (x.dtype, x.shape, x.tobytes()) for name, x in was.items()
                }
            elif field.name == "theta":
                assert (is_.dtype, is_.tobytes()) == (was.dtype, was.tobytes())
            else:
                assert is_ == was, field.name

    def test_is_a_model_too(self, folder):
        folder.write_checkpoint(CHECKPOINT, INFO, keep=1)
        assert load(folder.checkpoints[-1], "numpy").theta.tobytes() == CHECKPOINT.theta.tobytes()

    @pytest.mark.parametrize("keep", [1, 2, 5])
    def test_the_last_ones_are_kept(self, folder, keep):
        steps = [0, 2, 10, 100, 99999999, 100000000]
        for step in steps:
            folder.write_checkpoint(dataclasses.replace(CHECKPOINT, step=step), INFO, keep=keep)
        found = {read_checkpoint(path)[0].step for path in (folder.path / "checkpoints").iterdir()}
        assert found == set(steps[-keep:])
        assert read_checkpoint(folder.checkpoints[-1])[0].step == 100000000

    def test_the_one_before_is_there_until_the_next_is(self, folder, monkeypatch):
        folder.write_checkpoint(CHECKPOINT, INFO, keep=1)
        monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(OSError, match="No space left"):
            folder.write_checkpoint(dataclasses.replace(CHECKPOINT, step=13), INFO, keep=1)
        assert read_checkpoint(folder.checkpoints[-1])[0].step == 12
        assert len(list((folder.path / "checkpoints").iterdir())) == 1

    def test_with_another_vector_than_its_network_has_is_refused(self, folder):
        folder.write_checkpoint(dataclasses.replace(CHECKPOINT, state={"m": vector(1)[:-1]}), INFO, keep=1)
        with pytest.raises(CheckpointError, match=r"state.m is float32 \(98,\): expected float32 \(99,\)"):
            read_checkpoint(folder.checkpoints[-1])

    def test_a_model_is_none(self, folder):
        folder.write_model(CHECKPOINT.theta, INFO)
        with pytest.raises(CheckpointError, match="is a model: expected a checkpoint that xpmlp wrote"):
            read_checkpoint(folder.path / "model.safetensors")

    def test_whose_description_lacks_something_is_refused(self, folder):
        folder.write_checkpoint(CHECKPOINT, INFO, keep=1)
        found = tensors.read(folder.checkpoints[-1], ("checkpoint",))
        for name in ("config", "step", "epochs", "generator", "seconds"):
            description = {key: value for key, value in found.description.items() if key != name}
            tensors.write(folder.path / "broken", "checkpoint", found.tensors, description)
            with pytest.raises(
                CheckpointError, match=f"broken is damaged: its description is no checkpoint's .*{name}"
            ):
                read_checkpoint(folder.path / "broken")


class TestTakingUpARun:
    @pytest.fixture
    def path(self, tmp_path):
        folder = RunFolder(tmp_path / "run")
        folder.create()
        folder.write_json("config.json", {})
        for number in (1, 2):
            folder.append_metrics(epoch(number))
        folder.close()
        return folder.path

    def test_finds_its_folder_and_locks_it(self, path):
        folder = RunFolder.reopen(path)
        with pytest.raises(CheckpointError, match="run is being written by the process"):
            RunFolder.reopen(path)
        folder.close()
        RunFolder.reopen(path).close()

    def test_removes_what_was_half_written(self, path):
        (path / "checkpoints").mkdir()
        for part in (path / ".summary.json.part", path / "checkpoints" / ".step-00000001.safetensors.part"):
            part.touch()
        RunFolder.reopen(path).close()
        assert {file.name for file in path.rglob("*")} == {"config.json", "metrics.jsonl", "checkpoints", ".lock"}

    def test_refuses_what_is_no_run(self, tmp_path, path):
        for place, message in (
            (tmp_path / "nowhere", "nowhere is not there: expected the folder of a run"),
            (path / "config.json", "config.json is a file: expected the folder of a run"),
            (tmp_path, "has no config.json: expected the folder of a run that has begun"),
        ):
            with pytest.raises(CheckpointError, match=message):
                RunFolder.reopen(place)

    @pytest.mark.parametrize(
        ("found", "note"),
        [
            ("12", ""),
            ("123", "1 epoch after the checkpoint is made again"),
            ("1234", "2 epochs after the checkpoint are made again"),
            ("12t", "its last line was torn; repaired"),
            ("t", "its last line was torn; repaired"),
            ("1", "others than the checkpoint's epochs"),
            ("13", "others than the checkpoint's epochs"),
        ],
    )
    def test_the_metrics_are_those_of_its_checkpoint(self, path, found, note):
        lines = {str(k): json.dumps(dataclasses.asdict(epoch(k))) + "\n" for k in range(1, 5)}
        lines["t"] = '{"epoch": 3, "trai'
        (path / "metrics.jsonl").write_text("".join(lines[sign] for sign in found))
        folder = RunFolder.reopen(path)
        said = folder.restore_metrics([epoch(1), epoch(2)])
        folder.close()
        assert said.removeprefix(f"{path / 'metrics.jsonl'}: ").startswith(note)
        assert bool(said) == bool(note)
        assert (path / "metrics.jsonl").read_text() == lines["1"] + lines["2"]

    def test_a_folder_that_a_killed_run_left_before_its_config_is_as_good_as_empty(self, tmp_path):
        for name in (".lock", ".config.json.1.part"):
            (tmp_path / name).touch()
        folder = RunFolder(tmp_path)
        folder.create()
        assert [file.name for file in tmp_path.iterdir()] == [".lock"]
        folder.close()

    def test_two_runs_do_not_begin_in_one_folder(self, tmp_path):
        first, second, third = (RunFolder(tmp_path) for _ in range(3))
        first.create()
        with pytest.raises(CheckpointError, match="is being written by"):
            second.create()
        first.write_json("config.json", {})
        first.close()
        with pytest.raises(ConfigError, match="is not empty"):
            third.create()


class TestReading:
    def test_settings_come_back(self):
        config = CHECKPOINT.config
        content = json.loads(json.dumps({**dataclasses.asdict(config), "backend": "numpy"}))
        assert read_settings(content, "config.json") == config
        del content["seed"]
        with pytest.raises(CheckpointError, match="config.json has no 'seed': expected every setting of a run"):
            read_settings(content, "config.json")
        with pytest.raises(CheckpointError, match="config.json: batch_size 0: expected"):
            read_settings({**content, "seed": 0, "batch_size": 0}, "config.json")
        with pytest.raises(CheckpointError, match="config.json: "):
            read_settings({**content, "seed": 0, "hidden": None}, "config.json")

    def test_what_is_no_json_object_is_refused(self, tmp_path):
        path = tmp_path / "summary.json"
        with pytest.raises(CheckpointError, match="summary.json: No such file or directory: expected a run's summary"):
            read_json(path)
        path.write_text("{torn")
        with pytest.raises(CheckpointError, match="summary.json is no JSON"):
            read_json(path)
        path.write_text("[1]")
        with pytest.raises(CheckpointError, match="summary.json holds a list: expected .*, an object"):
            read_json(path)

    def test_a_metrics_line_that_is_still_being_written_is_left_out_and_a_wrong_one_refused(self, tmp_path):
        path, line = tmp_path / "metrics.jsonl", json.dumps(dataclasses.asdict(epoch(1)))
        path.write_text(f"{line}\n{line[:20]}")
        assert [found["epoch"] for found in read_metrics(path)] == [1]
        for wrong in ("{torn", "[]", "{}"):
            path.write_text(f"{line}\n{wrong}\n{line}\n")
            with pytest.raises(CheckpointError, match="metrics.jsonl, line 2: expected an epoch's metrics"):
                read_metrics(path)
