"""Slips that fit any split: something done to an input before a right answer sees it, or to its result.

A `Mistake` of an exercise is a whole wrong answer. A slip is a change of one, so that a single line here is a wrong
answer to every exercise, and stands beside each mistake of its table too: two slips at once are told as two.
"""

from functools import partial
from types import MappingProxyType

import torch
from torch.nn import functional as F

from shardlab.exercises.exercise import Mistake

NONLINEAR = (F.gelu, F.relu, torch.tanh, torch.sigmoid, torch.abs, torch.square, partial(torch.softmax, dim=-1))

OF_AN_INPUT = [  # change(mesh, x_)
    Mistake(
        "reduced before the product",
        "What goes into the product was added up over the shards first. Nothing there is a partial sum: multiply the "
        "pieces as they are, and communicate the result.",
        lambda mesh, x_: mesh.all_reduce(x_),
    ),
    Mistake(
        "one shard's piece for all",
        "One shard's piece was sent to all of them before the product, and the others' pieces are lost.",
        lambda mesh, x_: mesh.broadcast(x_),
    ),
    Mistake(
        "nonlinearity of the inputs",
        "A nonlinearity was applied to what goes into the product, and none belongs there.",
        *[lambda mesh, x_, f=f: f(x_) for f in NONLINEAR],
    ),
    Mistake(
        "weighted by the rank",
        "Each shard's part is multiplied by a number that depends on its rank, and all are to count alike.",
        lambda mesh, x_: (mesh.rank + 1) * x_,
        lambda mesh, x_: mesh.rank * x_,
    ),
    Mistake(
        "cut once more",
        "An input was cut over the shards again before the product: each shard goes on with a piece of its own piece.",
        lambda mesh, x_: mesh.scatter(x_, dim=1),
        lambda mesh, x_: mesh.scatter(x_, dim=0),
    ),
    Mistake(
        "an input in another order",
        "The rows or the columns of an input are in another order than they came.",
        lambda mesh, x_: x_.flip(0),
        lambda mesh, x_: x_.flip(-1),
    ),
    Mistake(
        "transposed",
        "An input was transposed before the product.",
        lambda mesh, x_: x_.t(),
    ),
    Mistake(
        "an input twice",
        "An input counts twice, where it is to count once.",
        lambda mesh, x_: x_ + x_,
    ),
    Mistake(
        "an input with the wrong sign",
        "An input was subtracted, or has the wrong sign.",
        lambda mesh, x_: -x_,
    ),
    Mistake(
        "an input left out",
        "An input has no part in the result.",
        lambda mesh, x_: 0 * x_,
    ),
]
OF_THE_RESULT = [  # change(mesh, y_)
    Mistake(
        "n times too large",
        "Every number is n times what it should be, n being the number of shards: something that every shard has "
        "already was added up over the shards, or multiplied by mesh.size.",
        lambda mesh, y_: y_ * mesh.size,
        lambda mesh, y_: mesh.all_reduce(y_),
    ),
    Mistake(
        "n times too small",
        "Every number is 1/n of what it should be, n being the number of shards: nothing here is to be averaged.",
        lambda mesh, y_: y_ / mesh.size,
    ),
    Mistake(
        "a constant factor",
        "Every number is the right one but for a constant factor.",
        lambda mesh, y_: y_ / 2,
        lambda mesh, y_: y_ * 2,
    ),
    Mistake(
        "wrong sign",
        "Every number has the wrong sign.",
        lambda mesh, y_: -y_,
    ),
    Mistake(
        "weighted by the rank",
        "Each shard multiplies the result by a number that depends on its rank, so the shards no longer agree.",
        lambda mesh, y_: (mesh.rank + 1) * y_,
        lambda mesh, y_: mesh.rank * y_,
    ),
    Mistake(
        "a nonlinearity too many",
        "A nonlinearity was applied to the result, and none is wanted.",
        *[lambda mesh, y_, f=f: f(y_) for f in NONLINEAR],
    ),
    Mistake(
        "transposed",
        "The result is transposed.",
        lambda mesh, y_: y_.t(),
    ),
    Mistake(
        "summed along a dim",
        "The result was summed along one of its dims, which is no sum over shards.",
        lambda mesh, y_: y_.sum(0),
        lambda mesh, y_: y_.sum(1),
        lambda mesh, y_: y_.sum(),
    ),
]
OF_A_WHOLE_RESULT = [  # of one that every shard is to have
    Mistake(
        "only a slice",
        "The whole result was there, and each shard kept a slice of it alone: all of it is wanted on every shard.",
        lambda mesh, y_: mesh.scatter(y_, dim=1),
        lambda mesh, y_: mesh.scatter(y_, dim=0),
    ),
    Mistake(
        "gathered once too often",
        "Every shard had the whole result already: to gather it again puts n copies of it side by side.",
        lambda mesh, y_: mesh.all_gather(y_, dim=1),
        lambda mesh, y_: mesh.all_gather(y_, dim=0),
    ),
]
OF_WHAT_IS_MOVED = [  # change(mesh, x_), where x_ goes into a collective
    Mistake(
        "a nonlinearity too many",
        "A nonlinearity was applied to what each shard has, before it was communicated, and none is wanted there.",
        *[lambda mesh, x_, f=f: f(x_) for f in NONLINEAR],
    ),
]
IN_BACKWARD_OF_AN_INPUT = [
    Mistake(
        "one mesh.copy too many",
        "A value passes through mesh.copy once too often, so that backward adds up gradients that are not partial.",
        lambda mesh, x_: mesh.copy(x_),
    ),
]
IN_BACKWARD_OF_THE_RESULT = [
    Mistake(
        "reduced again in backward",
        "Every shard already has the same gradient of y, and mesh.copy adds these equal gradients up, so that what "
        "follows comes out n times too large.",
        lambda mesh, y_: mesh.copy(y_),
    ),
]


LIKELY = {"reduced before the product", "n times too large", "reduced again in backward"}  # where there is another, too


def slips(args, in_backward=False, results=MappingProxyType({"y": "replicated"})):
    """Every (name, why, slip), where slip(answer) is that answer with the slip in it. `args` are its inputs' names,
    `results` says how each result lies."""
    of_inputs, of_result, of_moved = (OF_AN_INPUT, OF_THE_RESULT, OF_WHAT_IS_MOVED)
    if in_backward:
        of_inputs, of_result, of_moved = (IN_BACKWARD_OF_AN_INPUT, IN_BACKWARD_OF_THE_RESULT, [])
    places = range(len(args))
    some = [*({place} for place in places), *({*places[:size]} for size in range(2, len(args) + 1))]
    for number, (result, placing) in enumerate(results.items()):
        whole = OF_A_WHOLE_RESULT if placing == "replicated" and not in_backward else []
        for mistake in of_result + whole:
            why = mistake.why if len(results) == 1 else f"{result}: {mistake.why}"
            for change in mistake.ways:
                yield mistake.name, why, partial(after, change, number)
    for place, arg in enumerate([] if in_backward or len(results) > 1 else args):
        why = f"{arg} was added to the result, as one adds a residual, and it does not belong there."
        yield "an input added to the result", why, partial(beside, place)
    for mistake in of_moved:
        for change in mistake.ways:
            yield mistake.name, mistake.why, partial(on_the_way, change)
    for mistake in of_inputs:
        for change in mistake.ways:
            change = once(change)
            for chosen in some:
                which = ", ".join(name for place, name in enumerate(args) if place in chosen)
                yield mistake.name, f"{mistake.why} (Here: {which}.)", partial(before, change, chosen)


def after(change, number, answer):
    """The answer with one of its results changed."""

    def slipped(mesh, *inputs):
        y_ = answer(mesh, *inputs)
        if not isinstance(y_, (tuple, list)):
            return change(mesh, y_)
        return tuple(change(mesh, each) if i == number else each for i, each in enumerate(y_))

    return slipped


def beside(place, answer):
    """The answer with one of its inputs added to the result."""
    return lambda mesh, *inputs: answer(mesh, *inputs) + inputs[place]


def on_the_way(change, answer):
    return lambda mesh, *inputs: answer(Changing(mesh, change), *inputs)


class Changing:
    """A mesh that changes what goes into a sum or a gather."""

    def __init__(self, mesh, change):
        self.mesh, self.change = mesh, change

    def __getattr__(self, name):
        return getattr(self.mesh, name)

    def all_reduce(self, x_):
        return self.mesh.all_reduce(self.change(self.mesh, x_))

    def all_gather(self, x_, dim):
        return self.mesh.all_gather(self.change(self.mesh, x_), dim)


def before(change, chosen, answer):
    def slipped(mesh, *inputs):
        return answer(mesh, *[change(mesh, x_) if i in chosen else x_ for i, x_ in enumerate(inputs)])

    return slipped


def once(function):
    """This function of a mesh and values on it, worked out once for the same ones; an error it ends in comes again."""
    known = {}

    def remembered(*args):
        key = tuple(map(id, args))
        if key not in known:
            try:
                known[key] = args, function(*args), None
            except Exception as error:
                known[key] = args, None, error
        _, value, error = known[key]
        if error:
            raise error
        return value

    return remembered
