"""Functions that write into their arguments, and the memory into which they must not.

Equal shards on one device may share one buffer (see `moves`): written in place, all of them would change.
"""

import operator
from functools import cache

import torch

NORMS = {torch.nn.functional.batch_norm, torch.nn.functional.instance_norm, torch.batch_norm, torch.instance_norm}
SAFE = {"and_", "or_"}  # they end in an underscore and write nothing (requires_grad_ makes a leaf: to be written)
ARITHMETIC = "iadd isub imul imatmul itruediv ifloordiv imod ipow iand ior ixor ilshift irshift"
OPERATORS = {operator.setitem, *(getattr(operator, name) for name in ARITHMETIC.split())}


@cache
def writes(function):
    """Does this function write into its arguments? (add_, +=, x_[0] = …, or a norm into its running statistics)"""
    name = function.__name__
    in_place = name.endswith("_") and not name.endswith("__") and name not in SAFE
    return in_place or function in OPERATORS or function in NORMS


def targets(function, args, kwargs):
    """What a function that writes would write into."""
    if "out" in kwargs:
        return kwargs["out"]
    if function in NORMS:
        return [*args[1:3], *kwargs.values()]
    return args[0] if args else next(iter(kwargs.values()))


def refuse_shared_memory(target, function):
    """RuntimeError, if this Shards, or one in this list, has shards that share their memory."""
    if type(target) in (list, tuple):
        for each in target:
            refuse_shared_memory(each, function)
    places = [tensor.untyped_storage().data_ptr() for tensor in getattr(target, "shards", []) if tensor.numel()]
    if len(set(places)) < len(places):
        name = function.__name__.strip("_")
        raise RuntimeError(
            f"`{name}` would write into memory that several shards share: a collective left them equal, and on one "
            "device they are one buffer. Make a new value (x_ = x_ + 1), or take x_.clone() first."
        )
