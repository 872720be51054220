"""Figures for a cell: plain tensors and numbers in, a `Picture` with its words out; no mesh."""

import torch

from shardlab.pictures import cuts, draw, svg
from shardlab.pictures.chart import curves
from shardlab.pictures.still import Picture

__all__ = ["additivity", "error_by_k", "mismatch", "mismatch_by_shards", "product", "split"]


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


def mismatch_by_shards(errors, shards, log=False, title="The nonlinearity before the reduction"):
    """Draw the relative error against the number of shards, one line a function: `{name: [errors]}`.

    >>> print(mismatch_by_shards({"gelu": [0.0, 0.37], "relu": [0.0, 0.43]}, [1, 2]))
    The nonlinearity before the reduction: relative error against shards 1, 2. gelu: 0, 0.37; relu: 0, 0.43
    """
    form = "{:.0e}" if log else "{:.0%}"
    return Picture(curves(errors, shards, "shards", "relative error", title, log, form))


def error_by_k(errors, ks, tolerances=None, title="Right code is not bit-exact"):
    """Draw errors against K, one line a dtype: `{name: [errors]}`, with each dtype's own tolerance dashed.

    >>> print(error_by_k({"float32": [2e-7, 4e-7]}, [64, 1024], {"float32": [1e-6, 2e-6]}))
    Right code is not bit-exact: error against K 64, 1024. float32: below 1e-6, below 1e-6. Dashed: allowed
    """
    return Picture(curves(errors, ks, "K", "error", title, form="{:.0e}", limits=tolerances or {}))


def additivity(f, name=None, reach=3.0):
    """Draw f(a) + f(b) - f(a + b) over a and b: without colour where f may come before the sum.

    >>> print(additivity(torch.relu))
    relu(a) + relu(b) - relu(a + b), a and b from -3 to 3: 0 in 51 % of the square, at most 3 away from 0.
    """
    name = name or getattr(f, "__name__", "f")
    a = torch.linspace(-reach, reach, 121, dtype=torch.float64)
    gap = f(a) + f(a)[:, None] - f(a + a[:, None])
    scale, free = svg.largest([gap]), (gap.abs() < 1e-9).double().mean().item()
    what = f"{name}(a) + {name}(b) - {name}(a + b)"
    said = f"0 in {free:.0%} of the square".replace("%", " %")
    alt = f"{what}, a and b from {-reach:g} to {reach:g}: {said}, at most {svg.about(scale)} away from 0."
    return Picture(svg.svg(draw.square(gap, what, "a, on one shard", "b, on the other", reach), alt))
