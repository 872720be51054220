"""One verdict from many ranks: where a rank fails under torchrun, all of them end at once, and the guilty one is named.

A rank that stops leaves the others waiting in a collective, and the first error that one sees is often an innocent
rank's: "connection closed by peer". So every rank has a watcher, a thread, which looks at what all of them share
(torchrun's own store). As soon as one rank fails, each notes there what became of it:

- failed: it raised an error of its own;
- ended: it was told to end, by a signal;
- busy: it is somewhere in a cell of its own, and not in a collective;
- waits: it is in a collective, for others that do not come, or have gone.

A rank that notes nothing is silent: killed, or gone. The verdict names the ranks of the first kind that there are any
of: failed, silent, ended, busy, waits.
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
SETTLE = 0.5  # seconds until every rank that can note something has done so
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
        self.done = threading.Event()
        self.watcher = threading.Thread(target=self.watch, args=[caught_signals()], daemon=True)

    def __enter__(self):
        self.watcher.start()
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
        self.store.set(f"rank {self.rank}", json.dumps([kind, where, text]))
        self.store.set("over", "")

    def watch(self, signals):
        """Wait until it is over for any rank; then end this one, too."""
        try:
            while not (told := end_was_asked(signals)) and not self.store.check(["over"]):
                if self.done.is_set():
                    return
            if not self.store.check([f"rank {self.rank}"]):
                kind, where, text = whereabouts()
                self.note("ended" if told else kind, where, text)
            time.sleep(SETTLE)
            notes = [self.read(rank) for rank in range(self.world)]
            self.end(verdict(notes), culprit=notes[self.rank][0] == "failed")
        except Exception as error:  # above all: the store is gone, and with it the host that kept it
            print(f"FAILED on rank {self.rank} of {self.world}: lost the others ({error})", file=sys.stderr, flush=True)
        finally:
            if not self.done.is_set():
                os._exit(1)  # the main thread may be deep in a collective that nothing else ends

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
        # torchrun's own last lines repeat the first line of the verdict
        note = {"message": text.splitlines()[0], "extraInfo": {"timestamp": int(time.time()) + (not culprit)}}
        Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps({"message": note}), encoding="utf-8")
        self.store.wait([printed])


def verdict(notes):
    """FAILED on the ranks that it is about, with the place and the traceback of the first of them."""
    guilty = min((kind for kind, _, _ in notes), key=list(KINDS).index)
    places = {}
    for rank, (kind, where, text) in enumerate(notes):
        if kind == guilty:
            places.setdefault(where, ([], text))[0].append(rank)
    lines = []
    for where, (ranks, text) in places.items():
        named = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} of {len(notes)}"
        lines += [f"FAILED on {named}: {KINDS[guilty]}{where}", text]
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


def end_was_asked(signals):
    ready, _, _ = select.select([signals], [], [], LOOK)
    return bool(ready) and os.read(signals, 1)[0] in (signal.SIGTERM, signal.SIGINT)
