"""Small parts of inline SVG drawings: strings in, strings out, right on a light and on a dark page."""

import base64
import contextlib
import math
import struct
import zlib
from html import escape

import torch

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito: colour-blind readers tell them apart
ON_COLOUR = ("#fff", "#111", "#111", "#111")  # the text colour that reads on each of them (WCAG AA)
DASHES = ("", "6 3", "2 2", "8 2 2 2")  # shards 0-3, 4-7, 8-11, 12-15: colour is never the only sign
BELOW, ABOVE = (123, 95, 191), (183, 121, 0)  # heat: purple below 0, amber above, the page itself at 0
CELLS = 32  # a heat map has at most this many cells a side
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
    """Give the colour of a shard; shards four apart share one, and differ by label and dash."""
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
    """Write a label on the full colour of a shard (grey for every shard) in the ink that reads on it."""
    paint, ink = ("#999", "#111") if rank is None else (colour(rank), ON_COLOUR[rank % 4])
    label = text(x + width / 2, y + height / 2 + 4, said, fill=ink, font_weight=600)
    return rect(x, y, width, height, paint) + label


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


def rows(matrix):
    """Write a small matrix row by row, as words.

    >>> rows(torch.tensor([[0.5, 1.0], [2.0, 3.0]]))
    '0.50 1; 2 3'
    """
    cells = plain(matrix)
    return "; ".join(" ".join(map(short, row)) for row in cells.reshape(-1, (1, *cells.shape)[-1]).tolist())


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


def heat(matrix, x, y, width, height, scale, opacity=1):
    """Draw a matrix as a heat map about 0: purple below, amber above, at most 32 x 32 cells.

    A cell stands for a block of entries and shows the largest of them in magnitude, so that one wrong entry
    in a large matrix stays visible. Cells with a NaN or an infinity are crossed.
    """
    cells = shrink(matrix)
    rows, columns = cells.shape
    picture = f"data:image/png;base64,{base64.b64encode(_png(cells, scale)).decode()}"
    crosses = "".join(
        text(x + (j + 0.5) * width / columns, y + (i + 0.5) * height / rows + 4, "\u00d7", font_weight=800)
        for i, j in (~cells.isfinite()).nonzero()[:64].tolist()
    )
    page = rect(x, y, width, height, style="fill:var(--jp-layout-color0,none)")
    return (
        f'{page}<image x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" preserveAspectRatio="none" '
        f'opacity="{opacity:g}" style="image-rendering:pixelated" href="{picture}"/>{crosses}'
    )


def scale_bar(scale, width=120):
    """Draw the legend of a heat map, `(body, width, height)`: what its ends and its middle stand for."""
    x, y = 40, 2
    ramp = torch.linspace(-1, 1, 31)[None]
    ends = ((0, f"-{scale:.3g}"), (width / 2, "0"), (width, f"{scale:.3g}"))
    labels = "".join(text(x + dx, y + 24, label) for dx, label in ends)
    return heat(ramp, x, y, width, 10, 1) + rect(x, y, width, 10, stroke="#888") + labels, width + 80, 30


def shrink(matrix, cells=CELLS):
    """Bring a matrix to at most `cells` a side (float32, CPU), each the largest in magnitude of its block.

    >>> shrink(torch.tensor([[1, -5, 0, 2, 3, 0]]), 3)
    tensor([[-5.,  2.,  3.]])
    """
    matrix = plain(matrix)
    rows, columns = (math.ceil(side / cells) for side in matrix.shape)  # the sides of a block
    if rows * columns > 1:
        short = (0, -matrix.shape[1] % columns, 0, -matrix.shape[0] % rows)
        if any(short):
            matrix = torch.nn.functional.pad(matrix, short)
        blocks = matrix.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))
        low, high = blocks.amin((1, 3)), blocks.amax((1, 3))
        matrix = torch.where(-low > high, low, high)
    return matrix.cpu()


def plain(tensor):
    """Give a tensor as float32 without a history, whatever its dtype (magnitudes of complex numbers)."""
    tensor = tensor.detach()
    return (tensor.abs() if tensor.is_complex() else tensor).float()


def difference(got, want):
    """Give got - want in float64; both have one shape (else a ValueError)."""
    if got.shape != want.shape:
        raise ValueError(f"got is {list(got.shape)} and want {list(want.shape)}: their shapes must be equal")
    return got.detach().cpu().double() - want.detach().cpu().double()


def largest(tensors):
    """Give the largest finite magnitude in several tensors, 0.0 where there is none."""
    return max((max(-low, high) for low, high in (span(t) for t in tensors if t.numel())), default=0.0)


def span(tensor):
    """Give the smallest and the largest finite value of a tensor that is not empty (0.0 if none)."""
    cells = plain(tensor)
    low, high = (end.item() for end in cells.aminmax())
    if not math.isfinite(high - low):
        low, high = (end.item() for end in cells.nan_to_num(0, 0, 0).aminmax())
    return low, high


def _more(attributes):
    return "".join(f' {name.replace("_", "-")}="{escape(str(value))}"' for name, value in attributes.items())


def _chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _palette():
    """Give the 256 colours: 0 is grey, for what is not finite; 1 to 255 run from below 0 to above.

    The sign chooses the colour, the magnitude how much of it covers the page, so that 0 is the page itself.
    """
    cover = [200] + [round(250 * abs(level / 127) ** 0.75) for level in range(-127, 128)]
    colours = [(136, 136, 136)] + [BELOW] * 127 + [ABOVE] * 128
    return _chunk(b"PLTE", bytes(sum(colours, ()))) + _chunk(b"tRNS", bytes(cover))


_COLOURS_OF_HEAT = _palette()


def _png(cells, scale):
    """Encode cells as a PNG, one pixel each."""
    levels = torch.where(cells.isfinite(), (cells * (127 / (scale or 1)) + 128.5).clamp(1, 255), 0)
    rows = b"".join(bytes([0, *row]) for row in levels.to(torch.uint8).tolist())
    header = struct.pack(">IIBBBBB", cells.shape[1], cells.shape[0], 8, 3, 0, 0, 0)
    body = _chunk(b"IHDR", header) + _COLOURS_OF_HEAT + _chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + body + _chunk(b"IEND", b"")
