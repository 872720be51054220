"""Lab 13, its first picture: four real ranks meet in an all-reduce, and one of them is late."""

import math
from functools import cache

import cloudpickle

from shardlab.labs import late as lessons
from shardlab.labs.lab import HTML, said, slider
from shardlab.labs.lab13_ranks import RanksLab, pools

RANKS, LATE, LATEST, WIDE = 4, 15, 20, 30  # how many; milliseconds that rank 1 is late, may be, and that are drawn
TRIES = 5
cloudpickle.register_pickle_by_value(lessons)  # the ranks have no use for the widgets beside it


@cache
def gates_result(late=LATE):
    """(what each rank has got, the timeline): four processes add 0, 1, 2 and 3, and rank 1 is `late` milliseconds.

    Measured once for each `late`, so that one who moves the slider back finds the picture that was there; again, if a
    busy machine takes longer than the picture is wide.
    """
    with pools.of(RANKS) as pool:
        pool.run(lessons.all_reduce, 0)  # the first time all is slower
        for _ in range(TRIES):
            sum_, timeline = pool.run(lessons.all_reduce, late), pool.timeline
            if took(timeline) <= WIDE:
                break
    return [shard.item() for shard in sum_.shards], timeline


def took(timeline):
    """Milliseconds from the start to the end of the last rank."""
    return 1000 * max(lane.ended for lane in timeline.lanes)


def draw_gates(late):
    """The picture of a state of this lab, as HTML."""
    sums, timeline = gates_result(late)
    (gate,) = timeline.gates.values()
    waited = {rank: 1000 * (visit.opened - visit.came) for rank, visit in gate.items()}
    last = max(gate, key=lambda rank: gate[rank].came)
    others = ", ".join(f"{waited[rank]:.1f}" for rank in gate if rank != last)
    verdict = f"The gate opened {1000 * gate[last].came:.1f} ms after the start."
    words = f"Rank {last} came last. The others had waited for {others} ms; then each got {sums[0]} = 0 + 1 + 2 + 3."
    return said(sums == [6] * RANKS, verdict, words) + timeline.to_scale(WIDE * math.ceil(took(timeline) / WIDE))


def gates_picture(late=LATE):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_gates(late))


def gates(late=LATE):
    """The first lab of lesson 13: how late one of four real ranks is."""
    tip = "how many milliseconds later than the others rank 1 comes to the all_reduce"
    return RanksLab({"late": slider("ms late", late, 0, LATEST, tip)}, draw_gates)
