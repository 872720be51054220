"""What splitting costs on one GPU, where every shard lives: measured, into results-cuda.json beside this file.

make bench-cuda                           everything, in some minutes
make bench-cuda ARGS='splits sums'        only these parts; the other results stay

Without a GPU, this tries the program itself:
python benchmarks/on_cuda.py --device cpu --size 256 --rounds 2 --sample 0 --out FILE

The whole GEMM is [size, size] @ [size, size], 8192 in bf16 unless said otherwise. All shards are on one device, so
nothing here communicates: what is measured is the other half of tensor parallelism, smaller products and their sums.
Times are medians in µs, with the middle half; a ratio is to the first way's time in the same round.
"""

import argparse
import json
import platform
import sys
from contextlib import contextmanager
from datetime import date
from itertools import cycle
from pathlib import Path
from time import perf_counter

import torch
from splits import CASES, joined, summed
from timing import rounds, sample, spread, summary

import shardlab
from shardlab import Mesh

RESULTS = Path(__file__).parent / "results-cuda.json"
SHARDS = [1, 2, 4, 8, 16, 32]


# time


class Clock:
    """Seconds of one call on a device, over enough calls to last a sample: on CUDA between two events of the stream,
    so that the device's work counts, and the host's only where the device waits for it."""

    def __init__(self, device, rounds, sample):
        self.device, self.rounds, self.sample = device, rounds, sample

    def race(self, ways):
        """All ways in turn, in rounds, after a warm-up that also tells how many calls make a sample."""
        timed = {name: (way, max(1, round(self.sample / max(self.warm(way), 1e-7)))) for name, way in ways.items()}
        return summary(rounds(timed, self.rounds, lambda timed: self.seconds(*timed)), base=next(iter(ways)))

    def warm(self, way):
        """About how long a call takes, once memory is allocated and kernels are chosen."""
        for _ in range(2):
            self.seconds(way, 1)
        return self.seconds(way, 3)

    def seconds(self, way, calls):
        if self.device.type != "cuda":
            return sample(way, calls)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            way()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / calls


def warm_up(device, size, seconds=2.0):
    """Bring the device to the clock rate and temperature that it works at."""
    X, end = normal(size, size, device=device), perf_counter() + (seconds if device.type == "cuda" else 0)
    while perf_counter() < end:
        for _ in range(10):
            X @ X
        synchronize(device)


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def normal(*shape, device, dtype=torch.bfloat16):
    return torch.randn(shape, device=device, dtype=torch.float32).to(dtype)


def agree(one, other, tolerance):
    """Two ways that give different results are not two ways to do one thing."""
    error = relative_error(one, other.double()) if one.shape == other.shape and one.numel() else float("inf")
    assert error <= tolerance, f"relative error {error:.1e}"


def relative_error(value, wanted):
    return ((value.double() - wanted).norm() / wanted.norm()).item()


# the parts: each takes (clock, size) and returns what goes into the results


@torch.no_grad()
def splits(clock, size):
    """The splits of one product over k shards, on `Shards` and by hand, all against the whole product.

    Column: the products alone, and joined. Row: the partial products alone, summed in place, and summed within the
    products (addmm_).
    """
    device, rows = clock.device, []
    X, W = normal(size, size, device=device), normal(size, size, device=device)
    for k in SHARDS:
        mesh = Mesh(k, devices=[device])
        ways = {"whole": lambda: X @ W, **column_ways(mesh, X, W), **row_ways(mesh, X, W)}
        rows += lines(clock.race(ways), shards=k)
    return rows


def column_ways(mesh, X, W):
    X_, W_ = mesh.replicate(X), mesh.shard(W, dim=1)
    pieces = list(zip(X_.shards, W_.shards, strict=True))
    ways = {
        "column, Shards": lambda: X_ @ W_,
        "column, by hand": lambda: [x @ w for x, w in pieces],
        "column and cat, Shards": lambda: mesh.all_gather(X_ @ W_, dim=1),
        "column and cat, by hand": lambda: joined([x @ w for x, w in pieces]),
    }
    whole = X @ W
    agree(ways["column and cat, Shards"]().shards[-1], whole, 0.02)
    agree(ways["column and cat, by hand"](), whole, 0.02)
    return ways


def row_ways(mesh, X, W):
    X_, W_ = mesh.shard(X, dim=1), mesh.shard(W, dim=0)
    pieces = list(zip(X_.shards, W_.shards, strict=True))
    ways = {
        "row, partial, Shards": lambda: X_ @ W_,
        "row, partial, by hand": lambda: [x @ w for x, w in pieces],
        "row and sum, Shards": lambda: mesh.all_reduce(X_ @ W_),
        "row and sum, by hand": lambda: summed_in_place([x @ w for x, w in pieces]),
        "row and sum, addmm_ by hand": lambda: into_one_buffer(pieces),
    }
    whole = X @ W
    agree(ways["row and sum, Shards"]().shards[-1], whole, 0.02)
    agree(ways["row and sum, by hand"](), whole, 0.02)
    agree(ways["row and sum, addmm_ by hand"](), whole, 0.02)
    return ways


def summed_in_place(parts):
    return summed(parts) if len(parts) > 1 else parts[0].clone()


def chained(parts):
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def into_one_buffer(pieces):
    (x, w), *rest = pieces
    total = x @ w
    for x, w in rest:
        total.addmm_(x, w)
    return total


@torch.no_grad()
def cliff(clock, size):
    """Column splits one shard after the other, against the shards side by side: on several streams, or as one batched
    product. A narrow product has fewer tiles than the device has multiprocessors, and leaves the others idle."""
    device, rows = clock.device, []
    X, W = normal(size, size, device=device), normal(size, size, device=device)
    for k in [k for k in SHARDS if k >= 8]:
        mesh = Mesh(k, devices=[device])
        X_, W_ = mesh.replicate(X), mesh.shard(W, dim=1)
        pieces = list(zip(X_.shards, W_.shards, strict=True))
        one_after_another = [x @ w for x, w in pieces]
        ways = {
            "whole": lambda: X @ W,
            "one after another, Shards": lambda X_=X_, W_=W_: X_ @ W_,
            **{f"{count} streams": side_by_side(pieces, device, count) for count in (2, 4, 8)},
        }
        if size % k == 0:
            Ws = torch.stack(W_.shards)  # [k, size, size/k]
            ways["one batched product"] = lambda X=X, Ws=Ws, k=k: torch.bmm(X.expand(k, -1, -1), Ws)
        for name, way in ways.items():
            if name not in ("whole", "one after another, Shards"):
                for part, wanted in zip(way(), one_after_another, strict=True):
                    agree(part, wanted, 0.02)
        rows += lines(clock.race(ways), shards=k)
    return rows


def side_by_side(pieces, device, count):
    """The shards' products, dealt over so many streams; what follows waits for them all. (A CPU has no streams.)"""
    if device.type != "cuda":
        return lambda: [x @ w for x, w in pieces]
    streams = [torch.cuda.Stream(device) for _ in range(count)]

    def overlapped():
        here, parts = torch.cuda.current_stream(), []
        for stream in streams:
            stream.wait_stream(here)
        for (x, w), stream in zip(pieces, cycle(streams)):
            with torch.cuda.stream(stream):
                parts.append(x @ w)
        for stream in streams:
            here.wait_stream(stream)
        for part in parts:  # made on another stream, used and freed on this one
            part.record_stream(here)
        return parts

    return overlapped


@torch.no_grad()
def sums(clock, size):
    """Joining and summing alone, without the products, against a copy of one result: time, and bytes a second.

    A copy reads and writes the result once; a cat too; each of the k−1 sums reads two and writes one.
    """
    device, rows = clock.device, []
    for k in [k for k in SHARDS if k > 1]:
        mesh = Mesh(k, devices=[device])
        partials = [normal(size, size, device=device) for _ in range(k)]  # k · 128 MiB at 8192 in bf16
        partials_, columns_ = shardlab.Shards(partials, mesh), mesh.shard(partials[0], dim=1)
        target = torch.empty_like(partials[0])
        ways = {
            "copy": lambda target=target, source=partials[0]: target.copy_(source),
            "cat": lambda columns=columns_.shards: joined(columns),
            "all_gather": lambda mesh=mesh, columns_=columns_: mesh.all_gather(columns_, dim=1),
            "sum, chained": lambda partials=partials: chained(partials),
            "sum, in place": lambda partials=partials: summed(partials),
            "all_reduce": lambda mesh=mesh, partials_=partials_: mesh.all_reduce(partials_),
        }
        agree(ways["all_gather"]().shards[-1], partials[0], 0)
        agree(ways["all_reduce"]().shards[-1], sum(part.double() for part in partials), 0.05)
        for line in lines(clock.race(ways), shards=k):
            passes = 3 * (k - 1) if line["way"].startswith(("sum", "all_reduce")) else 2
            gigabytes = passes * target.nbytes / 1e9
            rows.append(line | {"GB": round(gigabytes, 3), "GB/s": round(gigabytes / line["us"] * 1e6, 1)})
    return rows


@torch.no_grad()
def errors(clock, size, seeds=3):
    """How far a row split over k shards is from float64, relative, in each dtype: partial products rounded and then
    summed (all_reduce), or summed within the products (addmm_). Fewer rows than elsewhere, the same inner size."""
    device, rows, kept = clock.device, [], min(size, 1024)
    for name, dtype, precision in DTYPES:
        for k in [*SHARDS, 64]:
            mesh, found = Mesh(k, devices=[device]), {"all_reduce": [], "addmm_": []}
            for seed in range(seeds):
                torch.manual_seed(seed)
                X, W = normal(kept, size, device=device, dtype=dtype), normal(size, kept, device=device, dtype=dtype)
                wanted = X.double() @ W.double()
                X_, W_ = mesh.shard(X, dim=1), mesh.shard(W, dim=0)
                with products_in(precision):
                    found["all_reduce"].append(relative_error(mesh.all_reduce(X_ @ W_).shards[0], wanted))
                    pieces = list(zip(X_.shards, W_.shards, strict=True))
                    found["addmm_"].append(relative_error(into_one_buffer(pieces), wanted))
            for way, values in found.items():
                rows.append({"dtype": name, "shards": k, "way": way, **spread("error", values, digits=9)})
    return rows


DTYPES = [  # (name, dtype of the tensors, precision of float32 products)
    ("bf16", torch.bfloat16, "highest"),
    ("fp16", torch.float16, "highest"),
    ("tf32", torch.float32, "high"),
    ("fp32", torch.float32, "highest"),
]


@contextmanager
def products_in(precision):
    """float32 products in full ("highest"), or in tf32 where the device has it ("high"); those of 16 bits summed in
    float32 throughout, also where a kernel cuts the inner dim in pieces."""
    before, flags = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul
    reduced = flags.allow_bf16_reduced_precision_reduction, flags.allow_fp16_reduced_precision_reduction
    torch.set_float32_matmul_precision(precision)
    flags.allow_bf16_reduced_precision_reduction = flags.allow_fp16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        flags.allow_bf16_reduced_precision_reduction, flags.allow_fp16_reduced_precision_reduction = reduced


@torch.no_grad()
def overhead(clock, size):
    """`Shards` against plain tensors by hand where the products are too small to hide the host's work (float32)."""
    device, rows = clock.device, []
    for width in [width for width in (8, 64, 256, 1024) if width <= size]:
        for case, (on_shards, by_hand, x_cut, cuts) in CASES.items():
            for k in (2, 4, 8):
                mesh = Mesh(k, devices=[device])
                X, *weights = (normal(width, width, device=device, dtype=torch.float32) for _ in [0, *cuts])
                X_ = mesh.replicate(X) if x_cut is None else mesh.shard(X, dim=x_cut)
                inputs = [X_, *(mesh.shard(W, dim=dim) for W, dim in zip(weights, cuts, strict=True))]
                plain = [x_.shards for x_ in inputs]
                ways = {
                    "by hand": lambda by_hand=by_hand, plain=plain: by_hand(*plain),
                    "Shards": lambda on_shards=on_shards, mesh=mesh, inputs=inputs: on_shards(mesh, *inputs),
                }
                agree(ways["Shards"]().shards[-1], ways["by hand"](), 1e-4)
                rows += lines(clock.race(ways), case=case, size=width, shards=k)
    return rows


def lines(times, **where):
    """One line a way."""
    return [{**where, "way": way, **time} for way, time in times.items()]


PARTS = {"splits": splits, "cliff": cliff, "sums": sums, "errors": errors, "overhead": overhead}


def about(clock, size):
    """Where, when and with what the numbers were taken."""
    device = clock.device
    found = {
        "date": date.today().isoformat(),
        "device": platform.machine(),
        "size": size,
        "rounds": clock.rounds,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        found |= {
            "device": card.name,
            "multiprocessors": card.multi_processor_count,
            "memory GiB": round(card.total_memory / 2**30),
            "cuda": torch.version.cuda,
        }
    return found


def arguments(words):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all of them if none is named")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda", 0))
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sample", type=float, default=0.02, help="seconds that one sample lasts, at least")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(words)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(
            f"torch {torch.__version__} sees no CUDA device; --device cpu --out FILE tries the program without"
        )
    if options.device.type != "cuda" and options.out == RESULTS:
        parser.error(f"{RESULTS.name} is for a CUDA device: name another file with --out")
    return options


def main(words):
    options = arguments(words)
    device = torch.device("cuda", options.device.index or 0) if options.device.type == "cuda" else options.device
    if device.type == "cuda":
        torch.cuda.set_device(device)  # its streams and events are meant from here on
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    torch.manual_seed(0)
    clock = Clock(device, options.rounds, options.sample)
    warm_up(device, options.size)
    for name in options.parts or PARTS:
        print(name, flush=True)
        results[name] = {"at": about(clock, options.size), "rows": PARTS[name](clock, options.size)}
        options.out.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")  # each part as it comes


if __name__ == "__main__":
    main(sys.argv[1:])
