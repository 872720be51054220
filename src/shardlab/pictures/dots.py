"""A dot for each entry of a result, its size against its error, under two tolerances: inline SVG, numbers in."""

import math

from shardlab.pictures import svg
from shardlab.pictures.svg import line, path, rect, text

LEFT, TOP, WIDE, TALL = 76, 26, 520, 300  # the plotting area
OURS, THEIRS, RIGHT = svg.COLOURS[2], svg.COLOURS[1], svg.COLOURS[0]


def dots(sizes, errors, allowed, default):
    """Draw each entry's error over its size, both on log axes, with two tolerances: ours (a band) and torch's (a line).

    All four are lists, one number for each entry. A dot above torch's line is a cross; an error of 0 lies on the floor.
    """
    across = _decades([size for size in sizes if size > 0])
    up = _decades([value for value in [*errors, *allowed, *default] if value > 0])
    x = _axis(*across, LEFT, LEFT + WIDE)
    y = _axis(up[0] - 1, up[1], TOP + TALL, TOP)
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    ours = _band([x(sizes[i]) for i in order], [y(allowed[i]) for i in order])
    theirs = "L".join(f"{x(sizes[i]):.1f} {y(default[i]):.1f}" for i in order)
    inside = [(x(a), y(b)) for a, b, limit in zip(sizes, errors, default, strict=True) if b <= limit]
    outside = [(x(a), y(b)) for a, b, limit in zip(sizes, errors, default, strict=True) if b > limit]
    parts = [
        _grid(x, across, y, up),
        path(ours, fill=OURS, fill_opacity=0.25, stroke=OURS, stroke_width=1),
        path("".join(f"M{a - 1.5:.1f} {b:.1f}h3" for a, b in inside), stroke=RIGHT, stroke_width=3),
        path("".join(f"M{a - 3:.1f} {b - 3:.1f}l6 6m0 -6l-6 6" for a, b in outside), stroke=THEIRS, stroke_width=1.5),
        path(f"M{theirs}", fill="none", stroke=THEIRS, stroke_width=2, stroke_dasharray="7 4"),
        _legend(bool(outside)),
    ]
    said = f"The errors of {len(sizes)} entries: {len(outside)} above torch's default tolerance, "
    said += f"{sum(map(float.__gt__, errors, allowed))} above ours"
    return svg.svg(("".join(parts), LEFT + WIDE + 190, TOP + TALL + 46), said)


def _decades(values):
    """The powers of ten around some values."""
    low, high = (min(values), max(values)) if values else (1.0, 1.0)
    return math.floor(math.log10(low)), math.ceil(math.log10(high) + 1e-9)


def _axis(low, high, start, stop):
    """A map from values to pixels on a log axis; what is smaller than the axis (0, say) lies on its floor."""

    def place(value):
        at = max(math.log10(value), low) if value > 0 else low
        return start + (at - low) / ((high - low) or 1) * (stop - start)

    return place


def _band(xs, ys, bins=40):
    """A path around a crowd of points, sorted by x: the highest of each bin and the lowest of each."""
    each = math.ceil(len(xs) / bins)
    groups = [(xs[i : i + each], ys[i : i + each]) for i in range(0, len(xs), each)]
    tops = [(sum(a) / len(a), min(b) - 1) for a, b in groups]
    bottoms = [(sum(a) / len(a), max(b) + 1) for a, b in reversed(groups)]
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in [*tops, *bottoms]) + "Z"


def _grid(x, across, y, up):
    parts = [rect(LEFT, TOP, WIDE, TALL, stroke="#888"), text(LEFT, 16, "error of the entry", "start", font_weight=700)]
    parts.append(text(LEFT + WIDE / 2, TOP + TALL + 40, "size of the entry, |y|", font_weight=700))
    for power in range(across[0], across[1] + 1):
        parts.append(text(x(10.0**power), TOP + TALL + 18, f"{10.0**power:g}"))
    parts.append(text(LEFT - 8, TOP + TALL + 4, "0", "end"))
    for power in range(up[0], up[1] + 1):
        height = y(10.0**power)
        parts.append(line(LEFT, height, LEFT + WIDE, height, stroke="#888", stroke_opacity=0.3))
        parts.append(text(LEFT - 8, height + 4, f"1e{power:+03d}", "end"))
    return "".join(parts)


def _legend(crosses):
    x, y = LEFT + WIDE + 16, TOP + 12
    parts = [
        rect(x, y - 7, 24, 12, OURS, fill_opacity=0.25, stroke=OURS),
        text(x + 32, y + 4, "our tolerance", "start"),
        line(x, y + 22, x + 24, y + 22, stroke=THEIRS, stroke_width=2, stroke_dasharray="7 4"),
        text(x + 32, y + 26, "torch's default", "start"),
        line(x + 10, y + 44, x + 14, y + 44, stroke=RIGHT, stroke_width=4),
        text(x + 32, y + 48, "one entry of Y", "start"),
    ]
    if crosses:
        parts.append(path(f"M{x + 9} {y + 63}l6 6m0 -6l-6 6", stroke=THEIRS, stroke_width=1.5))
        parts.append(text(x + 32, y + 70, "rejected by torch", "start"))
    return "".join(parts)
