"""Lesson 01: a linear layer split by columns, and by rows."""

from functools import partial

import torch

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.split import Split


def column_sizes(n, integer):
    """Two shapes whose columns divide by n; in the second a shard of W is square, so that W.T also fits."""
    K = integer(4, 6)
    N = n * integer(2, 3)
    return [{"B": integer(2, 3), "K": K, "N": N + n * (N == K)}, {"B": 2, "K": 3, "N": 3 * n}]


def row_sizes(n, integer):
    N = integer(4, 6)
    K = n * integer(2, 3)
    return [{"B": integer(2, 3), "K": K + n * (N == K), "N": N}, {"B": 2, "K": 3 * n, "N": 3}]


TRANSPOSED = mistakes.transposed(
    lambda mesh, X, W: mesh.all_gather(X @ W.T, dim=1),
    lambda mesh, X, W: mesh.all_reduce(X @ W.T),
    lambda mesh, X, W: X @ W.T,
)

gelu = torch.nn.functional.gelu
A_GELU_TOO_MANY = partial(
    Mistake,
    "a nonlinearity too many",
    "The lesson's layer ends in a gelu; here X @ W alone is wanted.",
)

COLUMN_MISTAKES = [
    A_GELU_TOO_MANY(
        lambda mesh, X, W: mesh.all_gather(gelu(X @ W), dim=1),
        lambda mesh, X, W: gelu(mesh.all_gather(gelu(X @ W), dim=1)),
        lambda mesh, X, W: gelu(X @ W),
    ),
    mistakes.no_gather(
        lambda mesh, X, W: X @ W,
    ),
    mistakes.gather_on_the_wrong_dim(
        lambda mesh, X, W: mesh.all_gather(X @ W, dim=0),
    ),
    mistakes.reduce_for_gather(
        lambda mesh, X, W: mesh.all_reduce(X @ W),
        lambda mesh, X, W: mesh.all_reduce(X @ W) / mesh.size,
        lambda mesh, X, W: mesh.all_reduce(X @ W, op="max"),
    ),
    mistakes.wrong_order(
        lambda mesh, X, W: mistakes.reordered(mesh, X @ W, lambda r, n: n - 1 - r),
        lambda mesh, X, W: mistakes.reordered(mesh, X @ W, lambda r, n: (r + 1) % n),
        lambda mesh, X, W: mistakes.reordered(mesh, X @ W, lambda r, n: (r - 1) % n),
        lambda mesh, X, W: mistakes.interleaved(mesh.all_gather(X @ W, dim=1), mesh.size),
        lambda mesh, X, W: mesh.all_gather(X @ W, dim=1).flip(1),
    ),
    Mistake(
        "one shard's columns for all",
        "Every shard gets the columns of one shard; each holds different ones, and all of them are wanted.",
        lambda mesh, X, W: mesh.broadcast(X @ W),
        lambda mesh, X, W: (mesh.broadcast(X @ W)).repeat(1, mesh.size),
        lambda mesh, X, W: (X @ W).repeat(1, mesh.size),
    ),
    mistakes.baseline(
        lambda mesh, X, W: X @ mesh.all_gather(W, dim=1),
    ),
    TRANSPOSED,
    mistakes.missing_backward(
        lambda mesh, X, W: mesh.all_gather(X @ W, dim=1),
    ),
    mistakes.reduced_again(
        lambda mesh, X, W: mesh.copy(mesh.all_gather(X @ W, dim=1)),
        lambda mesh, X, W: mesh.all_gather(X @ W, dim=1, grad="partial"),
        lambda mesh, X, W: mesh.copy(mesh.all_gather(mesh.copy(X) @ W, dim=1)),
        lambda mesh, X, W: mesh.all_gather(mesh.copy(X) @ W, dim=1, grad="partial"),
        lambda mesh, X, W: mesh.all_gather(mesh.copy(mesh.copy(X)) @ W, dim=1),
    ),
    mistakes.copy_of_a_cut_tensor(
        lambda mesh, X, W: mesh.all_gather(mesh.copy(X) @ mesh.copy(W), dim=1),
        lambda mesh, X, W: mesh.all_gather(X @ mesh.copy(W), dim=1),
        lambda mesh, X, W: mesh.all_gather(mesh.copy(X @ W), dim=1),
        lambda mesh, X, W: mesh.all_gather(mesh.copy(mesh.copy(X) @ W), dim=1),
    ),
]

ROW_MISTAKES = [
    A_GELU_TOO_MANY(
        lambda mesh, X, W: gelu(mesh.all_reduce(X @ W)),
        lambda mesh, X, W: mesh.all_reduce(gelu(X @ W)),
        lambda mesh, X, W: gelu(X @ W),
    ),
    *mistakes.of_a_sum((lambda mesh, X, W: X @ W, lambda y_, X, W: y_)),
    mistakes.baseline(
        lambda mesh, X, W: mesh.all_gather(X, dim=1) @ mesh.all_gather(W, dim=0),
    ),
    TRANSPOSED,
    mistakes.reduced_again(
        lambda mesh, X, W: mesh.copy(mesh.all_reduce(X @ W)),
        lambda mesh, X, W: mesh.all_reduce(mesh.copy(X @ W)),
    ),
    mistakes.copy_of_a_cut_tensor(
        lambda mesh, X, W: mesh.all_reduce(mesh.copy(X) @ W),
        lambda mesh, X, W: mesh.all_reduce(X @ mesh.copy(W)),
        lambda mesh, X, W: mesh.all_reduce(mesh.copy(X) @ mesh.copy(W)),
    ),
]


column_linear = Split(
    "column_linear",
    "y = X @ W with W cut by columns. Every shard ends with all of y.",
    given={"X": ("B K", "replicated"), "W": ("K N", "by columns")},
    wanted="y: [B, N], the same on every shard",
    sizes=column_sizes,
    dense=lambda n, X, W: X @ W,
    right=lambda mesh, X, W: mesh.all_gather(mesh.copy(X) @ W, dim=1),
    mistakes=COLUMN_MISTAKES,
)

row_linear = Split(
    "row_linear",
    "y = X @ W with W cut by rows, and X by the columns that meet them. Every shard ends with all of y.",
    given={"X": ("B K", "by columns"), "W": ("K N", "by rows")},
    wanted="y: [B, N], the same on every shard",
    sizes=row_sizes,
    dense=lambda n, X, W: X @ W,
    right=lambda mesh, X, W: mesh.all_reduce(X @ W),
    mistakes=ROW_MISTAKES,
)
