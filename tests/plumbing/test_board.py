"""The page on which ranks of one host tell each other what they are about to do."""

import os
import random
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
from test_ranks import torchrun

from shardlab.plumbing import board
from shardlab.plumbing.board import SLOT, Board

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="files in memory are Linux's")


@pytest.fixture
def page():
    fd = os.memfd_create("test")
    os.truncate(fd, 4 * SLOT)
    yield fd
    os.close(fd)


def at_once(*functions):
    """Each function in a thread of its own; what they return."""
    found = [None] * len(functions)

    def keep(index):
        found[index] = functions[index]()

    threads = [threading.Thread(target=keep, args=[index], daemon=True) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return found


def test_every_rank_hears_all_the_others_each_time(page):
    """However far one is ahead of another: a slow reader still finds what was said last and the time before."""
    ranks, turns = range(4), 100

    def talk(rank):
        own, late = Board(page, 4), random.Random(rank)
        for turn in range(turns):
            if late.random() < 0.2:
                time.sleep(late.random() / 200)
            yield own.swap(rank, list(ranks), [rank, turn, 2**60 + turn], "a test")

    heard = at_once(*[lambda rank=rank: list(talk(rank)) for rank in ranks])
    assert heard == [[[[rank, turn, 2**60 + turn] for rank in ranks] for turn in range(turns)]] * 4


def test_groups_do_not_hear_each_other(page):
    """Rows and columns of four ranks, as of a mesh with two axes, at different speeds."""
    rows, columns = {0: [0, 1], 1: [0, 1], 2: [2, 3], 3: [2, 3]}, {0: [0, 2], 2: [0, 2], 1: [1, 3], 3: [1, 3]}

    def talk(rank):
        own, found = Board(page, 4), []
        for turn in range(20):
            time.sleep(rank / 2000)
            for group in (rows[rank], columns[rank]):
                found.append(own.swap(rank, group, [rank, turn], "a test") == [[other, turn] for other in group])
        return found

    assert at_once(*[lambda rank=rank: talk(rank) for rank in range(4)]) == [[True] * 40] * 4


def test_what_is_being_written_is_not_read(page):
    own, other = Board(page, 4), Board(page, 4)
    assert other.read(1) == {"met": {}, "at": 0}
    own.write(1, {"came to": "here"})
    assert other.read(1)["came to"] == "here"
    at = SLOT + own.page[SLOT : 2 * SLOT].index(b"here")
    own.page[at : at + 4] = b"ther"
    assert other.read(1) is None


HELD = """
import sys
from shardlab.plumbing.board import OwnBoard
own = OwnBoard(int(sys.argv[1]), 4, 1)
print("here", flush=True)
sys.stdin.read()
"""


def test_a_rank_that_lives_is_awaited_and_one_that_was_killed_is_not(page):
    own = board.OwnBoard(page, 4, 0)
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "pass_fds": [page]}
    with subprocess.Popen([sys.executable, "-c", HELD, str(page)], **options) as other:
        assert other.stdout.readline() == "here\n"
        assert [own.lost([1], seconds=1) for _ in range(3)] == [None] * 3
        other.kill()
    assert own.lost([1], seconds=1) == "[1] ended"


def test_a_rank_is_not_awaited_for_ever(page, monkeypatch):
    own = board.OwnBoard(page, 4, 0)
    assert own.lost([1], seconds=0) is None
    assert own.lost([1, 2], seconds=1) == "[1, 2] ended", "nobody holds their locks"
    monkeypatch.setattr(board, "TIMEOUT", timedelta(seconds=0.05))
    monkeypatch.setattr(board.OwnBoard, "has_ended", lambda self, rank: False)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"waited for \[1\]"):
        own.swap(0, [0, 1], [1], "a test")
    assert time.monotonic() - start < 5


PROGRAM = """
import os, sys
real = os.open
def forbidden(path, *args, **options):
    if str(path).startswith("/proc/") and os.environ["RANK"] == "1":
        raise PermissionError(path)
    return real(path, *args, **options)
os.open = forbidden
import torch
from shardlab import Mesh
from shardlab.plumbing import agreement
mesh = Mesh()
sum_ = mesh.all_reduce(mesh.replicate(torch.ones(2)))
print(agreement.swap, sum_.shards[0].tolist())
"""


@pytest.mark.ranks
@pytest.mark.timeout(180)
def test_if_one_rank_cannot_see_the_page_none_uses_it(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    status, out, err = torchrun(2, str(program))
    assert (status, out.count("None"), out.count("[2.0, 2.0]")) == (0, 2, 2), err
