"""Keras 3 on JAX: a Sequential and its fit."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras

from xpmlp.benchmark.work import Contestant, Work, read_mnist

jax.config.update("jax_default_matmul_precision", "highest")  # true float32, as all others have


def enter(work: Work, name: str) -> Contestant:
    """Return Adam, or SGD with Nesterov's momentum; its rate is constant."""
    X, y, X_test, y_test = read_mnist(work)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(width, activation="relu") for width in work.hidden]
    model = keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10)])
    if work.optimizer == "adam":
        optimizer = keras.optimizers.Adam(work.learning_rate)
    else:
        optimizer = keras.optimizers.SGD(work.learning_rate, momentum=0.9, nesterov=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=True)
    products = f"float32 at {jax.config.jax_default_matmul_precision!r}"
    return Contestant(
        lambda: model.fit(X, y, batch_size=work.batch_size, epochs=1, shuffle=True, verbose=0),
        lambda: float(model.evaluate(X_test, y_test, batch_size=1000, verbose=0)[1]),
        {"library": "keras", "version": f"{keras.__version__} on jax {jax.__version__}", "products": products},
    )
