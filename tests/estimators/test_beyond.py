"""What the estimators have that scikit-learn's do not: each parameter against an oracle, and on every library."""

import itertools
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT, SPECS
from tests.estimators.test_estimators import TARGETS, X, arrays, outputs, pair
from xpmlp.backends import backend_of
from xpmlp.benchmark.checking import relative_error
from xpmlp.data.dropout import Dropout
from xpmlp.errors import BackendError
from xpmlp.kernels import kernels
from xpmlp.math.activations import ACTIVATIONS
from xpmlp.math.layout import Layout
from xpmlp.math.network import backward, forward, score

pytest.importorskip("sklearn", minversion="1.7")

import sklearn.neural_network as theirs
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import train_test_split
from sklearn.utils.class_weight import compute_sample_weight

from xpmlp import MLPClassifier, MLPRegressor, get_backend
from xpmlp.estimators.epochs import EpochFigures

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = {"classifier": "four classes", "regressor": "several values", "several labels": "several labels"}
"""Of estimators, with the target of each."""

HELD_OUT = slice(200, 240)
"""What is validated on, of 240 samples."""

WISHES = {
    "class_weight": {"class_weight": "balanced"},
    "dropout": {"dropout": 0.25},
    "a list of activations": {"activation": ["tanh", "softplus"]},
    **{name: {"activation": name} for name in ("leaky_relu", "elu", "gelu", "silu", "softplus")},
    "absolute error": {"loss": "absolute_error"},
    "huber": {"loss": "huber", "huber_delta": 0.3},
    "callbacks": {"callbacks": [lambda figures: figures.epoch == 4]},
    "validation data": {"validation_data": True},
    "early stopping by validation data": {"validation_data": True, "early_stopping": True},
    "adamw": {"solver": "adamw", "alpha": 0.1},
    "one-cycle": {"learning_rate": "one-cycle", "learning_rate_init": 0.01},
    "cosine": {"learning_rate": "cosine", "solver": "sgd", "learning_rate_init": 0.05},
    "a batch without weight": {"sample_weight": np.repeat([0.0, 2.0, 0.0, 1.0], [80, 40, 60, 60])},
}
"""What an estimator is given beside what scikit-learn's has."""


def made(kind, wish, **others):
    """Return an estimator of a kind with what a wish gives it, and what `fit` is given beside X and y; or skip."""
    settings = {**WISHES[wish], **others} if isinstance(wish, str) else {**wish, **others}
    if "loss" in settings and kind != "regressor":
        settings.pop("loss"), settings.pop("huber_delta", None)
        if not settings:
            return None
    if "class_weight" in settings and kind == "regressor":
        return None
    keywords = {name: settings.pop(name) for name in ("validation_data", "sample_weight") if name in settings}
    if "validation_data" in keywords:
        keywords["validation_data"] = X[HELD_OUT], TARGETS[KINDS[kind]][HELD_OUT]
    family = MLPRegressor if kind == "regressor" else MLPClassifier
    usual = {"hidden_layer_sizes": (9, 5), "max_iter": 8, "random_state": 1, "batch_size": 50}
    return family(**{**usual, **settings}), keywords


CASES = [(kind, wish) for kind in KINDS for wish in WISHES if made(kind, wish) and not (
    kind != "regressor" and wish in ("absolute error", "huber"))]  # fmt: skip


def moved(keywords, move):
    """Return what `fit` is given, each array moved."""
    return {
        name: tuple(map(move, value)) if isinstance(value, tuple) else move(value) for name, value in keywords.items()
    }


@pytest.mark.parametrize("backend", [spec for spec in SPECS if spec != "numpy"], indirect=True)
@pytest.mark.parametrize(("kind", "wish"), CASES)
def test_every_library_learns_what_numpy_does(backend, kind, wish):
    estimator, keywords = made(kind, wish)
    y = TARGETS[KINDS[kind]]
    expected, ours = estimator.fit(X, y, **keywords), clone(estimator)
    ours.fit(backend.asarray(X), backend.asarray(y), **moved(keywords, backend.asarray))
    assert ours.n_iter_ == expected.n_iter_
    for found, array in zip(arrays(ours), arrays(expected), strict=True):
        assert str(backend_of(found)) == str(backend)
        assert relative_error(backend.to_numpy(found), array) < 1e-8
    found = backend.to_numpy(outputs(ours, backend.asarray(X)))
    assert relative_error(found, outputs(expected, X)) < 1e-8
    hidden = [backend.to_numpy(A) for A in ours.hidden_activations(backend.asarray(X))]
    for found, A in zip(hidden, expected.hidden_activations(X), strict=True):
        assert relative_error(found, A) < 1e-8
    if "validation_data" in keywords:
        assert ours.validation_loss_curve_ == pytest.approx(expected.validation_loss_curve_, rel=1e-8)


@pytest.mark.parametrize(("kind", "pair"), [
    (kind, pair) for kind in KINDS for pair in itertools.combinations(
        ["class_weight", "dropout", "a list of activations", "huber", "callbacks", "validation data", "adamw",
         "one-cycle", "a batch without weight"], 2)
    if all((kind, wish) in CASES for wish in pair)])  # fmt: skip
def test_pairs_go_together(kind, pair):
    """Plain lines and recorded steps agree, and each of the two does something beside the other."""
    one, other = pair
    y = TARGETS[KINDS[kind]]

    def fitted(*wishes):
        estimator, keywords = made(kind, {name: value for wish in wishes for name, value in WISHES[wish].items()})
        return estimator.fit(X, y, **keywords)

    both = fitted(one, other)
    with kernels("plain"):
        plain = fitted(one, other)
    assert relative_error(both.coefs_[0], plain.coefs_[0]) < 1e-9
    for alone in (fitted(one), fitted(other)):
        assert both.coefs_[0].shape == alone.coefs_[0].shape
        assert not np.array_equal(both.coefs_[0], alone.coefs_[0]) or {"callbacks", "validation data"} & set(pair)
        if "validation data" in pair:
            assert both.validation_loss_curve_


class TestClassWeight:
    @pytest.mark.parametrize("target", ["two classes", "four classes", "strings", "several labels"])
    @pytest.mark.parametrize("solver", ["adam", "lbfgs"])
    @pytest.mark.parametrize("is_weighted", [False, True])
    def test_is_that_of_each_sample(self, target, solver, is_weighted):
        """scikit-learn's own estimator, given the weights that its `compute_sample_weight` makes."""
        y = TARGETS[target]
        weights = np.random.default_rng(0).random(240) if is_weighted else None
        rare = [{0: 1.0, 1: 3.0}, {0: 0.5, 1: 1.0}, {1: 2.0}]
        names = np.unique(y).tolist() if y.ndim == 1 else []
        for given in ("balanced", rare if y.ndim == 2 else {name: k + 1.0 for k, name in enumerate(names)}):
            expected, ours = pair(target, solver=solver)
            w = compute_sample_weight(given, y) * (1 if weights is None else weights)
            expected.fit(X, y, w)
            ours.set_params(class_weight=given).fit(X, y, weights)
            assert relative_error(ours.coefs_[0], expected.coefs_[0]) < 1e-8
            if solver == "adam" and target != "strings":
                expected, ours = pair(target)
                classes = range(3) if target == "several labels" else np.unique(y)
                for part in (slice(0, 100), slice(100, 240)):
                    w = compute_sample_weight(given, y[part])
                    expected.partial_fit(X[part], y[part], w, classes=classes)
                    ours.set_params(class_weight=given).partial_fit(X[part], y[part], classes=classes)
                assert relative_error(ours.coefs_[0], expected.coefs_[0]) < 1e-8

    def test_balanced_is_over_the_classes_of_a_call(self):
        y = TARGETS["four classes"]
        few = y < 3
        expected, ours = pair("four classes", alpha=10.0)  # whose share depends on the weights' sum
        expected.partial_fit(X[few], y[few], compute_sample_weight("balanced", y[few]), classes=range(4))
        ours.set_params(class_weight="balanced").partial_fit(X[few], y[few], classes=range(4))
        assert relative_error(ours.coefs_[0], expected.coefs_[0]) < 1e-8

    def test_of_one_class_alone(self):
        y = np.zeros(240, int)
        expected = MLPClassifier((4,), max_iter=2, random_state=0).fit(X, y, np.full(240, 3.0))
        found = MLPClassifier((4,), max_iter=2, random_state=0, class_weight={0: 3.0}).fit(X, y)
        assert np.array_equal(found.coefs_[0], expected.coefs_[0])

    @pytest.mark.parametrize(
        ("target", "given", "problem"),
        [
            ("two classes", {0: 1.0, 7: 2.0}, "class_weight has a weight for class 7: the classes are [0, 1]"),
            ("two classes", {0: 1.0, 1: 1.0, 7: 2.0}, "class_weight has a weight for class 7: the classes are [0, 1]"),
            (
                "strings",
                {"no": 1.0, "never": 2.0},
                "class_weight has a weight for class 'never': the classes are ['no', 'perhaps', 'yes']",
            ),
            (
                "two classes",
                {0: 1.0, 1: float("nan")},
                "class_weight[1] is nan: expected a finite number of at least 0",
            ),
            ("two classes", {0: -1.0, 1: 1.0}, "class_weight[0] is -1.0: expected a finite number of at least 0"),
            ("two classes", {0: "1", 1: 1.0}, "class_weight[0] is '1': expected a finite number of at least 0"),
            ("two classes", [{0: 1.0, 1: 1.0}], "class_weight is a list, which is for several labels"),
            ("several labels", [1, 2, 3], "class_weight[0] is 1: expected a dict"),
            ("two classes", {0: 0.0, 1: 0.0}, "Sample weights must contain at least one non-zero number."),
            ("several labels", {0: 1.0}, "For multi-output, class_weight should be a list of dicts"),
            ("several labels", [{0: 1.0}], "number of elements in class_weight should match number of outputs. Got 1"),
            ("two classes", "even", "The 'class_weight' parameter of MLPClassifier must be"),
        ],
    )
    def test_what_is_refused(self, target, given, problem):
        with pytest.raises(ValueError, match=re.escape(problem)):
            MLPClassifier(class_weight=given).fit(X, TARGETS[target])


class TestDropout:
    def test_a_step_is_one_with_masks(self):
        """One step of gradient descent, from the same draws of the same generator."""
        y = TARGETS["four classes"]
        ours = MLPClassifier((9, 5), solver="sgd", momentum=0, alpha=0, learning_rate_init=0.1, batch_size=240,
                             random_state=3, activation="tanh", dropout=0.4)  # fmt: skip
        ours.partial_fit(X, y, classes=range(4))
        rng, layout = np.random.RandomState(3), Layout((6, 9, 5, 4))
        layers = []
        for fan_in, fan_out in layout.shapes:
            bound = np.sqrt(6 / (fan_in + fan_out))
            W = rng.uniform(-bound, bound, (fan_in, fan_out))
            layers.append((W, rng.uniform(-bound, bound, (1, fan_out))))
        order = np.arange(240)
        rng.shuffle(order)
        dropout = Dropout(0.4, (9, 5), 240, get_backend("numpy"))
        drawn = next(dropout.epoch(rng.randint(2**31 - 1)))
        masks = dropout.masks(layers[0][0], 240, drawn)
        assert 0.3 < np.mean(masks[0] == 0) < 0.5
        S, trail = forward(layers, X[order], "tanh", masks)
        gradients = backward(layers, trail, score(S, y[order])[0], "tanh", masks)
        for found, (W, _), (dW, _) in zip(ours.coefs_, layers, gradients, strict=True):
            np.testing.assert_allclose(found, W - 0.1 * dW, rtol=1e-10)

    def test_predictions_leave_nothing_out(self):
        ours = MLPRegressor(hidden_layer_sizes=(9,), dropout=0.5, max_iter=3, random_state=0).fit(X, X[:, 0])
        (W1, W2), (b1, b2) = ours.coefs_, ours.intercepts_
        np.testing.assert_allclose(ours.predict(X), (np.maximum(X @ W1 + b1, 0) @ W2 + b2)[:, 0], rtol=1e-12)

    def test_each_call_of_partial_fit_draws_others(self):
        seen = []
        for calls in (2, 3):  # the first draws the parameters too
            ours = MLPClassifier((9,), dropout=0.5, random_state=0, learning_rate_init=1e-9, batch_size=240, alpha=0)
            for _ in range(calls):
                ours.partial_fit(X, TARGETS["two classes"], classes=[0, 1])
            seen.append(ours.loss_)
        assert seen[0] != pytest.approx(seen[1], rel=1e-6)

    def test_of_a_network_without_hidden_layers_is_none(self):
        with_it, without = (MLPClassifier((), dropout=rate, max_iter=3, random_state=0).fit(X, TARGETS["two classes"])
                            for rate in (0.5, 0))  # fmt: skip
        assert np.array_equal(with_it.coefs_[0], without.coefs_[0])

    @pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5])
    def test_refuses_what_is_no_part(self, rate):
        with pytest.raises(ValueError, match=r"The 'dropout' parameter of MLPClassifier must be a float in the range"):
            MLPClassifier(dropout=rate).fit(X, TARGETS["two classes"])


class TestActivations:
    def test_one_for_each_layer(self):
        ours = MLPRegressor(hidden_layer_sizes=(9, 5), activation=["tanh", "softplus"], max_iter=3, random_state=0).fit(
            X, X[:, 0]
        )
        (W1, W2, W3), (b1, b2, b3) = ours.coefs_, ours.intercepts_
        expected = np.log1p(np.exp(np.tanh(X @ W1 + b1) @ W2 + b2)) @ W3 + b3
        np.testing.assert_allclose(ours.predict(X), expected[:, 0], rtol=1e-12)

    @pytest.mark.parametrize("name", ACTIVATIONS)
    @pytest.mark.parametrize("solver", ["adam", "lbfgs"])
    def test_one_for_all_is_a_list_of_the_same(self, name, solver):
        one, several = (MLPClassifier((9, 5), activation=names, solver=solver, max_iter=3, random_state=0).fit(
            X, TARGETS["four classes"]) for names in (name, [name, name]))  # fmt: skip
        assert np.array_equal(one.coefs_[0], several.coefs_[0])
        assert solver == "lbfgs" or one.loss_ < one.loss_curve_[0]

    @pytest.mark.parametrize(
        ("names", "problem"),
        [
            (
                ["relu"],
                "activation has 1 names, hidden_layer_sizes 2: expected one name for all layers, or a list with",
            ),
            (["relu", "swish"], "activation[1] is 'swish': expected relu, identity, logistic, tanh"),
            ("swish", "The 'activation' parameter of MLPClassifier must be a str among"),
        ],
    )
    def test_what_is_refused(self, names, problem):
        with pytest.raises(ValueError, match=re.escape(problem)):
            MLPClassifier((9, 5), activation=names).fit(X, TARGETS["two classes"])


@pytest.mark.needs("torch")
class TestAsPyTorchTrains:
    """Batches in the samples' order, without shuffling, from the parameters that ours begins with."""

    def trained(self, ours, y, loss, optimizer, schedule=None, epochs=3, f="relu"):
        """Return our parameters after some epochs, and those of PyTorch's own steps."""
        import torch

        ours.set_params(hidden_layer_sizes=(9, 5), max_iter=epochs, shuffle=False, batch_size=50, random_state=0)
        drawn = clone(ours).set_params(max_iter=1, learning_rate_init=1e-300, alpha=0.0).fit(X, y)
        layers = [(torch.tensor(W, requires_grad=True), torch.tensor(b, requires_grad=True))
                  for W, b in zip(drawn.coefs_, drawn.intercepts_, strict=True)]  # fmt: skip
        optimizer = optimizer([W for W, _ in layers], [b for _, b in layers])
        steps = 0
        for _ in range(epochs):
            for first in range(0, 240, 50):
                A = torch.tensor(X[first : first + 50])
                for k, (W, b) in enumerate(layers):
                    A = A @ W + b
                    A = getattr(torch.nn.functional, f)(A) if k < len(layers) - 1 else A
                steps += 1
                for group in optimizer.param_groups:
                    group["lr"] = schedule(steps) if schedule else group["lr"]
                optimizer.zero_grad()
                loss(A, torch.tensor(y[first : first + 50])).backward()
                optimizer.step()
        ours.fit(X, y)
        for found, (W, _) in zip(ours.coefs_, layers, strict=True):
            assert relative_error(found, W.detach().numpy()) < 1e-9
        for found, (_, b) in zip(ours.intercepts_, layers, strict=True):
            assert relative_error(found, b.detach().numpy()) < 1e-9

    def sgd(self, rate):
        import torch

        return lambda weights, biases: torch.optim.SGD([*weights, *biases], lr=rate)

    @pytest.mark.parametrize(
        ("name", "settings", "kind", "options"),
        [("absolute_error", {}, "L1Loss", {}), ("huber", {"huber_delta": 0.7}, "HuberLoss", {"delta": 0.7})],
    )
    @pytest.mark.parametrize("target", ["values", "several values"])
    def test_with_losses_of_values(self, name, settings, kind, options, target):
        import torch

        ours = MLPRegressor(loss=name, solver="sgd", momentum=0, alpha=0, learning_rate_init=0.05, **settings)
        summed = getattr(torch.nn, kind)(reduction="sum", **options)
        self.trained(ours, TARGETS[target], lambda P, T: summed(P, T.reshape(P.shape)) / len(T), self.sgd(0.05))

    @pytest.mark.parametrize("alpha", [0.0, 0.3])
    def test_with_adamw_that_decays_weights_alone(self, alpha):
        import torch

        def optimizer(weights, biases):
            groups = [{"params": weights, "weight_decay": alpha}, {"params": biases, "weight_decay": 0.0}]
            return torch.optim.AdamW(groups, lr=0.01)

        ours = MLPClassifier(solver="adamw", alpha=alpha, learning_rate_init=0.01)
        self.trained(ours, TARGETS["four classes"], torch.nn.functional.cross_entropy, optimizer)

    @pytest.mark.parametrize("name", ["cosine", "one-cycle"])
    @pytest.mark.parametrize("solver", ["sgd", "adam", "adamw"])
    def test_with_a_schedule(self, name, solver):
        import torch

        total, peak = 15, 0.02
        rates = {
            "cosine": lambda step: peak * (1 + np.cos(np.pi * (step - 1) / total)) / 2,
            "one-cycle": lambda step: peak * min(step / 1.5, (total + 1 - step) / (total - 0.5)),
        }
        kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        options = {"sgd": {}, "adam": {"eps": 1e-30}, "adamw": {"eps": 1e-30, "weight_decay": 0.0}}[solver]
        settings = {"learning_rate": name, "learning_rate_init": peak, "epsilon": 1e-30, "alpha": 0, "momentum": 0}

        def optimizer(weights, biases):
            return kinds[solver]([*weights, *biases], lr=peak, **options)

        y, loss = TARGETS["four classes"], torch.nn.functional.cross_entropy
        self.trained(MLPClassifier(solver=solver, **settings), y, loss, optimizer, rates[name])


class TestSchedules:
    @pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
    def test_go_to_their_end_whatever_the_loss(self):
        ours = MLPClassifier((4,), learning_rate="cosine", max_iter=30, tol=100.0, n_iter_no_change=2, random_state=0)
        assert ours.fit(X, TARGETS["two classes"]).n_iter_ == 30

    def test_partial_fit_has_no_end(self):
        with pytest.raises(
            ValueError, match="partial_fit does not support learning_rate='cosine': its end is not known"
        ):
            MLPClassifier(learning_rate="cosine").partial_fit(X, TARGETS["two classes"], classes=[0, 1])

    @pytest.mark.parametrize("name", ["cosine", "one-cycle"])
    def test_partial_fit_after_one_begins_at_a_constant_rate(self, name):
        y, seen = TARGETS["two classes"], []
        ours = MLPClassifier((4,), learning_rate=name, max_iter=5, random_state=0).fit(X, y)
        ours.set_params(learning_rate="constant", callbacks=seen.append)
        for _ in range(3):
            ours.partial_fit(X, y)
        assert [figures.learning_rate for figures in seen] == [0.001] * 3
        assert [figures.loss for figures in seen] == sorted([figures.loss for figures in seen], reverse=True)
        there = MLPClassifier((4,), solver="sgd", learning_rate=name, max_iter=5, random_state=0).fit(X, y)
        optimizer = there.set_params(learning_rate="constant").to_sklearn()._optimizer
        assert (optimizer.lr_schedule, optimizer.learning_rate) == ("constant", 0.001)

    def test_end_where_they_should_with_batches_left_out(self):
        seen, w = [], np.repeat([1.0, 0.0], [60, 180])
        settings = {"learning_rate": "cosine", "max_iter": 10, "batch_size": 20, "shuffle": False}
        MLPClassifier((4,), callbacks=seen.append, **settings).fit(X, TARGETS["two classes"], w)
        assert seen[-1].learning_rate < 1e-4

    @pytest.mark.parametrize(("settings", "keywords", "problem"), [
        ({"dropout": 0.5}, {}, "dropout"), ({"learning_rate": "one-cycle"}, {}, "learning_rate='one-cycle'"),
        ({}, {"validation_data": (X, X[:, 0])}, "validation_data")])  # fmt: skip
    def test_what_lbfgs_has_not(self, settings, keywords, problem):
        with pytest.raises(ValueError, match=f"{problem} with solver='lbfgs': expected a solver of sgd, adam, adamw"):
            MLPRegressor(solver="lbfgs", **settings).fit(X, X[:, 0], **keywords)


class TestCallbacks:
    @pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
    def test_get_each_epochs_figures(self, solver):
        seen = []
        ours = MLPClassifier(
            (9,), solver=solver, max_iter=5, learning_rate_init=0.01, callbacks=seen.append, random_state=0
        )
        ours.fit(X, TARGETS["four classes"])
        assert [type(figures) for figures in seen] == [EpochFigures] * 5
        assert [figures.epoch for figures in seen] == [1, 2, 3, 4, 5]
        assert all(figures.seconds > 0 for figures in seen)
        assert seen[-1].loss == pytest.approx(ours.loss_)
        assert {figures.learning_rate for figures in seen} == {None if solver == "lbfgs" else 0.01}
        assert {(figures.validation_loss, figures.validation_score) for figures in seen} == {(None, None)}

    def test_get_what_is_validated(self):
        seen = []
        ours = MLPClassifier((9,), max_iter=5, callbacks=[seen.append], early_stopping=True, random_state=0,
                             learning_rate="one-cycle", learning_rate_init=0.01)  # fmt: skip
        ours.fit(X, TARGETS["four classes"])
        assert [figures.loss for figures in seen] == ours.loss_curve_
        assert [figures.validation_loss for figures in seen] == ours.validation_loss_curve_
        assert [figures.validation_score for figures in seen] == ours.validation_scores_
        rates = [figures.learning_rate for figures in seen]
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] < 0.002

    @pytest.mark.parametrize("solver", ["adam", "lbfgs"])
    @pytest.mark.filterwarnings("error")
    def test_true_stops(self, solver):
        ours = MLPClassifier(
            (9,), solver=solver, callbacks=[lambda figures: np.int64(figures.epoch) == 3, lambda figures: 1]
        )
        ours.fit(X, TARGETS["four classes"])
        assert ours.n_iter_ == 3
        assert ours.predict(X).shape == (240,)

    @pytest.mark.parametrize("solver", ["adam", "lbfgs"])
    def test_one_that_raises_leaves_the_estimator_usable(self, solver):
        def fails(figures):
            if figures.epoch == 3:
                raise RuntimeError("the log is full")

        settings = {"hidden_layer_sizes": (9,), "solver": solver, "random_state": 0}
        ours, y = MLPClassifier(**settings, callbacks=fails), TARGETS["four classes"]
        with pytest.raises(RuntimeError, match="the log is full"):
            ours.fit(X, y)
        expected = MLPClassifier(**settings, max_iter=3).fit(X, y)
        assert ours.n_iter_ == 3
        assert np.array_equal(ours.coefs_[0], expected.coefs_[0])
        assert np.array_equal(ours.predict(X), expected.predict(X))
        if solver == "adam":
            ours.set_params(callbacks=None).partial_fit(X, y)

    def test_must_be_functions(self):
        with pytest.raises(TypeError, match="callbacks must be functions of an epoch's figures, got 3"):
            MLPClassifier(callbacks=[3]).fit(X, TARGETS["two classes"])


class TestValidationData:
    def test_early_stopping_goes_by_it_as_by_a_part(self):
        """The part that would be drawn, handed over: the same network."""
        y = TARGETS["several values"]
        settings = {"hidden_layer_sizes": (9,), "early_stopping": True, "shuffle": False, "random_state": 4,
                    "learning_rate_init": 0.03, "n_iter_no_change": 2, "max_iter": 60}  # fmt: skip
        expected = MLPRegressor(**settings).fit(X, y)
        rng = np.random.RandomState(4)
        for fan_in, fan_out in ((6, 9), (9, 3)):
            rng.uniform(size=(fan_in + 1, fan_out))
        train, held_out = train_test_split(np.arange(240), random_state=rng, test_size=0.1)
        ours = MLPRegressor(**settings).fit(X[train], y[train], validation_data=(X[held_out], y[held_out]))
        assert expected.n_iter_ < 60
        assert ours.validation_scores_ == expected.validation_scores_
        assert ours.validation_loss_curve_ == expected.validation_loss_curve_
        assert np.array_equal(ours.coefs_[0], expected.coefs_[0])

    def test_class_weight_counts_in_it_as_in_what_is_trained_on(self):
        y, w = TARGETS["four classes"], np.array([1.0, 2.0, 3.0, 4.0])
        data = X[HELD_OUT], y[HELD_OUT]
        for given in (dict(enumerate(w)), "balanced"):
            weighted = compute_sample_weight(given, y) if given == "balanced" else w[y]
            settings = {"hidden_layer_sizes": (9,), "max_iter": 3, "random_state": 0, "early_stopping": True}
            ours = MLPClassifier(**settings, class_weight=given).fit(X, y, validation_data=data)
            expected = MLPClassifier(**settings).fit(X, y, weighted, validation_data=(*data, weighted[HELD_OUT]))
            assert ours.validation_loss_curve_ == pytest.approx(expected.validation_loss_curve_, rel=1e-12)
            assert ours.validation_scores_ == pytest.approx(expected.validation_scores_, rel=1e-12)

    def test_the_best_is_kept_without_early_stopping_too(self):
        y = TARGETS["values"]
        settings = {"hidden_layer_sizes": (60,), "learning_rate_init": 0.05, "random_state": 0}
        train, held_out = slice(0, 40), (X[100:], y[100:])
        ours = MLPRegressor(**settings, max_iter=60).fit(X[train], y[train], validation_data=held_out)
        losses = ours.validation_loss_curve_
        best = int(np.argmin(losses)) + 1
        assert best < len(losses) == ours.n_iter_
        there = MLPRegressor(**settings, max_iter=best).fit(X[train], y[train])
        assert np.array_equal(ours.coefs_[0], there.coefs_[0])
        error = 0.5 * np.mean((ours.predict(held_out[0]) - held_out[1]) ** 2)
        assert min(losses) == pytest.approx(error, rel=1e-10)
        assert ours.validation_scores_ is None

    def test_weights_count(self):
        y, w = TARGETS["four classes"], np.random.default_rng(0).random(40)
        ours = MLPClassifier((9,), max_iter=3, random_state=0)
        ours.fit(X[:200], y[:200], validation_data=(X[HELD_OUT], y[HELD_OUT], w))
        last = clone(ours).fit(X[:200], y[:200]).predict_proba(X[HELD_OUT])[np.arange(40), y[HELD_OUT]]
        assert ours.validation_loss_curve_[-1] == pytest.approx(np.average(-np.log(last), weights=w))

    def test_in_a_pipeline_it_is_already_transformed(self):
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        y, scaler = TARGETS["four classes"], StandardScaler().fit(X[:200])
        held_out = scaler.transform(X[HELD_OUT]), y[HELD_OUT]
        model = make_pipeline(StandardScaler(), MLPClassifier((9,), max_iter=4, random_state=0))
        model.fit(X[:200], y[:200], mlpclassifier__validation_data=held_out)
        alone = clone(model[-1]).fit(scaler.transform(X[:200]), y[:200], validation_data=held_out)
        assert model[-1].validation_loss_curve_ == alone.validation_loss_curve_

    @pytest.mark.parametrize(
        ("data", "problem"),
        [
            (X, "validation_data is a ndarray of 240: expected (X, y) or (X, y, sample_weight)"),
            ((X,), "validation_data is a tuple of 1: expected (X, y)"),
            (
                (X[:, :3], TARGETS["four classes"]),
                "validation_data: X has 3 features, but MLPClassifier is expecting 6 features",
            ),
            ((X, TARGETS["four classes"] + 1), "validation_data: y has classes [4], that of fit [0, 1, 2, 3]"),
            ((X[:1], TARGETS["four classes"][:1]), "validation_data has 1 sample: expected at least 2"),
            ((X, TARGETS["four classes"][:9]), "inconsistent numbers of samples: [240, 9]"),
            ((X, TARGETS["four classes"], np.ones(9)), "sample_weight.shape == (9,), expected (240,)"),
        ],
    )
    def test_what_is_refused(self, data, problem):
        with pytest.raises(ValueError, match=re.escape(problem)):
            MLPClassifier((9,)).fit(X, TARGETS["four classes"], validation_data=data)

    def test_must_have_as_many_outputs(self):
        for y, other in ((X[:, 0], X[:, :2]), (X[:, :2], X[:, 0])):
            with pytest.raises(ValueError, match="validation_data: y has . outputs, that of fit ."):
                MLPRegressor().fit(X, y, validation_data=(X, other))
        with pytest.raises(ValueError, match="validation_data: dtype='numeric' is not compatible with arrays of"):
            MLPRegressor().fit(X, X[:, 0], validation_data=(X, TARGETS["strings"]))

    def test_the_curve_is_of_fits_that_had_some(self):
        y = TARGETS["four classes"]
        ours = MLPClassifier((9,), max_iter=2, random_state=0, warm_start=True)
        assert len(ours.fit(X, y, validation_data=(X, y)).validation_loss_curve_) == 2
        assert ours.fit(X, y).validation_loss_curve_ is None
        assert MLPClassifier((9,), solver="lbfgs", max_iter=2).fit(X, y).validation_loss_curve_ is None

    @pytest.mark.needs("array-api-strict")
    def test_must_be_where_x_is(self, find_backend):
        y, device = TARGETS["four classes"], find_backend("array-api-strict")
        with pytest.raises(
            ValueError, match="validation_data: its X is a ndarray, that of fit an array of array-api-strict"
        ):
            MLPClassifier((9,)).fit(device.asarray(X), device.asarray(y), validation_data=(X, y))


class TestHiddenLayers:
    def test_are_what_each_layer_makes_of_the_samples(self, monkeypatch):
        monkeypatch.setattr("xpmlp.estimators.scores.AT_ONCE", 50)
        ours = MLPClassifier((9, 5), max_iter=3, random_state=0).fit(X, TARGETS["four classes"])
        (W1, W2, _), (b1, b2, _) = ours.coefs_, ours.intercepts_
        A = np.maximum(X @ W1 + b1, 0)
        q = np.maximum(A @ W2 + b2, 0)
        found = ours.hidden_activations(X)
        assert [array.shape for array in found] == [(240, 9), (240, 5)]
        np.testing.assert_allclose(found[0], A, atol=1e-14)
        np.testing.assert_allclose(found[1], q, atol=1e-14)
        assert np.array_equal(ours.transform(X), found[1])
        assert ours.get_feature_names_out().tolist() == [f"mlpclassifier{k}" for k in range(5)]

    def test_are_the_features_of_the_next_step(self):
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        y = TARGETS["two classes"]
        model = make_pipeline(MLPClassifier((9,), max_iter=30, random_state=0), LogisticRegression()).fit(X, y)
        assert model.score(X, y) > 0.8
        pandas = pytest.importorskip("pandas")
        frame = (
            MLPRegressor(hidden_layer_sizes=(3,), max_iter=2)
            .set_output(transform="pandas")
            .fit_transform(pandas.DataFrame(X), X[:, 0])
        )
        assert list(frame.columns) == ["mlpregressor0", "mlpregressor1", "mlpregressor2"]

    def test_may_be_none(self):
        ours = MLPClassifier((), max_iter=2).fit(X, TARGETS["two classes"])
        assert ours.hidden_activations(X) == []
        with pytest.raises(ValueError, match="transform: the network has no hidden layer"):
            ours.transform(X)


@pytest.mark.parametrize("backend", [spec for spec in SPECS if spec != "numpy"], indirect=True)
@pytest.mark.parametrize("target", ["four classes", "strings", "several labels", "several values"])
def test_to_takes_it_elsewhere_and_back(backend, target):
    y = TARGETS[target]
    _, ours = pair(target, max_iter=4)
    ours.fit(X, y)
    there = ours.to(backend)
    on = (lambda array: array) if target == "strings" else backend.asarray
    assert {str(backend_of(array)) for array in arrays(there)} == {str(backend)}
    assert relative_error(backend.to_numpy(outputs(there, backend.asarray(X))), outputs(ours, X)) < 1e-8
    if target == "four classes":
        assert str(backend_of(there.predict(backend.asarray(X)))) == str(backend)
    there.partial_fit(backend.asarray(X), on(y))
    back = there.to("numpy")
    assert all(type(array) is np.ndarray for array in arrays(back))
    before = ours.coefs_[0].copy()
    back.partial_fit(X, y)
    for _ in range(2):
        ours.partial_fit(X, y)
    assert relative_error(back.coefs_[0], ours.coefs_[0]) < 1e-8
    assert not np.array_equal(before, ours.coefs_[0]), "the copies are of its own arrays"
    assert pickle.loads(pickle.dumps(there)).n_iter_ == there.n_iter_


def test_to_is_for_fitted_estimators_and_known_backends():
    with pytest.raises(NotFittedError):
        MLPClassifier().to("numpy")
    with pytest.raises(BackendError, match="unknown backend 'cudy'"):
        MLPClassifier((4,), max_iter=1).fit(X, TARGETS["two classes"]).to("cudy")


@pytest.mark.parametrize(
    ("family", "settings", "problem"),
    [
        (MLPClassifier, {"class_weight": "balanced"}, "class_weight='balanced': scikit-learn's MLPClassifier has no"),
        (MLPClassifier, {"dropout": 0.2}, "dropout=0.2: scikit-learn's MLPClassifier has no dropout"),
        (MLPClassifier, {"activation": "gelu"}, "activation='gelu': scikit-learn's MLPClassifier knows identity, log"),
        (MLPClassifier, {"activation": ["elu"]}, "activation='elu': scikit-learn's MLPClassifier knows identity"),
        (MLPClassifier, {"solver": "adamw"}, "solver='adamw': scikit-learn's MLPClassifier knows lbfgs, sgd, adam"),
        (MLPRegressor, {"learning_rate": "cosine"}, "learning_rate='cosine': scikit-learn's MLPRegressor knows const"),
        (MLPRegressor, {"loss": "huber"}, "loss='huber': scikit-learn's MLPRegressor knows squared_error, poisson"),
        (
            MLPRegressor,
            {"callbacks": [print]},
            "callbacks=[<built-in function print>]: scikit-learn's MLPRegressor has",
        ),
    ],
)
def test_to_sklearn_refuses_what_it_cannot_hold(family, settings, problem, capsys):
    ours = family(hidden_layer_sizes=(4,), max_iter=1, **settings).fit(X, TARGETS["two classes"])
    with pytest.raises(ValueError, match=re.escape(problem)):
        ours.to_sklearn()


def test_to_sklearn_takes_what_was_validated():
    ours = MLPClassifier((4,), max_iter=2, random_state=0)
    ours.fit(X, TARGETS["two classes"], validation_data=(X, TARGETS["two classes"]))
    there = ours.to_sklearn()
    assert np.array_equal(there.predict(X), ours.predict(X))
    assert not hasattr(there, "validation_loss_curve_")


class TestWithoutWeight:
    @pytest.mark.parametrize("solver", ["adam", "sgd", "adamw"])
    def test_a_batch_of_which_nothing_counts_is_no_step(self, solver):
        y, w = TARGETS["several values"], np.repeat([0.0, 1.0, 0.0], [80, 120, 40])
        settings = {"hidden_layer_sizes": (9,), "solver": solver, "shuffle": False, "batch_size": 40, "random_state": 0}
        ours = MLPRegressor(**settings).partial_fit(X, y).partial_fit(X, y, w)
        expected = MLPRegressor(**settings).partial_fit(X, y).partial_fit(X[80:200], y[80:200])
        assert all(np.array_equal(*both) for both in zip(arrays(ours), arrays(expected), strict=True))
        assert ours._optimizer.t == expected._optimizer.t == 9
        assert ours.loss_ == pytest.approx(expected.loss_, rel=1e-12)
        for name, vector in ours._optimizer.state.items():
            assert np.array_equal(vector, expected._optimizer.state[name])

    def test_all_weights_zero_leave_the_model_as_it_was(self):
        for family, y in ((MLPClassifier, TARGETS["four classes"]), (MLPRegressor, X[:, 0])):
            ours = family(hidden_layer_sizes=(9,), max_iter=2, random_state=0).fit(X, y)
            before = pickle.dumps(ours)
            for call in (ours.fit, ours.partial_fit):
                with pytest.raises(ValueError, match="Sample weights must contain at least one non-zero number"):
                    call(X, y, np.zeros(240))
                assert pickle.dumps(ours) == before

    def test_must_not_be_all_of_what_is_trained_on_or_held_out(self):
        w = np.zeros(240)
        w[0] = 1
        with pytest.raises(ValueError, match="Sample weights must contain at least one non-zero number"):
            MLPClassifier((9,), early_stopping=True, random_state=1).fit(X, TARGETS["four classes"], w)

    def test_nothing_else_that_is_refused_changes_it(self):
        ours = MLPClassifier((9,), max_iter=2, random_state=0).fit(X, TARGETS["four classes"])
        before = pickle.dumps(ours)
        wrong = [
            lambda: ours.fit(X[:, :3], TARGETS["four classes"][:9]),
            lambda: ours.fit(X[:, :3], TARGETS["strings"], validation_data=(X, TARGETS["strings"])),
            lambda: ours.partial_fit(X, TARGETS["four classes"] + 9),
            lambda: ours.fit(np.full((9, 2), np.nan), np.arange(9)),
            lambda: clone_with(early_stopping=True, validation_fraction=0.001).fit(X, TARGETS["strings"]),
            lambda: clone_with(early_stopping=True).fit(X[:9], [0] * 8 + [1]),
        ]

        def clone_with(**settings):
            ours.__dict__.update(settings)
            return ours

        for call in wrong:
            with pytest.raises(ValueError, match="."):
                call()
            ours.set_params(early_stopping=False, validation_fraction=0.1)
            assert pickle.dumps(ours) == before
        fresh = MLPClassifier((9,))
        with pytest.raises(ValueError, match="non-zero"):
            fresh.partial_fit(X, TARGETS["four classes"], np.zeros(240), classes=range(4))
        assert not hasattr(fresh, "classes_")


def test_a_warm_start_with_other_outputs_is_refused():
    ours = MLPRegressor("poisson", (8,), max_iter=2, warm_start=True).fit(X, np.abs(X[:, 0]))
    with pytest.raises(ValueError, match="the fitted network ends in exp, the loss now wants identity"):
        ours.set_params(loss="huber").fit(X, X[:, 0])


@pytest.mark.parametrize("solver", ["adam", "sgd", "adamw"])
def test_a_warm_start_goes_on_after_lbfgs(solver):
    ours = MLPClassifier((8,), solver="lbfgs", max_iter=2, warm_start=True, random_state=0).fit(
        X, TARGETS["two classes"]
    )
    loss = ours.loss_
    assert ours.set_params(solver=solver, max_iter=20).fit(X, TARGETS["two classes"]).loss_ < loss
    assert len(ours.loss_curve_) == 20


def test_a_change_to_adamw_counts_in_partial_fit():
    y = TARGETS["two classes"]
    ours = MLPClassifier((8,), alpha=50.0, random_state=0).partial_fit(X, y, classes=[0, 1]).set_params(solver="adamw")
    for _ in range(100):
        ours.partial_fit(X, y)
    assert sum(float((W**2).sum()) for W in ours.coefs_) < 0.1


def test_opens_pickles_of_before_its_parameters():
    ours = MLPClassifier((8,), max_iter=2, random_state=0).fit(X, TARGETS["two classes"])
    state = ours.__getstate__()
    for name in ("callbacks", "dropout", "class_weight"):
        del state[name]
    old = MLPClassifier.__new__(MLPClassifier)
    old.__setstate__(state)
    assert np.array_equal(old.partial_fit(X, TARGETS["two classes"]).coefs_[0],
                          ours.partial_fit(X, TARGETS["two classes"]).coefs_[0])  # fmt: skip


@pytest.mark.parametrize("widths", [(5.5,), (3, 2.9), 0.5, (True,), ("9",), np.array([3.0, 2.0])])
def test_widths_must_be_whole_numbers(widths):
    error = ValueError if np.ndim(widths) == 0 else TypeError  # a number alone is refused by scikit-learn's validation
    with pytest.raises(error, match="hidden_layer_sizes"):
        MLPClassifier(widths).fit(X, TARGETS["two classes"])


def test_a_warm_start_with_other_widths_is_refused():
    ours = MLPClassifier((8,), max_iter=2, warm_start=True).fit(X, TARGETS["two classes"])
    with pytest.raises(ValueError, match=re.escape("the fitted network (6, 8, 1) cannot go on as (6, 5, 1)")):
        ours.set_params(hidden_layer_sizes=(5,)).fit(X, TARGETS["two classes"])


@pytest.mark.needs("jax")
@pytest.mark.parametrize("target", ["values", "four classes", "two classes", "several labels"])
def test_predicts_inside_jaxs_transformations(target, find_backend):
    backend = find_backend("jax", "float64")
    import jax

    y, samples = TARGETS[target], backend.asarray(X)
    _, ours = pair(target, max_iter=2)
    ours.fit(samples, backend.asarray(y))
    functions = [ours.predict, ours.transform]
    functions += [ours.predict_proba, ours.predict_log_proba] if hasattr(ours, "classes_") else []
    for function in functions:
        expected = backend.to_numpy(function(samples))
        assert relative_error(backend.to_numpy(jax.jit(function)(samples)), expected) < 1e-12
        mapped = jax.vmap(lambda x, function=function: function(x[None])[0])(samples)
        assert relative_error(backend.to_numpy(mapped), expected) < 1e-12

    def first(x):
        return outputs(ours, x[None]).sum() if target == "values" else outputs(ours, x[None])[0, 0]

    slope, h = backend.to_numpy(jax.grad(first)(samples[0])), 1e-6 * np.eye(6)
    differences = [(float(first(samples[0] + step)) - float(first(samples[0] - step))) / 2e-6 for step in h]
    np.testing.assert_allclose(slope, differences, rtol=1e-5, atol=1e-8)


@pytest.mark.full
def test_scikit_learns_own_tests_of_its_mlps_pass(tmp_path):
    """But `test_gradient`, which is of private functions that only its own classes have."""
    (tmp_path / "ours_for_theirs.py").write_text(
        "import sklearn.neural_network.tests.test_mlp as tests, xpmlp\n"
        "tests.MLPClassifier, tests.MLPRegressor = xpmlp.MLPClassifier, xpmlp.MLPRegressor\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "ours_for_theirs", "-p", "no:cacheprovider", "--pyargs",
               "sklearn.neural_network.tests.test_mlp", "-k", "not test_gradient"]  # fmt: skip
    path = f"{tmp_path}:{ROOT}"
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 50
    assert theirs.MLPClassifier is not MLPClassifier
