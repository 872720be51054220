"""What travels between the kernel and its ranks: a lesson by value, arguments, and results. No file is written."""

import functools
import inspect
import io
import pickle
import sys
import types

import cloudpickle
import torch

from shardlab.mesh import Mesh
from shardlab.shards import Shards


class CannotShip(TypeError):
    """A lesson that cannot leave this process, and what in it cannot."""


class Parcel(cloudpickle.Pickler):
    """cloudpickle, except that a tensor is its bytes, and a Shards the tensors that each rank takes its own from."""

    def reducer_override(self, value):
        if type(value) is torch.Tensor and value.layout is torch.strided and not value.is_meta:
            flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
            flat = flat.as_strided([flat.numel()], [1])  # a view would keep a stride that one element need not obey
            return tensor, (flat.view(torch.uint8).numpy().tobytes(), value.dtype, value.shape, value.requires_grad)
        if type(value) is Shards:
            shards = [shard.detach().requires_grad_(shard.requires_grad) for shard in value.shards]
            return arrive, (shards,)
        if isinstance(value, Mesh):
            raise TypeError("a Mesh stays in its process: a rank uses the one that it is given, or torch.distributed")
        return super().reducer_override(value)


class Parts(list):
    """The shards that came back from a rank."""


here = None  # in a rank: its mesh


def arrive(shards):
    """A Shards at its destination: a rank takes its own shard, the kernel all that were sent."""
    if here is None:
        return Parts(shards)
    if len(shards) != here.total:
        raise ValueError(f"a Shards of {len(shards)} came to {here.total} ranks, which take one shard each")
    own = shards[here.ranks[0]]
    return Shards([own.detach().to(here.devices[0]).requires_grad_(own.requires_grad)], here)


def tensor(data, dtype, shape, requires_grad):
    values = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return values.reshape(shape).requires_grad_(requires_grad)


def pack(value):
    stream = io.BytesIO()
    Parcel(stream).dump(value)
    return stream.getvalue()


unpack = pickle.loads


def pack_lesson(lesson, args):
    """A lesson with its arguments; what is defined in a notebook or a loose file goes by value."""
    if loose := loose_module(lesson):
        cloudpickle.register_pickle_by_value(loose)
    try:
        return pack((lesson, args))
    except Exception as error:
        found = culprit("the lesson", lesson) or next(filter(None, map(culprit, numbered(args), args)), "the lesson")
        raise CannotShip(f"{found} cannot be sent to the ranks: {error}") from error
    finally:
        if loose:
            cloudpickle.unregister_pickle_by_value(loose)


def loose_module(lesson):
    """The module of a lesson, where it is a file of the user's own, which the ranks might know in an older text.
    (`__main__`, and with it a notebook, cloudpickle sends by itself.)"""
    while isinstance(lesson, functools.partial):
        lesson = lesson.func
    module = sys.modules.get(lesson.__module__) if isinstance(lesson, types.FunctionType) else None
    return module if module and not module.__package__ and module.__name__ != "__main__" else None


def pack_result(result):
    try:
        return pack(result)
    except Exception as error:
        raise CannotShip(f"what the lesson returned cannot be sent to the kernel: {error}") from error


def numbered(args):
    return [f"argument {index}" for index in range(1, len(args) + 1)]


def culprit(name, value, seen=()):
    """What in `value` cannot be sent, by name; None if all of it can."""
    try:
        pack(value)
    except Exception:
        if isinstance(value, types.FunctionType) and value not in seen:
            for inner, found in names_used(value).items():
                if said := culprit(f"`{inner}`", found, (*seen, value)):
                    return said if said.endswith(",") else f"{said}, which {name} uses,"
        return f"{name} ({type(value).__name__})"


def names_used(function):
    """The globals and nonlocals of a function, but for those without a value yet."""
    try:
        used = inspect.getclosurevars(function)
    except ValueError:  # an empty cell
        return {}
    return {**used.globals, **used.nonlocals}


def together(results, mesh):
    """What the ranks returned, as one: their shards as a Shards (within tuples, lists and dicts too), the rest by
    rank."""
    first, alike = results[0], len(set(map(outline, results))) == 1
    if all(isinstance(result, Parts) for result in results):
        return Shards([result[0] for result in results], mesh)
    if not (alike and any(map(has_parts, results))):
        return [result[0] if isinstance(result, Parts) else result for result in results]
    if type(first) is dict:
        return {key: together([result[key] for result in results], mesh) for key in first}
    columns = [together(list(column), mesh) for column in zip(*results, strict=True)]
    return type(first)(*columns) if hasattr(first, "_fields") else type(first)(columns)


def has_parts(value):
    inner = value.values() if type(value) is dict else value if is_sequence(value) else ()
    return isinstance(value, Parts) or any(map(has_parts, inner))


def is_sequence(value):
    return type(value) in (list, tuple) or hasattr(value, "_fields")


def outline(value):
    return type(value), tuple(value) if type(value) is dict else len(value) if is_sequence(value) else 0
