"""Lesson 07, third part: q, k and v in one weight, cut so that every shard has the columns of its own heads."""

from itertools import permutations

import torch

from shardlab.exercises.exercise import Mistake
from shardlab.exercises.split import Split


def kinds(W, heads, kv_heads):
    """The columns of q, of k and of v, by head: [in, heads, d], [in, kv_heads, d] twice."""
    columns = W.unflatten(1, (heads + 2 * kv_heads, -1))
    return columns.split([heads, kv_heads, kv_heads], dim=1)


def together(n, parts):
    """What a cut by columns makes n pieces of, that have their share of each part: [in, n · columns of a shard]."""
    shares = zip(*(part.tensor_split(n, dim=1) for part in parts), strict=True)
    return torch.cat([piece.flatten(1) for share in shares for piece in share], dim=1)


def dense(n, W, heads, kv_heads):
    return together(n, kinds(W, heads, kv_heads))


def placed(make):
    """The answer that cuts make(n, W, heads, kv_heads) by columns."""
    return lambda mesh, W, heads, kv_heads: mesh.shard(make(mesh.size, W, heads, kv_heads), dim=1)


def in_order(*order):
    """Each shard's own kinds in another order."""
    return placed(lambda n, W, *heads: together(n, [kinds(W, *heads)[kind] for kind in order]))


def by_group(n, W, heads, kv_heads):
    """Each shard's own heads, but a kv head after the other: its q, then k, then v."""
    q, k, v = kinds(W, heads, kv_heads)
    groups = torch.cat([q.unflatten(1, (kv_heads, -1)), k[:, :, None], v[:, :, None]], dim=2)
    return groups.flatten(1)


def from_groups(n, W, heads, kv_heads):
    """As if W lay so."""
    groups = W.unflatten(1, (kv_heads, heads // kv_heads + 2, -1))
    return together(n, [groups[:, :, :-2].flatten(1, 2), groups[:, :, -2], groups[:, :, -1]])


def thirds(n, W, heads, kv_heads):
    return together(n, W.chunk(3, dim=1))


def in_turn(n, W, heads, kv_heads):
    return together(n, [torch.cat([part[:, r::n] for r in range(n)], dim=1) for part in kinds(W, heads, kv_heads)])


def inside(n, W, heads, kv_heads):
    return together(n, [part.transpose(1, 2) for part in kinds(W, heads, kv_heads)])


def sizes(n, integer):
    """More heads on a shard than one; d divides by n, so that a head that is cut inside is no error."""
    d = 2 * max(n, 2)
    for kv_heads, group in ((2 * n, 2), (n, integer(2, 3))):
        heads = kv_heads * group
        yield {"in": 3, "heads": heads, "kv_heads": kv_heads, "(heads+2·kv_heads)·d": (heads + 2 * kv_heads) * d}


split_qkv = Split(
    "split_qkv",
    "W holds q, k and v, fused by kind: the columns of all q heads, then of all k heads, then of all v heads. Give "
    "each shard the columns of its own heads, its q, then its k, then its v. n divides heads and kv_heads.",
    given={
        "W": ("in (heads+2·kv_heads)·d", "plain"),
        "heads": ("heads", "a number"),
        "kv_heads": ("kv_heads", "a number"),
    },
    wanted="a Shards, [in, (heads+2·kv_heads)·d/n] on each shard: heads/n heads of q, then kv_heads/n of k and of v",
    sizes=sizes,
    dense=dense,
    right=placed(dense),
    results={"W_": "by columns"},
    mistakes=[
        Mistake(
            "cut as it lies",
            "W is cut as any other weight, so the first shards have columns of q alone and the last ones of k or v. "
            "The shape is right, and no code will complain. Cut q, k and v each alone, then put a shard's three "
            "pieces side by side.",
            lambda mesh, W, heads, kv_heads: mesh.shard(W, dim=1),
        ),
        Mistake(
            "own columns in another order",
            "Every shard has the columns of its own heads, and not in the order that the layer will take them apart: "
            "all its q, then all its k, then all its v.",
            *[in_order(*order) for order in permutations(range(3)) if order != (0, 1, 2)],
            placed(by_group),
        ),
        Mistake(
            "taken as interleaved",
            "This W is fused by kind, and it was taken apart as if each kv head's q, k and v lay together, which is "
            "Megatron-LM's way.",
            placed(from_groups),
        ),
        Mistake(
            "three equal parts",
            "q, k and v are not of one size: there are heads heads of q, and kv_heads of k and of v.",
            placed(thirds),
            lambda mesh, W, *heads: torch.cat([mesh.shard(third, dim=1) for third in W.chunk(3, dim=1)], dim=1),
        ),
        Mistake(
            "heads dealt in turn",
            "Shard 0 got the heads 0, n, 2n, … A shard's heads lie side by side: q heads in a row share a kv head, and "
            "the rows of Wo are cut so.",
            placed(in_turn),
        ),
        Mistake(
            "heads cut inside",
            "Every shard has some columns of every head. A head's softmax wants all of them: cut between heads.",
            placed(inside),
        ),
        Mistake(
            "kv heads on every shard",
            "q is cut, and every shard has k and v of all kv heads. n divides kv_heads, so cut them, too.",
            lambda mesh, W, *heads: torch.cat(
                [mesh.shard(kinds(W, *heads)[0].flatten(1), dim=1)]
                + [mesh.replicate(part.flatten(1)) for part in kinds(W, *heads)[1:]],
                dim=1,
            ),
        ),
        Mistake(
            "a kind left out",
            "A shard is to have its share of q, of k and of v, and something of the three is missing.",
            *[in_order(*order) for order in ((0,), (1, 2), (0, 1), (0, 2))],
        ),
        Mistake(
            "cut by rows",
            "W's columns are the heads, and it was cut along its rows: along dim 1, not 0.",
            lambda mesh, W, heads, kv_heads: mesh.shard(W, dim=0),
            lambda mesh, W, *heads: mesh.shard(dense(mesh.size, W, *heads), dim=0),
        ),
        Mistake(
            "not cut",
            "Every shard has all of W: nothing is split.",
            lambda mesh, W, heads, kv_heads: mesh.replicate(W),
            lambda mesh, W, *heads: mesh.replicate(dense(mesh.size, W, *heads)),
        ),
    ],
)
