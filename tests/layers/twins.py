"""A layer on shards against its dense twin: values, the gradient of the input, and every gradient of the parameters."""

import copy

import torch
from torch import nn

from shardlab.layers import (
    ParallelTransformerLayer,
    ShardedModule,
    TransformerLayer,
    VocabParallelEmbedding,
    vocab_parallel_cross_entropy,
)


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
    with torch.no_grad():
        for mine, theirs in zip(sharded.parameters(), twin.parameters(), strict=True):
            theirs.copy_(mine.grad)
    for module in twin.modules():
        for name, dim in module.dims.items() if isinstance(module, ShardedModule) else ():
            if dim is None:  # to_dense takes the first copy: they must be one
                for copied in module.held(name).shards:
                    torch.testing.assert_close(copied.cpu(), module.held(name).shards[0].cpu())
    return twin.to_dense()


def refilled(module):
    """With random numbers everywhere, also in biases and norms; float64."""
    with torch.no_grad():
        for parameter in module.double().parameters():
            parameter.normal_()
    return module


def assert_a_model_is_its_twin(mesh, dtype=torch.float64):
    """A language model of one layer with tied embeddings, on the devices of the mesh: its loss and every gradient
    are those of the dense one on the CPU, and everything is on its shard's device."""
    embed, layer = refilled(nn.Embedding(17, 6)).to(dtype), refilled(TransformerLayer(6, 10, 4, 2, 2)).to(dtype)
    ids, targets = torch.randint(0, 17, (2, 5)), torch.randint(0, 17, (2, 5))
    loss = nn.functional.cross_entropy((layer(embed(ids)) @ embed.weight.T).flatten(0, 1), targets.flatten())
    loss.backward()
    words, block = VocabParallelEmbedding(embed, mesh), ParallelTransformerLayer(layer, mesh)
    logits_ = words.logits(block(words(mesh.replicate(ids))))
    loss_ = vocab_parallel_cross_entropy(mesh, logits_, mesh.replicate(targets), 17)
    loss_.backward()
    assert [tensor.device for tensor in logits_.shards] == mesh.devices
    for got in loss_.shards:
        torch.testing.assert_close(got.cpu(), loss)
    for mine, theirs in ((words, embed), (block, layer)):
        for got, want in zip(gradients(mine).parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(got.cpu(), want.grad)
