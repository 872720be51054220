"""A layer of a transformer: attention and MLP, each behind a norm and beside a residual."""

from torch import nn

from shardlab.layers.attention import Attention, ParallelAttention
from shardlab.layers.mlp import ParallelSwiGLU, SwiGLU
from shardlab.layers.replicated import Replicated


class TransformerLayer(nn.Module):
    """h = x + attention(norm(x)), y = h + mlp(norm(h)), as in Llama: the dense twin of `ParallelTransformerLayer`."""

    def __init__(self, width, hidden, heads, kv_heads=None, size=None, theta=10_000.0, eps=1e-5):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = (nn.RMSNorm(width, eps) for _ in range(2))
        self.self_attn = Attention(width, heads, kv_heads, size, theta=theta)
        self.mlp = SwiGLU(width, hidden)

    def forward(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class ParallelTransformerLayer(nn.Module):
    """The same on shards: the two norms replicated, attention cut by heads, the MLP by hidden features.

    X and Y [*, T, width] are replicated. Forward: two all-reduces, one behind each *g*; backward: two, one at each *f*
    (and those of replicated kv heads). Each has T·width numbers: "4 all-reduces a layer" (arXiv 2104.04473, 2.3).
    Source: Megatron-LM (arXiv 1909.08053, section 3, figure 4); the names are Hugging Face's Llama's.
    """

    norm, attention, gated = Replicated, ParallelAttention, ParallelSwiGLU

    def __init__(self, dense, mesh):
        super().__init__()
        self.input_layernorm = self.norm(dense.input_layernorm, mesh)
        self.self_attn = self.attention(dense.self_attn, mesh)
        self.post_attention_layernorm = self.norm(dense.post_attention_layernorm, mesh)
        self.mlp = self.gated(dense.mlp, mesh)

    def forward(self, x_):
        x_ = x_ + self.self_attn(self.input_layernorm(x_))
        return x_ + self.mlp(self.post_attention_layernorm(x_))

    def to_dense(self):
        """The dense layer back, on the device of the first shard held here."""
        dense = TransformerLayer(1, 1, 1)
        for name, part in self.named_children():
            setattr(dense, name, part.to_dense())
        return dense.train(self.training)
