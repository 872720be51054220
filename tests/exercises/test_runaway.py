"""An answer that does not end, prints for ever or changes what others rely on, in one process."""

import linecache
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import numpy
import pytest
import torch

from shardlab import Shards, exercises
from shardlab.exercises import limits
from shardlab.exercises.traces import LINES, MOST

check = exercises.row_linear.check


def right(mesh, X, W):
    return mesh.all_reduce(X @ W)


def cell(body, number=1):
    """A function `answer` of a notebook's cell, as IPython compiles it."""
    text = "def answer(mesh, X, W):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    name = f"/tmp/ipykernel_77/{number}.py"
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    names = {"time": time, "torch": torch, "threading": threading, "Shards": Shards}
    exec(compile(text, name, "exec"), names)
    return names["answer"]


@pytest.fixture(scope="module", autouse=True)
def warm():
    """The first backward imports more than a low limit allows."""
    assert check(right, gradients=True).passed


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(limits, "LIMIT", 0.3)


RUNAWAYS = {
    "a loop": (
        "y_ = X @ W\nwhile True:\n    y_ = y_ + 0",
        r"line (3 of its cell: while True:|4 of its cell: y_ = y_ \+ 0)",
    ),
    "a sleep": ("time.sleep(5)", r"line 2 of its cell: time\.sleep\(5\)"),
    "a loop that catches all": (
        "while True:\n    try:\n        X @ W\n    except BaseException:\n        pass",
        "of its cell: ",
    ),
    "a lock": ("lock = threading.Lock()\nlock.acquire()\nlock.acquire(timeout=5)", "line 4 of its cell: lock.acquire"),
    "a flood": ("while True:\n    print('again')", "of its cell: "),
    "in backward": (
        "class Slow(torch.autograd.Function):\n"
        "    forward = staticmethod(lambda ctx, x: x * 1)\n"
        "    @staticmethod\n"
        "    def backward(ctx, grad):\n"
        "        while True:\n            pass\n"
        "return Shards([Slow.apply(tensor) for tensor in mesh.all_reduce(X @ W).shards], mesh)",
        "backward, line [67] of its cell: ",
    ),
}


@pytest.mark.parametrize("name", RUNAWAYS)
@pytest.mark.parametrize("in_a_thread", [False, True], ids=["", "in a thread"])
def test_an_answer_that_does_not_end_is_told_where_it_is(soon, name, in_a_thread, capsys):
    body, words = RUNAWAYS[name]
    answer, verdicts = cell(body), []

    def ask():
        verdicts.append(exercises.row_linear.check(answer, gradients=True))

    if in_a_thread:
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(60)
    else:
        ask()
    (verdict,) = verdicts
    assert verdict.mistake == "does not end" and "within 0.3 s" in verdict.message
    assert re.search(words, verdict.message.partition("it is at ")[2]), verdict
    assert len(capsys.readouterr().out) <= MOST + 100


def test_the_next_check_is_right_and_nothing_of_a_loop_goes_on(monkeypatch):
    monkeypatch.setattr(limits, "LIMIT", 0.3)
    count = []

    def loops(mesh, X, W):
        while True:
            count.append(1)

    assert check(loops).mistake == "does not end"
    seen = len(count)
    monkeypatch.undo()
    assert check(right, gradients=True).passed
    time.sleep(0.2)
    assert len(count) == seen


def test_an_interrupt_ends_a_loop_and_says_where_it_was():
    """Ctrl-C, or the stop button: the signal comes while the answer runs, in the kernel's main thread as ever."""
    running = threading.Event()

    def loops(mesh, X, W):
        while True:
            running.set()

    def press():
        running.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt, match=r"the answer was at loops, line \d+ of test_runaway.py"):
        check(loops)
    assert check(right).passed


@pytest.mark.parametrize("exercise", ["report_devices", "tolerance"])
def test_the_other_exercises_have_the_limit_too(soon, exercise):
    def loops(*args):
        while True:
            pass

    verdict = getattr(exercises, exercise).check(loops)
    assert verdict.mistake == "does not end" and "loops, line" in verdict.message


# ---------------------------------------------------------------- prints


def test_prints_of_one_try_are_shown(capsys):
    def prints(mesh, X, W):
        print("so many shards:", mesh.size)
        print("beside", file=sys.stderr)
        return right(mesh, X, W)

    assert check(prints).passed
    assert capsys.readouterr() == ("so many shards: 2\nbeside\n", "")
    assert check(lambda mesh, X, W: print("a second check") or right(mesh, X, W)).passed
    assert capsys.readouterr().out == "a second check\n"


def test_what_only_one_try_prints_is_shown(capsys):
    check(lambda mesh, X, W: [print("four")] * (mesh.size == 4) and right(mesh, X, W))
    check(lambda mesh, X, W: (mesh.size == 4 and print("four"), right(mesh, X, W))[1])
    assert capsys.readouterr().out == "four\nfour\n"


def test_a_flood_is_cut(capsys):
    def prints(mesh, X, W):
        for number in range(5_000):
            print("line", number)
        return right(mesh, X, W)

    assert check(prints).passed
    lines = capsys.readouterr().out.splitlines()
    assert lines[: LINES + 1] == [
        *(f"line {i}" for i in range(LINES)),
        f"… and so on: only the first {LINES} lines are shown",
    ]
    assert len(lines) == LINES + 1
    check(lambda mesh, X, W: print("x" * 10**5) or right(mesh, X, W))
    assert MOST <= len(capsys.readouterr().out) < MOST + 100


# ---------------------------------------------------------------- what is left behind


def test_what_an_answer_sets_does_not_reach_the_next_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEPT", "yes")
    torch.manual_seed(3), random.seed(3), numpy.random.seed(3)
    (tmp_path / "elsewhere").mkdir()

    def rude(mesh, X, W):
        torch.set_default_dtype(torch.float16), torch.set_grad_enabled(False), torch.set_default_device("meta")
        torch.set_num_threads(torch.get_num_threads() + 1), torch.set_float32_matmul_precision("medium")
        torch.manual_seed(0), random.seed(0), numpy.random.seed(0)
        torch.set_autocast_enabled("cpu", True)
        os.chdir(tmp_path / "elsewhere")
        os.environ.update(RUDE="yes")
        os.environ.pop("KEPT", None)
        return right(mesh, X, W)

    def state():
        return [
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            torch.get_default_device(),
            torch.get_num_threads(),
            torch.get_float32_matmul_precision(),
            torch.get_rng_state().tolist(),
            random.getstate(),
            numpy.random.get_state()[1].tolist(),
            torch.is_autocast_enabled("cpu"),
            os.getcwd(),
            dict(os.environ),
        ]

    before = state()
    assert check(rude).passed
    assert state() == before
    assert check(right, gradients=True).passed


def makes_zeros(mesh, X, W):
    return mesh.all_reduce(torch.zeros(1, device="cpu").add(1.5).double().item() * (X @ W)) / 1.5


@pytest.mark.parametrize("answer", [right, makes_zeros])
def test_what_a_lesson_has_set_does_not_make_a_right_answer_wrong(answer):
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        torch.set_default_dtype(torch.float16)
        torch.set_default_device("meta")
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert check(answer, gradients=True).passed
            careful = lambda X, W, n: 4 * X.shape[1] ** 0.5 * 2.0**-24 * (X.abs() @ W.abs())  # noqa: E731
            assert exercises.tolerance.check(careful).passed
        assert torch.get_default_dtype() == torch.float16 and torch.get_default_device().type == "meta"
        assert torch.get_num_threads() == 3
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_threads_that_an_answer_leaves_are_ended():
    left = []

    def spins():
        while True:
            time.sleep(0.001)

    def answer(mesh, X, W):
        left.append(threading.Thread(target=spins, daemon=True))
        left[-1].start()
        return right(mesh, X, W)

    assert check(answer).passed
    for thread in left:
        thread.join(20)
    assert left and not any(thread.is_alive() for thread in left)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody knows which thread started a process")
def test_processes_that_an_answer_leaves_are_ended():
    left, mine = [], subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])

    def answer(mesh, X, W):
        left.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]))
        return right(mesh, X, W)

    assert check(answer).passed
    try:
        assert left and not any(os.path.exists(f"/proc/{process.pid}") for process in left)
        assert mine.poll() is None, "one that was there before goes on"
    finally:
        mine.kill()
        mine.wait()


def test_nothing_is_imported_that_takes_long():
    """The settings that are kept are read without torch's compiler, which a first check would wait for."""
    program = "import sys; from shardlab import exercises; "
    program += "assert exercises.row_linear.check(lambda mesh, X, W: mesh.all_reduce(X @ W)); "
    program += "sys.exit('torch._inductor' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=100).returncode == 0
