"""What travels between the kernel and its ranks: a lesson by value, arguments, and results. No file is written."""

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
            flat = value.detach().cpu().resolve_conj().resolve_neg().contiguous().view(-1)
            return tensor, (flat.view(torch.uint8).numpy().tobytes(), value.dtype, value.shape, value.requires_grad)
        if type(value) is Shards:
            return arrive, ([shard.detach() for shard in value.shards],)
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
    return Shards([shards[here.ranks[0]].to(here.devices[0])], here)


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
    module = sys.modules.get(getattr(lesson, "__module__", None))
    loose = isinstance(lesson, types.FunctionType) and module and not module.__package__
    loose = loose and module.__name__ != "__main__"  # cloudpickle does that by itself
    if loose:
        cloudpickle.register_pickle_by_value(module)
    try:
        return pack((lesson, args))
    except Exception as error:
        found = culprit("the lesson", lesson) or next(filter(None, map(culprit, numbered(args), args)), "the lesson")
        raise CannotShip(f"{found} cannot be sent to the ranks: {error}") from error
    finally:
        if loose:
            cloudpickle.unregister_pickle_by_value(module)


def pack_result(result):
    try:
        return pack(result)
    except Exception as error:
        raise CannotShip(f"what the lesson returned cannot be sent to the kernel: {error}") from error


def numbered(args):
    return [f"argument {index}" for index in range(1, len(args) + 1)]


def culprit(name, value):
    """What in `value` cannot be sent, by name; None if all of it can."""
    try:
        pack(value)
    except Exception:
        if isinstance(value, types.FunctionType):
            used = inspect.getclosurevars(value)
            for inner, found in {**used.globals, **used.nonlocals}.items():
                if found is not value and (said := culprit(f"`{inner}`", found)):
                    return said if said.endswith(",") else f"{said}, which {name} uses,"
        return f"{name} ({type(value).__name__})"


def together(results, mesh):
    """What the ranks returned, as one: their shards as a Shards (within tuples and dicts too), the rest by rank."""
    first = results[0]
    if all(isinstance(result, Parts) for result in results):
        return Shards([result[0] for result in results], mesh)
    if not has_parts(first) or any(outline(result) != outline(first) for result in results):
        return results
    if type(first) is dict:
        return {key: together([result[key] for result in results], mesh) for key in first}
    return tuple(together(list(column), mesh) for column in zip(*results, strict=True))


def has_parts(value):
    inner = value.values() if type(value) is dict else value if type(value) is tuple else ()
    return isinstance(value, Parts) or any(map(has_parts, inner))


def outline(value):
    return type(value), list(value) if type(value) is dict else len(value) if type(value) is tuple else 0
