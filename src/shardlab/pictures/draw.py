"""Drawings as inline SVG, fast enough to redraw at every key press: plain tensors in, a string out."""

import torch

from shardlab.pictures import heat, svg
from shardlab.pictures.cuts import LEGIBLE
from shardlab.pictures.svg import CHAR, flow, number, stack, words

__all__ = ["deal", "error_map", "text", "tiles"]


@svg.one_thread()
def tiles(tensors, ranks, devices, note=""):
    """Draw one tile per shard: its rank, device, shape and dtype, and its values (a heat map for a large one).

    >>> import torch
    >>> tiles([torch.eye(2), torch.ones(2, 2)], [0, 1], ["cpu", "cpu"])[-300:].count(">1<")
    4
    """
    scale = heat.largest([t for t in tensors if not _legible(t) and not t.is_meta])
    shards = list(zip(tensors, ranks, devices, strict=True))
    cell = _cell([t for t in tensors if _legible(t) and not t.is_meta])  # one for all: equal shapes have equal size
    parts = [flow([_tile(*shard, scale, cell) for shard in shards])]
    if scale:
        parts.append(heat.scale_bar(scale))
    if note:
        parts.append(words(note))
    few = sum(t.numel() for t in tensors) <= 64
    said = ". ".join(
        f"shard {rank} on {device}: {_kind(tensor)}{_told(tensor, few)}" for tensor, rank, device in shards
    )
    return svg.svg(stack(parts), f"{_count(tensors)}. {said}. {note}".strip())


def text(tensors, ranks, devices, total=None):
    """Write the shards as plain text, for `print`: torch's own form of each, under its rank and shape.

    `total` is the number of shards in all, where others are in other processes.

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
    blocks = [f"shard {rank} {list(t.shape)}\n{t.detach() if t.is_meta else t.detach().cpu()}" for t, rank in pairs]
    return "\n".join([f"Shards of {total or len(tensors)} on {where}", *blocks])


def _tile(tensor, rank, device, scale, cell):
    """Give the drawing, width and height of one shard's tile."""
    head, kind = f"shard {rank} · {device}", _kind(tensor)
    body, wide, tall = _body(tensor, scale, cell)
    width = max(wide + 16, CHAR * max(len(head), len(kind)) + 16)
    height = 48 + tall
    middle = svg.move(body, (width - wide) / 2, 44)
    outline = svg.frame(0, 0, width, height, rank) + svg.badge(0, 0, width, head, rank)
    return outline + svg.text(width / 2, 36, kind) + middle, width, height


def _body(tensor, scale, cell):
    """Give the drawing, width and height of the values of one shard."""
    if tensor.is_meta or not tensor.numel():
        return svg.text(30, 16, "no values" if tensor.is_meta else "empty", font_style="italic"), 60, 24
    if _legible(tensor):
        return _cells(tensor, *cell)
    matrix = tensor.reshape(-1, tensor.shape[-1])
    width, height = (min(160, max(36, 6 * side)) for side in reversed(matrix.shape))
    caption, extra = _range(matrix)
    body = heat.heat(matrix, 0, 0, width, height, scale) + svg.text(width / 2, height + 16, caption)
    if extra:
        body += svg.text(width / 2, height + 32, extra, font_weight=800)
    return body, max(width, CHAR * max(len(caption), len(extra))), height + (40 if extra else 24)


def _cell(tensors):
    """Give the width of a cell in which each value of these tensors fits, and how to write them: whole ones plainly."""
    values = [value for tensor in tensors for value in tensor.detach().cpu().flatten().tolist()]
    whole = all(isinstance(value, float) and value.is_integer() and abs(value) < 1e5 for value in values)
    write = "{:.0f}".format if whole else number
    return CHAR * max((len(write(value)) for value in values), default=1) + 10, write


def _cells(tensor, cell, write):
    """Write out every value; of three or more dims, one matrix under the other."""
    slices = tensor.detach().cpu().reshape(-1, *_matrix_shape(tensor)).tolist()
    parts, y = [], 0
    for rows in slices:
        if y:
            parts.append(svg.line(0, y + 2, cell * len(rows[0]), y + 2, stroke_dasharray="2 2"))
            y += 4
        parts.append(svg.values(rows, 0, y, cell, write=write))
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
    cells, ends = heat.plain(matrix), "{:.3g} … {:.3g}".format(*heat.span(matrix))
    if cells.sum().isfinite():  # one pass; looking closer takes ten times as long
        return ends, ""
    counts = ((cells.isnan().sum().item(), "NaN"), (cells.isinf().sum().item(), "inf"))
    return ends, " ".join(f"{count} {name}" for count, name in counts if count)


def _kind(tensor):
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _told(tensor, few):
    """Say the values of a small tensor, row by row."""
    shown = few and tensor.numel() and _legible(tensor) and not tensor.is_meta and not tensor.is_complex()
    return f" = {heat.rows(tensor)}" if shown else ""


def _count(tensors):
    return "1 shard" if len(tensors) == 1 else f"{len(tensors)} shards"


@svg.one_thread()
def error_map(got, want, title="got - want"):
    """Draw where `got` differs from `want`: their difference, the place and the size of the largest error.

    Both have one shape (else a ValueError); small ones show their values, large ones a heat map in which each
    cell is the largest error of its block.

    >>> "largest error 0.5 at [0, 1], 25 % of the largest value" in error_map(
    ...     torch.tensor([[1.0, 2.5]]), torch.tensor([[1.0, 2.0]]))
    True
    """
    wrong = heat.difference(got, want)
    sizes = wrong.abs()
    if not sizes.sum().isfinite():
        sizes = sizes.nan_to_num(torch.inf)  # what is not a number is the worst error of all
    said = _worst(sizes, want)
    lines = [words(title, font_weight=700), words(said)] + ([_errors(wrong, sizes)] if wrong.numel() else [])
    values = f" The errors: {heat.rows(wrong)}." if wrong.numel() and _legible(wrong) else ""
    return svg.svg(stack(lines, 6), f"{title} {list(got.shape)}: {said}.{values}")


def _worst(sizes, want):
    """Say the largest error, where it is, and how large it is against the largest value."""
    if not sizes.numel():
        return "empty: nothing to compare"
    worst = sizes.max().item()
    at = [i.item() for i in torch.unravel_index(sizes.argmax(), sizes.shape)]
    if worst == 0:
        return "equal everywhere: the error is 0"
    if worst == torch.inf:
        return f"not finite at {at}"
    share = _percent(worst / (heat.largest([want]) or 1))
    place = f" at {at}" if worst >= 1e-4 else ""  # rounding errors lie elsewhere on another CPU
    return f"largest error {svg.about(worst)}{place}, {share} of the largest value"


def _percent(share):
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{svg.about(100 * share)} %"


def _errors(wrong, sizes):
    """Draw the errors of a matrix; the largest one has a thick outline."""
    matrix = wrong.reshape(-1, *_matrix_shape(wrong)[1:])
    (rows, columns), shown, scale = matrix.shape, _legible(matrix), heat.largest([matrix])
    wide, tall = (max(40, min(320, 6 * side)) for side in (columns, rows))
    if shown:
        cell = svg.CELL[0]
        wide, tall = columns * cell, rows * 22
    body = heat.heat(matrix, 0, 0, wide, tall, scale, opacity=0.45 if shown else 1)
    body += svg.rect(0, 0, wide, tall, stroke="#888")
    if sizes.any():
        places = heat.shrink(sizes.reshape(matrix.shape))
        i, j = divmod(places.argmax().item(), places.shape[1])
        high, broad = tall / places.shape[0], wide / places.shape[1]
        body += svg.rect(j * broad, i * high, broad, high, stroke="currentColor", stroke_width=2.5)
    if shown:
        return body + svg.values(matrix.tolist(), 0, 0, cell, write=svg.short), wide, tall
    return flow([(body, wide, tall), heat.scale_bar(scale)], 20)


def deal(devices, room=()):
    """Draw which shard lies on which device, one box a device; `devices` names one for each shard, by rank.

    `room` names those of the most shards that there may be: the canvas then has room for them all.

    >>> deal(["cuda:0", "cuda:1", "cuda:0"]).count(">shard ")
    3
    """
    boxes = []
    for device in dict.fromkeys([*room, *devices]):
        ranks = [rank for rank, name in enumerate(devices) if name == device]
        places = max(len(ranks), [*room].count(device))
        columns = -(-places // 4)
        badges = [
            svg.move(svg.badge(0, 0, 80, f"shard {rank}", rank), 86 * (index % columns), 28 + 26 * (index // columns))
            for index, rank in enumerate(ranks)
        ]
        name = svg.text(0, 13, device, "start", font_weight=700)
        badges += [] if ranks else [svg.text(0, 42, "idle", "start", font_style="italic")]
        wide = max(86 * columns - 6, CHAR * len(device)) + 20
        tall = 22 + 26 * -(-places // columns) + 20
        boxes.append((svg.frame(0, 0, wide, tall) + svg.move(name + "".join(badges), 10, 10), wide, tall))
    said = ", ".join(f"shard {rank} on {device}" for rank, device in enumerate(devices))
    used = len({*devices})
    return svg.svg(flow(boxes, page=900), f"{len(devices)} shards over {used} device{'s' * (used > 1)}: {said}")
