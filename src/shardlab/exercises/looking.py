"""What a check looks at, step by step: did the answer give a result, is it right, does it come of each shard's own
pieces, by the road that is wanted, and are the gradients right? Each step returns a `Finding`, or None."""

from dataclasses import dataclass

import torch

from shardlab.exercises.alone import differs_alone
from shardlab.exercises.misfits import misfit
from shardlab.exercises.numbers import close, rounded, worst
from shardlab.exercises.placing import cut
from shardlab.exercises.world import world

FORM, VALUES, OWN, ROAD, GRADIENTS = range(5)


@dataclass
class Finding:
    """The first step at which an answer fails in one case, what is known of it, and the numbers."""

    step: int
    mistake: str | None
    message: str
    otherwise: tuple | None = None  # (mistake, why) where nothing known does the same
    result: int = 0  # the number of the result that is wrong


def look_at_form(case, seen):
    if not seen.trouble:
        return None
    mistake, message = seen.trouble
    if mistake != "an error":
        return Finding(FORM, mistake, message)
    name, hint = misfit(message, case) or (mistake, "")
    return Finding(FORM, name, f"{hint}On {seen.where or shards(case.n)} it ends in {message}")


def look_at_values(case, seen, wanted):
    """`wanted` are the right `Seen.values`."""
    for index, (value, y) in enumerate(zip(seen.values, wanted, strict=True)):
        name, number, rank = case.which(index)
        if found := look_at_value(f"On {shards(case.n)}, shard {rank} of {name}", value, y):
            return Finding(VALUES, *found, result=number)
    return None


def look_at_value(where, value, y):
    if value.shape != y.shape:
        return "wrong shape", f"{where} is {list(value.shape)}, not {list(y.shape)}."
    if value.dtype != y.dtype:
        return "wrong dtype", f"{where} is {value.dtype}, and {y.dtype} went in."
    if not value.isfinite().all():
        return "not a number", f"{where} holds nan or inf."
    if close(value, y):
        return None
    if rounded(value, y):
        short = f"{where} is right but for its last digits, as after a dtype shorter than"
        return "rounded on the way", f"{short} {y.dtype} on the way: it {worst(value, y)}."
    return None, f"{where} {worst(value, y)}."


def look_at_own(case, seen, answer):
    """In one process: does each shard come of its own pieces? (Over ranks there is nothing else to be had; and a
    backward within the answer, with its collectives, one shard alone cannot run.)"""
    within = any(call.phase == "backward" for call in seen.forward)
    different = None if world() or case.n == 1 or within else differs_alone(answer, case, seen)
    if not different:
        return None
    return Finding(
        OWN,
        "reads other shards",
        f"On {shards(case.n)} the values are right, but only since all shards are in one process here. Under torchrun "
        f"each rank holds its own shard alone, and so tried, {different}. Compute on the Shards themselves, as in "
        "X @ W; or on what is here alone, as in zip(X.shards, W.shards): mesh.ranks says which shards that are.",
    )


def look_at_road(case, seen, wanted, exact_bytes, products=True):
    """A right value, and how it came about: what was communicated, multiplied and placed."""
    if case.n == 1:
        return None
    where = f"On {shards(case.n)} the values are right"
    recorded = f"the record shows {told(seen.forward)} where {told(wanted.forward)} will do"
    if products and seen.flops > 1.5 * wanted.flops:
        work = f"products take {seen.flops:,} operations where {wanted.flops:,} will do, and {recorded}"
        return Finding(ROAD, "the baseline in disguise", f"{where}, but {work}.")
    if wanted.forward and not seen.forward:
        name = "the baseline in disguise" if seen.flops else "no communication"
        message = f"{where}, but {recorded}: every shard works out the whole result by itself"
        return Finding(ROAD, name, f"{message}.")
    if wanted.placed and seen.placed > 1.5 * wanted.placed:
        return Finding(
            ROAD,
            "W whole on every shard",
            f"{where}, but {seen.placed:,} numbers were placed where {wanted.placed:,} do: every shard holds "
            f"all of W, and splitting it saves no memory.",
        )
    sent, least = wire(seen.forward, case.n), wire(wanted.forward, case.n)
    if sent > least * (1 + 1e-9):
        return Finding(ROAD, "extra communication", f"{where}, but {recorded}.")
    if exact_bytes and sent < least * (1 - 1e-9):
        fewer = f"only {told(seen.forward)}, and with n shards of one width it is {told(wanted.forward)}"
        return Finding(ROAD, "not padded", f"{where}, but the record shows {fewer}.")
    return None


def look_at_gradients(case, seen, wanted, grads):
    where = f"On {shards(case.n)} the result is right"
    for arg, grad in grads.items():
        got = seen.grads[arg]
        pieces = cut(grad, case.placing[arg], case.n)
        if case.placing[arg] == "plain":
            got, padding = of_plain(case, arg, got)
            pieces = [grad] * len(got)
        if not got or any(piece is None for piece in got):
            return Finding(
                GRADIENTS,
                "detached",
                f"{where}, but backward leaves no gradient in {arg}: the result is cut off from it.",
            )
        for rank, (piece, want) in enumerate(zip(got, pieces, strict=True)):
            if not close(piece, want):
                numbers = f"the gradient of {arg} on shard {rank} {worst(piece, want)}"
                return Finding(GRADIENTS, None, f"{where}, but {numbers}.", factor(arg, piece, want, case.n))
        if case.placing[arg] == "plain" and (finding := look_at_padding(where, *padding)):
            return finding
    sent, least = wire(seen.backward, case.n), wire(wanted.backward, case.n)
    ours, theirs = ([call.name for call in each.forward] for each in (seen, wanted))
    if "reduce_scatter" in ours and "reduce_scatter" not in theirs:
        least += wire(wanted.forward, case.n)  # an all-reduce in its two steps also goes back in two
    if case.n > 1 and sent > least * (1 + 1e-9):
        recorded = f"the record of backward shows {told(seen.backward)} where {told(wanted.backward)} will do"
        return Finding(GRADIENTS, "extra communication", f"{where}, and so is every gradient, but {recorded}.")
    return None


def factor(arg, got, want, n):
    """A gradient that is a multiple of the right one, as (mistake, why); None for any other."""
    if not got.isfinite().all():
        return (
            "not a number",
            f"The gradient of {arg} holds nan or inf, as if the padding did.",
        )
    k = round(((got * want).sum() / (want * want).sum()).item(), 9)
    if not close(got, k * want):
        return None
    return "gradient off by a factor", f"The gradient of {arg} is {k:.3g} times what it should be, on {shards(n)}."


def look_at_padding(where, value, grad):
    if value != 0:  # nan, too
        message = f"the padding holds values up to {value:.3g}: pad with zeros, so that it can add nothing to any sum"
        return Finding(GRADIENTS, "padding is not zero", f"{where}, but {message}.")
    if grad > 0:
        message = f"the padding has a gradient of up to {grad:.3g}: an optimizer would move it away from zero"
        return Finding(GRADIENTS, "padding gets a gradient", f"{where}, but {message}.")
    return None


def of_plain(case, arg, leaves):
    """The gradients of a plain argument, and its padding, from the leaves that an answer made: see `columns`."""
    others = [W for name, W in case.tensors.items() if case.placing[name] == "plain" and name != arg]
    return columns(case.tensors[arg], leaves, others)


def columns(W, leaves, others=()):
    """The gradient of W from the leaves that an answer made: W's columns are known by their values, whether they lie in
    a leaf as in W, as rows, or head by head.

    Returns a gradient of W for each time that all of W was placed, and (largest value, largest gradient) of the
    columns beyond: padding, where they are not of `others`, weights that were plain, too.
    """
    found, beyond = [[] for _ in range(W.shape[1])], []
    for leaf, leaf_grad in leaves:
        leaf, leaf_grad = max(
            readings(W, leaf, leaf_grad), key=lambda pair: sum(hits(V, pair[0]) for V in (W, *others))
        )
        for column, column_grad in zip(leaf.T, leaf_grad.T, strict=True):
            places = (column[:, None] == W).all(0).nonzero()
            if len(places):
                found[places[0].item()].append((column, column_grad))
            elif not any(hits(other, column[:, None]) for other in others):
                beyond.append((column, column_grad))
    copies = min(map(len, found))
    beyond += [each for column in found for each in column[copies:]]
    grads = [torch.stack([column[copy][1] for column in found], 1) for copy in range(copies)]
    return grads, [torch.cat([torch.zeros(1), *[each[i] for each in beyond]]).abs().max().item() for i in range(2)]


def readings(W, leaf, grad):
    """A leaf and its gradient as [len(W), …], along each of its dims that is as long."""
    for dim, size in enumerate(leaf.shape):
        if size == len(W):
            yield tuple(each.movedim(dim, 0).flatten(1) for each in (leaf, grad))


def hits(W, leaf):
    """How many columns of a leaf are columns of W."""
    return (leaf.T[:, :, None] == W).all(1).any(1).sum().item() if len(W) == len(leaf) else 0


def wire(traffic, n):
    """The bytes that each shard sends."""
    return sum(call.wire for call in traffic if not is_of_lengths(call, n))


def is_of_lengths(call, n):
    """Whether this tells how long the shards' pieces are, in a whole number a shard at most: that is free."""
    return not call.dtype.is_floating_point and call.payload <= n * call.dtype.itemsize


def told(traffic):
    """Collectives in words: 'all_gather (96 bytes), all_reduce (96 bytes)'."""
    return ", ".join(f"{call.name} ({call.payload:,} bytes)" for call in traffic) or "no communication"


def shards(n):
    return f"{n} shard{'s' if n > 1 else ''}"
