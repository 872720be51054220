"""Answers to the exercises of lesson 05 in the style of learners: right ones, and wrong ones by their mistake."""

import torch
from torch.nn import functional as F

from shardlab import Shards

GRAD = "with gradients"  # the mistake shows in the gradients alone


def mlp_einsum(mesh, X, W1, W2):
    hidden = F.gelu(torch.einsum("bd,df->bf", mesh.copy(X), W1))
    return mesh.all_reduce(torch.einsum("bf,fd->bd", hidden, W2))


def mlp_shard_by_shard(mesh, X, W1, W2):
    rows = zip(mesh.copy(X).shards, W1.shards, W2.shards, strict=True)
    return mesh.all_reduce(Shards([F.gelu(x @ a) @ b for x, a, b in rows], mesh), donate=True)


def swiglu_in_order(mesh, X, W13, W2):
    gates, ups = (part.tensor_split(mesh.size, dim=1) for part in W13.chunk(2, dim=1))
    together = torch.cat([piece for pair in zip(gates, ups, strict=True) for piece in pair], dim=1)
    gate, up = (mesh.copy(X) @ mesh.shard(together, dim=1)).chunk(2, dim=-1)
    return mesh.all_reduce((F.silu(gate) * up) @ W2)


def swiglu_by_hand(mesh, X, W13, W2):
    gate, up = torch.split(W13, W13.shape[1] // 2, dim=1)
    x = mesh.copy(X)
    gate, up = x @ mesh.shard(gate, 1), x @ mesh.shard(up, 1)
    return mesh.all_reduce((gate * torch.sigmoid(gate) * up) @ W2)


def parts(mesh, W13):
    return [mesh.shard(part, dim=1) for part in W13.tensor_split(2, dim=1)]


def gated(X, gate, up):
    return F.silu(X @ gate) * (X @ up)


def of_parts(then):
    return lambda mesh, X, W13, W2: then(mesh, X, *parts(mesh, W13), W2)


RIGHT = {
    "mlp": [
        mlp_einsum,
        mlp_shard_by_shard,
        lambda mesh, X, W1, W2: mesh.all_gather(mesh.reduce_scatter(F.gelu(mesh.copy(X) @ W1) @ W2, dim=1), dim=1),
        lambda mesh, X, W1, W2: mesh.all_reduce(F.linear(F.gelu(F.linear(mesh.copy(X), W1.T)), W2.T)),
    ],
    "mlp_bias": [
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(F.linear(mesh.copy(X), W1.T, b1)) @ W2) + b2,
        lambda mesh, X, W1, b1, W2, b2: torch.add(
            b2, mesh.all_reduce(F.gelu(torch.addmm(b1, mesh.copy(X), W1)).matmul(W2))
        ),
    ],
    "swiglu": [swiglu_in_order, swiglu_by_hand],
}

MLP = {
    "nonlinearity before the first layer": [lambda mesh, X, W1, W2: mesh.all_reduce(F.gelu(X).mm(W1).mm(W2))],
    "an input added to the result": [lambda mesh, X, W1, W2: X + mesh.all_reduce(F.gelu(mesh.copy(X) @ W1) @ W2)],
    "an all-reduce between the layers": [
        lambda mesh, X, W1, W2: mesh.all_reduce(F.gelu(mesh.all_reduce(F.linear(X, W1.T))) @ W2),
        lambda mesh, X, W1, W2: mesh.all_reduce(mesh.all_reduce(F.gelu(X.mm(W1))).mm(W2)),
    ],
    "a gather between the layers": [
        lambda mesh, X, W1, W2: mesh.all_reduce(
            mesh.scatter(F.gelu(mesh.all_gather(F.linear(X, W1.T), dim=1)), dim=1) @ W2
        ),
    ],
    "the baseline in disguise": [
        lambda mesh, X, W1, W2: F.gelu(mesh.all_gather(X.mm(W1), dim=1)) @ mesh.all_gather(W2, dim=0),
    ],
    "no nonlinearity": [lambda mesh, X, W1, W2: mesh.all_reduce(F.linear(X, W1.T).mm(W2))],
    "nonlinearity after the second layer": [lambda mesh, X, W1, W2: F.gelu(mesh.all_reduce(X.mm(W1).mm(W2)))],
    "another nonlinearity": [lambda mesh, X, W1, W2: mesh.all_reduce((X @ W1).relu() @ W2)],
    "no reduce": [lambda mesh, X, W1, W2: F.gelu(X.mm(W1)).mm(W2)],
    "a gather where a reduce belongs": [lambda mesh, X, W1, W2: mesh.all_gather(F.gelu(X.mm(W1)).mm(W2), dim=1)],
    "mean for sum": [lambda mesh, X, W1, W2: mesh.all_reduce(F.gelu(X @ W1) @ W2 / mesh.size)],
    "max for sum": [lambda mesh, X, W1, W2: mesh.all_reduce(F.gelu(X @ W1).mm(W2), "max")],
    "reducing twice": [lambda mesh, X, W1, W2: mesh.all_reduce(mlp_einsum(mesh, X, W1, W2))],
    "one shard's partial sum": [lambda mesh, X, W1, W2: mesh.broadcast(F.gelu(X.mm(W1)).mm(W2))],
    "only a slice of the sum": [lambda mesh, X, W1, W2: mesh.reduce_scatter(F.gelu(X.mm(W1)).mm(W2), dim=0)],
    "missing backward all-reduce": [
        (GRAD, lambda mesh, X, W1, W2: mesh.all_reduce(F.linear(F.gelu(F.linear(X, W1.T)), W2.T))),
    ],
    "reduced again in backward": [(GRAD, lambda mesh, X, W1, W2: mesh.copy(mlp_einsum(mesh, X, W1, W2)))],
    "copy of a cut tensor": [
        (GRAD, lambda mesh, X, W1, W2: mesh.all_reduce(mesh.copy(F.gelu(F.linear(mesh.copy(X), W1.T))) @ W2)),
    ],
    "detached": [(GRAD, lambda mesh, X, W1, W2: mesh.all_reduce(F.gelu(X @ W1).detach() @ W2))],
}
BIAS = {
    "a bias within its product": [lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(X.mm(W1 + b1)).mm(W2)) + b2],
    "an input twice": [lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(X @ W1 + 2 * b1) @ W2) + b2],
    "an input with the wrong sign": [lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(X @ W1 - b1) @ W2) + b2],
    "an input left out": [lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(X @ W1 * 0 + b1) @ W2) + b2],
    "the second bias on every shard": [
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.linear(F.gelu(X @ W1 + b1), W2.T, b2)),
    ],
    "the second bias divided by n": [
        (GRAD, lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(mesh.copy(X) @ W1 + b1) @ W2 + b2 / mesh.size)),
    ],
    "the second bias on one shard": [
        (
            GRAD,
            lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(
                F.gelu(mesh.copy(X) @ W1 + b1) @ W2 + (mesh.rank == 0) * b2
            ),
        ),
    ],
    "a fraction of the second bias": [
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(X.mm(W1) + b1) @ W2) + b2 / mesh.size,
    ],
    "the second bias reduced": [
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(X.mm(W1) + b1) @ W2) + mesh.all_reduce(b2),
    ],
    "the first bias reduced": [
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(X.mm(W1) + mesh.all_reduce(b1)) @ W2) + b2,
    ],
    "the second bias taken back": [
        (
            GRAD,
            lambda mesh, X, W1, b1, W2, b2: (
                mesh.all_reduce(F.linear(F.gelu(mesh.copy(X) @ W1 + b1), W2.T, b2)) + b2 - mesh.size * b2
            ),
        ),
    ],
    "a fraction of the first bias": [
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(F.linear(X, W1.T, b1 / mesh.size)) @ W2) + b2,
    ],
    "the first bias missing": [lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(X.mm(W1)) @ W2) + b2],
    "the second bias missing": [lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(X.mm(W1) + b1) @ W2)],
    "no bias": [lambda mesh, X, W1, b1, W2, b2: mlp_einsum(mesh, X, W1, W2)],
    "the first bias after the gelu": [
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce((F.gelu(X.mm(W1)) + b1) @ W2) + b2,
    ],
    "an all-reduce between the layers": [
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(mesh.all_reduce(X.mm(W1) + b1)) @ W2) + b2,
    ],
    "no reduce": [lambda mesh, X, W1, b1, W2, b2: F.gelu(X.mm(W1) + b1) @ W2 + b2],
    "a gather where a reduce belongs": [
        lambda mesh, X, W1, b1, W2, b2: mesh.all_gather(F.gelu(X.mm(W1) + b1) @ W2 + b2, dim=0),
    ],
    "mean for sum": [
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(X.mm(W1) + b1) @ W2 / mesh.size) + b2,
    ],
    "max for sum": [lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(X.mm(W1) + b1) @ W2, "max") + b2],
    "reducing twice": [
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(mesh.all_reduce(F.gelu(X.mm(W1) + b1) @ W2)) + b2,
    ],
    "one shard's partial sum": [
        lambda mesh, X, W1, b1, W2, b2: mesh.broadcast(F.gelu(X.mm(W1) + b1) @ W2, src=0) + b2,
    ],
    "only a slice of the sum": [lambda mesh, X, W1, b1, W2, b2: mesh.reduce_scatter(F.gelu(X.mm(W1) + b1) @ W2, dim=1)],
    "the baseline in disguise": [
        lambda mesh, X, W1, b1, W2, b2: (
            F.gelu(X @ mesh.all_gather(W1, dim=1) + mesh.all_gather(b1, dim=0)) @ mesh.all_gather(W2, dim=0) + b2
        ),
    ],
    "missing backward all-reduce": [
        (GRAD, lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(F.linear(X, W1.T, b1)) @ W2) + b2),
    ],
    "reduced again in backward": [
        (
            GRAD,
            lambda mesh, X, W1, b1, W2, b2: (
                mesh.all_reduce(F.gelu(torch.addmm(b1, mesh.copy(X), W1)) @ W2) + mesh.copy(b2)
            ),
        ),
    ],
    "copy of a cut tensor": [
        (
            GRAD,
            lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(F.gelu(mesh.copy(X) @ W1 + mesh.copy(b1)) @ W2) + b2,
        ),
    ],
}
SWIGLU = {
    "cut across gate and up": [
        lambda mesh, X, W13, W2: mesh.all_reduce(
            (lambda h: (F.silu(h.chunk(2, -1)[0]) * h.chunk(2, -1)[1]) @ W2)(X @ mesh.shard(W13, 1))
        ),
    ],
    "taken as interleaved": [
        lambda mesh, X, W13, W2: mesh.all_reduce(
            (lambda h: (F.silu(h[:, ::2]) * h[:, 1::2]) @ W2)(X @ mesh.shard(W13, dim=1))
        ),
    ],
    "gate and up exchanged": [
        of_parts(lambda mesh, X, gate, up, W2: mesh.all_reduce(gated(mesh.copy(X), up, gate) @ W2)),
    ],
    "another nonlinearity": [
        of_parts(lambda mesh, X, gate, up, W2: mesh.all_reduce((F.gelu(X @ gate) * (X @ up)) @ W2)),
    ],
    "nonlinearity on both": [
        of_parts(lambda mesh, X, gate, up, W2: mesh.all_reduce((F.silu(X @ gate) * F.silu(X @ up)) @ W2)),
    ],
    "gate and up added": [
        of_parts(lambda mesh, X, gate, up, W2: mesh.all_reduce((X @ up + F.silu(X @ gate)) @ W2)),
    ],
    "an all-reduce between the layers": [
        of_parts(lambda mesh, X, gate, up, W2: mesh.all_reduce(mesh.all_reduce(gated(X, gate, up)) @ W2)),
    ],
    "half of it": [of_parts(lambda mesh, X, gate, up, W2: mesh.all_reduce(F.silu(X.mm(gate)) @ W2))],
    "no reduce": [of_parts(lambda mesh, X, gate, up, W2: gated(X, gate, up) @ W2)],
    "a gather where a reduce belongs": [
        of_parts(lambda mesh, X, gate, up, W2: mesh.all_gather(gated(X, gate, up) @ W2, dim=1)),
    ],
    "mean for sum": [of_parts(lambda mesh, X, gate, up, W2: mesh.all_reduce(gated(X, gate, up) @ W2) / mesh.size)],
    "max for sum": [of_parts(lambda mesh, X, gate, up, W2: mesh.all_reduce(gated(X, gate, up) @ W2, op="max"))],
    "reducing twice": [
        of_parts(lambda mesh, X, gate, up, W2: mesh.all_reduce(mesh.all_reduce(gated(X, gate, up) @ W2))),
    ],
    "one shard's partial sum": [of_parts(lambda mesh, X, gate, up, W2: mesh.broadcast(gated(X, gate, up) @ W2))],
    "only a slice of the sum": [
        of_parts(lambda mesh, X, gate, up, W2: mesh.reduce_scatter(gated(X, gate, up) @ W2, dim=1)),
    ],
    "missing backward all-reduce": [
        (GRAD, of_parts(lambda mesh, X, gate, up, W2: mesh.all_reduce(gated(X, gate, up) @ W2))),
    ],
    "two copies of X": [
        (
            GRAD,
            of_parts(
                lambda mesh, X, gate, up, W2: mesh.all_reduce(F.silu(mesh.copy(X) @ gate) * (mesh.copy(X) @ up) @ W2)
            ),
        ),
    ],
    "reduced again in backward": [
        (GRAD, of_parts(lambda mesh, X, gate, up, W2: mesh.copy(mesh.all_reduce(gated(mesh.copy(X), gate, up) @ W2)))),
    ],
}
WRONG = {"mlp": MLP, "mlp_bias": BIAS, "swiglu": SWIGLU}
