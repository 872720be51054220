"""`Split`: an exercise whose answer is one computation, split over a mesh.

The check runs the answer on several cases and looks at it in four steps: does it give a result at all, are the values
those of the dense computation, was the communication what is needed, are the gradients right. At the first step that
fails, each known mistake is made on the same inputs, and the one that does as the answer does in every case is named.
"""

from dataclasses import dataclass

import torch

from shardlab.exercises.exercise import Exercise, Wrong, seeded
from shardlab.exercises.verdict import UNSOLVED
from shardlab.exercises.watch import Case, watch, watch_here
from shardlab.exercises.world import everyone, world

FORM, VALUES, ROAD, GRADIENTS = range(4)
SHAPE_OF = {
    "replicated": "[{all}], replicated: all of it on every shard",
    "by columns": "[{0}, {1}], cut by columns: [{0}, {1}/n] on each shard",
    "by rows": "[{0}, {1}], cut by rows: [{0}/n, {1}] on each shard",
    "plain": "[{0}, {1}], a plain tensor: place it yourself",
}


@dataclass
class Finding:
    """The first step at which an answer fails in one case, what is known of it, and the numbers."""

    step: int
    mistake: str | None
    message: str


class Split(Exercise):
    """An answer(mesh, …) whose result is `dense(n, …)`, replicated, by the road that `right` takes."""

    def __init__(self, name, task, given, wanted, sizes, dense, right, mistakes, exact_bytes=False):
        self.shapes = {arg: shape.split() for arg, (shape, _) in given.items()}
        self.placing = {arg: placing for arg, (_, placing) in given.items()}
        self.takes = ("mesh", *given)
        self.sizes, self.dense, self.right, self.mistakes = sizes, dense, right, mistakes
        self.exact_bytes = exact_bytes
        super().__init__(name, task, [f"{arg}: {self.describe(arg)}" for arg in given], wanted)

    def describe(self, arg):
        shape = self.shapes[arg]
        return SHAPE_OF[self.placing[arg]].format(*shape, all=", ".join(shape))

    def check(self, answer=None, gradients=False):
        """Try `answer` on fresh random inputs, on 1 to 4 shards (under torchrun: on the ranks there are).

        Values and recorded communication are checked, with `gradients=True` every gradient as well.
        Returns a Verdict; a wrong answer never raises, whatever it does.
        """
        return self.judge(lambda: self.inspect(answer, gradients))

    def inspect(self, answer, gradients=False):
        self.callable(answer)
        cases = self.cases()
        seen = []
        for case in cases:
            seen.append(watch(answer, case, gradients))
            if seen[-1].trouble and seen[-1].trouble[0] == UNSOLVED:
                raise self.unsolved(answer)
        wanted = [watch_here(self.right, case, gradients) for case in cases]
        found = [self.look(*row, gradients) for row in zip(cases, seen, wanted, strict=True)]
        step = min((finding.step for finding in found if finding), default=None)
        if step is None:
            return passed(gradients)
        finding = next(finding for finding in found if finding and finding.step == step)
        for mistake in self.mistakes:
            for way in mistake.ways:
                if step == FORM and finding.mistake != "an error":
                    break
                if all(alike(s, watch_here(way, case, gradients), step) for case, s in zip(cases, seen, strict=True)):
                    raise Wrong(mistake.name, f"{mistake.why} {finding.message}")
        raise Wrong(finding.mistake, finding.message)

    def cases(self):
        """Fresh inputs, the same on all ranks: float64, so that rounding hides nothing."""
        random = seeded()
        random.manual_seed(everyone(random.initial_seed())[0])

        def integer(low, high):
            return torch.randint(low, high + 1, (), generator=random).item()

        def normal(shape, size):
            return torch.randn([size[letter] for letter in shape], generator=random, dtype=torch.float64, device="cpu")

        cases = []
        for n in [world()] if world() else [2, 3, 4, 1]:
            for size in self.sizes(n, integer):
                tensors = {arg: normal(shape, size) for arg, shape in self.shapes.items()}
                y = self.dense(n, *tensors.values())
                cotangent = torch.randn(y.shape, generator=random, dtype=torch.float64, device="cpu")
                cases.append(Case(n, tensors, self.placing, cotangent))
        return cases

    def look(self, case, seen, wanted, gradients):
        """The first thing that is wrong in one case, or None."""
        if seen.trouble:
            mistake, message = seen.trouble
            where = f"On {seen.where or shards(case.n)} it ends in " if mistake == "an error" else ""
            return Finding(FORM, mistake, where + message)
        leaves = {arg: tensor.clone().requires_grad_() for arg, tensor in case.tensors.items()}
        y = self.dense(case.n, *leaves.values())
        finding = look_at_values(case, seen, y.detach()) or (
            self.look_at_road(case, seen, wanted) if case.n > 1 else None
        )
        if finding is None and gradients:
            y.backward(case.cotangent)
            finding = look_at_gradients(case, seen, wanted, {arg: leaf.grad for arg, leaf in leaves.items()})
        return finding

    def look_at_road(self, case, seen, wanted):
        """A right value, and how it came about: what was communicated, multiplied and placed."""
        where = f"On {shards(case.n)} the values are right"
        recorded = f"the record shows {told(seen.forward)} where {told(wanted.forward)} will do"
        if seen.flops > 1.5 * wanted.flops:
            work = f"products take {seen.flops:,} operations where {wanted.flops:,} will do, and {recorded}"
            return Finding(ROAD, "the baseline in disguise", f"{where}, but {work}.")
        if not seen.forward:
            again = seen.placed > wanted.placed
            how = "values were placed again" if again else "values of other shards were read without a collective"
            message = f"{where}, but {recorded}: {how}, which works in one process alone."
            return Finding(ROAD, "placed again" if again else "reads other shards", message)
        if wanted.placed and seen.placed > 1.5 * wanted.placed:
            return Finding(
                ROAD,
                "W whole on every shard",
                f"{where}, but {seen.placed:,} numbers were placed where {wanted.placed:,} do: every shard holds "
                f"all of W, and splitting it saves no memory.",
            )
        sent, least = (sum(call.wire for call in calls) for calls in (seen.forward, wanted.forward))
        if sent > least * (1 + 1e-9) or (self.exact_bytes and sent != least):
            name = "extra communication" if sent > least else "not padded"
            return Finding(ROAD, name, f"{where}, but {recorded}.")
        return None


def look_at_values(case, seen, y):
    for rank, value in enumerate(seen.values):
        where = f"On {shards(case.n)}, shard {rank}"
        if value.shape != y.shape:
            return Finding(VALUES, "wrong shape", f"{where} of the result is {list(value.shape)}, not {list(y.shape)}.")
        if value.dtype != y.dtype:
            return Finding(VALUES, "wrong dtype", f"{where} of the result is {value.dtype}, and {y.dtype} went in.")
        if not value.isfinite().all():
            return Finding(VALUES, "not a number", f"{where} of the result holds nan or inf.")
        if not close(value, y):
            return Finding(VALUES, None, f"{where} of the result {worst(value, y)}.")
    return None


def look_at_gradients(case, seen, wanted, grads):
    where = f"On {shards(case.n)} the result is right"
    for arg, grad in grads.items():
        got = seen.grads[arg]
        pieces = cut(grad, case.placing[arg], case.n)
        if case.placing[arg] == "plain":
            got, padding = columns(case.tensors[arg], got)
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
                return Finding(GRADIENTS, None, f"{where}, but {numbers}.")
        if case.placing[arg] == "plain" and (finding := look_at_padding(where, *padding)):
            return finding
    sent, least = (sum(call.wire for call in calls) for calls in (seen.backward, wanted.backward))
    if case.n > 1 and sent > least * (1 + 1e-9):
        recorded = f"the record of backward shows {told(seen.backward)} where {told(wanted.backward)} will do"
        return Finding(GRADIENTS, "extra communication", f"{where}, and so is every gradient, but {recorded}.")
    return None


def look_at_padding(where, value, grad):
    if value > 0:
        message = f"the padding holds values up to {value:.3g}: pad with zeros, so that it can add nothing to any sum"
        return Finding(GRADIENTS, "padding is not zero", f"{where}, but {message}.")
    if grad > 0:
        message = f"the padding has a gradient of up to {grad:.3g}: an optimizer would move it away from zero"
        return Finding(GRADIENTS, "padding gets a gradient", f"{where}, but {message}.")
    return None


def columns(W, leaves):
    """The gradient of W from the leaves that an answer made of it: W's columns are known by their values.

    Returns a gradient of W for each time that W was placed, and (largest value, largest gradient) of other columns.
    """
    found = [[] for _ in range(W.shape[1])]
    value = grad = 0.0
    for leaf, leaf_grad in leaves:
        if leaf.shape[1] == len(W) and (len(leaf) != len(W) or any((row == W.T).all(1).any() for row in leaf)):
            leaf, leaf_grad = leaf.T, leaf_grad.T  # it holds pieces of W.T
        for column, column_grad in zip(leaf.T, leaf_grad.T, strict=True):
            hits = (column[:, None] == W).all(0).nonzero()
            if len(hits):
                found[hits[0].item()].append(column_grad)
            else:
                value, grad = max(value, column.abs().max().item()), max(grad, column_grad.abs().max().item())
    copies = max(map(len, found))
    if min(map(len, found)) == 0:
        return [], (value, grad)
    grads = [torch.stack([each[min(copy, len(each) - 1)] for each in found], 1) for copy in range(copies)]
    return grads, (value, grad)


def cut(tensor, placing, n):
    if placing in ("replicated", "plain"):
        return [tensor] * n
    return tensor.tensor_split(n, dim=1 if placing == "by columns" else 0)


def alike(a, b, step):
    """Did two answers do the same in one case, up to and with this step?"""
    if a.trouble or b.trouble:
        return a.trouble == b.trouble
    if not all_close(a.values, b.values):
        return False
    if step >= ROAD and not (calls(a.forward) == calls(b.forward) and (a.flops, a.placed) == (b.flops, b.placed)):
        return False
    if step < GRADIENTS:
        return True
    return calls(a.backward) == calls(b.backward) and all(
        all_close(flat(a.grads[arg]), flat(b.grads[arg])) for arg in a.grads
    )


def flat(grads):
    """A list of gradients, where a plain argument has (leaf, gradient) pairs."""
    return [grad for pair in grads for grad in (pair if isinstance(pair, tuple) else (pair,))]


def calls(traffic):
    return sorted((call.name, call.payload) for call in traffic)


def all_close(some, others):
    return len(some) == len(others) and all(
        a is b or (a is not None and b is not None and a.shape == b.shape and close(a, b))
        for a, b in zip(some, others, strict=True)
    )


def close(a, b):
    """Equal up to float64 rounding: nine digits of the largest number here."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.numel() == 0:
        return True
    return (a - b).abs().max().item() <= 1e-9 * max(1.0, b.abs().max().item())


def worst(got, want):
    """The place where the difference is largest, in words."""
    error = (got - want).abs()
    index = [int(i) for i in torch.unravel_index(error.argmax(), got.shape)]
    here, there = (f"{x[tuple(index)]:.4g}" for x in (got, want))
    return f"has {here} at {index} where {there} is wanted (the largest difference)"


def told(traffic):
    """Collectives in words: 'all_gather (96 bytes), all_reduce (96 bytes)'."""
    return ", ".join(f"{call.name} ({call.payload:,} bytes)" for call in traffic) or "no communication"


def shards(n):
    return f"{n} shard{'s' if n > 1 else ''}"


def passed(gradients):
    what = "the values, the communication and every gradient" if gradients else "the values and the communication"
    return f"Right on {world() or '1, 2, 3 and 4'} shards: {what}."
