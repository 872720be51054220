"""Attention in the exercises: an answer is four steps, `project`, `attend` and `join` after `inputs`, and a mistake is
another one of these.
"""

from functools import partial
from itertools import product

import torch

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Mistake


def in_heads(x, heads):
    """[T, heads·d] as [heads, T, d]."""
    return x.unflatten(1, (heads, -1)).transpose(0, 1)


def side_by_side(y):
    """[heads, T, d] as [T, heads·d]."""
    return y.transpose(0, 1).flatten(1)


def scores(q, k, scale=None):
    return q @ k.transpose(-2, -1) * (scale or q.shape[-1] ** -0.5)


def causal(s):
    """Nothing of what comes later."""
    return s + torch.full_like(s, -torch.inf).triu(1)


def over_keys(s):
    return s.softmax(-1)


def attend(q, k, v, scale=None, mask=causal, weigh=over_keys):
    """softmax(q kᵀ / √d) v of each head [T, d], the heads side by side: [T, heads·d]."""
    return side_by_side(weigh(mask(scores(q, k, scale))) @ v)


def one_copy(mesh, X):
    return [mesh.copy(X)] * 3


def reduced(mesh, y_, Wo):
    return mesh.all_reduce(y_ @ Wo)


def answered(project, attend=attend, join=reduced, inputs=one_copy):
    """The answer that makes q, k and v of inputs(mesh, X), three values, by `project`, attends, and joins by Wo."""

    def answer(mesh, X, Wq, Wk, Wv, Wo, *numbers):
        return join(mesh, attend(*project(mesh, inputs(mesh, X), Wq, Wk, Wv, *numbers)), Wo)

    return answer


def as_one_head(q, k, v):
    return attend(*(side_by_side(x)[None] for x in (q, k, v)))


def mixed(*parts):
    """[heads, T, d], cut from the memory of [T, heads·d] without a transpose."""
    return [side_by_side(x).reshape(x.shape) for x in parts]


def mixed_out(q, k, v):
    """The other way round: [heads, T, d] taken for [T, heads·d]."""
    y = attend(q, k, v)
    return y.unflatten(1, (q.shape[0], -1)).transpose(0, 1).reshape(y.shape)


def copied(*which):
    """An `inputs`: which of q, k and v get X through a mesh.copy of their own."""
    return lambda mesh, X: [mesh.copy(X) if copy else X for copy in which]


def scaled(project, scale):
    """The answer whose scores are multiplied by scale(mesh, q, X)."""

    def answer(mesh, X, Wq, Wk, Wv, Wo, *numbers):
        q, k, v = project(mesh, one_copy(mesh, X), Wq, Wk, Wv, *numbers)
        return reduced(mesh, attend(q, k, v, scale(mesh, q, X)), Wo)

    return answer


def summed(project, *which):
    """A `project` after which some of q, k and v are added up over the shards."""

    def projected(mesh, *rest):
        return [mesh.all_reduce(x) if i in which else x for i, x in enumerate(project(mesh, *rest))]

    return projected


def of_heads(project):
    """What may go wrong in any attention whose q, k and v `project` makes right."""

    def ways(*others):
        return [answered(project, other) for other in others]

    return [
        Mistake(
            "all heads as one",
            "A shard takes all its columns for one head. Each head has a softmax of its own, over its own products: "
            "take q, k and v apart in heads first.",
            *ways(as_one_head),
        ),
        Mistake(
            "tokens and heads mixed",
            "[T, heads·d] was viewed as [heads, T, d] (or back) without a transpose, so that a head gets pieces of "
            "several tokens: view it as [T, heads, d], then transpose.",
            *ways(lambda *qkv: attend(*mixed(*qkv)), mixed_out, lambda *qkv: mixed_out(*mixed(*qkv))),
        ),
        Mistake(
            "not causal",
            "Every token attends to those after it, too: no mask keeps it from them.",
            *ways(partial(attend, mask=lambda s: s)),
        ),
        Mistake(
            "another mask",
            "There is a mask, and not the causal one: token t attends to the tokens 0 to t, itself among them, and the "
            "others get -inf before the softmax.",
            *ways(
                partial(attend, mask=lambda s: s.tril()),
                partial(attend, mask=lambda s: s + torch.full_like(s, -torch.inf).tril(-1)),
                partial(attend, mask=lambda s: s, weigh=lambda s: s.softmax(-1).tril()),
                partial(attend, mask=lambda s: s + torch.full_like(s, -torch.inf).triu(2)),
                partial(attend, mask=lambda s: s + torch.full_like(s, -torch.inf).triu(0)),
            ),
        ),
        Mistake(
            "no scale",
            "The scores are to be divided by √d, d being the columns of a head, before the softmax.",
            *ways(partial(attend, scale=1.0)),
        ),
        Mistake(
            "another scale",
            "The scores are divided by something else than √d, d being the columns of one whole head: not those of a "
            "shard, nor of all heads.",
            scaled(project, lambda mesh, q, X: (q.shape[0] * q.shape[-1]) ** -0.5),
            scaled(project, lambda mesh, q, X: (q.shape[0] * q.shape[-1] * mesh.size) ** -0.5),
            scaled(project, lambda mesh, q, X: X.shape[1] ** -0.5),
            scaled(project, lambda mesh, q, X: q.shape[0] ** -0.5),
            scaled(project, lambda mesh, q, X: 1 / q.shape[-1]),
            scaled(project, lambda mesh, q, X: q.shape[-1] ** 0.5),
        ),
        Mistake(
            "no softmax",
            "The scores weigh v as they are: the softmax over the keys is missing.",
            *ways(
                partial(attend, mask=lambda s: s, weigh=lambda s: s),
                partial(attend, mask=lambda s: s, weigh=lambda s: s.tril()),
            ),
        ),
        Mistake(
            "softmax along the wrong dim",
            "The weights of one query are to add up to 1, over the keys it sees: softmax of [heads, T, T] along its "
            "last dim, for each head alone.",
            *ways(
                partial(attend, weigh=lambda s: s.exp() / s.exp().sum(-2, keepdim=True)),
                partial(attend, weigh=lambda s: s.exp() / s.exp().sum(0, keepdim=True)),
                partial(attend, weigh=lambda s: s.exp() / s.exp().sum((0, 2), keepdim=True)),
            ),
        ),
        Mistake(
            "q, k and v exchanged",
            "q asks, k is asked, v is what comes back: softmax(q kᵀ / √d) v. Here two of them have changed places.",
            *ways(lambda q, k, v: attend(k, q, v), lambda q, k, v: attend(q, v, k), lambda q, k, v: attend(v, k, q)),
        ),
        Mistake(
            "an all-reduce between",
            "Each shard has its own heads, finished. They are no partial sums, and adding those of different shards "
            "mixes heads that have nothing to do with each other.",
            answered(project, join=lambda mesh, y_, Wo: mesh.all_reduce(mesh.all_reduce(y_) @ Wo)),
            answered(project, join=lambda mesh, y_, Wo: mesh.all_reduce(y_) @ Wo),
            *[answered(summed(project, *which)) for which in ((0,), (1,), (2,), (1, 2), (0, 1), (0, 1, 2))],
        ),
        Mistake(
            "a gather between",
            "The heads are gathered, only to be cut again: one reduction will do for the whole layer, since what the "
            "heads leave on a shard is what its rows of Wo want.",
            answered(project, join=lambda mesh, y_, Wo: reduced(mesh, mesh.scatter(mesh.all_gather(y_, 1), 1), Wo)),
            answered(project, join=lambda mesh, y_, Wo: mesh.all_gather(y_, 1) @ mesh.all_gather(Wo, 0)),
        ),
        Mistake(
            "Wo left out",
            "The heads are side by side, and the last product is missing: they meet in Wo.",
            answered(project, join=lambda mesh, y_, Wo: mesh.all_gather(y_, dim=1)),
            answered(project, join=lambda mesh, y_, Wo: mesh.all_reduce(y_)),
            answered(project, join=lambda mesh, y_, Wo: y_),
        ),
        *mistakes.of_a_sum((answered(project, join=lambda mesh, y_, Wo: y_ @ Wo), lambda p_, *_: p_)),
        mistakes.missing_backward(
            *[answered(project, inputs=copied(*which)) for which in product((False, True), repeat=3) if not all(which)]
        ),
        Mistake(
            "several copies of X",
            "Every gradient is right, but X goes through mesh.copy more than once, for q and again for k and v, so "
            "backward reduces as often: let the products share one.",
            answered(project, inputs=copied(True, True, True)),
            answered(project, inputs=lambda mesh, X: [mesh.copy(X), *[mesh.copy(X)] * 2]),
        ),
        mistakes.reduced_again(
            answered(project, join=lambda mesh, y_, Wo: mesh.copy(reduced(mesh, y_, Wo))),
            answered(project, inputs=lambda mesh, X: one_copy(mesh, mesh.copy(X))),
        ),
        mistakes.copy_of_a_cut_tensor(
            answered(project, join=lambda mesh, y_, Wo: reduced(mesh, mesh.copy(y_), Wo)),
            answered(project, join=lambda mesh, y_, Wo: reduced(mesh, y_, mesh.copy(Wo))),
            answered(lambda mesh, *rest: [mesh.copy(x) for x in project(mesh, *rest)]),
        ),
    ]
