"""The world of ranks: how a process that torchrun started joins the others, and leaves them."""

import atexit
import ctypes
import os
import signal
import socket
import weakref
from contextlib import suppress

import torch
import torch.distributed as dist

from shardlab.plumbing import agreement, board
from shardlab.plumbing.devices import deal, each_its_gpu

groups = weakref.WeakKeyDictionary()  # of each world: the names of its process groups, by the axes of a mesh


def joined_world():
    """The number of ranks, where torch.distributed runs (torchrun's environment is joined); 0 in one process."""
    if not dist.is_available():
        return 0
    if not dist.is_initialized() and dist.is_torchelastic_launched():
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        devices = deal(None, range(here), local=False)
        nccl = dist.is_nccl_available() and each_its_gpu(devices)
        own_gpu = devices[int(os.environ["LOCAL_RANK"])] if nccl else None
        one_host = here == int(os.environ["WORLD_SIZE"])
        if one_host:
            stay_on_loopback()  # nothing listens beyond it
        elif not nccl and "GLOO_SOCKET_IFNAME" not in os.environ and only_here(name := socket.gethostname()):
            raise RuntimeError(
                f"on this host its own name, {name}, means loopback, where ranks on other hosts cannot reach it: set "
                "GLOO_SOCKET_IFNAME to the network interface that leads to them, such as eth0 (`ip addr` lists them)"
            )
        if nccl:
            torch.cuda.set_device(own_gpu)
        take_turns()
        end_with_torchrun()
        dist.init_process_group("nccl" if nccl else "gloo", timeout=board.TIMEOUT, device_id=own_gpu)
        agreement.swap = board.shared() if one_host else None
        atexit.register(leave)
    return dist.get_world_size() if dist.is_initialized() else 0


def axis_groups(axes):
    """The name of this rank's process group along each axis; the groups are made once in a world."""
    known, key = groups.setdefault(dist.group.WORLD, {}), tuple(axes.items())
    if key not in known:
        kind = "cuda" if dist.get_backend() == "nccl" else "cpu"
        torchs = dist.init_device_mesh(kind, tuple(axes.values()), mesh_dim_names=tuple(axes))
        known[key] = {axis: torchs.get_group(axis).group_name for axis in axes}
    return known[key]


def stay_on_loopback():
    """Have gloo listen on this host's loopback alone."""
    for name in {"lo", "lo0"} & {name for _, name in socket.if_nameindex()}:  # Linux calls it lo, macOS lo0
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def take_turns():
    """Have the threads of this process, from now on, push no other aside when they wake (Linux).

    gloo's own thread asks again, without a pause, while another thread holds what it wants to lock (`handleEvents` in
    its transport/tcp/pair.cc). Where ranks share cores, it would do so on the core that the other one needs.
    """
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def end_with_torchrun():
    """Have the system end this process, whatever it does, should torchrun be killed, which then ends nobody (Linux)."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def only_here(name):
    try:
        return socket.gethostbyname(name).startswith("127.")
    except OSError:  # an unknown name: gloo, too, takes loopback then
        return True


def leave():
    if dist.is_initialized():
        dist.destroy_process_group()
