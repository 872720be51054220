"""Lesson 09: an MLP whose sequence is cut. X holds a token in each row."""

import torch
from torch.nn.functional import gelu, silu

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.split import Split


def mlp_sizes(n, integer):
    """Two shapes, of which n divides T and F. F is the largest, so that moving the weights costs more than moving X;
    and D is none of the pieces, so that no wrong product fits by chance."""
    T, D = n * integer(1, 2), integer(3, 5)
    D += D in (T, T // n)
    return [{"T": T, "D": D, "F": T + n * integer(3, 4)}, {"T": 2 * n, "D": 7, "F": 5 * n}]


def gathered(mesh, X):
    return mesh.all_gather(X, dim=0, grad="partial")


def hidden(mesh, X, W1, f=gelu):
    return f(gathered(mesh, X) @ W1)


def summed(mesh, p_):
    return mesh.reduce_scatter(p_, dim=0)


def own_rows(mesh, y_):
    return mesh.scatter(y_, dim=0)


def ending(end):
    """The answer that is right up to the partial sums, and goes on with end(mesh, partial)."""
    return lambda mesh, X, W1, W2: end(mesh, hidden(mesh, X, W1) @ W2)


def entering(enter):
    """The answer that multiplies enter(mesh, X), and is right from there on."""
    return lambda mesh, X, W1, W2: summed(mesh, gelu(enter(mesh, X) @ W1) @ W2)


MLP_MISTAKES = [
    Mistake(
        "no gather before the first product",
        "Each shard multiplies its own tokens by its own columns of W1. Then the partial sums of different shards are "
        "of different tokens, and there is nothing to add: every token has to meet all columns of W1.",
        lambda mesh, X, W1, W2: gelu(X @ W1) @ W2,
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(X @ W1) @ W2),
        lambda mesh, X, W1, W2: summed(mesh, gelu(X @ W1) @ W2),
    ),
    Mistake(
        "all-reduce and slice",
        "Every shard gets the whole sum and throws all but its own rows away: on a ring twice the bytes. A "
        "reduce-scatter gives each shard its rows of the sum, and nothing else.",
        ending(lambda mesh, p_: own_rows(mesh, mesh.all_reduce(p_))),
    ),
    Mistake(
        "whole on every shard",
        "Every shard has all of y, and each is to have its own tokens alone: that is what keeps the norms and the "
        "dropout behind it small.",
        ending(lambda mesh, p_: mesh.all_reduce(p_)),
        ending(lambda mesh, p_: mesh.all_gather(summed(mesh, p_), dim=0)),
        ending(lambda mesh, p_: mesh.all_gather(mesh.reduce_scatter(p_, dim=1), dim=1)),
    ),
    Mistake(
        "reduce-scatter along the wrong dim",
        "The sum is cut along dim 1: each shard has some features of all tokens. The tokens are the rows, dim 0.",
        ending(lambda mesh, p_: mesh.reduce_scatter(p_, dim=1)),
    ),
    Mistake(
        "gather along the wrong dim",
        "The shards' tokens are put side by side along dim 1, as if they were features: they are the rows, dim 0.",
        entering(lambda mesh, X: mesh.all_gather(X, dim=1, grad="partial")),
        entering(lambda mesh, X: mesh.all_gather(X, dim=1)),
    ),
    Mistake(
        "own rows of a partial sum",
        "Each shard keeps its own rows of its own partial sum, and the other shards' parts of these rows are lost: "
        "scatter only cuts, reduce_scatter adds first.",
        ending(own_rows),
    ),
    Mistake(
        "no reduce",
        "Each shard returns its partial sum of all tokens: full size, but only a part of every number.",
        ending(lambda mesh, p_: p_),
    ),
    Mistake(
        "mean for sum",
        "The partial sums are averaged, and they are to be added.",
        ending(lambda mesh, p_: summed(mesh, p_) / mesh.size),
        ending(lambda mesh, p_: own_rows(mesh, mesh.all_reduce(p_)) / mesh.size),
    ),
    Mistake(
        "a gather between the layers",
        "The hidden value is gathered, only to be cut again: what the first product leaves on a shard is what the "
        "second wants.",
        lambda mesh, X, W1, W2: summed(mesh, mesh.scatter(mesh.all_gather(hidden(mesh, X, W1), dim=1), dim=1) @ W2),
    ),
    Mistake(
        "a reduction between the layers",
        "After the first product each shard holds its own columns of the hidden value, finished. They are no partial "
        "sums, and adding those of different shards mixes features.",
        lambda mesh, X, W1, W2: summed(mesh, gelu(mesh.all_reduce(gathered(mesh, X) @ W1)) @ W2),
        lambda mesh, X, W1, W2: summed(mesh, mesh.all_reduce(hidden(mesh, X, W1)) @ W2),
    ),
    Mistake(
        "the weights gathered",
        "Both weights were put together on every shard, and each works on its own tokens: that is no tensor "
        "parallelism any more, and a shard has to have room for all of W1 and W2.",
        lambda mesh, X, W1, W2: gelu(X @ mesh.all_gather(W1, dim=1)) @ mesh.all_gather(W2, dim=0),
        lambda mesh, X, W1, W2: gelu(X @ mesh.all_gather(W1, 1, "partial")) @ mesh.all_gather(W2, 0, "partial"),
    ),
    Mistake(
        "no nonlinearity",
        "This is X @ W1 @ W2: the gelu between the layers is missing.",
        lambda mesh, X, W1, W2: summed(mesh, hidden(mesh, X, W1, lambda x: x) @ W2),
    ),
    Mistake(
        "nonlinearity after the second layer",
        "gelu belongs between the two layers, and comes behind the second.",
        lambda mesh, X, W1, W2: gelu(summed(mesh, gathered(mesh, X) @ W1 @ W2)),
        lambda mesh, X, W1, W2: summed(mesh, gelu(gathered(mesh, X) @ W1 @ W2)),
        ending(lambda mesh, p_: gelu(summed(mesh, p_))),
        ending(lambda mesh, p_: summed(mesh, gelu(p_))),
    ),
    Mistake(
        "another nonlinearity",
        "The split is right, but what stands between the layers is not torch's gelu.",
        *[
            lambda mesh, X, W1, W2, f=f: summed(mesh, hidden(mesh, X, W1, f) @ W2)
            for f in (torch.relu, silu, torch.tanh, torch.sigmoid, lambda x: gelu(x, approximate="tanh"))
        ],
    ),
    Mistake(
        "a gather whose backward only slices",
        "The gathered X goes into another product on each shard, so the gradients that come back to it are partial "
        'sums. A backward that keeps a slice of its own loses the other shards\' parts: say grad="partial".',
        entering(lambda mesh, X: mesh.all_gather(X, dim=0)),
    ),
    Mistake(
        "an all-reduce and a slice in backward",
        "The gradient is right, and it took twice the bytes: mesh.copy all-reduces it, and the gather keeps a slice. "
        'grad="partial" makes the backward a reduce-scatter.',
        entering(lambda mesh, X: mesh.copy(mesh.all_gather(X, dim=0))),
    ),
    Mistake(
        "reduced twice in backward",
        'grad="partial" reduces the gradient of X already, and mesh.copy does it once more: n times too large.',
        entering(lambda mesh, X: mesh.copy(gathered(mesh, X))),
    ),
    mistakes.copy_of_a_cut_tensor(
        entering(lambda mesh, X: gathered(mesh, mesh.copy(X))),
        entering(lambda mesh, X: mesh.all_gather(mesh.copy(X), dim=0)),
        lambda mesh, X, W1, W2: summed(mesh, gelu(gathered(mesh, X) @ mesh.copy(W1)) @ W2),
        lambda mesh, X, W1, W2: summed(mesh, hidden(mesh, X, W1) @ mesh.copy(W2)),
        lambda mesh, X, W1, W2: summed(mesh, mesh.copy(hidden(mesh, X, W1)) @ W2),
        ending(lambda mesh, p_: mesh.copy(summed(mesh, p_))),
    ),
]


sequence_mlp = Split(
    "sequence_mlp",
    "y = gelu(X @ W1) @ W2, with the sequence of X and of y cut: each shard has its own rows. With gradients=True the "
    "gradients count, too.",
    given={"X": ("T D", "by rows"), "W1": ("D F", "by columns"), "W2": ("F D", "by rows")},
    wanted="y: [T, D], cut by rows: [T/n, D] on each shard",
    sizes=mlp_sizes,
    dense=lambda n, X, W1, W2: gelu(X @ W1) @ W2,
    right=ending(summed),
    mistakes=MLP_MISTAKES,
    results={"y": "by rows"},
)
