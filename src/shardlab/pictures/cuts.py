"""The picture of X @ W, whole or cut over shards: W above, X at the left, Y where they cross; plain tensors in."""

import itertools

from shardlab.pictures import heat, svg
from shardlab.pictures.svg import CHAR, text

LEGIBLE = 8  # up to this many rows and columns the values themselves are shown
CUTS = {"column": (None, 1), "row": (1, 0)}  # the dims that X and W are cut along; None: whole on every shard
MOST = 16  # shards; the canvas has room for as many, so that it stays when their number changes
LEFT, APART, FLOW = 200, 4, 34  # px: the least room left of Y, between two pieces, and between W and what comes of it
DEEP = 3  # so many layers of a stack are wholly in sight; more lie closer


@svg.one_thread()
def split(X, W, Y, how, n, parts=None, f="", when="after", want=None, matches=True):
    """Draw how X @ W is cut over n shards, by "column" or by "row" of W, and how the parts become Y.

    X is [B, K], W [K, F] and Y [B, F], what the shards arrive at. `parts` are the n results of the shards before the
    collective, [B, F/n] each by column and [B, F] each by row (where they are not given, the plain products). `f` names
    the nonlinearity; `when` says whether it comes "before" or "after" the collective. `want`, of the shape of Y, is
    the result in one piece: it is drawn under Y, and under that the difference, unless Y `matches` up to rounding.
    """
    xs, ws = pieces(X, W, how, n)
    parts = products(X, W, how, n) if parts is None else parts
    inner, outer = (f, "") if when == "before" else ("", f)
    page = _Page(X, W, [X, W, Y, *parts])
    body = [_legend(ws), page.title("W", W, f"by {how}s, dim={CUTS[how][1]}", 34)]
    drawn, y = (_columns if how == "column" else _rows)(page, xs, ws, parts, inner)
    body += [drawn, *_results(page, y, Y, parts if how == "column" else None, how, f, outer, want, matches)]
    y += (page.high + 12) * (1 if want is None else 3)
    said = f"X {list(X.shape)} @ W {list(W.shape)} cut by {how}s of W over {n} shards: {_listed(parts, how)}. "
    said += _SAID[how] + (f", then {outer}" if outer else f", after {inner}" if inner else "") + f". {_told('Y', Y)}"
    return svg.svg(("".join(body), page.x + max(page.wide + 24, 200), y), said + _apart(Y, want, matches))


@svg.one_thread()
def product(X, W, Y, f=""):
    """Draw Y = f(X @ W): X [B, K], W [K, F], Y [B, F]; a row of X and a column of W are framed where they meet in Y."""
    page = _Page(X, W, [X, W, Y])
    (w, h), high = page.cell, W.shape[0] * page.cell[1]
    y, left = 22 + high + FLOW, page.x - X.shape[1] * page.cell[0] - 16
    body = [page.title("W", W, "", 14), text(page.x - 16, y - 8, f"X {list(X.shape)}", "end")]
    body += [page.matrix(W, page.x, 22), page.matrix(X, left, y), page.matrix(Y, page.x, y)]
    body.append(_band(page.x, 22 + high, w, page.x, y, w, 0))
    for x, top, wide, tall in ((left, y, X.shape[1] * w, h), (page.x, 22, w, high), (page.x, y, w, h)):
        body.append(svg.rect(x, top, wide, tall, stroke=svg.COLOURS[0], stroke_width=2.5))
    call = f"Y = {f}(X @ W)" if f else "Y = X @ W"
    body.append(text(page.x, y + Y.shape[0] * h + 18, f"{call}, {list(Y.shape)}", "start", font_weight=700))
    shapes = f"X {list(X.shape)}, W {list(W.shape)} and Y {list(Y.shape)}"
    wide = page.x + max(page.wide, CHAR * (len(call) + 8))
    said = f"{call}, with {shapes}: a row of X meets a column of W. {_told('Y', Y)}"
    return svg.svg(("".join(body), wide, y + Y.shape[0] * h + 24), said)


_SAID = {"column": "all_gather puts them side by side", "row": "all_reduce adds the layers"}


def pieces(X, W, how, n):
    """Give what each of n shards multiplies, (those of X, those of W); see `CUTS`."""
    if how not in CUTS:
        raise ValueError(f'how must be "column" or "row", not {how!r}')
    return [[m] * n if dim is None else m.tensor_split(n, dim) for m, dim in zip((X, W), CUTS[how], strict=True)]


def products(X, W, how, n):
    """Compute what each of n shards does: its columns of X @ W by "column", a partial sum of it by "row"."""
    return [x @ w for x, w in zip(*pieces(X, W, how, n), strict=True)]


class _Page:
    """The measures of one picture: all its cells have one size, and it has one size whatever the number of shards."""

    def __init__(self, X, W, tensors):
        (B, K), F = X.shape, W.shape[1]
        self.shown = max(B, K, F) <= LEGIBLE
        unit = max(4, min(16, 420 / (K + F)))
        self.cell = svg.CELL if self.shown else (unit, unit)
        gaps = [APART * (min(side, MOST) - 1) for side in (K, F)]
        self.wide, self.tall = F * self.cell[0] + gaps[1], K * self.cell[1] + gaps[0]  # of W in pieces
        self.high = max(B * self.cell[1], 34)  # of Y, and of the words beside it
        self.x = max(K * self.cell[0] + gaps[0] + 16, LEFT)  # where W and Y begin
        self.scale = heat.largest(tensors)

    def title(self, name, whole, how, y):
        return text(self.x, y, f"{name} {list(whole.shape)} {how}".strip(), "start")

    def words(self, y, bold, more):
        """Write two lines left of Y."""
        x, middle = self.x - 16, y + min(self.high, 60) / 2
        return text(x, middle - 3, bold, "end", font_weight=700) + text(x, middle + 13, more, "end")

    def matrix(self, m, x, y, rank=None, covered=False):
        """Draw a matrix, or a piece of one, in the colours of the shard that holds it; without values where covered."""
        w, h = self.cell
        wide, tall = m.shape[1] * w, m.shape[0] * h
        back = svg.rect(x, y, wide, tall, style="fill:var(--jp-layout-color0,none)")
        inside = (
            svg.values(heat.plain(m).tolist(), x, y, w, h, svg.short)
            if self.shown
            else heat.heat(m, x, y, wide, tall, self.scale)
        )
        return back + svg.frame(x, y, wide, tall, rank) + ("" if covered and self.shown else inside)


def _legend(ws):
    """Draw every shard, also those that have no piece: these are hollow."""
    marks = [text(0, 14, "shard", "start")]
    for rank, piece in enumerate(ws):
        x = 46 + 22 * rank
        marks.append(svg.badge(x, 0, 20, str(rank), rank) if piece.numel() else svg.frame(x + 1, 1, 18, 18, rank, 0))
        if not piece.numel():
            marks.append(text(x + 10, 14, str(rank), opacity=0.7))
    return "".join(marks)


def _starts(ws, dim, side):
    """Give where each piece begins, in px, when those with values are set apart."""
    sizes = [piece.shape[dim] for piece in ws]
    starts = itertools.accumulate((size * side + APART * (size > 0) for size in sizes), initial=0)
    return list(zip(starts, [size * side for size in sizes], strict=False))


def _columns(page, xs, ws, parts, f):
    """Draw columns of W that flow down into columns of Y, each of which needs all of X."""
    w, h = page.cell
    top, y = 40, 40 + page.tall + FLOW
    X, bottom = xs[0], y + xs[0].shape[0] * h
    left = page.x - 16 - X.shape[1] * w
    body = [page.matrix(X, left, y), text(page.x - 16, y - 8, f"X {list(X.shape)}, on every shard", "end")]
    body.append(text(page.x - 16, bottom + 16, f"Y_r = {_call(f, 'X @ W_r')}", "end"))
    for rank, ((start, wide), W, part) in enumerate(zip(_starts(ws, 1, w), ws, parts, strict=True)):
        if part.numel():
            x = page.x + start
            body += [page.matrix(W, x, top, rank), _band(x, top + W.shape[0] * h, wide, x, y, wide, rank)]
            body.append(page.matrix(part, x, y, rank))
    body.append(_closing(page, [(s, wide) for s, wide in _starts(ws, 1, w) if wide], bottom))
    return "".join(body), max(bottom, y + page.high) + FLOW


def _closing(page, places, y):
    """Draw how pieces that stand apart move together."""
    at, bands = 0, []
    for rank, (start, wide) in enumerate(places):
        bands.append(_band(page.x + start, y, wide, page.x + at, y + FLOW, wide, rank))
        at += wide
    return "".join(bands)


def _rows(page, xs, ws, parts, f):
    """Draw rows of W and columns of X, and of each pair of them a layer as large as Y: a stack that folds into one."""
    w, h = page.cell
    top, n = 40, len(parts)
    y, layer = 40 + page.tall + FLOW, parts[0].shape[0] * h
    deep = (DEEP - 1) * (layer + 8)
    step = min(layer + 8, deep / max(n - 1, 1))
    full = sum(x.shape[1] for x in xs) * w + APART * (sum(x.shape[1] > 0 for x in xs) - 1)
    left, lean = page.x - 16 - full, APART * (min(len(ws), MOST) - 1)
    body = [text(page.x - 16, y - 8, f"X [{xs[0].shape[0]}, {sum(x.shape[1] for x in xs)}] cut by columns", "end")]
    places = zip(_starts(xs, 1, w), _starts(ws, 0, h), xs, ws, strict=True)
    for rank, ((across, _), (down, tall), x, W) in enumerate(places):
        if W.numel():
            body += [page.matrix(W, page.x, top + down, rank), page.matrix(x, left + across, y, rank)]
            body.append(
                _thread(page.x + W.shape[1] * w, top + down + tall / 2, y + rank * step + min(step, layer) / 2, rank)
            )
    body.append(text(page.x - 16, y + layer + 18, f"P_r = {_call(f, 'X_r @ W_r')}", "end"))
    for rank, part in enumerate(parts):
        lies = page.x + (page.wide - part.shape[1] * w) * rank / max(n - 1, 1) if lean else page.x
        body.append(page.matrix(part, lies, y + rank * step, rank, step < layer and rank < n - 1))
    bottom = y + deep + layer
    last = y + (n - 1) * step + layer
    body.append(svg.path(f"M{page.x + w:g} {last + 4:g}V{bottom + FLOW - 5:g}m-5 -6l5 6l5 -6", **_LINE))
    return "".join(body), bottom + FLOW


_LINE = {"fill": "none", "stroke": "currentColor", "stroke_width": 1.5}


def _thread(x, y1, y2, rank):
    """Draw a thread in the colour of a shard, from a row of W round to the layer that it makes."""
    look = {"fill": "none", "stroke": svg.colour(rank), "stroke_width": 2, "stroke_opacity": 0.7}
    return svg.path(f"M{x:g} {y1:g}C{x + 36:g} {y1:g} {x + 36:g} {y2:g} {x:g} {y2:g}", **look)


def _band(x1, y1, wide1, x2, y2, wide2, rank):
    """Draw a stream in the colour of a shard, from one edge down to another."""
    shape = f"M{x1:g} {y1:g}h{wide1:g}L{x2 + wide2:g} {y2:g}h{-wide2:g}Z"
    return svg.path(shape, fill=svg.colour(rank), fill_opacity=0.22)


def _results(page, y, Y, columns, how, f, outer, want, matches):
    """Draw what every shard arrives at, and under it the result in one piece and what does not fit."""
    w, h = page.cell
    name, join = ("all_gather", "cat") if how == "column" else ("all_reduce", "sum")
    body = [page.words(y, name, f"Y = {_call(outer, join)}")]
    x = page.x
    for rank, part in enumerate(columns or [Y]):
        piece = Y[:, round((x - page.x) / w) :][:, : part.shape[1]] if columns else Y
        body.append(page.matrix(piece, x, y, rank if columns else None) if piece.numel() else "")
        x += part.shape[1] * w
    if want is None:
        return body
    wrong, row = heat.difference(Y, want), page.high + 12
    size = heat.largest([wrong])
    body += [page.words(y + row, "baseline", f"Y = {_call(f, 'X @ W')}"), page.matrix(want, page.x, y + row)]
    if matches:
        return [*body, page.words(y + 2 * row, "Y - baseline", "0, up to rounding")]
    for place, shown in ((y, Y), (y + 2 * row, wrong)):  # what does not fit is seen on Y itself, too
        body.append(heat.heat(wrong, page.x, place, Y.shape[1] * w, Y.shape[0] * h, size, 0.5 if page.shown else 1))
        body.append(svg.rect(page.x, place, Y.shape[1] * w, Y.shape[0] * h, stroke="#888", stroke_width=2))
        body.append(svg.values(shown.tolist(), page.x, place, w, h, svg.short) if page.shown else "")
    return [*body, page.words(y + 2 * row, "Y - baseline", f"up to {svg.about(size)}")]


def _call(name, inside):
    return f"{name}({inside})" if name else inside


def _listed(parts, how):
    """Say which shard has what."""
    shapes = [f"{'Y' if how == 'column' else 'P'}_{rank} {list(part.shape)}" for rank, part in enumerate(parts)]
    return ", ".join(shapes if len(parts) <= 4 else [*shapes[:2], "…", shapes[-1]])


def _told(name, m):
    """Say the values of a small matrix, row by row."""
    if max(m.shape) > LEGIBLE:
        return f"{name} {list(m.shape)}."
    return f"{name} = {heat.rows(m)}."


def _apart(Y, want, matches):
    if want is None:
        return ""
    size = heat.largest([heat.difference(Y, want)])
    if matches:
        return " It is the baseline, up to rounding."
    return f" {_told('The baseline', want)} They differ by up to {svg.about(size)}."
