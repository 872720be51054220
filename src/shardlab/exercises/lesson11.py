"""Lesson 11: the seconds of a ring, and α and β from what was measured."""

from math import exp, log, log2

import torch

from shardlab.cost import fit as best_fit
from shardlab.cost import ring_time as seconds
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.formula import Formula


def uniform(random, low, high):
    """A number between two others, drawn on a log scale."""
    return exp(log(low) + torch.rand((), generator=random, dtype=torch.float64).item() * log(high / low))


def a_ring(random, number):
    """n, size, α and β, so that neither part is lost beside the other; first on one shard, then on two."""
    n = [1, 2, 3, 8][number] if number < 4 else int(uniform(random, 2, 65))
    alpha, beta = uniform(random, 1e-6, 1e-4), 1 / uniform(random, 1e9, 1e12)
    return n, round(n * alpha / beta * uniform(random, 0.2, 5)), alpha, beta


def steps(n):
    return 2 * (n - 1)


ring_time = Formula(
    "ring_time",
    "How long does an all-reduce take on a ring? A message of m bytes takes alpha + m * beta seconds.",
    given={
        "n": "the number of shards, 1 or more",
        "size": "bytes of what is reduced",
        "alpha": "seconds for each message, however short",
        "beta": "seconds for each byte that a shard sends to the next (it receives as many meanwhile)",
    },
    wanted="seconds, a number",
    draw=a_ring,
    formula=seconds,
    mistakes=[
        Mistake(
            "n steps for n - 1",
            "A piece starts on one shard, so n - 1 steps take it to all the others: count both halves.",
            lambda n, size, alpha, beta: 2 * n * (alpha + size / n * beta),
        ),
        Mistake(
            "only one half",
            "n - 1 steps are the reduce-scatter alone; the all-gather takes as many.",
            lambda n, size, alpha, beta: (n - 1) * (alpha + size / n * beta),
            lambda n, size, alpha, beta: n * (alpha + size / n * beta),
        ),
        Mistake(
            "latency forgotten",
            "The bytes are right, and every message has its alpha, too.",
            lambda n, size, alpha, beta: steps(n) / n * size * beta,
        ),
        Mistake(
            "latency paid once",
            "Each step is a message of its own, which cannot start before the last one has come: alpha counts as often "
            "as there are steps.",
            lambda n, size, alpha, beta: alpha + steps(n) / n * size * beta,
            lambda n, size, alpha, beta: 2 * alpha + steps(n) / n * size * beta,
            lambda n, size, alpha, beta: (alpha + steps(n) / n * size * beta) * (n > 1),
            lambda n, size, alpha, beta: (2 * alpha + steps(n) / n * size * beta) * (n > 1),
        ),
        Mistake(
            "the whole value at every step",
            "What goes to the neighbour in one step is a piece, 1/n of the value.",
            lambda n, size, alpha, beta: steps(n) * (alpha + size * beta),
            lambda n, size, alpha, beta: (n - 1) * (alpha + size * beta),
        ),
        Mistake(
            "bandwidth both ways counted twice",
            "A shard sends and receives at the same time, and beta is of one direction already: to halve it counts the "
            "same wire twice. (Vendors do, when they add up both directions.)",
            lambda n, size, alpha, beta: steps(n) * (alpha + size / n * beta / 2),
        ),
        Mistake(
            "sending and receiving in turn",
            "A shard receives while it sends: a step takes the time of one message.",
            lambda n, size, alpha, beta: 2 * steps(n) * (alpha + size / n * beta),
            lambda n, size, alpha, beta: steps(n) * (alpha + 2 * size / n * beta),
        ),
        Mistake(
            "beta is not a bandwidth",
            "beta is seconds a byte, 1 / bandwidth: bytes are multiplied by it.",
            lambda n, size, alpha, beta: steps(n) * (alpha + size / n / beta),
        ),
        Mistake(
            "a piece of 1/(n - 1)",
            "The value is cut into n pieces: each shard keeps one, and sends the others, one at a step.",
            lambda n, size, alpha, beta: steps(n) * alpha + 2 * size * beta * (n > 1),
        ),
        Mistake(
            "a tree",
            "These are the rounds of a tree, which has fewer of them. A ring goes round.",
            lambda n, size, alpha, beta: 2 * log2(n) * (alpha + size * beta),
            lambda n, size, alpha, beta: 2 * log2(n) * (alpha + size / n * beta),
        ),
    ],
)


def measured(random, number):
    """Sizes from 1 KB to 64 MB and times near a line, each up to a third beside it."""
    alpha, beta = uniform(random, 1e-5, 1e-3), uniform(random, 2e-10, 2e-9)
    sizes = [2 ** (10 + 2 * k) for k in range(9)]
    return sizes, [(alpha + beta * size) * uniform(random, 0.75, 1.33) for size in sizes]


def least_squares(sizes, times, weights):
    """α and β of the least Σ w (α + βs - t)²."""
    rows = [[w**0.5, w**0.5 * s / sizes[-1]] for w, s in zip(weights, sizes, strict=True)]
    right = [[w**0.5 * t] for w, t in zip(weights, times, strict=True)]
    solved = torch.linalg.lstsq(torch.tensor(rows, dtype=torch.float64), torch.tensor(right, dtype=torch.float64))
    alpha, beta = solved.solution.flatten().tolist()
    return alpha, beta / sizes[-1]


def relative(sizes, times):
    return least_squares(sizes, times, [1 / t**2 for t in times])


def of_logarithms(sizes, times):
    """The straight line through log t over log s, read as a curve: t = e^a · s^b."""
    a, b = least_squares([*map(log, sizes)], [*map(log, times)], [1] * len(sizes))
    return exp(a), b


def ends(sizes, times):
    beta = (times[-1] - times[0]) / (sizes[-1] - sizes[0])
    return times[0] - beta * sizes[0], beta


fit = Formula(
    "fit",
    "Find alpha and beta, so that the sum of ((alpha + beta * size - time) / time)² over all measurements is least.",
    given={"sizes": "a list of bytes, from 1 KB to 64 MB", "times": "a list of seconds, one for each size"},
    wanted="alpha, beta",
    draw=measured,
    formula=best_fit,
    results=("alpha", "beta"),
    rtol=1e-3,
    mistakes=[
        Mistake(
            "ordinary least squares",
            "All errors count in seconds here, so the longest times decide, and the short ones may be wrong by any "
            "factor: divide each row by its time.",
            lambda sizes, times: least_squares(sizes, times, [1] * len(sizes)),
        ),
        Mistake(
            "weighted by 1 / time",
            "The error is to be divided by the time and then squared: the weight of a square is 1 / time².",
            lambda sizes, times: least_squares(sizes, times, [1 / t for t in times]),
        ),
        Mistake(
            "weighted twice",
            "The rows were divided by the time once too often: the square of the error has the weight 1 / time².",
            lambda sizes, times: least_squares(sizes, times, [1 / t**4 for t in times]),
        ),
        Mistake(
            "relative to the size",
            "The errors are divided by the sizes, and are to be divided by the times.",
            lambda sizes, times: least_squares(sizes, times, [1 / s**2 for s in sizes]),
            lambda sizes, times: least_squares(sizes, times, [1 / s for s in sizes]),
        ),
        Mistake(
            "a line through logarithms",
            "log time over log size is no straight line here: it is level first, and rises later.",
            of_logarithms,
        ),
        Mistake(
            "beta and alpha exchanged",
            "Both are right, in the other order: alpha, beta.",
            lambda sizes, times: relative(sizes, times)[::-1],
        ),
        Mistake(
            "a bandwidth for beta",
            "beta is seconds a byte; this is 1 / beta, bytes a second.",
            lambda sizes, times: (relative(sizes, times)[0], 1 / relative(sizes, times)[1]),
        ),
        Mistake(
            "through the first and the last",
            "Only two of the measurements count here, with all their noise.",
            ends,
            lambda sizes, times: (times[0], ends(sizes, times)[1]),
            lambda sizes, times: (min(times), times[-1] / sizes[-1]),
            lambda sizes, times: (times[0], (times[-1] - times[0]) / sizes[-1]),
        ),
        Mistake(
            "no latency",
            "This line goes through zero: it has a beta, and no alpha.",
            lambda sizes, times: (
                0.0,
                sum(s / t for s, t in zip(sizes, times, strict=True))
                / sum((s / t) ** 2 for s, t in zip(sizes, times, strict=True)),
            ),
            lambda sizes, times: (0.0, times[-1] / sizes[-1]),
        ),
    ],
)
