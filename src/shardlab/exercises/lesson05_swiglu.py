"""Lesson 05, second part: the gated MLP of Llama, whose gate and up lie in one fused weight."""

from functools import partial

import torch
from torch.nn.functional import gelu, silu

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.lesson05 import mlp_sizes
from shardlab.exercises.split import Split


def gated(mesh, X, gate_, up_, W2, f=silu):
    x_ = mesh.copy(X)
    return mesh.all_reduce((f(x_ @ gate_) * (x_ @ up_)) @ W2)


def cut_by(cut, then=gated):
    """The answer that makes gate and up of W13 by `cut`, and the result by `then`."""
    return lambda mesh, X, W13, W2: then(mesh, X, *cut(mesh, W13), W2)


def per_kind(mesh, W13):
    """gate and up, each cut by columns alone."""
    return [mesh.shard(part, dim=1) for part in W13.chunk(2, dim=1)]


def across(mesh, W13):
    """W13 cut as it lies, and then taken in two on each shard."""
    return mesh.shard(W13, dim=1).chunk(2, dim=1)


def in_turn(mesh, W13):
    """W13 cut as if gate and up lay in turn."""
    W_ = mesh.shard(W13, dim=1)
    return W_[:, ::2], W_[:, 1::2]


def taken_in_turn(mesh, W13):
    """The same, taken apart first."""
    return [mesh.shard(part, dim=1) for part in (W13[:, ::2], W13[:, 1::2])]


def of_kinds(then):
    """The answer that cuts gate and up right, and makes the result by then(mesh, X, gate_, up_, W2)."""
    return cut_by(per_kind, then)


SWIGLU_MISTAKES = [
    Mistake(
        "cut across gate and up",
        "W13 is cut as it lies, so the first shards have columns of the gate alone and the last ones of up alone, and "
        "half of a shard's piece is not its gate. Cut gate and up each alone: W13.chunk(2, dim=1), then mesh.shard.",
        cut_by(across),
        cut_by(lambda mesh, W13: across(mesh, W13)[::-1]),
    ),
    Mistake(
        "taken as interleaved",
        "In this W13 all of the gate comes first and then all of up. It was taken apart as if they lay in turn, which "
        "is gpt-oss's way.",
        cut_by(in_turn),
        cut_by(taken_in_turn),
        cut_by(lambda mesh, W13: taken_in_turn(mesh, W13)[::-1]),
    ),
    Mistake(
        "gate and up exchanged",
        "silu belongs to the gate, the first half of W13, and here it is applied to up.",
        cut_by(lambda mesh, W13: per_kind(mesh, W13)[::-1]),
    ),
    Mistake(
        "another nonlinearity",
        "Cut and product are right, but the gate wants silu.",
        *[of_kinds(partial(gated, f=f)) for f in (gelu, torch.sigmoid, torch.relu, torch.tanh, lambda x: x)],
    ),
    Mistake(
        "nonlinearity on both",
        "silu is applied to the gate alone, and up is taken as it is.",
        of_kinds(lambda mesh, X, gate_, up_, W2: mesh.all_reduce((silu(X @ gate_) * silu(X @ up_)) @ W2)),
        of_kinds(lambda mesh, X, gate_, up_, W2: mesh.all_reduce(silu((X @ gate_) * (X @ up_)) @ W2)),
    ),
    Mistake(
        "gate and up added",
        "The gate multiplies up, element by element, and here the two are added.",
        of_kinds(lambda mesh, X, gate_, up_, W2: mesh.all_reduce((silu(X @ gate_) + X @ up_) @ W2)),
    ),
    Mistake(
        "an all-reduce between the layers",
        "Each shard has its own columns of gate and up, finished. They are no partial sums, and adding those of "
        "different shards mixes features that have nothing to do with each other.",
        of_kinds(
            lambda mesh, X, gate_, up_, W2: mesh.all_reduce(
                (silu(mesh.all_reduce(X @ gate_)) * mesh.all_reduce(X @ up_)) @ W2
            )
        ),
        of_kinds(lambda mesh, X, gate_, up_, W2: mesh.all_reduce(mesh.all_reduce(silu(X @ gate_) * (X @ up_)) @ W2)),
    ),
    Mistake(
        "half of it",
        "One half of W13 is not used: both gate and up are wanted.",
        of_kinds(lambda mesh, X, gate_, up_, W2: mesh.all_reduce(silu(X @ gate_) @ W2)),
        of_kinds(lambda mesh, X, gate_, up_, W2: mesh.all_reduce((X @ up_) @ W2)),
    ),
    *mistakes.of_a_sum(
        (of_kinds(lambda mesh, X, gate_, up_, W2: (silu(X @ gate_) * (X @ up_)) @ W2), lambda y_, *_: y_),
    ),
    mistakes.missing_backward(
        of_kinds(lambda mesh, X, gate_, up_, W2: mesh.all_reduce((silu(X @ gate_) * (X @ up_)) @ W2)),
        of_kinds(lambda mesh, X, gate_, up_, W2: mesh.all_reduce((silu(mesh.copy(X) @ gate_) * (X @ up_)) @ W2)),
        of_kinds(lambda mesh, X, gate_, up_, W2: mesh.all_reduce((silu(X @ gate_) * (mesh.copy(X) @ up_)) @ W2)),
    ),
    Mistake(
        "two copies of X",
        "Every gradient is right, but X goes through mesh.copy twice, once for the gate and once for up, so backward "
        "reduces twice: let both products share one.",
        of_kinds(
            lambda mesh, X, gate_, up_, W2: mesh.all_reduce((silu(mesh.copy(X) @ gate_) * (mesh.copy(X) @ up_)) @ W2)
        ),
    ),
    mistakes.reduced_again(
        of_kinds(lambda mesh, X, gate_, up_, W2: mesh.copy(gated(mesh, X, gate_, up_, W2))),
        of_kinds(lambda mesh, X, gate_, up_, W2: gated(mesh, mesh.copy(X), gate_, up_, W2)),
    ),
]

swiglu = Split(
    "swiglu",
    "y = (silu(X @ gate) * (X @ up)) @ W2, where W13 = [gate, up] side by side, all of gate first. Place W13 so that "
    "one all-reduce is enough. Every shard ends with all of y.",
    given={"X": ("B D", "replicated"), "W13": ("D 2F", "plain"), "W2": ("F D", "by rows")},
    wanted="y: [B, D], the same on every shard; each shard holds its share of gate and of up",
    sizes=lambda n, integer: [size | {"2F": 2 * size["F"]} for size in mlp_sizes(n, integer)],
    dense=lambda n, X, W13, W2: (silu(X @ W13[:, : len(W2)]) * (X @ W13[:, len(W2) :])) @ W2,
    right=of_kinds(gated),
    mistakes=SWIGLU_MISTAKES,
)
