"""`Split`: an exercise whose answer is one computation, split over a mesh.

The check runs the answer on several cases and looks at it in five steps (see `looking`): does it give a result at all,
are the values those of the dense computation, does each shard come of its own pieces, was the communication what is
needed, are the gradients right. At the first step that fails, each known mistake is made on the same inputs (see
`known`), and the one that does as the answer does in every case is named.
"""

from dataclasses import replace

import torch

from shardlab.exercises.clues import clue
from shardlab.exercises.exercise import Exercise, Wrong, seeded
from shardlab.exercises.known import known
from shardlab.exercises.looking import (
    VALUES,
    look_at_form,
    look_at_gradients,
    look_at_own,
    look_at_road,
    look_at_values,
)
from shardlab.exercises.picture import picture
from shardlab.exercises.placing import SHAPE_OF, cut, listed, pieces
from shardlab.exercises.verdict import UNSOLVED
from shardlab.exercises.watch import Case, watch, watch_here
from shardlab.exercises.world import everyone, from_rank_0, world
from shardlab.plumbing.backward import run_backward

Y = {"y": "replicated"}


class Split(Exercise):
    """An answer(mesh, …) whose result is `dense(n, …)`, by the road that `right` takes.

    `given` says of each argument the letters of its shape and how it is placed; of "a number", which come last, the
    letter whose size it is. `results` says how the result is to lie on the shards, as {"y": "replicated"} does; or
    several, as {"dX": "replicated", "dW": "by columns"}: then `dense`, `right` and the answer return a tuple of them.
    `draw` says how an argument is drawn, draw(shape, size, random), where it is not of normal numbers: whole ones, say,
    which have no gradient. `products=False`: how much an answer multiplies does not count.
    """

    requires_grad = False  # the inputs, where no gradient is looked at

    def __init__(
        self, name, task, given, wanted, sizes, dense, right, mistakes, exact_bytes=False, results=Y, draw=None,
        products=True,
    ):  # fmt: skip
        self.numbers = {arg: letter for arg, (letter, placing) in given.items() if placing == "a number"}
        tensors = {arg: each for arg, each in given.items() if arg not in self.numbers}
        self.shapes = {arg: shape.split() for arg, (shape, _) in tensors.items()}
        self.placing = {arg: placing for arg, (_, placing) in tensors.items()}
        self.takes = ("mesh", *given)
        self.sizes, self.dense, self.right, self.mistakes = sizes, dense, right, mistakes
        self.exact_bytes, self.results, self.products = exact_bytes, results, products
        self.draw = dict.fromkeys(given, normal) | (draw or {})
        super().__init__(name, task, [f"{arg}: {self.describe(arg)}" for arg in given], wanted)

    def describe(self, arg):
        shape = self.shapes.get(arg, [])
        return SHAPE_OF[self.placing.get(arg, "a number")].format(*shape, all=", ".join(shape))

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
        wrong = from_rank_0(lambda: self.what_is_wrong(answer, cases, seen, gradients))
        if wrong:
            raise Wrong(*wrong)
        return passed(gradients)

    def what_is_wrong(self, answer, cases, seen, gradients):
        """(mistake, message, picture) of the first step at which an answer fails in any case, or None."""
        wanted = [watch_here(self.right, case, gradients) for case in cases]
        found = [self.look(answer, *row, gradients) for row in zip(cases, seen, wanted, strict=True)]
        step = min((finding.step for finding in found if finding), default=None)
        if step is None:
            return None
        finding = next(finding for finding in found if finding and finding.step == step)
        name, why = known(self, finding, cases, seen, wanted) or finding.otherwise or (finding.mistake, "")
        drawn = ""
        if finding.step == VALUES and finding.mistake in (None, "wrong shape"):
            said, drawn = self.by_itself(finding.result, cases, seen, wanted, found.index(finding))
            if said and name in (None, "wrong shape"):
                name, why = said
        return name, f"{why} {finding.message}".strip(), drawn

    def by_itself(self, number, cases, seen, wanted, first):
        """What a wrong result says by itself, as (mistake, why) or None, and its picture in the first such case."""
        name, placing = [*self.results.items()][number]
        dense = [listed(self.dense(case.n, *case.tensors.values(), *case.numbers))[number] for case in cases]
        one = [replace(each, values=each.values[number :: len(self.results)]) for each in seen]
        said = clue(cases, one, wanted, dense, placing)
        if said and len(self.results) > 1:
            said = said[0], f"Of {name}, here y: {said[1]}"
        return said, picture(one[first], cut(dense[first], placing, cases[first].n))

    def cases(self):
        """Fresh inputs, the same on all ranks: float64, so that rounding hides nothing."""
        random = seeded()
        random.manual_seed(everyone(random.initial_seed())[0])

        def integer(low, high):
            return torch.randint(low, high + 1, (), generator=random).item()

        def drawn(arg, size):
            return self.draw[arg]([size[letter] for letter in self.shapes[arg]], size, random)

        cases = []
        for n in [world()] if world() else [2, 3, 4, 1]:
            for size in self.sizes(n, integer):
                tensors = {arg: drawn(arg, size) for arg in self.shapes}
                numbers = [size[letter] for letter in self.numbers.values()]
                ys = listed(self.dense(n, *tensors.values(), *numbers))
                cotangents = [torch.randn(y.shape, generator=random, dtype=torch.float64, device="cpu") for y in ys]
                cases.append(Case(n, tensors, self.placing, self.results, cotangents, numbers, self.requires_grad))
        return cases

    def look(self, answer, case, seen, wanted, gradients):
        """The first thing that is wrong in one case, or None."""
        if finding := look_at_form(case, seen):
            return finding
        leaves = {
            arg: tensor.clone().requires_grad_(tensor.is_floating_point()) for arg, tensor in case.tensors.items()
        }
        ys = listed(self.dense(case.n, *leaves.values(), *case.numbers))
        finding = (
            look_at_values(case, seen, pieces([y.detach() for y in ys], self.results.values(), case.n))
            or look_at_own(case, seen, answer)
            or look_at_road(case, seen, wanted, self.exact_bytes, self.products)
        )
        if finding is None and gradients:
            run_backward(ys, case.cotangents)
            grads = {arg: leaf.grad for arg, leaf in leaves.items() if leaf.requires_grad}
            finding = look_at_gradients(case, seen, wanted, grads)
        return finding


def normal(shape, size, random):
    return torch.randn(shape, generator=random, dtype=torch.float64, device="cpu")


def passed(gradients):
    what = "the values, the communication and every gradient" if gradients else "the values and the communication"
    return f"Right on {world() or '1, 2, 3 and 4'} shards: {what}."
