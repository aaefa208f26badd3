"""The loop: which runs of steps a backend is handed, and where they end."""

import pytest

from xpmlp import MLPClassifier, TrainConfig
from xpmlp.backends._numpy import NumpyBackend
from xpmlp.training.records import Callback
from xpmlp.training.run import train_network as train

CONFIG = TrainConfig(hidden=(6,), epochs=2, batch_size=20, val_size=0)
"""Of 240 images: 12 steps an epoch."""


@pytest.fixture
def runs(monkeypatch):
    """Return a list that grows by the number of steps of each run that a backend is handed."""
    lengths = []

    def repeat(self, step, carry, inputs):
        lengths.append(0)
        for each in inputs:
            lengths[-1] += 1
            carry = step(*carry, *each)
        return carry

    monkeypatch.setattr(NumpyBackend, "repeat", repeat)
    return lengths


def test_a_run_is_an_epoch_where_nothing_is_due_before(runs, tiny):
    train(CONFIG, tiny, NumpyBackend())
    assert runs == [12, 12]


def test_a_run_ends_where_a_checkpoint_is_due(runs, tiny):
    train(CONFIG, tiny, NumpyBackend(), checkpoint_steps=5)
    assert runs == [5, 5, 2, 3, 5, 4]  # the steps 5, 10, 15 and 20, and the epochs' ends


def test_a_callback_learns_of_every_step(runs, tiny):
    seen = []

    class Steps(Callback):
        def on_step(self, step):
            seen.append(step)

    train(CONFIG, tiny, NumpyBackend(), [Steps()])
    assert runs == [1] * 24
    assert seen == list(range(1, 25))


@pytest.mark.parametrize("last", [1, 7, 12, 24])
def test_a_wish_to_stop_ends_a_run_after_the_step(runs, tiny, last):
    asked = []

    def should_stop():
        asked.append(None)
        return len(asked) == last

    _, history = train(CONFIG, tiny, NumpyBackend(), should_stop=should_stop)
    assert sum(runs) == last == len(asked), "it is asked once a step"
    assert not history.is_complete
    assert len(history.epochs) == (last - 1) // 12


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_estimators_train_by_the_same_loop(runs, tiny):
    X = tiny.images.reshape(len(tiny), -1) / 255
    MLPClassifier((6,), batch_size=20, max_iter=3).fit(X, tiny.labels)
    assert runs == [12] * 3
