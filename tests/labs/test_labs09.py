"""Lab 09: half a layer with the sequence cut or not, against the unsplit one; what is kept and what moves."""

from itertools import product

import pytest

from shardlab import labs
from shardlab.labs.lab09_sequence import HIDDEN, TOKENS, WIDTH, draw_sequence, sent, sequence_result
from shardlab.pictures.way import Held

S = 4 * TOKENS * WIDTH  # the bytes of X, and of Y


@pytest.mark.parametrize("sequence, y", [("on", "again"), ("on", "kept"), ("off", "again")])
@pytest.mark.parametrize("shards", [1, 2, 8])
def test_result_and_gradient_are_the_unsplit_ones_and_what_is_kept_is_cut(sequence, y, shards):
    ran = sequence_result(sequence, y, shards)
    assert ran.error < 1e-5 and ran.weight_error < 1e-5
    cut = shards if sequence == "on" else 1
    kept = dict(ran.kept)
    assert kept.pop("h") == kept.pop("a") == 4 * TOKENS * HIDDEN // shards
    assert kept.pop("X") == S // cut
    name, size = ("Y", S) if (sequence, y) == ("on", "kept") else ("y", S // cut)
    assert kept.pop(name) == size
    inside = kept.popitem()[1]  # the normed X, a number a token, and the mask
    assert not kept and inside == (S + 4 * TOKENS + TOKENS * WIDTH) // cut


@pytest.mark.parametrize("n", [2, 4])
def test_a_ring_sends_as_much_but_for_the_norm_and_what_is_gathered_again(n):
    part = (n - 1) / n
    assert sent(sequence_result("off", "kept", n).traffic) == 4 * part * S
    assert sent(sequence_result("on", "kept", n).traffic) == part * (4 * S + 2 * 4 * WIDTH)
    assert sent(sequence_result("on", "again", n).traffic) == part * (5 * S + 2 * 4 * WIDTH)


def test_the_picture_says_of_what_kind_each_value_is():
    def kinds(sequence):
        return [[i.kind for i in row if isinstance(i, Held)] for row in sequence_result(sequence, "again", 4).rows]

    rows, columns = "cut along dim 0", "cut along dim 1"
    assert kinds("on") == [
        [rows, rows, "replicated"],
        ["replicated", columns, columns, "partial"],
        ["partial"] + [rows] * 3,
    ]
    whole = ["replicated"] * 3
    assert kinds("off") == [whole, ["replicated", columns, columns, "partial"], ["partial", *whole]]


def test_what_is_said_is_what_is_there():
    on, off = draw_sequence("on", "again", 4), draw_sequence("off", "kept", 4)
    assert "✓ Match." in on and "A shard keeps 23,072 bytes" in on and "43,136 bytes" in off
    assert "3 all_gathers, 2 reduce_scatters, 1 all_reduce:" in on and "2 all_reduces:" in off
    assert "X is cut along dim 0 and keeps 2,048 bytes" in on  # in the words of the picture


def test_the_canvas_stays_where_it_is():
    states = product(("on", "off"), ("again", "kept"), (1, 2, 8))
    assert len({labs.sequence_picture(*state).data.split("viewBox=")[1][:30] for state in states}) == 1
