"""Booleans in tables: as features they are 1 and 0, as labels two classes that are called as in the file."""

import gzip

import numpy as np
import pytest

from xpmlp import DataError, load, load_dataset
from xpmlp.commands import main

pytestmark = pytest.mark.usefixtures("at_home")

SPELLINGS = {
    "true and false": ("true", "false"),
    "Python's": ("True", "False"),
    "Excel's": ("TRUE", "FALSE"),
    "yes and no": ("yes", "no"),
    "Yes and No": ("Yes", "No"),
}

N = 60
RNG = np.random.default_rng(0)
SIZE = RNG.normal(size=N).round(3)
IS_RED, IS_SOLD = RNG.random(N) < 0.5, SIZE > 0


def words(truths, spelling):
    true, false = SPELLINGS[spelling]
    return [true if truth else false for truth in truths]


def write(path, columns, delimiter=",", header=True, opener=open):
    with opener(path, "wt") as file:
        if header:
            print(*columns, sep=delimiter, file=file)
        for row in zip(*columns.values(), strict=True):
            print(*row, sep=delimiter, file=file)
    return path


def both_parts(found):
    return np.concatenate([found.train.images, found.test.images]), np.concatenate(
        [found.train.labels, found.test.labels]
    )


def require_rows(found, features, classes):
    """Require these rows, in whatever order, and their classes."""
    rows, labels = both_parts(found)
    names = np.array(found.train.class_names)[labels]
    seen = sorted((*row, name) for row, name in zip(rows.tolist(), names.tolist(), strict=True))
    assert seen == sorted((*row, name) for row, name in zip(features.tolist(), classes, strict=True))


class TestFeatures:
    @pytest.mark.parametrize("header", [True, False])
    @pytest.mark.parametrize("delimiter", [",", "\t"])
    @pytest.mark.parametrize("spelling", SPELLINGS)
    def test_are_one_and_zero(self, spelling, delimiter, header):
        columns = {
            "red": words(IS_RED, spelling),
            "size": SIZE,
            "old": words(~IS_RED, spelling),
            "kind": ["a", "b"] * 30,
        }
        write("a.csv", columns, delimiter, header)
        found = load_dataset("a.csv", label_column="last", shape="none")
        require_rows(found, np.stack([IS_RED, SIZE, ~IS_RED], axis=1).astype(float), columns["kind"])
        assert "3 columns are numbers, 2 of them true (1) or false (0)" in found.about
        assert found.train.columns == (("red", "size", "old") if header else None)

    def test_may_be_all_that_a_table_has(self):
        columns = {"red": words(IS_RED, "yes and no"), "old": words(IS_SOLD, "Python's"), "label": IS_RED.astype(int)}
        write("a.csv.gz", columns, opener=gzip.open)
        found = load_dataset("a.csv.gz", shape="none")
        require_rows(found, np.stack([IS_RED, IS_SOLD], axis=1).astype(float), IS_RED.astype(int).astype(str))

    def test_may_change_their_case_and_be_quoted(self):
        write("a.csv", {"a": ["yes", "NO", '"Yes"', " no"] * 15, "label": ["u", "u", "v", "v"] * 15})
        found = load_dataset("a.csv", shape="none")
        require_rows(found, np.array([[1.0], [0.0], [1.0], [0.0]] * 15), ["u", "u", "v", "v"] * 15)

    def test_are_found_in_every_block_of_a_long_file(self):
        n = 5000
        write("a.csv", {"a": ["no", "yes"] * (n // 2), "label": [0, 1] * (n // 2)})
        rows, labels = both_parts(load_dataset("a.csv", shape="none"))
        assert np.array_equal(rows[:, 0], labels)


class TestLabels:
    @pytest.mark.parametrize("spelling", SPELLINGS)
    def test_are_two_classes_of_one_name_in_all_spellings(self, spelling):
        write("a.csv", {"size": SIZE, "sold": words(IS_SOLD, spelling)})
        found = load_dataset("a.csv", label_column="sold", shape="none")
        true, false = (word.capitalize() for word in SPELLINGS[spelling])
        assert found.train.class_names == tuple(sorted([true, false]))
        require_rows(found, SIZE[:, None], [true if sold else false for sold in IS_SOLD])

    def test_of_several_spellings_are_two_classes(self):
        write("a.csv", {"size": SIZE, "label": ["yes", "No", "YES", "no"] * 15})
        found = load_dataset("a.csv", shape="none")
        require_rows(found, SIZE[:, None], ["Yes", "No"] * 30)


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (
            ["true", "false", "1"],
            "a.csv, line 4, column 2: '1' is neither true nor false, as the column's first value is",
        ),
        (["yes", "maybe", "no"], "a.csv, line 3, column 2: 'maybe' is neither true nor false, as the column's first"),
        (["no", "yes", ""], "a.csv, line 4, column 2: a value is missing: expected true or false"),
        (["1", "0", "true"], "a.csv, line 4, column 2: 'true' is not a number"),
    ],
)
def test_a_mixed_column_is_refused_with_its_place(column, problem):
    write("a.csv", {"size": SIZE[:12], "mixed": column * 4, "label": [0, 1] * 6})
    with pytest.raises(DataError) as caught:
        load_dataset("a.csv", shape="none")
    assert str(caught.value).startswith(problem)
    assert "\n" not in str(caught.value)


def test_a_model_of_numbers_and_booleans_predicts_for_them(capsys):
    write("a.csv", {"size": SIZE, "red": words(IS_RED, "yes and no"), "sold": words(IS_SOLD, "yes and no")})
    quick = ["--backend", "numpy", "--hidden", "8", "--epochs", "60", "--quiet", "--no-plot"]
    assert (
        main(["train", "--dataset", "a.csv", "--label-column", "sold", "--shape", "none", *quick, "--out", "run"]) == 0
    )
    write("as numbers.csv", {"red": IS_RED.astype(int), "size": SIZE})
    write("as booleans.csv", {"red": words(IS_RED, "Excel's"), "size": SIZE})
    said = []
    for name in ("as numbers.csv", "as booleans.csv"):
        assert main(["predict", "run", name, "--top", "1"]) == 0
        said.append(capsys.readouterr().out.replace(name, "FILE"))
    assert said[0] == said[1]
    assert load("run").class_names == ("No", "Yes")


@pytest.mark.needs(module="pyarrow")
class TestParquet:
    def write(self, columns):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(columns), "a.parquet")

    def test_features_are_one_and_zero(self):
        self.write({"red": IS_RED, "size": SIZE, "old": ~IS_RED, "label": ["a", "b"] * 30})
        features = np.stack([IS_RED, SIZE, ~IS_RED], axis=1).astype(float)
        require_rows(load_dataset("a.parquet", shape="none"), features, ["a", "b"] * 30)

    def test_labels_are_two_classes(self):
        self.write({"size": SIZE, "red": IS_RED, "label": IS_SOLD})
        found = load_dataset("a.parquet", shape="none")
        assert found.train.class_names == ("False", "True")
        require_rows(found, np.stack([SIZE, IS_RED], axis=1), words(IS_SOLD, "Python's"))

    def test_a_missing_one_is_refused(self):
        self.write({"size": SIZE, "red": [True, None] * 30, "label": [0, 1] * 30})
        with pytest.raises(DataError, match="a.parquet: column 'red' has 30 missing values"):
            load_dataset("a.parquet", shape="none")
