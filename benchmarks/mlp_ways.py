"""One two-layer MLP, y = gelu(X Aᵀ + a) Bᵀ + b, tensor parallel on the ranks of torch.distributed, written seven ways.

A is cut by its output features, B by its input features, as Megatron-LM does it: one all-reduce forward, one backward.
Each contestant is a function of (dense, X, cotangent): the dense MLP (`up` and `down`, each an nn.Linear), the whole
input, and the gradient that reaches y. It returns a `Contestant`.
"""

import os
from contextlib import redirect_stdout
from io import StringIO
from unittest.mock import patch

import torch
import torch.distributed as dist
from contestants import Contestant, F, G, clear, trained
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.functional import gelu, linear

from shardlab import Mesh
from shardlab.layers import ColumnParallelLinear, RowParallelLinear


class MLP(nn.Module):
    def __init__(self, width, hidden, up=nn.Linear, down=nn.Linear):
        super().__init__()
        self.up, self.down = up(width, hidden), down(hidden, width)

    def forward(self, X):
        return self.down(gelu(self.up(X)))


# ours


def shardlab(dense, X, cotangent):
    """shardlab.layers, as it comes: every collective is compared between the ranks before it runs."""
    return on_mesh(Mesh(), dense, X, cotangent)


def shardlab_unchecked(dense, X, cotangent):
    """The same with that comparison turned off."""
    with patch.dict(os.environ, SHARDLAB_CHECK="0"):
        return on_mesh(Mesh(), dense, X, cotangent)


def on_mesh(mesh, dense, X, cotangent):
    up, down = ColumnParallelLinear(dense.up, mesh), RowParallelLinear(dense.down, mesh)
    X_, cotangent_ = mesh.replicate(X.requires_grad_()), mesh.replicate(cotangent)
    leaves = [*X_.shards, *up.parameters(), *down.parameters()]

    def forward():
        return down(gelu(up(X_)))

    def both():
        clear(leaves)
        forward().backward(cotangent_)

    return Contestant(lambda: forward().shards[0], both, lambda: [leaf.grad for leaf in leaves])


# what the field uses


def dtensor(dense, X, cotangent):
    """PyTorch's own: parallelize_module with ColwiseParallel and RowwiseParallel."""
    width, hidden = dense.up.in_features, dense.up.out_features
    model = MLP(width, hidden)
    model.load_state_dict(dense.state_dict())
    ranks = init_device_mesh("cpu", (dist.get_world_size(),))
    parallelize_module(model, ranks, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    return trained(model, [*model.parameters()], X, cotangent)


def fairscale(dense, X, cotangent):
    """fairscale.nn.model_parallel, which has Megatron-LM's layers in PyTorch alone."""
    from fairscale.nn.model_parallel import initialize, layers

    if not initialize.model_parallel_is_initialized():
        with redirect_stdout(StringIO()):  # it greets
            initialize.initialize_model_parallel(dist.get_world_size())

    def up(*sizes):
        return layers.ColumnParallelLinear(*sizes, gather_output=False)

    def down(*sizes):
        return layers.RowParallelLinear(*sizes, input_is_parallel=True)

    model = MLP(dense.up.in_features, dense.up.out_features, up, down)
    parameters = [*model.parameters()]
    with torch.no_grad():
        for parameter, piece in zip(parameters, own_pieces(dense), strict=True):
            parameter.copy_(piece)
    return trained(model, parameters, X, cotangent)


# by hand


def f_and_g(dense, X, cotangent):
    """The two conjugate operators as autograd functions, and torch.nn.functional between them."""
    A, a, B, b = pieces = own_leaves(dense)
    return trained(lambda X: G.apply(linear(gelu(linear(F.apply(X), A, a)), B)) + b, pieces, X, cotangent)


class Fused(torch.autograd.Function):
    """The whole MLP as one node."""

    @staticmethod
    def forward(ctx, X, A, a, B, b):
        y, h, g = raw_forward(X, A, a, B, b)
        ctx.save_for_backward(X, A, B, h, g)
        return y

    @staticmethod
    def backward(ctx, grad):
        return raw_backward(grad, *ctx.saved_tensors)


def fused(dense, X, cotangent):
    """One autograd function for all of it."""
    pieces = own_leaves(dense)
    return trained(lambda X: Fused.apply(X, *pieces), pieces, X, cotangent)


def floor(dense, X, cotangent):
    """Raw products and raw collectives, without autograd."""
    pieces, grads = own_pieces(dense), []

    def forward():
        return raw_forward(X, *pieces)[0]

    def both():
        _, h, g = raw_forward(X, *pieces)
        grads[:] = raw_backward(cotangent, X, pieces[0], pieces[2], h, g)

    return Contestant(forward, both, lambda: grads)


def raw_forward(X, A, a, B, b):
    h = torch.addmm(a, X, A.t())
    g = gelu(h)
    y = g @ B.t()
    dist.all_reduce(y)
    return y.add_(b), h, g


def raw_backward(grad, X, A, B, h, g):
    grad_h = torch.ops.aten.gelu_backward(grad @ B, h)
    grad_X = grad_h @ A
    dist.all_reduce(grad_X)
    return grad_X, grad_h.t() @ X, grad_h.sum(0), grad.t() @ g, grad.sum(0)


# what they share


def own_pieces(dense):
    """This rank's A, a, B and b, of a dense MLP whose sizes divide."""
    rank, n = dist.get_rank(), dist.get_world_size()
    up, down = dense.up, dense.down
    cuts = [up.weight.chunk(n, 0)[rank], up.bias.chunk(n, 0)[rank], down.weight.chunk(n, 1)[rank], down.bias]
    return [cut.detach().clone(memory_format=torch.contiguous_format) for cut in cuts]


def own_leaves(dense):
    return [piece.requires_grad_() for piece in own_pieces(dense)]


CONTESTANTS = {
    "shardlab": shardlab,
    "shardlab, unchecked": shardlab_unchecked,
    "DTensor": dtensor,
    "fairscale": fairscale,
    "f and g by hand": f_and_g,
    "fused by hand": fused,
    "floor": floor,
}


def twin(width):
    return MLP(width, 4 * width)


def dense_answer(dense, X, cotangent):
    """y and this rank's part of every gradient, of the MLP in one piece."""
    X = X.detach().clone().requires_grad_()
    whole = [dense.up.weight, dense.up.bias, dense.down.weight, dense.down.bias]
    y = dense(X)
    grads = torch.autograd.grad(y, [X, *whole], cotangent)
    rank, n = dist.get_rank(), dist.get_world_size()
    A, a, B = (grads[i].chunk(n, dim)[rank] for i, dim in ((1, 0), (2, 0), (3, 1)))
    return y.detach(), dict(zip("XAaBb", [grads[0], A, a, B, grads[4]], strict=True))
