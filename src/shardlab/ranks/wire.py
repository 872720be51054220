"""What ranks really write to each other: bytes that the system counted, beside those that a ring would send."""

from pathlib import Path

import torch

from shardlab.mesh import Mesh

COUNTS = Path("/proc/self/io")  # Linux's, of one process
MOVES = {
    "all_reduce": lambda mesh, x: mesh.all_reduce(mesh.replicate(x)),
    "reduce_scatter": lambda mesh, x: mesh.reduce_scatter(mesh.replicate(x), dim=0),
    "all_gather": lambda mesh, x: mesh.all_gather(mesh.shard(x, dim=0), dim=0),
}


def written(pool, name, numbers=2**20):
    """How often a collective writes its payload to the wire, all ranks together, as a float; of n shards a ring writes
    2(n-1) times the payload for an all-reduce, and n-1 times for an all-gather or a reduce-scatter.

    NaN where nobody counts: off Linux, and between GPUs over nccl.
    """
    if pool.backend != "gloo" or not COUNTS.exists():
        return float("nan")
    return sum(pool.run(one_move, name, torch.ones(numbers))) / (4 * numbers)


def one_move(mesh: Mesh, name, x):
    before = wrote()
    MOVES[name](mesh, x)
    return wrote() - before


def wrote():
    """The bytes that this process has written so far, to files and to sockets."""
    return int(COUNTS.read_text().split("wchar: ")[1].split()[0])
