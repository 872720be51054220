"""A dense module that nothing splits: all of it on every shard."""

import copy

from torch import nn

from shardlab.layers.sharded import ShardedModule


class Replicated(ShardedModule):
    """y_r = f(x_r): every shard has all of a dense module's parameters and buffers, and runs it on what it holds.

    Nothing moves, neither forward nor backward. Where x_ is replicated, so are y_ and the gradients. Where the shards
    hold pieces (each its rows, say), the gradients of the parameters are partial: all-reduce them before the step.

    >>> import torch, shardlab
    >>> mesh, dense = shardlab.Mesh(2, devices=["cpu"]), nn.LayerNorm(4)
    >>> norm = Replicated(dense, mesh)
    >>> norm(mesh.replicate(torch.ones(3, 4))).shape, list(dict(norm.named_parameters()))
    (torch.Size([3, 4]), ['weight_0', 'weight_1', 'bias_0', 'bias_1'])
    """

    def __init__(self, module, mesh):
        super().__init__(mesh)
        for part in module.modules():
            if isinstance(part, (ShardedModule, nn.RNNBase)):
                raise TypeError(
                    f"Replicated runs a dense module on Shards, and a {type(part).__name__} in it does not run so: "
                    "replicate the other modules, each alone, and run a copy of an RNN on each of x_.shards"
                )
        self.inner = copy.deepcopy(module)  # how it computes; with what, is held here
        self.places, known = [], {}
        for path, part in self.inner.named_modules():
            for kept in (part._parameters, part._buffers):
                for name in [name for name, tensor in kept.items() if tensor is not None]:
                    tensor = kept.pop(name)
                    if tensor not in known:  # if it is, the two are tied, and stay so
                        own = "_".join([*path.split("."), name]).strip("_")
                        own = known[tensor] = own + "_" * (own in self.names)
                        if kept is part._parameters:
                            self.hold(own, tensor)
                        else:
                            self.hold_buffer(own, tensor, name not in part._non_persistent_buffers_set)
                    self.places.append((path, name, known[tensor]))

    def forward(self, *args, **kwargs):
        for path, name, own in self.places:
            self.inner.get_submodule(path).__dict__[name] = self.uncut(own)
        try:
            return self.inner(*args, **kwargs)
        finally:
            for path, name, _ in self.places:
                del self.inner.get_submodule(path).__dict__[name]

    def to_dense(self):
        """The dense module back, on the device of the first shard held here."""
        dense, whole = copy.deepcopy(self.inner), {own: self.whole(own) for own in self.names}
        for path, name, own in self.places:
            part = dense.get_submodule(path)
            if own in self.dims:
                part.register_parameter(name, whole[own])
            else:
                part.register_buffer(name, whole[own], name not in part._non_persistent_buffers_set)
        return dense
