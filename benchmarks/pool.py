"""What a pool of real ranks costs: to start it, to call it, to learn of a fault."""

import os
from statistics import median
from time import perf_counter

import psutil
import torch
from timing import rounds, sample, spread

from shardlab.ranks import RankError, forks, ranks
from shardlab.ranks.pool import work

SIZES = [2, 4]
CALLS = 100  # of each lesson, after as many that are not counted


def pool():
    """For 2 and 4 ranks on the CPU: milliseconds to start, of a call, and until a fault is told; MB a rank."""
    before, os.environ["SHARDLAB_DEVICES"] = os.environ.get("SHARDLAB_DEVICES"), "cpu"
    try:
        forks.stop()  # a fresh one, to be timed
        start = perf_counter()
        forks.server(work)
        return {"fork server_s": round(perf_counter() - start, 2), "sizes": {str(n): of_size(n) for n in SIZES}}
    finally:
        os.environ.pop("SHARDLAB_DEVICES") if before is None else os.environ.update(SHARDLAB_DEVICES=before)


def of_size(n):
    found = {"start": spread("ms", [started(n) for _ in range(9)], digits=1)}
    x = torch.randn(8, 8)
    with ranks(n) as checked, unchecked(n) as trusting:
        found["MB a rank"] = round(median(psutil.Process(pid).memory_full_info().uss for pid in checked.pids) / 1e6, 1)
        ways = {
            "a call": lambda: checked.run(nothing, x),
            "a call with an all-reduce": lambda: checked.run(reduced, x),
            "a call with an all-reduce, unchecked": lambda: trusting.run(reduced, x),
        }
        rounds(ways, CALLS, sample)
        for name, samples in rounds(ways, CALLS, sample).items():
            found[name] = spread("ms", [seconds * 1e3 for seconds in samples], digits=2)
        found["until a fault is told"] = spread("ms", [until_told(checked) for _ in range(9)], digits=0)
    return found


def started(n):
    start = perf_counter()
    with ranks(n):
        return (perf_counter() - start) * 1e3


def unchecked(n):
    os.environ["SHARDLAB_CHECK"] = "0"
    try:
        return ranks(n)
    finally:
        del os.environ["SHARDLAB_CHECK"]


def until_told(pool):
    """The last rank raises, the others wait for it."""
    pool.run(nothing, None)  # the ranks have started
    start = perf_counter()
    try:
        pool.run(broken)
    except RankError as error:
        assert error.ranks == [pool.size - 1]
        return (perf_counter() - start) * 1e3
    raise AssertionError("no fault was told")


# the lessons


def nothing(mesh, x):
    return x


def reduced(mesh, x):
    return mesh.all_reduce(mesh.replicate(x))


def broken(mesh):
    if mesh.ranks[0] == mesh.size - 1:
        raise ValueError("on purpose")
    return mesh.all_reduce(mesh.replicate(torch.ones(1)))


WANTED = {("2", "a call with an all-reduce"): "0.8–2 ms", ("4", "a call with an all-reduce"): "6–8 ms"}


def lines(found):
    """For README.md's table: what, what was wanted, what was measured."""
    yield "pool of ranks: the fork server, once", "1.5 s", f"{found['fork server_s']} s"
    for n, at in found["sizes"].items():
        yield f"{n} ranks: start", "≤ 100 ms", f"{at['start']['ms']:.0f} ms, {at['MB a rank']} MB each"
        for what, time in at.items():
            if what.startswith("a call"):
                low, high = time["ms_spread"]
                yield f"{n} ranks: {what}", WANTED.get((n, what), ""), f"{time['ms']} ms (half of them {low} to {high})"
        yield f"{n} ranks: until a fault is told", "≤ 150 ms", f"{at['until a fault is told']['ms']:.0f} ms"
