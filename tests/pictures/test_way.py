"""The way of a value: each shard is drawn, with what it holds where it lies."""

import re
from xml.etree import ElementTree

import pytest

from shardlab.pictures.svg import COLOURS
from shardlab.pictures.way import BOX, Held, Step, way

WHOLE, CUT = Held("x", "replicated", (4, 4, 4)), Held("h", "cut along dim 1", (2, 1, 1))


def rects(row, n=3):
    """The frames of what the shards hold, as (x, width, colour)."""
    found = re.findall(
        r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"[^>]*stroke="(#\w+)" stroke-width="2"', way([row], n, "a way")
    )
    return [(float(x), float(wide), colour) for x, wide, colour in found]


def test_what_is_replicated_is_whole_on_every_shard():
    assert rects([WHOLE]) == [(0, BOX, colour) for colour in COLOURS[:3]]


def test_pieces_lie_where_they_belong_and_are_as_wide_as_they_are():
    places = rects([CUT])
    assert places == [(0, BOX / 2, COLOURS[0]), (BOX / 2, BOX / 4, COLOURS[1]), (3 * BOX / 4, BOX / 4, COLOURS[2])]


def test_rows_lie_under_each_other_each_in_its_own_lane():
    drawing = way([[Held("x", "cut along dim 0", (2, 1, 1))]], 3, "a way", high=120)
    found = re.findall(r'y="([\d.]+)" width="76" height="([\d.]+)"[^>]*stroke-width="2"', drawing)
    tall = 120 / 3 - 3
    parts = [(0, 0, tall / 2), (40, tall / 2, tall / 4), (80, 3 * tall / 4, tall / 4)]  # lane, place in it, height
    assert [tuple(map(float, each)) for each in found] == [
        (pytest.approx(41 + lane + at, abs=1e-3), pytest.approx(high, abs=1e-3)) for lane, at, high in parts
    ]


def test_a_word_more_stands_below_and_has_its_room():
    plain, more = (way([[Held("x", "partial", (4, 4), word)]], 2, "a way") for word in ("", "keeps 8"))
    heights = [float(ElementTree.fromstring(each).get("viewBox").split()[3]) for each in (plain, more)]
    assert ">keeps 8</text>" in more and heights[1] > heights[0]


def test_nothing_moves_is_not_cut_off():
    drawing = ElementTree.fromstring(way([[WHOLE, Step("@ W"), WHOLE]], 3, "a way"))
    (said,) = [each for each in drawing.iter() if each.text == "nothing moves"]
    assert float(said.get("x")) + 7.2 * len(said.text) <= float(drawing.get("viewBox").split()[2])


def test_an_empty_piece_is_seen():
    assert [wide > 0 for _, wide, _ in rects([Held("h", "cut along dim 1", (1, 1, 0))])] == [True] * 3


@pytest.mark.parametrize("kind, hatched, crossed", [("partial", 3, 0), ("replicated", 0, 0), ("none of these", 0, 3)])
def test_a_partial_sum_is_hatched_and_what_is_wrong_is_crossed(kind, hatched, crossed):
    plain, drawn = (way([[Held("y", name, (4, 4, 4))]], 3, "a way") for name in ("replicated", kind))
    paths = drawn.count("<path") - plain.count("<path")
    assert paths == hatched + crossed and drawn.count("l8 8m0 -8l-8 8") == crossed
    assert f">{kind}</text>" in drawn


def test_a_collective_is_a_bar_across_the_lanes_and_where_none_is_nothing_moves():
    still, moves = (
        way([[WHOLE, Step("all_reduce", "64 bytes", moving), WHOLE]], 3, "a way") for moving in (False, True)
    )
    assert "nothing moves" in still and "nothing moves" not in moves
    assert moves.count('fill="currentColor"') == still.count('fill="currentColor"') + 1
    assert ">64 bytes</text>" in moves and ">all_reduce</text>" in moves


@pytest.mark.parametrize("n", [1, 2, 8])
def test_the_canvas_is_the_same_for_every_number_of_shards(n):
    drawing = ElementTree.fromstring(way([[Held("x", "replicated", (4,) * n), Step("@ W"), WHOLE]], n, "a < b"))
    assert drawing.get("viewBox") == ElementTree.fromstring(way([[WHOLE, Step("@ W"), WHOLE]], 3, "")).get("viewBox")
    assert drawing.get("aria-label") == "a < b"
