"""A plotting area whose axes are given, and so stay where they are while a slider moves: inline SVG."""

import math
from dataclasses import dataclass

from shardlab.pictures.svg import line, rect, text


@dataclass(frozen=True)
class Axis:
    """A map from values to pixels: `low` lies at `start`, `high` at `stop`. On a log axis, both are powers of ten.

    >>> Axis(0, 10, 100, 200)(5), Axis(-3, 1, 0, 400, log=True)(0.1)
    (150.0, 200.0)
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value):
        place = value
        if self.log:  # what is smaller than the axis, 0 say, lies on its floor
            place = max(math.log10(value), self.low) if value > 0 else self.low
        return self.start + (place - self.low) / (self.high - self.low) * (self.stop - self.start)

    def holds(self, value):
        """Whether a value is within the axis."""
        low, high = sorted((self.start, self.stop))
        return low - 1e-6 <= self(value) <= high + 1e-6

    def ticks(self, about=6):
        """About so many round values within the axis."""
        if self.log:
            step = math.ceil((self.high - self.low) / about)
            return [10.0 ** (step * k) for k in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        rough = (self.high - self.low) / about
        unit = 10.0 ** math.floor(math.log10(rough))
        step = unit * next(s for s in (1, 2, 5, 10) if s * unit >= rough)
        return [k * step for k in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)]

    def said(self, value):
        """A tick's label."""
        return f"1e{math.log10(value):+03.0f}" if self.log else f"{value:g}"


def area(x, y, title, across="", up=""):
    """Draw the frame of a plotting area between two axes, its title, lines at the ticks and what the axes are."""
    left, right, top, bottom = x.start, x.stop, y.stop, y.start
    parts = [rect(left, top, right - left, bottom - top, stroke="#888")]
    for tick in y.ticks():
        parts.append(line(left, y(tick), right, y(tick), stroke="#888", stroke_opacity=0.3))
        parts.append(text(left - 6, y(tick) + 4, y.said(tick), "end"))
    for tick in x.ticks() if across else []:
        parts.append(text(x(tick), bottom + 16, x.said(tick)))
    parts.append(text(0, 14, title, "start", font_weight=700))
    if across:
        parts.append(text(right, bottom + 34, across, "end"))
    if up:
        parts.append(text(0, 34, up, "start"))
    return "".join(parts)
