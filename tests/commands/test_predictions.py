"""What ``xpmlp predict`` shows a person: an aligned table on a terminal, and nowhere else."""

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import environment, make_dataset, run_on_a_terminal
from xpmlp.commands import main
from xpmlp.commands._predictions import Prediction, make_show
from xpmlp.data import idx

THREE = {"cat": 0.25, "dog": 0.6, "eel": 0.15}
DOUBTFUL = "there seem to be 2 characters: expected one; --split reads several"


def prediction(name, probabilities=THREE, **further):
    label = max(probabilities, key=probabilities.get)
    return Prediction(name, {"file": name, **further}, label, probabilities)


@pytest.fixture
def shown(monkeypatch, capsys):
    """Return a function that shows predictions on a terminal of a width, and returns its lines."""

    def shown(*groups, top=None, width=120):
        monkeypatch.setattr("xpmlp.commands._progress.is_terminal", lambda: True)
        monkeypatch.setenv("COLUMNS", str(width))
        show = make_show(top)
        for group in groups:
            show(group)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return shown


class TestTheTable:
    def test_has_the_label_the_runner_up_and_what_is_doubtful(self, shown):
        assert shown([prediction("a.png"), prediction("b.png", {"cat": 0.999, "dog": 0.001}, warning=DOUBTFUL)]) == [
            "file   label  probability  runner-up      warning",
            "a.png  dog        60.00 %  cat (25.00 %)",
            f"b.png  cat        99.90 %  dog (0.10 %)   {DOUBTFUL}",
        ]

    def test_has_as_many_classes_as_are_wished_for(self, shown):
        first, *others = sorted(THREE, key=THREE.get, reverse=True)
        for top, runners in (1, ""), (2, "  cat (25.00 %)"), (3, "  cat (25.00 %), eel (15.00 %)"):
            kept = {name: THREE[name] for name in [first, *others][:top]}
            head, row = shown([prediction("a.png", kept)], top=top)
            assert ("runner-up" in head) == (top > 1)
            assert row == f"a.png  dog        60.00 %{runners}"

    def test_has_one_header_and_keeps_its_columns_when_more_comes(self, shown):
        first = [prediction("a much longer name.png", warning="dark")]
        head, *rows = shown(first, [prediction("b.png")], [prediction("c.png", box=[1, 2, 3, 4])])
        assert [row.index("dog") for row in rows] == [head.index("label")] * 3
        assert [row.index("60.00 %") for row in rows] == [rows[0].index("60.00 %")] * 3
        assert rows[2].startswith("c.png [1, 2, 3, 4] ")

    def test_shows_names_as_they_are(self, shown):
        marked = "[bold]:cat:[/bold].png"
        assert shown([prediction(marked)])[1].startswith(f"{marked}  dog")

    def test_shows_control_characters_as_escapes(self, shown):
        lines = shown([prediction("a\x1b[31m\tb\n.png", {"c\x07t": 1.0, "dög": 0.0})])
        assert lines[1].split("  ")[:2] == [r"a\x1b[31m\tb\n.png", r"c\x07t"]
        assert lines[1].endswith("dög (0.00 %)")
        assert len(lines) == 2

    @pytest.mark.parametrize("width", [40, 60, 80])
    def test_folds_what_a_narrow_terminal_has_no_room_for(self, shown, width):
        lines = shown([prediction("X" * 30, warning="Y" * 70)], width=width)
        assert max(map(len, lines)) <= width
        assert ("".join(lines).count("X"), "".join(lines).count("Y")) == (30, 70)


@pytest.fixture
def at_home(monkeypatch, tmp_path, idx_folder):
    """A folder with a run, and two images."""
    monkeypatch.chdir(tmp_path)
    train = ["train", "--backend", "numpy", "--hidden", "8", "--epochs", "1", "--quiet", "--no-plot"]
    assert main([*train, "--dataset", f"idx:{idx_folder}", "--out", "run"]) == 0
    idx.write(tmp_path / "images", make_dataset(2, seed=1).images)
    return tmp_path


COMMAND = [sys.executable, "-m", "xpmlp", "predict", "run", "images", "--backend", "numpy"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_a_terminal_gets_the_table(at_home):
    code, text = run_on_a_terminal(COMMAND, TERM="xterm", COLUMNS="100")
    assert code == 0
    lines = re.sub("\x1b\\[[0-9;]*m", "", text).splitlines()
    assert lines[0].split() == ["file", "label", "probability", "runner-up", "warning"]
    row = re.compile(r"images, image (\d)  [012] +\d+\.\d\d %  [012] \(\d+\.\d\d %\)")
    assert [row.match(line)[1] for line in lines[1:]] == ["0", "1"]


@pytest.mark.parametrize("on_a_terminal", [False, True])
def test_values_that_are_too_large_are_refused_behind_the_others(at_home, on_a_terminal, monkeypatch, capsys):
    monkeypatch.setattr("xpmlp.commands._progress.is_terminal", lambda: on_a_terminal)
    with open("a.csv", "w") as file:
        file.writelines(f"{1 + k},{2 - k},{k % 2}\n" for k in range(40))
    train = ["train", "--dataset", "a.csv", "--label-column", "last", "--shape", "none", "--epochs", "1", "--out", "r"]
    assert main([*train, "--backend", "numpy", "--quiet", "--no-plot"]) == 0
    with open("b.csv", "w") as file:
        file.writelines(["1,2\n", "1e300,2\n"])
    capsys.readouterr()
    assert main(["predict", "r", "b.csv", "--backend", "numpy"]) == 2
    said, problem = capsys.readouterr()
    assert len(said.splitlines()) == (2 if on_a_terminal else 1)
    assert problem.startswith("xpmlp: b.csv, row 1: its values are too large for the model")
    assert problem.count("\n") == 1


def test_a_pipe_gets_json_and_no_rich(at_home):
    code = f"import sys; from xpmlp.commands import main; main({COMMAND[3:]}); print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    *lines, has_rich = done.stdout.splitlines()
    assert [list(json.loads(line)) for line in lines] == [["file", "index", "label", "probabilities"]] * 2
    assert has_rich == "False"
