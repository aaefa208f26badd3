"""The house rules: which room may import what, and what an import may cost."""

import ast
import importlib.util
import io
import re
import sys
import tokenize
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from tests.conftest import ROOT, run_python
from xpmlp import MLPClassifier, TrainConfig
from xpmlp.training.run import train_network as train
from xpmlp.training.steps import compiled_step

PACKAGE = ROOT / "xpmlp"
MODULES = sorted(PACKAGE.rglob("*.py"))

AGNOSTIC = {f"math/{path.name}" for path in (PACKAGE / "math").glob("*.py")} | {"kernels/__init__.py"}
"""The rooms that name no array library."""

BELOW = {
    "errors": set(),
    "namespaces": {"errors"},
    "kernels": {"errors", "namespaces"},
    "math": {"errors", "namespaces", "kernels"},
    "backends": {"errors"},
    "communication": {"errors"},
    "storage": {"errors"},
    "data": {"errors", "namespaces", "kernels", "backends", "storage"},
    "models": {"errors", "namespaces", "math", "backends", "storage", "data"},
    "training": {
        *("errors", "namespaces", "kernels", "math", "backends", "communication", "storage", "data", "models"),
    },
    "estimators": {
        *("errors", "namespaces", "kernels", "math", "backends", "storage", "data", "models", "training"),
    },
    "benchmark": {
        *("errors", "kernels", "math", "backends", "storage", "data", "training"),
    },
    "commands": {
        *("errors", "backends", "communication", "storage", "data", "models", "training", "benchmark", "the face"),
    },
    "__main__": {"commands"},
}
"""Each room, with those that it may import."""

ARRAY_LIBRARIES = {"cupy", "cupyx", "torch", "jax", "dpnp", "dpctl", "array_api_strict", "numba"}
HEAVY = {"matplotlib", "sklearn", "pandas", "scipy", "array_api_compat.numpy", "mpi4py", "onnx", *ARRAY_LIBRARIES}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Return the dotted names of all that a file imports, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def names_from_namespaces(path: Path) -> set[str]:
    """Return every attribute that a file takes from something called ``xp``."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "xp"
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = room_of(path)
    if room == "__init__":
        return  # the face may show every room
    imports = imports_of(path)
    inside = {name.split(".")[1] for name in imports if name.startswith("xpmlp.")} - {room}
    if "xpmlp" in imports:
        inside.add("the face")
    assert inside <= BELOW[room], f"{room} imports {inside - BELOW[room]}"


def test_there_are_at_most_twelve_rooms_and_nothing_lies_between_them():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert len(rooms) <= 12
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "__main__", "errors", "namespaces"}
    assert {*rooms, "errors", "namespaces", "__main__"} == set(BELOW)
    assert {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")} == {*rooms, "cuda_on_cpu"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_and_no_function_is_long(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0]
            described = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = first.end_lineno - first.lineno + 1 if described else 0
            assert node.end_lineno - node.lineno + 1 - docstring <= 60, node.name


def test_the_order_of_rooms_has_no_circle():
    order = list(BELOW)
    for room, below in BELOW.items():
        assert all(order.index(other) < order.index(room) for other in below - {"the face"}), room


def test_the_drawing_of_the_rooms_is_what_they_import():
    imports: dict[str, set[str]] = {}
    for path in MODULES:
        inside = {name.split(".")[1] for name in imports_of(path) if name.startswith("xpmlp.")}
        imports.setdefault(room_of(path), set()).update(inside - {room_of(path), "errors", "namespaces"})
    rooms = set(BELOW) - {"errors", "namespaces", "__main__"}

    def reached(room):
        return set().union(*({other} | reached(other) for other in imports[room]))

    drawn = {
        (room, other)
        for room in rooms
        for other in imports[room]
        if not any(other in reached(between) for between in imports[room] - {other})
    }
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^  (\w+) --> (\w+)$", page, re.M)) == drawn
    assert set(re.findall(r"^\| \[`(\w+)/`\]", page, re.M)) == rooms


@pytest.mark.parametrize("room", sorted(AGNOSTIC))
def test_the_math_names_no_array_library(room):
    outside = {name.split(".")[0] for name in imports_of(PACKAGE / room)} - {"xpmlp"}
    assert outside <= sys.stdlib_module_names


def test_array_libraries_are_imported_in_backends_and_native_primitives_alone():
    for path in MODULES:
        named = {name.split(".")[0] for name in imports_of(path)} & ARRAY_LIBRARIES
        native = room_of(path) == "kernels" and path.name.startswith("_") and path.name != "__init__.py"
        peer = path.parent == PACKAGE / "benchmark" / "contestants"  # of which a process imports one
        peer = peer or path == PACKAGE / "benchmark" / "gpu.py"  # imported beside CuPy's alone
        nccl = path == PACKAGE / "communication" / "_nccl.py"  # CuPy has it
        module = path == PACKAGE / "models" / "torch_module.py"  # what leaves for PyTorch is made of its layers
        assert not named or room_of(path) == "backends" or native or peer or nccl or module, path


def test_mpi_and_nccl_are_imported_in_communication_alone():
    for path in MODULES:
        imports = imports_of(path)
        mpi = {name for name in imports if name.split(".")[0] == "mpi4py"}
        nccl = {name for name in imports if re.match(r"cupy.*nccl|cupyx\.distributed", name)}
        assert not mpi or path == PACKAGE / "communication" / "_mpi.py", path
        assert not nccl or path == PACKAGE / "communication" / "_nccl.py", path


@pytest.mark.needs(module="cupy")
def test_cupy_has_every_name_that_agnostic_code_uses():
    from array_api_compat import cupy

    rooms = [PACKAGE / room for room in AGNOSTIC]
    rooms += [path for path in MODULES if room_of(path) in {"data", "training", "models", "estimators"}]
    names = set().union(*(names_from_namespaces(path) for path in rooms))
    assert {"exp", "take", "sqrt", "int32"} <= names, "the search finds nothing"
    assert not {name for name in names if not hasattr(cupy, name)}


def loaded_by(code: str) -> set[str]:
    done = run_python("-c", f"{code}\nimport sys; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())  # what the code itself prints stands above


def test_importing_the_package_imports_nothing_heavy():
    loaded = loaded_by("import xpmlp")
    assert "xpmlp.math.network" in loaded
    assert not loaded & {*HEAVY, "numpy", "click", "rich"}


def test_help_imports_no_numpy():
    assert not loaded_by("from xpmlp.commands import main; main(['train', '--help'])") & {*HEAVY, "numpy"}


def test_training_imports_only_the_library_that_was_asked_for(idx_folder, tmp_path):
    arguments = ["train", "--backend", "numpy", "--dataset", f"idx:{idx_folder}", "--out", str(tmp_path / "run")]
    arguments += ["--epochs", "1", "--no-plot", "--quiet", "--kernels", "inplace"]  # numba would bring SciPy with it
    code = f"from xpmlp.commands import main; assert main({arguments}) == 0"
    loaded = loaded_by(code)
    assert "numpy" in loaded
    assert not loaded & HEAVY


def test_the_face_shows_what_it_promises():
    xpmlp = importlib.import_module("xpmlp")
    assert [name for name in xpmlp.__all__ if getattr(xpmlp, name, None) is None] == []
    with pytest.raises(AttributeError, match="no attribute 'perceptron'"):
        xpmlp.perceptron  # noqa: B018


class TestTheReadme:
    README = (ROOT / "README.md").read_text(encoding="utf-8")

    def test_its_table_is_the_codes_lines(self):
        """Each line of the table is the very statement, in the syntax tree, that has the number beside it."""
        rows = re.findall(r"^\| ([FB]\d.*?) \| .*? \| `(.*?)`", self.README, re.M)
        found = numbered_statements()
        for numbers, line in rows:
            for number in numbers.split(", "):
                assert ast.unparse(ast.parse(line)) in found[number], number
        named = {number for numbers, _ in rows for number in numbers.split(", ")}
        assert named == set(found) == {f"F{k}" for k in range(1, 8)} | {f"B{k}" for k in range(1, 12)}

    @pytest.mark.parametrize(
        "spec",
        ["numpy", *(pytest.param(spec, marks=pytest.mark.needs(spec)) for spec in ("torch", "jax", "dpnp", "cupy"))],
    )
    def test_its_python_trains_evaluates_saves_loads_and_predicts(self, spec, capsys, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (example,) = re.findall("## In Python\n\n```python\n(.*?)```", self.README, re.S)
        assert example.count("\n") <= 10
        exec(example.replace('"numpy"', repr(spec)).replace('"auto"', repr(spec)), {})
        assert float(re.search(r"accuracy=(0\.\d+)", capsys.readouterr().out)[1]) > 0.95

    @pytest.mark.slow
    def test_its_examples_run(self, capsys, tmp_path, monkeypatch):
        """One after the other, as a reader pastes them; those that need a library only where it is."""
        monkeypatch.chdir(tmp_path)
        names: dict[str, object] = {}
        needed = re.compile(r"^import (torch)\b", re.M)
        for example in re.findall("```python\n(.*?)```", self.README, re.S):
            library = needed.search(example)
            if library and importlib.util.find_spec(library[1]) is None:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                exec(example, names)
            said = capsys.readouterr().out
            assert float(re.search(r"accuracy[ =](0\.\d+)", said)[1]) > 0.95


NETWORK = PACKAGE / "math" / "network.py"


def numbered_statements(places: dict[int, set[str]] | None = None) -> dict[str, set[str]]:
    """Return the statements of ``math/network.py`` by the equations' numbers that stand in the comments behind them.

    Parameters
    ----------
    places : dict or None
        Filled with the numbers by the statements' lines.
    """
    text = NETWORK.read_text(encoding="utf-8")
    found: dict[str, set[str]] = {}
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assign)]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        numbers = re.findall(r"\b([FB]\d+)\b", token.string) if token.type == tokenize.COMMENT else []
        if numbers:
            (statement,) = [node for node in statements if node.lineno == token.start[0]]
            for number in numbers:
                found.setdefault(number, set()).add(ast.unparse(statement))
            if places is not None:
                places[token.start[0]] = set(numbers)
    return found


def test_every_equation_of_the_derivation_has_its_statement():
    derivation = (PACKAGE / "math" / "derivation.md").read_text(encoding="utf-8")
    numbers = re.findall(r"^\| ([FB]\d+) \|", derivation, re.M)
    assert len(numbers) == 18
    found = numbered_statements()
    assert set(found) == set(numbers)
    assert all(len(statements) == 1 for statements in found.values()), "an equation is one statement"


class TestTheStatementsRun:
    """What is read is what runs: each numbered statement, on every library, where networks are trained."""

    def numbers_seen(self, work):
        places, lines = {}, set()
        numbered_statements(places)
        file = str(NETWORK)

        def trace(frame, event, argument):
            if frame.f_code.co_filename != file:
                return None
            if event == "line":
                lines.add(frame.f_lineno)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(before)
        return set().union(*(places[line] for line in lines & set(places)))

    ALL = {f"F{k}" for k in range(1, 8)} | {f"B{k}" for k in range(1, 12)}

    def test_in_training(self, backend, tiny):
        for kernels in ["auto"] if backend.name == "jax" else ["plain", "auto"]:  # not jitted, JAX takes its time
            config = TrainConfig(hidden=(6, 5), epochs=1, batch_size=120, kernels=kernels)
            assert self.numbers_seen(lambda config=config: train(config, tiny, backend)) == self.ALL

    def test_in_a_classifiers_fit(self, backend):
        compiled_step.cache_clear()  # a step that was traced before would not be traced again
        rng = np.random.default_rng(0)
        X, y = backend.asarray(rng.random((60, 5))), backend.asarray(np.arange(60, dtype=np.int32) % 3)
        estimator = MLPClassifier((6, 5), max_iter=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            assert self.numbers_seen(lambda: estimator.fit(X, y)) == self.ALL
