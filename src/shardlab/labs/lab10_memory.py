"""Lab 10: what a model takes on each of some devices, and whether it fits: arithmetic of `shardlab.cost` alone."""

import os
from dataclasses import dataclass

import torch

from shardlab.cost import (
    DEVICES,
    GPTS,
    MODELS,
    activation_bytes,
    gated_activation_bytes,
    gpt_parameters,
    kv_bytes,
    parameters,
)
from shardlab.labs.lab import HTML, Lab, menu, said, slider, steps, switch
from shardlab.pictures.bars import Part, amount, bars

SIZES = {**GPTS, **{name: model for name, model in MODELS.items() if not model.experts}}
HERE = "this machine"
USES = {  # bytes of a parameter, of its gradient, of what the optimizer has of it, and of a value on its way
    "training, mixed": (2, 2, 12, 2),
    "training, fp32": (4, 4, 8, 4),
    "serving, bf16": (2, 0, 0, 2),
}
LETTERS = {"parameters": "P", "gradients": "G", "optimizer": "O", "activations": "A", "KV cache": "C"}
TS = [1, 2, 4, 8]
RECOMPUTE = [("nothing", "none"), ("attention", "selective"), ("whole layers", "full")]
SEQUENCE = [("whole", False), ("cut", True)]


@dataclass
class Memory:
    """What each device holds, by part in bytes; `limit` is what it has room for, `least` the fewest of 1, 2, 4, …
    devices on which the model fits (None: on none, whose number divides its heads), `divides` whether t does."""

    parts: dict
    limit: float
    least: int | None
    divides: bool


def memory_result(
    model="22B",
    card="H100 SXM",
    shards=2,
    tokens=2048,
    batch=1,
    use="training, mixed",
    sequence=False,
    recompute="none",
):
    """The bytes of each part on each device, tensor parallel: parameters, gradients, the optimizer's state, what
    backward needs of the layers and the logits, or in serving the KV cache."""
    size, how = SIZES[model], (tokens, batch, use, sequence, recompute)
    fitting = (n for n in powers(size.heads) if sum(parts_of(size, n, *how).values()) <= room(card, n))
    return Memory(parts_of(size, shards, *how), room(card, shards), next(fitting, None), size.heads % shards == 0)


def powers(heads):
    """The powers of two that divide a number of heads: 1, 2, 4, …"""
    return [2**k for k in range(heads.bit_length()) if heads % 2**k == 0]


def parts_of(size, t, s, b, use, cut, again):
    """The parts in bytes, on one of t devices. A 32-bit number is 4 bytes in the optimizer's copy and in the logits."""
    parameter, gradient, optimizer, value = USES[use]
    own = count(size) / t
    parts = {"parameters": own * parameter, "gradients": own * gradient, "optimizer": own * optimizer}
    if gradient:
        kept = size.layers * layer_bytes(size, s, b, t, cut, again, value)
        return parts | {"activations": kept + 4 * s * b * size.vocab / t}
    return parts | {"KV cache": b * cache(size, s, value) / min(t, kv_heads(size))}


def count(size):
    """Parameters; of the old models by the formula of their papers."""
    return gpt_parameters(size.h, size.layers, size.vocab, size.s) if size.name in GPTS else parameters(size)


def layer_bytes(size, s, b, t, cut, again, value):
    again = None if again == "none" else again  # a menu has no None
    if size.name in GPTS:
        return activation_bytes(s, b, size.h, size.heads, t, cut, again, value)
    return gated_activation_bytes(size, s, b, t, cut, again, value)


def kv_heads(size):
    return size.heads if size.name in GPTS else size.kv_heads


def cache(size, s, value):
    return 2 * size.layers * size.h * s * value if size.name in GPTS else kv_bytes(size, s, value)


def room(card, t):
    """Bytes that one of t shards has on a card; on this machine, where several may share a device, its part of one."""
    if card != HERE:
        return DEVICES[card].memory_GB * 1e9
    devices, total = here()
    return total / -(-t // devices)


def here():
    """The devices of this machine and the bytes of the smallest: of its GPUs, or its RAM where there is none."""
    n = torch.cuda.device_count()
    if n:
        return n, min(torch.cuda.get_device_properties(index).total_memory for index in range(n))
    return 1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def draw_memory(model, card, shards, tokens, batch, use, sequence, recompute):
    """The picture of a state of this lab, as HTML."""
    ran, size = memory_result(model, card, shards, tokens, batch, use, sequence, recompute), SIZES[model]
    words = {"parameters": f"1/{shards} of {amount(count(size) * USES[use][0] / 1e9)}" if shards > 1 else ""}
    if "activations" in ran.parts:
        words["activations"] = alike(size, shards, tokens, batch, use, sequence, recompute)
    parts = [Part(LETTERS[name], name, held / 1e9, words.get(name, "")) for name, held in ran.parts.items() if held]
    total, limit = sum(part.amount for part in parts), ran.limit / 1e9
    told = f"{model} on {shards} devices, {card}: " + ", ".join(
        f"{part.name} {amount(part.amount)} GB" for part in parts
    )
    alt = f"{told}; {amount(total)} GB on each, which holds {amount(limit)} GB."
    return verdict(ran, total, shards, size) + bars(parts, shards, TS[-1], limit, "GB", alt) + shared(card, shards)


def alike(size, t, s, b, use, cut, again):
    """How much of the activations every device has whole: what is left of them when t is beyond all bounds."""
    whole = 0 if cut else size.layers * layer_bytes(size, s, b, 2**40, cut, again, USES[use][3]) / 1e9
    return f"{amount(whole)} of it on every device alike" if whole and t > 1 else ""


def verdict(ran, total, t, size):
    least = (
        f"It fits from {ran.least} shard{'s' * (ran.least > 1)} on."
        if ran.least
        else "It fits on no power of two that divides its heads."
    )
    if not ran.divides:
        return said(False, f"{t} does not divide {size.heads} heads.", least)
    has = f"{amount(total)} GB on each device, and each holds {amount(ran.limit / 1e9)}."
    return (
        said(True, "It fits.", has) if total * 1e9 <= ran.limit else said(False, "It does not fit.", f"{has} {least}")
    )


def shared(card, t):
    """Of this machine, in words: which memory is meant."""
    if card != HERE:
        return ""
    devices, total = here()
    kind = f"{devices} GPU{'s' * (devices > 1)}" if torch.cuda.device_count() else "no GPU, and its RAM"
    each = f"{-(-t // devices)} of {t} shards share" if t > devices else "each shard has"
    return said(None, "This machine:", f"it has {kind}; {each} {amount(total / 1e9)} GB.")


def memory_picture(
    model="22B",
    card="H100 SXM",
    shards=2,
    tokens=2048,
    batch=1,
    use="training, mixed",
    sequence=False,
    recompute="none",
):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_memory(model, card, shards, tokens, batch, use, sequence, recompute))


def memory(
    model="22B",
    card="H100 SXM",
    shards=2,
    tokens=2048,
    batch=1,
    use="training, mixed",
    sequence=False,
    recompute="none",
):
    """The lab of lesson 10: what a model takes on each device, and whether it fits there."""
    controls = {
        "model": menu("model", model, list(SIZES), "whose sizes: the papers' GPTs, or one of today"),
        "card": menu("device", card, [*DEVICES, HERE], "whose memory"),
        "shards": steps("shards", shards, TS, "how many devices the model is cut over"),
        "tokens": steps("tokens", tokens, [1024 * 2**k for k in range(8)], "how long a sequence is"),
        "batch": slider("batch", batch, 1, 16, "how many sequences each step has"),
        "use": menu("for", use, list(USES), "training or serving, and in which precision"),
        "sequence": switch("sequence", sequence, SEQUENCE, "whether norms and dropouts have all of it or a piece"),
        "recompute": menu("recompute", recompute, RECOMPUTE, "what backward computes again, and need not be kept"),
    }
    return Lab(controls, draw_memory)
