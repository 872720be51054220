"""What travels between the kernel and its ranks: a lesson by value, arguments, and results. No file is written.

What is installed, each rank imports. What the user has written, in a notebook or in modules of their own, is sent as
the kernel has it now: the ranks' own import might be older, or newer.
"""

import contextlib
import functools
import importlib
import inspect
import io
import pickle
import sys
import threading
import types
from pathlib import Path

import cloudpickle
import torch

from shardlab.mesh import Mesh
from shardlab.plumbing.agreement import is_plumbing
from shardlab.ranks import tensors
from shardlab.ranks.results import Parts
from shardlab.shards import Shards


class CannotShip(TypeError):
    """A lesson that cannot leave this process, and what in it cannot."""


class Parcel(cloudpickle.Pickler):
    """cloudpickle, except that a tensor is its bytes, a Shards the tensors that each rank takes its own from, and a
    module of the user's own what it holds."""

    def __init__(self, stream, shared=()):
        super().__init__(stream)
        self.stream, self.memory, self.by_value = stream, tensors.Memory(shared), contextlib.ExitStack()

    def reducer_override(self, value):
        if type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout is torch.strided and not value.is_meta:
            return tensors.reduce(value, self.memory)
        if type(value) is Shards:
            return arrive, ([plain(shard) for shard in value.shards],)
        if isinstance(value, Mesh):
            raise TypeError("a Mesh stays in its process: a rank uses the one that it is given, or torch.distributed")
        if type(value) is Globals:
            return globals_of, (value["__name__"], dict(value))
        if here is None and isinstance(value, CACHED) and (value.__module__ == "__main__" or home(value)):
            return cached, (value.__wrapped__, value.cache_parameters())
        if here is None and (module := home(value)):
            if value is module:
                return empty, (module.__name__,), contents(module), None, None, fill
            return self.reduce_own(value, module)
        return super().reducer_override(value)

    def reduce_own(self, value, module):
        """A function or class of a module of the user's own: by value."""
        if module.__name__ not in cloudpickle.list_registry_pickle_by_value():
            cloudpickle.register_pickle_by_value(module)
            self.by_value.callback(cloudpickle.unregister_pickle_by_value, module)
        if isinstance(value, types.FunctionType) and value.__globals__ is vars(module):
            self.globals_ref.setdefault(id(value.__globals__), Globals())
        return super().reducer_override(value)


CACHED = type(functools.cache(len))
packing = threading.RLock()  # cloudpickle's list of what goes by value is one for all threads


def pack(value, before=b""):
    """The bytes of a value, after some others."""
    with packing:
        parcel = dump(Parcel(io.BytesIO(before)), value)
        if shared := parcel.memory.overlaps():
            seen, parcel = parcel, dump(Parcel(io.BytesIO(before), shared), value)
            del seen  # which has kept all tensors where they are
    return parcel.stream.getvalue()


def dump(parcel, value):
    parcel.stream.seek(0, io.SEEK_END)
    with parcel.by_value:
        parcel.dump(value)
    return parcel


def pack_lesson(lesson, args, settings):
    """A lesson with its arguments, after the settings with which it begins."""
    try:
        return pack((lesson, args), before=pickle.dumps(settings))
    except Exception as error:
        found = culprit("the lesson", lesson) or next(filter(None, map(culprit, numbered(args), args)), "the lesson")
        raise CannotShip(f"{found} cannot be sent to the ranks: {error}") from error


def pack_result(result):
    try:
        return pack(result)
    except Exception as error:
        raise CannotShip(f"what the lesson returned cannot be sent to the kernel: {error}") from error


def unpack(data):
    return pickle.loads(data)


def unpack_lesson(data, begin):
    """The lesson and its arguments, once `begin(settings)` has been called."""
    stream = io.BytesIO(data)
    begin(pickle.load(stream))
    modules.clear()
    return pickle.load(stream)


# shards


here = None  # in a rank: its mesh


def plain(shard):
    """A shard, whose parameters and their like are tensors elsewhere."""
    if type(shard) is torch.Tensor:
        return shard
    tensor = shard.detach().requires_grad_(shard.requires_grad)
    tensor.grad = shard.grad if shard.is_leaf else None
    return tensor


def arrive(shards):
    """A Shards at its destination: a rank takes its own shard, the kernel all that were sent."""
    if here is None:
        return Parts(shards)
    if len(shards) != here.total:
        raise ValueError(f"a Shards of {len(shards)} came to {here.total} ranks, which take one shard each")
    own, device = shards[here.ranks[0]], here.devices[0]
    if own.device == device:
        return Shards([own], here)
    there = own.detach().to(device).requires_grad_(own.requires_grad)
    there.grad = own.grad if own.grad is None else own.grad.to(device)
    return Shards([there], here)


# what the user has written


def home(value):
    """The module of the user's own that a function or class is from, or that it is itself; None if there is none.
    (`__main__`, and with it a notebook, cloudpickle sends by itself.)"""
    if isinstance(value, (types.FunctionType, type, CACHED)):
        value = sys.modules.get(value.__module__)
    return value if isinstance(value, types.ModuleType) and is_own(value) else None


def is_own(module):
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and module.__name__ not in ("__main__", "__mp_main__") and is_users(file)


@functools.cache
def is_users(file):
    """Is this a file of Python that somebody wrote here, and not one that was installed?"""
    installed = is_plumbing(file) or {"site-packages", "dist-packages"} & {*Path(file).parts}
    return file.endswith(".py") and not installed


def contents(module):
    about_the_import = ("__builtins__", "__spec__", "__loader__", "__cached__")
    return {name: value for name, value in vars(module).items() if name not in about_the_import}


class Globals(dict):
    """The globals of functions of one module: where they arrive, they are those of one module again."""


modules = {}  # that came with a parcel, by name


def empty(name):
    return modules.setdefault(name, types.ModuleType(name))


def fill(module, values):
    vars(module).update(values)
    sys.modules[module.__name__] = module


def globals_of(name, about):
    vars(empty(name)).update(about)
    return vars(empty(name))


def cached(function, parameters):
    return functools.lru_cache(**parameters)(function)


def forget_own_modules(names):
    """Have the next lesson find the modules of the user's own among these as they are then."""
    if own := [name for name in names if is_own(sys.modules[name])]:
        for name in own:
            del sys.modules[name]
        importlib.invalidate_caches()


# what cannot be sent


def numbered(args):
    return [f"argument {index}" for index in range(1, len(args) + 1)]


def culprit(name, value, seen=()):
    """What in `value` cannot be sent, by name; None if all of it can."""
    try:
        pack(value)
    except Exception:
        if not any(value is other for other in seen):
            for inner, found in names_used(value).items():
                if said := culprit(f"`{inner}`", found, (*seen, value)):
                    return said if said.endswith(",") else f"{said}, {whose(name, value)},"
        return f"{name} ({type(value).__name__})"


def whose(name, value):
    if isinstance(value, types.ModuleType):
        short = value.__name__
        return (
            f"which is in {Path(value.__file__).name} and would go with it (write `from {short} import …`, and only "
            f"what the lesson uses goes, or `import {short}` inside the lesson, and each rank reads the file)"
        )
    return f"which {name} uses"


def names_used(value):
    """The globals and nonlocals of a function, but for those without a value yet; what a module holds."""
    if isinstance(value, types.ModuleType):
        return contents(value) if is_own(value) else {}
    try:
        used = inspect.getclosurevars(value)
    except (TypeError, ValueError):  # no function; an empty cell
        return {}
    return {**used.globals, **used.nonlocals}
