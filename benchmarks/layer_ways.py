"""One transformer layer as Llama has it (`shardlab.layers.TransformerLayer`), tensor parallel on the ranks of
torch.distributed, written in four ways.

q, k, v, gate and up are cut by their output features, o and down by their input features; the norms are whole on every
rank. That is two all-reduces forward and two backward.
"""

import os
from unittest.mock import patch

import torch
import torch.distributed as dist
from contestants import Contestant, F, G, clear, trained
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)

from shardlab import Mesh
from shardlab.layers import ParallelTransformerLayer, TransformerLayer

HEADS, KV_HEADS = 8, 4
NORMS = ("input_layernorm", "post_attention_layernorm")
COLUMNS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
ROWS = ("self_attn.o_proj", "mlp.down_proj")


def twin(width, hidden=None, n=1):
    """The dense layer; or what rank r of n has of it, as a layer with fewer heads and hidden features."""
    hidden, size = hidden or 4 * width, width // HEADS
    return TransformerLayer(width, hidden // n, HEADS // n, KV_HEADS // n, size)


def shardlab(dense, X, cotangent):
    """shardlab.layers, as it comes: every collective is compared between the ranks before it runs."""
    return on_mesh(Mesh(), dense, X, cotangent)


def shardlab_unchecked(dense, X, cotangent):
    """The same with that comparison turned off."""
    with patch.dict(os.environ, SHARDLAB_CHECK="0"):
        return on_mesh(Mesh(), dense, X, cotangent)


def on_mesh(mesh, dense, X, cotangent):
    layer = ParallelTransformerLayer(dense, mesh)
    X_, cotangent_ = mesh.replicate(X.requires_grad_()), mesh.replicate(cotangent)
    leaves = [*X_.shards, *layer.parameters()]

    def both():
        clear(leaves)
        layer(X_).backward(cotangent_)

    return Contestant(lambda: layer(X_).shards[0], both, lambda: in_order(layer, X_.shards[0]))


def dtensor(dense, X, cotangent):
    """PyTorch's own: parallelize_module, with one *f* for q, k and v together, and one for gate and up."""
    model = twin(X.shape[-1])
    model.load_state_dict(dense.state_dict())
    whole = {"input_layouts": (Replicate(),), "desired_input_layouts": (Replicate(),)}
    plan = {name: PrepareModuleInput(**whole) for name in ("self_attn", "mlp")}
    plan |= {name: ColwiseParallel() for name in COLUMNS} | {name: RowwiseParallel() for name in ROWS}
    parallelize_module(model, init_device_mesh("cpu", (dist.get_world_size(),)), plan)
    return trained(model, [parameter for _, parameter in ordered(model)], X, cotangent)


def f_and_g(dense, X, cotangent):
    """The two conjugate operators as autograd functions, around this rank's part of the layer."""
    own = own_part(dense)

    def forward(X):
        X = X + G.apply(own.self_attn(F.apply(own.input_layernorm(X))))
        return X + G.apply(own.mlp(F.apply(own.post_attention_layernorm(X))))

    return trained(forward, [parameter for _, parameter in ordered(own)], X, cotangent)


def floor(dense, X, cotangent):
    """This rank's part of the layer and raw collectives, with autograd between them alone."""
    own, X = own_part(dense), X.detach().clone().requires_grad_()
    halves = [(own.input_layernorm, own.self_attn), (own.post_attention_layernorm, own.mlp)]
    leaves = [X, *(parameter for _, parameter in ordered(own))]

    def forward():
        with torch.no_grad():
            return steps()[0]

    def steps():
        x, tape = X, []
        for norm, part in halves:
            x = x.detach().requires_grad_()
            normed = norm(x)
            inner = normed.detach().requires_grad_()
            partial = part(inner)
            tape.append((x, normed, inner, partial))
            y = partial.detach().clone()
            dist.all_reduce(y)
            x = y.add_(x.detach())
        return x, tape

    def both():
        clear(leaves)
        grad = cotangent
        for x, normed, inner, partial in reversed(steps()[1]):
            partial.backward(grad)
            dist.all_reduce(inner.grad)
            normed.backward(inner.grad)
            grad = x.grad.add_(grad)
        X.grad = grad

    return Contestant(forward, both, lambda: [leaf.grad for leaf in leaves])


# what they share


def ordered(layer):
    """Its parameters by name, in one order for all."""
    found = {name.removesuffix(".weight"): parameter for name, parameter in layer.named_parameters()}
    return [(name, found[name]) for name in (*NORMS, *COLUMNS, *ROWS)]


def in_order(layer, X):
    """The gradients of X and of our layer's parameters, of which a rank has one shard each."""
    modules = dict(layer.named_modules())
    held = {name: next(iter(modules[name].parameters())) for name in (*NORMS, *COLUMNS[3:], ROWS[1])}
    for name in (*COLUMNS[:3], ROWS[0]):
        held[name] = layer.self_attn.held(name.partition(".")[2]).shards[0]
    return [X.grad, *(held[name].grad for name in (*NORMS, *COLUMNS, *ROWS))]


def own_part(dense):
    """This rank's part of a dense layer, as plain tensors."""
    width, hidden, n = dense.mlp.down_proj.out_features, dense.mlp.down_proj.in_features, dist.get_world_size()
    own = twin(width, hidden, n)
    with torch.no_grad():
        for (name, mine), (_, whole) in zip(ordered(own), ordered(dense), strict=True):
            mine.copy_(own_piece(name, whole))
    return own


def own_piece(name, whole):
    """This rank's piece of a weight, or of its gradient."""
    if name in NORMS:
        return whole
    return whole.chunk(dist.get_world_size(), 0 if name in COLUMNS else 1)[dist.get_rank()]


def dense_answer(dense, X, cotangent):
    """y and this rank's part of every gradient, of the layer in one piece."""
    X = X.detach().clone().requires_grad_()
    y = dense(X)
    names, parameters = zip(*ordered(dense), strict=True)
    grad, *grads = torch.autograd.grad(y, [X, *parameters], cotangent)
    pieces = {name: own_piece(name, grad) for name, grad in zip(names, grads, strict=True)}
    return y.detach(), {"X": grad, **pieces}


CONTESTANTS = {
    "shardlab": shardlab,
    "shardlab, unchecked": shardlab_unchecked,
    "DTensor": dtensor,
    "f and g by hand": f_and_g,
    "floor": floor,
}
