"""Lab 02: what the nonlinearity before the reduction costs, and why: where the partial sums lie on f."""

from functools import cache

import torch

from shardlab import Mesh
from shardlab.labs.activations import ACTIVATIONS
from shardlab.labs.lab import HTML, Lab, below, beside, menu, said, steps
from shardlab.labs.lab01_split import seed_data
from shardlab.pictures import kink

ROWS, K, COLUMNS = 16, 1024, 1024
SHARDS = [1, 2, 4, 8, 16]
SCALES = [("1/8", 0.125), ("1/4", 0.25), ("1/2", 0.5), ("1", 1.0), ("2", 2.0), ("4", 4.0), ("8", 8.0)]
OUTPUTS = {"-2": (13, 4), "-1": (9, 46), "0": (3, 34), "1/2": (12, 62), "1": (13, 57), "2": (13, 21)}  # by their sum
FEW, REACH = 16, 3.2  # the columns of Y that are drawn, and how far, where X has its own scale


@cache
def row_split(shards):
    """X @ W unsplit, and as partial sums over a mesh: X [16, 1024], W [1024, 1024], entries of X @ W of variance 1."""
    X, W = seed_data(ROWS, K, COLUMNS)
    W = W / K**0.5
    mesh = Mesh(shards)
    return X @ W, mesh.shard(X, dim=1) @ mesh.shard(W, dim=0)


def activation_error(f, shards, scale=1.0):
    """The relative error of f before the reduction: ‖Σ f(P_r) − f(Σ P_r)‖ / ‖f(Σ P_r)‖, the P_r partial sums.

    X [16, 1024] and W [1024, 1024] are the seed's numbers, W divided by √1024, so that each entry of X @ W has
    variance 1; `scale` multiplies X. f takes and gives a tensor.

    >>> import torch
    >>> [f"{activation_error(torch.relu, n):.0%}" for n in (1, 2, 4, 8)]
    ['0%', '43%', '72%', '115%']
    """
    product, partial_ = row_split(shards)
    right = f(scale * product)
    wrong = partial_.mesh.all_reduce(f(scale * partial_)).shards[0].to(right.device)
    return ((wrong - right).norm() / right.norm()).item()


def before_reduction_result(activation="gelu", scale=1.0):
    """The relative error of a function before the reduction, by the number of shards: {1: 0.0, 2: 0.37, …}."""
    return {shards: kept_error(activation, shards, scale) for shards in SHARDS}


@cache
def kept_error(activation, shards, scale):
    return activation_error(ACTIVATIONS[activation], shards, scale)


@cache
def outputs(activation, shards, scale):
    """The sums of a few columns of Y, and what f before the reduction makes of each: two lists of numbers."""
    _, partial_ = row_split(shards)
    p_ = scale * partial_[:, :FEW]
    sums, wrong = (partial_.mesh.all_reduce(x_).shards[0] for x_ in (p_, ACTIVATIONS[activation](p_)))
    return sums.flatten().tolist(), wrong.flatten().tolist()


@cache
def curve_and_box(activation, scale):
    """Points of the curve of f, and a box that holds it and the results of every number of shards."""
    xs = torch.linspace(-REACH * scale, REACH * scale, 129)
    curve = [*zip(xs.tolist(), ACTIVATIONS[activation](xs).tolist(), strict=True)]
    heights = [b for _, b in curve] + [b for shards in SHARDS for b in outputs(activation, shards, scale)[1]]
    low, high = min(heights), max(heights)
    room = 0.06 * (high - low)
    return curve, (-REACH * scale, REACH * scale, low - room, high + room)


def draw_before_reduction(activation, shards, scale, output):
    """The picture of a state of this lab, as HTML."""
    (row, column), (curve, box) = OUTPUTS[output], curve_and_box(activation, scale)
    parts = torch.stack([scale * shard[row, column].cpu() for shard in row_split(shards)[1].shards])
    f, values = ACTIVATIONS[activation], ACTIVATIONS[activation](parts)
    one = kink.one_output(curve, parts.tolist(), values.tolist(), f(parts.sum()).item(), box, activation)
    many = kink.many_outputs(curve, *outputs(activation, shards, scale), box, activation, shards)
    return verdict(activation, shards, scale) + beside(one, many)


def verdict(name, shards, scale):
    worst = kept_error(name, SHARDS[-1], scale)
    if worst < 1e-5:
        exact = f"On {SHARDS[-1]} shards the error is below {below(worst)}: f(a) + f(b) = f(a + b)."
        return said(True, f"{name} may come before the reduction.", exact)
    if shards == 1:
        return said(None, "One shard:", f"its partial sum is the whole sum, so {name} can do no harm yet.")
    error, before = (f"{100 * kept_error(name, n, scale):.0f} %" for n in (shards, shards // 2))
    return said(False, f"{name} on {shards} shards: {error} wrong.", f"On {shards // 2} it was {before}.")


def before_reduction_picture(activation="gelu", shards=4, scale=1.0, output="1/2"):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_before_reduction(activation, shards, scale, output))


def before_reduction(activation="gelu", shards=4, scale=1.0, output="1/2"):
    """The lab of lesson 02: choose f, the number of shards, the scale of the input, and the output to look at."""
    controls = {
        "activation": menu("f", activation, list(ACTIVATIONS), "the function that comes before the reduction"),
        "shards": steps("shards", shards, SHARDS, "how many partial sums there are"),
        "scale": steps("scale of X", scale, SCALES, "X is multiplied by it: how far f is from a straight line"),
        "output": steps("its sum", output, list(OUTPUTS), "which output is drawn: about how large its sum is"),
    }
    return Lab(controls, draw_before_reduction)
