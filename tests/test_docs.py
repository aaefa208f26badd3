"""The pages under docs/: a reader who types a page from its top to its end gets what it says."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.exceptions import ConvergenceWarning

from tests.communication.test_communication import LAUNCH_ENV
from tests.conftest import ROOT
from xpmlp import load_dataset
from xpmlp.commands import main

BLOCK = re.compile(r"^```(python|console|text)\n(.*?)^```$", re.M | re.S)
"""Python to paste, commands to type, and what the block before prints."""
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
NOT_TYPED = re.compile(r"^(pip|python3|xpmlp bench)\b|cupy")
"""Commands of such a block that install something, take minutes or need a GPU; pages with Docker are not typed."""
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if BLOCK.search(page.read_text(encoding="utf-8"))]
OPTIONAL = re.compile(r"^(?:import|from) (torch|onnxruntime)\b|^xpmlp export \S+ \S+\.(onnx)$", re.M)


def run(kind, text, names):
    """Run a block, unless it needs a library that is not installed."""
    needed = OPTIONAL.search(text)
    if needed and importlib.util.find_spec(needed[1] or needed[2]) is None:
        return
    if kind == "console":
        for line in text.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "xpmlp"
            assert main(arguments) == 0, line
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        exec(text, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_it_runs_from_top_to_end(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names: dict[str, object] = {"__name__": "__main__"}
    said, whole = "", ""
    for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "text":
            assert said == text
            continue
        run(kind, text, names)
        said = capsys.readouterr().out
        whole += said
    accuracies = [float(value) for value in re.findall(r"accuracy (0\.\d+)$", whole, re.M)]
    assert all(accuracy > 0.95 for accuracy in accuracies)
    if page.stem == "scikit-learn":
        assert accuracies
        assert names["found"] > 0.8
        off = names["off"]
        assert max(off["absolute_error"], off["huber"]) < 0.1 < off["squared_error"] / 5


def commands_of(page):
    """Return the commands of a page's shell blocks that can be typed here, without their comments."""
    blocks = SHELL.findall((ROOT / page).read_text(encoding="utf-8"))
    lines = [line.partition("#")[0].rstrip() for block in blocks for line in block.splitlines()]
    has_onnx = importlib.util.find_spec("onnx") is not None
    return [line for line in lines if not NOT_TYPED.search(line) and (has_onnx or not OPTIONAL.search(line))]


@pytest.fixture
def shell(tmp_path):
    """Return a function that types a command in a folder whose environment has this checkout's `xpmlp`."""
    program = tmp_path / ".venv" / "bin" / "xpmlp"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m xpmlp "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    path = os.pathsep.join([str(program.parent), str(Path(sys.executable).parent), os.environ["PATH"]])

    def shell(line, **variables):
        env = {**LAUNCH_ENV, "PATH": path, **variables}
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"

    return shell


@pytest.mark.slow
def test_commands_for_several_processes_run(shell, mpiexec, mnist_like, tmp_path):
    (tmp_path / "hosts").write_text("localhost slots=8\n", encoding="utf-8")
    (example,) = re.findall("^```py\n(.*?)^```$", (ROOT / "docs/processes.md").read_text(encoding="utf-8"), re.M | re.S)
    begin = 'import xpmlp\ndata = xpmlp.load_dataset("mnist")\n'
    (tmp_path / "example.py").write_text(begin + example, encoding="utf-8")
    typed = commands_of("docs/processes.md")
    assert [line.split()[0] for line in typed] == ["mpiexec", "mpiexec"]
    short = (f"{line} --epochs 1" for line in typed)  # an epoch of made-up images has four steps
    for line in (*short, f'mpiexec -n 2 "{sys.executable}" example.py'):
        shell(line, XPMLP_DATA=str(mnist_like.parent))


@pytest.mark.slow
@pytest.mark.skipif("XPMLP_DATA" not in os.environ, reason="XPMLP_DATA names no folder with MNIST")
def test_commands_on_mnist_run(shell, tmp_path):
    test = load_dataset("mnist").test
    (tmp_path / "scans").mkdir()
    for name, digits in (("photo", 1), ("scans/one", 1), ("page", 5)):
        Image.fromarray(255 - np.hstack(np.pad(test.images[:digits], 8)[8:-8])).save(tmp_path / f"{name}.jpg")
    table = np.column_stack([test.labels[:20], test.images[:20].reshape(20, -1)])
    names = ",".join(["label", *(f"pixel{k}" for k in range(784))])
    np.savetxt(tmp_path / "test.csv", table, "%d", ",", header=names, comments="")
    typed = [line for page in ("README.md", "docs/predict.md", "docs/page.md") for line in commands_of(page)]
    assert len(typed) >= 10
    for line in ("xpmlp train --dataset mnist --recipe quick --out runs/2", *typed):
        shell(line)
