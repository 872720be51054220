"""`ShardedModule`: what every layer on shards is, a plain `nn.Module` that knows how each of its parameters lives."""

import sys

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointFunction

from shardlab.shards import Shards

REENTRANT = CheckpointFunction.forward.__code__


class ShardedModule(nn.Module):
    """A module whose parameters are *cut* along a dim, or *replicated*: a copy on every shard.

    `hold("weight", W, dim=0)` places W and registers shard r of it as the parameter `weight_r`; `held("weight")` is all
    of them, a Shards of leaves. `dims` says how each lives: {"weight": 0, "bias": None}, None for replicated.
    Under torchrun a process holds (and its `state_dict` names) its own shard alone; the ranks' state dicts together
    are the one-process one.

    What goes over `parameters()` meets single shards, and in one process the copies of what is replicated. For
    optimizers that work element by element (SGD, Adam, AdamW), zero_grad and clip_grad_value_ that is right. It is not
    for torch's clip_grad_norm_ and parameters_to_vector, which count a copy as often as it is there (take
    `shardlab.layers.clip_grad_norm_`), nor for initialisers, which would count a shard's inputs: initialise the dense
    twin, then make the layer from it. Over ranks a GradScaler would skip steps by what its own rank sees: take
    bfloat16, which needs none.

    >>> import shardlab
    >>> layer = ShardedModule(shardlab.Mesh(2, devices=["cpu"]))
    >>> layer.hold("scale", torch.ones(6), dim=0)
    >>> layer.hold("shift", torch.zeros(6))
    >>> layer.held("scale").shape, layer.held("shift").shape, layer.dims
    (torch.Size([3]), torch.Size([6]), {'scale': 0, 'shift': None})
    """

    def __init__(self, mesh):
        super().__init__()
        self.mesh, self.names, self.dims = mesh, {}, {}

    def hold(self, name, tensor, dim=None):
        """Place a plain tensor, cut along `dim` or replicated, as this module's parameters `name_0`, `name_1`, … They
        require grad, unless it is a parameter that does not."""
        trained = not isinstance(tensor, nn.Parameter) or tensor.requires_grad
        placed = self.mesh.replicate(tensor) if dim is None else self.mesh.shard(tensor, dim)
        self.dims[name] = dim
        for own, shard in self.named(name, placed):
            self.register_parameter(own, nn.Parameter(shard, trained))

    def hold_buffer(self, name, tensor, persistent=True):
        """The same for what is not trained: the buffers `name_0`, `name_1`, …, replicated."""
        for own, shard in self.named(name, self.mesh.replicate(tensor)):
            self.register_buffer(own, shard, persistent)

    def named(self, name, x_):
        self.names[name] = [f"{name}_{rank}" for rank in self.mesh.ranks]
        return zip(self.names[name], x_.shards, strict=True)

    def held(self, name):
        """The parameters (or buffers) of this name, as a Shards."""
        kept, names = self._parameters if name in self.dims else self._buffers, self.names[name]
        try:
            return Shards([kept[own] for own in names], self.mesh.root)
        except KeyError as lost:
            raise RuntimeError(
                f"{self.told()} has lost its parameter {lost}: weight_norm, prune and parametrizations would see a "
                "shard alone. Apply them to the dense layer, make them permanent (remove), and split that"
            ) from None

    def whole(self, name):
        """The dense value of what is held under this name, on the device of the first shard here (an all-gather)."""
        held_, dim = self.held(name), self.dims.get(name)
        with torch.no_grad():
            whole_ = held_ if dim is None else self.mesh.all_gather(held_, dim)
        whole = whole_.shards[0].detach().clone()
        return nn.Parameter(whole, held_.requires_grad) if name in self.dims else whole

    # the doors of the region that is split; with the sequence cut there are others (see `sequence`)

    def enter(self, x_, products):
        """*f*: the products of x_, which is replicated, with weights that are cut."""
        return products(self.mesh.copy(x_))

    def leave(self, p_):
        """*g*: the sum of partial products, which are needed for nothing else."""
        return self.mesh.all_reduce(p_, donate=True)

    def uncut(self, name):
        """A replicated parameter (or buffer) that meets values outside of the region."""
        return self.held(name)

    def told(self):
        return f"{type(self).__name__} on {self.mesh}"

    # what would go wrong in silence

    def __call__(self, *args, **kwargs):
        if not torch.is_grad_enabled() and within(REENTRANT):
            raise RuntimeError(
                f"{self.told()} within a reentrant checkpoint, which sees no Shards and would lose its gradients: "
                "say checkpoint(…, use_reentrant=False)"
            )
        return super().__call__(*args, **kwargs)

    def register_full_backward_hook(self, *_, **__):
        raise RuntimeError(
            f"{self.told()} takes and returns Shards, which torch's backward hooks of a module do not see: register a "
            "forward hook, and in it a hook on each tensor of its output's y_.shards"
        )

    register_full_backward_pre_hook = register_backward_hook = register_full_backward_hook

    def _apply(self, function, recurse=True):
        """Behind half(), double(), to(…): the shards stay on the devices of their mesh."""
        for device in self.mesh.devices:
            there = function(torch.empty(0, device=device)).device
            if there != device:
                raise RuntimeError(
                    f"{self.told()} would go to {there}, but its mesh has a shard on {device}: make the layer from "
                    "the dense one, layer.to_dense(), on a mesh with other devices"
                )
        return super()._apply(function, recurse)

    def _load_from_state_dict(self, state, prefix, metadata, strict, missing, unexpected, errors):
        elsewhere = set()
        for name, names in self.names.items():
            found = [key for key in state if key.startswith(prefix) and is_part(key.removeprefix(prefix), name)]
            wanted = [prefix + own for own in names]
            if len(found) == self.mesh.total and {*wanted} < {*found}:
                elsewhere |= {*found} - {*wanted}  # the one-process state, on ranks: each takes its own
            elif found and {*found} != {*wanted}:
                errors.append(
                    f"{self.told()} wants {', '.join(wanted)}, but the state has {', '.join(found)}. A state fits the "
                    "number of shards that it comes from. To any other number the way is the dense layer: "
                    "layer.to_dense() where it fits, then make the sharded layer from that"
                )
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, unexpected, errors)
        unexpected[:] = [key for key in unexpected if key not in elsewhere]


def is_part(key, name):
    """Is `weight`, `weight_0`, … a state's key for the parameter `weight`?"""
    return key == name or (key.startswith(f"{name}_") and key.removeprefix(f"{name}_").isdigit())


def within(code):
    """Is this function running, somewhere up the stack?"""
    frame = sys._getframe(1)
    while frame and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None
