"""The world of ranks in which a check may run, as under torchrun: what its ranks say to each other."""

import itertools
import pickle
from datetime import timedelta

import torch.distributed as dist

PATIENCE = timedelta(minutes=10)  # with rank 0, which tries an answer that may not end (see `real_ranks`)


def world():
    """The number of ranks under torch.distributed, 0 in one process."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 0


def everyone(value):
    """`value` of every rank, in rank order; [value] in one process."""
    if not world():
        return [value]
    values = [None] * world()
    dist.all_gather_object(values, value)
    return values


def from_rank_0(work):
    """What `work()` returns on rank 0, for all ranks: the others wait for it, longer than a collective would."""
    if not world():
        return work()
    store, key = dist.distributed_c10d._get_default_store(), f"from rank 0, number {next(numbers)}"
    if dist.get_rank() == 0:
        value = None  # should it raise, nobody waits in vain
        try:
            value = work()
        finally:
            store.set(key, pickle.dumps(value))
        return value
    store.wait([key], PATIENCE)
    return pickle.loads(store.get(key))


numbers = itertools.count()
