"""A layer on shards against its dense twin: values, the gradient of the input, and every gradient of the parameters."""

import copy

import torch

from shardlab.layers import ShardedModule


def assert_twins(dense, sharded, mesh, x, close=torch.testing.assert_close, twice=True):
    """The same output, from the same input, and with a random cotangent the same gradients."""
    x = x.requires_grad_(x.is_floating_point())
    y = dense(x)
    cotangent = torch.randn_like(y)
    x_, cotangent_ = mesh.replicate(x), mesh.replicate(cotangent)
    for _ in range(2 if twice else 1):  # gradients add up
        dense(x).backward(cotangent)
        y_ = sharded(x_)
        y_.backward(cotangent_)
    for got in y_.shards:
        close(got, y)
    for got in x_.grad.shards if x.requires_grad else []:
        close(got, x.grad)
    got = dict(gradients(sharded).named_parameters())
    assert [*got] == [name for name, _ in dense.named_parameters()]
    for name, parameter in dense.named_parameters():
        close(got[name], parameter.grad, msg=lambda told, name=name: f"{name}: {told}")


def gradients(sharded):
    """A dense module that has, where the weights would be, the gradients of the shards: `to_dense` knows the way."""
    twin = copy.deepcopy(sharded)
    for mine, theirs in zip(sharded.parameters(), twin.parameters(), strict=True):
        theirs.data = mine.grad
    for module in twin.modules():
        for name, dim in module.dims.items() if isinstance(module, ShardedModule) else ():
            if dim is None:  # to_dense takes the first copy: they must be one
                for copied in module.held(name).shards:
                    torch.testing.assert_close(copied, module.held(name).shards[0])
    return twin.to_dense()


def refilled(module):
    """With random numbers everywhere, also in biases and norms; float64."""
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.normal_()
    return module
