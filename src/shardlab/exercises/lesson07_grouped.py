"""Lesson 07, second part: grouped-query attention, where shards may share a kv head."""

from functools import partial

import torch

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.heads import answered, attend, in_heads, of_heads
from shardlab.exercises.split import Split


def whole(mesh, W):
    """All of W on every shard, its gradient summed over them."""
    return mesh.copy(mesh.replicate(W))


def not_summed(mesh, W):
    return mesh.replicate(W)


def summed_twice(mesh, W):
    return mesh.copy(mesh.copy(mesh.replicate(W)))


def by_columns(mesh, W):
    return mesh.shard(W, dim=1)


def by_group(mesh, heads, kv_heads):
    """Of each q head of a shard the kv head: q head i attends with kv head i // (heads / kv_heads)."""
    return mesh.shard(torch.arange(heads), dim=0) // (heads // kv_heads)


def in_turn(mesh, heads, kv_heads):
    return mesh.shard(torch.arange(heads), dim=0) % kv_heads


def by_rank(mesh, heads, kv_heads):
    return 0 * by_group(mesh, heads, kv_heads) + mesh.rank % kv_heads


def first(mesh, heads, kv_heads):
    return 0 * by_group(mesh, heads, kv_heads)


def first_here(mesh, heads, kv_heads):
    return first(mesh, heads, kv_heads) + mesh.rank * (kv_heads // mesh.size)


def shared(mesh, x, W, heads, kv_heads, place=whole, take=by_group):
    """k or v for each q head of a shard [heads/n, T, d], made of all kv heads."""
    return in_heads(x @ place(mesh, W), kv_heads).index_select(0, take(mesh, heads, kv_heads))


def cut(mesh, x, W, heads, kv_heads, place=by_columns, take=by_group):
    """The same, made of the shard's own kv heads."""
    n = mesh.size
    kv_ = in_heads(x @ place(mesh, W), kv_heads // n)
    return kv_.index_select(0, take(mesh, heads, kv_heads) - mesh.rank * (kv_heads // n))


def each_case(cut=cut, shared=shared):
    """Cut where n divides kv_heads, and shared where not."""
    return lambda mesh, x, W, heads, kv: (shared if kv % mesh.size else cut)(mesh, x, W, heads, kv)


right = each_case()


def projecting(k=right, v=None):
    """A `project` (see `answered`) whose k and v are made so."""

    def project(mesh, xs, Wq, Wk, Wv, heads, kv_heads):
        q_ = in_heads(xs[0] @ Wq, heads // mesh.size)
        return q_, k(mesh, xs[1], Wk, heads, kv_heads), (v or k)(mesh, xs[2], Wv, heads, kv_heads)

    return project


def of_k_and_v(wrong):
    """The answers whose k and v, or one of them, are made wrong."""
    return [answered(projecting(*pair)) for pair in ((wrong, wrong), (wrong, right), (right, wrong))]


def tiled(mesh, x, W, heads, kv_heads):
    return in_heads(x @ mesh.shard(W, dim=1), kv_heads // mesh.size).repeat(heads // kv_heads, 1, 1)


def inside(mesh, xs, Wq, Wk, Wv, heads, kv_heads):
    """Every shard a part of every head."""
    k, v = (in_heads(x @ mesh.shard(W, dim=1), kv_heads) for x, W in zip(xs[1:], (Wk, Wv), strict=True))
    return in_heads(xs[0] @ Wq, heads), *(part.repeat_interleave(heads // kv_heads, 0) for part in (k, v))


def at_least_one(mesh, x, W, heads, kv_heads):
    kv_ = in_heads(x @ mesh.shard(W, dim=1), max(1, kv_heads // mesh.size))
    return kv_.repeat_interleave(max(1, heads // mesh.size // kv_.shape[0]), 0)


def baseline(mesh, X, Wq, Wk, Wv, Wo, heads, kv_heads):
    q, k, v = (in_heads(X @ W, h) for W, h in (
        (mesh.all_gather(Wq, 1), heads), (mesh.replicate(Wk), kv_heads), (mesh.replicate(Wv), kv_heads)
    ))  # fmt: skip
    k, v = (part.repeat_interleave(heads // kv_heads, 0) for part in (k, v))
    return attend(q, k, v) @ mesh.all_gather(Wo, 0)


def sizes(n, integer):
    """More kv heads than shards, or fewer (of even n both); n divides d, so that a head that is cut inside is no error;
    T is less than D, so that to sum the gradients of Wk takes no fewer bytes than to sum those of k."""
    more, fewer = (4 * n, 2 * n) if n < 3 else (2 * n, n), (2 * n, 2 if n == 4 else 1)
    for heads, kv_heads in [more, fewer] if n % 2 == 0 else [more] if n == 1 else [fewer]:
        d, size = max(n, 2), {"T": integer(3, 5), "D": 7, "heads": heads, "kv_heads": kv_heads}
        yield size | {"heads·d": heads * d, "kv_heads·d": kv_heads * d}


def dense(n, X, Wq, Wk, Wv, Wo, heads, kv_heads):
    k, v = (in_heads(X @ W, kv_heads).repeat_interleave(heads // kv_heads, 0) for W in (Wk, Wv))
    return attend(in_heads(X @ Wq, heads), k, v) @ Wo


grouped_query = Split(
    "grouped_query",
    "The attention of before, where heads / kv_heads q heads in a row attend with one kv head. Place Wk and Wv: each "
    "shard its own kv heads where n divides kv_heads; where there are fewer of them than shards, all on every shard.",
    given={
        "X": ("T D", "replicated"),
        "Wq": ("D heads·d", "by columns"),
        "Wk": ("D kv_heads·d", "plain"),
        "Wv": ("D kv_heads·d", "plain"),
        "Wo": ("heads·d D", "by rows"),
        "heads": ("heads", "a number"),
        "kv_heads": ("kv_heads", "a number"),
    },
    wanted="y: [T, D], the same on every shard; every gradient whole, also that of a kv head that shards share",
    sizes=sizes,
    dense=dense,
    right=answered(projecting()),
    mistakes=[
        Mistake(
            "the wrong kv head",
            "q heads attend with a kv head that is not theirs. Those of one kv head lie side by side: q head i attends "
            "with kv head i // (heads / kv_heads), so k and v are repeated by repeat_interleave, and shard r's first q "
            "head is number r · heads / n.",
            *of_k_and_v(each_case(cut=tiled, shared=partial(shared, take=in_turn))),
            answered(projecting(each_case(cut=tiled))),
            answered(projecting(each_case(shared=partial(shared, take=in_turn)))),
            answered(projecting(each_case(shared=partial(shared, take=by_rank)))),
        ),
        Mistake(
            "one kv head for all",
            "All q heads of a shard attend with one kv head, and the others that are theirs are left out.",
            answered(projecting(each_case(cut=partial(cut, take=first_here), shared=partial(shared, take=first)))),
            answered(projecting(each_case(shared=partial(shared, take=first)))),
            answered(projecting(each_case(cut=partial(cut, take=first_here)))),
        ),
        Mistake(
            "heads cut inside",
            "Wk and Wv are cut by columns even where there are fewer kv heads than shards, so that a shard has a part "
            "of one. A softmax over a part of a head's products is no part of its softmax.",
            answered(inside),
            answered(projecting(at_least_one)),
        ),
        Mistake(
            "a shared kv head's gradient not summed",
            "Several shards attend with one kv head, and each has a part of its gradient, from its own q heads. Nobody "
            "adds the parts: what is replicated enters a split region through mesh.copy.",
            *of_k_and_v(each_case(shared=partial(shared, place=not_summed))),
        ),
        Mistake(
            "a shared kv head's gradient summed twice",
            "The parts of a shared kv head's gradient are added up, and then equal sums once more, so that it comes "
            "out n times too large.",
            *of_k_and_v(each_case(shared=partial(shared, place=summed_twice))),
            answered(projecting(each_case(shared=lambda mesh, *rest: mesh.copy(shared(mesh, *rest))))),
        ),
        Mistake(
            "gradients of different kv heads summed",
            "Where n divides kv_heads, each kv head is on one shard alone and its gradient is whole there. mesh.copy "
            "adds it to those of other kv heads.",
            *of_k_and_v(each_case(cut=partial(cut, place=lambda mesh, W: mesh.copy(mesh.shard(W, dim=1))))),
        ),
        Mistake(
            "kv heads whole where they can be cut",
            "Where n divides kv_heads, every shard holds all of Wk and Wv, makes all kv heads, and throws most of them "
            "away: cut them there, as Wq is cut.",
            *of_k_and_v(shared),
        ),
        mistakes.baseline(baseline),
        *of_heads(projecting()),
    ],
)
