"""The small picture of a verdict: the shapes of the shards beside the one that is wanted, or where a shard differs."""

from shardlab.exercises.numbers import close
from shardlab.pictures import draw, svg

SIDE, MOST = 12, 160  # pixels of a row or a column, and of a whole side at most


def picture(seen, wanted):
    """What the shards ended with, beside what each is to have: the shapes if these differ, and else the first shard's
    error."""
    n = len(wanted)
    rank = next(rank for rank, pair in enumerate(zip(seen.values, wanted, strict=True)) if not close(*pair))
    value, y = seen.values[rank], wanted[rank]
    if value.shape == y.shape:
        return draw.error_map(value, y, f"result - y, on shard {rank} of {n}")
    boxes = [box(list(each.shape), f"shard {each_rank}", each_rank) for each_rank, each in enumerate(seen.values)]
    drawn = svg.flow([*boxes, box(list(y.shape), "wanted")], 20)
    shapes = ", ".join(str(list(each.shape)) for each in seen.values)
    on = f"{n} shard{'s' if n > 1 else ''}"
    return svg.svg(drawn, f"The shapes of the result on {on}: {shapes}. Wanted on shard {rank}: {list(y.shape)}.")


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
