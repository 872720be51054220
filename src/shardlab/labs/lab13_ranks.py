"""Lab 13: the split of lesson 01 on real ranks: each shard in a process of its own, beside the kernel's own mesh."""

from dataclasses import dataclass

import cloudpickle
from torch.nn.functional import gelu

from shardlab import Mesh, Shards
from shardlab.compare import Comparison, compare
from shardlab.labs import linear
from shardlab.labs.lab import HTML, Lab, below, said, slider, switch
from shardlab.labs.lab01_split import moved, seed_data
from shardlab.pictures import draw
from shardlab.ranks.kept import Kept
from shardlab.record import Traffic

COLLECTIVES = {"column": "all_gather", "row": "all_reduce"}
pools = Kept()
cloudpickle.register_pickle_by_value(linear)  # the ranks have no use for the widgets beside it


@dataclass
class Run:
    """What a lesson gave: the part of each shard before the collective, `y_` after it, the traffic, and who ran it."""

    parts_: Shards
    y_: Shards
    traffic: Traffic
    pids: list[int]


@dataclass
class Both:
    """The same lesson twice, on real ranks and on the kernel's own mesh; `close` holds the ranks' y to the baseline."""

    real: Run
    kernel: Run
    close: Comparison

    @property
    def apart(self):
        """The largest difference between a shard on a rank and the same shard in the kernel."""
        pairs = [
            pair
            for ours, theirs in ((self.real.parts_, self.kernel.parts_), (self.real.y_, self.kernel.y_))
            for pair in zip(ours.shards, theirs.shards, strict=True)
        ]
        if any(a.shape != b.shape or a.dtype != b.dtype for a, b in pairs):
            return float("inf")
        return max((a.cpu() - b.cpu()).abs().max().item() for a, b in pairs if a.numel())

    @property
    def same(self):
        """Whether values (up to rounding: the ranks may add in another order) and collectives are the kernel's."""
        scale = max(y.abs().max().item() for y in self.kernel.y_.shards)
        return self.apart <= 1e-6 * max(1.0, scale) and self.real.traffic == self.kernel.traffic


def ranks_result(ranks=2, how="column", when="after"):
    """Run y = gelu(X @ W), W split by "column" or "row", on real ranks and on the kernel's own mesh.

    gelu comes "before" or "after" the collective. X is [2, 4] and W [4, 4], the seed's numbers.
    """
    lesson, (X, W) = linear.LESSONS[how, when], seed_data()
    with pools.of(ranks) as pool:
        pids, parts_, y_ = pool.run(lesson, X, W)
        real = Run(parts_, y_, pool.traffic, pids)
    mesh = Mesh(ranks, devices=["cpu"])
    with mesh.record() as traffic:
        pid, parts_, y_ = lesson(mesh, X, W)
    close = compare(real.y_, X, W, f=gelu, parts=ranks if how == "row" else 1)
    return Both(real, Run(parts_, y_, traffic, [pid]), close)


def draw_ranks(ranks, how, when):
    """The picture of a state of this lab, as HTML."""
    ran = ranks_result(ranks, how, when)
    name = COLLECTIVES[how]
    gelu_on = {"before": "gelu of each part", "after": "each part, before gelu"}[when]
    rows = [(ran.real.parts_, f"{gelu_on}, and before the {name}"), (ran.real.y_, "y, as it is on every rank")]
    where = [f"process {pid}" for pid in ran.real.pids]
    tiles = [draw.tiles(x_.shards, range(ranks), where, note) for x_, note in rows]
    return processes(ran) + moved(ran.real.traffic) + beside_the_kernel(ran) + baseline(ran) + "<br>".join(tiles)


def processes(ran):
    pids, kernel = ran.real.pids, ran.kernel.pids[0]
    count = f"{len(pids)} process{'es' * (len(pids) > 1)} of their own" if len(pids) > 1 else "one process of its own"
    listed = ", ".join(f"rank {rank} is process {pid}" for rank, pid in enumerate(pids))
    kept = "They stay for the next change; only another number of ranks starts others (the first ones take seconds)."
    return said(None, f"Real: {count}.", f"{listed}; the kernel is process {kernel}. {kept}")


def beside_the_kernel(ran):
    if ran.same:
        limit = below(ran.apart, 3e-7)
        return said(
            True, "Same as the kernel's own mesh:", f"every difference is below {limit}, and the record is the same."
        )
    return said(False, "Not as on the kernel's own mesh:", f"the largest difference is {ran.apart:.2g}.")


def baseline(ran):
    if ran.close.passed:
        return said(True, "Match.", "y is that of the unsplit layer, up to rounding.")
    worst = max(row.largest for row in ran.close.rows)
    return said(False, "Mismatch.", f"y is off by up to {worst:.2f}: real ranks make the same mistake.")


def ranks_picture(ranks=2, how="column", when="after"):
    """The picture of one state, for a page that is read without a kernel."""
    return HTML(draw_ranks(ranks, how, when))


class RanksLab(Lab):
    """A lab that ends its processes when it is closed (as they are after a minute of rest, and with the kernel)."""

    def close(self):
        pools.close()
        super().close()


def ranks(ranks=2, how="column", when="after"):
    """The lab of lesson 13: every key press runs the lesson in processes of their own."""
    controls = {
        "ranks": slider("real ranks", ranks, 1, 4, "how many processes hold a shard each"),
        "how": switch("split W by", how, ["column", "row"], "column: dim=1 of W; row: dim=0 of W and dim=1 of X"),
        "when": switch("gelu comes", when, ["before", "after"], "before or after the collective"),
    }
    return RanksLab(controls, draw_ranks)
