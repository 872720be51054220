"""Lesson 11: an all-reduce made of shifts: a ring."""

from dataclasses import replace
from functools import partial

import torch
from torch.nn.functional import pad

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.looking import ROAD, Finding, shards, told
from shardlab.exercises.split import Split


def ring(mesh, x, length=None, scatter=None, gather=None, start=1, by=1, own=False, first=torch.add, then=None):
    """An all-reduce of x [L] in 2(n-1) shifts of ⌈L/n⌉ numbers each. All that comes after x is for mistakes.

    In step s of the reduce-scatter shard r sends piece r - s, and adds what comes to its own piece r - s - 1; after
    n - 1 steps piece r + 1 is whole, and goes round in the all-gather.
    """
    n, whole = mesh.size, len(x)
    given = pieces = padded(x, n) if length is None else x.reshape(length)
    for step in range(n - 1 if scatter is None else scatter(n)):
        here = (mesh.rank - step) % n
        arrived = mesh.shift((given if own else pieces)[here], by)
        pieces = put(pieces, (here - 1) % n, first(pieces[(here - 1) % n], arrived))
    for step in range(n - 1 if gather is None else gather(n)):
        here = (mesh.rank + start - step) % n
        arrived = mesh.shift(pieces[here], by)
        pieces = put(pieces, (here - 1) % n, then(pieces[(here - 1) % n], arrived) if then else arrived)
    return pieces.reshape(-1)[:whole]


def padded(x, n):
    return pad(x, (0, -len(x) % n)).reshape(n, -1)


def put(pieces, index, piece):
    pieces = pieces.clone()
    pieces[index] = piece
    return pieces


def whole_value(mesh, x, steps=lambda n: n - 1, passing=lambda total, arrived: arrived):
    """All of x goes round at every step."""
    total = going = x
    for _ in range(steps(mesh.size)):
        arrived = mesh.shift(going)
        total = total + arrived
        going = passing(total, arrived)
    return total


def instead(mine, arrived):
    return arrived


way = partial(partial, ring)
NOT_BY_SHIFT = "It is to be built from mesh.shift alone"
DIVIDE = "x may have any number of elements: pad it with zeros, or cut it with tensor_split."
RING_MISTAKES = [
    Mistake(
        "n steps for n - 1",
        "A piece has met all n shards after n - 1 steps, since it starts on one of them: one step more adds a value "
        "that is in the sum already, or sends what the neighbour has.",
        way(scatter=lambda n: n, start=0),
        way(scatter=lambda n: n),
        way(gather=lambda n: n),
        way(scatter=lambda n: n, gather=lambda n: n),
        partial(whole_value, steps=lambda n: n),
    ),
    Mistake(
        "passed on before complete",
        "The all-gather sends round pieces that are not yet whole sums. After the reduce-scatter shard r has the whole "
        "sum of one piece only: of the one that came last, r + 1.",
        way(start=0),
        way(first=instead),
        way(start=2),
        way(scatter=lambda n: max(n - 2, 0)),
    ),
    Mistake(
        "no all-gather",
        "After n - 1 steps each shard has the whole sum of one piece, and of the others a part: they are still to go "
        "round the ring.",
        way(gather=lambda n: 0),
    ),
    Mistake(
        "no reduce-scatter",
        "The pieces go round, and nothing is added up on their way.",
        way(scatter=lambda n: 0),
    ),
    Mistake(
        "the own value is passed on",
        "Each shard sends its own piece, and the sum that has come to it stays there. What travels is the running sum.",
        way(own=True),
    ),
    Mistake(
        "added in the all-gather",
        "What comes in the second half is a whole sum: it replaces what is there, and is not added to it.",
        way(then=torch.add),
    ),
    Mistake(
        "against the ring",
        "The shift goes to the neighbour on one side, and the pieces are numbered as if it went to the other.",
        way(by=-1),
    ),
    Mistake(
        "sums of sums",
        "What is passed on has been added to the total already, so that values are counted more than once: pass on "
        "what came.",
        partial(whole_value, passing=lambda total, arrived: total),
    ),
    Mistake(
        "one neighbour only",
        "Only what the neighbour has arrives. To meet all shards it takes n - 1 steps.",
        partial(whole_value, steps=lambda n: min(n - 1, 1)),
    ),
    Mistake(
        "the padding is left on",
        "The sums are right, but the result is longer than x: cut off the zeros that were added to make it divide.",
        lambda mesh, x: ring(mesh, padded(x, mesh.size).reshape(-1)),
    ),
    Mistake(
        "the size has to divide",
        DIVIDE,
        lambda mesh, x: ring(mesh, x, (mesh.size, -1)),
        lambda mesh, x: ring(mesh, torch.stack(x.tensor_split(mesh.size)).reshape(-1)),
        lambda mesh, x: ring(mesh, torch.stack(x.chunk(mesh.size)).reshape(-1)),
    ),
    mistakes.no_reduce(lambda mesh, x: x),
]


class OfShifts(Split):
    """A split whose collectives are shifts, each of a piece. What backward does is not asked: a shift goes back as it
    came, and so a ring of them gives every shard's gradient n times (`mesh.all_reduce` is one node, for that reason).
    """

    def check(self, answer=None, gradients=False):
        """Try `answer` on fresh random inputs, on 1 to 4 shards: values, and what was recorded (no gradients)."""
        return super().check(answer)

    def look(self, answer, case, seen, *more):
        finding = super().look(answer, case, seen, *more)
        uneven = case.tensors["x"].shape[1] % case.n  # where it divides, it ran
        if finding and finding.mistake == "an error" and uneven:
            return replace(finding, mistake="the size has to divide", message=f"{DIVIDE} {finding.message}")
        if finding is None or finding.step == ROAD and seen.forward:
            return look_at_shifts(case, seen) or finding
        return finding


def look_at_shifts(case, seen):
    """Right values: are they made of shifts, as few and as small as a ring needs?"""
    n, x = case.n, case.tensors["x"]
    piece = -(-x.shape[1] // n) * x.element_size()
    shifts = [call for call in seen.forward if call.name == "shift"]
    where = f"On {shards(n)} the values are right, but"
    if len(shifts) < len(seen.forward):
        return Finding(ROAD, "not made of shifts", f"{NOT_BY_SHIFT}. {where} the record shows {told(seen.forward)}.")
    if max((call.payload for call in shifts), default=0) > piece:
        why = f"a ring sends 1/n of x, {piece} bytes, at every step"
        return Finding(ROAD, "the whole value at every step", f"{where} the record shows {told(shifts)}: {why}.")
    if len(shifts) > 2 * (n - 1):
        return Finding(ROAD, "a step too many", f"{where} there are {len(shifts)} shifts, and {2 * (n - 1)} will do.")
    return None


ring_all_reduce = OfShifts(
    "ring_all_reduce",
    "y = x_0 + x_1 + …, on every shard, made of mesh.shift alone: 2(n - 1) shifts of 1/n of x each.",
    given={"x": ("N L", "partial")},
    wanted="y: [L], the same on every shard; L is any number",
    sizes=lambda n, integer: [{"N": n, "L": n * integer(2, 3)}, {"N": n, "L": n * integer(1, 3) + integer(1, 2)}],
    dense=lambda n, x: x.sum(0),
    right=ring,
    mistakes=RING_MISTAKES,
    products=False,
)
