"""Answers to the exercises of lesson 07 in the style of learners: right ones, and wrong ones by their mistake."""

import math

import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from shardlab import Shards

GRAD = "with gradients"  # the mistake shows in the gradients alone


def sdpa(q, k, v, **options):
    """[T, heads, d] each; the heads side by side."""
    options = {"is_causal": True} | options
    return scaled_dot_product_attention(*(x.transpose(0, 1) for x in (q, k, v)), **options).transpose(0, 1).flatten(1)


def three(mesh, x, Wq, Wk, Wv, heads):
    h = heads // mesh.size
    return [(x @ W).view(x.shape[0], h, W.shape[1] // h) for W in (Wq, Wk, Wv)]


def with_sdpa(mesh, X, Wq, Wk, Wv, Wo, heads):
    return mesh.all_reduce(sdpa(*three(mesh, mesh.copy(X), Wq, Wk, Wv, heads)) @ Wo)


def head_by_head(mesh, X, Wq, Wk, Wv, Wo, heads):
    x, d = mesh.copy(X), Wq.shape[1] // (heads // mesh.size)
    total = 0
    for at in range(0, Wq.shape[1], d):
        own = slice(at, at + d)
        s = (x @ Wq[:, own]) @ (x @ Wk[:, own]).T / math.sqrt(d)
        s = s.masked_fill(torch.ones_like(s).triu(1).bool(), float("-inf"))
        total = total + s.softmax(1) @ (x @ Wv[:, own]) @ Wo[own]
    return mesh.all_reduce(total)


def with_einsum(mesh, X, Wq, Wk, Wv, Wo, heads):
    q, k, v = three(mesh, mesh.copy(X), Wq, Wk, Wv, heads)
    s = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    a = (s - 1e30 * torch.ones_like(s).triu(1)).softmax(-1)
    y = torch.einsum("hqk,khd,hde->qe", a, v, Wo.unflatten(0, (heads // mesh.size, -1)))
    return mesh.all_reduce(y)


def in_two_steps(mesh, *args):
    X, Wq, Wk, Wv, Wo, heads = args
    p = sdpa(*three(mesh, mesh.copy(X), Wq, Wk, Wv, heads)) @ Wo
    return mesh.all_gather(mesh.reduce_scatter(p, dim=1), dim=1)


def one_product(mesh, X, Wq, Wk, Wv, Wo, heads):
    q, k, v = (mesh.copy(X) @ torch.cat([Wq, Wk, Wv], 1)).chunk(3, dim=1)
    q, k, v = (x.unflatten(1, (heads // mesh.size, -1)) for x in (q, k, v))
    return mesh.all_reduce(linear(sdpa(q, k, v), Wo.T))


def shard_by_shard(mesh, X, Wq, Wk, Wv, Wo, heads):
    parts, h = [], heads // mesh.size
    for x, wq, wk, wv, wo in zip(*(W.shards for W in (mesh.copy(X), Wq, Wk, Wv, Wo)), strict=True):
        parts.append(sdpa(*((x @ w).unflatten(1, (h, -1)) for w in (wq, wk, wv))) @ wo)
    return mesh.all_reduce(Shards(parts, mesh), donate=True)


# grouped


def query(mesh, x, Wq, heads):
    return (x @ Wq).unflatten(1, (heads // mesh.size, -1))


def layer_like(mesh, X, Wq, Wk, Wv, Wo, heads, kv_heads):
    x, kv_of = mesh.copy(X), mesh.shard(torch.arange(heads), dim=0) // (heads // kv_heads)
    if kv_heads % mesh.size == 0:
        k, v = (x @ mesh.shard(W, dim=1) for W in (Wk, Wv))
        kv_of = kv_of - mesh.rank * (kv_heads // mesh.size)
        kv = kv_heads // mesh.size
    else:
        k, v = (x @ mesh.copy(mesh.replicate(W)) for W in (Wk, Wv))
        kv = kv_heads
    k, v = (part.unflatten(1, (kv, -1)).index_select(1, kv_of) for part in (k, v))
    return mesh.all_reduce(sdpa(query(mesh, x, Wq, heads), k, v) @ Wo)


def own_columns_first(mesh, X, Wq, Wk, Wv, Wo, heads, kv_heads):
    """Of a shared weight only the columns that a shard wants are multiplied."""
    x, n, h = mesh.copy(X), mesh.size, heads // mesh.size
    if kv_heads % n == 0:
        return layer_like(mesh, X, Wq, Wk, Wv, Wo, heads, kv_heads)
    d = Wk.shape[1] // kv_heads
    first = mesh.rank * h // (heads // kv_heads)
    place = first * d + mesh.replicate(torch.arange(d))
    k, v = (x @ mesh.copy(mesh.replicate(W)).index_select(1, place) for W in (Wk, Wv))
    k, v = (part[:, None].expand(-1, h, -1) for part in (k, v))
    return mesh.all_reduce(sdpa(query(mesh, x, Wq, heads), k, v) @ Wo)


def by_head_leaves(mesh, X, Wq, Wk, Wv, Wo, heads, kv_heads):
    """The weights with a dim for the heads, when they are placed."""
    x, n = mesh.copy(X), mesh.size
    Wk, Wv = (W.detach().requires_grad_(W.requires_grad) for W in (Wk, Wv))
    leaf_k, leaf_v = (W.view(len(W), kv_heads, -1) for W in (Wk, Wv))
    if kv_heads % n == 0:
        k, v = (torch.einsum("td,dhe->the", x, mesh.shard(W, dim=1)) for W in (leaf_k, leaf_v))
        k, v = (part.repeat_interleave(heads // kv_heads, dim=1) for part in (k, v))
    else:
        take = mesh.shard(torch.arange(heads), dim=0) * kv_heads // heads
        k, v = (torch.einsum("td,dhe->the", x, mesh.copy(mesh.replicate(W)))[:, take] for W in (leaf_k, leaf_v))
    return mesh.all_reduce(sdpa(query(mesh, x, Wq, heads), k, v) @ Wo)


def loops(mesh, X, Wq, Wk, Wv, Wo, heads, kv_heads):
    h, group, d = heads // mesh.size, heads // kv_heads, Wk.shape[1] // kv_heads
    x, cut = mesh.copy(X), kv_heads % mesh.size == 0
    Wk, Wv = (mesh.shard(W, 1) if cut else mesh.copy(mesh.replicate(W)) for W in (Wk, Wv))
    outs = []
    for i in range(h):
        number = i // group if cut else (mesh.rank * h + i) // group
        columns = number * d + mesh.replicate(torch.arange(d))
        k, v = (x @ W.index_select(1, columns) for W in (Wk, Wv))
        outs.append(sdpa((x @ Wq[:, i * d : (i + 1) * d])[:, None], k[:, None], v[:, None]))
    return mesh.all_reduce(torch.cat(outs, dim=1) @ Wo)


# fused


def kinds(W, heads, kv_heads):
    d = W.shape[1] // (heads + 2 * kv_heads)
    return W.split([heads * d, kv_heads * d, kv_heads * d], dim=1)


def joined_on_the_shards(mesh, W, heads, kv_heads):
    return torch.cat([mesh.shard(part, dim=1) for part in kinds(W, heads, kv_heads)], dim=1)


def in_an_order(mesh, W, heads, kv_heads):
    order = [torch.arange(W.shape[1])[None]]
    q, k, v = (part[0] for part in kinds(order[0], heads, kv_heads))
    rows = [torch.cat([part.chunk(mesh.size)[r] for part in (q, k, v)]) for r in range(mesh.size)]
    return mesh.shard(W[:, torch.cat(rows)], dim=1)


def with_narrow(mesh, W, heads, kv_heads):
    d = W.shape[1] // (heads + 2 * kv_heads)
    h, kv, pieces = heads // mesh.size * d, kv_heads // mesh.size * d, []
    for r in mesh.ranks:
        starts = [(r * h, h), (heads * d + r * kv, kv), ((heads + kv_heads) * d + r * kv, kv)]
        pieces.append(torch.cat([W.narrow(1, *each) for each in starts], dim=1))
    return Shards([piece.to(device) for piece, device in zip(pieces, mesh.devices, strict=True)], mesh)


RIGHT = {
    "attention": [with_sdpa, head_by_head, with_einsum, in_two_steps, one_product, shard_by_shard],
    "grouped_query": [layer_like, own_columns_first, by_head_leaves, loops],
    "split_qkv": [joined_on_the_shards, in_an_order, with_narrow],
}


def of(attended):
    """An answer that attends in another way: attended(q, k, v), of [T, heads/n, d] each."""
    return lambda mesh, X, Wq, Wk, Wv, Wo, heads: mesh.all_reduce(
        attended(*three(mesh, mesh.copy(X), Wq, Wk, Wv, heads)) @ Wo
    )


def by_hand(s_of, a_of=lambda s: s.softmax(-1), mask=True):
    def attended(q, k, v):
        s = s_of(*(x.transpose(0, 1) for x in (q, k)))
        if mask:
            s = s.masked_fill(torch.ones_like(s).tril() == 0, -torch.inf)
        return (a_of(s) @ v.transpose(0, 1)).transpose(0, 1).flatten(1)

    return of(attended)


def product(q, k):
    return q @ k.mT / q.shape[-1] ** 0.5


def joined(join, attended=sdpa):
    return lambda mesh, X, Wq, Wk, Wv, Wo, heads: join(
        mesh, attended(*three(mesh, mesh.copy(X), Wq, Wk, Wv, heads)), Wo
    )


def partial_sum(mesh, X, Wq, Wk, Wv, Wo, heads):
    return sdpa(*three(mesh, X, Wq, Wk, Wv, heads)) @ Wo


def then(move):
    return lambda mesh, *args: move(mesh, partial_sum(mesh, *args))


def with_copies(*which):
    def answer(mesh, X, Wq, Wk, Wv, Wo, heads):
        xs = [mesh.copy(X) if copy else X for copy in which]
        h = heads // mesh.size
        q, k, v = ((x @ W).unflatten(1, (h, -1)) for x, W in zip(xs, (Wq, Wk, Wv), strict=True))
        return mesh.all_reduce(sdpa(q, k, v) @ Wo)

    return answer


def all_the_heads(mesh, X, Wq, Wk, Wv, Wo, heads):
    q, k, v = ((mesh.copy(X) @ W).unflatten(1, (heads, -1)) for W in (Wq, Wk, Wv))
    return mesh.all_reduce(sdpa(q, k, v) @ Wo)


def viewed_at_once(mesh, X, Wq, Wk, Wv, Wo, heads):
    h, T = heads // mesh.size, X.shape[0]
    q, k, v = ((mesh.copy(X) @ W).reshape(h, T, -1) for W in (Wq, Wk, Wv))
    y = scaled_dot_product_attention(q, k, v, is_causal=True)
    return mesh.all_reduce(y.transpose(0, 1).flatten(1) @ Wo)


def everything_gathered(mesh, X, Wq, Wk, Wv, Wo, heads):
    q, k, v = (mesh.all_gather(X.mm(W), dim=1).unflatten(1, (heads, -1)) for W in (Wq, Wk, Wv))
    return sdpa(q, k, v) @ mesh.all_gather(Wo, dim=0)


def reduced_kv(mesh, X, Wq, Wk, Wv, Wo, heads):
    q, k, v = three(mesh, X, Wq, Wk, Wv, heads)
    return mesh.all_reduce(sdpa(q, mesh.all_reduce(k), mesh.all_reduce(v)) @ Wo)


ATTENTION = {
    "heads cut inside": [all_the_heads],
    "heads interleaved": [
        lambda mesh, X, Wq, Wk, Wv, Wo, heads: mesh.all_reduce(
            sdpa(*((X @ W).unflatten(1, (-1, heads // mesh.size)).transpose(1, 2) for W in (Wq, Wk, Wv))) @ Wo
        )
    ],
    "all heads as one": [of(lambda q, k, v: sdpa(*(x.flatten(1)[:, None] for x in (q, k, v))))],
    "tokens and heads mixed": [viewed_at_once],
    "not causal": [of(lambda q, k, v: sdpa(q, k, v, is_causal=False)), by_hand(product, mask=False)],
    "another mask": [
        by_hand(lambda q, k: product(q, k).tril(), mask=False),
        by_hand(product, lambda s: s.softmax(-1).tril(), mask=False),
    ],
    "no scale": [of(lambda q, k, v: sdpa(q, k, v, scale=1.0)), by_hand(lambda q, k: q @ k.mT)],
    "another scale": [
        of(lambda q, k, v: sdpa(q, k, v, scale=q.flatten(1).shape[1] ** -0.5)),
        by_hand(lambda q, k: q @ k.mT / q.shape[-1]),
        lambda mesh, X, *rest: of(lambda q, k, v: sdpa(q, k, v, scale=X.shape[1] ** -0.5))(mesh, X, *rest),
    ],
    "no softmax": [by_hand(product, lambda s: s.exp().log().nan_to_num(0, 0, 0))],
    "softmax along the wrong dim": [by_hand(product, lambda s: s.softmax(0)), by_hand(product, lambda s: s.softmax(1))],
    "q, k and v exchanged": [of(lambda q, k, v: sdpa(k, q, v)), of(lambda q, k, v: sdpa(q, v, k))],
    "an all-reduce between": [reduced_kv, joined(lambda mesh, y, Wo: mesh.all_reduce(mesh.all_reduce(y) @ Wo))],
    "a gather between": [
        joined(lambda mesh, y, Wo: mesh.all_reduce(mesh.scatter(mesh.all_gather(y, dim=1), dim=1) @ Wo)),
        joined(lambda mesh, y, Wo: mesh.all_gather(y, dim=1) @ mesh.all_gather(Wo, dim=0)),
    ],
    "the baseline in disguise": [everything_gathered],
    "Wo left out": [joined(lambda mesh, y, Wo: mesh.all_gather(y, dim=-1))],
    "no reduce": [partial_sum],
    "a gather where a reduce belongs": [then(lambda mesh, p: mesh.all_gather(p, dim=1))],
    "mean for sum": [then(lambda mesh, p: mesh.all_reduce(p / mesh.size))],
    "max for sum": [then(lambda mesh, p: mesh.all_reduce(p, "max"))],
    "reducing twice": [then(lambda mesh, p: mesh.all_reduce(mesh.all_reduce(p)))],
    "one shard's partial sum": [then(lambda mesh, p: mesh.broadcast(p, src=0))],
    "only a slice of the sum": [then(lambda mesh, p: mesh.reduce_scatter(p, dim=1))],
    "missing backward all-reduce": [(GRAD, with_copies(0, 0, 0)), (GRAD, with_copies(1, 0, 1))],
    "several copies of X": [(GRAD, with_copies(1, 1, 1))],
    "reduced again in backward": [(GRAD, lambda mesh, *args: mesh.copy(with_sdpa(mesh, *args)))],
    "copy of a cut tensor": [(GRAD, joined(lambda mesh, y, Wo: mesh.all_reduce(mesh.copy(y) @ Wo)))],
}


def grouped(kv, attended=sdpa, join=lambda mesh, y, Wo: mesh.all_reduce(y @ Wo), copy=True):
    """An answer whose k and v are kv(mesh, x, W, heads, kv_heads) [T, heads/n, d]."""

    def answer(mesh, X, Wq, Wk, Wv, Wo, heads, kv_heads):
        x = mesh.copy(X) if copy else X
        k, v = (kv(mesh, x, W, heads, kv_heads) for W in (Wk, Wv))
        return join(mesh, attended(query(mesh, x, Wq, heads), k, v), Wo)

    return answer


def right_kv(mesh, x, W, heads, kv_heads, spread=torch.repeat_interleave, place=None, take=None):
    kv_of = mesh.shard(torch.arange(heads), dim=0) // (heads // kv_heads)
    if kv_heads % mesh.size == 0:
        own = (x @ mesh.shard(W, 1)).unflatten(1, (kv_heads // mesh.size, -1))
        return spread(own, heads // kv_heads, dim=1)
    W = (place or (lambda mesh, W: mesh.copy(mesh.replicate(W))))(mesh, W)
    return (x @ W).unflatten(1, (kv_heads, -1)).index_select(1, take(kv_of) if take else kv_of)


def kv_of_its_rank(mesh, x, W, heads, kv_heads):
    if kv_heads % mesh.size == 0:
        return right_kv(mesh, x, W, heads, kv_heads)
    one = (x @ mesh.copy(mesh.replicate(W))).unflatten(1, (kv_heads, -1))[:, mesh.rank % kv_heads]
    return one[:, None].expand(-1, heads // mesh.size, -1)


def tile(x, times, dim):
    return torch.cat([x] * times, dim=dim)


def other(**options):
    return lambda mesh, *args: right_kv(mesh, *args, **options)


def cut_anyway(mesh, x, W, heads, kv_heads):
    kv = (x @ mesh.shard(W, dim=1)).view(x.shape[0], -1, W.shape[1] // kv_heads)
    return kv.repeat_interleave(heads // mesh.size // kv.shape[1], dim=1)


def cut_inside(mesh, X, Wq, Wk, Wv, Wo, heads, kv_heads):
    q, k, v = ((X @ W).unflatten(1, (h, -1)) for W, h in (
        (Wq, heads), (mesh.shard(Wk, 1), kv_heads), (mesh.shard(Wv, 1), kv_heads)
    ))  # fmt: skip
    return mesh.all_reduce(sdpa(q, k, v, enable_gqa=True) @ Wo)


def whole_always(mesh, x, W, heads, kv_heads):
    every = (x @ mesh.copy(mesh.replicate(W))).unflatten(1, (kv_heads, -1))
    return every.index_select(1, mesh.shard(torch.arange(heads), dim=0) // (heads // kv_heads))


def copied_when_cut(mesh, x, W, heads, kv_heads):
    if kv_heads % mesh.size:
        return right_kv(mesh, x, W, heads, kv_heads)
    own = (x @ mesh.copy(mesh.shard(W, dim=1))).unflatten(1, (kv_heads // mesh.size, -1))
    return own.repeat_interleave(heads // kv_heads, dim=1)


def whole_grouped(mesh, X, Wq, Wk, Wv, Wo, heads, kv_heads):
    q = mesh.all_gather(X @ Wq, dim=1).unflatten(1, (heads, -1))
    k, v = ((X @ mesh.replicate(W)).unflatten(1, (kv_heads, -1)) for W in (Wk, Wv))
    return sdpa(q, k, v, enable_gqa=True) @ mesh.all_gather(Wo, dim=0)


def masked(mask, scale=None, weigh=lambda s: s.softmax(-1)):
    def attended(q, k, v):
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        return (weigh(mask(q @ k.mT * (scale or q.shape[-1] ** -0.5))) @ v).transpose(0, 1).flatten(1)

    return attended


def causal(s):
    return s.masked_fill(torch.ones_like(s).tril() == 0, -torch.inf)


GROUPED = {
    "the wrong kv head": [
        grouped(other(spread=tile)),
        grouped(kv_of_its_rank),
    ],
    "one kv head for all": [grouped(other(take=lambda kv_of: 0 * kv_of))],
    "heads cut inside": [cut_inside],
    "no whole heads": [grouped(cut_anyway)],
    "a shared kv head's gradient not summed": [
        (GRAD, grouped(other(place=lambda mesh, W: mesh.replicate(W)))),
    ],
    "a shared kv head's gradient summed twice": [
        (GRAD, grouped(other(place=lambda mesh, W: mesh.copy(mesh.copy(mesh.replicate(W)))))),
    ],
    "gradients of different kv heads summed": [(GRAD, grouped(copied_when_cut))],
    "kv heads whole where they can be cut": [grouped(whole_always)],
    "the baseline in disguise": [whole_grouped],
    "all heads as one": [grouped(right_kv, lambda q, k, v: sdpa(*(x.flatten(1)[:, None] for x in (q, k, v))))],
    "tokens and heads mixed": [
        grouped(right_kv, lambda *qkv: sdpa(*(x.reshape(x.shape[1], x.shape[0], -1).transpose(0, 1) for x in qkv)))
    ],
    "not causal": [grouped(right_kv, lambda *qkv: sdpa(*qkv, is_causal=False))],
    "another mask": [grouped(right_kv, masked(torch.tril))],
    "no scale": [grouped(right_kv, lambda *qkv: sdpa(*qkv, scale=1.0))],
    "another scale": [grouped(right_kv, lambda q, k, v: sdpa(q, k, v, scale=q.flatten(1).shape[1] ** -0.5))],
    "no softmax": [grouped(right_kv, masked(torch.tril, weigh=lambda s: s))],
    "softmax along the wrong dim": [grouped(right_kv, masked(causal, weigh=lambda s: s.softmax(0)))],
    "q, k and v exchanged": [grouped(right_kv, lambda q, k, v: sdpa(q, v, k))],
    "an all-reduce between": [grouped(right_kv, join=lambda mesh, y, Wo: mesh.all_reduce(mesh.all_reduce(y) @ Wo))],
    "a gather between": [
        grouped(right_kv, join=lambda mesh, y, Wo: mesh.all_reduce(mesh.scatter(mesh.all_gather(y, 1), 1) @ Wo))
    ],
    "Wo left out": [grouped(right_kv, join=lambda mesh, y, Wo: mesh.all_gather(y, dim=1))],
    "no reduce": [grouped(right_kv, join=lambda mesh, y, Wo: y @ Wo)],
    "a gather where a reduce belongs": [grouped(right_kv, join=lambda mesh, y, Wo: mesh.all_gather(y @ Wo, dim=0))],
    "mean for sum": [grouped(right_kv, join=lambda mesh, y, Wo: mesh.all_reduce(y @ Wo) / mesh.size)],
    "max for sum": [grouped(right_kv, join=lambda mesh, y, Wo: mesh.all_reduce(y @ Wo, op="max"))],
    "reducing twice": [grouped(right_kv, join=lambda mesh, y, Wo: mesh.all_reduce(mesh.all_reduce(y @ Wo)))],
    "one shard's partial sum": [grouped(right_kv, join=lambda mesh, y, Wo: mesh.broadcast(y @ Wo))],
    "only a slice of the sum": [grouped(right_kv, join=lambda mesh, y, Wo: mesh.reduce_scatter(y @ Wo, dim=0))],
    "missing backward all-reduce": [(GRAD, grouped(right_kv, copy=False))],
    "several copies of X": [(GRAD, grouped(lambda mesh, x, *rest: right_kv(mesh, x, *rest)))],
    "reduced again in backward": [(GRAD, lambda mesh, *args: mesh.copy(layer_like(mesh, *args)))],
    "copy of a cut tensor": [(GRAD, grouped(right_kv, join=lambda mesh, y, Wo: mesh.all_reduce(mesh.copy(y) @ Wo)))],
}


def copies(mesh, X, Wq, Wk, Wv, Wo, heads, kv_heads):
    k, v = (right_kv(mesh, mesh.copy(X), W, heads, kv_heads) for W in (Wk, Wv))
    return mesh.all_reduce(sdpa(query(mesh, mesh.copy(X), Wq, heads), k, v) @ Wo)


GROUPED["several copies of X"] = [(GRAD, copies)]


def in_groups(W, heads, kv_heads):
    groups = W.unflatten(1, (kv_heads, heads // kv_heads + 2, -1))
    return [part.flatten(1) for part in groups.split([heads // kv_heads, 1, 1], dim=2)]


def shares(mesh, parts):
    return torch.cat([mesh.shard(part, dim=1) for part in parts], dim=1)


QKV = {
    "cut as it lies": [
        lambda mesh, W, heads, kv_heads: mesh.shard(W, 1),
        lambda mesh, W, heads, kv_heads: Shards(
            [W.chunk(mesh.size, 1)[r].to(d) for r, d in zip(mesh.ranks, mesh.devices, strict=True)], mesh
        ),
    ],
    "own columns in another order": [
        lambda mesh, W, *heads: shares(mesh, kinds(W, *heads)[::-1]),
        lambda mesh, W, *heads: shares(mesh, [kinds(W, *heads)[i] for i in (1, 0, 2)]),
        lambda mesh, W, *heads: mesh.shard(
            torch.cat(
                [
                    part
                    for group in zip(
                        *(p.chunk(heads[1], dim=1) for p in kinds(W, *heads)), strict=True
                    )
                    for part in group
                ],
                dim=1,
            ),
            dim=1,
        ),
    ],
    "taken as interleaved": [lambda mesh, W, *heads: shares(mesh, in_groups(W, *heads))],
    "three equal parts": [lambda mesh, W, heads, kv_heads: shares(mesh, W.chunk(3, dim=1))],
    "heads dealt in turn": [
        lambda mesh, W, heads, kv_heads: torch.cat(
            [
                mesh.shard(
                    part.unflatten(1, (-1, mesh.size, W.shape[1] // (heads + 2 * kv_heads))).transpose(1, 2).flatten(1),
                    dim=1,
                )
                for part in kinds(W, heads, kv_heads)
            ],
            dim=1,
        )
    ],
    "heads cut inside": [
        lambda mesh, W, heads, kv_heads: torch.cat(
            [
                mesh.shard(part.unflatten(1, (h, -1)).transpose(1, 2).flatten(1), dim=1)
                for part, h in zip(kinds(W, heads, kv_heads), (heads, kv_heads, kv_heads), strict=True)
            ],
            dim=1,
        )
    ],
    "kv heads on every shard": [
        lambda mesh, W, *heads: torch.cat(
            [mesh.shard(kinds(W, *heads)[0], 1), *map(mesh.replicate, kinds(W, *heads)[1:])], dim=1
        )
    ],
    "a kind left out": [lambda mesh, W, *heads: shares(mesh, kinds(W, *heads)[:2])],
    "cut by rows": [lambda mesh, W, heads, kv_heads: mesh.shard(W, dim=0)],
    "not cut": [lambda mesh, W, heads, kv_heads: mesh.replicate(W)],
    "W whole on every shard": [
        lambda mesh, W, *heads: torch.cat(
            [mesh.scatter(mesh.replicate(part), dim=1) for part in kinds(W, *heads)], dim=1
        ),
    ],
}  # fmt: skip
WRONG = {"attention": ATTENTION, "grouped_query": GROUPED, "split_qkv": QKV}
