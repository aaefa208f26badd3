"""A misspelt word is refused in one line that offers the nearest one first."""

import pytest

from xpmlp import DataError, MLPClassifier, load_dataset
from xpmlp.commands import main
from xpmlp.errors import ConfigError, expected_one_of
from xpmlp.math.activations import activations_of

COMMANDS = "expected train, evaluate, predict, export, compare, data, backends, check or bench; see xpmlp --help"

LINES = {
    "a command": (["trian"], f"xpmlp: unknown command 'trian': did you mean train? {COMMANDS}"),
    "no command at all": (["xyz"], f"xpmlp: unknown command 'xyz': {COMMANDS}"),
    "an option": (
        ["predict", "--tops", "1", "run", "a.png"],
        "xpmlp predict: No such option '--tops'. Did you mean '--top'? See xpmlp predict --help",
    ),
    "an optimizer": (
        ["train", "--optimizer", "adamm"],
        "xpmlp: --optimizer 'adamm': did you mean adam? expected sgd, adam or adamw",
    ),
    "an optimizer in capitals": (
        ["train", "--optimizer", "ADAMW"],
        "xpmlp: --optimizer 'ADAMW': did you mean adamw? expected sgd, adam or adamw",
    ),
    "a schedule": (
        ["train", "--schedule", "one-cyle"],
        "xpmlp: --schedule 'one-cyle': did you mean one-cycle? expected constant, cosine or one-cycle",
    ),
    "a recipe": (
        ["train", "--recipe", "quik"],
        "xpmlp: unknown recipe 'quik': did you mean quick? expected quick, best, record or default",
    ),
    "a way to share work": (
        ["train", "--distributed", "mpl"],
        "xpmlp: unknown distributed 'mpl': did you mean mpi? expected auto, off or mpi",
    ),
    "a part": (
        ["evaluate", "run", "--part", "tset"],
        "xpmlp: unknown part 'tset': did you mean test? expected test, train or all",
    ),
    "an optimizer of the benchmark": (
        ["bench", "--optimizer", "adamm"],
        "xpmlp bench: Invalid value for '--optimizer': 'adamm': did you mean adam? expected adam or sgd; "
        "see xpmlp bench --help",
    ),
    "a backend of the benchmark": (
        ["bench", "--backend", "numpy,toch"],
        "xpmlp: unknown backend 'toch': did you mean torch? expected numpy, numba, torch, jax or cupy",
    ),
}


@pytest.mark.parametrize("wrong", LINES)
def test_on_the_command_line(wrong, capfd):
    arguments, line = LINES[wrong]
    assert main(arguments) == 2
    assert capfd.readouterr() == ("", f"{line}\n")


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        (("--dataset", "mnsit"), "unknown data set 'mnsit': did you mean mnist? expected auto, mnist, fashion-mnist,"),
        (("--backend", "nunpy"), "unknown backend 'nunpy': did you mean numpy? expected auto, numpy, cupy,"),
    ],
)
def test_of_a_long_list_the_nearest_stands_first(option, hint, capfd, tmp_path):
    assert main(["train", *option, "--out", str(tmp_path / "run")]) == 2
    said, errors = capfd.readouterr()
    assert errors.startswith(f"xpmlp: {hint}")
    assert (said, errors.count("\n")) == ("", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        ("specis", "no column 'specis': did you mean Species? its 3 columns are width, height, Species"),
        ("lats", "no column 'lats': did you mean last? its 3 columns"),
        ("7", "no column '7': its 3 columns are"),
    ],
)
def test_the_column_of_a_label(tmp_path, column, hint):
    (tmp_path / "a.csv").write_text("width,height,Species\n1,2,a\n3,4,b\n")
    with pytest.raises(DataError, match=f"a.csv has {hint}".replace("?", r"\?")):
        load_dataset(tmp_path / "a.csv", label_column=column, shape="none")


def test_an_activation_in_python():
    with pytest.raises(ValueError, match=r"^activation\[1\] is 'gelo': did you mean gelu\? expected relu, identity"):
        MLPClassifier((4, 4), activation=["relu", "gelo"]).fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(ConfigError, match=r"^unknown activation 'Tahn': did you mean tanh\? expected relu, identity"):
        activations_of("Tahn", 1)


def test_what_is_like_nothing_gets_no_hint():
    assert expected_one_of("xyz", ["sgd", "adam"]) == "expected sgd or adam"
    assert expected_one_of("xyz", ["sgd"]) == "expected sgd"
    assert expected_one_of("float16", ["float32", "float64"]) == "expected float32 or float64"
