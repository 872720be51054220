"""Lesson 04: a width that does not divide, cut as it is or padded."""

from itertools import cycle

from torch.nn import functional as F

from shardlab.exercises import mistakes
from shardlab.exercises.exercise import Mistake
from shardlab.exercises.mistakes import interleaved
from shardlab.exercises.split import Split
from shardlab.shards import Shards


def uneven_sizes(n, integer):
    """Widths that n does not divide: at random; n + 1, of which torch.chunk makes fewer than n pieces; fewer columns
    than shards; and a square W, so that W.T also fits."""
    N = n * integer(1, 2) + (integer(1, n - 1) if n > 1 else 0)
    sizes = [{"B": 2, "K": integer(8, 10), "N": N}, {"B": 3, "K": n + 1, "N": n + 1}]
    return [*sizes, {"B": 2, "K": 5, "N": n - 1}] if n > 1 else sizes


def kept(mesh, N):
    """How many of N columns are left when every shard takes N // n."""
    return N // mesh.size * mesh.size


def chunked(mesh, W):
    """torch.chunk makes pieces of equal size while there are columns: 5 in 4 chunks are 2 + 2 + 1."""
    pieces = W.chunk(mesh.size, dim=1)
    return Shards([pieces[rank].to(device) for rank, device in zip(mesh.ranks, mesh.devices, strict=True)], mesh)


def there(mesh, pieces):
    """A list of the pieces, each on the device of its shard."""
    return [piece.to(device) for piece, device in zip(pieces, cycle(mesh.devices), strict=False)]


def padded_sizes(n, integer):
    """The same, and a width that n divides, where there is nothing to pad."""
    return [*uneven_sizes(n, integer), {"B": 2, "K": 7, "N": 2 * n}]


def padded(mesh, W, fill=0.0):
    """W with columns of `fill` up to a width that divides, and cut."""
    return mesh.shard(F.pad(W, (0, -W.shape[1] % mesh.size), value=fill), dim=1)


def by_padding(extra):
    """The answer that pads W with extra(N, n) columns, and cuts them off again."""

    def answer(mesh, X, W):
        W_ = mesh.shard(F.pad(W, (0, extra(W.shape[1], mesh.size))), dim=1)
        return mesh.all_gather(mesh.copy(X) @ W_, dim=1)[:, : W.shape[1]]

    return answer


def padded_in_front(mesh, X, W):
    W_ = mesh.shard(F.pad(W, (-W.shape[1] % mesh.size, 0)), dim=1)
    return mesh.all_gather(X @ W_, dim=1)[:, : W.shape[1]]


def padded_in_between(mesh, X, W):
    width = -(-W.shape[1] // mesh.size)
    pieces = [F.pad(piece, (0, width - piece.shape[1])) for piece in mesh.shard(W, dim=1).shards]
    return mesh.all_gather(X @ Shards(pieces, mesh), dim=1)[:, : W.shape[1]]


def padding_of_rows(mesh, W):
    return mesh.shard(F.pad(W, (0, 0, 0, -W.shape[1] % mesh.size)), dim=1)


COMMON_MISTAKES = [
    mistakes.no_gather(
        lambda mesh, X, W: X @ mesh.shard(W, dim=1),
        lambda mesh, X, W: X @ padded(mesh, W),
        lambda mesh, X, W: (X @ padded(mesh, W))[:, : W.shape[1]],
    ),
    mistakes.gather_on_the_wrong_dim(
        lambda mesh, X, W: mesh.all_gather(X @ mesh.shard(W, dim=1), dim=0),
        lambda mesh, X, W: mesh.all_gather(X @ padded(mesh, W), dim=0),
        lambda mesh, X, W: mesh.all_gather(X @ padded(mesh, W), dim=0)[:, : W.shape[1]],
    ),
    mistakes.reduce_for_gather(
        lambda mesh, X, W: mesh.all_reduce(X @ mesh.shard(W, dim=1)),
        lambda mesh, X, W: mesh.all_reduce(X @ padded(mesh, W)),
        lambda mesh, X, W: mesh.all_reduce(X @ padded(mesh, W))[:, : W.shape[1]],
    ),
    mistakes.wrong_order(
        lambda mesh, X, W: mesh.all_gather(X @ mesh.shard(W, dim=1), dim=1).flip(1),
        lambda mesh, X, W: mesh.all_gather(X @ padded(mesh, W), dim=1).flip(1)[:, : W.shape[1]],
        lambda mesh, X, W: mesh.all_gather(
            X @ Shards(there(mesh, [W[:, rank :: mesh.size] for rank in mesh.ranks]), mesh), dim=1
        ),
        lambda mesh, X, W: interleaved(mesh.all_gather(X @ padded(mesh, W), dim=1), mesh.size)[:, : W.shape[1]],
    ),
    Mistake(
        "chunk loses shards",
        "torch.chunk(4) cuts 5 columns into 2 + 2 + 1, so one shard has no piece: torch.tensor_split makes n, always.",
        lambda mesh, X, W: mesh.all_gather(X @ chunked(mesh, W), dim=1),
        lambda mesh, X, W: mesh.all_gather(X @ Shards(there(mesh, W.chunk(mesh.size, dim=1)), mesh), dim=1),
        lambda mesh, X, W: Shards([there(mesh, W.chunk(mesh.size, dim=1))[rank] for rank in mesh.ranks], mesh),
    ),
    Mistake(
        "the tail dropped",
        "Every shard takes N // n columns, and the last N % n columns of W are left out.",
        lambda mesh, X, W: mesh.all_gather(X @ mesh.shard(W[:, : kept(mesh, W.shape[1])], dim=1), dim=1),
        lambda mesh, X, W: F.pad(
            mesh.all_gather(X @ mesh.shard(W[:, : kept(mesh, W.shape[1])], dim=1), dim=1),
            (0, W.shape[1] - kept(mesh, W.shape[1])),
        ),
    ),
    Mistake(
        "padding left on",
        "The columns that were added to W are still in y: cut them off at the end.",
        lambda mesh, X, W: mesh.all_gather(X @ padded(mesh, W), dim=1),
    ),
    Mistake(
        "trimmed on the wrong side",
        "The padding is at the end, and the first columns were cut off.",
        lambda mesh, X, W: mesh.all_gather(X @ padded(mesh, W), dim=1)[:, -W.shape[1] :],
    ),
    Mistake(
        "trimmed by nothing",
        "y[:, :-extra] cuts extra columns off, unless extra is 0: y[:, :-0] is empty. Say how many stay, y[:, :N].",
        lambda mesh, X, W: mesh.all_gather(X @ padded(mesh, W), dim=1)[:, : -(-W.shape[1] % mesh.size)],
    ),
    Mistake(
        "padding in front",
        "The zeros come before the columns of W, and the last columns of y were cut off with them on.",
        padded_in_front,
    ),
    Mistake(
        "padding in between",
        "Each shard was padded by itself, so the zeros lie between the columns of y, and cutting at the end does not "
        "remove them: pad W first, then cut it.",
        padded_in_between,
    ),
    Mistake(
        "padded rows",
        "W got more rows, and it needs more columns: F.pad begins with the last dim, F.pad(W, (0, extra)).",
        lambda mesh, X, W: mesh.all_gather(X @ padding_of_rows(mesh, W), dim=1),
        lambda mesh, X, W: mesh.all_gather(X @ padding_of_rows(mesh, W), dim=1)[:, : W.shape[1]],
    ),
    mistakes.baseline(
        lambda mesh, X, W: X @ mesh.replicate(W),
        lambda mesh, X, W: X @ mesh.all_gather(mesh.shard(W, dim=1), dim=1),
        lambda mesh, X, W: mesh.all_gather(mesh.scatter(X @ mesh.replicate(W), dim=1), dim=1),
    ),
    mistakes.transposed(
        lambda mesh, X, W: mesh.all_gather(X @ mesh.shard(W.T, dim=1), dim=1),
        lambda mesh, X, W: mesh.all_gather(X @ mesh.shard(W, dim=0).T, dim=1),
        lambda mesh, X, W: mesh.all_gather(X @ padded(mesh, W.T), dim=1)[:, : W.shape[1]],
    ),
    Mistake(
        "cut by rows",
        "W was cut by rows, so that its pieces no longer fit X: this layer splits by columns, dim 1.",
        lambda mesh, X, W: mesh.all_gather(X @ mesh.shard(W, dim=0), dim=1),
        lambda mesh, X, W: mesh.all_reduce(X @ mesh.shard(W, dim=0)),
        lambda mesh, X, W: X @ mesh.shard(W, dim=0),
    ),
    Mistake(
        "split by rows",
        "y is right, but W was cut by rows and X by columns, which makes y a sum: this layer is split by columns.",
        lambda mesh, X, W: mesh.all_reduce(mesh.scatter(X, dim=1) @ mesh.shard(W, dim=0)),
    ),
    Mistake(
        "W not placed",
        "W is a plain tensor, and X is a Shards: each shard must be told which part of W is its own.",
        lambda mesh, X, W: X @ W,
    ),
]

UNEVEN_MISTAKES = [
    Mistake(
        "padding on the wire",
        "y is right, but its columns were padded, multiplied and sent: this time the shards are to be uneven.",
        lambda mesh, X, W: mesh.all_gather(X @ padded(mesh, W), dim=1)[:, : W.shape[1]],
    ),
    *COMMON_MISTAKES,
    mistakes.missing_backward(
        lambda mesh, X, W: mesh.all_gather(X @ mesh.shard(W, dim=1), dim=1),
    ),
    mistakes.reduced_again(
        lambda mesh, X, W: mesh.all_gather(mesh.copy(X) @ mesh.shard(W, dim=1), dim=1, grad="partial"),
        lambda mesh, X, W: mesh.all_gather(X @ mesh.shard(W, dim=1), dim=1, grad="partial"),
        lambda mesh, X, W: mesh.copy(mesh.all_gather(mesh.copy(X) @ mesh.shard(W, dim=1), dim=1)),
        lambda mesh, X, W: mesh.copy(mesh.all_gather(X @ mesh.shard(W, dim=1), dim=1)),
    ),
]

PADDED_MISTAKES = [
    *COMMON_MISTAKES,
    Mistake(
        "not padded",
        "y is right, but the shards that are gathered are not all of one size: pad W first.",
        lambda mesh, X, W: mesh.all_gather(X @ mesh.shard(W, dim=1), dim=1),
    ),
    Mistake(
        "padded by N % n",
        "N % n columns are left over, and so n - N % n are missing, or none: -N % n counts them.",
        by_padding(lambda N, n: N % n),
    ),
    Mistake(
        "padded more than needed",
        "y is right, but the padding is larger than it need be, or not up to a multiple of n: -N % n columns are "
        "missing, and that is 0 where n divides N.",
        by_padding(lambda N, n: n - N % n),
        by_padding(lambda N, n: n),
        by_padding(lambda N, n: n - 1),
        by_padding(lambda N, n: n + -N % n),
        by_padding(lambda N, n: -N % 8),
    ),
    mistakes.missing_backward(
        lambda mesh, X, W: mesh.all_gather(X @ padded(mesh, W), dim=1)[:, : W.shape[1]],
    ),
    mistakes.reduced_again(
        lambda mesh, X, W: mesh.all_gather(mesh.copy(X) @ padded(mesh, W), dim=1, grad="partial")[:, : W.shape[1]],
        lambda mesh, X, W: mesh.copy(mesh.all_gather(mesh.copy(X) @ padded(mesh, W), dim=1))[:, : W.shape[1]],
        lambda mesh, X, W: mesh.copy(mesh.all_gather(mesh.copy(X) @ padded(mesh, W), dim=1)[:, : W.shape[1]]),
        lambda mesh, X, W: mesh.copy(mesh.all_gather(X @ padded(mesh, W), dim=1)[:, : W.shape[1]]),
    ),
    mistakes.copy_of_a_cut_tensor(
        lambda mesh, X, W: mesh.all_gather(mesh.copy(X) @ mesh.copy(padded(mesh, W)), dim=1)[:, : W.shape[1]],
        lambda mesh, X, W: mesh.all_gather(X @ mesh.copy(padded(mesh, W)), dim=1)[:, : W.shape[1]],
        lambda mesh, X, W: mesh.all_gather(mesh.copy(X @ padded(mesh, W)), dim=1)[:, : W.shape[1]],
    ),
    Mistake(
        "padding is not zero",
        "y is right, since the padding is cut off. But it holds values, and whatever sums over W (its norm, "
        "weight decay) will count them: pad with zeros.",
        lambda mesh, X, W: mesh.all_gather(mesh.copy(X) @ padded(mesh, W, fill=1.0), dim=1)[:, : W.shape[1]],
    ),
    Mistake(
        "padding gets a gradient",
        "y is right, since the padding is zero. But it takes part in y, so it gets a gradient, and an optimizer "
        "would move it away from zero: cut it off before anything uses it.",
        lambda mesh, X, W: with_padding_in_a_sum(mesh.all_gather(mesh.copy(X) @ padded(mesh, W), dim=1), W.shape[1]),
    ),
]


def with_padding_in_a_sum(y_, N):
    return y_[:, :N] + y_[:, N:].sum(1, keepdim=True)


uneven_linear = Split(
    "uneven_linear",
    "y = X @ W with W cut by columns, where n does not divide N: shards of unequal width, no padding. Every "
    "shard ends with all of y.",
    given={"X": ("B K", "replicated"), "W": ("K N", "plain")},
    wanted="y: [B, N], the same on every shard",
    sizes=uneven_sizes,
    dense=lambda n, X, W: X @ W,
    right=lambda mesh, X, W: mesh.all_gather(mesh.copy(X) @ mesh.shard(W, dim=1), dim=1),
    mistakes=UNEVEN_MISTAKES,
)

padded_linear = Split(
    "padded_linear",
    "y = X @ W where n need not divide N: pad W with columns of zeros, so that all shards have one width; "
    "multiply, gather, and cut the padding off. Every shard ends with all of y.",
    given={"X": ("B K", "replicated"), "W": ("K N", "plain")},
    wanted="y: [B, N], the same on every shard; the all_gather moves n equal shards; the padding's gradient is zero",
    sizes=padded_sizes,
    dense=lambda n, X, W: X @ W,
    right=lambda mesh, X, W: mesh.all_gather(mesh.copy(X) @ padded(mesh, W), dim=1)[:, : W.shape[1]],
    mistakes=PADDED_MISTAKES,
    exact_bytes=True,
)
