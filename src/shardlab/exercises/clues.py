"""What a wrong result says by itself, where nothing known does the same: how often it holds each shard's part of a sum,
which of the rows and columns of y it has, and where, … A clue is (name, what it says), or None."""

import torch

from shardlab.compare import kind
from shardlab.exercises.looking import shards
from shardlab.exercises.numbers import close
from shardlab.exercises.placing import cut
from shardlab.exercises.watch import Here
from shardlab.shards import Shards

KINDS = {"replicated": "replicated", "by columns": "cut along dim 1", "by rows": "cut along dim 0"}
KINDS["cut"] = KINDS["by rows"]
MEANS = {"replicated": "every shard has all of it", "partial": "the shards add up to it"}
HOLES = {None: "one that y has not", "zeros": "one of zeros"}


def clue(cases, seen, wanted, dense, placing="replicated"):
    """The first clue that most of the cases have in which the result is wrong, told by the one with most shards."""
    rows = zip(cases, seen, wanted, dense, strict=True)
    rows = [row for row in rows if not right(row[1], cut(row[3], placing, row[0].n))]
    if any(here.trouble for _, here, _, _ in rows):
        return None
    rows.sort(key=lambda row: -row[0].n)
    if found := factor(rows, placing):
        return found
    if placing != "replicated":
        return another_kind(rows, placing)
    for look in (on_some, parts, places, added, increasing, shuffled, sizes):
        found = list(filter(None, map(look, rows)))
        if len(found) > len(rows) / 2:
            names = [name for name, _ in found]
            return found[names.index(max(names, key=names.count))]
    return None


def right(seen, wanted):
    return seen.trouble is None and all(map(close, seen.values, wanted))


def factor(rows, placing):
    """Every number is the same multiple of the right one (of a single number, any is)."""
    times = {}
    for case, seen, _, y in rows:
        if y.dim() == 0:
            return None
        pairs = [(value, y) for value, y in zip(seen.values, cut(y, placing, case.n), strict=True) if y.numel()]
        if any(value.shape != y.shape for value, y in pairs):
            return None
        ks = [((value * y).sum() / (y * y).sum()).item() for value, y in pairs]
        if not all(close(value, k * y) for (value, y), k in zip(pairs, ks, strict=True)):
            return None
        if max(ks) - min(ks) > 1e-6:
            return None
        times[case.n] = f"{ks[0]:.3g} on {case.n}"
    return "another factor", f"Every number is the right one times {', '.join(sorted(times.values()))} shards."


def another_kind(rows, placing):
    """It is the right value, but each shard holds another part of it than it is to have."""
    rows = [row for row in rows if row[0].n > 1]
    found = {kind(Shards(seen.values, Here(case.n, devices=["cpu"])), y).name for case, seen, _, y in rows}
    if len(found) != 1 or found <= {"none of these", KINDS[placing]}:
        return None
    (name,) = found
    means = MEANS.get(name, "each shard has its own piece")
    return f"{name}, not {KINDS[placing]}", f"It is {name} ({means}), and it is to be {KINDS[placing]}."


def on_some(row):
    """Some shards have the right result."""
    case, seen, _, y = row
    have = [rank for rank, value in enumerate(seen.values) if close(value, y)]
    if not have:
        return None
    zeros = all(not value.any() for rank, value in enumerate(seen.values) if rank not in have)
    ranks = ", ".join(map(str, have))
    return "right on some shards alone", (
        f"Every shard is to end with all of y. On {shards(case.n)} it is there on shard {ranks}, and the others have "
        f"{'zeros' if zeros else 'something else'}: what comes after the last collective is to be the same on all."
    )


def parts(row):
    """The result is a sum of the shards' partial sums, each so many times."""
    case, seen, wanted, y = row
    brought = next((given for name, given, _ in wanted.moved if name == "all_reduce"), [])
    if case.n == 1 or not brought or any(each.shape != y.shape for each in (*brought, *seen.values)):
        return None
    return how_often([each.cpu() for each in brought], y, seen.values, "shard")


def how_often(parts, y, values, who):
    """How often each value holds each of `parts`, where y is their sum (and perhaps what comes after, as a bias)."""
    rest = y - sum(parts)
    columns = [*parts, rest] if rest.abs().max() > 1e-9 else parts
    basis = torch.stack([each.flatten() for each in columns], 1)
    if torch.linalg.matrix_rank(basis) < basis.shape[1]:
        return None
    for rank, value in enumerate(values):
        times = torch.linalg.lstsq(basis, value.flatten()[:, None]).solution
        if not close((basis @ times).view_as(value), value):
            return None
        times = [round(k, 6) + 0.0 for k in times.flatten().tolist()]
        times, after = times[: len(parts)], times[len(parts) :]
        if set(times) == {1} and after not in ([], [1]):
            said = f"On {len(parts)} {who}s, the result on {who} {rank} holds it {after[0]:.3g} times."
            return "bias not counted once", (
                f"The sum over {who}s is right, and the bias that comes after it is to be there once. {said}"
            )
        if set(times) != {1}:
            often = {0: "not at all", 1: "once", 2: "twice"}
            counts = ", ".join(f"{who} {each}'s {often.get(k, f'{k:.3g} times')}" for each, k in enumerate(times))
            return "a part left out" if 0 in times else "parts not counted once", (
                f"A sum over {who}s holds the part of each once. On {len(parts)} {who}s, the result on {who} {rank} "
                f"holds {counts}."
            )
    return None


def places(row):
    """The result is made of columns (or rows) of y, and not of all, or not in their order."""
    case, seen, _, y = row
    rank, value = next((rank, value) for rank, value in enumerate(seen.values) if not close(value, y))
    if value.dim() != 2 or y.dim() != 2:
        return None
    for what, dim in (("columns", 1), ("rows", 0)):
        if value.shape[1 - dim] != y.shape[1 - dim]:
            continue
        found = [place(each, y.unbind(dim)) for each in value.unbind(dim)]
        there = [each for each in found if each not in HOLES]
        if not there or y.shape[dim] < 2:
            continue
        names = ", ".join(HOLES.get(each, str(each)) for each in found)
        return f"{what} {how(found, there, y.shape[dim])}", (
            f"On {shards(case.n)}, the {what} of the result on shard {rank} are, by their numbers in y: {names}; "
            f"wanted are 0 to {y.shape[dim] - 1}."
        )
    return None


def how(found, there, size):
    if len(set(there)) < len(there):
        return "twice"
    if sorted(there) == list(range(size)):
        return "in another order" if there != sorted(there) else "too many"
    return "missing" if len(there) == len(found) else "wrong in part"


def place(line, lines):
    """The number of a column among y's columns; "zeros"; None if it is not there."""
    if not line.any():
        return "zeros"
    return next((number for number, other in enumerate(lines) if close(line, other)), None)


def added(row):
    """Every number is off by the same amount, or would be without what comes after the sum."""
    case, seen, wanted, y = row
    brought = next((given for name, given, _ in wanted.moved if name == "all_reduce"), [])
    bases = [y] + [sum(each.cpu() for each in brought)] * bool(brought)
    value = seen.values[0]
    if value.shape != y.shape or y.numel() < 3:
        return None
    for base in bases:
        off = value - base if base.shape == y.shape else y
        if close(off, off.flatten()[0].expand_as(off)):
            what = "y" if base is y else "the sum over the shards"
            return "a constant added", f"One number, {off.flatten()[0]:.4g} here, was added to all of {what}."
    return None


def increasing(row):
    """A larger number in y is a larger one in the result: some function of each number."""
    case, seen, _, y = row
    value = seen.values[0]
    if value.shape != y.shape or y.numel() < 6 or not (value.flatten()[y.flatten().argsort()].diff() >= 0).all():
        return None
    return "a function too many", (
        "Where y is larger, the result is larger, too, and yet it is not y: some function was applied to every number."
    )


def sizes(row):
    """What the shape says, where the numbers say nothing."""
    case, seen, _, y = row
    got, want = list(seen.values[0].shape), list(y.shape)
    if len(got) > len(want):
        return "a dim too many", (
            "The result has a dim more than y: shards are put side by side along a dim that is there, or added."
        )
    if len(got) < len(want):
        return "a dim lost", f"A dim of y {want} is gone, as after a sum, a mean or an index: the result is {got}."
    for dim, (a, b) in enumerate(zip(got, want, strict=True)):
        if a != b:
            than = "small" if a < b else "large"
            return f"too {than} along dim {dim}", (
                f"On {shards(case.n)} the result has {a} {'columns' if dim else 'rows'}, and y has {b}."
            )
    return None


def shuffled(row):
    """All numbers of y are there, in other places."""
    case, seen, _, y = row
    same = all(close(value.flatten().sort().values, y.flatten().sort().values) for value in seen.values)
    if same and seen.values[0].dim() == y.dim():
        return "numbers in other places", (
            "All numbers of y are there, and not in their places: reshape and view only cut the memory into other "
            "rows, and it is the gather that puts columns side by side."
        )
    return None
