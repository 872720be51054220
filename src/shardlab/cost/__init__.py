"""Arithmetic only: bytes, seconds, FLOPs and memory, each formula with its equation and where it is from."""

from shardlab.cost.compute import forward_flops, gpt_flops, layer_flops, matmul_flops, training_days, waves
from shardlab.cost.figures import ALL_REDUCES, DEVICES, GPTS, LINKS, MODELS
from shardlab.cost.measured import measured_splits
from shardlab.cost.memory import activation_bytes, gated_activation_bytes, kv_bytes, state_bytes
from shardlab.cost.parameters import active_parameters, gpt_parameters, parameters
from shardlab.cost.pays import crossover, layer_time, layer_weights, most_shards, products_time, step_latency
from shardlab.cost.traffic import bus_bandwidth, fit, ring_bytes, ring_time, switch_time, tree_time

__all__ = [
    "ALL_REDUCES",
    "DEVICES",
    "GPTS",
    "LINKS",
    "MODELS",
    "activation_bytes",
    "active_parameters",
    "bus_bandwidth",
    "crossover",
    "fit",
    "forward_flops",
    "gated_activation_bytes",
    "gpt_flops",
    "gpt_parameters",
    "kv_bytes",
    "layer_flops",
    "layer_time",
    "layer_weights",
    "matmul_flops",
    "measured_splits",
    "most_shards",
    "parameters",
    "products_time",
    "ring_bytes",
    "ring_time",
    "state_bytes",
    "step_latency",
    "switch_time",
    "training_days",
    "tree_time",
    "waves",
]
