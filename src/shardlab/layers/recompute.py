"""Recomputation: what backward needs is made again, and not kept."""

from torch.utils.checkpoint import checkpoint

from shardlab.shards import Shards


def again(f, *args_):
    """f(*args_), of which the arguments alone are kept: backward computes the rest again (torch's checkpoint)."""
    mesh, n = args_[0].mesh, len(args_[0].shards)

    def run(*pieces):  # as tensors, so that what is kept of them shows in saved_tensors_hooks
        return f(*(Shards([*pieces[first : first + n]], mesh) for first in range(0, len(pieces), n)))

    pieces = [piece for arg_ in args_ for piece in arg_.shards]
    return checkpoint(run, *pieces, use_reentrant=False, preserve_rng_state=False)
