"""Mistakes that come back: here are their names and reasons, and in each exercise the ways to make them."""

from functools import partial

import torch

from shardlab.exercises.exercise import Mistake

no_gather = partial(
    Mistake,
    "no gather",
    "Each shard returns its own columns of y, and nobody puts them side by side.",
)
gather_on_the_wrong_dim = partial(
    Mistake,
    "gather on the wrong dim",
    "The shards' results are stacked along dim 0. W was cut by columns: which dim of y do its columns become?",
)
reduce_for_gather = partial(
    Mistake,
    "a reduce where a gather belongs",
    "The shards' results are added up, but they are different columns of y, not parts of one sum.",
)
wrong_order = partial(
    Mistake,
    "gather in the wrong order",
    "All columns are there, in another order: all_gather puts the shards side by side in rank order.",
)
no_reduce = partial(
    Mistake,
    "no reduce",
    "Each shard returns its partial sum: full size, but only a part of every number.",
)
gather_for_reduce = partial(
    Mistake,
    "a gather where a reduce belongs",
    "The partial sums are put side by side. Each of them is of full size, so they are to be added.",
)
mean_for_sum = partial(
    Mistake,
    "mean for sum",
    "The partial sums are averaged, and they are to be added.",
)
max_for_sum = partial(
    Mistake,
    "max for sum",
    "The largest partial sum is kept and the others are lost: all_reduce with op='sum' adds them.",
)
reducing_twice = partial(
    Mistake,
    "reducing twice",
    "After one all_reduce every shard has the sum; the second adds n equal copies of it.",
)
baseline = partial(
    Mistake,
    "the baseline in disguise",
    "Every shard multiplies all of X by all of W: that is the unsplit layer, n times. Multiply the pieces, and "
    "communicate the result.",
)
transposed = partial(
    Mistake,
    "transposed W",
    "This multiplies by W.T. Here W is [in, out] and y = x @ W; it is torch.nn.Linear that stores [out, in].",
)
one_shards_part = partial(
    Mistake,
    "one shard's partial sum",
    "Every shard gets the partial sum of one shard, and the others' are lost.",
)
only_a_slice = partial(
    Mistake,
    "only a slice of the sum",
    "reduce_scatter adds the partial sums but leaves each shard one slice of y, and all of it is wanted.",
)
missing_backward = partial(
    Mistake,
    "missing backward all-reduce",
    "Each shard sends back only its own part of the gradient of X, and nobody adds the parts: X enters the split "
    "region without mesh.copy.",
)
reduced_again = partial(
    Mistake,
    "reduced again in backward",
    "Every shard already has the same gradient of y, and backward adds these equal gradients up, so that what "
    "follows comes out n times too large.",
)
copy_of_a_cut_tensor = partial(
    Mistake,
    "copy of a cut tensor",
    "mesh.copy is for a replicated value. In a cut one each shard's piece has a gradient of its own, and here "
    "those of different pieces are added.",
)


def of_a_sum(*roads):
    """What may go wrong where partial sums are to be added up. Each road is (partial, then): what is added up over
    the shards, and what follows the reduction."""

    def ways(*moves):
        return [road(partial, move, then) for partial, then in roads for move in moves]

    return [
        no_reduce(*ways(lambda mesh, p_: p_)),
        gather_for_reduce(
            *ways(lambda mesh, p_: mesh.all_gather(p_, dim=1), lambda mesh, p_: mesh.all_gather(p_, dim=0)),
            *ways(lambda mesh, p_: mesh.all_gather(p_, dim=0).sum(0)),
        ),
        mean_for_sum(*ways(lambda mesh, p_: mesh.all_reduce(p_) / mesh.size)),
        max_for_sum(*ways(lambda mesh, p_: mesh.all_reduce(p_, op="max"))),
        reducing_twice(
            *ways(lambda mesh, p_: mesh.all_reduce(mesh.all_reduce(p_))),
        ),
        one_shards_part(
            *ways(lambda mesh, p_: mesh.broadcast(p_), lambda mesh, p_: mesh.broadcast(p_, src=mesh.size - 1))
        ),
        only_a_slice(
            *ways(lambda mesh, p_: mesh.reduce_scatter(p_, dim=1), lambda mesh, p_: mesh.reduce_scatter(p_, dim=0))
        ),
    ]


def road(partial, move, then):
    """The answer that computes `partial` on each shard, communicates it by `move`, and does `then`."""
    return lambda mesh, *inputs: then(move(mesh, partial(mesh, *inputs)), *inputs)


def reordered(mesh, y_, place):
    """The gathered blocks of columns, shard place(r, n)'s in place r."""
    blocks = mesh.all_gather(y_, dim=1).chunk(mesh.size, dim=1)
    return torch.cat([blocks[place(r, mesh.size)] for r in range(mesh.size)], dim=1)


def interleaved(y_, n):
    """The first column of each shard, then the second of each, ..."""
    return y_.unflatten(1, (n, -1)).transpose(1, 2).flatten(1)
