"""`python -m shardlab`: the devices of this machine, and how a mesh deals its shards over them.

`torchrun --nproc-per-node 4 -m shardlab notebooks/01_linear_layer.ipynb` runs a notebook as a program, on four ranks
that hold one shard each. Cells that need a person, and those that sweep the number of shards in one process, are
tagged, and left out. Rank 0 prints. An error on any rank ends them all, and the verdict names the rank and the cell.
"""

import ast
import json
import linecache
import os
import sys
import traceback
from contextlib import ExitStack, redirect_stdout
from pathlib import Path

import torch
import torch.distributed as dist

from shardlab import Mesh
from shardlab.ranks.fates import Fates


def main(arguments):
    if arguments in (["-h"], ["--help"]):
        return print(__doc__)
    mesh = Mesh() if dist.is_torchelastic_launched() else Mesh(max(torch.cuda.device_count(), 2))
    if not arguments:
        return show_devices(mesh)
    with ExitStack() as until_the_end:
        if mesh.ranks[0] != 0:
            until_the_end.enter_context(redirect_stdout(until_the_end.enter_context(open(os.devnull, "w"))))
        fates = until_the_end.enter_context(Fates(mesh.ranks[0], mesh.world)) if mesh.world else None
        for path in arguments:
            run_notebook(path, mesh, fates)


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


def run_notebook(path, mesh, fates):
    """Run the code cells in order, in one namespace; end (with exit status 1) at the first error of any rank."""
    left_out = {"needs-a-person", "one-process"} if mesh.world else {"needs-a-person"}
    names, done, where = {"__name__": "__main__", "display": print}, 0, path
    home = os.getcwd()
    try:
        cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
        os.chdir(Path(path).parent)  # as Jupyter does
        for number, cell in enumerate(cells):
            if cell["cell_type"] == "code" and not left_out & set(cell["metadata"].get("tags", [])):
                where = f"{path}, cell {number}"
                if fates:
                    fates.begin(where)
                run_cell("".join(cell["source"]), where, names)
                done += 1
        if mesh.world:
            where = f"{path}, after its last cell"
            fates.begin(where)  # a verdict for all the ranks: each of them comes this far, and no further
            run_cell("sum_ = mesh.all_reduce(mesh.rank * 1.0)", where, {"mesh": mesh})
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if mesh.world:
            fates.fail(where, error, told(error))
        print(f"FAILED on one process: {where}\n{told(error)}", file=sys.stderr)
        sys.exit(1)
    finally:
        os.chdir(home)
    print(f"passed: {path}, {done} cells on {f'{mesh.world} ranks' if mesh.world else 'one process'}", flush=True)


def run_cell(source, name, names):
    """Run one cell; as in Jupyter, what its last line amounts to is shown."""
    linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name  # for tracebacks
    body = ast.parse(source, name).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), name, "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), name, "eval"), names)
        if value is not None:
            print(value)


def told(error):
    """The error and its traceback from the notebook's cell on."""
    trace = error.__traceback__
    while trace and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return "".join(traceback.format_exception(error.with_traceback(trace)))


if __name__ == "__main__":
    main(sys.argv[1:])
