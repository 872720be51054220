"""`ranks(4)`: four processes, one shard each, that stay alive, so that a notebook runs a lesson on real ranks.

Here is what the kernel does with them; `rank` is what each of them does. `forks` starts and ends them, `parcels` is
what travels, `outset` what a lesson finds when it begins, and `faults` says whose fault it is when it fails.
"""

import contextlib
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
from multiprocessing.connection import wait
from numbers import Real

import torch.distributed as dist

from shardlab.mesh import Mesh
from shardlab.plumbing import board
from shardlab.plumbing.devices import deal, each_its_gpu
from shardlab.ranks import parcels, prints, visits
from shardlab.ranks.faults import awaited, blame, ended, late, place
from shardlab.ranks.forks import Process, server
from shardlab.ranks.outset import settings
from shardlab.ranks.prints import shared_file
from shardlab.ranks.rank import work
from shardlab.ranks.results import together
from shardlab.ranks.timeline import Timeline, of_run
from shardlab.record import Traffic

LIMIT = 30.0  # seconds that a rank may keep the others waiting
PATIENCE = 5.0  # seconds after which one is told whom they wait for, unless one has set a limit oneself


def ranks(size=None, **axes):
    """A pool of real ranks, with the sizes or named axes that a `Mesh` takes.

    >>> import torch
    >>> def lesson(mesh, X, W):
    ...     p_ = mesh.shard(X, dim=1) @ mesh.shard(W, dim=0)  # this line runs in two processes
    ...     return mesh.all_reduce(p_)
    >>> with ranks(2) as pool:
    ...     y_ = pool.run(lesson, torch.ones(1, 4), torch.eye(4))
    >>> y_.shards, pool.traffic.names
    ([tensor([[1., 1., 1., 1.]]), tensor([[1., 1., 1., 1.]])], ['all_reduce'])
    """
    return Pool(size, **axes)


class Pool:
    """Real ranks, ready to run lessons. `traffic` is what moved in the latest run, as rank 0 recorded it."""

    def __init__(self, size=None, **axes):
        self.mesh = Mesh(size, devices=["cpu"], **axes)  # what comes back lives here, on the CPU
        self.size, self.traffic, self.course, self.closed = self.mesh.size, Traffic(), None, False
        self.devices = deal(None, range(self.size), local=False)
        self.backend = "nccl" if each_its_gpu(self.devices) and dist.is_nccl_available() else "gloo"
        self.mesh.note = f"from {self.size} real ranks, which talk over {self.backend}"
        self.processes, self.folder, self.busy, self.owner = [], None, threading.Lock(), os.getpid()
        with self.alone() as check:
            self.start(check)

    def run(self, lesson, *args, limit=LIMIT):
        """Run `lesson(mesh, *args)` on every rank, and return what it returns there.

        Shards come back put together, as the Shards of real ranks; anything else as a list, by rank. A rank that
        keeps the others waiting for more than `limit` seconds is an error, as is every other fault of a rank: a
        RankError names the rank and the cause, all ranks are ended, and the next run starts new ones.

        What you have written, in the notebook or in modules of your own, is sent with the lesson as it is now. A
        lesson begins with the kernel's settings (default dtype, no_grad, working directory, environment, …), and
        what it sets itself ends with it. A tensor takes its `.grad` along, and nothing else of its history.
        """
        limit, task = seconds(limit), parcels.pack_lesson(lesson, args, settings())
        with self.alone() as check:
            if not self.processes:
                self.start(check)
            self.prints.clear()
            self.visits.clear()
            self.began = time.monotonic()
            for process in self.processes:
                process.send(task)
            answers = self.collect(limit, check)
        self.traffic = answers[0][1]
        return together([result for result, _ in answers], self.mesh)

    @property
    def timeline(self):
        """Who waited for whom in the latest run, also in one that failed."""
        return of_run(*self.course) if self.course else Timeline()

    @property
    def pids(self):
        return [process.pid for process in self.processes]

    def close(self):
        """End the ranks."""
        if not self.closed and self.owner == os.getpid():  # a fork of that process leaves the ranks to it
            with self.alone():
                self.end()
                self.closed = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __repr__(self):
        if self.closed:
            return f"ranks({self.size}), closed"
        said = [f"ranks({self.size}): {self.size} processes, one shard each, which talk over {self.backend}"]
        gpus, cores = {device for device in self.devices if device.type == "cuda"}, count_cores()
        if 0 < len(gpus) < self.size:
            said.append(f"they share {len(gpus)} GPU{'s'[: len(gpus) - 1]}, and nccl wants one for each rank: their "
                        "values pass through host memory")  # fmt: skip
        elif not gpus and cores < self.size:
            said.append(f"they take turns on {cores} cores: right results, but no measure of {self.size} machines")
        return "; ".join(said)

    # how it is done

    @contextlib.contextmanager
    def alone(self):
        """One caller at a time; after any fault no rank is left."""
        if self.owner != os.getpid():
            raise RuntimeError(f"this pool belongs to process {self.owner}: ranks({self.size}) makes another one here")
        with interrupts_held() as check:
            if not self.busy.acquire(blocking=False):
                raise RuntimeError("this pool is at work for another thread: wait, or give each thread its own pool")
            try:
                if self.closed:
                    raise RuntimeError(f"this pool is closed: ranks({self.size}) makes another")
                yield check
            except KeyboardInterrupt:
                self.end()
                raise KeyboardInterrupt("all ranks were ended; the next run starts new ones") from None
            except BaseException:
                self.end()
                raise
            finally:
                self.busy.release()

    def start(self, check):
        """Fork the ranks, and wait until they have met (over a file in a private folder)."""
        self.checked = os.environ.get("SHARDLAB_CHECK") != "0"
        server(work)  # before there is a folder, which ends with its ranks
        self.folder, self.stacks = tempfile.mkdtemp(prefix="shardlab-"), shared_file(0)
        with contextlib.ExitStack() as stack:
            pages = [stack.enter_context(shared_file(self.size * room.SLOT)) for room in (board, prints, visits)]
            files = [page.fileno() for page in pages]
            self.board, self.prints = board.Board(files[0], self.size), prints.Prints(files[1], self.size)
            self.visits = visits.Visits(files[2], self.size)
            files.insert(1, self.stacks.fileno())
            for _ in range(self.size):
                self.processes.append(Process(work, self.folder, *files))
        setup = {"axes": self.mesh.axes, "size": self.size, "backend": self.backend, "folder": self.folder}
        setup |= {"threads": max(1, count_cores() // self.size), "settings": settings()}
        self.began = time.monotonic()
        for rank, process in enumerate(self.processes):
            process.send(pickle.dumps(setup | {"rank": rank, "device": self.devices[rank]}))
        self.collect(60, check)
        self.course = None  # that was no run

    def end(self):
        """End every rank, whatever it does, and leave nothing of it behind."""
        processes, self.processes = self.processes, []
        for process in processes:
            process.let_go()
        for process in processes:
            process.status(timeout=5)
            process.close()
        if processes:
            for shared in (self.board.page, self.prints.page, self.visits.page, self.stacks):
                shared.close()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = None

    def collect(self, limit, check):
        """The answer of every rank; at a fault, an error, as soon as it is clear whose it is. What the ranks print is
        shown in any case."""
        answers, faults, stuck, first, lately, told = {}, {}, {}, None, self.began, limit != LIMIT
        try:
            while len(answers) + len(faults) < self.size:
                pending = [p for rank, p in enumerate(self.processes) if rank not in answers and rank not in faults]
                ready = wait([p.work for p in pending] + [p.life for p in pending], timeout=0.05)
                check()
                for process in pending:
                    if process.work in ready or process.life in ready:
                        rank, lately = self.processes.index(process), time.monotonic()
                        data = process.receive()
                        kind, answer = parcels.unpack(data) if data else ("fault", ([rank], ended(process.status(1))))
                        (answers if kind == "returned" else faults)[rank] = answer
                notes = self.notes() if not ready and not faults else [None]
                if None not in notes:
                    if stuck := late(notes, answers, lately, limit, self.checked, self.doing):
                        break
                    if not told and time.monotonic() - max([lately, *(note["at"] for note in notes)]) > PATIENCE:
                        told = tell(awaited(notes, answers), limit)
                if faults:  # the others have a moment to say what they know; longer, if those that spoke are innocent
                    first = first or time.monotonic()
                    if time.monotonic() - first > (0.1 if any(guilty for guilty, *_ in faults.values()) else 1):
                        break
        finally:
            self.course = self.visits.snapshot(), self.began, time.monotonic(), {*answers}, faults, stuck
            for rank in range(self.size):
                for line in self.prints.lines(rank):
                    print(f"rank {rank}:", line)
        if faults or stuck:
            raise blame(faults or stuck)
        return [answers[rank] for rank in range(self.size)]

    def notes(self):
        """What each rank has noted on the board; in this run, if it tells of a place."""
        notes = [self.board.read(rank) for rank in range(self.size)]
        for note in filter(None, notes):
            if note["at"] < self.began:
                note.pop("came to", None)
        return notes

    def doing(self, rank):
        """What a rank is doing, by its stack."""
        stacks = self.stacks.fileno()
        start = os.fstat(stacks).st_size
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(self.processes[rank].pid, signal.SIGUSR1)  # faulthandler writes the stack, whatever the rank does
        time.sleep(0.1)
        return place(os.pread(stacks, 100_000, start).decode(errors="replace"))


def tell(text, limit):
    print(f"After {PATIENCE:g} s {text}. (After {limit:g} s it is an error: run(…, limit=…).)", file=sys.stderr)
    return True


def count_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def seconds(limit):
    if isinstance(limit, bool) or not isinstance(limit, Real) or not limit > 0:
        raise ValueError(
            f"limit={limit!r} is no time: it wants a number of seconds above 0, such as limit=60 "
            "(limit=float('inf') waits as long as it takes)"
        )
    return float(limit)


@contextlib.contextmanager
def interrupts_held():
    """Ctrl-C, or the stop button, pressed once or often, counts where `check()` is called, and nowhere else in here:
    not in the middle of starting or ending a rank. (Python interrupts its main thread alone.)"""
    pressed, before = [], signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def check():
        if pressed:
            pressed.clear()
            before(signal.SIGINT, None)

    signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    try:
        yield check
    except KeyboardInterrupt:
        pressed.clear()  # pressed again, meanwhile
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        check()
