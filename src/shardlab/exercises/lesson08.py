"""Lesson 08: rows of an embedding that is cut along the vocabulary, looked up."""

from functools import partial

import torch

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.split import Split, normal
from shardlab.layers.vocabulary import words_of


def token_sizes(n, integer):
    """A vocabulary that n does not divide (with n - 1 words over, the pieces would begin where those of one length do),
    and on 2 and 4 shards one that it does, with numbers so large that exp of them overflows. There are more than twice
    as many words as tokens: else it is cheapest to gather."""
    V = n * integer(18 // n, 20 // n)
    sizes = [{"T": 6, "V": V + (integer(1, max(n - 2, 1)) if n > 1 else 0), "D": 3, "n": n}]
    return [*sizes, {"T": 7, "V": V, "D": 4, "n": n, "scale": 1e4}] if n % 2 == 0 else sizes


def tokens(shape, size, random):
    """Words of the vocabulary, among them its first and its last one, and those where the first shard's piece ends and
    where the next one's begins."""
    end = -(-size["V"] // size["n"])
    corners = torch.tensor([0, size["V"] - 1, end - 1, end % size["V"]])
    others = torch.randint(size["V"], [shape[0] - len(corners)], generator=random)
    return torch.cat([corners, others])[torch.randperm(shape[0], generator=random)]


# A shard finds a token among its words: (its place there, and whether it is there at all).


def nowhere(place_, words_, own_):
    """What is not there is looked up in the first place."""
    return torch.where((place_ >= 0) & (place_ < len_of(words_)), place_, 0)


def clamped(place_, words_, own_):
    return torch.minimum(place_.clamp(min=0), len_of(words_) - 1)


def wrapped(place_, words_, own_):
    return place_ % len_of(words_)


def believed(place_, words_, own_):
    """In the first place, too, but for what the shard takes for its own."""
    return torch.where(own_, place_, 0)


def as_it_is(place_, words_, own_):
    return place_


ELSEWHERE = (nowhere, clamped, wrapped, believed, as_it_is)  # where a token is looked up that another shard has


def len_of(words_):
    return torch.ones_like(words_).sum()


def found(words_, ids, first=0, last=0, shift=0, elsewhere=nowhere):
    """Right if all numbers are 0: how much the first and the last word are missed by, and the places."""
    own_ = (ids >= words_[0] + first) & (ids <= words_[-1] + last)
    return elsewhere(ids - words_[0] + shift, words_, own_), own_


def found_from(start, elsewhere=nowhere):
    """The same, where a shard's words begin at start(mesh.rank, its length, V, n)."""

    def find(mesh, words_, ids):
        length_ = len_of(words_)
        place_ = ids - start(mesh.rank, length_, int(mesh.all_reduce(length_)), mesh.size)
        own_ = (place_ >= 0) & (place_ < length_)
        return elsewhere(place_, words_, own_), own_

    return find


def right_place(mesh, words_, ids):
    return found(words_, ids)


def place_by(**options):
    return lambda mesh, words_, ids: found(words_, ids, **options)


def without_offset(elsewhere):
    def find(mesh, words_, ids):
        own_ = found(words_, ids)[1]
        return elsewhere(ids, words_, own_), own_

    return find


STARTS = [  # as if all pieces were of one length
    lambda rank, length, V, n: rank * length,
    lambda rank, length, V, n: rank * (V // n),
    lambda rank, length, V, n: rank * -(-V // n),
]
MISPLACED = {  # the ways to find a token in the wrong place: {mistake: [find]}
    "off by one": [
        *[place_by(elsewhere=e, **by) for e in ELSEWHERE[:4] for by in ({"first": 1}, {"last": 1}, {"last": -1})],
        *[place_by(elsewhere=e, shift=by) for e in ELSEWHERE[1:4] for by in (-1, 1)],
        *[place_by(shift=by, first=-by, last=-by) for by in (-1, 1)],
    ],
    "without the offset": [
        *[without_offset(e) for e in ELSEWHERE[:4]],
        *[found_from(lambda rank, length, V, n: 0 * rank, e) for e in ELSEWHERE[:3]],
    ],
    "pieces of one length": [found_from(start, e) for e in ELSEWHERE[:2] for start in STARTS],
}
WHY_MISPLACED = {
    "off by one": "A shard takes one word too many or too few for its own, or looks one place beside it: it has "
    "words_[0], …, words_[-1], and word w lies in place w - words_[0].",
    "without the offset": "Ids count from the beginning of the vocabulary and rows from the beginning of a shard: "
    "subtract the number of the shard's first word.",
    "pieces of one length": "A shard's words were taken to begin at rank times one length. Where n does not divide V, "
    "the first V % n pieces have a word more.",
}


def rows(mesh, ids, E, find=right_place):
    """Each shard's own rows, and zeros for the words of others: partial."""
    place_, own_ = find(mesh, words_of(mesh, E), ids)
    return torch.where(own_[:, None], E[place_], 0)


def unmasked(mesh, ids, E, elsewhere):
    return E[found(words_of(mesh, E), ids, elsewhere=elsewhere)[0]]


def masked_late(mesh, ids, E, elsewhere):
    _, own_ = found(words_of(mesh, E), ids)
    return own_[:, None] * mesh.all_reduce(unmasked(mesh, ids, E, elsewhere))


EMBEDDING_MISTAKES = [
    Mistake(
        "mask left out",
        "For a word of another shard a shard must bring zeros. Here it brings some row of its own, and the sum holds "
        "it, too.",
        *[lambda mesh, ids, E, e=e: mesh.all_reduce(unmasked(mesh, ids, E, e)) for e in (*ELSEWHERE[:3], as_it_is)],
        *[lambda mesh, ids, E, e=e: mesh.all_reduce(E[e(ids, words_of(mesh, E), None)]) for e in ELSEWHERE[:3]],
    ),
    Mistake(
        "mask after the reduction",
        "Rows that are not the token's were added up before the mask, which then takes the right ones away on all "
        "shards but one: mask first, then reduce.",
        *[partial(masked_late, elsewhere=e) for e in ELSEWHERE[:3]],
        lambda mesh, ids, E: found(words_of(mesh, E), ids)[1][:, None] * mesh.all_reduce(rows(mesh, ids, E)),
    ),
    *[
        Mistake(
            name,
            WHY_MISPLACED[name],
            *[lambda mesh, ids, E, find=find: mesh.all_reduce(rows(mesh, ids, E, find)) for find in ways],
        )
        for name, ways in MISPLACED.items()
    ],
    Mistake(
        "embedding gathered",
        "All of E was put on every shard, only to look a few rows of it up: look them up where they are, and move the "
        "rows.",
        lambda mesh, ids, E: mesh.all_gather(E, dim=0)[ids],
    ),
    Mistake(
        "gathered, then added",
        "Every shard's rows, zeros nearly all of them, go to every shard, to be added there: an all-reduce does the "
        "same, and moves less.",
        lambda mesh, ids, E: mesh.all_gather(rows(mesh, ids, E)[None], dim=0).sum(0),
        lambda mesh, ids, E: mesh.all_gather(rows(mesh, ids, E), dim=0).unflatten(0, (mesh.size, -1)).sum(0),
    ),
    *mistakes.of_a_sum((rows, lambda y_, *_: y_)),
    mistakes.reduced_again(
        lambda mesh, ids, E: mesh.copy(mesh.all_reduce(rows(mesh, ids, E))),
    ),
    mistakes.copy_of_a_cut_tensor(
        lambda mesh, ids, E: mesh.all_reduce(rows(mesh, ids, mesh.copy(E))),
    ),
]

embedding = Split(
    "embedding",
    "y = E[ids], with E cut by rows, where n need not divide V. A shard knows the rows of its own words alone: mask, "
    "and one all-reduce. layers.words_of(mesh, E) says which words a shard has.",
    given={"ids": ("T", "replicated"), "E": ("V D", "by rows")},
    wanted="y: [T, D], the same on every shard",
    sizes=token_sizes,
    dense=lambda n, ids, E: E[ids],
    right=lambda mesh, ids, E: mesh.all_reduce(rows(mesh, ids, E)),
    mistakes=EMBEDDING_MISTAKES,
    draw={"ids": tokens, "E": normal},
    products=False,
)
