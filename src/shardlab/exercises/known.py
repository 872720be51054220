"""Which known mistake an answer makes: the one that does as the answer did, in every case.

There are hundreds of candidates: each mistake of the exercise, each slip in the right answer, each slip beside each
mistake. Nearly all of them are ruled out by the plain values of the first case, without a look at what they move, and
what several have in common is worked out once.
"""

import torch

from shardlab.exercises.exercise import brief_error
from shardlab.exercises.looking import FORM, GRADIENTS, OWN, ROAD
from shardlab.exercises.numbers import all_close
from shardlab.exercises.slips import LIKELY, once, slips
from shardlab.exercises.watch import PLACE, Here, watch_here


def known(exercise, finding, cases, seen):
    """(name, why) of what does as the answer did in every case: a mistake of this exercise, a slip in the right
    answer, or a slip beside a mistake; None if nothing known does."""
    step = finding.step
    if step == OWN or step == FORM and all(s.trouble is None or s.trouble[0] != "an error" for s in seen):
        return None
    table = [(mistake.name, mistake.why, once(way)) for mistake in exercise.mistakes for way in mistake.ways]
    like = Like(cases, seen, step)
    if step == ROAD:
        return next(filter(None, like.first(table)), None)
    anywhere, right = list(slips(exercise.placing, step == GRADIENTS)), once(exercise.right)
    same, near = like.first(table + [(name, why, slip(right)) for name, why, slip in anywhere])
    if same or finding.mistake not in (None, "wrong shape"):
        return same or near
    likely = [slip for slip in anywhere if slip[0] in LIKELY]
    same, nearly = like.first(
        (name, f"{why} {other}", slip(way)) for name, why, slip in likely for _, other, way in table
    )
    return same or near or nearly


class Like:
    """Candidates beside what an answer did: `seen`, in each of the cases, up to and with a step."""

    def __init__(self, cases, seen, step):
        self.cases, self.seen, self.step = cases, seen, step
        self.mesh = Here(cases[0].n)
        self.given = [PLACE[cases[0].placing[name]](self.mesh, tensor) for name, tensor in cases[0].tensors.items()]

    def first(self, candidates):
        """The first candidate that does as the answer does and communicates as it does, and the first that does the
        former at all: (name, why), or None."""
        near = None
        for name, why, way in candidates:
            if not self.may_be(way):
                continue
            same_road = True
            for case, answered in zip(self.cases, self.seen, strict=True):
                done = watch_here(way, case, self.step in (FORM, GRADIENTS))
                same_road = same_road and calls(answered.forward) == calls(done.forward)
                if near and not same_road or not alike(answered, done, self.step):
                    break
            else:
                if same_road:
                    return (name, why), None
                near = near or (name, why)
        return None, near

    @torch.no_grad()
    def may_be(self, way):
        """Whether the values of the first case leave this candidate in."""
        answered = self.seen[0]
        try:
            y_ = way(self.mesh, *self.given)
        except Exception as error:
            return bool(answered.trouble) and answered.trouble[1] == brief_error(error)
        if answered.trouble:
            return answered.trouble[0] != "an error"
        return all_close([shard.cpu() for shard in y_.shards], answered.values)


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
