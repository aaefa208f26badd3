"""Classes are numbered by their names in one way, whoever asks."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

from xpmlp import DataError, Dataset
from xpmlp.data.formats import named_classes
from xpmlp.data.labels import numbers_of
from xpmlp.models.inputs import labels_of

NAMES = ("eel", "ant", "cat")
IMAGES = np.zeros((4, 2, 2), np.uint8)


def test_a_name_is_its_place_among_the_classes():
    found = numbers_of(["cat", "eel", "cat", "ant"], NAMES)
    assert (found.tolist(), found.dtype) == ([2, 0, 2, 1], np.int32)
    assert numbers_of([], NAMES).tolist() == []


def test_the_first_unknown_name_is_said():
    with pytest.raises(DataError, match="^unknown class yak$"):
        numbers_of(["cat", "yak", "bee"], NAMES)
    with pytest.raises(DataError, match="^no yak here$"):
        numbers_of(["cat", "yak", "bee"], NAMES, "no {} here".format)


class TestWhoAsks:
    def test_a_data_set_with_names_for_labels(self):
        words = np.array(["cat", "eel", "cat", "ant"])
        assert Dataset(IMAGES, words, NAMES).labels.tolist() == [2, 0, 2, 1]
        assert Dataset(IMAGES, words).class_names == ("ant", "cat", "eel")
        with pytest.raises(DataError, match=re.escape("memory: label 'yak': expected eel, ant, cat")):
            Dataset(IMAGES, np.array(["yak", "zoo", "cat", "cat"]), NAMES)

    def test_a_file_of_ones_own(self):
        names, (train, test) = named_classes([np.array([10, 9, 10]), np.array([-1, 9])])
        assert (names, train.tolist(), test.tolist()) == (("-1", "9", "10"), [2, 1, 2], [0, 1])
        names, (train, test) = named_classes([np.array(["b", "10"]), np.array(["9"])])
        assert (names, train.tolist(), test.tolist()) == (("10", "9", "b"), [2, 0], [1])

    def test_a_network_that_was_trained_on_another_order(self):
        part = Dataset(IMAGES, np.array([0, 1, 2, 2]), NAMES)
        network = SimpleNamespace(class_names=("ant", "bee", "cat", "eel"))
        assert labels_of(part, network).tolist() == [3, 0, 2, 2]
        network.class_names = ("ant", "bee", "cat")
        with pytest.raises(DataError, match="memory: class eel: the network knows ant, bee, cat$"):
            labels_of(part, network)
