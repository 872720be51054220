"""Lab 07: the heads of attention over shards, and where the columns of a fused weight go when it is cut."""

from dataclasses import dataclass
from functools import cache

import torch
from torch.nn.functional import scaled_dot_product_attention

from shardlab import Mesh, Shards
from shardlab.labs.lab import HTML, Lab, below, menu, said, slider, steps, switch
from shardlab.layers import fused
from shardlab.pictures.heads import draw

T, WIDTH, SIZE = 16, 32, 8
LAYOUTS = [("by kind: q…, k…, v…", "by kind"), ("by kv head: q…, k, v", "interleaved")]
CUTS = ["by head", "as it lies"]


@dataclass
class Heads:
    """What a cut gave: the relative error of y (None where the code `stopped`, and with which words), the names of the
    heads in their order in the fused weight, and by rank the columns that it got and what it took them for."""

    error: float | None
    stopped: str
    names: list
    columns: list
    taken: list

    @property
    def held(self):
        """By rank the columns as runs that lie in one head: (its name, where the run begins and ends in it)."""
        return [pieces_of(own, self.names) for own in self.columns]


@cache
def heads_data(heads, kv_heads):
    """X [16, 32], the weights of q, k and v side by side [32, (heads + 2·kv_heads)·8], and that of o [heads·8, 32].

    >>> [list(tensor.shape) for tensor in heads_data(4, 2)]
    [[16, 32], [32, 64], [32, 32]]
    """
    random = torch.Generator().manual_seed(42)
    shapes = [(T, WIDTH), (WIDTH, (heads + 2 * kv_heads) * SIZE), (heads * SIZE, WIDTH)]
    X, W, O = (torch.randn(shape, generator=random) for shape in shapes)
    return X, W * (2 / WIDTH) ** 0.5, O


def names_in(layout, heads, kv_heads, q=0, kv=0):
    """The heads in the order in which a fused weight has their columns; q and kv are the numbers of the first ones.

    >>> names_in("interleaved", 4, 2)
    ['q0', 'q1', 'k0', 'v0', 'q2', 'q3', 'k1', 'v1']
    """
    kinds = [("q", q, heads), ("k", kv, kv_heads), ("v", kv, kv_heads)]
    names = [f"{kind}{first + head}" for kind, first, many in kinds for head in range(many)]
    return [names[place] for place in torch.cat(fused.qkv(heads, kv_heads, 1, layout)).argsort()]


def own_heads(heads, kv_heads, shards):
    """For each shard the names of its own heads: its share of q, then the k and the v with which these attend."""
    for own in torch.arange(heads).tensor_split(shards):
        kv = (own * kv_heads // heads).unique().tolist()
        yield [f"{kind}{head}" for kind, some in (("q", own.tolist()), ("k", kv), ("v", kv)) for head in some]


def taken_apart(piece, rank, n, heads, kv_heads, layout):
    """The names for which shard `rank` takes a piece of the fused weight's columns, as the dense code does with 1/n of
    the heads: torch stops it where its views do not fit."""
    q, kv = heads // n, kv_heads // n
    if layout == "by kind":
        for part in piece.split([heads * SIZE // n, kv_heads * SIZE // n, kv_heads * SIZE // n], dim=1):
            part.view(T, -1, SIZE)
    else:
        piece.view(T, kv, heads // kv_heads + 2, SIZE)
    return names_in(layout, q, kv, rank * q, rank * kv)


def attended(piece, names, group):
    """The q heads in a piece [T, …] whose heads are these, each attended with its kv head, side by side."""
    part = dict(zip(names, piece.view(T, len(names), SIZE).unbind(1), strict=True))
    y = [piece[:, :0]]
    for head in (int(name[1:]) for name in names if name[0] == "q"):
        q, k, v = part[f"q{head}"], part[f"k{head // group}"], part[f"v{head // group}"]
        y.append(scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0])
    return torch.cat(y, dim=1)


def heads_result(heads=8, kv_heads=2, shards=2, layout="by kind", cut="by head"):
    """Causal attention with a fused q, k, v weight in this `layout`, over a real mesh and unsplit.

    `cut` "by head" gives each shard the columns of its own heads; "as it lies" cuts the fused weight by columns like
    any other, and each shard takes its piece for 1/n of the heads in the same layout.
    """
    mesh, (X, W, O), group = Mesh(shards), heads_data(heads, kv_heads), heads // kv_heads
    names = names_in(layout, heads, kv_heads)
    W = W[:, torch.cat(fused.qkv(heads, kv_heads, SIZE, layout)).argsort()]  # as a checkpoint has it
    place = {name: torch.arange(SIZE) + SIZE * at for at, name in enumerate(names)}
    taken = list(own_heads(heads, kv_heads, shards))
    columns = [torch.cat([*map(place.get, own), torch.arange(0)]) for own in taken]
    columns = columns if cut == "by head" else torch.arange(W.shape[1]).tensor_split(shards)
    W_ = Shards([W[:, own].to(device) for own, device in zip(columns, mesh.devices, strict=True)], mesh)
    pieces = (mesh.replicate(X) @ W_).shards
    try:
        if cut == "as it lies":
            taken = [taken_apart(each, r, shards, heads, kv_heads, layout) for r, each in enumerate(pieces)]
    except RuntimeError as stopped:
        return Heads(None, str(stopped), names, columns, [None] * shards)
    y_ = Shards([attended(each, own, group) for each, own in zip(pieces, taken, strict=True)], mesh)
    O_ = mesh.shard(O.unflatten(0, (heads, SIZE)), dim=0).flatten(0, 1)
    y, want = mesh.all_reduce(y_ @ O_).shards[0].cpu(), attended(X @ W, names, group) @ O
    return Heads(((y - want).norm() / want.norm()).item(), "", names, columns, taken)


def pieces_of(columns, names):
    """Columns as runs that lie in one head: (its name, where the run begins and ends, as parts of a head)."""
    found = []
    for column in columns.tolist():
        name, at = names[column // SIZE], column % SIZE / SIZE
        if found and found[-1][0] == name and found[-1][2] == at:
            found[-1] = (name, found[-1][1], at + 1 / SIZE)
        else:
            found.append((name, at, at + 1 / SIZE))
    return found


def draw_heads(heads, kv_heads, shards, layout, cut):
    """The picture of a state of this lab, as HTML."""
    ran = heads_result(heads, kv_heads, shards, layout, cut)
    owners = {name: [] for name in ran.names}
    for rank, own in enumerate(own_heads(heads, kv_heads, shards)):
        for name in own:
            owners[name].append(rank)
    held = ran.held
    told = (
        f"{heads} q heads and {kv_heads} kv heads over {shards} shards; the fused weight holds {' '.join(ran.names)}."
    )
    told += "".join(f" Shard {r} gets {spoken(*each)}." for r, each in enumerate(zip(held, ran.taken, strict=True)))
    return verdict(ran) + draw(heads, kv_heads, ran.names, owners, held, ran.taken, told)


def spoken(pieces, taken):
    """What a shard gets, in words, and what it takes it for, where that is something else."""
    got = [name + (end - start < 1) * " in part" for name, start, end in pieces]
    return (", ".join(got) or "nothing") + (f", taken for {', '.join(taken)}" if taken and taken != got else "")


def verdict(ran):
    if ran.error is None:
        return said(
            False, "It stops:", f"{ran.stopped}. A shard does not get whole heads ({SIZE} columns) of each kind."
        )
    if ran.error < 1e-5:
        return said(True, "Match.", f"y is that of the unsplit layer, every error below {below(ran.error, 2e-7)}.")
    pairs = [
        (r, got, name) for r, own in enumerate(ran.held) for (got, *_), name in zip(own, ran.taken[r], strict=True)
    ]
    wrong = [pair for pair in pairs if pair[1] != pair[2]]
    more = "{} of {} heads are taken for another: shard {} takes {} for {}.".format(len(wrong), len(pairs), *wrong[0])
    return said(False, f"{100 * ran.error:.0f} % wrong, and no exception.", more)


def heads_picture(heads=8, kv_heads=2, shards=2, layout="by kind", cut="by head"):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_heads(heads, kv_heads, shards, layout, cut))


def heads(heads=8, kv_heads=2, shards=2, layout="by kind", cut="by head"):
    """The lab of lesson 07: how many heads there are, how a fused weight holds them, and how it is cut."""
    controls = {
        "heads": steps("heads", heads, [4, 8], "how many q heads there are"),
        "kv_heads": steps("kv heads", kv_heads, [1, 2, 4], "how many kv heads the q heads share"),
        "shards": slider("shards", shards, 1, 8, "how many shards the heads are dealt over"),
        "layout": menu("layout", layout, LAYOUTS, "the order of the columns in the fused weight"),
        "cut": switch("cut", cut, CUTS, "each shard its own heads, or the fused weight cut like any other"),
    }
    return Lab(controls, draw_heads)
