"""Self-attention, split by heads: each shard computes its own heads whole.

softmax(q kᵀ) is of one head, and a head cut in two would need the other half's products before its softmax. Heads
meet nowhere but in the output projection, a sum over all of them. So q, k, v are split by columns, at the edges of
heads, and o by rows.
"""

import torch
from torch import nn
from torch.nn.functional import linear, rms_norm
from torch.nn.functional import scaled_dot_product_attention as attend

from shardlab.layers.sharded import ShardedModule

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
NORMS = ("q_norm", "k_norm")


class Attention(nn.Module):
    """Causal self-attention of x [*, T, width], grouped-query where kv_heads < heads: the dense twin.

    Head i attends with kv head i·kv_heads // heads (arXiv 2305.13245). `theta` turns on rotary positions
    (arXiv 2104.09864), `eps` an RMSNorm of each head's q and of each kv head's k, as in Qwen3 (arXiv 2505.09388,
    section 2). Where a checkpoint keeps q, k, v in one weight, `fused.split` and `fused.qkv` take it apart.
    """

    def __init__(self, width, heads, kv_heads=None, size=None, bias=False, theta=None, eps=None):
        super().__init__()
        kv_heads, size = kv_heads or heads, size or width // heads
        if heads % kv_heads:
            raise ValueError(f"{heads} heads do not share {kv_heads} kv heads evenly")
        self.heads, self.kv_heads, self.size, self.theta, self.eps = heads, kv_heads, size, theta, eps
        self.q_proj = nn.Linear(width, heads * size, bias)
        self.k_proj, self.v_proj = (nn.Linear(width, kv_heads * size, bias) for _ in "kv")
        self.o_proj = nn.Linear(heads * size, width, bias)
        self.q_norm, self.k_norm = (nn.RMSNorm(size, eps) if eps else nn.Identity() for _ in "qk")

    def forward(self, x):
        q, k, v = (part(x).unflatten(-1, (-1, self.size)) for part in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (part.transpose(-3, -2) for part in (q, k, v))  # [*, heads, T, size]
        q, k = self.q_norm(q), self.k_norm(k)
        if self.theta:
            turns = rotary(x.shape[-2], self.size, self.theta, x)
            q, k = turned(q, turns), turned(k, turns)
        k, v = (part.repeat_interleave(self.heads // self.kv_heads, -3) for part in (k, v))
        return self.o_proj(attend(q, k, v, is_causal=True).transpose(-3, -2).flatten(-2))


class ParallelAttention(ShardedModule):
    """Y = Σ_r [head_i for i of shard r] O_r + b, with q, k, v and the rows of O cut by heads.

    X and Y [*, T, width] are replicated; shard r has heads/p of the heads (torch.tensor_split, so p need not divide),
    its weights [heads/p, size, width]. Where p does not divide the kv heads, as when there are fewer of them, every
    shard has all of wk and wv, and computes the ones its heads attend with: their gradients are all-reduced.
    The weights of the norms of q and k, which all heads share, are replicated, too.
    Forward: one all-reduce (*g*); backward: one (*f*), and one for each of wk, wv and the norms that is replicated.
    Source: Megatron-LM (arXiv 1909.08053, section 3, figure 3b); it, too, replicates kv heads (core/transformer/
    attention.py), but wants p to divide the heads, and to divide the kv heads or be a multiple of them.

    >>> import shardlab
    >>> dense, mesh = Attention(8, heads=4, kv_heads=2), shardlab.Mesh(4, devices=["cpu"])
    >>> layer = ParallelAttention(dense, mesh)
    >>> layer.dims["q_proj"], layer.dims["k_proj"], layer.held("q_proj").shape
    (0, None, torch.Size([1, 2, 8]))
    >>> x = torch.randn(3, 8)
    >>> torch.allclose(layer(mesh.replicate(x)).shards[3], dense(x), atol=1e-6)
    True
    """

    def __init__(self, dense, mesh):
        super().__init__(mesh)
        self.heads, self.kv_heads, self.size = dense.heads, dense.kv_heads, dense.size
        self.theta, self.eps = dense.theta, dense.eps
        kv_dim = 0 if self.kv_heads % mesh.size == 0 else None
        for name in PROJECTIONS[:3]:
            part, dim = getattr(dense, name), 0 if name == "q_proj" else kv_dim
            self.hold(name, by_head(part.weight, 0, self.size), dim)
            if part.bias is not None:
                self.hold(f"{name}_bias", by_head(part.bias, 0, self.size), dim)
        self.hold("o_proj", by_head(dense.o_proj.weight, 1, self.size), 1)
        if dense.o_proj.bias is not None:
            self.hold("o_proj_bias", dense.o_proj.bias)
        for name in NORMS if self.eps else ():
            self.hold(name, getattr(dense, name).weight)
        kv_of_ = mesh.shard(torch.arange(self.heads), 0) // (self.heads // self.kv_heads)  # by head, the one it takes
        self.kv_, self.place_ = kv_of_.unique(
            return_inverse=True
        )  # those in use on each shard; by head, which of these

    def forward(self, x_):
        q_, k_, v_ = self.enter(x_, lambda x_: [self.project(name, x_) for name in PROJECTIONS[:3]])
        if self.eps:  # q_ [*, heads/p, T, size]
            q_, k_ = self.normed("q_norm", q_), self.normed("k_norm", k_)
        if self.theta:
            turns_ = self.mesh.replicate(rotary(q_.shards[0].shape[-2], self.size, self.theta, q_.shards[0]))
            q_, k_ = turned(q_, turns_), turned(k_, turns_)
        k_, v_ = (part_.index_select(-3, self.place_) for part_ in (k_, v_))
        y_ = self.attend(q_, k_, v_).transpose(-3, -2).flatten(-2)  # [*, T, heads/p · size]
        y_ = self.leave(linear(y_, self.held("o_proj").flatten(1)))
        return y_ + self.uncut("o_proj_bias") if "o_proj_bias" in self.dims else y_

    def attend(self, q_, k_, v_):
        """softmax(q kᵀ) v for each head, fused: [*, heads/p, T, size]."""
        return attend(q_, k_, v_, is_causal=True)

    def project(self, name, x_):
        """The heads of q, of k or of v on each shard: [*, heads/p, T, size]."""
        bias = f"{name}_bias"
        bias_ = self.own_heads(bias).flatten() if bias in self.dims else None
        y_ = linear(x_, self.own_heads(name).flatten(0, 1), bias_)
        return y_.unflatten(-1, (-1, self.size)).transpose(-3, -2)

    def normed(self, name, x_):
        """Each head normalised alone. A shard has its own heads' part of the weight's gradient, hence the *f*."""
        return rms_norm(x_, (self.size,), self.mesh.copy(self.held(name)), self.eps)

    def own_heads(self, name):
        """The weights (or biases) of the heads that each shard computes; of replicated ones with an *f*."""
        held_ = self.held(name)
        return held_ if self.dims[name] == 0 else self.mesh.copy(held_)[self.kv_]

    def to_dense(self):
        """The dense layer back, on the device of the first shard held here."""
        dense = Attention(1, self.heads, self.kv_heads, self.size, theta=self.theta, eps=self.eps)
        for name in NORMS if self.eps else ():
            getattr(dense, name).weight = self.whole(name)
        for name in PROJECTIONS:
            dim = 1 if name == "o_proj" else 0
            weight, bias = self.whole(name), self.whole(f"{name}_bias") if f"{name}_bias" in self.dims else None
            weight = nn.Parameter(weight.detach().flatten(dim, dim + 1), weight.requires_grad)
            part = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
            part.weight = weight
            if bias is not None:
                part.bias = nn.Parameter(bias.detach().flatten(), bias.requires_grad)
            setattr(dense, name, part)
        return dense.train(self.training)


def by_head(parameter, dim, size):
    """A weight or bias with a dim for the heads: [heads·size, …] as [heads, size, …]."""
    return nn.Parameter(parameter.detach().unflatten(dim, (-1, size)), parameter.requires_grad)


def rotary(T, size, theta, like):
    """The cosines and sines of T positions, [2, T, size], each angle for both halves of a head, as Llama pairs them."""
    speed = theta ** -(torch.arange(0, size, 2, device=like.device).float() / size)
    angle = torch.outer(torch.arange(T, device=like.device).float(), speed)
    return torch.stack([angle.cos(), angle.sin()]).repeat(1, 1, 2).to(like.dtype)


def turned(x, turns):
    """x [*, T, size] with each pair (i, i + size/2) turned by its angle: elementwise over heads, so nothing moves."""
    one, two = x.chunk(2, -1)
    return x * turns[0] + torch.cat([-two, one], -1) * turns[1]
