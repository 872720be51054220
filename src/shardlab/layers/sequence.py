"""Sequence parallelism: what a tensor-parallel layer leaves replicated is cut along the sequence.

Norms, dropout and residuals look at one token at a time, so each shard may have its own tokens. The split region wants
all of them at its entrance, and leaves partial sums behind: so its two doors are other ones, conjugate as *f* and *g*
are. Nothing else changes, and on a ring as many bytes move.

    entrance           *f*, copy                becomes an all-gather, backward a reduce-scatter
    exit               *g*, all-reduce          becomes a reduce-scatter, backward an all-gather
    weights of norms   gradients are whole      become partial sums, to be all-reduced

Source: arXiv 2205.05198, section 4.2.2, which calls the new doors g and ḡ; Megatron-LM's `--sequence-parallel`:
gather_from_ and reduce_scatter_to_sequence_parallel_region (core/tensor_parallel/mappings.py), and for the norms
core/distributed/finalize_model_grads.py.
"""

from shardlab.layers.attention import ParallelAttention
from shardlab.layers.block import ParallelTransformerLayer
from shardlab.layers.linear import ColumnParallelLinear, RowParallelLinear
from shardlab.layers.mlp import ParallelMLP, ParallelSwiGLU
from shardlab.layers.recompute import again
from shardlab.layers.replicated import Replicated


class Sequence:
    """The doors of a layer whose input and output [*, T/p, width] are cut along the sequence (torch.tensor_split: p
    need not divide T).

    The gathered X is full size, T·width, while it is multiplied. It is not kept for backward: each shard keeps its own
    piece, and gathers again (as Megatron-LM does: section 4.2.2), which costs one more all-gather.
    """

    def enter(self, x_, products):
        """The products of all of X: an all-gather, and in backward a reduce-scatter."""
        return again(lambda x_: products(self.mesh.all_gather(x_, dim=-2, grad="partial")), x_)

    def leave(self, p_):
        """The own tokens of the sum of partial products: a reduce-scatter, and in backward an all-gather."""
        return self.mesh.reduce_scatter(p_, dim=-2)

    def uncut(self, name):
        """A replicated parameter that meets the own tokens alone: the shards' gradients are parts of one sum."""
        return self.mesh.copy(self.held(name))


class SequenceNorm(Sequence, Replicated):
    """y_r = norm(x_r), x cut along the sequence: a LayerNorm or an RMSNorm with all of its weight on every shard.

    Forward moves nothing. The gradient of the weight is Σ_r (that of the tokens of shard r): backward all-reduces it,
    `width` numbers. It is forgotten easily, since the values are right without (Megatron-LM#1446).

    >>> import torch, shardlab
    >>> mesh, dense, X = shardlab.Mesh(2, devices=["cpu"]), torch.nn.RMSNorm(4), torch.randn(6, 4)
    >>> norm, x_ = SequenceNorm(dense, mesh), mesh.shard(X, dim=0)
    >>> norm(x_).square().sum().backward()
    >>> dense(X).square().sum().backward()
    >>> torch.allclose(norm.held("weight").grad.shards[1], dense.weight.grad)
    True
    """


class SequenceColumnLinear(Sequence, ColumnParallelLinear):
    """Y_r = [X_1; …; X_p] A_r + b_r: X [*, T/p, in] is gathered, Y [*, T, out/p] is cut along its columns."""


class SequenceRowLinear(Sequence, RowParallelLinear):
    """Y_r = (Σ_s X_s A_s)[tokens of shard r] + b: X [*, T, in/p] is cut along its columns, Y [*, T/p, out] along the
    sequence. The bias meets the own tokens alone, so its gradient is all-reduced, too."""


class SequenceAttention(Sequence, ParallelAttention):
    """`ParallelAttention` with X and Y [*, T/p, width] cut along the sequence: inside, each head sees all tokens."""


class SequenceMLP(ParallelMLP):
    """`ParallelMLP` with X and Y [*, T/p, width] cut along the sequence."""

    column, row = SequenceColumnLinear, SequenceRowLinear


class SequenceSwiGLU(ParallelSwiGLU):
    """`ParallelSwiGLU` with X and Y [*, T/p, width] cut along the sequence."""

    column, row = SequenceColumnLinear, SequenceRowLinear


class SequenceTransformerLayer(ParallelTransformerLayer):
    """`ParallelTransformerLayer` with X and Y [*, T/p, width] cut along the sequence, norms and residuals included.

    Forward: two all-gathers and two reduce-scatters, where there were two all-reduces; backward: the same, two
    all-gathers of what was not kept, and an all-reduce of `width` numbers for each norm.
    """

    norm, attention, gated = SequenceNorm, SequenceAttention, SequenceSwiGLU
