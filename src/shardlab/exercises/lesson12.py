"""Lesson 12: the best number of shards for a layer, with its time."""

import torch

from shardlab.cost import layer_time, ring_time
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.formula import Formula
from shardlab.exercises.lesson11 import uniform

HEADS = [12, 16, 20, 24, 32, 40, 48, 64, 96]


def dividing(heads, most):
    return [t for t in range(1, min(heads, most) + 1) if heads % t == 0]


def doubling(heads, most):
    return [t for t in powers(most) if heads % t == 0]


def powers(most):
    return [t for t in range(1, most + 1) if t & (t - 1) == 0]


def products(t, tokens, h, flops, memory):
    """The products of a layer with 12h² weights, on each of t shards."""
    return layer_time(12 * h**2, h, tokens, t, flops, memory, 0, 0)[0]


def wire(t, tokens, h, alpha, beta):
    return layer_time(12 * h**2, h, tokens, t, 1, 1, alpha, beta)[1]


def steps(t):
    return 2 * (t - 1)


def way(products=products, wire=wire, join=sum, among=dividing, by=lambda t, time: time):
    """An answer, as it should be or with one part of it changed."""

    def best(tokens, h, heads, most, flops, memory, alpha, beta):
        times = {
            t: join((products(t, tokens, h, flops, memory), wire(t, tokens, h, alpha, beta)))
            for t in among(heads, most)
        }
        t = min(times, key=lambda t: by(t, times[t]))
        return t, times[t]

    return best


right = way()


def with_products(changed):
    return way(products=changed)


def with_wire(changed):
    return way(wire=changed)


TOLD_APART = [  # two sets of t whose bests differ in the try of that number, so that no mistake stays hidden
    (dividing, lambda heads, most: range(1, most + 1)),
    (dividing, doubling),
    (doubling, lambda heads, most: powers(most)),
    (dividing, lambda heads, most: dividing(heads, heads)),
    (dividing, lambda heads, most: dividing(heads, most - 1)),
    (dividing, lambda heads, most: dividing(heads, most + 1)),
    (dividing, lambda heads, most: dividing(heads, most)[1:] or [1]),
]


def a_layer(random, number):
    """A layer, a device and a link, all of them possible; in the first try one token."""
    while True:
        heads = HEADS[int(torch.randint(len(HEADS), (), generator=random))]
        most = int(uniform(random, 6, 65))
        flops, memory = uniform(random, 1e14, 2e15), uniform(random, 1e12, 8e12)
        alpha, beta = uniform(random, 1e-6, 1e-5), 1 / uniform(random, 3e10, 1e12)
        tokens = round(uniform(random, 1, 65536)) if number else 1
        args = tokens, 128 * heads, heads, most, flops, memory, alpha, beta
        apart = TOLD_APART[number - 1 : number] if number else []
        if all(way(among=one)(*args) != way(among=other)(*args) for one, other in apart):
            return args


best_t = Formula(
    "best_t",
    "On how many shards is a layer fastest, and how long does it take there? Forward, in 16 bits: 12h² weights, and an "
    "all-reduce of [tokens, h] on a ring behind each of attention and MLP. Nothing overlaps.",
    given={
        "tokens": "how many go through the layer at once",
        "h": "the width of the layer",
        "heads": "attention's heads: t has to divide them",
        "most": "devices there are: t is at most that",
        "flops": "FLOPs a second of one device",
        "memory": "bytes a second that it reads its weights with; the longer of the two counts",
        "alpha": "seconds for each message on the wire",
        "beta": "seconds for each byte on it",
    },
    wanted="t, seconds",
    draw=a_layer,
    formula=right,
    results=("t", "the time in seconds"),
    mistakes=[
        Mistake(
            "latency forgotten",
            "The bytes are right, but each message has its alpha, too, and a decoded token has hardly anything else.",
            with_wire(lambda t, tokens, h, alpha, beta: wire(t, tokens, h, 0, beta)),
        ),
        Mistake(
            "latency paid once",
            "A ring has 2(t - 1) steps, each a message that waits for the one before: alpha counts that often.",
            with_wire(lambda t, tokens, h, alpha, beta: (2 * alpha + wire(t, tokens, h, 0, beta)) * (t > 1)),
            with_wire(lambda t, tokens, h, alpha, beta: 2 * alpha + wire(t, tokens, h, 0, beta)),
            with_wire(lambda t, tokens, h, alpha, beta: (alpha + wire(t, tokens, h, 0, beta)) * (t > 1)),
            with_wire(lambda t, tokens, h, alpha, beta: alpha + wire(t, tokens, h, 0, beta)),
        ),
        Mistake(
            "half of the bytes",
            "A number of 16 bits has 2 bytes. If these are counted: beta is of one direction already, and who halves "
            "it, since bytes go both ways at the same time, counts the bandwidth twice.",
            with_wire(lambda t, tokens, h, alpha, beta: wire(t, tokens, h, alpha, beta / 2)),
        ),
        Mistake(
            "half of the wire",
            "A layer has two all-reduces, one behind attention and one behind the MLP. And each of them is two passes, "
            "a reduce-scatter and an all-gather: 2(t - 1) steps of 1/t of the value.",
            with_wire(lambda t, tokens, h, alpha, beta: wire(t, tokens, h, alpha, beta) / 2),
        ),
        Mistake(
            "an all-reduce in one message",
            "It is 2(t - 1) messages, of 1/t of the value each.",
            with_wire(lambda t, tokens, h, alpha, beta: 2 * (alpha + 2 * tokens * h * beta) * (t > 1)),
            with_wire(lambda t, tokens, h, alpha, beta: 2 * (alpha + 2 * tokens * h * beta)),
        ),
        Mistake(
            "the whole value at every step",
            "What goes to the neighbour in one step is 1/t of the value.",
            with_wire(lambda t, tokens, h, alpha, beta: 2 * steps(t) * (alpha + 2 * tokens * h * beta)),
        ),
        Mistake(
            "four all-reduces a layer",
            "Two of the four are backward's. This is forward alone.",
            with_wire(lambda t, tokens, h, alpha, beta: 2 * wire(t, tokens, h, alpha, beta)),
        ),
        Mistake(
            "bytes of 32 bits",
            "A number of 16 bits has 2 bytes.",
            with_wire(lambda t, tokens, h, alpha, beta: 2 * ring_time(t, 4 * tokens * h, alpha, beta)),
        ),
        Mistake(
            "a slice is reduced",
            "Each partial sum is of full size, [tokens, h] on every shard, however many there are.",
            with_wire(lambda t, tokens, h, alpha, beta: 2 * ring_time(t, 2 * tokens * h / t, alpha, beta)),
        ),
        Mistake(
            "no wire",
            "Without its all-reduces a layer is always fastest on as many shards as there are.",
            with_wire(lambda t, tokens, h, alpha, beta: 0),
        ),
        Mistake(
            "the FLOPs without their 2",
            "A multiplication and an addition for each weight and token: 2 FLOPs.",
            with_products(lambda t, tokens, h, flops, memory: products(t, tokens, h, 2 * flops, memory)),
        ),
        Mistake(
            "FLOPs alone",
            "With few tokens a device waits for its weights: 24h² bytes take longer than the FLOPs.",
            with_products(lambda t, tokens, h, flops, memory: 24 * tokens * h**2 / flops / t),
        ),
        Mistake(
            "memory alone",
            "With many tokens the FLOPs take longer than reading the weights once.",
            with_products(lambda t, tokens, h, flops, memory: 24 * h**2 / memory / t),
        ),
        Mistake(
            "FLOPs and memory in turn",
            "A device reads weights while it multiplies: the longer of the two times counts, not their sum.",
            with_products(lambda t, tokens, h, flops, memory: (24 * tokens * h**2 / flops + 24 * h**2 / memory) / t),
        ),
        Mistake(
            "the weights are read for every token",
            "They are read once, for all the tokens that go through the layer together.",
            with_products(lambda t, tokens, h, flops, memory: tokens * products(t, 1, h, flops, memory)),
        ),
        Mistake(
            "all weights are read",
            "Each shard has 1/t of the weights, and reads only these.",
            with_products(
                lambda t, tokens, h, flops, memory: max(24 * tokens * h**2 / flops / t, 24 * h**2 / memory),
            ),
        ),
        Mistake(
            "an MLP without its attention",
            "8h² weights are the MLP's; attention has four of h² more.",
            with_products(lambda t, tokens, h, flops, memory: products(t, tokens, h, flops, memory) * 8 / 12),
        ),
        Mistake(
            "backward, too",
            "Three times the products is forward and backward. This is forward alone.",
            with_products(lambda t, tokens, h, flops, memory: 3 * products(t, tokens, h, flops, memory)),
            way(lambda *args: 3 * products(*args), lambda *args: 2 * wire(*args)),
        ),
        Mistake(
            "everything overlaps",
            "The wire waits for the products, and the next products for the wire: the times are added.",
            way(join=max),
        ),
        Mistake(
            "t that does not divide the heads",
            "A head cannot be cut: t has to divide them.",
            way(among=lambda heads, most: range(1, most + 1)),
            way(among=lambda heads, most: range(1, min(heads, most) + 1)),
            way(among=lambda heads, most: powers(most)),
        ),
        Mistake(
            "powers of two alone",
            "Every t that divides the heads may be the best: of 40 heads also 5 and 10.",
            way(among=doubling),
        ),
        Mistake(
            "more devices than there are",
            "The best t is larger than `most`.",
            way(among=lambda heads, most: dividing(heads, heads)),
            way(among=lambda heads, most: dividing(heads, most + 1)),
        ),
        Mistake(
            "fewer devices than there are",
            "t may be as large as `most`.",
            way(among=lambda heads, most: dividing(heads, most - 1)),
        ),
        Mistake(
            "always one device",
            "One device alone has the best speed-up for each device, always. What is to be least is the time of the "
            "layer, and each of t shards has 1/t of its products.",
            way(by=lambda t, time: t * time),
        ),
        Mistake(
            "one device left out",
            "With few tokens or a slow wire one device may be the fastest: t may be 1.",
            way(among=lambda heads, most: dividing(heads, most)[1:]),
        ),
        Mistake(
            "the slowest",
            "This is the t with the longest time.",
            way(by=lambda t, time: -time),
        ),
        Mistake(
            "as many as there are",
            "The most shards are not always the fastest: their wire takes longest.",
            way(by=lambda t, time: -t),
        ),
        Mistake(
            "exchanged",
            "Both are right, in the other order: t, seconds.",
            lambda *args: right(*args)[::-1],
        ),
    ],
)
