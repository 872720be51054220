"""One rank of the benchmark against peers; `peers.py` starts as many as there are.

python peers_rank.py RANK RANKS BACKEND FOLDER '{"model": "mlp", "sizes": [[64, 8]], "rounds": 15, "seconds": 0.05}'

Rank 0 leaves FOLDER/rows.json. With the backend `fake` one process believes it is a rank of several, and no
collective moves anything: what is left is each contestant's overhead.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import layer_ways
import mlp_ways
import torch
import torch.distributed as dist
from contestants import check, enter
from timing import rounds, sample, summary

from shardlab.plumbing import agreement, board
from shardlab.plumbing.world import take_turns

LIMIT = timedelta(seconds=60)
MODELS = {"mlp": mlp_ways, "layer": layer_ways}


def main(rank, ranks, backend, folder, model, sizes, rounds, seconds):
    torch.set_num_threads(1)
    join(rank, ranks, backend, folder)
    rows, absent = [], {}
    for shape in sizes:
        contestants, absent = lined_up(MODELS[model], shape, checked=backend != "fake")
        for what in ("forward", "both"):
            ways = {name: getattr(contestant, what) for name, contestant in contestants.items()}
            rows.append(
                {
                    "backend": backend,
                    "ranks": ranks,
                    "model": model,
                    "shape": shape,
                    "what": "forward" if what == "forward" else "forward and backward",
                    **race(ways, rounds, seconds),
                }
            )
    if rank == 0:
        (folder / "rows.json").write_text(json.dumps({"rows": rows, "left out": absent}))
    dist.barrier()
    dist.destroy_process_group()


def join(rank, ranks, backend, folder):
    if backend == "fake":
        from torch.testing._internal.distributed.fake_pg import FakeStore

        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    else:
        store = dist.FileStore(str(folder / "store"), ranks)
        take_turns()  # this and the page, as `Mesh` does under torchrun on one host
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=LIMIT)
        agreement.swap = board.shared()


def lined_up(ways, shape, checked):
    """The contestants, after each has shown the right values (which need real collectives)."""
    torch.manual_seed(0)
    dense, X, cotangent = ways.twin(shape[-1]), torch.randn(shape), torch.randn(shape)
    contestants, absent = enter(ways.CONTESTANTS, dense, X, cotangent)
    if checked:
        check(contestants, *ways.dense_answer(dense, X, cotangent))
    return contestants, absent


def race(ways, count, seconds):
    """The rounds, each sample as long as the slowest rank took for it; the floor is the base of the ratios."""
    for way in ways.values():
        sample(way, 3)
    calls = agreed(max(2, round(seconds / min(sample(ways["floor"], 3) for _ in range(5)))))
    samples = rounds(ways, count, lambda way: together(way, calls))
    for name, times in samples.items():
        samples[name] = slowest(times)
    return {"rounds": count, "calls a round": calls, "times": summary(samples, "floor")}


def together(way, calls):
    dist.barrier()
    return sample(way, calls)


def agreed(number):
    """Rank 0's number, on every rank."""
    number = torch.tensor(number)
    dist.broadcast(number, 0)
    return number.item()


def slowest(times):
    times = torch.tensor(times, dtype=torch.float64)
    dist.all_reduce(times, dist.ReduceOp.MAX)
    return times.tolist()


if __name__ == "__main__":
    rank, ranks, backend, folder, options = sys.argv[1:]
    main(int(rank), int(ranks), backend, Path(folder), **json.loads(options))
