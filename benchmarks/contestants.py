"""What the contestants of a benchmark on ranks share: what is timed of each, Megatron-LM's *f* and *g* by hand, and the
look at values and gradients that comes before any time is taken.

`mlp_ways` and `layer_ways` have the contestants: each a function of (dense, X, cotangent), the dense twin, the whole
input, and the gradient that reaches y. It returns a `Contestant`.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.tensor import DTensor


class Contestant(NamedTuple):
    """What is timed: `forward()` gives y, `both()` leaves the gradients; and those to look at, of X first."""

    forward: object
    both: object
    gradients: object


class F(torch.autograd.Function):
    """*f* of Megatron-LM: forward as it is, backward all-reduce."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        dist.all_reduce(grad)
        return grad


class G(torch.autograd.Function):
    """*g* of Megatron-LM: forward all-reduce, backward as it is."""

    @staticmethod
    def forward(ctx, x):
        ctx.mark_dirty(x)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad


def trained(forward, parameters, X, cotangent):
    """A contestant on plain tensors, whose backward is torch's."""
    X = X.detach().clone().requires_grad_()
    leaves = [X, *parameters]

    def forward_once():
        return arrived(forward(X))

    def both():
        clear(leaves)
        forward_once().backward(cotangent)
        arrived(X.grad)

    return Contestant(forward_once, both, lambda: [local(leaf.grad) for leaf in leaves])


def clear(leaves):
    for leaf in leaves:
        leaf.grad = None


def arrived(tensor):
    """DTensor's collectives go on in the background: wait for this one."""
    if isinstance(tensor, AsyncCollectiveTensor):
        tensor.wait()
    return tensor


def local(tensor):
    return arrived(tensor.to_local() if isinstance(tensor, DTensor) else tensor)


def enter(ways, dense, X, cotangent):
    """Every contestant that can be imported here, and for the others why not."""
    contestants, absent = {}, {}
    for name, build in ways.items():
        try:
            contestants[name] = build(dense, X.detach().clone(), cotangent.clone())
        except ModuleNotFoundError as error:
            absent[name] = str(error)
    return contestants, absent


def check(contestants, y, wanted):
    """Every contestant's y and gradients are those of the dense twin, `wanted` by name: else there is nothing to
    compare."""
    for name, contestant in contestants.items():
        close(f"{name}: y", contestant.forward(), y)
        for _ in range(2):  # the second time shows what the first left behind
            contestant.both()
            for (what, want), gradient in zip(wanted.items(), contestant.gradients(), strict=True):
                close(f"{name}: the gradient of {what}", gradient.reshape(want.shape), want)


def close(what, actual, wanted, tolerance=1e-4):
    actual = actual.detach()
    if actual.shape != wanted.shape or not wanted.numel():
        raise AssertionError(f"{what} has the shape {list(actual.shape)}, the dense one {list(wanted.shape)}")
    error = ((actual - wanted).norm() / wanted.norm()).item()
    if not error <= tolerance:
        raise AssertionError(f"{what} is not the dense one: relative error {error:.1e}")
