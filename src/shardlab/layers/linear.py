"""The linear layer, split by columns or by rows.

torch.nn.Linear computes y = x Wᵀ + b and stores W as [out, in]: the split of the *columns* of x W (output features)
cuts dim 0 of the stored weight, the split of its *rows* (input features) cuts dim 1.
"""

import torch
from torch import nn
from torch.nn.functional import linear

from shardlab.shards import Shards


class ShardedLinear(nn.Module):
    """What the two splits share: one weight (and bias) a shard, named `weight_0`, `weight_1`, … after its rank.

    Under torchrun a process holds (and its `state_dict` names) its own shard alone; the ranks' state dicts together
    are the one-process one.
    """

    dim = None  # the dim of the stored weight [out, in] that is cut

    def __init__(self, dense, mesh):
        super().__init__()
        self.mesh, self.names = mesh, {}
        self.out_features, self.in_features = dense.weight.shape
        self._hold("weight", mesh.shard(dense.weight, dim=self.dim))
        self.has_bias = dense.bias is not None
        if self.has_bias:
            self._hold("bias", self.place_bias(dense.bias))

    def _hold(self, name, placed):
        self.names[name] = [f"{name}_{rank}" for rank in self.mesh.ranks]
        for own, tensor in zip(self.names[name], placed.shards, strict=True):
            self.register_parameter(own, nn.Parameter(tensor, requires_grad=tensor.requires_grad))

    def _held(self, name):
        parameters = self._parameters
        return Shards([parameters[own] for own in self.names[name]], self.mesh.root)

    @property
    def weight(self):
        """The weight shards, as a Shards of leaf parameters."""
        return self._held("weight")

    @property
    def bias(self):
        """The bias shards, or None."""
        return self._held("bias") if self.has_bias else None

    def to_dense(self):
        """The dense layer back, on the device of the first shard held here (an all-gather)."""
        with torch.no_grad():
            weight = self.mesh.all_gather(self.weight, dim=self.dim).shards[0]
            dense = nn.Linear(self.in_features, self.out_features, self.has_bias, weight.device, weight.dtype)
            dense.weight.copy_(weight)
            if self.has_bias:
                dense.bias.copy_(self.whole_bias().shards[0])
        return dense

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.has_bias}, {self.mesh}"


class ColumnParallelLinear(ShardedLinear):
    """Y_r = X A_r + b_r, with A = [A_1, …, A_p] cut along its columns (output features).

    X [*, in] is replicated, Y [*, out/p] stays split; `mesh.all_gather(y_, dim=-1)` joins it (Megatron-LM's
    `gather_output=True`). Forward moves nothing; backward all-reduces the gradient of X (*f*, `mesh.copy`).
    Source: Megatron-LM (arXiv 1909.08053, section 3); core/tensor_parallel/layers.py.

    >>> import shardlab
    >>> mesh = shardlab.Mesh(2, devices=["cpu"])
    >>> layer = ColumnParallelLinear(nn.Linear(4, 6), mesh)
    >>> layer(mesh.replicate(torch.ones(3, 4))).shape
    torch.Size([3, 3])
    """

    dim = 0

    def place_bias(self, bias):
        return self.mesh.shard(bias, dim=0)

    def whole_bias(self):
        return self.mesh.all_gather(self.bias, dim=0)

    def forward(self, x_):
        return linear(self.mesh.copy(x_), self.weight, self.bias)


class RowParallelLinear(ShardedLinear):
    """Y = Σ_r X_r A_r + b, with A cut along its rows (input features) and X along its columns, the same way.

    X [*, in/p] is split, as a ColumnParallelLinear leaves it (Megatron-LM's `input_is_parallel=True`; otherwise
    `mesh.scatter(x_, dim=-1)` first); Y [*, out] is replicated. Forward all-reduces the partial sums (*g*), then adds
    the bias, once; backward moves nothing.
    Source: Megatron-LM (arXiv 1909.08053, section 3); core/tensor_parallel/layers.py.
    """

    dim = 1

    def place_bias(self, bias):
        return self.mesh.replicate(bias)

    def whole_bias(self):
        return self.bias

    def forward(self, x_):
        y_ = self.mesh.all_reduce(linear(x_, self.weight), donate=True)  # the product is needed for nothing else
        return y_ + self.bias if self.has_bias else y_
