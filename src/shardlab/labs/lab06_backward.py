"""Lab 06: an MLP forward and backward, step by step, with f and g or without."""

from dataclasses import dataclass
from functools import cache

import torch
from torch.nn.functional import gelu

from shardlab import Mesh
from shardlab.compare import kind
from shardlab.labs.lab import HTML, Lab, said, slider, switch
from shardlab.pictures.there_and_back import Operation, Value, there_and_back

ROWS, WIDTH, HIDDEN = 8, 16, 24
NAMES = ["X", "x", "h", "a", "p", "y"]
IS_TO_BE = {"X": "replicated", "x": "replicated", "h": "cut along dim 1", "a": "cut along dim 1", "p": "partial"}
IS_TO_BE |= {"y": "replicated", "dX": "replicated", "dx": "partial", "dh": "cut along dim 1", "da": "cut along dim 1"}
IS_TO_BE |= {"dp": "replicated", "dy": "replicated", "dW1": "cut along dim 1", "dW2": "cut along dim 0"}
F = [("f", "f"), ("left out", "none")]
G = [("g", "g"), ("left out", "none"), ("both ways", "both")]
LAST = 11  # the step at which the gradient of X is there


@dataclass
class Passage:
    """What became of each value and gradient: its `kinds`, measured, its relative error as what it is to be (`off`),
    and the collectives that ran, forward and backward."""

    kinds: dict
    off: dict
    forward: list
    backward: list

    @property
    def wrong(self):
        """The names of what is further off than rounding."""
        return [name for name, off in self.off.items() if off >= 1e-4]


@cache
def backward_data():
    """X [8, 16], W1 [16, 24], W2 [24, 16] and the gradient of y, from a seed of their own."""
    random = torch.Generator().manual_seed(42)
    shapes = [(ROWS, WIDTH), (WIDTH, HIDDEN), (HIDDEN, WIDTH), (ROWS, WIDTH)]
    return [torch.randn(shape, generator=random) / shape[0] ** 0.5 for shape in shapes]


@cache
def backward_result(shards=2, f="f", g="g"):
    """gelu(X @ W1) @ W2 there and back, over a real mesh, each value and gradient held against that of plain torch.

    `f` is "f" (`mesh.copy`) or "none"; `g` is "g" (`mesh.all_reduce`), "none", or "both": an all-reduce whose backward
    is another one, as that of torch.distributed.nn is.
    """
    mesh = Mesh(shards)
    X, W1, W2 = (tensor.clone().requires_grad_() for tensor in backward_data()[:3])
    dy = backward_data()[3]
    dense = layer(X, W1, W2, lambda x: x.clone(), lambda p: p.clone())
    dense[-1].backward(dy)
    placed = mesh.replicate(X), mesh.shard(W1, dim=1), mesh.shard(W2, dim=0)
    enter = mesh.copy if f == "f" else lambda x_: x_.clone()
    leave = {"g": mesh.all_reduce, "none": lambda p_: p_.clone(), "both": lambda p_: mesh.copy(mesh.all_reduce(p_))}[g]
    with mesh.record() as traffic:
        split = layer(*placed, enter, leave)
        split[-1].backward(mesh.replicate(dy))
    pairs = dict(zip(NAMES, zip(split, dense, strict=True), strict=True))
    pairs |= {f"d{name}": (x_.grad, x.grad) for name, (x_, x) in pairs.items()}
    pairs |= {"dW1": (placed[1].grad, W1.grad), "dW2": (placed[2].grad, W2.grad)}
    found = {name: kind(*pair) for name, pair in pairs.items()}
    off = {name: found[name].off.get(wanted, torch.inf) for name, wanted in IS_TO_BE.items()}
    calls = {phase: [call for call in traffic if call.phase == phase] for phase in ("forward", "backward")}
    return Passage({name: each.name for name, each in found.items()}, off, **calls)


def layer(X, W1, W2, enter, leave):
    """The values of an MLP on their way, [X, x, h, a, p, y], each of which keeps its gradient."""
    values = [X, enter(X)]
    for step in (lambda x: x @ W1, gelu, lambda a: a @ W2, leave):
        values.append(step(values[-1]))
    for value in values[1:]:
        value.retain_grad()
    return values


def draw_backward(step, shards, f, g):
    """The picture of a state of this lab, as HTML."""
    ran = backward_result(shards, f, g)
    values, grads = ([value(ran, before + name, shards) for name in NAMES] for before in ("", "d"))
    weights = {1: value(ran, "dW1", shards), 3: value(ran, "dW2", shards)}
    drawn = there_and_back(values, operations(ran, f, g), grads, weights, step, told(ran, step, shards))
    return drawn + spoken(ran, step, f, g)


def value(ran, name, shards):
    off, cut = ran.off[name], ran.kinds[name].startswith("cut")
    share = tuple(1 / shards if cut else 1.0 for _ in range(shards))
    return Value(name, ran.kinds[name], "" if off < 1e-4 else f"{100 * off:.0f} %" if off < 100 else "shape", share)


def operations(ran, f, g):
    """What stands between the values, with the bytes that the record has of it."""
    there = [f"{call.name}, {call.payload:,} bytes" for call in ran.forward] or ["nothing moves"]
    back = [f"{call.name}, {call.payload:,} bytes" for call in ran.backward]
    g_back, f_back = (back.pop(0) if g == "both" and back else "nothing moves"), (back or ["nothing moves"])[0]
    return [
        Operation("f", "f", "nothing moves", f_back, "left out" if f == "none" else ""),
        Operation("@ W1", "@ W1ᵀ"),
        Operation("gelu", "gelu′"),
        Operation("@ W2", "@ W2ᵀ"),
        Operation("g", "g", there[0], g_back, {"g": "", "none": "left out", "both": "no twins"}[g]),
    ]


STEPS = [
    "X, the input: every shard has all of it.",
    "f, forward: every shard takes X as it is. Nothing moves.",
    "Each shard has its own columns of W1, and makes its own columns of h.",
    "gelu looks at one number at a time, so each shard can do its own.",
    "The rows of W2 that a shard has meet its columns of a: a partial sum of all of y.",
    "g, forward: the partial sums are added, and every shard has y.",
    "dy, the gradient of y, is there: the same on every shard, as y and all that follows it are.",
    "g, backward: the identity. y = p0 + p1 + …, so each of them has the gradient of the sum. Nothing moves.",
    "Through @ W2: each shard has dW2 for its own rows, and da for its own columns, whole.",
    "Through gelu: number by number, as forward.",
    "Through @ W1: dW1 for each shard's own columns. But x went into all columns, and each shard goes back through its "
    "own alone: dx is a partial sum.",
    "f, backward: the parts of the gradient are added, by an all-reduce, and every shard has all of dX.",
]
INSTEAD = {
    ("f", 1): "f is left out. Forward, nothing changes: f does nothing there.",
    ("f", 11): "f is left out. Each shard keeps its own part, and takes it for the gradient of X.",
    ("g", 5): "g is left out. Each shard takes its partial sum for y.",
    ("g", 7): "g is left out. Backward, nothing changes: g does nothing there.",
    (
        "both",
        7,
    ): "An all-reduce back: it adds the n equal gradients of n shards. From here on all are n times too large.",
}


def spoken(ran, step, f, g):
    """Under the picture: what this step does, and what is wrong so far."""
    names = seen(step)
    wrong = [name for name in names if name in ran.wrong]
    missing = [("f", step)] * (f == "none") + [({"none": "g", "both": "both"}.get(g, ""), step)]
    here = next((INSTEAD[key] for key in missing if key in INSTEAD), STEPS[step])
    if not wrong:
        return said(None, f"Step {step}.", here) + said(True, "Right so far.", "Every error is mere rounding.")
    first = wrong[0]
    what = f"{first} is {ran.kinds[first]}, and it is to be {IS_TO_BE[first]}."
    more = f" Wrong with it: {', '.join(wrong[1:])}." if wrong[1:] else ""
    return said(None, f"Step {step}.", here) + said(False, f"{first} is wrong.", what + more)


def seen(step):
    """The names of what is there after so many steps, in their order."""
    back = [["dy"], ["dp"], ["dW2", "da"], ["dh"], ["dW1", "dx"], ["dX"]]
    return NAMES[: step + 1] + [name for names in back[: max(step - 5, 0)] for name in names]


def told(ran, step, shards):
    """The picture in words."""
    listed = "; ".join(f"{name} is {ran.kinds[name]}" + (", wrong" if name in ran.wrong else "") for name in seen(step))
    return f"An MLP over {shards} shard{'s'[: shards - 1]}, there and back, step {step} of {LAST}: {listed}."


def backward_picture(step=LAST, shards=2, f="f", g="g"):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_backward(step, shards, f, g))


def backward(step=LAST, shards=2, f="f", g="g"):
    """The lab of lesson 06: step through a layer and back again, and leave out f or g."""
    controls = {
        "step": slider("step", step, 0, LAST, "how far along the way, forward and back again"),
        "shards": slider("shards", shards, 1, 4, "how many shards the weights are cut into"),
        "f": switch("f", f, F, "what X passes before the first product"),
        "g": switch("g", g, G, "what the partial sums pass after the second product"),
    }
    return Lab(controls, draw_backward)
