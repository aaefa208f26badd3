"""The math names no library: ndonnx's arrays pass through its lines, and what they note is an ONNX model."""

import numpy as np
import pytest

from tests.conftest import make_dataset
from xpmlp.math.activations import softmax
from xpmlp.math.elements import scaled
from xpmlp.math.layout import Layout, init
from xpmlp.math.network import forward
from xpmlp.math.optimizers import adam, sgd
from xpmlp.training.objectives import ImageObjective
from xpmlp.training.steps import Totals, make_step

pytestmark = [pytest.mark.needs(module="ndonnx"), pytest.mark.needs(module="onnxruntime")]

LAYOUT, BATCH = Layout((20, 12, 8, 3)), 16
THETA = init(LAYOUT, np.random.default_rng(0))


def running(inputs, outputs):
    """Return a function from the inputs' values to the outputs', which onnxruntime computes."""
    import ndonnx
    import onnx
    import onnxruntime

    model = ndonnx.build(inputs, outputs)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    taken = {one.name for one in session.get_inputs()}
    return lambda **values: dict(
        zip(outputs, session.run(list(outputs), {k: v for k, v in values.items() if k in taken}), strict=True)
    )


def probabilities(theta, images):
    S, _ = forward(LAYOUT.unflatten(theta), scaled(images, share=1 / 255, dtype=theta.dtype))
    return softmax(S)


def test_a_prediction():
    import ndonnx

    images = ndonnx.argument(shape=("n", 20), dtype=ndonnx.uint8)
    predict = running({"images": images}, {"P": probabilities(ndonnx.asarray(THETA), images)})
    for n in (1, 50):
        given = make_dataset(n).images.reshape(n, 20)
        assert np.abs(predict(images=given)["P"] - probabilities(THETA, given)).max() < 5e-7


@pytest.mark.parametrize(
    "optimizer",
    [pytest.param(sgd(0.9, nesterov=True), id="nesterov", marks=pytest.mark.full), pytest.param(adam(), id="adam")],
)
def test_a_whole_step_that_trains(optimizer):
    """From parameters, the optimizer's vectors, the totals and a batch to their successors; a hundred times."""
    import ndonnx

    step = make_step(ImageObjective(LAYOUT, 255), optimizer)

    def argument(value):
        value = np.asarray(value)
        return ndonnx.argument(shape=value.shape, dtype=getattr(ndonnx, value.dtype.name))

    def flat(theta, state, totals):
        return {"theta": theta, **state, **totals._asdict()}

    def scalars(k):
        return {name: np.array(value, np.float32) for name, value in optimizer.scalars(k, 0.01).items()}

    data = make_dataset(BATCH * 100)
    images, labels = data.images.reshape(100, BATCH, 20), data.labels.astype(np.int32).reshape(100, BATCH)
    theta, state = THETA.copy(), optimizer.init(THETA)
    totals = Totals(np.zeros((), np.float32), *(np.zeros((), np.int32) for _ in range(3)))
    there = {name: np.array(value) for name, value in flat(theta, state, totals).items()}

    given = {
        name: argument(value)
        for name, value in {**there, **scalars(1), "images": images[0], "labels": labels[0]}.items()
    }
    handed = step(
        given["theta"],
        {name: given[name] for name in state},
        Totals(*(given[name] for name in Totals._fields)),
        (given["images"], given["labels"]),
        {name: given[name] for name in scalars(1)},
    )
    run = running(given, {f"next {name}": value for name, value in flat(*handed).items()})

    for k in range(100):
        theta, state, totals = step(theta, state, totals, (images[k], labels[k]), optimizer.scalars(k + 1, 0.01))
        found = run(**there, **scalars(k + 1), images=images[k], labels=labels[k])
        there = {name.removeprefix("next "): value for name, value in found.items()}
    assert np.abs(theta - THETA).max() > 0.1
    assert np.abs(there["theta"] - theta).max() < 2e-5
    assert (there["correct"], there["steps"], there["finite"]) == (totals.correct, totals.steps, totals.finite)
    assert there["loss"] == pytest.approx(float(totals.loss), rel=1e-5)
