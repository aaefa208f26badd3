"""scikit-learn's MLPClassifier, an epoch a call of partial_fit."""

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier

from xpmlp.benchmark.work import Contestant, Work, read_mnist


class Entry(Contestant):
    """Adam, or SGD with Nesterov's momentum; its rate is constant within an epoch."""

    def __init__(self, work: Work, backend: str) -> None:
        self.work = work
        self.X, self.y, self.X_test, self.y_test = read_mnist(work)
        self.model = MLPClassifier(
            work.hidden,
            solver=work.optimizer,
            batch_size=work.batch_size,
            learning_rate_init=work.learning_rate if work.optimizer == "adam" else 0.1,
            alpha=0.0,
            random_state=0,
        )

    def epoch(self) -> None:
        """Train on every image once."""
        self.model.partial_fit(self.X, self.y, classes=np.arange(10))

    def test_accuracy(self) -> float:
        """Return the accuracy over the test images."""
        return float(self.model.score(self.X_test, self.y_test))

    def describe(self) -> dict[str, str]:
        """Return its version."""
        return {"library": "scikit-learn", "version": sklearn.__version__, "products": "float32"}
