"""The faults of `tests/mutants.py` still have their places in the sources."""

import re

import pytest

from tests.conftest import ROOT
from tests.mutants import MODES, MUTANTS, mutated


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_fault_can_be_made_and_tests_are_named_for_it(mutant):
    source = (ROOT / mutant.file).read_text(encoding="utf-8")
    assert mutated(source, mutant) != source
    assert mutant.modes
    assert set(mutant.modes) <= set(MODES)
    for path in re.findall(r"\S+\.py", mutant.tests):
        assert (ROOT / path).is_file()


def test_each_has_a_name_of_its_own_and_its_line_in_the_table():
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names))
    text = (ROOT / "tests" / "MUTANTS.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (.*?): ", text, re.M) == names
