"""Lanes of ranks in time: work as bars, and a collective as a gate that opens when the last one comes."""

import math

from shardlab.pictures import svg
from shardlab.pictures.svg import CHAR, ON_COLOUR, badge, colour, hatch, line, path, rect, text

WIDE, LEFT, RIGHT = 392, 64, 24  # the canvas; at its left the ranks' names, at its right the mark at the end of a lane
LANE, GAP, ROW = 26, 14, 17  # the heights of a lane, of the room between two, and of a line of names
WRONG = "#D55E00"


def draw(lanes, gates, unit="", alt="", before=0, until=None):
    """Draw one lane per rank, and the gates across them.

    A lane is a list of bars `(start, stop, kind, label)`; kinds are "work", "wait" (at a gate) and "stay" (comes to
    none), and, where it ends, "returned" and "failed". A gate is `(name, {rank: when it came, or None}, when it opened,
    or None)`. Times run from 0, `until` the last one, in a `unit`; without a unit they are steps, of which the order
    alone counts. `before` gates were left out at the left.

    >>> lanes = [[(0, 1, "work", ""), (1, 2, "wait", "")], [(0, 2, "stay", "asleep")]]
    >>> drawing = draw(lanes, [("all_reduce", {0: 1, 1: None}, None)])
    >>> [words in drawing for words in ("waits", "asleep", "all_reduce stays shut")]
    [True, True, True]
    """
    until = until or max((stop for bars in lanes for _, stop, _, _ in bars), default=0) or 1

    def x(time):
        return LEFT + (WIDE - LEFT - RIGHT) * min(time, until) / until

    places = [(name, came, opened is not None, x(place(came, opened, until))) for name, came, opened in gates]
    names, top = _names(places)
    tops = [top + rank * (LANE + GAP) for rank in range(len(lanes))]
    bottom = top + len(lanes) * (LANE + GAP) - GAP
    parts = [_lane(rank, bars, y, x) for rank, (bars, y) in enumerate(zip(lanes, tops, strict=True))]
    parts += [_gate([tops[rank] for rank in sorted(came)], opened, at) for _, came, opened, at in places]
    body = "".join(parts) + names + _axis(x, until, unit, bottom + 8, before)
    return svg.svg((body, WIDE, bottom + 42), f"Lanes of {len(lanes)} ranks in time. {alt}")


def place(came, opened, until):
    """When to draw a gate: as it opens; one that stays shut, when all have come, or else at the end of all."""
    if opened is not None:
        return opened
    return until if None in came.values() else max(came.values())


def _names(places):
    """Write the gates' names, as flags on their poles, in as many lines as they need; give the top of the lanes, too.

    The last gate has the lowest flag, so that no pole crosses another's; a flag that would leave the canvas at its
    right is moved back, and is the highest.
    """
    flags = []
    for name, _, opened, x in places:
        longer = name if opened else f"{name} stays shut"
        said = longer if x > (wide := CHAR * len(longer) + 6) or x + wide <= WIDE else f"{name} shut"
        wide = CHAR * len(said) + 6
        back = x + wide > WIDE
        flags.append((back, -x, max(x - wide, 0) if back else x, wide, said))
    rows, parts = [], []
    for moved, x, start, wide, said in sorted(flags):
        free = (r for r, row in enumerate(rows) if all(start > b or start + wide < a for a, b in row))
        row = next(free, len(rows))
        rows[row : row + 1] = [[*(rows[row] if row < len(rows) else []), (start, start + wide)]]
        parts.append((-x, row, start + (5 if not moved else 3), said))
    top = ROW * len(rows) + 8
    poles = [line(x, top, x, top - 12 - ROW * row, stroke_width=1.5) for x, row, _, _ in parts]
    return "".join(
        poles + [text(at, top - 10 - ROW * row, said, "start", font_weight=600) for _, row, at, said in parts]
    ), top


def _lane(rank, bars, y, x):
    parts = [badge(0, y + 3, LEFT - 8, f"rank {rank}", rank)]
    for start, stop in _empty(bars, x):
        parts.append(line(start, y + LANE / 2, stop, y + LANE / 2, stroke="#888", stroke_dasharray="2 4"))
    for start, stop, kind, label in bars:
        parts.append(_DRAWN[kind](x(start), y + 3, x(stop) - x(start), rank, label))
    return "".join(parts)


def _empty(bars, x):
    """Where a lane has no bar, at its start and at its end, and no label either."""
    _, stop, kind, label = bars[-1]
    yield LEFT, x(bars[0][0])
    if kind in ("returned", "failed") and not label and x(stop) + 26 < WIDE - RIGHT:
        yield x(stop) + 26, WIDE - RIGHT


def _work(x, y, wide, rank, label):
    label = label or ("works" if wide > 6 * CHAR else "")
    bar = rect(x, y, wide, LANE - 6, colour(rank))
    return bar + _inside(x, y, wide, label, fill=ON_COLOUR[rank % 4])


def _wait(x, y, wide, rank, label):
    if wide < 0.5:
        return ""
    label, lined = label or "waits", {"stroke": colour(rank), "stroke_width": 1.5}
    bar = rect(x, y, wide, LANE - 6, colour(rank), fill_opacity=0.12, stroke=colour(rank))
    if wide > 3:
        bar += hatch(x, y, wide, LANE - 6, **lined)
    plate = CHAR * len(label) + 10
    if wide > plate + 8:
        bar += rect(x + (wide - plate) / 2, y + 1, plate, LANE - 8, "#ddd") + _inside(x, y, wide, label, fill="#111")
    return bar


def _stay(x, y, wide, rank, label):
    """A rank that comes to no gate: its bar stops before it."""
    wide = max(wide - 22, 4)
    frays = "".join(f"M{x + wide + 5 * k} {y}v{LANE - 6}" for k in (1, 2, 3))
    return _work(x, y, wide, rank, label) + path(frays, stroke=colour(rank), stroke_width=1.5)


def _inside(x, y, wide, label, **ink):
    """Write a label into a bar, as much of it as there is room for."""
    label = clipped(label, wide - 6)
    return text(x + wide / 2, y + LANE / 2 + 1, label, **ink) if len(label) > 2 else ""


def _returned(x, y, wide, rank, label):
    return text(x + 12, y + LANE / 2 + 2, "✓", font_weight=800)


def _failed(x, y, wide, rank, label):
    room = clipped(label, WIDE - RIGHT - x - 32)
    cross = path(f"M{x + 10} {y + 5}l10 10m0 -10l-10 10", stroke=WRONG, stroke_width=3)
    return cross + text(x + 26, y + LANE / 2 + 1, room, "start")


_DRAWN = {"work": _work, "wait": _wait, "stay": _stay, "returned": _returned, "failed": _failed}


def clipped(label, wide):
    """As much of a label as so many pixels hold.

    >>> clipped("ValueError: out of milk", 100)
    'ValueError: …'
    """
    most = int(wide / CHAR)
    return label if len(label) <= most else f"{label[: max(most - 1, 0)]}…"


def _gate(tops, opened, x):
    """A gate across the lanes of those who meet there: posts between them, and a beam from one to the next if shut."""
    first, last = tops[0] - 6, tops[-1] + LANE + 6
    if not opened:
        return rect(x - 4, first, 8, last - first, "currentColor")
    posts = [rect(x - 4, y, 8, 6, "currentColor") for top in tops for y in (top - 6, top + LANE)]
    return line(x, first, x, last, stroke_width=1.5, stroke_dasharray="3 3") + "".join(posts)


def _axis(x, until, unit, y, before):
    end = WIDE - RIGHT + 8
    parts = [line(LEFT, y, end, y, stroke="#888"), path(f"M{end} {y}l-6 -4v8z", fill="#888")]
    said = f"time in {unit}" if unit else "time: the order alone, not to scale"
    parts.append(text(end, y + 32 if unit else y + 17, said, "end"))
    if before:
        parts.append(text(0, y + 32 if unit else y + 17, f"… {before:,} before", "start"))
    if unit:
        step = 10 ** math.floor(math.log10(until / 6))
        step = next(s * step for s in (1, 2, 5, 10) if until / (s * step) <= 6)
        for tick in range(int(until / step) + 1):
            parts.append(line(x(tick * step), y, x(tick * step), y + 4, stroke="#888"))
            parts.append(text(x(tick * step), y + 17, f"{tick * step:g}"))
    return "".join(parts)
