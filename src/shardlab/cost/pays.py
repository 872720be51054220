"""Does it pay? Seconds of one transformer layer on t shards: its products, and the two all-reduces behind them.

Forward, in 16 bits. A product takes as long as its FLOPs, or as long as it takes to read its weights from memory,
whichever is longer: the roofline (Williams, Waterman and Patterson, 2009). Left out are attention's scores, the KV
cache, and all that is no product; lesson 12 says where that matters.
"""

from math import inf

from shardlab.cost.parameters import attention, mlps
from shardlab.cost.traffic import fit, ring_bytes, ring_time

BYTES = 2  # of a number


def layer_weights(model):
    """The weights of one layer's products, without its norms; of a model of experts, those that one token meets."""
    return attention(model) - 2 * model.h + mlps(model, model.top)[-1]


def products_time(weights, tokens, flops, memory):
    """max(2 · tokens · weights / flops, 2 · weights / memory): `flops` FLOP/s, and `memory` bytes/s."""
    return max(2 * tokens * weights / flops, BYTES * weights / memory)


def layer_time(weights, h, tokens, t, flops, memory, alpha, beta):
    """(products, wire) in seconds: 1/t of the products on each shard, and two all-reduces of [tokens, h] on a ring.

    Megatron-LM's layer: one all-reduce behind attention and one behind the MLP (arXiv 1909.08053, section 3).

    >>> layer_time(weights=100, h=10, tokens=1, t=2, flops=1e3, memory=1e3, alpha=0.01, beta=0.001)
    (0.1, 0.08)
    """
    products = products_time(weights, tokens, flops, memory) / t
    return products, 2 * ring_time(t, BYTES * tokens * h, alpha, beta)


def crossover(k, n, t, flops, alpha, beta):
    """The number of rows m from which [m, k] @ [k, n], by rows over t shards and all-reduced, is faster than unsplit.

    2mkn/C = 2mkn/(tC) + 2(t-1)(α + 2mn/t · β) has the solution m = αt / (n (k/C - 2β)); where k/C <= 2β, that is
    where the inner dim k is at most 2C/W, there is none: the wire alone takes longer than what it saves. FLOPs alone
    are counted, so m is to be above C · 2 bytes / (memory's bytes/s).

    >>> round(crossover(k=4096, n=4096, t=8, flops=794.5e12, alpha=3e-6, beta=1 / 450e9))
    8241
    >>> crossover(k=2048, n=4096, t=8, flops=794.5e12, alpha=3e-6, beta=1 / 450e9)
    inf
    """
    saved = n * (k / flops - BYTES * beta)
    return alpha * t / saved if saved > 0 else inf


def most_shards(F, flops, bandwidth):
    """F · W/C: with more shards than that, an MLP of hidden width F waits longer for its wire than it works.

    T_math = 4BDF/(tC) > T_comms = 4BD/W, for an all-gather and a reduce-scatter of B tokens of D numbers in 16 bits
    (Scaling Book, gpus.md). The (t-1)/t of a ring is left out there, and so it is here.

    >>> round(most_shards(28672, 989e12, 450e9), 1)
    13.0
    """
    return F * bandwidth / flops


def step_latency(rows):
    """α of one step on a ring, and β: `fit` to measured all-reduces, rows of `figures.ALL_REDUCES` of one machine.

    The table has bus bandwidths: a time is the bytes that a ring sends, over them. An all-reduce on n has 2(n-1) steps.
    """
    n = rows[0].n
    sent = [ring_bytes("all_reduce", row.bytes, n) for row in rows]
    alpha, beta = fit(sent, [each / (row.busbw_GB_per_s * 1e9) for each, row in zip(sent, rows, strict=True)])
    return alpha / (2 * (n - 1)), beta
