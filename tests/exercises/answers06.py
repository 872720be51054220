"""Answers to the exercises of lesson 06 in the style of learners: right ones, and wrong ones by their mistake."""

import answers05
import torch
from torch.nn import functional as F

from shardlab import Shards
from shardlab.exercises.verdict import UNSOLVED

GRAD = "with gradients"  # the mistake shows in the gradients alone


def column_by_autograd(mesh, X, W, G):
    return torch.autograd.grad(mesh.copy(X) @ W, [X, W], G)


def column_by_backward(mesh, X, W, G):
    x, w = X.detach().requires_grad_(), W.detach().requires_grad_()
    (mesh.copy(x) @ w).backward(G)
    return x.grad, w.grad


def column_einsum(mesh, X, W, G):
    dX = mesh.all_reduce(torch.einsum("bf,df->bd", G, W))
    return [dX, torch.einsum("bd,bf->df", X, G)]


def column_shard_by_shard(mesh, X, W, G):
    part = Shards([g @ w.T for g, w in zip(G.shards, W.shards, strict=True)], mesh)
    own = Shards([x.T @ g for x, g in zip(X.shards, G.shards, strict=True)], mesh)
    return mesh.all_reduce(part), own


def row_by_autograd(mesh, X, W, G):
    return torch.autograd.grad(X @ W, [X, W], G)


def mlp_by_linear(mesh, X, W1, W2):
    return mesh.all_reduce(F.linear(F.gelu(F.linear(mesh.copy(X), W1.T)), W2.T))


def mlp_in_two_steps(mesh, X, W1, W2):
    p_ = torch.einsum("bf,fd->bd", F.gelu(mesh.copy(X).matmul(W1)), W2)
    return mesh.all_gather(mesh.reduce_scatter(p_, dim=1), dim=1)


RIGHT = {
    "column_backward": [
        column_by_autograd,
        column_by_backward,
        column_einsum,
        column_shard_by_shard,
        lambda mesh, X, W, G: (mesh.all_gather(mesh.reduce_scatter(G @ W.T, dim=1), dim=1), (G.T @ X).T),
    ],
    "row_backward": [
        row_by_autograd,
        lambda mesh, X, W, G: (F.linear(G, W), X.transpose(0, 1).mm(G)),
        lambda mesh, X, W, G: [mesh.copy(G) @ W.T, torch.einsum("bd,bf->df", X, G)],
    ],
    "mlp_gradients": [mlp_by_linear, mlp_in_two_steps],
}

COLUMN = {
    "missing f": [
        lambda mesh, X, W, G: (F.linear(G, W), X.T @ G),
        lambda mesh, X, W, G: (mesh.copy(G @ W.T), X.T @ G),
        lambda mesh, X, W, G: torch.autograd.grad(X @ W, [X, W], G),
    ],
    "f twice": [
        lambda mesh, X, W, G: (mesh.all_reduce(mesh.all_reduce(F.linear(G, W))), X.T @ G),
        lambda mesh, X, W, G: torch.autograd.grad(mesh.copy(mesh.copy(X)) @ W, [X, W], G),
    ],
    "a gather where a reduce belongs": [lambda mesh, X, W, G: (mesh.all_gather(F.linear(G, W), dim=1), X.T @ G)],
    "mean for sum": [lambda mesh, X, W, G: (mesh.all_reduce(F.linear(G, W) / mesh.size), X.T @ G)],
    "max for sum": [lambda mesh, X, W, G: (mesh.all_reduce(F.linear(G, W), "max"), X.T @ G)],
    "one shard's partial sum": [lambda mesh, X, W, G: (mesh.broadcast(F.linear(G, W), src=0), X.T @ G)],
    "only a slice of the sum": [lambda mesh, X, W, G: (mesh.reduce_scatter(F.linear(G, W), dim=1), X.T @ G)],
    "dW reduced": [lambda mesh, X, W, G: (mesh.all_reduce(F.linear(G, W)), mesh.all_reduce(X.T.mm(G)))],
    "dW gathered": [lambda mesh, X, W, G: (mesh.all_reduce(F.linear(G, W)), mesh.all_gather(X.T.mm(G), dim=-1))],
    "dW transposed": [lambda mesh, X, W, G: (mesh.all_reduce(F.linear(G, W)), G.T.mm(X))],
    "results exchanged": [lambda mesh, X, W, G: (X.T.mm(G), mesh.all_reduce(F.linear(G, W)))],
    "the baseline in disguise": [
        lambda mesh, X, W, G: (F.linear(mesh.all_gather(G, dim=1), mesh.all_gather(W, dim=1)), X.T.mm(G)),
    ],
    "another number of results": [lambda mesh, X, W, G: mesh.all_reduce(G @ W.T)],
    "transposed": [lambda mesh, X, W, G: (mesh.all_reduce(G @ W), X.T @ G)],
    "wrong sign": [lambda mesh, X, W, G: (-mesh.all_reduce(G @ W.T), X.T @ G)],
}
ROW = {
    "g with an all-reduce behind it": [
        lambda mesh, X, W, G: (lambda g: (F.linear(g, W), X.T.mm(g)))(mesh.all_reduce(G)),
        lambda mesh, X, W, G: (G @ W.T * mesh.size, mesh.size * (X.T @ G)),
    ],
    "a mean of G": [lambda mesh, X, W, G: (lambda g: (F.linear(g, W), X.T.mm(g)))(mesh.all_reduce(G / mesh.size))],
    "dX reduced": [lambda mesh, X, W, G: (mesh.all_reduce(F.linear(G, W)), X.T.mm(G))],
    "dW reduced": [lambda mesh, X, W, G: (F.linear(G, W), mesh.all_reduce(X.T.mm(G)))],
    "dX gathered": [lambda mesh, X, W, G: (mesh.all_gather(F.linear(G, W), dim=-1), X.T.mm(G))],
    "dW gathered": [lambda mesh, X, W, G: (F.linear(G, W), mesh.all_gather(X.T.mm(G), dim=0))],
    "dW transposed": [lambda mesh, X, W, G: (F.linear(G, W), G.T.mm(X))],
    "results exchanged": [lambda mesh, X, W, G: (X.T.mm(G), F.linear(G, W))],
    "the baseline in disguise": [
        lambda mesh, X, W, G: (mesh.scatter(F.linear(G, mesh.all_gather(W, dim=0)), dim=1), X.T.mm(G)),
    ],
    "extra communication": [lambda mesh, X, W, G: (G @ W.T + 0 * mesh.all_reduce(X @ W).sum(), X.T @ G)],
}
MLP = {
    "missing f": [
        (GRAD, lambda mesh, X, W1, W2: mesh.all_reduce(F.gelu(X.mm(W1)).mm(W2))),
        (GRAD, lambda mesh, X, W1, W2: mesh.all_gather(mesh.reduce_scatter(F.gelu(X @ W1) @ W2, dim=1), dim=1)),
    ],
    "f twice": [
        (GRAD, lambda mesh, X, W1, W2: mlp_by_linear(mesh, mesh.copy(X), W1, W2)),
        (GRAD, lambda mesh, X, W1, W2: mlp_in_two_steps(mesh, mesh.copy(X), W1, W2)),
    ],
    "g with an all-reduce behind it": [
        (GRAD, lambda mesh, X, W1, W2: mesh.copy(mlp_by_linear(mesh, X, W1, W2))),
        (GRAD, lambda mesh, X, W1, W2: mesh.all_reduce(mesh.copy(F.gelu(mesh.copy(X).mm(W1)).mm(W2)))),
    ],
    "f at the wrong end": [(GRAD, lambda mesh, X, W1, W2: mesh.copy(mesh.all_reduce(F.gelu(X.mm(W1)).mm(W2))))],
    "f on the hidden value": [
        (GRAD, lambda mesh, X, W1, W2: mesh.all_reduce(mesh.copy(F.gelu(mesh.copy(X).mm(W1))).mm(W2))),
    ],
    "f on a weight": [(GRAD, lambda mesh, X, W1, W2: mlp_by_linear(mesh, X, mesh.copy(W1), W2))],
    "detached": [
        (GRAD, lambda mesh, X, W1, W2: mesh.all_reduce((F.gelu(mesh.copy(X) @ W1) @ W2).detach())),
        (GRAD, lambda mesh, X, W1, W2: mesh.all_reduce(F.gelu(mesh.copy(X).detach() @ W1) @ W2)),
    ],
}


KINDS = {
    "x": "replicated",
    "h": "cut along dim 1",
    "p": "partial",
    "y": "replicated",
    "z": "replicated",
    "dz": "replicated",
    "dy": "replicated",
    "dp": "replicated",
    "dh": "cut along dim 1",
    "dx": "partial",
    "dX": "replicated",
    "dW1": "cut along dim 1",
    "db1": "cut along dim 0",
    "dW2": "cut along dim 0",
    "db2": "replicated",
}
RIGHT_KINDS = [
    KINDS,
    {name: kind.title() for name, kind in KINDS.items()},
    KINDS | {"h": "by columns", "dW1": "by columns", "dW2": "by rows"},
    KINDS | {"h": "cut, dim=1", "dh": "cut 1"},
    lambda: KINDS,
]
WRONG_KINDS = {
    "a partial sum taken for whole": [KINDS | {"p": "replicated"}],
    "a partial gradient taken for whole": [KINDS | {"dx": "replicated"}],
    "a whole value taken for partial": [KINDS | {"y": "partial"}],
    "a whole gradient taken for partial": [KINDS | {"dp": "partial"}, KINDS | {"dX": "partial"}],
    "cut along the other dim": [KINDS | {"dW2": "cut along dim 1"}, KINDS | {"db1": "cut along dim 1"}],
    "a cut value taken for whole": [KINDS | {"h": "replicated"}],
    "a cut gradient taken for whole": [KINDS | {"dW1": "replicated"}],
    "a cut value taken for partial": [KINDS | {"h": "partial"}],
    "a cut gradient taken for partial": [KINDS | {"dh": "partial"}],
    "a whole value taken for cut": [KINDS | {"x": "cut along dim 0"}],
    "a whole gradient taken for cut": [KINDS | {"db2": "cut along dim 0"}],
    "a partial sum taken for cut": [KINDS | {"p": "by columns"}],
    "a partial gradient taken for cut": [KINDS | {"dx": "by columns"}],
    "an unknown name": [KINDS | {"dQ": "partial"}],
    "an unknown kind": [KINDS | {"p": "Partly"}, KINDS | {"p": 3}],
    "names missing": [{"x": "replicated"}, KINDS | {"dX": ...}],
    "not a dict": ["partial", 3, [*KINDS.values()]],
    UNSOLVED: [None, ..., dict.fromkeys(KINDS, ...), lambda: None],
}
FINER = {"missing backward all-reduce", "reduced again in backward", "copy of a cut tensor", *MLP}
MLP |= {name: answers for name, answers in answers05.MLP.items() if name not in FINER}
WRONG = {"column_backward": COLUMN, "row_backward": ROW, "mlp_gradients": MLP}
