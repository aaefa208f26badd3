"""A data set of one's own, from a path: each format as its usual maker writes it, and each damaged."""

import gzip
import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits, load_iris

from xpmlp import DataError, Scaling, load, load_dataset
from xpmlp.commands import main
from xpmlp.data import idx
from xpmlp.data.sources import FILES

DIGITS = load_digits()
IMAGES = (DIGITS.images[:300] * (255 / 16)).round().astype(np.uint8)
LABELS = DIGITS.target[:300].astype(np.int64)
TRAIN, TEST = slice(0, 240), slice(240, 300)


pytestmark = pytest.mark.usefixtures("at_home")


def write_csv(path, header=True, delimiter=",", label=0, labels=LABELS, images=IMAGES, opener=open):
    """Write a table as Kaggle does: a label, and a pixel in each column."""
    names = [f"pixel{k}" for k in range(64)]
    names.insert(label % 65, "label")
    with opener(path, "wt") as file:
        if header:
            file.write(delimiter.join(names) + "\n")
        for image, name in zip(images, labels, strict=True):
            cells = [str(value) for value in image.reshape(-1)]
            cells.insert(label % 65, str(name))
            file.write(delimiter.join(cells) + "\n")
    return path


def write_pictures(folder, images, labels):
    """Write a folder of pictures for each class."""
    from PIL import Image

    for k, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / str(label) / f"{k:04d}.png")
    return folder


def write_npz(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def require(found, images=IMAGES, labels=LABELS, names="0123456789"):
    """Require a set in two parts: of the first images the training set, of the others the test set."""
    assert found.train.class_names == found.test.class_names == tuple(names)
    for part, rows in ((found.train, TRAIN), (found.test, TEST)):
        assert part.images.dtype == np.uint8
        np.testing.assert_array_equal(part.images, images[rows])
        assert [names[k] for k in part.labels] == [str(label) for label in labels[rows]]


def require_a_sixth(found, images=IMAGES, labels=LABELS):
    """Require that the parts hold all samples once, and a sixth of each class is for the test."""
    names = found.train.class_names
    pairs = [
        (image.tobytes(), names[k])
        for part in (found.train, found.test)
        for image, k in zip(part.images, part.labels, strict=True)
    ]
    assert sorted(pairs) == sorted((image.tobytes(), str(label)) for image, label in zip(images, labels, strict=True))
    for k, name in enumerate(names):
        n = sum(str(label) == name for label in labels)
        assert np.sum(found.test.labels == k) == round(n / 6)


class TestAnArchive:
    def test_of_keras(self, at_home):
        path = write_npz(at_home / "mnist.npz", x_train=IMAGES[TRAIN], y_train=LABELS[TRAIN], x_test=IMAGES[TEST],
                         y_test=LABELS[TEST])  # fmt: skip
        found = load_dataset(str(path))
        require(found)
        assert found.name == f"file:{path}"
        assert found.about == "a NumPy archive with x_train, y_train, x_test, y_test, images of 8 × 8"
        require(load_dataset(found.name))

    @pytest.mark.parametrize("names", [
        ("train_images", "train_labels", "test_images", "test_labels"), ("X_train", "Y_train", "X_test", "Y_test"),
        ("training_images", "training_labels", "testing_images", "testing_labels"),
        ("trainX", "trainy", "testX", "testy"),
    ])  # fmt: skip
    def test_by_other_names(self, at_home, names):
        arrays = (IMAGES[TRAIN], LABELS[TRAIN][:, None], IMAGES[TEST][..., None], LABELS[TEST].astype(np.float32))
        require(load_dataset(str(write_npz(at_home / "a.npz", **dict(zip(names, arrays, strict=True))))))

    def test_each_part_has_its_own_labels_whatever_their_order(self, at_home):
        path = write_npz(at_home / "a.npz", x_train=IMAGES[:200], x_val=IMAGES[200:240], y_val=LABELS[200:240],
                         y_train=LABELS[:200], x_test=IMAGES[TEST], y_test=LABELS[TEST])  # fmt: skip
        require(load_dataset(str(path)))
        write_npz(path, x_train=IMAGES[:200], x_val=IMAGES[200:240], y_val=LABELS[:200], y_train=LABELS[200:240])
        with pytest.raises(DataError, match="200 images and 40 labels: expected one label per image"):
            load_dataset(str(path))

    @pytest.mark.parametrize(("most", "expected"), [(1, 1), (16, 16), (200, 255)])
    def test_the_greatest_grey_value_is_found(self, at_home, most, expected):
        images = (DIGITS.images[:300] * most // 16).astype(np.uint8)
        for path in (write_npz(at_home / "a.npz", x=images, y=LABELS), write_csv(at_home / "a.csv", images=images)):
            found = load_dataset(str(path))
            assert found.train.max_value == found.test.max_value == expected
            assert (f"values to {expected}, which counts as 1" in found.about) is (expected != 255)
            require_a_sixth(found, images=images)

    def test_validation_data_are_trained_on(self, at_home):
        rows = {"train": slice(0, 200), "val": slice(200, 240), "test": TEST}
        arrays = {f"{part}_images": IMAGES[each] for part, each in rows.items()}
        arrays |= {f"{part}_labels": LABELS[each] for part, each in rows.items()}
        require(load_dataset(str(write_npz(at_home / "a.npz", **arrays))))

    @pytest.mark.parametrize("seed", [0, 7])
    def test_in_one_part(self, at_home, seed):
        path = write_npz(at_home / "a.npz", images=IMAGES, labels=LABELS)
        found = load_dataset(str(path), seed=seed)
        require_a_sixth(found)
        assert found.about.endswith(f"; a sixth of each class is the test set, by seed {seed}")
        assert found.train.fingerprint == load_dataset(str(path), seed=seed).train.fingerprint
        assert found.train.fingerprint != load_dataset(str(path), seed=seed + 1).train.fingerprint

    @pytest.mark.parametrize(("images", "words"), [
        (IMAGES / 255.0, "values from 0 to 1 taken as 256 grey levels"),
        ((IMAGES / np.float32(255)), "values from 0 to 1 taken as 256 grey levels"),
        (IMAGES.astype(np.uint16) * 257, "values from 0 to 65535 taken as 256 grey levels"),
        (IMAGES.astype(np.int64), "images of 8 × 8"), (IMAGES.astype(np.float64), "images of 8 × 8"),
    ])  # fmt: skip
    def test_of_other_numbers(self, at_home, images, words):
        found = load_dataset(str(write_npz(at_home / "a.npz", x=images, y=LABELS)))
        require_a_sixth(found)
        assert words in found.about

    @pytest.mark.parametrize(("images", "low", "high"), [
        (DIGITS.images[:300] / 16 * 0.9, 0, 1), (DIGITS.images[:300].astype(np.uint16) * 250, 0, 4095),
        (DIGITS.images[:300] * 0.5 - 3.25, -3.25, 4.75), (DIGITS.images[:300] * 1e6, 0, 16e6),
    ])  # fmt: skip
    def test_of_numbers_that_no_bytes_hold(self, at_home, images, low, high):
        found = load_dataset(str(write_npz(at_home / "a.npz", x=images, y=LABELS)))
        for part in (found.train, found.test):
            assert part.images.dtype == np.float32
            assert part.scaling == Scaling.of_range(low, high)
        assert len(found.train) + len(found.test) == 300
        kept = np.concatenate([found.train.images, found.test.images])
        np.testing.assert_allclose(np.sort(kept, axis=None), np.sort(images, axis=None), rtol=1e-6)
        assert f"of which {low:g} counts as 0 and {high:g} as 1" in found.about

    def test_a_range_is_found_in_the_training_part(self, at_home):
        x = DIGITS.images[:300] / 16 - 0.5
        x[TEST] *= 2
        path = write_npz(
            at_home / "a.npz", x_train=x[TRAIN], y_train=LABELS[TRAIN], x_test=x[TEST], y_test=LABELS[TEST]
        )
        assert load_dataset(str(path)).test.scaling == Scaling.of_range(-0.5, 0.5)

    @pytest.mark.parametrize("is_first", [False, True])
    def test_in_colour(self, at_home, is_first):
        colours = np.stack([IMAGES, 255 - IMAGES, IMAGES // 2], axis=1 if is_first else 3)
        found = load_dataset(str(write_npz(at_home / "a.npz", x=colours, y=LABELS)))
        assert found.about.startswith("a NumPy archive with x, y, images of 8 × 8 in colour; ")
        assert found.train.image_shape == (8, 8, 3)
        assert np.array_equal(found.train.images[..., 0], 255 - found.train.images[..., 1])
        rows = write_npz(at_home / "b.npz", x=found.train.images.reshape(len(found.train), -1), y=found.train.labels)
        assert load_dataset(str(rows), shape="8x8x3").train.image_shape == (8, 8, 3)

    def test_of_features(self, at_home):
        rows = np.random.default_rng(0).normal(3, [1, 10, 100], (300, 3))
        found = load_dataset(str(write_npz(at_home / "a.npz", x=rows, y=LABELS)), shape="none")
        assert found.train.image_shape == (3,)
        assert found.train.scaling == found.test.scaling == Scaling.of_columns(found.train.images)
        assert "samples of 3 numbers, each column scaled to mean 0 and standard deviation 1; a sixth" in found.about
        with pytest.raises(DataError, match="images of 8 × 8: leave --shape out"):
            load_dataset(str(write_npz(at_home / "a.npz", x=IMAGES, y=LABELS)), shape="none")

    def test_rows_have_the_shape_that_is_said(self, at_home):
        path = str(write_npz(at_home / "a.npz", x=IMAGES.reshape(-1, 64), y=LABELS))
        require_a_sixth(load_dataset(path, shape="8x8"))
        with pytest.raises(DataError, match="give their shape, such as --shape 28x28, or --shape none for a table of"):
            load_dataset(path)
        with pytest.raises(DataError, match="rows of 64 numbers are no images of 8 × 9"):
            load_dataset(path, shape="8x9")
        with pytest.raises(DataError, match="shape '8x8x2': expected 1 or 3 channels"):
            load_dataset(path, shape="8x8x2")
        for shape in ("8", "8x", "0x3", "axb", "8x8x1x1"):
            with pytest.raises(DataError, match=f"shape '{shape}': expected HEIGHTxWIDTH, such as 28x28"):
                load_dataset(path, shape=shape)

    @pytest.mark.parametrize(("arrays", "problem"), [
        ({"arr_0": IMAGES, "arr_1": LABELS}, "holds arr_0, arr_1: expected x_train, y_train, x_test and y_test, or x"),
        ({"x_train": IMAGES}, "holds x_train: expected"),
        ({"x_test": IMAGES, "y_test": LABELS}, "holds x_test, y_test"),
        ({"x": IMAGES, "y": LABELS[:9]}, "300 images and 9 labels: expected one label per image"),
        ({"x": IMAGES, "y": LABELS + 0.5}, r"labels of float64, shape \(300,\): expected whole numbers or strings"),
        ({"x": np.stack([IMAGES] * 4, axis=-1), "y": LABELS}, r"images of shape \(8, 8, 4\): expected grey ones"),
        ({"x": np.full((300, 2, 2), np.nan), "y": LABELS}, "images hold NaN or infinity"),
        ({"x": IMAGES[:0], "y": LABELS[:0]}, "not empty"),
        ({"x": IMAGES[:1], "y": LABELS[:1]}, "1 samples with 1 different labels: a sixth"),
        ({"x": IMAGES, "y": np.array([{}] * 300)}, "y.npy holds pickled objects, which are not read"),
        ({"x": IMAGES.astype("U3"), "y": LABELS}, "images of <U3: expected numbers"),
        ({"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:, :7], "y_test": LABELS}, "expected one size"),
    ])  # fmt: skip
    def test_what_is_refused(self, at_home, arrays, problem):
        np.savez(at_home / "a.npz", **arrays)
        with pytest.raises(DataError, match=problem):
            load_dataset(str(at_home / "a.npz"))

    def test_a_bomb_is_refused_by_its_header(self, at_home):
        """A gigabyte of zeros in a megabyte would be read; a petabyte is not."""
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1000, 1000)}
        )
        with zipfile.ZipFile(at_home / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", header.getvalue() + bytes(1000))
            np.save(buffer := io.BytesIO(), LABELS)
            archive.writestr("y.npy", buffer.getvalue())
        with pytest.raises(DataError, match=r"holds 1000000.0 GB of numbers, .* GB of memory are free"):
            load_dataset(str(at_home / "a.npz"))


class TestATable:
    @pytest.mark.parametrize("delimiter", [",", "\t", ";"])
    @pytest.mark.parametrize("label", [0, 64, 10])
    @pytest.mark.parametrize("opener", [open, gzip.open])
    def test_of_kaggle(self, at_home, delimiter, label, opener):
        path = write_csv(at_home / "train.csv", delimiter=delimiter, label=label, opener=opener)
        found = load_dataset(str(path))
        require_a_sixth(found)
        kind = "TSV" if delimiter == "\t" else "CSV"
        assert found.about.startswith(
            f"a {kind} file with a header: column 'label' is the label, 64 columns are numbers"
        )

    @pytest.mark.parametrize("column", ["first", "0"])
    def test_without_a_header(self, at_home, column):
        path = write_csv(at_home / "train.csv", header=False)
        require_a_sixth(load_dataset(str(path), label_column=column, shape="8x8"))
        with pytest.raises(
            DataError,
            match=r"no column called label, .*: name the label with --label-column",
        ):
            load_dataset(str(path), shape="8x8")

    def test_of_classes_by_name(self, at_home):
        names = np.array([*"abcdefghij"])[LABELS]
        path = write_csv(at_home / "train.csv", labels=[f'"{name}"' for name in names], label=-1)
        found = load_dataset(str(path), label_column="label")
        assert found.train.class_names == tuple("abcdefghij")
        require_a_sixth(found, labels=names)

    @pytest.mark.parametrize("label", ["label", "last"])
    def test_with_numbers_as_names(self, at_home, label):
        path = write_csv(at_home / "train.csv", header=False, label=-1)
        header = ",".join([*map(str, range(64)), "label"])
        path.write_text(f"{header}\n{path.read_text()}")
        require_a_sixth(load_dataset(str(path), label_column=label, shape="8x8"))

    @pytest.mark.parametrize(
        "spelling", [lambda k: f"{k}.0", lambda k: f"0{k}", lambda k: f'"{k}"', lambda k: f" {k} "]
    )
    def test_labels_are_numbers_however_they_are_written(self, at_home, spelling):
        labels = [spelling(label) for label in LABELS]
        require_a_sixth(load_dataset(str(write_csv(at_home / "train.csv", labels=labels))))

    def test_a_class_may_be_called_y(self, at_home):
        names = np.array([*"ybcdefghij"])[LABELS]
        path = write_csv(at_home / "train.csv", header=False, labels=names)
        require_a_sixth(load_dataset(str(path), label_column="first", shape="8x8"), labels=names)

    @pytest.mark.parametrize("label", ["", "nan", "--5", "9" * 25])
    def test_labels_that_are_none(self, at_home, label):
        labels = [*LABELS[:20].astype(str), label, *LABELS[21:].astype(str)]
        path = write_csv(at_home / "train.csv", labels=labels)
        if label in ("", "nan"):
            with pytest.raises(DataError, match="line 22: the label is missing"):
                load_dataset(str(path))
        else:
            assert label in load_dataset(str(path)).train.class_names

    def test_line_numbers_count_blank_lines_and_quoted_lines(self, at_home):
        path = write_csv(at_home / "train.csv")
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:5], "", "", '"1",' + lines[5][2:] + ",7", *lines[6:]]))
        with pytest.raises(DataError, match="line 8: 66 values: expected 65, as in the first line"):
            load_dataset(str(path))

    def test_of_another_encoding(self, at_home):
        path = write_csv(at_home / "train.csv")
        path.write_bytes(path.read_bytes() + "\xe9,".encode("latin-1") + b"0," * 64)
        with pytest.raises(DataError, match=r"is not UTF-8 text \(.*\): save it as UTF-8"):
            load_dataset(str(path))

    def test_of_one_class_is_said(self, at_home):
        path = write_csv(at_home / "train.csv", labels=["3"] * 300)
        assert load_dataset(str(path)).warning == "all images are of one class, 3: there is nothing to learn"

    def test_with_blank_lines_a_mark_and_other_ends(self, at_home):
        path = write_csv(at_home / "train.csv")
        text = path.read_text().replace("\n", "\r\n\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        require_a_sixth(load_dataset(str(path)))

    @pytest.mark.parametrize(("change", "problem"), [
        (lambda lines: [*lines[:5], lines[5].rpartition(",")[0], *lines[6:]], "line 6: 64 values: expected 65, as in"),
        (lambda lines: [*lines[:5], lines[5] + ",3", *lines[6:]], "line 6: 66 values: expected 65, as in the first"),
        (lambda lines: [*lines[:5], "1,x" + lines[5][3:], *lines[6:]], "line 6, column 2: 'x' is not a number"),
        (lambda lines: [*lines[:5], "1,nan" + lines[5][3:], *lines[6:]], "line 6: a value is missing, NaN or infinite"),
        (lambda lines: lines[:1], "has no rows of values: expected at least one"),
        (lambda lines: [line.replace("label", "pixel99") for line in lines], "has no column called label, class"),
        (lambda lines: [line.replace("pixel7,", "class,") for line in lines], "has several columns that may be"),
        (lambda lines: ["a story", "without any comma"], "is not a table: expected lines of values with commas"),
        (lambda lines: [line.replace("pixel7,", "weight,") for line in lines], "rows of 64 numbers: give their shape"),
        (lambda lines: [], "is not a table"),
    ])  # fmt: skip
    def test_what_is_refused(self, at_home, change, problem):
        path = write_csv(at_home / "train.csv")
        path.write_text("\n".join(change(path.read_text().splitlines())))
        with pytest.raises(DataError, match=problem):
            load_dataset(str(path))

    def test_lines_that_do_not_end_are_not_read_to_their_end(self, at_home):
        sparse = at_home / "sparse.csv"
        with sparse.open("wb") as file:
            file.truncate(10 << 30)
        with pytest.raises(DataError, match="is one file, perhaps of an IDX set"):
            load_dataset(str(sparse))
        with sparse.open("r+b") as file:
            file.write(b"label,pixel0,pixel1,pixel2,pixel3\n1,2,3,4,5\n")
        with pytest.raises(DataError, match=r"has a line of more than 4,194,304 characters: expected one sample per"):
            load_dataset(str(sparse))

    def test_must_fit_memory(self, at_home, monkeypatch):
        path = write_csv(at_home / "train.csv")
        monkeypatch.setattr("xpmlp.data.files.free_host_memory", lambda: 1000)
        with pytest.raises(DataError, match=r"holds 0.0 GB of numbers, 0.0 GB of memory are free"):
            load_dataset(str(path))


class TestATableOfFeatures:
    def test_is_standardised_by_its_training_part(self, at_home):
        iris = load_iris()
        with (at_home / "iris.csv").open("w") as file:
            file.write("sepal length,sepal width,petal length,petal width,species\n")
            for row, kind in zip(iris.data, iris.target, strict=True):
                file.write(",".join(map(str, row)) + f",{iris.target_names[kind]}\n")
        found = load_dataset("iris.csv", label_column="species", shape="none")
        assert found.train.class_names == ("setosa", "versicolor", "virginica")
        assert (len(found.train), len(found.test)) == (126, 24)
        inputs = found.train.as_inputs("float64").images
        np.testing.assert_allclose(inputs.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(inputs.std(axis=0), 1, rtol=1e-6)

    @pytest.mark.parametrize("index", ["", "Unnamed: 0", "__index_level_0__"])
    def test_loses_the_column_that_numbers_its_rows(self, at_home, index):
        rows = [f"{k},{k % 7},{k % 3},{'ab'[k % 2]}" for k in range(60)]
        (at_home / "a.csv").write_text("\n".join([f"{index},x,y,kind", *rows]))
        found = load_dataset("a.csv", label_column="kind", shape="none")
        assert found.train.columns == found.test.columns == ("x", "y")
        assert f"column '{index}' numbers the rows and is left out, 2 columns are numbers" in found.about

    def test_keeps_large_numbers(self, at_home):
        times = 1_700_000_000 + np.arange(60) * 10
        (at_home / "a.csv").write_text("\n".join(["time,label", *(f"{time},{k % 2}" for k, time in enumerate(times))]))
        found = load_dataset("a.csv", shape="none")
        assert sorted([*found.train.images[:, 0], *found.test.images[:, 0]]) == times.tolist()
        assert len(np.unique(found.train.as_inputs("float32").images)) == len(found.train)

    def test_begins_with_a_line_of_excels(self, at_home):
        (at_home / "a.csv").write_text("sep=;\nx;label\n" + "\n".join(f"{k};{k % 2}" for k in range(60)))
        assert load_dataset("a.csv", shape="none").train.columns == ("x",)

    @pytest.mark.parametrize("header", ["x\n", ""])
    def test_of_one_feature_is_predicted(self, at_home, capsys, header):
        lines = [f"{k % 9 - 4.5},{'low' if k % 9 < 5 else 'high'}" for k in range(120)]
        (at_home / "a.csv").write_text("\n".join(["x,label", *lines]))
        quick = ["--shape", "none", "--epochs", "40", "--hidden", "8", "--quiet", "--no-plot", "--out", "run"]
        assert main(["train", "--dataset", "a.csv", *quick]) == 0
        (at_home / "b.csv").write_text(f"{header}-4.5\n3.5\n")
        capsys.readouterr()
        assert main(["predict", "run", "b.csv", "--top", "1"]) == 0
        assert [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()] == ["low", "high"]

    def test_is_predicted_by_its_columns_names(self, at_home, capsys):
        rng = np.random.default_rng(0)
        x, y = rng.normal(0, 1, (2, 120))
        lines = [f"{a},{b},{'high' if a > 0 else 'low'}" for a, b in zip(x, y, strict=True)]
        (at_home / "a.csv").write_text("\n".join(["u,v,label", *lines]))
        quick = ["--shape", "none", "--epochs", "40", "--hidden", "8", "--quiet", "--no-plot", "--out", "run"]
        assert main(["train", "--dataset", "a.csv", *quick]) == 0
        (at_home / "b.csv").write_text("\n".join([",v,u", *(f"0,{b},{a}" for a, b in zip(x, y, strict=True))]))
        capsys.readouterr()
        assert main(["predict", "run", "b.csv", "--top", "1"]) == 0
        found = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
        assert np.mean([label == ("high" if a > 0 else "low") for label, a in zip(found, x, strict=True)]) > 0.95
        (at_home / "c.csv").write_text("z,v\n1,2\n")
        assert main(["predict", "run", "c.csv"]) == 1
        assert "c.csv has no column 'u', which the model takes" in capsys.readouterr().err

    def test_is_trained_on_and_drawn(self, at_home, capsys):
        write_csv(at_home / "train.csv", header=False)
        own = ["train.csv", "--label-column", "first", "--shape", "none"]
        quick = ["--epochs", "3", "--hidden", "8", "--quiet"]
        assert main(["train", "--dataset", *own, *quick, "--out", "run"]) == 0
        assert main(["evaluate", "run"]) == 0
        said = capsys.readouterr().out
        assert "50 samples" in said
        assert "written  evaluation.json, confusion.png in " in said
        assert json.loads((at_home / "run" / "evaluation.json").read_text())["accuracy"] > 0.5
        assert main(["data", *own]) == 0
        assert "each column is shifted and scaled to mean 0 and standard deviation 1" in capsys.readouterr().out
        assert main(["predict", "run", "samples.png"]) == 1
        problem = "samples.png: a picture: the model takes samples of 64 numbers, as in a CSV file"
        assert problem in capsys.readouterr().err
        for command in (["train", "--dataset", *own, "--out", "other"], ["data", *own]):
            assert main([*command, "--deform", "1"]) == 2
            assert "64 numbers" in capsys.readouterr().err
        assert not (at_home / "other").exists()


class TestPredictingATable:
    """As Kaggle wants it: trained on one table, the classes of another."""

    @pytest.fixture
    def run(self, at_home, capsys):
        write_csv(at_home / "train.csv")
        quick = ["--dataset", "train.csv", "--epochs", "5", "--hidden", "16", "--quiet", "--no-plot"]
        for name, shape in (("images", []), ("features", ["--shape", "none"])):
            assert main(["train", *quick, *shape, "--out", name]) == 0
        capsys.readouterr()

    @pytest.mark.parametrize("name", ["images", "features"])
    @pytest.mark.parametrize("kind", ["without labels", "with labels", "gzipped", "without a header"])
    def test_gives_a_line_for_each_row(self, at_home, run, capsys, name, kind):
        write_csv(at_home / "test.csv", header=kind != "without a header", images=IMAGES[:50], labels=LABELS[:50])
        lines = (at_home / "test.csv").read_text().splitlines()
        if kind in ("without labels", "without a header"):
            lines = [line.partition(",")[2] for line in lines]
        opener = gzip.open if kind == "gzipped" else open
        with opener("test.csv", "wt") as file:
            file.write("\n".join(lines))
        assert main(["predict", name, "test.csv", "--top", "1"]) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(line["file"], line["index"]) for line in found] == [("test.csv", k) for k in range(50)]
        model = load(name, "numpy")
        images = IMAGES[:50] if name == "images" else IMAGES[:50].reshape(50, 64).astype(np.float64)
        assert [line["label"] for line in found] == [model.class_names[k] for k in model.predict(images)]

    @pytest.mark.parametrize(("factor", "problem"), [(2, "values up to 510: the model's images go to 255"),
                                                     (-1, "values from -255 to"),
                                                     (0.5, "values from 0 to 127.5: the model's")])  # fmt: skip
    def test_of_other_numbers_is_refused(self, at_home, run, capsys, factor, problem):
        write_csv(at_home / "test.csv", images=IMAGES[:20] * np.float64(factor), labels=LABELS[:20])
        assert main(["predict", "images", "test.csv"]) == 1
        assert problem in capsys.readouterr().err

    def test_of_another_width_is_refused(self, at_home, run, capsys):
        (at_home / "test.csv").write_text("1,2,3\n4,5,6\n")
        assert main(["predict", "images", "test.csv"]) == 1
        problem = "test.csv has 3 columns: the model takes 64, beside which there may be a label"
        assert problem in capsys.readouterr().err
        write_csv(at_home / "test.csv", header=False)
        assert main(["predict", "images", "test.csv"]) == 1
        assert "name the label with --label-column" in capsys.readouterr().err
        assert main(["predict", "images", "test.csv", "--label-column", "first", "--top", "1"]) == 0

    def test_that_is_damaged_is_refused(self, at_home, run, capsys):
        (at_home / "test.csv.gz").write_bytes(gzip.compress(b"1,2,3\n" * 9)[:20])
        assert main(["predict", "images", "test.csv.gz"]) == 1
        assert "damaged gzip data" in capsys.readouterr().err


class TestAFolderOfPictures:
    def test_in_colour(self, at_home):
        colours = np.stack([IMAGES, 255 - IMAGES, IMAGES // 2], axis=3)
        write_pictures(at_home / "set", colours[:200], LABELS[:200])
        write_pictures(at_home / "set" / "more", IMAGES[200:202], LABELS[200:202])  # a folder without pictures
        write_pictures(at_home / "set", IMAGES[200:], LABELS[200:])
        found = load_dataset("set")
        assert "images of 8 × 8 in colour" in found.about
        assert load_dataset("set", shape="8x8x1").train.image_shape == (8, 8)

    def test_of_which_few_are_in_colour(self, at_home):
        write_pictures(at_home / "set", np.stack([IMAGES[:20], 255 - IMAGES[:20], IMAGES[:20]], axis=3), LABELS[:20])
        write_pictures(at_home / "other", IMAGES[20:], LABELS[20:])
        for k in range(10):
            for path in (at_home / "other" / str(k)).iterdir():
                path.rename(at_home / "set" / str(k) / f"grey{path.name}")
        found = load_dataset("set")
        assert ", of which 20 in colour were made grey, images of 8 × 8;" in found.about
        assert load_dataset("set", shape="8x8x3").train.image_shape == (8, 8, 3)

    def test_of_a_given_size(self, at_home):
        write_pictures(at_home / "set", IMAGES, LABELS)
        found = load_dataset("set", shape="4x6")
        assert found.train.image_shape == (4, 6)
        assert ", 300 of 300 brought to 4 × 6, images of 4 × 6;" in found.about

    def test_of_more_than_8_bits_has_one_range(self, at_home):
        deep = DIGITS.images[:300].astype(np.uint16) * 250
        deep[LABELS == 3] //= 4
        write_pictures(at_home / "set", deep, LABELS)
        found = load_dataset("set")
        assert found.train.scaling == Scaling.of_range(0, 4095)
        assert found.train.images[found.train.labels == 3].max() == 1000

    def test_must_fit_memory(self, at_home, monkeypatch):
        write_pictures(at_home / "set", IMAGES, LABELS)
        monkeypatch.setattr("xpmlp.data.files.free_host_memory", lambda: 1000)
        with pytest.raises(DataError, match=r"set holds 0.0 GB of numbers, 0.0 GB of memory are free"):
            load_dataset("set")

    def test_says_how_far_it_has_read(self, at_home):
        write_pictures(at_home / "set", IMAGES, LABELS)
        said = []
        load_dataset("set", progress=lambda *words: said.append(words))
        assert said == [("pictures", k, 300) for k in (1, 101, 201, 300)]

    def test_a_model_of_it_reads_such_pictures(self, at_home, capsys):
        colours = np.zeros((120, 8, 8, 3), np.uint8)
        colours[np.arange(120), 2:6, 2:6, np.arange(120) % 3] = 220
        write_pictures(at_home / "set", colours, np.array(["red", "green", "blue"])[np.arange(120) % 3])
        quick = ["--epochs", "20", "--hidden", "8", "--quiet", "--deform", "0.5"]
        assert main(["train", "--dataset", "set", *quick, "--out", "run"]) == 0
        assert main(["predict", "run", *sorted(map(str, (at_home / "set" / "green").iterdir()))[:5]]) == 0
        assert [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()] == ["green"] * 5
        assert main(["evaluate", "run"]) == 0
        assert main(["data", "set", "--deform", "1"]) == 0
        assert (at_home / "deformed.png").exists()

    @pytest.mark.parametrize(("train", "test"), [("training", "testing"), ("train", "test"), ("Train", "val")])
    def test_in_two_parts(self, at_home, train, test):
        write_pictures(at_home / "set" / train, IMAGES[TRAIN], LABELS[TRAIN])
        write_pictures(at_home / "set" / test, IMAGES[TEST], LABELS[TEST])
        found = load_dataset("set")
        assert found.about == "a folder with 10 classes of pictures, training and test, images of 8 × 8"
        order = [np.argsort(LABELS[rows], kind="stable") for rows in (TRAIN, TEST)]
        for part, rows, sorted_ in zip((found.train, found.test), (TRAIN, TEST), order, strict=True):
            np.testing.assert_array_equal(part.images, IMAGES[rows][sorted_])
            np.testing.assert_array_equal(part.labels, LABELS[rows][sorted_])

    def test_in_one_part(self, at_home):
        write_pictures(at_home / "set", IMAGES, LABELS)
        require_a_sixth(load_dataset("set"))

    def test_validation_pictures_are_trained_on_beside_test_pictures(self, at_home):
        for part, rows in (("train", slice(0, 200)), ("val", slice(200, 240)), ("test", TEST)):
            write_pictures(at_home / "set" / part, IMAGES[rows], LABELS[rows])
        found = load_dataset("set")
        assert (len(found.train), len(found.test)) == (240, 60)
        np.testing.assert_array_equal(np.bincount(found.train.labels), np.bincount(LABELS[TRAIN]))

    def test_what_systems_hide_in_folders_is_no_picture(self, at_home):
        write_pictures(at_home / "set", IMAGES, LABELS)
        for hidden in (".ipynb_checkpoints/a.png", "__MACOSX/b.png", "3/._0000.png"):
            (at_home / "set" / hidden).parent.mkdir(exist_ok=True)
            (at_home / "set" / hidden).write_bytes(b"no picture")
        require_a_sixth(load_dataset("set"))

    def test_sizes_are_brought_to_one(self, at_home):
        from PIL import Image

        write_pictures(at_home / "set", IMAGES, LABELS)
        Image.fromarray(np.full((16, 12), 200, np.uint8)).save(at_home / "set" / "3" / "large.png")
        found = load_dataset("set")
        assert ", 1 of 301 brought to the most frequent size, images of 8 × 8" in found.about
        assert sum(int((part.images == 200).all(axis=(1, 2)).sum()) for part in (found.train, found.test)) == 1

    def test_one_that_cannot_be_read_is_named(self, at_home):
        write_pictures(at_home / "set", IMAGES, LABELS)
        (at_home / "set" / "3" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
        (at_home / "set" / "4" / "page.png").write_bytes(b"<!DOCTYPE html><html>404</html>")
        with pytest.raises(DataError, match=r"3/broken.png: .* \(and 1 more of 302\)"):
            load_dataset("set")
        (at_home / "set" / "3" / "broken.png").unlink()
        with pytest.raises(DataError, match="4/page.png: a web page, perhaps an error message"):
            load_dataset("set")

    def test_other_files_are_counted(self, at_home):
        write_pictures(at_home / "set", IMAGES, LABELS)
        (at_home / "set" / "3" / "notes.txt").write_text("no picture")
        assert "with 10 classes of pictures, 1 other files left out, images" in load_dataset("set").about

    def test_of_8_and_more_bits_has_one_range_for_the_deeper_ones(self, at_home):
        write_pictures(at_home / "set", IMAGES[:200], LABELS[:200])
        deep = DIGITS.images[200:300].astype(np.uint16) * 4000
        deep[LABELS[200:] == 3] //= 16
        write_pictures(at_home / "deep", deep, LABELS[200:])
        for k in range(10):
            for path in (at_home / "deep" / str(k)).iterdir():
                path.rename(at_home / "set" / str(k) / f"deep{path.name}")
        found = load_dataset("set")
        assert (found.train.images.dtype, found.train.max_value) == (np.uint8, 255)
        images = np.concatenate([found.train.images, found.test.images])
        assert {int(image.max()) for image in images} >= {16, 249}

    def test_a_test_folder_without_classes_is_named(self, at_home):
        write_pictures(at_home / "set" / "train", IMAGES, LABELS)
        (at_home / "set" / "test").mkdir()
        with pytest.raises(DataError, match="set/test has no folder for each class, as .*train has"):
            load_dataset("set")

    def test_others_are_refused(self, at_home):
        (at_home / "set" / "a").mkdir(parents=True)
        with pytest.raises(DataError, match="set has a: expected a folder of pictures for each class"):
            load_dataset("set")
        write_pictures(at_home / "set", IMAGES, LABELS)
        with pytest.raises(DataError, match="is a folder of pictures: leave --label-column and --shape none out"):
            load_dataset("set", label_column="first")


def write_idx(folder, names, opener=None):
    """Write MNIST's four files by other names, each of which may be a path."""
    arrays = (IMAGES[TRAIN], LABELS[TRAIN].astype(np.uint8), IMAGES[TEST], LABELS[TEST].astype(np.uint8))
    for name, array in zip(names, arrays, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        idx.write(folder / name, array)
    return folder


class TestIdxFiles:
    @pytest.mark.parametrize("spelling", [
        lambda name: name, lambda name: name.replace("-idx", ".idx"), str.upper, lambda name: f"{name}.gz",
        lambda name: f"{name.replace('-idx', '.idx')}/{name}", lambda name: f"raw/{name}",
    ])  # fmt: skip
    def test_are_known_however_they_are_spelled(self, at_home, spelling):
        write_idx(at_home / "set", [spelling(name) for name in FILES])
        require(load_dataset("set"))
        require(load_dataset("idx:set"))

    @pytest.mark.parametrize("folder", ["mnist", "MNIST", "MNIST/raw", "."])
    def test_are_found_as_mnist(self, at_home, folder, monkeypatch):
        write_idx(at_home / "data" / folder, FILES)
        require(load_dataset("mnist", "data"))
        require(load_dataset("MNIST", "data"))
        monkeypatch.setenv("HOME", str(at_home))
        monkeypatch.setenv("WHERE", "data")
        require(load_dataset("mnist", "~/$WHERE"))
        monkeypatch.setenv("XPMLP_DATA", "~/data")
        require(load_dataset("auto"))
        require(load_dataset("idx:~/data/" + folder))
        require(load_dataset("~/data/" + folder))

    def test_a_name_wins_over_a_path(self, at_home):
        write_idx(at_home / "digits", FILES)
        assert load_dataset("digits").name == "digits"
        assert load_dataset("./digits").name == "idx:digits"

    def test_auto_says_what_was_nearly_found(self, at_home, monkeypatch):
        write_idx(at_home / "data" / "mnist", FILES)
        os.remove(at_home / "data" / "mnist" / FILES[1])
        monkeypatch.setenv("XPMLP_DATA", "data")
        monkeypatch.setattr("xpmlp.data.datasets.download", lambda *_: (_ for _ in ()).throw(DataError("mnist cannot")))
        found = load_dataset("auto")
        assert found.name == "digits"
        assert f"data/mnist has no {FILES[1]}, plain or .gz" in found.note

    @pytest.mark.parametrize(("content", "kind"), [
        (b"<!DOCTYPE HTML><html>403 Forbidden</html>", "a web page, perhaps an error message of the server"),
        (b"\n  <html>", "a web page"), (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        (b"PK\x03\x04" + bytes(60), "a zip archive: unpack it first"), (b"%PDF-1.4", "a PDF document"),
    ])  # fmt: skip
    def test_what_is_something_else_is_called_by_its_name(self, at_home, content, kind):
        write_idx(at_home / "set", FILES)
        (at_home / "set" / FILES[0]).write_bytes(content)
        with pytest.raises(DataError, match=f"{FILES[0]}: {kind}.*; expected an IDX file"):
            load_dataset("set")

    def test_one_alone_is_no_set(self, at_home):
        write_idx(at_home / "set", FILES)
        with pytest.raises(DataError, match="is one file, perhaps of an IDX set: name the folder that holds all four"):
            load_dataset(f"set/{FILES[0]}")
        with pytest.raises(DataError, match="has MNIST's files, which say it: leave --label-column and --shape out"):
            load_dataset("set", label_column="first")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    write_npz(folder / "set.npz", x=IMAGES[:40], y=LABELS[:40])
    write_csv(folder / "set.csv", images=IMAGES[:40], labels=LABELS[:40])
    write_csv(folder / "set.csv.gz", images=IMAGES[:40], labels=LABELS[:40], opener=gzip.open)
    return folder


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["set.npz", "set.csv", "set.csv.gz"]))
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_is_read_or_refused_in_one_line(data, name, good, tmp_path):
    content = bytearray((good / name).read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / name
    path.write_bytes(content)
    try:
        found = load_dataset(str(path))
    except DataError as error:
        problem = str(error)
    else:
        problem = ""
        assert np.isfinite(found.train.images).all()  # a digit that became an e makes floats of all
        assert len(found.train) + len(found.test) > 0
    assert "\n" not in problem


class TestOnTheCommandLine:
    def test_a_run_is_evaluated_and_goes_on_with_the_same_split(self, at_home, capsys):
        write_csv(at_home / "train.csv", header=False)
        own = ["--label-column", "first", "--shape", "8x8"]
        quick = ["--epochs", "2", "--hidden", "8", "--schedule", "constant", "--seed", "3", "--quiet", "--no-plot"]
        assert main(["train", "--dataset", "train.csv", *own, *quick, "--out", "run"]) == 0
        config, summary = (json.loads((at_home / "run" / name).read_text()) for name in ("config.json", "summary.json"))
        assert config["dataset_format"].startswith(
            "a CSV file whose column 0 is the label, 64 columns are numbers, images of 8 × 8"
        )
        assert config["dataset_spec"] == f"file:{at_home / 'train.csv'}"
        assert main(["evaluate", "run", "--no-plot"]) == 0
        found = json.loads((at_home / "run" / "evaluation.json").read_text())
        assert (found["accuracy"], found["loss"]) == pytest.approx((summary["test_accuracy"], summary["test_loss"]))
        assert main(["train", "--resume", "run", "--epochs", "3", "--quiet", "--no-plot"]) == 0
        capsys.readouterr()
        assert main(["data", "train.csv", *own]) == 0
        said = capsys.readouterr().out
        assert "format   a CSV file whose column 0 is the label" in said
        assert (at_home / "samples.png").exists()

    def test_models_of_other_splits_have_no_common_test_set(self, at_home, capsys):
        write_csv(at_home / "train.csv")
        quick = ["--epochs", "1", "--hidden", "4", "--quiet", "--no-plot"]
        for seed in ("0", "1"):
            assert main(["train", "--dataset", "train.csv", *quick, "--seed", seed, "--out", f"run{seed}"]) == 0
        assert main(["evaluate", "run0", "run1"]) == 2
        assert "the models were trained on other parts of file:" in capsys.readouterr().err

    @pytest.mark.parametrize(("options", "problem"), [
        (["--dataset", "nothing.csv"], "'nothing.csv': expected auto, mnist, fashion-mnist, kmnist,"),
        (["--dataset", "mnst"], "unknown data set 'mnst': did you mean mnist?"),
        (["--dataset", "digits", "--shape", "8x8"], "digits has its labels and its shape: leave"),
        (["--dataset", "train.csv", "--data-dir", "."], "train.csv is a path: leave out the data folder"),
        (["--dataset", "train.csv", "--label-column", "99"], "has no column '99': its 65 columns are label, pixel0"),
    ])  # fmt: skip
    def test_what_is_refused_leaves_nothing(self, at_home, capsys, options, problem):
        write_csv(at_home / "train.csv")
        assert main(["train", *options]) == 2
        assert problem in capsys.readouterr().err
        assert {path.name for path in at_home.iterdir()} == {"train.csv"}

    def test_a_photograph_that_cannot_be_read_is_called_by_its_name(self, at_home, capsys):
        write_csv(at_home / "train.csv")
        assert (
            main(["train", "--dataset", "train.csv", "--epochs", "1", "--hidden", "4", "--quiet", "--out", "run"]) == 0
        )
        (at_home / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
        assert main(["predict", "run", "IMG_1.HEIC"]) == 1
        assert "IMG_1.HEIC: a HEIC photograph: save it as JPEG or PNG first" in capsys.readouterr().err
        shutil.rmtree(at_home / "run")
