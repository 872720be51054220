"""Stacked bars: true lengths, the limit where it is, and what is too long cut off and told."""

import re

from shardlab.pictures.bars import LEFT, WIDE, Part, amount, bars

PARTS = [Part("P", "parameters", 20.0), Part("A", "activations", 40.0, "10 of it alike")]


def widths(drawing, paint):
    return [float(wide) for wide in re.findall(rf'width="([\d.]+)" height="20" fill="{paint}"', drawing)]


def test_lengths_are_true_and_a_bar_for_each_device():
    drawn = bars(PARTS, 3, 8, 80.0, "GB", "a picture of bars")
    pixels = WIDE / 160  # the axis ends at twice the limit
    assert widths(drawn, "#0072B2").count(20 * pixels) == 3
    assert widths(drawn, "#009E73").count(40 * pixels) == 3
    assert drawn.count(">60 GB<") == 3 and drawn.count(">idle<") == 5
    assert "activations: 40 GB, 10 of it alike" in drawn and 'aria-label="a picture of bars"' in drawn


def test_the_limit_is_in_the_middle_and_too_much_is_cut_off():
    drawn = bars([Part("O", "optimizer", 400.0)], 1, 2, 80.0, "GB", "one bar too long")
    assert f"M{LEFT + WIDE / 2:g} " in drawn and "each holds 80 GB" in drawn
    assert max(widths(drawn, "#56B4E9")) == WIDE and "400 GB →" in drawn


def test_a_letter_is_on_what_is_wide_enough():
    drawn = bars([Part("P", "parameters", 1.0), Part("G", "gradients", 40.0)], 1, 1, 80.0, "GB", "two parts of a bar")
    assert drawn.count(">G<") == 2 and drawn.count(">P<") == 1  # the legend has each


def test_amounts():
    assert [amount(value) for value in (0, 0.004, 9.999, 99.96, 100.4)] == ["0", "0.00", "10.00", "100.0", "100"]
