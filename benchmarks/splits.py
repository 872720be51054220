"""The splits of lesson 01 on `Shards`, against the same written by hand with lists of plain tensors.

By hand means: one process, one tensor a shard, no package. The partial products are made, as ranks would hold them, and
summed in place into one buffer; columns are joined with one `torch.cat`. In the backward every shard's own X gets the
whole gradient, as after an all-reduce: the shards' gradients are summed in place and the sum is copied to each.
"""

import torch
from timing import race, warm_memory
from torch.nn.functional import gelu

from shardlab import Mesh

SIZES, SHARDS = [8, 64, 256, 1024, 4096], [2, 4, 8]
ROWS = 512  # of X, at most: X is [min(size, ROWS), size], W is [size, size]


# on Shards


def column(mesh, X_, W_):
    return mesh.all_gather(X_ @ W_, dim=1)


def row(mesh, X_, W_):
    return mesh.all_reduce(X_ @ W_)


def column_row(mesh, X_, A_, B_):
    return mesh.all_reduce(gelu(X_ @ A_) @ B_)


# by hand


def joined(parts):
    return torch.cat(parts, dim=1)


def summed(parts):
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    return total


def column_by_hand(Xs, Ws):
    return joined([X @ W for X, W in zip(Xs, Ws, strict=True)])


def row_by_hand(Xs, Ws):
    return summed([X @ W for X, W in zip(Xs, Ws, strict=True)])


def column_row_by_hand(Xs, As, Bs):
    return summed([gelu(X @ A) @ B for X, A, B in zip(Xs, As, Bs, strict=True)])


def everywhere(Xs):
    """Each shard's gradient of X becomes the sum of them all."""
    total = Xs[0].grad
    for X in Xs[1:]:
        total += X.grad
    for X in Xs[1:]:
        X.grad.copy_(total)


CASES = {  # name: (on Shards, by hand, how X is cut, how the weights are cut)
    "column": (column, column_by_hand, None, [1]),
    "row": (row, row_by_hand, 1, [0]),
    "column → row": (column_row, column_row_by_hand, None, [1, 0]),
}


def place(mesh, case, size, requires_grad):
    """The inputs of a case on the mesh: X, then the weights."""
    *_, x_cut, cuts = CASES[case]
    X = torch.randn(min(size, ROWS), size, requires_grad=requires_grad)
    X_ = mesh.replicate(X) if x_cut is None else mesh.shard(X, dim=x_cut)
    return [X_, *(mesh.shard(torch.randn(size, size, requires_grad=requires_grad), dim=dim) for dim in cuts)]


def compare(case, size, n, backward, seconds):
    """One line of the table: `Shards` and by hand, side by side."""
    on_shards, by_hand, x_cut, _ = CASES[case]
    mesh = Mesh(n, devices=["cpu"])
    inputs = place(mesh, case, size, requires_grad=backward)
    plain = [[t.detach().clone().requires_grad_(backward) for t in x_.shards] for x_ in inputs]
    cotangent = torch.randn(min(size, ROWS), size)
    cotangent_ = mesh.replicate(cotangent)

    def forward_on_shards():
        return on_shards(mesh, *inputs)

    def forward_by_hand():
        return by_hand(*plain)

    def both_on_shards():
        for x_ in inputs:
            x_.grad = None
        X_, *weights = inputs
        X_ = mesh.copy(X_) if x_cut is None else X_  # so that every shard's X gets the whole gradient
        on_shards(mesh, X_, *weights).backward(cotangent_)

    def both_by_hand():
        for tensors in plain:
            for tensor in tensors:
                tensor.grad = None
        forward_by_hand().backward(cotangent)
        if x_cut is None:
            everywhere(plain[0])

    ways = {"shards": both_on_shards, "by hand": both_by_hand}
    if not backward:
        ways = {"shards": forward_on_shards, "by hand": forward_by_hand}
    agree(forward_on_shards().shards[-1], forward_by_hand())
    times = race(ways, seconds)
    if backward:
        for x_, tensors in zip(inputs, plain, strict=True):
            for grad, tensor in zip(x_.grad.shards, tensors, strict=True):
                agree(grad, tensor.grad)
    return {
        "case": case,
        "what": "forward and backward" if backward else "forward",
        "size": size,
        "shards": n,
        "shards_us": times["shards"]["us"],
        "by_hand_us": times["by hand"]["us"],
        "ratio": times["shards"]["ratio"],
    }


def agree(one, other):
    """A benchmark of two different results would compare nothing."""
    assert one.shape == other.shape and (one - other).norm() <= 1e-4 * other.norm()


def splits():
    """Every case, size and number of shards; forward, and forward with backward."""
    warm_memory()
    rows = []
    for size in SIZES:
        for case in CASES:
            for n in SHARDS:
                for backward in (False, True)[: 2 if size <= 1024 else 1]:  # at 4096 forward only: it takes seconds
                    rows.append(compare(case, size, n, backward, seconds=0.5 if size < 1024 else 3))
                    print("  {case:13} {size:5} {shards} shards  {ratio:.2f}×  {what}".format(**rows[-1]), flush=True)
    return rows


def many_partials(n=64, size=1024):
    """A row split over many shards, against the whole product and against addmm_ into one buffer."""
    mesh = Mesh(n, devices=["cpu"])
    X, W = torch.randn(size, size), torch.randn(size, size)
    X_, W_ = mesh.shard(X, dim=1), mesh.shard(W, dim=0)
    pieces = list(zip(X_.shards, W_.shards, strict=True))

    def chain():
        total = pieces[0][0] @ pieces[0][1]
        for x, w in pieces[1:]:
            total = total + x @ w
        return total

    def one_buffer():
        total = torch.zeros(size, size)
        for x, w in pieces:
            total.addmm_(x, w)
        return total

    ways = {
        "all_reduce(X_ @ W_)": lambda: row(mesh, X_, W_),
        "X_ @ W_ alone, 64 partial sums in memory": lambda: X_ @ W_,
        "all_reduce alone": lambda p_=X_ @ W_: mesh.all_reduce(p_),
        "a chain of sums by hand": chain,
        "addmm_ into one buffer": one_buffer,
        "whole product": lambda: X @ W,
    }
    agree(row(mesh, X_, W_).shards[0], X @ W)
    times = race(ways, seconds=5)
    return {name: {"ms": round(t["us"] / 1e3, 2), "ratio": round(t["ratio"], 2)} for name, t in times.items()}
