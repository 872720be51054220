"""Several ways to do one thing, timed side by side: in rounds, every way once a round, there and back.

What else the machine does then slows all of them alike, and a ratio is to another way in the same round.
"""

import gc
from statistics import median, quantiles
from time import perf_counter

import torch


def race(ways, seconds=1.0):
    """A `summary` of ways (functions of no argument) in rounds for about so many seconds; the last is the base."""
    each = [about(way) for way in ways.values()]
    calls = max(1, round(1e-3 / max(1e-7, min(each))))  # so that the shortest sample lasts a millisecond
    count = max(5, round(seconds / (calls * sum(each))))
    return summary(rounds(ways, count, lambda way: sample(way, calls)), base=list(ways)[-1])


def rounds(ways, count, sample):
    """{name: [seconds of each round]}. `sample(way)` gives the seconds of one call.

    The number of rounds is fixed, not the time: ranks that each look at their own clock would part ways and wait for
    each other for ever.
    """
    samples, names = {name: [] for name in ways}, list(ways)
    gc.collect()
    for _ in range(count):
        for name in names:
            samples[name].append(sample(ways[name]))
        names.reverse()
    return samples


def sample(way, calls=1):
    """Seconds of one call, on average over so many."""
    start = perf_counter()
    for _ in range(calls):
        way()
    return (perf_counter() - start) / calls


def about(way):
    """About how long one call takes, warm."""
    first = sample(way)
    return first if first > 0.1 else min(sample(way) for _ in range(3))


def summary(samples, base):
    """For each way its time in µs, and its ratio to the way `base` in the same round: median, and the middle half."""
    return {
        name: {
            **spread("us", [time * 1e6 for time in times], digits=1),
            **spread("ratio", [a / b for a, b in zip(times, samples[base], strict=True)], digits=3),
        }
        for name, times in samples.items()
    }


def spread(name, values, digits):
    """The median, and the first and third quartile as `…_spread`."""
    first, _, third = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {
        name: round(median(values), digits),
        f"{name}_spread": [round(first, digits), round(third, digits)],
    }


def warm_memory():
    """Have the C library keep what is freed, up to 64 MB, as it does in any program that has freed one large block.

    Until then (in glibc) memory that a way frees goes back to the system, and the next call fetches it again, page by
    page: whichever way works with more buffers would be charged for that, at a size where a program does not pay it.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)  # and freed
