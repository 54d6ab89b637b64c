import json
import math

import pytest
from dermalert_space.estimate import Estimate, format_estimate


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(), "not defined"),
        (Estimate(0.5), "0.50 [no interval]"),
        (Estimate(0.873, 0.81, 0.92), "0.87 [0.81-0.92]"),
        (Estimate(-0.01, -0.03, 0.02), "-0.01 [-0.03 to 0.02]"),
        (Estimate(0.9991, 0.9981, 0.9984), "0.9991 [0.9981-0.9984]"),  # with fewer digits the interval were a point
        (Estimate(0.5, 0.5000001, 0.5000002), "0.500000 [0.500000-0.500000]"),
    ],
)
def test_an_estimate_is_shown_with_as_many_digits_as_its_interval_needs(estimate, text):
    assert format_estimate(estimate) == format_estimate(estimate.to_json()) == text


def test_a_value_near_an_end_is_not_rounded_up_to_it_where_that_is_asked():
    estimate = Estimate(0.998, 0.98, 1.0)
    assert format_estimate(estimate) == "1.00 [0.98-1.00]"
    assert format_estimate(estimate, keep_off_ends=True) == "0.998 [0.980-1.000]"
    assert format_estimate(estimate, 0, times=100, keep_off_ends=True) == "99.8 [98.0-100.0]"


def test_an_estimate_of_floats_keeps_what_is_defined():
    assert Estimate.of(math.nan, 0, 1) == Estimate()
    assert Estimate.of(0.5, 0.5, 0.5) == Estimate.of(0.5, math.nan, math.nan) == Estimate(0.5)


def test_an_estimate_survives_json_and_its_complement_turns_the_ends_round():
    estimate = Estimate(0.75, 0.5, 0.875)
    assert Estimate.read(json.loads(json.dumps(estimate.to_json()))) == estimate
    assert list(estimate.to_json()) == ["value", "low", "high"]
    assert estimate.complement() == Estimate(0.25, 0.125, 0.5)
    assert Estimate(0.75).complement() == Estimate(0.25)
