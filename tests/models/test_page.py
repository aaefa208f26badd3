"""The page of ``xpmlp export``: one file, and in a real browser the numbers that Python has."""

import base64
import json
import re
import shutil

import numpy as np
import pytest

from xpmlp.backends import get_backend
from xpmlp.commands import main
from xpmlp.data.ink import character_in
from xpmlp.data.pictures import read_picture
from xpmlp.data.preparation import FORMS
from xpmlp.data.scaling import Scaling
from xpmlp.errors import ConfigError
from xpmlp.math.layout import Layout, init
from xpmlp.math.network import backward, forward, score
from xpmlp.models import page
from xpmlp.models.model import Model, ModelInfo

DIGITS = tuple("0123456789")
HIDDEN = (24, 20)


def make_model(hidden=HIDDEN, *, shape=(28, 28), names=DIGITS, dtype="float32", preparation="mnist", **others):
    layout = Layout((int(np.prod(shape)), *hidden, len(names)))
    most = 16 if preparation == "digits" else 255
    info = ModelInfo(layout, shape, most, names, "mnist", preparation=preparation, **others)
    theta = init(layout, np.random.default_rng(0), dtype)
    theta += np.random.default_rng(1).normal(0, 0.02, theta.shape).astype(dtype)  # biases that are not 0
    return Model(get_backend("numpy"), theta, info)


def script_of(text, name):
    (found,) = re.findall(f'<script type="[^"]*" id="{name}">(.*?)</script>', text, re.S)
    return found


class TestTheFile:
    def test_loads_nothing(self):
        text = page.make_page(make_model())
        assert not re.findall(r"\bsrc=|@import|\burl\(|https?:", text)
        assert set(re.findall(r'href="([^"]*)"', text)) == {"data:,"}
        assert "default-src 'none'" in text

    def test_is_small_beside_the_parameters(self):
        text = page.make_page(make_model())
        assert len(text) - len(script_of(text, "parameters")) < 100_000

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_holds_the_parameters_in_float32_and_says_what_they_were(self, dtype):
        model = make_model(dtype=dtype)
        text = page.make_page(model)
        found = np.frombuffer(base64.b64decode(script_of(text, "parameters")), "<f4")
        assert np.array_equal(found, model.theta.astype(np.float32))
        assert json.loads(script_of(text, "model"))["dtype"] == dtype

    def test_takes_classes_of_any_name(self):
        names = ("</script>", "<!--", "&amp;", '"')
        assert json.loads(script_of(page.make_page(make_model(names=names)), "model"))["classNames"] == list(names)

    @pytest.mark.parametrize(
        ("options", "found"),
        [
            ({"preparation": "as-trained"}, "pictures prepared as-trained"),
            ({"shape": (28, 28, 3)}, "images of 28 × 28 in colour"),
            ({"shape": (784,)}, "samples of 784 numbers"),
            ({"scaling": Scaling.of_range(0, 2)}, "scaled floats"),
        ],
    )
    def test_is_not_made_of_a_model_that_takes_anything_else(self, options, found, tmp_path):
        with pytest.raises(ConfigError, match=f"takes {found}: a page is made of"):
            page.write(make_model(**options), tmp_path / "page.html")
        assert not list(tmp_path.iterdir())


class TestTheCommand:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        make_model(dtype="float64").save("model.safetensors")
        return tmp_path

    def test_writes_a_page(self, here, capsys):
        assert main(["export", "model.safetensors", "page.html"]) == 0
        said = "model    model.safetensors: 784-24-20-10 of mnist, float64\nwritten  page.html, 0.2 MB\n"
        assert capsys.readouterr().out == said
        assert (here / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (
                ("model.safetensors", "page.pdf"),
                "page.pdf ends in .pdf: expected the name of a file",
            ),
            (("model.safetensors", "no/page.html"), "no/page.html: there is not a folder no"),
            (("nothing", "page.html"), "nothing: no such file"),
            (("other.safetensors", "page.html"), "takes pictures prepared as-trained"),
        ],
    )
    def test_says_in_a_line_what_it_cannot_do_and_leaves_nothing(self, arguments, said, here, capsys):
        make_model(preparation="as-trained").save("other.safetensors")
        before = set(here.iterdir())
        assert main(["export", *arguments]) == 2
        errors = capsys.readouterr().err
        assert said in errors
        assert errors.count("\n") == 1
        assert set(here.iterdir()) == before


# --- in a browser -----------------------------------------------------------------------------------------------------

STROKES = {
    "a seven": [[(70, 60), (130, 57), (190, 52), (150, 120), (120, 214)]],
    "a four of two strokes": [[(92, 52), (78, 130), (120, 140), (178, 118)], [(176, 50), (164, 170), (156, 214)]],
    "a small one in a corner": [[(20, 22), (31, 14), (29, 60)]],
    "one beyond the edge": [[(40, 40), (200, 100), (300, 180)]],
    "a dot": [[(128, 128)]],
    "a line from top to bottom": [[(128, 40), (128, 80), (128, 200)]],
    "a line from left to right": [[(40, 128), (200, 128)]],
    "with a speck": [[(60, 60), (90, 200), (180, 220), (190, 100)], [(20, 240)]],
    "nearly all black": [[(x, y) for y in range(14, 250, 22) for x in ((12, 244), (244, 12))[y // 22 % 2]]],
    "a scribble": [[(x % 230 + 12, (x * 7) % 210 + 20) for x in range(0, 900, 60)]],
}


QUICK = ("a seven", "a small one in a corner", "with a speck", "nearly all black")


class Browser:
    """Chromium with a page in it, which is drawn on and read."""

    def __init__(self, driver):
        self.driver = driver

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def tell(self, command, **parameters):
        return self.driver.execute_cdp_cmd(command, parameters)

    def open(self, model, folder):
        page.write(model, folder / "page.html")
        self.driver.get((folder / "page.html").as_uri())
        return self

    def look(self, width, *, dark=False):
        self.tell(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme])

    def on_screen(self, points):
        left, top, width = self.run("const b = paper.getBoundingClientRect(); return [b.left, b.top, b.width]")
        return [{"x": left + x * width / 256, "y": top + y * width / 256} for x, y in points]

    def draw(self, strokes):
        self.run("document.getElementById('clear').click()")
        for stroke in strokes:
            places = self.on_screen(stroke)
            held = {"button": "left", "buttons": 1, "clickCount": 1}
            self.tell("Input.dispatchMouseEvent", type="mousePressed", **places[0], **held)
            for place in places[1:]:
                self.tell("Input.dispatchMouseEvent", type="mouseMoved", **place, **held)
            self.tell("Input.dispatchMouseEvent", type="mouseReleased", **places[-1], **held)

    def touch(self, stroke):
        first, *others = self.on_screen(stroke)
        self.tell("Input.dispatchTouchEvent", type="touchStart", touchPoints=[first])
        for place in others:
            self.tell("Input.dispatchTouchEvent", type="touchMove", touchPoints=[place])
        self.tell("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, *keys):
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def choose(self, label, rate):
        self.run(f"document.querySelector('#labels input[value=\"{label}\"]').click()")
        put = "const [box, value] = arguments; box.value = value; box.dispatchEvent(new Event('input'))"
        self.run(put, self.run("return document.getElementById('rate')"), str(rate))

    def bytes(self):
        """Return the present 28 × 28 bytes, or None."""
        found = self.run("xpmlp.redraw(); return xpmlp.state.bytes && Array.from(xpmlp.state.bytes)")
        return found and np.array(found).reshape(28, 28)

    def arrays(self):
        """Return all arrays by their names; those after the step with a prime."""
        plain = "Object.entries(o).map(([name, values]) => [name, Array.from(values)])"
        found = self.run(f"xpmlp.redraw(); const s = xpmlp.state; return [s.arrays, s.after].map((o) => {plain})")
        now, after = ({name: np.array(values) for name, values in pairs} for pairs in found)
        return {**now, **{f"{name}′": values for name, values in after.items()}}

    def predicts(self, folder):
        """Return the bytes that predict makes of the paper's picture."""
        png = base64.b64decode(self.run("return xpmlp.picture()").partition(",")[2])
        (folder / "paper.png").write_bytes(png)
        return character_in(read_picture(folder / "paper.png"), (28, 28), 255).image

    def requests(self):
        """Return the addresses that were asked for since the last time."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}


@pytest.fixture(scope="module")
def chromium():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="class")
def browser(chromium):
    found = Browser(chromium)
    found.look(1280)
    yield found
    assert chromium.get_log("browser") == [], "the page's own errors and warnings"


@pytest.fixture(scope="class")
def small_page(browser, tmp_path_factory):
    """The address of a page that is open, for the tests of a class."""
    browser.requests()
    folder = tmp_path_factory.mktemp("page")
    browser.open(make_model(), folder)
    return (folder / "page.html").as_uri()


def in_a_browser(test):
    return pytest.mark.needs(module="selenium", commands=("chromium", "chromedriver"))(test)


def expected(model, image, label, rate):
    """Return all arrays by their names, by `xpmlp.math` in float64."""
    layers = [(W.astype(np.float64), b.astype(np.float64)) for W, b in model.layers]
    X, K = image.reshape(1, -1) / np.float64(model.max_value), len(layers)
    inner = ["A", "q"] if K == 3 else [f"A{k}" for k in range(1, K)]
    sums = ["H", "O", "S"] if K == 3 else [*(f"Z{k}" for k in range(1, K)), "S"]
    deltas = ["δH", "δO"] if K == 3 else [f"δ{k}" for k in range(1, K)]
    S, trail = forward(layers, X)
    delta, loss, _ = score(S, np.array([label]))
    found = {"X": X, "S": S, "P": np.exp(S) / np.exp(S).sum(), "T": np.eye(S.shape[1])[label], "L": loss, "δS": delta}
    for k in range(K - 1):
        found[inner[k]] = trail[k + 1][1]
        found[sums[k]] = trail[k][1] @ layers[k][0] + layers[k][1]
    gradients = backward(layers, trail, delta.copy())
    for k in reversed(range(K)):
        found[f"∂L/∂W{k + 1}"], found[f"∂L/∂b{k + 1}"] = gradients[k]
        if k > 0:
            found[f"∂L/∂{inner[k - 1]}"] = delta @ layers[k][0].T
            delta = found[deltas[k - 1]] = (found[inner[k - 1]] > 0) * found[f"∂L/∂{inner[k - 1]}"]
    stepped = [(W - rate * dW, b - rate * db) for (W, b), (dW, db) in zip(layers, gradients, strict=True)]
    after, _ = forward(stepped, X)
    return {**found, "P′": np.exp(after) / np.exp(after).sum(), "L′": score(after, np.array([label]))[1]}


@in_a_browser
class TestWhatIsWritten:
    """The bytes of the model's form are those of ``xpmlp predict``, of the paper's own picture."""

    @pytest.fixture(autouse=True)
    def blank(self, browser, small_page):
        browser.run("document.getElementById('clear').click()")

    @pytest.mark.parametrize(
        "strokes",
        [
            pytest.param(strokes, id=name, marks=[] if name in QUICK else pytest.mark.full)
            for name, strokes in STROKES.items()
        ],
    )
    def test_with_the_mouse(self, browser, strokes, tmp_path):
        browser.draw(strokes)
        assert np.abs(browser.bytes().astype(int) - browser.predicts(tmp_path)).max() <= 2

    def test_with_a_finger(self, browser, tmp_path):
        browser.touch(STROKES["a seven"][0])
        found = browser.bytes()
        assert np.abs(found.astype(int) - browser.predicts(tmp_path)).max() <= 2
        browser.draw(STROKES["a seven"])
        assert np.abs(found - browser.bytes()).max() <= 2, "as with the mouse"

    @pytest.mark.parametrize("digit", DIGITS)
    def test_as_an_example(self, browser, digit, tmp_path):
        browser.run(f"document.querySelector('[aria-label=\"Write a {digit}\"]').click()")
        assert np.abs(browser.bytes().astype(int) - browser.predicts(tmp_path)).max() <= 2

    def test_with_the_keyboard(self, browser, tmp_path):
        from selenium.webdriver.common.keys import Keys

        browser.driver.refresh()
        browser.press(Keys.TAB)
        assert browser.run("return document.activeElement.id") == "paper"
        browser.press(Keys.ARROW_LEFT, Keys.SPACE, *[Keys.ARROW_DOWN] * 12, *[Keys.ARROW_RIGHT] * 4, Keys.SPACE)
        first = browser.bytes()
        assert np.abs(first.astype(int) - browser.predicts(tmp_path)).max() <= 2
        browser.press(*[Keys.ARROW_UP] * 5, Keys.SPACE, *[Keys.ARROW_RIGHT] * 4)
        assert not np.array_equal(browser.bytes(), first)
        browser.press(Keys.BACKSPACE)
        assert np.array_equal(browser.bytes(), first), "a stroke was taken back"
        browser.press(Keys.DELETE)
        assert browser.bytes() is None

    def test_is_nothing_on_a_blank_paper(self, browser):
        assert browser.arrays() == {}
        assert browser.run("return document.getElementById('certainty').textContent") == "nothing is written"


@in_a_browser
class TestTheNumbers:
    """From the bytes on, every array is Python's."""

    @pytest.mark.parametrize("hidden", [(), (30,), HIDDEN, (256, 128), (24, 18, 12)], ids=str)
    def test_are_pythons(self, browser, hidden, tmp_path):
        model = make_model(hidden)
        browser.open(model, tmp_path).draw(STROKES["a seven"])
        browser.choose(3, 0.02)
        found, wanted = browser.arrays(), expected(model, browser.bytes(), 3, 0.02)
        assert set(found) == set(wanted)
        for name, values in wanted.items():
            assert np.linalg.norm(found[name] - values.ravel()) <= 1e-5 * np.linalg.norm(values), name

    @pytest.mark.parametrize(("preparation", "shape", "most"), [("mnist", (20, 16), 255), ("digits", (8, 8), 16)])
    def test_are_those_of_a_model_of_another_form(self, browser, tmp_path, preparation, shape, most):
        names = tuple("abcdefghijklmnopqrstuvwxyz")
        model = make_model((9,), shape=shape, names=names, preparation=preparation)
        browser.open(model, tmp_path).draw(STROKES["a four of two strokes"])
        browser.choose(25, 1)
        image = np.array(browser.run("xpmlp.redraw(); return Array.from(xpmlp.state.bytes)"))
        png = base64.b64decode(browser.run("return xpmlp.picture()").partition(",")[2])
        (tmp_path / "paper.png").write_bytes(png)
        predicts = character_in(read_picture(tmp_path / "paper.png"), shape, most, FORMS[preparation]).image
        assert np.abs(image - predicts.ravel().astype(int)).max() <= 2
        found, wanted = browser.arrays(), expected(model, image, 25, 1)
        assert set(found) == set(wanted)
        assert np.allclose(found["P′"], wanted["P′"].ravel(), rtol=1e-5)

    def test_are_shown_beside_the_equations_in_the_derivations_order(self, browser, tmp_path):
        browser.open(make_model(), tmp_path).draw(STROKES["a seven"])
        browser.choose(3, 0.1)
        browser.bytes()
        read = "return Array.from(document.querySelectorAll('.row')).map((row) => row.innerText.split('\\n'))"
        rows = [[line for line in lines if line] for lines in browser.run(read)]
        numbers = [lines[0] for lines in rows if re.fullmatch(r"[FB]\d+", lines[0])]
        assert numbers == [f"F{k}" for k in range(1, 8)] + [f"B{k}" for k in range(1, 12)]
        said = browser.run("return document.querySelector('#backwards').innerText.replace(/\\s/g, '')")
        for equation in ("δS=∂L/∂S=P−T", "∂L/∂W3=qᵀδS", "δO=ReLU′(O)⊙∂L/∂q", "∂L/∂W1=XᵀδH", "∂L/∂b1=1ᵀδH"):
            assert equation in said
        assert "784×24=(784×1)(1×24)" in said.replace("\u200b", "")
        labels = browser.run("return Array.from(document.querySelectorAll('.map canvas')).map((c) => c.ariaLabel)")
        assert all(re.search(r", \d+ × \d+, from [−\d]", label) for label in labels)

    def test_follow_each_change_by_themselves(self, browser, tmp_path):
        from selenium.webdriver.support.ui import WebDriverWait

        browser.open(make_model(), tmp_path).draw(STROKES["a seven"])
        text = "return document.getElementById('said').textContent"
        WebDriverWait(browser.driver, 10, 0.05).until(lambda _: browser.run(text).startswith("Reads "))
        reads = browser.run(
            "return xpmlp.model.classNames[xpmlp.state.arrays.P.indexOf(Math.max(...xpmlp.state.arrays.P))]"
        )
        assert browser.run(text).startswith(f"Reads {reads}, ")
        browser.choose(3, 0)
        found = browser.arrays()
        assert np.array_equal(found["P"], found["P′"]), "a step of no length"


@in_a_browser
class TestThePage:
    @pytest.fixture(autouse=True)
    def written(self, browser, small_page):
        browser.look(1280)
        browser.draw(STROKES["a seven"])
        browser.choose(7, 0.1)
        browser.bytes()

    def test_asks_for_nothing_but_itself(self, browser, small_page):
        assert browser.requests() - {"data:,"} == {small_page}

    @pytest.mark.parametrize("width", [360, 768, 1280])
    def test_is_never_wider_than_the_screen(self, browser, width):
        browser.look(width)
        assert browser.run("return document.documentElement.scrollWidth") <= width

    def test_is_dark_where_that_is_preferred(self, browser):
        light_of = (
            "return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done("
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            ".map((colour) => colour.match(/\\d+/g).reduce((sum, part) => sum + Number(part), 0))))))"
        )
        ground, text = browser.run(light_of)
        browser.look(1280, dark=True)
        dark_ground, dark_text = browser.run(light_of)
        assert ground > 3 * 240 > 3 * 60 > text
        assert dark_text > 3 * 200 > 3 * 60 > dark_ground

    def test_can_be_used_by_keyboard_alone(self, browser):
        from selenium.webdriver.common.keys import Keys

        browser.driver.refresh()
        browser.run("document.querySelector('#examples button').click()")
        browser.choose(0, 0.1)
        browser.bytes()
        seen = []
        for _ in range(30):
            browser.press(Keys.TAB)
            at = (
                "const e = document.activeElement, s = getComputedStyle(e.matches('[type=radio]') ? e.nextSibling : e);"
            )
            name = "e.ariaLabel || e.labels?.[0]?.innerText || e.innerText"
            found = browser.run(f"{at} return [e.id || {name}, {name}, s.outlineStyle, parseFloat(s.outlineWidth)]")
            if browser.run("return document.activeElement === document.body"):
                break
            seen.append(found)
        reached = [what for what, *_ in seen]
        assert {"paper", "undo", "clear", "rate", "slide", "0", *(f"Write a {k}" for k in DIGITS)} <= set(reached)
        assert all(style not in ("none", "hidden") and width >= 2 for _, _, style, width in seen), "the focus is seen"
