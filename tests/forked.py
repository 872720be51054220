"""Python programs that need not import torch again: forks of a process that has. (Linux; elsewhere plain processes.)

    command = forked.python("-m", "torch.distributed.run", …)      as [sys.executable, "-m", "torch.distributed.run", …]

The command starts this file, without anything imported. It asks the server, which has imported all that is needed, for
a fork of itself, which becomes the program, with the environment, the folder and the streams of the command. Signals
are passed on, and the command ends as the program does; where it is killed, so is the program.

    python tests/forked.py -m torch.distributed.run …

is one such program without a server. In both, the ranks of torchrun are forks of torchrun.
"""

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module

RANKS = "torch.distributed.run", "shardlab.exercises", "shardlab.ranks.notebook"  # what they import
KERNELS = "ipykernel.kernelapp", "matplotlib.figure"
INLINE = "module://matplotlib_inline.backend_inline"  # what a kernel and a notebook on ranks take; read on import
server = None


def python(*program):
    """The command that runs `python *program` in a fork of this process's server, which it starts if need be."""
    if sys.platform != "linux":
        return [sys.executable, *program]
    return [sys.executable, "-I", "-S", __file__, f"socket={socket_of_the_server()}", *program]


def socket_of_the_server():
    """The server starts at the first call, and lives as long as this process, which holds its standard input open."""
    import atexit
    import subprocess

    global server
    if not server:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": INLINE}
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "start_new_session": True}
        server = subprocess.Popen([sys.executable, __file__, "serve"], env=environment, **options)
        server.name = server.stdout.readline().strip()
        atexit.register(server.communicate)  # its end
    return server.name


def kernels():
    """From now on the kernels that this process starts for notebooks are forks, too; they see no GPU."""
    from ipykernel import kernelspec

    known = kernelspec.get_kernel_dict

    def fork(*_, **__):
        command = python("-m", "ipykernel_launcher", "-f", "{connection_file}")
        return known() | {"argv": command, "env": {"CUDA_VISIBLE_DEVICES": ""}}

    kernelspec.get_kernel_dict = fork


# the command


def ask(name, program):
    """Have the server at this socket run a program; its exit status, once it has ended."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(f"\0{name}")
        send(server, [0, 1, 2], program=program, environment=dict(os.environ), folder=os.getcwd())
        answers = server.makefile()
        pid = int(answers.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.killpg(pid, number))
        return int(answers.readline() or 1)


# the server


def serve():
    import select

    for module in RANKS + KERNELS:
        import_module(module)
    listener, owner, held = socket.socket(socket.AF_UNIX), sys.stdin, {}  # held: connection: (pid, its file descriptor)
    name = f"shardlab tests {os.getpid()}"
    listener.bind(f"\0{name}")  # not in any folder
    listener.listen()
    print(name, flush=True)
    while True:
        ready, _, _ = select.select([listener, owner, *held, *(pidfd for _, pidfd in held.values())], [], [])
        for connection, (pid, pidfd) in list(held.items()):
            if pidfd in ready:
                tell(connection, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                connection.close()
                os.close(pidfd)
                del held[connection]
            elif connection in ready or owner in ready:  # nobody is there any more
                os.kill(pid, signal.SIGKILL)
        if owner in ready and not held:
            return
        if listener in ready:
            connection, _ = listener.accept()
            if not (request := receive(connection)):
                continue
            if not (pid := os.fork()):
                os.setsid()
                become(**request)
            for fd in request["streams"]:
                os.close(fd)
            held[connection] = pid, os.pidfd_open(pid)
            tell(connection, pid)


def tell(connection, number):
    with suppress(OSError):  # nobody is there any more
        connection.sendall(b"%d\n" % number)


# in the fork


def become(program, environment, folder, streams):
    """Run the program as Python would, and end."""
    import atexit
    import threading
    import traceback

    status = 1
    try:
        for fd, stream in enumerate(streams):
            os.dup2(stream, fd)
        os.closerange(3, 4096)
        sys.stdout, sys.stderr = map(unbuffered, (1, 2))
        for number in [number for number in signal.valid_signals() if callable(signal.getsignal(number))]:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        run(program)
        status = 0
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else bool(left.code)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def unbuffered(fd):
    """As with `python -u`, for a program that may be killed."""
    import io

    return io.TextIOWrapper(io.FileIO(fd, "w", closefd=False), encoding="utf-8", write_through=True)


def run(program):
    """`python *program`, where that is `-m module …`, `-c code …` or `file …`."""
    import runpy

    if program[0] == "-m":
        sys.argv[:] = program[1:]
        sys.path[0] = os.getcwd()
        if program[1] == "torch.distributed.run":
            ranks_are_forks(int(program[program.index("--nproc-per-node") + 1]))
            del sys.modules[program[1]]  # which is about to run
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    elif program[0] == "-c":
        sys.argv[:] = ["-c", *program[2:]]
        sys.path[0] = ""
        code, main = compile(program[1], "<string>", "exec"), type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(code, vars(main))
    else:
        sys.argv[:] = program
        sys.path[0] = os.path.dirname(os.path.abspath(program[0]))
        runpy.run_path(program[0], run_name="__main__")


def ranks_are_forks(count):
    """Have torchrun, which this process is about to become, take forks for ranks: they wait from now on, when there is
    no thread yet, and nothing of torchrun's on the stack."""
    from subprocess import Popen

    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    spares = [spare() for _ in range(count)]

    class Rank(Popen):
        def __init__(self, args, env, stdout, stderr, start_new_session):
            self.streams = 0, stdout.fileno() if stdout else 1, stderr.fileno() if stderr else 2
            self.request = {"program": args[2:], "environment": env, "folder": os.getcwd()}
            super().__init__(args)

        def _execute_child(self, *_):
            (self.pid, connection), self._child_created = spares.pop(0), True
            send(connection, self.streams, **self.request)

    subprocess_handler.Popen = Rank


def spare():
    """A fork that waits for what it is to become: its pid, and the connection to it."""
    ours, its = socket.socketpair()
    if not (pid := os.fork()):
        os.setsid()
        os.closerange(3, its.fileno())
        os.closerange(its.fileno() + 1, 4096)
        if request := receive(its):
            become(**request)
        os._exit(1)
    its.close()
    return pid, ours


def send(connection, streams, **request):
    request = json.dumps(request).encode()
    socket.send_fds(connection, [b"%-9d" % len(request)], streams)
    connection.sendall(request)


def receive(connection):
    size, streams, _, _ = socket.recv_fds(connection, 9, 3)
    if size:  # else nobody is there any more
        return json.loads(connection.recv(int(size), socket.MSG_WAITALL)) | {"streams": streams}


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    elif sys.argv[1].startswith("socket="):
        status = ask(sys.argv[1].removeprefix("socket="), sys.argv[2:])
        if status < 0:  # as it was killed
            signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(status)
    else:
        for module in RANKS:
            import_module(module)
        run(sys.argv[1:])
