"""Published sets beside MNIST, on files made in their image: none of these can be downloaded here."""

import hashlib
import string
import zipfile

import numpy as np
import pytest

import xpmlp.data.download as downloading
from xpmlp import DataError, load_dataset
from xpmlp.commands import main
from xpmlp.data import idx
from xpmlp.data.sources import ARCHIVE, FILES, SOURCES

EMNIST = [name for name in SOURCES if name.startswith("emnist")]
CLASSES = {
    "mnist": string.digits, "kmnist": None, "qmnist": string.digits, "fashion-mnist": None,
    "emnist-letters": string.ascii_uppercase, "emnist-digits": string.digits, "emnist-mnist": string.digits,
    "emnist-balanced": string.digits + string.ascii_uppercase + "abdefghnqrt",
}  # fmt: skip
N = {"train": 94, "test": 47}


def part_of(name, part):
    """Return a part's images, upright, and labels from 0."""
    n, n_classes = N[part], len(SOURCES[name].class_names)
    images = np.random.default_rng(len(part)).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    return images, (np.arange(n) % n_classes).astype(np.uint8)


def write(folder, name, ending=""):
    """Write a set's four files as it publishes them."""
    folder.mkdir(parents=True, exist_ok=True)
    source, arrays = SOURCES[name], []
    for part in N:
        images, labels = part_of(name, part)
        if name.startswith("emnist"):
            images = images.transpose(0, 2, 1)
        labels = labels + np.uint8(name == "emnist-letters")
        if name == "qmnist":  # the class, and seven things more
            labels = np.stack([labels.astype(np.int32)] + [np.full(len(labels), 7, np.int32)] * 7, axis=1)
        arrays += [images, labels]
    for file, array in zip(source.names, arrays, strict=True):
        idx.write(folder / f"{file}{ending}", array)
    return folder


def require(found, name):
    for part, data in (("train", found.train), ("test", found.test)):
        images, labels = part_of(name, part)
        np.testing.assert_array_equal(data.images, images)
        np.testing.assert_array_equal(data.labels, labels)
        assert data.class_names == SOURCES[name].class_names


def test_every_set_is_known_here():
    assert set(CLASSES) == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
class TestEach:
    @pytest.mark.parametrize("ending", ["", ".gz"])
    def test_is_read_upright_with_labels_from_0(self, at_home, name, ending):
        write(at_home / "data" / name, name, ending)
        found = load_dataset(name, "data")
        require(found, name)
        if CLASSES[name]:
            assert found.train.class_names == tuple(CLASSES[name])
        expected = "as-trained" if name in ("kmnist", "fashion-mnist") else "mnist"
        assert found.train.preparation == found.test.preparation == expected

    def test_is_found_where_other_programs_leave_it(self, at_home, name):
        folder = "EMNIST" if name in EMNIST else name.upper().replace("FASHION-", "Fashion")
        write(at_home / "data" / folder / "raw", name)
        require(load_dataset(name, "data"), name)

    def test_says_which_files_are_missing(self, at_home, name):
        write(at_home / "data", name)
        (at_home / "data" / SOURCES[name].names[1]).unlink()
        with pytest.raises(DataError, match=f"has no {SOURCES[name].names[1]}, plain or .gz"):
            load_dataset(name, "data")

    def test_of_files_that_nobody_published_warns_or_says_that_it_cannot_know(self, at_home, name):
        write(at_home / "data", name)
        found = load_dataset(name, "data")
        if name in EMNIST:
            assert found.about == "not checked: no sums of its files are known"
        else:
            assert f"not {name} as it was published" in found.warning


class TestAPath:
    @pytest.mark.parametrize("name", [*EMNIST, "qmnist"])
    def test_to_a_set_with_names_of_its_own_is_that_set(self, at_home, name):
        write(at_home / "here", name)
        found = load_dataset("here")
        require(found, name)
        assert (found.name, found.about.partition(";")[0]) == ("idx:here", f"files of {name}")

    def test_to_several_sets_is_refused(self, at_home):
        for name in ("emnist-letters", "emnist-digits"):
            write(at_home / "here", name)
        problem = (
            "here has files of emnist-letters, emnist-digits: name one, as --dataset emnist-letters --data-dir here"
        )
        with pytest.raises(DataError, match=problem):
            load_dataset("here")
        require(load_dataset("emnist-letters", "here"), "emnist-letters")

    def test_a_letters_label_of_0_is_refused(self, at_home):
        write(at_home / "here", "emnist-letters")
        idx.write(at_home / "here" / SOURCES["emnist-letters"].names[1], np.zeros(94, np.uint8))
        with pytest.raises(DataError, match="a label is 0: expected at least 1"):
            load_dataset("emnist-letters", "here")


class TestTheArchive:
    @pytest.fixture
    def served(self, at_home, monkeypatch):
        """Let EMNIST's archive, made in its image, be downloaded."""
        with zipfile.ZipFile(at_home / ARCHIVE, "w") as archive:
            for name in EMNIST:
                for file in write(at_home / "files" / name, name, ".gz").iterdir():
                    archive.write(file, f"gzip/{file.name}")
            archive.writestr("gzip/emnist-byclass-mapping.txt", "0 48\n")
        content = (at_home / ARCHIVE).read_bytes()
        asked = []

        class Response:
            headers = {"content-length": str(len(content))}  # noqa: RUF012

            def raise_for_status(self):
                pass

            def iter_content(self, chunk_size):
                asked.append("GET")
                yield content

            def close(self):
                pass

        monkeypatch.setattr("requests.head", lambda *_, **__: Response())
        monkeypatch.setattr("requests.get", lambda *_, **__: Response())
        for name in EMNIST:
            changes = {"mirrors": ("http://mirror.invalid/",), "archive": hashlib.sha256(content).hexdigest()}
            source = downloading.SOURCES[name]
            monkeypatch.setitem(SOURCES, name, type(source)(**{**vars(source), **changes}))
        return asked

    def test_is_downloaded_once_for_all_its_sets(self, at_home, served):
        for name in EMNIST:
            require(load_dataset(name), name)
        assert served == ["GET"]
        names = {path.name for path in (at_home / "cache" / "xpmlp" / "emnist").iterdir()}
        assert names == {f"{file}.gz" for name in EMNIST for file in SOURCES[name].names}

    def test_that_is_another_is_refused_and_leaves_nothing(self, at_home, served, monkeypatch):
        source = SOURCES["emnist-letters"]
        monkeypatch.setitem(SOURCES, "emnist-letters", type(source)(**{**vars(source), "archive": "0" * 64}))
        with pytest.raises(DataError, match=r"gzip.zip: what was sent is not the file that was published"):
            load_dataset("emnist-letters")
        assert list((at_home / "cache" / "xpmlp" / "emnist").iterdir()) == []


def test_letters_are_trained_on_by_name(at_home, capsys):
    write(at_home / "data" / "emnist-letters", "emnist-letters")
    quick = ["--data-dir", "data", "--epochs", "1", "--hidden", "4", "--val-size", "0", "--no-plot", "--out", "run"]
    assert main(["train", "--dataset", "emnist-letters", *quick]) == 0
    assert "format   not checked: no sums of its files are known" in capsys.readouterr().out
    assert main(["data", "emnist-letters", "--data-dir", "data"]) == 0
    assert "Z " in capsys.readouterr().out


def test_sums_are_of_the_files_that_mnist_calls_so():
    for source in SOURCES.values():
        assert set(source.zipped) == (set() if source.archive else set(FILES))
        assert {len(sum_) for sum_ in source.zipped.values()} <= {32, 64}
        assert len(source.names) == 4
