"""Lab 11: an all-reduce on a ring, step by step: it is run by `mesh.shift`, and the pieces say what is in them."""

from dataclasses import dataclass
from functools import cache

from shardlab import Mesh
from shardlab.cost import ring_bytes
from shardlab.labs.lab import HTML, Lab, menu, said, slider
from shardlab.pictures.ring import ring as draw
from shardlab.record import Traffic

MOST, EACH = 8, 16  # shards; no value is in a sum as often as that, so a sum in base 16 tells what is in it
WAYS = {  # name: (steps of the reduce-scatter beyond n - 1, the piece with which shard r begins the all-gather, less r)
    "a ring": (0, 1),
    "the gather begins a piece too early": (0, 2),
    "n steps instead of n - 1": (1, 0),
}


@dataclass
class Ring:
    """What the shards hold after `step` of `steps`: `held[r][p]` says how often each shard's value is in shard r's
    piece p; `sent[r]` and `arrived[r]` are the pieces that it has just sent and got; `traffic` is what moved so far."""

    held: list
    sent: list
    arrived: list
    step: int
    steps: int
    traffic: Traffic
    adds: bool  # the reduce-scatter, in which what comes is added; then the all-gather

    @property
    def whole(self):
        return sum(set(counts) == {1} for pieces in self.held for counts in pieces)


@cache
def run(shards, way):
    """An all-reduce of n pieces on n shards, as a `Ring` for every step; shard r's own value of each piece is 16^r.

    In step s of the reduce-scatter shard r sends piece r - s, and adds what comes to its own; after n - 1 steps it has
    all of piece r + 1, which then goes round in the all-gather.
    """
    (more, start), mesh, n = WAYS[way], Mesh(shards), shards
    first = n - 1 + more * (n > 1)
    steps = first + n - 1
    pieces_ = (EACH**mesh.rank)[None].repeat(n)  # [n] on each shard, a number for a piece
    seen = [Ring(held(pieces_, n), [None] * n, [None] * n, 0, steps, Traffic(), True)]
    with mesh.record() as traffic:
        for s in range(steps):
            here_ = (mesh.rank - s if s < first else mesh.rank + start - (s - first)) % n
            came_ = mesh.shift(pieces_[here_])
            there_ = (here_ - 1) % n  # the left neighbour has sent the piece before
            pieces_[there_] = pieces_[there_] + came_ if s < first else came_
            sent, arrived = ([index.item() for index in index_.shards] for index_ in (here_, there_))
            seen.append(Ring(held(pieces_, n), sent, arrived, s + 1, steps, Traffic(traffic), s < first))
    return seen


def ring_result(shards=4, step=0, way="a ring"):
    """The ring after so many steps, or after its last one."""
    seen = run(shards, way)
    return seen[min(step, len(seen) - 1)]


def held(pieces_, n):
    return [[counts(number, n) for number in shard.tolist()] for shard in pieces_.shards]


def counts(number, n):
    """
    >>> counts(1 + 2 * 16**2, 3)
    (1, 0, 2)
    """
    return tuple(number // EACH**rank % EACH for rank in range(n))


def draw_ring(shards, step, way):
    """The picture of a state of this lab, as HTML."""
    ran = ring_result(shards, step, way)
    return verdict(ran, shards) + moved(ran, shards) + draw(ran.held, ran.arrived, told(ran, shards))


def verdict(ran, n):
    if ran.step < ran.steps:
        return said(None, f"Step {ran.step} of {ran.steps}.", before(ran, n))
    if ran.whole == n * n:
        return said(True, f"Done after {ran.steps} steps:", "every shard has the whole sum of every piece.")
    missing = n * n - ran.whole
    return said(False, "Wrong.", f"{missing} of the {n * n} sums lack a value, or have one twice.")


def before(ran, n):
    if not ran.step:
        return "Every shard has its own value of every piece."
    half, does = ("Reduce-scatter", "adds it to its own") if ran.adds else ("All-gather", "takes it as it is")
    return f"{half}: shard 0 sends piece {ran.sent[0]} to shard 1, which {does}; and so do all, at the same time."


def moved(ran, n):
    sent, all_of = len(ran.traffic), ring_bytes("all_reduce", n, n)
    return said(None, f"{sent} of {all_of:.0f} pieces sent by each shard.", f"The whole value has {n}.")


def told(ran, n):
    """The picture in words: what is in every piece, where they are few."""
    said = f"A ring of {n} shards after {ran.step} of {ran.steps} steps. {ran.whole} of {n * n} sums are whole. "
    if ran.step:
        said += f"Shard 0 has just got piece {ran.arrived[0]}, {words(ran.held[0][ran.arrived[0]])}. "
    if n > 4:
        return said
    rows = (f"Shard {r}: {', '.join(map(words, pieces))}." for r, pieces in enumerate(ran.held))
    return said + "In its pieces are the values of: " + " ".join(rows)


def words(counts):
    """
    >>> words((1, 0, 2)), words((1, 1))
    ('0 + twice 2', 'all')
    """
    if set(counts) == {1}:
        return "all"
    return " + ".join(f"{'twice ' * (count > 1)}{rank}" for rank, count in enumerate(counts) if count)


def ring_picture(shards=4, step=0, way="a ring"):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_ring(shards, step, way))


def ring(shards=4, step=0, way="a ring"):
    """The lab of lesson 11: how many shards, how many steps of the ring are done, and a mistake to look at."""
    controls = {
        "step": slider("step", step, 0, 2 * (MOST - 1) + 1, "how many steps of the ring are done"),
        "shards": slider("shards", shards, 1, MOST, "how many shards the ring has"),
        "way": menu("way", way, list(WAYS), "as it should be, or with a mistake in it"),
    }
    return Lab(controls, draw_ring)
