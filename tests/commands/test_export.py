"""``xpmlp export``, as its users see it."""

import sys

import numpy as np
import pytest

from tests.conftest import make_dataset
from xpmlp.commands import main
from xpmlp.math.layout import Layout, init
from xpmlp.models.model import ModelInfo, load, write_model

NAMES = ("null", "één", "zwei")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with the folder ``run``, in which there is a model."""
    layout = Layout((20, 16, 3))
    (tmp_path / "run").mkdir()
    info = ModelInfo(layout, (5, 4), 255, NAMES, "made-up")
    write_model(tmp_path / "run" / "model.safetensors", init(layout, np.random.default_rng(0)), info)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.needs(module="onnx")
@pytest.mark.needs(module="onnxruntime")
@pytest.mark.parametrize("source", ["run", "run/model.safetensors"])
@pytest.mark.parametrize("file", ["model.onnx", "run/MODEL.ONNX"])
def test_writes_what_predicts_as_the_model_does(here, source, file, capfd):
    import onnxruntime

    (here / file).write_bytes(b"an older one")
    assert main(["export", source, file]) == 0
    said, errors = capfd.readouterr()
    assert errors == ""
    assert said == f"model    run/model.safetensors: 20-16-3 of made-up, float32\nwritten  {file}, 0.0 MB\n"
    images = make_dataset(60).images
    label, name, P = onnxruntime.InferenceSession(here / file).run(None, {"X": images})
    model = load(source, "numpy")
    assert np.abs(P - model.predict_proba(images)).max() <= 1e-6
    assert label.tolist() == model.predict(images).tolist()
    assert name.tolist() == [NAMES[k] for k in label]


EXPECTED = "expected the name of a file that ends in .onnx or .html"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["run", "model.pb"], f"xpmlp: model.pb ends in .pb: {EXPECTED}\n"),
        (["run", "model"], f"xpmlp: model has no ending: {EXPECTED}\n"),
        (["run", "run"], f"xpmlp: run is a folder: {EXPECTED}\n"),
        (["run", ""], f"xpmlp: the file to write has no name: {EXPECTED}\n"),
        (
            ["nowhere", "model.onnx"],
            "xpmlp: nowhere: no such file or folder; expected a run's folder or a model's file\n",
        ),
        (["run"], "xpmlp export: Missing argument 'FILE'; see xpmlp export --help\n"),
    ],
    ids=str,
)
def test_refuses_in_one_line_and_leaves_nothing(here, arguments, why, capfd):
    before = set(here.rglob("*"))
    assert main(["export", *arguments]) == 2
    assert capfd.readouterr() == ("", why)
    assert set(here.rglob("*")) == before


def test_says_how_onnx_is_installed_where_it_is_not(here, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", "run", "model.onnx"]) == 2
    assert capfd.readouterr() == ("", "xpmlp: onnx is not installed: pip install 'xpmlp[export]'\n")
    assert not (here / "model.onnx").exists()


def test_names_a_folder_that_is_missing(here, capfd):
    assert main(["export", "run", "gone/model.onnx"]) == 2
    assert capfd.readouterr() == ("", "xpmlp: gone/model.onnx: there is no folder gone: make it, or name another\n")
