"""Lab 11: the ring that is run: what is in each sum at every step, and what its picture says."""

from itertools import product

import pytest
import torch

from shardlab import Mesh, labs
from shardlab.cost import ring_bytes
from shardlab.labs.lab11_ring import EACH, MOST, WAYS, counts, draw_ring, ring_result, run

A_RING, EARLY, N_STEPS = WAYS


@pytest.mark.parametrize("n", range(1, MOST + 1))
def test_after_each_step_a_sum_has_what_theory_says(n):
    """In the reduce-scatter piece p has on shard r the values of shards p, p + 1, …, r, as far as it has come."""
    for step in range(n):
        ran = ring_result(n, step)
        for r, p in product(range(n), repeat=2):
            far = (r - p) % n
            has = {(p + k) % n for k in range(far + 1)} if far <= step else {r}
            assert ran.held[r][p] == tuple(int(q in has) for q in range(n))
    for step in range(n - 1, 2 * n - 1):
        assert ring_result(n, step).whole == n * (step - n + 2)
    assert ring_result(n, 99) == ring_result(n, 2 * (n - 1))


@pytest.mark.parametrize("n", [2, 3, 8])
def test_what_moves_is_what_an_all_reduce_costs(n):
    ran = ring_result(n, 99)
    assert ran.traffic.names == ["shift"] * (2 * n - 2) == ["shift"] * ran.steps
    value = n * ran.traffic[0].dtype.itemsize
    assert ran.traffic.wire == ring_bytes("all_reduce", value, n)
    mesh = Mesh(n, devices=["cpu"])
    sums = mesh.all_reduce(torch.tensor(EACH) ** mesh.rank).shards[0]
    assert counts(sums.item(), n) == (1,) * n == ran.held[0][0]


@pytest.mark.parametrize("n", [2, 3, 8])
def test_each_mistake_leaves_no_sum_whole(n):
    early, late = ring_result(n, 99, EARLY), ring_result(n, 99, N_STEPS)
    assert early.whole == late.whole == 0
    assert {sum(each) for pieces in early.held for each in pieces} == {n - 1}  # one is missing
    assert {max(each) for pieces in late.held for each in pieces} == {2}  # one is there twice
    assert late.steps == 2 * n - 1


def test_who_sends_what_is_who_gets_it():
    for ran in run(5, A_RING)[1:]:
        assert [ran.sent[r - 1] for r in range(5)] == ran.arrived


def test_the_verdict_is_that_of_the_numbers():
    assert "✓ Done after 6 steps:" in draw_ring(4, 6, A_RING) and "✓ Done" in draw_ring(4, 15, A_RING)
    assert "✗ Wrong." in draw_ring(4, 6, EARLY) and "16 of the 16 sums" in draw_ring(4, 7, N_STEPS)
    middle = draw_ring(4, 2, A_RING)
    assert "Step 2 of 6." in middle and "shard 0 sends piece 3 to shard 1, which adds it to its own" in middle
    assert "takes it as it is" in draw_ring(4, 4, A_RING) and "2 of 6 pieces sent" in middle
    assert "✓ Done after 0 steps:" in draw_ring(1, 0, A_RING)


def test_the_picture_says_in_words_what_is_in_each_sum():
    told = str(labs.ring_picture(shards=3, step=1))
    assert "Shard 0 has just got piece 2, 0 + 2." in told
    assert "Shard 0: 0, 0, 0 + 2. Shard 1: 0 + 1, 1, 1. Shard 2: 2, 1 + 2, 2." in told
    assert "twice 0" in str(labs.ring_picture(shards=2, step=3, way=N_STEPS))
    assert len(str(labs.ring_picture(shards=8, step=9))) < 500


def test_the_canvas_stays_where_it_is():
    states = product((1, 2, 5, 8), (0, 3, 15), WAYS)
    assert len({labs.ring_picture(*state).data.split("viewBox=")[1][:30] for state in states}) == 1
