"""`ranks(4)`: four processes, one shard each, that stay alive, so that a notebook runs a lesson on real ranks.

Here is what the kernel does with them (`Pool`), and what each of them does (`work`). `forks` starts and ends them,
`parcels` is what travels, and `agreement` compares what they are about to do.
"""

import contextlib
import faulthandler
import io
import os
import pickle
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection, wait

import torch
import torch.distributed as dist

from shardlab.mesh import Mesh
from shardlab.plumbing import agreement
from shardlab.plumbing.board import SLOT, Board
from shardlab.plumbing.devices import deal, each_its_gpu
from shardlab.plumbing.world import stay_on_loopback, take_turns
from shardlab.ranks import parcels
from shardlab.ranks.faults import blame, ended, late, raised, source
from shardlab.ranks.forks import Process, server
from shardlab.record import Traffic

LIMIT = 5.0  # seconds that a rank may keep the others waiting


def ranks(size=None, **axes):
    """A pool of real ranks, with the sizes or named axes that a `Mesh` takes.

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
        self.size, self.traffic, self.closed = self.mesh.size, Traffic(), False
        self.devices = deal(None, range(self.size), local=False)
        self.backend = "nccl" if each_its_gpu(self.devices) and dist.is_nccl_available() else "gloo"
        self.mesh.note = f"from {self.size} real ranks, which talk over {self.backend}"
        self.processes, self.folder, self.busy, self.owner = [], None, threading.Lock(), os.getpid()
        with self.alone():
            self.start()

    def run(self, lesson, *args, limit=LIMIT):
        """Run `lesson(mesh, *args)` on every rank, and return what it returns there.

        Shards come back put together, as the Shards of real ranks; anything else as a list, by rank. A rank that
        keeps the others waiting for more than `limit` seconds is an error, as is every other fault of a rank: a
        RankError names the rank and the cause, all ranks are ended, and the next run starts new ones.
        What the lesson's own file or notebook defines is sent with it, as it is now; a module that it imports, each
        rank reads once.
        """
        with self.alone():
            task = parcels.pack_lesson(lesson, args)
            if not self.processes:
                self.start()
            for process in self.processes:
                process.send(task)
            answers = self.collect(limit)
        self.traffic = answers[0][1]
        return parcels.together([result for result, _ in answers], self.mesh)

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
        if not self.busy.acquire(blocking=False):
            raise RuntimeError("this pool is at work for another thread: wait for it, or give each thread its own pool")
        try:
            if self.closed:
                raise RuntimeError(f"this pool is closed: ranks({self.size}) makes another")
            yield
        except parcels.CannotShip:  # the ranks know of nothing
            raise
        except KeyboardInterrupt:
            self.end()
            raise KeyboardInterrupt("all ranks were ended; the next run starts new ones") from None
        except BaseException:
            self.end()
            raise
        finally:
            self.busy.release()

    def start(self):
        """Fork the ranks, and wait until they have met (over a file in a private folder)."""
        self.checked = os.environ.get("SHARDLAB_CHECK") != "0"
        server(work)  # before there is a folder, which ends with its ranks
        self.folder, self.stacks = tempfile.mkdtemp(prefix="shardlab-"), tempfile.TemporaryFile()  # noqa: SIM115
        with tempfile.TemporaryFile() as board:
            board.truncate(self.size * SLOT)
            self.board = Board(board.fileno(), self.size)
            for _ in range(self.size):
                self.processes.append(Process(work, self.folder, board.fileno(), self.stacks.fileno()))
        for rank, process in enumerate(self.processes):
            setup = {"rank": rank, "axes": self.mesh.axes, "backend": self.backend, "device": self.devices[rank]}
            setup |= {"size": self.size, "folder": self.folder, "threads": max(1, count_cores() // self.size)}
            process.send(pickle.dumps(setup | {"path": sys.path, "cwd": os.getcwd(), "environ": dict(os.environ)}))
        self.collect(limit=30)

    def end(self):
        """End every rank, whatever it does, and leave nothing of it behind."""
        for process in self.processes:
            process.let_go()
        for process in self.processes:
            process.status(timeout=5)
            process.close()
        if self.processes:
            self.board.page.close()
            self.stacks.close()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.processes, self.folder = [], None

    def collect(self, limit):
        """The answer of every rank, and its prints to stdout; at a fault, an error, as soon as it is clear whose it
        is."""
        answers, faults, printed, first, lately = {}, {}, {}, None, time.monotonic()
        while len(answers) + len(faults) < self.size:
            pending = [p for rank, p in enumerate(self.processes) if rank not in answers and rank not in faults]
            ready = wait([p.work for p in pending] + [p.life for p in pending], timeout=0.05)
            for process in pending:
                if process.work in ready or process.life in ready:
                    rank, lately = self.processes.index(process), time.monotonic()
                    data = process.receive()
                    if data:
                        kind, answer, printed[rank] = pickle.loads(data)
                    else:
                        kind, answer = "fault", ([rank], ended(process.status(timeout=1)))
                    (answers if kind == "returned" else faults)[rank] = answer
            notes = [self.board.read(rank) for rank in range(self.size)] if not ready and not faults else [None]
            if None not in notes:
                faults = late(notes, answers, lately, limit, self.checked, self.whereabouts)
                if faults:
                    break
            if faults:  # the others have a moment to say what they know; longer, if those that spoke are innocent
                first = first or time.monotonic()
                if time.monotonic() - first > (0.1 if any(guilty for guilty, *_ in faults.values()) else 1):
                    break
        for rank in sorted(printed):
            for line in io.StringIO(printed[rank]):
                print(f"rank {rank}:", line.rstrip("\n"))
        if faults:
            raise blame(faults)
        return [answers[rank] for rank in range(self.size)]

    def whereabouts(self, rank):
        """What a rank is doing: its stack says which line it is at."""
        stacks = self.stacks.fileno()
        start = os.fstat(stacks).st_size
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(self.processes[rank].pid, signal.SIGUSR1)  # faulthandler writes the stack, whatever the rank does
        time.sleep(0.1)
        stack = os.pread(stacks, 100_000, start).decode(errors="replace")
        for file, line, function in re.findall(r'File "(.*)", line (\d+) in (.*)', stack):
            if not agreement.is_plumbing(file):
                return f"it is at {source(file, int(line), function)}"
        return "its stack shows no line of the lesson"


def count_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


# what runs in a rank


def work(work_fd, board_fd, stacks_fd):
    """Meet the other ranks, then answer one lesson after the other, as long as the kernel is there."""
    kernel = Connection(work_fd)
    setup = pickle.loads(kernel.recv_bytes())
    rank, size = setup["rank"], setup["size"]
    sys.path[:] = setup["path"]
    os.environ.clear()
    os.environ.update(setup["environ"], LOCAL_RANK=str(rank))
    os.chdir(setup["cwd"])
    faulthandler.register(signal.SIGUSR1, file=stacks_fd, all_threads=False)
    agreement.swap = partial(Board(board_fd, size).swap, rank)
    with contextlib.suppress(EOFError, BrokenPipeError):
        answer(kernel, rank, lambda: meet(**setup))
        while True:
            task = kernel.recv_bytes()
            answer(kernel, rank, lambda task=task: run(task))


def meet(rank, size, axes, backend, device, folder, threads, **_):
    torch.set_num_threads(threads)
    torch.seed()  # forked ranks would all draw the same numbers, as those of torchrun do not
    os.environ.pop("GLOO_SOCKET_IFNAME", None)  # that is for ranks on several hosts
    stay_on_loopback()
    take_turns()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = dist.FileStore(f"{folder}/store", size)
    own_gpu = device if backend == "nccl" else None  # nccl connects now, and not in the first collective
    options = {"timeout": timedelta(days=1), "device_id": own_gpu}
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, **options)
    parcels.here = Mesh(**axes)


def run(task):
    lesson, args = parcels.unpack(task)
    with parcels.here.record() as traffic:
        return lesson(parcels.here, *args), traffic


def answer(kernel, rank, do):
    """Tell the kernel what `do` returned, or how it failed, and what it printed."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            result = do()
        said = parcels.pack_result(("returned", result, printed.getvalue()))
    except BaseException as error:
        said = pickle.dumps(("fault", raised(error, rank), printed.getvalue()))
    kernel.send_bytes(said)
