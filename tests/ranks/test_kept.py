"""Pools that are kept: the same processes for the next call, and none of them once nobody uses them."""

import os
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch

from shardlab.ranks import RankError
from shardlab.ranks.kept import Kept

pytestmark = pytest.mark.ranks


@pytest.fixture
def pools():
    kept = Kept()
    yield kept
    kept.close()


def pids(mesh):
    return os.getpid()


def run(pools, size):
    with pools.of(size) as pool:
        return pool.run(pids)


def gone(processes, within=10):
    """Whether all these processes end in time."""
    limit = time.monotonic() + within
    while any(map(psutil.pid_exists, processes)) and time.monotonic() < limit:
        time.sleep(0.05)
    return not any(map(psutil.pid_exists, processes))


def test_the_same_processes_run_the_next_call(pools):
    first = run(pools, 2)
    assert run(pools, 1) != first[:1]
    assert run(pools, 2) == first
    assert len({*first, *run(pools, 1)}) == 3 and set(pools.pools) == {1, 2}


def test_close_ends_them_and_the_next_call_starts_others(pools):
    first = run(pools, 2) + run(pools, 1)
    pools.close()
    assert gone(first) and pools.timer is None
    second = run(pools, 2)
    assert not set(first) & set(second)


def test_a_pool_that_nobody_uses_is_closed_in_time():
    pools = Kept(idle=2.0)
    try:
        early = run(pools, 1)
        late = run(pools, 2)
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            assert run(pools, 2) == late, "a pool in use was closed"
            time.sleep(0.1)
        assert gone(early, within=3)
        assert gone(late) and not pools.pools and pools.timer is None
    finally:
        pools.close()


def test_a_pool_is_not_closed_while_it_works():
    pools = Kept(idle=0.2)
    try:
        with pools.of(1) as pool:
            pool.run(pids)
        with pools.of(1) as pool:
            assert pool.run(lambda mesh: time.sleep(1.0)) == [None]
    finally:
        pools.close()


def test_threads_take_turns(pools):
    got, threads = [], [threading.Thread(target=lambda: got.append(run(pools, 2))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(got) == 3 and got.count(got[0]) == 3


def test_after_a_fault_there_are_other_ranks(pools):
    first = run(pools, 2)
    with pytest.raises(RankError, match="rank 1 left the lesson"), pools.of(2) as pool:
        pool.run(lambda mesh: sys.exit(3) if torch.distributed.get_rank() else None)
    assert gone(first)
    assert not set(first) & set(run(pools, 2))


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_no_rank_outlives_the_program(end):
    program = "import os; from shardlab.ranks.kept import Kept; pools = Kept()\n"
    program += f"with pools.of(2) as pool: print(*pool.pids, flush=True)\n{end}"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert not ran.stderr and len(ran.stdout.split()) == 2
    assert gone([int(pid) for pid in ran.stdout.split()])
