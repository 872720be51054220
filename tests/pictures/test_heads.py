"""The picture of heads: every block is as wide as its columns, and in the colours of the shards to which it belongs."""

import re
from xml.etree import ElementTree

import pytest

from shardlab.pictures.heads import HEAD, LANES, draw
from shardlab.pictures.svg import COLOURS

OWNERS = {"q0": [0], "q1": [1], "k0": [0, 1], "v0": [0, 1]}
WHOLE = [[(name, 0, 1) for name in names] for names in (["q0", "k0", "v0"], ["q1", "k0", "v0"])]
RIGHT = [["q0", "k0", "v0"], ["q1", "k0", "v0"]]
LIES, TAKEN = [[("q0", 0, 1), ("q1", 0, 1)], [("k0", 0, 1), ("v0", 0, 1)]], [["q0", "k0"], ["q1", "v0"]]


def drawn(held=WHOLE, wanted=RIGHT, owners=OWNERS):
    return draw(2, 1, [*owners], owners, held, wanted, "two heads < three")


def sections(drawing):
    """The three parts of a picture."""
    return [ElementTree.tostring(part).decode() for part in ElementTree.fromstring(drawing) if part.tag.endswith("}g")]


def tinted(part):
    """(width, colour) of each band of a block."""
    return re.findall(r'width="([\d.]+)"[^>]*fill="(#\w+)" fill-opacity="0.4"', part)


def test_every_head_is_in_the_colour_of_its_shard_and_a_shared_one_in_both():
    heads, weight, _ = sections(drawn())
    one, two = COLOURS[:2]
    assert tinted(heads) == [(f"{HEAD}", colour) for colour in (one, two, one, two, one, two)]
    assert tinted(weight) == tinted(heads)


def test_where_the_columns_go_is_above_them():
    bars = r'<(?:ns0:)?rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)" height="(?:14|7)" fill="(#\w+)" />'
    _, weight, _ = sections(drawn(LIES, TAKEN))
    found = {(float(wide) + 1, colour) for _, wide, colour in re.findall(bars, weight)}
    assert found == {(2.0 * HEAD, COLOURS[0]), (2.0 * HEAD, COLOURS[1])}
    _, weight, _ = sections(drawn())
    assert len(re.findall(bars, weight)) == 2 + 2 * 1  # the badges of q0 and q1, and k0 v0 for both


def test_a_lane_has_what_the_shard_has_and_hatches_what_it_takes_for_another():
    _, _, lanes = sections(drawn(LIES, TAKEN))
    assert re.findall(r">([qkv]\d)<", lanes) == ["q0", "q1", "k0", "v0"]
    assert re.findall(r'underline">(\w+)<', lanes) == ["q1", "k0"]
    assert "underline" not in sections(drawn())[2]


def test_what_goes_astray_is_hatched_in_the_weight():
    assert re.findall(r'underline">(\w+)<', sections(drawn(LIES, TAKEN))[1]) == ["q1", "k0", "v0"]
    assert "underline" not in sections(drawn())[1]


def test_where_no_heads_can_be_made_of_it_what_belongs_elsewhere_is_hatched():
    _, _, lanes = sections(drawn([[("q0", 0, 0.5)], [("q0", 0.5, 1), ("q1", 0, 1)]], [None, None]))
    assert tinted(lanes)[0] == (f"{HEAD // 2}", COLOURS[0])
    assert lanes.count("#888") == 1  # the second half of q0, on shard 1: too narrow for its name


def test_a_shard_without_a_head_says_so():
    owners = {name: [0] for name in OWNERS}
    assert drawn([[(name, 0, 1) for name in owners], []], [[*owners], []], owners).count("nothing: idle") == 1


@pytest.mark.parametrize("n", [1, 8])
def test_lanes_share_one_height(n):
    owners = {name: [0] for name in OWNERS}
    held = [[(name, 0, 1) for name in owners]] + [[]] * (n - 1)
    drawing = drawn(held, [[*owners]] + [[]] * (n - 1), owners)
    assert ElementTree.fromstring(drawing).get("viewBox") == ElementTree.fromstring(drawn()).get("viewBox")
    places = re.findall(r'<(?:ns0:)?rect x="[01]" y="([\d.]+)"', sections(drawing)[2])
    assert [float(y) for y in places] == pytest.approx([r * LANES / n + (r > 3) for r in range(n)], abs=1e-3)
    assert ElementTree.fromstring(drawing).get("aria-label") == "two heads < three"
