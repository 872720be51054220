"""The tables of published figures: models, devices, links and measured all-reduces, each row with its source.

They lie in tables/*.csv, so that they can be read and corrected without reading Python.
"""

import csv
from pathlib import Path
from types import SimpleNamespace


def table(name):
    """The rows of tables/NAME.csv: numbers where a field is one, None where it is empty."""
    with (Path(__file__).parent / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return [SimpleNamespace(**{key: value_of(text) for key, text in row.items()}) for row in csv.DictReader(file)]


def value_of(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text or None


def by_name(rows):
    return {row.name: row for row in rows}


MODELS = by_name(table("models"))  # as they are built today: gated MLPs, grouped-query attention, experts
GPTS = by_name(table("gpts"))  # of the papers on Megatron-LM: a plain MLP of 4h, as many kv heads as heads
DEVICES = by_name(table("devices"))  # TFLOP/s of dense bf16: the vendor's, and what a matrix product reached
LINKS = by_name(table("links"))  # GB/s of one device in one direction: to all its peers, and to one of them
ALL_REDUCES = table("all_reduces")  # measured: bytes, and bus bandwidth in GB/s
