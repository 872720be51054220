"""Which known mistake an answer makes: the one that does as the answer did, in every case.

There are hundreds of candidates: each mistake of the exercise, each slip in the right answer, each slip beside each
mistake. Nearly all of them are ruled out by the plain values of the first case, without a look at what they move, and
what several have in common is worked out once.
"""

import torch

from shardlab.exercises.exercise import brief_error
from shardlab.exercises.looking import FORM, GRADIENTS, OWN, ROAD, of_plain
from shardlab.exercises.numbers import all_close
from shardlab.exercises.placing import PLACE
from shardlab.exercises.slips import LIKELY, once, slips
from shardlab.exercises.watch import Here, tensors_by_shard, watch_here

NONE, OTHERS, SAME_NAMES, SAME_CALLS = range(4)  # the collectives of an answer, beside those of another


def known(exercise, finding, cases, seen):
    """(name, why) of what does as the answer did in every case: a mistake of this exercise, a slip in the right
    answer, or a slip beside a mistake; None if nothing known does."""
    step = finding.step
    if step == OWN or step == FORM and all(s.trouble is None or s.trouble[0] != "an error" for s in seen):
        return None
    table = [(mistake.name, mistake.why, once(way)) for mistake in exercise.mistakes for way in mistake.ways]
    like = Like(cases, seen, step)
    if step == ROAD:
        return like.nearest(table)[1]
    anywhere, right = list(slips(exercise.placing, step == GRADIENTS, exercise.results)), once(exercise.right)
    road, one = like.nearest(table + [(name, why, slip(right)) for name, why, slip in anywhere])
    if road == SAME_CALLS or finding.mistake not in (None, "wrong shape"):
        return one
    likely = [slip for slip in anywhere if slip[0] in LIKELY]
    both = ((name, f"{why} {other}", slip(way)) for name, why, slip in likely for _, other, way in table)
    return like.nearest(both, road)[1] or one


class Like:
    """Candidates beside what an answer did: `seen`, in each of the cases, up to and with a step."""

    def __init__(self, cases, seen, step):
        self.cases, self.seen, self.step = cases, seen, step
        self.mesh = Here(cases[0].n)
        self.given = [PLACE[cases[0].placing[name]](self.mesh, tensor) for name, tensor in cases[0].tensors.items()]
        self.given += cases[0].numbers

    def nearest(self, candidates, beyond=NONE):
        """Of the candidates that do as the answer does in every case, the first that comes nearest to its
        communication: how near, and (name, why). None if no one comes nearer than `beyond`."""
        best, found = beyond, None
        for name, why, way in candidates:
            if not self.may_be(way):
                continue
            near = SAME_CALLS
            for case, answered in zip(self.cases, self.seen, strict=True):
                done = watch_here(way, case, self.step in (FORM, GRADIENTS))
                near = min(near, road(answered, done, self.step))
                if near <= best or not alike(answered, done, self.step, case):
                    break
            else:
                best, found = near, (name, why)
                if best == SAME_CALLS:
                    break
        return best, found

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
        return all_close([tensor.cpu() for tensor in tensors_by_shard(y_)], answered.values)


def alike(a, b, step, case):
    """Did two answers do the same in one case, up to and with this step?"""
    if a.trouble or b.trouble:
        return a.trouble == b.trouble
    if not all_close(a.values, b.values):
        return False
    if step >= ROAD and calls(a.forward) != calls(b.forward):
        return False
    if step == ROAD and (a.flops, a.placed) != (b.flops, b.placed):
        return False
    return step < GRADIENTS or all(all_close(grads(case, a, arg), grads(case, b, arg)) for arg in a.grads)


def road(a, b, step):
    """How near the communication of one answer is to another's."""
    phases = ("forward", "backward") if step == GRADIENTS else ("forward",)
    ours, theirs = ([call for phase in phases for call in calls(getattr(each, phase))] for each in (a, b))
    if ours == theirs:
        return SAME_CALLS
    return SAME_NAMES if [name for name, _ in ours] == [name for name, _ in theirs] else OTHERS


def grads(case, seen, arg):
    """The gradients of an argument; of a plain one those that its columns have, and how large its padding is."""
    if case.placing[arg] != "plain":
        return seen.grads[arg]
    found, padding = of_plain(case, arg, seen.grads[arg])
    return [*found, torch.tensor(padding)]


def calls(traffic):
    """What moved; without whole numbers, such as lengths, which are no part of the result."""
    return sorted((call.name, call.payload) for call in traffic if call.dtype.is_floating_point)
