"""Answers to the exercises of lesson 11 in the style of learners: right ones, and wrong ones by their mistake."""

import math

import numpy
import torch
from torch.nn import functional as F

from shardlab import Shards


def even(x, n):
    return F.pad(x, (0, -x.shape[0] % n)).view(n, -1)


def of_each(pieces, index):
    """On shard r the piece index_r."""
    return pieces.index_select(0, index.reshape(1))[0]


def ring_with_where(mesh, x):
    """No index on the left: each piece is chosen anew."""
    n, size = mesh.size, x.shape[0]
    pieces = list(even(x, n).unbind(0))
    for step in range(2 * n - 2):
        going = (mesh.rank - step) % n
        came = mesh.shift(of_each(torch.stack(pieces), going))
        for p in range(n):
            new = pieces[p] + came if step < n - 1 else came
            pieces[p] = torch.where((going - 1) % n == p, new, pieces[p])
    return torch.cat(pieces)[:size]


def ring_shard_by_shard(mesh, x):
    """Uneven pieces in lists, a list for each shard that is here."""
    n = mesh.size
    held = [list(shard.tensor_split(n)) for shard in x.shards]

    def step(number, add):
        going = Shards([own[(r - number) % n] for own, r in zip(held, mesh.ranks, strict=True)], mesh)
        for own, r, came in zip(held, mesh.ranks, mesh.shift(going).shards, strict=True):
            place = (r - number - 1) % n
            own[place] = own[place] + came if add else came

    for number in range(n - 1):
        step(number, add=True)
    for number in range(n - 1):
        step(number - 1, add=False)
    return Shards([torch.cat(own) for own in held], mesh)


def ring_backwards(mesh, x):
    """To the left instead of to the right."""
    n = mesh.size
    pieces = even(x, n).clone()
    for s in range(n - 1):
        pieces[(mesh.rank + s + 1) % n] += mesh.shift(pieces[(mesh.rank + s) % n], by=-1)
    for s in range(n - 1):
        pieces[(mesh.rank + s) % n] = mesh.shift(pieces[(mesh.rank - 1 + s) % n], -1)
    return pieces.flatten()[: len(x)]


def directly(mesh, x):
    """Each piece straight to the shard that adds it up, and straight back: as many shifts, of other distances."""
    n = mesh.size
    pieces = even(x, n)
    total = pieces[mesh.rank]
    for by in range(1, n):
        total = total + mesh.shift(pieces[(mesh.rank + by) % n], by)
    whole = pieces.clone()
    whole[mesh.rank] = total
    for by in range(1, n):
        whole[(mesh.rank - by) % n] = mesh.shift(total, by)
    return whole.view(-1)[: x.numel()]


def a_ring(mesh, x, first=None, then=None, start=1, add=True, by=1, sent=None, gather_adds=False):
    """As a learner writes it, with room for mistakes: how many steps, where the gather starts, what is sent."""
    n = mesh.size
    own = even(x, n)
    buffer = own.clone()
    for step in range(n - 1 if first is None else first(n)):
        going = (mesh.rank - step) % n
        came = mesh.shift((own if sent else buffer)[going], by)
        buffer[(going + n - 1) % n] = buffer[(going + n - 1) % n] + came if add else came
    for step in range(n - 1 if then is None else then(n)):
        going = (mesh.rank + start - step) % n
        came = mesh.shift(buffer[going], by)
        buffer[(going + n - 1) % n] = buffer[(going + n - 1) % n] + came if gather_adds else came
    return buffer.reshape(-1)[: x.shape[0]]


def round_whole(mesh, x, rounds=None, again=False):
    y = moving = x.clone()
    for _ in range(mesh.size - 1 if rounds is None else rounds(mesh.size)):
        moving = mesh.shift(y if again else moving)
        y = y + moving
    return y


RIGHT = {"ring_all_reduce": [ring_with_where, ring_shard_by_shard, ring_backwards, directly, a_ring]}
WRONG = {
    "ring_all_reduce": {
        "n steps for n - 1": [
            lambda mesh, x: a_ring(mesh, x, first=lambda n: n, start=0),
            lambda mesh, x: a_ring(mesh, x, then=lambda n: n),
            lambda mesh, x: round_whole(mesh, x, lambda n: n),
        ],
        "passed on before complete": [
            lambda mesh, x: a_ring(mesh, x, start=0),
            lambda mesh, x: a_ring(mesh, x, start=2),
            lambda mesh, x: a_ring(mesh, x, add=False),
        ],
        "no all-gather": [lambda mesh, x: a_ring(mesh, x, then=lambda n: 0)],
        "no reduce-scatter": [lambda mesh, x: a_ring(mesh, x, first=lambda n: 0)],
        "the own value is passed on": [lambda mesh, x: a_ring(mesh, x, sent="own")],
        "added in the all-gather": [lambda mesh, x: a_ring(mesh, x, gather_adds=True)],
        "against the ring": [lambda mesh, x: a_ring(mesh, x, by=-1)],
        "sums of sums": [lambda mesh, x: round_whole(mesh, x, again=True)],
        "one neighbour only": [lambda mesh, x: x + mesh.shift(x) if mesh.size > 1 else x.clone()],
        "the padding is left on": [lambda mesh, x: a_ring(mesh, F.pad(x, (0, -len(x) % mesh.size)))],
        "the size has to divide": [lambda mesh, x: a_ring(mesh, x.reshape(mesh.size, -1).reshape(-1))],
        "no reduce": [lambda mesh, x: x.clone()],
        "the whole value at every step": [round_whole],
        "not made of shifts": [
            lambda mesh, x: mesh.all_reduce(x),
            lambda mesh, x: mesh.all_gather(mesh.reduce_scatter(x, 0), 0),
        ],
        "n times too small": [lambda mesh, x: a_ring(mesh, x) / mesh.size],
        "a step too many": [lambda mesh, x: mesh.shift(a_ring(mesh, x)[:1])[:0].sum() + a_ring(mesh, x)],
    },
}


# of numbers


def steps_by_hand(n, size, alpha, beta):
    seconds = 0.0
    for _half in ("reduce-scatter", "all-gather"):
        for _ in range(1, n):
            seconds += alpha + beta * (size / n)
    return seconds


def normal_equations(sizes, times):
    a, b = 1 / numpy.array(times), numpy.array(sizes) / numpy.array(times)
    matrix = numpy.array([[a @ a, a @ b], [a @ b, b @ b]])
    return numpy.linalg.solve(matrix, numpy.array([a.sum(), b.sum()]))


def weighted_polyfit(sizes, times):
    beta, alpha = numpy.polyfit(sizes, times, 1, w=1 / numpy.array(times))
    return alpha, beta


def polyfit(power):
    return lambda sizes, times: tuple(numpy.polyfit(sizes, times, 1, w=numpy.array(times) ** power)[::-1])


def of_logs(sizes, times):
    slope, at_zero = numpy.polyfit(numpy.log(sizes), numpy.log(times), 1)
    return math.exp(at_zero), slope


RIGHT_NUMBERS = {
    "ring_time": [
        steps_by_hand,
        lambda n, size, alpha, beta: 2 * (n - 1) * alpha + 2 * (n - 1) / n * size * beta,
        lambda n, size, alpha, beta: torch.tensor(2.0 * (n - 1), dtype=torch.float64) * (alpha + size / n * beta),
        lambda n, size, alpha, beta: numpy.float64(steps_by_hand(n, size, alpha, beta)),
    ],
    "fit": [
        weighted_polyfit,
        normal_equations,
        lambda sizes, times: [*normal_equations(sizes, times)],
        lambda sizes, times: torch.tensor(normal_equations(sizes, times)),
    ],
}
WRONG_NUMBERS = {
    "ring_time": {
        "n steps for n - 1": [lambda n, s, alpha, beta: 2 * n * alpha + 2 * s * beta],
        "only one half": [
            lambda n, s, alpha, beta: sum(alpha + s / n * beta for _ in range(1, n)),
            lambda n, s, alpha, beta: n * alpha + s * beta,
        ],
        "latency forgotten": [lambda n, s, alpha, beta: 2 * (n - 1) / n * s * beta],
        "latency paid once": [
            lambda n, s, alpha, beta: alpha + 2 * (1 - 1 / n) * s * beta,
            lambda n, s, alpha, beta: 2 * (alpha + (n - 1) * s / n * beta),
            lambda n, s, alpha, beta: 0 if n == 1 else alpha + 2 * (1 - 1 / n) * s * beta,
        ],
        "the whole value at every step": [
            lambda n, s, alpha, beta: 2 * (n - 1) * alpha + 2 * (n - 1) * s * beta,
            lambda n, s, alpha, beta: (n - 1) * (alpha + s * beta),
        ],
        "bandwidth both ways counted twice": [lambda n, s, alpha, beta: 2 * (n - 1) * alpha + (n - 1) / n * s * beta],
        "sending and receiving in turn": [
            lambda n, s, alpha, beta: 2 * steps_by_hand(n, s, alpha, beta),
            lambda n, s, alpha, beta: 2 * (n - 1) * alpha + 4 * (n - 1) / n * s * beta,
        ],
        "beta is not a bandwidth": [lambda n, s, alpha, beta: 2 * (n - 1) * (alpha + s / (n * beta))],
        "a piece of 1/(n - 1)": [
            lambda n, s, alpha, beta: 2 * (n - 1) * (alpha + s / (n - 1) * beta) if n > 1 else 0.0,
        ],
        "a tree": [lambda n, s, alpha, beta: 2 * math.log2(n) * (alpha + s * beta)],
        "a constant factor": [lambda n, s, alpha, beta: 1000 * steps_by_hand(n, s, alpha, beta)],
        "an error": [lambda n, s, alpha, beta: alpha + s / (n - 1)],
        "not a number": [lambda n, s, alpha, beta: (alpha, beta), lambda n, s, alpha, beta: "long"],
        "not solved yet": [lambda n, s, alpha, beta: None],
        "wrong signature": [lambda n, size: 0],
        None: [lambda n, s, alpha, beta: n * alpha, lambda n, s, alpha, beta: math.nan],
    },
    "fit": {
        "ordinary least squares": [polyfit(0), lambda sizes, times: numpy.polyfit(sizes, times, 1)[::-1]],
        "weighted by 1 / time": [polyfit(-0.5)],
        "weighted twice": [polyfit(-2)],
        "relative to the size": [
            lambda sizes, times: numpy.polyfit(sizes, times, 1, w=1 / numpy.array(sizes))[::-1],
        ],
        "a line through logarithms": [of_logs],
        "beta and alpha exchanged": [lambda sizes, times: weighted_polyfit(sizes, times)[::-1]],
        "a bandwidth for beta": [
            lambda sizes, times: (weighted_polyfit(sizes, times)[0], 1 / weighted_polyfit(sizes, times)[1]),
        ],
        "through the first and the last": [
            lambda sizes, times: tuple(numpy.polyfit([sizes[0], sizes[-1]], [times[0], times[-1]], 1)[::-1]),
            lambda sizes, times: (times[0], (times[-1] - times[0]) / (sizes[-1] - sizes[0])),
        ],
        "no latency": [lambda sizes, times: (0.0, times[-1] / sizes[-1])],
        "a constant factor": [lambda sizes, times: [1e6 * each for each in weighted_polyfit(sizes, times)]],
        "not a number": [lambda sizes, times: weighted_polyfit(sizes, times)[0], lambda sizes, times: (1, 2, 3)],
        "not solved yet": [lambda sizes, times: ...],
        "an error": [lambda sizes, times: times / sizes],
    },
}
