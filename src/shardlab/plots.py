"""Figures for a cell: plain tensors and numbers in, a picture with its words out; no mesh. Curves are matplotlib's."""

import torch
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from shardlab.pictures import cuts, draw
from shardlab.pictures.figure import HEAT, INK, Figure, styled
from shardlab.pictures.heat import largest
from shardlab.pictures.still import Picture
from shardlab.pictures.svg import COLOURS, about

__all__ = ["additivity", "error_by_k", "line_of_times", "mismatch", "mismatch_by_shards", "product", "split"]

MARKERS, STYLES = "os^DvPX*", ("-", "--", ":", "-.")


def product(X, W, Y, f=""):
    """Draw Y = f(X @ W): X is [B, K], W [K, F] and Y [B, F].

    >>> print(product(torch.ones(1, 2), torch.ones(2, 2), torch.full((1, 2), 2.0)))
    Y = X @ W, with X [1, 2], W [2, 2] and Y [1, 2]: a row of X meets a column of W. Y = 2 2.
    """
    return Picture(cuts.product(X, W, Y, f))


def split(X, W, Y, how, n, parts=None, f="", when="after"):
    """Draw how X @ W is cut over n shards, by "column" or by "row" of W; see `pictures.cuts.split`.

    >>> X, W = torch.ones(1, 2), torch.ones(2, 2)
    >>> print(split(X, W, X @ W, "row", 2))
    X [1, 2] @ W [2, 2] cut by rows of W over 2 shards: P_0 [1, 2], P_1 [1, 2]. all_reduce adds the layers. Y = 2 2.
    """
    return Picture(cuts.split(X, W, Y, how, n, parts, f, when))


def mismatch(got, want, title="got - want"):
    """Draw got - want as a heat map about 0, with a frame around the largest error.

    Both have one shape (else a ValueError); a cell of a large matrix is the largest error of its block.

    >>> print(mismatch(torch.tensor([[1.0, 2.5]]), torch.tensor([[1.0, 2.0]])))
    got - want [1, 2]: largest error 0.5 at [0, 1], 25 % of the largest value. The errors: 0 0.50.
    """
    return Picture(draw.error_map(got, want, title))


@styled
def mismatch_by_shards(errors, shards, log=False, title="The nonlinearity before the reduction"):
    """Draw the relative error against the number of shards, one line per function: `{name: [errors]}`.

    >>> mismatch_by_shards({"gelu": [0.0, 0.37], "relu": [0.0, 0.43]}, [1, 2]).alt
    'The nonlinearity before the reduction: relative error at 1, 2 shards. gelu: 0, 0.37; relu: 0, 0.43.'
    """
    counts = ", ".join(map(str, shards))
    figure, axes = _figure(6.4, 3.9, f"{title}: relative error at {counts} shards. {_said(errors)}.")
    _lines(axes, errors, shards)
    axes.set_xscale("log", base=2)
    axes.set(title=title, xlabel="shards", ylabel="relative error", xticks=shards, xticklabels=shards)
    axes.xaxis.set_minor_locator(NullLocator())
    if log:
        smallest = min((e for row in errors.values() for e in row if e > 0), default=1e-8)
        axes.set_yscale("symlog", linthresh=smallest)
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.set_ylim(bottom=0)
    _names(figure, axes, errors, shards)
    return figure


@styled
def additivity(f, name=None, reach=3.0):
    """Draw f(a) + f(b) - f(a + b) over a and b: without colour where f may come before the sum.

    >>> additivity(torch.relu).alt
    'relu(a) + relu(b) - relu(a + b), a and b from -3 to 3: 0 in 51 % of the square, at most 3 away from 0.'
    """
    name = name or getattr(f, "__name__", "f")
    a = torch.linspace(-reach, reach, 121, dtype=torch.float64)
    gap = f(a) + f(a)[:, None] - f(a + a[:, None])
    scale, free = largest([gap]), (gap.abs() < 1e-9).double().mean().item()
    what = f"{name}(a) + {name}(b) - {name}(a + b)"
    said = f"0 in {free:.0%} of the square".replace("%", " %")
    alt = f"{what}, a and b from {-reach:g} to {reach:g}: {said}, at most {about(scale)} away from 0."
    figure, axes = _figure(5.4, 4.4, alt)
    full = scale if scale > 1e-9 else 1
    image = axes.imshow(gap.tolist(), HEAT, vmin=-full, vmax=full, origin="lower", extent=[-reach, reach] * 2)
    if scale > 1e-9:
        levels = [scale * k / 6 for k in (-5, -3, -1, 1, 3, 5)]
        sides = a.tolist()
        lines = axes.contour(sides, sides, gap.tolist(), levels=levels, colors=INK, linewidths=0.7)
        axes.clabel(lines, fontsize=8, fmt="%.1f")
    axes.axhline(0, color=INK, lw=0.8)
    axes.axvline(0, color=INK, lw=0.8)
    axes.grid(False)
    axes.set(title=what, xlabel="a, on one shard", ylabel="b, on the other")
    figure.colorbar(image, ax=axes, shrink=0.85).outline.set_visible(False)
    return figure


@styled
def error_by_k(errors, ks, tolerances=None, title="Right code is not bit-exact"):
    """Draw errors against K, one line per dtype: `{name: [errors]}`, with each dtype's own tolerance dashed.

    >>> error_by_k({"float32": [2e-7, 4e-7]}, [64, 1024], {"float32": [1e-6, 2e-6]}).alt
    'Right code is not bit-exact: error at K = 64, 1024. float32: below 1e-6, below 1e-6. Tolerances dashed.'
    """
    dashed = " Tolerances dashed." if tolerances else ""
    alt = f"{title}: error at K = {', '.join(map(str, ks))}. {_said(errors)}.{dashed}"
    figure, axes = _figure(6.4, 4.2, alt)
    _lines(axes, errors, ks, "-")
    limits = {name: (tolerances or {})[name] for name in errors if name in (tolerances or {})}
    for index, name in enumerate(errors):
        if name in limits:
            axes.plot(ks, limits[name], "--", color=COLOURS[index % 4], lw=1.2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(title=title, xlabel="K, the length of the sums", ylabel="error", xticks=ks, xticklabels=ks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    _names(figure, axes, errors | {f"tolerance, {name}": limit for name, limit in limits.items()}, ks)
    return figure


@styled
def line_of_times(sizes, times, lines, title="Time of an all-reduce"):
    """Draw measured times against bytes, lines through them, `{name: (alpha, beta)}`, and how far these are off.

    Above, seconds on log axes; below, for each line, (alpha + beta * size) / time - 1.

    >>> line_of_times([1024, 4096], [1e-3, 2e-3], {"a line": (1e-3, 0)}).alt
    'Time of an all-reduce, 1 KiB to 4 KiB: 1 ms to 2 ms. a line: alpha 1 ms, off by -50 % to +0 %.'
    """
    offs = {name: [(a + b * s) / t - 1 for s, t in zip(sizes, times, strict=True)] for name, (a, b) in lines.items()}
    said = " ".join(
        f"{name}: alpha {_duration(lines[name][0])}, off by {100 * min(off):+.0f} % to {100 * max(off):+.0f} %."
        for name, off in offs.items()
    )
    ends = f"{_bytes(sizes[0])} to {_bytes(sizes[-1])}: {_duration(times[0])} to {_duration(times[-1])}"
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    figure.alt = f"{title}, {ends}. {said}"
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
    upper.plot(sizes, times, "o", color=INK, ms=6, label="measured")
    for index, (name, (alpha, beta)) in enumerate(lines.items()):
        look = {"color": COLOURS[index], "ls": STYLES[index], "lw": 2}
        upper.plot(sizes, [alpha + beta * size for size in sizes], label=name, **look)
        lower.plot(sizes, [100 * off for off in offs[name]], marker=MARKERS[index], **look)
    upper.set_yscale("log", nonpositive="mask")  # a line may begin below zero
    upper.set(title=title, ylabel="seconds", ylim=(min(times) / 2, max(times) * 2))
    lower.set(xlabel="bytes", ylabel="the line is off, %")
    lower.axhline(0, color=INK, lw=0.8)
    lower.set_xscale("log", base=2)
    some = sizes[:: -(-len(sizes) // 7)]
    lower.set_xticks(some, [_bytes(size) for size in some])
    lower.xaxis.set_minor_locator(NullLocator())
    upper.yaxis.set_minor_formatter(NullFormatter())
    upper.legend(frameon=False)
    return figure


def _bytes(count):
    """Give a number of bytes in its unit.

    >>> _bytes(1024), _bytes(64 * 2**20)
    ('1 KiB', '64 MiB')
    """
    power = next(p for p in (3, 2, 1, 0) if count >= 1024**p or p == 0)
    return f"{count / 1024**power:.3g} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def _duration(seconds):
    """Give seconds in their unit.

    >>> _duration(41.4e-6), _duration(0.062), _duration(-1e-4)
    ('41 µs', '62 ms', '-100 µs')
    """
    unit, name = next(u for u in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")) if abs(seconds) >= u[0] or u[0] == 1e-6)
    return f"{float(f'{seconds / unit:.2g}'):g} {name}"


def _figure(width, height, alt):
    """Give a figure and its axes; the size is in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.alt = alt
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    return figure, figure.add_subplot()


def _lines(axes, series, xs, style=None):
    """Draw each series with a colour, marker and line style of its own; from the fifth on, hollow markers."""
    for index, (name, ys) in enumerate(series.items()):
        colour = COLOURS[index % 4]
        look = {"color": colour, "lw": 2, "ms": 6, "mfc": colour if index < 4 else "white"}
        line = style or STYLES[index % 4]
        axes.plot(xs, ys, marker=MARKERS[index % 8], ls=line, label=name, clip_on=False, zorder=3, **look)


def _names(figure, axes, series, xs):
    """Write the name of each series beside its last point, pushed up where two would touch."""
    ends = [(axes.transData.transform((xs[-1], ys[-1]))[1], name, ys[-1]) for name, ys in series.items()]
    floor, point = -1e9, figure.dpi / 72
    for height, name, y in sorted(ends):
        floor = max(height, floor + 13 * point)
        place = {"xytext": (20, (floor - height) / point), "textcoords": "offset points", "va": "center"}
        axes.annotate(name, (xs[-1], y), annotation_clip=False, **place)


def _said(series):
    return "; ".join(f"{name}: {', '.join(map(about, ys))}" for name, ys in series.items())
