"""The fork server: a process that has imported torch, and forks a rank in milliseconds. Nothing runs in it.

    this process (the kernel) ── the fork server ── rank 0, rank 1, …

A fork of a process in which torch has run threads may hang, so no rank is a fork of the kernel. Each rank has two
sockets to the kernel: over `work` come lessons and go answers, and `life` holds it alive, since the fork server ends
a rank whose `life` is let go of. A kernel that dies, however it dies, lets go of them all. What a rank has started
ends with it.
"""

import atexit
import contextlib
import ctypes
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from multiprocessing.connection import Connection

PARENT_DEATH_SIGNAL, CHILD_SUBREAPER = 1, 36  # as Linux numbers them: a process gets the orphans of its children
STUCK = struct.pack("@ll", 5, 0)  # seconds after which a pipe that takes no byte more is an error


class Process:
    """One rank, as the kernel sees it: `send` a lesson, wait for its `answer`."""

    def __init__(self, work, folder, *shared):
        """Fork a rank, which does `work` with the files `shared`; `folder` is removed with it."""
        work, its_work = socket.socketpair()
        self.life, its_life = socket.socketpair()
        with its_work, its_life:
            passed = [its_life.fileno(), its_work.fileno(), *shared]
            socket.send_fds(server(work), [folder.encode()], passed)
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            work.setsockopt(socket.SOL_SOCKET, option, STUCK)
        self.work = Connection(work.detach())
        self.life.settimeout(10)
        alive.add(self)
        self.pid = int(self.life.recv(20) or 0)

    def send(self, data):
        with contextlib.suppress(OSError):  # a rank that has ended: its `life` says so
            self.work.send_bytes(data)

    def receive(self):
        """What the rank has sent; None if it has ended."""
        with contextlib.suppress(EOFError, OSError):
            if self.work.poll():
                return self.work.recv_bytes()

    def let_go(self):
        with contextlib.suppress(OSError):
            self.life.shutdown(socket.SHUT_WR)

    def status(self, timeout):
        """The exit status of a rank that ends within this time (minus the signal that killed it)."""
        with contextlib.suppress(OSError, ValueError):
            self.life.settimeout(timeout)
            return int(self.life.recv(20))

    def close(self):
        self.work.close()
        self.life.close()


started, alive, lock = {}, weakref.WeakSet(), threading.Lock()


def server(work):
    """The socket of this kernel's fork server, started at the first call: whatever it forks does `work(*files)`."""
    with lock:
        if os.getpid() not in started or started[os.getpid()][1].poll() is not None:
            ours, its = socket.socketpair()
            path = [str(entry) for entry in sys.path]
            program = f"import sys; sys.path[:] = {path}; from {work.__module__} import {work.__name__} as work; "
            program += f"from shardlab.ranks import forks; forks.serve({its.fileno()}, work)"
            command = [sys.executable, "-c", program]
            options = {"pass_fds": [its.fileno()], "stdin": subprocess.DEVNULL}
            # In a session of its own: Jupyter interrupts and kills a kernel's whole process group.
            process = subprocess.Popen(command, start_new_session=True, **options)
            its.close()
            ours.settimeout(60)
            if ours.recv(1) != b"!":
                raise RuntimeError(f"the fork server of the ranks did not start: exit status {process.wait()}")
            ours.settimeout(10)
            started[os.getpid()] = ours, process
        return started[os.getpid()][0]


@atexit.register
def stop():
    """End the fork server (as the end of the kernel does)."""
    ours, process = started.pop(os.getpid(), (None, None))
    if process:
        ours.close()
        process.wait(10)


def forget():
    """In a fork of the kernel, such as a worker of a DataLoader: let go of what is the kernel's, so that with the
    kernel's end all of it has ended."""
    for process in list(alive):
        process.close()
    for ours, _ in started.values():
        ours.close()
    started.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)


# what runs in the fork server


def serve(fd, work):
    """Fork a rank whenever the kernel asks for one; end with the kernel, and all the ranks with it.

    (The room of `work` has imported torch, and all that a rank needs.)
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kernel, (woken, wake) = socket.socket(fileno=fd), socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a rank has ended: `woken` can be read
    with contextlib.suppress(OSError):  # the kernel may have gone
        kernel.send(b"!")
    prctl(CHILD_SUBREAPER, 1)
    family, held = {}, {}  # pid: (life, folder), and life: pid where the kernel still holds it
    while True:
        ready, _, _ = select.select([kernel, woken, *held], [], [])
        for life in set(ready) & held.keys():
            os.kill(held.pop(life), signal.SIGKILL)
        if woken in ready:
            woken.recv(4096)
            for pid, status in ended():
                for left in children() - family.keys():  # what the rank had started
                    os.kill(left, signal.SIGKILL)
                if pid in family:
                    bury(*family.pop(pid), held, status)
        if kernel in ready:
            folder, fds, _, _ = socket.recv_fds(kernel, 4096, 16)
            if not folder:  # the kernel has ended
                break
            pid = os.fork()
            if pid == 0:
                for other in (kernel, woken, wake, *(life for life, _ in family.values())):
                    other.close()
                become_rank(work, *fds)
            for other in fds[1:]:
                os.close(other)
            life = socket.socket(fileno=fds[0])
            family[pid], held[life] = (life, folder), pid
            tell(life, pid)
    while going := children() or set(family):
        for pid in going:
            os.kill(pid, signal.SIGKILL)
        for pid in going:
            os.waitpid(pid, 0)
            if pid in family:
                bury(*family.pop(pid), held, 0)
    os._exit(0)  # at once: there is nothing to tidy up


def ended():
    """(pid, exit status) of every child that has ended."""
    with contextlib.suppress(ChildProcessError):  # there is none left
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])


def children():
    """The processes that this one has to look after: its ranks, and what is left of those that have ended (Linux)."""
    with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as listed:
        return {int(pid) for pid in listed.read().split()}
    return set()


def bury(life, folder, held, status):
    """Leave nothing of a rank that has ended; one rank less, and the others of its pool have no use for the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    held.pop(life, None)
    tell(life, status)
    life.close()


def tell(life, number):
    with contextlib.suppress(OSError):  # the kernel may have gone
        life.send(b"%-19d\n" % number)


def become_rank(work, life, *fds):
    """In the child: run `work`, and never return into the server's loop."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)  # should the fork server be killed, so is its child
    prctl(CHILD_SUBREAPER, 1)
    status = 1
    try:
        os.close(life)  # the server's own
        work(*fds)
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def prctl(*what):
    """Ask something of Linux; elsewhere it is left."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(*what)
