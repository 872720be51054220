"""Columns shared out over shards in three ways, as lanes in time: who works, who works for nothing, and who waits."""

import torch

from shardlab.pictures import svg
from shardlab.pictures.svg import line, text

LEFT, WIDE, LANE, HEAD = 40, 340, 16, 40  # px: where time begins, and how far it goes; a lane, and the words above
WAYS = {
    "tensor_split": "uneven pieces, torch.tensor_split",
    "pad": "zeros as padding",
    "chunk": "torch.chunk",
}


def gantt(size, n, chosen="", most=64):
    """Draw `size` columns over n shards, a lane for each: each way to cut them, one below the other on one time scale.

    A column takes one step of time. What is hatched is for nothing: padding, in the colour of its shard, or waiting for
    the shard that has most, in grey. The scale has room for `most` columns; `chosen` is the way to point at.

    >>> "shard 2 works 2 and pads 2" in gantt(10, 3, "pad")
    True
    """
    steps = -(-most // n)
    unit, blocks, said = WIDE / steps, [], []
    for way, title in WAYS.items():
        pieces = shares(size, n, way)
        end = max(sum(piece) for piece in pieces)
        lanes = "".join(_lane(rank, *piece, end, unit) for rank, piece in enumerate(pieces))
        blocks.append((_head(title, pieces, size, end, way == chosen) + lanes, LEFT + WIDE, HEAD + n * LANE))
        each = [
            f"shard {rank} works {real}" + (f" and pads {pad}" if pad else "")
            for rank, (real, pad) in enumerate(pieces)
        ]
        said.append(f"{title}: {', '.join(each)}")
    drawing, wide, tall = svg.stack(blocks, 8)
    label = f"{size} columns over {n} shards, in steps of one column. {'; '.join(said)}"
    return svg.svg((drawing + _axis(steps, unit, tall), wide + 8, tall + 34), label)


def shares(size, n, way):
    """Give, for each of n shards, how many of `size` columns it has and how many columns of padding.

    >>> shares(6, 4, "chunk"), shares(6, 4, "pad")
    ([(2, 0), (2, 0), (2, 0), (0, 0)], [(2, 0), (2, 0), (2, 0), (0, 2)])
    """
    if way == "pad":
        each = -(-size // n)
        real = [min(each, max(0, size - rank * each)) for rank in range(n)]
        return [(columns, each - columns) for columns in real]
    found = [len(piece) for piece in getattr(torch.empty(size), way)(n)]
    return [(columns, 0) for columns in found + [0] * (n - len(found))]


def _head(title, pieces, size, end, chosen):
    """Say what this way costs."""
    waste = 1 - size / (end * len(pieces)) if end else 0
    cost = f"{end} step{'s' * (end != 1)}, {100 * waste:.0f} % of all lanes for nothing"
    mark = svg.path("M0 4l10 6l-10 6z", fill="currentColor") if chosen else ""
    weight = {"font_weight": 700} if chosen else {}
    return mark + text(16, 14, title, "start", **weight) + text(16, 30, cost, "start")


def _lane(rank, real, pad, end, unit):
    y, tall = HEAD + rank * LANE, LANE - 3
    parts = [text(LEFT - 8, y + 11, rank, "end", font_size=11)]
    if real:
        parts.append(svg.frame(LEFT, y, real * unit, tall, rank, 0.35))
        ticks = "".join(f"M{LEFT + step * unit:g} {y}v{tall}" for step in range(1, real))
        parts.append(svg.path(ticks, stroke=svg.colour(rank), stroke_opacity=0.5) if unit > 6 else "")
    if pad:
        parts.append(svg.frame(LEFT + real * unit, y, pad * unit, tall, rank, 0))
        parts.append(svg.hatch(LEFT + real * unit, y, pad * unit, tall, stroke=svg.colour(rank), stroke_width=1.5))
    idle = (end - real - pad) * unit
    if idle:
        parts.append(svg.hatch(LEFT + (real + pad) * unit, y, idle, tall, stroke="#888", stroke_opacity=0.6))
    if not real:
        word = "only padding" if pad else "no column"
        parts.append(text(LEFT + end * unit + 8, y + 11, word, "start", font_style="italic", font_size=11))
    return "".join(parts)


def _axis(steps, unit, y):
    """Draw the scale below all lanes."""
    every = max(1, steps // 8)
    marks = [line(LEFT, y + 4, LEFT + steps * unit, y + 4, stroke="#888")]
    for step in range(0, steps + 1, every):
        marks.append(line(LEFT + step * unit, y + 4, LEFT + step * unit, y + 8, stroke="#888"))
        marks.append(text(LEFT + step * unit, y + 20, step, font_size=11))
    return "".join(marks) + text(LEFT - 8, y + 20, "time", "end", font_size=11)
