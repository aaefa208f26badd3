"""The arithmetic of half precision and of TF32, which the host does not have."""

import numpy as np

from tests.cuda_on_cpu.emulated import check, run_fresh  # skips this module where the device is not installed

import cupy  # isort: skip


def test_half_is_rounded_to_the_nearest_ties_to_even():
    halves = np.arange(1 << 16, dtype="uint16").view("float16")
    finite = np.sort(halves[np.isfinite(halves)].astype("float64"))
    between = (finite[:-1] + finite[1:]) / 2
    values = np.concatenate([finite, between, between * (1 + 2**-40), [65519.9, 65520, 1e9, -1e9, np.inf]])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(cupy.asarray(values).astype("float16").get(), values.astype("float16"))
        singles = values.astype("float32")
        np.testing.assert_array_equal(cupy.asarray(singles).astype("float16").get(), singles.astype("float16"))


def test_every_half_becomes_the_right_single():
    halves = np.arange(1 << 16, dtype="uint16").view("float16")
    np.testing.assert_array_equal(cupy.asarray(halves).astype("float32").get(), halves.astype("float32"))


def test_a_product_of_halves_is_summed_in_single_precision():
    x = np.full((1, 4096), 1, "float16")  # summed in half precision, it stays at 2048
    assert float((cupy.asarray(x) @ cupy.asarray(x.T))[0, 0]) == 4096


def test_a_product_is_single_precision_unless_tf32_is_asked_for():
    script = """
    x = np.array([[1 + 2**-10 + 2**-12, 1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-23]], "float32")
    product = float((cupy.asarray(x) @ cupy.asarray(np.eye(4, dtype="float32")))[0].get() @ [1, 2, 4, 8])
    assert product == float(np.EXPECTED @ [1, 2, 4, 8])
    """
    check(script.replace("np.EXPECTED", "x[0].astype('float64')"), run=run_fresh, CUPY_TF32="0")
    ties_to_even = "np.array([1 + 2**-10, 1, 1 + 2**-9, 1])"
    check(script.replace("np.EXPECTED", ties_to_even), run=run_fresh, CUPY_TF32="1")
