"""The mathematics against the derivation, finite differences and two autograds."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from xpmlp.backends import get_backend
from xpmlp.benchmark.checking import relative_error
from xpmlp.errors import ArrayError, ConfigError, ShapeError, XpmlpError
from xpmlp.estimators.inputs import as_samples
from xpmlp.math.activations import ACTIVATIONS, HEADS, huber, log_softmax, predictions, softmax
from xpmlp.math.layout import Layout, init
from xpmlp.math.network import backward, forward, score
from xpmlp.training.objectives import SampleObjective
from xpmlp.training.steps import compiled_gradient


def loss_of(layers, X, labels):
    """Return the loss (F7)."""
    S, _ = forward(layers, X)
    return score(S, labels)[1]


def gradient_of(layout, layers, X, labels):
    """Return the loss's gradient as one vector."""
    S, trail = forward(layers, X)
    return layout.flatten(backward(layers, trail, score(S, labels)[0]))


INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def example(sizes, n, seed=0):
    """Return a layout, parameters whose biases are not zero, a batch and its labels, all float64 on the host."""
    rng = np.random.default_rng(seed)
    layout = Layout(sizes)
    theta = init(layout, rng, "float64") + 0.1 * rng.standard_normal(layout.size)
    return layout, theta, rng.standard_normal((n, sizes[0])), rng.integers(0, sizes[-1], n)


def nearest_to_a_corner(layers, X):
    """Return the smallest absolute pre-activation of the hidden layers."""
    _, trail = forward(layers, X)
    pre = [np.abs(A @ W + b).min() for (W, b), (_, A) in zip(layers[:-1], trail, strict=False)]
    return min(pre, default=np.inf)


layouts = st.lists(st.integers(1, 6), min_size=1, max_size=3).flatmap(
    lambda widths: st.integers(2, 5).map(lambda classes: (*widths, classes))
)


class TestLayout:
    @given(sizes=layouts, seed=st.integers(0, 99))
    def test_theta_is_each_layer_in_c_order_without_gaps(self, sizes, seed):
        layout = Layout(sizes)
        theta = np.random.default_rng(seed).standard_normal(layout.size)
        layers = layout.unflatten(theta)
        assert [W.shape for W, _ in layers] == list(itertools.pairwise(sizes))
        assert [b.shape for _, b in layers] == [(1, fan_out) for fan_out in sizes[1:]]
        assert np.array_equal(np.concatenate([part.ravel() for layer in layers for part in layer]), theta)
        assert np.array_equal(layout.flatten(layers), theta)

    def test_layers_are_views_where_the_library_has_views(self):
        layout = Layout((3, 2, 3, 2))
        theta = np.zeros(layout.size)
        for W, b in layout.unflatten(theta):
            W += 1
            b += 1
        assert np.all(theta == 1)

    def test_flatten_takes_arrays_of_any_order(self):
        layout = Layout((3, 2))
        W, b = np.arange(6.0).reshape(2, 3).T, np.zeros((1, 2))
        assert np.array_equal(layout.unflatten(layout.flatten([(W, b)]))[0][0], W)

    @pytest.mark.parametrize("sizes", [(), (3,), (3, 0, 2), (3, -1), (3, 2.5), ("3", 2)])
    def test_refuses_what_are_no_widths(self, sizes):
        with pytest.raises(ConfigError, match="layer sizes"):
            Layout(sizes)

    def test_refuses_arrays_of_other_shapes(self):
        layout = Layout((3, 2))
        with pytest.raises(ShapeError, match=r"theta has shape \(7,\): layers \(3, 2\) have 8 parameters"):
            layout.unflatten(np.zeros(7))
        with pytest.raises(ShapeError, match="layers of shapes"):
            layout.flatten([(np.zeros((2, 3)), np.zeros((1, 2)))])


class TestInit:
    def test_weights_have_the_he_variance_and_biases_are_zero(self):
        layout = Layout((500, 400, 10))
        (W1, b1), (W2, b2) = layout.unflatten(init(layout, np.random.default_rng(0)))
        for W, fan_in in ((W1, 500), (W2, 400)):
            assert W.std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.05)
            assert abs(W.mean()) < 0.05 * W.std()
        assert not b1.any()
        assert not b2.any()

    def test_is_drawn_in_float64_layer_by_layer_and_then_cast(self):
        layout = Layout((4, 3, 2))
        rng = np.random.default_rng(5)
        expected = [rng.standard_normal((4, 3)) * np.sqrt(2 / 4), rng.standard_normal((3, 2)) * np.sqrt(2 / 3)]
        in_64 = init(layout, np.random.default_rng(5), "float64")
        in_32 = init(layout, np.random.default_rng(5))
        for (W, _), Z in zip(layout.unflatten(in_64), expected, strict=True):
            np.testing.assert_allclose(W, Z, rtol=1e-15)
        assert in_32.dtype == np.float32
        assert np.array_equal(in_32, in_64.astype(np.float32))

    def test_refuses_other_dtypes(self):
        with pytest.raises(ConfigError, match="dtype 'float16': expected float32 or float64"):
            init(Layout((2, 2)), np.random.default_rng(0), "float16")


def test_equals_the_derivation_written_out():
    """The page ``derivation.md``, name by name, at the widths of the notes' drawings: 3-2-3-2 and 4 samples."""
    layout, theta, X, labels = example((3, 2, 3, 2), n=4, seed=3)
    (W1, b1), (W2, b2), (W3, b3) = layers = layout.unflatten(theta)
    n = 4
    ones = np.ones((n, 1))
    T = np.zeros((n, 2))
    T[np.arange(n), labels] = 1

    H = X @ W1 + b1  # F1
    A = np.where(H > 0, H, 0)  # F2
    O = A @ W2 + b2  # F3  # noqa: E741
    q = np.where(O > 0, O, 0)  # F4
    S = q @ W3 + b3  # F5
    P = np.exp(S) / np.exp(S).sum(axis=1, keepdims=True)  # F6
    L = -sum(np.log(P[i, labels[i]]) for i in range(n)) / n  # F7

    delta_S = (P - T) / n  # B1
    dW3 = q.T @ delta_S  # B2
    db3 = ones.T @ delta_S  # B3
    dq = delta_S @ W3.T  # B4
    delta_O = np.where(O > 0, 1, 0) * dq  # B5
    dW2 = A.T @ delta_O  # B6
    db2 = ones.T @ delta_O  # B7
    dA = delta_O @ W2.T  # B8
    delta_H = np.where(H > 0, 1, 0) * dA  # B9
    dW1 = X.T @ delta_H  # B10
    db1 = ones.T @ delta_H  # B11

    assert (H > 0).any()
    assert (H < 0).any()
    assert (O > 0).any()
    assert (O < 0).any()
    found_S, trail = forward(layers, X)
    for found, expected in zip((*(A for _, A in trail), found_S), (X, A, q, S), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-14)
    np.testing.assert_allclose(softmax(S), P, rtol=1e-14)
    np.testing.assert_allclose(log_softmax(S), np.log(P), rtol=1e-13)
    found_delta, found_L, correct = score(found_S, labels)
    np.testing.assert_allclose(found_L, L, rtol=1e-14)
    np.testing.assert_allclose(found_delta, delta_S, rtol=1e-14)
    assert correct == (P.argmax(axis=1) == labels).sum()
    gradients = [array for layer in backward(layers, trail, found_delta) for array in layer]
    for found, expected in zip(gradients, (dW1, db1, dW2, db2, dW3, db3), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-16)


@settings(max_examples=60)
@given(sizes=layouts, n=st.integers(1, 6), seed=st.integers(0, 10_000))
def test_gradient_equals_finite_differences(sizes, n, seed):
    layout, theta, X, labels = example(sizes, n, seed)
    assume(nearest_to_a_corner(layout.unflatten(theta), X) >= 1e-4)

    def loss(theta):
        return loss_of(layout.unflatten(theta), X, labels)

    h = 1e-6
    expected = np.array([(loss(theta + h * e) - loss(theta - h * e)) / (2 * h) for e in np.eye(layout.size)])
    assume(np.linalg.norm(expected) > 0.01)  # below, the differences' own rounding (1e-10) is what would be seen
    assert relative_error(gradient_of(layout, layout.unflatten(theta), X, labels), expected) <= 1e-7


@pytest.mark.parametrize("sizes", [(7, 3), (20, 11, 4), (12, 9, 8, 7, 6, 5)])
@pytest.mark.needs("torch")
def test_gradient_equals_pytorchs_autograd(sizes):
    import torch

    layout, theta, X, labels = example(sizes, n=32)
    leaf = torch.tensor(theta, requires_grad=True)
    A = torch.tensor(X)
    layers = layout.unflatten(leaf)
    for k, (W, b) in enumerate(layers):
        A = torch.nn.functional.linear(A, W.T, b[0])
        if k < len(layers) - 1:
            A = torch.nn.functional.relu(A)
    loss = torch.nn.functional.cross_entropy(A, torch.tensor(labels))
    loss.backward()

    layers = layout.unflatten(theta)
    assert relative_error(loss_of(layers, X, labels), loss.item()) <= 1e-10
    assert relative_error(gradient_of(layout, layers, X, labels), leaf.grad.numpy()) <= 1e-10


@pytest.mark.parametrize("sizes", [(7, 3), (20, 11, 4), (12, 9, 8, 7, 6, 5)])
@pytest.mark.needs("jax")
def test_gradient_equals_jaxs_autograd(sizes, find_backend):
    find_backend("jax", "float64")
    import jax

    layout, theta, X, labels = example(sizes, n=32)

    def loss(theta):
        A = X
        layers = layout.unflatten(theta)
        for W, b in layers[:-1]:
            A = jax.nn.relu(A @ W + b)
        W, b = layers[-1]
        return -jax.nn.log_softmax(A @ W + b)[np.arange(32), labels].mean()

    value, expected = jax.value_and_grad(loss)(jax.numpy.asarray(theta))
    layers = layout.unflatten(theta)
    assert relative_error(loss_of(layers, X, labels), np.asarray(value)) <= 1e-10
    assert relative_error(gradient_of(layout, layers, X, labels), np.asarray(expected)) <= 1e-10


class TestOnEveryBackend:
    @pytest.mark.parametrize("kind", INTEGERS)
    def test_labels_may_be_of_any_integer_dtype(self, backend, kind):
        layout, theta, X, labels = example((5, 4, 3), n=8)
        layers, on_device = layout.unflatten(backend.asarray(theta)), backend.asarray(labels.astype(kind))
        gradient = gradient_of(layout, layers, backend.asarray(X), on_device)
        host_layers = layout.unflatten(theta)
        assert relative_error(backend.to_numpy(gradient), gradient_of(layout, host_layers, X, labels)) <= 1e-12
        loss = backend.to_numpy(loss_of(layers, backend.asarray(X), on_device))
        assert loss == pytest.approx(float(loss_of(host_layers, X, labels)), rel=1e-12)

    def test_labels_of_a_narrow_dtype_do_not_wrap_around(self, backend):
        """With 300 classes, class 256 + k is not class k, as it would be if they were counted in uint8."""
        S = backend.asarray(np.zeros((1, 300)))
        labels = backend.asarray(np.array([3], dtype=np.uint8))
        assert float(backend.to_numpy(score(S, labels)[1])) == pytest.approx(np.log(300))

    def test_extreme_logits_stay_finite(self, backend, dtype):
        host = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], dtype=dtype)
        S, labels = backend.asarray(host), backend.asarray(np.array([1, 2, 0], dtype=np.int32))
        P, log_P = backend.to_numpy(softmax(S)), backend.to_numpy(log_softmax(S))
        np.testing.assert_allclose(P, [[1, 0, 0], [1 / 3] * 3, [0.5, 0.5, 0]], rtol=1e-6)
        assert np.isfinite(log_P).all()
        expected = (2e4 + np.log(3) + np.log(2)) / 3
        assert float(backend.to_numpy(score(S, labels)[1])) == pytest.approx(expected, rel=1e-6)
        layers = ((backend.asarray(np.eye(3, dtype=dtype)), backend.asarray(np.zeros((1, 3), dtype=dtype))),)
        for array in backward(layers, [(S, S)], score(S, labels)[0])[0]:
            assert np.isfinite(backend.to_numpy(array)).all()

    def test_keeps_the_dtype(self, backend, dtype):
        layout, theta, X, labels = example((5, 4, 3), n=8)
        layers = layout.unflatten(backend.asarray(theta.astype(dtype)))
        X, labels = backend.asarray(X.astype(dtype)), backend.asarray(labels.astype(np.int32))
        S, _ = forward(layers, X)
        found = S, softmax(S), log_softmax(S), score(S, labels)[1], gradient_of(layout, layers, X, labels)
        for array in found:
            assert backend.to_numpy(array).dtype == dtype

    def test_changes_none_of_its_inputs(self, backend, each_way):
        layout, theta, X, labels = example((5, 4, 3), n=8)
        for _ in each_way():
            inputs = [backend.asarray(host, copy=True) for host in (theta, X, labels.astype(np.int32))]
            layers = layout.unflatten(inputs[0])
            S, trail = forward(layers, inputs[1])
            before = [backend.to_numpy(array) for array in (*inputs, S)]
            softmax(S), log_softmax(S), backward(layers, trail, score(S, inputs[2])[0])
            after = [backend.to_numpy(array) for array in (*inputs, S)]
            assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    def test_counts_the_rows_that_are_right(self, backend, each_way):
        S = backend.asarray(np.array([[0.0, 2.0], [3.0, 1.0], [5.0, 4.0]]))
        for _ in each_way():
            correct = backend.to_numpy(score(S, backend.asarray(np.array([1, 1, 0], dtype=np.int32)))[2])
            assert (correct.dtype, int(correct)) == (np.int32, 2)

    def test_a_stack_of_networks_is_computed_as_each_alone(self, backend, each_way):
        """Axes in front of the last two number networks; X may be shared."""
        layout, K = Layout((5, 4, 3)), 3
        thetas, X = np.stack([example((5, 4, 3), 8, seed)[1] for seed in range(K)]), example((5, 4, 3), 8)[2]
        labels = np.random.default_rng(1).integers(0, 3, (K, 8)).astype(np.int32)
        for _ in each_way():
            layers = layout.unflatten(backend.asarray(thetas))
            S, trail = forward(layers, backend.asarray(np.broadcast_to(X, (K, 8, 5))))
            delta, losses, correct = score(S, backend.asarray(labels))
            gradients = backend.to_numpy(layout.flatten(backward(layers, trail, delta)))
            for k in range(K):
                alone = layout.unflatten(backend.asarray(thetas[k]))
                expected = gradient_of(layout, alone, backend.asarray(X), backend.asarray(labels[k]))
                assert relative_error(gradients[k], backend.to_numpy(expected)) < 1e-13
                _, loss, hits = score(forward(alone, backend.asarray(X))[0], backend.asarray(labels[k]))
                assert float(backend.to_numpy(losses)[k]) == pytest.approx(float(backend.to_numpy(loss)), rel=1e-13)
                assert int(backend.to_numpy(correct)[k]) == int(backend.to_numpy(hits))


def test_relu_has_slope_zero_at_zero():
    layers = ((np.zeros((2, 3)), np.zeros((1, 3))), (np.ones((3, 2)), np.zeros((1, 2))))
    S, trail = forward(layers, np.ones((1, 2)))
    (dW1, db1), _ = backward(layers, trail, score(S, np.array([0]))[0])
    assert not dW1.any()
    assert not db1.any()


def test_a_number_that_is_none_is_not_hidden_by_relu():
    layers = ((np.full((1, 1), np.nan), np.zeros((1, 1))), (np.ones((1, 2)), np.zeros((1, 2))))
    assert np.isnan(forward(layers, np.ones((1, 1)))[0]).all()


def targets_for(head, n, c, rng):
    """Return targets that fit a head's loss; of the rates some are 0."""
    return {
        "softmax": lambda: rng.integers(0, c, n).astype(np.int32),
        "logistic": lambda: rng.integers(0, 2, (n, c)).astype(float),
        "identity": lambda: rng.standard_normal((n, c)),
        "exp": lambda: rng.poisson(1.5, (n, c)).astype(float),
        "absolute": lambda: rng.standard_normal((n, c)),
        "huber": lambda: 3 * rng.standard_normal((n, c)),
    }[head]()


def loss_by_definition(head, S, T, weights):
    """Return the loss as the textbooks write it, from the predictions."""
    if head == "softmax":
        P = np.exp(S) / np.exp(S).sum(axis=1, keepdims=True)
        each = -np.log(P[np.arange(len(T)), T])
    elif head == "logistic":
        P = 1 / (1 + np.exp(-S))
        each = -(T * np.log(P) + (1 - T) * np.log(1 - P)).sum(axis=1)
    elif head == "identity":
        each = ((S - T) ** 2).sum(axis=1) / 2
    elif head == "absolute":
        each = np.abs(S - T).sum(axis=1)
    elif head == "huber":
        far = np.abs(S - T) > 1
        each = np.where(far, np.abs(S - T) - 0.5, (S - T) ** 2 / 2).sum(axis=1)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            each = (np.where(T > 0, T * np.log(T / np.exp(S)), 0) - T + np.exp(S)).sum(axis=1)
    return np.average(each, weights=weights)


@pytest.fixture(params=HEADS)
def head(request):
    return request.param


@pytest.fixture(params=ACTIVATIONS)
def activation(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["unweighted", "weighted"])
def weighted(request):
    return request.param


class TestOtherNetworks:
    """Every head with every activation, with weights and without."""

    N = 9

    @pytest.fixture
    def problem(self, head, weighted):
        layout, theta, X, _ = example((5, 4, 3, 3), n=self.N)
        rng = np.random.default_rng(1)
        weights = rng.random(self.N) * (rng.random(self.N) < 0.8) if weighted else None
        return layout, theta, X, targets_for(head, self.N, 3, rng), weights

    def test_the_loss_is_what_the_textbooks_write(self, problem, head):
        layout, theta, X, T, _ = problem
        S, _ = forward(layout.unflatten(theta), X)
        assert float(score(S, T, head)[1]) == pytest.approx(loss_by_definition(head, S, T, None), rel=1e-12)

    def test_the_gradient_is_that_of_finite_differences(self, problem, head, activation, find_backend):
        layout, theta, X, T, weights = problem
        l2 = 0.3

        def penalised(theta):
            layers = layout.unflatten(theta)
            S, _ = forward(layers, X, activation)
            n = self.N if weights is None else weights.sum()
            return loss_by_definition(head, S, T, weights) + l2 / (2 * n) * sum((W**2).sum() for W, _ in layers)

        objective = SampleObjective(layout, activation, head, l2)
        gradient, value, _, _ = compiled_gradient(find_backend("numpy"), objective)(theta, (X, T, weights))
        scale = 3 if head == "identity" else 1  # scikit-learn's report averages over the outputs
        assert scale == 3 or float(value) == pytest.approx(penalised(theta), rel=1e-12)
        steps = 1e-6 * np.eye(layout.size)
        expected = np.array([(penalised(theta + step) - penalised(theta - step)) / 2e-6 for step in steps])
        assert relative_error(gradient, expected) < 1e-8

    def test_every_library_agrees_with_numpy(self, problem, head, activation, backend):
        layout, theta, X, T, weights = problem

        def compute(move, device):
            w = None if weights is None else move(weights)
            evaluate = compiled_gradient(device, SampleObjective(layout, activation, head, 0.1))
            gradient, value, _, _ = evaluate(move(theta), (move(X), move(T), w))
            S, _ = forward(layout.unflatten(move(theta)), move(X), activation)
            return value, gradient, predictions(S, head), score(S, move(T), head)[1]

        found = compute(lambda array: backend.asarray(array, copy=True), backend)
        for ours, expected in zip(found, compute(np.copy, get_backend("numpy")), strict=True):
            assert relative_error(backend.to_numpy(ours), np.asarray(expected)) < 1e-12

    def test_targets_may_be_booleans(self, backend):
        S = backend.asarray(np.array([[1.0, -2.0], [0.5, 3.0]]))
        T = np.array([[True, False], [False, True]])
        as_floats = score(S, backend.asarray(T.astype(float)), "logistic")[1]
        assert float(score(S, backend.asarray(T), "logistic")[1]) == float(as_floats)

    def test_nothing_overflows(self, head):
        S = np.array([[-800.0, 800.0], [0.0, -30.0]])
        if head == "exp":
            S = np.minimum(S, 700)
        T = np.array([1, 0]) if head == "softmax" else np.array([[0.0, 1.0], [1.0, 0.0]])
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            P, value = predictions(S, head), float(score(S, T, head)[1])
        assert np.isfinite(value)
        assert np.isfinite(P).all()
        if head == "logistic":
            assert P[1, 1] == pytest.approx(np.exp(-30), rel=1e-12), "small probabilities keep their digits"

    def test_sparse_samples_give_what_dense_ones_do(self):
        sparse = pytest.importorskip("scipy.sparse")
        layout, theta, X, labels = example((5, 4, 3), n=8)
        X[X < 0.5] = 0
        layers = layout.unflatten(theta)
        expected = gradient_of(layout, layers, X, labels)
        for kind in (sparse.csr_matrix, sparse.csc_array):
            found = gradient_of(layout, layers, as_samples(kind(X)), labels)
            assert type(found) is np.ndarray
            assert relative_error(found, expected) < 1e-14

    def test_refuses_targets_of_another_shape(self):
        with pytest.raises(ShapeError, match=r"targets have shape \(8, 2\): expected \(8, 3\)"):
            score(np.zeros((8, 3)), np.zeros((8, 2)), "identity")

    def test_masks_are_part_of_the_derivative(self, activation):
        """M1 and M2, by finite differences."""
        layout, theta, X, labels = example((5, 4, 3, 3), n=8)
        rng = np.random.default_rng(2)
        masks = [(rng.random((8, width)) < 0.6) / 0.6 for width in (4, 3)]

        def loss(theta):
            return score(forward(layout.unflatten(theta), X, activation, masks)[0], labels)[1]

        layers = layout.unflatten(theta)
        S, trail = forward(layers, X, activation, masks)
        assert not trail[1][1][masks[0] == 0].any(), "what is left out is 0"
        gradient = layout.flatten(backward(layers, trail, score(S, labels)[0], activation, masks))
        expected = np.array([(loss(theta + h) - loss(theta - h)) / 2e-6 for h in 1e-6 * np.eye(layout.size)])
        assert relative_error(gradient, expected) < 1e-8

    def test_each_layer_may_have_its_own_activation(self):
        layout, theta, X, labels = example((5, 4, 3, 3), n=8)
        (W1, b1), (W2, b2), (W3, b3) = layers = layout.unflatten(theta)
        S, trail = forward(layers, X, ("tanh", "softplus"))
        np.testing.assert_allclose(S, np.log(1 + np.exp(np.tanh(X @ W1 + b1) @ W2 + b2)) @ W3 + b3, rtol=1e-13)

        def loss(theta):
            return score(forward(layout.unflatten(theta), X, ("tanh", "softplus"))[0], labels)[1]

        gradient = layout.flatten(backward(layers, trail, score(S, labels)[0], ("tanh", "softplus")))
        expected = np.array([(loss(theta + h) - loss(theta - h)) / 2e-6 for h in 1e-6 * np.eye(layout.size)])
        assert relative_error(gradient, expected) < 1e-8


PYTORCHS = {
    "logistic": lambda F: F.sigmoid,
    "identity": lambda F: lambda Z: Z,
    "gelu": lambda F: lambda Z: F.gelu(Z, approximate="tanh"),
}
"""PyTorch's functions, where they are not called as ours are."""


@pytest.mark.needs("torch")
def test_activations_are_pytorchs(activation):
    import torch

    layout, theta, X, labels = example((7, 6, 5, 4), n=32)
    leaf = torch.tensor(theta, requires_grad=True)
    f = PYTORCHS.get(activation, lambda F: getattr(F, activation))(torch.nn.functional)
    A, layers = torch.tensor(X), layout.unflatten(leaf)
    for k, (W, b) in enumerate(layers):
        A = A @ W + b if k == len(layers) - 1 else f(A @ W + b)
    loss = torch.nn.functional.cross_entropy(A, torch.tensor(labels))
    loss.backward()

    layers = layout.unflatten(theta)
    S, trail = forward(layers, X, activation)
    assert relative_error(S, A.detach().numpy()) < 1e-12
    gradient = layout.flatten(backward(layers, trail, score(S, labels)[0], activation))
    assert relative_error(gradient, leaf.grad.numpy()) < 1e-11


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("scale", [50, 1e4])
def test_activations_neither_overflow_nor_lose_small_values(activation, scale):
    Z = np.array([[-scale, scale, -0.0, -1e-9, 1e-9]])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        kept, A = ACTIVATIONS[activation].activate(Z.copy(), np.zeros((1, 5)), None)
        slope = ACTIVATIONS[activation].times_derivative(kept, A, np.ones((1, 5)), None)
    assert np.isfinite(A).all()
    assert np.isfinite(slope).all()
    if activation in ("elu", "silu", "gelu"):
        assert A[0, 4] == pytest.approx(1e-9 * slope[0, 2], rel=1e-8)
    if activation == "softplus" and scale == 50:
        assert slope[0, 0] == pytest.approx(np.exp(-50), rel=1e-12)


@pytest.mark.needs("torch")
@pytest.mark.parametrize(("head", "kind"), [("absolute", "L1Loss"), ("huber", "HuberLoss")])
def test_losses_of_values_are_pytorchs(head, kind):
    import torch

    rng = np.random.default_rng(0)
    S, T = rng.standard_normal((9, 3)), 2 * rng.standard_normal((9, 3))
    leaf = torch.tensor(S, requires_grad=True)
    loss = getattr(torch.nn, kind)(reduction="sum")(leaf, torch.tensor(T)) / 9
    loss.backward()
    delta, found, _ = score(S, T, head)
    assert float(found) == pytest.approx(loss.item(), rel=1e-13)
    np.testing.assert_allclose(delta, leaf.grad.numpy(), rtol=1e-13)
    at = score(S, T, huber(0.25))[1]
    assert float(at) == pytest.approx(torch.nn.HuberLoss(reduction="sum", delta=0.25)(leaf, torch.tensor(T)).item() / 9)


class TestBadInput:
    @pytest.mark.parametrize(
        ("activation", "problem"),
        [
            ("swish", "unknown activation 'swish': expected relu, identity"),
            (("relu", "swish"), "unknown activation 'swish'"),
            (("relu",), "1 activations for 2 hidden layers: expected one name, or one for each"),
        ],
    )
    def test_activations_that_are_none(self, activation, problem):
        layout, theta, X, _ = example((5, 4, 3, 3), n=8)
        with pytest.raises(ConfigError, match=problem):
            forward(layout.unflatten(theta), X, activation)

    def test_x_of_another_width(self, backend):
        layout, theta, X, _ = example((5, 4, 3), n=8)
        with pytest.raises(ShapeError, match=r"X has shape \(8, 4\): the first layer expects \(samples, 5\)"):
            forward(layout.unflatten(backend.asarray(theta)), backend.asarray(X[:, :4]))

    def test_x_of_another_dtype(self, backend):
        layout, theta, X, _ = example((5, 4, 3), n=8)
        with pytest.raises(ArrayError, match="X is .*float32, the layers are .*float64"):
            forward(layout.unflatten(backend.asarray(theta)), backend.asarray(X.astype(np.float32)))

    @pytest.mark.parametrize("spec", ["cupy", "torch", "jax", "dpnp", "array-api-strict"])
    @pytest.mark.needs("{spec}")
    def test_numpy_arrays_where_another_library_is_expected(self, spec, find_backend):
        backend = find_backend(spec, "float64")
        layout, theta, X, labels = example((5, 4, 3), n=8)
        layers = layout.unflatten(backend.asarray(theta))
        with pytest.raises(ArrayError, match=f"X comes from numpy, layers from {backend.library}: move X"):
            forward(layers, X)
        S, _ = forward(layers, backend.asarray(X))
        with pytest.raises(ArrayError, match=f"T comes from numpy, S from {backend.library}"):
            score(S, labels)

    def test_something_that_is_no_array(self):
        layout, theta, X, _ = example((5, 4, 3), n=8)
        with pytest.raises(ArrayError, match="X is a list, not an array"):
            forward(layout.unflatten(theta), X.tolist())

    def test_labels_that_are_not_one_integer_a_row(self, backend):
        S = backend.asarray(np.zeros((4, 3)))
        with pytest.raises(ShapeError, match=r"labels have shape \(3,\): expected \(4,\)"):
            score(S, backend.asarray(np.zeros(3, dtype=np.int32)))
        with pytest.raises(ArrayError, match="labels are .*float64: expected integers"):
            score(S, backend.asarray(np.zeros(4)))

    def test_no_sample_has_no_mean_loss(self, backend):
        nothing = backend.asarray(np.zeros((0, 3)))
        with pytest.raises(ShapeError, match=r"S has shape \(0, 3\): expected at least one sample"):
            score(nothing, backend.asarray(np.zeros(0, dtype=np.int32)))
        with pytest.raises(ShapeError, match=r"S has shape \(0, 3\): expected at least one sample"):
            score(nothing, nothing, "identity")

    def test_a_refusal_is_what_python_would_call_it_too(self):
        assert issubclass(ArrayError, TypeError)
        assert issubclass(ShapeError, ValueError)
        assert all(issubclass(error, XpmlpError) for error in (ArrayError, ShapeError, ConfigError))
