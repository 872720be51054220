"""Lesson 08, second part: the loss of logits that are cut along the vocabulary."""

from functools import partial

import torch
from torch.nn import functional as F

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.lesson08 import (
    ELSEWHERE,
    MISPLACED,
    WHY_MISPLACED,
    found,
    token_sizes,
    tokens,
)
from shardlab.exercises.losses import (
    added,
    added_back,
    at,
    gathered,
    largest,
    loss_by,
    masked_late,
    nothing,
    of_own_softmax,
    one_hot,
    own_maximum_twice,
    picked,
    picked_anywhere,
    reduced,
    shared_too_early,
    sum_of_maxima,
)
from shardlab.exercises.split import Split, normal
from shardlab.layers.vocabulary import words_of


def scaled(shape, size, random):
    return size.get("scale", 1) * normal(shape, size, random)


LOSS_MISTAKES = [
    Mistake(
        "local maximum",
        "Each shard took away the largest of its own logits, and the sums over shards then add what was scaled by "
        "different numbers. The maximum, too, is one over all shards: all_reduce(…, op='max').",
        loss_by(top=lambda mesh, logits: logits.amax(-1)),
        own_maximum_twice,
        added_back(largest),
        added_back(lambda mesh, logits: logits.amax(-1), largest),
    ),
    Mistake(
        "sum of maxima",
        "The shards' maxima were added. On paper any number may be taken away, if all shards take the same; but then "
        "exp overflows, or every exp is 0 and the log is that of 0. The largest logit is wanted: op='max'.",
        loss_by(top=sum_of_maxima),
        loss_by(top=lambda mesh, logits: sum_of_maxima(mesh, logits) / mesh.size),
        added_back(sum_of_maxima, largest),
        added_back(largest, sum_of_maxima),
    ),
    Mistake(
        "one shard's maximum",
        "All shards take away the maximum of one of them. That is right on paper, and overflows where another shard "
        "has a much larger logit: op='max' is over all of them.",
        loss_by(top=lambda mesh, logits: mesh.broadcast(logits.amax(-1))),
        loss_by(top=lambda mesh, logits: mesh.broadcast(logits.amax(-1), src=mesh.size - 1)),
    ),
    Mistake(
        "no maximum taken away",
        "exp of a logit beyond 709 is inf in float64 (beyond 88 in float32): take away the largest logit before, and "
        "add it again after the log.",
        loss_by(top=nothing),
    ),
    Mistake(
        "one maximum for all tokens",
        "One number was taken away from the logits of every token, and where a token's own are all much smaller, "
        "every exp is 0: each token has its maximum.",
        loss_by(top=lambda mesh, logits: mesh.all_reduce(logits.amax(), op="max") + nothing(mesh, logits)),
    ),
    Mistake(
        "maximum not added back",
        "The largest logit was taken away before the exp, and is to be added after the log: log Σ exp(l) is "
        "m + log Σ exp(l - m).",
        added_back(nothing, largest),
    ),
    Mistake(
        "sum not reduced",
        "Each shard took the log of the sum over its own words: add the sums up over the shards before the log.",
        loss_by(total=lambda mesh, sums_: sums_.log()),
    ),
    Mistake(
        "sum of logs",
        "The log was taken on each shard, and the logs were added. log is not linear: first the all-reduce, then log.",
        loss_by(total=lambda mesh, sums_: mesh.all_reduce(sums_.log())),
        lambda mesh, logits, targets: (mesh.all_reduce(logits.logsumexp(-1)) - reduced(mesh, logits, targets)).mean(),
    ),
    Mistake(
        "off by log n",
        "The sum over the words is n times too large or too small, so that each loss is off by log n: something was "
        "averaged over the shards, or added up twice.",
        loss_by(total=lambda mesh, sums_: added(mesh, sums_ / mesh.size)),
        loss_by(total=lambda mesh, sums_: mesh.all_reduce(mesh.all_reduce(sums_)).log()),
    ),
    Mistake(
        "largest sum",
        "Of the shards' sums the largest was kept: they are to be added, all_reduce with op='sum'.",
        loss_by(total=lambda mesh, sums_: mesh.all_reduce(sums_, op="max").log()),
    ),
    Mistake(
        "softmax over the shard's part",
        "Each shard took the softmax of its own logits, as if there were no other words: what exp adds up to is a sum "
        "over all shards.",
        of_own_softmax(lambda mesh, losses_: mesh.all_reduce(losses_).mean()),
        of_own_softmax(lambda mesh, losses_: losses_.mean()),
        of_own_softmax(lambda mesh, losses_: mesh.all_reduce(losses_.mean()) / mesh.size),
        lambda mesh, logits, targets: (logits.logsumexp(-1) - reduced(mesh, logits, targets)).mean(),
        *[lambda m, l, t, e=e: F.cross_entropy(l, found(words_of(m, l, 1), t, elsewhere=e)[0]) for e in ELSEWHERE[:3]],
    ),
    Mistake(
        "target's logit not reduced",
        "Only the shard that has the target knows its logit; the others go on with 0. An all-reduce tells them.",
        loss_by(target=picked),
    ),
    Mistake(
        "target's logit taken on every shard",
        "A shard that has not the target brings the logit of some other word, and the sum holds it, too: it must "
        "bring 0.",
        *[loss_by(target=lambda m, l, t, e=e: m.all_reduce(picked_anywhere(m, l, t, e))) for e in ELSEWHERE[:3]],
        *[loss_by(target=lambda m, l, t, e=e: picked_anywhere(m, l, t, e)) for e in ELSEWHERE[:3]],
        loss_by(target=lambda m, l, t: m.all_reduce(at(l, found(words_of(m, l, 1), t, elsewhere=ELSEWHERE[-1])[0]))),
        loss_by(target=lambda m, l, t: m.all_reduce(reduced(m, l, t))),
    ),
    Mistake(
        "mask after the reduction",
        "Logits that are not the target's were added up before the mask, which then takes the right one away on all "
        "shards but one: mask first, then reduce.",
        *[loss_by(target=partial(masked_late, elsewhere=e)) for e in ELSEWHERE[:3]],
    ),
    *[
        Mistake(
            name,
            WHY_MISPLACED[name],
            *[loss_by(target=lambda m, l, t, find=find: m.all_reduce(picked(m, l, t, find))) for find in ways],
        )
        for name, ways in MISPLACED.items()
    ],
    Mistake(
        "target's logit by a maximum",
        "The target's logit was found as the largest of what the shards bring. A maximum has no gradient here, and "
        "zeros are larger than a negative logit: mask with 0, and add.",
        loss_by(target=lambda m, l, t: m.all_reduce(picked(m, l, t), op="max")),
        loss_by(target=lambda m, l, t: m.all_reduce(picked(m, l, t, beside=-torch.inf), op="max")),
    ),
    Mistake(
        "logits gathered",
        "All logits were put on every shard, V numbers a token, where three will do: a maximum, a sum, the target's.",
        gathered(F.cross_entropy),
        gathered(lambda logits, targets: F.nll_loss(logits.log_softmax(-1), targets)),
        loss_by(target=lambda m, l, t: at(m.all_gather(l, dim=1), t)),
    ),
    Mistake(
        "one-hot gathered",
        "A one-hot of the targets is as long as the vocabulary, and was gathered: sum over a shard's own words first, "
        "and one number a token is left to be moved.",
        loss_by(target=lambda m, l, t: m.all_gather(one_hot(m, l, t) * l, dim=1).sum(-1)),
        loss_by(target=lambda m, l, t: (m.all_gather(one_hot(m, l, t), dim=1) * m.all_gather(l, dim=1)).sum(-1)),
        loss_by(target=lambda m, l, t: (m.scatter(m.all_gather(one_hot(m, l, t), dim=1), dim=1) * l).sum(-1)),
    ),
    Mistake(
        "no mean",
        "These are the losses of the tokens, one each, and their mean is wanted.",
        loss_by(then=lambda mesh, losses, logits: losses),
    ),
    Mistake(
        "mean over the wrong number",
        "The losses of the tokens were added up, and then not divided by the number of tokens, which is the same on "
        "every shard.",
        loss_by(then=lambda mesh, losses, logits: losses.sum()),
        loss_by(then=lambda mesh, losses, logits: losses.sum() / mesh.all_reduce(torch.ones_like(logits[0]).sum())),
        loss_by(then=lambda mesh, losses, logits: losses.sum() / torch.ones_like(logits[0]).sum()),
        loss_by(then=lambda mesh, losses, logits: losses.mean() / mesh.size),
        loss_by(then=lambda mesh, losses, logits: losses.sum() / mesh.size),
        loss_by(then=lambda mesh, losses, logits: mesh.all_reduce(losses.sum())),
    ),
    mistakes.reduced_again(
        loss_by(then=lambda mesh, losses, logits: mesh.copy(losses).mean()),
        loss_by(total=lambda mesh, sums_: mesh.copy(added(mesh, sums_))),
        loss_by(target=lambda m, l, t: m.copy(reduced(m, l, t))),
    ),
    mistakes.copy_of_a_cut_tensor(
        lambda mesh, logits, targets: loss_by()(mesh, mesh.copy(logits), targets),
    ),
    Mistake(
        "log of the sum used in parts",
        "The log of the sum, the same on every shard, goes into what each shard has of its own targets alone. Backward "
        "then brings it a part of its gradient, and nobody adds the parts: reduce the targets' logits by themselves, "
        "and subtract afterwards. (mesh.copy in between would be right, too, with one more all-reduce.)",
        shared_too_early,
    ),
    Mistake(
        "a part detached",
        "One part of the loss is cut off from the logits, and a part of their gradient is missing: softmax comes of "
        "the sum, and - 1 at the target of the target's logit. Only the maximum needs none.",
        loss_by(total=lambda mesh, sums_: added(mesh, sums_.detach())),
        loss_by(target=lambda m, l, t: reduced(m, l.detach(), t)),
    ),
]

cross_entropy = Split(
    "cross_entropy",
    "The mean over the tokens of log Σ_v exp(logit_v) - logit_target, with the logits cut by columns, where n need not "
    "divide V, and as large as they come. Move three numbers a token, and no logits. layers.words_of(mesh, logits, "
    "dim=1) says which words a shard has.",
    given={"logits": ("T V", "by columns"), "targets": ("T", "replicated")},
    wanted="y: the mean loss, one number, the same on every shard",
    sizes=token_sizes,
    dense=lambda n, logits, targets: F.cross_entropy(logits, targets),
    right=loss_by(),
    mistakes=LOSS_MISTAKES,
    draw={"logits": scaled, "targets": tokens},
    products=False,
)
