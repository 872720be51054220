"""Several ways to do one thing, in rounds: every way once a round, there and back, and what is left of the samples."""

import gc
from statistics import median, quantiles


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
