"""Fused weights: several linear layers in one, and which rows of it are whose.

Many checkpoints keep q, k and v (or gate and up) in one weight, for one product in the place of three, in layouts
that differ from model to model. A plain cut goes across them: no exception, and wrong numbers. Here a layout is
what it is, for each part the list of the fused rows that are its own; the parts are then split each alone.
"""

import torch
from torch import nn


def gate_up(hidden, interleaved=False):
    """The rows of gate and of up in a fused weight [2·hidden, width].

    All of gate, then all of up, as in Llama's; or interleaved (gate 0, up 0, gate 1, …), as in gpt-oss's
    (`x[..., ::2]`), where a plain cut at an even place happens to be right.

    >>> [rows.tolist() for rows in gate_up(3)], [rows.tolist() for rows in gate_up(3, interleaved=True)]
    ([[0, 1, 2], [3, 4, 5]], [[0, 2, 4], [1, 3, 5]])
    """
    rows = torch.arange(2 * hidden)
    return [rows[::2], rows[1::2]] if interleaved else [rows[:hidden], rows[hidden:]]


def qkv(heads, kv_heads, size, layout):
    """The rows of q, of k and of v in a fused weight [(heads + 2·kv_heads)·size, width], `size` rows a head.

    "by kind": all q heads, all k heads, all v heads (Phi-3, GPT-2). "by head": q, k, v of head 0, of head 1, …
    (BLOOM, GPT-NeoX; as many kv heads as heads). "interleaved": for each kv head its q heads, then k, then v
    (Megatron-LM, Falcon). By kind and by head met in DeepSpeed#3844, beside a third: by kind within each quarter.

    >>> [rows.tolist() for rows in qkv(4, 2, 1, "by kind")]
    [[0, 1, 2, 3], [4, 5], [6, 7]]
    >>> [rows.tolist() for rows in qkv(4, 2, 1, "interleaved")]
    [[0, 1, 4, 5], [2, 6], [3, 7]]
    """
    if heads % kv_heads:
        raise ValueError(f"{heads} heads do not share {kv_heads} kv heads evenly")
    if layout == "by head" and heads != kv_heads:
        raise ValueError(f'"by head" has one k and one v for each q, not {kv_heads} for {heads}: say "interleaved"')
    rows = torch.arange((heads + 2 * kv_heads) * size)
    if layout == "by kind":
        return list(rows.split([heads * size, kv_heads * size, kv_heads * size]))
    if layout not in ("by head", "interleaved"):
        raise ValueError(f'layout is "by kind", "by head" or "interleaved", not {layout!r}')
    groups = rows.view(kv_heads, heads // kv_heads + 2, size)
    return [groups[:, :-2].flatten(), groups[:, -2].flatten(), groups[:, -1].flatten()]


def split(dense, layout):
    """The linear layers that a fused nn.Linear holds, one for each list of rows in `layout`.

    >>> gate, up = split(nn.Linear(4, 6), gate_up(3))
    >>> gate
    Linear(in_features=4, out_features=3, bias=True)
    """
    fits(layout, dense.out_features)
    parts = []
    for rows in layout:
        part = nn.Linear(dense.in_features, len(rows), dense.bias is not None, device="meta")
        part.weight = nn.Parameter(dense.weight.detach()[rows], dense.weight.requires_grad)
        if dense.bias is not None:
            part.bias = nn.Parameter(dense.bias.detach()[rows], dense.bias.requires_grad)
        parts.append(part)
    return parts


def fuse(parts, layout):
    """The nn.Linear of which `split` gives these parts: its inverse, for a checkpoint in the layout that it came in."""
    order = torch.cat(layout).argsort()
    fits(layout, sum(part.out_features for part in parts))
    first = parts[0]
    dense = nn.Linear(first.in_features, len(order), first.bias is not None, device="meta")
    dense.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts])[order], first.weight.requires_grad)
    if first.bias is not None:
        dense.bias = nn.Parameter(torch.cat([part.bias.detach() for part in parts])[order], first.bias.requires_grad)
    return dense


def fits(layout, rows):
    if sum(map(len, layout)) != rows:
        raise ValueError(f"this layout is of {sum(map(len, layout))} rows, and the fused weight has {rows}")
