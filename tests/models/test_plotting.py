"""Pictures: that they are drawn, and of what. How they look, people judge."""

import numpy as np
import pytest

from xpmlp.models.drawing import plot_confusion, plot_mistakes, plot_samples
from xpmlp.training.drawing import plot_comparison, plot_history


def lines(n, *, validated=True):
    return [
        {
            "epoch": k,
            "train_loss": 1 / k,
            "train_accuracy": 1 - 0.5 / k,
            "val_loss": 1.1 / k if validated else None,
            "val_accuracy": 1 - 0.6 / k if validated else None,
        }
        for k in range(1, n + 1)
    ]


@pytest.fixture
def figure(monkeypatch):
    """Return the figure that is saved, beside its file."""
    from matplotlib.figure import Figure

    saved = []
    original = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), original(self, *a, **k)))
    return saved


@pytest.mark.parametrize("n", [1, 5, 60])
def test_draws_both_curves_and_marks_the_best(tmp_path, figure, n):
    plot_history(lines(n), tmp_path / "history.png", "3-2 on digits", test_accuracy=0.98765)
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")
    loss, accuracy = figure[0].axes
    assert [line.get_label() for line in loss.lines] == ["training", "validation"]
    best = f"best validation: {1 - 0.6 / n:.4f}, epoch {n}"
    assert [line.get_label() for line in accuracy.lines] == ["training", "validation", best]
    assert accuracy.lines[2].get_xdata()[0] == n
    assert figure[0].get_suptitle() == "3-2 on digits: test accuracy 98.77 %"


def test_leaves_out_what_was_not_measured(tmp_path, figure):
    plot_history(lines(3, validated=False), tmp_path / "history.png", "no validation")
    for axes in figure[0].axes:
        assert [line.get_label() for line in axes.lines] == ["training"]


@pytest.mark.parametrize(("n", "n_classes"), [(1, 1), (5, 3), (400, 30)])
def test_draws_samples_a_row_a_class(tmp_path, figure, n, n_classes):
    images = np.zeros((n, 5, 4), np.uint8)
    labels = np.arange(n) % n_classes
    names = [f"class {k}" for k in range(n_classes)]
    plot_samples(images, labels, names, tmp_path / "samples.png", "made-up")
    (axes,) = figure[0].axes
    assert [text.get_text() for text in axes.get_yticklabels()] == names[:20]
    drawn = np.isfinite(axes.images[0].get_array().filled(np.nan)).sum() / images[0].size
    assert drawn == sum(min(12, (labels == k).sum()) for k in range(min(n_classes, 20)))


@pytest.mark.parametrize("n_classes", [2, 10, 40])
def test_a_confusion_matrix_has_its_counts_and_the_colours_of_the_mistakes(tmp_path, figure, n_classes):
    confusion = np.diag(np.full(n_classes, 1000))
    confusion[0, 1] = 7
    plot_confusion(confusion, [f"c{k}" for k in range(n_classes)], tmp_path / "confusion.png", "title")
    (axes,) = figure[0].axes
    shades = axes.images[0].get_array()
    assert shades[0, 1] == 7
    assert all(shades.mask[k, k] for k in range(n_classes)), "what is right has no colour"
    texts = {text.get_text() for text in axes.texts}
    assert texts == ({"1,000", "7"} if n_classes <= 30 else set())
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "label")


@pytest.mark.parametrize("n", [0, 7, *(pytest.param(n, marks=pytest.mark.full) for n in (1, 50))])
def test_mistakes_are_drawn_with_their_captions(tmp_path, figure, n):
    captions = [f"caption {k}" for k in range(n)]
    plot_mistakes(np.zeros((n, 5, 4), np.uint8), captions, tmp_path / "mistakes.png", "title", 255)
    shown = [axes.get_title() for axes in figure[0].axes if axes.images]
    assert shown == captions[:30]
    assert [text.get_text() for text in figure[0].texts if text.get_text() == "no mistakes"] == ["no mistakes"] * (
        n == 0
    )


def test_a_comparison_shows_the_validation_and_pale_the_training(tmp_path, figure):
    runs = {"one": lines(3), "two": lines(40), "three": lines(2, validated=False)}
    plot_comparison(runs, tmp_path / "comparison.png", "3 runs")
    for axes in figure[0].axes:
        named = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
        assert list(named) == ["one", "two", "three (training only)"]
        assert len({line.get_color() for line in named.values()}) == 3
        assert len(axes.lines) == 5
        low, high = axes.get_ylim()
        for line in named.values():
            assert low <= min(line.get_ydata()) <= max(line.get_ydata()) <= high


def test_more_runs_than_colours_are_drawn(tmp_path):
    plot_comparison({f"run {k}": lines(1) for k in range(25)}, tmp_path / "comparison.png", "25 runs")
