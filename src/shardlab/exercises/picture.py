"""The small picture of a verdict: the shapes of the shards beside the one that is wanted, or where a shard differs."""

from shardlab.exercises.looking import shards
from shardlab.exercises.numbers import close
from shardlab.pictures import draw, svg

SIDE, MOST = 12, 160  # pixels of a row or a column, and of a whole side at most


def picture(case, seen, y):
    """What the shards ended with, beside y: their shapes if these differ, and else the first shard's error."""
    rank = next(rank for rank, value in enumerate(seen.values) if value.shape != y.shape or not close(value, y))
    value = seen.values[rank]
    if value.shape == y.shape:
        return draw.error_map(value, y, f"result - y, on shard {rank} of {case.n}")
    boxes = [box(list(each.shape), f"shard {each_rank}", each_rank) for each_rank, each in enumerate(seen.values)]
    drawn = svg.flow([*boxes, box(list(y.shape), "wanted")], 20)
    shapes = ", ".join(str(list(each.shape)) for each in seen.values)
    return svg.svg(drawn, f"The shapes of the result on {shards(case.n)}: {shapes}. Wanted on each: {list(y.shape)}.")


def box(shape, name, rank=None):
    """A result as a rectangle of its shape, with its name and its shape above."""
    rows, columns = ([1, 1] + shape)[-2:]
    wide, tall = min(MOST, SIDE * columns), min(MOST, SIDE * rows)
    lines = [
        svg.words(name, font_weight=700),
        svg.words(str(shape)),
        (svg.frame(1, 1, wide, tall, rank), wide, tall + 2),
    ]
    return svg.stack(lines, 2)
