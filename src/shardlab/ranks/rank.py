"""What runs in a rank: meet the others, then answer one lesson after the other, as long as the kernel is there."""

import contextlib
import faulthandler
import os
import pickle
import signal
import traceback
import warnings
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from shardlab.mesh import Mesh
from shardlab.plumbing import agreement
from shardlab.plumbing.board import Board
from shardlab.plumbing.world import stay_on_loopback, take_turns
from shardlab.ranks import parcels
from shardlab.ranks.faults import OUT_OF_MEMORY, raised
from shardlab.ranks.outset import Outset, take
from shardlab.ranks.prints import Printer, Prints
from shardlab.ranks.visits import Visits


def work(work_fd, board_fd, stacks_fd, prints_fd, visits_fd):
    kernel = Connection(work_fd)
    os.register_at_fork(after_in_child=kernel.close)  # a fork that a lesson makes has no word here
    setup = pickle.loads(kernel.recv_bytes())
    rank, size = setup["rank"], setup["size"]
    take(setup["settings"])
    os.environ["LOCAL_RANK"] = str(rank)
    faulthandler.register(signal.SIGUSR1, file=stacks_fd, all_threads=False)
    agreement.swap = partial(Board(board_fd, size).swap, rank)
    agreement.log = Visits(visits_fd, size, rank)
    answer = Answers(kernel, rank, Printer(Prints(prints_fd, size), rank))
    with contextlib.suppress(EOFError, BrokenPipeError):
        answer(lambda: meet(**setup))
        outset = Outset()
        outset.draw_own_numbers()
        while True:
            answer(partial(run, kernel.recv_bytes(), outset.begin))
            outset.tidy()


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


def run(task, begin):
    lesson, args = parcels.unpack_lesson(task, begin)
    with parcels.here.record() as traffic, warnings.catch_warnings():
        agreement.log.begin()
        try:
            return lesson(parcels.here, *args), traffic
        finally:
            agreement.log.end()


class Answers:
    """Tells the kernel what something returned, or how it failed."""

    def __init__(self, kernel, rank, printer):
        self.kernel, self.rank, self.printer, self.pid = kernel, rank, printer, os.getpid()
        self.reserve = bytearray(2**20)  # for the last words of a rank that has run out of memory, such as these:
        self.out_of_memory = pickle.dumps(("fault", ([rank], OUT_OF_MEMORY)))

    def __call__(self, do):
        try:
            with contextlib.redirect_stdout(self.printer):
                result = do()
            self.leave_if_fork()
            said = parcels.pack_result(("returned", result))
        except BaseException as error:
            self.leave_if_fork(error)
            said = self.fault(error)
        self.kernel.send_bytes(said)

    def leave_if_fork(self, error=None):
        """A fork of the rank, made by a lesson, has come to the end of the lesson, too: that is its own end."""
        if os.getpid() != self.pid:
            if error and not isinstance(error, SystemExit):
                traceback.print_exception(error)
            os._exit(bool(error))

    def fault(self, error):
        self.reserve = None
        traceback.clear_frames(error.__traceback__)  # and with them what the lesson has filled the memory with
        try:
            return pickle.dumps(("fault", raised(error, self.rank)))
        except MemoryError:
            return self.out_of_memory
