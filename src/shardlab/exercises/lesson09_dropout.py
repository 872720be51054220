"""Lesson 09, third part: dropout of a value that is cut. Whatever random numbers an answer draws, its masks are held
against each other: those of the shards, of another run, of another seed, and of one shard that has all of X."""

import torch

from shardlab.exercises.alone import differs_alone
from shardlab.exercises.exercise import Exercise, Mistake, Wrong, seeded
from shardlab.exercises.looking import look_at_form, shards, told
from shardlab.exercises.numbers import close, worst
from shardlab.exercises.placing import cut
from shardlab.exercises.verdict import UNSOLVED
from shardlab.exercises.watch import Case, watch, watch_here
from shardlab.exercises.world import everyone, from_rank_0, world

P, SEED = 0.3, 1234
ROWS, WIDTH = 24, 20  # 480 numbers, of which 144 are to be dropped, and hardly ever less than 94 or more than 194


class Dropout(Exercise):
    """Is an answer a dropout, with one mask of which each shard has its piece?"""

    takes = ("mesh", "X", "p", "seed")
    mistakes = [
        Mistake("nothing is dropped", "Not one number is zero."),
        Mistake("everything is dropped", "Every number is zero."),
        Mistake("p kept, not dropped", "p is the part that is dropped, and here about p of the numbers are kept."),
        Mistake("another rate", "Of the numbers, p are to be dropped, each by a coin of its own."),
        Mistake("whole rows", "A token is kept or dropped as a whole, and each number is to have a coin of its own."),
        Mistake(
            "one mask for all tokens",
            "Every token loses the same features: each number is to have a coin of its own.",
        ),
        Mistake("not scaled", "What is kept is to be divided by 1 - p, so that the mean stays what it was."),
        Mistake("divided by p", "What is kept is divided by p, and 1 - p is the part that is kept."),
        Mistake("multiplied by 1 - p", "What is kept is multiplied by 1 - p, and is to be divided by it."),
        Mistake(
            "scaled by the number of shards",
            "The scale changes with the number of shards. Each number is on one shard alone: nothing is averaged.",
        ),
        Mistake("another scale", "What is kept is to be X / (1 - p)."),
        Mistake("not the numbers of X", "What is kept is to be X / (1 - p), and these are other numbers."),
        Mistake(
            "another mask each time",
            "The same seed gives another mask when it is called again. Draw with a generator that starts from it: "
            "torch.Generator().manual_seed(seed).",
        ),
        Mistake("the seed is not used", "Another seed gives the same mask."),
        Mistake(
            "one mask on all shards",
            "All shards have the same mask, so that the tokens of one lose just what those of another lose. Draw for "
            "all of X, and give each shard its piece.",
        ),
        Mistake(
            "another mask for every number of shards",
            "The masks of the shards differ, but put together they are not the mask that one shard draws for all of X: "
            "a run on more shards is another run. Draw for all of X, and give each shard its piece.",
        ),
        Mistake("whole on every shard", "Every shard has all of y, and each is to have its own rows alone."),
        Mistake("wrong shape", "Each shard is to return its own rows of X, some of them dropped."),
        Mistake("wrong dtype", "The result is to have the dtype of X."),
        Mistake(
            "extra communication",
            "Random numbers that come from one seed are the same on every shard: nothing has to be sent.",
        ),
        Mistake("detached", "No gradient comes back to X."),
        Mistake(
            "another gradient", "The gradient of X is that of y, where it was kept, divided by 1 - p; and else zero."
        ),
    ]

    def __init__(self):
        super().__init__(
            "dropout",
            "Drop each number of X with probability p, and divide the others by 1 - p. The shards' masks differ, and y "
            "is the same for every number of shards, and each time.",
            given=[
                "X: [T, D], cut by rows: [T/n, D] on each shard, n divides T",
                "p: from 0 up to, but not, 1",
                "seed: a whole number; another one gives another mask",
            ],
            wanted="y: [T, D], cut by rows: [T/n, D] on each shard",
        )

    def inspect(self, answer):
        self.callable(answer)
        random = seeded()
        random.manual_seed(everyone(random.initial_seed())[0])
        X, G = (torch.randn(ROWS, WIDTH, generator=random, dtype=torch.float64, device="cpu") for _ in "XG")
        seed = torch.randint(SEED, 2**31, (), generator=random).item()
        cases = [of(X, G, n, seed) for n in ([world()] if world() else [2, 3, 4])]
        seen = [(case, watch(answer, case, True)) for case in cases]
        for _, one in seen:
            if one.trouble and one.trouble[0] == UNSOLVED:
                raise self.unsolved(answer)
        found = from_rank_0(lambda: self.wrong(answer, X, G, seed, seen))
        if found:
            name, more = found
            why = next((mistake.why for mistake in self.mistakes if mistake.name == name), "")
            raise Wrong(name, f"{why} {more}".strip())
        return f"Right on {world() or '1, 2, 3 and 4'} shards: one mask, of which each has its piece."

    def wrong(self, answer, X, G, seed, seen):
        """(mistake, the numbers) of the first thing that is wrong, or None."""
        alone, again, other = (watch_here(answer, of(X, G, 1, number), True) for number in (seed, seed, seed + 1))
        runs = [(of(X, G, 1, seed), alone), *seen]
        for look in (form, shape, scale, coins):
            if found := next(filter(None, (look(case, one) for case, one in runs)), None):
                return found
        mask = kept(alone)
        if not torch.equal(kept(again), mask):
            return "another mask each time", ""
        if torch.equal(kept(other), mask):
            return "the seed is not used", ""
        for look in (lambda case, one: masks(case, one, mask), lambda case, one: road(answer, case, one), gradient):
            if found := next(filter(None, (look(case, one) for case, one in runs)), None):
                return found
        return None


def of(X, G, n, seed):
    return Case(n, {"X": X}, {"X": "by rows"}, {"y": "by rows"}, [G], [P, seed])


def kept(one):
    """The mask of all of X, as far as zeros tell."""
    return torch.cat(one.values) != 0


def form(case, one):
    finding = look_at_form(case, one)
    return finding and (finding.mistake, finding.message)


def shape(case, one):
    X = case.tensors["X"]
    for rank, (value, piece) in enumerate(zip(one.values, cut(X, "by rows", case.n), strict=True)):
        where = f"On {shards(case.n)}, shard {rank} has {list(value.shape)}, {value.dtype}."
        if value.shape != piece.shape:
            return ("whole on every shard" if value.shape == X.shape else "wrong shape"), where
        if value.dtype != X.dtype:
            return "wrong dtype", where


def scale(case, one):
    """Is what is kept X / (1 - p)?"""
    X, y = case.tensors["X"], torch.cat(one.values)
    part = (y != 0).double().mean().item()
    if part in (0, 1):
        return ("everything is dropped" if part == 0 else "nothing is dropped"), f"On {shards(case.n)}."
    factors = (y / X)[y != 0]
    factor, told_so = factors[0].item(), f"On {shards(case.n)} it is X times {factors[0]:.4g}, and p is {P}."
    if not close(factors, factors[:1].expand_as(factors)):
        return "not the numbers of X", f"On {shards(case.n)}."
    names = {1.0: "not scaled", 1 / P: "divided by p", 1 - P: "multiplied by 1 - p"}
    names |= {k / (1 - P): "scaled by the number of shards" for k in (case.n, 1 / case.n) if case.n > 1}
    name = next((name for number, name in names.items() if abs(factor / number - 1) < 1e-6), "another scale")
    return None if abs(factor * (1 - P) - 1) < 1e-6 else (name, told_so)


def coins(case, one):
    """Has each number a coin of its own, that falls as it should?"""
    mask = torch.cat(one.values) != 0
    part, count = mask.double().mean().item(), f"On {shards(case.n)}, "
    if (mask == mask[:, :1]).all():
        return "whole rows", ""
    if (mask == mask[:1]).all():
        return "one mask for all tokens", ""
    sigma = (P * (1 - P) / mask.numel()) ** 0.5
    if abs(part - (1 - P)) > 5 * sigma:  # where all shards have one mask, it has fewer coins, and more luck
        if abs(part - P) < 5 * sigma:
            return "p kept, not dropped", f"{count}{part:.0%} of the numbers are kept, and p is {P}."
        if not copied(case, one):
            return "another rate", f"{count}{part:.0%} of the numbers are kept, and p is {P}."


def copied(case, one):
    pieces = [value != 0 for value in one.values]
    return case.n > 1 and all(torch.equal(piece, pieces[0]) for piece in pieces)


def masks(case, one, mask):
    """Are the shards' masks the pieces of the one that one shard draws?"""
    if copied(case, one):
        return "one mask on all shards", f"So it is on {shards(case.n)}."
    pieces = torch.cat(one.values) != 0
    if not torch.equal(pieces, mask):
        part = (pieces == mask).double().mean().item()
        return "another mask for every number of shards", f"On {shards(case.n)}, {part:.0%} of the mask is the same."


def road(answer, case, one):
    """Does each shard come of its own pieces, and without the others?"""
    if case.n == 1:
        return None
    sent = [call for call in one.forward if call.dtype.is_floating_point or call.payload > 8 * case.n]
    if sent:
        return "extra communication", f"The record shows {told(sent)}."
    different = None if world() else differs_alone(answer, case, one)
    if different:
        return "reads other shards", (
            f"On {shards(case.n)} y is right, but only since all shards are in one process here. Tried as under "
            f"torchrun, {different}."
        )


def gradient(case, one):
    X, G = case.tensors["X"], case.cotangents[0]
    got = one.grads["X"]
    if any(grad is None for grad in got):
        return "detached", ""
    want = torch.where(torch.cat(one.values) != 0, G / (1 - P), torch.zeros_like(X))
    for rank, (grad, piece) in enumerate(zip(got, cut(want, "by rows", case.n), strict=True)):
        if not close(grad, piece):
            return "another gradient", f"On {shards(case.n)}, that on shard {rank} {worst(grad, piece)}."


dropout = Dropout()
