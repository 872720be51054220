"""Lab 02: what the nonlinearity before the reduction costs, for each function and number of shards."""

from functools import cache

from shardlab import Mesh
from shardlab.labs.activations import ACTIVATIONS
from shardlab.labs.lab import HTML, Lab, below, menu, said, steps
from shardlab.labs.lab01_split import seed_data
from shardlab.pictures.chart import curves

ROWS, K, COLUMNS = 16, 1024, 1024
SHARDS = [1, 2, 4, 8, 16]
ALWAYS = ["gelu", "relu", "identity"]  # the curves to hold the chosen one against
SCALES = [("1/8", 0.125), ("1/4", 0.25), ("1/2", 0.5), ("1", 1.0), ("2", 2.0), ("4", 4.0), ("8", 8.0)]


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


@cache
def before_reduction_result(activation="gelu", scale=1.0):
    """The relative error of a function before the reduction, by the number of shards: {1: 0.0, 2: 0.37, …}."""
    return {shards: activation_error(ACTIVATIONS[activation], shards, scale) for shards in SHARDS}


def draw_before_reduction(activation, shards, scale):
    """The picture of a state of this lab, as HTML."""
    names = [*ALWAYS, *({activation} - {*ALWAYS})]
    series = {name: [*before_reduction_result(name, scale).values()] for name in names}
    series = {name + " ←" * (name == activation): errors for name, errors in series.items()}
    label = "relative error, f before the reduction"
    chart = curves(series, SHARDS, "shards", label, logy=False, form="{:.0%}", at=shards)
    return verdict(activation, before_reduction_result(activation, scale), shards) + chart


def verdict(name, errors, shards):
    error, more = errors[shards], 100 * errors[16] / errors[8] - 100
    if max(errors.values()) < 1e-5:
        exact = (
            f"Every error stays below {below(max(errors.values()))}, at any number of shards: f(a) + f(b) = f(a + b)."
        )
        return said(True, f"{name} may come before the reduction.", exact)
    if shards == 1:
        return said(None, "One shard:", f"its partial sum is the whole sum, so {name} can do no harm yet.")
    trend = f"and it keeps growing: from 8 to 16 shards it becomes {more:.0f} % larger."
    if more < 25:
        trend = f"and it is levelling off: from 8 to 16 shards it becomes {more:.0f} % larger."
    if more < 10:
        trend = f"and it saturates: from 8 to 16 shards it changes by {abs(more):.0f} %."
    if more < -10:
        trend = f"and it shrinks: from 8 to 16 shards it becomes {-more:.0f} % smaller."
    return said(False, f"{name} on {shards} shards: {100 * error:.0f} % wrong,", trend)


def before_reduction_picture(activation="gelu", shards=4, scale=1.0):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_before_reduction(activation, shards, scale))


def before_reduction(activation="gelu", shards=4, scale=1.0):
    """The lab of lesson 02: choose f, the number of shards and the scale of the input."""
    controls = {
        "activation": menu("f", activation, list(ACTIVATIONS), "the function that comes before the reduction"),
        "shards": steps("shards", shards, SHARDS, "how many partial sums there are"),
        "scale": steps("scale of X", scale, SCALES, "X is multiplied by it: how far f is from a straight line"),
    }
    return Lab(controls, draw_before_reduction)
