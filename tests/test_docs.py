"""The pages under docs/: their Python runs as a reader pastes it."""

import importlib.util
import re
import warnings

import pytest
from sklearn.exceptions import ConvergenceWarning

from tests.conftest import ROOT

PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if "```python" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_examples_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    for example in re.findall("```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
        needed = re.search(r"^(?:import|from) (torch|onnxruntime)\b", example, re.M)
        if needed and importlib.util.find_spec(needed[1]) is None:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            exec(example, names)
    said = capsys.readouterr().out
    accuracies = [float(value) for value in re.findall(r"accuracy (0\.\d+)", said)]
    assert accuracies
    assert min(accuracies) > 0.95
    if page.stem == "scikit-learn":
        assert names["found"] > 0.8
        off = names["off"]
        assert max(off["absolute_error"], off["huber"]) < 0.1 < off["squared_error"] / 5
