"""Lesson 05: the MLP of a transformer, split by columns and then by rows: one all-reduce."""

import torch
from torch.nn.functional import gelu, silu

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.split import Split


def mlp_sizes(n, integer):
    """Two shapes; F, the hidden features, divides by n, and differs from D, so that no wrong product fits by chance."""
    D = integer(3, 5)
    F = n * integer(2, 3)
    return [{"B": integer(2, 3), "D": D, "F": F + n * (F == D)}, {"B": 2, "D": 4, "F": 3 * n}]


def hidden(mesh, X, W1):
    return gelu(mesh.copy(X) @ W1)


def columns_of(mesh, h):
    """Each shard's own columns of a value that is whole on every shard."""
    return mesh.scatter(h, dim=1)


TOO_MANY = "one reduction will do for both layers: what the first product leaves on a shard is what the second wants"
MLP_MISTAKES = [
    Mistake(
        "an all-reduce between the layers",
        "After the first product each shard holds its own columns of the hidden value, finished. They are no partial "
        "sums, and adding those of different shards mixes features that have nothing to do with each other.",
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(mesh.all_reduce(X @ W1)) @ W2),
        lambda mesh, X, W1, W2: mesh.all_reduce(mesh.all_reduce(gelu(X @ W1)) @ W2),
        lambda mesh, X, W1, W2: gelu(mesh.all_reduce(X @ W1)) @ W2,
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(X @ W1)) @ W2,
    ),
    Mistake(
        "a gather between the layers",
        f"The hidden value is gathered, only to be cut again: {TOO_MANY}.",
        lambda mesh, X, W1, W2: mesh.all_reduce(columns_of(mesh, mesh.all_gather(gelu(X @ W1), dim=1)) @ W2),
        lambda mesh, X, W1, W2: mesh.all_reduce(columns_of(mesh, gelu(mesh.all_gather(X @ W1, dim=1))) @ W2),
    ),
    mistakes.baseline(
        lambda mesh, X, W1, W2: gelu(X @ mesh.all_gather(W1, dim=1)) @ mesh.all_gather(W2, dim=0),
        lambda mesh, X, W1, W2: mesh.all_gather(gelu(X @ W1), dim=1) @ mesh.all_gather(W2, dim=0),
    ),
    Mistake(
        "no nonlinearity",
        "This is X @ W1 @ W2: the gelu between the layers is missing.",
        lambda mesh, X, W1, W2: mesh.all_reduce(X @ W1 @ W2),
    ),
    Mistake(
        "nonlinearity after the second layer",
        "gelu belongs between the two layers, and comes behind the second.",
        lambda mesh, X, W1, W2: gelu(mesh.all_reduce(X @ W1 @ W2)),
        lambda mesh, X, W1, W2: gelu(mesh.all_reduce(gelu(X @ W1) @ W2)),
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(X @ W1 @ W2)),
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(gelu(X @ W1) @ W2)),
    ),
    Mistake(
        "another nonlinearity",
        "The split is right, but what stands between the layers is not torch's gelu.",
        *[
            lambda mesh, X, W1, W2, f=f: mesh.all_reduce(f(X @ W1) @ W2)
            for f in (torch.relu, silu, torch.tanh, torch.sigmoid)
        ],
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(X @ W1, approximate="tanh") @ W2),
        lambda mesh, X, W1, W2: mesh.all_reduce(torch.softmax(X @ W1, -1) @ W2),
    ),
    Mistake(
        "nonlinearity before the first layer",
        "gelu belongs between the two layers, and comes before the first.",
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(X) @ W1 @ W2),
    ),
    *mistakes.of_a_sum(
        (lambda mesh, X, W1, W2: hidden(mesh, X, W1) @ W2, lambda y_, *_: y_),
        (lambda mesh, X, W1, W2: X @ W1 @ W2, lambda y_, *_: y_),
    ),
    mistakes.missing_backward(
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(X @ W1) @ W2),
    ),
    mistakes.reduced_again(
        lambda mesh, X, W1, W2: mesh.copy(mesh.all_reduce(hidden(mesh, X, W1) @ W2)),
        lambda mesh, X, W1, W2: mesh.copy(mesh.all_reduce(gelu(X @ W1) @ W2)),
        lambda mesh, X, W1, W2: mesh.all_reduce(mesh.copy(hidden(mesh, X, W1) @ W2)),
        lambda mesh, X, W1, W2: mesh.all_reduce(mesh.copy(gelu(X @ W1) @ W2)),
        lambda mesh, X, W1, W2: mesh.all_reduce(hidden(mesh, mesh.copy(X), W1) @ W2),
    ),
    mistakes.copy_of_a_cut_tensor(
        lambda mesh, X, W1, W2: mesh.all_reduce(mesh.copy(hidden(mesh, X, W1)) @ W2),
        lambda mesh, X, W1, W2: mesh.all_reduce(mesh.copy(gelu(X @ W1)) @ W2),
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(mesh.copy(X @ W1)) @ W2),
        lambda mesh, X, W1, W2: mesh.all_reduce(gelu(mesh.copy(X) @ mesh.copy(W1)) @ W2),
        lambda mesh, X, W1, W2: mesh.all_reduce(hidden(mesh, X, W1) @ mesh.copy(W2)),
    ),
]


def with_biases(first, then):
    """An answer of `mlp_bias`: first(hidden before gelu, b1) makes gelu's input, then(mesh, partial, b2) the result."""
    return lambda mesh, X, W1, b1, W2, b2: then(mesh, gelu(first(mesh, mesh.copy(X) @ W1, b1)) @ W2, b2)


def added(mesh, h, b):
    return h + b


def reduced(mesh, p_, b2):
    return mesh.all_reduce(p_) + b2


BIAS_MISTAKES = [
    Mistake(
        "the second bias on every shard",
        "Every shard adds b2 to its partial sum, and the all-reduce adds n of them: y is off by (n - 1) b2. b2 is "
        "replicated, and comes after the reduction.",
        with_biases(added, lambda mesh, p_, b2: mesh.all_reduce(p_ + b2)),
        with_biases(added, lambda mesh, p_, b2: mesh.all_reduce(p_) + mesh.size * b2),
    ),
    Mistake(
        "the second bias divided by n",
        "n times b2 / n is b2, so the value is right. But each shard's own copy of b2 then gets 1/n of the gradient.",
        with_biases(added, lambda mesh, p_, b2: mesh.all_reduce(p_ + b2 / mesh.size)),
    ),
    Mistake(
        "the second bias on one shard",
        "One shard adds b2, so the value is right. But the other shards' copies of b2 get no gradient: after one step "
        "of an optimizer the copies differ.",
        with_biases(added, lambda mesh, p_, b2: mesh.all_reduce(p_ + torch.where(mesh.rank == 0, b2, 0 * b2))),
    ),
    Mistake(
        "a fraction of the second bias",
        "Only b2 / n arrives in y: nothing adds the fractions up after the reduction.",
        with_biases(added, lambda mesh, p_, b2: mesh.all_reduce(p_) + b2 / mesh.size),
    ),
    Mistake(
        "the second bias reduced",
        "b2 is whole on every shard: an all-reduce of it adds n equal copies.",
        with_biases(added, lambda mesh, p_, b2: mesh.all_reduce(p_) + mesh.all_reduce(b2)),
    ),
    Mistake(
        "the first bias reduced",
        "b1 is cut as the columns of W1 are: each shard's piece belongs to its own hidden features, and a sum over "
        "the shards mixes them.",
        with_biases(lambda mesh, h, b1: h + mesh.all_reduce(b1), reduced),
    ),
    Mistake(
        "the second bias taken back",
        "(n - 1) b2 is subtracted again, so the value is right. But each shard's own copy of b2 then gets a gradient "
        "that is not the one of b2 in one piece.",
        with_biases(added, lambda mesh, p_, b2: mesh.all_reduce(p_ + b2) - (mesh.size - 1) * b2),
    ),
    Mistake(
        "a fraction of the first bias",
        "b1 / n is added, as if all shards had the same b1. Each has the piece that belongs to its own hidden "
        "features, and no other shard adds to them.",
        with_biases(lambda mesh, h, b1: h + b1 / mesh.size, reduced),
    ),
    Mistake(
        "the first bias missing",
        "b1 is still to be added, before the gelu.",
        with_biases(lambda mesh, h, b1: h, reduced),
    ),
    Mistake(
        "the second bias missing",
        "b2 is still to be added, after the reduction.",
        with_biases(added, lambda mesh, p_, b2: mesh.all_reduce(p_)),
    ),
    Mistake(
        "no bias",
        "Both biases are missing: b1 comes before the gelu, b2 after the reduction.",
        with_biases(lambda mesh, h, b1: h, lambda mesh, p_, b2: mesh.all_reduce(p_)),
    ),
    Mistake(
        "the first bias after the gelu",
        "b1 belongs to the first layer, and is added before the gelu: gelu(X @ W1 + b1).",
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce((gelu(X @ W1) + b1) @ W2) + b2,
    ),
    Mistake(
        "a bias within its product",
        "A bias is added to what goes into the product, and X @ (W1 + b1) is not X @ W1 + b1.",
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(gelu(X @ (W1 + b1)) @ W2) + b2,
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(gelu(X @ W1 + b1) @ (W2 + b2)),
    ),
    Mistake(
        "an all-reduce between the layers",
        "After the first product each shard holds its own columns of the hidden value, finished: adding those of "
        "different shards mixes features.",
        with_biases(lambda mesh, h, b1: mesh.all_reduce(h) + b1, reduced),
        with_biases(lambda mesh, h, b1: mesh.all_reduce(h + b1), reduced),
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(mesh.all_reduce(gelu(X @ W1 + b1)) @ W2) + b2,
    ),
    *mistakes.of_a_sum(
        (lambda mesh, X, W1, b1, W2, b2: gelu(X @ W1 + b1) @ W2, lambda y_, X, W1, b1, W2, b2: y_ + b2),
        (lambda mesh, X, W1, b1, W2, b2: gelu(X @ W1 + b1) @ W2 + b2, lambda y_, *_: y_),
        (lambda mesh, X, W1, b1, W2, b2: gelu(X @ W1 + b1) @ W2, lambda y_, *_: y_),
    ),
    mistakes.baseline(
        lambda mesh, X, W1, b1, W2, b2: mesh.all_gather(gelu(X @ W1 + b1), dim=1) @ mesh.all_gather(W2, dim=0) + b2,
    ),
    mistakes.missing_backward(
        lambda mesh, X, W1, b1, W2, b2: mesh.all_reduce(gelu(X @ W1 + b1) @ W2) + b2,
    ),
    mistakes.reduced_again(
        with_biases(added, lambda mesh, p_, b2: mesh.copy(mesh.all_reduce(p_) + b2)),
        with_biases(added, lambda mesh, p_, b2: mesh.copy(mesh.all_reduce(p_)) + b2),
        with_biases(added, lambda mesh, p_, b2: mesh.all_reduce(p_) + mesh.copy(b2)),
    ),
    mistakes.copy_of_a_cut_tensor(
        with_biases(lambda mesh, h, b1: h + mesh.copy(b1), reduced),
        with_biases(lambda mesh, h, b1: mesh.copy(h + b1), reduced),
    ),
]


mlp = Split(
    "mlp",
    "y = gelu(X @ W1) @ W2, W1 cut by columns and W2 by rows, with one all-reduce. Every shard ends with all of y.",
    given={"X": ("B D", "replicated"), "W1": ("D F", "by columns"), "W2": ("F D", "by rows")},
    wanted="y: [B, D], the same on every shard",
    sizes=mlp_sizes,
    dense=lambda n, X, W1, W2: gelu(X @ W1) @ W2,
    right=lambda mesh, X, W1, W2: mesh.all_reduce(hidden(mesh, X, W1) @ W2),
    mistakes=MLP_MISTAKES,
)

mlp_bias = Split(
    "mlp_bias",
    "y = gelu(X @ W1 + b1) @ W2 + b2, W1 and b1 cut by columns, W2 by rows, b2 on every shard. Each bias counts once.",
    given={
        "X": ("B D", "replicated"),
        "W1": ("D F", "by columns"),
        "b1": ("F", "cut"),
        "W2": ("F D", "by rows"),
        "b2": ("D", "replicated"),
    },
    wanted="y: [B, D], the same on every shard",
    sizes=mlp_sizes,
    dense=lambda n, X, W1, b1, W2, b2: gelu(X @ W1 + b1) @ W2 + b2,
    right=with_biases(added, reduced),
    mistakes=BIAS_MISTAKES,
)
