"""Draw the figures that the prose shows (`make pics`); running it again changes nothing.

    python pics/draw.py [folder]

The numbers are those of lesson 01: seed 42, X [2, 4], W [4, 4] and GELU.
"""

import sys
from pathlib import Path

import torch
from torch.nn.functional import gelu

from shardlab import plots
from shardlab.pictures.cuts import products
from shardlab.pictures.still import carded


def figures():
    """Give each figure under the name of its file."""
    numbers = torch.Generator().manual_seed(42)
    X, W = torch.randn(2, 4, generator=numbers), torch.randn(4, 4, generator=numbers)
    Y, columns = gelu(X @ W), [gelu(part) for part in products(X, W, "column", 2)]
    return {
        "matmul": plots.product(X, W, Y, "gelu"),
        "column_wise_parallel": plots.split(X, W, Y, "column", 2, columns, f="gelu", when="before"),
        "row_wise_parallel": plots.split(X, W, Y, "row", 2, f="gelu"),
    }


def main(folder):
    for name, figure in figures().items():
        (folder / f"{name}.svg").write_text(carded(figure.data), encoding="utf-8")
        print(f"{name}.svg: {figure}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
