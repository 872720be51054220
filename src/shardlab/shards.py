"""`Shards`: one value, in several shards, and torch lifted onto them.

Any torch function, method or operator acts on each shard alone and never communicates. Bytes cross from
one shard to another in the collectives of `shardlab.Mesh`, and nowhere else.
"""

import copy
from functools import partial
from itertools import repeat

import numpy
import torch

from shardlab.pictures import draw
from shardlab.pictures.still import still
from shardlab.plumbing import chance, operators
from shardlab.plumbing.backward import hooked, joint, leaves, listed, refuse_without_history, run_backward
from shardlab.plumbing.in_place import refuse_shared_memory, targets, writes
from shardlab.plumbing.words import (
    INSTEAD,
    NO_LEAF,
    NO_PARAMETER,
    NOTHING_TO_GO_OVER,
    brief,
    of_one,
    plain,
    refuse_plain,
    refused,
    same,
)


class Shards:
    """One value, as the shards of it that this process holds, in rank order.

    In one process that is every shard; under torchrun it is the process's own (JAX calls them the
    *addressable* shards). Made by `mesh.shard` and `mesh.replicate`; `x_.shards` is the list of tensors.
    What does not go through torch's dispatch (einops, torch.testing.assert_close, functional_call, gradcheck) takes
    tensors alone: hand it `x_.shards[0]`, or all of them, as in `Shards([f(x) for x in x_.shards], x_.mesh)`.

    >>> import torch, shardlab
    >>> mesh = shardlab.Mesh(2, devices=["cpu"])
    >>> W_ = mesh.shard(torch.ones(4, 6), dim=1)
    >>> W_.shape
    torch.Size([4, 3])
    >>> (W_ @ W_.T + 1).sum().shards
    [tensor(64.), tensor(64.)]
    """

    __slots__ = ("shards", "mesh")
    __hash__ = object.__hash__
    __array_ufunc__ = None  # numpy.float64(2) * x_ is ours to compute

    def __init__(self, shards, mesh):
        if len(shards) != len(mesh.ranks):
            raise ValueError(f"{mesh} holds {len(mesh.ranks)} shards in this process, not {len(shards)}")
        for rank, shard in zip(mesh.ranks, shards, strict=True):
            if not isinstance(shard, torch.Tensor):
                raise TypeError(f"shard {rank} is to be a tensor, not {brief(shard)}")
        self.shards = shards
        self.mesh = mesh

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return lift(function, args, kwargs or {})

    def __getattr__(self, name):
        """Any other public attribute of a tensor: a method acts on each shard, a property is asked of each."""
        if name.startswith("_") or not hasattr(torch.Tensor, name):
            raise AttributeError(f"a Shards has no attribute {name!r}; x_.shards is the list of its tensors")
        attribute = getattr(torch.Tensor, name)
        if callable(attribute):
            return lambda *args, **kwargs: lift(attribute, (self, *args), kwargs)
        return combine([getattr(tensor, name) for tensor in self.shards], self.mesh, name)

    def __dir__(self):
        return sorted({*object.__dir__(self), *(name for name in dir(torch.Tensor) if name[0] != "_")})

    @property
    def grad(self):
        """The gradients that backward left in the leaves, as a Shards (None before backward)."""
        first = self.shards[0]
        part = first._base is not None and first._base.requires_grad
        if (part or first.grad_fn is not None) and not first.retains_grad:
            raise RuntimeError(NO_LEAF)
        return combine([tensor.grad for tensor in self.shards], self.mesh, "grad")

    @grad.setter
    def grad(self, value):
        for tensor, grad in zip(self.shards, spread(value, self.mesh), strict=True):
            tensor.grad = grad

    @property
    def requires_grad(self):
        return combine([tensor.requires_grad for tensor in self.shards], self.mesh, "requires_grad")

    @requires_grad.setter
    def requires_grad(self, value):
        self.requires_grad_(value)

    def backward(self, gradient=None, **options):
        """One joint backward over the shards, each starting from its own copy of this (replicated) value."""
        refuse_without_history(self.shards)
        gradients = gradient if gradient is None else spread(gradient, self.mesh)
        run_backward(self.shards, gradients, **with_tensors(options, self.mesh))

    def __iter__(self):
        if self.shards[0].dim() == 0:
            raise TypeError(NOTHING_TO_GO_OVER)
        return iter(self.unbind(0))

    def __copy__(self):
        return wrap(list(self.shards), self.mesh)

    def __deepcopy__(self, memo):
        return wrap(copy.deepcopy(self.shards, memo), self.mesh)

    def __format__(self, spec):
        return lift(format, (self, spec), {}) if spec else repr(self)

    def __bool__(self):
        raise TypeError(
            f"`if` needs one answer, and a Shards holds {len(self.shards)}, which may differ. "
            "Ask for all of them with [bool(t) for t in x_.shards], or choose in each with torch.where."
        )

    def __repr__(self):
        head, *rest = draw.text(*self._for_drawing(), total=self.mesh.total).split("\n", 1)
        return "\n".join([f"{head}, {self.mesh.note}" if self.mesh.note else head, *rest])

    def _repr_html_(self):
        elsewhere = self.mesh.total - len(self.shards)
        note = f"{elsewhere} more in other processes" if elsewhere else self.mesh.note
        return still(draw.tiles(*self._for_drawing(), note))

    def _for_drawing(self):
        tensors = [tensor.detach() for tensor in self.shards]
        return tensors, list(self.mesh.ranks), [str(tensor.device) for tensor in tensors]


def wrap(tensors, mesh):
    """The Shards of tensors that are known to be one for each shard held here."""
    made = object.__new__(Shards)
    made.shards, made.mesh = tensors, mesh
    return made


def lift(function, args, kwargs):
    """`function`, shard by shard: shard r of the result comes from shard r of each argument, and nothing else."""
    if function in JOINT:
        return JOINT[function](*args, **kwargs)
    if function in chance.INSTEAD:
        chance.refuse_to_draw(function, args, kwargs)
    mesh = meet([*args, *kwargs.values()])
    if mesh is None:
        raise TypeError(f"{plain(function)} does not take a Shards where it was given one; x_.shards are its tensors")
    if writes(function) or (kwargs and "out" in kwargs):
        refuse_shared_memory(targets(function, args, kwargs), function)
    columns = [spread(arg, mesh) for arg in args]
    rows = zip(*columns, strict=True) if columns else repeat((), len(mesh.ranks))
    results = []
    try:
        if kwargs:
            named = zip(*(spread(value, mesh) for value in kwargs.values()), strict=True)
            for row, values in zip(rows, named, strict=True):
                results.append(function(*row, **dict(zip(kwargs, values, strict=True))))
        else:
            for row in rows:
                results.append(function(*row))
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        raise at_shard(error, function, mesh.ranks[len(results)], args, len(results)) from error
    return combine(results, mesh, function)


def spread(value, mesh):
    """What each shard sees of an argument: its own shard of a Shards, everything else as it is."""
    if type(value) is Shards:
        if value.mesh is not mesh and value.mesh != mesh:
            raise ValueError(
                f"these Shards live on two meshes, {value.mesh} and {mesh}: place both on the same one "
                "with mesh.shard or mesh.replicate"
            )
        return value.shards
    if isinstance(value, (torch.Tensor, numpy.ndarray)):
        refuse_plain(value)
        value = value if isinstance(value, torch.Tensor) else value.item()
    elif type(value) in (list, tuple) and value:
        return [type(value)(row) for row in zip(*(spread(item, mesh) for item in value), strict=True)]
    elif type(value) is slice:
        bounds = (spread(bound, mesh) for bound in (value.start, value.stop, value.step))
        return [slice(*row) for row in zip(*bounds, strict=True)]
    return [value] * len(mesh.ranks)


def combine(results, mesh, what):
    """One answer from the shards' answers: tensors become a Shards, values that agree become that value. `what` was
    asked for: a function, or the name of a property."""
    first = results[0]
    if isinstance(first, torch.Tensor) and False not in [isinstance(result, torch.Tensor) for result in results]:
        return wrap(results, mesh)
    if isinstance(first, (tuple, list)) and any(isinstance(item, torch.Tensor) for item in first):
        if len({len(result) for result in results}) == 1:
            items = [combine(list(items), mesh, what) for items in zip(*results, strict=True)]
            return items if type(first) is list else type(first)(items) if type(first) is not tuple else tuple(items)
    elif all(same(result, first) for result in results):
        return first
    answers = "; ".join(f"shard {rank}: {brief(result)}" for rank, result in zip(mesh.ranks, results, strict=True))
    name = what if isinstance(what, str) else plain(what)
    raise ValueError(
        f"the shards do not agree on `{name}`: {answers}. Ask each one: [{of_one(what)} for t in x_.shards]"
    )


def joint_grad(outputs, inputs, grad_outputs=None, **options):
    """torch.autograd.grad over all shards at once: one backward, as `Shards.backward` is."""
    mesh = meet([outputs, inputs])
    inputs = listed(inputs)
    gradients = None if grad_outputs is None else every_tensor(grad_outputs, mesh)
    with joint():
        grads = iter(torch.autograd.grad(every_tensor(outputs, mesh), leaves(inputs), gradients, **options))
    return tuple(
        combine([next(grads) for _ in mesh.ranks], mesh, "grad") if type(one) is Shards else next(grads)
        for one in inputs
    )


def joint_backward(tensors, grad_tensors=None, **options):
    """torch.autograd.backward over all shards at once."""
    mesh = meet([tensors])
    gradients = None if grad_tensors is None else every_tensor(grad_tensors, mesh)
    run_backward(every_tensor(tensors, mesh), gradients, **with_tensors(options, mesh))


def with_tensors(options, mesh):
    """The options of a backward, where `inputs` says which leaves alone are to get a gradient."""
    inputs = options.get("inputs")
    return options if inputs is None else options | {"inputs": leaves(listed(inputs))}


def every_tensor(values, mesh):
    """The tensors of one Shards, or of a list of them."""
    values = values if type(values) in (list, tuple) else [values]
    return [tensor for value in values for tensor in spread(value, mesh)]


def meet(values):
    """The mesh of the first Shards among the arguments (also within lists and slices)."""
    for value in values:
        if type(value) is Shards:
            return value.mesh
        if type(value) in (list, tuple):
            mesh = meet(value)
        elif type(value) is slice:
            mesh = meet((value.start, value.stop, value.step))
        else:
            continue
        if mesh is not None:
            return mesh
    return None


def at_shard(error, function, rank, args, index):
    """The same error, with the shard and the shapes it saw."""
    shapes = ", ".join(
        str(list(arg.shards[index].shape)) if type(arg) is Shards else brief(arg)
        for arg in args
        if type(arg) is Shards or not isinstance(arg, torch.Tensor)
    )
    try:
        return type(error)(f"shard {rank}, {plain(function)}({shapes}): {error}")
    except TypeError:  # an exception that wants more than a message
        return RuntimeError(f"shard {rank}, {plain(function)}({shapes}): {error}")


HOOKS = [torch.Tensor.register_hook, torch.Tensor.register_post_accumulate_grad_hook]
JOINT = {
    torch.autograd.grad: joint_grad,
    torch.autograd.backward: joint_backward,
    torch.Tensor.backward: Shards.backward,
    **{register: partial(hooked, register) for register in HOOKS},
}

operators.install(Shards, lift, wrap)
for name, way in INSTEAD.items():
    setattr(Shards, name, refused(way))
Shards._is_param = property(lambda self: False, refused(NO_PARAMETER))  # what nn.Parameter(w_) sets
