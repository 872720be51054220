"""The same two-layer MLP on ranks: our layers beside what the field uses and what one writes by hand.

fairscale takes part where it can be imported: `pip install --no-deps --target SOME_FOLDER fairscale` and
PYTHONPATH=SOME_FOLDER leave the installed torch alone, which is what `make bench` does. `contestants` has the ways,
`peers_rank` what a rank does.
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
LAUNCHES = [  # (backend, ranks, sizes): `fake` moves nothing, and leaves the overhead
    ("gloo", 2, [SMALL, LARGE]),
    ("gloo", 4, [SMALL, LARGE]),
    ("fake", 4, [SMALL]),
]


def peers(launches=LAUNCHES, rounds=15, seconds=0.2):
    """Every launch's rows: the times of all contestants, in rounds where each takes its turn."""
    results = {"threads a rank": 1, "fairscale": fairscale_version(), "rows": []}
    for backend, ranks, sizes in launches:
        print(f"  {ranks} ranks over {backend}", flush=True)
        found = launch(backend, ranks, {"sizes": sizes, "rounds": rounds, "seconds": seconds})
        results["rows"] += found["rows"]
        results["left out"] = found["left out"]
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
    """The results in Markdown: a line for each launch and size, a column for each contestant."""
    names = list(dict.fromkeys(name for row in results["rows"] for name in row["times"]))
    lines = [
        "A two-layer MLP on real ranks, one thread each: our layers, what the field uses, the same by hand, and the",
        "floor, which is raw products and raw collectives. Batch × width, the hidden layer four times as wide; in µs,",
        "and in brackets as a ratio to the floor in the same round (wanted: ours ≤ 1.05 at 1024×256).",
        "",
    ]
    lines += ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in results["rows"]:
        where = f"{row['ranks']} ranks" + (", nothing moved" if row["backend"] == "fake" else "")
        cells = [cell(row["times"][name]) if name in row["times"] else "" for name in names]
        lines.append(f"| {row['batch']}×{row['width']}, {where}, {row['what']} | " + " | ".join(cells) + " |")
    absent = [f"{name} did not take part: {why}." for name, why in results["left out"].items()]
    rounds = results["rows"][0]["rounds"]
    said = f"Medians of {rounds} rounds, taken in turn; their middle halves are in the file."
    return "\n".join([*lines, "", said, *absent])


def cell(time):
    return f"{time['us']:,.0f} ({time['ratio']:.2f})"
