"""
A curve, and what each activation makes of it
=============================================

One hidden layer of 32 units is fitted to 200 noisy points of a sine, once with each activation. Smooth activations give
smooth curves; ReLU gives straight pieces.
"""

import matplotlib.pyplot as plt
import numpy as np

from xpmlp import MLPRegressor

rng = np.random.default_rng(0)
x = np.sort(rng.uniform(-3, 3, 200))[:, None]
y = np.sin(2 * x[:, 0]) + rng.normal(0, 0.15, 200)
grid = np.linspace(-3.5, 3.5, 300)[:, None]

figure, axes = plt.subplots(2, 2, figsize=(8, 5), sharex=True, sharey=True, layout="constrained")
for ax, activation in zip(axes.flat, ["relu", "tanh", "silu", "elu"], strict=True):
    model = MLPRegressor(hidden_layer_sizes=(32,), activation=activation, solver="lbfgs", max_iter=2000, random_state=0)
    model.fit(x, y)
    ax.plot(x[:, 0], y, ".", color="0.75")
    ax.plot(grid[:, 0], model.predict(grid), color="C0")
    ax.set_title(f"{activation}, R² {model.score(x, y):.3f}")
plt.show()
