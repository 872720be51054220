"""The exercises of the course. Each shows its task as the last expression of a cell, and `check(answer)` says how an
answer does: right, or which mistake it makes.

>>> from shardlab import exercises
>>> exercises.column_linear.check(lambda mesh, X, W: mesh.all_gather(X @ W, dim=1))
✓ column_linear: Right on 1, 2, 3 and 4 shards: the values and the communication.
>>> exercises.column_linear.check(lambda mesh, X, W: X @ W).mistake
'no gather'
"""

from shardlab.exercises.lesson00 import report_devices, weighted_sum
from shardlab.exercises.lesson01 import column_linear, row_linear
from shardlab.exercises.lesson02 import FUNCTIONS, exempt, reduce_then_activate, row_bias
from shardlab.exercises.lesson03 import tolerance
from shardlab.exercises.lesson04 import padded_linear, uneven_linear
from shardlab.exercises.lesson05 import mlp, mlp_bias
from shardlab.exercises.lesson05_swiglu import swiglu
from shardlab.exercises.lesson06 import column_backward, row_backward
from shardlab.exercises.lesson06_kinds import kinds
from shardlab.exercises.lesson06_mlp import mlp_gradients
from shardlab.exercises.lesson07 import attention
from shardlab.exercises.lesson07_grouped import grouped_query
from shardlab.exercises.lesson07_qkv import split_qkv
from shardlab.exercises.lesson08 import embedding
from shardlab.exercises.lesson08_loss import cross_entropy
from shardlab.exercises.lesson08_tied import tied
from shardlab.exercises.lesson09 import sequence_mlp
from shardlab.exercises.lesson09_dropout import dropout
from shardlab.exercises.lesson09_norm import sequence_norm
from shardlab.exercises.lesson10 import activation_bytes
from shardlab.exercises.lesson10_fit import smallest_t
from shardlab.exercises.lesson11 import fit, ring_time
from shardlab.exercises.lesson11_ring import ring_all_reduce
from shardlab.exercises.lesson12 import best_t
from shardlab.exercises.lesson12_crossover import crossover
from shardlab.exercises.lesson13 import dtensor_plan, reduce_from_region

__all__ = [
    "FUNCTIONS",
    "activation_bytes",
    "attention",
    "best_t",
    "column_backward",
    "column_linear",
    "cross_entropy",
    "crossover",
    "dropout",
    "dtensor_plan",
    "embedding",
    "exempt",
    "fit",
    "grouped_query",
    "kinds",
    "mlp",
    "mlp_bias",
    "mlp_gradients",
    "padded_linear",
    "reduce_from_region",
    "reduce_then_activate",
    "report_devices",
    "row_backward",
    "ring_all_reduce",
    "ring_time",
    "row_bias",
    "row_linear",
    "sequence_mlp",
    "sequence_norm",
    "split_qkv",
    "smallest_t",
    "swiglu",
    "tied",
    "tolerance",
    "uneven_linear",
    "weighted_sum",
]
