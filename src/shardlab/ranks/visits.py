"""When each rank came to which collective, and when that opened, in memory that outlives it (see `timeline`)."""

import mmap
import struct
import time
from collections import Counter
from dataclasses import dataclass

KEPT = 64  # collectives of each rank: of many, the last ones
HEAD, RECORD = struct.Struct("qdd"), struct.Struct("qdd232s")
SLOT = HEAD.size + KEPT * RECORD.size


@dataclass(frozen=True)
class Visit:
    """A rank at a collective: the `number`-th of its group of ranks. Times are in seconds; None is never."""

    what: str  # such as "all_reduce sum at lesson, line 3 of its cell"
    group: tuple
    number: int
    came: float
    opened: float | None = None

    @property
    def gate(self):
        """What all who meet there have in common."""
        return self.group, self.number


class Visits:
    """The memory in the file `fd`: a rank notes its own visits (`begin` to `end`), and the kernel reads them all."""

    def __init__(self, fd, size, rank=None):
        self.size, self.page, self.start = size, mmap.mmap(fd, size * SLOT), (rank or 0) * SLOT
        self.begin()

    def begin(self):
        """A lesson begins."""
        self.count, self.numbers, self.began, self.latest = 0, Counter(), time.monotonic(), None
        self.head()

    def head(self, ended=0.0):
        HEAD.pack_into(self.page, self.start, self.count, self.began, ended)

    def came(self, what, ranks):
        """The rank has come to a collective of these ranks, and waits for the others."""
        group = ",".join(map(str, ranks))
        self.numbers[group] += 1
        self.latest = self.numbers[group], time.monotonic(), f"{group} {what}".encode()[: RECORD.size - 24]
        self.count += 1
        self.record()
        self.head()

    def opened(self):
        """All have come to it, and agree on what it is."""
        self.record(time.monotonic())

    def record(self, opened=0.0):
        number, came, text = self.latest
        place = self.start + HEAD.size + (self.count - 1) % KEPT * RECORD.size
        RECORD.pack_into(self.page, place, number, came, opened, text)

    def end(self):
        """The lesson is over, one way or the other."""
        self.head(time.monotonic())

    # in the kernel

    def clear(self):
        """Before a run: no rank has begun."""
        for rank in range(self.size):
            HEAD.pack_into(self.page, rank * SLOT, 0, 0.0, 0.0)

    def snapshot(self):
        """What is on the page now, without what lies beyond the last record of each rank."""
        counts = [HEAD.unpack_from(self.page, rank * SLOT)[0] for rank in range(self.size)]
        used = [HEAD.size + min(count, KEPT) * RECORD.size for count in counts]
        return [self.page[rank * SLOT : rank * SLOT + room] for rank, room in enumerate(used)]


def unpack(page):
    """(when a rank began, when it ended, its visits in order, how many more there were before), from a snapshot."""
    count, began, ended = HEAD.unpack_from(page)
    visits, lost = [], max(0, count - KEPT)
    for turn in range(lost, count):
        number, came, opened, text = RECORD.unpack_from(page, HEAD.size + turn % KEPT * RECORD.size)
        group, _, what = text.rstrip(b"\0").decode(errors="replace").partition(" ")
        visits.append(Visit(what, tuple(map(int, group.split(","))), number, came, opened or None))
    return began or None, ended or None, visits, lost
