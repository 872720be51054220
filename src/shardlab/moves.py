"""The raw moves: how bytes get from one shard to another. No gradients here (see `collectives`).

Two implementations of the same moves. `OneProcess` holds every shard of a group, so a sum is a sum and a
concatenation a `torch.cat`; `OverRanks` holds one shard and calls torch.distributed (gloo or nccl). The mesh
chooses once. Every move takes and returns a list with the tensor of each shard held here, and keeps its record.

In one process, shards that a move leaves equal on one device are one buffer seen n times: nothing is gained
from n copies of it, and `Shards` refuses to write into them in place.
"""

from itertools import accumulate

import torch
import torch.distributed as dist
from torch.cuda import comm


class Group:
    """The shards along one axis that talk to each other, seen from this process.

    Has `members` (the positions, in this process's lists, of the shards held here), `indices` (their indices in the
    group), `size` (how many there are in all), and `note`, called with (collective, part, payload bytes).
    """

    def keep(self, parts, dim, sizes):
        """Each shard's own slice of a replicated value. Nothing moves."""
        starts = list(accumulate(sizes, initial=0))
        return [part.narrow(dim, starts[i], sizes[i]) for part, i in zip(parts, self.indices, strict=True)]


class OneProcess(Group):
    """All shards of the group are here."""

    def __init__(self, members, devices, note):
        self.members, self.devices, self.note = members, devices, note
        self.size = len(members)
        self.indices = range(self.size)
        self.together = len(set(devices)) == 1
        self.apart = len(set(devices)) == self.size > 1 and all(device.type == "cuda" for device in devices)

    def shapes(self, collective, parts):
        """The shape of every shard of the group, once it is clear that they all bring the same dtype."""
        first = parts[0].dtype
        for part in parts:
            if part.dtype is not first:
                agree(collective, [part.dtype for part in parts], "dtype")
        return [part.shape for part in parts]

    def all_reduce(self, parts, op="sum"):
        self.note("all_reduce", parts[0], parts[0].nbytes)
        return self.everywhere(self.sum(parts, self.devices[0]) if op == "sum" else self.maximum(parts))

    def all_gather(self, parts, dim, sizes):
        whole = self.concatenate(parts, dim)
        self.note("all_gather", parts[0], whole.nbytes)
        return self.everywhere(whole)

    def reduce_scatter(self, parts, dim, sizes):
        self.note("reduce_scatter", parts[0], parts[0].nbytes)
        pieces = zip(*(part.split(sizes, dim) for part in parts), strict=True)
        return [self.sum(column, device) for column, device in zip(pieces, self.devices, strict=True)]

    def all_to_all(self, parts, split_dim, split_sizes, concat_dim, concat_sizes):
        self.note("all_to_all", parts[0], parts[0].nbytes)
        pieces = zip(*(part.split(split_sizes, split_dim) for part in parts), strict=True)
        return [
            torch.cat([piece.to(device) for piece in column], concat_dim)
            for column, device in zip(pieces, self.devices, strict=True)
        ]

    def broadcast(self, parts, src):
        self.note("broadcast", parts[src], parts[src].nbytes)
        return self.everywhere(parts[src].clone())

    def reduce(self, parts, dst):
        self.note("reduce", parts[dst], parts[dst].nbytes)
        total = self.sum(parts, self.devices[dst])
        return [total if index == dst else torch.zeros_like(part) for index, part in enumerate(parts)]

    def sum(self, parts, device):
        """In rank order, into one new buffer."""
        if self.apart:
            return comm.reduce_add([part.contiguous() for part in parts], device.index)
        if self.size == 1:
            return parts[0].clone()
        if self.together:
            total = parts[0] + parts[1]
            for part in parts[2:]:
                total += part
            return total
        total = parts[0].to(device, copy=True)
        for part in parts[1:]:
            total += part.to(device)
        return total

    def maximum(self, parts):
        biggest = parts[0].clone()
        for part in parts[1:]:
            torch.maximum(biggest, part.to(self.devices[0]), out=biggest)
        return biggest

    def concatenate(self, parts, dim):
        if self.together:
            return torch.cat(parts, dim)
        if self.apart:
            return comm.gather(parts, dim, self.devices[0].index)
        return torch.cat([part.to(self.devices[0]) for part in parts], dim)

    def everywhere(self, whole):
        """`whole` for each shard: one buffer a device, seen by every shard that lives there."""
        if self.together:
            return [whole, *[whole.detach() for _ in self.devices[1:]]]
        if self.apart:
            return list(comm.broadcast(whole.contiguous(), [device.index for device in self.devices]))
        here = {device: whole.to(device) for device in set(self.devices)}
        return [here[device].detach() for device in self.devices]


class OverRanks(Group):
    """One shard of the group is here, the others are in other processes."""

    def __init__(self, process_group, note):
        self.process_group, self.note = process_group, note
        self.size = process_group.size()
        self.members, self.indices = [0], [process_group.rank()]
        self.staged = dist.get_backend(process_group) == "gloo"  # gloo moves host memory: CUDA tensors pass through it

    def send(self, tensor):
        tensor = tensor.detach().contiguous()
        return tensor.cpu() if self.staged else tensor

    def shapes(self, collective, parts):
        """Compare what every rank is about to do, before doing it: gloo would abort or mix things up silently."""
        header = describe(collective, parts[0])
        headers = [torch.empty_like(header) for _ in range(self.size)]
        if not self.staged:
            header, headers = header.to(parts[0].device), [h.to(parts[0].device) for h in headers]
        try:
            dist.all_gather(headers, header, group=self.process_group)
        except RuntimeError as error:
            raise RuntimeError(
                f"shard {self.indices[0]} came to {collective}, but not every other shard did: one stopped with an "
                "error of its own, or waits in another collective"
            ) from error
        calls, dtypes, shapes = map(list, zip(*(read(header.tolist()) for header in headers), strict=True))
        agree("a collective", calls, "call")
        agree(collective, dtypes, "dtype")
        return shapes

    def all_reduce(self, parts, op="sum"):
        self.note("all_reduce", parts[0], parts[0].nbytes)
        total = self.send(parts[0]).clone()
        dist.all_reduce(total, dist.ReduceOp.SUM if op == "sum" else dist.ReduceOp.MAX, group=self.process_group)
        return [total.to(parts[0].device)]

    def all_gather(self, parts, dim, sizes):
        mine = self.send(pad(parts[0], dim, max(sizes)))
        everyone = [torch.empty_like(mine) for _ in sizes]
        dist.all_gather(everyone, mine, group=self.process_group)
        whole = torch.cat([part.narrow(dim, 0, size) for part, size in zip(everyone, sizes, strict=True)], dim)
        self.note("all_gather", parts[0], whole.nbytes)
        return [whole.to(parts[0].device)]

    def reduce_scatter(self, parts, dim, sizes):
        self.note("reduce_scatter", parts[0], parts[0].nbytes)
        pieces = [self.send(pad(piece, dim, max(sizes))) for piece in parts[0].split(sizes, dim)]
        mine = torch.empty_like(pieces[0])
        dist.reduce_scatter(mine, pieces, group=self.process_group)
        return [mine.narrow(dim, 0, sizes[self.indices[0]]).to(parts[0].device)]

    def all_to_all(self, parts, split_dim, split_sizes, concat_dim, concat_sizes):
        self.note("all_to_all", parts[0], parts[0].nbytes)
        pieces = [self.send(piece) for piece in parts[0].split(split_sizes, split_dim)]
        shapes = [list(pieces[self.indices[0]].shape) for _ in concat_sizes]
        for shape, size in zip(shapes, concat_sizes, strict=True):
            shape[concat_dim] = size
        lengths = [torch.Size(shape).numel() for shape in shapes]
        received = pieces[0].new_empty(sum(lengths))
        sent = torch.cat([piece.flatten() for piece in pieces])
        dist.all_to_all_single(received, sent, lengths, [p.numel() for p in pieces], group=self.process_group)
        arrived = [flat.view(shape) for flat, shape in zip(received.split(lengths), shapes, strict=True)]
        return [torch.cat(arrived, concat_dim).to(parts[0].device)]

    def broadcast(self, parts, src):
        self.note("broadcast", parts[0], parts[0].nbytes)
        value = self.send(parts[0]).clone()
        dist.broadcast(value, group_src=src, group=self.process_group)
        return [value.to(parts[0].device)]

    def reduce(self, parts, dst):
        self.note("reduce", parts[0], parts[0].nbytes)
        total = self.send(parts[0]).clone()
        dist.reduce(total, group_dst=dst, group=self.process_group)
        return [total.to(parts[0].device) if self.indices[0] == dst else torch.zeros_like(parts[0])]


def pad(part, dim, size):
    """Zeros at the end of `dim`, up to `size`: gloo and nccl gather equal shapes only."""
    shape = list(part.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([part, part.new_zeros(shape)], dim) if shape[dim] else part


CALLS = ["all_reduce sum", "all_reduce max", "all_gather", "reduce_scatter", "all_to_all", "broadcast"]
FLOATS = ["float64", "float32", "float16", "bfloat16", "complex64", "complex128"]
DTYPES = [*FLOATS, "int64", "int32", "int8", "uint8", "bool"]  # what gloo and nccl both carry
DIMS = 8


def describe(collective, part):
    """What a rank is about to do, as whole numbers: collective, dtype, number of dims, sizes."""
    dtype = str(part.dtype).removeprefix("torch.")
    if dtype not in DTYPES or part.dim() > DIMS:
        raise TypeError(f"{dtype} of {part.dim()} dims does not travel between ranks: {DTYPES}, up to {DIMS} dims, do")
    sizes = [*part.shape, *[0] * (DIMS - part.dim())]
    return torch.tensor([CALLS.index(collective), DTYPES.index(dtype), part.dim(), *sizes])


def read(header):
    collective, dtype, dims, *sizes = header
    return CALLS[collective], DTYPES[dtype], torch.Size(sizes[:dims])


def agree(collective, values, what):
    """An error that lists what each shard brought, unless all brought the same."""
    if values.count(values[0]) < len(values):
        shown = [list(value) if isinstance(value, torch.Size) else str(value) for value in values]
        each = ", ".join(f"shard {index}: {value}" for index, value in enumerate(shown))
        raise ValueError(f"{collective} wants one {what} on every shard, but they have {each}")
