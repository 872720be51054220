"""Lab 05: products in a row, each cut by column or by row, and the reductions between them that it takes."""

from dataclasses import dataclass
from functools import cache

import torch

from shardlab import Mesh
from shardlab.compare import kind
from shardlab.labs.activations import ACTIVATIONS
from shardlab.labs.lab import HTML, Lab, below, menu, said, slider, steps, switch
from shardlab.pictures.way import Held, Step, way
from shardlab.record import Traffic

ROWS, WIDTH, HIDDEN = 16, 64, 128
CUTS = ["column, row", "column, column", "row, row"]
REDUCE = [("at once", "each"), ("at the end", "end")]


@dataclass
class Mlp:
    """What a chain of products gave: y, the rows of its picture, the relative error of y, and what moved."""

    y: torch.Tensor
    rows: list
    error: float
    traffic: Traffic


@cache
def layers_data(layers):
    """X [16, 64] and the weights [64, 128], [128, 64], …, scaled so that a product has about the variance of its input;
    from a seed of its own.

    >>> X, weights = layers_data(2)
    >>> X.shape, [list(W.shape) for W in weights]
    (torch.Size([16, 64]), [[64, 128], [128, 64]])
    """
    random = torch.Generator().manual_seed(42)
    shapes = [(WIDTH, HIDDEN), (HIDDEN, WIDTH)] * (layers // 2)
    X = torch.randn(ROWS, WIDTH, generator=random)
    return X, [torch.randn(shape, generator=random) * (2 / shape[0]) ** 0.5 for shape in shapes]


def mlp_result(layers=2, shards=2, cut="column, row", reduce="each", activation="gelu"):
    """y = … f(f(X @ W1) @ W2) …, `layers` products with f between them, over a real mesh and unsplit.

    `cut` says how the odd and the even products are split; `reduce` whether partial sums are added after each row split
    ("each") or only after the last product ("end"), as if f could wait for it.
    """
    mesh, f = Mesh(shards), ACTIVATIONS[activation]
    X, weights = layers_data(layers)
    x_, want, name, rows = mesh.replicate(X), X, "X", []
    with mesh.record() as traffic:
        for number, (W, how) in enumerate(zip(weights, cut.split(", ") * (layers // 2), strict=True), 1):
            last, row = number == layers, [(x_, want, name)]
            x_, want, name = split_product(mesh, x_, W, how), want @ W, "y" if last else f"h{number}"
            joins = how == "row" if reduce == "each" else last and how == "row"
            joins = joins or (how == "column" and (last or cut == "column, column"))
            if not joins and not last:
                x_, want = f(x_), f(want)
            row += [Step(f"@ W{number}", f"by {how}s" + ("" if joins or last else f", {activation}")), (x_, want, name)]
            if joins:
                x_ = mesh.all_reduce(x_) if how == "row" else mesh.all_gather(x_, dim=1)
                row += [Step(traffic[-1].name, f"{traffic[-1].payload:,} bytes", moves=True)]
                if not last:
                    x_, want = f(x_), f(want)
                row += [(x_, want, name)]
            rows.append(row)
    y = x_.shards[0].cpu()
    rows = [[item if isinstance(item, Step) else held(*item) for item in row] for row in rows]
    return Mlp(y, rows, ((y - want).norm() / want.norm()).item(), traffic)


def split_product(mesh, x_, W, how):
    """x_ @ W with W cut; by rows each shard needs its own columns of x_: where it has all, it takes them, for free."""
    if how == "column":
        return x_ @ mesh.shard(W, dim=1)
    x_ = mesh.scatter(x_, dim=1) if x_.shards[0].shape[1] == len(W) else x_
    return x_ @ mesh.shard(W, dim=0)


def held(x_, want, name):
    """What the shards hold of a value, measured against the dense one."""
    return Held(name, kind(x_, want).name, tuple(shard.shape[1] for shard in x_.shards))


def draw_mlp(layers, shards, cut, reduce, activation):
    """The picture of a state of this lab, as HTML."""
    ran = mlp_result(layers, shards, cut, reduce, activation)
    told = f"{layers} products over {shards} shards, split by {cut}. " + " ".join(map(spoken, ran.rows))
    return verdict(ran) + moved(ran.traffic, layers) + way(ran.rows, shards, told)


def spoken(row):
    return (
        ", then ".join(
            f"{item.name} is {item.kind}" if isinstance(item, Held) else f"{item.said} {item.more}" for item in row
        )
        + "."
    )


def verdict(ran):
    if ran.error < 1e-5:
        return said(True, "Match.", f"y is that of the unsplit layers, every error below {below(ran.error, 1e-7)}.")
    first = next(item.name for row in ran.rows for item in row if isinstance(item, Held) and item.kind[:4] == "none")
    return said(
        False,
        f"{100 * ran.error:.0f} % wrong.",
        f"Partial sums were used as if they were whole: from {first} on, nothing is right.",
    )


def moved(traffic, layers):
    names = [call.name for call in traffic if call.name != "scatter"]
    count = ", ".join(f"{names.count(name)} {name}{'s' * (names.count(name) > 1)}" for name in dict.fromkeys(names))
    return said(None, f"{count or 'Nothing moves'}", f"for {layers} products: {traffic.payload:,} bytes.")


def mlp_picture(layers=4, shards=2, cut="column, row", reduce="each", activation="gelu"):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_mlp(layers, shards, cut, reduce, activation))


def mlp(layers=4, shards=2, cut="column, row", reduce="each", activation="gelu"):
    """The lab of lesson 05: how many products, how each is split, and when their partial sums are added."""
    controls = {
        "layers": steps("products", layers, [2, 4, 6], "how many weights there are, one after the other"),
        "shards": slider("shards", shards, 1, 8, "how many shards each weight is cut into"),
        "cut": menu("split by", cut, CUTS, "how the odd and the even weights are split"),
        "reduce": switch("reduce", reduce, REDUCE, "when partial sums are added up"),
        "activation": menu("f", activation, list(ACTIVATIONS), "the function between two products"),
    }
    return Lab(controls, draw_mlp)
