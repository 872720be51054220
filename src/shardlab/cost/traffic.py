"""What a collective costs: bytes on the wire, and seconds, with α and β.

One message of m bytes from one shard to another takes α + mβ seconds: α, the latency, is paid once a message, and β
once a byte (1/β is the bandwidth of the link in one direction, since a shard sends and receives at the same time). n
is the number of shards. `size` is the bytes of the whole tensor: what is reduced, or is there once it is gathered (of
an all-to-all and a shift, what one shard has).
"""

from math import ceil, log2

RING_STEPS = {"all_reduce": 2, "broadcast": 2, "reduce": 2, "all_gather": 1, "reduce_scatter": 1, "all_to_all": 1}


def ring_bytes(collective, payload, n):
    """Bytes that each of `n` shards sends when a ring runs this collective on `payload` bytes.

    An all-reduce is a reduce-scatter and then an all-gather: 2(n-1)/n of the payload (Patarasuk and Yuan,
    2009). Each of the two alone is (n-1)/n. So is an all-to-all, where each shard sends the others their
    pieces directly (a ring would pass them on). A broadcast or a reduce is passed on by all shards but one, so
    (n-1)/n on average. A shift is one step of a ring, in which each shard sends all that it has.

    >>> ring_bytes("all_reduce", 1024, 4), ring_bytes("all_gather", 1024, 4)
    (1536.0, 768.0)
    """
    if collective == "shift":
        return float(payload) if n > 1 else 0.0
    rounds = 2 if collective == "all_reduce" else 1
    return rounds * (n - 1) * payload / n


def ring_time(n, size, alpha, beta, collective="all_reduce"):
    """Seconds on a ring: steps · (α + size/n · β), of which an all-reduce has 2(n-1).

    A reduce-scatter, an all-gather and an all-to-all have n-1 (Patarasuk and Yuan, 2009). A broadcast or a reduce cut
    into n pieces has 2(n-1): n-1 until the first piece is at the far end, and n-1 more pieces behind it. A shift is
    one step, of all that a shard has.

    >>> ring_time(4, 4_000_000, alpha=1e-5, beta=1e-9)  # 6 steps of 1 MB, 1 ms each and the latency
    0.00606
    """
    if collective == "shift":
        return alpha + size * beta if n > 1 else 0.0
    return RING_STEPS[collective] * (n - 1) * (alpha + size / n * beta)


def tree_time(n, size, alpha, beta, collective="all_reduce"):
    """Seconds on a binomial tree: ⌈log₂ n⌉ rounds, each α + size · β; an all-reduce is a reduce and a broadcast.

    An all-gather that doubles what each has, round by round, takes ⌈log₂ n⌉ · α + (n-1)/n · size · β, and so does a
    reduce-scatter that halves it (exact where n is a power of 2). Thakur, Rabenseifner and Gropp, 'Optimization of
    collective communication operations in MPICH', 2005, section 4.

    >>> tree_time(4, 4_000_000, alpha=1e-5, beta=1e-9)  # 4 rounds only, but of 4 MB
    0.01604
    """
    rounds = ceil(log2(n))
    if collective in ("all_gather", "reduce_scatter"):
        return rounds * alpha + (n - 1) / n * size * beta
    if collective not in ("all_reduce", "broadcast", "reduce"):
        raise ValueError(f"a tree does not run {collective}: see ring_time")
    return (2 if collective == "all_reduce" else 1) * rounds * (alpha + size * beta)


def switch_time(n, size, alpha, beta, collective="all_reduce"):
    """Seconds through a switch that adds and copies: an all-reduce is 2α + (n+1)/n · size · β, whatever n is.

    Each shard sends its n pieces of size/n up, the switch adds them and hands each shard one sum, which the shard sends
    up once more for the switch to copy to all: n + 1 pieces where a ring sends 2(n-1) (NVIDIA's NVLink SHARP;
    stas00/ml-engineering, network/README.md, section SHARP; NVIDIA/nccl-tests#153). A broadcast and a reduce send the
    whole once. The others gain nothing: what a shard has to receive, or to send, is (n-1)/n of the whole either way.
    """
    pieces = {"all_reduce": n + 1, "broadcast": n, "reduce": n, "all_gather": n - 1, "reduce_scatter": n - 1}
    trips = 2 if collective == "all_reduce" else 1
    return trips * alpha + (pieces | {"all_to_all": n - 1})[collective] / n * size * beta if n > 1 else 0.0


def bus_bandwidth(n, size, seconds, collective="all_reduce"):
    """Bytes a second that each shard would have sent, had a ring run it: ring_bytes / seconds.

    It is what nccl-tests call busbw (their doc/PERFORMANCE.md), and says nothing of what was really on the wire where
    something else than a ring ran.
    """
    return ring_bytes(collective, size, n) / seconds


def fit(sizes, times):
    """α and β for which α + size · β is nearest to the measured times, by their *relative* errors.

    The least Σ ((α + sβ - t)/t)², that is least squares with the weights 1/t², in closed form. With weights of 1 the
    longest time alone would decide.

    >>> alpha, beta = fit([0, 10, 1000], [2, 2.5, 52])
    >>> round(alpha, 9), round(beta, 9)
    (2.0, 0.05)
    """
    weights = [1 / time**2 for time in times]
    w = sum(weights)
    ws = sum(weight * size for weight, size in zip(weights, sizes, strict=True))
    wss = sum(weight * size**2 for weight, size in zip(weights, sizes, strict=True))
    wt, wst = sum(1 / time for time in times), sum(size / time for size, time in zip(sizes, times, strict=True))
    determinant = w * wss - ws**2
    if not determinant > 1e-12 * w * wss:
        raise ValueError(f"a line wants at least two different sizes, and these are {sorted(set(sizes))}")
    return (wss * wt - ws * wst) / determinant, (w * wst - ws * wt) / determinant
