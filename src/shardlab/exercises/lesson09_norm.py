"""Lesson 09, second part: an RMSNorm whose sequence is cut. X holds a token in each row."""

import torch
from torch.nn.functional import layer_norm

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.lesson09 import gathered, own_rows
from shardlab.exercises.split import Split

EPS = 1e-5


def mean_square(X):
    return X.pow(2).mean(-1, keepdim=True)


def normed(scale):
    """The answer that divides by something else than the root of a token's mean square: X · scale(mesh, X) · w."""
    return lambda mesh, X, w: X * scale(mesh, X) * mesh.copy(w)


def weighted(weight):
    """The answer with another weight, weight(mesh, w)."""
    return lambda mesh, X, w: rms(X) * weight(mesh, w)


def rms(X):
    return X * (mean_square(X) + EPS).rsqrt()


def variance(X):
    return X.var(-1, keepdim=True, correction=0)


NORM_MISTAKES = [
    Mistake(
        "the weight's gradient is not reduced",
        "y is right, and so is the gradient of X. But w is replicated, and each shard's copy saw its own tokens alone: "
        "its gradient is a part of the sum. After one step of an optimizer the copies differ. mesh.copy(w) adds the "
        "parts up in backward.",
        lambda mesh, X, w: rms(X) * w,
    ),
    Mistake(
        "the weight's gradient is reduced twice",
        "One mesh.copy of w adds the parts up; the second adds n equal sums.",
        weighted(lambda mesh, w: mesh.copy(mesh.copy(w))),
    ),
    Mistake(
        "the weight's gradient is averaged",
        "The shards' gradients of w are parts of one sum over all tokens, and here their mean is taken: 1/n of it.",
        weighted(lambda mesh, w: mesh.copy(w) / mesh.size + (1 - 1 / mesh.size) * w.detach()),
    ),
    Mistake(
        "the weight added up in forward",
        "w is whole on every shard, and an all-reduce of it adds n equal copies. It is its gradient that is to be "
        "added up: mesh.copy.",
        weighted(lambda mesh, w: mesh.all_reduce(w)),
    ),
    Mistake(
        "a mean over the tokens",
        "The mean runs over tokens, and a norm looks at each token alone: the mean over its features, dim -1.",
        normed(lambda mesh, X: (X.pow(2).mean() + EPS).rsqrt()),
        normed(lambda mesh, X: (X.pow(2).mean(0, keepdim=True) + EPS).rsqrt()),
        normed(lambda mesh, X: (mesh.all_reduce(X.pow(2).mean()) / mesh.size + EPS).rsqrt()),
        normed(lambda mesh, X: (mesh.all_reduce(X.pow(2).mean(0)) / mesh.size + EPS).rsqrt()),
    ),
    Mistake(
        "mean squares of different tokens added up",
        "The mean squares of the shards are added up, and they are of different tokens. A norm looks at each token "
        "alone, and all of a token is on one shard: nothing is to be communicated.",
        normed(lambda mesh, X: (mesh.all_reduce(mean_square(X)) / mesh.size + EPS).rsqrt()),
        normed(lambda mesh, X: (mesh.all_reduce(mean_square(X)) + EPS).rsqrt()),
    ),
    Mistake(
        "a LayerNorm",
        "The mean is subtracted, as in a LayerNorm: an RMSNorm only divides.",
        lambda mesh, X, w: layer_norm(X, X.shape[-1:], None, None, EPS) * mesh.copy(w),
        lambda mesh, X, w: (X - X.mean(-1, keepdim=True)) * (mean_square(X) + EPS).rsqrt() * mesh.copy(w),
    ),
    Mistake(
        "the variance",
        "It is divided by the standard deviation, which the mean was taken away from: the RMS is the root of the mean "
        "square.",
        normed(lambda mesh, X: (variance(X) + EPS).rsqrt()),
        normed(lambda mesh, X: 1 / (X.std(-1, keepdim=True) + EPS)),
        normed(lambda mesh, X: (X.var(-1, keepdim=True) + EPS).rsqrt()),
    ),
    Mistake(
        "sum for mean",
        "The squares are added up, and their mean is wanted.",
        normed(lambda mesh, X: (X.pow(2).sum(-1, keepdim=True) + EPS).rsqrt()),
        normed(lambda mesh, X: 1 / (X.norm(dim=-1, keepdim=True) + EPS)),
    ),
    Mistake(
        "no root",
        "It is divided by the mean square, and its root is missing.",
        normed(lambda mesh, X: 1 / (mean_square(X) + EPS)),
    ),
    Mistake(
        "multiplied by the root",
        "It is multiplied by the root of the mean square, and divided is wanted: rsqrt, not sqrt.",
        normed(lambda mesh, X: (mean_square(X) + EPS).sqrt()),
    ),
    Mistake(
        "eps outside of the root",
        "eps is added to the root, and belongs under it: (mean square + eps).rsqrt().",
        normed(lambda mesh, X: 1 / (mean_square(X).sqrt() + EPS)),
    ),
    Mistake(
        "no eps",
        "eps is missing under the root: a token of zeros would end in nan.",
        normed(lambda mesh, X: mean_square(X).rsqrt()),
    ),
    Mistake(
        "another eps",
        "eps is another one than 1e-5.",
        *[
            normed(lambda mesh, X, eps=eps: (mean_square(X) + eps).rsqrt())
            for eps in (1e-6, 1e-8, torch.finfo(torch.float32).eps, 1e-3)
        ],
    ),
    Mistake(
        "no weight",
        "The weight w is missing.",
        lambda mesh, X, w: rms(X),
    ),
    Mistake(
        "one more than the weight",
        "It is multiplied by 1 + w, as Gemma's norms do; here w alone is wanted.",
        weighted(lambda mesh, w: 1 + mesh.copy(w)),
    ),
    Mistake(
        "the weight added",
        "w is added, and it multiplies.",
        lambda mesh, X, w: rms(X) + mesh.copy(w),
    ),
    Mistake(
        "gathered for nothing",
        "The tokens are gathered, normed on every shard, and cut again. All of a token is on its shard already: "
        "nothing is to be communicated.",
        lambda mesh, X, w: own_rows(mesh, rms(gathered(mesh, X)) * mesh.copy(w)),
        lambda mesh, X, w: own_rows(mesh, rms(mesh.all_gather(X, dim=0)) * w),
    ),
    Mistake(
        "whole on every shard",
        "Every shard has all tokens at the end, and each is to have its own alone.",
        lambda mesh, X, w: mesh.all_gather(rms(X) * mesh.copy(w), dim=0),
        lambda mesh, X, w: rms(mesh.all_gather(X, dim=0)) * w,
    ),
    mistakes.copy_of_a_cut_tensor(
        lambda mesh, X, w: rms(mesh.copy(X)) * mesh.copy(w),
        lambda mesh, X, w: mesh.copy(rms(X) * mesh.copy(w)),
        lambda mesh, X, w: mesh.copy(rms(X) * w),
        lambda mesh, X, w: rms(mesh.copy(X)) * w,
        lambda mesh, X, w: mesh.copy(rms(X)) * mesh.copy(w),
    ),
]


def small(shape, size, random):
    """Numbers so small that eps shows."""
    return 0.02 * torch.randn(shape, generator=random, dtype=torch.float64, device="cpu")


sequence_norm = Split(
    "sequence_norm",
    "y = X / sqrt(mean of X² over the features + 1e-5) · w, an RMSNorm of each row. w is on every shard, and so is to "
    "be its whole gradient.",
    given={"X": ("T D", "by rows"), "w": ("D", "replicated")},
    wanted="y: [T, D], cut by rows: [T/n, D] on each shard",
    sizes=lambda n, integer: [{"T": n * integer(2, 3), "D": integer(4, 6)}, {"T": 2 * n, "D": 3}],
    dense=lambda n, X, w: rms(X) * w,
    right=lambda mesh, X, w: rms(X) * mesh.copy(w),
    mistakes=NORM_MISTAKES,
    results={"y": "by rows"},
    draw={"X": small},
)
