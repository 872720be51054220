"""The labs: sliders over a pure function, one lab a lesson. Each has a still picture, for a page without a kernel.

labs.split_picture(how="row", shards=3)     the picture of one state
labs.split()                                the same picture, under sliders
labs.split_result(how="row", shards=3)      the numbers behind it
"""

from shardlab.labs.lab01_split import seed_data, split, split_picture, split_result
from shardlab.labs.lab02_before_reduction import (
    activation_error,
    before_reduction,
    before_reduction_picture,
    before_reduction_result,
)
from shardlab.labs.lab03_tolerance import tolerance_lab as tolerance
from shardlab.labs.lab03_tolerance import tolerance_picture, tolerance_result

__all__ = [
    "activation_error",
    "before_reduction",
    "before_reduction_picture",
    "before_reduction_result",
    "seed_data",
    "split",
    "split_picture",
    "split_result",
    "tolerance",
    "tolerance_picture",
    "tolerance_result",
]
