"""What a training step asks of a CUDA device, counted on the emulated one: no copy, no wait, and so many launches."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from tests.conftest import make_dataset
from xpmlp import Callback, MLPClassifier, MLPRegressor, train
from xpmlp.estimators.epochs import Epochs

pytestmark = [pytest.mark.needs("cupy", module="cuda_on_cpu")]

SMALL = {"hidden": (16, 8), "epochs": 1, "batch_size": 50, "val_size": 0}
"""Of 400 images: 8 steps; the number of launches does not depend on the sizes."""


@pytest.fixture(autouse=True)
def pool():
    """Allocate from CuPy's pool, which launches nothing."""
    import cupy

    with cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc):
        yield


def between(counts):
    """Return what each step has asked for, the first few left out, in which kernels are compiled."""
    from cuda_on_cpu.control import Counts

    steps = [Counts(*later) - Counts(*earlier) for earlier, later in pairwise(counts[3:])]
    assert len(steps) >= 3
    assert len(set(steps)) == 1, "each step asks for the same"
    return {name: n for name, n in steps[0]._asdict().items() if n}


class Counting(Callback):
    def __init__(self):
        self.counts = []

    def on_step(self, step):
        from cuda_on_cpu.control import count

        self.counts.append(count())


@pytest.mark.parametrize(
    ("settings", "kernels", "products"),
    [
        ({"optimizer": "sgd"}, 14, 8),
        ({"optimizer": "adam"}, 14, 8),
        ({"optimizer": "adamw"}, 15, 8),
        ({"center": 0.1}, 18, 8),
        ({"deform": 1.0}, 14, 9),
        ({"dropout": 0.2}, 17, 8),
    ],
    ids=str,
)
def test_of_training_on_resident_images(find_backend, settings, kernels, products):
    counting = Counting()
    train(make_dataset(400), backend=find_backend("cupy"), callbacks=[counting], **SMALL, **settings)
    assert between(counting.counts) == {"kernels": kernels, "library_calls": products}


def test_of_training_on_streamed_images_gathers_nothing(find_backend):
    counting = Counting()
    train(make_dataset(400), backend=find_backend("cupy"), callbacks=[counting], transfer="stream", **SMALL)
    steps = [later - earlier for earlier, later in pairwise(counting.counts[3:])]
    assert {(step.kernels, step.library_calls) for step in steps} == {(12, 8)}  # the loader's thread copies meanwhile
    copied = counting.counts[-1].bytes_to_device - counting.counts[0].bytes_to_device
    assert 0 < copied <= 400 * (20 + 4), "images and labels, each once"


@pytest.mark.parametrize(
    ("kind", "n_classes", "most"), [(MLPClassifier, 4, 41), (MLPClassifier, 2, 65), (MLPRegressor, 4, 38)]
)
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_of_an_estimator(find_backend, monkeypatch, kind, n_classes, most, solver):
    from cuda_on_cpu.control import count

    counts, scalars = [], Epochs.scalars

    def counted(self, step):
        counts.append(count())
        return scalars(self, step)

    monkeypatch.setattr(Epochs, "scalars", counted)
    rng = np.random.default_rng(0)
    X, y = rng.random((400, 20)), rng.integers(0, n_classes, 400)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        kind(hidden_layer_sizes=(16, 8), batch_size=50, max_iter=1, solver=solver, backend="cupy").fit(X, y)
    found = between(counts)
    assert found.pop("kernels") <= most
    assert found == {"library_calls": 8}
