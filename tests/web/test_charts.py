"""Pictures of lines: what stands beside them and what is left of hostile values."""

import math

import pytest

from llama_factory.web.charts.curves import Sample, plot


def ticks_of(*values):
    drawn = plot({"a": [Sample(float(x), y) for x, y in enumerate(values)]}, {0.0: "first"})
    return [text for _, text in drawn.ticks]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.0, 1.0), ["0", "0.5", "1"]),
        ((0.0, 0.000192), ["0", "5e-05", "0.0001", "0.00015", "0.0002"]),
        ((-0.3, 0.2), ["-0.2", "0", "0.2"]),
        ((99.0, 101.5), ["99", "100", "101"]),
        ((0.0, 4e6), ["0", "1e+06", "2e+06", "3e+06", "4e+06"]),
        ((7.0, 7.0), ["6.5", "7", "7.5"]),
    ],
)
def test_values_beside_a_picture_are_round(values, expected):
    assert ticks_of(*values) == expected


def test_what_is_no_number_is_not_drawn():
    assert plot({"a": [Sample(0.0, math.nan), Sample(1.0, math.inf)]}, {}) is None
    drawn = plot({"a": [Sample(0.0, math.nan), Sample(1.0, 2.0)]}, {})
    assert [curve.last for curve in drawn.curves] == [2.0]
    assert "nan" not in drawn.curves[0].path
