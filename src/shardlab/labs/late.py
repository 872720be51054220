"""What lab 13 sends to its ranks first: one of them is late for an all-reduce."""

import time


def all_reduce(mesh, late):
    """Rank 1 comes `late` milliseconds later than the others; the sum of the ranks' numbers, on every rank."""
    if mesh.ranks == [1]:
        time.sleep(late / 1000)
    return mesh.all_reduce(mesh.rank)
