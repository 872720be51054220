"""What a collective costs: the formula against a ring that is really run, step by step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardlab import Mesh
from shardlab.cost import ALL_REDUCES, LINKS, bus_bandwidth, fit, ring_bytes, ring_time, switch_time, tree_time

GIGA = 1e9


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


# seconds: what a machine takes that is stepped through, message by message


def clock(n, sends, alpha, beta):
    """Seconds until the last message of `sends` is there: (from, to, bytes, the messages before it, by their number). A
    shard sends one message at a time, and receives one at a time."""
    done, sender, receiver = [], [0.0] * n, [0.0] * n
    for source, to, size, after in sends:
        start = max([sender[source], receiver[to], *[done[one] for one in after]])
        done.append(start + alpha + size * beta)
        sender[source] = receiver[to] = done[-1]
    return max(done, default=0.0)


def ring_sends(collective, n, size):
    rounds = 2 if collective == "all_reduce" else 1
    sends = []
    for step in range(rounds * (n - 1)):
        for rank in range(n):
            before = (step - 1) * n + (rank - 1) % n  # what has just come from the left is what goes on to the right
            sends.append((rank, (rank + 1) % n, size / n, [before] if step else []))
    return sends


def pipelined_broadcast(n, size):
    """n pieces from shard 0 down the line, each passed on as soon as it is there."""
    sends = []
    for _ in range(n):
        for rank in range(n - 1):
            sends.append((rank, rank + 1, size / n, [len(sends) - 1] if rank else []))
    return sends


def binomial_broadcast(n, size):
    sends, arrival = [], {0: []}
    while len(arrival) < n:
        for rank in list(arrival):
            if (to := rank + len(arrival)) < n and to not in arrival:
                sends.append((rank, to, size, arrival[rank]))
        for index, (_, to, _, _) in enumerate(sends):
            arrival.setdefault(to, [index])
    return sends


COSTS = [st.integers(1, 9), st.integers(0, 10**6), st.floats(1e-7, 1e-3), st.floats(1e-12, 1e-8)]


@given(st.sampled_from(["all_reduce", "all_gather", "reduce_scatter"]), *COSTS)
def test_a_ring_stepped_through(collective, n, size, alpha, beta):
    stepped = clock(n, ring_sends(collective, n, size), alpha, beta)
    assert ring_time(n, size, alpha, beta, collective) == pytest.approx(stepped)


@given(*COSTS)
def test_a_broadcast_stepped_through(n, size, alpha, beta):
    stepped = clock(n, pipelined_broadcast(n, size), alpha, beta)
    assert ring_time(n, size, alpha, beta, "broadcast") == ring_time(n, size, alpha, beta, "reduce")
    assert ring_time(n, size, alpha, beta, "broadcast") == pytest.approx(stepped)


@given(st.integers(0, 4), *COSTS[1:])
def test_a_tree_stepped_through(power, size, alpha, beta):
    n = 2**power
    stepped = clock(n, binomial_broadcast(n, size), alpha, beta)
    assert tree_time(n, size, alpha, beta, "broadcast") == pytest.approx(stepped)
    assert tree_time(n, size, alpha, beta) == pytest.approx(2 * stepped)


@given(st.integers(0, 4), *COSTS[1:])
def test_doubling_what_each_has(power, size, alpha, beta):
    n, has, seconds = 2**power, size / 2**power, 0.0
    while has < size * (1 - 1e-9):
        seconds, has = seconds + alpha + has * beta, 2 * has
    want = seconds if size else power * alpha
    for collective in ("all_gather", "reduce_scatter"):
        assert tree_time(n, size, alpha, beta, collective) == pytest.approx(want)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_ring_that_is_run_by_shift_has_these_steps_and_bytes(n):
    """2(n-1) shifts of a piece each; what they carry is what the record says of the all-reduce."""
    mesh = Mesh(n, devices=["cpu"])
    x_ = mesh.replicate(torch.ones(12))
    with mesh.record() as one:
        mesh.all_reduce(x_)
    with mesh.record() as ring:
        for _ in range(2 * (n - 1)):
            mesh.shift(x_[: 12 // n])
    assert ring.wire == pytest.approx(one.wire) == pytest.approx(ring_bytes("all_reduce", 48, n))
    assert sum(ring_time(n, call.payload, 1e-5, 1e-9, "shift") for call in ring) == pytest.approx(
        ring_time(n, 48, 1e-5, 1e-9)
    )


def test_what_each_is_good_for():
    """A tree has few messages, a ring short ones; a switch that adds has both."""
    alpha, beta = 1e-6, 1 / (450 * GIGA)
    small, large = 2**10, 2**30
    assert tree_time(64, small, alpha, beta) < ring_time(64, small, alpha, beta)
    assert ring_time(64, large, alpha, beta) < tree_time(64, large, alpha, beta)
    for size in (small, large):
        assert switch_time(64, size, alpha, beta) < min(f(64, size, alpha, beta) for f in (ring_time, tree_time))
    assert switch_time(64, large, 0, beta) / ring_time(64, large, 0, beta) == pytest.approx(65 / 126)
    assert [switch_time(64, 0, alpha, beta, name) for name in ("all_reduce", "broadcast")] == [2 * alpha, alpha]
    for gains_nothing in ("all_gather", "reduce_scatter", "all_to_all"):
        assert switch_time(8, large, 0, beta, gains_nothing) == ring_time(8, large, 0, beta, gains_nothing)
    with pytest.raises(ValueError, match="a tree does not run all_to_all"):
        tree_time(8, 1, alpha, beta, "all_to_all")


@pytest.mark.parametrize("time", [ring_time, tree_time, switch_time])
def test_one_shard_alone_takes_no_time(time):
    for collective in ("all_reduce", "broadcast", "reduce", "all_gather", "reduce_scatter"):
        assert time(1, 10**6, 1e-5, 1e-9, collective) == 0
    assert ring_time(1, 10**6, 1e-5, 1e-9, "shift") == 0


# fits


@given(st.floats(1e-7, 1e-2), st.floats(1e-12, 1e-7))
def test_a_line_is_found_again(alpha, beta):
    sizes = [times * alpha / beta for times in (0, 1, 2, 1000)]
    assert fit(sizes, [alpha + beta * size for size in sizes]) == pytest.approx((alpha, beta))


def test_no_other_line_is_nearer():
    sizes, times = [1, 10, 100, 1000], [2.0, 2.2, 5.0, 20.0]
    alpha, beta = fit(sizes, times)

    def far(a, b):
        return sum(((a + b * s - t) / t) ** 2 for s, t in zip(sizes, times, strict=True))

    near = far(alpha, beta)
    for da, db in [(0.01, 0), (-0.01, 0), (0, 1e-4), (0, -1e-4), (0.01, -1e-4), (-0.01, 1e-4)]:
        assert far(alpha + da, beta + db) > near


def test_a_line_through_one_size():
    with pytest.raises(ValueError, match=r"two different sizes, and these are \[8\]"):
        fit([8, 8], [1.0, 2.0])


# published measurements


def measured(what):
    rows = [row for row in ALL_REDUCES if row.what == what]
    assert len(rows) > 1
    return rows


def seconds_of(row):
    return ring_bytes("all_reduce", row.bytes, row.n) / (row.busbw_GB_per_s * GIGA)


def test_the_line_through_eight_h200():
    """α about 41 µs, 1/β about 440 GB/s on the bus, and wrong by a fifth at 8 and 16 MiB."""
    rows = measured("8 H200")
    sizes, times = [row.bytes for row in rows], [seconds_of(row) for row in rows]
    alpha, beta = fit(sizes, times)
    assert alpha == pytest.approx(41e-6, rel=0.02)
    assert bus_bandwidth(8, 1, beta) / GIGA == pytest.approx(440, rel=0.02)
    errors = {size: alpha / time + beta * size / time - 1 for size, time in zip(sizes, times, strict=True)}
    assert sorted(errors, key=lambda size: abs(errors[size]))[-2:] == [16 * 2**20, 8 * 2**20]
    assert errors[8 * 2**20] == pytest.approx(-0.21, abs=0.005)


def test_more_than_the_wire_carries_and_why():
    """482 GB/s of 'bus bandwidth' on links of 450: the switch adds. A link carries 9 pieces where a ring's has 14."""
    best = max(row.busbw_GB_per_s for row in measured("8 H200"))
    wire = LINKS["NVLink 4"].GB_per_s
    assert best > wire
    assert best * switch_time(8, 1, 0, 1) / ring_time(8, 1, 0, 1) < wire
    for with_switch, ring in zip(measured("H200 with NVLS"), measured("H200 without NVLS"), strict=True):
        assert ring.busbw_GB_per_s < wire and with_switch.busbw_GB_per_s >= ring.busbw_GB_per_s


def test_one_node_against_four():
    one, four = measured("1 node of 8 B200"), measured("4 nodes of 8 B200")
    slower = {a.bytes: a.busbw_GB_per_s / b.busbw_GB_per_s for a, b in zip(one, four, strict=True)}
    assert slower[32 * 2**10] == pytest.approx(120)
    assert slower[2**30] == pytest.approx(2, abs=0.01)
