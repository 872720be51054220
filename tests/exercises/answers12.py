"""Answers to the exercises of lesson 12 in the style of learners: right ones, and wrong ones by their mistake."""

import math

import numpy
import torch


def by_two_times(k, n, t, flops, alpha, beta):
    """The line through the gain at one row and at two, and where it is nought."""

    def gain(m):
        one = 2 * m * k * n / flops
        return one - one / t - 2 * (t - 1) * (alpha + 2 * m * n / t * beta)

    slope = gain(2) - gain(1)
    return 1 - gain(1) / slope if slope > 0 else math.inf


def in_tensors(k, n, t, flops, alpha, beta):
    k, beta = torch.tensor(float(k), dtype=torch.float64), torch.tensor(beta, dtype=torch.float64)
    m = alpha * t / (n * (k / flops - 2 * beta))
    return torch.where(m > 0, m, torch.inf)


def fractions(k, n, t, flops, alpha, beta):
    per_row = (t - 1) / t * (2 * k * n / flops - 4 * n * beta)
    return numpy.float64("inf") if per_row <= 0 else numpy.float64(2 * (t - 1) * alpha / per_row)


def rows(k, n, t, flops, alpha, beta):
    left = k / flops - 2 * beta
    return alpha * t / n / left if left > 0 else math.inf


def seconds(t, tokens, h, flops, memory, alpha, beta):
    arithmetic = 2 * tokens * 12 * h * h / t / flops
    reading = 2 * 12 * h * h / t / memory
    ring = 2 * (t - 1) * alpha + 2 * (t - 1) / t * (2 * tokens * h) * beta
    return max(arithmetic, reading) + ring + ring


def in_a_loop(tokens, h, heads, most, flops, memory, alpha, beta):
    best, least = None, float("inf")
    for t in range(1, most + 1):
        if heads % t:
            continue
        time = seconds(t, tokens, h, flops, memory, alpha, beta)
        if time < least:
            best, least = t, time
    return best, least


def in_numpy(tokens, h, heads, most, flops, memory, alpha, beta):
    t = numpy.array([t for t in range(1, heads + 1) if heads % t == 0 and t <= most], dtype=float)
    time = 24 * h**2 * max(tokens / flops, 1 / memory) / t + 4 * (t - 1) * (alpha + 2 * tokens * h * beta / t)
    return t[time.argmin()], time.min()


def as_tensor(*args):
    return torch.tensor(in_a_loop(*args), dtype=torch.float64)


def of(time=seconds, fits=lambda t, heads, most: heads % t == 0 and t <= most, by=lambda t, s: s):
    """A learner's function with one thing in it changed."""

    def answer(tokens, h, heads, most, *machine):
        found = [(t, time(t, tokens, h, *machine)) for t in range(1, 2 * max(heads, most)) if fits(t, heads, most)]
        return min(found, key=lambda pair: by(*pair))

    return answer


def product(t, tokens, h, flops, memory):
    return max(24 * tokens * h**2 / flops, 24 * h**2 / memory) / t


def ring(t, size, alpha, beta):
    return 2 * (t - 1) * (alpha + size / t * beta)


def wired(both):
    return of(
        lambda t, tokens, h, flops, memory, a, b: product(t, tokens, h, flops, memory) + both(t, tokens * h, a, b)
    )


def made(one):
    return of(
        lambda t, tokens, h, flops, memory, a, b: one(t, tokens, h, flops, memory) + 2 * ring(t, 2 * tokens * h, a, b)
    )


RIGHT_NUMBERS = {
    "crossover": [by_two_times, in_tensors, fractions, rows],
    "best_t": [in_a_loop, in_numpy, as_tensor, of()],
}

CROSSOVER = {
    "never, in another word": [
        lambda k, n, t, flops, alpha, beta: alpha * t / (n * (k / flops - 2 * beta)),
        lambda *args: rows(*args) if math.isfinite(rows(*args)) else 0.0,
    ],
    "rounded": [lambda *args: math.ceil(rows(*args)) if math.isfinite(rows(*args)) else math.inf],
    "latency forgotten": [lambda k, n, t, flops, alpha, beta: rows(k, n, t, flops, 0.0, beta)],
    "latency paid once": [lambda k, n, t, flops, alpha, beta: rows(k, n, t, flops, alpha / (2 * t - 2), beta)],
    "half of the bytes": [lambda k, n, t, flops, alpha, beta: rows(k, n, t, flops, alpha, 0.5 * beta)],
    "an all-reduce in one pass": [
        lambda k, n, t, flops, alpha, beta: rows(k, n, t, flops, alpha / 2, beta / 2),
    ],
    "t steps for t - 1": [
        lambda k, n, t, flops, alpha, beta: rows(k, n, t, flops, alpha * t / (t - 1), beta * t / (t - 1)),
    ],
    "the whole value at every step": [lambda k, n, t, flops, alpha, beta: rows(k, n, t, flops, alpha, beta * t)],
    "the FLOPs without their 2": [lambda k, n, t, flops, alpha, beta: rows(k, n, t, 2 * flops, alpha, beta)],
    "bytes of 32 bits": [lambda k, n, t, flops, alpha, beta: rows(k, n, t, flops, alpha, 2 * beta)],
    "the shards' own products forgotten": [
        lambda k, n, t, flops, alpha, beta: rows(k * t / (t - 1), n, t, flops, alpha, beta),
    ],
    "against the shards' products": [
        lambda k, n, t, flops, alpha, beta: rows(k / (t - 1), n, t, flops, alpha, beta),
    ],
    "X is reduced": [lambda k, n, t, flops, alpha, beta: rows(n, k, t, flops, alpha, beta)],
    "beta is not a bandwidth": [lambda k, n, t, flops, alpha, beta: rows(k, n, t, flops, alpha, 1 / beta)],
    "no bytes": [lambda k, n, t, flops, alpha, beta: alpha * t * flops / (n * k)],
    "m and its time exchanged": [
        lambda k, n, t, flops, alpha, beta: rows(k, n, t, flops, alpha, beta) * 2 * k * n / flops,
    ],
}
BEST_T = {
    "latency forgotten": [wired(lambda t, numbers, a, b: 2 * ring(t, 2 * numbers, 0, b))],
    "latency paid once": [
        wired(lambda t, numbers, a, b: 2 * ((t > 1) * a + 4 * (t - 1) / t * numbers * b)),
        wired(lambda t, numbers, a, b: (t > 1) * a + 8 * (t - 1) / t * numbers * b),
    ],
    "half of the bytes": [
        wired(lambda t, numbers, a, b: 2 * ring(t, 2 * numbers, a, b / 2)),
        wired(lambda t, numbers, a, b: 2 * ring(t, numbers, a, b)),
    ],
    "half of the wire": [
        wired(lambda t, numbers, a, b: ring(t, 2 * numbers, a, b)),
        wired(lambda t, numbers, a, b: 2 * (t - 1) * (a + 2 * numbers / t * b)),
    ],
    "an all-reduce in one message": [wired(lambda t, numbers, a, b: (t > 1) * 2 * (a + 2 * numbers * b))],
    "the whole value at every step": [wired(lambda t, numbers, a, b: 4 * (t - 1) * (a + 2 * numbers * b))],
    "four all-reduces a layer": [wired(lambda t, numbers, a, b: 4 * ring(t, 2 * numbers, a, b))],
    "bytes of 32 bits": [wired(lambda t, numbers, a, b: 2 * ring(t, 4 * numbers, a, b))],
    "a slice is reduced": [wired(lambda t, numbers, a, b: 2 * ring(t, 2 * numbers / t, a, b))],
    "no wire": [wired(lambda t, numbers, a, b: 0.0)],
    "the FLOPs without their 2": [made(lambda t, tokens, h, c, m: 12 * h**2 / t * max(tokens / c, 2 / m))],
    "FLOPs alone": [made(lambda t, tokens, h, c, m: 24 * tokens * h * h / (t * c))],
    "memory alone": [made(lambda t, tokens, h, c, m: 24 * h * h / (t * m))],
    "FLOPs and memory in turn": [made(lambda t, tokens, h, c, m: 24 * h**2 / t * (tokens / c + 1 / m))],
    "the weights are read for every token": [
        made(lambda t, tokens, h, c, m: 24 * tokens * h**2 / t * max(1 / c, 1 / m))
    ],
    "all weights are read": [made(lambda t, tokens, h, c, m: 24 * h**2 * max(tokens / c / t, 1 / m))],
    "an MLP without its attention": [made(lambda t, tokens, h, c, m: 16 * h**2 / t * max(tokens / c, 1 / m))],
    "backward, too": [made(lambda t, tokens, h, c, m: 72 * h**2 / t * max(tokens / c, 1 / m))],
    "everything overlaps": [
        of(lambda t, tokens, h, c, m, a, b: max(product(t, tokens, h, c, m), 2 * ring(t, 2 * tokens * h, a, b))),
    ],
    "t that does not divide the heads": [of(fits=lambda t, heads, most: t <= most)],
    "powers of two alone": [of(fits=lambda t, heads, most: t <= most and heads % t == 0 and math.log2(t).is_integer())],
    "more devices than there are": [
        of(fits=lambda t, heads, most: heads % t == 0),
        of(fits=lambda t, heads, most: heads % t == 0 and t <= most + 1),
    ],
    "fewer devices than there are": [of(fits=lambda t, heads, most: heads % t == 0 and t < most)],
    "always one device": [
        of(by=lambda t, s: t * s),
        made(lambda t, tokens, h, c, m: 24 * h**2 * max(tokens / c, 1 / m)),
        lambda tokens, h, heads, most, *machine: (1, seconds(1, tokens, h, *machine)),
    ],
    "one device left out": [of(fits=lambda t, heads, most: 2 <= t <= most and heads % t == 0)],
    "the slowest": [of(by=lambda t, s: -s)],
    "as many as there are": [of(by=lambda t, s: 1 / t)],
    "exchanged": [lambda *args: in_a_loop(*args)[::-1]],
}
WRONG_NUMBERS = {"crossover": CROSSOVER, "best_t": BEST_T}
