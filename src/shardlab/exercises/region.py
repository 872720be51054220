"""Lesson 13: Megatron-LM's g, written with torch.distributed alone: forward all-reduce, backward the identity."""

import contextlib
import warnings

import torch

from shardlab.exercises.clues import how_often
from shardlab.exercises.exercise import Mistake, Wrong
from shardlab.exercises.numbers import close, rounded, worst
from shardlab.exercises.real_ranks import Collectives, OnRanks, normal, told
from shardlab.exercises.traces import Heard
from shardlab.exercises.verdict import UNSOLVED
from shardlab.exercises.world import world

SHAPES = [(3, 4, 5), (2, 6, 3)]  # rows of X, columns of each rank's X, columns of W


class ReduceFromRegion(OnRanks):
    """The answer gets a partial sum X_r W_r, in a process of its own; values, gradients and calls are looked at."""

    takes = ("partial",)
    mistakes = [
        Mistake(
            "input overwritten",
            "dist.all_reduce works in place, so that `partial` itself is now the sum, and whoever still needs the "
            "partial sum has lost it: clone it first.",
        ),
        Mistake("no reduction", "Each rank returns its own partial sum, and nobody has added them up."),
        Mistake("mean for sum", "This is the mean over the ranks; the partial sums are to be added."),
        Mistake("max for sum", "This is the maximum over the ranks; the partial sums are to be added."),
        Mistake("product for sum", "This is the product over the ranks; the partial sums are to be added."),
        Mistake("reducing twice", "The sum is over the ranks once more, and so n times too large."),
        Mistake(
            "a gather where a reduce belongs",
            "The partial sums are put side by side; each has the full size already, and they are to be added.",
        ),
        Mistake("rounded on the way", "The sum is right but for its last digits, as after a dtype with fewer of them."),
        Mistake("one rank alone has the sum", "Every rank goes on with the sum, so every rank needs it."),
        Mistake("other collectives", "The sum is right, but one all_reduce gives it."),
        Mistake(
            "no gradient",
            "The sum is right, but it is cut off from `partial`, so nothing behind it would be trained: "
            "a torch.autograd.Function says what backward does.",
        ),
        Mistake(
            "backward returns nothing",
            "The sum is right, but the backward of your autograd function gives back None, or zeros: it is to return "
            "the gradient that it gets.",
        ),
        Mistake(
            "backward by accident",
            "Sum and gradient are right today, but autograd does not know all_reduce and passes it by, and torch "
            "warns that this may change: a torch.autograd.Function says that backward is the identity.",
        ),
        Mistake(
            "gradient n times too large",
            "The sum is right, but backward reduces again: all ranks hold the same gradient already, and adding n "
            "of them makes it n times too large. It is what the all_reduce of torch.distributed.nn.functional "
            "does. Here backward is the identity.",
        ),
        Mistake(
            "gradient n times too small",
            "The sum is right, but backward divides by n: each rank wants the gradient as it arrives.",
        ),
        Mistake(
            "backward is not the identity",
            "The sum is right, but its backward makes something else of the gradient that it gets: it is to return it.",
        ),
        Mistake(
            "communication in backward",
            "Sum and gradient are right, but every rank holds the gradient already: backward need move nothing.",
        ),
    ]

    def __init__(self):
        super().__init__(
            "reduce_from_region",
            "The sum of `partial` over all ranks, with torch.distributed alone; backward hands the gradient on as it "
            "is (Megatron-LM's g).",
            given=["partial: a plain tensor, this rank's partial sum, in a process of its own; it requires grad"],
            wanted="the sum over the ranks, a new tensor on every rank: forward one all_reduce, backward the identity",
        )

    def inspect(self, answer=None):
        self.callable(answer)
        n, random = world() or 2, normal()
        cases = []
        for B, K, N in SHAPES:
            cases.append(([random(B, K) for _ in range(n)], [random(K, N) for _ in range(n)], random(B, N)))
        ranks = self.try_on_ranks(trial, answer, cases)
        if any(seen["trouble"] == UNSOLVED for rank in ranks for seen in rank):
            raise self.unsolved(answer)
        rows = [(case, [rank[index] for rank in ranks]) for index, case in enumerate(cases)]
        for look in (look_at_form, look_at_value, look_at_calls, look_at_gradients):
            for case, seen in rows:
                if found := look(n, case, seen):
                    name, numbers = found
                    why = next((f"{mistake.why} " for mistake in self.mistakes if mistake.name == name), "")
                    raise Wrong(name, why + numbers)
        return f"Right on {n} ranks: the sum, one all_reduce forward, and every gradient, nothing moved backward."


def trial(mesh, answer, cases):
    """In a rank: what the answer does in each case, with this rank's partial sum and before this rank's gradient."""
    rank, seen = mesh.ranks[0], []
    for xs, ws, cotangent in cases:
        with contextlib.redirect_stdout(Heard()) if seen else contextlib.nullcontext():  # it prints once
            seen.append(watch(answer, xs[rank], ws[rank], cotangent, mesh.devices[0]))
    return seen


def watch(answer, X, W, cotangent, device):
    X, W = (tensor.to(device).detach().clone().requires_grad_() for tensor in (X, W))
    partial = X @ W
    before = partial.detach().clone()
    forward, backward = Collectives(), Collectives()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with forward:
            y = answer(partial)
        seen = {"trouble": None, "forward": forward.names, "changed": not torch.equal(before, partial.detach())}
        if not isinstance(y, torch.Tensor):
            seen["trouble"] = nonsense(y, forward.names)
            return seen
        seen |= {"y": plain(y), "grads": None}
        if y.requires_grad and y.shape == cotangent.shape and y.dtype == cotangent.dtype:
            with backward:
                y.backward(cotangent.to(device))
            seen["grads"] = [None if leaf.grad is None else plain(leaf.grad) for leaf in (X, W)]
    seen["backward"] = backward.names
    seen["own backward"] = isinstance(y.grad_fn, torch.autograd.function.BackwardCFunction)
    seen["unknown to autograd"] = any("autograd kernel was not registered" in str(each.message) for each in warned)
    return seen


def plain(tensor):
    return tensor.detach().clone().cpu()


def nonsense(y, communicated):
    if y is None or y is Ellipsis:
        return "no return" if communicated else UNSOLVED
    if isinstance(y, torch.autograd.Function):
        return f"the object {type(y).__name__}(…); it is called as {type(y).__name__}.apply(partial)"
    return f"a {type(y).__name__}"


def look_at_form(n, case, seen):
    for rank, each in enumerate(seen):
        if each["trouble"] == "no return":
            return (
                "no return",
                f"On rank {rank} there was {told(each['forward'])}, and no tensor came back: `return` it.",
            )
        if each["trouble"]:
            return "not a tensor", f"On rank {rank} a tensor is wanted, and the answer is {each['trouble']}."


def look_at_value(n, case, seen):
    xs, ws, _ = case
    partials = [X @ W for X, W in zip(xs, ws, strict=True)]
    ys, want = [each["y"] for each in seen], sum(partials)
    for rank, y in enumerate(ys):
        if y.dtype != want.dtype:
            return "wrong dtype", f"On rank {rank} the result is {y.dtype}, and {want.dtype} went in."
        if y.shape != want.shape:
            gathered = y.numel() == n * want.numel()
            name = "a gather where a reduce belongs" if gathered else "wrong shape"
            return name, f"On rank {rank} it is {list(y.shape)}, and {list(want.shape)} is wanted."
    right = [close(y, want) for y in ys]
    if changed := [rank for rank, each in enumerate(seen) if each["changed"]]:
        return "input overwritten", f"On rank {changed[0]} `partial` is not what it was before, with {n} ranks."
    if all(right):
        return None
    rank = right.index(False)
    numbers = f"On rank {rank} of {n} the result {worst(ys[rank], want)}."
    shown = told(seen[rank]["forward"])
    recorded = f" The record shows {shown} where 1 all_reduce is wanted." * (shown != "1 all_reduce")
    known = {
        "no reduction": partials,
        "mean for sum": [want / n] * n,
        "max for sum": [torch.stack(partials).amax(0)] * n,
        "product for sum": [torch.stack(partials).prod(0)] * n,
        "reducing twice": [want * n] * n,
    }
    for name, values in known.items():
        if all(map(close, ys, values)):
            return name, numbers + recorded
    if right.count(True) == 1:
        return "one rank alone has the sum", numbers + recorded
    name, why = how_often(partials, want, ys, "rank") or (None, "")
    if all(map(rounded, ys, [want] * n)):
        name = "rounded on the way"
    return name, f"{why} {numbers}{recorded}".strip()


def look_at_calls(n, case, seen):
    for rank, each in enumerate(seen):
        if each["forward"] != ["all_reduce"]:
            return "other collectives", f"On rank {rank} the record shows {told(each['forward'])}."


def look_at_gradients(n, case, seen):
    xs, ws, cotangent = case
    ranks = list(zip(seen, xs, ws, strict=True))
    for rank, (each, X, W) in enumerate(ranks):
        wants = {"X": cotangent @ W.T, "W": X.T @ cotangent}
        if each["grads"] is None or any(got is None or not got.any() for got in each["grads"]):
            name = "backward returns nothing" if each["own backward"] else "no gradient"
            return name, f"On rank {rank} of {n} nothing arrives in the X and W of partial = X @ W."
        for (name, want), got in zip(wants.items(), each["grads"], strict=True):
            if not close(got, want):
                recorded = f"The record of backward shows {told(each['backward'])}, and none is wanted."
                numbers = f"On rank {rank} of {n}, with partial = X @ W, the gradient of {name} {worst(got, want)}."
                known = {"gradient n times too large": want * n, "gradient n times too small": want / n}
                other = "backward is not the identity"
                mistake = next((mistake for mistake, value in known.items() if close(got, value)), other)
                return mistake, f"{numbers} {recorded}"
        if each["backward"]:
            return "communication in backward", f"On rank {rank} its record shows {told(each['backward'])}."
        if each["unknown to autograd"]:
            return "backward by accident", f"On rank {rank} of {n}: 'an autograd kernel was not registered'."
