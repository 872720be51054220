"""The linear layer of lesson 01, y = gelu(X @ W), split in two ways, with the gelu in two places: what lab 13 sends to
real ranks.

Each returns its process, its part before the collective, and y.
"""

import os

from torch.nn.functional import gelu


def column_after(mesh, X, W):
    parts_ = mesh.replicate(X) @ mesh.shard(W, dim=1)
    return os.getpid(), parts_, gelu(mesh.all_gather(parts_, dim=1))


def column_before(mesh, X, W):
    parts_ = gelu(mesh.replicate(X) @ mesh.shard(W, dim=1))
    return os.getpid(), parts_, mesh.all_gather(parts_, dim=1)


def row_after(mesh, X, W):
    parts_ = mesh.shard(X, dim=1) @ mesh.shard(W, dim=0)
    return os.getpid(), parts_, gelu(mesh.all_reduce(parts_))


def row_before(mesh, X, W):
    parts_ = gelu(mesh.shard(X, dim=1) @ mesh.shard(W, dim=0))
    return os.getpid(), parts_, mesh.all_reduce(parts_)


LESSONS = {
    ("column", "after"): column_after,
    ("column", "before"): column_before,
    ("row", "after"): row_after,
    ("row", "before"): row_before,
}
