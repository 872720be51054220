"""The picture of how X @ W is cut over shards and how the parts become Y, as inline SVG; plain tensors in."""

import math

from shardlab.pictures import svg
from shardlab.pictures.svg import CHAR, flow, number, plain, stack, text, words

LEGIBLE = 8  # up to this many rows and columns the values themselves are shown
PAGE = 1100  # the width at which a line of drawings wraps
ROW = 22  # the height of a row of values
CUTS = {"column": (None, 1), "row": (1, 0)}  # the dims that X and W are cut along; None: whole on every shard


@svg.one_thread()
def split(X, W, Y, how, n, parts=None, f="", when="after", note=""):
    """Draw how X @ W is cut over n shards, by "column" or by "row" of W, and how the parts become Y.

    X is [B, K], W [K, F] and Y [B, F], what the shards arrive at. `parts` are the n results of the shards
    before the collective, [B, F/n] each by column and [B, F] each by row (where they are not given, the plain
    products). `f` names the nonlinearity; `when` says whether it comes "before" or "after" the collective.
    """
    xs, ws = pieces(X, W, how, n)
    shown = max(*X.shape, *W.shape) <= LEGIBLE
    parts = products(X, W, how, n) if parts is None else parts
    inner, outer = (f, "") if when == "before" else ("", f)
    x_dim, w_dim = CUTS[how]
    factors = [_factor("X", X, xs, x_dim, shown), _sign("@"), _factor("W", W, ws, w_dim, shown)]
    meet = _side_by_side if how == "column" else _summed
    lines = [flow(line, 16, page=PAGE) for line in (factors, meet(Y, parts, inner, outer, shown))]
    said = f"X {list(X.shape)} @ W {list(W.shape)} split by {how} over {n} shards; {_SAID[how]}. {note}"
    return svg.svg(stack(lines + ([words(note)] if note else []), 20), said.strip())


_SAID = {"column": "all_gather puts the parts side by side", "row": "all_reduce adds the partial sums"}


def pieces(X, W, how, n):
    """Give what each of n shards multiplies, (those of X, those of W); see `CUTS`."""
    if how not in CUTS:
        raise ValueError(f'how must be "column" or "row", not {how!r}')
    return [[m] * n if dim is None else m.tensor_split(n, dim) for m, dim in zip((X, W), CUTS[how], strict=True)]


def products(X, W, how, n):
    """Compute what each of n shards does: its columns of X @ W by "column", a partial sum of it by "row"."""
    return [x @ w for x, w in zip(*pieces(X, W, how, n), strict=True)]


def _factor(name, whole, cut, dim, shown):
    said = {None: "whole on every shard", 0: "cut by rows, dim=0", 1: "cut by columns, dim=1"}[dim]
    drawn = _pieces(cut[:1] if dim is None else cut, dim, f"{name}_", shown)
    return _titled(f"{name} {list(whole.shape)} {said}", drawn)


def _side_by_side(Y, parts, inner, outer, shown):
    whole = f"Y = {_call(outer, _several('Y', len(parts), ' | '))}, on every shard"
    joined = Y.split([part.shape[1] for part in parts], 1)
    return [
        _titled(f"Y_r = {_call(inner, 'X @ W_r')}", _pieces(parts, 1, "Y_", shown, gap=14)),
        _arrive(_sign("all_gather", "side by side"), _titled(whole, _pieces(joined, 1, "Y_", shown, 0))),
    ]


def _summed(Y, parts, inner, outer, shown):
    n = len(parts)
    total = f"Y = {_call(outer, _several('P', n, ' + '))}"
    scale, small, sums = svg.largest([*parts, Y]), shown and n * Y.shape[1] <= 2 * LEGIBLE, []
    for rank, part in enumerate(parts):
        drawn = _pieces([part], 1, "P_", small, scale=scale, first=rank, most=260 if n <= 3 else 98)
        sums.append(flow([_sign("+"), drawn], 4) if rank else drawn)
    return [
        _titled(f"P_r = {_call(inner, 'X_r @ W_r')}", flow(sums, 6, page=PAGE)),
        _arrive(_sign("all_reduce", "sum"), _titled(total, _pieces([Y], None, "", shown, scale=scale))),
    ]


def _arrive(arrow, result):
    return flow([arrow, result], 16, math.inf)  # an arrow stays beside what it points at


def _call(name, inside):
    return f"{name}({inside})" if name else inside


def _several(name, n, sign):
    names = [f"{name}_{rank}" for rank in range(n)]
    return sign.join(names if n <= 3 else [names[0], "…", names[-1]])


def _sign(said, below=""):
    """Draw an operator, or a collective as an arrow with its name above and what it does below."""
    if not below:
        return text(8, 40, said, font_size=18), 16, 44
    wide = CHAR * max(len(said), len(below)) + 8
    label = text(wide / 2, 36, said, font_weight=700) + text(wide / 2, 63, below)
    shape = f"M4 45H{wide - 4:g}m-7 -5l7 5l-7 5"
    return label + svg.path(shape, fill="none", stroke="currentColor", stroke_width=1.5), wide, 66


def _titled(title, drawing):
    return stack([words(title), drawing], 4)


def _pieces(pieces, dim, name, shown, gap=6, scale=None, first=0, most=260):
    """Draw the pieces of a matrix that is cut along dim; None where every shard holds it whole."""
    scale = svg.largest(pieces) if scale is None else scale
    cell = _cell(pieces, dim, shown, most)
    drawn, empty = [], []
    for rank, piece in enumerate(pieces, first):
        label = "every shard" if dim is None else f"{name}{rank}"
        if piece.numel():
            drawn.append(_piece(piece, cell, scale, shown, label, rank if dim is not None else None, dim))
        else:
            empty.append(label)
    whole = stack(drawn, gap) if dim == 0 else flow(drawn, gap, page=math.inf)
    if not empty:
        return whole
    some = empty[0] if len(empty) == 1 else f"{empty[0]} … {empty[-1]}"
    return stack([whole, words(f"empty: {some}", font_style="italic")], 2)


def _cell(pieces, dim, shown, most):
    """Give the width and height of one entry, so that the whole matrix has a size that fits the page."""
    if shown:
        longest = max((len(number(v)) for p in pieces for v in plain(p).flatten().tolist()), default=1)
        return CHAR * longest + 12, ROW
    sides = [sum(p.shape[d] for p in pieces) if d == dim else max(p.shape[d] for p in pieces) for d in (1, 0)]
    least = [CHAR * 4 * len(pieces) if dim == 1 else 36, 20 * len(pieces) if dim == 0 else 20]
    spans = [max(low, min(24 * math.log2(side + 1), most)) for side, low in zip(sides, least, strict=True)]
    return [span / max(side, 1) for span, side in zip(spans, sides, strict=True)]


def _piece(piece, cell, scale, shown, name, rank, dim):
    """Draw one piece with its outline and its label: on the left where rows are cut apart, else on top."""
    wide, tall = piece.shape[1] * cell[0], piece.shape[0] * cell[1]
    x, y = (44, 0) if dim == 0 else (0, 22)
    if shown:
        entries = svg.values(plain(piece).tolist(), x, y, cell[0])
    else:
        entries = svg.heat(piece, x, y, wide, tall, scale)
    if dim == 0:
        label = svg.badge(0, 0, 40, name, rank, min(tall, 20))
    else:
        label = svg.badge(0, 2, wide, _fit(name, wide), rank)
    return svg.frame(x, y, wide, tall, rank) + entries + label, x + wide, y + tall


def _fit(name, width):
    """Shorten W_12 and 'shard 12' to 12, and 'every shard' to 'all', where there is no room for the whole."""
    short = "all" if name == "every shard" else name.replace("_", " ").split()[-1]
    return name if CHAR * len(name) <= width - 4 else short
