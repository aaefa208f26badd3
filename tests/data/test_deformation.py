"""Deformed images: against SciPy's interpolation on every backend, and what a run with them must still promise."""

import dataclasses
import itertools

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from tests.conftest import make_dataset
from tests.training.test_training import Keeper, untimed
from xpmlp.data import Dataset
from xpmlp.data.deformation import COUNT, Deformation, basis, deformed, draw, sampled
from xpmlp.errors import ArrayError, ConfigError, DataError
from xpmlp.math.elements import scaled
from xpmlp.math.schedules import constant, fading
from xpmlp.training.config import TrainConfig
from xpmlp.training.run import train_network as train

SHAPES = [(28, 28), (8, 8), (5, 9), (2, 3)]
CONFIG = TrainConfig(hidden=(16, 8), epochs=3, batch_size=16, learning_rate=0.1, deform=1.0)


def make_images(n, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def expected_of(images, displacements, max_value, mode):
    """Return what SciPy makes of images (n, height, width), in float64."""
    places = np.indices(images.shape[1:]) + displacements.astype(np.float64)
    sampled = [
        map_coordinates(image.astype(np.float64), place, order=1, mode=mode)
        for image, place in zip(images, places, strict=True)
    ]
    return np.stack(sampled).reshape(len(images), -1) / max_value


class TestSampling:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("most", [0.7, 3.0, 100.0])
    def test_is_scipys(self, backend, each_way, dtype, shape, most):
        """Around the image lies a plane of zeros, into which the outermost pixels fade: SciPy's grid-constant."""
        images = make_images(7, shape)
        displacements = np.random.default_rng(1).uniform(-most, most, (7, 2, *shape)).astype(dtype)
        expected = expected_of(images, displacements, 255, "grid-constant")
        for _ in each_way():
            arrays = backend.asarray(images.reshape(7, -1)), backend.asarray(displacements)
            for function in (sampled, backend.compile(lambda images, field: sampled(images, field, 255))):
                found = backend.to_numpy(function(*arrays, 255) if function is sampled else function(*arrays))
                assert (found.dtype, found.shape) == (dtype, expected.shape)
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if dtype == "float32" else 1e-12)
            assert np.array_equal(backend.to_numpy(arrays[0]).reshape(images.shape), images), "left as they were"
            assert np.array_equal(backend.to_numpy(arrays[1]), displacements), "left as they were"

    def test_of_no_images_is_none(self, backend, each_way, dtype):
        images, field = make_images(0, (5, 9)).reshape(0, 45), np.zeros((0, 2, 5, 9), dtype)
        for _ in each_way():
            found = backend.to_numpy(sampled(backend.asarray(images), backend.asarray(field), 255))
            assert (found.dtype, found.shape) == (dtype, (0, 45))

    @pytest.mark.long_on_jax
    def test_of_images_with_a_blank_margin_is_also_scipys_without_fading(self, backend, each_way, dtype):
        images = np.pad(make_images(7, (24, 24)), [(0, 0), (2, 2), (2, 2)])
        displacements = np.random.default_rng(1).uniform(-3, 3, (7, 2, 28, 28)).astype(dtype)
        expected = expected_of(images, displacements, 255, "constant")
        for _ in each_way():
            found = sampled(backend.asarray(images.reshape(7, -1)), backend.asarray(displacements), 255)
            np.testing.assert_allclose(backend.to_numpy(found), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("down", "right"), [(0, 0), (1, 0), (0, -2), (-1, 3), (40, 0), (0, -40)])
    @pytest.mark.long_on_jax
    def test_by_whole_pixels_moves_them_exactly(self, backend, each_way, dtype, down, right):
        images = make_images(3, (6, 5))
        moved = np.zeros_like(images)
        for y, x in np.ndindex(6, 5):
            if 0 <= y + down < 6 and 0 <= x + right < 5:
                moved[:, y, x] = images[:, y + down, x + right]
        displacements = np.empty((3, 2, 6, 5), dtype)
        displacements[:, 0], displacements[:, 1] = down, right
        for _ in each_way():
            theta = backend.asarray(displacements)
            expected = scaled(backend.asarray(moved.reshape(3, -1)), share=1 / 255, dtype=theta.dtype)
            found = sampled(backend.asarray(images.reshape(3, -1)), theta, 255)
            assert np.array_equal(backend.to_numpy(found), backend.to_numpy(expected))


class TestTheNumbers:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.long_on_jax
    def test_with_strength_0_the_images_come_back_exactly(self, backend, each_way, dtype, shape):
        images = backend.asarray(make_images(4, shape).reshape(4, -1))
        functions = backend.asarray(basis(shape).astype(dtype))
        numbers = draw(np.random.default_rng(0), 4, 0.0, shape)
        assert not numbers.any()
        for _ in each_way():
            found = deformed(images, backend.asarray(numbers.astype(dtype)), functions, shape, 16)
            assert np.array_equal(
                backend.to_numpy(found), backend.to_numpy(scaled(images, share=1 / 16, dtype=functions.dtype))
            )

    def test_a_strength_for_each_image_is_that_images_alone(self):
        strengths = np.array([0.0, 1.0, 0.5])
        numbers = draw(np.random.default_rng(0), 3, strengths, (28, 28))
        for k, strength in enumerate(strengths):
            assert np.array_equal(numbers[k], draw(np.random.default_rng(0), 3, strength, (28, 28))[k])

    @pytest.mark.parametrize("shape", [(28, 28), (8, 8), (10, 30)])
    def test_the_field_bends_as_much_at_every_pixel_in_proportion_to_the_sides(self, shape):
        numbers = draw(np.random.default_rng(0), 4000, 1.0, shape)
        fields = (numbers[:, :, 3:].astype(np.float64) @ basis(shape)[3:]).std(axis=0)
        for field, side in zip(fields, shape, strict=True):
            np.testing.assert_allclose(field, 0.04 * side, rtol=0.06)

    def test_the_even_part_is_a_turn_a_slant_and_a_scale_within_their_bounds(self):
        numbers = draw(np.random.default_rng(0), 2000, 1.0, (28, 28)).astype(np.float64)
        matrices = numbers[:, :, 1:3] + np.eye(2)
        turn = np.rad2deg(np.arctan2(matrices[:, 0, 1], matrices[:, 1, 1]))
        assert 14.5 < turn.max() <= 15
        assert -14.5 > turn.min() >= -15
        determinant = np.linalg.det(matrices)
        assert 1.2 < determinant.max() <= np.exp(0.3)
        assert 1 / 1.2 > determinant.min() >= np.exp(-0.3)
        assert 1.3 < np.abs(numbers[:, :, 0]).max() <= 0.05 * 28
        unturned = np.linalg.solve(
            np.stack([[np.cos(a := np.deg2rad(turn)), np.sin(a)], [-np.sin(a), np.cos(a)]]).transpose(2, 0, 1), matrices
        )
        np.testing.assert_allclose(unturned[:, 0, 1], 0, atol=1e-6)
        slant = unturned[:, 1, 0] / unturned[:, 0, 0]
        assert 0.19 < np.abs(slant).max() <= 0.2 + 1e-6

    @pytest.mark.long_on_jax
    def test_an_epochs_numbers_are_the_same_wherever_it_is_taken_up(self, backend):
        deformation = Deformation(constant(1.0), (5, 4), 255, 3000, backend)
        images = backend.asarray(make_images(3000, (5, 4)).reshape(3000, -1))
        whole = [
            backend.to_numpy(deformation(images, numbers)) for numbers in itertools.islice(deformation.epoch(7), 8)
        ]
        assert len({X.tobytes() for X in whole}) == 8, "each batch has numbers of its own"
        for start in (1, 5, 7):
            numbers = next(deformation.epoch(7, start))
            assert np.array_equal(backend.to_numpy(deformation(images, numbers)), whole[start])
        assert not np.array_equal(backend.to_numpy(deformation(images, next(deformation.epoch(8)))), whole[0])

    @pytest.mark.long_on_jax
    def test_a_shorter_last_batch_takes_the_first_numbers(self, backend):
        deformation = Deformation(constant(1.0), (5, 4), 255, 16, backend, "float64")
        images, numbers = make_images(16, (5, 4)).reshape(16, -1), next(deformation.epoch(0))
        whole, part = (backend.to_numpy(deformation(backend.asarray(images[:n]), numbers)) for n in (16, 5))
        np.testing.assert_allclose(part, whole[:5], rtol=0, atol=1e-13)


class TestARun:
    def test_is_the_same_on_every_backend(self, backend, tiny):
        config = dataclasses.replace(CONFIG, dtype="float64")
        from xpmlp.backends import get_backend

        theta, history = train(config, tiny, backend)
        reference, its_history = train(config, tiny, get_backend("numpy"))
        np.testing.assert_allclose(backend.to_numpy(theta), reference, rtol=1e-6, atol=1e-9)
        assert history.epochs[-1].train_loss == pytest.approx(its_history.epochs[-1].train_loss, rel=1e-7)

    @pytest.mark.long_on_jax
    def test_is_the_same_streamed_and_resident(self, backend, tiny):
        thetas = [
            backend.to_numpy(train(dataclasses.replace(CONFIG, transfer=transfer), tiny, backend)[0])
            for transfer in ("resident", "stream")
        ]
        assert np.array_equal(*thetas)

    def test_is_another_one_than_without(self, tiny, find_backend):
        backend = find_backend("numpy")
        thetas = [train(dataclasses.replace(CONFIG, deform=strength), tiny, backend)[0] for strength in (0.0, 0.5, 1.0)]
        assert not any(np.array_equal(a, b) for a, b in itertools.combinations(thetas, 2))

    def test_that_fades_out_ends_with_the_images_as_they_are(self, find_backend):
        backend, images = find_backend("numpy"), make_images(16, (5, 4)).reshape(16, -1)
        deformation = Deformation(fading(1.0, 8, 0.5), (5, 4), 255, 16, backend)
        steady = Deformation(constant(1.0), (5, 4), 255, 16, backend)
        as_they_are = scaled(images, share=1 / 255, dtype=np.dtype("float32"))
        faded, whole = (
            [of(images, numbers) for numbers in itertools.islice(of.epoch(0, before=2), 6)]
            for of in (deformation, steady)
        )
        distances = [np.abs(X - as_they_are).mean() for X in faded]
        assert np.array_equal(faded[0], whole[0]), "step 3 of 8 is before the last half"
        assert np.array_equal(faded[1], whole[1])
        assert all(np.abs(X - as_they_are).mean() > distances[4] > 0 for X in whole)
        assert np.array_equal(faded[5], as_they_are)

    def test_sees_the_images_that_its_seed_draws(self, tiny, find_backend):
        """One step of plain SGD, written out."""
        from xpmlp.math.layout import Layout, init
        from xpmlp.math.network import backward, forward, score

        config = TrainConfig(
            hidden=(8,), epochs=1, batch_size=240, val_size=0, momentum=0.0, schedule="constant", learning_rate=0.5,
            deform=1.0, dtype="float64", seed=3,
        )  # fmt: skip
        theta, _ = train(config, tiny, find_backend("numpy"))
        rng, layout = np.random.default_rng(3), Layout((20, 8, 3))
        expected = init(layout, rng, "float64")
        order = rng.permutation(240)
        seed = int(rng.integers(2**63))
        numbers = draw(np.random.default_rng((seed, 0)), (16_384 // 240) * 240, 1.0, (5, 4))[:240].astype(np.float64)
        displacements = (numbers @ basis((5, 4))).reshape(240, 2, 5, 4)
        X = expected_of(tiny.images[order], displacements, 255, "grid-constant")
        layers = layout.unflatten(expected)
        S, trail = forward(layers, X)
        expected = expected - 0.5 * layout.flatten(backward(layers, trail, score(S, tiny.labels[order])[0]))
        np.testing.assert_allclose(theta, expected, rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("transfer", ["resident", "stream"])
    def test_that_went_on_ends_as_if_it_had_never_stopped(self, tiny, find_backend, transfer):
        backend, keeper = find_backend("numpy"), Keeper()
        config = dataclasses.replace(CONFIG, transfer=transfer)
        whole, history = train(config, tiny, backend, [keeper], checkpoint_steps=5)
        assert len(keeper.checkpoints) > 6
        for checkpoint in keeper.checkpoints.values():
            theta, gone_on = train(config, tiny, backend, start=checkpoint)
            assert np.array_equal(theta, whole), checkpoint.step
            assert untimed(gone_on.epochs) == untimed(history.epochs)


class TestRefusals:
    @pytest.mark.parametrize("strength", [-0.1, float("nan"), float("inf"), 11])
    def test_of_a_strength_that_is_none(self, strength):
        with pytest.raises(ConfigError, match=rf"^deform {strength}: expected a strength of at least 0 \(off\)"):
            TrainConfig(deform=strength)

    @pytest.mark.parametrize("shape", [(1, 20), (20, 1), (20,)])
    def test_of_data_that_are_no_images(self, shape, find_backend):
        tiny = make_dataset(240)
        flat = Dataset(tiny.images.reshape(240, *shape), tiny.labels, tiny.class_names, 255, "flat")
        backend = find_backend("numpy")
        is_image = len(shape) > 1
        what = (
            f"^images of {shape[0]} × {shape[1]} cannot be deformed: expected" if is_image else "is for images: these"
        )
        with pytest.raises(DataError if is_image else ConfigError, match=what):
            train(CONFIG, flat, backend)
        train(dataclasses.replace(CONFIG, deform=0.0), flat, backend)

    def test_of_images_of_another_width(self, backend):
        images, numbers = np.zeros((2, 19), np.uint8), np.zeros((2, 2, COUNT))
        with pytest.raises(DataError, match=r"images of shape \(2, 19\) .* expected \(n, 20\), pictures of 5 × 4"):
            deformed(*(backend.asarray(x) for x in (images, numbers, basis((5, 4)))), (5, 4), 255)

    @pytest.mark.needs("array-api-strict")
    def test_of_arrays_of_two_libraries(self, find_backend):
        strict = find_backend("array-api-strict")
        with pytest.raises(ArrayError, match="numbers comes from numpy, images from array_api_strict"):
            deformed(strict.asarray(np.zeros((2, 20), np.uint8)), np.zeros((2, 2, COUNT)), basis((5, 4)), (5, 4), 255)
