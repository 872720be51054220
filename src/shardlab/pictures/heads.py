"""Attention heads and their columns in a fused weight: to which shard each belongs, and which shard gets it."""

from itertools import groupby

from shardlab.pictures import svg
from shardlab.pictures.svg import CHAR, badge, colour, hatch, line, rect, text

LEFT, HEAD, KIND = 26, 20, 12  # the widths of a rank's badge, of the columns of a head, and of the letter of a kind
LANES, MOST = 168, 30  # the height of all shards' pieces together, and of one of them at most
BLOCKS, GROUPS = 16, 4  # what the canvas has room for


def draw(q, kv, blocks, owners, held, wanted, alt):
    """Draw heads, the fused weight, and what each shard has of it, one under the other.

    `q` and `kv` are the numbers of heads. `blocks` are the names of the heads in the order in which the fused weight
    has their columns ("q0", "k0", …), `owners` says by name to which ranks a head belongs. `held` lists for each rank
    the pieces that it has, (name, start, end) with start and end as parts of a head, and `wanted` for each rank the
    names as which its code takes whole heads (None: it cannot take them apart).

    >>> drawing = draw(1, 1, ["q0", "k0", "v0"], dict.fromkeys(["q0", "k0", "v0"], [0]),
    ...                 [[("q0", 0, 1), ("k0", 0, 1), ("v0", 0, 1)]], [["q0", "k0", "v0"]], "one head")
    >>> drawing.count(">q0</text>")
    3
    """
    width = LEFT + BLOCKS * HEAD + 3 * GROUPS * KIND
    sections = [
        ("the heads, by the shard that computes them", _heads(q, kv, owners), 88),
        ("the columns of the fused weight, and where they go", _weight(blocks, owners, held), 40),
        ("what each shard has, and what it takes it for", _lanes(owners, held, wanted), LANES),
    ]
    parts, y = [], 0
    for title, body, tall in sections:
        parts += [text(0, y + 12, title, "start", font_weight=700), svg.move(body, 0, y + 20)]
        y += tall + 32
    return svg.svg(("".join(parts), width, y - 12), alt)


def _heads(q, kv, owners):
    """A row each for q, k and v: a kv head stands under the first of the q heads that attend with it."""
    parts, group = [_bars((head, head + 1, owners[f"q{head}"]) for head in range(q))], q // kv
    for kind, y in (("q", 18), ("k", 42), ("v", 66)):
        for head in range(q if kind == "q" else kv):
            x = LEFT + HEAD * (head if kind == "q" else head * group)
            parts.append(_block(x, y, HEAD, 20, f"{kind}{head}", owners))
            if kind != "q" and group > 1:
                end = x + group * HEAD - 3
                parts += [
                    line(x + HEAD + 2, y + 10, end, y + 10, stroke="#888"),
                    line(end, y + 10, end, y + 4, stroke="#888"),
                ]
    return "".join(parts)


def _weight(blocks, owners, held):
    """The fused weight from left to right; above each stretch of it the shards that get it."""
    parts = [
        _block(LEFT + HEAD * place, 18, HEAD, 22, name, owners, _goes_astray(name, owners, held))
        for place, name in enumerate(blocks)
    ]
    return "".join(parts) + _bars(_stretches(blocks, held))


def _bars(stretches):
    """Above stretches of heads, (start, end, ranks), the shards to which they go."""
    parts = []
    for ranks, many in groupby(stretches, lambda each: each[2]):
        many = list(many)
        x, wide = LEFT + HEAD * many[0][0] + 0.5, HEAD * (many[-1][1] - many[0][0]) - 1
        if len(ranks) == 1:
            parts.append(badge(x, 0, wide, ranks[0] if wide > CHAR else "", ranks[0], height=14))
        else:
            parts += [rect(x, 14 * i / len(ranks), wide, 14 / len(ranks), colour(r)) for i, r in enumerate(ranks)]
    return "".join(parts)


def _stretches(blocks, held):
    """The pieces of the fused weight, as (start, end, the ranks that get it), cut wherever a shard's piece ends."""
    for place, name in enumerate(blocks):
        pieces = [(r, start, end) for r, each in enumerate(held) for one, start, end in each if one == name]
        edges = sorted({edge for _, *ends in pieces for edge in ends})
        for start, end in zip(edges, edges[1:], strict=False):
            yield place + start, place + end, [r for r, low, high in pieces if low <= start and end <= high]


def _goes_astray(name, owners, held):
    """Whether a shard to which a head belongs has not all of it."""
    return any((name, 0, 1) not in held[rank] for rank in owners[name])


def _lanes(owners, held, wanted):
    """A lane for each shard: its pieces, under the letter of what its code takes them for; hatched where it errs."""
    parts, lane = [], LANES / len(held)
    tall = min(lane - 3, MOST)
    for rank, (pieces, names) in enumerate(zip(held, wanted, strict=True)):
        y = rank * lane
        parts.append(badge(0, y, LEFT - 6, rank, rank, height=tall))
        x, before = LEFT, ""
        for place, (name, start, end) in enumerate(pieces):
            taken = names[place] if names is not None else None
            if taken and taken[0] != before:
                before = taken[0]
                parts.append(text(x + KIND / 2, y + tall / 2 + 4, before, font_style="italic"))
                x += KIND
            wide, mine = HEAD * (end - start), [rank] if rank in owners[name] else owners[name]
            parts.append(_block(x, y, wide, tall, name, {name: mine}, taken != name if names else rank not in mine))
            x += wide
        if not pieces:
            parts.append(text(x + 2, y + tall / 2 + 4, "nothing: idle", "start", font_style="italic"))
    return "".join(parts)


def _block(x, y, wide, tall, name, owners, wrong=False):
    """The columns of a head (or of a part of it), in the colours of the shards to which it belongs."""
    ranks = owners[name]
    band = tall / len(ranks)
    parts = [rect(x, y + i * band, wide, band, colour(r), fill_opacity=0.4) for i, r in enumerate(ranks)]
    parts.append(hatch(x, y, wide, tall, 5, stroke="#888") if wrong else "")
    dash = svg.DASHES[ranks[0] // 4 % 4]
    border = {"stroke": "currentColor"} if wrong else {"stroke": colour(ranks[0]), "stroke_dasharray": dash or "none"}
    parts.append(rect(x + 0.5, y, wide - 1, tall, **border))
    style = {"font_weight": 700, "text_decoration": "underline"} if wrong else {}
    return "".join(parts) + (text(x + wide / 2, y + tall / 2 + 4, name, **style) if wide > CHAR * len(name) else "")
