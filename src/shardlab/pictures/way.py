"""The way of a value through products and collectives: what each shard holds of it after each step, as inline SVG."""

from dataclasses import dataclass

from shardlab.pictures import svg
from shardlab.pictures.svg import badge, colour, frame, hatch, line, path, rect, text

LEFT, BOX, STEP = 30, 76, 104  # the widths of the ranks' badges, of what a shard holds, and of a step between two
HIGH, ABOVE, BELOW = 120, 40, 22  # the heights of all lanes together, and of the words above and below them
WRONG = "#D55E00"


@dataclass(frozen=True)
class Held:
    """What the shards hold of a value: its `name`, its `kind` ("replicated", "cut along dim 0" or "1", "partial", or
    anything else, which is wrong), how many of its columns (of its rows, if they are cut) each shard has, and a word
    `more`."""

    name: str
    kind: str
    columns: tuple
    more: str = ""


@dataclass(frozen=True)
class Step:
    """What happens between two values, in two lines of words; `moves` tells that bytes move: a collective."""

    said: str
    more: str = ""
    moves: bool = False


def way(rows, n, alt, high=HIGH):
    """Draw rows of what is held and of the steps between, a lane for each of n shards in every row, `high` px together.

    >>> whole, part = Held("x", "replicated", (4, 4)), Held("h", "cut along dim 1", (2, 2))
    >>> drawing = way([[whole, Step("@ W", "by columns"), part]], 2, "one product")
    >>> [words in drawing for words in ("replicated", "cut along dim 1", "by columns")]
    [True, True, True]
    """
    drawn = [_row(row, n, high) for row in rows]
    widest = max(width for _, width, _ in drawn)
    return svg.svg(svg.stack([(body, widest, tall) for body, _, tall in drawn], 10), alt)


def _row(row, n, high):
    lane = high / n
    parts = [badge(0, ABOVE + r * lane + 1, LEFT - 8, r, r, height=max(lane - 3, 9)) for r in range(n)]
    x = LEFT
    for item in row:
        if isinstance(item, Held):
            parts.append(svg.move(_held(item, n, lane), x, 0))
            x += BOX
        else:
            parts.append(svg.move(_step(item, n, lane), x, 0))
            x += STEP
    still = "" if any(isinstance(item, Step) and item.moves for item in row) else "nothing moves"
    parts.append(text(x + 24, ABOVE + high / 2 + 4, still, "start", font_style="italic") if still else "")
    more = 15 * any(item.more for item in row if isinstance(item, Held))
    return "".join(parts), x + 24 + svg.CHAR * len(still), ABOVE + high + BELOW + more


def _held(item, n, lane):
    parts = [text(BOX / 2, ABOVE - 8, item.name, font_weight=700)]
    total = sum(item.columns) if item.kind.startswith("cut") else max(item.columns, default=0)
    start = 0
    for r, columns in enumerate(item.columns):
        y, tall = ABOVE + r * lane + 1, max(lane - 3, 9)
        parts.append(rect(0, y, BOX, tall, stroke="#888", stroke_opacity=0.6, stroke_dasharray="2 3"))
        if item.kind == "cut along dim 0":
            part = tall * columns / max(total, 1)
            parts.append(frame(0, y + start, BOX, max(part, 1), r, tint=0.45))
            start += part
        elif item.kind.startswith("cut"):
            wide = BOX * columns / max(total, 1)
            parts.append(frame(start, y, max(wide, 2), tall, r, tint=0.45))
            start += wide
        else:
            parts.append(frame(0, y, BOX, tall, r, tint=0.45 if item.kind == "replicated" else 0.08))
            if item.kind == "partial":
                parts.append(hatch(0, y, BOX, tall, 7, stroke=colour(r)))
            elif item.kind != "replicated":
                parts.append(path(f"M{BOX / 2 - 4} {y + tall / 2 - 4}l8 8m0 -8l-8 8", stroke=WRONG, stroke_width=2.5))
    right = item.kind in ("replicated", "partial") or item.kind.startswith("cut")
    tone = {} if right else {"fill": WRONG}
    parts.append(text(BOX / 2, ABOVE + n * lane + 14, item.kind, font_weight=600, **tone))
    parts.append(text(BOX / 2, ABOVE + n * lane + 29, item.more) if item.more else "")
    return "".join(parts)


def _step(item, n, lane):
    middle = STEP / 2
    parts = []
    for r in range(n):
        y = ABOVE + r * lane + lane / 2
        parts.append(line(8, y, STEP - 10, y, stroke="#888"))
        parts.append(path(f"M{STEP - 14} {y - 3}l5 3l-5 3", fill="none", stroke="#888"))
    if item.moves:
        parts.append(rect(middle - 4, ABOVE - 2, 8, n * lane + 3, "currentColor"))
    weight = {"font_weight": 700} if item.moves else {}
    return "".join(parts) + _lines(middle, [item.said, item.more], weight)


def _lines(x, lines, weight):
    """Two lines of words above the lanes, the last one nearest to them."""
    lines = [each for each in lines if each]
    parts = []
    for place, said in enumerate(reversed(lines)):
        parts.append(text(x, ABOVE - 8 - 15 * place, said, **weight))
    return "".join(parts)
