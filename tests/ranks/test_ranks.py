"""One shard per process: torchrun on 2 and on 4 ranks gives what one process gives, and stops where it cannot."""

import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import psutil
import pytest
import ranks_program
import torch

import forked

LIMIT = 90  # seconds for one launch, then everything it started is ended
pytestmark = [pytest.mark.ranks, pytest.mark.timeout(2 * LIMIT)]


def torchrun(n, program, *args, cuda="", start=forked.python):
    """Run a program on n ranks of this machine, which see these CUDA devices; (exit status, stdout, stderr).
    Nothing it started outlives it. They start as forks, or, with `plainly`, as a reader's do."""
    command = start("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), program, *args)
    environment = {k: v for k, v in os.environ.items() if k not in ("SHARDLAB_DEVICES", "GLOO_SOCKET_IFNAME")}
    with tempfile.TemporaryDirectory() as scratch:
        environment |= {"OMP_NUM_THREADS": "1", "TMPDIR": scratch, "CUDA_VISIBLE_DEVICES": cuda}
        launch = subprocess.Popen(
            command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
        )
        try:
            out, err = launch.communicate(timeout=LIMIT)
        finally:
            end(launch)
    return launch.returncode, out, err


def plainly(*program):
    return [sys.executable, *program]


def end(launch):
    """End the launch and all its descendants (torchrun's workers lead sessions of their own)."""
    try:
        family = [*psutil.Process(launch.pid).children(recursive=True), psutil.Process(launch.pid)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=10)


class Launch:
    def __init__(self, n, how="page", cuda=""):
        self.n, self.how = n, how
        with tempfile.TemporaryDirectory() as folder:
            start = plainly if (n, how) == (2, "page") else forked.python
            self.status, self.out, self.err = torchrun(n, ranks_program.__file__, folder, how, cuda=cuda, start=start)
            files = [Path(folder) / f"rank{rank}.pt" for rank in range(n)]
            assert self.status == 0 and all(file.exists() for file in files), self.err[-6000:]
            assert len(list(Path(folder).iterdir())) == n
            self.ranks = [torch.load(file, weights_only=True) for file in files]


launched = cache(Launch)  # one launch of each kind, however many tests look at it
KINDS = {"2 ranks": (2, "page"), "4 ranks": (4, "page"), "2 ranks, as on two hosts": (2, "wire")}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def launch(request):
    return launched(*request.param)


def test_ranks_of_one_host_share_a_page(launch):
    assert [rank["page"] for rank in launch.ranks] == [launch.how == "page"] * launch.n


def test_the_ranks_are_processes_with_one_shard_each(launch):
    assert [rank["rank"] for rank in launch.ranks] == list(range(launch.n))
    pids = {rank["pid"] for rank in launch.ranks}
    assert len(pids) == launch.n and os.getpid() not in pids
    for rank in launch.ranks:
        assert rank["world"] == rank["n"] == launch.n and rank["held"] == 1 and rank["backend"] == "gloo"


def test_nothing_is_left_running_and_nothing_is_said(launch):
    assert not [rank["pid"] for rank in launch.ranks if psutil.pid_exists(rank["pid"])]
    assert launch.out == ""
    assert launch.err == "", launch.err


def test_ranks_listen_on_loopback_alone(launch):
    for rank in launch.ranks:
        assert rank["listening"], "gloo listens while it runs"
        assert set(rank["listening"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no such policy")
def test_the_threads_of_gloo_take_turns(launch):
    for rank in launch.ranks:
        assert rank["policy"] and set(rank["policy"]) == {os.SCHED_BATCH}


def every_check():
    return [
        pytest.param((n, how), name, id=f"{kind}: {name}")
        for kind, (n, how) in KINDS.items()
        for name in ranks_program.checks(n)
    ]


@pytest.mark.parametrize(("launch", "name"), every_check(), indirect=["launch"])
def test_same_values_gradients_and_traffic_as_in_one_process(launch, name):
    check = ranks_program.checks(launch.n)[name]
    compare(launch, ranks_program.observe(check, launch.n), [rank["checks"][name] for rank in launch.ranks])


def test_errors_leave_the_ranks_in_step(launch):
    compare(launch, ranks_program.observe(ranks_program.column, launch.n), [rank["after"] for rank in launch.ranks])


def compare(launch, expected, ranks):
    assert expected["values"]
    for index, rank in enumerate(ranks):
        assert rank["values"].keys() == expected["values"].keys()
        for key, (value,) in rank["values"].items():
            same(value, expected["values"][key][index], key)
        # A call shows the shape of one shard: the first one's in one process, its own on each rank.
        kinds = [[call[:3] + call[4:5] for call in one["traffic"]] for one in (rank, expected)]
        assert kinds[0] == kinds[1]
    assert ranks[0]["traffic"] == expected["traffic"]


def same(value, want, key):
    """Equal up to the order of at most 3 additions, of values below 32 (gloo adds in an order of its own)."""
    low = want.dtype in (torch.bfloat16, torch.float16)
    close = {"rtol": 0, "atol": 3 * 32 * torch.finfo(want.dtype).eps / 2} if low else {}
    torch.testing.assert_close(value, want, **close, msg=lambda message: f"{key}: {message}")


TOLD = {
    "another size": r"^ValueError: Mesh\(tp=3\) wants 3 shards, but torch.distributed runs {n} ranks.*Mesh\({n}\)",
    "other axes": r"^ValueError: Mesh\(dp=3, tp=5\) wants 15 shards, but torch.distributed runs {n} ranks",
    "shape": r"^ValueError: all_reduce wants one shape.*shard 0: \[2, 3\], shard 1: \[2, 4\]",
    "dtype": r"^ValueError: all_gather wants one dtype.*shard 0: float64, shard 1: int64",
    "dims": r"^ValueError: all_gather along dim 0.*shard 0: \[2\], shard 1: \[2, 2\]",
    "order": r"^ValueError: .*one call on every shard.*shard 0: all_reduce sum, shard 1: all_gather",
    "order backward": r"^ValueError: .*one call on every shard.*shard 0: all_reduce sum, shard 1: all_gather",
    "scatter": r"^ValueError: scatter along dim 0 wants one value on every shard",
    "step": r"^ValueError: shift wants one by on every shard, but they have shard 0: 0, shard 1: 1",
    "dtype that does not travel": r"^TypeError: int16 .*does not travel between ranks",
    "bools": r"^TypeError: all_reduce of bools: count them with x_.int\(\)",
}


@pytest.mark.parametrize("mistake", ranks_program.MISTAKES)
def test_a_mistake_is_told_on_every_rank(launch, mistake):
    pattern = TOLD[mistake].replace("{n}", str(launch.n))
    for rank in launch.ranks:
        error = rank["errors"][mistake]
        assert re.search(pattern, error, re.DOTALL), error


def test_a_rank_that_is_left_alone_is_told_so(launch):
    said = launch.ranks[0]["alone"]
    assert re.match(r"RuntimeError: shard 0 came to all_reduce sum at .*, line \d+ of .*, but not every other", said)


@pytest.mark.parametrize("exercise", ranks_program.ANSWERS)
def test_exercises_are_checked_on_ranks_too(launch, exercise):
    for rank in launch.ranks:
        passed, message, wrong_passed, mistake = rank["verdicts"][exercise]
        assert passed, message
        assert not wrong_passed and mistake != "None"


def test_an_answer_that_fails_on_one_rank_is_told_on_all_and_the_next_check_is_right(launch):
    for rank in launch.ranks:
        assert f"On rank 1 of {launch.n} it ends in ZeroDivisionError" in rank["verdicts"]["on one rank only"]
        assert rank["verdicts"]["after it"]
