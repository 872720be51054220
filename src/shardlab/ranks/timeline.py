"""`Timeline`: what the ranks of a pool did in a run, one lane each, as they noted it themselves.

A collective is a gate that opens when the last one comes. Times differ from machine to machine, and from run to run;
the order in which ranks wait for each other does not. So what is shown first is that order alone (Lamport, 'Time,
clocks, and the ordering of events', 1978), and `to_scale` shows the times.
"""

import re
from dataclasses import dataclass, field, replace

from shardlab.pictures import lanes
from shardlab.pictures.still import stills
from shardlab.ranks.faults import call
from shardlab.ranks.visits import unpack

MOST = 4  # gates that a picture shows: of many, the last ones


@dataclass(frozen=True)
class Lane:
    """One rank: from `began` to `ended`, by way of its `visits`. Times are in seconds."""

    began: float
    ended: float
    visits: list
    end: str  # "returned", "failed" (raised an error, or died), "stays" (comes to nothing), "waits"
    said: str = ""  # of a failure: which; of one that stays: where

    @property
    def shut(self):
        """The visit at which the gate never opened, if there is one."""
        return self.visits[-1] if self.visits and self.visits[-1].opened is None else None


@dataclass(frozen=True)
class Timeline:
    """The lanes of all ranks, in rank order."""

    lanes: list = field(default_factory=list)
    before: int = 0  # so many gates were left out, all of them before these
    until: float | None = None  # where a picture ends; None: with the last that is known

    @property
    def gates(self):
        """{gate: the visits there, by rank}, in the order in which they opened; those that stay shut come last."""
        found = {}
        for rank, lane in enumerate(self.lanes):
            for visit in lane.visits:
                found.setdefault(visit.gate, {})[rank] = visit
        return dict(sorted(found.items(), key=lambda item: (opening(item[1]) or float("inf"), item[0])))

    def last(self, most=MOST):
        """The timeline from the last few gates on."""
        gone = [*self.gates][:-most]
        if not gone:
            return self
        begun = {}
        for rank, lane in enumerate(self.lanes):
            passed = [visit.opened for visit in lane.visits if visit.gate in gone and visit.opened]
            begun[rank] = max([lane.began, *passed])
        start, shorter = min(begun.values()), []
        for rank, lane in enumerate(self.lanes):
            left = [moved(visit, start) for visit in lane.visits if visit.gate not in gone]
            times = {"began": begun[rank] - start, "ended": lane.ended - start}
            shorter.append(replace(lane, visits=left, **times))
        return Timeline(shorter, self.before + len(gone), self.until and self.until - start)

    def steps(self):
        """The same in logical time: work is one step, whatever it took, and a gate opens with the last to come."""
        clocks, came, opened = [0.0] * len(self.lanes), {}, {}
        for gate, visits in self.gates.items():  # in an order in which each could open
            came[gate] = {rank: clocks[rank] + 1 for rank in visits}
            opened[gate] = max(came[gate].values())
            for rank in visits:
                clocks[rank] = opened[gate]
        stop = max(clocks, default=0) + (1.5 if None in map(opening, self.gates.values()) else 1)
        stepped = []
        for rank, lane in enumerate(self.lanes):
            visits = [replace(v, came=came[v.gate][rank], opened=v.opened and opened[v.gate]) for v in lane.visits]
            ended = stop if lane.end in ("waits", "stays") else clocks[rank] + (lane.shut is None)
            stepped.append(replace(lane, began=0.0, ended=ended, visits=visits))
        return Timeline(stepped, self.before, stop)

    def to_scale(self, until=None):
        """The picture with the true times, in milliseconds, as HTML; it ends `until` then, or with the last."""
        return picture(replace(self.last(), until=until and until / 1000), 1000, "ms")

    def _repr_html_(self):
        return stills(picture(self.steps().last())) if self.lanes else "<p>no run yet</p>"

    def __repr__(self):
        return says(self.steps().last())


def moved(visit, start):
    """A visit, its times counted from a later start."""
    return replace(visit, came=visit.came - start, opened=visit.opened and visit.opened - start)


def opening(visits):
    """When a gate opened: when the last one came; None if it did not."""
    return None if None in [visit.opened for visit in visits.values()] else max(visit.came for visit in visits.values())


def of_run(snapshot, began, ended, answered, faults, stuck):
    """The timeline of a run of a pool: its ranks' notes (see `Visits.snapshot`), and what the kernel knows of them:
    when it all began and ended, who has `answered`, and the faults, both those that ranks told of themselves and
    those of ranks that are `stuck` (as in `Pool.collect`)."""
    found, before = [], 0
    for rank, page in enumerate(snapshot):
        start, stop, visits, lost = unpack(page)
        before = max(before, lost)
        guilty, text = faults.get(rank, ([], ""))[:2]
        if rank in answered:
            end, text = "returned", ""
        elif rank in guilty:
            end = "failed"
        elif visits and visits[-1].opened is None:
            end, text = "waits", ""
        else:
            end, text = "stays", stuck.get(rank, ([], ""))[1]
        times = (start or began) - began, (stop or ended) - began
        found.append(Lane(*times, [moved(visit, began) for visit in visits], end, short(text)))
    texts = [text for _, text, *_ in faults.values()]
    return refused(Timeline(found, before), texts[0] if texts else "")


def refused(timeline, text):
    """All came to a gate, but brought what does not go together, as a text says: there it ends, for all of them."""
    found = [*timeline.lanes]
    for visits in timeline.gates.values():
        if opening(visits) is None and len(visits) == len(next(iter(visits.values())).group):
            for rank in visits:
                ended = max(visit.came for visit in visits.values())
                found[rank] = replace(found[rank], end="failed", ended=ended, said=brought(text, rank))
    return Timeline(found, timeline.before)


def brought(text, rank):
    """What a rank came with, where all of them are listed.

    >>> brought("… wants one shape on every shard, but they have shard 0: [2, 3], shard 1: [3, 2]. Odd: shard 1", 1)
    'brought [3, 2]'
    """
    found = re.search(rf"\bshard {rank}: (.+?)(?=, shard \d|\. Odd|\. They|$)", text.split("\n")[0])
    return f"brought {found[1]}" if found else short(text)


def short(text):
    """What a fault says, in the few words that a lane has room for.

    >>> short("did not come to all_gather, where rank 0 has waited for 1 s: it is at f, line 3 of its cell: sleep(9)")
    'sleep(9)'
    >>> short("raised ValueError: out of milk")
    'ValueError: out of milk'
    """
    text = re.split(r"\n|, sent by ", text)[0]
    if " it is at " in text:
        place = text.rpartition(" it is at ")[2]
        return place.partition(": ")[2] or place
    return text.removeprefix("raised ")


def says(timeline):
    """The timeline in words, a line per rank: what one hears of the picture, too."""
    if not timeline.lanes:
        return "no run yet"
    gates, lines = timeline.gates, [f"… after {timeline.before} collectives"] * bool(timeline.before)
    for rank, lane in enumerate(timeline.lanes):
        done = [name(visit) for visit in lane.visits if visit.opened is not None]
        if shut := lane.shut:
            absent = [other for other in shut.group if other not in gates[shut.gate]]
            done.append(f"comes to {name(shut)}")
            done.append(f"waits there for {call(absent)}" if absent else "which stays shut")
        ends = {"returned": "returns", "failed": lane.said, "stays": f"comes no further{lane.said and ': '}{lane.said}"}
        done += [ends[lane.end]] if ends.get(lane.end) else []
        lines.append(f"rank {rank}: {', '.join(done)}")
    return "\n".join(lines)


def name(visit):
    """
    >>> from shardlab.ranks.visits import Visit
    >>> name(Visit("all_reduce sum at lesson, line 3 of its cell", (0, 1), 1, 0.0))
    'all_reduce'
    """
    return visit.what.split(" ")[0] + ", backward" * visit.what.endswith(", backward")


def picture(timeline, unit=1.0, said=""):
    """Draw a timeline whose times are in `said`, when multiplied by `unit`; in steps if nothing is said."""
    bars, gates = [bars_of(lane, unit) for lane in timeline.lanes], []
    for visits in timeline.gates.values():
        names, group = dict.fromkeys(map(name, visits.values())), next(iter(visits.values())).group
        came = {rank: visits[rank].came * unit if rank in visits else None for rank in group}
        when = opening(visits)
        gates.append((" ≠ ".join(names), came, when and when * unit))
    until = timeline.until and timeline.until * unit
    return lanes.draw(bars, gates, said, says(timeline).replace("\n", "; "), timeline.before, until)


def bars_of(lane, unit):
    """The bars of a lane, (start, stop, kind, label): it works, waits at a gate, and at last there is its end."""
    bars, at = [], lane.began
    for visit in lane.visits:
        bars.append((at * unit, visit.came * unit, "work", ""))
        at = visit.came
        if visit.opened is not None:
            bars.append((at * unit, visit.opened * unit, "wait", ""))
            at = visit.opened
    last = "wait" if lane.shut else "stay" if lane.end == "stays" else "work"
    bars.append((at * unit, lane.ended * unit, last, lane.said if last == "stay" else ""))
    if lane.end in ("returned", "failed"):
        bars.append((lane.ended * unit, lane.ended * unit, lane.end, lane.said))
    return bars
