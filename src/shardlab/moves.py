"""The raw moves: how bytes get from one shard to another. No gradients here (see `collectives`).

Two implementations of the same moves. `OneProcess` holds every shard of a group, so a sum is a sum and a
concatenation a `torch.cat`; `OverRanks` holds one shard and calls torch.distributed (gloo or nccl). The mesh
chooses once. Every move takes and returns a list with the tensor of each shard held here, and keeps its record.

In one process, shards that a move leaves equal on one device are one buffer seen n times: nothing is gained
from n copies of it, and `Shards` refuses to write into them in place (over ranks, too).
"""

import os
from itertools import accumulate

import torch
import torch.distributed as dist
from torch.cuda import comm

from shardlab.plumbing import agreement
from shardlab.plumbing.agreement import agree, fit
from shardlab.plumbing.devices import each_its_gpu
from shardlab.plumbing.in_place import equal


class Group:
    """The shards along one axis that talk to each other, seen from this process.

    Has `members` (the positions, in this process's lists, of the shards held here), `indices` (their indices in the
    group), `size` (how many there are in all), `elsewhere` (are any of them in other processes?), and `note`, called
    with (collective, part, the tensor that is the payload).
    """

    def site(self):
        """The line of the program that is here, where it is to be compared with that of others."""

    def keep(self, parts, dim, sizes):
        """Each shard's own slice of a replicated value. Nothing moves."""
        starts = list(accumulate(sizes, initial=0))
        return [part.narrow(dim, starts[i], sizes[i]) for part, i in zip(parts, self.indices, strict=True)]


class OneProcess(Group):
    """All shards of the group are here."""

    elsewhere = False

    def __init__(self, members, devices, note):
        self.members, self.devices, self.note = members, devices, note
        self.size = len(members)
        self.indices = range(self.size)
        self.together = len(set(devices)) == 1
        self.apart = self.size > 1 and each_its_gpu(devices)

    def shapes(self, collective, parts, *how, free=None):
        """The shape of every shard of the group, once it is clear that they go together: one dtype, and one shape but
        for the dim `free` (`...`: any shapes). `how` are the dims, the root or the step of the collective."""
        first = parts[0].dtype
        for part in parts:
            if part.dtype is not first:
                agree(collective, [part.dtype for part in parts], "dtype")
        shapes = [part.shape for part in parts]
        fit(collective, shapes, free)
        return shapes

    def all_reduce(self, parts, op="sum", own=False, donated=False):
        self.note("all_reduce", parts[0], parts[0])
        whole = self.sum(parts, self.devices[0]) if op == "sum" else self.maximum(parts)
        return self.each_its_own(whole) if own else self.everywhere(whole)

    def all_gather(self, parts, dim, sizes, own=False):
        whole = self.concatenate(parts, dim)
        self.note("all_gather", parts[0], whole)
        return self.each_its_own(whole) if own else self.everywhere(whole)

    def reduce_scatter(self, parts, dim, sizes):
        self.note("reduce_scatter", parts[0], parts[0])
        pieces = zip(*(part.split(sizes, dim) for part in parts), strict=True)
        return [self.sum(column, device) for column, device in zip(pieces, self.devices, strict=True)]

    def all_to_all(self, parts, split_dim, split_sizes, concat_dim, concat_sizes):
        self.note("all_to_all", parts[0], parts[0])
        pieces = zip(*(part.split(split_sizes, split_dim) for part in parts), strict=True)
        return [
            torch.cat([piece.to(device) for piece in column], concat_dim)
            for column, device in zip(pieces, self.devices, strict=True)
        ]

    def shift(self, parts, by, shapes):
        self.note("shift", parts[0], parts[0])
        arriving = [parts[(index - by) % self.size] for index in self.indices]
        return [part.to(device, copy=True) for part, device in zip(arriving, self.devices, strict=True)]

    def broadcast(self, parts, src):
        self.note("broadcast", parts[src], parts[src])
        return self.everywhere(parts[src].clone())

    def reduce(self, parts, dst):
        self.note("reduce", parts[dst], parts[dst])
        total = self.sum(parts, self.devices[dst])
        return [total if index == dst else torch.zeros_like(part) for index, part in enumerate(parts)]

    def ends(self, parts):
        """The smallest and the largest value of each shard."""
        return [end.item() for part in parts for end in part.aminmax()]

    def total(self, parts):
        return self.sum(parts, self.devices[0])

    def sum(self, parts, device):
        """In rank order, into one new buffer."""
        if self.by_nccl(parts[0]):
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

    def by_nccl(self, tensor):
        """Each shard on a card of its own: torch.cuda.comm moves it (and would take complex numbers apart)."""
        return self.apart and tensor.is_floating_point()

    def maximum(self, parts):
        biggest = parts[0].clone()
        for part in parts[1:]:
            torch.maximum(biggest, part.to(self.devices[0]), out=biggest)
        return biggest

    def concatenate(self, parts, dim):
        if self.together:
            return torch.cat(parts, dim)
        if self.by_nccl(parts[0]):
            return comm.gather(parts, dim, self.devices[0].index)
        return torch.cat([part.to(self.devices[0]) for part in parts], dim)

    def everywhere(self, whole):
        """`whole` for each shard: one buffer a device, seen by every shard that lives there."""
        if self.together:
            return [*equal([whole]), *[whole.detach() for _ in self.devices[1:]]]  # one buffer, marked once
        if self.by_nccl(whole):
            return equal(self.one_each(whole))
        here = {device: whole.to(device) for device in set(self.devices)}
        return equal([here[device].detach() for device in self.devices])

    def each_its_own(self, whole):
        """`whole` for each shard, in memory of its own: a gradient will be written into."""
        if self.by_nccl(whole):
            return self.one_each(whole)
        return [whole, *[whole.to(device, copy=True) for device in self.devices[1:]]]

    def one_each(self, whole):
        return list(comm.broadcast(whole.contiguous(), [device.index for device in self.devices]))


class OverRanks(Group):
    """One shard of the group is here, the others are in other processes."""

    elsewhere = True

    def __init__(self, find, note):
        self.find, self.note = find, note
        self.size = self.process_group.size()
        self.members, self.indices = [0], [self.process_group.rank()]
        self.ranks = dist.get_process_group_ranks(self.process_group)
        self.checked = os.environ.get("SHARDLAB_CHECK") != "0"
        self.staged = dist.get_backend(self.process_group) == "gloo"  # it moves host memory: CUDA tensors pass through

    @property
    def process_group(self):
        """torch's, found anew each time: whoever holds one beyond its end brings the process down (gloo's threads)."""
        return self.find()

    def send(self, tensor):
        tensor = tensor.detach().resolve_conj().contiguous()
        return tensor.cpu() if self.staged else tensor

    def site(self):
        return agreement.call_site() if self.checked else None

    def shapes(self, collective, parts, *how, free=None):
        """As in one process; the ranks tell each other what they are about to do, before they do it."""
        if free is None and not self.checked:
            return [parts[0].shape] * self.size
        back = getattr(self.note.recorder.phase, "site", None)
        site = back or agreement.call_site()  # backward has its forward's
        what, device = f"{collective} at {site}", parts[0].device
        header = agreement.describe(collective, parts[0], how, site)
        if agreement.log:
            agreement.log.came(f"{what}, backward" if back else what, self.ranks)
        headers = agreement.exchange(self, header, device, what)
        shapes = agreement.compare(headers, free, lambda: self.sites(site, device, what), self.ranks)
        if agreement.log:
            agreement.log.opened()
        return shapes

    def sites(self, site, device, what):
        """The line of the program at which each rank is."""
        lines = agreement.exchange(self, list(site.encode()[:200].ljust(200)), device, what)
        return [bytes(line).decode(errors="replace").rstrip() for line in lines]

    def ends(self, parts):
        ends = [end.item() for end in parts[0].aminmax()]
        everyone = agreement.exchange(self, ends, parts[0].device, "the ends of its values")
        return [end for both in everyone for end in both]

    def total(self, parts, donated=False):
        total = self.send(parts[0])
        total = total if donated else total.clone()
        dist.all_reduce(total, dist.ReduceOp.SUM, group=self.process_group)
        return total

    def all_reduce(self, parts, op="sum", own=False, donated=False):
        self.note("all_reduce", parts[0], parts[0])
        whole = self.total(parts, donated) if op == "sum" else self.maximum(parts[0])
        return self.arrived(whole, parts[0].device, own)

    def maximum(self, part):
        """gloo and nccl lose a NaN on the way, so it travels beside the values, as a 1."""
        if not part.is_floating_point():
            biggest = self.send(part).clone()
            dist.all_reduce(biggest, dist.ReduceOp.MAX, group=self.process_group)
            return biggest
        nan = part.isnan()
        both = self.send(torch.stack([part.masked_fill(nan, -torch.inf), nan.to(part.dtype)]))
        dist.all_reduce(both, dist.ReduceOp.MAX, group=self.process_group)
        return both[0].masked_fill(both[1] > 0, torch.nan)

    def all_gather(self, parts, dim, sizes, own=False):
        mine = self.send(pad(parts[0], dim, max(sizes)))
        everyone = [torch.empty_like(mine) for _ in sizes]
        dist.all_gather(everyone, mine, group=self.process_group)
        whole = torch.cat([part.narrow(dim, 0, size) for part, size in zip(everyone, sizes, strict=True)], dim)
        self.note("all_gather", parts[0], whole)
        return self.arrived(whole, parts[0].device, own)

    def reduce_scatter(self, parts, dim, sizes):
        self.note("reduce_scatter", parts[0], parts[0])
        pieces = [self.send(pad(piece, dim, max(sizes))) for piece in parts[0].split(sizes, dim)]
        mine = torch.empty_like(pieces[0])
        dist.reduce_scatter(mine, pieces, group=self.process_group)
        return [mine.narrow(dim, 0, sizes[self.indices[0]]).to(parts[0].device)]

    def all_to_all(self, parts, split_dim, split_sizes, concat_dim, concat_sizes):
        self.note("all_to_all", parts[0], parts[0])
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

    def shift(self, parts, by, shapes):
        """As bytes, of any dtype, and of one number at least: nccl wants every rank to take part."""
        self.note("shift", parts[0], parts[0])
        part, place = parts[0], "cpu" if self.staged else parts[0].device
        to, source = ((self.indices[0] + step) % self.size for step in (by, -by))
        out, into = (part.new_zeros(max(shape.numel(), 1), device=place) for shape in (part.shape, shapes[source]))
        out[: part.numel()] = part.flatten()
        both = [
            dist.P2POp(dist.isend, out.view(torch.uint8), group=self.process_group, group_peer=to),
            dist.P2POp(dist.irecv, into.view(torch.uint8), group=self.process_group, group_peer=source),
        ]
        for transfer in dist.batch_isend_irecv(both):
            transfer.wait()
        return [into[: shapes[source].numel()].view(shapes[source]).to(part.device)]

    def broadcast(self, parts, src):
        self.note("broadcast", parts[0], parts[0])
        value = self.send(parts[0]).clone()
        dist.broadcast(value, group_src=src, group=self.process_group)
        return self.arrived(value, parts[0].device)

    def reduce(self, parts, dst):
        self.note("reduce", parts[0], parts[0])
        total = self.send(parts[0]).clone()
        dist.reduce(total, group_dst=dst, group=self.process_group)
        return [total.to(parts[0].device) if self.indices[0] == dst else torch.zeros_like(parts[0])]

    def arrived(self, whole, device, own=False):
        """What all ranks now have, as the shard of this one; to be written into only if it is its `own`."""
        return [whole.to(device)] if own else equal([whole.to(device)])


def pad(part, dim, size):
    """Zeros at the end of `dim`, up to `size`: gloo and nccl gather equal shapes only."""
    shape = list(part.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([part, part.new_zeros(shape)], dim) if shape[dim] else part
