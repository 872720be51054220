"""How the values of an exercise lie on the shards: what it gives to an answer, and what it wants back."""

from shardlab.shards import Shards

SHAPE_OF = {
    "replicated": "[{all}], replicated: all of it on every shard",
    "by columns": "[{0}, {1}], cut by columns: [{0}, {1}/n] on each shard",
    "by rows": "[{0}, {1}], cut by rows: [{0}/n, {1}] on each shard",
    "cut": "[{0}], cut: [{0}/n] on each shard",
    "plain": "[{0}, {1}], a plain tensor: place it yourself",
    "partial": "[{1}], partial: on each shard a value of its own, to be added up",
    "a number": "a number",
}
PLACE = {
    "replicated": lambda mesh, tensor: mesh.replicate(tensor),
    "by columns": lambda mesh, tensor: mesh.shard(tensor, dim=1),
    "by rows": lambda mesh, tensor: mesh.shard(tensor, dim=0),
    "cut": lambda mesh, tensor: mesh.shard(tensor, dim=0),
    "partial": lambda mesh, tensor: rows(mesh, tensor),
    "plain": lambda mesh, tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad),
}


def rows(mesh, tensor):
    """Row r of [n, L] as the value [L] of shard r, a leaf of its own."""
    placed = zip(mesh.ranks, mesh.devices, strict=True)
    own = [tensor.detach()[rank].to(device, copy=True) for rank, device in placed]
    return Shards([part.requires_grad_(tensor.requires_grad) for part in own], mesh)


def cut(tensor, placing, n):
    """The piece of each of n shards.

    >>> import torch
    >>> [piece.tolist() for piece in cut(torch.tensor([[1, 2], [3, 4]]), "by columns", 2)]
    [[[1], [3]], [[2], [4]]]
    """
    if placing in ("replicated", "plain"):
        return [tensor] * n
    if placing == "partial":
        return list(tensor)
    return tensor.tensor_split(n, dim=1 if placing == "by columns" else 0)


def pieces(wholes, placings, n):
    """The pieces of several values as the shards hold them: first all that shard 0 has, then shard 1, …"""
    by_value = [cut(whole, placing, n) for whole, placing in zip(wholes, placings, strict=True)]
    return [piece for by_shard in zip(*by_value, strict=True) for piece in by_shard]


def listed(result):
    """The results of an answer, which returns one, or several in a tuple or a list."""
    return list(result) if isinstance(result, (tuple, list)) else [result]
