"""What a collective costs: the formula against a ring that is really run, step by step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardlab.cost import ring_bytes


def reduce_scatter_ring(n, chunk):
    """Bytes each rank sends: in n-1 steps, each passes one chunk of its running sum to the next."""
    sent, have = [0] * n, [{c: {rank} for c in range(n)} for rank in range(n)]
    for step in range(n - 1):
        moving = [(rank, (rank - step) % n) for rank in range(n)]
        sent = [bytes_so_far + chunk for bytes_so_far in sent]
        arrived = [((rank + 1) % n, c, have[rank][c]) for rank, c in moving]
        for rank, c, terms in arrived:
            have[rank][c] = have[rank][c] | terms
    assert all(have[rank][(rank + 1) % n] == set(range(n)) for rank in range(n))  # a whole sum on each
    return sent


def all_gather_ring(n, chunk):
    sent, have = [0] * n, [{rank} for rank in range(n)]
    for step in range(n - 1):
        arrived = [((rank + 1) % n, (rank - step) % n) for rank in range(n)]
        for rank, c in arrived:
            sent[rank - 1] += chunk
            have[rank].add(c)
    assert all(chunks == set(range(n)) for chunks in have)
    return sent


@given(st.integers(1, 16), st.integers(1, 1000))
def test_against_a_ring(n, chunk):
    payload = n * chunk
    for rank in range(n):
        scattered, gathered = reduce_scatter_ring(n, chunk)[rank], all_gather_ring(n, chunk)[rank]
        assert ring_bytes("reduce_scatter", payload, n) == pytest.approx(scattered)
        assert ring_bytes("all_gather", payload, n) == pytest.approx(gathered)
        assert ring_bytes("all_reduce", payload, n) == pytest.approx(scattered + gathered)


@given(st.integers(1, 16), st.integers(1, 1000))
def test_exchange_and_broadcast(n, chunk):
    payload = n * chunk
    assert ring_bytes("all_to_all", payload, n) == pytest.approx((n - 1) * chunk)  # all but the own piece
    whole_on_each_link_but_one = (n - 1) * payload
    for name in ("broadcast", "reduce"):
        assert ring_bytes(name, payload, n) == pytest.approx(whole_on_each_link_but_one / n)


@given(st.integers(2, 16), st.integers(1, 1000))
def test_a_ring_is_made_of_shifts(n, chunk):
    assert 2 * (n - 1) * ring_bytes("shift", chunk, n) == pytest.approx(ring_bytes("all_reduce", n * chunk, n))


def test_one_shard_sends_nothing():
    assert ring_bytes("all_reduce", 1024, 1) == ring_bytes("shift", 1024, 1) == 0
