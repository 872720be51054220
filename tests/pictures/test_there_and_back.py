"""There and back: two lanes, twins joined by a line, and what each shard has where it lies."""

import re
from xml.etree import ElementTree

import pytest

from shardlab.pictures.svg import COLOURS
from shardlab.pictures.there_and_back import BOX, LEFT, PITCH, Operation, Value, letter, there_and_back

WHOLE, CUT = Value("x", "replicated", "", (1, 1)), Value("h", "cut along dim 1", "", (0.75, 0.25))
PART = Value("p", "partial", "", (1, 1))
F, PRODUCT = Operation("f", "f", "nothing moves", "all_reduce, 64 bytes"), Operation("@ W", "@ Wᵀ")


def drawn(step=5, values=(WHOLE, WHOLE, CUT), grads=(WHOLE, PART, CUT), operations=(F, PRODUCT), weights=None):
    return there_and_back(values, operations, grads, weights or {}, step, "a < b")


def frames(drawing):
    """(x, width, colour) of what the shards hold."""
    found = re.findall(
        r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"[^>]*stroke="(#\w+)" stroke-width="2"/>', drawing
    )
    return [(float(x), float(wide), colour) for x, wide, colour in found]


def test_pieces_lie_where_they_belong_and_are_as_wide_as_they_are():
    at = LEFT + 2 * PITCH
    cut = [frame for frame in frames(drawn()) if frame[0] >= at]
    assert cut == [(at, 0.75 * BOX, COLOURS[0]), (at + 0.75 * BOX, 0.25 * BOX, COLOURS[1])] * 2  # and its gradient


def test_rows_lie_under_each_other_and_what_is_wrong_is_crossed():
    rows = drawn(weights={1: Value("dW", "cut along dim 0", "", (0.5, 0.5))})
    assert len(frames(rows)) == len(frames(drawn())) + 2 and "dim 0" in rows
    crossed = drawn(grads=(Value("dx", "none of these", "300 %", (1, 1)), PART, CUT))
    assert crossed.count('stroke="#D55E00" stroke-width="2.5"') == 2 and ">dx ✗ 300 %</text>" in crossed
    assert "✗" not in drawn()


def test_twins_are_joined_and_a_bar_stands_where_bytes_move():
    drawing = drawn()
    assert drawing.count("<circle") == 2 and drawing.count('stroke="currentColor" stroke-width="3"') == 1
    assert drawing.count('fill="currentColor"') == 2  # the picture's own ink, and the bar of f's backward
    alone = drawn(operations=(Operation("f", "f", "nothing moves", "nothing moves", "left out"), PRODUCT))
    assert alone.count('fill="currentColor"') == 1 and ">left out</text>" in alone
    assert alone.count('stroke-dasharray="5 4"') == 3, "the line and both circles are broken"


def test_the_letter_is_that_of_value_and_gradient():
    kinds = [WHOLE, PART, CUT]
    assert [[letter(value, grad) for grad in kinds] for value in kinds] == [
        ["I", "R", "?"],
        ["P", "?", "?"],
        ["?", "?", "V"],
    ]


@pytest.mark.parametrize("step, badges, letters", [(0, 1, 0), (2, 3, 0), (3, 4, 1), (5, 6, 3)])
def test_what_is_to_come_has_no_badge_yet(step, badges, letters):
    drawing = drawn(step)
    assert drawing.count('rx="8"') == badges and drawing.count('font-size="20"') == letters


def test_the_canvas_is_the_same_at_each_step_and_says_what_it_shows():
    first, last = (ElementTree.fromstring(drawn(step)) for step in (0, 5))
    assert first.get("viewBox") == last.get("viewBox") and first.get("aria-label") == "a < b"
