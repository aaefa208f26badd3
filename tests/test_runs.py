"""A run's folder."""

import json
import os
import stat

import numpy as np
import pytest

from xpmlp.errors import ConfigError
from xpmlp.network import Layout, init
from xpmlp.runs import RunFolder


def test_a_folder_is_made_when_the_run_begins(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "one")
    assert not (tmp_path / "runs").exists()
    folder.create()
    assert folder.path.is_dir()


def test_an_empty_folder_is_taken_and_one_that_holds_something_is_not(tmp_path):
    RunFolder(tmp_path).create()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="holds something: a run needs an empty folder"):
        RunFolder(tmp_path)
    with pytest.raises(ConfigError, match="is a file: expected a folder"):
        RunFolder(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be made: .*file is no folder"):
        RunFolder(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(ConfigError, match="no folder that can be written"):
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
    folder.append_metrics({"epoch": 1})
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
    for epoch in (1, 2):
        folder.append_metrics({"epoch": epoch, "val_loss": None})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_is_its_tensors_and_what_is_needed_to_use_them(tmp_path, dtype):
    from safetensors import safe_open

    layout = Layout((20, 4, 3))
    theta = init(layout, np.random.default_rng(0), dtype)
    RunFolder(tmp_path).write_model(
        theta, layout, image_shape=(5, 4), max_value=16, class_names=("null", "één", "zwei")
    )
    with safe_open(tmp_path / "model.safetensors", "numpy") as model:
        metadata = model.metadata()
        tensors = {name: model.get_tensor(name) for name in model.keys()}  # noqa: SIM118
    assert set(metadata) == {"format_version", "sizes", "dtype", "image_shape", "max_value", "class_names"}
    assert metadata["dtype"] == dtype
    assert json.loads(metadata["format_version"]) == 1
    assert json.loads(metadata["sizes"]) == [20, 4, 3]
    assert json.loads(metadata["image_shape"]) == [5, 4]
    assert json.loads(metadata["max_value"]) == 16
    assert json.loads(metadata["class_names"]) == ["null", "één", "zwei"]
    assert set(tensors) == {"W1", "b1", "W2", "b2"}
    back = layout.flatten([(tensors["W1"], tensors["b1"]), (tensors["W2"], tensors["b2"])])
    assert back.tobytes() == theta.tobytes()
