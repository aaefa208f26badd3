"""Parquet, as Hugging Face's library writes it, as columns of numbers, and damaged."""

import io
import json
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.test_formats import IMAGES, LABELS, TEST, TRAIN, require, require_a_sixth
from xpmlp import DataError, load_dataset
from xpmlp.commands import main

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

NAMES = [f"digit {k}" for k in range(10)]


def encoded(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write(path, columns, names=None, picture="image"):
    """Write columns, with the classes' names where Hugging Face's library has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns)
    if names:
        features = {picture: {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path)
    return path


def pictures(rows, labels=LABELS):
    return {"image": [encoded(image) for image in IMAGES[rows]], "label": labels[rows]}


class TestASet:
    @pytest.mark.parametrize("names", [("train/0", "test/0"), ("mnist_train", "mnist-test"), ("a/Train", "a/Test")])
    def test_whose_parts_are_named_in_other_places(self, at_home, names):
        for name, rows in zip(names, (TRAIN, TEST), strict=True):
            write(at_home / "set" / f"{name}.parquet", pictures(rows), NAMES)
        require(load_dataset("set"), labels=np.array(NAMES)[LABELS], names=NAMES)

    def test_of_which_a_file_is_of_no_part_is_refused(self, at_home):
        for name, rows in (("train", TRAIN), ("test", TEST), ("more", TEST)):
            write(at_home / "set" / f"{name}.parquet", pictures(rows), NAMES)
        with pytest.raises(DataError, match=r"set: more.parquet is neither train, validation nor test by its name"):
            load_dataset("set")

    @pytest.mark.parametrize("folder", ["set", "set/data", "set/mnist"])
    def test_of_hugging_face(self, at_home, folder):
        half = slice(0, 120), slice(120, 240)
        for name, rows in (("train-00000-of-00002", half[0]), ("train-00001-of-00002", half[1]), ("test-0-of-1", TEST)):
            write(at_home / folder / f"{name}.parquet", pictures(rows), NAMES)
        found = load_dataset("set")
        require(found, labels=np.array(NAMES)[LABELS], names=NAMES)
        assert found.about == "a Parquet set: column 'label' is the label, 'image' the picture, images of 8 × 8"

    def test_in_one_file(self, at_home):
        write(at_home / "digits.parquet", pictures(slice(None)))
        require_a_sixth(load_dataset("digits.parquet"))

    @pytest.mark.parametrize("kind", ["binary", "lists"])
    def test_of_bytes_or_lists(self, at_home, kind):
        images = [encoded(image)["bytes"] for image in IMAGES] if kind == "binary" else IMAGES.tolist()
        write(at_home / "a.parquet", {"picture": images, "digit": LABELS})
        require_a_sixth(load_dataset("a.parquet"))

    def test_of_columns_of_numbers(self, at_home):
        columns = {f"pixel{k}": IMAGES.reshape(300, 64)[:, k] for k in range(64)}
        write(at_home / "a.parquet", {"label": LABELS, **columns})
        require_a_sixth(load_dataset("a.parquet"))
        found = load_dataset("a.parquet", shape="none", label_column="first")
        assert found.train.image_shape == (64,)

    def test_is_trained_on(self, at_home, capsys):
        write(at_home / "set" / "train.parquet", pictures(TRAIN), NAMES)
        write(at_home / "set" / "test.parquet", pictures(TEST), NAMES)
        assert main(["train", "--dataset", "set", "--epochs", "5", "--hidden", "16", "--quiet", "--out", "run"]) == 0
        assert main(["evaluate", "run", "--no-plot"]) == 0
        assert "digit 3" in capsys.readouterr().out


class TestWhatIsRefused:
    @pytest.mark.parametrize(("columns", "problem"), [
        ({"i": [encoded(IMAGES[0])] * 30, "a": LABELS[:30], "b": LABELS[:30]}, "no column that is called the label"),
        ({"image": [encoded(IMAGES[0])] * 30, "label": LABELS[:30], "y": LABELS[:30]}, "several columns that may be"),
        ({"image": [{"bytes": None, "path": "a.png"}] * 30, "label": LABELS[:30]}, "row 0: image holds no picture"),
        ({"image": [{"bytes": b"<html>", "path": ""}] * 30, "label": LABELS[:30]}, "row 0: a web page, .* more of 30"),
        ({"image": [[1, 2], [3]] * 15, "label": LABELS[:30]}, "image holds lists of several lengths"),
        ({"a": ["x"] * 30, "label": LABELS[:30]}, "column 'a' holds string: expected numbers"),
        ({"a": [None, 1] * 15, "label": LABELS[:30]}, "column 'a' has 15 missing values"),
        ({"a": LABELS[:30], "label": [None, 1] * 15}, "15 labels are missing"),
        ({"label": LABELS[:30]}, "has only its label"),
        ({"image": [encoded(IMAGES[0])] * 0, "label": LABELS[:0]}, "has no rows"),
        ({"i": [b"a"] * 30, "j": [b"a"] * 30, "label": LABELS[:30]}, r"several columns of pictures \(i, j\)"),
    ])  # fmt: skip
    def test_of_columns(self, at_home, columns, problem):
        write(at_home / "a.parquet", columns)
        with pytest.raises(DataError, match=problem) as caught:
            load_dataset("a.parquet", shape="none" if "a" in columns else None)
        assert "\n" not in str(caught.value)

    def test_a_part_without_labels(self, at_home):
        write(at_home / "a.parquet", pictures(TRAIN, np.full(300, -1)), NAMES)
        with pytest.raises(DataError, match="a label is -1: expected 0 to 9; perhaps this part has no labels"):
            load_dataset("a.parquet")

    def test_a_set_without_a_training_part_or_of_other_columns(self, at_home):
        write(at_home / "set" / "test.parquet", pictures(TEST))
        with pytest.raises(DataError, match=r"set has only test.parquet: expected a training part too"):
            load_dataset("set")
        write(at_home / "set" / "train.parquet", {"picture": LABELS, "label": LABELS})
        with pytest.raises(DataError, match="its files have other columns: image, label"):
            load_dataset("set")

    def test_what_does_not_fit_memory(self, at_home, monkeypatch):
        write(at_home / "a.parquet", pictures(TRAIN))
        monkeypatch.setattr("xpmlp.data.files.free_host_memory", lambda: 1000)
        with pytest.raises(DataError, match=r"a.parquet holds 0.0 GB of numbers"):
            load_dataset("a.parquet")

    def test_any_where_pyarrow_is_missing(self, at_home, monkeypatch):
        write(at_home / "a.parquet", pictures(TRAIN))
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(DataError, match=r"pyarrow is not installed, which reads Parquet: pip install 'xpmlp\[parq"):
            load_dataset("a.parquet")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(data, at_home):
    path = at_home / "a.parquet"
    if not (at_home / "good").exists():
        write(at_home / "good", pictures(slice(0, 60)), NAMES)
    content = bytearray((at_home / "good").read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    problem = ""
    try:
        found = load_dataset("a.parquet")
        assert len(found.train) + len(found.test) > 0
    except DataError as error:
        problem = str(error)
    assert "\n" not in problem
