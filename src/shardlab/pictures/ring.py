"""A ring of shards at one step: the pieces that each holds, and whose values are in each: inline SVG."""

from shardlab.pictures import svg
from shardlab.pictures.svg import badge, frame, line, path, rect, text

WIDE, HIGH, LEFT, ABOVE, GAP = 680, 264, 62, 34, 18  # px: all columns, all pieces, the names of the pieces, the badges
WRONG = "#D55E00"
LEGEND = (
    "A bar for each shard whose value is in the sum, in its place. Bold, with ✓: all of them, once.",
    "Broken: one of them more than once. An arrow: this piece has just come from the left.",
)


def ring(held, arrived, alt):
    """Draw n shards side by side, each with its n pieces one under the other.

    held[r][p] is how often each shard's value is in the sum that shard r has of piece p: a bar for each shard, with its
    number; a bar that counts twice says so, a sum that has every value once has a bold frame. arrived[r] is the piece
    that has just come to shard r from its left neighbour (the first one's is the last), or None.

    >>> drawing = ring([[(1, 0), (1, 1)], [(0, 1), (0, 1)]], [1, None], "a ring")
    >>> drawing.count("✓")
    2
    """
    n = len(held)
    column, tall = WIDE / n, HIGH / n
    parts = [text(LEFT - GAP, ABOVE + p * tall + tall / 2 + 4, f"piece {p}", "end", font_size=11) for p in range(n)]
    for r, pieces in enumerate(held):
        x, wide = LEFT + r * column, column - GAP
        parts.append(badge(x, 4, wide, f"shard {r}" if wide > 52 else r, r))
        for p, counts in enumerate(pieces):
            parts.append(_piece(counts, x, ABOVE + p * tall + 2, wide, tall - 6))
            if arrived[r] == p:
                parts.append(_arrow(x, ABOVE + p * tall + tall / 2 - 1))
    for number, legend in enumerate(LEGEND):
        parts.append(text(LEFT, ABOVE + HIGH + 14 + 16 * number, legend, "start", font_size=11))
    return svg.svg(("".join(parts), LEFT + WIDE, ABOVE + HIGH + 38), alt)


def _piece(counts, x, y, wide, tall):
    """One sum: a bar for each value that is in it, in its shard's colour and place."""
    n, whole, twice = len(counts), set(counts) == {1}, max(counts) > 1
    bar = (wide - 8) / n
    parts = [rect(x, y, wide, tall, stroke="#888", stroke_opacity=0.6, stroke_dasharray="2 3")]
    if whole:
        parts = [rect(x, y, wide, tall, stroke="currentColor", stroke_width=2.5)]
    for q, count in enumerate(counts):
        if count:
            parts.append(frame(x + 4 + q * bar + 0.5, y + 4, bar - 1, tall - 8, q, tint=0.45))
            if bar > 10 and tall > 20:
                shown = q if count == 1 else f"{count}×"
                small = 11 if bar > 16 or count == 1 else 9
                parts.append(text(x + 4 + (q + 0.5) * bar, y + tall / 2 + 4, shown, font_size=small))
    if twice:
        parts.append(rect(x, y, wide, tall, stroke=WRONG, stroke_width=2.5, stroke_dasharray="5 3"))
    if whole:
        parts.append(text(x + wide + 8, y + tall / 2 + 4, "✓", font_weight=700))
    return "".join(parts)


def _arrow(x, y):
    """Into a piece, from the left."""
    return line(x - 9, y, x - 3, y, stroke_width=3) + path(f"M{x - 5:g} {y - 5:g}l6 5l-6 5z", fill="currentColor")
