"""What `make bench` runs: measure, write the results beside this file, and fill the README's table from them.

python benchmarks/bench.py                      everything, in about five minutes
python benchmarks/bench.py labs notebooks       only these; the other results stay
python benchmarks/bench.py table                only the README's table
"""

import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from splits import many_partials, splits
from timing import side_by_side

HERE = Path(__file__).parent
RESULTS, README = HERE / "results-cpu.json", HERE.parent / "README.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def imports(rounds=7):
    """Seconds of a fresh Python that imports torch, or shardlab."""

    def fresh(module):
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True, timeout=120)

    ways = {name: fresh(name) for name in ("shardlab", "torch")}
    times = side_by_side(ways, seconds=0, least=rounds)
    return {name: round(time["seconds"], 3) for name, time in times.items()}


def labs(seconds=1.0):
    """Milliseconds to redraw each lab, in the states that the lab itself names for this."""
    from shardlab.labs import LABS

    found = {}
    for name, (lab, draw, changes) in LABS.items():
        start = lab().state
        states = [start | change for change in changes]
        found[name] = [
            round(
                side_by_side({"redraw": lambda state=state, draw=draw: draw(**state)}, seconds)["redraw"]["seconds"]
                * 1e3,
                1,
            )
            for state in states
        ]
    return found


def notebooks():
    """Seconds to run each notebook from start to end, with its kernel's start."""
    import nbformat
    from nbclient import NotebookClient

    found = {}
    folder = HERE.parent / "notebooks"
    for path in sorted(folder.glob("*.ipynb")) + sorted(folder.glob("solutions/*.ipynb")):
        book = nbformat.read(path, as_version=4)
        start = perf_counter()
        NotebookClient(book, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
        found[str(path.relative_to(folder))] = round(perf_counter() - start, 1)
    return found


PARTS = {
    "splits": splits,
    "many_partials": many_partials,
    "imports": imports,
    "labs": labs,
    "notebooks": notebooks,
}


def machine():
    """Where and with what the numbers were taken."""
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "shardlab": version("shardlab"),
    }


def processor():
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


# the README's table


def table(results):
    """The results in Markdown: a target, what was measured, and whether it was met."""
    lines = ["| | wanted | measured |", "|---|---|---|"]
    for what in ("forward", "forward and backward"):
        for size, wanted in ((8, "≤ 2"), (64, ""), (256, ""), (1024, "≤ 1.05"), (4096, "≤ 1.05")):
            rows = [row for row in results["splits"] if row["size"] == size and row["what"] == what]
            if not rows:
                continue
            each = ", ".join(f"{case} {ratios(rows, case)}" for case in dict.fromkeys(row["case"] for row in rows))
            lines.append(f"| {what}, size {size:,}: time on `Shards` over time by hand | {wanted} | {each} |")
    partials = results["many_partials"]
    each = ", ".join(f"`{name}` {time['ratio']:.2f}" for name, time in partials.items() if name != "whole product")
    lines.append(f"| a row split of 1024² over 64 shards, over the whole product | | {each} |")
    more = results["imports"]["shardlab"] - results["imports"]["torch"]
    lines.append(f"| `import shardlab`, beyond `import torch` | ≤ 0.15 s | {more:.2f} s |")
    for name, times in results["labs"].items():
        each = ", ".join(f"{time:.0f}" for time in times)
        lines.append(f"| redraw the lab `{name}`, ms | ≤ 50 (100 for matplotlib) | {each} |")
    longest = max(results["notebooks"], key=results["notebooks"].get)
    typical = median(results["notebooks"].values())
    slowest = f"{results['notebooks'][longest]} s ({longest}); the median is {typical} s"
    lines.append(f"| run a notebook, the slowest | ≤ 15 s | {slowest} |")
    at = results["machine"]
    by = f"{at['processor']}, {at['cores']} cores, Python {at['python']}, torch {at['torch']}, {at['date']}"
    return "\n".join(
        [
            *lines,
            "",
            f"Medians; of ratios, over 2, 4 and 8 shards. On {by}; every figure is in",
            f"[{RESULTS.name}](benchmarks/{RESULTS.name}).",
        ]
    )


def ratios(rows, case):
    found = [row["ratio"] for row in rows if row["case"] == case]
    return f"{min(found):.2f} to {max(found):.2f}"


def fill(text, content):
    """`text` with `content` between the two marks."""
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{content}\n{END}{rest.split(END, 1)[1]}"


def main(names):
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names or PARTS:
        if name != "table":
            print(name, flush=True)
            results[name] = PARTS[name]()
            results["machine"] = machine()
    RESULTS.write_text(json.dumps({"machine": results.pop("machine"), **results}, indent=1, ensure_ascii=False) + "\n")
    written = json.loads(RESULTS.read_text())
    if set(PARTS) <= set(written):
        README.write_text(fill(README.read_text(), table(written)))
        print(table(written))


if __name__ == "__main__":
    main(sys.argv[1:])
