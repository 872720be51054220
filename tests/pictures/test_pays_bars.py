"""The bars of lesson 12: as long as the times are, and what leaves the axis says so."""

import re
from xml.etree import ElementTree

import pytest

from shardlab.pictures import pays
from shardlab.pictures.pays import MOST, TALL, bars, seconds

TIMES = {1: (4e-6, 0.0), 2: (2e-6, 1e-6), 3: None, 4: (1e-6, 9e-6)}


def heights(drawing, fill):
    """The heights of the bars of one colour, in shares of one device's time; the legend's is 12 px high."""
    found = [each for each in ElementTree.fromstring(drawing).iter() if each.tag.endswith("rect")]
    found = [float(each.get("height")) for each in found if each.get("fill") == fill]
    return [round(height / TALL * MOST, 3) for height in found if height != 12]


def test_a_bar_is_as_long_as_its_time():
    drawing = bars(TIMES, 2, "a picture of bars")
    assert heights(drawing, pays.PRODUCTS) == [1, 0.5, 0.25]
    assert heights(drawing, pays.WIRE) == [0, 0.25, MOST - 0.25]  # the last one leaves the axis


def test_what_leaves_the_axis_is_told_and_marked():
    drawing = bars(TIMES, 2, "a picture of bars")
    assert ">2.50<" in drawing and drawing.count("l7 -10l7 10z") == 1
    assert "l7 -10l7 10z" not in bars({1: (1.0, 0.0), 2: (0.5, 1.0)}, 2, "a picture of bars")


def test_the_best_and_the_chosen_one_are_marked_apart():
    xs = {}
    for chosen in (1, 2, 4):
        drawing = bars(TIMES, chosen, "a picture of bars")
        best = float(re.search(r'<text x="([\d.]+)"[^>]*>★ best', drawing)[1])
        frame = re.search(r'<rect x="([\d.]+)"[^>]*rx="4"', drawing)
        xs[chosen] = best, float(frame[1]) + (pays.BAR + 16) / 2
    assert len({best for best, _ in xs.values()}) == 1
    assert [best == frame for best, frame in xs.values()] == [False, True, False]


def test_what_cannot_be_says_why():
    assert "3 heads" in bars(TIMES, 3, "a picture of bars", "3 heads")


@pytest.mark.parametrize("value, said", [(0.0, "0.0 µs"), (9.99e-4, "999 µs"), (0.9996, "1.0 s"), (12.0, "12.0 s")])
def test_times_are_said_in_their_unit(value, said):
    assert seconds(value) == said
