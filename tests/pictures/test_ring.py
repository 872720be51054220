"""A ring at one step: every shard, every piece, every value that is in it, and what has just come."""

import re
from xml.etree import ElementTree

import pytest

from shardlab.pictures.ring import ABOVE, HIGH, LEFT, WIDE, ring
from shardlab.pictures.svg import COLOURS

TWO = [[(1, 0), (1, 1)], [(0, 1), (0, 2)]]


def bars(drawing):
    """The values in the sums, as (x, y, colour)."""
    found = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"[^>]*fill-opacity="0.45" stroke="(#\w+)"', drawing)
    return [(float(x), float(y), colour) for x, y, colour in found]


def test_a_bar_lies_in_its_shards_column_in_its_pieces_row_and_in_the_place_of_its_value():
    found = bars(ring(TWO, [None, None], "two"))
    columns = [int((x - LEFT) // (WIDE / 2)) for x, _, _ in found]
    rows = [int((y - ABOVE) // (HIGH / 2)) for _, y, _ in found]
    values = [COLOURS.index(colour) for *_, colour in found]
    assert [*zip(columns, rows, values, strict=True)] == [(0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 0, 1), (1, 1, 1)]
    half = [((x - LEFT) % (WIDE / 2)) > WIDE / 4 - 12 for x, _, _ in found]
    assert half == [value == 1 for value in values]


def test_whole_is_marked_in_three_ways_and_twice_is_no_whole():
    drawing = ring(TWO, [None, None], "two")
    assert drawing.count("✓</text>") == 1 and drawing.count('stroke-width="2.5"') == 2  # bold, and broken
    assert drawing.count('stroke-dasharray="5 3"') == 1 and ">2×</text>" in drawing


@pytest.mark.parametrize("arrived, count", [([None, None], 0), ([1, None], 1), ([0, 1], 2)])
def test_an_arrow_for_each_piece_that_has_just_come(arrived, count):
    assert ring(TWO, arrived, "two").count("l6 5l-6 5z") == count


@pytest.mark.parametrize("n", [1, 3, 8])
def test_the_canvas_is_the_same_for_every_number_of_shards(n):
    drawing = ElementTree.fromstring(ring([[(1,) * n] * n] * n, [0] * n, "a < b"))
    assert drawing.get("viewBox") == ElementTree.fromstring(ring(TWO, [0, 0], "")).get("viewBox")
    assert drawing.get("aria-label") == "a < b"
    names = [element.text for element in drawing.iter() if element.tag.endswith("text")]
    assert [f"piece {p}" in names for p in range(n)] == [True] * n
