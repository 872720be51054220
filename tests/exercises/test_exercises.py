"""The checks of the exercises: right answers pass, however they are written, and each wrong one is told its own name.

The answers here are written independently of the tables in shardlab.exercises, in the words of a learner.
"""

import random
import re
import sys
import time
from xml.etree import ElementTree

import answers05
import answers06
import answers07
import answers08
import answers09
import answers10
import answers11
import answers12
import pytest
import torch
from torch.nn import functional as F

from shardlab import Mesh, Shards, cost, exercises
from shardlab.exercises import lesson06_kinds
from shardlab.exercises.exercise import Exercise
from shardlab.exercises.formula import TRIES
from shardlab.exercises.lesson08 import token_sizes
from shardlab.exercises.real_ranks import OnRanks
from shardlab.exercises.split import Split
from shardlab.exercises.verdict import UNSOLVED, Verdict

ALL = {
    name: value
    for name, value in vars(exercises).items()
    if isinstance(value, Exercise) and not isinstance(value, OnRanks)  # test_lesson13 has those
}
SPLITS = {name: exercise for name, exercise in ALL.items() if isinstance(exercise, Split)}
GRAD = "with gradients"  # the mistake shows in the gradients alone
RIGHT_NUMBERS = answers10.RIGHT_NUMBERS | answers11.RIGHT_NUMBERS | answers12.RIGHT_NUMBERS
WRONG_NUMBERS = answers10.WRONG_NUMBERS | answers11.WRONG_NUMBERS | answers12.WRONG_NUMBERS


# ---------------------------------------------------------------- answers that are right, with and without gradients


def column_transposed(mesh, X, W):
    y_ = F.linear(mesh.copy(X), W.T)
    return mesh.all_gather(y_, -1)


def column_einsum(mesh, X, W):
    return mesh.all_gather(torch.einsum("bk,kn->bn", mesh.copy(X), W), dim=1)


def column_with_bias_of_zeros(mesh, X, W):
    zero_ = mesh.replicate(torch.zeros((), dtype=torch.float64))
    return mesh.all_gather(torch.matmul(mesh.copy(X), W) + zero_, dim=1)


def column_back_and_forth(mesh, X, W):
    if mesh.size == 1:
        return X @ W
    return mesh.all_gather((W.T @ mesh.copy(X).T).T, dim=1)


def column_on_the_axis(mesh, X, W):
    tp = mesh["tp"]
    return tp.all_gather(tp.copy(X).mm(W), dim=1)


def row_in_two_steps(mesh, X, W):
    partial_ = F.linear(X, W.transpose(0, 1))
    return mesh.all_reduce(partial_)


def row_einsum(mesh, X, W):
    return mesh.all_reduce(torch.einsum("bk,kn->bn", X, W), op="sum")


def row_outer_products(mesh, X, W):
    return mesh.all_reduce((X.unsqueeze(-1) * W).sum(1))


def shard_by_shard(mesh, X, W):
    return mesh.all_reduce(Shards([x @ w for x, w in zip(X.shards, W.shards, strict=True)], mesh))


def bias_with_copies_elsewhere(mesh, X, W, b):
    y_ = mesh.all_reduce(torch.addmm(torch.zeros_like(b), X, W))
    return torch.add(y_, b)


def uneven_by_hand(mesh, X, W):
    pieces = W.tensor_split(mesh.size, dim=1)
    W_ = Shards([pieces[rank].clone() for rank in mesh.ranks], mesh)
    return mesh.all_gather(mesh.copy(X) @ W_, dim=1)


def uneven_last_takes_the_rest(mesh, X, W):
    width = W.shape[1] // mesh.size
    ends = [width * (r + 1) for r in range(mesh.size - 1)]
    pieces = W.tensor_split(ends, dim=1)
    W_ = Shards([pieces[rank] for rank in mesh.ranks], mesh)
    return mesh.all_gather(F.linear(mesh.copy(X), W_.T), dim=1)


def padded_with_cat(mesh, X, W):
    K, N = W.shape
    width = -(-N // mesh.size)
    zeros = torch.zeros(K, width * mesh.size - N, dtype=W.dtype)
    W_ = mesh.shard(torch.cat([W, zeros], dim=1), dim=1)
    return mesh.all_gather(mesh.copy(X) @ W_, dim=1).narrow(1, 0, N)


def padded_in_front(mesh, X, W):
    extra = -W.shape[1] % mesh.size
    y_ = mesh.all_gather(mesh.copy(X) @ mesh.shard(F.pad(W, (extra, 0)), dim=1), dim=1)
    return y_[:, extra:]


def padded_shard_by_shard(mesh, X, W):
    width = -(-W.shape[1] // mesh.size)
    W_ = mesh.shard(W, dim=1)
    own = [F.pad(w, (0, width - w.shape[1])) for w in W_.shards]
    y_ = mesh.all_gather(mesh.copy(X) @ Shards(own, mesh), dim=1)
    sizes = [len(piece) for piece in torch.arange(W.shape[1]).tensor_split(mesh.size)]
    return torch.cat([y_[:, r * width : r * width + size] for r, size in enumerate(sizes)], dim=1)


RIGHT = {
    "weighted_sum": [
        lambda mesh, X: mesh.all_reduce(mesh.copy(X) * (1 + mesh.rank)),
        lambda mesh, X: mesh.all_reduce(torch.mul(mesh.rank + 1, mesh.copy(X))),
        lambda mesh, X: mesh.all_reduce((1.0 + mesh.rank.double()) * mesh.copy(X.clone())),
    ],
    "column_linear": [
        column_transposed,
        column_einsum,
        column_with_bias_of_zeros,
        column_back_and_forth,
        column_on_the_axis,
    ],
    "row_linear": [
        row_in_two_steps,
        row_einsum,
        row_outer_products,
        lambda mesh, X, W: mesh.all_reduce(X.matmul(W)),
        lambda mesh, X, W: mesh.all_gather(mesh.reduce_scatter(X @ W, dim=1), dim=1),
        shard_by_shard,
    ],
    "reduce_then_activate": [
        lambda mesh, X, W: F.gelu(row_einsum(mesh, X, W)),
        lambda mesh, X, W: torch.nn.GELU()(row_in_two_steps(mesh, X, W)),
        lambda mesh, X, W: mesh.all_gather(F.gelu(mesh.reduce_scatter(X @ W, dim=0)), dim=0),
        lambda mesh, X, W: (lambda p: p * 0.5 * (1 + torch.erf(p / 2**0.5)))(mesh.all_reduce(X @ W)),
    ],
    "row_bias": [
        bias_with_copies_elsewhere,
        lambda mesh, X, W, b: b + row_einsum(mesh, X, W),
        lambda mesh, X, W, b: mesh.all_gather(mesh.reduce_scatter(X @ W, dim=1) + mesh.scatter(b, dim=0), dim=1),
        lambda mesh, X, W, b: mesh.all_gather(mesh.reduce_scatter(X @ W, dim=1), dim=1) + b,
        lambda mesh, X, W, b: mesh.all_reduce(F.linear(X, W.T)) + b.unsqueeze(0),
    ],
    "uneven_linear": [
        lambda mesh, X, W: mesh.all_gather(mesh.copy(X) @ mesh.shard(W, 1), 1),
        lambda mesh, X, W: mesh.all_gather(F.linear(mesh.copy(X), mesh.shard(W.T, dim=0)), dim=-1),
        uneven_by_hand,
        uneven_last_takes_the_rest,
    ],
    "padded_linear": [padded_with_cat, padded_in_front, padded_shard_by_shard],
    **answers05.RIGHT,
    **answers06.RIGHT,
    **answers07.RIGHT,
    **answers08.RIGHT,
    **answers09.RIGHT,
    **answers11.RIGHT,
}
WITHOUT_GRADIENTS = {  # right in value and communication; not asked for more
    "weighted_sum": [lambda mesh, X: mesh.all_reduce((mesh.rank + 1) * X)],
    "column_linear": [
        lambda mesh, X, W: mesh.all_gather(X @ W, dim=1),
        lambda mesh, X, W: mesh.all_gather((X @ W).detach(), dim=1),
    ],
    "row_bias": [lambda mesh, X, W, b: mesh.all_reduce(X @ W + mesh.copy(b) / mesh.size)],
    "uneven_linear": [lambda mesh, X, W: mesh.all_gather(X @ mesh.shard(W, dim=1), dim=1)],
    "padded_linear": [lambda mesh, X, W: padded_with_cat(mesh, X.detach(), W)],
}


def numbered(table):
    return [
        pytest.param(name, each, id=f"{name}-{i}") for name, answers in table.items() for i, each in enumerate(answers)
    ]


@pytest.mark.parametrize("name, answer", numbered(RIGHT))
def test_a_right_answer_is_never_rejected(name, answer):
    verdict = SPLITS[name].check(answer, gradients=True)
    assert verdict.passed, verdict
    assert verdict.mistake is None
    if answer is RIGHT[name][0]:
        assert SPLITS[name].check(answer).passed


@pytest.mark.parametrize("name, answer", numbered(WITHOUT_GRADIENTS))
def test_what_is_not_asked_is_not_held_against_an_answer(name, answer):
    verdict = SPLITS[name].check(answer)
    assert verdict.passed, verdict


def test_every_exercise_has_right_answers():
    assert set(RIGHT) == set(SPLITS)
    assert set(ALL) == {*SPLITS, *THREE}


# ---------------------------------------------------------------- answers that are wrong, by the name of the mistake


def stacked(mesh, X, W):
    return mesh.all_gather(torch.matmul(X, W), 0)


def rotated(mesh, X, W):
    y_ = mesh.all_gather(X @ W, dim=1)
    return y_.roll(y_.shape[1] // mesh.size, 1)


def backwards(mesh, X, W):
    pieces = mesh.all_gather(X @ W, dim=1).tensor_split(mesh.size, dim=1)
    return torch.cat(tuple(reversed(pieces)), dim=1)


def whole_weight(mesh, X, W):
    return torch.matmul(X, mesh.all_gather(W, -1))


def whole_row_weight(mesh, X, W):
    return F.linear(mesh.all_gather(X, -1), mesh.all_gather(W, 0).T)


def decoy(mesh, X, W):
    mesh.all_gather(X @ W, dim=1)
    return mesh.replicate(X.shards[0] @ torch.cat(W.shards, 1))


def first_shard_for_all(mesh, X, W):
    y_ = X @ W
    return torch.cat([mesh.broadcast(y_, src=0)] * mesh.size, dim=1)


def peeking(mesh, X, W):
    y = torch.cat([x @ w for x, w in zip(X.shards, W.shards, strict=True)], dim=1)
    return Shards([y] * mesh.size, mesh)


def peeking_rows(mesh, X, W):
    y = sum(x @ w for x, w in zip(X.shards, W.shards, strict=True))
    return Shards([y.clone() for _ in X.shards], mesh)


def slices_of_the_whole(mesh, X, W):
    y = torch.cat([x @ w for x, w in zip(X.shards, W.shards, strict=True)], dim=1)
    return mesh.all_gather(Shards(list(y.chunk(mesh.size, dim=1)), mesh), dim=1)


def own_slice_of_the_whole(mesh, X, W):
    y = torch.cat([x @ w for x, w in zip(X.shards, W.shards, strict=True)], dim=1)
    width = y.shape[1] // mesh.size
    pieces = mesh.replicate(y)[:, mesh.rank * width : (mesh.rank + 1) * width]
    return mesh.all_gather(pieces, dim=1)


def on_a_mesh_of_its_own(mesh, X, W):
    other = Mesh(mesh.size)
    y_ = other.all_gather(Shards(X.shards, other).detach() @ Shards(W.shards, other).detach(), dim=1)
    width = W.shape[1]
    return mesh.all_gather(Shards([y_.shards[0][:, r * width : (r + 1) * width] for r in mesh.ranks], mesh), dim=1)


def through_numbers(mesh, X, W):
    """No tensor of another shard, but its numbers."""
    lists = [(x @ w).T.tolist() for x, w in zip(X.shards, W.shards, strict=True)]
    y = torch.tensor([row for rows in lists for row in rows], dtype=torch.float64).T
    width = len(y.T) // mesh.size
    return mesh.all_gather(Shards([y[:, r * width :][:, :width] for r in mesh.ranks], mesh), dim=1)


def sum_of_all_over_n(mesh, X, W):
    total = sum((X @ W).shards)
    return mesh.all_reduce(Shards([total / mesh.size for _ in X.shards], mesh))


def only_the_first_brings_it(mesh, X, W):
    total = sum(x @ w for x, w in zip(X.shards, W.shards, strict=True))
    return mesh.all_reduce(Shards([total * (rank == 0) for rank in mesh.ranks], mesh))


def by_index(mesh, X, W):
    return mesh.all_reduce(Shards([X.shards[r] @ W.shards[r] for r in range(mesh.size)], mesh))


def placed_again(mesh, X, W):
    return mesh.replicate(torch.cat((X @ W).shards, dim=1))


def only_if_first(mesh, b):
    return b * (mesh.rank == 0)


def only_if_last(mesh, b):
    return torch.where(mesh.rank == mesh.size - 1, b, b * 0)


def truncated(mesh, X, W):
    width = W.shape[1] // mesh.size
    W_ = mesh.shard(W.narrow(1, 0, width * mesh.size), dim=1)
    return mesh.all_gather(X @ W_, 1)


def chunk_in_a_loop(mesh, X, W):
    chunks = W.chunk(mesh.size, 1)
    return mesh.all_gather(Shards([x @ chunks[r] for r, x in zip(mesh.ranks, X.shards, strict=True)], mesh), dim=1)


def chunk_with_zip(mesh, X, W):
    pairs = zip(X.shards, W.chunk(mesh.size, 1))  # noqa: B905
    return mesh.all_gather(Shards([x @ w for x, w in pairs], mesh), dim=1)


def zero_padded(mesh, W):
    extra = -W.shape[1] % mesh.size
    return mesh.shard(torch.cat([W, W.new_zeros(len(W), extra)], 1), dim=1)


def garbage_padded(mesh, X, W):
    extra = -W.shape[1] % mesh.size
    W_ = mesh.shard(torch.cat([W, torch.ones(len(W), extra, dtype=W.dtype)], 1), dim=1)
    return mesh.all_gather(mesh.copy(X) @ W_, dim=1)[:, : W.shape[1]]


def padding_in_the_mean(mesh, X, W):
    y_ = mesh.all_gather(mesh.copy(X) @ zero_padded(mesh, W), dim=1)
    return y_[:, : W.shape[1]] + y_[:, W.shape[1] :].sum(dim=-1).unsqueeze(1)


def padded_with_the_last_column(mesh, X, W):
    W_ = mesh.shard(torch.cat([W, *[W[:, -1:]] * (-W.shape[1] % mesh.size)], dim=1), dim=1)
    return mesh.all_gather(mesh.copy(X) @ W_, dim=1)[:, : W.shape[1]]


def padded_with_nan(mesh, X, W):
    W_ = mesh.shard(F.pad(W, (0, -W.shape[1] % mesh.size), value=torch.nan), dim=1)
    return mesh.all_gather(mesh.copy(X) @ W_, dim=1)[:, : W.shape[1]]


def with_extra(extra):
    def answer(mesh, X, W):
        N = W.shape[1]
        W_ = mesh.shard(torch.cat([W, W.new_zeros(len(W), extra(N, mesh.size))], 1), dim=1)
        return mesh.all_gather(mesh.copy(X) @ W_, dim=1)[:, :N]

    return answer


def trimmed_by_the_padding(mesh, X, W):
    extra = -W.shape[1] % mesh.size
    return mesh.all_gather(X @ mesh.shard(F.pad(W, (0, extra)), dim=1), dim=1)[:, :-extra]


def front_padded_and_cut_at_the_end(mesh, X, W):
    zeros = W.new_zeros(len(W), -W.shape[1] % mesh.size)
    return mesh.all_gather(X @ mesh.shard(torch.cat([zeros, W], 1), dim=1), dim=1)[:, : W.shape[1]]


def each_shard_padded(mesh, X, W):
    width = -(-W.shape[1] // mesh.size)
    own = [F.pad(w, (0, width - w.shape[1])) for w in mesh.shard(W, dim=1).shards]
    return mesh.all_gather(X @ Shards(own, mesh), dim=1)[:, : W.shape[1]]


def wrapped_around(mesh, X, W):
    N, n = W.shape[1], mesh.size
    return mesh.all_gather(X @ mesh.shard(W[:, torch.arange(-(-N // n) * n) % N], dim=1), dim=1)


def more_rows(mesh, W):
    return torch.cat([W, W.new_zeros(-W.shape[1] % mesh.size, W.shape[1])])


def sliced_by_rank(mesh, X, W):
    N, n = W.shape[1], mesh.size
    W_ = mesh.replicate(W)
    low, high = mesh.rank * N // n, (mesh.rank + 1) * N // n
    return mesh.all_gather(mesh.copy(X) @ W_[:, low:high], dim=1)


def padded_and_sliced_by_rank(mesh, X, W):
    W_ = mesh.replicate(F.pad(W, (0, -W.shape[1] % mesh.size)))
    width = W_.shape[1] // mesh.size
    y_ = X @ W_[:, mesh.rank * width : (mesh.rank + 1) * width]
    return mesh.all_gather(y_, dim=1)[:, : W.shape[1]]


def reduced_in_part(mesh, X, W):
    y_ = X @ W
    return torch.cat([mesh.all_reduce(y_[:, :1]), y_[:, 1:]], dim=1)


COLUMN = {
    "a nonlinearity too many": [
        lambda mesh, X, W: F.gelu(mesh.all_gather(X.mm(W), -1)),
        lambda mesh, X, W: mesh.all_gather(torch.relu(X @ W), dim=1),
        lambda mesh, X, W: mesh.all_gather(torch.softmax(X @ W, 1), dim=1),
        lambda mesh, X, W: mesh.all_gather(F.gelu(F.linear(X, W.T)), dim=1),
    ],
    "no gather": [lambda mesh, X, W: F.linear(X, W.T)],
    "gather on the wrong dim": [stacked],
    "a reduce where a gather belongs": [lambda mesh, X, W: mesh.all_reduce(F.linear(X, W.T))],
    "gather in the wrong order": [rotated, backwards],
    "one shard's columns for all": [first_shard_for_all],
    "the baseline in disguise": [whole_weight],
    "transposed W": [lambda mesh, X, W: mesh.all_gather(X @ W.transpose(0, 1), dim=1)],
    "missing backward all-reduce": [(GRAD, lambda mesh, X, W: mesh.all_gather(F.linear(X, W.T), 1))],
    "reduced again in backward": [
        (GRAD, lambda mesh, X, W: mesh.copy(column_einsum(mesh, X, W))),
        (GRAD, lambda mesh, X, W: mesh.all_gather(mesh.copy(X).mm(W), 1, "partial")),
    ],
    "copy of a cut tensor": [(GRAD, lambda mesh, X, W: column_einsum(mesh, X, mesh.copy(W)))],
    "reads other shards": [
        peeking,
        placed_again,
        decoy,
        slices_of_the_whole,
        own_slice_of_the_whole,
        on_a_mesh_of_its_own,
        through_numbers,
    ],
    "reduced before the product": [
        lambda mesh, X, W: X @ mesh.all_reduce(W),
        lambda mesh, X, W: mesh.all_gather(mesh.all_reduce(X) @ W, dim=1),
    ],
    "gathered before the product": [
        lambda mesh, X, W: mesh.all_gather(X, dim=1) @ W,
        lambda mesh, X, W: X @ mesh.all_gather(W, dim=0),
    ],
    "transposed": [
        lambda mesh, X, W: mesh.all_gather(F.linear(X, W), dim=1),
        lambda mesh, X, W: mesh.all_gather(X.T @ W, dim=1),
        lambda mesh, X, W: mesh.all_gather(W @ X, dim=1),
        lambda mesh, X, W: mesh.all_gather((X @ W).T, dim=0),
    ],
    "n times too large": [lambda mesh, X, W: mesh.all_gather(X @ W, dim=1) * mesh.size],
    "n times too small": [lambda mesh, X, W: mesh.all_gather(X @ W / mesh.size, dim=1)],
    "weighted by the rank": [lambda mesh, X, W: mesh.all_gather((mesh.rank + 1) * (X @ W), dim=1)],
    "wrong sign": [lambda mesh, X, W: -mesh.all_gather(X @ W, dim=1)],
    "nonlinearity of the inputs": [lambda mesh, X, W: mesh.all_gather(F.gelu(X) @ W, dim=1)],
    "elementwise product": [lambda mesh, X, W: mesh.all_gather(X * W, dim=1)],
    "only a slice": [lambda mesh, X, W: mesh.scatter(mesh.all_gather(X @ W, dim=1), dim=1)],
    "summed along a dim": [lambda mesh, X, W: mesh.all_gather(X @ W, dim=1).sum(0)],
    "rounded on the way": [lambda mesh, X, W: mesh.all_gather((X.float() @ W.float()).double(), dim=1)],
    "wrong dtype": [lambda mesh, X, W: mesh.all_gather(X.float() @ W.float(), dim=1)],
    "extra communication": [
        lambda mesh, X, W: mesh.all_reduce(column_einsum(mesh, X, W)) / mesh.size,
        lambda mesh, X, W: mesh.broadcast(column_einsum(mesh, X, W)),
    ],
    "detached": [(GRAD, lambda mesh, X, W: mesh.all_gather((X @ W).detach(), dim=1))],
    "numbers in other places": [lambda mesh, X, W: stacked(mesh, X, W).reshape(X.shape[0], -1)],
    "cut once more": [lambda mesh, X, W: mesh.all_gather(X @ mesh.scatter(W, dim=1), dim=1)],
    "gathered once too often": [lambda mesh, X, W: mesh.all_gather(mesh.all_gather(X @ W, dim=1), dim=1)],
    "columns missing": [lambda mesh, X, W: mesh.all_gather(X @ W, dim=1)[:, 1:]],
    "columns twice": [lambda mesh, X, W: mesh.all_gather((X @ W)[:, [0, 0]], dim=1)],
    "a constant added": [lambda mesh, X, W: mesh.all_gather(X @ W + 1, dim=1)],
    "a function too many": [lambda mesh, X, W: mesh.all_gather(X @ W, dim=1).exp()],
    "right on some shards alone": [lambda mesh, X, W: mesh.all_gather(X @ W, dim=1) * (mesh.rank == 0)],
    "columns in another order": [lambda mesh, X, W: mesh.all_gather(X @ W, dim=1).roll(1, 1)],
}
ROW = {
    "a nonlinearity too many": [
        lambda mesh, X, W: F.gelu(row_einsum(mesh, X, W)),
        lambda mesh, X, W: mesh.all_reduce(F.gelu(X.mm(W))),
    ],
    "no reduce": [lambda mesh, X, W: F.linear(X, W.T)],
    "a gather where a reduce belongs": [lambda mesh, X, W: mesh.all_gather(X.mm(W), -1), stacked],
    "mean for sum": [lambda mesh, X, W: mesh.all_reduce(X @ W / mesh.size)],
    "max for sum": [lambda mesh, X, W: mesh.all_reduce(X.mm(W), "max")],
    "reducing twice": [lambda mesh, X, W: mesh.all_reduce(row_einsum(mesh, X, W))],
    "one shard's partial sum": [lambda mesh, X, W: mesh.broadcast(X.mm(W))],
    "only a slice of the sum": [lambda mesh, X, W: mesh.reduce_scatter(X.mm(W), -1)],
    "the baseline in disguise": [whole_row_weight],
    "transposed W": [lambda mesh, X, W: mesh.all_reduce(X @ W.transpose(0, 1))],
    "reduced again in backward": [(GRAD, lambda mesh, X, W: mesh.copy(row_einsum(mesh, X, W)))],
    "copy of a cut tensor": [(GRAD, lambda mesh, X, W: row_einsum(mesh, mesh.copy(X), W))],
    "reads other shards": [
        peeking_rows,
        lambda mesh, X, W: mesh.replicate(sum((X @ W).shards)),
        sum_of_all_over_n,
        only_the_first_brings_it,
        by_index,
    ],
    "reduced before the product": [
        lambda mesh, X, W: mesh.all_reduce(X) @ mesh.all_reduce(W),
        lambda mesh, X, W: mesh.all_reduce(mesh.all_reduce(X) @ W),
        lambda mesh, X, W: X @ mesh.all_reduce(W),
    ],
    "gathered before the product": [lambda mesh, X, W: mesh.all_gather(X, dim=1) @ W],
    "transposed": [
        lambda mesh, X, W: mesh.all_reduce(F.linear(X, W)),
        lambda mesh, X, W: mesh.all_reduce(X @ W).T,
    ],
    "one shard's piece for all": [lambda mesh, X, W: mesh.all_reduce(X @ mesh.broadcast(W))],
    "a constant factor": [lambda mesh, X, W: mesh.all_reduce(X @ W) / 2],
    "weighted by the rank": [lambda mesh, X, W: mesh.all_reduce(X @ W) * mesh.rank],
    "nonlinearity of the inputs": [lambda mesh, X, W: mesh.all_reduce(torch.relu(X) @ W)],
    "rounded on the way": [lambda mesh, X, W: mesh.all_reduce(X.bfloat16() @ W.bfloat16()).double()],
    "extra communication": [
        lambda mesh, X, W: mesh.broadcast(row_einsum(mesh, X, W)),
        lambda mesh, X, W: mesh.all_gather(X.mm(W).unsqueeze(0), 0).sum(0),
    ],
    "detached": [(GRAD, lambda mesh, X, W: row_einsum(mesh, X.detach(), W))],
    "parts not counted once": [lambda mesh, X, W: X @ W + row_einsum(mesh, X, W)],
    "a part left out": [lambda mesh, X, W: mesh.all_reduce((mesh.rank > 0) * (X @ W))],
    "another factor": [lambda mesh, X, W: mesh.all_reduce(X @ W) / mesh.size**0.5],
    "an input in another order": [lambda mesh, X, W: mesh.all_reduce(X @ W.flip(0))],
    "summed along a dim": [lambda mesh, X, W: mesh.all_reduce((X @ W).sum(0))],
    "columns wrong in part": [reduced_in_part],
    "gather on the wrong dim": [lambda mesh, X, W: mesh.all_gather(mesh.reduce_scatter(X @ W, dim=0), dim=1)],
}
ACTIVATE = {
    "nonlinearity before the reduction": [
        lambda mesh, X, W: mesh.all_reduce(F.gelu(F.linear(X, W.T))),
        lambda mesh, X, W: mesh.all_reduce((X @ W).relu()),
    ],
    "nonlinearity of the inputs": [
        lambda mesh, X, W: mesh.all_reduce(F.gelu(X) @ W),
        lambda mesh, X, W: F.gelu(mesh.all_reduce(F.gelu(X) @ W)),
    ],
    "reduced before the product": [
        lambda mesh, X, W: F.gelu(mesh.all_reduce(X) @ mesh.all_reduce(W)),
        lambda mesh, X, W: mesh.all_reduce(F.gelu(mesh.all_reduce(X) @ W)),
    ],
    "one shard's partial sum": [lambda mesh, X, W: F.gelu(mesh.broadcast(X @ W))],
    "only a slice of the sum": [lambda mesh, X, W: F.gelu(mesh.reduce_scatter(X @ W, dim=1))],
    "reads other shards": [lambda mesh, X, W: F.gelu(sum_of_all_over_n(mesh, X, W))],
    "nonlinearity twice": [
        lambda mesh, X, W: F.gelu(F.gelu(row_einsum(mesh, X, W))),
        lambda mesh, X, W: F.gelu(mesh.all_reduce(F.gelu(X.mm(W)))),
    ],
    "no nonlinearity": [row_einsum],
    "another nonlinearity": [
        lambda mesh, X, W: row_einsum(mesh, X, W).relu(),
        lambda mesh, X, W: row_einsum(mesh, X, W).tanh(),
        lambda mesh, X, W: F.softplus(row_einsum(mesh, X, W)),
    ],
    "gelu by its tanh approximation": [lambda mesh, X, W: torch.nn.GELU("tanh")(row_einsum(mesh, X, W))],
    "no reduce": [lambda mesh, X, W: F.gelu(F.linear(X, W.T))],
    "a gather where a reduce belongs": [lambda mesh, X, W: F.gelu(stacked(mesh, X, W))],
    "mean for sum": [lambda mesh, X, W: F.gelu(mesh.all_reduce(X @ W / mesh.size))],
    "max for sum": [lambda mesh, X, W: F.gelu(mesh.all_reduce(X.mm(W), "max"))],
    "reducing twice": [lambda mesh, X, W: F.gelu(mesh.all_reduce(row_einsum(mesh, X, W)))],
    "the baseline in disguise": [lambda mesh, X, W: F.gelu(whole_row_weight(mesh, X, W))],
    "reduced again in backward": [(GRAD, lambda mesh, X, W: F.gelu(mesh.copy(row_einsum(mesh, X, W))))],
}
BIAS = {
    "bias on every shard": [lambda mesh, X, W, b: mesh.all_reduce(F.linear(X, W.T, b))],
    "bias twice": [lambda mesh, X, W, b: mesh.all_reduce(X @ W) + 2 * b],
    "no bias": [lambda mesh, X, W, b: row_einsum(mesh, X, W)],
    "bias subtracted": [lambda mesh, X, W, b: -(b - row_einsum(mesh, X, W))],
    "a fraction of the bias": [lambda mesh, X, W, b: row_einsum(mesh, X, W) + b.div(mesh.size)],
    "bias divided by n": [(GRAD, lambda mesh, X, W, b: mesh.all_reduce(b / mesh.size + X.mm(W)))],
    "bias on one shard": [
        (GRAD, lambda mesh, X, W, b: mesh.all_reduce(X @ W + only_if_first(mesh, b))),
        (GRAD, lambda mesh, X, W, b: mesh.all_reduce(X @ W + only_if_last(mesh, b))),
    ],
    "bias taken back once": [lambda mesh, X, W, b: mesh.all_reduce(b + X.mm(W)) - b],
    "half the bias": [lambda mesh, X, W, b: mesh.all_reduce(X @ W + 0.5 * b)],
    "bias reduced": [lambda mesh, X, W, b: mesh.all_reduce(b) + row_einsum(mesh, X, W)],
    "bias weighted by the rank": [lambda mesh, X, W, b: row_einsum(mesh, X, W) + b * mesh.rank],
    "bias multiplied": [lambda mesh, X, W, b: row_einsum(mesh, X, W).mul(b)],
    "reduced before the product": [lambda mesh, X, W, b: mesh.all_reduce(X) @ mesh.all_reduce(W) + b],
    "one shard's partial sum": [lambda mesh, X, W, b: mesh.broadcast(X @ W) + b],
    "only a slice of the sum": [lambda mesh, X, W, b: mesh.reduce_scatter(X @ W + b, dim=0)],
    "a nonlinearity too many": [lambda mesh, X, W, b: F.gelu(mesh.all_reduce(X @ W) + b)],
    "bias within the product": [lambda mesh, X, W, b: row_einsum(mesh, X, W + b)],
    "an input with the wrong sign": [lambda mesh, X, W, b: b - row_einsum(mesh, X, W)],
    "bias taken back": [(GRAD, lambda mesh, X, W, b: mesh.all_reduce(b + X.mm(W)) - b * (mesh.size - 1))],
    "bias after the reduction on one shard": [
        lambda mesh, X, W, b: row_einsum(mesh, X, W) + only_if_first(mesh, b),
    ],
    "no reduce": [lambda mesh, X, W, b: F.linear(X, W.T, b)],
    "a gather where a reduce belongs": [lambda mesh, X, W, b: mesh.all_gather(F.linear(X, W.T, b), -1)],
    "mean for sum": [lambda mesh, X, W, b: mesh.all_reduce(X @ W / mesh.size) + b],
    "max for sum": [lambda mesh, X, W, b: mesh.all_reduce(X.mm(W), "max") + b],
    "reducing twice": [lambda mesh, X, W, b: mesh.all_reduce(row_einsum(mesh, X, W)) + b],
    "the baseline in disguise": [lambda mesh, X, W, b: whole_row_weight(mesh, X, W) + b],
    "reduced again in backward": [(GRAD, lambda mesh, X, W, b: mesh.copy(row_einsum(mesh, X, W) + b))],
    "extra communication": [(GRAD, lambda mesh, X, W, b: mesh.all_reduce(X @ W + mesh.copy(b) / mesh.size))],
    "gradient off by a factor": [(GRAD, lambda mesh, X, W, b: mesh.all_reduce(X @ W) + 3 * b - 2 * b.detach())],
    "a constant added": [lambda mesh, X, W, b: mesh.all_reduce(X @ W) + b.sum()],
    "bias not counted once": [lambda mesh, X, W, b: mesh.all_reduce(X @ W + b * (mesh.rank % 2 == 0))],
    "cut once more": [lambda mesh, X, W, b: mesh.all_reduce(X @ W) + mesh.scatter(b, dim=0)],
    "shapes that do not align": [lambda mesh, X, W, b: mesh.all_reduce(X @ W) + b[:, None]],
}
SUM = {
    "ranks from 0": [
        lambda mesh, X: mesh.all_reduce(X * mesh.rank),
        lambda mesh, X: mesh.all_reduce(X * (mesh.rank + 2)),
    ],
    "a sum for a product": [lambda mesh, X: mesh.all_reduce(X + mesh.rank + 1)],
    "a power for a product": [lambda mesh, X: mesh.all_reduce(X.pow(mesh.rank + 1))],
    "a 1 beside the product": [lambda mesh, X: mesh.all_reduce(1 + mesh.rank * X)],
    "mesh.ranks for mesh.rank": [lambda mesh, X: mesh.all_reduce((mesh.ranks + 1) * X)],
    "one shard's partial sum": [lambda mesh, X: mesh.broadcast(X * (mesh.rank + 1))],
    "only a slice of the sum": [lambda mesh, X: mesh.reduce_scatter(X * (mesh.rank + 1), dim=0)],
    "n times too large": [lambda mesh, X: mesh.all_reduce(sum((r + 1) * X for r in range(mesh.size)))],
    "reads other shards": [
        lambda mesh, X: mesh.all_reduce(
            Shards([sum((r + 1) * x for r, x in enumerate(X.shards)) / mesh.size] * mesh.size, mesh)
        ),
    ],
    "no weights": [lambda mesh, X: mesh.all_reduce(X.clone())],
    "a weighted mean": [lambda mesh, X: mesh.all_reduce(X * (mesh.rank + 1)) * 2 / (mesh.size**2 + mesh.size)],
    "another factor": [lambda mesh, X: mesh.all_reduce(X / (mesh.rank + 3))],
    "other weights": [
        lambda mesh, X: mesh.all_reduce(X * mesh.rank) + X,
        lambda mesh, X: mesh.all_reduce(X / (mesh.rank + 1)),
    ],
    "no reduce": [lambda mesh, X: X + X * mesh.rank],
    "weights after the sum": [lambda mesh, X: mesh.all_reduce(X) * (mesh.rank + 1)],
    "a gather where a reduce belongs": [lambda mesh, X: mesh.all_gather(X + X * mesh.rank, -1)],
    "mean for sum": [lambda mesh, X: mesh.all_reduce(X * (mesh.rank + 1) / mesh.size)],
    "max for sum": [lambda mesh, X: mesh.all_reduce(X * (mesh.rank + 1), "max")],
    "reducing twice": [lambda mesh, X: mesh.all_reduce(mesh.all_reduce(X + X * mesh.rank))],
    "no communication": [lambda mesh, X: sum(X * (r + 1) for r in range(mesh.size))],
    "missing backward all-reduce": [(GRAD, lambda mesh, X: mesh.all_reduce(X + X * mesh.rank))],
    "reduced again in backward": [(GRAD, lambda mesh, X: mesh.copy(mesh.all_reduce(X + X * mesh.rank)))],
}
EITHER_WIDTH = {
    "split by rows": [lambda mesh, X, W: mesh.all_reduce(mesh.scatter(X, dim=-1).mm(mesh.shard(W, dim=0)))],
    "no gather": [lambda mesh, X, W: X.mm(mesh.shard(W, -1))],
    "gather on the wrong dim": [lambda mesh, X, W: mesh.all_gather(X.mm(mesh.shard(W, -1)), 0)],
    "a reduce where a gather belongs": [lambda mesh, X, W: mesh.all_reduce(X.mm(mesh.shard(W, -1)))],
    "gather in the wrong order": [
        lambda mesh, X, W: mesh.all_gather(X.mm(mesh.shard(W, -1)), -1).flip(-1),
        lambda mesh, X, W: mesh.all_gather(X @ Shards([W[:, r :: mesh.size] for r in mesh.ranks], mesh), dim=1),
    ],
    "chunk loses shards": [chunk_in_a_loop, chunk_with_zip],
    "the tail dropped": [truncated],
    "padding left on": [lambda mesh, X, W: mesh.all_gather(mesh.copy(X) @ zero_padded(mesh, W), dim=1)],
    "trimmed by nothing": [trimmed_by_the_padding],
    "padding in front": [front_padded_and_cut_at_the_end],
    "padding in between": [each_shard_padded],
    "padded rows": [lambda mesh, X, W: mesh.all_gather(X @ mesh.shard(more_rows(mesh, W), dim=1), dim=1)],
    "transposed": [lambda mesh, X, W: mesh.all_gather(F.linear(X, mesh.shard(W, dim=1)), dim=1)],
    "cut along the wrong dim": [lambda mesh, X, W: mesh.all_gather(F.linear(X, mesh.shard(W.T, dim=1)), dim=1)],
    "n times too large": [lambda mesh, X, W: padded_with_cat(mesh, X, W) * mesh.size],
    "rounded on the way": [
        lambda mesh, X, W: mesh.all_gather(X.float() @ mesh.shard(W.float(), dim=1), dim=1).double()
    ],
    "trimmed on the wrong side": [
        lambda mesh, X, W: mesh.all_gather(X @ zero_padded(mesh, W), dim=1)[:, -W.shape[1] :],
    ],
    "the baseline in disguise": [
        lambda mesh, X, W: torch.matmul(X, mesh.replicate(W)),
        lambda mesh, X, W: X @ mesh.all_gather(mesh.shard(W, 1), 1),
    ],
    "transposed W": [lambda mesh, X, W: mesh.all_gather(X @ mesh.shard(W.transpose(0, 1), dim=1), dim=1)],
    "cut by rows": [lambda mesh, X, W: mesh.all_gather(X @ mesh.shard(W, 0), 1)],
    "W not placed": [lambda mesh, X, W: mesh.all_gather(X @ W, dim=1)],
    "columns missing": [lambda mesh, X, W: mesh.all_gather(X @ mesh.shard(W[:, :-1], dim=1), dim=1)],
    "columns twice": [wrapped_around],
    "columns too many": [lambda mesh, X, W: mesh.all_gather(X @ zero_padded(mesh, W), dim=1)[: W.shape[1]]],
    "W whole on every shard": [sliced_by_rank],
    "detached": [(GRAD, lambda mesh, X, W: padded_with_cat(mesh, X, W).detach())],
}
UNEVEN = {
    **EITHER_WIDTH,
    "detached": [(GRAD, lambda mesh, X, W: uneven_by_hand(mesh, X, W.detach()))],
    "padding on the wire": [padded_with_cat],
    "missing backward all-reduce": [(GRAD, lambda mesh, X, W: mesh.all_gather(X.mm(mesh.shard(W, -1)), -1))],
    "reduced again in backward": [
        (GRAD, lambda mesh, X, W: mesh.copy(mesh.all_gather(mesh.copy(X).mm(mesh.shard(W, -1)), -1))),
        (GRAD, lambda mesh, X, W: mesh.all_gather(mesh.copy(X).mm(mesh.shard(W, -1)), -1, "partial")),
    ],
}
PADDED = {
    **EITHER_WIDTH,
    "W whole on every shard": [padded_and_sliced_by_rank],
    "padded by N % n": [with_extra(lambda N, n: N % n)],
    "padded more than needed": [
        with_extra(lambda N, n: n - N % n),
        with_extra(lambda N, n: n),
        with_extra(lambda N, n: (N // n + 1) * n - N),
    ],
    "not padded": [lambda mesh, X, W: mesh.all_gather(X.mm(mesh.shard(W, -1)), -1), uneven_last_takes_the_rest],
    "missing backward all-reduce": [
        (GRAD, lambda mesh, X, W: mesh.all_gather(X @ zero_padded(mesh, W), dim=1)[:, : W.shape[1]])
    ],
    "reduced again in backward": [(GRAD, lambda mesh, X, W: mesh.copy(padded_with_cat(mesh, X, W)))],
    "copy of a cut tensor": [
        (GRAD, lambda mesh, X, W: mesh.all_gather(mesh.copy(X) @ mesh.copy(zero_padded(mesh, W)), 1)[:, : W.shape[1]]),
    ],
    "not a number": [(GRAD, padded_with_nan)],
    "padding is not zero": [(GRAD, garbage_padded), (GRAD, padded_with_the_last_column)],
    "padding gets a gradient": [(GRAD, padding_in_the_mean)],
}
WRONG = {
    "weighted_sum": SUM,
    "column_linear": COLUMN,
    "row_linear": ROW,
    "reduce_then_activate": ACTIVATE,
    "row_bias": BIAS,
    "uneven_linear": UNEVEN,
    "padded_linear": PADDED,
    **answers05.WRONG,
    **answers06.WRONG,
    **answers07.WRONG,
    **answers08.WRONG,
    **answers09.WRONG,
    **answers11.WRONG,
}


def told_before(name):
    """The mistakes of an exercise that one before it has, in the same words: learners' answers try them, and their
    ways are tried on pretended GPUs."""
    before = {mistake.why for other in [*SPLITS][: [*SPLITS].index(name)] for mistake in SPLITS[other].mistakes}
    return {mistake.name for mistake in SPLITS[name].mistakes if mistake.why in before}


def wrong_answers():
    for name, table in WRONG.items():
        told = told_before(name)
        for number, (mistake, answers) in enumerate(table.items()):
            for i, answer in enumerate(answers):
                gradients = isinstance(answer, tuple)
                yield pytest.param(
                    name,
                    mistake,
                    answer[1] if gradients else answer,
                    gradients,
                    (number + i) % 2 == 0 and mistake not in told,
                    id=f"{name}-{mistake}-{i}".replace(" ", "_"),
                )


@pytest.mark.parametrize("name, mistake, answer, gradients, also_asked", list(wrong_answers()))
def test_a_wrong_answer_is_told_its_own_mistake(name, mistake, answer, gradients, also_asked):
    """Every second one that has a wrong value is asked for its gradients all the same."""
    if gradients:
        value = SPLITS[name].check(answer, gradients=False)
        assert value.passed, f"wrong in its gradients alone: {value}"
    verdict = SPLITS[name].check(answer, gradients=gradients or also_asked)
    assert not verdict.passed
    assert verdict.mistake == mistake, verdict
    assert re.search(r"\d", verdict.message), "a message comes with numbers"


MADE_OF = {"tied": ("embedding", "cross_entropy")}  # whose mistakes are its own, too: they are tried there


def own_mistakes(name):
    of_parts = {mistake.name for part in MADE_OF.get(name, ()) for mistake in SPLITS[part].mistakes}
    return [mistake for mistake in SPLITS[name].mistakes if mistake.name not in of_parts]


@pytest.mark.parametrize("name", ["activation_bytes", "crossover", "fit", "ring_time"])
def test_the_function_of_the_package_is_no_answer(name):
    ours = getattr(cost, name)
    for answer in (ours, lambda *args: ours(*args)):
        assert ALL[name].check(answer).mistake == "the package's own"


@pytest.mark.parametrize("name", SPLITS)
def test_every_mistake_of_the_table_is_made_here(name):
    names = [mistake.name for mistake in SPLITS[name].mistakes]
    assert len(names) == len(set(names))
    assert {mistake.name for mistake in own_mistakes(name)} <= set(WRONG[name])


@pytest.mark.parametrize("name", SPLITS)
def test_each_way_in_the_table_is_its_own_mistake(name):
    """No way to make one mistake does what another mistake does."""
    told = told_before(name)
    for mistake in own_mistakes(name):
        if mistake.name not in told:  # the last way, which is the least like a learner's: all of them take minutes
            verdict = SPLITS[name].check(mistake.ways[-1])
            verdict = verdict if not verdict.passed else SPLITS[name].check(mistake.ways[-1], gradients=True)
            assert verdict.mistake == mistake.name, verdict


def test_a_near_miss_of_a_method_is_told_the_method_and_no_private_name():
    for answer, words in [
        (lambda mesh, X, W: mesh.allgather(X @ W, dim=1), "a mesh has no `allgather`: did you mean `all_gather`?"),
        (lambda mesh, X, W: mesh.reduce(X @ W), "did you mean `all_reduce`?"),
        (lambda mesh, X, W: mesh.n, "a mesh has no `n`: it has all_gather, "),
        (lambda mesh, X, W: mesh.all_gather(X @ W), "all_gather() missing 1 required positional argument: 'dim'"),
        (lambda mesh, X, W: mesh.shard(X.shards[0]), "Mesh.shard() missing 1 required positional argument: 'dim'"),
        (lambda mesh, X, W: mesh + 1, "'Mesh' and 'int'"),
    ]:
        verdict = exercises.column_linear.check(answer)
        assert verdict.mistake == "an error"
        assert words in verdict.message
        assert "Watched" not in verdict.message


def test_pieces_that_do_not_fit_are_told_along_which_dim():
    answer = lambda mesh, X, W: mesh.all_gather(mesh.reduce_scatter(X @ W, dim=0), dim=1)  # noqa: E731
    assert "differ along dim 0" in exercises.row_linear.check(answer).message


def test_what_is_wrong_twice_is_told_twice():
    message = exercises.row_linear.check(lambda mesh, X, W: mesh.all_reduce(X) @ W).message
    assert "added up over the shards first" in message
    assert "Each shard returns its partial sum" in message


def test_what_moves_too_little_is_not_told_that_less_will_do():
    message = exercises.padded_linear.check(uneven_last_takes_the_rest).message
    assert re.search(r"shows only all_gather \(\d+ bytes\), and with n shards of one width it is all_gather", message)
    assert "will do" not in message


def test_a_difference_shows_in_the_numbers():
    message = exercises.row_linear.check(lambda mesh, X, W: mesh.all_reduce((X @ W).float()).double()).message
    here, there = re.search(r"has (\S+) at .* where (\S+) is wanted", message).groups()
    assert here != there


def test_one_is_missing_and_an_int_is_no_set():
    assert "but 1 is missing" in exercises.exempt.check({"identity", "double"}).message
    assert "but 2 are missing" in exercises.exempt.check({"identity"}).message
    assert "Did you mean 'identity'?" in exercises.exempt.check({"Identity"}).message
    assert "got an int" in exercises.exempt.check(3).message


def test_an_unknown_mistake_is_not_given_a_name():
    verdict = exercises.row_linear.check(lambda mesh, X, W: mesh.all_reduce(X @ W).cos())
    assert verdict.mistake is None
    assert re.search(r"On 2 shards, shard 0 of the result has \S+ at \[\d, \d\] where \S+ is wanted", verdict.message)
    only_third = lambda mesh, X, W: mesh.all_reduce(X @ W) + 0.25 * (mesh.rank == 2)  # noqa: E731
    assert "On 3 shards, shard 2 of the result" in exercises.row_linear.check(only_third).message


# ---------------------------------------------------------------- answers that are no answers


def raises(error):
    def answer(*arguments):
        raise error

    return answer


def writes_into_X(mesh, X, W):
    X.mul_(2)
    return mesh.all_gather(X @ W / 2, dim=1)


def no_return(mesh, X, W):
    mesh.all_gather(X @ W, dim=1)


class Leaving(list):
    def __iter__(self):
        sys.exit("looked at")


def one_shard_lost(mesh, X, W):
    y_ = mesh.all_gather(X @ W, dim=1)
    y_.shards.pop()
    return y_


class Odd:
    """Nothing about it works."""

    def __getattr__(self, name):
        raise RuntimeError("odd")

    def __repr__(self):
        raise RuntimeError("odd")

    __eq__ = __len__ = __iter__ = __bool__ = __repr__


NONSENSE = {
    "an error": [
        raises(SystemExit(3)),
        raises(RecursionError("deep")),
        raises(GeneratorExit()),
        raises(AssertionError()),
        lambda mesh, X, W: X @ X.wrong,
        lambda mesh, X, W: torch.linalg.inv(X),
        lambda mesh, X, W: mesh.all_gather(X @ W, dim=7),
        lambda mesh, X, W: mesh.all_gather(X.shards[0], dim=1),
        lambda mesh, X, W: sys.exit("bye"),
        lambda mesh, X, W: 1 / 0,
    ],
    "a plain tensor": [lambda mesh, X, W: (X @ W).shards[0]],
    "not a Shards": [
        lambda mesh, X, W: (X @ W).shards,
        lambda mesh, X, W: 3,
        lambda mesh, X, W: "y",
        lambda mesh, X, W: Odd(),
        lambda mesh, X, W: lambda: X,
    ],
    "another mesh": [
        lambda mesh, X, W: Mesh(mesh.size).replicate(torch.zeros(2, 2)),
        lambda mesh, X, W: Shards(X.shards, Mesh(mesh.size, devices=["meta"])),
    ],
    "shards lost": [one_shard_lost],
    "wrong device": [lambda mesh, X, W: mesh.all_gather(X @ W, dim=1).to("meta")],
    "wrong dtype": [lambda mesh, X, W: mesh.all_gather(X @ W, dim=1).float()],
    "rows twice": [lambda mesh, X, W: mesh.all_gather(X @ W, dim=1).repeat(2, 1)],
    "a dim too many": [
        lambda mesh, X, W: mesh.all_gather(X @ W, dim=1)[None],
        lambda mesh, X, W: mesh.all_gather((X @ W)[None], dim=0),
    ],
    "a dim lost": [lambda mesh, X, W: mesh.all_gather(X @ W, dim=1).max()],
    "too small along dim 0": [lambda mesh, X, W: X[:0]],
    "not a number": [
        lambda mesh, X, W: mesh.all_gather(X @ W, dim=1) * torch.nan,
        lambda mesh, X, W: mesh.all_gather(X @ W, dim=1) / 0,
    ],
    "arguments changed": [writes_into_X],
    "no return": [no_return],
    "wrong signature": [lambda: None, lambda mesh: None, lambda mesh, X, W, b: None, lambda *, mesh: None],
    "not a function": [3, "column_linear", torch.zeros(2), [], Odd()],
    UNSOLVED: [None, ..., lambda mesh, X, W: None, lambda mesh, X, W: ..., raises(NotImplementedError())]
    + [raises(NotImplementedError("later"))],
}


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("mistake", NONSENSE)
def test_no_answer_makes_a_check_raise(mistake, gradients):
    for answer in NONSENSE[mistake]:
        verdict = exercises.column_linear.check(answer, gradients=gradients)
        assert isinstance(verdict, Verdict)
        assert not verdict.passed
        assert verdict.mistake == mistake, verdict
        assert len(verdict.message) > 20
        assert verdict._repr_html_()


def test_an_interrupt_is_not_an_answer():
    for exercise in ALL.values():
        if exercise is exercises.exempt:
            continue
        with pytest.raises(KeyboardInterrupt):
            exercise.check(raises(KeyboardInterrupt()))


@pytest.mark.parametrize("name", ALL)
def test_an_unsolved_stub_says_the_same_each_time_and_what_to_do(name):
    def stub(*arguments): ...

    stub = {...} if name == "exempt" else stub
    one, two = ALL[name].check(stub), ALL[name].check(stub)
    assert one == two
    assert (one.passed, one.mistake) == (False, UNSOLVED)
    assert repr(one).startswith(f"… {name}: not solved yet. ")
    assert ALL[name].check().mistake == UNSOLVED


def test_a_passed_verdict_says_the_same_each_time():
    answers = {name: answers[0] for name, answers in RIGHT.items()} | THREE
    for name, answer in answers.items():
        assert repr(ALL[name].check(answer)) == repr(ALL[name].check(answer))


# ---------------------------------------------------------------- the three that are not splits


def careful(X, W, n):
    return 4 * X.shape[1] ** 0.5 * 2.0**-24 * (X.abs() @ W.abs())


THREE = {
    "report_devices": lambda mesh, X: [str(shard.device) for shard in mesh.replicate(X).shards],
    "exempt": {"identity", "double", "negate"},
    "tolerance": careful,
    "kinds": answers06.KINDS,
    "dropout": answers09.drop,
    **{name: answers[0] for name, answers in RIGHT_NUMBERS.items()},
}
DEVICES = {
    "the device of X itself": [lambda mesh, X: [str(X.device) for _ in mesh.replicate(X).shards]],
    "not a list": [lambda mesh, X: "cpu", lambda mesh, X: {"cpu"}, lambda mesh, X: [0, 1]],
    "devices, not strings": [
        lambda mesh, X: [t.device for t in mesh.replicate(X).shards],
        lambda mesh, X: mesh.devices,
    ],
    "tensors, not strings": [lambda mesh, X: mesh.replicate(X).shards, lambda mesh, X: (mesh.replicate(X) * 2).shards],
    "the type alone": [lambda mesh, X: [t.device.type for t in mesh.replicate(X).shards]],
    "one shard's device for all": [lambda mesh, X: [str(mesh.replicate(X).shards[0].device)] * mesh.size],
    "repr, not str": [lambda mesh, X: [repr(t.device) for t in mesh.replicate(X).shards]],
    "each device once": [lambda mesh, X: list(dict.fromkeys(map(str, mesh.devices)))],
    "out of order": [lambda mesh, X: [str(device) for device in reversed(mesh.devices)]],
    "not placed": [lambda mesh, X: [str(device) for device in mesh.devices]],
    "only a piece on each shard": [lambda mesh, X: [str(t.device) for t in mesh.shard(X, dim=1).shards]],
    "not one per shard": [lambda mesh, X: ["cpu"] + [str(t.device) for t in mesh.replicate(X).shards]],
    "more than the device": [lambda mesh, X: [f"on {t.device}" for t in mesh.replicate(X).shards]],
    "no return": [lambda mesh, X: print(mesh.replicate(X).device if 0 else "here")],
    "other devices": [lambda mesh, X: [f"gpu{r}" for r in range(mesh.size)]],
    "an error": [lambda mesh, X: mesh.replicate(X).device, lambda mesh, X: sys.exit()],
    UNSOLVED: [lambda mesh, X: None],
    "wrong signature": [lambda X: X],
}
TOLERANCES = {
    "a fixed number": [lambda X, W, n: 1e-5, lambda X, W, n: torch.tensor(1e-2), lambda X, W, n: 10, lambda X, W, n: 0],
    "relative to |y|": [
        lambda X, W, n: 1e-5 * (X @ W).abs(),
        lambda X, W, n: 1e-5 + 1.3e-6 * (X @ W).abs(),
        lambda X, W, n: 1e-3 * (X.double() @ W.double()).abs(),
        lambda X, W, n: 1e-6 * X.shape[1] ** 0.5 * (X @ W).abs(),
        lambda X, W, n: 1e-5 * (X @ W).abs().max(),
    ],
    "float64's eps": [
        lambda X, W, n: careful(X, W, n) * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    ],
    "does not grow with K": [
        lambda X, W, n: 2.0**-23 * (X.abs() @ W.abs()),
        lambda X, W, n: 4 * n**0.5 * 2.0**-24 * (X.abs() @ W.abs()),
        lambda X, W, n: 2.0**-20 * X.abs().max() * W.abs().max(),
    ],
    "does not grow with the numbers": [
        lambda X, W, n: 1e-6 * X.shape[1],
        lambda X, W, n: 4 * X.shape[1] ** 0.5 * 2.0**-24 * X.abs().sum(1, keepdim=True),
        lambda X, W, n: 4 * X.shape[1] ** 0.5 * 2.0**-24 * W.abs().sum(0),
    ],
    "shrinks with n": [lambda X, W, n: careful(X, W, n) / n**3],
    "16 bits' u": [lambda X, W, n: careful(X, W, n) * 2**16, lambda X, W, n: careful(X, W, n) * 2**13],
    "negative": [lambda X, W, n: -careful(X, W, n)],
    "too tight": [lambda X, W, n: careful(X, W, n) / 4000],
    "too loose": [
        lambda X, W, n: careful(X, W, n) * 1e6,
        lambda X, W, n: float("inf"),
        lambda X, W, n: 0.01 * (X.abs() @ W.abs()),
    ],
    "not a number": [lambda X, W, n: float("nan")],
    "not a tolerance": [
        lambda X, W, n: True,
        lambda X, W, n: X @ W > 0,
        lambda X, W, n: (1e-5, 1e-5),
        lambda X, W, n: X,
        lambda X, W, n: "1e-5",
        lambda X, W, n: 1j,
    ],
    "arguments changed": [lambda X, W, n: X.abs_() @ W.abs_()],
    "an error": [lambda X, W, n: X @ X, lambda X, W, n: sys.exit()],
    UNSOLVED: [lambda X, W, n: None, raises(NotImplementedError)],
    "wrong signature": [lambda X, W: 1e-5],
    "not a function": [1e-5],
}
SETS = {
    "affine is not linear": [{"identity", "double", "negate", "plus one"}],
    "piecewise linear is not linear": [{"relu"}, ["identity", "abs"], {"leaky relu", "double"}],
    "curved is not linear": [{"gelu"}, {"tanh", "identity"}, {"square"}, ("sigmoid",), {"silu"}],
    "a linear one is missing": [{"identity"}, {"double", "negate"}],
    "not a set": ["identity", 3, {1}, lambda names: names, Odd()],
    "an error": [Leaving()],
    "unknown name": [{"identity", "swish"}],
    UNSOLVED: [set(), None, ..., {...}, []],
}


@pytest.mark.parametrize(
    "name, table",
    [
        ("report_devices", DEVICES),
        ("tolerance", TOLERANCES),
        ("exempt", SETS),
        ("kinds", answers06.WRONG_KINDS),
        ("dropout", answers09.WRONG_DROPOUT),
    ],
    ids=["report_devices", "tolerance", "exempt", "kinds", "dropout"],
)
def test_the_other_exercises_name_their_mistakes(name, table):
    for mistake, answers in table.items():
        for answer in answers:
            verdict = ALL[name].check(answer)
            assert not verdict.passed
            assert verdict.mistake == mistake, verdict
    names = [mistake.name for mistake in getattr(ALL[name], "mistakes", [])]
    assert len(names) == len(set(names))
    assert set(names) <= set(table)


def test_kinds_are_measured_and_may_be_said_in_other_words():
    assert {name for pair in lesson06_kinds.MISTAKES.values() for name in pair} <= set(answers06.WRONG_KINDS)
    for answer in answers06.RIGHT_KINDS:
        verdict = exercises.kinds.check(answer)
        assert verdict.passed, verdict
    told = exercises.kinds.check(answers06.KINDS | {"dx": "replicated", "dX": "partial"}).message
    assert told.startswith("dx is partial, measured on 3 shards, and you say replicated.") and "1 more: dX" in told


@pytest.mark.parametrize("answer", answers09.RIGHT_DROPOUT)
def test_a_mask_may_be_drawn_in_any_way(answer):
    verdict = exercises.dropout.check(answer)
    assert verdict.passed, verdict


@pytest.mark.parametrize("name", WRONG_NUMBERS)
def test_the_tries_of_a_formula_part_its_mistakes(name):
    """Whatever is drawn, no way of a mistake is right on all tries, or does what a mistake before it does."""
    exercise = ALL[name]
    for seed in range(40):
        random = torch.Generator().manual_seed(seed)
        tries = [exercise.draw(random, number) for number in range(TRIES)]
        wanted = [exercise.numbers(exercise.formula(*args)) for args in tries]
        for mistake in exercise.mistakes:
            for way in mistake.ways:
                found = [exercise.numbers(way(*args)) for args in tries]
                assert not all(map(exercise.near, found, wanted)), (seed, mistake.name)
                assert exercise.known(tries, found, wanted)[0] == mistake.name, seed


def test_in_the_first_try_it_would_pay_to_reduce_X_instead():
    """Else both that mistake and a bandwidth for beta say 'never', on all tries once in 400 checks."""
    for seed in range(40):
        _, n, _, flops, _, beta = exercises.crossover.draw(torch.Generator().manual_seed(seed), 0)
        assert n > 2 * flops * beta


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("end", [min, max])
def test_no_vocabulary_is_cut_where_pieces_of_the_longest_length_would_be(n, end):
    V = token_sizes(n, end)[0]["V"]
    assert V % n
    lengths = [len(piece) for piece in torch.arange(V).tensor_split(n)]
    assert n == 2 or sum(lengths[:-1]) != (n - 1) * max(lengths), "the last one begins there"


@pytest.mark.parametrize("name", WRONG_NUMBERS)
def test_a_formula_names_its_mistakes(name):
    for answer in RIGHT_NUMBERS[name]:
        assert ALL[name].check(answer).passed
    for mistake, answers in WRONG_NUMBERS[name].items():
        for answer in answers:
            verdict = ALL[name].check(answer)
            assert not verdict.passed and verdict.mistake == mistake, verdict
    names = [mistake.name for mistake in ALL[name].mistakes]
    assert len(names) == len(set(names)) and set(names) <= set(WRONG_NUMBERS[name])
    for mistake in ALL[name].mistakes:
        for way in mistake.ways:
            assert ALL[name].check(way).mistake == mistake.name


@pytest.mark.parametrize("name", THREE)
def test_the_other_exercises_pass_what_is_right(name):
    for _ in range(4):
        verdict = ALL[name].check(THREE[name])
        assert verdict.passed, verdict


def test_several_tolerances_are_right():
    norms = lambda X, W, n: 3 * X.shape[1] ** 0.5 * 2.0**-24 * X.norm(dim=1, keepdim=True) * W.norm(dim=0)  # noqa: E731
    worst_case = lambda X, W, n: X.shape[1] * 2.0**-24 * (X.abs() @ W.abs())  # noqa: E731
    one_number = lambda X, W, n: careful(X, W, n).max().item()  # noqa: E731
    in_numpy = lambda X, W, n: careful(X, W, n).numpy()  # noqa: E731
    for answer in (norms, worst_case, one_number, in_numpy):
        for _ in range(4):
            verdict = exercises.tolerance.check(answer)
            assert verdict.passed, verdict


def test_the_exempt_ones_are_found_by_running_them(monkeypatch):
    monkeypatch.setitem(exercises.FUNCTIONS, "abs", lambda x: 3 * x)
    assert exercises.exempt.check(THREE["exempt"]).mistake == "a linear one is missing"
    assert exercises.exempt.check(THREE["exempt"] | {"abs"}).passed


# ---------------------------------------------------------------- how a check behaves


def test_a_check_leaves_the_random_numbers_alone():
    torch.manual_seed(7)
    random.seed(7)
    before, plain = torch.get_rng_state(), random.getstate()
    for name, answer in ({n: a[0] for n, a in RIGHT.items()} | THREE).items():
        ALL[name].check(answer)
    assert torch.equal(torch.get_rng_state(), before)
    assert random.getstate() == plain


def test_a_check_takes_other_numbers_each_time():
    seen = []

    def answer(mesh, X, W):
        if len(X.shards) == mesh.size:  # and not one rank alone, who sees the same numbers again
            seen.append(X.shards[0].clone())
        return mesh.all_reduce(X @ W)

    for _ in range(2):
        exercises.row_linear.check(answer)
    assert len(seen) >= 2 * 8
    assert len({tensor.sum().item() for tensor in seen}) == len(seen)


def test_an_argument_may_be_whole_numbers_that_have_no_gradient():
    right = lambda mesh, order, X: mesh.all_reduce(mesh.copy(X))[order]  # noqa: E731
    sorting = Split(
        "sorting",
        "The rows of a sum, in another order.",
        given={"order": ("B", "replicated"), "X": ("B K", "replicated")},
        wanted="y: [B, K]",
        sizes=lambda n, integer: [{"B": 5, "K": 2}],
        dense=lambda n, order, X: n * X[order],
        right=right,
        mistakes=[],
        draw={"order": lambda shape, size, random: torch.randperm(size["B"], generator=random)},
    )
    assert sorting.check(right, gradients=True).passed
    verdict = sorting.check(lambda mesh, order, X: mesh.all_reduce(X)[order], gradients=True)
    assert verdict.mistake == "gradient off by a factor" and "gradient of X" in verdict.message
    assert sorting.check(lambda mesh, order, X: mesh.all_reduce(X)).mistake == "rows in another order"
    assert sorting.check(lambda mesh, order, X: right(mesh, order.add_(1) - 1, X)).mistake == "arguments changed"
    assert sorting.check(lambda mesh, order, X: right(mesh, order + 1, X)).mistake == "looked up on the wrong shard"


def test_a_check_works_with_gradients_off_and_in_inference_mode():
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert exercises.column_linear.check(column_einsum, gradients=True).passed


def test_a_check_restores_the_default_dtype():
    def rude(mesh, X, W):
        torch.set_default_dtype(torch.float16)
        return column_einsum(mesh, X, W)

    assert exercises.column_linear.check(rude).passed
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("name", ALL)
def test_a_check_is_quick(name, record_property):
    answer = (THREE | {n: a[0] for n, a in RIGHT.items()})[name]
    ALL[name].check(answer)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        ALL[name].check(answer)
        times.append(time.perf_counter() - start)
    record_property(f"{name}.check, the better of two", f"{min(times) * 1e3:.0f} ms")
    assert min(times) < 5, "a check that a learner waits for"


@pytest.mark.parametrize("name", ALL)
def test_an_exercise_shows_its_task(name):
    exercise = ALL[name]
    html = exercise._repr_html_()
    for text in (exercise.task, exercise.wanted, *exercise.given):
        assert text in repr(exercise)
        assert text.split("&")[0].split("<")[0].split("'")[0].split('"')[0] in html
    assert 'scope="row"' in html
    assert f"exercises.{name}.check" in html
    assert exercise.name == name
    assert exercise.__doc__ == repr(exercise)


@pytest.mark.parametrize(
    "answer, words",
    [
        (lambda mesh, X, W: X @ W, ["no reduce", "result - y, on shard 0 of 2", "largest error"]),
        (stacked, ["shard 0", "wanted", "The shapes of the result on 2 shards: ["]),
        (lambda mesh, X, W: mesh.all_reduce(X @ W).sum(), ["The shapes of the result on 2 shards: [], []"]),
        (lambda mesh, X, W: mesh.all_gather((X @ W)[None], dim=0), ["shard 1", "wanted"]),
        (lambda mesh, X, W: X[:0], ["wanted"]),
    ],
)
def test_a_wrong_value_is_shown_in_one_picture(answer, words):
    verdict = exercises.row_linear.check(answer)
    html = verdict._repr_html_()
    assert html.count("<img alt=") == 1 and "<svg" not in html
    assert all(word in html + verdict.picture for word in words), verdict.picture
    assert "svg" not in repr(verdict)  # a terminal has the words
    ElementTree.fromstring(verdict.picture)


def test_there_is_no_picture_where_there_is_nothing_to_show():
    for answer in (row_einsum, None, lambda mesh, X, W: 1 / 0, whole_row_weight):
        assert "<img" not in exercises.row_linear.check(answer)._repr_html_()


def test_a_verdict_shows_itself_in_words_and_escapes_them():
    for passed, mistake, words in [(True, None, "passed"), (False, "no <gather>", "not yet: no &lt;gather&gt;")]:
        verdict = Verdict("row_linear", passed, mistake, "a < b")
        html = verdict._repr_html_()
        assert words in html
        assert "a &lt; b" in html
        assert ("✓" if passed else "✗") in html
        assert "background" not in html  # the page's own, light or dark
        assert bool(verdict) is passed
