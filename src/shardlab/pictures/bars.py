"""What fills each of some devices, as stacked bars with the limit of the memory drawn across: inline SVG."""

from dataclasses import dataclass

from shardlab.pictures import svg
from shardlab.pictures.axes import Axis
from shardlab.pictures.svg import CHAR, badge, hatch, line, path, rect, text

LEFT, WIDE, ROW, BAR, TOP = 34, 420, 26, 20, 40
LOOKS = {  # by letter: a colour, the ink on it, and how far apart its hatch is
    "P": ("#0072B2", "#fff", 0),
    "G": ("#E69F00", "#111", 0),
    "O": ("#56B4E9", "#111", 7),
    "A": ("#009E73", "#111", 0),
    "C": ("#CC79A7", "#111", 5),
}
WRONG = "#D55E00"


@dataclass(frozen=True)
class Part:
    """One part of what a device holds: its letter (P, G, O, A or C) and name, how much there is, and more words."""

    letter: str
    name: str
    amount: float
    more: str = ""


def bars(parts, n, rows, limit, unit, alt):
    """Draw the parts one after the other, the same on each of n devices of `rows`, on an axis that ends at twice
    the limit; what is longer is cut off there and told as a number.

    >>> drawing = bars([Part("P", "parameters", 30.0), Part("A", "activations", 200.0)], 1, 2, 80.0, "GB", "a bar")
    >>> [words in drawing for words in ("holds 80 GB", "230 GB →", "idle")]
    [True, True, True]
    """
    x = Axis(0, 2 * limit, LEFT, LEFT + WIDE)
    bottom = TOP + rows * ROW
    body = [_axis(x, limit, unit, bottom)]
    for row in range(rows):
        y = TOP + row * ROW + (ROW - BAR) / 2
        body.append(badge(0, y, LEFT - 8, row, row) if row < n else text(LEFT + 6, y + 14, "idle", "start"))
        body.append(_bar(parts, x, y, unit) if row < n else "")
    edge = x(limit)
    body.append(line(edge, TOP - 8, edge, bottom + 4, stroke_width=3))
    body.append(text(edge, TOP - 14, f"each holds {amount(limit)} {unit}", font_weight=700))
    body.append(_legend(parts, unit, bottom + 44))
    return svg.svg(("".join(body), LEFT + WIDE + 20, bottom + 44 + 20 * 4), alt)


def amount(value):
    """A number in about three digits.

    >>> [amount(v) for v in (0.0123, 1.234, 56.78, 80, 1234.5)]
    ['0.01', '1.23', '56.8', '80', '1,234']
    """
    if value == round(value) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _axis(x, limit, unit, bottom):
    parts = [line(x.start, bottom, x.stop, bottom, stroke="#888")]
    for tick in x.ticks(8):
        parts.append(line(x(tick), TOP, x(tick), bottom, stroke="#888", stroke_opacity=0.3))
        parts.append(text(x(tick), bottom + 16, f"{tick:g}"))
    return "".join(parts) + text(x.stop, bottom + 31, f"{unit} on each device", "end")


def _bar(parts, x, y, unit):
    total, start, drawn = sum(part.amount for part in parts), 0.0, []
    for part in parts:
        left, right = x(start), min(x(start + part.amount), x.stop)
        if right - left > 0.3:
            drawn.append(_piece(left, y, right - left, part.letter))
        start += part.amount
    if total > x.high:
        drawn.append(path(f"M{x.stop - 8} {y}l8 5l-8 5l8 5l-8 5", fill="none", stroke=WRONG, stroke_width=3))
    said = f"{amount(total)} {unit}" + (" →" if total > x.high else "")
    at = x(total) + 6
    room = at + CHAR * len(said) < x.stop + 16
    where = (at, "start") if room else (x.stop - 14, "end")
    return "".join(drawn) + (_plate(where[0], y, said) if not room else text(at, y + 15, said, "start"))


def _plate(right, y, said):
    """Words on a ground of their own, over a bar."""
    wide = CHAR * len(said) + 8
    return rect(right - wide, y + 2, wide, BAR - 4, "#fff") + text(
        right - 4, y + 14, said, "end", fill="#111", font_weight=700
    )


def _piece(left, y, wide, letter):
    paint, ink, dense = LOOKS[letter]
    drawn = rect(left, y, wide, BAR, paint, stroke="#111", stroke_width=0.8)
    if dense and wide > 3:
        drawn += hatch(left, y, wide, BAR, dense, stroke="#111", stroke_opacity=0.45)
    return drawn + (text(left + wide / 2, y + 14, letter, fill=ink, font_weight=800) if wide > 12 else "")


def _legend(parts, unit, y):
    lines = []
    for place, part in enumerate(parts):
        at = y + 20 * place
        lines.append(_piece(LEFT, at, 22, part.letter))
        said = f"{part.name}: {amount(part.amount)} {unit}" + (f", {part.more}" if part.more else "")
        lines.append(text(LEFT + 32, at + 14, said, "start"))
    return "".join(lines)
