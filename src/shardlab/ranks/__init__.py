"""Real ranks, one process per shard, that a notebook can run a lesson on: `ranks(4)`."""

from shardlab.ranks.faults import RankError
from shardlab.ranks.pool import Pool, ranks

__all__ = ["Pool", "RankError", "ranks"]
