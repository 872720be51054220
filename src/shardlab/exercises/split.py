"""`Split`: an exercise whose answer is one computation, split over a mesh.

The check runs the answer on several cases and looks at it in five steps (see `looking`): does it give a result at all,
are the values those of the dense computation, does each shard come of its own pieces, was the communication what is
needed, are the gradients right. At the first step that fails, each known mistake is made on the same inputs (see
`known`), and the one that does as the answer does in every case is named.
"""

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
from shardlab.exercises.verdict import UNSOLVED
from shardlab.exercises.watch import Case, watch, watch_here
from shardlab.exercises.world import everyone, from_rank_0, world

SHAPE_OF = {
    "replicated": "[{all}], replicated: all of it on every shard",
    "by columns": "[{0}, {1}], cut by columns: [{0}, {1}/n] on each shard",
    "by rows": "[{0}, {1}], cut by rows: [{0}/n, {1}] on each shard",
    "cut": "[{0}], cut: [{0}/n] on each shard",
    "plain": "[{0}, {1}], a plain tensor: place it yourself",
    "a number": "a number",
}


class Split(Exercise):
    """An answer(mesh, …) whose result is `dense(n, …)`, replicated, by the road that `right` takes.

    `given` says of each argument the letters of its shape and how it is placed; of "a number", which come last, the
    letter whose size it is."""

    def __init__(self, name, task, given, wanted, sizes, dense, right, mistakes, exact_bytes=False):
        self.numbers = {arg: letter for arg, (letter, placing) in given.items() if placing == "a number"}
        tensors = {arg: each for arg, each in given.items() if arg not in self.numbers}
        self.shapes = {arg: shape.split() for arg, (shape, _) in tensors.items()}
        self.placing = {arg: placing for arg, (_, placing) in tensors.items()}
        self.takes = ("mesh", *given)
        self.sizes, self.dense, self.right, self.mistakes = sizes, dense, right, mistakes
        self.exact_bytes = exact_bytes
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
        name, why = known(self, finding, cases, seen) or finding.otherwise or (finding.mistake, "")
        drawn = ""
        if finding.step == VALUES and finding.mistake in (None, "wrong shape"):
            dense = [self.dense(case.n, *case.tensors.values(), *case.numbers) for case in cases]
            if name in (None, "wrong shape"):
                name, why = clue(cases, seen, wanted, dense) or (name, why)
            first = found.index(finding)
            drawn = picture(cases[first], seen[first], dense[first])
        return name, f"{why} {finding.message}".strip(), drawn

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
                numbers = [size[letter] for letter in self.numbers.values()]
                y = self.dense(n, *tensors.values(), *numbers)
                cotangent = torch.randn(y.shape, generator=random, dtype=torch.float64, device="cpu")
                cases.append(Case(n, tensors, self.placing, cotangent, numbers))
        return cases

    def look(self, answer, case, seen, wanted, gradients):
        """The first thing that is wrong in one case, or None."""
        if finding := look_at_form(case, seen):
            return finding
        leaves = {arg: tensor.clone().requires_grad_() for arg, tensor in case.tensors.items()}
        y = self.dense(case.n, *leaves.values(), *case.numbers)
        finding = (
            look_at_values(case, seen, y.detach())
            or look_at_own(case, seen, answer)
            or look_at_road(case, seen, wanted, self.exact_bytes)
        )
        if finding is None and gradients:
            y.backward(case.cotangent)
            finding = look_at_gradients(case, seen, wanted, {arg: leaf.grad for arg, leaf in leaves.items()})
        return finding


def passed(gradients):
    what = "the values, the communication and every gradient" if gradients else "the values and the communication"
    return f"Right on {world() or '1, 2, 3 and 4'} shards: {what}."
