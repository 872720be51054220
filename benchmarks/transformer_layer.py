"""A whole transformer layer on `Shards`, in one process, against its dense twin: what the split itself costs."""

import torch
from splits import agree
from timing import race, warm_memory

from shardlab import Mesh
from shardlab.layers import ParallelTransformerLayer, TransformerLayer

WIDTHS, SHARDS, BATCH, TOKENS = [64, 512], [2, 4], 2, 64


def compare(width, n, backward, seconds):
    """One line: the split layer and the dense one, side by side. 8 heads, 4 kv heads, hidden 4 times as wide."""
    dense = TransformerLayer(width, 4 * width, heads=8, kv_heads=4)
    mesh = Mesh(n, devices=["cpu"])
    layer = ParallelTransformerLayer(dense, mesh)
    x, cotangent = torch.randn(2, BATCH, TOKENS, width)
    x_, cotangent_ = mesh.replicate(x.requires_grad_(backward)), mesh.replicate(cotangent)

    def both_split():
        layer(x_).backward(cotangent_)

    def both_dense():
        dense(x).backward(cotangent)

    ways = {"shards": both_split, "dense": both_dense}
    if not backward:
        ways = {"shards": lambda: layer(x_), "dense": lambda: dense(x)}
    agree(layer(x_).shards[-1], dense(x))
    times = race(ways, seconds)
    return {
        "what": "forward and backward" if backward else "forward",
        "width": width,
        "shards": n,
        "shards_us": times["shards"]["us"],
        "dense_us": times["dense"]["us"],
        "ratio": times["shards"]["ratio"],
    }


def transformer_layer(widths=WIDTHS, shards=SHARDS, seconds=2.0):
    """Every width and number of shards; forward, and forward with backward."""
    warm_memory()
    return [compare(width, n, backward, seconds) for width in widths for n in shards for backward in (False, True)]


def lines(rows):
    """The lines of the table: width by width, forward and both, on so many shards."""
    for width in dict.fromkeys(row["width"] for row in rows):
        for what in ("forward", "forward and backward"):
            found = [row for row in rows if (row["width"], row["what"]) == (width, what)]
            measured = ", ".join(f"{row['ratio']:.2f}× on {row['shards']} shards" for row in found)
            wanted = "≤ 1.1×" if width == 512 else ""
            yield f"| a transformer layer of width {width}, {what}, against its dense twin | {wanted} | {measured} |"
