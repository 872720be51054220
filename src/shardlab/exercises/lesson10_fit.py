"""Lesson 10: on how many shards a model fits, by what training takes on each of them."""

from math import ceil, floor

from shardlab.cost import activation_bytes, state_bytes
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.formula import Formula
from shardlab.exercises.lesson10 import pick


def need(t, parameters, layers, s, b, h, a, state=16, cut=0, sequence=False, kept=None):
    """Bytes on each of t shards: `state` a parameter, cut by t unless it is among the `cut` bytes that are not."""
    kept = layers if kept is None else kept
    return parameters * ((state - cut) / t + cut) + kept * activation_bytes(s, b, h, a, t, sequence)


def divisors(a):
    return [t for t in range(1, a + 1) if a % t == 0]


def first(candidates=divisors, none=0, take=min, **counts):
    """The answer that takes the smallest (or what `take` does) of the candidates on which `need` with these counts
    is within the memory."""

    def answer(parameters, layers, s, b, h, a, memory):
        fits = [t for t in candidates(a) if need(t, parameters, layers, s, b, h, a, **counts) <= memory]
        return take(fits) if fits else none(a) if callable(none) else none

    return answer


def by_division(rounding, then=lambda t, a: t):
    """The answer that divides what one device would need by the memory, as if all of it were cut by t."""

    def answer(parameters, layers, s, b, h, a, memory):
        return then(max(rounding(need(1, parameters, layers, s, b, h, a) / memory), 1), a)

    return answer


def up_to_a_divisor(t, a):
    return next((each for each in divisors(a) if each >= t), 0)


def down_to_a_divisor(parameters, layers, s, b, h, a, memory):
    t = next((t for t in range(1, a + 1) if need(t, parameters, layers, s, b, h, a) <= memory), 0)
    return max((each for each in divisors(a) if each <= t), default=0)


def one_less(parameters, layers, s, b, h, a, memory):
    """The largest number of shards on which it does not fit."""
    fits = [need(t, parameters, layers, s, b, h, a) <= memory for t in divisors(a)]
    return max((t for t, each in zip(divisors(a), fits, strict=True) if not each), default=1)


def activations_on_one(parameters, layers, s, b, h, a, memory):
    for t in divisors(a):
        if state_bytes(parameters) / t + layers * activation_bytes(s, b, h, a, 1) <= memory:
            return t
    return 0


MISTAKES = [
    Mistake(
        "optimizer state forgotten",
        "Adam in mixed precision has 12 bytes a parameter: the parameter, its mean and its variance, in 32 bits.",
        first(state=4),
    ),
    Mistake(
        "gradients forgotten",
        "Each parameter has a gradient, 2 bytes.",
        first(state=14),
    ),
    Mistake(
        "parameters alone",
        "You count 2 bytes a parameter. Training has its gradient beside it, 2 bytes, and the optimizer's state, 12.",
        first(state=2),
    ),
    Mistake(
        "the 32-bit copy forgotten",
        "Beside mean and variance, mixed precision keeps a copy of each parameter in 32 bits: 4 bytes.",
        first(state=12),
    ),
    Mistake(
        "32 bits where there are 16",
        "Parameter and gradient have 16 bits each: 2 + 2 bytes, and 12 of the optimizer.",
        first(state=20),
        first(state=18),
    ),
    Mistake(
        "activations forgotten",
        "Backward needs what the layers have kept: layers · activation_bytes(…).",
        first(kept=0),
    ),
    Mistake("one layer for all", "Each of the layers keeps its activations until its backward.", first(kept=1)),
    Mistake(
        "activations not divided",
        "Heads and hidden features are cut over the t shards, and what is kept of them is, too.",
        activations_on_one,
    ),
    Mistake(
        "all activations divided by t",
        "That is with sequence parallelism. Without it 10 bytes a number stay whole on every shard, so what one device "
        "would need, divided by the memory, is not yet the number of shards.",
        first(sequence=True),
        by_division(ceil, up_to_a_divisor),
    ),
    Mistake(
        "parameters not divided", "Each shard has 1/t of the parameters, and of what goes with them.", first(cut=16)
    ),
    Mistake(
        "optimizer state not divided",
        "A shard's optimizer has the state of that shard's own parameters, 1/t of them.",
        first(cut=12),
    ),
    Mistake(
        "t does not divide the heads",
        "Each shard takes a/t heads, so t is one of the divisors of a.",
        first(lambda a: range(1, a + 1)),
        first(lambda a: range(1, 400)),
        by_division(ceil),
    ),
    Mistake(
        "powers of two alone",
        "Any t that divides the heads will do: 3 shards for 12 heads, say.",
        first(lambda a: [t for t in divisors(a) if t & (t - 1) == 0]),
        first(lambda a: [2**k for k in range(20)]),
    ),
    Mistake(
        "1 shard left out",
        "A model may fit on one device: begin at t = 1.",
        first(lambda a: divisors(a)[1:]),
    ),
    Mistake(
        "rounded down",
        "What is a little too much for t shards is too much: the next larger t is wanted.",
        by_division(floor),
        by_division(floor, lambda t, a: max(each for each in divisors(a) if each <= t)),
        down_to_a_divisor,
        one_less,
    ),
    Mistake(
        "the largest t", "It fits on this many shards, and on fewer, too: the smallest t is wanted.", first(take=max)
    ),
    Mistake(
        "a t where none fits",
        "Some of this no t makes smaller. Where it does not fit on any, the answer is 0.",
        first(none=lambda a: a),
        first(none=lambda a: a + 1),
        first(none=-1),
        first(none=float("inf")),
        first(none=1),
    ),
]


RIGHT, UNCUT = {}, ({"cut": 12}, {"cut": 16})
BETWEEN = [  # of each try two ways to count: one fits into the memory on some t, and the other does not
    (RIGHT, {"state": 18}),
    (RIGHT, {"state": 14}),
    "none",
    ({"state": 14}, {"state": 12}),
    "one",
    ({"state": 12}, {"state": 4}),
    UNCUT,
    "six",
    ({"state": 4}, {"state": 2}),
    ({"kept": 0}, {"kept": 1}),
    (RIGHT, {"sequence": True}),
    "eleven",
]


def draw(random, number):
    """A model, and a memory on the edge between two ways to count, so that who counts otherwise gets another t. Once it
    fits on no t, once on one, once on six, and once it would on 11, which divides no heads here."""
    how = BETWEEN[number]
    a = pick(random, [24, 48] if how in ("six", "eleven") else [12, 24, 48, 60])
    h, layers = a * pick(random, [32, 64, 80]), pick(random, [2, 6, 24])
    s, b, weights = pick(random, [512, 1024, 2048]), pick(random, [1, 2, 4]), pick(random, [2, 6, 12, 24])
    if how == UNCUT:  # where weights are most of all
        s, b, weights = 512, 1, 24
    if how == "six":  # where activations are
        s, b, weights = 512, 16, 2
    model = weights * layers * h**2, layers, s, b, h, a
    edges = {"none": 0.98 * need(a, *model), "one": 1.5 * need(1, *model)}
    edges |= {"six": need(6, *model), "eleven": need(11, *model)}
    if isinstance(how, str):
        return *model, int(edges[how]) + 1
    t = divisors(a)[-2] if how == UNCUT else pick(random, divisors(a)[1:-1])
    return *model, int(sum(need(t, *model, **counts) for counts in how) / 2)


smallest_t = Formula(
    "smallest_t",
    "the smallest number of shards on which a model can be trained: tensor parallel, Adam in mixed precision, no "
    "sequence parallelism, and of each layer all is kept for backward.",
    given={
        "parameters": "how many the model has",
        "layers": "how many layers keep their activations",
        "s": "tokens of a sequence",
        "b": "sequences",
        "h": "width",
        "a": "heads: t divides them",
        "memory": "bytes of one device",
    },
    wanted="t, or 0 if it fits on none",
    draw=draw,
    formula=first(),
    mistakes=MISTAKES,
    results=("t",),
)
