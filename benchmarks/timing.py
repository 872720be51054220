"""Times of several ways to do one thing, taken side by side."""

import gc
from statistics import median
from time import perf_counter

import torch


def side_by_side(ways, seconds=1.0, least=5):
    """Median time of each way in seconds, and of its ratio to the last way in the same round.

    The ways take turns, forwards and backwards, so that what else the machine does slows all of them alike. A way is a
    function of no argument; a sample calls it often enough to last a millisecond.
    """
    calls = max(1, round(1e-3 / max(1e-7, min(once(way) for way in ways.values()))))
    samples = {name: [] for name in ways}
    names, end = list(ways), perf_counter() + seconds
    gc.collect()
    while perf_counter() < end or len(samples[names[0]]) < least:
        for name in names:
            samples[name].append(sample(ways[name], calls))
        names.reverse()
    base = samples[list(ways)[-1]]
    return {
        name: {"seconds": median(times), "ratio": median(a / b for a, b in zip(times, base, strict=True))}
        for name, times in samples.items()
    }


def warm_memory():
    """Have the C library keep what is freed, up to 64 MB, as it does in any program that has freed one large block.

    Until then (in glibc) memory that a way frees goes back to the system, and the next call fetches it again, page by
    page: whichever way works with more buffers would be charged for that, at a size where a program does not pay it.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)  # and freed


def once(way):
    """About how long one call takes, warm."""
    first = sample(way, 1)
    return first if first > 0.1 else min(sample(way, 1) for _ in range(3))


def sample(way, calls):
    start = perf_counter()
    for _ in range(calls):
        way()
    return (perf_counter() - start) / calls
