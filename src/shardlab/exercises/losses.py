"""The loss of cut logits in parts: top + total - target, and the mean over the tokens. A mistake changes one part."""

import torch

from shardlab.exercises.lesson08 import found, right_place
from shardlab.layers.vocabulary import words_of


def largest(mesh, logits):
    return mesh.all_reduce(logits.amax(-1), op="max")


def added(mesh, sums_):
    return mesh.all_reduce(sums_).log()


def picked(mesh, logits, targets, find=right_place, beside=0):
    """The target's logit on the shard that has it, and zeros on the others: partial."""
    place_, own_ = find(mesh, words_of(mesh, logits, dim=1), targets)
    return torch.where(own_, at(logits, place_), beside)


def at(logits, place_):
    return logits.gather(1, place_[:, None])[:, 0]


def picked_anywhere(mesh, logits, targets, elsewhere):
    return at(logits, found(words_of(mesh, logits, dim=1), targets, elsewhere=elsewhere)[0])


def reduced(mesh, logits, targets):
    return mesh.all_reduce(picked(mesh, logits, targets))


def masked_late(mesh, logits, targets, elsewhere):
    anyones_ = mesh.all_reduce(picked_anywhere(mesh, logits, targets, elsewhere))
    return found(words_of(mesh, logits, 1), targets)[1] * anyones_


def mean(mesh, losses, logits):
    return losses.mean()


def loss_by(top=largest, total=added, target=reduced, then=mean):
    """The answer that makes the loss of these parts; right if none of them is another."""

    def answer(mesh, logits, targets):
        top_ = top(mesh, logits)
        whole_ = top_ + total(mesh, (logits - top_[:, None]).exp().sum(-1))
        return then(mesh, whole_ - target(mesh, logits, targets), logits)

    return answer


def of_own_softmax(then):
    """The answer that takes a softmax over each shard's own words, and goes on with the losses of its own targets."""

    def answer(mesh, logits, targets):
        place_, own_ = found(words_of(mesh, logits, dim=1), targets)
        return then(mesh, -torch.where(own_, at(logits.log_softmax(-1), place_), 0))

    return answer


def own_maximum_twice(mesh, logits, targets):
    """As if every shard had one maximum, both where it is taken away and where the target's logit is."""
    top_ = logits.amax(-1)
    total_ = mesh.all_reduce((logits - top_[:, None]).exp().sum(-1)).log()
    place_, own_ = found(words_of(mesh, logits, dim=1), targets)
    return (total_ - mesh.all_reduce(torch.where(own_, at(logits, place_) - top_, 0))).mean()


def added_back(add, take=lambda mesh, logits: logits.amax(-1)):
    """The answer that takes away one maximum and adds another one."""

    def answer(mesh, logits, targets):
        total_ = added(mesh, (logits - take(mesh, logits)[:, None]).exp().sum(-1))
        return (add(mesh, logits) + total_ - reduced(mesh, logits, targets)).mean()

    return answer


def sum_of_maxima(mesh, logits):
    return mesh.all_reduce(logits.detach().amax(-1))


def shared_too_early(mesh, logits, targets):
    """log_softmax whole on every shard, of which each takes its own targets: the log of the sum is used in parts."""
    top_ = largest(mesh, logits)
    whole_ = top_ + added(mesh, (logits - top_[:, None]).exp().sum(-1))
    return -mesh.all_reduce(picked(mesh, logits - whole_[:, None], targets)).mean()


def nothing(mesh, logits):
    return torch.zeros_like(logits[:, 0])


def gathered(loss):
    return lambda mesh, logits, targets: loss(mesh.all_gather(logits, dim=1), targets)


def one_hot(mesh, logits, targets):
    return (targets[:, None] == words_of(mesh, logits, dim=1)).to(logits.dtype)
