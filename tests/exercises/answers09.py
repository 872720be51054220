"""Answers to the exercises of lesson 09 in the style of learners: right ones, and wrong ones by their mistake."""

import torch
from torch.nn import functional as F

from shardlab import Shards
from shardlab.layers import dropout

GRAD = "with gradients"  # the mistake shows in the gradients alone
EPS = 1e-5


def mlp_einsum(mesh, X, W1, W2):
    x = mesh.all_gather(X, 0, "partial")
    h = F.gelu(torch.einsum("td,df->tf", x, W1))
    return mesh.reduce_scatter(torch.einsum("tf,fd->td", h, W2), 0)


def mlp_shard_by_shard(mesh, X, W1, W2):
    x = mesh.all_gather(X, dim=-2, grad="partial")
    rows = zip(x.shards, W1.shards, W2.shards, strict=True)
    return mesh.reduce_scatter(Shards([F.gelu(x @ a) @ b for x, a, b in rows], mesh), dim=-2)


def mlp_with_copies(mesh, X, W1, W2):
    """Right in value and in every gradient: the slices of the gathered gradient are reduced before."""
    h = F.gelu(F.linear(mesh.all_gather(X, dim=0, grad="partial"), W1.T))
    return mesh.reduce_scatter(F.linear(h, W2.mT), dim=0)


def norm_by_torch(mesh, X, w):
    return F.rms_norm(X, [X.shape[-1]], eps=EPS) * mesh.copy(w)


def norm_in_steps(mesh, X, w):
    size = X.shape[1]
    squares = (X * X).sum(1, keepdim=True) / size
    return mesh.copy(w).unsqueeze(0) * (X / torch.sqrt(squares + EPS))


RIGHT = {
    "sequence_mlp": [mlp_einsum, mlp_shard_by_shard, mlp_with_copies],
    "sequence_norm": [
        norm_by_torch,
        norm_in_steps,
        lambda mesh, X, w: F.rms_norm(X, w.shape, mesh.copy(w), EPS),
        lambda mesh, X, w: torch.einsum("td,d->td", X * (X.square().mean(dim=1)[:, None] + EPS) ** -0.5, mesh.copy(w)),
    ],
}


def inner(mesh, X, W1):
    return F.gelu(mesh.all_gather(X, 0, "partial").mm(W1))


MLP = {
    "no gather before the first product": [
        lambda mesh, X, W1, W2: F.gelu(X.mm(W1)).mm(W2),
        lambda mesh, X, W1, W2: mesh.reduce_scatter(F.gelu(F.linear(X, W1.T)) @ W2, 0),
        lambda mesh, X, W1, W2: mesh.all_reduce(F.gelu(torch.matmul(X, W1)) @ W2),
    ],
    "all-reduce and slice": [
        lambda mesh, X, W1, W2: mesh.scatter(mesh.all_reduce(inner(mesh, X, W1).mm(W2)), 0),
        lambda mesh, X, W1, W2: (lambda y, k: y[mesh.rank * k : (mesh.rank + 1) * k])(
            mesh.all_reduce(inner(mesh, X, W1).mm(W2)), X.shape[0]
        ),
    ],
    "whole on every shard": [lambda mesh, X, W1, W2: mesh.all_reduce(inner(mesh, X, W1).mm(W2), donate=True)],
    "reduce-scatter along the wrong dim": [lambda mesh, X, W1, W2: mesh.reduce_scatter(inner(mesh, X, W1).mm(W2), -1)],
    "gather along the wrong dim": [
        lambda mesh, X, W1, W2: mesh.reduce_scatter(F.gelu(mesh.all_gather(X, 1, "partial") @ W1) @ W2, 0),
    ],
    "own rows of a partial sum": [lambda mesh, X, W1, W2: mesh.scatter(inner(mesh, X, W1).mm(W2), 0)],
    "no reduce": [lambda mesh, X, W1, W2: inner(mesh, X, W1).mm(W2)],
    "mean for sum": [lambda mesh, X, W1, W2: mesh.reduce_scatter(inner(mesh, X, W1) @ W2 / mesh.size, 0)],
    "a gather between the layers": [
        lambda mesh, X, W1, W2: mesh.reduce_scatter(
            mesh.scatter(F.gelu(mesh.all_gather(mesh.all_gather(X, 0, "partial") @ W1, 1)), 1) @ W2, 0
        ),
    ],
    "a reduction between the layers": [
        lambda mesh, X, W1, W2: mesh.reduce_scatter(mesh.all_reduce(inner(mesh, X, W1)).mm(W2), 0),
    ],
    "the weights gathered": [
        lambda mesh, X, W1, W2: F.gelu(X.mm(mesh.all_gather(W1, 1, "partial"))) @ mesh.all_gather(W2, 0, "partial"),
    ],
    "no nonlinearity": [
        lambda mesh, X, W1, W2: mesh.reduce_scatter(mesh.all_gather(X, 0, "partial").mm(W1).mm(W2), 0),
    ],
    "nonlinearity after the second layer": [
        lambda mesh, X, W1, W2: F.gelu(mesh.reduce_scatter(mesh.all_gather(X, 0, "partial").mm(W1).mm(W2), 0)),
    ],
    "another nonlinearity": [
        lambda mesh, X, W1, W2: mesh.reduce_scatter(mesh.all_gather(X, 0, "partial").mm(W1).relu().mm(W2), 0),
    ],
    "a gather whose backward only slices": [
        (GRAD, lambda mesh, X, W1, W2: mesh.reduce_scatter(F.gelu(mesh.all_gather(X, 0).mm(W1)).mm(W2), 0)),
    ],
    "an all-reduce and a slice in backward": [
        (GRAD, lambda mesh, X, W1, W2: mesh.reduce_scatter(F.gelu(mesh.copy(mesh.all_gather(X, 0)).mm(W1)) @ W2, 0)),
    ],
    "reduced twice in backward": [
        (
            GRAD,
            lambda mesh, X, W1, W2: mesh.reduce_scatter(
                F.gelu(F.linear(mesh.copy(mesh.all_gather(X, 0, "partial")), W1.T)) @ W2, 0
            ),
        ),
    ],
    "copy of a cut tensor": [
        (GRAD, lambda mesh, X, W1, W2: mesh.reduce_scatter(inner(mesh, mesh.copy(X), W1).mm(W2), 0)),
    ],
    "detached": [(GRAD, lambda mesh, X, W1, W2: mesh.reduce_scatter(inner(mesh, X.detach(), W1) @ W2, 0))],
}


def root(mesh, X):
    return torch.sqrt((X * X).mean(-1, keepdim=True) + EPS)


NORM = {
    "the weight's gradient is not reduced": [
        (GRAD, lambda mesh, X, w: w * (X / root(mesh, X))),
        (GRAD, lambda mesh, X, w: F.rms_norm(X, w.shape, w, EPS)),
    ],
    "the weight's gradient is reduced twice": [
        (GRAD, lambda mesh, X, w: mesh.copy(mesh.copy(w)) * (X / root(mesh, X)))
    ],
    "the weight's gradient is averaged": [
        (GRAD, lambda mesh, X, w: X / root(mesh, X) * (w + (mesh.copy(w) - w.detach()) / mesh.size - w + w.detach())),
    ],
    "the weight added up in forward": [lambda mesh, X, w: X / root(mesh, X) * mesh.all_reduce(w)],
    "a mean over the tokens": [
        lambda mesh, X, w: X / (X.square().mean() + EPS).sqrt() * mesh.copy(w),
        lambda mesh, X, w: X / (X.square().mean(dim=0) + EPS).sqrt() * mesh.copy(w),
        lambda mesh, X, w: X / (mesh.all_reduce((X * X).mean()) / mesh.size + EPS).sqrt() * mesh.copy(w),
    ],
    "mean squares of different tokens added up": [
        lambda mesh, X, w: X / torch.sqrt(mesh.all_reduce((X * X).mean(-1, keepdim=True)) + EPS) * mesh.copy(w),
    ],
    "a LayerNorm": [lambda mesh, X, w: F.layer_norm(X, w.shape, mesh.copy(w), None, EPS)],
    "the variance": [lambda mesh, X, w: X / (X.var(1, keepdim=True, correction=0) + EPS).sqrt() * mesh.copy(w)],
    "sum for mean": [lambda mesh, X, w: X / ((X * X).sum(1, keepdim=True) + EPS).sqrt() * mesh.copy(w)],
    "no root": [lambda mesh, X, w: X / ((X * X).mean(1, keepdim=True) + EPS) * mesh.copy(w)],
    "multiplied by the root": [lambda mesh, X, w: X * root(mesh, X) * mesh.copy(w)],
    "eps outside of the root": [
        lambda mesh, X, w: X / ((X * X).mean(1, keepdim=True).sqrt() + EPS) * mesh.copy(w),
    ],
    "no eps": [
        lambda mesh, X, w: X / (X * X).mean(1, keepdim=True).sqrt() * mesh.copy(w),
        lambda mesh, X, w: F.rms_norm(X, w.shape, mesh.copy(w)),
    ],
    "another eps": [lambda mesh, X, w: F.rms_norm(X, w.shape, mesh.copy(w), 1e-6)],
    "no weight": [lambda mesh, X, w: X / root(mesh, X)],
    "one more than the weight": [lambda mesh, X, w: X / root(mesh, X) * (mesh.copy(w) + 1)],
    "the weight added": [lambda mesh, X, w: X / root(mesh, X) + mesh.copy(w)],
    "gathered for nothing": [
        lambda mesh, X, w: mesh.scatter(F.rms_norm(mesh.all_gather(X, 0), w.shape, w, EPS), 0),
    ],
    "whole on every shard": [lambda mesh, X, w: mesh.all_gather(F.rms_norm(X, w.shape, mesh.copy(w), EPS), 0)],
    "copy of a cut tensor": [
        (GRAD, lambda mesh, X, w: F.rms_norm(mesh.copy(X), w.shape, mesh.copy(w), EPS)),
        (GRAD, lambda mesh, X, w: mesh.copy(F.rms_norm(X, w.shape, w, EPS))),
    ],
}
WRONG = {"sequence_mlp": MLP, "sequence_norm": NORM}


# dropout


def coins(mesh, X, seed, draw=torch.rand):
    return draw(mesh.size * X.shape[0], X.shape[1], generator=torch.Generator().manual_seed(seed))


def drop(mesh, X, p, seed):
    return X * mesh.shard(coins(mesh, X, seed) >= p, dim=0) / (1 - p)


def drop_globally(mesh, X, p, seed):
    torch.manual_seed(seed)
    return X * mesh.shard(F.dropout(torch.ones(mesh.size * X.shape[0], X.shape[1], dtype=X.dtype), p), dim=0)


def drop_own_rows(mesh, X, p, seed):
    rows, whole = X.shape[0], (coins(mesh, X, seed) > p).double()
    own = [whole[rank * rows : (rank + 1) * rows] for rank in mesh.ranks]
    return Shards([x * m / (1 - p) for x, m in zip(X.shards, own, strict=True)], mesh)


def drop_token_by_token(mesh, X, p, seed):
    rows, results = X.shape[0], []
    for rank, x in zip(mesh.ranks, X.shards, strict=True):
        own = [torch.Generator().manual_seed(1000 * seed + rank * rows + row) for row in range(rows)]
        mask = torch.stack([torch.rand(x.shape[1], generator=each) < 1 - p for each in own])
        results.append(torch.where(mask, x / (1 - p), 0.0))
    return Shards(results, mesh)


RIGHT_DROPOUT = [
    drop,
    drop_globally,
    drop_own_rows,
    drop_token_by_token,
    lambda mesh, X, p, seed: dropout(mesh, X, p, seed, dim=0),
    lambda mesh, X, p, seed: X.masked_fill(mesh.shard(coins(mesh, X, seed) < p, dim=0), 0) / (1 - p),
]


def of_mask(mask):
    """The dropout with mask(mesh, X, p, seed), a Shards."""
    return lambda mesh, X, p, seed: X * mask(mesh, X, p, seed) / (1 - p)


def own_seed(seed_of):
    def masks(mesh, X, p, seed):
        own = [torch.Generator().manual_seed(seed_of(seed, rank)) for rank in mesh.ranks]
        return Shards([torch.rand(x.shape, generator=g) >= p for x, g in zip(X.shards, own, strict=True)], mesh)

    return of_mask(masks)


def in_turn(mesh, X, p, seed):
    """Right here, and over ranks all draw the same."""
    g = torch.Generator().manual_seed(seed)
    return X * Shards([torch.rand(x.shape, generator=g) >= p for x in X.shards], mesh) / (1 - p)


def one_row(mesh, X, p, seed):
    return mesh.replicate(torch.rand(X.shape[1], generator=torch.Generator().manual_seed(seed)) >= p)


def one_column(mesh, X, p, seed):
    return mesh.shard(coins(mesh, X, seed)[:, :1] >= p, dim=0)


def kept(mesh, X, p, seed):
    return X * mesh.shard(coins(mesh, X, seed) >= p, dim=0)


WRONG_DROPOUT = {
    "nothing is dropped": [lambda mesh, X, p, seed: X, lambda mesh, X, p, seed: X * (1 - p)],
    "everything is dropped": [lambda mesh, X, p, seed: X * 0],
    "p kept, not dropped": [of_mask(lambda mesh, X, p, seed: mesh.shard(coins(mesh, X, seed) < p, dim=0))],
    "another rate": [of_mask(lambda mesh, X, p, seed: mesh.shard(coins(mesh, X, seed) >= 0.5, dim=0))],
    "whole rows": [of_mask(one_column)],
    "one mask for all tokens": [of_mask(one_row)],
    "not scaled": [kept],
    "divided by p": [lambda mesh, X, p, seed: kept(mesh, X, p, seed) / p],
    "multiplied by 1 - p": [lambda mesh, X, p, seed: kept(mesh, X, p, seed) * (1 - p)],
    "scaled by the number of shards": [
        lambda mesh, X, p, seed: kept(mesh, X, p, seed) / (1 - p) / mesh.size,
        lambda mesh, X, p, seed: kept(mesh, X, p, seed) / (1 - p) * mesh.size,
    ],
    "another scale": [lambda mesh, X, p, seed: kept(mesh, X, p, seed) / (1 - p) ** 0.5],
    "not the numbers of X": [lambda mesh, X, p, seed: torch.relu(drop(mesh, X, p, seed)) + drop(mesh, X, p, seed)],
    "another mask each time": [
        of_mask(lambda mesh, X, p, seed: mesh.shard(torch.rand(mesh.size * X.shape[0], X.shape[1]) >= p, dim=0)),
    ],
    "the seed is not used": [lambda mesh, X, p, seed: drop(mesh, X, p, 42)],
    "one mask on all shards": [
        own_seed(lambda seed, rank: seed),
        of_mask(
            lambda mesh, X, p, seed: mesh.replicate(
                torch.rand(X.shape, generator=torch.Generator().manual_seed(seed)) >= p
            )
        ),
    ],
    "another mask for every number of shards": [
        own_seed(lambda seed, rank: seed + rank),
        own_seed(lambda seed, rank: 2718 + seed + 31 * rank),  # Megatron-LM's way
        lambda mesh, X, p, seed: drop(mesh, X, p, seed + mesh.size),
    ],
    "whole on every shard": [
        lambda mesh, X, p, seed: mesh.all_gather(drop(mesh, X, p, seed), dim=0),
        lambda mesh, X, p, seed: mesh.all_gather(X, 0) * mesh.replicate(coins(mesh, X, seed) >= p) / (1 - p),
    ],
    "wrong shape": [lambda mesh, X, p, seed: drop(mesh, X, p, seed)[:, 1:]],
    "wrong dtype": [lambda mesh, X, p, seed: drop(mesh, X, p, seed).float()],
    "extra communication": [
        lambda mesh, X, p, seed: mesh.scatter(
            mesh.all_gather(X, 0) * mesh.replicate(coins(mesh, X, seed) >= p) / (1 - p), 0
        ),
        of_mask(lambda mesh, X, p, seed: mesh.scatter(mesh.broadcast(mesh.replicate(coins(mesh, X, seed) >= p)), 0)),
    ],
    "reads other shards": [in_turn],
    "detached": [lambda mesh, X, p, seed: drop(mesh, X.detach(), p, seed)],
    "another gradient": [
        lambda mesh, X, p, seed: drop(mesh, X, p, seed).detach() + X - X.detach(),
    ],
    "an error": [lambda mesh, X, p, seed: F.dropout(X, p)],
}
