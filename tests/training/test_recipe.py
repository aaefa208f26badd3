"""The recipes on MNIST itself, where it is on this disk."""

import json

import pytest

from xpmlp.commands import main
from xpmlp.data import load_dataset
from xpmlp.errors import DataError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def mnist():
    try:
        load_dataset("mnist")
    except DataError as error:
        pytest.skip(str(error))


def seeds(n):
    """Return n seeds, of which one is enough between releases."""
    return [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in range(1, n))]


def accuracy(tmp_path, *options):
    assert main(["train", "--dataset", "mnist", "--out", str(tmp_path / "run"), "--no-plot", "--quiet", *options]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    return summary["test_accuracy"], summary["epochs"]


@pytest.mark.parametrize("seed", seeds(5))
def test_defaults_pass_98_percent_in_5_epochs(tmp_path, seed):
    test_accuracy, epochs = accuracy(tmp_path, "--seed", str(seed))
    assert test_accuracy > 0.98
    assert epochs <= 5


@pytest.mark.parametrize("options", [("--optimizer", "adam"), ("--optimizer", "adamw"), ("--momentum", "0")])
def test_each_optimizer_passes_97_5_percent_with_all_else_at_its_default(tmp_path, options):
    assert accuracy(tmp_path, *options)[0] > 0.975


@pytest.mark.parametrize("seed", seeds(10))
def test_quick_passes_98_percent_with_every_seed(tmp_path, seed):
    test_accuracy, epochs = accuracy(tmp_path, "--recipe", "quick", "--seed", str(seed), "--backend", "numpy")
    assert test_accuracy >= 0.98
    assert epochs == 2


@pytest.mark.full
def test_best_passes_98_7_percent_in_a_25th_of_its_epochs(tmp_path):
    """All 150 take ten minutes: README.md has what they reach."""
    test_accuracy, epochs = accuracy(tmp_path, "--recipe", "best", "--epochs", "6", "--backend", "numpy")
    assert test_accuracy >= 0.987
    assert epochs == 6
