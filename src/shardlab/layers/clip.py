"""The norm of all gradients together, where some parameters are cut and others replicated."""

from functools import reduce

import torch
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from shardlab.layers.sharded import ShardedModule
from shardlab.shards import Shards


@torch.no_grad()
def clip_grad_norm_(modules, max_norm, norm_type=2.0, error_if_nonfinite=False, *, cut=(), replicated=()):
    """torch's `clip_grad_norm_`, by the norm that the dense model has. On every shard and every rank it is the same.

    Each piece of what is cut counts, and of what is replicated one copy does:

        norm² = Σ_r |gradients of the pieces on shard r|² + |gradients of the replicated|²

    (torch's own, over `parameters()`, counts every copy, and on ranks each rank would clip by a norm of its own.)
    `modules` is a module, or a list of them: our layers know how their parameters live, those of any other module count
    as replicated. Parameters that are bare Shards do not say how they live: name them in `cut` or `replicated`.
    Returns the norm before clipping; moves two numbers a shard, in one all-gather.

    >>> import shardlab
    >>> w_ = shardlab.Mesh(2, devices=["cpu"]).shard(torch.ones(2, 4, requires_grad=True), dim=1)
    >>> (w_ * w_).sum().backward()
    >>> clip_grad_norm_([], max_norm=1.0, cut=[w_])
    tensor(5.6569)
    >>> w_.grad.shards[0][0]
    tensor([0.3536, 0.3536])
    """
    norm_type = float(norm_type)  # torch takes "inf", too
    if not norm_type > 0:
        raise ValueError(f"norm_type={norm_type}: pieces have a norm together for 1, 2, … and inf")
    axes, plain = by_axis(modules, cut, replicated)
    if not axes:
        return nn.utils.clip_grad_norm_(plain, max_norm, norm_type, error_if_nonfinite)
    tables = [norms_along(mesh, pieces, copies, plain, norm_type) for mesh, pieces, copies in axes]
    totals = []
    for index, rows in enumerate(zip(*tables, strict=True)):
        norms = [part for row in rows for part in (row[:, 0], row[:1, 1])]  # every piece's, and one copy's
        totals.append(get_total_norm(norms, norm_type, error_if_nonfinite))
        here = own(index, *(x_ for _, pieces, copies in axes for x_ in pieces + copies))
        clip_grads_with_norm_(here, max_norm, totals[-1])
    clip_grads_with_norm_(plain, max_norm, totals[0])
    dtypes = [parameter.grad.dtype.to_real() for parameter in here + plain if parameter.grad is not None]
    return totals[0].to(reduce(torch.promote_types, dtypes or [torch.float32]))


def by_axis(modules, cut, replicated):
    """A list of (mesh, the Shards cut along its axis, those replicated), and a list of the plain parameters."""
    modules = [modules] if isinstance(modules, nn.Module) else list(modules)
    for module in modules:
        if not isinstance(module, nn.Module):
            raise TypeError(
                f"clip_grad_norm_ takes modules, not a {type(module).__name__}, which does not say if it is a piece "
                "or a copy: clip_grad_norm_(layer, …), or for bare Shards cut=[w_] or replicated=[w_]"
            )
    for x_ in cut:
        if len(x_.mesh.axes) > 1:
            raise ValueError(
                f"a bare Shards on {x_.mesh} does not say along which axis it is cut: let a module hold it, "
                "shardlab.layers.ShardedModule(mesh[axis])"
            )
    lives, plain = [(x_.mesh, x_, True) for x_ in cut] + [(x_.mesh, x_, False) for x_ in replicated], []
    for module in nn.ModuleList(modules).modules():
        names = set()
        if isinstance(module, ShardedModule):
            lives += [(module.mesh, module.held(name), dim is not None) for name, dim in module.dims.items()]
            names.update(*module.names.values())
        plain += [parameter for name, parameter in module.named_parameters(recurse=False) if name not in names]
    axes = {}
    for mesh, x_, is_cut in lives:
        if mesh.root != lives[0][0].root:
            raise ValueError(f"one norm wants one mesh, but there are parameters on {mesh} and on {lives[0][0]}")
        axes.setdefault(mesh.along, (mesh, [], []))[1 if is_cut else 2].append(x_)
    return list(axes.values()), list(dict.fromkeys(plain))


def norms_along(mesh, pieces, copies, plain, norm_type):
    """A table on each shard: for every shard along the axis a row, with the norm of its pieces and of its copies."""
    rows = []
    for index, device in enumerate(mesh.devices):
        norms = [norm(own(index, *pieces), norm_type), norm(own(index, *copies) + plain, norm_type)]
        rows.append(torch.stack([each.to(device, torch.float64) for each in norms])[None])
    tables = mesh.all_gather(Shards(rows, mesh.root), dim=0).shards
    for table in tables:
        if not torch.allclose(table[:, 1], table[0, 1], rtol=0.01, equal_nan=True):
            raise ValueError(
                f"the gradient of a replicated parameter is one on every shard, but along {mesh} their norms are "
                f"{[float(f'{each:.4g}') for each in table[:, 1].tolist()]}: a mesh.copy before it, or an all-reduce "
                "of its gradient, is missing (or it is cut)"
            )
    return tables


def norm(parameters, norm_type):
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return get_total_norm([grad for grad in grads if grad.numel()], norm_type)


def own(index, *held):
    """The tensors that the shard at this place has of these Shards, once each (some may be tied)."""
    return list(dict.fromkeys(x_.shards[index] for x_ in held))
