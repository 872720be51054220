"""A matrix as a heat map about 0, in inline SVG, and what one says of it: its largest entry, its rows in words."""

import base64
import math
import struct
import zlib

import torch

from shardlab.pictures.svg import rect, short, text

BELOW, ABOVE = (123, 95, 191), (183, 121, 0)  # purple below 0, amber above, the page itself at 0
CELLS = 32  # a heat map has at most this many cells a side


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


def rows(matrix):
    """Write a small matrix row by row, as words.

    >>> rows(torch.tensor([[0.5, 1.0], [2.0, 3.0]]))
    '0.50 1; 2 3'
    """
    cells = plain(matrix)
    return "; ".join(" ".join(map(short, row)) for row in cells.reshape(-1, (1, *cells.shape)[-1]).tolist())


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
