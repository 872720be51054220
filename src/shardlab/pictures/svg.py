"""Small parts of inline SVG drawings: strings in, strings out, right on a light and on a dark page."""

import contextlib
import math
from html import escape

import torch

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito: colour-blind readers tell them apart
ON_COLOUR = ("#fff", "#111", "#111", "#111")  # the text colour that reads on each of them (WCAG AA)
DASHES = ("", "6 3", "2 2", "8 2 2 2")  # shards 0-3, 4-7, 8-11, 12-15: colour is never the only sign
CELL = (42, 20)  # the width and the height of a value in at most five characters
CHAR = 7.25  # the width of one monospace character of 12 px


@contextlib.contextmanager
def one_thread():
    """Let torch work in one thread meanwhile: a redraw is many small steps, and on a busy machine each of them
    would wait for the other threads (measured with 2 busy cores: 17 ms in one thread, 280 ms in two).

    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def colour(rank):
    """Give the colour of a shard; shards four apart share one, and differ by frame and label."""
    return COLOURS[rank % 4]


def svg(drawing, label):
    """Wrap a drawing `(body, width, height)` into one complete `<svg>` that says what it shows.

    On a narrow page it shrinks as long as its letters are 9 px high; a still narrower one scrolls.

    >>> svg((rect(0, 0, 8, 8), 8, 8), "a < b")[40:94]
    'role="img" aria-label="a &lt; b" viewBox="-2 -2 12 12"'
    """
    body, width, height = drawing
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(label)}" '
        f'viewBox="-2 -2 {width + 4:.0f} {height + 4:.0f}" width="{width + 4:.0f}" '
        f'font-size="12" fill="currentColor" style="max-width:100%;min-width:{0.75 * (width + 4):.0f}px;height:auto;'
        "color:var(--jp-content-font-color1,currentColor);"
        f'font-family:var(--jp-code-font-family,monospace)">{body}</svg>'
    )


def rect(x, y, width, height, fill="none", **attributes):
    """Draw a rectangle; an attribute such as `stroke-width` is given as `stroke_width`."""
    more = _more(attributes)
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}"{more}/>'


def path(d, **attributes):
    """Draw a path from its SVG commands."""
    return f'<path d="{d}"{_more(attributes)}/>'


def line(x1, y1, x2, y2, **attributes):
    """Draw a straight line, in the colour of the text where no `stroke` is given."""
    return path(f"M{x1:g} {y1:g}L{x2:g} {y2:g}", **({"stroke": "currentColor"} | attributes))


def text(x, y, said, anchor="middle", **attributes):
    """Write words (escaped) with their baseline at y."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{_more(attributes)}>{escape(str(said))}</text>'


def frame(x, y, width, height, rank=None, tint=0.14):
    """Draw the outline and light fill of what shard `rank` holds; grey for what belongs to no shard."""
    paint = "#888" if rank is None else colour(rank)
    dash = DASHES[rank // 4 % 4] if rank is not None else ""
    more = {"stroke_dasharray": dash} if dash else {}
    return rect(x, y, width, height, paint, fill_opacity=tint, stroke=paint, stroke_width=2, **more)


def badge(x, y, width, said, rank, height=20):
    """Write a label on the full colour of a shard (grey for every shard) in the ink that reads on it. That of a shard
    beyond four is only framed in its colour, as are its pieces."""
    at = x + width / 2, y + height / 2 + 4
    if rank is not None and rank >= len(COLOURS):
        box = frame(x + 1, y + 1, max(width - 2, 0), height - 2, rank, tint=0.25)
        return box + text(*at, said, font_weight=600)
    paint, ink = ("#999", "#111") if rank is None else (colour(rank), ON_COLOUR[rank])
    return rect(x, y, width, height, paint) + text(*at, said, fill=ink, font_weight=600)


def hatch(x, y, width, height, step=6, **attributes):
    """Fill a rectangle with diagonal lines (for padding: room that holds no value)."""
    lines, c = [], step
    while c < width + height:
        x1, x2 = max(0, c - height), min(c, width)
        lines.append(f"M{x + x1:g} {y + c - x1:g}L{x + x2:g} {y + c - x2:g}")
        c += step
    return path("".join(lines), **({"stroke": "currentColor", "stroke_width": 1} | attributes))


def number(value):
    """Write one value as the notebooks do, at 4 decimals, so that it reads the same on any CPU.

    >>> [number(v) for v in (0.53239, -0.00001, 123456.0, 7, True, float("nan"))]
    ['0.5324', '0.0000', '1.2e+05', '7', 'True', 'nan']
    """
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.1e}" if abs(value) >= 1e5 else f"{round(value, 4) + 0.0:.4f}"
    return f"{value:.4f}" if isinstance(value, complex) else str(value)


def short(value):
    """Write a value in at most five characters, a whole number without decimals.

    >>> [short(v) for v in (0.53239, -1.0, -0.001, 123.4, float("nan"))]
    ['0.53', '-1', '0.00', '123', 'nan']
    """
    if value != value or abs(value) == math.inf or value == round(value):
        return f"{value:.3g}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{round(value, 2) + 0:.2f}"


def about(value):
    """Write the size of an error with as many digits as are the same on any CPU.

    >>> [about(v) for v in (0, 0.4567, 0.00234, 2.6e-7, float("inf"))]
    ['0', '0.46', '0.002', 'below 1e-6', 'inf']
    """
    if not 0 < abs(value) < 1e-4:
        return f"{value:.2g}" if abs(value) >= 0.01 else f"{value:.1g}"
    return f"below 1e{math.floor(math.log10(abs(value))) + 1}"


def flow(items, gap=12, page=780):
    """Set drawings `(body, width, height)` side by side, in as many lines as the page's width asks for."""
    lines, x = [[]], 0
    for item in items:
        if x and x + item[1] > page:
            lines.append([])
            x = 0
        lines[-1].append((x, item))
        x += item[1] + gap
    parts, y, width = [], 0, 0
    for set_line in lines:
        for x, (body, wide, _tall) in set_line:
            parts.append(move(body, x, y))
            width = max(width, x + wide)
        y += max((tall for _, (_, _, tall) in set_line), default=0) + gap
    return "".join(parts), width, y - gap


def stack(items, gap=12):
    """Set drawings `(body, width, height)` one under the other."""
    return flow(items, gap, page=0)


def move(body, x, y):
    """Put a drawing somewhere else."""
    return f'<g transform="translate({x:g} {y:g})">{body}</g>'


def words(said, **attributes):
    """Give a line of words as a drawing `(body, width, height)`."""
    return text(0, 13, said, "start", **attributes), CHAR * len(said), 18


def values(rows, x, y, cell, height=22, write=number):
    """Write a list of rows of values into cells of one width."""
    parts = []
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            odd = isinstance(value, float) and not math.isfinite(value)
            parts.append(
                text(
                    x + (j + 0.5) * cell,
                    y + (i + 0.7) * height,
                    write(value),
                    **{"font_weight": 800, "text_decoration": "underline"} if odd else {},
                )
            )
    return "".join(parts)


def _more(attributes):
    return "".join(f' {name.replace("_", "-")}="{escape(str(value))}"' for name, value in attributes.items())
