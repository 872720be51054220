"""What an error says: what it is about, and what to write instead."""

import operator

import numpy
import torch

ONE_BY_ONE = "a Shards is several tensors, and this takes one: x_.shards[0], or each of x_.shards"
INSTEAD = {  # what someone calls who wants one array, or bytes: what to write instead
    "__array__": ONE_BY_ONE,  # numpy and matplotlib
    "__dlpack__": ONE_BY_ONE,  # torch.tensor
    "__dlpack_device__": ONE_BY_ONE,
    "__reduce_ex__": "a Shards belongs to its process' mesh: save x_.shards, and make it again: Shards(tensors, mesh)",
}
NO_PARAMETER = "a Shards is several tensors: torch.nn.ParameterList(w_.shards) makes parameters of them"
NO_LEAF = (
    "this Shards is no leaf: it was computed, or is a part of another, and backward leaves the gradient there "
    "(x_.retain_grad() before backward keeps that of a computed one). What goes over tensors one by one, as "
    "torch.nn.utils.clip_grad_norm_ does, would go over its rows: hand it x_.shards, or for the dense norm take "
    "shardlab.layers.clip_grad_norm_([], max_norm, cut=[w_])"
)
NOTHING_TO_GO_OVER = (
    "a Shards of single numbers has nothing to go over. What takes tensors one by one takes x_.shards: "
    "Shards(scaler.scale(loss_.shards), mesh)"
)


def plain(function):
    """
    >>> plain(operator.iadd), plain(torch.Tensor.add_), plain(torch.Tensor.__len__)
    ('iadd', 'add', 'len')
    """
    return function.__name__.strip("_")


def brief(value):
    text = f"tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
    return text if len(text) < 60 else text[:57] + "..."


def of_one(function):
    """How to ask one shard `t` for what `function` says of it, a property by its name.

    >>> of_one("shape"), of_one(torch.Tensor.item), of_one(float), of_one(torch.equal), of_one(operator.index)
    ('t.shape', 't.item()', 'float(t)', 'torch.equal(t, …)', 'int(t)')
    """
    if isinstance(function, str):
        return f"t.{function}"
    name = function.__name__
    if function in (len, float, int):
        return f"{name}(t)"
    if function is operator.index:
        return "int(t)"
    if function is format:
        return "format(t, …)"
    if getattr(torch.Tensor, name, None) is function:
        return f"t.{name}()"
    return f"torch.{name}(t, …)" if getattr(torch, name, None) is function else f"{name}(t, …)"


def same(a, b):
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return a is b
    try:
        return bool(a == b or (a != a and b != b))  # nan is nan here
    except (ValueError, RuntimeError):  # arrays, or lists of tensors, which have no one answer
        return False


def refuse_plain(value):
    """TypeError for what is not on the mesh. (A single number is the same for every shard, unless it is trained.)"""
    kind, place = "plain tensor", "mesh.replicate(x)"
    if isinstance(value, numpy.ndarray):
        kind, place = "numpy array", "mesh.replicate(torch.from_numpy(x))"
    if value.ndim > 0:
        module = (
            ". It is a parameter: the layers of shardlab.layers split those of a dense module, and Replicated(module, "
            "mesh) runs all of it on every shard"
        )
        raise TypeError(
            f"a {kind} of shape {list(value.shape)} met a Shards, and it does not say which part of it "
            f"each shard should see: place it first, with {place} for all of it on every shard "
            f"or mesh.shard(x, dim) for a piece each{module if isinstance(value, torch.nn.Parameter) else ''}"
        )
    if isinstance(value, torch.Tensor) and value.requires_grad and torch.is_grad_enabled():
        raise TypeError(
            "a plain number that requires grad met a Shards, and all shards here would add to its one gradient, where "
            "each rank has its own: place it first, scale_ = mesh.replicate(scale), and train scale_.shards"
        )


def refused(way):
    def method(self, *_, **__):
        raise TypeError(way)

    return method
