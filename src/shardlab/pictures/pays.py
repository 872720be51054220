"""One device against t of them: a bar for each t, of the time that its products take and its wire. Inline SVG."""

from shardlab.pictures import svg
from shardlab.pictures.axes import Axis, area
from shardlab.pictures.svg import hatch, line, path, rect, text

LEFT, TOP, SLOT, BAR, TALL, MOST = 44, 48, 92, 56, 250, 1.6  # px; the axis ends at MOST times the time of one device
PRODUCTS, WIRE = svg.COLOURS[0], svg.COLOURS[1]


def bars(times, chosen, alt, without=""):
    """Draw {t: (products, wire) in seconds, or None where t cannot be} as shares of the time of t = 1.

    The axis stays as it is, so a bar may leave it: then its share stands beside an arrow. The best t has a star, the
    `chosen` one a frame, and a tick shows 1/t, the time without a wire. `without` says why there is a None.

    >>> drawing = bars({1: (4e-6, 0.0), 2: (2e-6, 1e-6), 3: None}, 2, "two are better than one", "no")
    >>> [words in drawing for words in ("★ best", "3.0 µs", ">0.75<", ">no<")]
    [True, True, True, True]
    """
    y = Axis(0, MOST, TOP + TALL, TOP)
    wide = SLOT * len(times)
    one = sum(times[1])
    best = min((t for t in times if times[t]), key=lambda t: sum(times[t]))
    parts = [area(Axis(0, 1, LEFT, LEFT + wide), y, "time of a layer, as a share of one device's")]
    parts.append(line(LEFT, y(1), LEFT + wide, y(1), stroke="currentColor", stroke_dasharray="6 4", stroke_width=1.5))
    for place, (t, time) in enumerate(times.items()):
        x = LEFT + place * SLOT + (SLOT - BAR) / 2
        middle = x + BAR / 2
        weight = {"font_weight": 700} if t == chosen else {}
        parts.append(text(middle, TOP + TALL + 18, t, **weight))
        if time is None:
            parts.append(hatch(x, TOP, BAR, TALL, 10, stroke="#888", stroke_opacity=0.5))
            parts.append(text(middle, TOP + TALL + 36, without, font_size=11))
        else:
            parts.append(_bar(time, one, t, x, y))
            parts.append(text(middle, TOP + TALL + 36, seconds(sum(time)), font_size=11))
        if t == best:
            parts.append(text(middle, TOP - 8, "★ best", font_weight=700))
        if t == chosen:
            parts.append(rect(x - 8, TOP - 24, BAR + 16, TALL + 66, stroke="currentColor", stroke_width=2, rx=4))
    parts.append(text(LEFT - 6, TOP + TALL + 18, "shards", "end", font_size=11))
    parts.append(_legend(TOP + TALL + 66))
    return svg.svg(("".join(parts), LEFT + wide + 4, TOP + TALL + 82), alt)


def _bar(time, one, t, x, y):
    """Products from below, and the wire on them, as far as the axis goes."""
    products, wire = (part / one for part in time)
    low, high = y(min(products, MOST)), y(min(products + wire, MOST))
    parts = [rect(x, low, BAR, y(0) - low, PRODUCTS, stroke=PRODUCTS)]
    parts.append(rect(x, high, BAR, low - high, WIRE, fill_opacity=0.3, stroke=WIRE, stroke_width=1.5))
    parts.append(hatch(x, high, BAR, low - high, 7, stroke=WIRE, stroke_width=2))
    parts.append(line(x - 5, y(1 / t), x + BAR + 5, y(1 / t), stroke="currentColor", stroke_width=2.5))
    share = products + wire
    said = f"{share:.2f}" if share < 10 else f"{share:.0f}"
    if share > MOST:
        parts.append(path(f"M{x + BAR / 2 - 7:g} {TOP + 14}l7 -10l7 10z", fill="currentColor"))
        parts.append(_label(x + BAR / 2, TOP + 32, said))
    elif t > 1:
        parts.append(_label(x + BAR / 2, high - 6 if high > TOP + 20 else high + 16, said))
    return "".join(parts)


def _label(x, y, said):
    """Words on a piece of the page's own ground, since a hatch may be behind them."""
    wide = svg.CHAR * len(said) + 6
    ground = f'<rect x="{x - wide / 2:g}" y="{y - 12:g}" width="{wide:g}" height="16" rx="3" '
    return ground + f'style="fill:var(--jp-layout-color0,#fff)"/>{text(x, y, said, font_weight=600)}'


def _legend(y):
    marks = [
        (rect(0, -10, 22, 12, PRODUCTS), "products"),
        (rect(0, -10, 22, 12, WIRE, fill_opacity=0.3) + hatch(0, -10, 22, 12, 7, stroke=WIRE), "wire"),
        (line(0, -4, 22, -4, stroke="currentColor", stroke_width=2.5), "1/t, without a wire"),
        (line(0, -4, 22, -4, stroke="currentColor", stroke_dasharray="6 4"), "one device"),
    ]
    parts, x = [], LEFT
    for mark, said in marks:
        parts.append(svg.move(mark, x, y) + text(x + 28, y, said, "start"))
        x += 28 + svg.CHAR * len(said) + 24
    return "".join(parts)


def seconds(value):
    """A time in words, to two or three digits.

    >>> seconds(1.234e-5), seconds(0.0123), seconds(4.5)
    ('12 µs', '12 ms', '4.5 s')
    """
    for unit, factor in (("µs", 1e6), ("ms", 1e3)):
        if value * factor < 999.5:
            return f"{value * factor:.1f} {unit}" if value * factor < 10 else f"{value * factor:.0f} {unit}"
    return f"{value:.1f} s"
