"""The optimizers against PyTorch's of the same name, and against their definitions written out."""

import numpy as np
import pytest

from xpmlp.errors import ArrayError, ConfigError
from xpmlp.math.layout import Layout
from xpmlp.math.optimizers import adam, adamw, sgd

RULES = {
    "sgd": (sgd(), "SGD", {}),
    "sgd, decay": (sgd(weight_decay=0.1), "SGD", {"weight_decay": 0.1}),
    "momentum": (sgd(0.9), "SGD", {"momentum": 0.9}),
    "momentum, decay": (sgd(0.8, weight_decay=0.1), "SGD", {"momentum": 0.8, "weight_decay": 0.1}),
    "nesterov": (sgd(0.9, nesterov=True), "SGD", {"momentum": 0.9, "nesterov": True}),
    "nesterov, decay": (
        sgd(0.9, nesterov=True, weight_decay=0.1),
        "SGD",
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    "adam": (adam(), "Adam", {}),
    "adam, decay": (adam(0.8, 0.99, epsilon=1e-5, weight_decay=0.1), "Adam",
                    {"betas": (0.8, 0.99), "eps": 1e-5, "weight_decay": 0.1}),
    "adamw": (adamw(), "AdamW", {}),
    "adamw, decay": (adamw(weight_decay=0.5), "AdamW", {"weight_decay": 0.5}),
}  # fmt: skip


def gradients(n_steps=100, size=50):
    """Return gradients of all magnitudes, some of them zero."""
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((n_steps, size)) * 10.0 ** rng.integers(-6, 2, size)
    return np.where(rng.random((n_steps, size)) < 0.1, 0.0, drawn)


def rates(n_steps=100):
    """Return a rate that changes from step to step."""
    return [0.01 * (1 + np.sin(k)) for k in range(n_steps)]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.needs("torch")
def test_equals_pytorchs_over_100_steps(name):
    import torch

    ours, theirs, arguments = RULES[name]
    start = np.random.default_rng(1).standard_normal(50)
    leaf = torch.tensor(start, requires_grad=True)
    peer = getattr(torch.optim, theirs)([leaf], lr=1.0, **arguments)
    theta = start.copy()
    state = ours.init(theta)
    for step, (gradient, rate) in enumerate(zip(gradients(), rates(), strict=True), start=1):
        for group in peer.param_groups:
            group["lr"] = rate
        leaf.grad = torch.tensor(gradient)
        peer.step()
        theta, state = ours.update(theta, state, gradient, ours.scalars(step, rate))
    assert not np.allclose(theta, start)
    np.testing.assert_allclose(theta, leaf.detach().numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", RULES)
def test_is_the_same_on_every_backend(name, backend, dtype):
    rule, _, _ = RULES[name]

    def run(backend, dtype):
        theta = backend.asarray(np.linspace(-1, 1, 50).astype(dtype), copy=True)
        state = rule.init(theta)
        update = backend.compile(rule.update, donate=(0, 1))
        for step, (gradient, rate) in enumerate(zip(gradients(), rates(), strict=True), start=1):
            on_device = backend.asarray(gradient.astype(dtype))
            theta, state = update(theta, state, on_device, rule.scalars(step, rate))
        return backend.to_numpy(theta), {key: backend.to_numpy(vector) for key, vector in state.items()}

    from xpmlp.backends import get_backend

    theta, state = run(backend, dtype)
    expected, _ = run(get_backend("numpy"), "float64")
    assert theta.dtype == dtype
    assert all(vector.dtype == dtype and vector.shape == theta.shape for vector in state.values())
    np.testing.assert_allclose(theta, expected, rtol=1e-12 if dtype == "float64" else 2e-4)


def test_adams_first_step_is_the_rate_whatever_the_gradient():
    theta = np.array([1.0, 1.0, 1.0])
    rule = adam()
    theta, _ = rule.update(theta, rule.init(theta), np.array([1e-3, 1.0, -1e3]), rule.scalars(1, 0.1))
    np.testing.assert_allclose(theta, [0.9, 0.9, 1.1], rtol=1e-4)


@pytest.mark.parametrize("name", RULES)
def test_scalars_are_python_floats(name):
    """A NumPy float64 would promote a float32 theta."""
    for value in RULES[name][0].scalars(3, np.float64(0.1)).values():
        assert type(value) is float


@pytest.mark.parametrize("name", RULES)
def test_the_gradient_is_left_as_it_was(name):
    rule, _, _ = RULES[name]
    theta, gradient = np.ones(5), np.arange(5.0)
    rule.update(theta, rule.init(theta), gradient, rule.scalars(1, 0.1))
    assert np.array_equal(gradient, np.arange(5.0))


def test_theta_and_state_are_updated_in_place_where_arrays_can_change():
    rule = sgd(0.9)
    theta = np.ones(5)
    state = rule.init(theta)
    velocity = state["velocity"]
    returned, state = rule.update(theta, state, np.ones(5), rule.scalars(1, 0.1))
    assert returned is theta
    assert state["velocity"] is velocity
    np.testing.assert_allclose(theta, 0.9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sgd(1.0), "momentum 1.0: expected at least 0 and below 1"),
        (lambda: sgd(float("nan")), "momentum nan"),
        (lambda: sgd(nesterov=True), "nesterov with momentum 0"),
        (lambda: sgd(weight_decay=-1), "weight decay -1"),
        (lambda: adam(1.0), "beta1 1.0"),
        (lambda: adam(beta2=-0.1), "beta2 -0.1"),
        (lambda: adam(epsilon=0), "epsilon 0"),
        (lambda: adamw(weight_decay=float("inf")), "weight decay inf"),
    ],
)
def test_refuses_settings_outside_their_range(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.needs("array-api-strict")
def test_refuses_a_gradient_of_another_library(find_backend):
    backend = find_backend("array-api-strict")
    theta = backend.asarray(np.ones(3))
    rule = sgd()
    with pytest.raises(ArrayError, match="gradient comes from numpy, theta from array_api_strict"):
        rule.update(theta, rule.init(theta), np.ones(3), rule.scalars(1, 0.1))


class TestScikitLearnsForms:
    """Against scikit-learn's own optimizers."""

    def run(self, ours, theirs, rate):
        theta = np.linspace(-1, 1, 50)
        params, state = [theta.copy()], ours.init(theta)
        for t, gradient in enumerate(gradients(), start=1):
            if hasattr(theirs, "velocities"):
                theirs.learning_rate = rate(t)
            theta, state = ours.update(theta, state, gradient, ours.scalars(t, rate(t)))
            theirs.update_params(params, [gradient])
            np.testing.assert_allclose(theta, params[0], rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("nesterov", [False, True])
    @pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
    def test_sgd_with_the_rate_inside_the_velocity(self, momentum, nesterov):
        theirs = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
        optimizer = theirs.SGDOptimizer([np.zeros(50)], 0.1, "constant", momentum, nesterov)
        self.run(sgd(momentum, nesterov=nesterov, rate_inside=True), optimizer, lambda t: 0.1 / t**0.5)

    def test_adam_with_epsilon_before_the_correction(self):
        theirs = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
        optimizer = theirs.AdamOptimizer([np.zeros(50)], 0.01, 0.8, 0.99, 1e-3)
        self.run(adam(0.8, 0.99, epsilon=1e-3, epsilon_hat=True), optimizer, lambda t: 0.01)

    def test_the_forms_differ(self):
        """Else two names would be one too many."""
        for one, two in (
            (sgd(0.9), sgd(0.9, rate_inside=True)),
            (adam(epsilon=1e-3), adam(epsilon=1e-3, epsilon_hat=True)),
        ):
            ends = []
            for rule in (one, two):
                theta = np.linspace(-1, 1, 50)
                state = rule.init(theta)
                for t, gradient in enumerate(gradients(), start=1):
                    theta, state = rule.update(theta, state, gradient, rule.scalars(t, 0.1 / t))
                ends.append(theta)
            assert np.abs(ends[0] - ends[1]).max() > 1e-3

    def test_a_momentum_outside_its_range_is_refused(self):
        with pytest.raises(ConfigError, match="momentum 1.1: expected 0 to 1"):
            sgd(1.1, rate_inside=True)


def test_decoupled_decay_leaves_biases_alone_where_it_knows_them(backend, each_way):
    layout = Layout((3, 2, 2))
    for _ in each_way():
        theta, zero = (backend.asarray(np.full(layout.size, value), copy=True) for value in (1.0, 0.0))
        rule = adamw(weight_decay=0.5, layout=layout)
        state = rule.init(theta)
        theta, state = rule.update(theta, state, zero, rule.scalars(1, 0.1))
        assert set(state) == {"m", "v", "shares"}
        for W, b in layout.unflatten(backend.to_numpy(theta)):
            np.testing.assert_allclose(W, 0.95, rtol=1e-6)
            np.testing.assert_array_equal(b, 1.0)
