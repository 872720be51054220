"""The labs: sliders over a pure function, one lab a lesson. Each has a still picture, for a page without a kernel.

labs.split_picture(how="row", shards=3)     the picture of one state
labs.split()                                the same picture, under sliders
labs.split_result(how="row", shards=3)      the numbers behind it
"""

from shardlab.labs.lab import Lab
from shardlab.labs.lab00_devices import devices, devices_picture, devices_result, draw_devices
from shardlab.labs.lab01_split import draw_split, seed_data, split, split_picture, split_result
from shardlab.labs.lab02_before_reduction import (
    activation_error,
    before_reduction,
    before_reduction_picture,
    before_reduction_result,
    draw_before_reduction,
)
from shardlab.labs.lab03_tolerance import draw_tolerance, tolerance, tolerance_picture, tolerance_result
from shardlab.labs.lab04_uneven import draw_uneven, uneven, uneven_picture, uneven_result
from shardlab.labs.lab05_mlp import draw_mlp, mlp, mlp_picture, mlp_result
from shardlab.labs.lab06_backward import backward, backward_picture, backward_result, draw_backward
from shardlab.labs.lab07_heads import draw_heads, heads, heads_picture, heads_result
from shardlab.labs.lab08_vocabulary import draw_vocabulary, vocabulary, vocabulary_picture, vocabulary_result
from shardlab.labs.lab09_sequence import draw_sequence, sequence, sequence_picture, sequence_result
from shardlab.labs.lab10_memory import draw_memory, memory, memory_picture, memory_result
from shardlab.labs.lab11_ring import draw_ring, ring, ring_picture, ring_result
from shardlab.labs.lab12_pays import draw_pays, pays, pays_picture, pays_result
from shardlab.labs.lab13_gates import draw_gates, gates, gates_picture, gates_result
from shardlab.labs.lab13_ranks import draw_ranks, ranks, ranks_picture, ranks_result
from shardlab.labs.predicting import predict
from shardlab.labs.waiting import progress

LABS = {  # name: (the lab, its drawing, the state to start from and the changes to it that a benchmark goes through)
    "devices": (devices, draw_devices, [{}, {"shards": 16}, {"gpus": 8, "shards": 16}]),
    "split": (split, draw_split, [{}, {"how": "row", "when": "before", "shards": 16}, {"inner": 64, "outer": 64}]),
    "before_reduction": (before_reduction, draw_before_reduction, [{}, {"scale": 2.0}, {"activation": "tanh"}]),
    "tolerance": (tolerance, draw_tolerance, [{}, {"dtype": "bfloat16", "shards": 64}, {"K": 16384}]),
    "uneven": (uneven, draw_uneven, [{}, {"way": "pad", "shards": 7}, {"way": "chunk", "width": 64, "shards": 15}]),
    "mlp": (mlp, draw_mlp, [{}, {"layers": 6, "shards": 8}, {"cut": "column, column"}, {"layers": 4, "reduce": "end"}]),
    "backward": (
        backward,
        draw_backward,
        [{}, {"step": 3, "shards": 4}, {"f": "none"}, {"step": 7, "g": "both"}],
    ),
    "heads": (heads, draw_heads, [{}, {"shards": 8}, {"cut": "as it lies"}, {"layout": "interleaved", "shards": 2}]),
    "vocabulary": (vocabulary, draw_vocabulary, [{}, {"V": 100, "shards": 8, "tokens": 8}, {"V": 37, "way": "gather"}]),
    "sequence": (sequence, draw_sequence, [{}, {"shards": 8}, {"sequence": "off"}, {"sequence": "on", "y": "kept"}]),
    "memory": (
        memory,
        draw_memory,
        [{}, {"shards": 8, "sequence": True}, {"model": "Llama 3.1 70B", "use": "serving, bf16", "tokens": 131072}],
    ),
    "ring": (ring, draw_ring, [{}, {"shards": 8, "step": 7}, {"way": "n steps instead of n - 1", "step": 15}]),
    "pays": (
        pays,
        draw_pays,
        [{}, {"shards": 64, "batch": 1}, {"link": "PCIe 5"}, {"model": "Qwen3 14B", "device": "A100 SXM"}],
    ),
    "gates": (gates, draw_gates, [{}, {"late": 0}, {"late": 10}]),
    "ranks": (ranks, draw_ranks, [{}, {"how": "row", "when": "before"}, {"how": "column", "ranks": 4}]),
}

__all__ = [
    "LABS",
    "Lab",
    "activation_error",
    "predict",
    "progress",
    "seed_data",
    "devices",
    "devices_picture",
    "devices_result",
    "split",
    "split_picture",
    "split_result",
    "before_reduction",
    "before_reduction_picture",
    "before_reduction_result",
    "tolerance",
    "tolerance_picture",
    "tolerance_result",
    "uneven",
    "uneven_picture",
    "uneven_result",
    "mlp",
    "mlp_picture",
    "mlp_result",
    "backward",
    "backward_picture",
    "backward_result",
    "heads",
    "heads_picture",
    "heads_result",
    "vocabulary",
    "vocabulary_picture",
    "vocabulary_result",
    "sequence",
    "sequence_picture",
    "sequence_result",
    "memory",
    "memory_picture",
    "memory_result",
    "ring",
    "ring_picture",
    "ring_result",
    "pays",
    "pays_picture",
    "pays_result",
    "gates",
    "gates_picture",
    "gates_result",
    "ranks",
    "ranks_picture",
    "ranks_result",
]
