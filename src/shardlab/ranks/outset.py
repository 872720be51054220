"""What a lesson finds when it begins: the settings of the kernel, as they are now, and nothing of the lesson before."""

import contextlib
import operator
import os
import random
import sys
import types

import torch
import torch.distributed as dist
from torch.nn import functional

from shardlab import collectives, moves
from shardlab.mesh import Mesh
from shardlab.ranks import parcels
from shardlab.shards import Shards


def environment():
    return dict(os.environ._data)  # the bytes: a tenth of the time that its text takes


def set_environment(wanted):
    os.environb.clear()
    os.environb.update(wanted)


def set_path(wanted):
    sys.path[:] = wanted


def autocast(kind):
    return torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)


def set_autocast(kind, wanted):
    torch.set_autocast_enabled(kind, wanted[0])
    torch.set_autocast_dtype(kind, wanted[1])


SETTINGS = [  # how one asks for it, and how one sets it
    (environment, set_environment),
    (os.getcwd, os.chdir),
    (lambda: [*sys.path], set_path),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (lambda: autocast("cpu"), lambda wanted: set_autocast("cpu", wanted)),
    (lambda: autocast("cuda"), lambda wanted: set_autocast("cuda", wanted)),
]


def settings():
    """Those of this process."""
    return [ask() for ask, _ in SETTINGS]


def take(wanted):
    """Set them as they are elsewhere."""
    for (ask, put), value in zip(SETTINGS, wanted, strict=True):
        if ask() != value:
            put(value)


# in a rank

OWN = [b"LOCAL_RANK", b"GLOO_SOCKET_IFNAME", b"SHARDLAB_CHECK"]  # in the environment: a rank's, from its start


class Outset:
    """A rank as it was before its first lesson."""

    def __init__(self):
        env = environment()
        self.own = {name: env[name] for name in OWN if name in env}
        self.threads, self.seed, self.modules = torch.get_num_threads(), torch.initial_seed(), {*sys.modules}

    def begin(self, wanted):
        """Before a lesson: as the kernel is now."""
        env, *others = wanted
        take([{name: value for name, value in env.items() if name not in OWN} | self.own, *others])

    def tidy(self):
        """After a lesson, once its answer is on the way: as it was."""
        for functions in KEPT:
            functions.restore()
        if len(sys.modules) != len(self.modules):
            parcels.forget_own_modules(sys.modules.keys() - self.modules)
            self.modules = {*sys.modules}
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        if torch.get_default_device() != DEVICE:
            torch.set_default_device(None)
        self.draw_own_numbers()

    def draw_own_numbers(self):
        """Another seed on each rank: what a lesson seeds is for that lesson."""
        random.seed()
        if numpys := sys.modules.get("numpy.random"):
            numpys.seed(random.getrandbits(32))
        if torch.initial_seed() != self.seed:
            self.seed = torch.seed()


class Functions:
    """The functions and properties of a module or class, in case that a lesson puts others in their place."""

    def __init__(self, place):
        self.place, self.kept = place, {name: value for name, value in vars(place).items() if is_code(value)}
        self.get, self.values, self.count = operator.itemgetter(*self.kept), (*self.kept.values(),), len(vars(place))

    def restore(self):
        now = vars(self.place)
        if len(now) == self.count and self.unchanged(now):
            return
        for name, value in self.kept.items():
            if now.get(name) is not value:
                setattr(self.place, name, value)
        if isinstance(self.place, type):  # a new one may hide that of a base
            for name in [name for name in now if name not in self.kept and is_code(now[name])]:
                if hasattr(super(self.place, self.place), name):
                    delattr(self.place, name)
        self.count = len(vars(self.place))

    def unchanged(self, now):
        """Are all of them there, and the same? (A tuple looks first whether they are, and only then whether they are
        equal, which a strange one may not like to be asked.)"""
        with contextlib.suppress(Exception):
            return self.get(now) == self.values


METHODS = (types.MethodDescriptorType, types.WrapperDescriptorType, classmethod, staticmethod, property)
CODE = (types.FunctionType, types.BuiltinFunctionType, type, *METHODS)


def is_code(value):
    return issubclass(type(value), CODE)  # its __class__ might have a will of its own


# From before the ranks are forked: memory that all of them have in common. (All functions of torch would be too many:
# to look at an object is to count who looks, and that takes a copy of its memory.)
KEPT = [Functions(place) for place in (functional, dist, collectives, moves, torch.Tensor, Mesh, Shards)]
DEVICE = torch.get_default_device()
