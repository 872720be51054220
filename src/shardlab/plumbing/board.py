"""`Board`: a page of memory that ranks of one host share: what each of them says, whom it waits for, and since when.

Ranks tell each other here what they are about to do (see `agreement`), in a fraction of the time that a collective
takes. In a pool the kernel reads along, and so knows which rank keeps the others waiting. Ranks of torchrun make a page
of their own (`shared`), unless they are on several hosts.
"""

import json
import mmap
import os
import time
import zlib
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from functools import partial

import torch.distributed as dist

with suppress(ImportError):  # Windows has none, and no page is shared there
    import fcntl

SLOT = 2**16  # bytes for each rank
TIMEOUT = timedelta(seconds=60)  # how long ranks wait for each other
AT_ONCE = 5e-4  # seconds in which ranks that are in step come to the same collective


class Board:
    """The page in the file `fd`, for ranks that someone looks after, as the kernel does after those of a pool."""

    def __init__(self, fd, size):
        self.fd, self.page = fd, mmap.mmap(fd, size * SLOT)
        self.met, self.said = Counter(), {}  # of each group: how often this rank came to it, and what it last said

    def swap(self, rank, ranks, numbers, what):
        """Say `numbers` to the others of a group of ranks, and wait for what they say.

        Two things that a rank said stand on the page, since no other can be further behind: to say the next one it
        has heard all the others say this one.
        """
        group = ",".join(map(str, ranks))
        self.met[group] += 1
        self.said[group] = [*self.said.get(group, [])[-1:], numbers]
        self.write(rank, {"group": group, "came to": what})
        heard, pause, lost, since = {rank: numbers}, 20e-6, None, time.monotonic()
        while True:
            for other in [other for other in ranks if other not in heard]:
                note = self.read(other)
                if note and (ahead := note["met"].get(group, 0) - self.met[group]) >= 0:
                    heard[other] = note["said"][group][-1 - ahead]
            if len(heard) == len(ranks):
                return [heard[other] for other in ranks]
            if lost:  # since before this last look
                raise RuntimeError(lost)
            if (seconds := time.monotonic() - since) < AT_ONCE:
                os.sched_yield()  # a sleep would take longer than the others need
            else:
                time.sleep(pause)
                pause = min(1.2 * pause, 1e-3)
            lost = self.lost([other for other in ranks if other not in heard], seconds)

    def lost(self, absent, seconds):
        """Why it is of no use to wait for the absent; None while it is."""

    def write(self, rank, note):
        text = json.dumps(note | {"met": self.met, "said": self.said, "at": time.monotonic()}).encode()
        text = b"%d %b\n" % (zlib.crc32(text), text)
        self.page[rank * SLOT : rank * SLOT + len(text)] = text

    def read(self, rank):
        """The note of a rank; None if it is just being written."""
        start = rank * SLOT
        end = self.page.find(b"\n", start, start + SLOT)
        check, _, text = self.page[start:end].partition(b" ")
        if end < 0:
            return {"met": {}, "at": 0}
        return json.loads(text) if check == b"%d" % zlib.crc32(text) else None


class OwnBoard(Board):
    """For ranks that nobody looks after: each keeps a lock on its own byte, which the system opens when it ends."""

    def __init__(self, fd, size, rank):
        super().__init__(fd, size)
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)

    def lost(self, absent, seconds):
        if seconds > TIMEOUT.total_seconds():
            return f"waited for {absent} for {seconds:.0f} s"
        if seconds > 0.01 and (gone := list(filter(self.has_ended, absent))):
            return f"{gone} ended"

    def has_ended(self, rank):
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)
        except OSError:
            return False
        fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, rank)
        return True


def shared():
    """How all ranks of torch.distributed, just started on this host, swap numbers over a page; None if they cannot."""
    rank, size, store = dist.get_rank(), dist.get_world_size(), dist.distributed_c10d._get_default_store()
    store = dist.PrefixStore("shardlab's page", store)
    board = None
    with suppress(OSError, AttributeError):  # no such files on this system, or ranks that see no other's processes
        board = OwnBoard(page(rank, size, store), size, rank)
    store.set(f"{rank} has it", str(board is not None))
    votes = [f"{other} has it" for other in range(size)]
    store.wait(votes, TIMEOUT)
    return partial(board.swap, rank) if all(store.get(vote) == b"True" for vote in votes) else None


def page(rank, size, store):
    """A file in memory, without a name on disk: rank 0 makes it, the others find it among its open files (Linux)."""
    if rank == 0:
        where = "nowhere 0"
        try:
            fd = os.memfd_create("shardlab")
            os.truncate(fd, size * SLOT)
            where = f"/proc/{os.getpid()}/fd/{fd} {os.fstat(fd).st_ino}"
        finally:
            store.set("where", where)
        return fd
    store.wait(["where"], TIMEOUT)
    path, inode = store.get("where").decode().split()
    fd = os.open(path, os.O_RDWR)
    if os.fstat(fd).st_ino != int(inode):
        raise OSError(f"{path} is another file")
    return fd
