"""`python -m shardlab`: the devices of this machine, and how a mesh deals its shards over them.

`torchrun --nproc-per-node 4 -m shardlab notebooks/01_linear_layer.ipynb` runs a notebook as a program, on four ranks
that hold one shard each. Cells that need a person, and those that sweep the number of shards in one process, are
tagged, and left out. Rank 0 prints. An error on any rank ends them all, and the verdict names the rank and the cell.
"""

import os
import sys
from contextlib import ExitStack, redirect_stdout

import torch
import torch.distributed as dist

from shardlab import Mesh


def main(arguments):
    if arguments in (["-h"], ["--help"]):
        return print(__doc__)
    mesh = Mesh() if dist.is_torchelastic_launched() else Mesh(max(torch.cuda.device_count(), 2))
    show_devices(mesh) if not arguments else run_notebooks(arguments, mesh)


def show_devices(mesh):
    gpus = torch.cuda.device_count()
    print(f"torch {torch.__version__}; CUDA devices: {gpus or 'none, so all shards live on the CPU'}")
    for rank, device in zip(mesh.ranks, mesh.devices, strict=True):
        print(f"shard {rank} on {device} ({details(device)})")


def details(device):
    if device.type != "cuda":
        return f"{torch.get_num_threads()} threads"
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def run_notebooks(paths, mesh):
    from shardlab.ranks.fates import Fates  # with the shell, half a second that the devices do without
    from shardlab.ranks.notebook import run_notebook

    with ExitStack() as until_the_end:
        if mesh.ranks[0] != 0:
            until_the_end.enter_context(redirect_stdout(until_the_end.enter_context(open(os.devnull, "w"))))
        fates = until_the_end.enter_context(Fates(mesh.ranks[0], mesh.world)) if mesh.world else None
        for path in paths:
            run_notebook(path, mesh, fates)


if __name__ == "__main__":
    main(sys.argv[1:])
