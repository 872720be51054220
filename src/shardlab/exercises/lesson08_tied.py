"""Lesson 08, third part: an embedding whose weight is also that of the logits."""

from torch.nn import functional as F

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.lesson08 import EMBEDDING_MISTAKES, rows, token_sizes, tokens
from shardlab.exercises.lesson08_loss import LOSS_MISTAKES, scaled
from shardlab.exercises.losses import loss_by
from shardlab.exercises.split import Split


def embedded(mesh, ids, E):
    return mesh.all_reduce(rows(mesh, ids, E))


def tied_by(embed=embedded, between=lambda mesh, x: mesh.copy(x), out=lambda E: E, loss=None):
    """The answer of these parts: rows of E, what comes between, the weight of the logits, their loss."""
    loss = loss or loss_by()
    return lambda mesh, ids, E, targets: loss(mesh, between(mesh, embed(mesh, ids, E)) @ out(E).T, targets)


def in_either(embedding_mistakes, loss_mistakes):
    """The mistakes of both ends, those of one name as one; made in either of them."""
    table = {}
    for mistake in embedding_mistakes:
        table[mistake.name] = mistake.why, [tied_by(way) for way in mistake.ways]
    for mistake in loss_mistakes:
        why, ways = table.get(mistake.name, (mistake.why, []))
        table[mistake.name] = why, ways + [tied_by(loss=way) for way in mistake.ways]
    return [Mistake(name, why, *ways) for name, (why, ways) in table.items()]


TIED_MISTAKES = [
    Mistake(
        "weights untied",
        "E is used twice, and a copy of it once, or one without its history: the gradient of that use never comes to "
        "E. It is one weight, and its gradient the sum of both.",
        tied_by(out=lambda E: E.detach()),
        tied_by(lambda mesh, ids, E: embedded(mesh, ids, E.detach()), lambda mesh, x: x),
        tied_by(lambda mesh, ids, E: embedded(mesh, ids, E.detach())),
        tied_by(between=lambda mesh, x: x.detach()),
    ),
    Mistake(
        "counted twice",
        "The gradient of one use of E comes to it twice, or n times: each use counts once.",
        tied_by(between=lambda mesh, x: mesh.copy(mesh.copy(x))),
        tied_by(lambda mesh, ids, E: mesh.all_reduce(mesh.copy(rows(mesh, ids, E)))),
        tied_by(out=lambda E: 2 * E - E.detach()),
        tied_by(lambda mesh, ids, E: embedded(mesh, ids, 2 * E - E.detach())),
        lambda mesh, ids, E, targets: tied_by()(mesh, ids, 2 * E - E.detach(), targets),
    ),
    Mistake(
        "missing backward all-reduce",
        "Each shard's logits send back a part of the gradient of what was embedded, that of its own words, and nobody "
        "adds the parts: the embedded tokens enter the cut product without mesh.copy.",
        tied_by(between=lambda mesh, x: x),
    ),
    *in_either([each for each in EMBEDDING_MISTAKES if each.name != mistakes.reduced_again().name], LOSS_MISTAKES),
]

tied = Split(
    "tied",
    "The loss of logits = E[ids] @ E.T, a language model of two layers that share E, cut by rows: the embedding with "
    "one all-reduce, then the loss with three numbers a token. E is one weight, and has one gradient.",
    given={"ids": ("T", "replicated"), "E": ("V D", "by rows"), "targets": ("T", "replicated")},
    wanted="y: the mean loss, one number, the same on every shard",
    sizes=lambda n, integer: [size | {"scale": 30} if "scale" in size else size for size in token_sizes(n, integer)],
    dense=lambda n, ids, E, targets: F.cross_entropy(E[ids] @ E.T, targets),
    right=tied_by(),
    mistakes=TIED_MISTAKES,
    draw={"ids": tokens, "E": scaled, "targets": tokens},
    products=False,
)
