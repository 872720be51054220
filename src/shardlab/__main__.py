"""`python -m shardlab`: the devices of this machine, and how a mesh deals its shards over them.

`torchrun --nproc-per-node 4 -m shardlab notebooks/01_linear_layer.ipynb` runs a notebook as a program, on four ranks
that hold one shard each. Cells that need a person, and those that sweep the number of shards in one process, are
tagged, and left out. Rank 0 prints. An error on any rank ends the run, and names the rank and the cell.
"""

import ast
import json
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

from shardlab import Mesh


def main(arguments):
    if arguments in (["-h"], ["--help"]):
        return print(__doc__)
    mesh = Mesh() if dist.is_torchelastic_launched() else Mesh(max(torch.cuda.device_count(), 2))
    if not arguments:
        return show_devices(mesh)
    for path in arguments:
        run_notebook(path, mesh)


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


def run_notebook(path, mesh):
    """Run the code cells in order, in one namespace; leave (with exit status 1) at the first error."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    left_out = {"needs-a-person", "one-process"} if mesh.world else {"needs-a-person"}
    names, done = {"__name__": "__main__"}, 0
    for number, cell in enumerate(cells):
        if cell["cell_type"] != "code" or left_out & set(cell["metadata"].get("tags", [])):
            continue
        try:
            run_cell("".join(cell["source"]), f"{path}, cell {number}", names, quiet=mesh.ranks[0] != 0)
        except Exception:
            where = f"rank {mesh.ranks[0]} of {mesh.world}" if mesh.world else "one process"
            print(f"FAILED on {where}: {path}, cell {number}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            sys.exit(1)
        done += 1
    if mesh.world:
        dist.barrier()  # a verdict for all the ranks: each of them has come this far
    if mesh.ranks[0] == 0:
        print(f"passed: {path}, {done} cells on {f'{mesh.world} ranks' if mesh.world else 'one process'}")


def run_cell(source, name, names, quiet):
    """Run one cell; as in Jupyter, what its last line amounts to is shown."""
    body = ast.parse(source, name).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    if quiet:
        names["print"] = lambda *args, **kwargs: None
    exec(compile(ast.Module(body, []), name, "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), name, "eval"), names)
        if value is not None and not quiet:
            print(value)


if __name__ == "__main__":
    main(sys.argv[1:])
