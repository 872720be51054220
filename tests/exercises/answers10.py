"""Answers to the exercises of lesson 10 in the style of learners: right ones, and wrong ones by their mistake."""

from fractions import Fraction

import torch

RIGHT_NUMBERS = {
    "activation_bytes": [
        lambda s, b, h, a, t, sequence_parallel: (
            (34 * s * b * h + 5 * a * s * s * b) / t
            if sequence_parallel
            else s * b * h * (10 + 24 / t + 5 * a * s / h / t)
        ),
        lambda s, b, h, a, t, sequence_parallel: part_by_part(s, b, h, a, t, t if sequence_parallel else 1),
        lambda *args: torch.tensor(float(RIGHT_NUMBERS["activation_bytes"][0](*args)), dtype=torch.float64),
        lambda s, b, h, a, t, sequence_parallel: (
            s * b * h * (Fraction(10, t if sequence_parallel else 1) + Fraction(24, t) + Fraction(5 * a * s, h * t))
        ),
    ],
    "smallest_t": [
        lambda parameters, layers, s, b, h, a, memory: min(
            (t for t in range(1, a + 1) if a % t == 0 and takes(t, parameters, layers, s, b, h, a) <= memory), default=0
        ),
        lambda P, L, s, b, h, a, memory: search(P, L, s, b, h, a, memory),
    ],
}


def part_by_part(s, b, h, a, t, u):
    """As the table of the paper has it, from the top of the layer to its end."""
    numbers, heads = s * b * h, a / t
    total = 2 * numbers / u  # norm
    total += 2 * numbers / u + 3 * 2 * numbers / t  # into q, k, v, and what comes out of it
    total += heads * b * s**2 * (2 + 1 + 2)  # softmax, its dropout
    total += 2 * numbers / t + numbers / u  # the output product, dropout
    total += 2 * numbers / u  # norm
    return total + 2 * numbers / u + (8 + 8) * numbers / t + numbers / u


def takes(t, P, L, s, b, h, a, state=16, layer=None):
    bracket = 10 + 24 / t + 5 * a * s / (h * t) if layer is None else layer
    return state * P / t + L * s * b * h * bracket


def search(P, L, s, b, h, a, memory):
    t = 1
    while t <= a:
        if a % t == 0 and takes(t, P, L, s, b, h, a) <= memory:
            return t
        t += 1
    return 0


def bracket(whole, cut, score, of_scores=lambda s, b, h, a, t: a * s / h / t):
    """sbh (whole + cut/t + score · as/ht): the answer with these counts, whole divided by t where it is to be."""
    return lambda s, b, h, a, t, sp: s * b * h * (whole / (t if sp else 1) + cut / t + score * of_scores(s, b, h, a, t))


def alone_whole(whole, cut):
    """What is whole without sequence parallelism, and what is cut even then."""
    return lambda s, b, h, a, t, sp: s * b * h * ((34 / t if sp else whole + cut / t) + 5 * a * s / (h * t))


def divided(by):
    """The right answer without one of its factors."""
    return lambda s, b, h, a, t, sp: part_by_part(s, b, h, a, t, t if sp else 1) / by(s, b, h)


def first_fit(takes_it, candidates=lambda a: (t for t in range(1, a + 1) if not a % t), none=0):
    def answer(parameters, layers, s, b, h, a, memory):
        for t in candidates(a):
            if takes_it(t, parameters, layers, s, b, h, a) <= memory:
                return t
        return none

    return answer


def up(numerator, denominator):
    return int(-(-numerator // denominator))


WRONG_NUMBERS = {
    "activation_bytes": {
        "32 bits where there are 16": [bracket(4 * 4 + 2, 12 * 4, 2 * 4 + 1), bracket(20, 48, 10)],
        "masks of two bytes": [bracket(12, 24, 6), bracket(12, 24, 5), bracket(10, 24, 6)],
        "masks forgotten": [bracket(8, 24, 4), bracket(8, 24, 5), bracket(10, 24, 4)],
        "masks of one bit": [bracket(8.25, 24, 4.125)],
        "numbers for bytes": [bracket(4 + 2, 12, 2 + 1), bracket(4, 12, 2)],
        "attention's scores forgotten": [bracket(10, 24, 0)],
        "scores not divided by t": [bracket(10, 24, 5, lambda s, b, h, a, t: a * s / h)],
        "scores of one head": [bracket(10, 24, 5, lambda s, b, h, a, t: s / (h * t))],
        "scores of the wrong size": [
            bracket(10, 24, 5, lambda s, b, h, a, t: a * s / t),
            bracket(10, 24, 5, lambda s, b, h, a, t: a / (h * t)),
            bracket(10, 24, 5, lambda s, b, h, a, t: a / t),
            bracket(10, 24, 5, lambda s, b, h, a, t: a * s / (h * t * b)),
        ],
        "one table of scores": [bracket(10, 24, 3), bracket(10, 24, 2)],
        "all divided by t without sequence parallelism": [
            lambda s, b, h, a, t, sequence_parallel: (34 + 5 * a * s / h) * s * b * h / t,
            alone_whole(0, 34),
        ],
        "norms' inputs divided by t without sequence parallelism": [alone_whole(6, 28), alone_whole(4, 30)],
        "masks divided by t without sequence parallelism": [alone_whole(8, 26)],
        "sequence parallelism left out": [lambda s, b, h, a, t, sp: part_by_part(s, b, h, a, t, 1)],
        "the two cases exchanged": [lambda s, b, h, a, t, sp: part_by_part(s, b, h, a, t, 1 if sp else t)],
        "nothing divided by t": [lambda s, b, h, a, t, sp: part_by_part(s, b, h, a, 1, 1)],
        "b forgotten": [divided(lambda s, b, h: b)],
        "s forgotten": [divided(lambda s, b, h: s)],
        "h forgotten": [divided(lambda s, b, h: h)],
        "bytes a number": [divided(lambda s, b, h: s * b * h)],
        "whole-number division": [
            lambda s, b, h, a, t, sp: (
                s * b * h * ((34 + 5 * a * s // h) // t if sp else 10 + 24 // t + 5 * a * s // (h * t))
            )
        ],
        "the MLP forgotten": [bracket(7, 8, 5)],
        "gelu's input forgotten": [bracket(10, 16, 5)],
        "a constant factor": [lambda *args: 3 * RIGHT_NUMBERS["activation_bytes"][0](*args)],
        "an error": [lambda s, b, h, a, t, sp: s * b * h / 0],
        "not a number": [lambda s, b, h, a, t, sp: f"{s * b * h} bytes", lambda *args: (10, 24)],
        None: [lambda s, b, h, a, t, sp: s * b * h * (11 + 24 / t)],
    },
    "smallest_t": {
        "optimizer state forgotten": [first_fit(lambda *args: takes(*args, state=2 + 2))],
        "gradients forgotten": [first_fit(lambda *args: takes(*args, state=2 + 12))],
        "parameters alone": [first_fit(lambda *args: takes(*args, state=2))],
        "the 32-bit copy forgotten": [first_fit(lambda *args: takes(*args, state=2 + 2 + 4 + 4))],
        "32 bits where there are 16": [first_fit(lambda *args: takes(*args, state=4 + 4 + 12))],
        "activations forgotten": [first_fit(lambda t, P, *rest: 16 * P / t)],
        "one layer for all": [first_fit(lambda t, P, L, *rest: takes(t, P, 1, *rest))],
        "activations not divided": [
            first_fit(lambda t, P, L, s, b, h, a: takes(t, P, L, s, b, h, a, layer=34 + 5 * a * s / h))
        ],
        "all activations divided by t": [
            first_fit(lambda t, P, L, s, b, h, a: takes(t, P, L, s, b, h, a, layer=(34 + 5 * a * s / h) / t)),
        ],
        "parameters not divided": [first_fit(lambda t, P, *rest: 16 * P + takes(t, 0, *rest))],
        "optimizer state not divided": [first_fit(lambda t, P, *rest: 12 * P + takes(t, P, *rest, state=4))],
        "t does not divide the heads": [
            first_fit(takes, lambda a: range(1, a + 1)),
            lambda P, L, s, b, h, a, memory: max(up(takes(1, P, L, s, b, h, a), memory), 1),
        ],
        "powers of two alone": [first_fit(takes, lambda a: (t for t in (1, 2, 4, 8, 16, 32) if a % t == 0))],
        "1 shard left out": [first_fit(takes, lambda a: (t for t in range(2, a + 1) if a % t == 0))],
        "rounded down": [
            lambda P, L, s, b, h, a, memory: max(int(takes(1, P, L, s, b, h, a) / memory), 1),
        ],
        "the largest t": [
            lambda P, L, s, b, h, a, memory: max(
                (t for t in range(1, a + 1) if a % t == 0 and takes(t, P, L, s, b, h, a) <= memory), default=0
            )
        ],
        "a t where none fits": [
            first_fit(takes, none=-1),
            first_fit(takes, none=float("inf")),
            lambda P, L, s, b, h, a, memory: search(P, L, s, b, h, a, memory) or a,
        ],
        "nothing returned": [first_fit(takes, none=None)],
        "not a number": [lambda *args: [search(*args), 1]],
    },
}
