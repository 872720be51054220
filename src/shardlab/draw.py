"""Drawings as inline SVG, fast enough to redraw at every key press: plain tensors in, a string out."""

from shardlab.svg import CHAR, badge, frame, heat, largest, line, number, plain, scale_bar, span, svg, values
from shardlab.svg import text as write

LEGIBLE = 8  # up to this many rows and columns the values themselves are shown
PAGE = 780  # tiles wrap at this width


def tiles(tensors, ranks, devices, note=""):
    """Draw one tile a shard: its rank, device, shape and dtype, and its values (a heat map for a large one).

    >>> import torch
    >>> tiles([torch.eye(2), torch.ones(2, 2)], [0, 1], ["cpu", "cpu"])[-300:].count("1.0000")
    4
    """
    scale = largest([t for t in tensors if not _legible(t)])
    drawn, x, y, high, width = [], 2, 2, 0, 0
    for tensor, rank, device in zip(tensors, ranks, devices, strict=True):
        body, wide, tall = _tile(tensor, rank, device, scale)
        if x > 2 and x + wide > PAGE:
            x, y, high = 2, y + high + 12, 0
        drawn.append(f'<g transform="translate({x:g} {y:g})">{body}</g>')
        x, high = x + wide + 12, max(high, tall)
        width = max(width, x - 10)
    y += high
    if scale:
        drawn.append(scale_bar(40, y + 12, scale))
        y, width = y + 40, max(width, 200)
    if note:
        drawn.append(write(2, y + 18, note, "start"))
        y, width = y + 24, max(width, 4 + CHAR * len(note))
    said = "; ".join(f"shard {r} on {d}: {_kind(t)}" for t, r, d in zip(tensors, ranks, devices, strict=True))
    return svg("".join(drawn), width, y + 2, f"{_count(tensors)}. {said}. {note}".strip())


def text(tensors, ranks, devices):
    """Write the shards as plain text, for `print`: torch's own form of each, under its rank and shape.

    >>> import torch
    >>> print(text([torch.ones(2), torch.zeros(1)], [0, 1], ["cpu", "cpu"]))
    Shards of 2 on cpu
    shard 0 [2]
    tensor([1., 1.])
    shard 1 [1]
    tensor([0.])
    """
    where = ", ".join(dict.fromkeys(devices)) or "no device"
    pairs = zip(tensors, ranks, strict=True)
    blocks = [f"shard {rank} {list(t.shape)}\n{t.detach().cpu()}" for t, rank in pairs]
    return "\n".join([f"Shards of {len(tensors)} on {where}", *blocks])


def _tile(tensor, rank, device, scale):
    """Give the drawing, width and height of one shard's tile."""
    head, kind = f"shard {rank} · {device}", _kind(tensor)
    body, wide, tall = _body(tensor, scale)
    width = max(wide + 16, CHAR * max(len(head), len(kind)) + 16)
    height = 48 + tall
    middle = f'<g transform="translate({(width - wide) / 2:g} 44)">{body}</g>'
    outline = frame(0, 0, width, height, rank)
    return outline + badge(0, 0, width, head, rank) + write(width / 2, 36, kind) + middle, width, height


def _body(tensor, scale):
    """Give the drawing, width and height of the values of one shard."""
    if not tensor.numel():
        return write(30, 16, "empty", font_style="italic"), 60, 24
    if _legible(tensor):
        return _cells(tensor)
    matrix = tensor.reshape(-1, tensor.shape[-1])
    width, height = (min(160, max(36, 6 * side)) for side in reversed(matrix.shape))
    caption, extra = _range(matrix)
    body = heat(matrix, 0, 0, width, height, scale) + write(width / 2, height + 16, caption)
    if extra:
        body += write(width / 2, height + 32, extra, font_weight=800)
    return body, max(width, CHAR * max(len(caption), len(extra))), height + (40 if extra else 24)


def _cells(tensor):
    """Write out every value; of three or more dims, one matrix under the other."""
    tensor = tensor.detach().cpu()
    slices = tensor.reshape(-1, *_matrix_shape(tensor)).tolist()
    cell = CHAR * max(len(number(v)) for rows in slices for row in rows for v in row) + 10
    parts, y = [], 0
    for rows in slices:
        if y:
            parts.append(line(0, y + 2, cell * len(rows[0]), y + 2, stroke_dasharray="2 2"))
            y += 4
        parts.append(values(rows, 0, y, cell))
        y += 22 * len(rows)
    return "".join(parts), cell * len(slices[0][0]), y


def _legible(tensor):
    """Tell whether a tensor is small enough to write its values out."""
    columns = _matrix_shape(tensor)[1]
    return columns <= LEGIBLE and tensor.numel() <= LEGIBLE * max(1, columns)


def _matrix_shape(tensor):
    """Give rows and columns of the matrices in a tensor; a vector is one row, a scalar one cell."""
    return (1, 1, *tensor.shape)[-2:]


def _range(matrix):
    """Say the smallest and the largest finite entry, and how many entries are not finite."""
    cells, ends = plain(matrix), "{:.3g} … {:.3g}".format(*span(matrix))
    if cells.sum().isfinite():  # one pass; looking closer takes ten times as long
        return ends, ""
    counts = ((cells.isnan().sum().item(), "NaN"), (cells.isinf().sum().item(), "inf"))
    return ends, " ".join(f"{count} {name}" for count, name in counts if count)


def _kind(tensor):
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _count(tensors):
    return "1 shard" if len(tensors) == 1 else f"{len(tensors)} shards"
