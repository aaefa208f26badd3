"""From a name to images and labels."""

import dataclasses
import gzip
import hashlib
import os

import numpy as np
import pytest

from tests.conftest import make_dataset
from xpmlp.data import Dataset, idx, load_dataset
from xpmlp.data.sources import FILES, SOURCES
from xpmlp.errors import DataError


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path_factory):
    """No data set of this machine's user is found."""
    monkeypatch.delenv("XPMLP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


class TestDataset:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"images": np.zeros((240, 5, 4, 2), np.uint8)},
                r"images of uint8, shape \(240, 5, 4, 2\): expected uint8",
            ),
            ({"images": np.zeros((240, 5, 4), np.int32)}, "images of int32"),
            ({"images": np.full((240, 5, 4), np.inf)}, "some numbers are infinite or NaN"),
            ({"labels": np.zeros((240, 1), np.uint8)}, r"labels of uint8, shape \(240, 1\): expected integers"),
            ({"labels": np.zeros(240)}, "labels of float64"),
            ({"labels": np.zeros(241, np.uint8)}, "240 images and 241 labels"),
            ({"images": np.zeros((0, 5, 4), np.uint8), "labels": np.zeros(0, np.uint8)}, "at least one"),
            ({"images": np.zeros((240, 5, 0), np.uint8)}, "at least one pixel"),
            ({"labels": np.full(240, 3)}, "a label is 3: expected 0 to 2"),
            ({"labels": np.full(240, -1)}, "a label is -1: expected 0 to 2"),
            ({"max_value": 0}, "max_value 0: expected 1 to 255"),
        ],
    )
    def test_refuses_what_does_not_fit(self, tiny, changes, message):
        with pytest.raises(DataError, match=message):
            dataclasses.replace(tiny, **changes)

    def test_takes_labels_of_any_integer_dtype(self, tiny):
        for kind in ("int8", "uint16", "int64"):
            assert len(dataclasses.replace(tiny, labels=tiny.labels.astype(kind))) == 240


class TestDigits:
    def test_are_split_in_the_same_way_by_class(self):
        first, second = load_dataset("digits"), load_dataset("digits")
        assert np.array_equal(first.test.images, second.test.images)
        assert len(first.train) + len(first.test) == 1797
        shares = np.bincount(first.test.labels) / np.bincount(np.concatenate([first.train.labels, first.test.labels]))
        assert shares.min() > 0.19
        assert shares.max() <= 0.2

    def test_have_pixels_up_to_16(self):
        data = load_dataset("digits")
        assert data.train.max_value == data.train.images.max() == 16
        assert data.train.image_shape == (8, 8)
        assert data.train.class_names == tuple("0123456789")
        assert "scikit-learn" in data.train.provenance


class TestWhereFilesAreLookedFor:
    def test_in_the_given_folder_or_its_folder_of_that_name(self, idx_folder):
        for folder in (idx_folder, idx_folder.parent):
            data = load_dataset("mnist", folder)
            assert (data.name, len(data.train), len(data.test)) == ("mnist", 240, 60)
            assert str(idx_folder) in data.train.provenance

    def test_in_the_environments_folder_then_the_cache(self, idx_folder, monkeypatch, tmp_path):
        monkeypatch.setenv("XPMLP_DATA", str(idx_folder.parent))
        assert load_dataset("mnist").name == "mnist"
        monkeypatch.setenv("XPMLP_DATA", str(tmp_path / "elsewhere"))
        with pytest.raises(DataError, match="mnist is not on this disk"):
            load_dataset("mnist")
        cache = tmp_path / "cache" / "xpmlp"
        cache.mkdir(parents=True)
        os.rename(idx_folder, cache / "mnist")
        monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)
        assert load_dataset("mnist").name == "mnist"

    def test_nowhere_else_than_in_a_given_folder(self, idx_folder, monkeypatch, tmp_path):
        monkeypatch.setenv("XPMLP_DATA", str(idx_folder))
        (tmp_path / "empty").mkdir()
        for name in ("mnist", "auto"):
            with pytest.raises(DataError, match="no train-images-idx3-ubyte, .*plain or .gz"):
                load_dataset(name, tmp_path / "empty")
            with pytest.raises(DataError, match="is not a folder"):
                load_dataset(name, tmp_path / "nothing")

    def test_auto_takes_mnist_where_it_is_and_else_the_digits(self, idx_folder, monkeypatch):
        data = load_dataset("auto")
        assert data.name == "digits"
        assert data.note.startswith("mnist is not on this disk")
        monkeypatch.setenv("XPMLP_DATA", str(idx_folder.parent))
        data = load_dataset("auto")
        assert (data.name, data.note) == ("mnist", "")

    def test_a_folder_of_ones_own(self, idx_folder):
        data = load_dataset(f"idx:{idx_folder}")
        assert data.train.class_names == ("0", "1", "2")
        (idx_folder / "t10k-labels-idx1-ubyte").unlink()
        with pytest.raises(DataError, match="has no t10k-labels-idx1-ubyte, plain or .gz"):
            load_dataset(f"idx:{idx_folder}")


class TestBadInput:
    @pytest.mark.parametrize("name", ["digits", "idx:somewhere"])
    def test_a_folder_for_what_is_in_none(self, name, tmp_path):
        with pytest.raises(DataError, match=f"{name} .*: leave out the data folder"):
            load_dataset(name, tmp_path)

    def test_an_unknown_name(self):
        with pytest.raises(DataError, match="unknown data set 'minst': did you mean mnist\\? expected auto, mnist"):
            load_dataset("minst")

    def test_labels_that_mnist_does_not_have(self, idx_folder):
        idx.write(idx_folder / "train-labels-idx1-ubyte", np.full(240, 10, np.uint8))
        with pytest.raises(DataError, match="a label is 10: expected 0 to 9"):
            load_dataset("mnist", idx_folder)

    def test_a_label_of_ones_own_that_would_make_a_huge_network(self, idx_folder):
        labels = make_dataset(240).labels.astype(np.int32)
        labels[7] = 2**31 - 1
        idx.write(idx_folder / "train-labels-idx1-ubyte", labels)
        with pytest.raises(DataError, match="a label is 2147483647: expected classes from 0 to at most 9999"):
            load_dataset(f"idx:{idx_folder}")
        labels[7] = 5
        idx.write(idx_folder / "train-labels-idx1-ubyte", labels)
        assert load_dataset(f"idx:{idx_folder}").warning == "2 of the 6 classes have no training image"

    def test_test_images_of_another_size(self, idx_folder):
        idx.write(idx_folder / "t10k-images-idx3-ubyte.gz", np.zeros((60, 5, 5), np.uint8))
        with pytest.raises(DataError, match="expected one size"):
            load_dataset("mnist", idx_folder)

    def test_a_damaged_file(self, idx_folder):
        (idx_folder / "train-images-idx3-ubyte.gz").write_bytes(b"<html>")
        with pytest.raises(
            DataError, match="train-images-idx3-ubyte.gz: a web page, perhaps an error message of the server"
        ):
            load_dataset("mnist", idx_folder)

    def test_labels_for_other_images(self, idx_folder):
        idx.write(idx_folder / "train-labels-idx1-ubyte", make_dataset(100).labels)
        with pytest.raises(DataError, match="240 images and 100 labels"):
            load_dataset("mnist", idx_folder)


class TestWhoseFilesTheyAre:
    """A published data set is recognized by the sums of its files' contents."""

    @pytest.fixture
    def published(self, idx_folder, monkeypatch):
        """Let the folder's files be what mnist published."""
        paths = {file: next(iter(idx_folder.glob(f"{file}*"))) for file in FILES}
        contents = {}
        for file, path in paths.items():
            raw = path.read_bytes()
            contents[file] = hashlib.sha256(gzip.decompress(raw) if path.suffix == ".gz" else raw).hexdigest()
        monkeypatch.setitem(SOURCES, "mnist", dataclasses.replace(SOURCES["mnist"], contents=contents))
        return paths

    def test_known_ones_are_taken_without_a_word(self, idx_folder, published):
        assert load_dataset("mnist", idx_folder).warning == ""

    def test_the_contents_count_not_how_they_are_compressed(self, idx_folder, published):
        path = published[FILES[0]]
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 1))
        assert load_dataset("mnist", idx_folder).warning == ""

    def test_unknown_ones_are_a_warning(self, idx_folder):
        warning = load_dataset("mnist", idx_folder).warning
        assert warning.startswith("train-images-idx3-ubyte.gz, train-labels-idx1-ubyte, ")
        assert "not mnist as it was published (their sums are unknown)" in warning

    def test_another_data_sets_are_an_error(self, idx_folder, published):
        with pytest.raises(DataError, match="is mnist's train-images-idx3-ubyte, .*: expected fashion-mnist's"):
            load_dataset("fashion-mnist", idx_folder)

    def test_another_data_sets_known_by_their_zipped_sum_are_an_error(self, idx_folder, monkeypatch):
        zipped = {FILES[0]: hashlib.sha256((idx_folder / f"{FILES[0]}.gz").read_bytes()).hexdigest()}
        monkeypatch.setitem(SOURCES, "fashion-mnist", dataclasses.replace(SOURCES["fashion-mnist"], zipped=zipped))
        with pytest.raises(DataError, match="is fashion-mnist's train-images-idx3-ubyte, .*: expected mnist's"):
            load_dataset("mnist", idx_folder)
        assert "train-images" not in load_dataset("fashion-mnist", idx_folder).warning

    def test_files_in_each_others_place_are_an_error(self, idx_folder, published):
        one, other = published[FILES[0]], published[FILES[2]]
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(content)
        with pytest.raises(DataError, match="is mnist's t10k-images-idx3-ubyte, .*: expected mnist's train-images"):
            load_dataset("mnist", idx_folder)

    @pytest.mark.slow
    def test_the_real_mnists_sums_are_known(self, monkeypatch):
        monkeypatch.undo()
        try:
            data = load_dataset("mnist", os.environ.get("XPMLP_DATA"))
        except DataError as error:
            pytest.skip(str(error))
        assert data.warning == ""
        assert np.bincount(data.train.labels).sum() == 60_000


def test_other_images_have_another_fingerprint(idx_folder):
    """Also in a data set that was read from files, whose sums are taken on the way."""
    train = load_dataset(f"idx:{idx_folder}").train
    other = dataclasses.replace(train, images=train.images ^ 1)
    assert train.fingerprint != other.fingerprint
    made = Dataset(train.images.copy(), train.labels, train.class_names, train.max_value, "made up")
    assert made.fingerprint == train.fingerprint
