"""What was measured on a GPU: the results of `make bench-cuda`, where there are any."""

import json
from pathlib import Path


def measured_splits(path):
    """The GPU's name, and {t: the time of one of t column shards' products, times t, over the whole product's}.

    From the part `splits` of benchmarks/results-cuda.json, whose t shards lie on one GPU and are multiplied one after
    another: 1 is a product that loses nothing by being narrow. None where nobody has measured.
    """
    path = Path(path)
    part = json.loads(path.read_text(encoding="utf-8")).get("splits") if path.exists() else None
    if not part:
        return None
    rows = [row for row in part["rows"] if row["way"] == "column, by hand"]
    return part["at"]["device"], {row["shards"]: row["ratio"] for row in rows}
