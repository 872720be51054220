"""The labs: sliders over a pure function, one lab a lesson. Each has a still picture, for a page without a kernel.

labs.split_picture(how="row", shards=3)     the picture of one state
labs.split()                                the same picture, under sliders
labs.split_result(how="row", shards=3)      the numbers behind it
"""

from shardlab.labs.lab01_split import split, split_picture, split_result

__all__ = ["split", "split_picture", "split_result"]
