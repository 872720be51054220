"""Run an answer once on a mesh, and see everything that can be seen: values, communication, work, gradients."""

from dataclasses import dataclass, field
from difflib import get_close_matches

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shardlab.exercises.exercise import brief_error
from shardlab.exercises.limits import run
from shardlab.exercises.placing import PLACE, listed, pieces
from shardlab.exercises.real_ranks import Failed, try_on_ranks
from shardlab.exercises.verdict import UNSOLVED, a_kind
from shardlab.exercises.world import world
from shardlab.mesh import Mesh
from shardlab.plumbing.backward import run_backward
from shardlab.shards import Shards


@dataclass
class Case:
    """One set of inputs: a number of shards, the plain tensors, how each is placed; how each result is to be placed,
    and its cotangent, the gradient with which backward begins there; and the numbers that come after the tensors (of
    heads, say)."""

    n: int
    tensors: dict
    placing: dict
    results: dict
    cotangents: list
    numbers: list = field(default_factory=list)
    requires_grad: bool = False  # whether the inputs do, also where no gradient is looked at

    def which(self, index):
        """Of which result, on which shard, is this one of `Seen.values`? (Its name, its number, the rank.)"""
        rank, number = divmod(index, len(self.results))
        return "the result" if len(self.results) == 1 else [*self.results][number], number, rank


@dataclass
class Seen:
    """What an answer did in one case. Lists run over all shards, also over those of other ranks."""

    trouble: tuple | None = None  # (mistake, message): it did not get as far as a value
    where: str = ""  # the ranks that are in trouble, where it is not all of them
    values: list = field(default_factory=list)  # all results of shard 0, then all of shard 1, …
    forward: list = field(default_factory=list)  # the calls recorded
    backward: list = field(default_factory=list)
    flops: int = 0
    moved: list = field(default_factory=list)  # (name, what each shard brought, what each got), a collective each
    placed: int = 0  # how many numbers (but indices) it placed by mesh.shard and mesh.replicate
    grads: dict = field(default_factory=dict)  # name -> a gradient a shard


class WatchedMesh(Mesh):
    """A mesh that remembers what was placed on it and what its collectives brought, and knows what it is asked for."""

    def __init__(self, *args, **options):
        self.placed, self.moved = [], []
        super().__init__(*args, **options)

    def shard(self, *args, **options):
        return self._remember(super().shard(*map(cut_off, args), **options))

    def replicate(self, *args, **options):
        return self._remember(super().replicate(*map(cut_off, args), **options))

    def _remember(self, x_):
        self.placed.append(x_)
        return x_

    def _collective(self, name, pair, x_, *dims):
        given = copies(x_)
        y_ = super()._collective(name, pair, x_, *dims)
        self.moved.append((name, given, copies(y_)))
        return y_

    def __getattr__(self, name):
        known = [each for each in dir(Mesh) if each[0] != "_"]
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"it has {', '.join(known)}"
        raise AttributeError(f"a mesh has no `{name}`: {hint}")


def cut_off(tensor):
    """Without its history: W requires grad here, so that pad(W) has one, which it has not where a learner calls it."""
    return tensor.detach().requires_grad_(tensor.requires_grad) if isinstance(tensor, torch.Tensor) else tensor


class Here(Mesh):
    """All its shards are in this process, also where that is a rank of torchrun."""

    joined_world = staticmethod(lambda: 0)


class MeshHere(WatchedMesh, Here):
    """A watched one of these."""


for each in (WatchedMesh, MeshHere):
    each.__name__ = each.__qualname__ = "Mesh"  # what Python's own messages call it


class Work(TorchDispatchMode):
    """Counts the floating-point operations of matrix products (nothing else matters beside them)."""

    def __init__(self):
        super().__init__()
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls):  # True, the default, imports torch's compiler, and costs the first check a second
        return False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            left = args[1] if name in ("addmm", "baddbmm") else args[0]
            self.flops += 2 * result.numel() * left.shape[-1]
        return result


def watch(answer, case, gradients):
    """Run a learner's `answer` on `case`, here or on real ranks; what all the shards saw, as one `Seen`."""
    if not world():
        return run(watch_here, answer, case, gradients)
    try:
        return merge(try_on_ranks(watch_there, answer, case, gradients))
    except Failed as failed:
        if failed.mistake != UNSOLVED and not failed.said:  # a rank waits, loops or is gone
            raise
        return Seen(trouble=(failed.mistake, failed.said), where=failed.where)


def watch_here(answer, case, gradients):
    """Run an answer in this process, which holds all the shards (also where it is a rank itself)."""
    try:
        return observe(answer, MeshHere(case.n), case, gradients)
    except KeyboardInterrupt:
        raise
    except NotImplementedError as error:
        torch_itself = str(error).startswith("shard ")
        return Seen(trouble=("an error", brief_error(error)) if torch_itself else (UNSOLVED, ""))
    except BaseException as error:
        return Seen(trouble=("an error", brief_error(error)))


def watch_there(mesh, answer, case, gradients):
    """Run an answer in one of the ranks, which holds one shard; an error there ends all of them."""
    return observe(answer, WatchedMesh(), case, gradients)


def observe(answer, mesh, case, gradients):
    seen = Seen()
    plain = {name: tensor.clone() for name, tensor in case.tensors.items()}
    for tensor in plain.values():
        tensor.requires_grad_((gradients or case.requires_grad) and tensor.is_floating_point())
    given = {name: PLACE[case.placing[name]](mesh, tensor) for name, tensor in plain.items()}
    before = {name: [tensor.clone() for tensor in tensors_of(x_)] for name, x_ in given.items()}
    mesh.placed.clear()
    with mesh.record() as calls:
        with Work() as work, torch.enable_grad():
            y_ = answer(mesh, *given.values(), *case.numbers)
        placed = [tensor for x_ in mesh.placed for tensor in x_.shards if tensor.is_floating_point()]
        seen.flops, seen.placed = work.flops, sum(map(torch.numel, placed))
        seen.forward, seen.moved = list(calls), list(mesh.moved)
        seen.trouble = nonsense(y_, mesh, bool(calls), [*case.results]) or changed(given, before)
        if seen.trouble is None:
            seen.values = [tensor.detach().cpu().clone() for tensor in tensors_by_shard(y_)]
            if gradients:
                backward(y_, mesh, case)
        seen.backward = [call for call in calls if call.phase == "backward"]
    if gradients:
        seen.grads = {name: grads_of(x_) for name, x_ in given.items() if isinstance(x_, Shards)}
        if "plain" in case.placing.values():
            look_at_columns(seen, given, mesh, case)
    return seen


def nonsense(y_, mesh, communicated, names):
    """Why this is no answer at all, as (mistake, message), or None. `names` are those of the results it is to have."""
    if y_ is None and communicated:
        return "no return", "The function communicates and then returns nothing: a `return` is missing."
    if y_ is None or y_ is Ellipsis:
        return UNSOLVED, ""
    if len(names) == 1:
        return no_shards(y_, mesh)
    results = listed(y_)
    if len(results) != len(names):
        got = f"a tuple of {len(results)}" if isinstance(y_, (tuple, list)) else a_kind(y_)
        return "another number of results", (
            f"The function returns {got}, and its results are {len(names)}: return {', '.join(names)}."
        )
    found = ((name, no_shards(result, mesh)) for name, result in zip(names, results, strict=True))
    return next(((trouble[0], f"Of {name}: {trouble[1]}") for name, trouble in found if trouble), None)


def no_shards(y_, mesh):
    """Why one result is none, as (mistake, message), or None."""
    if isinstance(y_, torch.Tensor):
        return "a plain tensor", (
            f"The function returns a plain tensor of shape {list(y_.shape)}, and the answer is a Shards, "
            "with a tensor for every shard: compute on the Shards themselves."
        )
    if not isinstance(y_, Shards):
        return "not a Shards", f"The function returns {a_kind(y_)}, and the answer is a Shards."
    if getattr(y_.mesh, "root", None) is not mesh.root:
        return "another mesh", "The result lives on another mesh than the one given: use the argument `mesh`."
    shards = y_.shards
    if not isinstance(shards, (list, tuple)) or not all(isinstance(tensor, torch.Tensor) for tensor in shards):
        return "not a Shards", "The result's shards are not tensors."
    if len(shards) != len(mesh.ranks):
        return "shards lost", f"The result has {len(shards)} shards, and the mesh has {len(mesh.ranks)}."
    for rank, device, tensor in zip(mesh.ranks, mesh.devices, shards, strict=True):
        if tensor.device != device:
            return "wrong device", f"Shard {rank} of the result is on {tensor.device}, and its place is {device}."
    return None


def changed(given, before):
    """An argument that is no longer what it was, as (mistake, message), or None."""
    for name, x_ in given.items():
        if not all(torch.equal(now, then) for now, then in zip(tensors_of(x_), before[name], strict=True)):
            return "arguments changed", f"{name} was changed in place, and others may still need it: make a new value."
    return None


def copies(x_):
    """What the shards hold now, whatever is written into them later (nothing, if this is no Shards at all)."""
    return [tensor.detach().clone() for tensor in getattr(x_, "shards", [])]


def tensors_of(x_):
    return [tensor.detach() for tensor in (x_.shards if isinstance(x_, Shards) else [x_])]


def tensors_by_shard(y_):
    """Of one result or of several: all that the first shard here has, then the next, …"""
    by_result = [result.shards for result in listed(y_)]
    return [tensor for by_shard in zip(*by_result, strict=True) for tensor in by_shard]


def backward(y_, mesh, case):
    """Go back from every result at once, with its cotangent, if all are of the shape that is wanted."""
    tensors, count = tensors_by_shard(y_), len(case.results)
    grads = pieces(case.cotangents, case.results.values(), case.n)
    grads = [grad for rank in mesh.ranks for grad in grads[rank * count : (rank + 1) * count]]
    if all(t.requires_grad and t.shape == grad.shape for t, grad in zip(tensors, grads, strict=True)):
        run_backward(tensors, [grad.to(t.device) for t, grad in zip(tensors, grads, strict=True)])


def grads_of(x_):
    return [None if t.grad is None else t.grad.detach().cpu() for t in x_.shards]


def look_at_columns(seen, given, mesh, case):
    """A plain W is placed by the answer itself: its own leaves hold the gradient. Kept as they are, for `merge`."""
    for name, tensor in given.items():
        if not isinstance(tensor, Shards):
            by_shard = zip(*(x_.shards for x_ in mesh.placed), strict=True)  # in the order in which ranks tell of them
            leaves = [leaf for shards in by_shard for leaf in shards] + [tensor]
            seen.grads[name] = [
                (leaf.detach().cpu(), leaf.grad.cpu())
                for leaf in leaves
                if leaf.grad is not None and leaf.dim() >= 2 and len(tensor) in leaf.shape
            ]


def merge(ranks):
    """One `Seen` of all ranks'. (Each saw its own shards; in one process there is nothing to merge.)"""
    whole = ranks[0]
    for other in ranks[1:]:
        whole.trouble = whole.trouble or other.trouble
        whole.values += other.values
        whole.flops += other.flops
        whole.placed += other.placed
        for name in whole.grads:
            whole.grads[name] += other.grads.get(name, [])
    return whole
