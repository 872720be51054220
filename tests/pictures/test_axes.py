"""Plots whose axes stay: values lie where their axis says, and what is drawn are the numbers that were given."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardlab.pictures import kink, strips
from shardlab.pictures.axes import Axis


@given(st.floats(-50, 50), st.floats(0.1, 100))
def test_a_linear_axis(low, size):
    axis = Axis(low, low + size, 0, 100)
    assert axis(low) == pytest.approx(0) and axis(low + size) == pytest.approx(100)
    assert axis.holds(low + size / 2) and not axis.holds(low - size / 2)
    assert 2 <= len(axis.ticks()) <= 8 and all(axis.holds(tick) for tick in axis.ticks())


def test_a_log_axis_has_its_zero_on_the_floor():
    axis = Axis(-17, 3, 340, 0, log=True)
    assert axis(0) == axis(1e-30) == 340 and axis(1e3) == 0 and axis(1e-7) == pytest.approx(170)
    assert [axis.said(tick) for tick in axis.ticks()] == ["1e-16", "1e-12", "1e-08", "1e-04", "1e+00"]


def test_the_mean_lies_on_the_way_from_zero_to_the_sum_of_f():
    """The diamond, the end of the dashed line and the cross: n times the mean is the sum, in both directions."""
    parts, values, box = [-1.0, 0.5, 1.5, 0.2], [0.0, 0.5, 1.5, 0.2], (-2, 2, -1, 3)
    drawing = kink.one_output([(-2, 0), (0, 0), (2, 2)], parts, values, 1.2, box, "relu")
    x, y = kink.axes(box)
    (mean,) = re.findall(r'd="M([\d.]+) ([\d.]+)l6 7l-6 7', drawing)[:1]
    assert [float(mean[0]), float(mean[1]) + 7] == pytest.approx([x(0.3), y(0.55)], abs=0.1)
    (dashed,) = re.findall(r'd="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"[^>]*dasharray', drawing)
    assert [*map(float, dashed)] == pytest.approx([x(0), y(0), x(1.2), y(2.2)], abs=0.1)
    rings = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="4.5"', drawing)[: len(parts)]
    for (cx, cy), part, value in zip(rings, parts, values, strict=True):
        assert [float(cx), float(cy)] == pytest.approx([x(part), y(value)], abs=0.06)
    assert "relu of the sum: 1.20, right" in drawing and "sum of relu: 2.20, wrong" in drawing


def test_what_may_come_first_is_not_called_wrong():
    drawing = kink.one_output([(-2, -2), (2, 2)], [-1.0, 0.5], [-1.0, 0.5], -0.5, (-2, 2, -2, 2), "identity")
    assert "sum of identity: -0.50</text>" in drawing and "wrong" not in drawing


def test_each_cloud_lies_at_its_errors_and_its_largest_is_marked():
    errors = [1e-9, 1e-3, 1e-6]
    y = Axis(*strips.DECADES, strips.TOP + strips.TALL, strips.TOP, log=True)
    for mark in strips.MARKS:
        drawing = strips.strips([strips.Cloud("it", mark, errors)], (1e-2, 1e-1), (1e-5, 1e-4))
        dots = re.findall(r"M[\d.]+ ([\d.]+)" + re.escape(strips.MARKS[mark]), drawing)
        assert [*map(float, dots)] == pytest.approx([y(error) for error in errors], abs=0.06)
        assert "it: largest error 0.001. Across" in drawing
    assert len({strips.largest(mark, 5, 5) for mark in strips.MARKS}) == 3  # the shape tells them apart, too


def test_a_line_is_drawn_where_it_was_put():
    cloud = strips.Cloud("it", "right", [1e-6])
    y = Axis(*strips.DECADES, strips.TOP + strips.TALL, strips.TOP, log=True)
    for at in (1e-12, 1e-2):
        drawing = strips.strips([cloud], (1e-3, 1e-3), (1e-5, 1e-4), line_at=at)
        assert re.search(rf'd="M{strips.LEFT} {y(at):g}L[\d.]+ {y(at):g}"[^>]*stroke-width="3"', drawing)
        assert f"your line {at:.1g}." in drawing
