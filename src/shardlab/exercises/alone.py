"""What an answer makes of one shard alone, as a rank under torchrun holds it.

In one process every shard is within reach, and an answer can read those of others without a collective. So it runs
once more for each rank, on a mesh where that rank's shard alone is here, and where a collective brings what it brought
when all shards took part. An answer that touches only its own pieces does the same again.
"""

from shardlab.exercises.exercise import Wrong, brief_error
from shardlab.exercises.limits import run
from shardlab.exercises.numbers import close, worst
from shardlab.exercises.placing import PLACE
from shardlab.exercises.watch import WatchedMesh, tensors_by_shard
from shardlab.shards import Shards


class OneRank(WatchedMesh):
    """A mesh of which one shard is here. `moved` are the collectives of all shards, in their order."""

    def __init__(self, size, rank, moved):
        super().__init__(size)
        self.ranks, self.devices = [rank], [self.devices[rank]]
        self.to_come = iter(moved)

    def _groups(self):
        return []  # the others are not here

    def _collective(self, name, pair, x_, *dims):
        before, given, result = next(self.to_come, ("nothing", None, None))
        if name != before:
            raise Unlike(f"comes to {name} where it came to {before}")
        (rank,), (mine,) = self.ranks, x_.shards
        if not close(mine, given[rank]):
            raise Unlike(f"brings other numbers to its {name}")
        return Shards([result[rank].clone()], self.root)


class Unlike(Exception):
    """One rank does something else when it is alone."""


def differs_alone(answer, case, seen):
    """What the first rank that is not the same alone does then, in words; None if all are."""
    for rank in range(case.n):
        tensors = {name: tensor.clone().requires_grad_(case.requires_grad) for name, tensor in case.tensors.items()}
        mesh = OneRank(case.n, rank, seen.moved)
        given = {name: PLACE[case.placing[name]](mesh, tensor) for name, tensor in tensors.items()}
        try:
            y_ = run(answer, mesh, *given.values(), *case.numbers)
            if next(mesh.to_come, None):
                raise Unlike("makes fewer calls")
            got = [tensor.detach().cpu() for tensor in tensors_by_shard(y_)]
            for one, want in zip(got, seen.values[rank * len(got) :], strict=False):
                if not close(one, want):
                    raise Unlike(f"has another result, which {worst(one, want)}")
        except (KeyboardInterrupt, Wrong):
            raise
        except Unlike as unlike:
            return f"rank {rank} {unlike}"
        except BaseException as error:
            return f"rank {rank} ends in {brief_error(error)}"
    return None
