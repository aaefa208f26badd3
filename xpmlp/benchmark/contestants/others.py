"""Contestants of a few lines: the step's products alone, scikit-learn, Keras 3 on JAX, and Thinc."""

import itertools
import os

import numpy as np

from xpmlp.benchmark.work import UNTIL_EXIT, Contestant, Work, read_mnist


def enter(work: Work, name: str) -> Contestant:
    """Return the one of that name, whose library alone is imported."""
    return {"floor": _floor, "scikit-learn": _scikit_learn, "keras": _keras, "thinc": _thinc}[name](work)


def _floor(work: Work) -> Contestant:
    """Return a step's eight matrix products, the least that any way through NumPy's BLAS takes; they learn nothing."""
    from xpmlp.backends import get_backend
    from xpmlp.training.threads import tuned_threads

    rng = np.random.default_rng(0)
    A = [rng.standard_normal((work.batch_size, width), dtype=np.float32) for width in work.sizes]
    W = [rng.standard_normal(shape, dtype=np.float32) for shape in itertools.pairwise(work.sizes)]
    out, dW = [np.empty_like(array) for array in A], [np.empty_like(array) for array in W]

    def step() -> None:
        for k in range(len(W)):
            np.matmul(A[k], W[k], out=out[k + 1])
        for k in reversed(range(len(W))):
            np.matmul(A[k].T, A[k + 1], out=dW[k])
            if k:
                np.matmul(A[k + 1], W[k].T, out=out[k])

    backend = get_backend("numpy")
    timed = UNTIL_EXIT.enter_context(tuned_threads(backend)).watched(step)

    def epoch() -> None:
        for _ in range(work.steps_per_epoch):
            timed()

    return Contestant(epoch, lambda: float("nan"), {"library": "numpy", **backend.describe()})


def _scikit_learn(work: Work) -> Contestant:
    """Return an MLPClassifier, an epoch a call of partial_fit; SGD's rate is constant within an epoch."""
    import sklearn
    from sklearn.neural_network import MLPClassifier

    X, y, X_test, y_test = read_mnist(work)
    rate = work.learning_rate if work.optimizer == "adam" else 0.1
    settings = {"solver": work.optimizer, "learning_rate_init": rate, "batch_size": work.batch_size, "alpha": 0.0}
    model = MLPClassifier(work.hidden, random_state=0, momentum=work.momentum, **settings)
    return Contestant(
        lambda: model.partial_fit(X, y, classes=np.arange(10)),
        lambda: float(model.score(X_test, y_test)),
        {"library": "scikit-learn", "version": sklearn.__version__, "products": "float32"},
    )


def _keras(work: Work) -> Contestant:
    """Return a Sequential and its fit, with Adam, or SGD with Nesterov's momentum; its rate is constant."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import keras

    jax.config.update("jax_default_matmul_precision", "highest")  # true float32, as all others have
    X, y, X_test, y_test = read_mnist(work)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(width, activation="relu") for width in work.hidden]
    model = keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10)])
    if work.optimizer == "adam":
        optimizer = keras.optimizers.Adam(work.learning_rate)
    else:
        optimizer = keras.optimizers.SGD(work.learning_rate, momentum=work.momentum, nesterov=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=True)
    products = f"float32 at {jax.config.jax_default_matmul_precision!r}"
    return Contestant(
        lambda: model.fit(X, y, batch_size=work.batch_size, epochs=1, shuffle=True, verbose=0),
        lambda: float(model.evaluate(X_test, y_test, batch_size=1000, verbose=0)[1]),
        {"library": "keras", "version": f"{keras.__version__} on jax {jax.__version__}", "products": products},
    )


def _thinc(work: Work) -> Contestant:
    """Return a chain of layers, updated by hand by its Adam, for either optimizer: it has no Nesterov."""
    import thinc
    from thinc.api import Adam, Relu, Softmax, chain, get_current_ops, to_categorical

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
