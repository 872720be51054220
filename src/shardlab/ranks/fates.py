"""One verdict from many ranks: where a rank fails under torchrun, all of them end at once, and the guilty one is named.

A rank that stops leaves the others waiting in a collective, and the first error that one sees is often an innocent
rank's: "connection closed by peer". So every rank has a watcher, a thread, which looks at what all of them share
(torchrun's own store). As soon as one rank fails, each notes there what became of it:

- failed: it raised an error of its own;
- ended: it was told to end, by a signal;
- busy: it is somewhere in a cell of its own, and not in a collective;
- waits: it is in a collective, for others that do not come, or have gone.

A rank that notes nothing is silent: killed, or gone. The verdict names the ranks of the first kind that there are any
of: failed, silent, ended, busy, waits. If as many are busy as wait, either may be the odd ones, and both are named.
"""

import itertools
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from shardlab.plumbing import agreement, board
from shardlab.ranks.faults import blamed

LOOK = 0.1  # seconds between two looks at the store
SETTLE = 3.0  # seconds in which every rank that can note something does so, also where many share a core
LOST = 60.0  # seconds without an answer from the store, after which its host, or the way to it, is gone
KINDS = {
    "failed": "",
    "silent": "ended without a word (killed? out of memory?) in, or soon after, ",
    "ended": "was told to end: ",
    "busy": "never came to where the others wait: ",
    "waits": "waited in vain: ",
}


class Fates:
    """What became of each rank, for all ranks to read."""

    def __init__(self, rank, world):
        self.rank, self.world = rank, world
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, timeout=timedelta(seconds=10))
        self.store = dist.PrefixStore(f"shardlab, start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        self.done, self.answered = threading.Event(), time.monotonic()
        self.signals = caught_signals()
        self.watcher = threading.Thread(target=self.watch, daemon=True)

    def __enter__(self):
        self.watcher.start()
        threading.Thread(target=self.watch_the_watcher, daemon=True).start()
        return self

    def __exit__(self, *error):
        """All went well. (A thread that is in C++ when Python ends would abort the process.)"""
        self.done.set()
        self.watcher.join()

    def begin(self, where):
        """What is known of this rank, should it end without a word."""
        self.store.set(f"last seen {self.rank}", where)

    def fail(self, where, error, text):
        """Note this rank's error. Its watcher, as everyone's, does the rest: this does not return."""
        told = isinstance(error, KeyboardInterrupt)
        self.note("ended" if told else "failed" if is_guilty(self.rank, error) else "waits", where, text)
        threading.Event().wait()

    def note(self, kind, where, text):
        """The first word on a rank counts: its own, or its watcher's."""
        self.store.compare_set(f"rank {self.rank}", "", json.dumps([kind, where, text]))
        self.store.set("over", "")

    def watch(self):
        """Wait until it is over for any rank; then end this one, too."""
        try:
            while not (told := end_was_asked(self.signals)) and not self.there_is("over"):
                if self.done.is_set():
                    return
            self.say_where(told)
            everyone, until = [f"rank {rank}" for rank in range(self.world)], time.monotonic() + SETTLE
            while not self.there_is(*everyone) and time.monotonic() < until:
                time.sleep(LOOK)
            notes = [self.read(rank) for rank in range(self.world)]
            self.end(verdict(notes), culprit=notes[self.rank][0] == "failed")
        except Exception as error:  # above all: the store is gone, and with it the host that kept it
            self.lost(error)
        finally:
            if not self.done.is_set():
                os._exit(1)  # the main thread may be deep in a collective that nothing else ends

    def watch_the_watcher(self):
        """A cut cable says nothing: the watcher would wait for a quarter of an hour, and so would torchrun here."""
        while self.watcher.is_alive():
            self.watcher.join(LOOK)
            if time.monotonic() - self.answered > LOST:
                self.lost(f"no answer from {os.environ['MASTER_ADDR']} for {LOST:.0f} s; torchrun is ended here, too")
                end_parent(self.signals)
                os._exit(1)

    def there_is(self, *keys):
        found = self.store.check([*keys])
        self.answered = time.monotonic()
        return found

    def lost(self, why):
        print(f"FAILED on rank {self.rank} of {self.world}: lost the others ({why})", file=sys.stderr, flush=True)

    def say_where(self, told):
        """Note what this rank is doing. Between two cells it has a moment to say so itself: it may be about to fail."""
        until = time.monotonic() + SETTLE / 2
        while not self.there_is(f"rank {self.rank}"):
            kind, where, text = whereabouts()
            if told or text or time.monotonic() > until:
                self.note("ended" if told else kind, where, text)
            else:
                time.sleep(LOOK)

    def read(self, rank):
        if self.store.check([f"rank {rank}"]):
            return json.loads(self.store.get(f"rank {rank}"))
        seen = f"last seen {rank}"
        return ["silent", self.store.get(seen).decode() if self.store.check([seen]) else "its start", ""]

    def end(self, text, culprit):
        """One rank of each host prints; the others stay until it has, since torchrun ends them all after the first."""
        printed = f"printed on host {os.environ['GROUP_RANK']}"
        if self.store.add(f"{printed}, by", 1) == 1:
            print(text, file=sys.stderr, flush=True)
            self.store.set(printed, "")
        # torchrun's own last lines repeat whom the verdict names
        named = "; ".join(line for line in text.splitlines() if line.startswith("FAILED"))
        note = {"message": named, "extraInfo": {"timestamp": int(time.time()) + (not culprit)}}
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": note}), encoding="utf-8")
        self.store.wait([printed])


def verdict(notes):
    """FAILED on the ranks that it is about, with the place of each, and the traceback of the first of them there."""
    kinds = [kind for kind, _, _ in notes]
    named = {min(kinds, key=list(KINDS).index)}
    if named == {"busy"} and kinds.count("busy") >= kinds.count("waits"):  # no majority says who is the odd one
        named.add("waits")
    places = {}
    for rank, (kind, where, text) in enumerate(notes):
        if kind in named:
            places.setdefault((kind, where), ([], text))[0].append(rank)
    lines = []
    for (kind, where), (ranks, text) in places.items():
        who = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} of {len(notes)}"
        lines += [f"FAILED on {who}: {KINDS[kind]}{where}", text]
    return "\n".join(line for line in lines if line)


def whereabouts():
    """What the main thread is doing: busy or waits, the cell, and the lines that it is in."""
    stack = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident])
    kind = "waits" if any(map(waits_for_others, stack)) else "busy"
    lines = from_the_cell_on(stack)
    return kind, lines[0].filename if lines else "no cell", "".join(traceback.format_list(lines))


def from_the_cell_on(stack):
    """The frames of a stack from the notebook's own cell on, without those of the shell between a cell's lines."""
    own = itertools.dropwhile(lambda frame: ".ipynb" not in frame.filename, stack)
    return [frame for frame in own if not frame.filename.startswith(agreement.SHELL)]


def is_guilty(rank, error):
    """Whether an error is the rank's own, and not that another rank has gone, or does not come, or is the odd one."""
    while error:
        if rank not in blamed(error, rank):
            return False
        error = error.__cause__
    return True


def waits_for_others(frame):
    return frame.filename.startswith((os.path.dirname(dist.__file__), board.__file__))


def caught_signals():
    """SIGTERM, and Ctrl-C, arrive in this pipe, also while the main thread is in a collective."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGTERM, lambda *_: None)
    return reader


def end_parent(signals):
    """End torchrun on this host: it ends its ranks in turn, unless it hears no signal where it waits, and is killed."""
    os.kill(os.getppid(), signal.SIGTERM)
    until = time.monotonic() + 5
    while not end_was_asked(signals):
        if time.monotonic() > until:
            os.kill(os.getppid(), signal.SIGKILL)  # the system ends this rank with it (see `world`)


def end_was_asked(signals):
    ready, _, _ = select.select([signals], [], [], LOOK)
    return bool(ready) and os.read(signals, 1)[0] in (signal.SIGTERM, signal.SIGINT)
