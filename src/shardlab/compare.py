"""Sharded against dense: how far apart they are, and how far apart they may be.

Where the tolerance comes from. A float result is a chain of roundings, each off by at most u·|value|, with u the unit
roundoff (float64 2⁻⁵³, float32 2⁻²⁴, float16 2⁻¹¹, bfloat16 2⁻⁸). A dot product of length K rounds K times, and the
errors of independent roundings add up like √K, not like K (Higham and Mary, 2019, 'A new approach to probabilistic
rounding error analysis'). So an element of Y = X W, accumulated with roundoff u_acc, lies within

    4 √K u_acc (|X| |W|)                                                      of the exact one.

bfloat16 and float16 are accumulated in float32, but each partial sum P_i and each running sum S_i of the reduction is
rounded to the short type, which adds

    u (Σ|P_i| + Σ|S_i| + |Y|).

The first bound is probabilistic with room to spare, the second is certain: neither rejects a correct split. (Long sums
of *equal* numbers are the exception: all their roundings go one way, and add up like K. So test with random numbers,
not with ones.)

Both bounds speak of the worst element, so two figures are held against them. The *largest* error, element by element:
it catches a single wrong element, which a mean would let through. And the *root mean square*, against 3/4 of that of
the tolerance: it catches an error of nearly the tolerance in every element. No roundings reach it together, since
|u·value| is half a unit in the last place only just above a power of two; over all values its root mean square is 1/√2
of that.
"""

from dataclasses import dataclass
from html import escape

import torch

from shardlab.shards import Shards

ROUNDOFF = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
}
SMALLEST_STEP = {
    2.0**-11: 2.0**-24,
    2.0**-8: 2.0**-133,
}  # of float16 and bfloat16: below it, roundings are absolute


@dataclass(frozen=True)
class Errors:
    """How far one shard is from the unsplit result. All in the units of Y, but `relative`: largest over largest."""

    shard: str
    largest: float
    at: tuple  # the element that is worst against its tolerance ...
    allowed: float  # ... and how far it may be off
    relative: float
    rms: float
    rms_allowed: float

    passed: bool


def tolerance(X, W, b=None, parts=1):
    """How far each element of X W + b, computed as `parts` partial sums, may be from the exact one: a float64 tensor.

    tol = 4 √K u_acc |X||W| + u (Σ|P_i| + Σ|S_i| + |y|), the second term for bfloat16 and float16 alone.
    X [*, K], W [K, N]; the dtype of X is the one the product was computed in.
    """
    return dense(X, W, b, parts)[1]


def dense(X, W, b=None, parts=1):
    """Y = X W + b unsplit and in float64, and the tolerance of a row split into `parts`."""
    if X.dtype not in ROUNDOFF or X.dtype != W.dtype:
        raise TypeError(f"X and W want one floating dtype, but they are {X.dtype} and {W.dtype}")
    if X.dim() < 1 or W.dim() != 2 or X.shape[-1] != W.shape[0]:
        raise ValueError(f"X [*, K] @ W [K, N] does not fit X {list(X.shape)} and W {list(W.shape)}")
    unit, K = ROUNDOFF[X.dtype], max(X.shape[-1], 1)
    X, W = X.detach().double(), W.detach().double()
    b = W.new_zeros(()) if b is None else b.detach().double()
    value = X @ W + b
    accumulated = min(unit, ROUNDOFF[torch.float32]) + ROUNDOFF[torch.float64]  # the reference rounds, too
    allowed = 4 * K**0.5 * accumulated * (X.abs() @ W.abs() + b.abs())
    if unit > accumulated:
        sums = running_sums(X, W, parts) + 2 * value.abs()
        allowed = allowed + unit * sums + (2 * parts + 1) * SMALLEST_STEP[unit]
    return value, allowed


def running_sums(X, W, parts):
    """Σ|P_i| + Σ|S_i|: the sizes of all that gets rounded on the way, in rank order."""
    running = sizes = 0
    for x, w in zip(X.tensor_split(parts, -1), W.tensor_split(parts, 0), strict=True):
        partial = x @ w
        running = running + partial
        sizes = sizes + partial.abs() + running.abs()
    return sizes


def through(f, value, allowed):
    """The same for f(Y), elementwise: what f makes of both ends of the tolerance. (f itself rounds, too.)"""
    middle, low, high = f(value), f(value - allowed), f(value + allowed)
    return middle, torch.maximum((high - middle).abs(), (low - middle).abs())


def compare(y_, X, W, b=None, f=None, dim=None, parts=None):
    """Each shard of `y_` against f(X W + b), computed unsplit in float64: a `Comparison`, which shows itself.

    Each shard holds all of the result; or, with `dim`, its own piece of it along that dim (torch.tensor_split).
    `parts` is the number of partial sums that were added, by default as many as the mesh has shards.
    """
    mesh, shards = (y_.mesh, y_.shards) if isinstance(y_, Shards) else (None, [y_])
    parts = parts or (mesh.size if mesh else 1)
    want, allowed = dense(X, W, b, parts)
    if f is not None:
        sizes = want.abs()
        want, allowed = through(f, want, allowed)
        allowed = allowed + 8 * ROUNDOFF[X.dtype] * (sizes + want.abs())
    rows = []
    for index, got in enumerate(shards):
        name = f"shard {mesh.ranks[index]}" if mesh else "result"
        pieces = [want, allowed]
        if dim is not None:
            pieces = [whole.tensor_split(mesh.size, dim)[mesh.index(mesh.ranks[index])] for whole in pieces]
        rows.append(errors(name, got.detach(), *pieces))
    return Comparison(rows, X.dtype, X.shape[-1], parts)


def errors(shard, got, want, allowed):
    if got.shape != want.shape:
        raise AssertionError(f"{shard} has shape {list(got.shape)}, the unsplit result has {list(want.shape)}")
    if got.numel() == 0:
        raise AssertionError(f"{shard} is empty, of shape {list(got.shape)}: nothing was compared")
    error = (got.double().to(want.device) - want).abs().nan_to_num(torch.inf, torch.inf)
    worst = (error / allowed.clamp_min(torch.finfo(torch.float64).tiny)).argmax()
    rms, rms_allowed = error.square().mean().sqrt(), 0.75 * allowed.square().mean().sqrt()
    return Errors(
        shard=shard,
        largest=error.max().item(),
        at=tuple(index.item() for index in torch.unravel_index(worst, error.shape)),
        allowed=allowed.flatten()[worst].item(),
        relative=(error.max() / want.abs().max()).nan_to_num(0.0).item(),
        rms=rms.item(),
        rms_allowed=rms_allowed.item(),
        passed=bool((error <= allowed).all() and (rms <= rms_allowed or not error.any())),
    )


def assert_close(y_, X, W, b=None, f=None, dim=None, parts=None):
    """AssertionError, with the whole comparison, unless every shard of `y_` is as close to f(X W + b) as it must be."""
    comparison = compare(y_, X, W, b, f, dim, parts)
    if not comparison.passed:
        raise AssertionError(f"not the unsplit result:\n{comparison}")


@dataclass(frozen=True)
class Comparison:
    """Sharded against dense, one row per shard. `passed`: every shard is within the tolerance in both figures."""

    rows: list
    dtype: torch.dtype
    K: int
    parts: int

    @property
    def passed(self):
        return all(row.passed for row in self.rows)

    def cells(self):
        for row in self.rows:
            place = ", ".join(map(str, row.at))
            figures = [f"{x:.0e}" for x in (row.largest, row.allowed, row.relative, row.rms, row.rms_allowed)]
            yield [
                row.shard,
                figures[0],
                f"{figures[1]} at [{place}]",
                *figures[2:],
                "close" if row.passed else "too far",
            ]

    def __repr__(self):
        table = [HEAD, *self.cells()]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)

    def _repr_html_(self):
        dtype = str(self.dtype).removeprefix("torch.")
        head = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" for cells in self.cells())
        caption = f"Against the unsplit float64 result: {dtype}, K = {self.K}, {self.parts} partial sums"
        return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


HEAD = ["shard", "largest error", "allowed there", "relative", "rms error", "rms allowed", "verdict"]


def kind(x_, x, mesh=None):
    """Of what kind a Shards is, held against the dense value x: a `Kind`, found by measuring.

        replicated           x_r = x on every shard
        cut along dim d      x_r = piece r of x (torch.tensor_split along d)
        partial              x_0 + x_1 + … = x
        none of these        and then, where it is so, how many times x the shards are, or add up to

    With = to half of the digits of the dtype (√u: 2e-4 in float32), against the largest value. Of one shard, or
    of zeros, all are true, and the first is said. On a gradient it tells what is missing: that of a replicated X, if it
    is partial, wants an all-reduce, the backward of `mesh.copy`. `mesh` is the axis to look along, where there are two.
    (Its own collectives, a row of numbers and an all-reduce, are moves like others: do not ask inside a record.)

    >>> import shardlab
    >>> mesh = shardlab.Mesh(2, devices=["cpu"])
    >>> X, W = torch.randn(2, 4), torch.randn(4, 6)
    >>> kind(mesh.replicate(X) @ mesh.shard(W, dim=1), X @ W).name
    'cut along dim 1'
    >>> kind(mesh.shard(X, dim=1) @ mesh.shard(W, dim=0), X @ W).name
    'partial'
    """
    if not isinstance(x_, Shards) or not isinstance(x, torch.Tensor):
        raise TypeError(f"kind holds a Shards against a tensor, not {type(x_).__name__} against {type(x).__name__}")
    mesh, want = mesh or x_.mesh, x.detach().double()
    size, got_ = largest(want), x_.detach().double()
    readings = {"replicated": [want] * mesh.size}
    readings |= {f"cut along dim {dim}": want.tensor_split(mesh.size, dim) for dim in range(want.dim())}
    errors = table(mesh, got_, lambda got, index: [away(got, pieces[index], size) for pieces in readings.values()])
    off = dict(zip(readings, errors.amax(0).tolist(), strict=True))
    whole = errors[:, 0].isfinite().all()  # do all have the shape of x?
    if whole:
        total = mesh.all_reduce(got_).shards[0].to(want.device)
        off["partial"] = away(total, want, size)
    half = ROUNDOFF[x.dtype if x.dtype in ROUNDOFF else torch.float32] ** 0.5
    name, note = next((reading for reading in off if off[reading] <= half), "none of these"), ""
    if name == "none of these" and whole:
        each = table(mesh, got_, lambda got, _: [factor(got, want)])
        multiples = {"every shard is": each[0].item() if each.std(correction=0) < half else torch.nan}
        multiples["the shards add up to"] = factor(total, want)
        note = next((f"{who} {c:.3g} times it" for who, c in multiples.items() if abs(c) > half), "")
    return Kind(name, off, note)


def table(mesh, x_, measure):
    """A row of numbers of each shard along the axis, measure(shard, its index), on every shard."""
    shards = zip(mesh.ranks, x_.shards, strict=True)
    rows = [torch.tensor([measure(t, mesh.index(rank))], dtype=torch.float64, device=t.device) for rank, t in shards]
    return mesh.all_gather(Shards(rows, x_.mesh), dim=0).shards[0].cpu()


def largest(x):
    return x.abs().max().item() if x.numel() else 0.0


def away(got, want, size):
    """The largest error, relative to `size`, the largest value of the whole; inf where the shapes differ."""
    if got.shape != want.shape:
        return torch.inf
    error = largest((got.to(want.device) - want).nan_to_num(torch.inf, torch.inf, torch.inf))
    return error / (size or 1.0) if error else 0.0


def factor(got, want):
    """The number c with got = c · want to half of the digits; NaN if there is none."""
    got = got.to(want.device)
    c = ((got * want).sum() / (want * want).sum()).item() if want.any() else torch.nan
    return c if away(got, c * want, abs(c) * largest(want)) <= ROUNDOFF[torch.float32] ** 0.5 else torch.nan


@dataclass(frozen=True)
class Kind:
    """What a Shards is: `name`, and `off`, the relative error of each way to read it (inf: its shape says no)."""

    name: str
    off: dict
    note: str = ""

    def __repr__(self):
        told = [f"as {name} {size(off)}" for name, off in self.off.items() if off != torch.inf]
        return f"{self.name}{self.note and f': {self.note}'}" + (f" (error {', '.join(told)})" if told else "")

    def _repr_html_(self):
        colour, line = LOOKS[self.name.split()[0]]
        badge = f"border:2px {line} {colour};border-radius:10px;padding:0 8px;font-weight:600"
        return f'<span style="{badge}">{self.name}</span> {escape(repr(self).removeprefix(self.name))}'


def size(error):
    """An error in words that are the same on any CPU."""
    return "0" if error == 0 else "mere rounding" if error < 1e-4 else f"{error:.2g}"


# the look of a badge: its colour, and the line around it
LOOKS = {
    "replicated": ("#0072B2", "solid"),
    "cut": ("#009E73", "dashed"),
    "partial": ("#D55E00", "dotted"),
    "none": ("#CC79A7", "double"),
}
