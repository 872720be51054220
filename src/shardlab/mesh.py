"""`Mesh`: who holds the shards, how a plain tensor gets there, and the record of what moved.

In one process the mesh holds all the shards and deals them over the devices. Under torchrun (torch.distributed)
each process holds its own shard alone. The lesson's code is the same in both.
"""

import operator
from contextlib import contextmanager
from functools import partial
from math import prod

import torch
import torch.distributed as dist

from shardlab import collectives
from shardlab.moves import OneProcess, OverRanks
from shardlab.plumbing.devices import deal
from shardlab.plumbing.world import axis_groups, joined_world
from shardlab.record import Recorder
from shardlab.shards import Shards, wrap

MOST = 4096  # shards: in one process each is an object in a list
REDUCES = {"sum": collectives.all_reduce, "max": collectives.all_reduce_max}
GATHERS = {"replicated": collectives.all_gather, "partial": collectives.all_gather_partial}


class Mesh:
    """`Mesh(4)`: four shards. `Mesh(dp=2, tp=2)`: four shards with two named axes. `Mesh()`: the size of the world
    under torchrun, and 2 in one process.

    The shards are dealt over `devices` in turn: by default every CUDA device there is, and the CPU where there is
    none; SHARDLAB_DEVICES (such as `cpu`, or `cuda:0,cuda:1`) changes that default. `mesh["tp"]` is the same mesh
    seen along one axis, as in torch's DeviceMesh: its collectives run among the shards that differ in `tp` alone.

    >>> import torch
    >>> mesh = Mesh(2, devices=["cpu"])
    >>> X, W = torch.eye(2), torch.tensor([[1., 2.], [3., 4.]])
    >>> y_ = mesh.replicate(X) @ mesh.shard(W, dim=1)      # [2, 1] on each shard
    >>> mesh.all_gather(y_, dim=1).shards[0]
    tensor([[1., 2.],
            [3., 4.]])
    """

    joined_world = staticmethod(joined_world)  # who else holds shards of it

    def __init__(self, size=None, *, devices=None, **axes):
        if size is not None and axes:
            raise ValueError(f"Mesh({size}, …) or named axes, not both: Mesh(dp=2, tp=2) has 4 shards")
        self.world = self.joined_world()
        self.axes = axes or {"tp": size if size is not None else self.world or 2}
        for axis, length in self.axes.items():
            if (whole_number(length) or 0) < 1:
                raise ValueError(f"axis {axis!r} wants a whole number of shards from 1 up, not {length!r}")
        self.axes = {axis: whole_number(length) for axis, length in self.axes.items()}
        self.root, self.along = self, tuple(self.axes)
        total = self.total = prod(self.axes.values())
        if total > MOST:
            raise ValueError(f"{self} has {total:,} shards; {MOST:,} are the most that make sense in one program")
        if self.world and self.world != total:
            raise ValueError(
                f"{self} wants {total} shards, but torch.distributed runs {self.world} ranks, one shard each. "
                f"Use Mesh() or Mesh({self.world}) here, or run in one process, where a mesh has any size."
            )
        self.ranks = [dist.get_rank()] if self.world else list(range(total))
        self.devices = deal(devices, self.ranks, local=bool(self.world))
        if self.world and dist.get_backend() == "nccl" and self.devices[0].type != "cuda":
            raise ValueError(
                f"{self} on {self.devices[0]}, but these ranks talk over nccl, between CUDA devices only: start them "
                "with SHARDLAB_DEVICES=cpu, and they talk over gloo"
            )
        if self.world and len(axes) > 1:
            axis_groups(self.axes)  # all ranks make them, and here they all come by
        self.recorder = Recorder()
        self.note = ""  # about where its values come from, shown with them
        self.groups = self._groups()

    def __getitem__(self, axis):
        if axis not in self.axes:
            raise KeyError(f"{self} has no axis {axis!r}, only {', '.join(map(repr, self.axes))}")
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view.along = (axis,)
        view.groups = view._groups()
        return view

    @property
    def size(self):
        """The number of shards along the axis (all of them, unless one is named)."""
        return prod(self.axes[axis] for axis in self.along)

    @property
    def rank(self):
        """Each shard's index along the axis, itself a Shards (JAX's axis_index)."""
        indices = [torch.tensor(self.index(r), device=d) for r, d in zip(self.ranks, self.devices, strict=True)]
        return wrap(indices, self.root)

    def index(self, rank):
        """The index along this view's axes of the shard that has this rank in the whole mesh."""
        index = 0
        for axis, position in zip(self.axes, self._position(rank), strict=True):
            if axis in self.along:
                index = index * self.axes[axis] + position
        return index

    # placing: from a plain tensor to a Shards

    def shard(self, tensor, dim):
        """Cut `tensor` along `dim` (torch.tensor_split); each shard gets its piece, as a leaf of its own.

        A tensor with a history (the output of a layer, a view of a parameter) is refused: the history would be cut.
        """
        self._plain(tensor, "shard")
        pieces = tensor.tensor_split(self.size, self._dim(tensor, dim, "shard"))
        return self._place(tensor, [pieces[self.index(rank)] for rank in self.ranks])

    def replicate(self, tensor):
        """Every shard gets all of `tensor`, as a leaf of its own."""
        self._plain(tensor, "replicate")
        return self._place(tensor, [tensor] * len(self.ranks))

    # collectives: forward and backward of each are in `collectives`

    def copy(self, x_):
        """*f*. Forward: the replicated value as it is. Backward: all-reduce, so that X gets its whole gradient."""
        return self._collective("copy", collectives.copy, x_)

    def all_reduce(self, x_, op="sum", donate=False):
        """*g*. y = x_0 + x_1 + …, on every shard; backward: the identity. `op="max"` has no gradient.

        `donate=True` says that nobody needs x_ any more: over ranks, y may take its memory (JAX donates buffers so).
        """
        if op not in REDUCES:
            raise ValueError(f"all_reduce knows op='sum' and op='max', not {op!r}")
        pair = partial(collectives.all_reduce, donated=True) if donate and op == "sum" else REDUCES[op]
        return self._collective("all_reduce", pair, x_)

    def all_gather(self, x_, dim, grad="replicated"):
        """y = [x_0, x_1, …] along `dim`, on every shard.

        Backward: each shard keeps its own slice of the gradient. That is right where the gradient is replicated,
        since every shard goes on to do the same with y. Where each does something else with it (sequence
        parallelism), the gradients are partial sums: say `grad="partial"`, and backward is a reduce-scatter.
        """
        if grad not in GATHERS:
            raise ValueError(f"all_gather's grad is 'replicated' or 'partial', not {grad!r}")
        return self._collective("all_gather", GATHERS[grad], x_, dim)

    def scatter(self, x_, dim):
        """Each shard keeps its own slice (torch.tensor_split) of a replicated value; backward: all-gather."""
        return self._collective("scatter", collectives.scatter, x_, dim)

    def reduce_scatter(self, x_, dim):
        """y_r = slice r of x_0 + x_1 + … along `dim`; backward: all-gather."""
        return self._collective("reduce_scatter", collectives.reduce_scatter, x_, dim)

    def all_to_all(self, x_, split_dim, concat_dim):
        """Piece r of each shard's `split_dim` goes to shard r, which joins them along `concat_dim`;
        backward: the same, the dims exchanged."""
        return self._collective("all_to_all", collectives.all_to_all, x_, split_dim, concat_dim)

    def broadcast(self, x_, src=0):
        """Every shard gets shard `src`'s value; backward: the gradients are summed into shard `src`."""
        root = whole_number(src)
        if root is None or not 0 <= root < self.size:
            raise ValueError(f"src={src} is no shard of {self}: they are 0 to {self.size - 1}")
        return self._collective("broadcast", lambda group, parts: collectives.broadcast(group, parts, root), x_)

    def shift(self, x_, by=1):
        """y_{r+by} = x_r: each shard's value goes `by` places on, round the ring (JAX's ppermute); the shards may
        differ in shape. Backward: `shift(-by)`."""
        places = whole_number(by)
        if places is None:
            raise TypeError(f"shift's by is a whole number of places round the ring, such as 1 or -1, not {by!r}")
        return self._collective("shift", partial(collectives.shift, by=places), x_)

    @contextmanager
    def record(self):
        """`with mesh.record() as traffic:` keeps every collective, forward and backward, in the list `traffic`."""
        with self.recorder.recording() as traffic:
            yield traffic

    # how it is done

    def _collective(self, name, pair, x_, *dims):
        if type(x_) is not Shards:
            raise TypeError(f"{name} takes a Shards, not a {type(x_).__name__}: place it with mesh.shard or replicate")
        if x_.mesh is not self and x_.mesh != self:
            raise ValueError(f"{name} on {self}, but the Shards lives on {x_.mesh}")
        devices = [tensor.device for tensor in x_.shards]
        if devices != self.devices:
            raise ValueError(f"{name}: the shards are on {devices}, but their places are {self.devices}")
        dims = [self._dim(x_.shards[0], dim, name) for dim in dims]
        if len(self.groups) == 1:
            return wrap([*pair(self.groups[0], x_.shards, *dims)], self.root)
        results = [None] * len(self.ranks)
        for group in self.groups:
            parts = [x_.shards[member] for member in group.members]
            for member, result in zip(group.members, pair(group, parts, *dims), strict=True):
                results[member] = result
        return wrap(results, self.root)

    def _place(self, source, pieces):
        placed = []
        for piece, device in zip(pieces, self.devices, strict=True):
            leaf = torch.empty(piece.shape, dtype=piece.dtype, device=device).copy_(piece.detach())
            placed.append(leaf.requires_grad_(source.requires_grad))
        return wrap(placed, self.root)

    def _plain(self, tensor, verb):
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"mesh.{verb} takes a plain tensor, not a {type(tensor).__name__}")
        for kind, trait, way in CANNOT_BE_PLACED:
            if trait(tensor):
                raise TypeError(f"mesh.{verb} takes a plain tensor, and this one, {list(tensor.shape)}, {kind}: {way}")
        if tensor.grad_fn is not None and torch.is_grad_enabled():
            raise ValueError(
                f"mesh.{verb} makes new leaves, and this tensor, {list(tensor.shape)}, has a history "
                f"({type(tensor.grad_fn).__name__}), which would be cut: nothing before it would get a gradient. Place "
                "what it was computed from, and compute it on the Shards; or, if the cut is meant, place x.detach()"
            )

    def _dim(self, tensor, dim, verb):
        dims, number = tensor.dim(), dim if type(dim) is int else whole_number(dim)
        if number is None or not -dims <= number < dims:
            raise IndexError(f"{verb}: dim={dim!r} does not exist in a tensor of shape {list(tensor.shape)}")
        return number % dims

    def _position(self, rank):
        """The coordinates of a rank on the axes; the last axis runs fastest, as in torch's DeviceMesh."""
        position = []
        for length in reversed(self.axes.values()):
            rank, index = divmod(rank, length)
            position.append(index)
        return position[::-1]

    def _groups(self):
        """The groups of shards that a collective along this view's axes runs in."""
        axis = "×".join(self.along)
        if self.world:
            return [OverRanks(self._process_group_finder(), self.recorder.note(axis, self.size))]
        apart = {}
        for rank in self.ranks:
            others = tuple(i for a, i in zip(self.axes, self._position(rank), strict=True) if a not in self.along)
            apart.setdefault(others, []).append(rank)
        notes = [self.recorder.note(axis, self.size, kept=first) for first in [True] + [False] * (len(apart) - 1)]
        return [
            OneProcess(members, [self.devices[member] for member in members], note)
            for members, note in zip(apart.values(), notes, strict=True)
        ]

    def _process_group_finder(self):
        """Torch keeps the process groups, and a mesh their names (a DeviceMesh would hold on to them, too)."""
        if len(self.along) == len(self.axes):
            return lambda: dist.group.WORLD
        return partial(dist.distributed_c10d._resolve_process_group, axis_groups(self.axes)[self.along[0]])

    def __eq__(self, other):
        """Same axes over the same shards on the same devices (which axis a view looks along does not matter)."""
        axes = [list(mesh.axes.items()) for mesh in (self, other) if isinstance(mesh, Mesh)]
        return len(axes) == 2 and axes[0] == axes[1] and self.devices == other.devices

    __hash__ = object.__hash__

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce_ex__(self, protocol):
        raise TypeError(
            f"a mesh belongs to its process, and is not saved or sent: make it there, with {self}. Of a layer on it, "
            "save layer.state_dict(), or that of layer.to_dense()"
        )

    def __repr__(self):
        axes = ", ".join(f"{axis}={length}" for axis, length in self.axes.items())
        return f"Mesh({axes})" if self.along == tuple(self.axes) else f'Mesh({axes})["{self.along[0]}"]'


CANNOT_BE_PLACED = [
    ("is sparse", lambda tensor: tensor.layout is not torch.strided, "place x.to_dense()"),
    ("is quantized", lambda tensor: tensor.is_quantized, "place x.dequantize()"),
    ("is on the device meta and holds no numbers", lambda tensor: tensor.is_meta, "make it with numbers first"),
]


def whole_number(value):
    """`value` as an int, also if it is one of numpy's; None for what is no whole number (True and False are none)."""
    if not isinstance(value, (bool, Shards)) and hasattr(value, "__index__"):
        return operator.index(value)
