"""`Formula`: an exercise whose answer is a function of numbers, held against the right one on fresh numbers."""

import sys
from math import inf
from numbers import Real

import numpy
import torch

from shardlab import cost
from shardlab.exercises.exercise import Exercise, Wrong, brief_error
from shardlab.exercises.limits import run
from shardlab.exercises.verdict import a_kind
from shardlab.exercises.world import everyone

TRIES = 12
OF_ONE = (torch.Tensor, numpy.ndarray, numpy.generic)


class Formula(Exercise):
    """An answer(*takes) that is `formula(*takes)`, a number or a tuple of them, up to a relative error of `rtol`.

    `draw(random, number)` gives the arguments of one try, of which the first few may be chosen (a case at the edge);
    `results` names what is returned. Of a wrong answer the first mistake is named that gives the same on every try.
    """

    def __init__(self, name, task, given, wanted, draw, formula, mistakes, results=("the result",), rtol=1e-6):
        self.takes = tuple(given)
        self.draw, self.formula, self.mistakes, self.results, self.rtol = draw, formula, mistakes, results, rtol
        super().__init__(name, task, [f"{arg}: {what}" for arg, what in given.items()], wanted)

    def inspect(self, answer):
        self.callable(answer)
        random = torch.Generator().manual_seed(everyone(torch.Generator().seed())[0])
        tries = [self.draw(random, number) for number in range(TRIES)]
        wanted = [self.numbers(self.formula(*args)) for args in tries]
        found = []
        for args in tries:
            found.append(self.ask(answer, args, first=not found))
        wrong = [index for index, pair in enumerate(zip(found, wanted, strict=True)) if not self.near(*pair)]
        if not wrong:
            return f"Right on {TRIES} tries with fresh numbers."
        args, got, want = tries[wrong[0]], found[wrong[0]], wanted[wrong[0]]
        part = next(
            index for index in range(len(want)) if not self.near(got[index : index + 1], want[index : index + 1])
        )
        numbers = f"With {self.said(args)} {self.results[part]} is {got[part]:.4g}, and {want[part]:.4g} is wanted."
        mistake, why = self.known(tries, found, wanted) or (None, "")
        raise Wrong(mistake, f"{why} {numbers}".strip())

    def ask(self, answer, args, first):
        """What the answer gives, as a list of floats."""
        ours = getattr(cost, self.name, None)
        watched, asked = noting(answer, ours)
        try:
            given = run(watched, *[list(arg) if isinstance(arg, list) else arg for arg in args])
        except (KeyboardInterrupt, Wrong):
            raise
        except NotImplementedError as error:
            raise self.unsolved(answer) from error
        except BaseException as error:
            raise Wrong("an error", f"With {self.said(args)} it ends in {brief_error(error)}") from error
        if asked:
            raise Wrong("the package's own", f"It calls shardlab.cost.{self.name}, and that is what you are to write.")
        if given is None or given is Ellipsis:
            nothing = Wrong("nothing returned", f"With {self.said(args)} nothing is returned.")
            raise self.unsolved(answer) if first else nothing
        numbers = self.numbers(given)
        if numbers is None or len(numbers) != len(self.results):
            wants = " and ".join(self.results)
            raise Wrong(
                "not a number", f"The function returns {a_kind(given)}, and what is wanted is {wants}: {given!r}."
            )
        return numbers

    def numbers(self, given):
        """A number, or several of them, as a list of floats; None of anything else."""
        values = list(given) if isinstance(given, (tuple, list)) or getattr(given, "ndim", 0) else [given]
        values = [value.item() if isinstance(value, OF_ONE) and value.ndim == 0 else value for value in values]
        if not all(isinstance(value, Real) and not isinstance(value, bool) for value in values):
            return None
        return [float(value) for value in values]

    def near(self, got, want):
        pairs = zip(got, want, strict=True)
        return all(g == w or abs(g - w) <= self.rtol * abs(w) < inf for g, w in pairs)  # false for a nan

    def known(self, tries, found, wanted):
        """(name, why) of the first mistake that does as the answer did, or of a factor that is the same everywhere."""
        for mistake in self.mistakes:
            for way in mistake.ways:
                if all(self.near(got, self.numbers(way(*args))) for args, got in zip(tries, found, strict=True)):
                    return mistake.name, mistake.why
        pairs = [(g, w) for got, want in zip(found, wanted, strict=True) for g, w in zip(got, want, strict=True)]
        factor = next((g / w for g, w in pairs if w), 0)
        if factor and all(abs(g - factor * w) <= self.rtol * abs(g) for g, w in pairs):
            return "a constant factor", f"Every number is {factor:.3g} times what it should be."
        return None

    def said(self, args):
        return ", ".join(f"{name} = {brief(value)}" for name, value in zip(self.takes, args, strict=True))


def noting(answer, function):
    """The answer, and a list that is no longer empty once it has called this function (None: whatever it calls)."""
    code, asked = getattr(function, "__code__", None), []

    def look(frame, event, _):
        if event == "call" and frame.f_code is code:
            asked.append(function)

    def watched(*args):
        sys.setprofile(look)  # of this thread alone
        try:
            return answer(*args)
        finally:
            sys.setprofile(None)

    return watched, asked


def brief(value):
    """A number, or a list of them, in few digits.

    >>> brief(1e-5), brief([1, 2, 3]), brief(0.123456)
    ('1e-05', '[1, 2, 3]', '0.1235')
    """
    if isinstance(value, int):
        return str(value) if isinstance(value, bool) else f"{value:,}"
    return f"[{', '.join(map(brief, value))}]" if isinstance(value, list) else f"{value:.4g}"
