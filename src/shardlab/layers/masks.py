"""Dropout of a value that lives on shards: each of its numbers has one fate, wherever it lies.

A generator hands out numbers in turn, so what a place of X gets depends on how many came before, and that on the cut.
Here it depends on the seed and the place in the whole X alone, as with JAX's partitionable keys: a hash.
"""

import torch

from shardlab.layers.vocabulary import words_of
from shardlab.shards import Shards

BITS = 24  # of a random number


def dropout(mesh, x_, p, seed, dim=None):
    """y = x · m / (1 − p), where m is 0 with probability p, else 1; dropped or kept by `seed` and the place in X.

    x_ is cut along `dim` (evenly or not), and the shards' masks are pieces of one; or replicated, dim=None, and all
    have the same. So y is the same for every number of shards, in one process and over ranks, on a CPU and on a GPU.
    Give each dropout of a model, and each step, another seed. Moves p whole numbers, the lengths of the pieces, where
    x_ is cut. (Megatron-LM has two generators a rank, one seeded alike for what is replicated and one by the rank for
    what is cut: core/tensor_parallel/random.py. Its masks depend on the number of ranks: pytorch#168058 wants ours.)

    >>> import shardlab
    >>> X, whole = torch.ones(4, 6), shardlab.Mesh(1, devices=["cpu"])
    >>> mesh = shardlab.Mesh(3, devices=["cpu"])
    >>> y_ = dropout(mesh, mesh.shard(X, dim=0), 0.5, seed=1, dim=0)
    >>> torch.equal(torch.cat(y_.shards), dropout(whole, whole.replicate(X), 0.5, seed=1).shards[0])
    True
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout keeps something: p is from 0 up to, but not, 1, not {p}")
    if dim is None:
        masks = [mask(shard.shape, p, seed, device=shard.device) for shard in x_.shards]
    else:
        dim %= x_.shards[0].dim()
        rows = words_of(mesh, x_, dim).shards  # which places along dim each shard has
        masks = [mask(shard.shape, p, seed, dim, own) for shard, own in zip(x_.shards, rows, strict=True)]
    return x_ * Shards(masks, mesh.root) / (1 - p)


def mask(shape, p, seed, dim=None, own=None, device=None):
    """True where a number is kept; `own` are the places along `dim`, where these are not all from 0 up."""
    device = own.device if own is not None else device
    bits = mix(torch.tensor(seed, device=device))
    for d, length in enumerate(shape):
        bits = mix(bits.unsqueeze(-1) + (own if d == dim else torch.arange(length, device=device)))
    return shift(bits, 64 - BITS) >= p * 2**BITS


def mix(bits):
    """64 bits stirred so that each depends on all (the last step of SplitMix64: Steele, Lea and Flood, 2014)."""
    bits = bits - 7046029254386353131
    bits = (bits ^ shift(bits, 30)) * -4658895280553007687
    bits = (bits ^ shift(bits, 27)) * -7723592293110705685
    return bits ^ shift(bits, 31)


def shift(bits, by):
    """The bits moved to the right, with zeros at the left (`>>` repeats the sign)."""
    return (bits >> by) & (2 ** (64 - by) - 1)
