"""Lanes and gates: what is drawn where, read back from the drawing."""

import re

import pytest

from shardlab.pictures import lanes
from shardlab.pictures.svg import colour

TEXT = re.compile(r'<text x="([-\d.]+)" y="([-\d.]+)" text-anchor="(\w+)"[^>]*>([^<]*)</text>')


def words(drawing):
    """{what is written: (from, to), in pixels}"""
    found = {}
    for x, _, anchor, said in TEXT.findall(drawing):
        wide = 7.25 * len(said)
        start = float(x) - {"start": 0, "middle": wide / 2, "end": wide}[anchor]
        found[said] = start, start + wide
    return found


def bars(drawing, rank):
    """The (start, width) of the full bars in a rank's colour, without the label of its lane."""
    found = re.findall(rf'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="20" fill="{colour(rank)}"/>', drawing)
    return [(float(x), float(wide)) for x, wide in found if float(x) >= lanes.LEFT]


TOGETHER = [[(0, 1, "work", ""), (1, 4, "wait", ""), (4, 5, "work", ""), (5, 5, "returned", "")]]
TOGETHER += [[(0, 4, "work", ""), (4, 5, "work", ""), (5, 5, "returned", "")]]
ASLEEP = [[(0, 1, "work", ""), (1, 2, "wait", "")], [(0, 2, "stay", "time.sleep(100)")]]


def test_bars_are_as_long_as_they_take():
    drawing = lanes.draw(TOGETHER, [("all_reduce", {0: 1, 1: 4}, 4)], "s")
    per_second = (lanes.WIDE - lanes.LEFT - lanes.RIGHT) / 5
    first, second = bars(drawing, 0), bars(drawing, 1)
    assert [wide for _, wide in first] == pytest.approx([per_second, per_second], abs=0.01)
    assert [wide for _, wide in second] == pytest.approx([4 * per_second, per_second], abs=0.01)
    assert second[1][0] == first[1][0] == pytest.approx(lanes.LEFT + 4 * per_second, abs=0.01)


def test_a_gate_stands_where_it_opens_and_a_shut_one_at_the_end():
    assert lanes.place({0: 1, 1: 4}, 4, until=9) == 4
    assert lanes.place({0: 1, 1: None}, None, until=9) == 9
    assert lanes.place({0: 1, 1: 3}, None, until=9) == 3  # all came, and it did not open for them
    drawing = lanes.draw(ASLEEP, [("all_reduce", {0: 1, 1: None}, None)])
    beam = re.search(r'<rect x="([\d.]+)" y="([\d.]+)" width="8" height="([\d.]+)" fill="currentColor"/>', drawing)
    assert float(beam[1]) + 4 == lanes.WIDE - lanes.RIGHT
    assert float(beam[3]) > 2 * lanes.LANE
    ((start, wide),) = bars(drawing, 1)
    assert start + wide < lanes.WIDE - lanes.RIGHT - 10, "who comes to no gate stops before it"


def test_lanes_between_those_of_a_group_have_no_post():
    def posts(came):
        return lanes.draw([[(0, 1, "work", "")]] * 4, [("all_reduce", came, 1)]).count('width="8" height="6"')

    assert posts({0: 1, 1: 1, 2: 1, 3: 1}) == 8 and posts({0: 1, 2: 1}) == 4


def test_the_canvas_has_all_lanes_and_depends_on_nothing_else():
    def canvas(bars, gates, **more):
        return re.search('viewBox="([^"]*)"', lanes.draw(bars, gates, **more))[1]

    shut = [("all_reduce", {0: 1, 1: None}, None)]
    assert canvas(ASLEEP, shut) == canvas(TOGETHER, [("all_reduce", {0: 1, 1: 4}, 4)], until=20, before=7)
    assert canvas(ASLEEP * 8, shut) != canvas(ASLEEP, shut)
    drawing = lanes.draw(ASLEEP * 8, shut)
    assert all(f"rank {rank}" in words(drawing) for rank in range(16))


@pytest.mark.parametrize("name", ["all_reduce", "reduce_scatter ≠ all_to_all"])
@pytest.mark.parametrize("at", range(1, 20))
def test_no_word_leaves_the_canvas_or_covers_another(name, at):
    other = ("all_gather", {0: at / 2, 1: at / 2}, at / 2)
    for gate in [(name, {0: at, 1: at}, at), (name, {0: at, 1: None}, None), (name, {0: at, 1: at}, None)]:
        drawing = lanes.draw([[(0, 20, "work", "")]] * 2, [other, gate], "ms", before=1234)
        assert all(start >= 0 and end <= lanes.WIDE + 2 for start, end in words(drawing).values())
        flags = [(float(y), words(drawing)[said]) for _, y, _, said in TEXT.findall(drawing) if "all_" in said]
        (y, (start, end)), (other_y, (other_start, other_end)) = flags
        assert y != other_y or end < other_start or other_end < start


def test_a_failure_is_said_as_far_as_there_is_room():
    drawing = lanes.draw([[(0, 1, "work", ""), (1, 1, "failed", "ValueError: " + "so much " * 9)]], [], until=2)
    (said,) = [said for said in words(drawing) if said.startswith("ValueError")]
    assert said.endswith("…") and words(drawing)[said][1] <= lanes.WIDE


def test_words_say_whether_times_are_meant():
    gates = [("all_reduce", {0: 1, 1: 4}, 4)]
    assert "time: the order alone, not to scale" in words(lanes.draw(TOGETHER, gates))
    to_scale = words(lanes.draw(TOGETHER, gates, "ms", until=20))
    assert "time in ms" in to_scale and {"0", "5", "10", "15", "20"} <= to_scale.keys()
    assert 'aria-label="Lanes of 2 ranks in time. both return"' in lanes.draw(TOGETHER, gates, alt="both return")


def test_no_lanes_and_no_time_are_drawn_too():
    assert lanes.draw([], []).startswith("<svg") and lanes.draw([[(0, 0, "work", "")]], [], "ms").startswith("<svg")
