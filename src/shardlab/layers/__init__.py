"""Tensor-parallel layers, each an `nn.Module` built from its dense twin. One idea a room."""

from shardlab.layers.attention import Attention, ParallelAttention
from shardlab.layers.block import ParallelTransformerLayer, TransformerLayer
from shardlab.layers.clip import clip_grad_norm_
from shardlab.layers.gpt import GPTLayer, ParallelGPTLayer, SequenceGPTLayer
from shardlab.layers.linear import ColumnParallelLinear, RowParallelLinear
from shardlab.layers.masks import dropout
from shardlab.layers.mlp import MLP, ParallelMLP, ParallelSwiGLU, SwiGLU
from shardlab.layers.replicated import Replicated
from shardlab.layers.sequence import (
    SequenceAttention,
    SequenceColumnLinear,
    SequenceMLP,
    SequenceNorm,
    SequenceRowLinear,
    SequenceSwiGLU,
    SequenceTransformerLayer,
)
from shardlab.layers.sharded import ShardedModule
from shardlab.layers.vocabulary import VocabParallelEmbedding, vocab_parallel_cross_entropy, words_of

__all__ = [
    "MLP",
    "Attention",
    "ColumnParallelLinear",
    "GPTLayer",
    "ParallelAttention",
    "ParallelGPTLayer",
    "ParallelMLP",
    "ParallelSwiGLU",
    "ParallelTransformerLayer",
    "Replicated",
    "RowParallelLinear",
    "SequenceAttention",
    "SequenceColumnLinear",
    "SequenceGPTLayer",
    "SequenceMLP",
    "SequenceNorm",
    "SequenceRowLinear",
    "SequenceSwiGLU",
    "SequenceTransformerLayer",
    "ShardedModule",
    "SwiGLU",
    "TransformerLayer",
    "VocabParallelEmbedding",
    "clip_grad_norm_",
    "dropout",
    "vocab_parallel_cross_entropy",
    "words_of",
]
