"""Line charts as inline SVG: numbers in, a string out."""

import math

from shardlab.pictures import svg
from shardlab.pictures.svg import CHAR, line, rect, text

LEFT, TOP, WIDE, TALL = 76, 50, 340, 230  # the plotting area


def curves(series, xs, xlabel, ylabel, title="", logy=True, form="{:g}", limits=()):
    """Draw named curves over xs (on a log axis), each with its own colour, marker and dash, and its name at its end.

    `series` maps a name to the values at xs (None or NaN: no point; on a log axis a zero lies on the floor), `limits`
    some of these names to values that are drawn dashed, in the colour of that name. `form` writes the values of the y
    axis, such as "{:.0%}".

    >>> chart = curves({"gelu": [0.37, 0.45], "relu": [0.43, 0.72]}, [2, 4], "shards", "error")
    >>> "gelu" in chart and "relu" in chart
    True
    """
    limits = {name: limits[name] for name in series if name in limits}
    known = [y for ys in [*series.values(), *limits.values()] for y in ys if _fine(y)]
    x, y = _scale(xs, LEFT + 12, LEFT + WIDE - 12, True), _scale(known, TOP + TALL, TOP, logy, room=True)
    parts, ends = [_axes(x, y, xs, xlabel, ylabel, form)], []
    if title:
        parts.append(text(0, 14, title, "start", font_weight=700))
    for index, (name, ys) in enumerate(series.items()):
        points = [(x(a), y(b)) for a, b in zip(xs, ys, strict=True) if _fine(b)]
        if points:
            parts.append(_curve(points, index, bool(limits)))
            ends.append((points[-1][1], name, index))
        if name in limits:
            dashed = [(x(a), y(b)) for a, b in zip(xs, limits[name], strict=True)]
            parts.append(_path(dashed, stroke=svg.colour(index), stroke_width=1.5, stroke_dasharray="7 4"))
            ends.append((dashed[-1][1], f"{name}, allowed", None))
    parts.append(_names(ends))
    width = LEFT + WIDE + 34 + CHAR * max((len(name) for _, name, _ in ends), default=0)
    said = "; ".join(f"{name}: " + ", ".join(map(_said, ys)) for name, ys in series.items())
    label = f"{title}: {ylabel}".removeprefix(": ") + f" against {xlabel} {', '.join(f'{a:g}' for a in xs)}. {said}"
    dashed = ". Dashed: allowed" if limits else ""
    return svg.svg(("".join(parts), width, TOP + TALL + 46), label + dashed)


def _fine(value):
    return value is not None and math.isfinite(value)


def _said(value):
    return svg.about(value) if _fine(value) else "none"


class _scale:
    """A map from values to pixels, linear or logarithmic, with the ticks that belong to it."""

    def __init__(self, values, start, stop, log, room=False):
        self.log = log and any(value > 0 for value in values)
        self.start, self.stop = start, stop
        places = [self._place(value) for value in values if value > 0 or not self.log] or [0, 1]
        low, high = min(places), max(places)
        if room and self.log:
            low, high = math.floor(low - 0.1), math.ceil(high + 0.05)
        elif room:
            low, high = min(0, low), high * 1.08 if high > 0 else 0
        self.zero = self.log and any(value <= 0 for value in values)  # a log axis has no 0: give it the floor
        self.low, self.high = low - self.zero, high if high > low else low + 1

    def _place(self, value):
        return math.log10(value) if self.log else value

    def __call__(self, value):
        place = self._place(value) if value > 0 or not self.log else self.low
        return self.start + (place - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self):
        """Give about five round values within the scale."""
        if self.log:
            step = max(1, math.ceil((self.high - self.low) / 6))
            decades = range(int(self.low) + self.zero, int(self.high) + 1, step)
            return [0.0] * self.zero + [10.0**k for k in decades]
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = unit * next(s for s in (1, 2, 5, 10) if s * unit >= rough)
        return [k * step for k in range(math.ceil(self.low / step), int(self.high / step) + 1)]


def _axes(x, y, xs, xlabel, ylabel, form):
    parts = [rect(LEFT, TOP, WIDE, TALL, stroke="#888"), text(LEFT, TOP - 10, ylabel, "start")]
    for value in y.ticks():
        height = y(value)
        parts.append(line(LEFT, height, LEFT + WIDE, height, stroke="#888", stroke_opacity=0.35))
        parts.append(text(LEFT - 8, height + 4, form.format(value), "end"))
    last = -math.inf
    for value in xs:
        if x(value) - last > CHAR * 5:
            last = x(value)
            parts.append(text(last, TOP + TALL + 18, f"{value:g}"))
    parts.append(text(LEFT + WIDE / 2, TOP + TALL + 40, xlabel))
    return "".join(parts)


def _curve(points, index, solid):
    dash = {"stroke_dasharray": svg.DASHES[index % 4]} if index % 4 and not solid else {}
    path = _path(points, stroke=svg.colour(index), stroke_width=2, **dash)
    return path + "".join(_marker(a, b, index) for a, b in points)


def _path(points, **attributes):
    return svg.path("M" + "L".join(f"{a:g} {b:g}" for a, b in points), fill="none", **attributes)


def _marker(x, y, index):
    """Draw a dot, square, triangle or diamond; from the fifth on they are hollow."""
    shape = (
        "M{x} {y}m-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
        "M{x} {y}m-4 -4h8v8h-8z",
        "M{x} {y}m0 -5.5l5 9h-10z",
        "M{x} {y}m0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
    )[index % 4].format(x=f"{x:.1f}", y=f"{y:.1f}")
    fill = svg.colour(index) if index < 4 else "none"
    return svg.path(shape, fill=fill, stroke=svg.colour(index), stroke_width=1.5)


def _names(ends):
    """Write each curve's name at its end, pushed apart where two would touch."""
    parts, floor = [], -math.inf
    for height, name, index in sorted(ends, key=lambda end: end[0]):
        floor = max(height, floor + 16)
        if index is not None:
            parts.append(_marker(LEFT + WIDE + 14, floor, index))
        parts.append(text(LEFT + WIDE + 26, floor + 4, name, "start"))
    return "".join(parts)
