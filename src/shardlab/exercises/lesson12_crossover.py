"""Lesson 12: from how many rows on a product on t shards, with its all-reduce, is faster than on one device."""

from math import ceil, inf

import torch

from shardlab.cost import crossover as rows
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.formula import Formula
from shardlab.exercises.lesson11 import uniform

WIDE = [(10, 20), (0.05, 0.9), (1.2, 20)]  # the inner dim in turn, as a multiple of the least at which it may pay


def a_product(random, number):
    """k, n, t, flops, alpha, beta: first on few shards and wide (n, too: it would pay to reduce X), then too narrow,
    then anything that pays."""
    flops, beta = uniform(random, 1e14, 2e15), 1 / uniform(random, 3e10, 1e12)
    k = round(2 * flops * beta * uniform(random, *WIDE[number % 3]))
    t = 2 + int(torch.randint(62 if number % 3 else 3, (), generator=random))
    n = round(max(uniform(random, 256, 32768), 0 if number % 3 else 2.5 * flops * beta))
    return max(k, 1), n, t, flops, uniform(random, 1e-6, 1e-5), beta


def where(latency, saved):
    """The m at which m · saved is the latency, if it is anywhere."""
    return latency / saved if saved > 0 else inf


def counted(k, n, t, flops, alpha, beta, steps=None, piece=None, bytes_each=2, each=2, left=True):
    """The answer from its parts, so that one of them can be wrong: messages, the part of the value in each of them."""
    steps = 2 * (t - 1) if steps is None else steps
    piece = 1 / t if piece is None else piece
    product = each * k * n / flops
    return where(steps * alpha, product - product / t * left - steps * piece * bytes_each * n * beta)


def wrong(**changes):
    return lambda *args: counted(*args, **changes)


def never(way, instead):
    """As `way`, with another word for never."""
    return lambda *args: instead if way(*args) == inf else way(*args)


def unlimited(k, n, t, flops, alpha, beta):
    return alpha * t / (n * (k / flops - 2 * beta))


crossover = Formula(
    "crossover",
    "From how many rows m on is X @ W, X [m, k] by columns and W [k, n] by rows over t shards, with the all-reduce of "
    "its partial sums on a ring, faster than on one device? 16 bits; the products take as long as their FLOPs.",
    given={
        "k": "the inner dim, which is cut",
        "n": "the columns of W",
        "t": "the number of shards, 2 or more",
        "flops": "FLOPs a second of one device",
        "alpha": "seconds for each message on the wire",
        "beta": "seconds for each byte on it",
    },
    wanted="m, a number that need not be whole; math.inf where it never is",
    draw=a_product,
    formula=rows,
    results=("m",),
    mistakes=[
        Mistake(
            "never, in another word",
            "Where the wire's bytes take longer than what is saved, more rows do not help: math.inf is asked for.",
            unlimited,
            never(counted, 0),
            never(counted, -1),
            lambda *args: abs(unlimited(*args)),
            lambda *args: max(0, unlimited(*args)),
        ),
        Mistake(
            "rounded",
            "A number is asked for that need not be whole.",
            lambda *args: counted(*args) if counted(*args) == inf else ceil(counted(*args)),
            lambda *args: counted(*args) if counted(*args) == inf else int(counted(*args)),
            lambda *args: counted(*args) if counted(*args) == inf else int(counted(*args)) + 1,
            lambda *args: counted(*args) if counted(*args) == inf else round(counted(*args)),
        ),
        Mistake(
            "latency forgotten",
            "Without alpha it pays from the first row on, or never. Each of the 2(t - 1) messages has one.",
            lambda *args: inf if counted(*args) == inf else 0,
        ),
        Mistake(
            "latency paid once",
            "A ring has 2(t - 1) steps, each a message that waits for the one before: alpha counts that often.",
            lambda k, n, t, *rest: counted(k, n, t, *rest) / (2 * (t - 1)),
            lambda k, n, t, *rest: counted(k, n, t, *rest) / (t - 1),
        ),
        Mistake(
            "half of the bytes",
            "A number of 16 bits has 2 bytes. If these are counted: beta is of one direction already, and who halves "
            "it, since bytes go both ways at the same time, counts the bandwidth twice.",
            lambda k, n, t, flops, alpha, beta: counted(k, n, t, flops, alpha, beta / 2),
        ),
        Mistake(
            "an all-reduce in one pass",
            "That is a reduce-scatter, or an all-gather. An all-reduce is both: 2(t - 1) steps of 1/t of the value.",
            lambda k, n, t, *rest: counted(k, n, t, *rest, steps=t - 1),
            wrong(steps=1, piece=1),
        ),
        Mistake(
            "t steps for t - 1",
            "A piece starts on one shard, so t - 1 steps take it to all the others, in each of the two halves.",
            lambda k, n, t, *rest: counted(k, n, t, *rest, steps=2 * t),
        ),
        Mistake(
            "the whole value at every step",
            "What goes to the neighbour in one step is 1/t of the value.",
            wrong(piece=1),
        ),
        Mistake(
            "the FLOPs without their 2",
            "A multiplication and an addition for each of the mkn products: 2 FLOPs.",
            wrong(each=1),
        ),
        Mistake(
            "bytes of 32 bits",
            "A number of 16 bits has 2 bytes.",
            wrong(bytes_each=4),
        ),
        Mistake(
            "the shards' own products forgotten",
            "The t shards work, too, each on 1/t of the product: what is saved is the rest.",
            wrong(left=False),
        ),
        Mistake(
            "against the shards' products",
            "That is where the wire takes as long as the products of one shard. Asked is where both together take as "
            "long as one device.",
            lambda k, n, t, flops, alpha, beta: where(
                2 * (t - 1) * alpha, 2 * k * n / (t * flops) - 4 * (t - 1) / t * n * beta
            ),
        ),
        Mistake(
            "X is reduced",
            "The partial sums are [m, n], and X is [m, k]: k and n are exchanged.",
            lambda k, n, t, flops, alpha, beta: where(
                2 * (t - 1) * alpha, 2 * k * n * (1 - 1 / t) / flops - 4 * (t - 1) / t * k * beta
            ),
        ),
        Mistake(
            "beta is not a bandwidth",
            "beta is seconds a byte, 1 / bandwidth: bytes are multiplied by it.",
            lambda k, n, t, flops, alpha, beta: counted(k, n, t, flops, alpha, 1 / beta),
        ),
        Mistake(
            "no bytes",
            "With alpha alone an all-reduce of many rows would be as fast as one of few.",
            lambda k, n, t, flops, alpha, beta: counted(k, n, t, flops, alpha, 0),
        ),
        Mistake(
            "m and its time exchanged",
            "This is the time of one device there. Asked is m.",
            lambda k, n, t, flops, *wire: 2 * k * n / flops * counted(k, n, t, flops, *wire),
        ),
    ],
)
