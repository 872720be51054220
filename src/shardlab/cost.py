"""Arithmetic only: what a collective costs."""


def ring_bytes(collective, payload, n):
    """Bytes that each of `n` shards sends when a ring runs this collective on `payload` bytes.

    An all-reduce is a reduce-scatter and then an all-gather: 2(n-1)/n of the payload (Patarasuk and Yuan,
    2009). Each of the two alone is (n-1)/n. A shift is one step of a ring, in which each shard sends all that it has.
    So is an all-to-all, where each shard sends the others their
    pieces directly (a ring would pass them on). A broadcast or a reduce is passed on by all shards but one, so
    (n-1)/n on average. The payload is the whole tensor: what is reduced, or what is there once it is gathered
    (of an all-to-all, what one shard has).

    >>> ring_bytes("all_reduce", 1024, 4), ring_bytes("all_gather", 1024, 4)
    (1536.0, 768.0)
    """
    if collective == "shift":
        return float(payload) if n > 1 else 0.0
    rounds = 2 if collective == "all_reduce" else 1
    return rounds * (n - 1) * payload / n
