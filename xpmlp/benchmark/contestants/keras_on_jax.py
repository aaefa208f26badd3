"""Keras 3 on JAX: a Sequential and its fit."""

import os

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras

from xpmlp.benchmark.work import Contestant, Work, read_mnist

jax.config.update("jax_default_matmul_precision", "highest")  # true float32, as all others have


class Entry(Contestant):
    """Adam, or SGD with Nesterov's momentum; its rate is constant."""

    def __init__(self, work: Work, backend: str) -> None:
        self.work = work
        self.X, self.y, self.X_test, self.y_test = read_mnist(work)
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(width, activation="relu") for width in work.hidden]
        self.model = keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10)])
        if work.optimizer == "adam":
            optimizer = keras.optimizers.Adam(work.learning_rate)
        else:
            optimizer = keras.optimizers.SGD(work.learning_rate, momentum=0.9, nesterov=True)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=True)

    def epoch(self) -> None:
        """Train on every image once."""
        self.model.fit(self.X, self.y, batch_size=self.work.batch_size, epochs=1, shuffle=True, verbose=0)

    def test_accuracy(self) -> float:
        """Return the accuracy over the test images."""
        return float(self.model.evaluate(self.X_test, self.y_test, batch_size=1000, verbose=0)[1])

    def describe(self) -> dict[str, str]:
        """Return its version and precision."""
        products = f"float32 at {jax.config.jax_default_matmul_precision!r}"
        return {"library": "keras", "version": f"{keras.__version__} on jax {jax.__version__}", "products": products}
