"""A machine that is pretended to have CUDA devices: it finds tensors that meet on two devices where no GPU can be had.

    with pretended_cuda(4) as machine:
        torch.ones(2, device="cuda:3") + torch.ones(2)  # RuntimeError, as on a real one; machine.mixed has it too

A `Card` is a tensor that says it is on `cuda:i`, and holds its numbers in a tensor on the CPU. Whatever torch does with
tensors, forward and backward, comes by the `Machine`: it asks whether they are all in one place, computes on the CPU,
and makes Cards of the results. It knows nothing of kernels, memory, streams and time: `make cuda` on a real one does.

To torch's C++ a Card is on `lazy:i`, a kind of device that every build of torch has, while autograd in one for the CPU
ends the process at the sight of "cuda". So C++ itself makes zeros in the right place, takes gradients home, and knows
a copy from an alias.
"""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import TorchDispatchMode

CPU, INSIDE = torch.device("cpu"), "lazy"
INDEXING = {"index", "_unsafe_index", "index_put", "_index_put_impl"}  # their indices may stay on the CPU
TAKES_A_NUMBER = {"fill", "masked_fill", "index_fill", "index_put", "_index_put_impl", "floor_divide"}  # or pointwise


class Card(torch.Tensor):
    """A tensor on a pretended `cuda:i`; its numbers are in `held`, on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    is_cuda = True
    device = property(lambda self: torch.device("cuda", self.get_device()))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):  # where modes are off: in torch's printing
        return args[0].machine.__torch_dispatch__(function, types, args, kwargs)

    def to(self, *args, **kwargs):
        return super().to(*map(inside, args), **{name: inside(value) for name, value in kwargs.items()})

    def tolist(self):  # torch's own wants a torch.Tensor and no subclass, as does the next
        return self.held.tolist()

    def __format__(self, spec):
        return format(self.held, spec)

    def untyped_storage(self):
        return self.held.untyped_storage()

    def data_ptr(self):
        return self.held.data_ptr()

    def __deepcopy__(self, memo):  # torch's own copies the storage of what has a data_ptr
        copied = self.detach().clone()
        if getattr(self, "_is_param", False):
            copied._is_param = True
        return memo.setdefault(id(self), copied.requires_grad_(self.requires_grad))


Card.__name__ = "tensor"  # so it is printed


def card(held, place, machine):
    layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
    new = torch.Tensor._make_wrapper_subclass(Card, held.shape, **layout, device=inside(place))
    new.held, new.machine = held, machine
    return new


def inside(value):
    """A CUDA device by the name that C++ has for it here; any other value as it is."""
    device = torch.device(value) if isinstance(value, str) else value
    if isinstance(device, torch.device) and device.type == "cuda":
        return torch.device(INSIDE, device.index or 0)
    return value


def outside(device):
    """A device by the name that everyone else has for it."""
    return torch.device("cuda", device.index or 0) if device.type in (INSIDE, "cuda") else device


class Machine(TorchDispatchMode):
    """So many CUDA devices. `mixed` keeps every meeting of two, also where somebody catches the error."""

    def __init__(self, count):
        super().__init__()
        self.count, self.mixed = count, []

    @classmethod
    def _should_skip_dynamo(cls):  # True, the default, imports torch's compiler
        return False

    def around(self, do, *args):
        torch._C._set_only_lift_cpu_tensors(True)  # of one thread, too
        with self:
            do(*args)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        if Card not in types and (asked is None or asked.type not in (INSIDE, "cuda")):
            return function(*args, **kwargs)
        tensors = []

        def held(tensor):
            tensors.append(tensor)
            return tensor.held if type(tensor) is Card else tensor

        inputs, options = each(args, held), {name: each(value, held) for name, value in kwargs.items()}
        if asked is None:
            place = self.common(function, args, tensors)
        else:
            place, options["device"] = outside(asked), CPU if asked.type in (INSIDE, "cuda") else asked
        if place.type == "cuda":
            self.look(function, place, options)
        cards = {id(tensor.held): tensor for tensor in tensors if type(tensor) is Card}
        results = function(*inputs, **options)
        if place.type != "cuda":
            return results
        return each(results, lambda new: cards[id(new)] if id(new) in cards else card(new, place, self))

    def common(self, function, args, tensors):
        """The place of all these tensors."""
        places = dict.fromkeys(tensor.device for tensor in tensors)
        if len(places) > 1:
            places = dict.fromkeys(tensor.device for tensor in bound(function, args, tensors))
        place, *others = places
        if others:
            self.tell(
                f"Expected all tensors to be on the same device, but found at least two devices, {place} and "
                f"{others[0]}! ({function})"
            )
        return place

    def look(self, function, place, options):
        """What else CUDA would not do."""
        if place.index >= self.count:
            raise RuntimeError(f"CUDA error: invalid device ordinal ({place}, and there are {self.count})")
        if options.get("generator") is not None:
            self.tell(f"Expected a 'cuda' device type for generator but found 'cpu' ({function})")
        if torch.Tag.inplace_view in function.tags:
            raise NotImplementedError(f"{function} changes the shape of a tensor in place: this is not pretended")

    def homewards(self, node, given):
        """What the backward of a torch.autograd.Function gave, once it is clear that each gradient is where its input
        was. (For plain tensors the engine sees to that; it lets subclasses pass.)"""
        given = list(given) if isinstance(given, tuple) else [given]
        needed = [index for index, needs in enumerate(node.needs_input_grad) if needs]
        edges = [edge for edge in node.next_functions if edge[0] is not None]
        for index, (origin, number) in zip(needed, edges, strict=True):
            if given[index] is not None:
                place = outside(origin._input_metadata[number].device)
                if given[index].device != place and given[index].dim() > 0:
                    self.tell(
                        f"Function {type(node).__name__} returned an invalid gradient at index {index} - expected "
                        f"device {place} but got {given[index].device}"
                    )
                given[index] = given[index].to(place)
        return tuple(given)

    def tell(self, message):
        self.mixed.append(message)
        raise RuntimeError(message)


def each(value, change):
    """`change` of a tensor, or of every tensor in a list."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)([each(item, change) for item in value])
    return value


def bound(function, args, tensors):
    """Those of the tensors that must be in one place: all but the source of a copy, indices on the CPU, and a number
    on the CPU (a tensor without dims) beside elementwise functions, unless it is written into."""
    name = function.overloadpacket.__name__.rstrip("_")
    if name == "copy":
        return tensors[:1]
    free = [id(index) for index in args[1]] if name in INDEXING else []
    if torch.Tag.pointwise in function.tags or name in TAKES_A_NUMBER:
        inputs = tensors[1:] if function._schema.is_mutable else tensors
        free += [id(tensor) for tensor in inputs if tensor.dim() == 0]
    return [tensor for tensor in tensors if type(tensor) is Card or id(tensor) not in free]


# what torch.cuda.comm is made of


def broadcast(tensor, devices):
    return [tensor.to(f"cuda:{index}") for index in devices]


def gather(tensors, dim, destination):
    for index, tensor in enumerate(tensors):
        if tensor.device.type != "cuda":
            raise RuntimeError(f"Expected all input tensors to be CUDA tensors, but tensor at index {index} is not")
    return torch.cat([tensor.to(f"cuda:{destination}") for tensor in tensors], dim)


@contextmanager
def pretended_cuda(count):
    """So many CUDA devices, for as long as the block runs: a `Machine`."""
    machine = Machine(count)
    properties = SimpleNamespace(name="a pretended GPU", total_memory=2**30)
    answers = {"is_available": True, "device_count": count, "current_device": 0, "get_device_properties": properties}
    with pytest.MonkeyPatch.context() as patch:
        for question, answer in (answers | {"_lazy_init": None}).items():
            patch.setattr(torch.cuda, question, lambda *_, answer=answer: answer)
        patch.setattr(torch.Tensor, "cuda", lambda tensor, index=0: tensor.to(torch.device("cuda", index)))
        patch.setattr(torch.cuda.nccl, "is_available", lambda tensors: False)
        alone = threading.Thread.run
        patch.setattr(threading.Thread, "run", lambda thread: machine.around(alone, thread))  # a mode is of one thread
        patch.setattr(torch._C, "_broadcast", broadcast, raising=False)
        patch.setattr(torch._C, "_gather", gather, raising=False)
        backward = BackwardCFunction.apply
        patch.setattr(BackwardCFunction, "apply", lambda node, *grads: machine.homewards(node, backward(node, *grads)))
        lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # so torch.tensor(…, device="cuda:0") comes by the machine
        try:
            with machine:
                yield machine
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts)
            machine.count = 0  # who keeps a card of it is told
