"""Stills: the same drawing in an `<img>`, on a card that reads in both themes, with its words beside it."""

import base64
import re
import xml.etree.ElementTree as xml
from html import unescape

import pytest
import torch

from notebook_tools import opened
from shardlab import Mesh
from shardlab.pictures import draw, still, svg

DRAWING = draw.error_map(torch.eye(3), torch.zeros(3, 3), 'a <note> & "more"')


def test_a_still_is_the_drawing_with_room_around_it():
    shown = xml.fromstring(opened(still.still(DRAWING)).split('src="')[1].removesuffix('">'))
    drawn = xml.fromstring(DRAWING)
    left, top, width, height = map(float, drawn.get("viewBox").split())
    card = [left - still.PAD, top - still.PAD, width + 2 * still.PAD, height + 2 * still.PAD]
    assert list(map(float, shown.get("viewBox").split())) == card
    assert [float(shown.get("width")), float(shown.get("height"))] == card[2:]
    style, page, *rest = shown
    assert [float(page.get(side)) for side in ("x", "y", "width", "height")] == card
    assert list(map(xml.tostring, rest)) == list(map(xml.tostring, drawn))


def test_a_still_says_what_the_drawing_said():
    alt = re.match('<img alt="([^"]*)"', still.still(DRAWING))[1]
    assert unescape(alt) == xml.fromstring(DRAWING).get("aria-label") and 'a <note> & "more"' in unescape(alt)


@pytest.mark.parametrize("colours", [still.LIGHT, still.DARK])
def test_the_card_has_the_colours_that_drawings_ask_for(colours):
    asked = set(re.findall(r"var\((--jp-[\w-]+color\d)", DRAWING))
    given = dict(pair.split(":") for pair in colours.split(";"))
    assert asked <= set(given) and len(set(given.values())) == 2


def test_words_around_a_drawing_stay():
    html = f"<p>before</p>{DRAWING}<p>after</p>"
    assert re.fullmatch(r"<p>before</p><img [^>]*><p>after</p>", still.stills(html))
    assert still.words(html).split("\n") == ["before", xml.fromstring(DRAWING).get("aria-label"), "after"]


def test_a_picture_shows_itself_in_both_ways():
    picture = still.Picture(svg.svg((svg.rect(0, 0, 9, 9), 9, 9), "a small frame"))
    assert repr(picture) == "a small frame" and picture._repr_html_().startswith('<img alt="a small frame"')


def test_shards_show_themselves_as_a_still():
    shown = Mesh(2).shard(torch.eye(4), dim=1)._repr_html_()
    drawing = base64.b64decode(re.fullmatch(r'<img [^>]*base64,([^"]*)">', shown)[1]).decode()
    assert drawing.count(">1<") == 4
