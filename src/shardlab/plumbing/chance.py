"""Functions that draw random numbers, which a Shards refuses: its lines are to give the same here and over ranks.

In one process the shards would draw one after the other, over ranks all from the same seed. Numbers that are drawn
once, in a plain tensor, are the same in both, and then placed.
"""

import torch
from torch.nn import functional, init

MASK = (
    "draw the mask once, mask = torch.nn.functional.dropout(torch.ones(shape), p), and multiply: "
    "x_ * mesh.replicate(mask) where x_ is replicated, x_ * mesh.shard(mask, dim) where it is cut"
)
START = (
    "initialise the dense tensor or layer, then split it (an initialiser such as xavier_normal_ counts the inputs of "
    "what it is given, and a shard has only some of them)"
)
DRAW = "draw from a plain tensor, and place what was drawn with mesh.replicate or mesh.shard"

MASKS = "dropout dropout_ dropout1d dropout2d dropout3d feature_dropout feature_dropout_ native_dropout"
STARTS = "bernoulli_ cauchy_ exponential_ geometric_ kaiming_uniform_ log_normal_ normal_ random_ uniform_"
DRAWS = """alpha_dropout alpha_dropout_ feature_alpha_dropout feature_alpha_dropout_ bernoulli binomial multinomial
    normal poisson rand rand_like randint randint_like randn randn_like randperm rrelu rrelu_ gumbel_softmax
    fractional_max_pool2d fractional_max_pool3d fractional_max_pool2d_with_indices fractional_max_pool3d_with_indices
    scaled_dot_product_attention multi_head_attention_forward _sample_dirichlet _standard_gamma"""
SWITCHES = {  # the arguments without which these draw nothing: the place of each, and its names
    "dropout": [(1, ["p"]), (2, ["training", "train"])],
    "rrelu": [(3, ["training"])],
    "multi_head_attention": [(10, ["dropout_p"]), (13, ["training"])],
    "scaled_dot_product_attention": [(4, ["dropout_p"])],
}


def found(names, way):
    """All of torch's functions with these names, and what to write instead of them."""
    places = [torch, torch.Tensor, functional, init]
    return {getattr(place, name): way for name in names.split() for place in places if hasattr(place, name)}


INSTEAD = found(MASKS, MASK) | found(STARTS, START) | found(DRAWS, DRAW)


def refuse_to_draw(function, args, kwargs):
    """TypeError, unless this call draws nothing (dropout with training=False, say)."""
    name = function.__name__
    switches = next((SWITCHES[kind] for kind in SWITCHES if kind in name), [])
    if all(given(args, kwargs, place, names) for place, names in switches):
        raise TypeError(
            f"`{name.strip('_')}` draws random numbers. In one process every shard would draw others, so that what is "
            "replicated is so no longer; over ranks, after one torch.manual_seed, all would draw the same, also for "
            f"pieces of one value. Instead {INSTEAD[function]}"
        )


def given(args, kwargs, place, names):
    return args[place] if place < len(args) else next((kwargs[name] for name in names if name in kwargs), False)
