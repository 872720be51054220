"""The same MLP, and the same transformer layer, on ranks: ours beside what the field uses and what one writes by hand.

fairscale takes part where it can be imported: `pip install --no-deps --target SOME_FOLDER fairscale` and
PYTHONPATH=SOME_FOLDER leave the installed torch alone, which is what `make bench` does. The contestants are in
`mlp_ways` and `layer_ways`, what a rank does in `peers_rank`.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic, sleep

HERE = Path(__file__).parent
LIMIT = 600  # seconds for one launch of ranks

SMALL, LARGE = [64, 8], [1024, 256]  # batch, width; the hidden layer is four times as wide
NARROW, WIDE = [2, 64, 64], [2, 64, 512]  # batch, tokens, width
LAUNCHES = [  # (backend, ranks, model, sizes): `fake` moves nothing, and leaves the overhead
    ("gloo", 2, "mlp", [SMALL, LARGE]),
    ("gloo", 4, "mlp", [SMALL, LARGE]),
    ("fake", 4, "mlp", [SMALL]),
    ("gloo", 2, "layer", [NARROW, WIDE]),
    ("gloo", 4, "layer", [NARROW, WIDE]),
]
MODELS = {
    "mlp": "A two-layer MLP, batch × width, the hidden layer four times as wide (wanted: ours ≤ 1.05 at 1024×256)",
    "layer": "A transformer layer as Llama has it, batch × tokens × width, with 8 heads and 4 kv heads",
}


def peers(launches=LAUNCHES, rounds=15, seconds=0.2):
    """Every launch's rows: the times of all contestants, in rounds where each takes its turn."""
    results = {"threads a rank": 1, "fairscale": fairscale_version(), "rows": [], "left out": {}}
    for backend, ranks, model, sizes in launches:
        print(f"  {model}: {ranks} ranks over {backend}", flush=True)
        found = launch(backend, ranks, {"model": model, "sizes": sizes, "rounds": rounds, "seconds": seconds})
        results["rows"] += found["rows"]
        results["left out"] |= found["left out"]
    return results


def fairscale_version():
    try:
        return version("fairscale")
    except PackageNotFoundError:
        return None


def launch(backend, ranks, options):
    """Start the ranks, wait for them all, and read what rank 0 left. If one fails, none is left running."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    program = [sys.executable, str(HERE / "peers_rank.py")]
    started = range(ranks) if backend != "fake" else [0]
    with tempfile.TemporaryDirectory() as folder:
        commands = [[*program, str(rank), str(ranks), backend, folder, json.dumps(options)] for rank in started]
        processes = [subprocess.Popen(command, env=environment) for command in commands]
        try:
            wait(processes)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return json.loads((Path(folder) / "rows.json").read_text())


def wait(processes):
    """Until all are done; at the first that failed, or at the limit, an error."""
    end = monotonic() + LIMIT
    while None in (states := [process.poll() for process in processes]) or any(states):
        failed = [f"rank {rank} (exit status {state})" for rank, state in enumerate(states) if state]
        if failed:
            raise RuntimeError(f"{', '.join(failed)} stopped: its own words are above")
        if monotonic() > end:
            raise TimeoutError(f"the ranks did not end within {LIMIT} s")
        sleep(0.05)


def table(results):
    """The results in Markdown: a table for each model, in it a line for each launch and size."""
    rounds = results["rows"][0]["rounds"]
    lines = [
        "The same on real ranks, one thread each: our layers, what the field uses, the same by hand, and the floor,",
        "which is raw products and raw collectives. In µs, and in brackets as a ratio to the floor in the same round;",
        f"medians of {rounds} rounds, taken in turn. Their middle halves are in the file.",
    ]
    for model, said in MODELS.items():
        rows = [row for row in results["rows"] if row["model"] == model]
        lines += ["", f"{said}:", "", *table_of(rows)] if rows else []
    absent = [f"{name} did not take part: {why}." for name, why in results["left out"].items()]
    return "\n".join(lines + [""] * bool(absent) + absent)


def table_of(rows):
    names = list(dict.fromkeys(name for row in rows for name in row["times"]))
    yield "| | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for row in rows:
        where = f"{row['ranks']} ranks" + (", nothing moved" if row["backend"] == "fake" else "")
        cells = [cell(row["times"][name]) if name in row["times"] else "" for name in names]
        yield f"| {'×'.join(map(str, row['shape']))}, {where}, {row['what']} | " + " | ".join(cells) + " |"


def cell(time):
    return f"{time['us']:,.0f} ({time['ratio']:.2f})"
