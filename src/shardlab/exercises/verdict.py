"""`Verdict`: what a check says about an answer."""

from dataclasses import dataclass, field
from html import escape

from shardlab.pictures.still import still

UNSOLVED = "not solved yet"
BLUE, VERMILION, GREEN = "#0072B2", "#D55E00", "#009E73"


@dataclass(frozen=True)
class Verdict:
    """`passed`, the short name of the `mistake` (None if there is none, or none that is known), a `message`, and at
    most one `picture`, which a terminal does without.

    >>> Verdict("row_linear", True, None, "Right.")
    ✓ row_linear: Right.
    """

    exercise: str
    passed: bool
    mistake: str | None
    message: str
    picture: str = field(default="", repr=False, compare=False)  # an <svg>, where one says it better

    def __bool__(self):
        return self.passed

    def _look(self):
        """A sign, words and a colour: each alone says how it went."""
        if self.passed:
            return "✓", "passed", GREEN
        if self.mistake == UNSOLVED:
            return "…", UNSOLVED, BLUE
        return "✗", "not yet" if self.mistake is None else f"not yet: {self.mistake}", VERMILION

    def __repr__(self):
        sign, words, _ = self._look()
        middle = "" if self.passed else f" {words}."
        return f"{sign} {self.exercise}:{middle} {self.message}"

    def _repr_html_(self):
        sign, words, colour = self._look()
        return (
            f'<div style="border-left:4px solid {colour};padding:2px 10px;margin:4px 0">'
            f'<strong><span aria-hidden="true">{sign} </span>{escape(self.exercise)}: {escape(words)}</strong><br>'
            f"{escape(self.message)}{self.picture and f'<div>{still(self.picture)}</div>'}</div>"
        )


def a_kind(value):
    """
    >>> a_kind(3), a_kind("y")
    ('an int', 'a str')
    """
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeioAEIO' else 'a'} {name}"
