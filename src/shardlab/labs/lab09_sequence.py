"""Lab 09: norm, MLP, dropout and residual with the sequence cut, or not: who holds what, what is kept, what moves."""

from dataclasses import dataclass
from functools import cache

import torch
from torch.nn.functional import gelu, rms_norm
from torch.utils.checkpoint import checkpoint

from shardlab import Mesh, Shards
from shardlab.compare import kind
from shardlab.labs.lab import HTML, Lab, below, said, steps, switch
from shardlab.layers import dropout
from shardlab.pictures.way import Held, Step, way
from shardlab.record import Traffic

TOKENS, WIDTH, HIDDEN, P, SEED = 32, 64, 256, 0.1, 9
ON = [("cut", "on"), ("whole", "off")]
AGAIN = [("again", "again"), ("kept", "kept")]


@dataclass
class Sequence:
    """What half a layer gave: the rows of its picture, the errors of its result and of the gradient of w, the bytes
    that a shard keeps for backward, of each value, and what moved."""

    rows: list
    error: float
    weight_error: float
    kept: dict
    traffic: Traffic

    @property
    def total(self):
        return sum(self.kept.values())


@cache
def half_a_layer():
    """X, w, W1, W2 and the cotangent, from a seed of their own; then each value on the way, unsplit, and the gradient
    of w."""
    random = torch.Generator().manual_seed(42)
    shapes = [(TOKENS, WIDTH), (WIDTH,), (WIDTH, HIDDEN), (HIDDEN, WIDTH), (TOKENS, WIDTH)]
    X, w, W1, W2, G = (torch.randn(shape, generator=random) for shape in shapes)
    W1, W2, w = W1 / WIDTH**0.5, W2 / HIDDEN**0.5, w.requires_grad_()
    one = Mesh(1, devices=["cpu"])
    y = rms_norm(X, [WIDTH], w, 1e-5)
    h = y @ W1
    z = gelu(h) @ W2
    d = dropout(one, one.replicate(z.detach()), P, SEED).shards[0]
    (grad,) = torch.autograd.grad(z, w, torch.where(d != 0, G / (1 - P), 0.0))
    values = {"X": X, "y": y, "Y": y, "h": h, "a": gelu(h), "p": z, "z": z, "d": d, "X + d": X + d}
    return [X, w.detach(), W1, W2, G], {name: value.detach() for name, value in values.items()}, grad


def sequence_result(sequence="on", y="again", shards=4):
    """X + dropout(gelu(norm(X) @ W1) @ W2) over a real mesh, there and back, its sequence cut ("on") or not ("off").

    `y` says if the gathered norm(X) is "kept" for backward, or gathered "again".
    """
    mesh, on = Mesh(shards), sequence == "on"
    (X, w, W1, W2, G), _, _ = half_a_layer()
    place = (lambda t: mesh.shard(t, dim=0)) if on else mesh.replicate
    x_, w_ = place(X.clone().requires_grad_()), mesh.replicate(w.clone().requires_grad_())
    W1_, W2_ = mesh.shard(W1.clone().requires_grad_(), dim=1), mesh.shard(W2.clone().requires_grad_(), dim=0)
    held, saved = {"X": x_}, []

    def products(*pieces):
        y_ = Shards([*pieces], mesh)
        held["Y"] = mesh.all_gather(y_, dim=0, grad="partial") if on else mesh.copy(y_)
        return held["Y"] @ W1_

    with mesh.record() as traffic:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
            held["y"] = rms_norm(x_, [WIDTH], mesh.copy(w_) if on else w_, 1e-5)
            again = on and y == "again"
            pieces = held["y"].shards
            held["h"] = checkpoint(products, *pieces, use_reentrant=False) if again else products(*pieces)
            held["a"] = gelu(held["h"])
            held["p"] = held["a"] @ W2_
            held["z"] = mesh.reduce_scatter(held["p"], dim=0) if on else mesh.all_reduce(held["p"])
            held["d"] = dropout(mesh, held["z"], P, SEED, dim=0 if on else None)
            held["X + d"] = x_ + held["d"]
        kept = bytes_kept(saved, held, [W1_, W2_, w_])
        held["X + d"].backward(place(G))
    return Sequence(rows_of(held, kept, traffic, on), *errors(held["X + d"], w_, on), kept, traffic)


def bytes_kept(saved, held, weights):
    """What each shard keeps for backward, in bytes: of each value by its name, and what norm and dropout add to that.
    (All shards keep as much, since all sizes divide.)"""
    others = {address(t): t.untyped_storage().nbytes() for t in saved}
    for weight_ in weights:
        for shard in weight_.shards:
            others.pop(address(shard), None)
    kept = {}
    for name, x_ in held.items():
        sizes = [others.pop(address(shard), 0) for shard in x_.shards]
        if any(sizes):
            kept[name] = x_.shards[0].nbytes
    inside = sum(others.values()) // len(held["X"].shards)
    return kept | {"inside the norm and the dropout": inside}


def address(tensor):
    return tensor.untyped_storage().data_ptr()


def errors(out_, w_, on):
    """The largest relative errors of the result and of the gradient of w, on any shard."""
    _, values, grad = half_a_layer()
    want = out_.mesh.shard(values["X + d"], 0) if on else out_.mesh.replicate(values["X + d"])
    pairs = [*zip(out_.shards, want.shards, strict=True)], [(g, grad.to(g.device)) for g in w_.grad.shards]
    return [max(((a - b).norm() / b.norm()).item() for a, b in pair) for pair in pairs]


def rows_of(held, kept, traffic, on):
    """The rows of the picture: what is held, of the kind that is measured, and the steps between."""
    _, values, _ = half_a_layer()
    moved = [call for call in traffic if call.phase == "forward" and call.dtype.is_floating_point]

    def value(name, shown=None):
        x_, more = held[name], f"keeps {kept[name]:,}" if name in kept else ""
        what = kind(x_, values[name]).name
        return Held(shown or name, what, tuple(t.shape[what != "cut along dim 0"] for t in x_.shards), more)

    def door(place, off):
        return Step(moved[place].name, f"{moved[place].payload:,} bytes", moves=True) if on or not off else Step(off)

    return [
        [value("X"), Step("norm"), value("y", "Y"), door(0, "copy"), value("Y")],
        [
            value("Y"),
            Step("@ W1", "by columns"),
            value("h"),
            Step("gelu"),
            value("a"),
            Step("@ W2", "by rows"),
            value("p"),
        ],
        [value("p"), door(1 if on else 0, ""), value("z"), Step("dropout"), value("d"), Step("+ X"), value("X + d")],
    ]


@cache  # there are 16 states
def draw_sequence(sequence, y, shards):
    """The picture of a state of this lab, as HTML."""
    ran = sequence_result(sequence, y, shards)
    told = f"Half a layer over {shards} shards. " + " ".join(map(spoken, ran.rows))
    return verdict(ran) + keeps(ran) + moves(ran) + way(ran.rows, shards, told, high=160)


def spoken(row):
    words = [f"{i.name} is {i.kind}{i.more and f' and {i.more} bytes'}" if isinstance(i, Held) else i.said for i in row]
    return ", then ".join(words) + "."


def verdict(ran):
    worst = max(ran.error, ran.weight_error)
    if worst < 1e-5:
        return said(
            True, "Match.", f"The result and the gradient of w are the unsplit ones, errors below {below(worst, 1e-7)}."
        )
    return said(False, "Wrong.", f"Result {ran.error:.0%}, gradient of w {ran.weight_error:.0%}.")


def keeps(ran):
    parts = ", ".join(f"{'Y' if name == 'y' else name} {size:,}" for name, size in ran.kept.items())
    return said(None, f"A shard keeps {ran.total:,} bytes for backward:", f"{parts}.")


def moves(ran):
    """What a ring sends, from each shard, there and back."""
    names = [call.name for call in ran.traffic if call.dtype.is_floating_point and call.wire]
    count = ", ".join(f"{names.count(name)} {name}{'s' * (names.count(name) > 1)}" for name in dict.fromkeys(names))
    return said(
        None, f"{count or 'Nothing moves'}:", f"on a ring a shard sends {sent(ran.traffic):,.0f} bytes, there and back."
    )


def sent(traffic):
    return sum(call.wire for call in traffic if call.dtype.is_floating_point)


def sequence_picture(sequence="on", y="again", shards=4):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_sequence(sequence, y, shards))


def sequence(sequence="on", y="again", shards=4):
    """The lab of lesson 09: the sequence cut or not, the gathered Y kept or not, and how many shards there are."""
    controls = {
        "sequence": switch("sequence", sequence, ON, "cut along the tokens, or whole on every shard"),
        "y": switch("Y", y, AGAIN, "gathered again in backward, or kept"),
        "shards": steps("shards", shards, [1, 2, 4, 8], "how many shards there are"),
    }
    return Lab(controls, draw_sequence)
