"""Pictures: that they are drawn, and of what. How they look, people judge."""

import numpy as np
import pytest

from xpmlp.plotting import plot_history, plot_samples


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
