"""Lesson 10: what a layer keeps for backward, in bytes, and on how many shards a model fits."""

from functools import partial

import torch

from shardlab import cost
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.formula import Formula


def layer(s, b, h, a, t, sequence_parallel, norms=4, inputs=4, masks=2, values=24, scores=4, mask=1, over=None):
    """sbh (whole + cut/t + as/h · score/t), of which any count may be another one; `over` divides the scores."""
    whole = (norms + inputs + masks) / (t if sequence_parallel else 1)
    return s * b * h * (whole + values / t + (scores + mask) * a * s / h / (over or t))


def another(**counts):
    return lambda *args: layer(*args, **counts)


def doubled(*args):
    return 2 * layer(*args)


def whole_parts_cut(s, b, h, a, t, sequence_parallel, norms=0, inputs=0, masks=0):
    """Without sequence parallelism these alone are taken to be whole, and the rest to be cut."""
    if sequence_parallel:
        return layer(s, b, h, a, t, True)
    whole = norms + inputs + masks
    return s * b * h * (whole + (34 - whole) / t + 5 * a * s / h / t)


def upside_down(s, b, h, a, t, sequence_parallel):
    return layer(s, b, h, a, t, not sequence_parallel)


def without(place):
    """The answer that has 1 in place of one of its factors s, b, h (in front of the bracket)."""

    def answer(*args):
        return layer(*args) / args[place]

    return answer


def on_one(s, b, h, a, t, sequence_parallel):
    return layer(s, b, h, a, 1, sequence_parallel)


def rounded(s, b, h, a, t, sequence_parallel):
    if sequence_parallel:
        return s * b * h * ((34 + 5 * a * s // h) // t)
    return s * b * h * (10 + 24 // t + 5 * a * s // (h * t))


def scores_by(factor):
    """The answer whose scores are as many times too large as factor(s, b, h, a, t) says."""

    def answer(s, b, h, a, t, sequence_parallel):
        return layer(s, b, h, a, t, sequence_parallel, scores=4 * factor(s, b, h, a, t), mask=factor(s, b, h, a, t))

    return answer


ACTIVATION_MISTAKES = [
    Mistake(
        "32 bits where there are 16",
        "A value has 16 bits here, 2 bytes, and you count 4. (A mask has 1 byte in any precision.)",
        another(norms=8, inputs=8, values=48, scores=8),
        doubled,
    ),
    Mistake(
        "masks of two bytes",
        "A dropout mask says yes or no: it is kept with 1 byte a number, not with 2.",
        another(masks=4, mask=2),
        another(masks=4),
        another(mask=2),
    ),
    Mistake(
        "masks forgotten",
        "Dropout keeps its mask, 1 byte a number: one in attention and two behind the layers.",
        another(masks=0, mask=0),
        another(masks=0),
        another(mask=0),
    ),
    Mistake(
        "masks of one bit",
        "A mask has one bit of information, but is kept with 1 byte a number.",
        another(masks=2 / 8, mask=1 / 8),
    ),
    Mistake(
        "numbers for bytes",
        "You count numbers, and each value has 2 bytes.",
        another(norms=2, inputs=2, values=12, scores=2),
        another(norms=2, inputs=2, masks=0, values=12, scores=2, mask=0),
    ),
    Mistake(
        "attention's scores forgotten",
        "Of each head an s × s table is kept: softmax's result, a mask, and dropout's result, 5as²b bytes.",
        another(scores=0, mask=0),
    ),
    Mistake(
        "scores not divided by t",
        "Each shard has its own a/t heads, and the scores of these only.",
        another(over=1),
        scores_by(lambda s, b, h, a, t: t * t),
    ),
    Mistake(
        "scores of one head",
        "There is an s × s table for each of the a heads.",
        scores_by(lambda s, b, h, a, t: 1 / a),
    ),
    Mistake(
        "scores of the wrong size",
        "A head's scores are s × s for each of b sequences: over sbh that is as/h.",
        scores_by(lambda s, b, h, a, t: h),
        scores_by(lambda s, b, h, a, t: 1 / s),
        scores_by(lambda s, b, h, a, t: h / s),
        scores_by(lambda s, b, h, a, t: h * h / (s * s)),
        scores_by(lambda s, b, h, a, t: 1 / b),
        scores_by(lambda s, b, h, a, t: b),
        scores_by(lambda s, b, h, a, t: h / a),
    ),
    Mistake(
        "one table of scores",
        "Softmax keeps its result, the product with v keeps dropout's, and there is the mask: 2 + 2 + 1 bytes.",
        another(scores=2),
        another(scores=2, mask=0),
    ),
    Mistake(
        "all divided by t without sequence parallelism",
        "The norms, the two dropouts behind the layers and what goes into the layers are whole on every shard, 10 "
        "bytes a number, as long as the sequence is not cut.",
        whole_parts_cut,
        lambda s, b, h, a, t, sequence_parallel: layer(s, b, h, a, t, True),
    ),
    Mistake(
        "norms' inputs divided by t without sequence parallelism",
        "As long as the sequence is not cut, each shard has all that both norms take, 4 bytes a number, and as much "
        "again goes whole into attention and into the MLP.",
        partial(whole_parts_cut, inputs=4, masks=2),
        partial(whole_parts_cut, inputs=4),
        partial(whole_parts_cut, masks=2),
    ),
    Mistake(
        "masks divided by t without sequence parallelism",
        "The two dropouts behind the layers work on all of the sum, on every shard: so their masks are whole.",
        partial(whole_parts_cut, norms=4, inputs=4),
    ),
    Mistake(
        "sequence parallelism left out",
        "With the sequence cut, what was whole on every shard is divided by t, too.",
        lambda s, b, h, a, t, sequence_parallel: layer(s, b, h, a, t, False),
    ),
    Mistake(
        "the two cases exchanged",
        "It is with sequence parallelism that everything is divided by t.",
        upside_down,
    ),
    Mistake("nothing divided by t", "Heads and hidden features are cut: what is kept of them, too.", on_one),
    Mistake("b forgotten", "All of this is kept for each of the b sequences.", without(1)),
    Mistake("s forgotten", "All of this is kept for each of the s tokens.", without(0)),
    Mistake(
        "h forgotten",
        "The bytes in the bracket are those of one number, and a token has h of them.",
        without(2),
    ),
    Mistake(
        "bytes a number",
        "This is the bracket: how many bytes for each of the sbh numbers. All of them are wanted.",
        lambda s, b, h, a, t, sequence_parallel: layer(s, b, h, a, t, sequence_parallel) / (s * b * h),
    ),
    Mistake("whole-number division", "`//` rounds down: 24/t is no whole number for every t. Write `/`.", rounded),
    Mistake(
        "the MLP forgotten",
        "An MLP of 4h keeps its input, what goes into gelu, what comes out, and a mask: 19 bytes a number.",
        lambda s, b, h, a, t, sp: layer(s, b, h, a, t, sp, inputs=2, masks=1, values=8),
    ),
    Mistake(
        "gelu's input forgotten",
        "gelu keeps what goes into it, 4h values a token, and the product behind it keeps what comes out.",
        another(values=16),
    ),
]


def draw_layer(random, number):
    t = [2, 3, 8, 1][number] if number < 4 else pick(random, [1, 2, 3, 4, 5, 6, 8])
    a = t * pick(random, [1, 2, 3, 4])
    h = a * pick(random, [32, 64, 80, 128])
    return pick(random, [512, 1000, 2048, 4096]), pick(random, [2, 3, 4, 8]), h, a, t, number % 2 == 1


def pick(random, options):
    return options[int(torch.randint(len(options), (), generator=random))]


activation_bytes = Formula(
    "activation_bytes",
    "the bytes that one transformer layer keeps for backward on each of t shards: 16-bit values, masks of 1 byte.",
    given={
        "s": "tokens of a sequence",
        "b": "sequences",
        "h": "width of the layer; its MLP is 4h wide",
        "a": "heads of attention, of which each shard has a/t",
        "t": "shards",
        "sequence_parallel": "True where norms and dropouts have a piece of the sequence each",
    },
    wanted="bytes on one shard, a number",
    draw=draw_layer,
    formula=lambda s, b, h, a, t, sequence_parallel: cost.activation_bytes(s, b, h, a, t, sequence_parallel),
    mistakes=ACTIVATION_MISTAKES,
    results=("the number of bytes",),
)
