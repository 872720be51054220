"""The collectives, each as its forward and its backward: the only place where bytes cross between shards.

A collective is *one* autograd node over all the shards held here, so backward is ordinary PyTorch. Each function
below returns its outputs for one group of shards, and reads as a pair: what goes forward, what comes back.
"""

import torch

from shardlab.plumbing.agreement import agree
from shardlab.plumbing.backward import refuse_half_a_backward
from shardlab.plumbing.overflow import refuse_overflow


class Pair(torch.autograd.Function):
    """One autograd node: `forward` over the group's tensors, `backward` over their gradients."""

    @staticmethod
    def forward(ctx, name, group, forward, backward, *parts):
        ctx.name, ctx.group, ctx.back, ctx.site = name, group, backward, group.site()
        ctx.set_materialize_grads(False)  # a gradient that is missing is None, and not zeros
        return tuple(forward(parts))

    @staticmethod
    def backward(ctx, *grads):
        if torch.is_grad_enabled():  # under create_graph=True: torch's clear error, should anyone differentiate again
            return torch.autograd.function.once_differentiable(go_back)(ctx, *grads)
        return go_back(ctx, *grads)


def go_back(ctx, *grads):
    if len(grads) > 1:
        refuse_half_a_backward(ctx.name, ctx.group.members, grads)
    phase = ctx.group.note.recorder.phase
    phase.name, phase.site = "backward", ctx.site
    try:
        return None, None, None, None, *ctx.back(grads)
    finally:
        phase.name, phase.site = "forward", None


def pair(name, group, parts, forward, backward):
    if torch.is_grad_enabled() and True in [part.requires_grad for part in parts]:
        return Pair.apply(name, group, forward, backward, *parts)
    return forward(parts)


def copy(group, parts):
    """Forward: each shard takes the replicated value as it is. Backward: all-reduce. Megatron-LM's *f*."""
    agree("copy", [part.shape for part in parts], "shape")
    return pair(
        "copy",
        group,
        parts,
        forward=lambda xs: xs,
        backward=lambda grads: group.all_reduce(met(group, "all_reduce sum", grads), own=True),
    )


def all_reduce(group, parts, donated=False):
    """Forward: the sum, on every shard; over ranks in the memory of `parts`, if that is `donated`. Backward: each
    shard's gradient as it is. Megatron-LM's *g*."""
    return pair(
        "all_reduce",
        group,
        parts,
        forward=lambda xs: summed(group, xs, donated),
        backward=lambda grads: grads,
    )


def all_reduce_max(group, parts):
    """Forward: the elementwise maximum, on every shard. No gradient."""
    group.shapes("all_reduce max", parts)
    return group.all_reduce([part.detach() for part in parts], "max")


def all_gather(group, parts, dim):
    """Forward: the shards side by side along `dim`, on every shard. Backward: each keeps its own slice."""
    sizes = sizes_along(group, "all_gather", parts, dim)
    return pair(
        "all_gather",
        group,
        parts,
        forward=lambda xs: group.all_gather(xs, dim, sizes),
        backward=lambda grads: group.keep(grads, dim, sizes),
    )


def all_gather_partial(group, parts, dim):
    """As `all_gather`, where what follows differs from shard to shard: the gradients are partial sums, so backward
    is a reduce-scatter (sequence parallelism)."""
    sizes = sizes_along(group, "all_gather", parts, dim)
    return pair(
        "all_gather",
        group,
        parts,
        forward=lambda xs: group.all_gather(xs, dim, sizes),
        backward=lambda grads: group.reduce_scatter(met(group, "reduce_scatter", grads, dim), dim, sizes),
    )


def scatter(group, parts, dim):
    """Forward: each shard keeps its own slice of a replicated value. Backward: all-gather."""
    agree("scatter", [part.shape for part in parts], "shape")
    sizes = split_sizes(parts[0].shape[dim], group.size)
    return pair(
        "scatter",
        group,
        parts,
        forward=lambda xs: group.keep(xs, dim, sizes),
        backward=lambda grads: gathered(group, grads, dim, sizes),
    )


def reduce_scatter(group, parts, dim):
    """Forward: the sum, of which each shard keeps its own slice. Backward: all-gather."""
    shapes = group.shapes("reduce_scatter", parts, dim)
    sizes = split_sizes(shapes[0][dim], group.size)
    return pair(
        "reduce_scatter",
        group,
        parts,
        forward=lambda xs: group.reduce_scatter(countable(group, "reduce_scatter", xs), dim, sizes),
        backward=lambda grads: gathered(group, grads, dim, sizes),
    )


def all_to_all(group, parts, split_dim, concat_dim):
    """Forward: piece r of each shard's `split_dim` goes to shard r, which joins what it gets along `concat_dim`.
    Backward: the same with the two dims exchanged."""
    shapes = group.shapes("all_to_all", parts, split_dim, concat_dim, free=concat_dim)
    concat = [shape[concat_dim] for shape in shapes]
    split = split_sizes(parts[0].shape[split_dim], group.size)

    def back(grads):
        group.shapes("all_to_all", grads, concat_dim, split_dim, free=split_dim)
        return group.all_to_all(grads, concat_dim, concat, split_dim, split)

    return pair(
        "all_to_all",
        group,
        parts,
        forward=lambda xs: group.all_to_all(xs, split_dim, split, concat_dim, concat),
        backward=back,
    )


def broadcast(group, parts, src):
    """Forward: every shard gets shard `src`'s value. Backward: the gradients are summed into shard `src`."""
    group.shapes("broadcast", parts, src)
    return pair(
        "broadcast",
        group,
        parts,
        forward=lambda xs: group.broadcast(xs, src),
        backward=lambda grads: group.reduce(met(group, "broadcast", grads, src), src),
    )


def shift(group, parts, by):
    """Forward: each shard's value to the neighbour `by` places on, round the ring. Backward: the gradients as many
    places back."""
    return pair(
        "shift",
        group,
        parts,
        forward=lambda xs: shifted(group, xs, by),
        backward=lambda grads: shifted(group, grads, -by),
    )


def shifted(group, parts, by):
    by %= group.size
    shapes = group.shapes("shift", parts, by, free=...)
    return group.shift(parts, by, shapes) if by else [part.clone() for part in parts]


def summed(group, parts, donated=False):
    group.shapes("all_reduce sum", parts)
    if donated:
        torch.autograd.graph.increment_version(parts)  # whoever kept them for backward (as exp does) will be told
    return group.all_reduce(countable(group, "all_reduce", parts), donated=donated)


def gathered(group, grads, dim, sizes):
    """The all-gather of a backward: its sizes are known from the forward."""
    if group.elsewhere and sizes_along(group, "all_gather", grads, dim) != sizes:
        raise ValueError(f"scatter along dim {dim} wants one value on every shard, but their sizes differ")
    return group.all_gather(grads, dim, sizes, own=True)


def met(group, collective, grads, *how):
    """The gradients, once it is clear that all ranks came to the same collective (in one process they did)."""
    if group.elsewhere:
        group.shapes(collective, grads, *how)
    return grads


def countable(group, collective, parts):
    if parts[0].dtype == torch.bool:
        raise TypeError(f"{collective} of bools: count them with x_.int(), or ask for any with all_reduce(op='max')")
    refuse_overflow(group, collective, parts)
    return parts


def sizes_along(group, collective, parts, dim):
    """The size of each shard of the group along `dim`; the other dims must agree."""
    return [shape[dim] for shape in group.shapes(collective, parts, dim, free=dim)]


def split_sizes(total, n):
    """How torch.tensor_split cuts `total` into n: the first total % n pieces are one longer.

    >>> split_sizes(7, 3), split_sizes(2, 3)
    ([3, 2, 2], [1, 1, 0])
    """
    return [total // n + (index < total % n) for index in range(n)]
