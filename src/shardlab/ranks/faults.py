"""Whose fault is it? A fault of one rank stops all the others, and each of those could be blamed for it.

A rank says of itself what it raised, and the fork server how it ended. Of a rank that says nothing, the board knows
what it waits for, and whether it came where others wait for it. A fault is (the guilty, what they did, where in the
lesson); an innocent rank, which says only that others left it alone, blames nobody.
"""

import linecache
import os
import re
import signal
import time
import traceback

import torch
import torch.distributed as dist

from shardlab.plumbing import agreement

WHAT_NEXT = "All ranks were ended; the next run starts new ones."
HOW_LONG = "(run(…, limit=…) sets how long)"
TORCHS = os.path.dirname(dist.__file__)
OUT_OF_MEMORY = "ran out of memory"


class RankError(RuntimeError):
    """A lesson failed on real ranks: who is guilty (`ranks`), and why."""

    def __init__(self, ranks, message):
        super().__init__(message)
        self.ranks = ranks

    def __reduce__(self):
        return RankError, (self.ranks, str(self))


def blame(faults):
    """One error for all that was said: it names the guilty, says the same thing once, and leaves out the innocent."""
    said = {}
    for rank, (guilty, text, *where) in faults.items():
        ranks, places = said.setdefault(text, ([], []))
        ranks.extend(guilty)
        if rank in guilty or not places:
            places[:] = where
    if any(ranks for ranks, _ in said.values()):
        said = {text: entry for text, entry in said.items() if entry[0]}
    lines = []
    for text, (ranks, places) in said.items():
        lines.append(f"{call(sorted(set(ranks)))} {text}")
        lines += [f"    at {source(*place)}" for place in places]
    lines.append(WHAT_NEXT)
    return RankError(sorted({rank for ranks, _ in said.values() for rank in ranks}), "\n".join(lines))


def call(ranks):
    if not ranks:
        return "a rank"
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def ended(status):
    if status is None:
        return "vanished without a word, as when the fork server is killed"
    if status >= 0:
        return f"ended with exit status {status}, in the middle of the lesson"
    known = {number.value: number.name for number in signal.Signals}
    name = known.get(-status, f"signal {-status}")
    return f"died of {name}" + (", sent by someone, or by the system when memory ran out" if name == "SIGKILL" else "")


def raised(error, rank):
    """(whom this error blames, what it says and where), as a rank reports it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__, limit=-50) if not agreement.is_plumbing(f.filename)]
    said = says(error)
    text = f"raised {said}"
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in said:
        text = f"{OUT_OF_MEMORY}: {said}"
    if isinstance(error, SystemExit):
        text = f"left the lesson with sys.exit({error.code!r})"
    return blamed(error, rank), text, *[(f.filename, f.lineno, f.name) for f in frames]


def says(error):
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # in its own __str__
        return type(error).__name__


def blamed(error, rank):
    """Who is guilty of an error of this rank: those whom the comparison before a collective names; nobody known, if
    torch says that another rank has gone, or does not come; else the rank itself."""
    guilty = getattr(error, "guilty", None)
    if type(guilty) is list:
        return guilty
    trace = traceback.extract_tb(error.__traceback__)
    by_torch = bool(trace) and trace[-1].filename.startswith(TORCHS)
    gone = isinstance(error, RuntimeError) and by_torch and "gloo" in says(error)
    return [] if gone or isinstance(error, dist.DistError) else [rank]


def source(file, line, function):
    """A line of the lesson; the kernel has the text of its own cells."""
    text = linecache.getline(file, line).strip()
    return agreement.site(file, line, function) + (f": {text}" if text else "")


def place(stack):
    """(Which of torch's own collectives is in a stack, if one is; at which line of the lesson), as faulthandler writes
    it, the latest call first."""
    what = None
    for file, line, function in re.findall(r'File "(.*)", line (\d+) in (.*)', stack):
        if file.startswith(TORCHS):
            what = None if function == "<module>" else f"torch's {function}" if function != "wrapper" else what
        elif not agreement.is_plumbing(file):
            return what, f"at {source(file, int(line), function)}"
    return what, "at no line of the lesson"


def waits(notes, answered):
    """{a rank that waits in a collective of the mesh: the ranks that have not come there}"""
    found = {}
    for rank in [rank for rank in range(len(notes)) if rank not in answered]:
        if group := notes[rank].get("group"):
            number = notes[rank]["met"][group]
            if absent := [other for other in map(int, group.split(",")) if notes[other]["met"].get(group, 0) < number]:
                found[rank] = absent
    return found


def awaited(notes, answered):
    """What a lesson is waiting for, as far as that is known without a look at what its ranks do (see `Pool.doing`)."""
    if waiting := waits(notes, answered):
        return "; ".join(
            f"rank {rank} waits in {notes[rank]['came to']}, for {call(waiting[rank])}" for rank in waiting
        )
    pending = [rank for rank in range(len(notes)) if rank not in answered]
    return f"{call(pending)} {'have' if len(pending) > 1 else 'has'} not returned"


def late(notes, answered, lately, limit, checked, doing):
    """The faults of the ranks that others wait for: at once if they have returned, else after `limit` seconds.

    `lately` is when the latest answer came, and `doing(rank)` says which of torch's collectives a rank is in, if it
    is in one, and at which line. Unless collectives are `checked`, the ranks note nothing on the board.
    """
    now, waiting = time.monotonic(), waits(notes, answered)
    for rank, absent in waiting.items():
        if gone := [other for other in absent if other in answered]:
            awaited = any(rank in others for others in waiting.values())
            return parted(rank, notes[rank]["came to"], gone, notes, len(notes[rank]["group"].split(",")), awaited)
    if waiting and now - min(notes[rank]["at"] for rank in waiting) > limit:
        busy = {other for absent in waiting.values() for other in absent} - waiting.keys()
        if not busy:  # in a circle
            return {rank: ([rank], f"waits in {notes[rank]['came to']}, for {call(waiting[rank])}") for rank in waiting}
        rank, what = next((rank, notes[rank]["came to"]) for rank, absent in waiting.items() if busy & {*absent})
        return {other: never_came(other, what, rank, limit, doing(other)) for other in busy & {*waiting[rank]}}
    if now - max([lately, *(note["at"] for note in notes)]) > limit:
        pending = {rank: doing(rank) for rank in range(len(notes)) if rank not in answered}
        return idle(notes, pending, answered, limit, checked)
    return {}


def idle(notes, doing, answered, limit, checked):
    """The faults where no rank is known to wait in a collective of the mesh; but it may wait in one of torch's own."""
    waiting = {rank: f"{what}, {where}" for rank, (what, where) in doing.items() if what}
    if waiting:
        rank, what = next(iter(waiting.items()))
        if busy := [rank for rank in doing if rank not in waiting]:
            return {other: never_came(other, what, rank, limit, doing[other]) for other in busy}
        if answered:
            return parted(rank, what, sorted(answered), notes, len(notes), awaited=False)
        return {rank: ([rank], f"waits in {what}, for more than {limit:g} s {HOW_LONG}") for rank in waiting}
    text = f"came to no collective of its mesh and returned nothing for {limit:g} s"
    if not checked:
        text = f"did not return within {limit:g} s (with SHARDLAB_CHECK=0 nobody knows of its collectives)"
    return {rank: ([rank], f"{text} {HOW_LONG}: it is {where}") for rank, (_, where) in doing.items()}


def never_came(rank, what, other, limit, doing):
    return [rank], f"did not come to {what}, where rank {other} has waited for {limit:g} s: it is {doing[1]}"


def parted(rank, what, gone, notes, size, awaited):
    """A rank waits for some that have returned. Most decide who is at fault; of two, either may be."""
    if 2 * len(gone) > size or awaited:
        return {rank: ([rank], f"waits in {what}, to which {call(gone)} did not come")}
    if size == 2:
        last = notes[gone[0]].get("came to")
        last = f"the last that it came to is {last}" if last else "it came to none"
        text = f"did not make the same calls: rank {rank} waits in {what}; rank {gone[0]} has returned, and {last}"
        return {rank: (sorted([rank, *gone]), text)}
    return {rank: (gone, f"returned without coming to {what}, where rank {rank} waits")}
