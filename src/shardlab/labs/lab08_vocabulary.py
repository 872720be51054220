"""Lab 08: the loss of logits that are cut along the vocabulary, by three numbers a token, or by gathering them."""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from shardlab import Mesh
from shardlab.labs.lab import HTML, Lab, said, slider, steps, switch
from shardlab.pictures.vocabulary import Token
from shardlab.pictures.vocabulary import vocabulary as drawing
from shardlab.record import Traffic

WAYS = [("three numbers", "reduce"), ("all logits", "gather")]
NAMES = {"reduce": "three all-reduces", "gather": "one all-gather"}


@dataclass
class Vocabulary:
    """What a loss took: how many words each shard has, what each token's loss is made of, and what either way moved."""

    sizes: list
    tokens: list
    loss: dict  # by each way
    wanted: float
    traffic: dict[str, Traffic]

    @property
    def sent(self):
        """The bytes that a shard sends on a ring, by each way."""
        return {way: sum(call.wire for call in traffic) for way, traffic in self.traffic.items()}


def vocabulary_data(V, tokens):
    """Logits [tokens, V] and the target of each token, from a seed of their own.

    >>> logits, targets = vocabulary_data(20, 3)
    >>> logits.shape, targets.shape
    (torch.Size([3, 20]), torch.Size([3]))
    """
    random = torch.Generator().manual_seed(42)
    return 2 * torch.randn(tokens, V, generator=random), torch.randint(V, (tokens,), generator=random)


def vocabulary_result(V=24, shards=4, tokens=4):
    """The mean loss of some tokens over a vocabulary of V words, by both ways on a real mesh, and in one piece."""
    mesh, (logits, targets) = Mesh(shards), vocabulary_data(V, tokens)
    logits_, targets_ = mesh.shard(logits, dim=1), mesh.replicate(targets)
    with mesh.record() as gathered:
        whole_ = cross_entropy(mesh.all_gather(logits_, dim=1), targets_)
    words_ = mesh.shard(torch.arange(V), dim=0)
    with mesh.record() as reduced:
        top_ = mesh.all_reduce(logits_.amax(1), op="max")
        sum_ = mesh.all_reduce((logits_ - top_[:, None]).exp().sum(1))
        target_ = mesh.all_reduce(torch.where(targets_[:, None] == words_, logits_, 0.0).sum(1))
        loss_ = (top_ + sum_.log() - target_).mean()
    numbers = zip(*(x_.shards[0].tolist() for x_ in (top_, sum_, target_)), strict=True)
    rows = zip(logits.argmax(1).tolist(), targets.tolist(), numbers, strict=True)
    loss = {"reduce": loss_.shards[0].item(), "gather": whole_.shards[0].item()}
    sizes = [piece.shape[1] for piece in logits_.shards]
    wanted = cross_entropy(logits, targets).item()
    return Vocabulary(sizes, [Token(*row) for row in rows], loss, wanted, {"reduce": reduced, "gather": gathered})


def draw_vocabulary(V, shards, tokens, way):
    """The picture of a state of this lab, as HTML."""
    ran = vocabulary_result(V, shards, tokens)
    sent = {NAMES[each]: ran.sent[each] for each in NAMES}
    targets = ", ".join(str(token.target) for token in ran.tokens)
    bytes_ = " and ".join(f"{bytes_:,.0f} bytes by {name}" for name, bytes_ in sent.items())
    alt = (
        f"The logits of {tokens} tokens over {V} words, cut over {shards} shards, at most {max(ran.sizes)} words each. "
        f"The targets are words {targets}. Each shard sends {bytes_}."
    )
    return verdict(ran, way) + moved(ran, way) + drawing(ran.sizes, ran.tokens, sent, NAMES[way], alt)


def verdict(ran, way):
    right = abs(ran.loss[way] - ran.wanted) < 1e-5 * (1 + abs(ran.wanted))
    return said(
        right, "Match." if right else "Mismatch.", f"The mean loss is {ran.loss[way]:.4f}; unsplit, {ran.wanted:.4f}."
    )


def moved(ran, way):
    calls = ran.traffic[way]
    each = f"{len(ran.tokens)} tokens, {sum(ran.sizes)} words"
    if way == "gather":
        return said(None, "One all_gather", f"of every logit, {calls.payload:,} bytes: {each}.")
    return said(None, f"{len(calls)} all_reduces", f"of one number a token, {calls[0].payload:,} bytes each: {each}.")


def vocabulary_picture(V=24, shards=4, tokens=4, way="reduce"):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_vocabulary(V, shards, tokens, way))


def vocabulary(V=24, shards=4, tokens=4, way="reduce"):
    """The lab of lesson 08: how many words, over how many shards, and what is moved for the loss of some tokens."""
    controls = {
        "V": steps("words", V, [10, 16, 24, 37, 64, 100], "how long the vocabulary is, V"),
        "shards": slider("shards", shards, 1, 8, "over how many shards the words are cut"),
        "tokens": slider("tokens", tokens, 1, 8, "for how many tokens the loss is taken"),
        "way": switch("move", way, WAYS, "three numbers a token, or all its logits"),
    }
    return Lab(controls, draw_vocabulary)
