"""What `make bench` runs: measure, write the results beside this file, and fill the tables of README.md there.

python benchmarks/bench.py                      everything, in about twenty minutes
python benchmarks/bench.py labs notebooks       only these; the other results stay
python benchmarks/bench.py table                only the tables
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

import peers
import pool
import torch
import transformer_layer
from splits import many_partials, splits

HERE = Path(__file__).parent
RESULTS, README = HERE / "results-cpu.json", HERE / "README.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


IMPORT = (
    "from time import perf_counter as now; a = now(); import torch; b = now(); import shardlab; print(b - a, now() - b)"
)


def imports(rounds=7):
    """Seconds to import torch in a fresh Python, and what shardlab adds to it."""
    torchs, ours = [], []
    for _ in range(rounds):
        fresh = subprocess.run([sys.executable, "-c", IMPORT], check=True, timeout=120, capture_output=True, text=True)
        first, more = map(float, fresh.stdout.split())
        torchs.append(first)
        ours.append(more)
    return {"torch": round(median(torchs), 3), "shardlab": round(median(ours), 3)}


def labs():
    """Milliseconds from each change of a control to the new picture: the median, and the worst.

    Every control of a lab is moved through its values, from each of the states that the lab names for this. A state
    that was drawn before is skipped, since a lab may remember it.
    """
    from shardlab.labs import LABS

    found = {}
    for name, (make, _, changes) in LABS.items():
        lab, seen, times = make(), [], []
        start = lab.state
        for change in changes:
            for control, value in [(c, v) for c in lab.controls for v in values(lab.controls[c])]:
                state = start | change | {control: value}
                if state in seen:
                    continue
                seen.append(state)
                times.append(redraw(lab, state))
        found[name] = {"median_ms": round(median(times) * 1e3, 1), "worst_ms": round(max(times) * 1e3, 1)}
        found[name]["states"] = len(times)
    return found


def values(control):
    """At most 20 values that a control can take."""
    if hasattr(control, "options"):
        found = [option[1] if isinstance(option, tuple) else option for option in control.options]
    else:
        found = list(range(control.min, control.max + 1))
    return found[:: max(1, len(found) // 20)]


def redraw(lab, state):
    """Seconds that the lab takes to draw `state` once its controls say so."""
    for name, control in lab.controls.items():
        control.unobserve(lab.changed, "value")
        control.value = state[name]
        control.observe(lab.changed, "value")
    start = perf_counter()
    lab.redraw()
    return perf_counter() - start


def notebooks():
    """Seconds to run each notebook from start to end, with its kernel's start."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from notebook_tools import NOTEBOOKS, name_of, run

    found = {}
    for path in NOTEBOOKS:
        start = perf_counter()
        run(path)
        found[name_of(path)] = round(perf_counter() - start, 1)
    return found


PARTS = {
    "splits": splits,
    "many_partials": many_partials,
    "transformer_layer": transformer_layer.transformer_layer,
    "imports": imports,
    "labs": labs,
    "notebooks": notebooks,
    "pool": pool.pool,
    "peers": peers.peers,
}


def machine():
    """Where and with what the numbers were taken."""
    return {
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


# the tables of README.md

WANTED = {8: "≤ 2", 64: "", 256: "", 1024: "≤ 1.05", 4096: "≤ 1.05"}


def table(results):
    """The results in Markdown: what was wanted, and what was measured."""
    cases = list(dict.fromkeys(row["case"] for row in results["splits"]))
    lines = ["Time on `Shards` over time by hand, with lists of plain tensors, on 2, 4 and 8 shards:", ""]
    lines += ["| | size | wanted | " + " | ".join(cases) + " |", "|---|---|---|" + "---|" * len(cases)]
    for what in ("forward", "forward and backward"):
        for size in WANTED:
            rows = [row for row in results["splits"] if row["size"] == size and row["what"] == what]
            if rows:
                each = " | ".join(ratios(rows, case) for case in cases)
                lines.append(f"| {what} | {size} | {WANTED[size]} | {each} |")
    lines += ["", "| | wanted | measured |", "|---|---|---|"]
    more, torchs = results["imports"]["shardlab"], results["imports"]["torch"]
    lines.append(f"| `import shardlab`, beyond `import torch` | ≤ 0.15 s | {more:.2f} s, beside {torchs:.1f} s |")
    for name, times in results["labs"].items():
        measured = f"{times['median_ms']:.0f} ms, at worst {times['worst_ms']:.0f} ms"
        lines.append(f"| lab `{name}`: a new picture, without the browser | ≤ 50 ms | {measured} |")
    longest = max(results["notebooks"], key=results["notebooks"].get)
    lines.append(f"| the slowest notebook, {longest} | ≤ 15 s | {results['notebooks'][longest]} s |")
    for name, time in results["many_partials"].items():
        measured = f"{time['ms']} ms, {time['ratio']}× the whole product"
        lines.append(f"| 1024 × 1024 by rows over 64 shards: {name} | | {measured} |")
    lines += transformer_layer.lines(results["transformer_layer"])
    lines += ["", "<details><summary>Real ranks: what a pool of them costs, and our layers beside others</summary>", ""]
    lines += ["| | wanted | measured |", "|---|---|---|"]
    lines += [f"| {' | '.join(cells)} |" for cells in pool.lines(results["pool"])]
    lines += ["", peers.table(results["peers"]), "", "</details>"]
    at = results["machine"]
    by = f"{at['processor']}, {at['cores']} cores, Python {at['python']}, torch {at['torch']}"
    days = results["taken"].values()
    taken = " to ".join(sorted({min(days), max(days)}))
    return "\n".join([*lines, "", f"Medians, on {by}, {taken}. Every figure: [{RESULTS.name}]({RESULTS.name})."])


def ratios(rows, case):
    return ", ".join(f"{row['ratio']:.2f}" for row in rows if row["case"] == case)


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
            results.setdefault("taken", {})[name] = date.today().isoformat()
    RESULTS.write_text(json.dumps({"machine": results.pop("machine"), **results}, indent=1, ensure_ascii=False) + "\n")
    written = json.loads(RESULTS.read_text())
    if set(PARTS) <= set(written):
        README.write_text(fill(README.read_text(), table(written)))
        print(table(written))


if __name__ == "__main__":
    main(sys.argv[1:])
