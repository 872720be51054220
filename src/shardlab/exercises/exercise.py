"""`Exercise`: a task that shows itself, and a check that answers with a verdict and never raises."""

import inspect
from dataclasses import dataclass
from html import escape

import torch

from shardlab.exercises.traces import guarded, on_the_cpu, printed, prints_once
from shardlab.exercises.verdict import UNSOLVED, Verdict, a_kind
from shardlab.exercises.world import everyone

LEFT = "text-align:left"


@dataclass(frozen=True)
class Mistake:
    """A known wrong answer: its name, why it is wrong (with a hint), and ways to make it, each a tiny function."""

    name: str
    why: str
    ways: tuple

    def __init__(self, name, why, *ways):
        for field, value in [("name", name), ("why", why), ("ways", ways)]:
            object.__setattr__(self, field, value)


class Wrong(Exception):
    """What a check found, on its way to become a verdict."""

    def __init__(self, mistake, message, picture=""):
        super().__init__(message)
        self.mistake, self.message, self.picture = mistake, message, picture


class Exercise:
    """A task of the course. As the last expression of a cell it shows what is given and what is wanted;
    `check(answer)` says whether an answer is right, and if not, which mistake it makes."""

    takes = ()  # the names of the answer's arguments

    def __init__(self, name, task, given, wanted):
        self.name, self.task, self.given, self.wanted = name, task, given, wanted
        self.__doc__ = repr(self)

    def check(self, answer=None):
        """Try `answer` and return a Verdict. A wrong answer never raises, whatever it does."""
        return self.judge(lambda: self.inspect(answer))

    def judge(self, inspect):
        """Turn what happens into a verdict, the same on all ranks: a message, a `Wrong`, or any exception but a
        KeyboardInterrupt."""
        with guarded(), on_the_cpu(), prints_once():
            try:
                verdict = Verdict(self.name, True, None, inspect())
            except KeyboardInterrupt:
                raise
            except Wrong as wrong:
                verdict = Verdict(self.name, False, wrong.mistake, wrong.message, wrong.picture)
            except BaseException as error:  # SystemExit too: a check must not end the notebook
                verdict = Verdict(self.name, False, "an error", f"It ended in an error: {brief_error(error)}")
            return everyone(verdict)[0]

    def inspect(self, answer):
        """The message of a right answer; raises `Wrong` for any other."""
        raise NotImplementedError

    def signature(self):
        return f"{self.name}({', '.join(self.takes)})"

    def unsolved(self, answer=None):
        if answer is not None and printed.get(None):
            return Wrong("no return", "The function prints and returns nothing: `return` what it prints.")
        name = getattr(answer, "__name__", self.name)
        body = f"the body of {name}({', '.join(self.takes)}), ending in a `return`"
        return Wrong(UNSOLVED, f"Write {body}, and run the cell again.")

    def callable(self, answer):
        """Raise `Wrong` unless `answer` can be called with this exercise's arguments."""
        if answer is None or answer is Ellipsis:
            raise self.unsolved()
        if not callable(answer):
            raise Wrong(
                "not a function",
                f"The check wants the function itself and got {a_kind(answer)}: "
                f"hand it in without calling it, as in exercises.{self.name}.check({self.name}).",
            )
        try:
            signature = inspect.signature(answer)
        except (TypeError, ValueError):  # some built-in functions do not tell
            return
        try:
            signature.bind(*self.takes)
        except TypeError as error:
            wants = f"It is called as {self.signature()}, and yours takes {signature}: {error}."
            raise Wrong("wrong signature", wants) from error

    def __repr__(self):
        lines = [f"{self.name}: {self.task}", *(f"  given   {line}" for line in self.given), f"  wanted  {self.wanted}"]
        return "\n".join(lines)

    def _repr_html_(self):
        rows = [("given", line) for line in self.given] + [("wanted", self.wanted)]
        cells = "".join(
            f'<tr><th scope="row" style="{LEFT}">{head}</th><td style="{LEFT}">{escape(line)}</td></tr>'
            for head, line in rows
        )
        return (
            f"<div><p><strong>Exercise <code>{escape(self.signature())}</code></strong><br>{escape(self.task)}</p>"
            f"<table><tbody>{cells}</tbody></table>"
            f"<p>Check it with <code>exercises.{self.name}.check({self.name})</code></p></div>"
        )


def brief_error(error):
    """The error in a few words; between ranks without the lines they are at, which say nothing of the mistake."""
    text = " ".join(str(error).partition(". They are at ")[0].split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def seeded():
    """A fresh generator: new numbers in every check, and the global one is left alone."""
    generator = torch.Generator()
    generator.seed()
    return generator
