"""Metrics of a classifier's outputs; on the host, in float64."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xpmlp.math.activations import log_softmax, softmax
from xpmlp.math.network import score as score_logits

BINS = 15  # of the calibration error, as in Guo et al.


class Mistake(NamedTuple):
    """An image that was assigned to a wrong class."""

    image: int  # its index in the data set
    label: int
    prediction: int
    probability: float  # the probability of the prediction


def score(S: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Return loss, accuracy, calibration error, each class's precision, recall and F1, and the confusion of logits S.

    The result fits JSON. A metric that is 0 / 0, such as the recall of a class without images, is None.
    """
    S = S.astype(np.float64)
    n_classes = len(class_names)
    P, labels = softmax(S), labels.astype(np.int64)
    predictions = P.argmax(axis=1)
    confusion = np.bincount(labels * n_classes + predictions, minlength=n_classes**2).reshape(n_classes, n_classes)
    hits, support, taken = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    classes = []
    for k, name in enumerate(class_names):
        precision, recall = _ratio(hits[k], taken[k]), _ratio(hits[k], support[k])
        figures = {"precision": precision, "recall": recall, "f1": _ratio(2 * hits[k], taken[k] + support[k])}
        classes.append({"class": name, "images": int(support[k]), **figures})
    return {
        "images": len(labels),
        "loss": float(score_logits(S, labels)[1]),
        "accuracy": float(hits.sum() / len(labels)),
        "calibration_error": calibration_error(P, labels),
        "classes": classes,
        "confusion": confusion.tolist(),
    }


def vote(logits: Sequence[np.ndarray]) -> np.ndarray:
    """Return logits, (n, classes) of float64, whose softmax is the mean of several networks' probabilities."""
    S: np.ndarray = np.logaddexp.reduce([log_softmax(S.astype(np.float64)) for S in logits])
    S -= np.log(len(logits))
    return S


def calibration_error(P: np.ndarray, labels: np.ndarray) -> float:
    """Return the difference between the predictions' probability and their accuracy.

    This is the expected calibration error of Guo, Pleiss, Sun & Weinberger 2017, "On Calibration of Modern Neural
    Networks", eq. 3. The greatest probabilities are split into 15 equal intervals. In each, the difference is the mean
    probability minus the accuracy. The result is the mean of the absolute differences, weighted by the intervals'
    images.
    """
    confidence, right = P.max(axis=1), P.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # (0, 1/15], (1/15, 2/15], …
    gaps = np.bincount(bins, weights=confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def worst_mistakes(S: np.ndarray, labels: np.ndarray, count: int) -> list[Mistake]:
    """Return at most so many mistakes: those with the greatest probability, greatest first."""
    P = softmax(S.astype(np.float64))
    predictions, confidence = P.argmax(axis=1), P.max(axis=1)
    wrong = np.flatnonzero(predictions != labels)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    return [Mistake(int(i), int(labels[i]), int(predictions[i]), float(confidence[i])) for i in order]


def _ratio(part: np.integer[Any], whole: np.integer[Any]) -> float | None:
    return float(part / whole) if whole else None
