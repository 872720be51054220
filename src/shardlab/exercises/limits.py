"""`run`: try an answer in a thread of its own, where it may loop, sleep or print for ever, and leave nothing behind.

In a fresh thread torch's settings of a thread are fresh too, and Python can end it from outside; whoever called `run`
goes on in any case, and an interrupt reaches it at once.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

from shardlab.exercises.exercise import Wrong
from shardlab.exercises.traces import listening
from shardlab.plumbing.agreement import is_plumbing
from shardlab.ranks.faults import source

LOOK = 0.1  # seconds
LIMIT = 20.0  # seconds for one try: a right answer takes a few milliseconds, on a busy machine perhaps a second


class Stopped(SystemExit):
    """What a thread that is to end finds itself raising; Python says nothing of a SystemExit in a thread."""


def run(function, *args):
    """What `function(*args)` returns or raises; `Wrong` if it does not come to an end, and says where it is."""
    outcome, done, others = [], threading.Event(), set(threading.enumerate())

    def work():
        try:
            outcome[:] = function(*args), None
        except BaseException as error:
            outcome[:] = None, error
        finally:
            end_processes(thread)
            done.set()

    thread = threading.Thread(target=work, daemon=True)  # it does not hold up the end of the program
    with listening():
        thread.start()
        try:
            end = time.monotonic() + LIMIT
            while not done.wait(LOOK) and time.monotonic() < end:
                pass  # a signal that comes just before a wait does not end it
            if not done.is_set():
                raise Wrong("does not end", f"It has not come to an end within {LIMIT:g} s: it is at {place(thread)}.")
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the answer was at {place(thread)}") from None
        finally:
            if not done.is_set():
                end_processes(thread)
                stop(thread)
            for other in set(threading.enumerate()) - others - {thread}:
                if own_line(other):
                    stop(other)
    value, error = outcome
    if error:
        raise error
    return value


def stop(thread, patience=1.0):
    """End a thread: again and again, since it may be in a `try` that catches all. (One that sleeps ends on waking.)"""
    limit = time.monotonic() + patience
    while thread.is_alive() and time.monotonic() < limit:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Stopped))
        thread.join(0.01)


def end_processes(thread):
    """End the processes that a thread has started (Linux knows which)."""
    with contextlib.suppress(OSError):
        for pid in map(int, Path(f"/proc/self/task/{thread.native_id}/children").read_text().split()):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def own_line(thread):
    """The innermost line of the learner's at which a thread is, as (file, line, function); None if there is none."""
    frame = sys._current_frames().get(thread.ident)
    while frame and (is_plumbing(frame.f_code.co_filename) or "site-packages" in frame.f_code.co_filename):
        frame = frame.f_back
    return frame and (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def place(thread):
    line = own_line(thread)
    return source(*line) if line else "no line of its own"
