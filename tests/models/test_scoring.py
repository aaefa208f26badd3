"""Figures of a classifier, against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xpmlp.math.activations import softmax
from xpmlp.models.scoring import calibration_error, score, vote, worst_mistakes


def outputs(seed, n=200, n_classes=4):
    """Return logits and labels of which most agree."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, n)
    S = rng.normal(size=(n, n_classes)).astype(np.float32)
    S[np.arange(n), labels] += 1.5
    return S, labels


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), n=st.integers(1, 50), n_classes=st.integers(2, 12))
def test_agrees_with_scikit_learn(seed, n, n_classes):
    metrics = pytest.importorskip("sklearn.metrics")
    S, labels = outputs(seed, n, n_classes)
    figures = score(S, labels, [str(k) for k in range(n_classes)])
    P, classes = softmax(S.astype(float)), list(range(n_classes))
    predictions = P.argmax(axis=1)
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predictions))
    assert figures["loss"] == pytest.approx(metrics.log_loss(labels, P, labels=classes), rel=1e-9)
    assert figures["confusion"] == metrics.confusion_matrix(labels, predictions, labels=classes).tolist()
    theirs = metrics.precision_recall_fscore_support(labels, predictions, labels=classes, zero_division=np.nan)
    for ours, precision, recall, f1, images in zip(figures["classes"], *theirs, strict=True):
        found = (ours["precision"], ours["recall"], ours["f1"])
        for figure, expected in zip(found, (precision, recall, f1), strict=True):
            assert (figure is None and np.isnan(expected)) or figure == pytest.approx(expected)
        assert ours["images"] == images


def test_a_vote_is_the_mean_of_probabilities():
    logits = [outputs(seed)[0] for seed in range(3)]
    P = np.mean([softmax(S.astype(float)) for S in logits], axis=0)
    np.testing.assert_allclose(softmax(vote(logits)), P, rtol=1e-12)
    sure = np.array([[1000.0, 0.0]]), np.array([[0.0, 1000.0]])
    assert np.isfinite(vote(sure)).all(), "a probability that rounds to 0 has a logarithm"
    np.testing.assert_allclose(softmax(vote(sure)), [[0.5, 0.5]])


def test_a_ratio_of_nothing_to_nothing_is_none():
    figures = score(np.array([[5.0, 0.0, 0.0]]), np.array([0]), ["a", "b", "c"])
    assert figures["classes"][2] == {"class": "c", "images": 0, "precision": None, "recall": None, "f1": None}


class TestTheCalibrationError:
    def test_is_nothing_where_the_probability_is_how_often_it_is_right(self):
        P = np.tile([0.75, 0.25], (8, 1))
        assert calibration_error(P, np.array([0, 0, 0, 1] * 2)) == pytest.approx(0)

    def test_is_the_mean_gap_of_the_intervals_by_their_images(self):
        P = np.array([[0.95, 0.05]] * 6 + [[0.6, 0.4]] * 2)
        labels = np.array([0, 0, 0, 1, 1, 1, 1, 1])
        assert calibration_error(P, labels) == pytest.approx((6 * 0.45 + 2 * 0.6) / 8)

    def test_gaps_of_two_intervals_do_not_cancel(self):
        P = np.array([[0.9, 0.1], [0.6, 0.4]])
        assert calibration_error(P, np.array([1, 0])) == pytest.approx((0.9 + 0.4) / 2)

    def test_an_interval_has_its_upper_end(self):
        P = np.array(
            [[0.6, 0.4], [0.6 - 1e-9, 0.4]]
        )  # 9/15 closes an interval that both are in: right and wrong cancel
        assert calibration_error(P, np.array([0, 1])) == pytest.approx(0.1)


def test_the_worst_mistakes_are_the_most_confident_first():
    S, labels = outputs(0)
    found = worst_mistakes(S, labels, 5)
    P = softmax(S.astype(float))
    wrong = [k for k in range(len(labels)) if P[k].argmax() != labels[k]]
    wrong.sort(key=lambda k: -P[k].max())
    assert [mistake.image for mistake in found] == wrong[:5]
    assert [mistake.label for mistake in found] == labels[wrong[:5]].tolist()
    assert [mistake.prediction for mistake in found] == P[wrong[:5]].argmax(axis=1).tolist()
    assert [mistake.probability for mistake in found] == pytest.approx(P[wrong[:5]].max(axis=1).tolist())


def test_where_all_is_right_there_are_no_mistakes():
    assert worst_mistakes(np.eye(3) * 9, np.arange(3), 5) == []
