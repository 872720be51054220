"""Lab 04: the columns of W do not divide by the shards, and three ways to cut them all the same."""

from dataclasses import dataclass

import torch

from shardlab import Mesh, Shards
from shardlab.compare import Comparison, compare
from shardlab.labs.lab import HTML, Lab, menu, said, slider
from shardlab.labs.lab01_split import seed_data
from shardlab.pictures.gantt import gantt

ROWS, K = 2, 8
WAYS = [("uneven pieces", "tensor_split"), ("zeros as padding", "pad"), ("torch.chunk", "chunk")]


@dataclass
class Uneven:
    """What one way of cutting gave: the columns each shard computes (padding among them), and the joined result."""

    way: str
    columns: list[int]
    padding: int  # columns that every shard computes and no one wants
    y: torch.Tensor
    close: Comparison
    payload: int  # bytes of the all-gather

    @property
    def idle(self):
        """How many shards got nothing."""
        return self.columns.count(0)

    @property
    def waiting(self):
        """The share of the time that the shards wait for the one with the most columns, on average."""
        return 1 - sum(self.columns) / (len(self.columns) * max(self.columns))


def uneven_result(width=10, shards=4, way="tensor_split"):
    """Y = X @ W by columns, X [2, 8], W [8, width], where `width` need not divide by the number of shards.

    "tensor_split": pieces that differ by at most one column. "pad": zeros are added until it divides, and dropped
    again after the all-gather. "chunk": torch.chunk, which may give fewer pieces than shards.
    """
    mesh = Mesh(shards)
    X, W = seed_data(ROWS, K, width)
    padding = -width % shards if way == "pad" else 0
    if way == "chunk":
        pieces = list(W.chunk(shards, dim=1))
        pieces += [W[:, :0]] * (shards - len(pieces))  # the shards that get nothing
        W_ = Shards([piece.to(device) for piece, device in zip(pieces, mesh.devices, strict=True)], mesh)
    else:
        W_ = mesh.shard(torch.nn.functional.pad(W, (0, padding)), dim=1)
    with mesh.record() as traffic:
        y_ = mesh.all_gather(mesh.replicate(X) @ W_, dim=1)[:, :width]
    columns = [piece.shape[1] for piece in W_.shards]
    return Uneven(way, columns, padding, y_.shards[0].cpu(), compare(y_, X, W, parts=1), traffic.payload)


def draw_uneven(width, shards, way):
    """The picture of a state of this lab, as HTML."""
    ran = uneven_result(width, shards, way)
    return result(ran, width) + balance(ran) + wasted(ran, width) + gantt(width, shards, way)


def result(ran, width):
    useful = width / (len(ran.columns) * max(ran.columns))
    if ran.close.passed and useful < 0.5:
        nothing = f"{100 - 100 * useful:.0f} % of what the shards could do meanwhile is for nothing."
        return said(None, "The result is right,", f"within rounding of the unsplit X @ W, but {nothing}")
    if ran.close.passed:
        return said(True, "The result is right.", "Every entry is within rounding of the unsplit X @ W.")
    return said(False, "The result is wrong.", "It is not the unsplit X @ W.")


def balance(ran):
    most, least = max(ran.columns), min(ran.columns)
    if ran.idle:
        many = "1 shard has" if ran.idle == 1 else f"{ran.idle} shards have"
        if ran.way == "tensor_split":
            return said(None, "Some shards are empty:", f"{many} a piece without columns, and no work at all.")
        trap = f"{many} none at all, and code that asks for piece {len(ran.columns) - 1} fails."
        return said(
            False, f"torch.chunk made {len(ran.columns) - ran.idle} pieces for {len(ran.columns)} shards:", trap
        )
    if most == least:
        return said(None if ran.padding else True, "No shard waits:", f"{most} columns on each.")
    on_average = f"so on average the shards wait {100 * ran.waiting:.0f} % of the time."
    return said(None, "Some shards wait:", f"the longest has {most} columns and the shortest {least}, {on_average}")


def wasted(ran, width):
    if not ran.padding:
        return said(
            None, "Nothing is wasted:", f"every column is wanted, and the all_gather joins {ran.payload:,} bytes."
        )
    share = f"{100 * ran.padding / width:.0f} % more work"
    work = f"{2 * ROWS * K * ran.padding:,} FLOPs and {4 * ROWS * ran.padding:,} of {ran.payload:,} gathered bytes"
    count = "1 column" if ran.padding == 1 else f"{ran.padding} columns"
    return said(None, f"{count} of padding:", f"{work} are for nothing, {share}.")


def uneven_picture(width=10, shards=4, way="tensor_split"):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_uneven(width, shards, way))


def uneven(width=10, shards=4, way="tensor_split"):
    """The lab of lesson 04: choose a width, a number of shards, and a way to cut the one over the other."""
    controls = {
        "width": slider("cols of W", width, 1, 64, "how many columns there are to share out"),
        "shards": slider("shards", shards, 1, 16, "how many shards want some"),
        "way": menu("cut with", way, WAYS, "uneven pieces, zeros added until it divides, or torch.chunk"),
    }
    return Lab(controls, draw_uneven)
