"""Tensor-parallel layers, each an `nn.Module` built from its dense twin. One idea a room."""

from shardlab.layers.clip import clip_grad_norm_
from shardlab.layers.linear import ColumnParallelLinear, RowParallelLinear
from shardlab.layers.replicated import Replicated
from shardlab.layers.sharded import ShardedModule

__all__ = ["ColumnParallelLinear", "RowParallelLinear", "Replicated", "ShardedModule", "clip_grad_norm_"]
