"""Logits cut over shards: every shard and every mark is drawn where it lies, and a bar is as long as it says."""

import re
from xml.etree import ElementTree

import pytest

from shardlab.pictures.svg import COLOURS
from shardlab.pictures.vocabulary import LEFT, WIDE, Token, vocabulary

SENT = {"three all-reduces": 100.0, "one all-gather": 1000.0}


def drawn(sizes, tokens, sent=SENT, chosen="three all-reduces"):
    return vocabulary(sizes, tokens, sent, chosen, "a < b")


def test_each_shard_has_a_piece_as_wide_as_its_words():
    picture = drawn([3, 2, 2], [Token(0, 0, (1.0, 1.0, 1.0))])
    found = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"[^>]*stroke="(#\w+)" stroke-width="2"', picture)
    cell = WIDE / 7
    for (x, wide, colour), start, words, own in zip(found, (0, 3, 5), (3, 2, 2), COLOURS, strict=False):
        assert (float(x), float(wide)) == pytest.approx((LEFT + start * cell + 1, words * cell - 2), abs=0.01)
        assert colour == own
    assert len(found) == 3


def test_ring_and_triangle_are_where_the_words_are():
    picture, cell = drawn([5, 5], [Token(largest=9, target=2, numbers=(4.0, 2.0, -1.0))]), WIDE / 10
    assert f'cx="{LEFT + 2.5 * cell:.1f}"' in picture
    assert f"M{LEFT + 9.5 * cell - 6:.1f} " in picture
    for words in ("token 0", "4.0000", "2.0000", "-1.0000", "words 0–4", "words 5–9"):
        assert f">{words}<" in picture


def test_a_bar_is_as_long_as_its_bytes_on_a_log_scale():
    bars = re.findall(r'<rect x="150" y="\d+" width="([\d.]+)"', drawn([5], [Token(0, 0, (1.0, 1.0, 1.0))]))
    few, many = map(float, bars)
    assert many / few == pytest.approx(3 / 2, abs=0.01)
    none = drawn([5], [Token(0, 0, (1.0, 1.0, 1.0))], {"three all-reduces": 0.0, "one all-gather": 0.0})
    assert re.findall(r'<rect x="150" y="\d+" width="([\d.]+)"', none) == ["0", "0"] and none.count(">0 bytes<") == 2


def test_what_moves_is_drawn_in_full():
    tokens = [Token(0, 0, (1.0, 1.0, 1.0))]
    few, many = drawn([5], tokens), drawn([5], tokens, chosen="one all-gather")
    assert '<g opacity="1">' in few and '<g opacity="0.' in many
    assert ElementTree.fromstring(many).get("aria-label") == "a < b"
