"""Which known mistake an answer makes: the one that does as the answer did, in every case.

There are hundreds of candidates: each mistake of the exercise, each slip in the right answer, each slip beside each
mistake. Nearly all of them are ruled out by the plain values of the first case, without a look at what they move, and
what several have in common is worked out once.
"""

from collections import Counter

import torch

from shardlab.exercises.exercise import brief_error
from shardlab.exercises.looking import FORM, GRADIENTS, OWN, ROAD, is_of_lengths, of_plain
from shardlab.exercises.numbers import all_close
from shardlab.exercises.placing import PLACE
from shardlab.exercises.slips import LIKELY, once, slips
from shardlab.exercises.watch import Here, tensors_by_shard, watch_here

NONE, OTHERS, SAME_NAMES, SAME_CALLS, SAME_NUMBERS = range(5)  # the collectives of an answer, beside those of another


def known(exercise, finding, cases, seen, wanted):
    """(name, why) of what does as the answer did in every case: a mistake of this exercise, a slip in the right
    answer, or a slip beside a mistake; None if nothing known does."""
    step = finding.step
    if step == OWN or step == FORM and all(s.trouble is None or s.trouble[0] != "an error" for s in seen):
        return None
    table = [(mistake.name, mistake.why, once(way)) for mistake in exercise.mistakes for way in mistake.ways]
    like = Like(exercise, finding, cases, seen)
    road, one = like.nearest(table)
    if step == ROAD:
        return one or (like.as_loaded(table, wanted) if finding.mistake == "extra communication" else None)
    anywhere, right = list(slips(exercise.placing, step == GRADIENTS, exercise.results)), once(exercise.right)
    if road < SAME_CALLS:
        road, slipped = like.nearest([(name, why, slip(right)) for name, why, slip in anywhere], road)
        one = slipped or one
    if road >= SAME_CALLS or finding.mistake not in (None, "wrong shape"):
        return one
    likely = [slip for slip in anywhere if slip[0] in LIKELY]
    both = ((name, f"{why} {other}", slip(way)) for name, why, slip in likely for _, other, way in table)
    return like.nearest(both, road)[1] or one


class Like:
    """Candidates beside what an answer did: `seen`, in each of the cases, up to and with a step."""

    def __init__(self, exercise, finding, cases, seen):
        self.cases, self.seen, self.step = cases, seen, finding.step
        self.nearest_road = SAME_NUMBERS if self.step >= ROAD else SAME_CALLS
        self.same_road = self.step == ROAD or finding.mistake == "extra communication"
        self.same_work = self.step == ROAD and exercise.products
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
            near = self.nearest_road
            for case, answered in zip(self.cases, self.seen, strict=True):
                done = watch_here(way, case, self.step in (FORM, GRADIENTS))
                near = min(near, road(answered, done, self.step, case.n))
                if near <= best or not self.alike(answered, done, case):
                    break
            else:
                best, found = near, (name, why)
                if best == self.nearest_road:
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

    def alike(self, a, b, case):
        """Did two answers do the same in one case, up to and with this step?"""
        if a.trouble or b.trouble:
            return a.trouble == b.trouble
        if not all_close(a.values, b.values):
            return False
        if self.same_road and calls(a.forward, case.n) != calls(b.forward, case.n):
            return False
        if self.same_work and (a.flops, a.placed) != (b.flops, b.placed):
            return False
        return self.step < GRADIENTS or all(all_close(grads(case, a, arg), grads(case, b, arg)) for arg in a.grads)

    def as_loaded(self, candidates, wanted):
        """The first candidate whose largest collective beyond those that are wanted, a gather, is the answer's, too."""
        loads = [largest(*each) for each in zip(self.seen, wanted, self.cases, strict=True)]
        for name, why, way in candidates if any(load and load[1] == "all_gather" for load in loads) else []:
            if self.may_be(way):
                done = [watch_here(way, case, False) for case in self.cases]
                if loads == [largest(*each) for each in zip(done, wanted, self.cases, strict=True)] and all(
                    all_close(a.values, b.values) for a, b in zip(done, self.seen, strict=True)
                ):
                    return name, why
        return None


def largest(seen, wanted, case):
    """The largest of the collectives, as (bytes, name), that are not wanted; None if there is none."""
    beyond = Counter(calls(seen.forward, case.n)) - Counter(calls(wanted.forward, case.n))
    return max(((payload, name) for name, payload in beyond), default=None)


def road(a, b, step, n):
    """How near the communication of one answer is to another's."""
    phases = ("forward", "backward") if step == GRADIENTS else ("forward",)
    ours, theirs = ([call for phase in phases for call in calls(getattr(each, phase), n)] for each in (a, b))
    if ours == theirs:
        return SAME_NUMBERS if step >= ROAD and moved_alike(a, b) else SAME_CALLS
    return SAME_NAMES if [name for name, _ in ours] == [name for name, _ in theirs] else OTHERS


def moved_alike(a, b):
    """Did the shards bring the same numbers to the same collectives?"""
    names = [[name for name, _, _ in each.moved] for each in (a, b)]
    return names[0] == names[1] and all(
        all_close(given, other) for (_, given, _), (_, other, _) in zip(a.moved, b.moved, strict=True)
    )


def grads(case, seen, arg):
    """The gradients of an argument; of a plain one those that its columns have, and how large its padding is."""
    if case.placing[arg] != "plain":
        return seen.grads[arg]
    found, padding = of_plain(case, arg, seen.grads[arg])
    return [*found, torch.tensor(padding)]


def calls(traffic, n):
    return sorted((call.name, call.payload) for call in traffic if not is_of_lengths(call, n))
