"""scikit-learn's MLPClassifier, an epoch a call of partial_fit."""

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier

from xpmlp.benchmark.work import Contestant, Work, read_mnist


def enter(work: Work, name: str) -> Contestant:
    """Return Adam, or SGD with Nesterov's momentum; its rate is constant within an epoch."""
    X, y, X_test, y_test = read_mnist(work)
    rate = work.learning_rate if work.optimizer == "adam" else 0.1
    settings = {"solver": work.optimizer, "learning_rate_init": rate, "batch_size": work.batch_size, "alpha": 0.0}
    model = MLPClassifier(work.hidden, random_state=0, **settings)
    return Contestant(
        lambda: model.partial_fit(X, y, classes=np.arange(10)),
        lambda: float(model.score(X_test, y_test)),
        {"library": "scikit-learn", "version": sklearn.__version__, "products": "float32"},
    )
