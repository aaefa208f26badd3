"""Thinc: a chain of layers, updated by hand."""

import numpy as np
import thinc
from thinc.api import Adam, Relu, Softmax, chain, get_current_ops, to_categorical

from xpmlp.benchmark.work import Contestant, Work, read_mnist


class Entry(Contestant):
    """Its Adam, for either optimizer: it has no Nesterov."""

    def __init__(self, work: Work, backend: str) -> None:
        self.work = work
        self.X, self.y, self.X_test, self.y_test = read_mnist(work)
        self.T = to_categorical(self.y.astype("i"), n_classes=10)
        self.model = chain(*(Relu(width) for width in work.hidden), Softmax(10))
        self.model.initialize(X=self.X[:128], Y=self.T[:128])
        self.optimizer = Adam(work.learning_rate if work.optimizer == "adam" else 0.001, use_averages=False)

    def epoch(self) -> None:
        """Train on every image once."""
        for X, T in get_current_ops().multibatch(self.work.batch_size, self.X, self.T, shuffle=True):
            P, backpropagate = self.model.begin_update(X)
            backpropagate((P - T) / len(T))
            self.model.finish_update(self.optimizer)

    def test_accuracy(self) -> float:
        """Return the accuracy over the test images."""
        return float(np.mean(self.model.predict(self.X_test).argmax(axis=1) == self.y_test))

    def describe(self) -> dict[str, str]:
        """Return its version."""
        return {"library": "thinc", "version": thinc.__version__, "products": "float32"}
