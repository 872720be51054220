"""Tensor-parallel layers, each an `nn.Module` built from its dense twin. One idea a room."""

from shardlab.layers.linear import ColumnParallelLinear, RowParallelLinear

__all__ = ["ColumnParallelLinear", "RowParallelLinear"]
