"""Functions that write into their arguments, and the memory into which they must not.

What a collective leaves equal on every shard is, in one process, one buffer that all shards of a device see (see
`moves`): written in place, all of them would change. Over ranks each has memory of its own, and it is refused as well,
so that a lesson is right on ranks if it is right here, and the other way round.
"""

import inspect
import operator
from functools import cache

import torch
from torch.nn import functional

NORMS = {functional.batch_norm, functional.instance_norm, torch.batch_norm, torch.instance_norm}
SAFE = {"and_", "or_"}  # they end in an underscore and write nothing (requires_grad_ makes a leaf: to be written)
ARITHMETIC = "iadd isub imul imatmul itruediv ifloordiv imod ipow iand ior ixor ilshift irshift"
OPERATORS = {operator.setitem, *(getattr(operator, name) for name in ARITHMETIC.split())}
SWITCHES = {"inplace": (0, "input"), "max_norm": (1, "weight")}  # options that have a function write, and into what


def equal(tensors):
    """These tensors, which a collective left equal on every shard: from now on nothing is to write into them."""
    for tensor in tensors:
        tensor.untyped_storage().equal_on_all_shards = True
    return tensors


@cache
def writes(function):
    """Does this function ever write into its arguments? (add_, +=, x_[0] = …, relu(inplace=True), a norm into its
    running statistics, an embedding with max_norm into its weight)"""
    name = function.__name__
    in_place = name.endswith("_") and not name.endswith("__") and name not in SAFE
    return in_place or function in OPERATORS or function in NORMS or bool(switch(function))


@cache
def switch(function):
    """The option of a function of torch.nn.functional that has it write, and its place: ("inplace", 1) of relu."""
    if getattr(function, "__module__", None) == functional.__name__:
        names = list(inspect.signature(function).parameters)
        return next(((name, names.index(name)) for name in SWITCHES if name in names), None)


def targets(function, args, kwargs):
    """What a function that writes would write into; None if this call writes nothing."""
    if "out" in kwargs:
        return kwargs["out"]
    if function in NORMS:
        return [*args[1:3], *kwargs.values()]
    if option := switch(function):
        name, place = option
        on = args[place] if place < len(args) else kwargs.get(name)
        place, name = SWITCHES[name]
        return (args[place] if place < len(args) else kwargs.get(name)) if on else None
    return args[0] if args else next(iter(kwargs.values()))


def refuse_shared_memory(target, function):
    """RuntimeError, if this Shards, or one in this list, has shards that share memory, or would in one process."""
    if type(target) in (list, tuple):
        for each in target:
            refuse_shared_memory(each, function)
    storages = [tensor.untyped_storage() for tensor in getattr(target, "shards", []) if tensor.numel()]
    marked = any(hasattr(storage, "equal_on_all_shards") for storage in storages)
    if marked or len({storage.data_ptr() for storage in storages}) < len(storages):
        name = function.__name__.strip("_")
        raise RuntimeError(
            f"`{name}` would write into memory that several shards share: a collective left them equal, and on one "
            "device they are one buffer. Make a new value (x_ = x_ + 1), or take x_.clone() first."
        )
