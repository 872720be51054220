"""The layer whose memory arXiv 2205.05198 counts: a GPT's, with every tensor in sight that it keeps for backward.

Its attention is in steps and not fused, dropouts keep masks of one byte a number, and what need not be kept is computed
again in backward.
"""

import torch
from torch import nn

from shardlab.layers.attention import Attention, ParallelAttention
from shardlab.layers.masks import dropout
from shardlab.layers.mlp import MLP, ParallelMLP
from shardlab.layers.recompute import again
from shardlab.layers.replicated import Replicated
from shardlab.layers.sequence import Sequence, SequenceMLP, SequenceNorm

RECOMPUTE = (None, "selective", "full")


class GPTLayer(nn.Module):
    """h = x + attention(norm(x)), y = h + mlp(norm(h)), with LayerNorms, biases and an MLP of 4h: the dense twin of
    `ParallelGPTLayer`, whose dropouts it leaves out."""

    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width, heads, bias=True), MLP(width, 4 * width)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class StepwiseAttention(ParallelAttention):
    """`ParallelAttention` with the scores [*, heads/p, T, T] in memory, and a dropout on them."""

    p, seed, recompute = 0.0, 0, False

    def attend(self, q_, k_, v_):
        return again(self.steps, q_, k_, v_) if self.recompute else self.steps(q_, k_, v_)

    def steps(self, q_, k_, v_):
        scores_ = q_ @ k_.transpose(-2, -1) / self.size**0.5
        T = scores_.shape[-1]
        later_ = self.mesh.replicate(scores_.shards[0].new_full((T, T), -torch.inf).triu(1))
        shares_ = torch.softmax(scores_ + later_, -1)
        return (dropout(self.mesh, shares_, self.p, self.seed, -3) if self.p and self.training else shares_) @ v_


class SequenceStepwiseAttention(Sequence, StepwiseAttention):
    """The same with X and Y [*, T/p, width] cut along the sequence."""


class ParallelGPTLayer(nn.Module):
    """h = x + dropout(attention(norm(x))), y = h + dropout(mlp(norm(h))) on shards: what Megatron-LM's layer keeps for
    backward, this one keeps.

    X and Y [*, T, width] are replicated. `p` is that of the three dropouts, and `seed` goes with the call, so that the
    masks are the same for every number of shards. `recompute` says what backward computes again: None, "selective"
    (attention from q kᵀ to the product with v) or "full" (all, from x_).
    Source: Korthikanti et al. (arXiv 2205.05198, section 4.1 and figure 2; section 5 on recomputation).
    """

    norm, attend, dense_mlp, dim = Replicated, StepwiseAttention, ParallelMLP, None

    def __init__(self, dense, mesh, p=0.1, recompute=None):
        super().__init__()
        if recompute not in RECOMPUTE:
            raise ValueError(f"recompute is one of {RECOMPUTE}, not {recompute!r}")
        self.mesh, self.p, self.recompute = mesh, p, recompute
        self.norm1, self.norm2 = self.norm(dense.norm1, mesh), self.norm(dense.norm2, mesh)
        self.attention, self.mlp = self.attend(dense.attention, mesh), self.dense_mlp(dense.mlp, mesh)
        self.attention.p, self.attention.recompute = p, recompute == "selective"

    def forward(self, x_, seed=0):
        self.attention.seed = 3 * seed
        layer = lambda x_: self.layer(x_, 3 * seed)  # noqa: E731
        return again(layer, x_) if self.recompute == "full" else layer(x_)

    def layer(self, x_, seed):
        x_ = x_ + self.dropout(self.attention(self.norm1(x_)), seed + 1)
        return x_ + self.dropout(self.mlp(self.norm2(x_)), seed + 2)

    def dropout(self, x_, seed):
        return dropout(self.mesh, x_, self.p, seed, self.dim) if self.p and self.training else x_

    def to_dense(self):
        """The dense layer back, on the device of the first shard held here."""
        dense = GPTLayer(1, 1)
        for name, part in self.named_children():
            setattr(dense, name, part.to_dense())
        return dense.train(self.training)


class SequenceGPTLayer(ParallelGPTLayer):
    """`ParallelGPTLayer` with X and Y [*, T/p, width] cut along the sequence, norms and dropouts included."""

    norm, attend, dense_mlp, dim = SequenceNorm, SequenceStepwiseAttention, SequenceMLP, -2
