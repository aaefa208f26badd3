"""The pages under docs/: a reader who types a page from its top to its end gets what it says."""

import importlib.util
import re
import shlex
import warnings

import pytest
from sklearn.exceptions import ConvergenceWarning

from tests.conftest import ROOT
from xpmlp.commands import main

BLOCK = re.compile(r"^```(python|console|text)\n(.*?)^```$", re.M | re.S)
"""Python to paste, commands to type, and what the block before prints. Blocks of sh need a GPU, a network or MPI."""
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
