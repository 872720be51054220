"""The MLP of a transformer, split so that one all-reduce is enough: columns, then rows.

The first product leaves each shard its own hidden features, whole; so the activation between is free, and they are just
what the rows of the second weight meet. The dense twins have the names that Hugging Face's models give their layers.
"""

from torch import nn
from torch.nn.functional import gelu, linear, silu

from shardlab.layers.linear import ColumnParallelLinear, RowParallelLinear


class MLP(nn.Module):
    """y = f(x W1ᵀ + b1) W2ᵀ + b2, x and y [*, width], f elementwise: the dense twin of `ParallelMLP`."""

    def __init__(self, width, hidden, bias=True, f=gelu):
        super().__init__()
        self.fc1, self.fc2, self.f = nn.Linear(width, hidden, bias), nn.Linear(hidden, width, bias), f

    def forward(self, x):
        return self.fc2(self.f(self.fc1(x)))


class ParallelMLP(nn.Module):
    """Y = Σ_r f(X A_r + a_r) B_r + b: A cut by columns, B by rows.

    X [*, width] and Y [*, width] are replicated; between them each shard has its own hidden features [*, hidden/p].
    Forward: one all-reduce (*g*, in `fc2`); backward: one (*f*, in `fc1`).
    Source: Megatron-LM (arXiv 1909.08053, section 3, figure 3a).

    >>> import torch, shardlab
    >>> mesh, dense = shardlab.Mesh(2, devices=["cpu"]), MLP(4, 16)
    >>> mlp, x = ParallelMLP(dense, mesh), torch.ones(3, 4)
    >>> with mesh.record() as traffic:
    ...     y_ = mlp(mesh.replicate(x))
    >>> [call.name for call in traffic], torch.allclose(y_.shards[1], dense(x), atol=1e-6)
    (['all_reduce'], True)
    """

    column, row = ColumnParallelLinear, RowParallelLinear

    def __init__(self, dense, mesh):
        super().__init__()
        self.fc1, self.fc2 = self.column(dense.fc1, mesh), self.row(dense.fc2, mesh)
        self.f = dense.f

    def forward(self, x_):
        return self.fc2(self.f(self.fc1(x_)))

    def to_dense(self):
        """The dense MLP back, on the device of the first shard held here."""
        dense = MLP(1, 1, f=self.f)
        dense.fc1, dense.fc2 = self.fc1.to_dense(), self.fc2.to_dense()
        return dense.train(self.training)


class SwiGLU(nn.Module):
    """y = (silu(x Wgᵀ) · (x Wuᵀ)) Wdᵀ, the gated MLP of Llama (arXiv 2002.05202): the dense twin of `ParallelSwiGLU`.

    Where a checkpoint has gate and up in one weight, `fused.split` takes them apart, `fused.gate_up` says how they lie.
    """

    def __init__(self, width, hidden, bias=False):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, hidden, bias), nn.Linear(width, hidden, bias)
        self.down_proj = nn.Linear(hidden, width, bias)

    def forward(self, x):
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class ParallelSwiGLU(nn.Module):
    """Y = Σ_r (silu(X G_r) · (X U_r)) D_r: gate and up cut by columns, *each alone*, and down by rows.

    Feature j of the gate multiplies feature j of up, so both must be on one shard. X and Y [*, width] are replicated.
    Forward: one all-reduce; backward: one, since both products share one *f*.
    Source: Megatron-LM's gated linear unit (core/transformer/mlp.py), which keeps the two fused.
    """

    column, row = ColumnParallelLinear, RowParallelLinear

    def __init__(self, dense, mesh):
        super().__init__()
        self.mesh = mesh
        self.gate_proj, self.up_proj = (self.column(part, mesh) for part in (dense.gate_proj, dense.up_proj))
        self.down_proj = self.row(dense.down_proj, mesh)

    def forward(self, x_):
        both = self.gate_proj, self.up_proj
        gate_, up_ = self.gate_proj.enter(x_, lambda x_: [linear(x_, part.weight, part.bias) for part in both])
        return self.down_proj(silu(gate_) * up_)

    def to_dense(self):
        """The dense SwiGLU back, on the device of the first shard held here."""
        dense = SwiGLU(1, 1)
        for name, part in self.named_children():
            setattr(dense, name, part.to_dense())
        return dense.train(self.training)
