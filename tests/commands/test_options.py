"""The options of ``xpmlp train`` are the fields of its config, and errors name them as they were typed."""

import dataclasses

import pytest

from xpmlp import TrainConfig
from xpmlp.commands.train import as_flags, train

FIELDS = dataclasses.fields(TrainConfig)


def test_each_setting_has_its_option_with_the_same_default():
    options = {option.name: option for option in train.params}
    for field in FIELDS:
        option = options[field.name]
        default = field.default if field.name != "hidden" else "256,128"
        assert option.default == default, field.name
        assert field.metadata["about"] in option.help
        assert option.opts[0] == f"--{field.name.replace('_', '-')}"


def test_the_docstring_lists_every_setting():
    for field in FIELDS:
        assert f"    {field.name} : " in TrainConfig.__doc__
        assert field.metadata["about"] in TrainConfig.__doc__


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("average_every 0: expected a whole number", "--average-every 0: expected a whole number"),
        ("epochs 0: expected", "--epochs 0: expected"),
        ("hidden 9,9 with batch_size 16 need 1 GB", "--hidden 9,9 with --batch-size 16 need 1 GB"),
        ("center is for sgd: leave it out", "--center is for sgd: leave it out"),
        ("2 epochs of dropout are no setting", "2 epochs of dropout are no setting"),
        ("epochs are long", "epochs are long"),
    ],
)
def test_an_error_names_the_flag(message, expected):
    assert as_flags(message) == expected
