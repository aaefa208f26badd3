"""A step of NumPy's arrays that is recorded and repeated gives the same bits as its own lines."""

import itertools
import re
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

from tests.conftest import make_dataset
from xpmlp.backends import get_backend
from xpmlp.data import DeviceLoader
from xpmlp.data.deformation import Deformation
from xpmlp.data.dropout import Dropout
from xpmlp.data.noise import Noise
from xpmlp.kernels import kernels, recorded
from xpmlp.kernels.recording import mapped
from xpmlp.kernels.replay import Program, record
from xpmlp.math.activations import ACTIVATIONS, HEADS
from xpmlp.math.layout import Layout, init
from xpmlp.math.optimizers import adam, adamw, sgd
from xpmlp.training.objectives import ImageObjective, SampleObjective
from xpmlp.training.steps import Carry, make_evaluation_step, make_gradient_step, make_step, zero_totals

NUMPY = get_backend("numpy")
OPTIMIZERS = {
    "sgd": sgd(),
    "momentum": sgd(0.9),
    "nesterov": sgd(0.9, nesterov=True, weight_decay=1e-3),
    "rate inside": sgd(0.9, rate_inside=True),
    "adam": adam(weight_decay=1e-3),
    "adamw": adamw(),
}
WAYS = ["inplace", pytest.param("compiled", marks=pytest.mark.needs(module="numba"))]


def bits(tree):
    """Return the bytes of all arrays and numbers of a tree, in their order."""
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, tuple | list):
        return [found for part in tree for found in bits(part)]
    return [] if tree is None else [np.asarray(tree).tobytes()]


def programs(step):
    """Return what a step was recorded as: programs, or None where it could not be."""
    return [found for found in step._programs.values() if not isinstance(found, int)]


def require_equal_runs(make, inputs, start):
    """Require that a recorded step goes the way of the plain lines' kernels, call by call, and is recorded."""
    step, plain, ours, expected = recorded(make(), (0, 1, 2)), make(), start(), start()
    for given in inputs:
        ours, expected = step(*ours, *given), plain(*expected, *given)
        assert type(ours) is type(expected)
        assert bits(ours) == bits(expected)
    assert programs(step), "it was called often enough"
    assert all(programs(step)), "it is recorded"
    return step


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("transfer", ["resident", "stream"])
def test_a_step_of_images(optimizer, transfer, dtype, way):
    data, layout, rule = make_dataset(110), Layout((20, 8, 6, 3)), OPTIMIZERS[optimizer]
    theta = init(layout, np.random.default_rng(0), dtype)

    def inputs():
        rng, count = np.random.default_rng(1), itertools.count(1)
        for _ in range(5):  # each with a short batch at its end
            for batch in DeviceLoader(data, NUMPY, 25, transfer, reuse_buffers=True).batches(rng.permutation(110)):
                yield batch, rule.scalars(next(count), 0.05), None

    def start():
        return Carry(theta.copy(), rule.init(theta), zero_totals(NUMPY, dtype))

    with kernels(way, "numpy"):
        step = require_equal_runs(lambda: make_step(ImageObjective(layout, 255), rule), inputs(), start)
    assert len(programs(step)) == 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["centred", "deformed", "dropout", "both"])
def test_a_step_that_is_centred_or_has_noise(kind, way):
    data, layout, rule = make_dataset(100), Layout((20, 8, 6, 3)), sgd(0.9)
    theta = init(layout, np.random.default_rng(0), "float32")

    def run(wrap):
        deformation = dropout = None
        if kind in ("deformed", "both"):
            deformation = Deformation(lambda step: 1.0, (5, 4), 255, 25, NUMPY, "float32")
        if kind in ("dropout", "both"):
            dropout = Dropout(0.25, (8, 6), 25, NUMPY)
        objective = ImageObjective(layout, 255, 0.1 * (kind == "centred"), deformation, dropout)
        plain = make_step(objective, rule)
        step, carry = wrap(plain), Carry(theta.copy(), rule.init(theta), zero_totals(NUMPY, "float32"))
        for epoch in range(15):  # the noise of an epoch is one large array
            nothing = itertools.repeat(None)
            drawn = deformation.epoch(epoch, 0, 4 * epoch) if deformation else nothing
            left_out = dropout.epoch(epoch, 0) if dropout else nothing
            noise = map(Noise, drawn, left_out) if deformation or dropout else nothing
            for batch, each in zip(DeviceLoader(data, NUMPY, 25), noise, strict=False):
                carry = step(*carry, batch, rule.scalars(1, 0.05), each)
        if step is not plain:
            assert all(programs(step)), "it is recorded"
            assert programs(step)
        return bits(carry)

    with kernels(way, "numpy"):
        assert run(lambda step: recorded(step, (0, 1, 2))) == run(lambda step: step)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("alpha", [0.0, 1e-3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_step_of_samples(activation, head, weighted, alpha, way):
    layout, rule, rng = Layout((6, 5, 3)), adam(epsilon_hat=True), np.random.default_rng(0)
    theta = 0.3 * init(layout, rng, "float64")
    objective = SampleObjective(layout, activation, head, alpha)

    def inputs():
        for k in range(1, 7):
            X, T = rng.random((30, 6)), rng.random((30, 3))
            T = {"softmax": rng.integers(0, 3, 30).astype(np.int32), "logistic": T > 0.5}.get(head, T)
            yield (X, T, rng.random(30) if weighted else None), rule.scalars(k, 0.01), None

    def start():
        return Carry(theta.copy(), rule.init(theta), zero_totals(NUMPY, "float64"))

    with kernels(way, "numpy"):
        require_equal_runs(lambda: make_step(objective, rule), list(inputs()), start)


def test_an_evaluation_and_an_objective_by_itself():
    data, layout = make_dataset(50), Layout((20, 6, 3))
    theta = init(layout, np.random.default_rng(0), "float32")
    batch = data.images.reshape(50, -1), data.labels.astype(np.int32)
    for step, arguments in (
        (make_evaluation_step(layout, 255), (zero_totals(NUMPY, "float32"), theta, batch)),
        (ImageObjective(layout, 255), (theta, batch)),
    ):
        ours = recorded(step)
        found = [ours(*arguments) for _ in range(6)]
        assert all(programs(ours))
        assert {tuple(map(bytes, bits(each))) for each in found} == {tuple(map(bytes, bits(step(*arguments))))}


class TestWhatIsReturned:
    def test_is_not_overwritten_by_the_next_call(self):
        layout = Layout((20, 6, 3))
        objective, thetas = recorded(ImageObjective(layout, 255)), np.random.default_rng(0).random((6, layout.size))
        data = make_dataset(50)
        batch = data.images.reshape(50, -1), data.labels.astype(np.int32)
        gradients = [objective(theta, batch)[0] for theta in thetas]
        expected = [ImageObjective(layout, 255)(theta, batch)[0] for theta in thetas]
        assert bits(tuple(gradients)) == bits(tuple(expected))

    def test_are_the_arrays_that_were_handed_over(self):
        layout, rule = Layout((20, 6, 3)), adam()
        step = recorded(make_step(ImageObjective(layout, 255), rule), (0, 1, 2))
        theta, data = init(layout, np.random.default_rng(0), "float32"), make_dataset(50)
        batch = data.images.reshape(50, -1), data.labels.astype(np.int32)
        carry = first = Carry(theta, rule.init(theta), zero_totals(NUMPY, "float32"))
        for k in range(1, 7):
            carry = step(*carry, batch, rule.scalars(k, 0.01), None)
        assert carry.theta is theta
        assert all(carry.state[name] is vector for name, vector in first.state.items())
        other = carry.theta.copy()  # from a checkpoint, say: other arrays of the same shapes
        expected = make_step(ImageObjective(layout, 255), rule)
        expected = bits(expected(*mapped((other, *carry[1:]), np.copy), batch, rule.scalars(7, 0.01), None))
        moved = step(other, *carry[1:], batch, rule.scalars(7, 0.01), None)
        assert moved.theta is other
        assert bits(moved) == expected


def xp(x):
    return x.__array_namespace__()


def changes_a_view_of_a_constant(x):
    z = xp(x).zeros((2, 3))
    v = z[0]
    v += x
    return v


def changes_a_constant_by_nothing_at_first(x):
    z = xp(x).zeros(3)
    z += x
    return z


def squares_in_place(theta, x):
    v = theta[:2]
    v **= 2
    return theta, x + 1


def makes_constants_that_compare_equal(x):
    return xp(x).full((3,), 1), xp(x).full((3,), True), 1 / (x + 0.0), 1 / (x + -0.0)


def copies_signs(x):
    return xp(x).copysign(x, xp(x).full((3,), 0.0)), xp(x).copysign(x, xp(x).full((3,), -0.0))


def returns_the_same_twice(x):
    return xp(x).zeros_like(x), xp(x).zeros_like(x), x * 2, x * 2


def returns_a_view(x, k):
    y = xp(x).reshape(x, (1, 3)) + 1
    return xp(x).permute_dims(y, (1, 0)), y[k, :], [y, y[0]]


def asks_whether_a_number_is_there(x, k):
    return (x * 2 if k else x * 3), (x if k == 1 else -x)


def takes_what_is_positive(x):
    return abs(x[x > 0])


def changes_what_was_flattened(theta, x):
    v = xp(x).reshape(theta, (-1,))
    theta -= x[0]
    return theta, v * 1


def joins(x):
    return xp(x).concat([x, x + 1])


ODD = [
    (changes_a_view_of_a_constant, (), lambda k: (np.arange(3.0) + k,)),
    (changes_a_constant_by_nothing_at_first, (), lambda k: (np.arange(3.0) * max(0, k - 4),)),
    (squares_in_place, (0,), lambda k: (np.arange(2.0, 5.0), np.ones(3))),
    (makes_constants_that_compare_equal, (), lambda k: (np.array([1.0, -0.0, 0.0]) if k > 4 else np.ones(3),)),
    (copies_signs, (), lambda k: (np.arange(1.0, 4.0),)),
    (returns_the_same_twice, (), lambda k: (np.arange(3.0) + k,)),
    (returns_a_view, (), lambda k: (np.arange(3.0) + k, 0)),
    (asks_whether_a_number_is_there, (), lambda k: (np.arange(3.0) + k, k % 2)),
    (takes_what_is_positive, (), lambda k: (np.arange(3.0) - k,)),
    (changes_what_was_flattened, (0,), lambda k: (np.ones((2, 6))[:, :: 2 if k < 5 else 1][:, :3], np.ones(3))),
    (joins, (), lambda k: (np.arange(3.0) + k,)),
]
"""Steps that no network makes, the positions of what they are handed over, and their k-th arguments."""


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize(("step", "kept", "arguments"), ODD, ids=[step.__name__ for step, *_ in ODD])
def test_an_odd_step_is_right_whether_recorded_or_not(step, kept, arguments):
    ours, found, expected = recorded(step, kept), [], []
    for k in range(12):
        found.append(ours(*arguments(k)))
        expected.append(step(*arguments(k)))
    assert [bits(result) for result in found] == [bits(result) for result in expected], "earlier results, too"
    for result in found:
        arrays = [array for array in result if isinstance(array, np.ndarray)] if isinstance(result, tuple) else []
        assert not any(a is b for a, b in itertools.combinations(arrays, 2))


def test_a_single_number_comes_as_an_array_or_as_it_is():
    ours = recorded(lambda t: t + 1)
    for k in range(8):
        for t in np.asarray(float(k)), np.float64(k):
            assert ours(t) == k + 1


def test_the_step_of_several_ranks_is_recorded():
    data, layout = make_dataset(50), Layout((20, 6, 3))
    theta = init(layout, np.random.default_rng(0), "float32")
    step, batch = (
        make_gradient_step(ImageObjective(layout, 255)),
        (data.images.reshape(50, -1), data.labels.astype("i4")),
    )
    ours = recorded(step)
    for wish in 0.0, 0.0, 0.0, 1.0, 0.0:
        assert bits(ours(theta, batch, 0.5, wish)) == bits(step(theta, batch, 0.5, wish))
    assert programs(ours)
    assert all(programs(ours))


class TestAStepThat:
    """What is no list of calls of functions of arrays is not recorded, and stays right."""

    def called(self, step, arguments):
        ours, found = recorded(step), []
        for given in arguments:
            found.append(ours(*given))
        return programs(ours), found

    def test_looks_at_a_value(self):
        def step(x):
            return x * 2 if x[0] > 0 else x

        signs = [(np.full(3, sign),) for sign in (1.0, 1.0, 1.0, -1.0, 1.0, -1.0)]
        found, results = self.called(step, signs)
        assert found == [None]
        assert [result[0] for result in results] == [2.0, 2.0, 2.0, -1.0, 2.0, -1.0]

    @pytest.mark.parametrize("look", [float, int, bool, np.asarray])
    def test_takes_one_out(self, look):
        assert self.called(lambda x: x * (look(x[0]) is None), [(np.ones(1),)] * 4)[0] == [None]

    @pytest.mark.parametrize("look", [len, list, np.asarray, sum])
    def test_takes_all_out(self, look):
        assert self.called(lambda x: x * (look(x) is None), [(np.ones(1),)] * 4)[0] == [None]

    def test_computes_with_a_number(self):
        found, results = self.called(lambda x, rate: x * (2 * rate), [(np.ones(1), float(k)) for k in range(6)])
        assert found == [None]
        assert [result[0] for result in results] == [0, 2, 4, 6, 8, 10]

    def test_hands_a_number_on(self):
        found, results = self.called(lambda x, rate: x * rate, [(np.ones(1), float(k)) for k in range(6)])
        assert all(found)
        assert [result[0] for result in results] == [0, 1, 2, 3, 4, 5]

    def test_changes_a_constant(self):
        def step(x):
            c = x.__array_namespace__().zeros(3)
            c += 1
            return x + c

        found, results = self.called(step, [(np.ones(3),)] * 6)
        assert found == [None]
        assert [result[0] for result in results] == [2.0] * 6

    def test_is_given_what_is_no_array(self):
        assert self.called(lambda x, other: x, [(np.ones(3), object())] * 4)[0] == []

    def test_fails(self):
        ours = recorded(lambda x: x @ x)
        for _ in range(4):
            with pytest.raises(ValueError, match="matmul"):
                ours(np.ones((2, 3)))


def test_each_thread_has_its_own_memory():
    layout, data = Layout((20, 6, 3)), make_dataset(50)
    objective, batch = (
        recorded(ImageObjective(layout, 255)),
        (data.images.reshape(50, -1), data.labels.astype(np.int32)),
    )
    thetas = np.random.default_rng(0).random((2, layout.size)).astype(np.float32)
    expected = [bits(ImageObjective(layout, 255)(theta, batch)) for theta in thetas]
    wrong, together = [], threading.Barrier(2, timeout=30)

    def work(k):
        together.wait()
        for _ in range(300):
            if bits(objective(thetas[k], batch)) != expected[k]:
                wrong.append(k)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_shapes_without_end_take_no_memory_without_end():
    step = recorded(lambda x: x + 1)
    for n in range(1, 200):
        for _ in range(4):
            assert step(np.zeros(n)).sum() == n
    assert len(step._programs) <= 33


def test_what_is_released_keeps_neither_arguments_nor_much_memory():
    step = recorded(lambda theta, x: (theta, (x * 2) + 1), (0,))
    theta, large = np.ones(10), np.ones(1_000_000)
    for _ in range(4):
        step(theta, np.ones(5)), step(theta, large)
    assert len(programs(step)) == 1, "large steps are recorded later"
    for _ in range(50):
        step(theta, large)
    assert [found.n_bytes > 8 << 20 for found in programs(step)] == [False, True]
    gone = weakref.ref(theta)
    step.release()
    del theta
    assert gone() is None
    assert len(programs(step)) == 1


def test_a_step_asks_for_a_fifth_of_the_memory():
    """What makes it fast: its memory stays, all but that of the gathered batch and of what it returns."""
    data, layout, rule = make_dataset(2000), Layout((20, 60, 30, 3)), adam()
    batches = list(DeviceLoader(data, NUMPY, 1000).batches(np.arange(2000))) * 4

    def peak(step):
        theta = init(layout, np.random.default_rng(0), "float32")
        carry = Carry(theta, rule.init(theta), zero_totals(NUMPY, "float32"))
        for is_traced in False, True:
            if is_traced:
                tracemalloc.start()
            for k, batch in enumerate(batches, start=1):
                carry = step(*carry, batch, rule.scalars(k, 0.01), None)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    plain = make_step(ImageObjective(layout, 255), rule)
    assert 5 * peak(recorded(plain, (0, 1, 2))) < peak(plain)


def test_nothing_is_computed_twice_or_for_nobody():
    """Scikit-learn's loss and the gradient share what they can; the loss and accuracy of `score` are not asked for."""
    layout, rng = Layout((6, 5, 3)), np.random.default_rng(0)
    objective = SampleObjective(layout, "relu", "softmax", 0.0)
    batch = rng.random((30, 6)), rng.integers(0, 3, 30).astype(np.int32), None
    program = record(objective, (init(layout, rng, "float64"), batch), ())
    functions = [program._bind.__globals__[name] for name in re.findall(r"(k\d+)\(", program.text)]
    assert functions.count(np.equal) == 1, "one T"
    assert functions.count(np.maximum.reduce) == 1, "one greatest logit of each row"
    assert np.argmax not in functions


def test_a_program_is_a_list_of_calls():
    def step(theta, X):
        xp = X.__array_namespace__()
        W = xp.reshape(theta[:6], (3, 2))
        return theta, xp.sum(X @ W + theta[6:], axis=0)

    program = record(step, (np.arange(8.0), np.ones((4, 3))), (0,))
    assert isinstance(program, Program)
    lines = [re.sub(r"k\d+", "k", line) for line in program.text.splitlines()]
    assert lines == [
        "def bind(v0):",
        "    v2 = v0[:6:]",
        "    v3 = v2.reshape((3, 2, ))",
        "    v5 = v0[6::]",
        "    def run(v1):",
        "        k(v1, v3, out=v4)",
        "        k(v4, v5, out=v6)",
        "        k(v6, axis=0, out=v7)",
        "        return (v0, v7.copy(), )",
        "    return run",
    ]
