"""Pictures: every kind of file is read as it looks, and a character on any paper becomes what MNIST would hold."""

import io
import os
import struct
import time
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage
from sklearn.datasets import load_digits

from xpmlp.data.ink import character_in
from xpmlp.data.pages import characters_on
from xpmlp.data.pictures import grey_bytes, read_picture, read_values, resized, size_and_mode, white_of
from xpmlp.data.preparation import FORMS, are_placed
from xpmlp.errors import DataError

MNIST = (28, 28)


def normalise(*arguments):
    return character_in(*arguments).image


def save(path, image, **options):
    image.save(path, **options)
    return path


def ramp():
    """Grey values from 0 to 255, all of them, that differ from left to right and from top to bottom."""
    return np.arange(256, dtype=np.uint8).reshape(8, 32)


def grey():
    return Image.fromarray(ramp())


class TestReading:
    @pytest.mark.parametrize("name", ["a.png", "a.pgm", "a.bmp", "a.gif", "a.tiff"])
    def test_a_format_without_loss_gives_its_values(self, tmp_path, name):
        found = read_picture(save(tmp_path / name, grey()))
        assert found.dtype == np.uint8
        assert np.array_equal(found, ramp())

    @pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
    def test_a_format_with_loss_gives_nearly_its_values(self, tmp_path, name):
        smooth = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
        found = read_picture(save(tmp_path / name, Image.fromarray(smooth), quality=95))
        assert np.abs(found.astype(int) - smooth).max() <= 8

    def test_the_contents_tell_the_format_and_not_the_name(self, tmp_path):
        assert np.array_equal(read_picture(str(save(tmp_path / "a.txt", grey(), format="PNG"))), ramp())

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
    def test_grey_is_grey_in_every_mode(self, tmp_path, mode):
        assert np.array_equal(read_picture(save(tmp_path / "a.png", grey().convert(mode))), ramp())

    @pytest.mark.parametrize("name", ["a.png", "a.pbm", "a.tiff"])
    def test_one_bit_is_black_and_white(self, tmp_path, name):
        bits = ramp() % 3 == 0
        assert np.array_equal(read_picture(save(tmp_path / name, Image.fromarray(bits))), bits * 255)

    @pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
    def test_16_bits_are_scaled_to_8(self, tmp_path, name):
        values = ramp().astype(np.uint16) * 257
        assert np.array_equal(read_picture(save(tmp_path / name, Image.fromarray(values))), ramp())

    def test_numbers_beyond_16_bits_are_spread_from_black_to_white(self, tmp_path):
        values = ramp().astype(np.int32) * 1000 - 500
        assert np.array_equal(read_picture(save(tmp_path / "a.tiff", Image.fromarray(values))), ramp())

    def test_floating_point_counts_to_1(self, tmp_path):
        values = ramp().astype(np.float32) / 255
        values[0, 0] = np.nan
        assert np.array_equal(read_picture(save(tmp_path / "a.tiff", Image.fromarray(values))), ramp())

    @pytest.mark.parametrize("name", ["a.tiff", "a.jpg"])
    def test_ink_of_four_colours_is_dark(self, tmp_path, name):
        image = Image.new("CMYK", (16, 8), (0, 0, 0, 0))
        image.paste((0, 0, 0, 255), (0, 0, 8, 8))
        found = read_picture(save(tmp_path / name, image))
        assert found[:, :8].max() < 20
        assert found[:, 8:].min() > 235

    def test_colours_are_as_bright_as_they_look(self, tmp_path):
        image = Image.new("RGB", (3, 1))
        for x, colour in enumerate([(0, 0, 255), (255, 0, 0), (0, 255, 0)]):
            image.putpixel((x, 0), colour)
        blue, red, green = read_picture(save(tmp_path / "a.png", image))[0].tolist()
        assert 0 < blue < red < green < 255

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_what_is_transparent_is_white(self, tmp_path, mode):
        image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
        image.putpixel((1, 0), (0, 0, 0, 128))
        assert read_picture(save(tmp_path / "a.png", image.convert(mode))).tolist() == [[255, 127]]

    @pytest.mark.parametrize("transparency", [0, b"\x00\xff"], ids=["one colour", "a value each"])
    def test_a_palettes_transparent_colour_is_white(self, tmp_path, transparency):
        image = Image.new("P", (2, 1))
        image.putpalette([10, 10, 10, 20, 20, 20])
        image.putpixel((1, 0), 1)
        assert read_picture(save(tmp_path / "a.png", image, transparency=transparency)).tolist() == [[255, 20]]

    @pytest.mark.parametrize("name", ["a.png", "a.tiff"])
    def test_it_is_turned_as_its_camera_was_held(self, tmp_path, name):
        exif = Image.Exif()
        exif[0x0112] = 6  # the first row is the right side
        assert np.array_equal(read_picture(save(tmp_path / name, grey(), exif=exif)), np.rot90(ramp(), -1))

    @pytest.mark.parametrize("name", ["a.gif", "a.png", "a.tiff", "a.webp"])
    def test_of_several_pictures_the_first_is_taken(self, tmp_path, name):
        second = Image.new("L", (32, 8), 7)
        options = {"lossless": True} if name == "a.webp" else {}
        path = save(tmp_path / name, grey(), save_all=True, append_images=[second], **options)
        assert np.array_equal(read_picture(path), ramp())


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_that_promises(width, height):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
BAD = {
    "empty": (b"", "is empty: expected a picture"),
    "text": (b"Hello, world", "begins with 48 65 6c 6c 6f 2c 20 77: expected a picture"),
    "a program": (PROGRAM, "begins with 25 21 .*: expected a picture"),
    "an archive": (b"\x1f\x8b" + bytes(20), "expected a picture"),
    "half a PNG": (encoded(grey(), "PNG")[:-60], "damaged picture"),
    "half a JPEG": (encoded(grey(), "JPEG")[:-60], "damaged picture"),
    "half a PGM": (encoded(grey(), "PPM")[:-60], "damaged picture"),
    "half a TIFF": (encoded(grey(), "TIFF")[:60], "picture"),
    "a large one": (png_that_promises(10_001, 10_000), "10001 × 10000 pixels: expected at most 100,000,000"),
    "a bomb": (png_that_promises(2**30, 2**30), "too many pixels: expected at most 100,000,000"),
    "no pixels": (b"P5 0 0 255\n", "picture"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_by_name_in_one_line(tmp_path, content, message):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_picture(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nothing.png: No such file"):
        read_picture(tmp_path / "nothing.png")
    with pytest.raises(DataError, match="Is a directory"):
        read_picture(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="whom nothing is forbidden")
def test_what_may_not_be_read_is_refused(tmp_path):
    path = save(tmp_path / "secret.png", grey())
    path.chmod(0)
    with pytest.raises(DataError, match="Permission denied"):
        read_picture(path)


KINDS = {kind: encoded(grey(), kind) for kind in ("PNG", "JPEG", "PPM", "BMP", "GIF", "TIFF", "WEBP")}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(KINDS)),
    change=st.sampled_from(["flip", "cut", "insert"]),
    where=st.floats(0, 1, exclude_max=True),
    value=st.integers(1, 255),
)
def test_a_file_with_a_fault_is_read_or_refused(tmp_path, kind, change, where, value):
    content = KINDS[kind]
    place = int(where * len(content))
    before, after = content[:place], content[place:]
    path = tmp_path / "mutated"
    faulty = {
        "flip": before + bytes([after[0] ^ value]) + after[1:],
        "cut": before,
        "insert": before + bytes([value]) + after,
    }
    path.write_bytes(faulty[change])
    refusal, found = None, ramp()
    try:
        found = read_picture(path)
    except DataError as error:
        refusal = str(error)
    assert refusal is None or (refusal.startswith(f"{path}: ") and "\n" not in refusal)
    assert found.dtype == np.uint8
    assert found.ndim == 2
    assert found.size > 0


def page(height=200, width=200, *, pen=12, size=80, at=(100, 100), paper=230, ink=40):
    """Draw a 7 of a certain size, its middle at a place (from top and left)."""
    image = Image.new("L", (width, height), paper)
    y, x = at
    half = size / 2
    points = [(x - half * 0.6, y - half), (x + half * 0.6, y - half), (x - half * 0.2, y + half)]
    ImageDraw.Draw(image).line(points, fill=ink, width=pen, joint="curve")
    return np.asarray(image)


def noisy(picture, deviation, seed=0):
    return np.clip(picture + np.random.default_rng(seed).normal(0, deviation, picture.shape), 0, 255).astype(np.uint8)


def lit(picture, light):
    return np.clip(picture * light, 0, 255).astype(np.uint8)


ALIKE = 0.25
"""What shifts of less than a pixel may make; a test below holds it to be less than a change of the character makes."""


def box_of(image):
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def difference(one, other):
    """The mean difference of two images, of which one may lie a pixel aside, as a part of the ink."""
    shifted = [np.roll(one.astype(int), (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return min(np.abs(image - other).sum() for image in shifted) / other.sum()


@pytest.fixture(scope="module")
def seven():
    return normalise(page(), MNIST)


class TestTheImage:
    def test_is_of_the_models_shape_and_values(self, seven):
        assert seven.dtype == np.uint8
        assert seven.shape == MNIST
        assert seven.min() == 0
        assert seven.max() == 255

    def test_fills_mnists_box(self, seven):
        top, bottom, left, right = box_of(seven)
        assert bottom - top == 20
        assert 10 <= right - left < 20

    @pytest.mark.parametrize(("height", "width"), [(20, 200), (200, 20)])
    def test_fills_it_in_its_longer_direction_and_keeps_its_proportions(self, height, width):
        picture = np.full((300, 300), 240, np.uint8)
        picture[50 : 50 + height, 50 : 50 + width] = 30
        top, bottom, left, right = box_of(normalise(picture, MNIST))
        longer, shorter = sorted((bottom - top, right - left), reverse=True)
        assert longer == 20
        assert 2 <= shorter <= 3
        assert (bottom - top > right - left) == (height > width)

    def test_has_the_centre_of_its_mass_in_the_middle(self, seven):
        centre = ndimage.center_of_mass(seven)
        assert np.abs(np.subtract(centre, 14)).max() <= 0.5

    def test_keeps_all_of_a_lopsided_character_inside(self):
        picture = np.full((240, 240), 240, np.uint8)
        picture[20:220, 20:90] = 30  # nearly all mass is at the left
        picture[110:120, 20:220] = 30
        top, bottom, left, right = box_of(normalise(picture, MNIST))
        assert (bottom - top, right - left) == (20, 20)

    @pytest.mark.parametrize("shape", [(8, 8), (20, 40), (56, 56)])
    def test_has_the_box_of_the_same_proportion_in_another_size(self, shape):
        image = normalise(page(), shape, 16)
        top, bottom, _, _ = box_of(image)
        assert image.shape == shape
        assert image.max() == 16
        assert bottom - top == round(shape[0] * 20 / 28)

    @pytest.mark.parametrize("pen", [1, 2, 4])
    def test_has_strokes_that_a_thin_pen_does_not_make_faint(self, pen):
        image = normalise(page(600, 600, pen=pen, size=400, at=(300, 300)), MNIST)
        rows = image[box_of(image)[0] : box_of(image)[1]]
        assert (rows.max(axis=1) > 140).all(), "a row of the stroke is faint"

    def test_has_broken_strokes_too(self):
        picture = page().copy()
        picture[90:96] = 230
        top, bottom, _, _ = box_of(normalise(picture, MNIST))
        assert bottom - top == 20
        gap = normalise(picture, MNIST)[top:bottom].max(axis=1)
        assert gap.min() < 150


class TestTheSameCharacter:
    """However it was taken, the image is the same."""

    def test_is_told_from_others(self, seven):
        without_its_end, with_a_line, with_a_blot = page().copy(), page().copy(), page().copy()
        without_its_end[125:] = 230
        with_a_line[138:142, 60:140] = 40
        with_a_blot[60:75, 150:165] = 40
        for picture in (without_its_end, with_a_line, with_a_blot, page(pen=22)):
            assert difference(normalise(picture, MNIST), seven) > ALIKE

    @pytest.mark.parametrize(("paper", "ink"), [(255, 0), (150, 60), (235, 190), (0, 255), (30, 140), (90, 200)])
    def test_on_any_paper_in_any_ink(self, seven, paper, ink):
        assert difference(normalise(page(paper=paper, ink=ink), MNIST), seven) < ALIKE

    @pytest.mark.parametrize(
        ("height", "width", "at"), [(100, 300, (50, 250)), (400, 120, (340, 60)), (100, 70, (50, 35))]
    )
    def test_anywhere_on_a_page_of_any_proportions(self, seven, height, width, at):
        assert difference(normalise(page(height, width, at=at), MNIST), seven) < ALIKE

    @pytest.mark.parametrize("inverted", [False, True])
    def test_cut_out_closely(self, seven, inverted):
        picture = page()
        rows, columns = np.flatnonzero((picture < 200).any(1)), np.flatnonzero((picture < 200).any(0))
        picture = picture[rows[0] - 1 : rows[-1] + 2, columns[0] - 1 : columns[-1] + 2]
        assert difference(normalise(255 - picture if inverted else picture, MNIST), seven) < ALIKE

    @pytest.mark.parametrize("margin", [0, 1, 60])
    @pytest.mark.parametrize("inverted", [False, True])
    def test_cut_out_at_its_very_edge_and_with_more_ink_than_paper(self, margin, inverted):
        image = Image.new("L", (90 + 2 * margin, 120 + 2 * margin), 230)
        ImageDraw.Draw(image).ellipse([margin, margin, margin + 89, margin + 119], outline=40, width=24)
        found = normalise(255 - np.asarray(image) if inverted else np.asarray(image), MNIST)
        top, bottom, left, right = box_of(found)
        assert (bottom - top, right - left) == (20, 15)
        assert found[14, 14] == 0, "its hole"
        assert (found[top:bottom].max(axis=1) > 100).all()

    def test_small_on_a_large_page(self, seven):
        assert difference(normalise(page(2000, 1500, at=(300, 1200)), MNIST), seven) < ALIKE

    def test_smaller_than_the_model(self, seven):
        small = np.asarray(Image.fromarray(page()).resize((25, 25), Image.Resampling.BOX))
        assert difference(normalise(small, MNIST), seven) < 0.5

    @pytest.mark.parametrize("inverted", [False, True])
    def test_under_uneven_light(self, seven, inverted):
        y, x = np.mgrid[-1:1:200j, -1:1:200j]
        picture = 255 - page() if inverted else page()
        for light in (0.75 + 0.25 * x, 0.75 - 0.25 * (x + y) / 2, 1 - 0.2 * (x * x + y * y)):
            assert difference(normalise(lit(picture, light), MNIST), seven) < ALIKE

    def test_with_a_shadow_across(self, seven):
        y, x = np.mgrid[-1:1:200j, -1:1:200j]
        for place in (-0.5, 0.0, 0.5):
            light = 1 - 0.2 * (1 + np.tanh((x + 0.4 * y - place) / 0.1))
            assert difference(normalise(lit(page(), light), MNIST), seven) < ALIKE

    @pytest.mark.parametrize("inverted", [False, True])
    def test_through_noise_blur_and_jpeg(self, seven, inverted):
        picture = noisy(ndimage.gaussian_filter(255 - page() if inverted else page(), 1.5), 15)
        picture = np.asarray(Image.open(io.BytesIO(encoded(Image.fromarray(picture), "JPEG", quality=35))))
        assert difference(normalise(picture, MNIST), seven) < ALIKE

    def test_among_specks(self, seven):
        picture = page().copy()
        for y, x in np.random.default_rng(0).integers(0, 196, (20, 2)):
            if picture[max(0, y - 4) : y + 8, max(0, x - 4) : x + 8].min() > 200:
                picture[y : y + 4, x : x + 4] = 0
        assert difference(normalise(picture, MNIST), seven) < ALIKE

    def test_on_squared_paper(self, seven):
        picture = page().copy()
        lines = np.zeros(picture.shape, bool)
        lines[::20] = lines[:, ::20] = True
        picture[lines & (picture > 200)] = 190
        assert difference(normalise(picture, MNIST), seven) < ALIKE

    def test_with_a_corner_in_the_shadow(self, seven):
        y, x = np.mgrid[:200, :200]
        picture = np.where(x + y < 50, page() // 2, page()).astype(np.uint8)
        assert difference(normalise(picture, MNIST), seven) < ALIKE

    def test_in_a_dark_frame(self, seven):
        picture = np.pad(page(), 8, constant_values=20)
        assert difference(normalise(picture, MNIST), seven) < ALIKE

    @pytest.mark.parametrize(("height", "width"), [(120, 10), (30, 30)])
    def test_beside_something_cut_by_the_border(self, seven, height, width):
        picture = page().copy()
        picture[30 : 30 + height, :width] = 60
        assert difference(normalise(picture, MNIST), seven) < ALIKE

    @settings(max_examples=15)
    @given(
        size=st.integers(40, 160),
        paper=st.integers(120, 255),
        contrast=st.integers(60, 110),
        inverted=st.booleans(),
        deviation=st.integers(0, 10),
        y=st.floats(0, 1),
        x=st.floats(0, 1),
    )
    def test_in_any_of_these_at_once(self, seven, size, paper, contrast, inverted, deviation, y, x):
        margin = size * 0.7
        at = (margin + y * (300 - 2 * margin), margin + x * (260 - 2 * margin))
        picture = page(300, 260, pen=round(size * 0.15), size=size, at=at, paper=paper, ink=paper - contrast)
        assert difference(normalise(noisy(255 - picture if inverted else picture, deviation), MNIST), seven) < 0.4


class TestAnImageOfTheModelsSize:
    def test_that_is_ready_is_taken_as_it_is(self, seven):
        assert np.array_equal(normalise(seven, MNIST), seven)
        assert np.array_equal(normalise(255 - seven, MNIST), seven), "dark on light"

    @pytest.mark.parametrize("shift", [(1, 0), (0, -2), (-4, 3), (-3, 2)])
    @pytest.mark.parametrize("inverted", [False, True])
    def test_that_is_off_centre_is_shifted(self, seven, shift, inverted):
        moved = np.roll(seven, shift, (0, 1))
        assert np.array_equal(normalise(255 - moved if inverted else moved, MNIST), seven)

    @pytest.mark.parametrize("side", [10, 14, 24, 28])
    def test_whose_character_is_smaller_or_larger_is_fitted(self, side):
        picture = Image.fromarray(255 - page(160, 160, at=(80, 80), paper=255, ink=0)).resize((28, 28))
        box = box_of(np.asarray(picture))
        cut = picture.crop((box[2], box[0], box[3], box[1]))
        field = Image.new("L", MNIST)
        field.paste(cut.resize((round(side * cut.width / cut.height), side), Image.Resampling.BICUBIC), (0, 0))
        top, bottom, _, _ = box_of(normalise(np.asarray(field), MNIST) > 20)
        assert abs(bottom - top - 20) <= 1

    def test_that_is_faint_becomes_bright(self, seven):
        assert np.abs(normalise(seven // 3, MNIST).astype(int) - seven).max() <= 3

    def test_with_a_speck_is_placed_without_it(self, seven):
        dirty = np.roll(seven, 2, axis=1)
        dirty[0, 0] = 255
        assert np.array_equal(normalise(dirty, MNIST), seven)

    def test_counts_to_the_models_value_or_to_255(self):
        image = np.zeros((8, 8), np.uint8)
        image[:, 3:5] = 16
        assert np.array_equal(normalise(image, (8, 8), 16, FORMS["digits"]), image)
        assert np.array_equal(normalise(image // 16 * 255, (8, 8), 16, FORMS["digits"]), image)

    def test_is_refused_where_it_is_blank(self):
        for level in (0, 255):
            with pytest.raises(DataError, match="no ink found"):
                normalise(np.full(MNIST, level, np.uint8), MNIST)


@pytest.mark.parametrize("form", FORMS)
def test_the_digits_themselves_are_in_their_form_and_in_no_other(form):
    images = load_digits().images.astype(np.uint8)
    assert np.mean(are_placed(images, 16, FORMS[form])) == (form == "digits")
    if form == "digits":
        for image in images[:200]:
            assert np.array_equal(normalise(image, (8, 8), 16, FORMS[form]), image)


class TestWhatIsDoubtful:
    def test_is_nothing_of_one_character(self, seven):
        assert character_in(page(), MNIST).warning == ""
        assert character_in(seven, MNIST).warning == ""

    @pytest.mark.parametrize("inverted", [False, True])
    def test_is_a_second_character(self, inverted):
        picture = np.concatenate([page(), page()], axis=1)
        warning = character_in(255 - picture if inverted else picture, MNIST).warning
        assert warning == "there seem to be 2 characters: expected one"

    def test_is_a_wide_one(self):
        picture = np.full((100, 400), 240, np.uint8)
        picture[40:60, 50:350] = 20
        assert character_in(picture, MNIST).warning.startswith("it is wider than one character: there")

    def test_is_ink_all_over(self):
        picture = np.full((200, 200), 240, np.uint8)
        picture[60:140, 60:140] = 20
        assert character_in(picture, MNIST).warning.startswith("ink fills the picture")


class TestAPage:
    def compose(self, rows, inverted, noise=4, tilt=0):
        """Return a page of sevens (7) and bars (1), and where each is."""
        sheet, boxes = np.full((60 + 140 * len(rows), 640), 230, np.uint8), []
        for i, row in enumerate(rows):
            for j, sign in enumerate(row):
                y, x = 40 + 140 * i + tilt * j, 40 + 110 * j
                if sign == "7":
                    cut = page(90, 80, size=80, at=(45, 40))
                    sheet[y : y + 90, x : x + 80] = np.minimum(sheet[y : y + 90, x : x + 80], cut)
                else:
                    sheet[y + 5 : y + 85, x + 34 : x + 46] = 40
                boxes.append((sign, y + 45, x + 40))
        sheet = noisy(sheet, noise)
        return (255 - sheet if inverted else sheet), boxes

    @pytest.mark.parametrize("inverted", [False, True])
    @pytest.mark.parametrize(
        ("rows", "tilt"), [(["7"], 0), (["71717"], 0), (["717", "1", "77177"], 0), (["71717", "17"], 9)]
    )
    def test_is_its_characters_in_reading_order(self, seven, rows, inverted, tilt):
        picture, expected = self.compose(rows, inverted, tilt=tilt)
        found = characters_on(picture, MNIST, 255)
        assert len(found) == len(expected)
        bar = np.zeros(MNIST)
        bar[4:24, 12:15] = 255
        for (box, (image, warning)), (sign, y, x) in zip(found, expected, strict=True):
            assert box.left < x < box.right
            assert box.top < y < box.bottom
            assert warning == ""
            assert (difference(image, seven) < 0.4) == (sign == "7")
            assert (difference(image, bar) < 0.6) == (sign == "1")

    def test_keeps_the_pieces_of_a_broken_character_together(self):
        picture, _ = self.compose(["77", "77"], False, noise=0)
        picture[85:92] = 230  # a white line through the first row
        found = characters_on(picture, MNIST, 255)
        assert len(found) == 4

    def test_leaves_narrow_neighbours_out(self):
        """A bar's surroundings have its neighbours, since they are as wide as it is high."""
        sheet = np.full((200, 200), 230, np.uint8)
        for left in (60, 82, 104):
            sheet[40:160, left : left + 7] = 40
        found = characters_on(sheet, MNIST, 255)
        alone = sheet.copy()
        alone[:, 75:] = 230
        expected = character_in(alone, MNIST).image
        assert [box[:3:2] for box, _ in found] == [(60, 67), (82, 89), (104, 111)]
        for _, (image, warning) in found:
            assert warning == ""
            assert difference(image, expected) < 0.2

    def test_of_many_strokes_is_read_and_of_too_many_refused(self):
        sheet = np.full((1600, 1600), 230, np.uint8)
        places = [(y, x) for y in range(10, 1590, 30) for x in range(10, 1590, 30)]
        for y, x in places[:200]:
            sheet[y : y + 18, x : x + 5] = 40
        assert len(characters_on(sheet, MNIST, 255)) == 200
        for y, x in places:
            sheet[y : y + 18, x : x + 5] = 40
        with pytest.raises(DataError, match=r"pieces of ink: expected a page of at most 2,000; cut it into parts"):
            characters_on(sheet, MNIST, 255)

    def test_leaves_specks_out(self):
        picture, _ = self.compose(["717"], False)
        picture[150:156, 300:306] = 20
        assert len(characters_on(picture, MNIST, 255)) == 3

    def test_that_is_blank_is_refused(self):
        with pytest.raises(DataError, match="no ink found"):
            characters_on(np.full((300, 300), 220, np.uint8), MNIST, 255)


class TestValues:
    """What a picture holds before it is made grey."""

    def test_colours_stay(self, tmp_path):
        colours = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        path = save(tmp_path / "a.png", Image.fromarray(colours))
        assert np.array_equal(read_values(path), colours)
        assert size_and_mode(path) == ((5, 6), "RGB")

    def test_grey_colours_are_grey(self, tmp_path):
        assert np.array_equal(read_values(save(tmp_path / "a.jpg", grey().convert("RGB"), quality=99)).ndim, 2)

    def test_16_bits_stay_numbers(self, tmp_path):
        values = ramp().astype(np.uint16) * 15
        found = read_values(save(tmp_path / "a.png", Image.fromarray(values)))
        assert found.dtype == np.float32
        assert np.array_equal(found, values)

    def test_a_turned_pictures_size_is_as_it_is_seen(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        path = save(tmp_path / "a.png", grey(), exif=exif)
        assert size_and_mode(path)[0] == read_values(path).shape == (32, 8)

    @pytest.mark.parametrize(("high", "white"), [(1, 1), (2, 255), (255, 255), (256, 511), (1023, 1023), (4000, 4095),
                                                 (40_000, 65_535)])  # fmt: skip
    def test_deep_values_are_read_by_the_range_that_they_seem_to_have(self, high, white):
        values = np.array([[0, high / 2, high]], np.float32)
        assert white_of(high) == white
        assert np.abs(grey_bytes(values) - values / white * 255).max() <= 0.5

    def test_0_and_1_are_black_and_white(self):
        assert grey_bytes(np.eye(3, dtype=np.uint8)).tolist() == (np.eye(3) * 255).tolist()

    def test_camera_values_of_12_bits_are_ink_on_paper(self, seven):
        deep = np.where(page() < 128, 200, 4000).astype(np.float32)
        assert difference(normalise(grey_bytes(deep), MNIST), seven) < ALIKE

    @pytest.mark.parametrize("colour", [(8, 6), (8, 6, 3)])
    def test_another_size_keeps_range_and_kind(self, colour):
        for values in (ramp(), np.stack([ramp()] * 3, axis=2), ramp().astype(np.float32)):
            found = resized(values, colour)
            assert found.shape == colour
            assert abs(found.mean() - values.mean()) < 5


class TestABlankPage:
    @pytest.mark.parametrize("level", [0, 20, 128, 255])
    @pytest.mark.parametrize("shape", [(1, 1), (1, 50), (28, 29), (300, 200)])
    def test_has_no_ink(self, shape, level):
        with pytest.raises(DataError, match="no ink found: expected one character"):
            normalise(np.full(shape, level, np.uint8), MNIST)

    @pytest.mark.parametrize("deviation", [2, 8, 20, 40])
    def test_has_none_with_noise(self, deviation):
        with pytest.raises(DataError, match="no ink"):
            normalise(noisy(np.full((300, 200), 180), deviation), MNIST)

    def test_has_none_under_uneven_light(self):
        x = np.linspace(0.6, 1, 200)
        with pytest.raises(DataError, match="no ink"):
            normalise(lit(np.full((300, 200), 220), x), MNIST)

    def test_has_none_with_a_speck(self):
        picture = np.full((300, 300), 230, np.uint8)
        picture[100:105, 50:55] = 20
        with pytest.raises(DataError, match="no ink"):
            normalise(picture, MNIST)


def test_a_large_photograph_takes_little_time():
    picture = page(3000, 4000, pen=60, size=1200, at=(1500, 2000))
    times = []
    for _ in range(3):
        start = time.process_time()
        normalise(picture, MNIST)
        times.append(time.process_time() - start)
    assert min(times) < ALIKE


def test_the_picture_is_left_as_it_was():
    picture = page(paper=20, ink=200)
    before = picture.copy()
    normalise(picture, MNIST)
    assert np.array_equal(picture, before)


@pytest.mark.parametrize("size", [14, 20, 28, 50, 100])
def test_a_stroke_of_one_pixel_is_ink(size):
    picture = np.full((size, size), 255, np.uint8)
    left, right = size // 4, 3 * size // 4
    picture[left, left:right] = 0
    picture[left:right, right - 1] = 0
    image = normalise(picture, (28, 28))
    assert image.max() == 255
    rows, columns = np.flatnonzero(image.max(axis=1) > 60), np.flatnonzero(image.max(axis=0) > 60)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)


@pytest.mark.parametrize("ink", [0, 255], ids=["black", "white"])
def test_ink_on_nothing_is_seen_whatever_its_colour(tmp_path, ink):
    from PIL import Image

    pixels = np.zeros((60, 60, 4), np.uint8)
    pixels[..., :3] = ink
    pixels[15:45, 25:35, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "ink.png")
    image = normalise(read_picture(tmp_path / "ink.png"), (28, 28))
    assert (image.max(axis=1) > 128).sum() == 20
