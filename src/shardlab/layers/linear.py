"""The linear layer, split by columns or by rows.

torch.nn.Linear computes y = x Wᵀ + b and stores W as [out, in]: the split of the *columns* of x W (output features)
cuts dim 0 of the stored weight, the split of its *rows* (input features) cuts dim 1.
"""

from torch import nn
from torch.nn.functional import linear

from shardlab.layers.sharded import ShardedModule


class ShardedLinear(ShardedModule):
    """What the two splits share: one weight (and bias) a shard, named `weight_0`, `weight_1`, … after its rank."""

    dim = None  # the dim of the stored weight [out, in] that is cut
    bias_dim = None  # and that of the bias, unless it is replicated

    def __init__(self, dense, mesh):
        super().__init__(mesh)
        if not isinstance(dense, nn.Linear):
            raise TypeError(f"{type(self).__name__} is made from an nn.Linear, not from a {type(dense).__name__}")
        self.out_features, self.in_features = dense.weight.shape
        self.hold("weight", dense.weight, self.dim)
        self.has_bias = dense.bias is not None
        if self.has_bias:
            self.hold("bias", dense.bias, self.bias_dim)

    @property
    def weight(self):
        """The weight shards, as a Shards of leaf parameters."""
        return self.held("weight")

    @property
    def bias(self):
        """The bias shards, or None."""
        return self.held("bias") if self.has_bias else None

    def to_dense(self):
        """The dense layer back, on the device of the first shard held here (an all-gather)."""
        dense = nn.Linear(self.in_features, self.out_features, self.has_bias, device="meta")
        dense.weight = self.whole("weight")
        if self.has_bias:
            dense.bias = self.whole("bias")
        return dense.train(self.training)

    def extra_repr(self):
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.has_bias}, {self.mesh}"


class ColumnParallelLinear(ShardedLinear):
    """Y_r = X A_r + b_r, with A = [A_1, …, A_p] cut along its columns (output features).

    X [*, in] is replicated, Y [*, out/p] stays split; `mesh.all_gather(y_, dim=-1)` joins it (Megatron-LM's
    `gather_output=True`). Forward moves nothing; backward all-reduces the gradient of X (*f*, `mesh.copy`).
    Source: Megatron-LM (arXiv 1909.08053, section 3); core/tensor_parallel/layers.py.

    >>> import torch, shardlab
    >>> mesh = shardlab.Mesh(2, devices=["cpu"])
    >>> layer = ColumnParallelLinear(nn.Linear(4, 6), mesh)
    >>> layer(mesh.replicate(torch.ones(3, 4))).shape
    torch.Size([3, 3])

    The cut knows nothing of what a column means. A layer that computes q, k and v side by side (*fused*) is cut across
    them: shard 0 of 2 has all of q and half of k, and `y_.chunk(3, dim=-1)` is not q, k and v. Cut each alone:

    >>> qkv, X = nn.Linear(4, 12), torch.randn(3, 4)
    >>> layers = []
    >>> for weight, bias in zip(qkv.weight.chunk(3), qkv.bias.chunk(3)):
    ...     dense = nn.Linear(4, 4)
    ...     dense.weight, dense.bias = nn.Parameter(weight), nn.Parameter(bias)
    ...     layers.append(ColumnParallelLinear(dense, mesh))
    >>> q_, k_, v_ = [layer(mesh.replicate(X)) for layer in layers]
    >>> torch.allclose(mesh.all_gather(k_, dim=-1).shards[0], qkv(X).chunk(3, dim=-1)[1], atol=1e-6)
    True
    """

    dim = 0
    bias_dim = 0

    def forward(self, x_):
        return self.enter(x_, lambda x_: linear(x_, self.weight, self.bias))


class RowParallelLinear(ShardedLinear):
    """Y = Σ_r X_r A_r + b, with A cut along its rows (input features) and X along its columns, the same way.

    X [*, in/p] is split, as a ColumnParallelLinear leaves it (Megatron-LM's `input_is_parallel=True`; otherwise
    `mesh.scatter(x_, dim=-1)` first); Y [*, out] is replicated. Forward all-reduces the partial sums (*g*), then adds
    the bias, once; backward moves nothing.
    Source: Megatron-LM (arXiv 1909.08053, section 3); core/tensor_parallel/layers.py.
    """

    dim = 1

    def forward(self, x_):
        y_ = self.leave(linear(x_, self.weight))
        return y_ + self.uncut("bias").type_as(y_) if self.has_bias else y_  # under autocast, y_ is of the shorter type
