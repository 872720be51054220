"""Answers to the exercises of lesson 08 in the style of learners: right ones, and wrong ones by their mistake."""

import torch
from torch.nn import functional as F

from shardlab import Shards
from shardlab.layers import vocab_parallel_cross_entropy, words_of

GRAD = "with gradients"  # the mistake shows in the gradients alone


def hits(words, ids):
    return ids.unsqueeze(-1) == words  # [T, V/n], at most one True a row


def embedding_one_hot(mesh, ids, E):
    return mesh.all_reduce(hits(words_of(mesh, E), ids).to(E.dtype) @ E)


def embedding_by_where(mesh, ids, E):
    words = words_of(mesh, E)
    here = torch.isin(ids, words)
    rows = F.embedding(torch.where(here, ids - words.min(), 0), E)
    return mesh.all_reduce(torch.where(here.unsqueeze(1), rows, torch.zeros_like(rows)))


def embedding_that_counts_itself(mesh, ids, E):
    """Nobody says how many words there are: it adds the lengths up, and cuts as tensor_split does."""
    V = int(mesh.all_reduce(torch.ones_like(E[:, 0], dtype=torch.int64).sum()))
    words = mesh.shard(torch.arange(V), dim=0)
    own = (ids >= words[0]) & (ids <= words[-1])
    place = (ids - words[0]).masked_fill(~own, 0)
    return mesh.all_gather(mesh.reduce_scatter(E[place] * own.unsqueeze(1), dim=0), dim=0)


def embedding_shard_by_shard(mesh, ids, E):
    rows = []
    for words, tokens, table in zip(words_of(mesh, E).shards, ids.shards, E.shards, strict=True):
        own = (words[0] <= tokens) & (tokens <= words[-1])
        rows.append(torch.zeros(len(tokens), table.shape[1], dtype=table.dtype, device=table.device))
        rows[-1] = rows[-1].index_put((own.nonzero()[:, 0],), table[tokens[own] - words[0]])
    return mesh.all_reduce(Shards(rows, mesh))


def loss_step_by_step(mesh, logits, targets):
    words = words_of(mesh, logits, dim=1)
    logits = logits - mesh.all_reduce(logits.detach().max(dim=1, keepdim=True).values, op="max")
    target = mesh.all_reduce((hits(words, targets) * logits).sum(1))
    return -(target - mesh.all_reduce(logits.exp().sum(1)).log()).mean()


def loss_by_log_softmax(mesh, logits, targets):
    """Right but for the gradient: the log of the sum belongs to all shards, and each one uses it for its targets."""
    words = words_of(mesh, logits, dim=1)
    logits = logits - mesh.all_reduce(logits.detach().max(dim=1, keepdim=True).values, op="max")
    log_softmax = logits - mesh.all_reduce(logits.exp().sum(1, keepdim=True)).log()
    return -mesh.all_reduce((hits(words, targets) * log_softmax).sum(1)).mean()


def loss_in_two(mesh, logits, targets):
    """The sum and the target's logit go in one all-reduce."""
    words = words_of(mesh, logits, dim=1)
    shifted = logits - mesh.all_reduce(logits.amax(1), op="max")[:, None]
    both = torch.stack([shifted.exp().sum(1), torch.where(hits(words, targets), shifted, 0).sum(1)])
    total, target = mesh.all_reduce(both)
    return (total.log() - target).mean()


def loss_of_sums(mesh, logits, targets):
    """Each shard scales by its own maximum, and says so: the sums are put on one scale before they are added."""
    words = words_of(mesh, logits, dim=1)
    own = logits.detach().amax(1)
    top = mesh.all_reduce(own, op="max")
    total = mesh.all_reduce((logits - own[:, None]).exp().sum(1) * (own - top).exp())
    target = mesh.all_reduce((hits(words, targets) * logits).sum(1))
    return (top + total.log() - target).mean()


def loss_by_logsumexp(mesh, logits, targets):
    """Each shard's own logsumexp, gathered: one number a token and shard."""
    words = words_of(mesh, logits, dim=1)
    parts = mesh.all_gather(logits.logsumexp(1).unsqueeze(0), dim=0)
    mine = torch.where(hits(words, targets), logits, 0.0).sum()  # one number for all the tokens
    return parts.logsumexp(0).mean() - mesh.all_reduce(mine) / len(targets)


def loss_by_gather(mesh, logits, targets):
    words = words_of(mesh, logits, dim=1)
    place = (targets - words[0]).clamp(min=0).minimum(words[-1] - words[0])
    own = words[0] + place == targets
    target = logits.gather(1, place.unsqueeze(1)).squeeze(1) * own
    top = mesh.all_reduce(logits.amax(1), "max")
    total = mesh.all_gather(mesh.reduce_scatter((logits - top.unsqueeze(1)).exp().sum(1), dim=0), dim=0)
    return torch.mean(torch.log(total) + top - mesh.all_reduce(target))


def loss_of_the_layer(mesh, logits, targets):
    V = int(mesh.all_reduce(torch.ones_like(logits[0]).long().sum()))
    return vocab_parallel_cross_entropy(mesh, logits, targets, V)


def tied_one_hot(mesh, ids, E, targets):
    words = words_of(mesh, E)
    x = mesh.all_reduce(hits(words, ids).to(E.dtype) @ E)
    return loss_step_by_step(mesh, torch.einsum("td,vd->tv", mesh.copy(x), E), targets)


def tied_shortest(mesh, ids, E, targets):
    return loss_of_the_layer(mesh, F.linear(mesh.copy(embedding_by_where(mesh, ids, E)), E), targets)


RIGHT = {
    "embedding": [
        embedding_one_hot,
        embedding_by_where,
        embedding_that_counts_itself,
        embedding_shard_by_shard,
    ],
    "cross_entropy": [
        loss_step_by_step,
        loss_in_two,
        loss_of_sums,
        loss_by_logsumexp,
        loss_by_gather,
        loss_of_the_layer,
    ],
    "tied": [tied_one_hot, tied_shortest],
}


def start_of(mesh, E):
    return words_of(mesh, E)[0]


def rows(mesh, ids, E):
    """Right: its own rows, and zeros."""
    return hits(words_of(mesh, E), ids).to(E.dtype) @ E


def on_its_own(mesh, ids, E):
    words = words_of(mesh, E)
    return (ids >= words[0]) & (ids <= words[-1])


EMBEDDING = {
    "mask left out": [
        lambda mesh, ids, E: mesh.all_reduce(E[torch.where(on_its_own(mesh, ids, E), ids - start_of(mesh, E), 0)]),
        lambda mesh, ids, E: mesh.all_reduce(E[(ids - start_of(mesh, E)) % torch.ones_like(E[:, 0]).long().sum()]),
        lambda mesh, ids, E: mesh.all_reduce(E[ids - start_of(mesh, E)]),
    ],
    "mask after the reduction": [
        lambda mesh, ids, E: (
            mesh.all_reduce(E[torch.where(on_its_own(mesh, ids, E), ids - start_of(mesh, E), 0)])
            * on_its_own(mesh, ids, E)[:, None]
        ),
        lambda mesh, ids, E: torch.where(on_its_own(mesh, ids, E)[:, None], mesh.all_reduce(rows(mesh, ids, E)), 0),
    ],
    "off by one": [
        lambda mesh, ids, E: mesh.all_reduce((ids[:, None] == words_of(mesh, E) + 1).to(E.dtype) @ E),
        lambda mesh, ids, E: mesh.all_reduce((ids > start_of(mesh, E))[:, None] * rows(mesh, ids, E)),
        lambda mesh, ids, E: mesh.all_reduce((ids < words_of(mesh, E)[-1])[:, None] * rows(mesh, ids, E)),
    ],
    "without the offset": [
        lambda mesh, ids, E: mesh.all_reduce(
            (ids[:, None] == words_of(mesh, E) - start_of(mesh, E)).to(E.dtype) @ E,
        ),
        lambda mesh, ids, E: mesh.all_reduce(
            E[torch.minimum(ids, torch.ones_like(E[:, 0]).long().sum() - 1)] * on_its_own(mesh, ids, E)[:, None]
        ),
    ],
    "pieces of one length": [
        lambda mesh, ids, E: (lambda per: mesh.all_reduce(E[ids % per] * (ids // per == mesh.rank)[:, None]))(
            torch.ones_like(E[:, 0]).long().sum()
        ),
        lambda mesh, ids, E: (lambda words, per: mesh.all_reduce(hits(words + mesh.rank * per, ids).to(E.dtype) @ E))(
            words_of(mesh, E) - start_of(mesh, E), torch.ones_like(E[:, 0]).long().sum()
        ),
    ],
    "embedding gathered": [
        lambda mesh, ids, E: F.embedding(ids, mesh.all_gather(E, dim=0)),
        lambda mesh, ids, E: mesh.all_gather(E, 0).index_select(0, ids),
    ],
    "gathered, then added": [
        lambda mesh, ids, E: mesh.all_gather(rows(mesh, ids, E).unsqueeze(0), 0).sum(dim=0),
    ],
    "no reduce": [rows],
    "a gather where a reduce belongs": [lambda mesh, ids, E: mesh.all_gather(rows(mesh, ids, E), dim=0)],
    "mean for sum": [lambda mesh, ids, E: mesh.all_reduce(rows(mesh, ids, E) / mesh.size)],
    "max for sum": [lambda mesh, ids, E: mesh.all_reduce(rows(mesh, ids, E), op="max")],
    "reducing twice": [lambda mesh, ids, E: mesh.all_reduce(embedding_by_where(mesh, ids, E))],
    "one shard's partial sum": [lambda mesh, ids, E: mesh.broadcast(rows(mesh, ids, E))],
    "only a slice of the sum": [lambda mesh, ids, E: mesh.reduce_scatter(rows(mesh, ids, E), dim=1)],
    "looked up on the wrong shard": [lambda mesh, ids, E: mesh.all_reduce(E[2 * ids])],
    "reduced again in backward": [(GRAD, lambda mesh, ids, E: mesh.copy(embedding_one_hot(mesh, ids, E)))],
    "copy of a cut tensor": [lambda mesh, ids, E: mesh.all_reduce(rows(mesh, ids, mesh.copy(E)))],
    "detached": [(GRAD, lambda mesh, ids, E: mesh.all_reduce(rows(mesh, ids, E.detach())))],
}


def top_of(mesh, logits):
    return mesh.all_reduce(logits.max(1).values, op="max")


def target_of(mesh, logits, targets):
    return mesh.all_reduce(torch.where(hits(words_of(mesh, logits, 1), targets), logits, 0.0).sum(1))


def total_of(mesh, logits, top):
    return mesh.all_reduce((logits - top.unsqueeze(1)).exp().sum(1))


def place_in(mesh, logits, targets):
    words = words_of(mesh, logits, 1)
    return (targets - words[0]).clamp(min=0).minimum(words[-1] - words[0])


def on_every_shard(mesh, logits, targets):
    return logits.gather(1, place_in(mesh, logits, targets).unsqueeze(1)).squeeze(1)


def of_losses(then):
    """An answer that ends in then(mesh, losses, logits), and is right up to there."""

    def answer(mesh, logits, targets):
        top = top_of(mesh, logits)
        return then(mesh, top + total_of(mesh, logits, top).log() - target_of(mesh, logits, targets), logits)

    return answer


def with_target(target):
    def answer(mesh, logits, targets):
        top = top_of(mesh, logits)
        return (top + total_of(mesh, logits, top).log() - target(mesh, logits, targets)).mean()

    return answer


def with_total(total):
    """An answer whose total(mesh, the shard's sum of exp) is to be the log of the sum over all the shards."""

    def answer(mesh, logits, targets):
        top = top_of(mesh, logits)
        return (top + total(mesh, (logits - top.unsqueeze(1)).exp().sum(1)) - target_of(mesh, logits, targets)).mean()

    return answer


def with_top(take, add):
    def answer(mesh, logits, targets):
        total = total_of(mesh, logits, take(mesh, logits))
        return (add(mesh, logits) + total.log() - target_of(mesh, logits, targets)).mean()

    return answer


def with_one_top(top):
    def answer(mesh, logits, targets):
        shift = top(mesh, logits)
        return (shift + total_of(mesh, logits, shift).log() - target_of(mesh, logits, targets)).mean()

    return answer


def own_top(mesh, logits):
    return logits.max(1).values


def sum_of_tops(mesh, logits):
    return mesh.all_reduce(logits.amax(1))


LOSS = {
    "local maximum": [
        with_top(own_top, own_top),
        with_top(own_top, top_of),
        lambda mesh, logits, targets: (
            lambda shifted: (
                mesh.all_reduce(shifted.exp().sum(1)).log()
                - mesh.all_reduce((hits(words_of(mesh, logits, 1), targets) * shifted).sum(1))
            ).mean()
        )(logits - logits.amax(1, keepdim=True)),
    ],
    "sum of maxima": [with_one_top(sum_of_tops)],
    "one shard's maximum": [
        with_one_top(lambda mesh, logits: mesh.broadcast(logits.amax(1))),
    ],
    "no maximum taken away": [
        lambda mesh, logits, targets: (
            mesh.all_reduce(logits.exp().sum(1)).log() - target_of(mesh, logits, targets)
        ).mean(),
    ],
    "one maximum for all tokens": [
        with_one_top(lambda mesh, logits: mesh.all_reduce(logits.max(), "max").expand(len(logits))),
    ],
    "maximum not added back": [with_top(top_of, lambda mesh, logits: 0)],
    "sum not reduced": [with_total(lambda mesh, sums: torch.log(sums))],
    "sum of logs": [with_total(lambda mesh, sums: mesh.all_reduce(torch.log(sums)))],
    "off by log n": [
        with_total(lambda mesh, sums: torch.log(mesh.all_reduce(sums) / mesh.size)),
        with_total(lambda mesh, sums: torch.log(mesh.size * mesh.all_reduce(sums))),
    ],
    "largest sum": [with_total(lambda mesh, sums: mesh.all_reduce(sums, op="max").log())],
    "softmax over the shard's part": [
        lambda mesh, logits, targets: (
            -mesh.all_reduce((hits(words_of(mesh, logits, 1), targets) * F.log_softmax(logits, 1)).sum(1)).mean()
        ),
        lambda mesh, logits, targets: (logits.logsumexp(1) - target_of(mesh, logits, targets)).mean(),
        lambda mesh, logits, targets: F.cross_entropy(logits, place_in(mesh, logits, targets)),
    ],
    "target's logit not reduced": [
        with_target(lambda mesh, logits, targets: (hits(words_of(mesh, logits, 1), targets) * logits).sum(1)),
    ],
    "target's logit taken on every shard": [
        with_target(lambda mesh, logits, targets: mesh.all_reduce(on_every_shard(mesh, logits, targets))),
        with_target(on_every_shard),
    ],
    "mask after the reduction": [
        with_target(
            lambda mesh, logits, targets: (
                mesh.all_reduce(on_every_shard(mesh, logits, targets)) * hits(words_of(mesh, logits, 1), targets).any(1)
            )
        ),
    ],
    "off by one": [
        with_target(
            lambda mesh, logits, targets: mesh.all_reduce(
                (hits(words_of(mesh, logits, 1) + 1, targets) * logits).sum(1)
            )
        ),
    ],
    "without the offset": [
        with_target(
            lambda mesh, logits, targets: mesh.all_reduce(
                (hits(words_of(mesh, logits, 1) - words_of(mesh, logits, 1)[0], targets) * logits).sum(1)
            )
        ),
    ],
    "pieces of one length": [
        with_target(
            lambda mesh, logits, targets: (
                lambda own: mesh.all_reduce(
                    (hits(own - own[0] + mesh.rank * (own[-1] - own[0] + 1), targets) * logits).sum(1)
                )
            )(words_of(mesh, logits, 1))
        ),
    ],
    "target's logit by a maximum": [
        with_target(
            lambda mesh, logits, targets: mesh.all_reduce(
                torch.where(hits(words_of(mesh, logits, 1), targets), logits, 0.0).sum(1), op="max"
            )
        ),
        (
            GRAD,
            with_target(
                lambda mesh, logits, targets: mesh.all_reduce(
                    logits.masked_fill(~hits(words_of(mesh, logits, 1), targets), -torch.inf).amax(1), op="max"
                )
            ),
        ),
    ],
    "logits gathered": [
        lambda mesh, logits, targets: F.cross_entropy(mesh.all_gather(logits, dim=-1), targets),
        lambda mesh, logits, targets: (
            lambda whole: (whole.logsumexp(1) - whole.gather(1, targets[:, None])[:, 0]).mean()
        )(mesh.all_gather(logits, dim=1)),
    ],
    "one-hot gathered": [
        with_target(
            lambda mesh, logits, targets: mesh.all_gather(hits(words_of(mesh, logits, 1), targets) * logits, dim=1).sum(
                1
            )
        ),
    ],
    "no mean": [of_losses(lambda mesh, losses, logits: losses)],
    "mean over the wrong number": [
        of_losses(lambda mesh, losses, logits: losses.sum()),
        of_losses(lambda mesh, losses, logits: losses.mean() / mesh.size),
    ],
    "n times too large": [of_losses(lambda mesh, losses, logits: mesh.all_reduce(losses.mean()))],
    "wrong sign": [of_losses(lambda mesh, losses, logits: -losses.mean())],
    "reduced again in backward": [(GRAD, of_losses(lambda mesh, losses, logits: mesh.copy(losses).mean()))],
    "copy of a cut tensor": [
        lambda mesh, logits, targets: loss_by_log_softmax(mesh, mesh.copy(logits), targets),
    ],
    "log of the sum used in parts": [(GRAD, loss_by_log_softmax)],
    "a part detached": [
        (GRAD, with_target(lambda mesh, logits, targets: target_of(mesh, logits.detach(), targets))),
        (GRAD, with_total(lambda mesh, sums: mesh.all_reduce(sums.detach()).log())),
    ],
    "detached": [(GRAD, lambda mesh, logits, targets: loss_in_two(mesh, logits.detach(), targets))],
}


def tied_by(embed, loss, between=lambda mesh, x: mesh.copy(x)):
    return lambda mesh, ids, E, targets: loss(mesh, between(mesh, embed(mesh, ids, E)) @ E.T, targets)


TIED = {
    "weights untied": [
        (
            GRAD,
            lambda mesh, ids, E, targets: loss_in_two(
                mesh, mesh.copy(embedding_one_hot(mesh, ids, E)) @ E.detach().T, targets
            ),
        ),
        (
            GRAD,
            lambda mesh, ids, E, targets: loss_in_two(
                mesh, mesh.copy(embedding_one_hot(mesh, ids, E.clone().detach())) @ E.T, targets
            ),
        ),
    ],
    "counted twice": [
        (GRAD, tied_by(embedding_one_hot, loss_in_two, lambda mesh, x: mesh.copy(mesh.copy(x)))),
    ],
    "missing backward all-reduce": [(GRAD, tied_by(embedding_one_hot, loss_in_two, lambda mesh, x: x))],
    "mask left out": [tied_by(EMBEDDING["mask left out"][0], loss_in_two)],
    "embedding gathered": [tied_by(EMBEDDING["embedding gathered"][0], loss_in_two)],
    "no reduce": [tied_by(rows, loss_by_log_softmax)],
    "logits gathered": [tied_by(embedding_one_hot, LOSS["logits gathered"][0])],
    "off by log n": [tied_by(embedding_one_hot, LOSS["off by log n"][0])],
    "local maximum": [tied_by(embedding_by_where, LOSS["local maximum"][0])],
}
WRONG = {"embedding": EMBEDDING, "cross_entropy": LOSS, "tied": TIED}
