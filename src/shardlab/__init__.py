"""shardlab: split neural networks over devices by hand, and check every step.

The whole of it in one picture: a value lives in several shards (`Shards`), torch works on each shard alone, and only
the mesh (`Mesh`) communicates.
"""

from shardlab.mesh import Mesh
from shardlab.shards import Shards

__all__ = ["Mesh", "Shards"]
