"""Thinc: a chain of layers, updated by hand."""

import numpy as np
import thinc
from thinc.api import Adam, Relu, Softmax, chain, get_current_ops, to_categorical

from xpmlp.benchmark.work import Contestant, Work, read_mnist


def enter(work: Work, name: str) -> Contestant:
    """Return its Adam, for either optimizer: it has no Nesterov."""
    X, y, X_test, y_test = read_mnist(work)
    T = to_categorical(y.astype("i"), n_classes=10)
    model = chain(*(Relu(width) for width in work.hidden), Softmax(10))
    model.initialize(X=X[:128], Y=T[:128])
    optimizer = Adam(work.learning_rate if work.optimizer == "adam" else 0.001, use_averages=False)

    def epoch() -> None:
        for X_batch, T_batch in get_current_ops().multibatch(work.batch_size, X, T, shuffle=True):
            P, backpropagate = model.begin_update(X_batch)
            backpropagate((P - T_batch) / len(T_batch))
            model.finish_update(optimizer)

    return Contestant(
        epoch,
        lambda: float(np.mean(model.predict(X_test).argmax(axis=1) == y_test)),
        {"library": "thinc", "version": thinc.__version__, "products": "float32"},
    )
