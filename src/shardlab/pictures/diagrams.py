"""Textbook pictures of X @ W, whole and cut over shards, as matplotlib figures; plain tensors in."""

import math

from matplotlib.patches import FancyBboxPatch, Rectangle

from shardlab.pictures.cuts import LEGIBLE, pieces, products
from shardlab.pictures.figure import Figure, heat, styled
from shardlab.pictures.svg import COLOURS, ON_COLOUR, largest, plain, shrink

UNIT = 0.48  # inches to the width of a value; every length below is in this unit
ROW, BADGE, GAP = 0.66, 0.56, 0.5  # the heights of a row of values and of a label, and the room between lines
HATCHES = ("", "//", "..", "xx")  # of labels: shards 0-3, 4-7, 8-11, 12-15; colour is never the only sign


@styled
def product(X, W, Y, f=""):
    """Draw Y = f(X @ W) on one line: X is [B, K], W [K, F] and Y [B, F].

    >>> import torch
    >>> product(torch.ones(2, 4), torch.ones(4, 3), torch.ones(2, 3), "gelu").alt
    'Y = gelu(X @ W), with X [2, 4], W [4, 3] and Y [2, 3].'
    """
    page, x = _Page(X, W, Y), 0
    tall = max(page.size(name, matrix)[1] for name, matrix in (("X", X), ("W", W), ("Y", Y)))
    for sign, name, matrix in ((f"{f}(" if f else "", "X", X), ("@", "W", W), (") =" if f else "=", "Y", Y)):
        x = page.sign(sign, x, (tall + BADGE) / 2)
        y = (tall - page.size(name, matrix)[1]) / 2
        x += page.matrix(name, matrix, x, y, f"{name} {list(matrix.shape)}")
    whole = f"{f}(X @ W)" if f else "X @ W"
    return page.figure(f"Y = {whole}, with X {list(X.shape)}, W {list(W.shape)} and Y {list(Y.shape)}.")


@styled
def split(X, W, Y, how, n, parts=None, f="", when="after"):
    """Draw how X @ W is cut over n shards, by "column" or by "row" of W: a line a shard, then the collective.

    X is [B, K], W [K, F] and Y [B, F]; `parts` are the shards' results before the collective (their plain
    products where they are not given); `f` names the nonlinearity, used "before" or "after" the collective.

    >>> import torch
    >>> X, W = torch.ones(2, 4), torch.ones(4, 4)
    >>> split(X, W, X @ W, "row", 2).alt
    'X [2, 4] @ W [4, 4] split by row over 2 shards; all_reduce: P_0 + P_1. On every shard Y [2, 4].'
    """
    xs, ws = pieces(X, W, how, n)
    page, column = _Page(X, W, Y, n), how == "column"
    parts = products(X, W, how, n) if parts is None else parts
    inner, outer = (f, "") if when == "before" else ("", f)
    part = "Y" if column else "P"
    places, y = page.lines(xs, ws, parts, part, inner)
    page.titles(_TITLES[how], places, (xs[0], ws[0], parts[0]))
    names = (" | " if column else " + ").join(f"{part}_{rank}" for rank in range(n))
    said = f"{'all_gather' if column else 'all_reduce'}: {names}" + (f", then {outer}" if outer else "")
    y = page.band(said, y, page.size("Y", Y)[1])
    if column:
        x = max(places[0], page.right - page.size("Y", Y)[0])
        for rank, piece in enumerate(Y.split([part.shape[1] for part in parts], 1)):
            x += page.matrix("Y", piece, x, y, f"{outer}(Y_{rank})" if outer else f"Y_{rank}", rank)
    else:
        page.matrix("Y", Y, places[2], y, "Y")
    shapes = f"X {list(X.shape)} @ W {list(W.shape)} split by {how} over {n} shards"
    return page.figure(f"{shapes}; {said}. On every shard Y {list(Y.shape)}.")


_TITLES = {
    "column": ("all of X", "columns of W\ndim=1", "columns of Y\ndim=1"),
    "row": ("columns of X\ndim=1", "rows of W\ndim=0", "partial sums\nof full size"),
}


class _Page:
    """A figure drawn in units of a value's width, with y pointing down, and cut to its size at the end."""

    def __init__(self, X, W, Y, n=1):
        self.shown = max(*X.shape, *W.shape) <= LEGIBLE
        self.scale = {"X": largest([X]), "W": largest([W]), "Y": largest([Y])}
        spans = [max(0.5 * math.log2(d + 1), 0.5 * n) / max(d, 1) for d in (*X.shape, W.shape[1])]
        (b, k, f), row = ([1, 1, 1], ROW) if self.shown else (spans, 1)
        self.unit = {"X": (k, b * row), "W": (f, k * row), "Y": (f, b * row)}
        self.paper, self.right, self.bottom, self.top = Figure(), 0.0, 0.0, 0.0
        self.axes = self.paper.add_axes([0, 0, 1, 1])

    def size(self, name, matrix):
        """Give width and height of a matrix, or of a piece of it, without its label."""
        return matrix.shape[1] * self.unit[name][0], matrix.shape[0] * self.unit[name][1]

    def matrix(self, name, matrix, x, y, label, rank=None):
        """Draw a matrix under its label and give its width; `rank=None` is for what every shard holds."""
        wide, tall = self.size(name, matrix)
        paint, ink = ("#999999", "#111") if rank is None else (COLOURS[rank % 4], ON_COLOUR[rank % 4])
        hatch = HATCHES[rank // 4 % 4] if rank is not None else ""
        edge = {"edgecolor": paint, "lw": 1.6}
        if not matrix.numel():
            self.text(x + 0.5, y + BADGE / 2, "empty", style="italic", fontsize=9)
            return self._reach(1.2, x, y + BADGE)
        if self.shown:
            self._box(x, y + BADGE, wide, tall, facecolor=(paint, 0.12), **edge)
            self._values(matrix, x, y + BADGE)
        else:
            self._heat(matrix, x, y + BADGE, wide, tall, self.scale[name])
            self._box(x, y + BADGE, wide, tall, facecolor="none", **edge)
        self._box(x, y, wide, BADGE, facecolor=paint, **edge)
        if hatch:
            self._box(x, y, wide, BADGE, facecolor="none", edgecolor=(ink, 0.5), lw=0, hatch=hatch)
        back = {"bbox": {"facecolor": paint, "lw": 0, "pad": 1}} if hatch else {}
        words = label if wide > 0.21 * len(label) or rank is None else rank
        self.text(x + wide / 2, y + BADGE / 2, words, color=ink, weight="bold", fontsize=10, **back)
        return self._reach(wide, x, y + BADGE + tall)

    def lines(self, xs, ws, parts, part, f):
        """Draw one line a shard, `X_r @ W_r = part_r`; give where the matrices begin and the y below them."""
        wide = [max(self.size(name, m)[0] for m in ms) for name, ms in (("X", xs), ("W", ws), ("Y", parts))]
        first, y = 2.1 + 0.3 * len(f), 0.0
        places = [first, first + wide[0] + 0.8, first + wide[0] + wide[1] + (2 if f else 1.6)]
        for rank, line in enumerate(zip(xs, ws, parts, strict=True)):
            tall = max(self.size(name, matrix)[1] for name, matrix in zip("XWY", line, strict=True))
            labels = ("X" if part == "Y" else f"X_{rank}", f"W_{rank}", f"{part}_{rank}")
            for place, room, name, matrix, label in zip(places, wide, "XWY", line, labels, strict=True):
                across, down = self.size(name, matrix)
                corner = place + (room - across) / 2, y + (tall - down) / 2
                self.matrix(name, matrix, *corner, label, None if label == "X" else rank)
            middle = y + (tall + BADGE) / 2
            self.text(0, middle, f"shard {rank}", ha="left", weight="bold")
            self.text(places[0] - 0.15, middle, f"{f}(" if f else "", ha="right", fontsize=15)
            self.text(places[0] + wide[0] + 0.4, middle, "@", fontsize=15)
            self.text(places[2] - (0.55 if f else 0.4), middle, ") =" if f else "=", fontsize=15)
            y += tall + BADGE + GAP
            if part == "P" and rank < len(parts) - 1:
                self.text(places[2] + wide[2] / 2, y - GAP / 2, "+", fontsize=17)
        return places, y

    def sign(self, sign, x, y):
        """Draw an operator at x and give the place after it."""
        room = 0.5 + 0.24 * len(sign) if sign else 0
        self.text(x + room / 2, y, sign, fontsize=16)
        return x + room

    def titles(self, titles, places, matrices):
        """Say above the first line what the shards hold."""
        for title, place, name, matrix in zip(titles, places, "XWY", matrices, strict=True):
            middle = place + self.size(name, matrix)[0] / 2
            self.text(middle, -0.5, title, fontsize=9, style="italic")
            self.right = max(self.right, middle + 1)
        self.top = -0.9

    def band(self, said, y, tall):
        """Draw the collective, where alone the shards meet, as a band across the page; give the y below."""
        look = {"facecolor": "#f0f0f0", "edgecolor": "#555", "lw": 1.2}
        shape = "round,pad=0,rounding_size=0.2"
        self.axes.add_patch(FancyBboxPatch((0, y), self.right, 0.75, boxstyle=shape, **look))
        self.text(self.right / 2, y + 0.375, said, weight="bold")
        y += 0.75 + GAP
        self.text(0, y + (tall + BADGE) / 2, "every shard", ha="left", weight="bold")
        return y

    def text(self, x, y, said, ha="center", **style):
        self.axes.text(x, y, said, ha=ha, va="center", **{"color": "#111"} | style)

    def figure(self, alt, margin=0.5):
        """Cut the page to what was drawn on it and give the finished figure."""
        wide, tall = self.right + 2 * margin, self.bottom - self.top + 2 * margin
        self.axes.set(xlim=(-margin, self.right + margin), ylim=(self.bottom + margin, self.top - margin))
        self.axes.set_axis_off()
        self.paper.set_size_inches(wide * UNIT, tall * UNIT)
        self.paper.alt = alt
        return self.paper

    def _values(self, matrix, x, y):
        for i, row in enumerate(plain(matrix).tolist()):
            for j, value in enumerate(row):
                said = f"{round(value, 2) + 0.0:.2f}" if abs(value) < 10 else f"{value:.3g}"
                self.text(x + j + 0.5, y + (i + 0.5) * ROW, said, fontsize=10.5)

    def _heat(self, matrix, x, y, wide, tall, scale):
        heat(self.axes, shrink(matrix), scale, extent=(x, x + wide, y + tall, y), aspect="auto")

    def _box(self, x, y, wide, tall, **style):
        self.axes.add_patch(Rectangle((x, y), wide, tall, **style))

    def _reach(self, wide, x, y):
        self.right, self.bottom = max(self.right, x + wide), max(self.bottom, y)
        return wide
