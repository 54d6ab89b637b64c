"""What follows a training is announced: the steps that will run, and about how long they take."""

import re
import types

import pytest
from dermalert_space.contract import BUNDLED
from dermalert_space.release import Release

from dermalert.release import measuring

SIZES = {"train": 5000, "validation": 100, "calibration": 200, "held_out": 300, "official_test": 50}


def announce(onnx: str, external: dict) -> measuring.Steps:
    config = types.SimpleNamespace(onnx=onnx)
    data = types.SimpleNamespace(splits={name: range(n) for name, n in SIZES.items()})
    reported = types.SimpleNamespace(external=types.SimpleNamespace(splits=external))
    return measuring.announce(config, Release.load(BUNDLED), data, reported)


@pytest.mark.parametrize(
    ("onnx", "external", "without"),
    [
        ("all", {"clinic": range(7)}, set()),
        ("serving", {}, {measuring.EXTERNAL}),
        ("none", {}, {measuring.EXTERNAL, measuring.EXPORT}),
    ],
)
def test_only_the_steps_that_run_are_announced_with_the_time_that_they_take(onnx, external, without, capsys):
    steps = announce(onnx, external)
    assert len(steps.totals) == 8 - len(without) and not without & steps.totals.keys()
    said = capsys.readouterr().out
    assert re.fullmatch(rf"Measuring: {len(steps.totals)} steps, about [1-9]\d* (s|min)\.\n", said)


def test_the_images_of_each_step_are_those_that_it_will_predict():
    totals = announce("all", {"clinic": range(7)}).totals
    assert totals[measuring.ABSTENTION] == 2500 + 200
    assert totals[measuring.HELD_OUT] == 350
    assert totals[measuring.EXTERNAL] == 7
    assert totals[measuring.ARTEFACTS_ADDED] == 200 * 10
    assert totals[measuring.EXPORT] == 64 + 300 + 2 * 100
