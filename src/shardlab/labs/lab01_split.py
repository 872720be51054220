"""Lab 01: a linear layer is split by column or by row, and the parts arrive at the baseline, or they do not."""

from dataclasses import dataclass

import torch

from shardlab import Mesh
from shardlab.compare import Comparison, compare
from shardlab.labs.activations import ACTIVATIONS
from shardlab.labs.lab import HTML, Lab, below, menu, said, slider, switch
from shardlab.pictures.cuts import split as split_drawing
from shardlab.pictures.svg import about
from shardlab.record import Traffic

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass
class Split:
    """What one split gave: `y` against `baseline`, the part of each shard before the collective, the traffic."""

    X: torch.Tensor
    W: torch.Tensor
    baseline: torch.Tensor
    parts: list[torch.Tensor]
    y: torch.Tensor
    traffic: Traffic
    close: Comparison

    @property
    def matches(self):
        return self.close.passed


def seed_data(rows=2, inner=4, outer=4):
    """X [rows, inner] and W [inner, outer]: the values of `torch.manual_seed(42)`; the global seed stays as it is.

    >>> X, W = seed_data()
    >>> print(X[0])
    tensor([0.3367, 0.1288, 0.2345, 0.2303])
    """
    generator = torch.Generator().manual_seed(42)
    return torch.randn(rows, inner, generator=generator), torch.randn(inner, outer, generator=generator)


def split_result(how="column", shards=2, activation="gelu", when="after", dtype="float32", rows=2, inner=4, outer=4):
    """Split y = f(X @ W) over a real mesh, and run it beside the baseline on one device.

    `how` is "column" (an all-gather joins the parts) or "row" (an all-reduce adds them); the nonlinearity f comes
    "before" or "after" that collective. X is [rows, inner] and W [inner, outer], the seed's numbers.
    """
    mesh, f = Mesh(shards), ACTIVATIONS[activation]
    X, W = (tensor.to(DTYPES[dtype]) for tensor in seed_data(rows, inner, outer))
    before, after = (f, ACTIVATIONS["identity"]) if when == "before" else (ACTIVATIONS["identity"], f)
    with mesh.record() as traffic:
        if how == "column":
            parts_ = before(mesh.replicate(X) @ mesh.shard(W, dim=1))
            y_ = after(mesh.all_gather(parts_, dim=1))
        else:
            parts_ = before(mesh.shard(X, dim=1) @ mesh.shard(W, dim=0))
            y_ = after(mesh.all_reduce(parts_))
    close = compare(y_, X, W, f=f, parts=shards if how == "row" else 1)
    return Split(X, W, f(X @ W), [part.cpu() for part in parts_.shards], y_.shards[0].cpu(), traffic, close)


def draw_split(how, shards, activation, when, **state):
    """The picture of a state of the split lab, as HTML."""
    ran = split_result(how, shards, activation, when, **state)
    name = "" if activation == "identity" else activation
    picture = split_drawing(ran.X, ran.W, ran.y, how, shards, ran.parts, name, when, ran.baseline, ran.matches)
    return verdict(ran) + moved(ran.traffic) + picture


def verdict(ran):
    worst = max(row.largest for row in ran.close.rows)
    size = ran.baseline.abs().max().item()
    if ran.matches and worst >= 1e-4:
        return said(True, "Match.", f"The shards arrive at the baseline: off by at most {about(worst)}, mere rounding.")
    if ran.matches:
        limit = below(worst, size * torch.finfo(ran.y.dtype).eps)
        return said(True, "Match.", f"The shards arrive at the baseline: every error is below {limit}, mere rounding.")
    return said(False, "Mismatch.", f"Largest error {worst:.2f}, where the baseline's largest value is {size:.2f}.")


def moved(traffic):
    (call,) = traffic
    does = {"all_gather": "joins the parts", "all_reduce": "adds the partial sums"}[call.name]
    bytes_ = f"{call.payload:,} bytes; if a ring carries them, each shard sends {call.wire:,.0f}."
    return said(None, f"One {call.name}", f"{does}: {bytes_}")


def split_picture(how="column", shards=2, activation="gelu", when="after", dtype="float32", rows=2, inner=4, outer=4):
    """The picture of one split, for a page that is read without a kernel."""
    return HTML(draw_split(how, shards, activation, when, dtype=dtype, rows=rows, inner=inner, outer=outer))


def split(how="column", shards=2, activation="gelu", when="after", dtype="float32", rows=2, inner=4, outer=4):
    """The split lab: every choice runs on a real mesh, and is compared with the baseline."""
    controls = {
        "how": switch("split W by", how, ["column", "row"], "column: dim=1 of W; row: dim=0 of W and dim=1 of X"),
        "shards": slider("shards", shards, 1, 16, "how many shards W is cut into"),
        "activation": menu("f", activation, list(ACTIVATIONS), "the function between X @ W and Y"),
        "when": switch("f comes", when, ["before", "after"], "before or after the collective"),
        "dtype": menu("dtype", dtype, list(DTYPES), "the type of every number"),
        "rows": slider("rows of X", rows, 1, 32, "how many inputs at once"),
        "inner": slider("inner", inner, 1, 64, "columns of X, rows of W: what is summed over"),
        "outer": slider("cols of W", outer, 1, 64, "how many outputs"),
    }
    return Lab(controls, draw_split)
