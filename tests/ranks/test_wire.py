"""The bytes on gloo's wires, as Linux counts them."""

import math

import pytest

from shardlab.cost import ring_bytes
from shardlab.ranks.wire import COUNTS, MOVES, written


@pytest.mark.ranks
@pytest.mark.skipif(not COUNTS.exists(), reason="counted by Linux alone")
def test_a_reduce_scatter_is_a_whole_all_reduce_on_gloos_wires(pool):
    times = {name: written(pool, name) for name in MOVES}
    ring = {name: 2 * ring_bytes(name, 1, 2) for name in MOVES}
    for name in ("all_reduce", "all_gather"):
        assert times[name] == pytest.approx(ring[name], rel=0.01)
    assert times["reduce_scatter"] == pytest.approx(2 * ring["reduce_scatter"], rel=0.01)


def test_where_nobody_counts_there_is_no_number():
    class OverNccl:
        backend = "nccl"

    assert math.isnan(written(OverNccl(), "all_reduce"))
