"""
How sure is a network?
======================

Twenty networks that differ only in their seed are trained together, as one stack of arrays. They agree where there are
data. Between and beyond the data they disagree, and their spread shows it.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_moons

from xpmlp import MLPClassifier, MLPEnsemble

X, y = make_moons(200, noise=0.15, random_state=0)
network = MLPClassifier((32, 32), max_iter=300)
ensemble = MLPEnsemble(network, n_estimators=20, random_state=0).fit(X, y)

u, v = np.meshgrid(np.linspace(-3, 4, 140), np.linspace(-3, 3.5, 130))
plane = np.column_stack([u.ravel(), v.ravel()])
mean, spread = ensemble.predict_proba(plane)[:, 1], ensemble.spread(plane)[:, 1]

figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for ax, values, title in zip(axes, (mean, spread), ("mean probability", "spread over the networks"), strict=True):
    shown = ax.contourf(u, v, values.reshape(u.shape), 20, cmap="RdBu_r" if title[0] == "m" else "viridis")
    figure.colorbar(shown, ax=ax)
    ax.scatter(*X.T, c=y, cmap="RdBu_r", edgecolors="k", linewidths=0.4, s=14)
    ax.set_title(title)
plt.show()
