"""Logits whose columns, one a word, are cut over shards: what a loss needs of them, and what moves. Inline SVG."""

from dataclasses import dataclass
from itertools import accumulate

from shardlab.pictures import svg
from shardlab.pictures.axes import Axis
from shardlab.pictures.svg import COLOURS, badge, frame, line, number, path, rect, text

LEFT, WIDE, TABLE, COLUMN = 74, 432, 22, 78  # pixels: names of tokens, all words, the gap to the table, its columns
TOP, ROW, MOST = 64, 24, 8  # above the logits; a token's row; tokens at most, for which there is always room
DECADES = (0, 4)  # of the bytes, for every state alike


@dataclass(frozen=True)
class Token:
    """Of one token: the numbers of the word with the largest logit and of its target, and the three numbers that its
    loss is made of."""

    largest: int
    target: int
    numbers: tuple


def vocabulary(sizes, tokens, sent, chosen, alt):
    """Draw the logits of some tokens, cut into pieces of `sizes` words, and the bytes that a shard sends.

    A ring is the target's logit and a triangle the largest. `sent` maps each way, that of three numbers a token first,
    to its bytes; `chosen` is one of them, and what it moves is drawn in full.

    >>> token = Token(largest=4, target=0, numbers=(1.5, 2.25, -0.5))
    >>> drawing = vocabulary([3, 2], [token], {"three all-reduces": 12.0, "gather": 10.0}, "gather", "two shards")
    >>> [words in drawing for words in ("2.2500", "10 bytes", "words 3–4")]
    [True, True, True]
    """
    bounds, few = [0, *accumulate(sizes)], chosen == next(iter(sent))
    cell, tall = WIDE / bounds[-1], ROW * len(tokens)
    parts = [text(0, 34, "rows of E", "start"), text(0, TOP - 6, "logits", "start", font_weight=700)]
    for rank, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
        x, wide = LEFT + start * cell, (stop - start) * cell
        said = f"words {start}–{stop - 1}" if wide > 90 else ""
        parts.append(badge(x + 1, 20, max(wide - 2, 2), rank if wide > 12 else "", rank))
        parts.append(frame(x + 1, TOP, wide - 2, tall, rank, tint=0.14 if few else 0.55))
        parts.append(text(x + wide / 2, 54, said))
    every = "".join(f"M{LEFT + word * cell:.1f} {TOP}v{tall}" for word in range(1, bounds[-1]))
    parts.append(path(every, stroke="currentColor", stroke_opacity=0.25))
    parts += [_token(row, token, bounds, cell) for row, token in enumerate(tokens)]
    table = _heads() + "".join(_numbers(row, token, bounds) for row, token in enumerate(tokens))
    parts += [_signs(), f'<g opacity="{1 if few else 0.55}">{table}</g>']
    bars = svg.move(_bars(sent, chosen), 0, TOP + ROW * MOST + 26)
    return svg.svg(("".join(parts) + bars, LEFT + WIDE + TABLE + 3 * COLUMN, TOP + ROW * MOST + 118), alt)


def owner(word, bounds):
    return next(rank for rank, stop in enumerate(bounds[1:]) if word < stop)


def _token(row, token, bounds, cell):
    y = TOP + (row + 0.5) * ROW
    parts = [text(0, y + 4, f"token {row}", "start"), line(LEFT, y + ROW / 2, LEFT + WIDE, y + ROW / 2, stroke="#888")]
    largest, target = (LEFT + (word + 0.5) * cell for word in (token.largest, token.target))
    return "".join(parts) + _triangle(largest, y + 5, min(6, max(cell / 2, 3.5))) + _ring(target, y, 8)


def _numbers(row, token, bounds):
    """The three numbers of a token, the first and the last with the shard that they come from."""
    y, parts = TOP + (row + 0.5) * ROW, []
    owners = (owner(token.largest, bounds), None, owner(token.target, bounds))
    for column, (value, rank) in enumerate(zip(token.numbers, owners, strict=True)):
        x = LEFT + WIDE + TABLE + column * COLUMN
        parts.append(badge(x, y - 9, 14, "Σ" if rank is None else rank, rank, height=18))
        parts.append(text(x + COLUMN - 8, y + 4, number(value), "end"))
    return "".join(parts)


def _heads():
    """What the columns of the table are, and how they are reduced."""
    parts = []
    for column, (name, how) in enumerate([("largest", "max"), ("Σ exp", "sum"), ("target's", "sum")]):
        x = LEFT + WIDE + TABLE + (column + 1) * COLUMN - 8
        parts += [text(x, 34, name, "end", font_weight=700), text(x, 54, how, "end")]
    return "".join(parts)


def _signs():
    y = TOP + ROW * MOST + 14
    largest = _triangle(LEFT + 6, y, 5) + text(LEFT + 16, y, "the largest logit", "start")
    return largest + _ring(LEFT + 166, y - 4, 6) + text(LEFT + 180, y, "the target's", "start")


def _triangle(x, y, size):
    return path(f"M{x - size:.1f} {y:.1f}h{2 * size:.1f}l{-size:.1f} -10z", fill="currentColor")


def _ring(x, y, size):
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="none" stroke="currentColor" stroke-width="2.5"/>'


def _bars(sent, chosen):
    """The bytes of each way on a log scale that stays; the one that is chosen in full colour."""
    x = Axis(*DECADES, 150, LEFT + WIDE + TABLE + 3 * COLUMN - 110, log=True)
    parts = [text(0, 14, "bytes that each shard sends, on a ring", "start", font_weight=700)]
    for place, (name, bytes_) in enumerate(sent.items()):
        y, paint = 26 + 24 * place, COLOURS[place]
        bold = {"font_weight": 700} if name == chosen else {}
        parts.append(text(x.start - 8, y + 13, name, "end", **bold))
        opacity = 1 if name == chosen else 0.35
        parts.append(rect(x.start, y, x(bytes_) - x.start, 18, paint, fill_opacity=opacity, stroke=paint))
        parts.append(text(x(bytes_) + 8, y + 13, f"{bytes_:,.0f} bytes", "start", **bold))
    parts += [line(x(tick), 22, x(tick), 74, stroke="#888", stroke_opacity=0.5) for tick in x.ticks()]
    parts += [text(x(tick), 88, f"{tick:,.0f}") for tick in x.ticks()]
    return "".join(parts)
